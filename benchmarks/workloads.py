"""The computations that are compared, written as users of Dask and xarray write them.

Each function builds one of them, lazily, in one of several shapes. What it is given as `pool` says
where data lies: `dask_worker_pools.pool`, or plain annotations for the contenders that know no
pools. Data is either made by the workers of its site, or read by them from zarr stores that are
written in the directory `data` when a workload first needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import xarray as xr
from dask import delayed

#: Says that what is created in its block lies in a pool; takes ``nbytes=`` for sizes.
PoolFunction = Callable[..., AbstractContextManager[Any]]


@dataclass(frozen=True)
class Workload:
    """One computation in several shapes."""

    name: str
    title: str
    build: Callable[..., Sequence[Any]]  #: (pool, data, **shape) -> collections
    shapes: Mapping[str, Mapping[str, Any]]  #: arguments of `build`, by a name for tables
    sites: Sequence[str] = ("A", "B")
    #: whether results stay on the workers (``persist``); else they are fetched (``compute``)
    keep: bool = False


@dataclass
class Case:
    """A workload in one shape."""

    workload: Workload
    shape: str
    data: Path = field(default_factory=Path)

    def build(self, pool: PoolFunction) -> list[Any]:
        """Build the collections."""
        return list(self.workload.build(pool, self.data, **self.workload.shapes[self.shape]))


WORKLOADS: dict[str, Workload] = {}


def workload(
    title: str,
    shapes: Mapping[str, Mapping[str, Any]],
    sites: Sequence[str] = ("A", "B"),
    keep: bool = False,
) -> Callable[[Callable[..., Sequence[Any]]], Callable[..., Sequence[Any]]]:
    """Add a function to `WORKLOADS`."""

    def add(build: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
        name = build.__name__
        WORKLOADS[name] = Workload(name, title, build, shapes, sites, keep)
        return build

    return add


def cases(names: Sequence[str] = (), data: Path = Path()) -> Iterator[Case]:
    """All workloads, or those named, in all their shapes."""
    for name in names or WORKLOADS:
        for shape in WORKLOADS[name].shapes:
            yield Case(WORKLOADS[name], shape, data)


def stored(data: Path, name: str, make: Callable[[], xr.Dataset]) -> str:
    """Path of a zarr store, which is written if it is not there yet."""
    path = data / f"{name}.zarr"
    if not path.exists():
        make().to_zarr(path, consolidated=False)
    return str(path)


def field_store(
    data: Path, names: str, chunks: Mapping[str, int], dtype: str = "f4", **dims: int
) -> str:
    """Path of a store with variables of random numbers, of these dimensions and chunks."""
    label = "-".join([names, dtype, *(f"{dim}{n}" for dim, n in dims.items())])

    def make() -> xr.Dataset:
        rng = np.random.default_rng(0)
        shape = tuple(dims.values())
        made = {
            name: (tuple(dims), (100 * rng.random(shape)).astype(dtype)) for name in names.split()
        }
        return xr.Dataset(made).chunk(dict(chunks))

    return stored(data, label.replace(" ", "_"), make)


def opened(path: str) -> xr.Dataset:
    return xr.open_zarr(path, consolidated=False)


@workload(
    "Forecast mean minus observations",
    {
        "4 members of 120 × 240": {"members": 4, "nlat": 120, "nlon": 240},
        "8 members of 180 × 360": {"members": 8, "nlat": 180, "nlon": 360},
        "12 members of 240 × 480": {"members": 12, "nlat": 240, "nlon": 480},
    },
)
def forecast(pool: PoolFunction, data: Path, members: int, nlat: int, nlon: int) -> list[Any]:
    """The case published for several clouds: an ensemble in one, observations in another."""
    chunks = {"realization": 2, "height": 3, "lat": nlat // 2, "lon": nlon // 2}
    dims = {"realization": members, "height": 6, "lat": nlat, "lon": nlon}
    with pool("A"):
        members_ = opened(field_store(data, "forecast", chunks, **dims)).forecast
    with pool("B"):
        store = field_store(data, "measured", chunks={"lat": nlat // 2}, lat=nlat, lon=nlon)
        measured = opened(store).measured
    return [members_.mean("realization").isel(height=2) - measured]


@workload(
    "Example of the README",
    {
        "8 MB and 1 MB": {"n": 1024, "chunk": 512, "m": 2**17},
        "32 MB and 1 MB": {"n": 2048, "chunk": 512, "m": 2**17},
        "8 MB and 4 MB": {"n": 1024, "chunk": 256, "m": 2**19},
    },
)
def readme(pool: PoolFunction, data: Path, n: int, chunk: int, m: int) -> list[Any]:
    rng = da.random.default_rng(0)
    with pool("A"):
        a = rng.random((n, n), chunks=chunk)
    with pool("B"):
        b = rng.random(m, chunks=m // 4)
    return [(a - 1).sum(), b - a.mean()]


@workload(
    "Shifted difference a[1:, 1:] - b[:-1, :-1]",
    {
        "1000 × 1000": {"n": 1000, "m": 1000},
        "2000 × 1000": {"n": 2000, "m": 1000},
        "2000 × 2000": {"n": 2000, "m": 2000},
    },
    keep=True,
)
def shifted(pool: PoolFunction, data: Path, n: int, m: int) -> list[Any]:
    rng = da.random.default_rng(0)
    with pool("A"):
        a = rng.random((n, m), chunks=500)
    with pool("B"):
        b = rng.random((n, m), chunks=500)
    return [a[1:, 1:] - b[:-1, :-1]]
