"""Operations of every kind, on every path, have the values of plain Dask.

Each table of `operations` goes through each path with each placement of its inputs, on a local
scheduler and on a cluster whose scheduler and workers do not have the package. A failure names the
operations.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
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
from dask.dataframe.dask_expr._collection import FrameBase, Scalar
from dask.delayed import Delayed
from distributed import Client, futures_of, get_client, wait
from operations import TABLES, Operation, Places
from toolz import partition_all

from dask_worker_pools import propagate_pools

# Said by plain Dask as well: dataframes cannot be kept as expressions when others are there.
pytestmark = pytest.mark.filterwarnings("ignore:Computing mixed collections")

#: Where the inputs are, by name.
PLACEMENTS = {
    "one pool": Places("A", "A"),
    "two pools": Places("A", "B"),
    "halves in two pools": Places("A", "B", halves=True, second="B"),
}

#: Whether each operation goes through each path in every placement: that takes three times as long.
EVERYTHING = "SWEEP_EVERYTHING" in os.environ

#: Takes collections, and returns their values.
Way = Callable[[list[Any]], Any]
#: Operations by kind and name, such as ("arrays", "add").
Name = tuple[str, str]


# --- paths


def by_pieces(xs: list[Any]) -> Any:
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


def by_client(xs: list[Any]) -> Any:
    """Values of `Client.compute`."""
    client = get_client()
    return client.gather(client.compute(xs))


def persisted_by_client(xs: list[Any]) -> Any:
    """Values of `Client.persist`."""
    client = get_client()
    return client.gather(client.compute(client.persist(xs)))


@dataclass(frozen=True)
class Path:
    """A way to values."""

    way: Way
    cluster: bool = True  #: on a cluster, else on the local scheduler of one thread
    persist: bool = False  #: the inputs are persisted first
    at_once: int = 20  #: operations that are computed together


def compute(xs: list[Any]) -> Any:
    """Values of all collections at once."""
    return dask.compute(*xs)


def compute_persisted(xs: list[Any]) -> Any:
    """Values of what `dask.persist` returns."""
    return dask.compute(*dask.persist(*xs))


def compute_optimized(xs: list[Any]) -> Any:
    """Values of what `dask.optimize` returns; of dataframes, what their own method does.

    Plain Dask cannot compute what it fused there, such as ``frame.shift(1).optimize()``.
    """
    of_frames = {
        i: x.optimize(fuse=False) for i, x in enumerate(xs) if isinstance(x, FrameBase | Scalar)
    }
    others = iter(dask.optimize(*(x for i, x in enumerate(xs) if i not in of_frames)))
    return dask.compute(*(of_frames[i] if i in of_frames else next(others) for i in range(len(xs))))


PATHS = {
    "local, compute": Path(compute, cluster=False, at_once=1),
    "local, persist": Path(compute_persisted, cluster=False, at_once=1),
    "local, inputs persisted": Path(compute, cluster=False, persist=True, at_once=1),
    "local, optimize": Path(compute_optimized, cluster=False, at_once=1),
    "local, to_delayed": Path(by_pieces, cluster=False, at_once=1),
    "compute": Path(compute),
    "persist": Path(compute_persisted),
    "inputs persisted": Path(compute, persist=True, at_once=3),
    "inputs persisted, persist": Path(compute_persisted, persist=True),
    "optimize": Path(compute_optimized),
    "to_delayed": Path(by_pieces),
    "Client.compute": Path(by_client),
    "Client.persist": Path(persisted_by_client),
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


def sweep(names: Iterable[Name], places: str, path: Path) -> list[str]:
    """What is wrong with each operation that is wrong.

    Some are computed at once; if that fails, each of them again, alone.
    """
    wrong: dict[Name, str] = {}
    for group in partition_all(path.at_once, names):
        found = attempt(group, PLACEMENTS[places], path)
        if found and len(group) > 1:
            alone = [attempt((name,), PLACEMENTS[places], path) for name in group]
            found = {n: text for one in alone for n, text in one.items()} or {
                n: f"only with others: {text}" for n, text in found.items()
            }
        wrong |= found
    return [f"{kind}, {n} ({places}): {text[:300]}" for (kind, n), text in wrong.items()]


def attempt(group: Sequence[Name], places: Places, path: Path) -> dict[Name, str]:
    """What is wrong with the operations of a group that is computed at once."""
    with propagate_pools():
        try:
            given = [given_to(name, places, path.persist) for name in group]
            made = [outputs(TABLES[n[0]].operations[n[1]], xs) for n, xs in zip(group, given)]
            got = iter(path.way([x for xs in made for x in xs]))
        except Exception as error:
            text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            return dict.fromkeys(group, text)
        values = [[next(got) for _ in xs] for xs in made]
        del given  # Dask keeps what was persisted as long as somebody has it
    return {
        name: text
        for name, value in zip(group, values)
        if (text := difference(value, wanted(name, places.halves)))
    }


def given_to(name: Name, places: Places, persist: bool) -> tuple[Any, Any]:
    """The inputs of an operation, which may be persisted first."""
    first, second = TABLES[name[0]].inputs(places)
    if persist:
        first, second = dask.persist(first, second)
        if futures := futures_of((first, second)):  # where they lie is known when they are there
            wait(futures)
    return first, second


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
        np.testing.assert_allclose(got, np.ma.asanyarray(want), rtol=1e-12, atol=1e-12)
    else:
        assert got == want, f"{got} is not {want}"


def names_of(kind: str) -> list[Name]:
    """The operations of a table."""
    return [(kind, name) for name in TABLES[kind].operations]


def turns(names: list[Name], number: int = 0, every: int = 1) -> Iterator[tuple[str, list[Name]]]:
    """Each placement with the operations that are tried there on the path of this number.

    Each operation goes through one path of `every` so many, in one of the placements; if the
    environment asks for it, through each path in all placements.
    """
    step = 1 if EVERYTHING else every * len(PLACEMENTS)
    for i, places in enumerate(PLACEMENTS):
        yield places, names[(i + number) % step :: step]


def check(wrong: list[str]) -> None:
    """Fail with the names of the operations that are wrong."""
    assert not wrong, "\n".join([f"{len(wrong)} operations:", *wrong])


def in_pools(ran: clusters.Executions, places: str) -> list[str]:
    """Tasks that ran elsewhere than in the pools of the inputs."""
    pools = {place for place in PLACEMENTS[places] if isinstance(place, str)}
    return [
        f"a task ({places}): {key} ran in {found}"
        for key, found in ran.pools_of.items()
        if not found <= pools
    ]


@pytest.fixture(autouse=True)
def files(tmp_path: pathlib.Path) -> None:
    """Operations write below the directory of the test."""
    operations.directory = tmp_path


@pytest.mark.parametrize("path", [name for name, path in PATHS.items() if not path.cluster])
@pytest.mark.parametrize("kind", TABLES)
def test_local(kind: str, path: str) -> None:
    """On a local scheduler, every operation has plain Dask's value on every path."""
    wrong: list[str] = []
    with dask.config.set(scheduler="sync"):
        for places, names in turns(names_of(kind), [*PATHS].index(path)):
            wrong += sweep(names, places, PATHS[path])
    check(wrong)


@pytest.mark.parametrize("path", [name for name, path in PATHS.items() if path.cluster])
@pytest.mark.parametrize("kind", TABLES)
def test_cluster(client: Client, kind: str, path: str) -> None:
    """On a cluster, operations have plain Dask's values on every path, and run in pools."""
    wrong: list[str] = []
    for places, names in turns(names_of(kind), [*PATHS].index(path), every=4):
        with clusters.record_executions(client) as ran:
            wrong += sweep(names, places, PATHS[path])
        # A frame of delayed objects that are persisted does not know where they are.
        wrong += in_pools(ran, places) if (kind, PATHS[path].persist) != ("delayed", True) else []
    check(wrong)


@pytest.mark.parametrize("places", PLACEMENTS)
def test_kinds_at_once(client: Client, places: str) -> None:
    """Collections of all kinds that are computed at once come back each in its place."""
    tables = [names_of(kind) for kind in TABLES]
    mixed = [name for row in zip_longest(*tables) for name in row if name is not None]
    names = dict(turns(mixed))[places]
    with clusters.record_executions(client) as ran:
        wrong = sweep(names, places, Path(compute, at_once=15))
    check(wrong + in_pools(ran, places))


def test_the_tables_are_large() -> None:
    """There are hundreds of operations."""
    assert sum(len(names_of(kind)) for kind in TABLES) > 300
