"""Results come back in the order in which they were asked for, whatever kinds are mixed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import clusters
import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from dask import delayed
from distributed import Client, wait
from foreign import Table

from dask_worker_pools import plan_pools, pool, propagate_pools

pytestmark = pytest.mark.filterwarnings("ignore:Computing mixed collections:UserWarning")

#: What is computed of each kind.
EXPECTED: dict[str, Any] = {
    "array": np.arange(6),
    "bag": ["to", "be", "or", "not"],
    "delayed": "delayed",
    "frame": pd.DataFrame({"x": [1, 2, 3, 4]}),
}
ORDERS = [kinds for n in (2, 3, 4) for kinds in itertools.permutations(EXPECTED, n)]
OF_THREE = list(itertools.permutations(EXPECTED, 3))

BUILD: dict[str, Callable[[], Any]] = {
    "array": lambda: da.from_array(EXPECTED["array"], chunks=3),
    "bag": lambda: db.from_sequence(EXPECTED["bag"], npartitions=2),
    "delayed": lambda: delayed(str)("delayed"),
    "frame": lambda: dd.from_pandas(EXPECTED["frame"], npartitions=2),
}

#: Where each kind is made; those that are not named are in no pool.
PLACES: dict[str, dict[str, str]] = {
    "nothing pinned": {},
    "frame pinned": {"frame": "A"},
    "all but the frame pinned": {"array": "A", "bag": "B", "delayed": "A"},
    "all pinned": {"array": "A", "bag": "B", "delayed": "B", "frame": "A"},
}


def where(place: str | None) -> AbstractContextManager[Any]:
    """The block of a pool, or none."""
    return pool(place) if place else nullcontext()


def made(places: dict[str, str]) -> dict[str, Any]:
    """One collection of each kind."""
    built = {}
    for kind, build in BUILD.items():
        with where(places.get(kind)):
            built[kind] = build()
    return built


def is_expected(kind: str, result: Any) -> bool:
    """Whether a result is that of its kind."""
    expected = EXPECTED[kind]
    if type(result) is not type(expected):
        return False
    if isinstance(expected, pd.DataFrame):
        return bool(result.equals(expected))
    return bool(np.array_equal(result, expected))


def gathered(persisted: Sequence[Any]) -> list[Any]:
    """What each of some persisted collections holds, computed on its own."""
    return [one.compute() for one in persisted]


def nested(collections: Sequence[Any]) -> list[Any]:
    """The results of collections inside containers."""
    found = dask.compute({"first": collections[0], "rest": [list(collections[1:]), 7]})[0]
    assert found["rest"][1] == 7
    return [found["first"], *found["rest"][0]]


LOCAL: dict[str, Callable[[Sequence[Any]], Any]] = {
    "compute": lambda all_of: dask.compute(*all_of),
    "persist": lambda all_of: gathered(dask.persist(*all_of)),
    "optimize": lambda all_of: gathered(dask.optimize(*all_of)),
    "nested": nested,
}


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("path", LOCAL)
def test_in_one_process(path: str, places: str) -> None:
    """Every order of several kinds gives its results in that order, with a local scheduler."""
    collections = made(PLACES[places])
    wrong = []
    with propagate_pools(), dask.config.set(scheduler="sync"):
        for kinds in ORDERS if path == "compute" else OF_THREE:
            if path == "optimize" and "frame" in kinds:
                continue  # Dask cannot make a frame of the graph of several kinds
            results = LOCAL[path]([collections[kind] for kind in kinds])
            if not all(map(is_expected, kinds, results)):
                wrong.append(kinds)
    assert wrong == []


CLUSTER: dict[str, Callable[[Client, Sequence[Any]], Any]] = {
    "compute": lambda client, all_of: dask.compute(*all_of),
    "persist": lambda client, all_of: gathered(dask.persist(*all_of)),
    "Client.compute": lambda client, all_of: client.gather(client.compute(list(all_of))),
    "Client.persist": lambda client, all_of: gathered(client.persist(list(all_of))),
}


@pytest.mark.parametrize("places", ["all but the frame pinned", "all pinned"])
@pytest.mark.parametrize("path", CLUSTER)
def test_on_a_cluster(client: Client, path: str, places: str) -> None:
    """Every order of three kinds gives its results in that order, on a cluster."""
    collections = made(PLACES[places])
    wrong = []
    with propagate_pools():
        for kinds in OF_THREE:
            results = CLUSTER[path](client, [collections[kind] for kind in kinds])
            if not all(map(is_expected, kinds, results)):
                wrong.append(kinds)
    assert wrong == []


@pytest.mark.parametrize("kinds", [("delayed", "bag", "delayed"), ("frame", "array", "frame")])
def test_a_kind_twice(kinds: tuple[str, ...]) -> None:
    """Two collections of a kind with another between them keep their places."""
    built = [BUILD[kind]() for kind in kinds]
    if kinds[0] == "delayed":
        built[2] = delayed(str.upper)("delayed")
    else:
        built[2] = built[2] * 10
    expected = [one.compute(scheduler="sync") for one in built]
    with propagate_pools():
        results = dask.compute(*built, scheduler="sync")
    assert list(map(str, results)) == list(map(str, expected))


@pytest.mark.parametrize("first", [True, False])
def test_a_collection_without_optimisation(first: bool) -> None:
    """A collection that wants no optimisation keeps its place beside others."""
    table, text = Table.of(da.arange(4, chunks=2), None), delayed(str)("text")
    with propagate_pools():
        results = dask.compute(*((table, text) if first else (text, table)), scheduler="sync")
    array, string = results if first else results[::-1]
    assert (list(array), string) == ([0, 1, 2, 3], "text")


def test_all_is_planned_together() -> None:
    """A frame in no pool and the array that it is joined with are one plan with the rest."""
    built = made(PLACES["all pinned"])
    plan = plan_pools(*built.values())
    assert set(plan.pools.values()) == {"A", "B"}


def test_pools_hold_in_every_order(client: Client) -> None:
    """Mixed with a frame in no pool, arrays, bags and delayed objects run in their own pools."""
    built = made(PLACES["all but the frame pinned"])
    with clusters.record_executions(client) as ran, propagate_pools():
        dask.compute(*(built[kind] for kind in ("array", "frame", "delayed", "bag")))
    layers = {kind: built[kind].__dask_layers__()[0] for kind in ("bag", "delayed")}
    places = {
        kind: set().union(*(pools for key, pools in ran.pools_of.items() if layer in str(key)))
        for kind, layer in layers.items()
    }
    assert places == {"bag": {"B"}, "delayed": {"A"}}


def test_xarray_among_others(client: Client) -> None:
    """An xarray object beside a frame and a bag is persisted as itself."""
    with pool("A"):
        data = xr.DataArray(da.arange(6, chunks=3), dims="x")
    with propagate_pools():
        kept = dask.persist(made({})["frame"], data, made({"bag": "B"})["bag"])
        wait(kept)
        frame, array, bag = gathered(kept)
    assert is_expected("frame", frame)
    assert is_expected("bag", bag)
    assert array.equals(xr.DataArray(np.arange(6), dims="x"))
