"""What is given to a function of another collection keeps its pool and its size.

Dask forgets annotations and chunks there. Data that the graph itself holds has no function that
could carry them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask import delayed
from dask.delayed import Delayed
from distributed import Client
from sited import block_of, sited_array, sited_bag, sited_value

from dask_worker_pools import plan_pools, pool, propagate_pools, propagate_pools_in_collection
from dask_worker_pools.graph import as_high_level, read
from dask_worker_pools.plan import Plan

VALUES = np.arange(24.0)


#: Collections of 24 numbers, or of two sums of 12 of them.
SOURCES: dict[str, Callable[[], Any]] = {
    "from_array": lambda: da.from_array(VALUES, chunks=12),
    "from_array, one chunk": lambda: da.from_array(VALUES, chunks=24),
    "from_array, a view": lambda: da.from_array(VALUES[::-1], chunks=12)[::-1],
    "stacked data": lambda: da.concatenate(
        [da.from_array(VALUES[:12]), da.from_array(VALUES[12:])]
    ),
    "from_delayed": lambda: da.from_delayed(delayed(np.array)(VALUES), VALUES.shape, VALUES.dtype),
    "from_sequence": lambda: db.from_sequence(VALUES.tolist(), npartitions=2),
    "bag.from_delayed": lambda: db.from_delayed(
        [delayed(list)(VALUES[:12]), delayed(list)(VALUES[12:])]
    ),
    "item": lambda: db.from_sequence(VALUES.tolist(), npartitions=2).sum(),
}


def _adding() -> Callable[..., Any]:
    # A nested function travels by value: the workers cannot import this module.
    def total(value: Any) -> Any:
        if isinstance(value, dict):
            return total(list(value.values()))
        return sum(map(total, value)) if isinstance(value, list | tuple) else np.sum(value)

    def add(*values: Any, **named: Any) -> Any:
        return float(total(values) + total(named))

    return add


add = _adding()


def _delayed_parts(x: Any) -> list[Any]:
    if isinstance(x, Delayed):
        return [x]
    parts = x.to_delayed()
    return list(np.ravel(parts)) if isinstance(parts, list | np.ndarray) else [parts]


USES: dict[str, Callable[[Any], Any]] = {
    "delayed": lambda x: delayed(add)(x),
    "delayed keyword": lambda x: delayed(add)(k=x),
    "delayed list": lambda x: delayed(add)([x, x]),
    "delayed dict": lambda x: delayed(add)({"a": x}),
    "delayed of delayed": lambda x: delayed(add)(delayed(add)(x), x),
    "to_delayed": lambda x: delayed(add)(_delayed_parts(x)),
    "each of to_delayed": lambda x: delayed(add)([delayed(add)(one) for one in _delayed_parts(x)]),
    "array keyword": lambda x: da.ones(2, chunks=1, name="anywhere").map_blocks(
        lambda block, k=None: block + add(k), k=x, dtype=float, meta=np.empty(0)
    ),
    "bag keyword": lambda x: db.from_sequence([1.0, 2.0], npartitions=2).map(
        add, k=x.sum() if isinstance(x, db.Bag) else x
    ),
    "array of it": lambda x: da.from_delayed(delayed(lambda v: np.array([add(v)]))(x), (1,), float),
    "bag of it": lambda x: db.from_delayed([delayed(lambda v: [add(v)])(x)]),
    "optimized": lambda x: delayed(add)(dask.optimize(x)[0]),
    "written": lambda x: delayed(add)(propagate_pools_in_collection(x)),
    "beside itself": lambda x: [delayed(add)(x), x],
}


def sources_of(plan: Plan) -> dict[Hashable, str | None]:
    """Where a plan puts the tasks of C: those that need no others."""
    return {key: plan.pools[key] for key, inputs in plan.dependencies.items() if not inputs}


@pytest.mark.parametrize("built_in", [None, "A", "anywhere"])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("source", SOURCES)
def test_pins(source: str, use: str, built_in: str | None) -> None:
    """Whatever pool they are given on in, sources stay in their own; values are those of Dask."""
    with dask.config.set(scheduler="sync"), propagate_pools():
        with pool("C"):
            x = SOURCES[source]()
        with block_of(built_in):
            given_on = USES[use](x)
        (found,) = dask.compute(given_on)
        places = sources_of(plan_pools(*given_on if isinstance(given_on, list) else [given_on]))
    np.testing.assert_equal(found, dask.compute(USES[use](SOURCES[source]()), scheduler="sync")[0])
    assert "C" in places.values()
    others = {key for key, where in places.items() if where != "C"}
    assert all(_is_other(key) for key in others), others


def _is_other(key: Hashable) -> bool:
    """Whether a task is the collection that others are given to."""
    name = key[0] if isinstance(key, tuple) else key
    return str(name).startswith(("anywhere", "from_sequence"))


#: Sources that can be read in pool B only.
SITED: dict[str, Callable[[], Any]] = {
    "array": lambda: sited_array("B", VALUES, 12),
    "bag": lambda: sited_bag("B", [VALUES[:12].tolist(), VALUES[12:].tolist()]),
    "delayed": lambda: sited_value("B", VALUES),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("source", SITED)
def test_cluster(client: Client, source: str, use: str) -> None:
    """On a cluster sources are read in their own pool, though they are given on in another."""
    with propagate_pools():
        x = SITED[source]()
        with pool("A"):
            given_on = USES[use](x)
        (found,) = dask.compute(given_on)
    expected = dask.compute(USES[use](SITED[source]()), scheduler="sync")[0]
    np.testing.assert_equal(found, expected)


def _chunk() -> Any:
    return da.map_blocks(lambda: VALUES[:12], chunks=((12, 12),), dtype=float, meta=VALUES[:0])


#: Sources without a rule that tells their sizes, the bytes of each output, and how they are known.
SIZED: dict[str, tuple[Callable[[], Any], float | str | None, float, str]] = {
    "chunks": (_chunk, None, 96, "chunks"),
    "derived": (lambda: da.ones(24, chunks=12).sum(split_every=2), None, 8, "derived"),
    "embedded": (lambda: da.from_array(VALUES, chunks=12), None, 96, "chunks"),
    "declared delayed": (lambda: delayed(abs)(-1), "5 kB", 5000, "declared"),
    "declared bag": (lambda: db.from_delayed([delayed(list)("ab")]), 5000, 5000, "declared"),
}

#: Uses that leave the tasks of a source as they are.
KEEPING = ["delayed", "delayed list", "delayed keyword", "to_delayed", "array keyword", "optimized"]


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "free"])
@pytest.mark.parametrize("use", KEEPING)
@pytest.mark.parametrize("sized", SIZED)
def test_sizes(sized: str, use: str, pinned: bool) -> None:
    """What is known of an output's size is known after it was given on, and how it is known."""
    make, nbytes, expected, known = SIZED[sized]
    with propagate_pools():
        with pool("A" if pinned else None, nbytes=nbytes):
            x = make()
        with pool("B", nbytes="1 GiB"):
            plan = plan_pools(USES[use](x))
    held = {key: size for key, size in plan.sizes.items() if size == expected}
    assert held
    assert all(known in plan.sources[plan.layer_of[key]] for key in held)


def test_sizes_decide() -> None:
    """A step on a large array and a small one runs where the large one is."""
    with dask.config.set(scheduler="sync"), propagate_pools():
        with pool("A"):
            small = da.map_blocks(lambda: np.ones(2), chunks=((2,),), dtype=float, meta=VALUES[:0])
        with pool("B"):
            large = _chunk()
        step = delayed(add, pure=False)(small, large)
        assert plan_pools(step).pools[step.key] == "B"
        assert plan_pools(delayed(add)([large], small)).bytes_by_link == {("A", "B"): 16}
        assert step.compute() == VALUES[:12].sum() * 2 + 2


SAID: dict[str, tuple[Any, dict[str, Any]]] = {
    "any of two": (lambda: pool("A", "B"), {"allowed": ("A", "B")}),
    "blocked": (lambda: pool(None), {"blocked": True}),
    "counted": (lambda: dask.annotate(resources={"GPU": 1}), {"resources": {"GPU": 1}}),
    "counted in a pool": (
        lambda: dask.annotate(resources={"GPU": 1, "pool-A": 1}),
        {"pinned": "A", "resources": {"GPU": 1}},
    ),
    "priority": (lambda: dask.annotate(priority=3), {"priority": 3}),
}


@pytest.mark.parametrize("use", KEEPING)
@pytest.mark.parametrize("kind", ["array", "data", "bag", "delayed"])
@pytest.mark.parametrize("said", SAID)
def test_annotations(said: str, kind: str, use: str) -> None:
    """All that was said of a source holds for it after it was given on in another pool."""
    context, expected = SAID[said]
    make: dict[str, Callable[[], Any]] = {
        "array": lambda: _chunk() + 0,
        "data": lambda: da.from_array(VALUES, chunks=12),
        "bag": lambda: db.from_delayed([delayed(list)("ab"), delayed(list)("cd")]),
        "delayed": lambda: delayed(abs)(-1),
    }
    with propagate_pools():
        with context():
            x = make[kind]()
        with pool("C"):
            given_on = USES[use](x)
    graph = as_high_level(given_on.__dask_graph__())
    tasks = read(graph, given_on.__dask_keys__())
    sources = [key for key, inputs in tasks.dependencies.items() if not inputs]
    if use == "array keyword":
        sources = [key for key in sources if not _is_other(key)]
    found = {
        "pinned": [tasks.pins.get(key) for key in sources],
        "allowed": [tasks.allowed_by_key().get(key) for key in sources],
        "blocked": [key in tasks.blocked_keys() for key in sources],
        "resources": [tasks.annotations.get(key, {}).get("resources") for key in sources],
        "priority": [tasks.annotations.get(key, {}).get("priority") for key in sources],
    }
    assert sources
    for name, value in expected.items():
        assert found[name] == [value] * len(sources), name


def test_a_task_that_is_given_on_again_and_again_has_one_mark() -> None:
    """A mark takes the place of the one before, so that tasks do not grow."""
    with propagate_pools():
        with pool("A"):
            x = delayed(abs)(-1)
        for _ in range(5):
            x = delayed(sum)([x, 1])
        functions = [task.func for task in dict(x.dask).values() if hasattr(task, "func")]
    assert not any(isinstance(getattr(one, "func", None), partial) for one in functions)
