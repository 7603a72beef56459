"""Tasks get the data that an earlier computation left in memory, and never its key.

Many of Dask's own steps, and of other libraries, write tasks as tuples, in which a key is told from
a plain tuple only by those who know all keys.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
import xarray as xr
from dask import delayed
from dask.base import dont_optimize
from dask.delayed import Delayed
from dask.graph_manipulation import bind, clone, wait_on
from dask.highlevelgraph import HighLevelGraph
from distributed import Client, wait
from sited import sited_array, sited_bag, sited_value

from dask_worker_pools import pool, propagate_pools

VALUES = np.arange(24.0)


def _assigned(x: da.Array) -> Any:
    x = x.copy()
    x[2:14] = x[4:16] + 1
    x[x > 20] = 0
    return x


ARRAY: dict[str, Callable[[Any], Any]] = {
    "concatenate": lambda x: da.concatenate([x, x + 1]),
    "bind": lambda x: bind(x + 1, x),
    "clone": lambda x: clone(x + 1),
    "wait_on": lambda x: wait_on(x) + 1,
    "stack": lambda x: da.stack([x, x]),
    "map_blocks": lambda x: x.map_blocks(lambda block: block + 1, dtype=float),
    "map_overlap": lambda x: x.map_overlap(lambda block: block, depth=2, boundary="reflect"),
    "pad": lambda x: da.pad(x, 3, mode="wrap"),
    "argmax": lambda x: x.argmax(),
    "assigned": _assigned,
    "masked": lambda x: x[x > 4].sum(),
    "fancy index": lambda x: x[[3, 20, 5]],
    "rechunk": lambda x: x.rechunk(5),
    "reshape": lambda x: x.reshape(4, 6),
    "cumsum": lambda x: x.cumsum(axis=0),
    "histogram": lambda x: da.histogram(x, bins=4, range=(0, 24))[0],
    "unique": lambda x: da.unique(x),
    "topk": lambda x: da.topk(x, 3),
    "svd": lambda x: da.linalg.svd(x.reshape(12, 2).rechunk((6, 2)))[1],
    "keyword": lambda x: x.map_blocks(lambda block, k: block + k.sum(), k=x, dtype=float),
    "given on": lambda x: delayed(np.sum)(x),
    "parts": lambda x: delayed(sum)([delayed(np.sum)(one) for one in x.to_delayed()]),
    "xarray": lambda x: xr.concat([xr.DataArray(x, dims="i")] * 2, "i").rolling(i=3).sum().data,
}

BAG: dict[str, Callable[[Any], Any]] = {
    "count": lambda b: b.count(),
    "bind": lambda b: bind(b.map(abs), b),
    "wait_on": lambda b: wait_on(b).map(abs),
    "map": lambda b: b.map(lambda x: x + 1),
    "map, two": lambda b: b.map(lambda x, y: x + y, b),
    "sum": lambda b: b.map(abs).sum(),
    "fold": lambda b: b.fold(lambda x, y: x + y),
    "frequencies": lambda b: b.frequencies(),
    "concat": lambda b: db.concat([b, b.filter(bool)]),
    "zip": lambda b: db.zip(b, b),
    "product": lambda b: b.product(b).count(),
    "take": lambda b: b.take(2, compute=False),
    "repartition": lambda b: b.repartition(npartitions=1),
    "groupby": lambda b: b.groupby(lambda x: x % 2, shuffle="tasks").map(len),
    "item": lambda b: b.sum().apply(lambda x: x + 1),
    "item, given on": lambda b: delayed(abs)(b.sum()),
    "item to_delayed": lambda b: b.sum().to_delayed(),
    "to_delayed": lambda b: delayed(sum)([delayed(sum)(one) for one in b.to_delayed()]),
    "to_textfiles": lambda b: b.map(str).to_textfiles(
        str(Path(dask.config.get("temporary_directory")) / "*.txt"), compute=False
    ),
}

STEPS = [("array", name) for name in ARRAY] + [("bag", name) for name in BAG]

WAYS: dict[str, Callable[[Any, Client | None], Any]] = {
    "compute": lambda x, _: dask.compute(x)[0],
    "persist": lambda x, _: dask.compute(dask.persist(x)[0])[0],
}


def _source(kind: str) -> Any:
    if kind == "array":
        return sited_array("A", VALUES, 6)
    return sited_bag("A", [[1, 2, 3], [4, 5], [0]])


def _persisted(kind: str) -> Any:
    (x,) = dask.persist(_source(kind))
    return x


def _step(kind: str, name: str) -> Callable[[Any], Any]:
    return (ARRAY if kind == "array" else BAG)[name]


def _expected(kind: str, name: str) -> Any:
    return dask.compute(_step(kind, name)(_source(kind)), scheduler="sync")[0]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> Any:
    with dask.config.set(temporary_directory=str(tmp_path)):
        yield


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("kind", "name"), STEPS)
def test_cluster(client: Client, kind: str, name: str, way: str) -> None:
    """On a cluster, steps on persisted data give what they give on data to be read."""
    with propagate_pools():
        x = _persisted(kind)
        found = WAYS[way](_step(kind, name)(x), client)
    np.testing.assert_equal(found, _expected(kind, name))


@pytest.mark.parametrize(("kind", "name"), STEPS)
def test_local(kind: str, name: str) -> None:
    """In one process too, where the graph holds the data itself."""
    with dask.config.set(scheduler="sync"), propagate_pools():
        x = _persisted(kind)
        found = dask.compute(_step(kind, name)(x))[0]
    np.testing.assert_equal(found, _expected(kind, name))


@pytest.mark.parametrize("kind", ["array", "bag"])
def test_own_optimisation(client: Client, kind: str) -> None:
    """An optimisation of the user's own gets tasks that refer to the data."""
    steps = {"array": ARRAY["concatenate"], "bag": BAG["sum"]}
    with dask.config.set(array_optimize=dont_optimize, bag_optimize=dont_optimize):
        with propagate_pools():
            found = dask.compute(steps[kind](_persisted(kind)))[0]
    expected = dask.compute(steps[kind](_source(kind)), scheduler="sync")[0]
    np.testing.assert_equal(found, expected)


def test_tuples_in_two_pools(client: Client) -> None:
    """Blocks that are fused again, where pools differ, get the data as well."""
    with propagate_pools():
        x, y = _persisted("array"), sited_array("B", VALUES, 6)
        with pool("B"):
            found = da.concatenate([x, y + 1]).map_blocks(lambda b: b * 2, dtype=float)
        expected = np.concatenate([VALUES, VALUES + 1]) * 2
        np.testing.assert_equal(found.compute(), expected)


def test_persisted_delayed(client: Client) -> None:
    """Delayed objects in memory, by any layer that names them in a tuple."""
    with propagate_pools():
        x = sited_value("A", [1, 2]).persist()
        wait(x)
        graph = HighLevelGraph.from_collections("by-hand", {"by-hand": (sum, x.key)}, [x])
        assert delayed(abs)(x[0]).compute() == 1
        assert Delayed("by-hand", graph).compute() == 3


def test_frames_of_persisted_data(client: Client) -> None:
    """Frames of persisted data, and of persisted delayed objects, get the data."""
    dd, pd = pytest.importorskip("dask.dataframe"), pytest.importorskip("pandas")
    table = pd.DataFrame({"x": VALUES})
    with propagate_pools():
        with pool("A"):
            frame = dd.from_pandas(table, npartitions=2).persist()
            parts = dask.persist(*[delayed(table.head)(n, pure=False) for n in (2, 3)])
        array = _persisted("array")
        assert dd.concat([frame, frame]).x.sum().compute() == 2 * VALUES.sum()
        assert dd.from_delayed(list(parts), meta=table[:0]).x.sum().compute() == 4
        assert dd.from_dask_array(array, columns="x").sum().compute() == VALUES.sum()
        assert len(_persisted("bag").map(lambda n: {"n": n}).to_dataframe().compute()) == 6
