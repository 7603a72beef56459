"""Operations of every kind of collection, by name, and the small inputs that they take.

One table a kind, one line an operation: what people do with data, and go on to do with data that
they persisted. Each operation takes two inputs and returns a collection, or several. Files are
written and read back by tasks, so that every operation has a value.

Functions that run in tasks are nested in others: they travel by value, and the workers cannot
import this module.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr
from dask import delayed
from dask.graph_manipulation import bind, checkpoint, clone, wait_on
from frame_queries import CUSTOMERS, ORDERS
from frame_queries import QUERIES as FRAME_QUERIES

from dask_worker_pools import pool

Operation = Callable[[Any, Any], Any]


class Places(NamedTuple):
    """Pools in which the inputs are made; None says nothing."""

    first: str | None = None  #: the first input, or its first half
    other: str | None = None  #: the second input
    halves: bool = False  #: the first input is made of two halves
    second: str | None = None  #: its second half, if so


def inside(where: str | None) -> Any:
    """A block in which collections are made in a pool, if one is named."""
    return pool(where) if where else nullcontext()


def first_input(places: Places, make: Callable[[int, int], Any], join: Any, n: int) -> Any:
    """``make(0, n)`` in one pool, or its two halves, each in a pool of its own, joined."""
    with inside(places.first):
        first = make(0, n // 2 if places.halves else n)
    if not places.halves:
        return first
    with inside(places.second):
        return join([first, make(n // 2, n)])


# --- arrays

VALUES = (np.arange(96.0) * 37 % 101).reshape(12, 8)
OTHERS = (np.arange(96.0) * 53 % 97).reshape(12, 8)


def loaded(values: Any, chunks: Any) -> Any:
    """An array whose chunks are made by tasks."""

    def load(block_info: Any = None) -> Any:
        return values[tuple(slice(*along) for along in block_info[None]["array-location"])]

    normal = da.core.normalize_chunks(chunks, values.shape)
    name = f"load-{uuid4().hex}"
    return da.map_blocks(load, chunks=normal, dtype=values.dtype, meta=values[:0, :0], name=name)


def arrays(places: Places) -> tuple[da.Array, da.Array]:
    """Two arrays of 12 × 8 in chunks of 6 × 4: tasks load one, the graph holds the other."""
    x = first_input(places, lambda a, b: loaded(VALUES[a:b], (6, 4)), da.concatenate, 12)
    with inside(places.other):
        return x, da.from_array(OTHERS, chunks=(6, 4), name=f"held-{uuid4().hex}")


def assigned(x: da.Array, *items: tuple[Any, Any]) -> da.Array:
    """A copy of `x` after ``x[index] = value`` for each of `items`."""
    x = x.copy()
    for index, value in items:
        x[index] = value
    return x


def stored(x: da.Array, **kwargs: Any) -> Any:
    """What is in a zarr array of 12 × 8 after `x` was stored there."""
    target = zarr_array((12, 8))
    done = da.store(x, target, lock=False, compute=False, **kwargs)
    return delayed(lambda done, target: target[:])(done, target)


def zarr_array(shape: tuple[int, ...]) -> Any:
    """A new zarr array on disk, with chunks of 6 × 4."""
    import zarr

    return zarr.create_array(new_path("x.zarr"), shape=shape, chunks=(6, 4), dtype=float)


def written_to_zarr(x: Any, **kwargs: Any) -> Any:
    """What is in a zarr store after ``x.to_zarr(…)``."""

    def read(done: Any, path: str) -> Any:
        import zarr

        opened: Any = zarr.open(path, mode="r")
        return opened[:]

    path = new_path("x.zarr")
    return delayed(read)(x.to_zarr(path, compute=False, **kwargs), path)


#: Where operations write files; a test sets it to its own temporary directory.
directory = Path()


def new_path(name: str) -> str:
    """A path at which there is nothing yet."""
    return str(directory / uuid4().hex / name)


def one_dimension(x: da.Array) -> Any:
    """The first column."""
    return x[:, 0]


def in_pieces(x: da.Array) -> Any:
    """The array made anew of its chunks, as delayed objects."""
    rows = [
        [da.from_delayed(part, (6, 4), float) for part in row] for row in x.to_delayed().tolist()
    ]
    return da.block(rows)


ARRAYS: dict[str, Operation] = {
    "add": lambda x, y: x + y,
    "chain": lambda x, y: ((x + 1) * 2 - y).astype("f4"),
    "where": lambda x, y: da.where(x > y, x, y),
    "sum": lambda x, y: (x - y).sum(),
    "mean of an axis": lambda x, y: x.mean(axis=0) - y.std(axis=0),
    "argmax": lambda x, y: (x.argmax(), y.argmin(axis=1)),
    "nanargmax": lambda x, y: da.nanargmax(x + y, axis=0),
    "cumsum": lambda x, y: x.cumsum(axis=0) + da.cumprod(y % 3, axis=1),
    "cumsum by blelloch": lambda x, y: da.cumsum(x + y, axis=0, method="blelloch"),
    "topk": lambda x, y: da.topk(x + y, 3, axis=0),
    "argtopk": lambda x, y: da.argtopk(x + y, -3, axis=0),
    "median": lambda x, y: da.median(x + y, axis=0),
    "percentile": lambda x, y: da.percentile(x.ravel() + y.ravel(), [5, 50, 95]),
    "quantile": lambda x, y: da.quantile(x + y, [0.1, 0.5], axis=0),
    "quantile with weights": lambda x, y: da.quantile(
        one_dimension(x).rechunk(-1), 0.75, weights=one_dimension(y) + 1, method="inverted_cdf"
    ),
    "histogram": lambda x, y: da.histogram(x, bins=5, range=(0, 101), weights=y)[0],
    "histogram of both": lambda x, y: da.histogram(
        da.concatenate([x, y]), bins=np.array([0, 20, 50, 101])
    )[0],
    "histogram2d": lambda x, y: da.histogram2d(
        x.ravel(), y.ravel(), bins=3, range=((0, 101), (0, 97))
    )[0],
    "bincount": lambda x, y: da.bincount(x.ravel().astype(int), weights=y.ravel(), minlength=101),
    "digitize": lambda x, y: da.digitize(x, np.array([10, 50])) + y,
    "searchsorted": lambda x, y: da.searchsorted(da.arange(0, 100, 7, chunks=5), x.ravel()),
    "unique": lambda x, y: da.unique(da.concatenate([x % 7, y % 5])),
    "concatenate": lambda x, y: da.concatenate([x, y], axis=1),
    "concatenate with itself": lambda x, y: da.concatenate([x, x]) + 1,
    "stack": lambda x, y: da.stack([x, y], axis=1),
    "block": lambda x, y: da.block([[x, y], [y, x]]),
    "vstack of slices": lambda x, y: da.vstack([x[2:7], y[::-2], x[:1]]),
    "slices": lambda x, y: (x[2:9, ::-1], y[4], x[:, 3, None]),
    "slices again": lambda x, y: x[2:][1:8][::2] + y[:4],
    "take": lambda x, y: x[[9, 1, 1, 4]] - y[:, [0, 5, 6, 2, 7, 3, 4, 1]][:4],
    "vindex": lambda x, y: x.vindex[[0, 11, 5], [7, 0, 3]] + y.vindex[[1, 2, 3], [1, 2, 3]],
    "indexed by an array": lambda x, y: x[(y[:, 0] % 12).astype(int).rechunk(-1)],
    "boolean mask": lambda x, y: x[x > y],
    "boolean rows": lambda x, y: x[y[:, 0] > 40].sum(axis=0),
    "boolean mask, chunk sizes": lambda x, y: x[y > 40].compute_chunk_sizes()[3:],
    "compress": lambda x, y: da.compress(np.arange(12) % 2 == 0, x - y, axis=0),
    "nonzero": lambda x, y: da.nonzero(x > y),
    "argwhere": lambda x, y: da.argwhere((x > y) & (x > 50)),
    "extract": lambda x, y: da.extract(x > y, x),
    "set a slice": lambda x, y: assigned(x, (np.s_[2:5], 0)),
    "set slices": lambda x, y: assigned(x, (np.s_[0:2], 0), (np.s_[4:6], 1)),
    "set to an array": lambda x, y: assigned(x, (np.s_[2:5, 1], y[0, :3])),
    "set by a mask": lambda x, y: assigned(x, (x > y, -1)),
    "set by a list": lambda x, y: assigned(x, (([1, 4, 7],), y[:3])),
    "rechunk": lambda x, y: x.rechunk((12, 2)) + y.rechunk((12, 2)),
    "rechunk and back": lambda x, y: x.rechunk((5, 8)).rechunk((3, 4)) - y,
    "reshape": lambda x, y: x.reshape(96) + y.reshape(96),
    "reshape to three": lambda x, y: (x + y).reshape(4, 3, 8),
    "ravel, then sum": lambda x, y: (x.ravel() * y.ravel()).sum(),
    "transpose": lambda x, y: x.T @ y,
    "swapaxes": lambda x, y: da.moveaxis(da.stack([x, y]), 0, 2),
    "roll": lambda x, y: da.roll(x, 4, axis=0) - da.flip(y, 1),
    "diff": lambda x, y: da.diff(x, axis=0)[:, 1:] + da.diff(y, axis=1)[1:],
    "gradient": lambda x, y: da.gradient(x, axis=0) + y,
    "pad": lambda x, y: da.pad(x, 2, mode="edge") + da.pad(y, 2, mode="constant"),
    "pad by reflection": lambda x, y: da.pad(x + y, ((1, 2), (0, 3)), mode="reflect"),
    "pad by a statistic": lambda x, y: da.pad(x, 1, mode="mean", stat_length=3) + da.pad(y, 1),
    "repeat": lambda x, y: da.repeat(x, 2, axis=0) + da.tile(y, (2, 1)),
    "tril": lambda x, y: da.tril(x[:8]) + da.diag(y[0]),
    "broadcast": lambda x, y: x[:, None, :] * y[None, :3, :],
    "coarsen": lambda x, y: da.coarsen(np.sum, x + y, {0: 3, 1: 2}),
    "tensordot": lambda x, y: da.tensordot(x, y, axes=((0, 1), (0, 1))),
    "dot": lambda x, y: (x % 7) @ (y.T % 5),
    "einsum": lambda x, y: da.einsum("ij,kj->ik", x, y),
    "einsum of three": lambda x, y: da.einsum("ij,ij,kj->k", x, y, x),
    "qr": lambda x, y: da.linalg.qr((x + y).rechunk((6, 8))),
    "svd": lambda x, y: da.linalg.svd((x - y).rechunk((12, 4)))[1],
    "svd, compressed": lambda x, y: da.linalg.svd_compressed(x - y, 3, seed=1)[1],
    "norm": lambda x, y: da.linalg.norm(x - y, axis=1),
    "solve": lambda x, y: da.linalg.solve(
        x[:8].rechunk(4) + 999 * da.eye(8, chunks=4), y[:8, 0].rechunk(4)
    ),
    "fft": lambda x, y: abs(da.fft.fft((x + y).rechunk((6, 8)))),
    "cov": lambda x, y: da.cov(x[:, 0], y[:, 0]),
    "outer": lambda x, y: da.outer(x[0], y[:, 0]),
    "map_overlap": lambda x, y: x.map_overlap(lambda b: b - b.mean(), depth=1, boundary="reflect"),
    "map_overlap of two": lambda x, y: da.map_overlap(
        lambda a, b: a + b[::-1], x, y, depth=1, boundary="periodic"
    ),
    "sliding_window_view": lambda x, y: da.lib.stride_tricks.sliding_window_view(
        x + y, 3, axis=0
    ).sum(axis=-1),
    "map_blocks": lambda x, y: da.map_blocks(lambda a, b: a - b[::-1], x, y),
    "map_blocks, block_info": lambda x, y: x.map_blocks(
        lambda b, block_info=None: b + block_info[0]["array-location"][0][0], dtype=float
    ),
    "map_blocks, block_id": lambda x, y: da.map_blocks(
        lambda a, b, block_id=None: a * block_id[0] + b, x, y, dtype=float
    ),
    "map_blocks, keyword array": lambda x, y: x.map_blocks(
        lambda b, k=None: b + k.sum(), k=y, dtype=float
    ),
    "map_blocks, keyword of a step": lambda x, y: (x + 1).map_blocks(
        lambda b, k=None: b + k.sum(), k=y * 2, dtype=float
    ),
    "map_blocks, list of arrays": lambda x, y: x.map_blocks(
        lambda b, k=None: b + sum(np.sum(one) for one in k), k=[y, y + 1, 3], dtype=float
    ),
    "map_blocks, keyword delayed": lambda x, y: x.map_blocks(
        lambda b, k=None: b + k, k=delayed(np.sum)(y), dtype=float
    ),
    "map_blocks, drops an axis": lambda x, y: x.rechunk((6, 8)).map_blocks(
        lambda b: b.sum(axis=1), drop_axis=1, dtype=float
    ),
    "blockwise": lambda x, y: da.blockwise(
        lambda a, b: np.sum(a, axis=0).sum(axis=1) + b[0].sum(axis=1),
        "i",
        x,
        "ij",
        y,
        "ij",
        dtype=float,
    ),
    "apply_gufunc": lambda x, y: da.apply_gufunc(
        lambda a, b: (a * b).sum(axis=-1), "(i),(i)->()", x.rechunk((6, 8)), y.rechunk((6, 8))
    ),
    "apply_along_axis": lambda x, y: da.apply_along_axis(
        lambda line: line.max() - line.min(), 0, x + y, dtype=float, shape=()
    ),
    "apply_over_axes": lambda x, y: da.apply_over_axes(lambda a, axis: a.sum(axis), x + y, [0]),
    "reduction": lambda x, y: da.reduction(
        x + y,
        lambda b, axis, keepdims: b.max(axis=axis, keepdims=keepdims),
        lambda b, axis, keepdims: b.max(axis=axis, keepdims=keepdims),
        axis=0,
        dtype=float,
        split_every=2,
    ),
    "choose": lambda x, y: da.choose((x > y).astype(int), [x, y]),
    "select": lambda x, y: da.select([x > y, x < 10], [x, y], 5),
    "piecewise": lambda x, y: da.piecewise(x, [x > 50, x <= 50], [lambda b: -b, lambda b: b]) + y,
    "isin": lambda x, y: da.isin(x, y[0]),
    "masked": lambda x, y: da.ma.masked_greater(x, 50).sum(axis=0) + da.ma.masked_less(y, 5),
    "blocks": lambda x, y: x.blocks[1:, ::-1] + y.blocks[0],
    "shuffle": lambda x, y: da.shuffle(x + y, [[6, 2], [11, 0, 1], [3, 4, 5, 7]], axis=0),
    "from delayed": lambda x, y: in_pieces(x) + y,
    "through delayed": lambda x, y: da.from_delayed(delayed(np.add)(x, y), (12, 8), float).sum(),
    "delayed of arrays": lambda x, y: delayed(lambda parts: parts[0] - parts[1])([x, y]),
    "to a bag": lambda x, y: db.from_delayed(
        [delayed(list)(part) for part in x[:, 0].to_delayed()]
    ).map(float),
    "to a frame": lambda x, y: dd.from_dask_array(x.rechunk((6, 8)), columns=list("abcdefgh")),
    "random beside": lambda x, y: x + da.random.default_rng(3).random((12, 8), chunks=(6, 4)) - y,
    "ones beside": lambda x, y: da.ones_like(x) + da.arange(8, chunks=4) + y * da.full(8, 2.0),
    "store": lambda x, y: stored(x + y),
    "store in a region": lambda x, y: stored(
        (x[3:9] - y[:6]).rechunk((6, 4)), regions=np.s_[6:12, :]
    ),
    "to_zarr": lambda x, y: written_to_zarr(da.concatenate([x, y])),
    "bind": lambda x, y: bind(x + 1, y),
    "clone": lambda x, y: clone(x + y),
    "checkpoint": lambda x, y: checkpoint(x, y),
    "wait_on": lambda x, y: wait_on(x, y),
}


# --- xarray

#: 24 days on a small grid, and a value for each day: what is computed is exact in any order.
DAYS = np.arange("2020-01-01", "2020-01-25", dtype="M8[D]")
FIELD = xr.DataArray(
    np.arange(24 * 6 * 8.0).reshape(24, 6, 8) % 31,
    dims=("time", "y", "x"),
    coords={"time": DAYS, "x": np.arange(8.0)},
    name="t",
)
SERIES = xr.DataArray(np.arange(24.0) % 5, dims="time", coords={"time": DAYS}, name="s")


def labelled(places: Places) -> tuple[xr.DataArray, xr.DataArray]:
    """A field of 24 days in chunks of 12 × 6 × 4, and a series of a value a day."""

    def load(first: int, last: int) -> xr.DataArray:
        data = loaded(FIELD.values[first:last], (12, 6, 4))
        return FIELD[first:last].copy(data=data)

    field = first_input(places, load, lambda parts: xr.concat(parts, "time"), 24)
    with inside(places.other):
        return field, SERIES.copy(data=da.from_array(SERIES.values, 12, name=f"s-{uuid4().hex}"))


def dataset(t: xr.DataArray, s: xr.DataArray) -> xr.Dataset:
    """Both in one dataset."""
    return xr.Dataset({"t": t, "s": s})


def dataset_written(data: xr.Dataset) -> Any:
    """What is in a zarr store after the dataset was written there."""

    def read(done: Any, path: str) -> Any:
        with xr.open_zarr(path, chunks=None) as found:
            return found.load()

    path = new_path("x.zarr")
    return delayed(read)(data.to_zarr(path, zarr_format=2, compute=False), path)


#: Those that bring neighbouring or far blocks together, in graphs that are no plain Blockwise.
WINDOWS: dict[str, Operation] = {
    "groupby mean": lambda t, s: t.groupby("time.dayofweek").mean(),
    "groupby sum": lambda t, s: t.groupby("time.dayofweek").sum(),
    "groupby max": lambda t, s: t.groupby("time.dayofweek").max(),
    "groupby anomaly": lambda t, s: (
        t.groupby("time.dayofweek") - t.groupby("time.dayofweek").mean()
    ),
    "groupby map": lambda t, s: t.groupby("time.dayofweek").map(lambda d: d - d.min("time")),
    "groupby joined": lambda t, s: (t * s).groupby("time.dayofweek").sum(),
    "groupby of the other": lambda t, s: (
        t.groupby("time.dayofweek") - s.groupby("time.dayofweek").max()
    ),
    "groupby bins": lambda t, s: t.groupby_bins("y", [-1, 2, 6]).sum(),
    "resample": lambda t, s: t.resample(time="5D").sum(),
    "rolling mean": lambda t, s: t.rolling(time=3).mean(),
    "rolling sum": lambda t, s: t.rolling(time=4, min_periods=1).sum(),
    "rolling max": lambda t, s: t.rolling(time=3, center=True).max(),
    "rolling across blocks": lambda t, s: t.rolling(time=8, min_periods=2).sum(),
    "rolling in two": lambda t, s: t.rolling(y=2, x=3, center=True).sum(),
    "rolling construct": lambda t, s: t.rolling(time=3).construct("window").sum("window"),
    "rolling reduce": lambda t, s: t.rolling(time=3).reduce(np.sum),
    "rolling joined": lambda t, s: (t - s).rolling(time=3).sum(),
    "rolling of both": lambda t, s: t.rolling(time=3).sum() + s.rolling(time=5).sum(),
    "rolling of a groupby": lambda t, s: (
        t.groupby("time.dayofyear").sum().rolling(dayofyear=3).sum()
    ),
    "coarsen joined": lambda t, s: (t + s).coarsen(time=3).sum(),
}

LABELLED: dict[str, Operation] = {
    "arithmetic by labels": lambda t, s: (t - s) * 2,
    "aligned": lambda t, s: t[2:] - s[:-3],
    "anomaly": lambda t, s: t - t.mean("time"),
    "sum": lambda t, s: (t * s).sum(),
    "std": lambda t, s: (t - s).std("time"),
    "median": lambda t, s: (t - s).chunk(time=-1).median("time"),
    "quantile": lambda t, s: (t - s).chunk(time=-1).quantile([0.2, 0.5], "time"),
    "argmax": lambda t, s: (t + s).argmax("time"),
    "idxmax": lambda t, s: (t + s).idxmax("time"),
    "cumsum": lambda t, s: (t - s).cumsum("time"),
    "diff": lambda t, s: t.diff("time") - s,
    "shift": lambda t, s: t.shift(time=2) + s,
    "roll": lambda t, s: t.roll(time=5) + s,
    "pad": lambda t, s: (t - s).pad(time=2, mode="edge"),
    "rank of a chunk": lambda t, s: xr.apply_ufunc(
        lambda a: a.argsort(axis=-1), t - s, dask="parallelized", output_dtypes=[int]
    ),
    "apply_ufunc": lambda t, s: xr.apply_ufunc(
        lambda a, b: a * b + 1, t, s, dask="parallelized", output_dtypes=[float]
    ),
    "apply_ufunc over a dimension": lambda t, s: xr.apply_ufunc(
        lambda a, b: (a * b).sum(axis=-1),
        *(t.chunk(time=-1), s.chunk(time=-1)),
        input_core_dims=[["time"], ["time"]],
        dask="parallelized",
        output_dtypes=[float],
    ),
    "apply_ufunc of arrays": lambda t, s: xr.apply_ufunc(lambda a, b: a - b, t, s, dask="allowed"),
    "map_blocks": lambda t, s: xr.map_blocks(lambda d: d - d.min("time"), t + s, template=t + s),
    "map_blocks with more": lambda t, s: xr.map_blocks(
        lambda d, more: d + more, t, args=[s], template=t * 1
    ),
    "concat": lambda t, s: xr.concat([t, t * 2], "member"),
    "concat along time": lambda t, s: xr.concat([t[:5], (t * s)[5:]], "time"),
    "concat of datasets": lambda t, s: xr.concat([dataset(t, s), dataset(t + s, s)], "member"),
    "merge": lambda t, s: xr.merge([t + 1, s + 1, (t * s).rename("product")]),
    "dataset": lambda t, s: dataset(t, s).mean("time"),
    "dataset, each part": lambda t, s: dataset(t, s).map(lambda d: d / d.max()),
    "to_array": lambda t, s: dataset(t, s).to_array("which"),
    "stack": lambda t, s: (t - s).stack(cell=("y", "x")).sum("time"),
    "where": lambda t, s: t.where(s > 2, -1),
    "isel": lambda t, s: (t - s).isel(time=[20, 3, 3], y=slice(None, None, -2)),
    "isel by points": lambda t, s: (t - s).isel(
        time=xr.DataArray([1, 9, 23], dims="p"), x=xr.DataArray([0, 7, 4], dims="p")
    ),
    "sel": lambda t, s: (t - s).sel(time=slice("2020-01-04", "2020-01-12")),
    "sel nearest": lambda t, s: (t - s).sel(x=[0.2, 6.8], method="nearest"),
    "reindex": lambda t, s: (t - s).reindex(x=[7.0, 2.0, 99.0]),
    "interp": lambda t, s: (t - s).interp(x=[0.5, 3.25, 6.5]),
    "interp in time": lambda t, s: (t - s).interp(time=DAYS[2:6] + np.timedelta64(6, "h")),
    "interpolate_na": lambda t, s: t.where(s > 1).chunk(time=-1).interpolate_na("time"),
    "ffill": lambda t, s: t.where(s > 1).chunk(time=-1).fillna(0) + s,
    "polyfit": lambda t, s: (t - s).chunk(time=-1).polyfit("time", 1),
    "weighted": lambda t, s: t.weighted(s.compute()).mean("time"),
    "dot": lambda t, s: xr.dot(t, s, dim="time"),
    "cov": lambda t, s: xr.cov(t[:, 0, 0], s),
    "corr": lambda t, s: xr.corr(t, s, dim="time"),
    "coarsen, mean": lambda t, s: t.coarsen(y=2, x=4).mean() - s,
    "rechunk": lambda t, s: (t - s).chunk(time=24, x=2).mean("time"),
    "groupby median": lambda t, s: t.chunk(time=-1).groupby("time.dayofweek").median(),
    "groupby first": lambda t, s: (t - s).groupby("time.dayofweek").first(),
    "resample and count": lambda t, s: (t - s).resample(time="7D").count(),
    "cumulative in groups": lambda t, s: t.groupby("time.dayofweek").cumsum(),
    "to_dask_dataframe": lambda t, s: dataset(t[:, 0, 0], s).unify_chunks().to_dask_dataframe(),
    "to_zarr": lambda t, s: dataset_written(dataset(t, s)),
    "delayed of both": lambda t, s: delayed(lambda a, b: float((a * b).sum()))(t, s),
    **WINDOWS,
}


# --- bags


def bags(places: Places) -> tuple[db.Bag, db.Bag]:
    """24 numbers in four partitions, and 12 pairs in three; the graph holds the first."""

    def held(first: int, last: int) -> Any:
        return db.from_sequence(range(first, last), npartitions=(last - first) // 6)

    x = first_input(places, held, db.concat, 24)
    with inside(places.other):
        parts = [delayed(lambda i: [(j % 5, j) for j in range(i, i + 4)])(i) for i in (0, 4, 8)]
        return x, db.from_delayed(parts)


def lines_written(x: db.Bag) -> Any:
    """The lines of the files that a bag was written to."""
    paths = [new_path(f"{i}.txt") for i in range(x.npartitions)]
    done = x.map(str).to_textfiles(paths, compute=False)

    def read(done: Any) -> list[str]:
        return [Path(path).read_text() for path in paths]

    return delayed(read)(done)


BAGS: dict[str, Operation] = {
    "map": lambda x, y: x.map(lambda i: i + 1),
    "map with more": lambda x, y: x.map(lambda i, n, k: i * n + k, 3, k=2),
    "map with an item": lambda x, y: x.map(lambda i, n: i + n, y.count()),
    "map with keyword item": lambda x, y: x.map(lambda i, n=0: i + n, n=y.pluck(1).sum()),
    "map with keyword delayed": lambda x, y: x.map(lambda i, n=0: i + n, n=delayed(len)(y)),
    "map with keyword array": lambda x, y: x.map(
        lambda i, n=None: i + n.sum(), n=da.ones(4, chunks=2)
    ),
    "map of two": lambda x, y: db.map(lambda a, b: a - b, x, x.map(lambda i: i * i)),
    "starmap": lambda x, y: y.starmap(lambda a, b: a * b),
    "map_partitions": lambda x, y: x.map_partitions(lambda part: [sum(part)]),
    "map_partitions with an item": lambda x, y: x.map_partitions(
        lambda part, n: [i + n for i in part], y.count()
    ),
    "filter": lambda x, y: x.filter(lambda i: i % 3).map(str),
    "remove": lambda x, y: x.remove(lambda i: i % 2).sum(),
    "pluck": lambda x, y: y.pluck(1).max(),
    "flatten": lambda x, y: y.flatten().sum(),
    "count": lambda x, y: (x.count(), y.count()),
    "sum": lambda x, y: (x.sum(), y.pluck(1).sum()),
    "mean": lambda x, y: (x.mean(), x.std(), x.var()),
    "min and max": lambda x, y: (x.min(), y.max()),
    "any and all": lambda x, y: (x.any(), x.all()),
    "topk": lambda x, y: x.topk(3, key=lambda i: -((i * 7) % 24)),
    "frequencies": lambda x, y: y.pluck(0).frequencies(sort=True),
    "distinct": lambda x, y: y.distinct(key=lambda pair: pair[0]),
    "fold": lambda x, y: x.fold(lambda a, b: a + b, initial=0),
    "fold with combine": lambda x, y: y.fold(
        lambda total, pair: total + pair[1], lambda a, b: a + b, initial=0
    ),
    "foldby": lambda x, y: y.foldby(
        lambda pair: pair[0], lambda total, pair: total + pair[1], 0, lambda a, b: a + b, 0
    ),
    "reduction": lambda x, y: x.reduction(max, max, split_every=2),
    "accumulate": lambda x, y: x.accumulate(lambda a, b: a + b),
    "groupby": lambda x, y: x.groupby(lambda i: i % 3, shuffle="tasks"),
    "groupby, npartitions": lambda x, y: y.groupby(
        lambda pair: pair[0], shuffle="tasks", npartitions=2
    ).map(lambda group: (group[0], sorted(group[1]))),
    "join": lambda x, y: y.join([(1, "a"), (2, "b")], lambda pair: pair[0]),
    "join with a delayed": lambda x, y: x.join(y.to_delayed()[0], lambda i: i, lambda p: p[1]),
    "join with a bag": lambda x, y: x.join(y.repartition(npartitions=1), lambda i: i % 5, min),
    "product": lambda x, y: x.product(y).count(),
    "zip": lambda x, y: db.zip(x, x.map(lambda i: -i)),
    "concat": lambda x, y: db.concat([x, y.pluck(1)]),
    "repartition": lambda x, y: x.repartition(npartitions=2).map_partitions(lambda p: [list(p)]),
    "repartition to more": lambda x, y: x.repartition(npartitions=8).map_partitions(
        lambda part: [sum(part)]
    ),
    "random_sample": lambda x, y: x.random_sample(0.5, random_state=3),
    "take": lambda x, y: x.take(3, npartitions=2, compute=False),
    "to_textfiles": lambda x, y: lines_written(x),
    "to_dataframe": lambda x, y: y.map(lambda pair: {"a": pair[0], "b": pair[1]}).to_dataframe(
        meta={"a": "int64", "b": "int64"}
    ),
    "delayed of a bag": lambda x, y: delayed(lambda a, b: [sum(a), len(b)])(x, [y]),
    "delayed partitions": lambda x, y: [delayed(sum)(part) for part in x.to_delayed()],
    "from its partitions": lambda x, y: db.from_delayed(x.to_delayed()[1:]).sum(),
    "array of an item": lambda x, y: da.from_delayed(y.count().to_delayed(), (), int) + 1,
    "bind": lambda x, y: bind(x.map(lambda i: i + 1), y),
    "clone": lambda x, y: clone(x.map(str)),
    "checkpoint": lambda x, y: checkpoint(x, y),
}


# --- delayed objects


def delayeds(places: Places) -> tuple[list[Any], Any]:
    """Six numbers, and a mapping."""

    def load(first: int, last: int) -> list[Any]:
        return [
            delayed(lambda i: i * 10)(i, dask_key_name=new_name("n")) for i in range(first, last)
        ]

    x = first_input(places, load, lambda parts: [*parts[0], *parts[1]], 6)
    with inside(places.other):
        return x, delayed(lambda: {"a": 1, "b": [2, 3]})(dask_key_name=new_name("m"))


def new_name(prefix: str) -> str:
    """A key that no other task has."""
    return f"{prefix}-{uuid4().hex}"


def tree(parts: Sequence[Any], function: Any) -> Any:
    """The parts joined two by two, until one is left."""
    while len(parts) > 1:
        parts = [delayed(function)(parts[i : i + 2]) for i in range(0, len(parts), 2)]
    return parts[0]


DELAYED: dict[str, Operation] = {
    "each": lambda x, m: [delayed(lambda n: n + 1)(n) for n in x],
    "sum of a list": lambda x, m: delayed(sum)(x),
    "tree": lambda x, m: tree(x, sum),
    "chain": lambda x, m: delayed(lambda n: n - 1)(delayed(lambda n: n + 1)(x[0] + x[5])),
    "arithmetic": lambda x, m: (x[0] + 3) * x[4] - m["a"],
    "nested": lambda x, m: delayed(lambda kept: kept["x"][1][0])({"x": [1, (x[3], m)]}),
    "keyword": lambda x, m: delayed(lambda n, more=None: n + sum(more))(x[1], more=x[4:]),
    "item and method": lambda x, m: m["b"].index(3) + m.get("c", x[5]),
    "several outputs": lambda x, m: list(delayed(lambda n, k: (n, len(k)), nout=2)(x[4], m)),
    "object": lambda x, m: delayed([x[0], {"k": x[5]}, m]),
    "same twice": lambda x, m: (delayed(max)(x), delayed(max)(x)),
    "an input itself": lambda x, m: (x[0], m, x[5]),
    "pure": lambda x, m: delayed(operator.add, pure=True)(x[0], x[5]),
    "to an array": lambda x, m: da.stack(
        [da.from_delayed(delayed(np.full)(3, n), (3,), int) for n in x]
    ).sum(axis=0),
    "to a bag": lambda x, m: db.from_delayed([delayed(lambda n: [n, n])(n) for n in x]).sum(),
    "to a frame": lambda x, m: dd.from_delayed(
        [delayed(lambda n: pd.DataFrame({"n": [n, n + 1]}))(n) for n in x],
        meta=pd.DataFrame({"n": [0]}),
    ).n.sum(),
    "with an array": lambda x, m: delayed(lambda n, a: n + a.sum())(
        x[5], da.ones((4, 4), chunks=2) + 1
    ),
    "bind": lambda x, m: bind(delayed(lambda: 3)(), m),
    "checkpoint": lambda x, m: checkpoint(x, m),
}


# --- dataframes


def frames(places: Places) -> tuple[Any, Any]:
    """Orders and customers, each in two partitions."""

    def load(first: int, last: int) -> Any:
        return dd.from_pandas(ORDERS.iloc[first:last], npartitions=(last - first) // 100)

    orders = first_input(places, load, dd.concat, 200)
    with inside(places.other):
        return orders, dd.from_pandas(CUSTOMERS, npartitions=2)


def frame_written(frame: Any) -> Any:
    """What is in the parquet files that a dataframe was written to."""
    path = new_path("x.parquet")
    return delayed(lambda done: pd.read_parquet(path))(frame.to_parquet(path, compute=False))


FRAMES: dict[str, Operation] = {
    **FRAME_QUERIES,
    # How a merge numbers its rows depends in Dask on what else is computed with it.
    "filter merged": lambda o, c: FRAME_QUERIES["filter merged"](o, c).reset_index(drop=True),
    "map_partitions with more": lambda o, c: o.map_partitions(
        lambda part, n: part.assign(total=part.total + n)[["total"]], 3
    ),
    "map_partitions with a scalar": lambda o, c: o.total.map_partitions(
        lambda part, n: part + n, c.rest.sum(), meta=("total", "float64")
    ),
    "map_overlap": lambda o, c: o.total.map_overlap(lambda part: part.rolling(3).sum(), 2, 0),
    "apply": lambda o, c: o.apply(lambda row: row.total + 1, axis=1, meta=(None, "float64")),
    "concat": lambda o, c: dd.concat([o[["customer"]], c[["customer"]]]),
    "concat of columns": lambda o, c: dd.concat(
        [o.total.to_frame(), (o["count"] + 1).to_frame()], axis=1
    ),
    "merge on the index": lambda o, c: o[["customer", "total"]].merge(
        c.set_index("customer", sorted=True), left_on="customer", right_index=True
    ),
    "join after set_index": lambda o, c: o.set_index("customer", divisions=(0, 10, 19))[
        ["total"]
    ].join(c.set_index("customer", divisions=(0, 10, 19))[["country"]]),
    "scalar beside": lambda o, c: o.total - o.total.mean() + c.customer.max(),
    "isin of the other": lambda o, c: o[o.customer.isin([1, 5])].merge(c, on="customer").total,
    "cumulated groups": lambda o, c: o.groupby("customer").total.cumsum(),
    "groupby transform": lambda o, c: o.groupby("item").total.transform(
        lambda group: group - group.min(), meta=("total", "float64")
    ),
    "value_counts renamed": lambda o, c: o.item.value_counts().rename("n").reset_index(),
    "diff": lambda o, c: o.total.diff() + o["count"],
    "sample": lambda o, c: o.total.sample(frac=0.3, random_state=1),
    "to an array": lambda o, c: o[["total", "count"]].to_dask_array(lengths=[100] * 2) + 1,
    "values": lambda o, c: o.total.values.sum(),
    "to a bag": lambda o, c: o[["customer", "total"]].to_bag().map(sum),
    "delayed of both": lambda o, c: delayed(lambda a, b: len(a) + len(b))(o, c),
    "from its partitions": lambda o, c: dd.from_delayed(
        o[["total"]].to_delayed()[1:], meta=ORDERS[["total"]].iloc[:0]
    ).sum(),
    "to_parquet": lambda o, c: frame_written(o.merge(c, on="customer")),
}


@dataclass(frozen=True)
class Table:
    """Operations of one kind of collection, and how their inputs are made."""

    inputs: Callable[[Places], tuple[Any, Any]]
    operations: dict[str, Operation]


TABLES = {
    "arrays": Table(arrays, ARRAYS),
    "labelled": Table(labelled, LABELLED),
    "bags": Table(bags, BAGS),
    "delayed": Table(delayeds, DELAYED),
    "frames": Table(frames, FRAMES),
}
