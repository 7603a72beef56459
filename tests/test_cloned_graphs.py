"""Copies that `dask.graph_manipulation` makes of a collection run where the collection would."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask import delayed
from dask.graph_manipulation import bind, checkpoint, clone, wait_on
from distributed import Client
from sited import block_of, only_in, sited_array, sited_value

from dask_worker_pools import plan_pools, pool, propagate_pools
from dask_worker_pools.graph import as_high_level, read

VALUES = np.arange(8.0)


def _mapped(site: str) -> Any:
    read = only_in(site)
    with pool(site):
        return da.ones(8, chunks=4).map_blocks(lambda block: read(block), dtype=float, meta=VALUES)


def _mapped_bag(site: str) -> Any:
    with pool(site):
        return db.from_sequence(range(8), npartitions=2).map(only_in(site))


#: Collections whose tasks can run in one pool only.
SOURCES: dict[str, Callable[[str], Any]] = {
    "array": lambda site: sited_array(site, VALUES, 4),
    "array of blocks": _mapped,
    "array, gone on": lambda site: (sited_array(site, VALUES, 4) + 1).sum(split_every=2),
    "bag": _mapped_bag,
    "bag, gone on": lambda site: _mapped_bag(site).map(lambda x: x + 1),
    "item": lambda site: _mapped_bag(site).sum(),
    "delayed": lambda site: sited_value(site, 5),
}

#: What is made of a collection of pool B and another one of pool A.
COPIES: dict[str, Callable[[Any, Any], Any]] = {
    "clone": lambda x, _: clone(x),
    "clone with a seed": lambda x, _: clone(x, seed="again"),
    "clone and original": lambda x, _: [clone(x), x],
    "clone of a clone": lambda x, _: clone(clone(x)),
    "clone by keys": lambda x, _: clone(x, assume_layers=False),
    "bind": bind,
    "bind by keys": lambda x, y: bind(x, y, assume_layers=False),
    "bind to a copy": lambda x, y: bind(x, clone(y)),
    "wait_on": lambda x, y: list(wait_on(x, y)),
    "checkpoint": lambda x, y: [checkpoint(x, y, split_every=2), x],
}


def _omitting(site: str, how: Callable[..., Any]) -> Any:
    x = sited_array(site, VALUES, 4)
    return how((x + 1) * x.sum(), omit=x)


@pytest.mark.parametrize(
    ("inside", "built_in"), [(True, "A"), (False, None)], ids=["inside", "outside"]
)
@pytest.mark.parametrize("copies", COPIES)
@pytest.mark.parametrize("source", SOURCES)
def test_cluster(
    client: Client, source: str, copies: str, inside: bool, built_in: str | None
) -> None:
    """Wherever a copy is made, its sources are read in their own pool."""
    with propagate_pools() if inside else nullcontext():
        x, y = SOURCES[source]("B"), SOURCES[source]("A")
        with block_of(built_in):
            copy = COPIES[copies](x, y)
    with propagate_pools():
        (found,) = dask.compute(copy)
    (expected,) = dask.compute(
        COPIES[copies](SOURCES[source]("B"), SOURCES[source]("A")), scheduler="sync"
    )
    np.testing.assert_equal(found, expected)


@pytest.mark.parametrize("how", [clone, lambda x, omit: bind(x, omit, omit=omit)])
def test_omit(client: Client, how: Callable[..., Any]) -> None:
    """What is not copied stays in its pool as well."""
    copy = _omitting("B", how)
    with propagate_pools():
        np.testing.assert_equal(copy.compute(), (VALUES + 1) * VALUES.sum())


SAID: dict[str, Callable[[], Any]] = {
    "priority": lambda: dask.annotate(priority=3, worker_pool="A"),
    "GPU": lambda: dask.annotate(resources={"GPU": 1, "pool-A": 1}),
    "any of two": lambda: pool("A", "B"),
    "blocked": lambda: pool(None),
    "pinned, with a size": lambda: pool("A", nbytes=1000),
    "by key": lambda: dask.annotate(
        priority=lambda key: key[-1] if isinstance(key, tuple) else 7, worker_pool="A"
    ),
}

MAKE: dict[str, Callable[[], Any]] = {
    "array": lambda: da.random.random(8, chunks=4),
    "blocks": lambda: da.ones(8, chunks=4),
    "data": lambda: da.from_array(VALUES, chunks=4),
    "bag": lambda: db.from_sequence(range(8), npartitions=2),
    "delayed": lambda: delayed(abs)(-1),
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("said", SAID)
def test_annotations(said: str, kind: str) -> None:
    """All that was said of a task holds for its copy, though it is made in another pool."""
    with SAID[said]():
        x = MAKE[kind]()
    parent = delayed(abs)(2)
    with pool("C"):
        copies = clone(x), clone(clone(x))
        bound = bind(x, parent)
    expected = _said_of(x)
    assert all(expected)
    for copy in copies:
        assert _said_of(copy) == expected
    # What waits for something else is not always of known size.
    assert [told[:-1] for told in _said_of(bound)] == [told[:-1] for told in expected]


def _said_of(collection: Any) -> list[Any]:
    """What was said of the outputs, besides their names."""
    graph = as_high_level(collection.__dask_graph__())
    tasks = read(graph, collection.__dask_keys__())
    sizes = plan_pools(collection).sizes
    outputs = list(dask.core.flatten(collection.__dask_keys__()))
    return [
        [
            tasks.pins.get(key),
            tasks.allowed_by_key().get(key),
            key in tasks.blocked_keys(),
            tasks.annotations.get(key),
            sizes.get(key),
        ]
        for key in outputs
    ]


def test_sizes() -> None:
    """The chunks of an array are known of its copy too."""
    with pool("A"):
        x = da.map_blocks(lambda: VALUES[:4], chunks=((4, 4),), dtype=float, meta=VALUES[:0])
    y = clone(x.map_blocks(abs, dtype=float))
    assert set(plan_pools(y).sizes.values()) == {32.0}


def test_free_copies_belong_to_the_block() -> None:
    """A copy of what has no pool, made in a pool, is pinned there as whatever is made there."""
    x = da.ones(8, chunks=4)
    with pool("A"):
        copies = clone(x), clone(delayed(abs)(-1))
    for copy in copies:
        assert set(plan_pools(copy).pools.values()) == {"A"}
