"""Operations of every kind, on every path, have the values of plain Dask.

Each table of `operations` goes through each path with each placement of its inputs, on a local
scheduler and on a cluster whose scheduler and workers do not have the package. A failure names the
operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import clusters
import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import operations
import pandas as pd
import pytest
import xarray as xr
from dask.array.core import concatenate3
from dask.delayed import Delayed
from distributed import Client, futures_of, get_client, wait
from operations import TABLES, Operation, Places
from toolz import partition_all

from dask_worker_pools import propagate_pools

#: Where the inputs are, by name.
PLACEMENTS = {
    "one pool": Places("A", "A"),
    "two pools": Places("A", "B"),
    "halves in two pools": Places("A", "B", halves=True, second="B"),
}

#: Takes collections, and returns their values.
Way = Callable[[list[Any]], Sequence[Any]]
#: Operations by kind and name, such as ("arrays", "add").
Name = tuple[str, str]


# --- paths


def by_pieces(xs: list[Any]) -> Sequence[Any]:
    """Values that are computed as delayed objects, as far as there is such a thing."""
    return [*map(joined, xs, dask.compute(*map(pieces, xs)))]


def pieces(x: Any) -> Any:
    """A collection as delayed objects, where it can become that; else itself."""
    if isinstance(x, Delayed) or not hasattr(x, "to_delayed"):
        return x
    made = x.to_delayed()
    return made.tolist() if isinstance(made, np.ndarray) else made


def joined(x: Any, parts: Any) -> Any:
    """What the values of `pieces` are together."""
    if isinstance(x, da.Array):
        return concatenate3(parts) if x.ndim else parts
    if isinstance(x, db.Bag):
        return [item for part in parts for item in part]
    if isinstance(x, dd.DataFrame | dd.Series | dd.Index):
        return pd.concat(parts) if len(parts) > 1 else parts[0]
    return parts


def by_client(xs: list[Any]) -> Sequence[Any]:
    """Values of `Client.compute`."""
    client = get_client()
    return client.gather(client.compute(xs))


def persisted_by_client(xs: list[Any]) -> Sequence[Any]:
    """Values of `Client.persist`."""
    client = get_client()
    return client.gather(client.compute(client.persist(xs)))


WAYS: dict[str, Way] = {
    "compute": lambda xs: dask.compute(*xs),
    "persist": lambda xs: dask.compute(*dask.persist(*xs)),
    "optimize": lambda xs: dask.compute(*dask.optimize(*xs)),
    "to_delayed": by_pieces,
    "Client.compute": by_client,
    "Client.persist": persisted_by_client,
}


# --- the sweep


@cache
def wanted(name: Name, halves: bool) -> list[Any]:
    """Values of plain Dask."""
    kind, operation = name
    with dask.config.set({"scheduler": "sync", "dataframe.shuffle.method": "tasks"}):
        inputs = TABLES[kind].inputs(Places(halves=halves))
        return list(dask.compute(*outputs(TABLES[kind].operations[operation], inputs)))


def outputs(operation: Operation, inputs: tuple[Any, Any]) -> list[Any]:
    """The collections that an operation returns."""
    made = operation(*inputs)
    return list(made) if isinstance(made, tuple | list) else [made]


def sweep(
    names: Iterable[Name], places: Places, way: Way, persist: bool = False, at_once: int = 1
) -> dict[Name, str]:
    """What is wrong with each operation that is wrong.

    Some are computed at once; if that fails, each of them again, alone.
    """
    wrong: dict[Name, str] = {}
    for group in partition_all(at_once, names):
        found = attempt(group, places, way, persist)
        if found and len(group) > 1:
            alone = [attempt((name,), places, way, persist) for name in group]
            found = {n: text for one in alone for n, text in one.items()} or {
                n: f"only with others: {text}" for n, text in found.items()
            }
        wrong |= found
    return wrong


def attempt(group: Sequence[Name], places: Places, way: Way, persist: bool) -> dict[Name, str]:
    """What is wrong with the operations of a group that is computed at once."""
    with propagate_pools():
        try:
            made = [built(name, places, persist) for name in group]
            got = iter(way([x for xs in made for x in xs]))
        except Exception as error:
            text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            return dict.fromkeys(group, text)
        values = [[next(got) for _ in xs] for xs in made]
    return {
        name: text
        for name, value in zip(group, values)
        if (text := difference(value, wanted(name, places.halves)))
    }


def built(name: Name, places: Places, persist: bool) -> list[Any]:
    """The collections of an operation, whose inputs may be persisted first."""
    kind, operation = name
    inputs = TABLES[kind].inputs(places)
    if persist:
        inputs = dask.persist(*inputs)
        wait(futures_of(inputs))
    return outputs(TABLES[kind].operations[operation], inputs)


def difference(got: Any, want: Any) -> str:
    """In what values differ; empty if they do not."""
    try:
        assert_same(got, want)
    except AssertionError as error:
        return "differs: " + " ".join(str(error).split())
    return ""


def assert_same(got: Any, want: Any) -> None:
    """Two values are equal, with their types, order and labels."""
    assert type(got) is type(want), f"{type(got)} is no {type(want)}"
    if isinstance(want, list | tuple):
        assert len(got) == len(want), f"{got} is not {want}"
        for one, other in zip(got, want):
            assert_same(one, other)
    elif isinstance(want, pd.DataFrame):
        pd.testing.assert_frame_equal(got, want)
    elif isinstance(want, pd.Series):
        pd.testing.assert_series_equal(got, want)
    elif isinstance(want, pd.Index):
        pd.testing.assert_index_equal(got, want)
    elif isinstance(want, xr.DataArray | xr.Dataset):
        xr.testing.assert_allclose(got, want, rtol=1e-12)
        assert {n: v.dtype for n, v in got.coords.items()} == {
            n: v.dtype for n, v in want.coords.items()
        }
        assert got.attrs == want.attrs
    elif isinstance(want, np.ndarray | np.generic | float):
        assert np.asarray(got).dtype == np.asarray(want).dtype
        np.testing.assert_array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(want))
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    else:
        assert got == want, f"{got} is not {want}"


def names_of(kind: str) -> list[Name]:
    """The operations of a table."""
    return [(kind, name) for name in TABLES[kind].operations]


def mixed() -> list[Name]:
    """All operations, so that those of different kinds are neighbours."""
    tables = [names_of(kind) for kind in TABLES]
    return [name for row in zip_longest(*tables) for name in row if name is not None]


def check(wrong: dict[Name, str]) -> None:
    """Fail with the names of the operations that are wrong."""
    lines = [f"{kind}, {name}: {text[:300]}" for (kind, name), text in wrong.items()]
    assert not wrong, "\n".join([f"{len(wrong)} operations:", *lines])


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """Operations write below the directory of the test."""
    operations.directory = tmp_path


@pytest.fixture
def sync() -> Iterator[None]:
    """The local scheduler of one thread."""
    with dask.config.set(scheduler="sync"):
        yield


# --- on a local scheduler, each by itself


@pytest.mark.parametrize("places", PLACEMENTS)
@pytest.mark.parametrize("way", ["compute", "persist", "optimize", "to_delayed"])
@pytest.mark.parametrize("kind", TABLES)
def test_local(sync: None, kind: str, way: str, places: str) -> None:
    """On a local scheduler, every operation has plain Dask's value on every path."""
    check(sweep(names_of(kind), PLACEMENTS[places], WAYS[way]))


@pytest.mark.parametrize("places", PLACEMENTS)
@pytest.mark.parametrize("kind", TABLES)
def test_local_inputs_persisted(sync: None, kind: str, places: str) -> None:
    """On a local scheduler, every operation on persisted inputs has plain Dask's value."""
    check(sweep(names_of(kind), PLACEMENTS[places], WAYS["compute"], persist=True))


# --- on a cluster, several at once


@pytest.mark.parametrize("places", PLACEMENTS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", TABLES)
def test_cluster(client: Client, kind: str, way: str, places: str) -> None:
    """On a cluster, every operation has plain Dask's value on every path, and runs in pools."""
    with clusters.record_executions(client) as ran:
        check(sweep(names_of(kind), PLACEMENTS[places], WAYS[way], at_once=20))
    assert_in_pools(ran, places)


@pytest.mark.parametrize("places", PLACEMENTS)
@pytest.mark.parametrize("way", ["compute", "persist"])
@pytest.mark.parametrize("kind", TABLES)
def test_cluster_inputs_persisted(client: Client, kind: str, way: str, places: str) -> None:
    """On a cluster, what follows from persisted inputs has plain Dask's value, and runs in pools.

    Each operation is computed by itself.
    """
    with clusters.record_executions(client) as ran:
        check(sweep(names_of(kind), PLACEMENTS[places], WAYS[way], persist=True))
    assert_in_pools(ran, places)


@pytest.mark.parametrize("places", PLACEMENTS)
def test_kinds_at_once(client: Client, places: str) -> None:
    """Collections of all kinds that are computed at once come back each in its place."""
    with clusters.record_executions(client) as ran:
        check(sweep(mixed(), PLACEMENTS[places], WAYS["compute"], at_once=15))
    assert_in_pools(ran, places)


def assert_in_pools(ran: clusters.Executions, places: str) -> None:
    """All tasks ran in the pools of the inputs."""
    pools = {place for place in PLACEMENTS[places] if isinstance(place, str)}
    assert {key: found for key, found in ran.pools_of.items() if not found <= pools} == {}


def test_the_tables_are_large() -> None:
    """There are hundreds of operations."""
    assert len(mixed()) > 300
