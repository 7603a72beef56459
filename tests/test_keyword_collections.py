"""Collections among the keywords of functions run in their own pools, and nothing of them is lost.

Dask puts all of such a collection, under other names, in one layer before that of the function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask import delayed
from distributed import Client
from sited import sited_array, sited_bag, sited_value

from dask_worker_pools import LostKeys, pool, propagate_pools
from dask_worker_pools.fusion import Tasks
from dask_worker_pools.optimize import check_complete

X, W = np.arange(12.0), np.linspace(1, 2, 12)

Build = Callable[[Any, Any], Any]


def _adding() -> Callable[..., Any]:
    # A nested function travels by value: the workers cannot import this module.
    def total(k: Any) -> Any:
        if isinstance(k, dict):
            return total(list(k.values()))
        return sum(map(total, k)) if isinstance(k, list) else np.sum(k)

    def add(block: Any, k: Any = None) -> Any:
        return block + total(k)

    return add


#: Add to a block the sum of whatever is in the keyword.
add = _adding()


def _bag(x: Any) -> Any:
    """A bag of one number for each block of an array."""
    return db.from_delayed([delayed(lambda b: [float(b.sum())])(b) for b in x.to_delayed()])


BUILDS: dict[str, Build] = {
    "map_blocks": lambda x, w: x.map_blocks(add, k=w, dtype=float),
    "after a step": lambda x, w: (x + 1).map_blocks(add, k=w, dtype=float),
    "of a step": lambda x, w: x.map_blocks(add, k=w + 1, dtype=float),
    "of a reduction": lambda x, w: x.map_blocks(add, k=w.mean(), dtype=float),
    "list": lambda x, w: x.map_blocks(add, k=[w, w + 1], dtype=float),
    "dict": lambda x, w: x.map_blocks(add, k={"a": w}, dtype=float),
    "list with a delayed": lambda x, w: x.map_blocks(add, k=[w, delayed(np.sum)(w)], dtype=float),
    "delayed": lambda x, w: x.map_blocks(add, k=delayed(np.sum)(w), dtype=float),
    "positional list": lambda x, w: x.map_blocks(add, [w, w], dtype=float),
    "itself": lambda x, _: x.map_blocks(add, k=x, dtype=float),
    "twice": lambda x, w: x.map_blocks(add, k=w, dtype=float).map_blocks(add, k=w, dtype=float),
    "step by step": lambda x, w: x.map_blocks(add, k=w.map_blocks(add, k=x, dtype=float)),
    "two collections": lambda x, w: [
        x.map_blocks(add, k=w, dtype=float).sum(),
        w.map_blocks(add, k=x, dtype=float).sum(),
    ],
    "beside its source": lambda x, w: [x.map_blocks(add, k=w, dtype=float), w.sum(), x],
    "map_overlap": lambda x, w: da.map_overlap(
        add, x, depth=1, boundary="none", k=w, dtype=float, meta=X[:0]
    ),
    "blockwise": lambda x, w: da.blockwise(add, "i", x, "i", k=w, dtype=float),
    "blockwise of two": lambda x, w: da.blockwise(
        lambda a, b, k=None: add(a + b, k=k),
        "i",
        x,
        "i",
        w.rechunk(x.chunks),
        "i",
        k=w,
        dtype=float,
    ),
    "apply_along_axis": lambda x, w: da.apply_along_axis(add, 0, x, k=w, dtype=float, shape=(12,)),
    "bag.map": lambda x, w: _bag(x).map(add, k=w),
    "bag.map of a list": lambda x, w: _bag(x).map(add, k=delayed([w, w])),
    "bag.map of an item": lambda x, w: _bag(x).map(add, k=_bag(w).sum()),
    "bag.map_partitions of an item": lambda x, w: _bag(x).map_partitions(
        lambda part, k: [float(value + k) for value in part], k=_bag(w).sum()
    ),
    "delayed keyword": lambda x, w: delayed(add)(x, k=w),
    "delayed nested": lambda x, w: delayed(add)(x, k={"a": [w, x.sum()]}),
}
if hasattr(da, "quantile"):  # not in older versions of Dask
    BUILDS["quantile"] = lambda x, w: da.quantile(
        x.rechunk(-1), 0.75, weights=w, method="inverted_cdf"
    )

#: Blocks of x and of w: a fused layer of one block, of several, and blocks that do not correspond.
CHUNKS = [(6, 12), (12, 12), (6, 4)]


def built(name: str, chunks: tuple[int, int], sites: tuple[str, str]) -> Any:
    """What a user builds of two arrays that lie in two pools."""
    x, w = (sited_array(*one) for one in zip(sites, (X, W), chunks, strict=True))
    return BUILDS[name](x, w)


def plain(name: str, chunks: tuple[int, int]) -> Any:
    """The same without pools."""
    x, w = da.from_array(X, chunks=chunks[0]), da.from_array(W, chunks=chunks[1])
    return dask.compute(BUILDS[name](x, w), scheduler="sync")[0]


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("name", BUILDS)
def test_local(name: str, chunks: tuple[int, int]) -> None:
    """In one process, the values are those of plain Dask."""
    with propagate_pools():
        (found,) = dask.compute(built(name, chunks, ("A", "B")), scheduler="sync")
    np.testing.assert_equal(found, plain(name, chunks))


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("name", BUILDS)
def test_cluster(client: Client, name: str, chunks: tuple[int, int]) -> None:
    """On a cluster too; and sources are read in their own pools."""
    with propagate_pools():
        (found,) = dask.compute(built(name, chunks, ("A", "B")))
    np.testing.assert_equal(found, plain(name, chunks))


WAYS: dict[str, Callable[[Any, Client], Any]] = {
    "persist": lambda x, _: dask.compute(dask.persist(x)[0])[0],
    "optimize": lambda x, _: dask.compute(dask.optimize(x)[0])[0],
    "Client.compute": lambda x, client: client.gather(client.compute(x)),
    "several at once": lambda x, _: dask.compute(x, delayed(len)([1]))[0],
    "given on": lambda x, _: delayed(lambda value: value)(x).compute(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["map_blocks", "of a step", "list", "bag.map", "delayed keyword"])
def test_ways(client: Client, name: str, way: str) -> None:
    """However it is computed, the values are those of plain Dask."""
    with propagate_pools():
        found = WAYS[way](built(name, (6, 4), ("A", "B")), client)
    np.testing.assert_equal(found, plain(name, (6, 4)))


def test_delayed_and_bag_in_other_pools(client: Client) -> None:
    """Delayed objects and bags among keywords keep their pools as arrays do."""
    with propagate_pools():
        x = sited_array("A", X, 6)
        item, total = sited_value("B", 2.0), sited_bag("B", [[1], [2, 3]]).sum()
        found = x.map_blocks(add, k=item, dtype=float).map_blocks(add, k=[total], dtype=float)
        np.testing.assert_equal(found.compute(), X + 2 + 6)


def test_persisted_keyword(client: Client) -> None:
    """A persisted array among the keywords stays where it is."""
    with propagate_pools():
        x, w = sited_array("A", X, 6), sited_array("B", W, 4).persist()
        np.testing.assert_equal(x.map_blocks(add, k=w, dtype=float).compute(), add(X, k=W))


def test_lost_keys() -> None:
    """Should tasks get lost after all, then nothing is computed, and the error names them."""
    with pool("A"):
        x = da.ones(4, chunks=2)
    layer = dict(x.dask)
    result = Tasks(graph={}, pools={})
    with pytest.raises(LostKeys, match=r"1 task got lost.*fuse nothing") as caught:
        check_complete(result, list(layer)[:1], [])
    assert caught.value.keys == tuple(layer)[:1]
    check_complete(result, list(layer)[:1], list(layer))
