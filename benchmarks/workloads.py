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
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr
from dask import delayed

#: Says that what is created in its block lies in a pool; takes ``nbytes=`` for sizes. Dataframes
#: ignore plain annotations, so the block is given a function that makes them stay in its pool.
PoolFunction = Callable[..., AbstractContextManager[Callable[[Any], Any]]]


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


def field_store(
    data: Path,
    names: str,
    dims: Mapping[str, int],
    chunks: Mapping[str, int],
    dtype: str = "f4",
) -> str:
    """Path of a zarr store of random numbers, which is written if it is not there yet.

    Each of `names` is a variable of these dimensions and chunks.
    """
    label = "-".join([*names.split(), dtype, *(f"{dim}{n}" for dim, n in dims.items())])
    path = data / f"{label}.zarr"
    if path.exists():
        return str(path)
    rng = np.random.default_rng(0)
    made = {
        name: (tuple(dims), (100 * rng.random(tuple(dims.values()))).astype(dtype))
        for name in names.split()
    }
    blocks = {"chunks": tuple(chunks.get(dim, n) for dim, n in dims.items())}
    xr.Dataset(made).to_zarr(path, encoding=dict.fromkeys(made, blocks), consolidated=False)
    return str(path)


def opened(path: str) -> xr.Dataset:
    dataset: xr.Dataset = xr.open_zarr(path, consolidated=False)
    return dataset


@workload(
    "Forecast mean minus observations",
    {
        "33 MB and 0.5 MB": {"members": 12, "nlat": 240, "nlon": 480},
        "75 MB and 0.8 MB": {"members": 16, "nlat": 312, "nlon": 624},
        "311 MB and 1.6 MB": {"members": 32, "nlat": 450, "nlon": 900},
    },
)
def forecast(pool: PoolFunction, data: Path, members: int, nlat: int, nlon: int) -> list[Any]:
    """The case published for several clouds: an ensemble in one, observations in another."""
    chunks = {"realization": 2, "height": 3, "lat": nlat // 2, "lon": nlon // 2}
    dims = {"realization": members, "height": 6, "lat": nlat, "lon": nlon}
    with pool("A"):
        members_ = opened(field_store(data, "forecast", dims, chunks)).forecast
    with pool("B"):
        grid = {"lat": nlat, "lon": nlon}
        measured = opened(field_store(data, "measured", grid, {"lat": nlat // 2})).measured
    return [members_.mean("realization").isel(height=2) - measured]


@workload(
    "Example of the README",
    {
        "32 MB and 1 MB": {"n": 2048, "m": 2**17},
        "32 MB and 4 MB": {"n": 2048, "m": 2**19},
        "302 MB and 16 MB": {"n": 6144, "m": 2**21},
    },
)
def readme(pool: PoolFunction, data: Path, n: int, m: int) -> list[Any]:
    rng = da.random.default_rng(0)
    with pool("A"):
        a = rng.random((n, n), chunks=512)
    with pool("B"):
        b = rng.random(m, chunks=m // 4)
    return [(a - 1).sum(), b - a.mean()]


@workload(
    "Anomaly from a climatology, its years in two sites",
    {
        "8 years": {"years": 8, "nlat": 90, "nlon": 180},
        "4 years, 1°": {"years": 4, "nlat": 180, "nlon": 360},
        "16 years, 1°": {"years": 16, "nlat": 180, "nlon": 360},
    },
)
def anomaly(pool: PoolFunction, data: Path, years: int, nlat: int, nlon: int) -> list[Any]:
    """Monthly values; the variance of what is left when the mean of each month is taken off."""
    halves = []
    for site, start in (("A", 2000), ("B", 2000 + years // 2)):
        months = xr.date_range(f"{start}-01", periods=6 * years, freq="MS")
        dims = {"time": len(months), "lat": nlat, "lon": nlon}
        chunks = {"time": 12}
        with pool(site):
            # Two stores: what is read from one store is one array, and can lie in one pool only.
            name = f"t2m_{start}"
            path = field_store(data, name, dims, chunks)
            halves.append(opened(path)[name].assign_coords(time=months))
    whole = xr.concat(halves, "time")
    by_month = whole.groupby("time.month")
    return [((by_month - by_month.mean("time")) ** 2).mean("time")]


@workload(
    "Concatenate, then map and reduce",
    {
        "16 MB in each": {"n": 2000, "m": 1000, "chunk": 500},
        "24 MB and 8 MB": {"n": 3000, "m": 1000, "chunk": 500, "other": 1000},
        "16 MB in each, small chunks": {"n": 2000, "m": 1000, "chunk": 250},
        "64 MB in each": {"n": 4000, "m": 2000, "chunk": 500},
    },
)
def map_reduce(
    pool: PoolFunction, data: Path, n: int, m: int, chunk: int, other: int | None = None
) -> list[Any]:
    rng = da.random.default_rng(0)
    with pool("A"):
        a = rng.random((n, m), chunks=chunk)
    with pool("B"):
        b = rng.random((other or n, m), chunks=chunk)
    both = da.concatenate([a, b])
    cleaned = both.map_blocks(np.clip, 0.1, 0.9)
    return [cleaned.mean(axis=0), cleaned.std()]


@workload(
    "Vorticity, u and v in two sites",
    {
        "8 MB each": {"time": 8, "nlat": 360, "nlon": 720},
        "8 MB each, 1° and 32 times": {"time": 32, "nlat": 180, "nlon": 360},
        "33 MB each": {"time": 32, "nlat": 360, "nlon": 720},
    },
    keep=True,
)
def vorticity(pool: PoolFunction, data: Path, time: int, nlat: int, nlon: int) -> list[Any]:
    dims = {"time": time, "lat": nlat, "lon": nlon}
    chunks = {"time": max(1, time // 4), "lat": nlat // 2, "lon": nlon // 2}
    with pool("A"):
        u = opened(field_store(data, "u", dims, chunks)).u
    with pool("B"):
        v = opened(field_store(data, "v", dims, chunks)).v
    return [v.diff("lon").isel(lat=slice(1, None)) - u.diff("lat").isel(lon=slice(1, None))]


@workload(
    "Shifted difference a[1:, 1:] - b[:-1, :-1]",
    {
        "8 MB each": {"n": 1000, "m": 1000},
        "16 MB each": {"n": 2000, "m": 1000},
        "32 MB each": {"n": 2000, "m": 2000},
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


@workload(
    "Matrix product a @ b.T",
    {
        "8 MB each": {"n": 1000, "m": 1000, "k": 1000},
        "24 MB and 4 MB": {"n": 3000, "m": 500, "k": 1000},
        "64 MB and 8 MB": {"n": 4000, "m": 500, "k": 2000},
    },
    keep=True,
)
def matmul(pool: PoolFunction, data: Path, n: int, m: int, k: int) -> list[Any]:
    rng = da.random.default_rng(0)
    with pool("A"):
        a = rng.random((n, k), chunks=(500, 500))
    with pool("B"):
        b = rng.random((m, k), chunks=(250, 500))
    return [a @ b.T]


@workload(
    "Outer product, to be expanded after shipping",
    {
        "16 MB": {"n": 1000, "m": 2000},
        "32 MB": {"n": 2000, "m": 2000},
        "72 MB": {"n": 3000, "m": 3000},
    },
)
def outer(pool: PoolFunction, data: Path, n: int, m: int) -> list[Any]:
    """Weights in one site are spread over a grid and applied to data in the other."""
    rng = da.random.default_rng(0)
    with pool("A"):
        rows, columns = rng.random(n, chunks=500), rng.random(m, chunks=500)
    with pool("B"):
        measured = rng.random((n, m), chunks=500)
    return [(da.outer(rows, columns) * measured).sum(axis=0)]


@workload(
    "Zonal mean, its mask elsewhere",
    {
        "31 MB": {"time": 30, "nlat": 360, "nlon": 720},
        "31 MB, 1° and 120 times": {"time": 120, "nlat": 180, "nlon": 360},
        "124 MB": {"time": 120, "nlat": 360, "nlon": 720},
    },
)
def zonal_mean(pool: PoolFunction, data: Path, time: int, nlat: int, nlon: int) -> list[Any]:
    grid = {"lat": nlat, "lon": nlon}
    chunks = {"time": time // 6, "lat": nlat // 2}
    with pool("A"):
        surface = opened(field_store(data, "sst", {"time": time, **grid}, chunks)).sst
    with pool("B"):
        land = opened(field_store(data, "land", grid, chunks, "i1")).land
    return [surface.where(land < 50).mean("lon")]


@workload(
    "Quadratic means of u, v and u·v",
    {
        "12 MB each": {"time": 48, "nlat": 180, "nlon": 360},
        "u of 2 levels, v of 1": {"time": 16, "nlat": 180, "nlon": 360, "levels": 2},
        "25 MB each": {"time": 96, "nlat": 180, "nlon": 360},
    },
)
def quadratic(
    pool: PoolFunction, data: Path, time: int, nlat: int, nlon: int, levels: int = 1
) -> list[Any]:
    chunks = {"time": 4, "level": 1, "lat": nlat // 2, "lon": nlon}
    dims = {"time": time, "lat": nlat, "lon": nlon}
    with pool("A"):
        u = opened(field_store(data, "u", {"level": levels, **dims}, chunks)).u
    with pool("B"):
        v = opened(field_store(data, "v", dims, chunks)).v
    return [(u**2).mean("time"), (v**2).mean("time"), (u * v).mean("time")]


@workload(
    "Five sites, the global mean taken off",
    {
        "8 MB in each": {"n": 1000, "m": 1000},
        "4 MB in each, small chunks": {"n": 1000, "m": 500, "chunk": 125},
        "32 MB in each": {"n": 4000, "m": 1000},
    },
    sites="ABCDE",
)
def five_sites(pool: PoolFunction, data: Path, n: int, m: int, chunk: int = 250) -> list[Any]:
    rng = da.random.default_rng(0)
    parts = []
    for site in "ABCDE":
        with pool(site):
            parts.append(rng.random((n, m), chunks=(chunk, 500)))
    both = da.concatenate(parts)
    return [((both - both.mean()) ** 2).mean(axis=0)]


@workload(
    "Rechunk and transpose",
    {
        "8 MB each": {"n": 1000, "m": 1000},
        "16 MB each": {"n": 2000, "m": 1000},
        "32 MB each": {"n": 2000, "m": 2000},
    },
    keep=True,
)
def transpose(pool: PoolFunction, data: Path, n: int, m: int) -> list[Any]:
    """Rows in one site, columns in the other; their sum, in columns."""
    rng = da.random.default_rng(0)
    with pool("A"):
        a = rng.random((n, m), chunks=(n // 8, m))
    with pool("B"):
        b = rng.random((m, n), chunks=(m // 8, n))
    return [a.rechunk((n, m // 8)).T + b]


@delayed
def load(number: int, n: int) -> Any:
    return np.random.default_rng(number).random((n, 1000))


@delayed
def clean(table: Any) -> Any:
    return np.clip(table, 0.1, 0.9)


@delayed
def summary(table: Any) -> Any:
    return table.mean(axis=0)


@delayed
def combine(summaries: list[Any]) -> Any:
    return np.mean(summaries, axis=0)


@workload(
    "Delayed pipeline",
    {
        "8 files of 4 MB": {"files": 8, "n": 500},
        "8 files of 2 MB, sizes declared": {"files": 8, "n": 250, "declared": True},
        "32 files of 4 MB": {"files": 32, "n": 500},
    },
)
def pipeline(
    pool: PoolFunction, data: Path, files: int, n: int, declared: bool = False
) -> list[Any]:
    large, small = (8000 * n, 8000) if declared else (None, None)
    summaries = []
    for number in range(files):
        with pool("A" if number % 2 else "B", nbytes=large):
            table = load(number, n)
        with dask.annotate(**({"nbytes": large} if large else {})):
            table = clean(table)
        with dask.annotate(**({"nbytes": small} if small else {})):
            summaries.append(summary(table))
    return [combine(summaries)]


WORDS = ("the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "with")


def text(number: int, lines: int) -> list[str]:
    picked = np.random.default_rng(number).integers(0, len(WORDS), (lines, 12))
    return [" ".join(WORDS[i] for i in row) for row in picked]


def words(lines: list[str]) -> list[str]:
    return [word for line in lines for word in line.split()]


@workload(
    "Word count of a bag",
    {
        "2 × 4 files of 8 000 lines": {"files": 4, "lines": 8000},
        "2 × 8 files of 4 000 lines": {"files": 8, "lines": 4000},
        "2 × 32 files of 8 000 lines": {"files": 32, "lines": 8000},
    },
)
def word_count(pool: PoolFunction, data: Path, files: int, lines: int) -> list[Any]:
    parts = []
    for site, first in (("A", 0), ("B", files)):
        numbers = range(first, first + files)
        with pool(site):
            parts.append(db.from_delayed([delayed(text)(number, lines) for number in numbers]))
    return [db.concat(parts).map_partitions(words).frequencies(sort=False)]


def orders(number: int, rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(number)
    return pd.DataFrame(
        {"customer": rng.integers(0, rows // 4, rows), "total": 100 * rng.random(rows)}
    )


def customers(number: int, rows: int) -> pd.DataFrame:
    country = np.random.default_rng(number).integers(0, 30, rows)
    return pd.DataFrame({"customer": np.arange(rows) + number * rows, "country": country})


def parquet(data: Path, make: Callable[[int, int], pd.DataFrame], files: int, rows: int) -> Any:
    """A dataframe of several files, which are written if they are not there yet."""
    folder = data / f"{make.__name__}-{files}-{rows}"
    if not folder.exists():
        folder.mkdir()
        for number in range(files):
            make(number, rows).to_parquet(folder / f"{number}.parquet")
    return dd.read_parquet(folder)


@workload(
    "Join of dataframes",
    {
        "8 MB and 0.8 MB": {"rows": 62_500, "other": 25_000},
        "8 MB and 4 MB": {"rows": 62_500, "other": 125_000},
        "8 MB and 0.8 MB, from functions": {"rows": 62_500, "other": 25_000, "made": True},
        "64 MB and 6.4 MB": {"rows": 500_000, "other": 200_000},
    },
    keep=True,
)
def join(pool: PoolFunction, data: Path, rows: int, other: int, made: bool = False) -> list[Any]:
    """Orders in one site, customers in the other; turnover by country."""

    def frame(make: Callable[[int, int], pd.DataFrame], files: int, rows: int) -> Any:
        if made:
            return dd.from_map(make, range(files), rows=rows)
        return parquet(data, make, files, rows)

    with pool("A") as stay:
        left = stay(frame(orders, 8, rows))
    with pool("B") as stay:
        right = stay(frame(customers, 2, other))
    joined = left[left.total > 50].merge(right, on="customer")
    return [joined.groupby("country").total.sum()]


@workload(
    "Singular values of a tall matrix",
    {
        "16 MB in each": {"n": 40_000, "k": 50},
        "16 MB in each, wide": {"n": 20_000, "k": 100},
        "64 MB in each": {"n": 160_000, "k": 50, "parts": 32},
    },
)
def singular_values(pool: PoolFunction, data: Path, n: int, k: int, parts: int = 4) -> list[Any]:
    rng = da.random.default_rng(0)
    with pool("A"):
        a = rng.random((n, k), chunks=(n // parts, k))
    with pool("B"):
        b = rng.random((n, k), chunks=(n // parts, k))
    return [da.linalg.svd(da.concatenate([a, b]))[1]]


@workload(
    "Least squares",
    {
        "16 MB and 16 MB": {"n": 40_000, "k": 50},
        "16 MB and 16 MB, wide": {"n": 20_000, "k": 100},
        "64 MB and 64 MB": {"n": 160_000, "k": 50, "parts": 32},
    },
)
def least_squares(pool: PoolFunction, data: Path, n: int, k: int, parts: int = 4) -> list[Any]:
    """Samples in two sites, what they are to explain in one of them."""
    rng = da.random.default_rng(0)
    with pool("A"):
        a = rng.random((n, k), chunks=(n // parts, k))
    with pool("B"):
        b = rng.random((n, k), chunks=(n // parts, k))
        y = rng.random(2 * n, chunks=n // parts)
    solution, *_ = da.linalg.lstsq(da.concatenate([a, b]), y)
    return [solution]
