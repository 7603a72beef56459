"""Expressions of every kind, small enough to run task by task."""

import operator
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
from dask.delayed import delayed
from dask.graph_manipulation import bind, clone


def array(shape: tuple[int, ...] = (40, 30), chunks: Any = (10, 15), dtype: str = "f8") -> da.Array:
    """An array of small numbers, held in memory."""
    data = (np.arange(np.prod(shape)) % 97).reshape(shape).astype(dtype)
    return da.from_array(data, chunks=chunks)


EXPRESSIONS: dict[str, Callable[[], Any]] = {
    "add": lambda: array() + 1,
    "add_arrays": lambda: array() + array(chunks=(20, 10)),
    "broadcast": lambda: array() + array((30,), (15,)),
    "broadcast_to": lambda: da.broadcast_to(array((30,), (15,)), (8, 30), chunks=(4, 15)),
    "outer": lambda: da.outer(array((40,), 10), array((30,), 15)),
    "where": lambda: da.where(array() > 50, array(), 0),
    "astype": lambda: array().astype("f4"),
    "uneven": lambda: array((41, 33), (10, 15)) * 2,
    "irregular": lambda: array((20, 6), ((1, 7, 2, 10), (4, 2))) * 2,
    "empty": lambda: array()[5:5] + 1,
    "ones": lambda: da.ones((40, 30), chunks=(10, 15)) * 2,
    "arange": lambda: da.arange(100, chunks=30, dtype="i4"),
    "linspace": lambda: da.linspace(0, 1, 101, chunks=30),
    "eye": lambda: da.eye(20, chunks=5),
    "random": lambda: da.random.default_rng(1).normal(size=(40, 30), chunks=(10, 15)),
    "random_state": lambda: da.random.RandomState(1).normal(size=(40, 30), chunks=(10, 15)),
    "random_choice": lambda: da.random.default_rng(1).choice(50, size=40, chunks=10),
    "sum_all": lambda: array().sum(),
    "sum_axis": lambda: array().sum(axis=0),
    "sum_keepdims": lambda: array().sum(axis=1, keepdims=True),
    "sum_small_ints": lambda: array(dtype="i1").sum(axis=0, split_every=2),
    "sum_uneven": lambda: array((1, 30), ((1,), (1, 14, 15))).sum(axis=1),
    "prod": lambda: da.prod(array(dtype="f4"), axis=1),
    "max_axis": lambda: array(dtype="f4").max(axis=0, split_every=2),
    "any_axis": lambda: (array() > 3).any(axis=0),
    "nansum": lambda: da.nansum(array(), axis=1),
    "nanmax": lambda: da.nanmax(array(), axis=1, split_every=2),
    "mean": lambda: array().mean(),
    "mean_axis": lambda: array((80, 30), (10, 15)).mean(axis=0, split_every=2),
    "mean_big": lambda: array((200, 300), (50, 300), "f4").mean(axis=0, split_every=2),
    "nanmean": lambda: da.nanmean(array((200, 300), (50, 300)), axis=0, split_every=2),
    "std": lambda: array((200, 300), (50, 300), "f4").std(axis=0, split_every=2),
    "var_keepdims": lambda: array().var(axis=1, keepdims=True),
    "nanvar": lambda: da.nanvar(array(), axis=0),
    "moment": lambda: da.reductions.moment(array((200, 300), (50, 300)), order=4, axis=0),
    "argmax": lambda: array((200, 300), (50, 300)).argmax(axis=0, split_every=2),
    "argmin_all": lambda: array().argmin(),
    "nanargmax": lambda: da.nanargmax(array(), axis=1),
    "cumsum": lambda: array().cumsum(axis=0),
    "cumsum_ints": lambda: array(dtype="i4").cumsum(axis=1),
    "cumsum_blelloch": lambda: da.cumsum(array((80, 30), (10, 15)), axis=0, method="blelloch"),
    "cumprod": lambda: da.cumprod(array(), axis=1),
    "topk": lambda: da.topk(array(), 3, axis=0),
    "topk_long": lambda: da.topk(array((100, 30), (10, 15)), 12, axis=0, split_every=2),
    "argtopk": lambda: da.argtopk(array(), 3, axis=0),
    "median": lambda: da.median(array(), axis=0),
    "percentile": lambda: da.percentile(array((100,), 20), [5, 50, 95]),
    "quantile": lambda: da.quantile(array(), [0.1, 0.5], axis=0),
    "histogram": lambda: da.histogram(array(), bins=10, range=(0, 100))[0],
    "bincount": lambda: da.bincount(array((50,), 10, "i8"), minlength=97),
    "unique": lambda: da.unique(array((100,), 20)),
    "custom_reduction": lambda: da.reduction(
        array(),
        lambda x, axis, keepdims: x.sum(axis=axis, keepdims=keepdims),
        lambda x, axis, keepdims: x.sum(axis=axis, keepdims=keepdims),
        axis=0,
        dtype="f8",
    ),
    "slice_steps": lambda: array()[5:33:2, ::-1],
    "slice_int": lambda: array()[3],
    "slice_newaxis": lambda: array()[:, None, 4],
    "take": lambda: array()[[3, 1, 25, 7, 8, 9]],
    "take_sorted": lambda: array()[:, [0, 3, 4, 16, 29]],
    "vindex": lambda: array().vindex[[0, 1, 12], [3, 20, 29]],
    "mask_all": lambda: array()[array() > 50],
    "mask_rows": lambda: array()[array()[:, 0] > 50],
    "mask_sum": lambda: (array()[array() > 50]).sum(axis=0),
    "mask_topk": lambda: da.topk(array()[array() > 95], 3, split_every=2),
    "take_dask": lambda: array()[da.from_array(np.array([3, 1, 25]), chunks=2)],
    "setitem": lambda: _set(array()),
    "compress": lambda: da.compress(np.arange(40) % 2 == 0, array(), axis=0),
    "nonzero": lambda: da.nonzero(array())[0],
    "argwhere": lambda: da.argwhere(array() > 5),
    "rechunk": lambda: array().rechunk((7, 30)),
    "rechunk_merge": lambda: array().rechunk((20, 30)),
    "rechunk_split": lambda: array().rechunk((5, 5)),
    "rechunk_many": lambda: array((60, 60), (1, 60)).rechunk((60, 1)),
    "concatenate": lambda: da.concatenate([array(), array() + 1], axis=1),
    "stack": lambda: da.stack([array(), array() + 1]),
    "block": lambda: da.block([[array(), array()], [array(), array()]]),
    "reshape": lambda: array().reshape(1200),
    "reshape_merge": lambda: array((8, 6, 10), (2, 3, 10)).reshape(48, 10),
    "ravel": lambda: array().ravel(),
    "transpose": lambda: array().T,
    "moveaxis": lambda: da.moveaxis(array((4, 6, 8), 2), 0, 2),
    "roll": lambda: da.roll(array(), 3, axis=0),
    "flip": lambda: da.flip(array(), 0),
    "diff": lambda: da.diff(array(), axis=0),
    "gradient": lambda: da.gradient(array(), axis=0),
    "pad": lambda: da.pad(array(), 2, mode="edge"),
    "pad_constant": lambda: da.pad(array(), ((1, 2), (0, 3)), mode="constant"),
    "repeat": lambda: da.repeat(array(), 3, axis=0),
    "tile": lambda: da.tile(array(), (2, 1)),
    "tril": lambda: da.tril(array((20, 20), 5)),
    "diag": lambda: da.diag(array((20,), 5)),
    "diagonal": lambda: da.diagonal(array((20, 20), 5)),
    "coarsen": lambda: da.coarsen(np.mean, array(), {0: 5, 1: 5}),
    "overlap": lambda: array().map_overlap(lambda x: x, depth=2),
    "overlap_one_axis": lambda: array().map_overlap(lambda x: x, depth={0: 3}, boundary="reflect"),
    "overlap_asymmetric": lambda: array().map_overlap(
        lambda x: x, depth={0: (3, 0)}, boundary="none"
    ),
    "overlap_periodic": lambda: array().map_overlap(lambda x: x, depth=1, boundary="periodic"),
    "sliding": lambda: da.lib.stride_tricks.sliding_window_view(array(), 3, axis=0).mean(axis=-1),
    "tensordot": lambda: da.tensordot(array(), array(), axes=((0,), (0,))),
    "matmul": lambda: array() @ array((30, 20), (15, 10)),
    "dot": lambda: array((30,), 10).dot(array((30,), 10)),
    "einsum": lambda: da.einsum("ij,ik->jk", array(), array()),
    "qr": lambda: da.linalg.qr(array((40, 5), (10, 5)))[0],
    "svd": lambda: da.linalg.svd(array((40, 5), (10, 5)) + 1)[1],
    "svd_wide": lambda: da.linalg.svd(array((5, 40), (5, 10)))[2],
    "sfqr": lambda: da.linalg.qr(array((5, 40), (5, 10)))[1],
    "lstsq": lambda: da.linalg.lstsq(array((40, 5), (10, 5)), array((40,), 10))[0],
    "norm": lambda: da.linalg.norm(array(), axis=0),
    "cov": lambda: da.cov(array((10, 40), (5, 20))),
    "fft": lambda: da.fft.fft(array((40, 30), (10, 30)), axis=1),
    "map_blocks": lambda: array().map_blocks(lambda x: x[::2], chunks=(5, 15), dtype="f8"),
    "map_blocks_new": lambda: array().map_blocks(
        lambda x: x[..., None] + np.zeros(3), chunks=(10, 15, 3), new_axis=2, dtype="f8"
    ),
    "map_blocks_drop": lambda: array((40, 30), (10, 30)).map_blocks(
        lambda x: x.sum(axis=1), drop_axis=1, dtype="f8"
    ),
    "map_blocks_info": lambda: array().map_blocks(lambda x, block_info=None: x, dtype="f8"),
    "map_blocks_sum": lambda: array((40, 30), (10, 30)).map_blocks(
        np.sum, axis=1, keepdims=True, chunks=(10, 1), dtype="f8"
    ),
    "gufunc": lambda: da.apply_gufunc(
        lambda x: (x.mean(axis=-1), x.std(axis=-1)),
        "(i)->(),()",
        array((40, 30), (10, 30)),
        output_dtypes=("f8", "f8"),
    )[1],
    "along_axis": lambda: da.apply_along_axis(
        np.sum, 0, array((40, 30), (40, 15)), dtype="f8", shape=()
    ),
    "objects": lambda: da.from_array(np.array(["a", "bb", None], dtype=object), chunks=2),
    "strings": lambda: da.from_array(np.array(["a", "bb", "ccc"]), chunks=2),
    "datetimes": lambda: da.from_array(np.arange("2020", "2021", dtype="M8[D]"), chunks=100),
    "masked": lambda: da.ma.masked_greater(array(), 50).mean(axis=0),
    "from_delayed": lambda: da.from_delayed(delayed(np.ones)((5, 6)), (5, 6), dtype="f8") + 1,
    "to_delayed": lambda: delayed(np.sum)(array().to_delayed().ravel().tolist()),
    "delayed": lambda: delayed(operator.add)(delayed(np.ones(100)), 1),
    "delayed_list": lambda: delayed(sum)([delayed(i) for i in range(5)]),
    "inline_array": lambda: (
        da.from_array(np.ones((40, 30)), chunks=(10, 15), inline_array=True) + 1
    ),
    "handle": lambda: da.from_array(Handle(), chunks=(10, 15)) + 1,
    "bag": lambda: db.from_sequence(range(1000), npartitions=4).map(lambda x: x + 1),
    "bag_strings": lambda: db.from_sequence(["x" * 100] * 300, npartitions=3),
    "bag_frequencies": lambda: db.from_sequence("abcabc" * 10, npartitions=3).frequencies(),
    "fused": lambda: dask.optimize(array() + 1 - array().mean(axis=0))[0],
    "fused_blocks": lambda: _blockwise_fused((array() + 1) * 2),
    "culled": lambda: _culled((array() + 1)[:, :15]),
    "cloned": lambda: clone((array() + 1).sum(axis=0)),
    "cloned_mean": lambda: clone(array((80, 30), (10, 15)).mean(axis=0, split_every=2) + 1),
    "bound": lambda: bind((array() + 1).std(axis=0), array().sum()),
    "persisted": lambda: (array() + 1).persist(scheduler="sync").sum(axis=0),
}


class Handle:
    """Data elsewhere: an error to read it."""

    shape, dtype, ndim = (40, 30), np.dtype("f4"), 2

    def __getitem__(self, index: Any) -> Any:
        return np.zeros(self.shape, self.dtype)[index]


def _set(x: da.Array) -> da.Array:
    x[5:15] = 0
    return x


def _culled(x: da.Array) -> da.Array:
    return da.Array(x.dask.cull(x.__dask_keys__()), x.name, x.chunks, x.dtype)


def _blockwise_fused(x: da.Array) -> da.Array:
    graph = dask.blockwise.optimize_blockwise(
        x.dask, keys=list(dask.core.flatten(x.__dask_keys__()))
    )
    return da.Array(graph, x.name, x.chunks, x.dtype)


def opened(store: Path) -> Callable[..., Any]:
    """Give a function that opens a dataset, written once."""
    import xarray as xr

    if not store.exists():
        memory().to_zarr(store, consolidated=False)
    return partial(xr.open_dataset, store, engine="zarr", consolidated=False)


def memory() -> Any:
    """A data set in memory, to be written as a zarr store."""
    import xarray as xr

    return xr.Dataset(
        {
            "t": (("time", "y", "x"), np.arange(24 * 20 * 30, dtype="f4").reshape(24, 20, 30)),
            "p": (("time",), np.arange(24, dtype="i2"), {"scale_factor": 0.5}),
        },
        coords={"time": np.arange("2020-01-01", "2020-01-25", dtype="M8[D]"), "x": np.arange(30)},
    )


def _ufunc(x: Any) -> Any:
    import xarray as xr

    options: dict[str, Any] = {"dask": "parallelized", "output_dtypes": ["f4"]}
    return xr.apply_ufunc(lambda a: a.mean(axis=-1), x, input_core_dims=[["x"]], **options)


XARRAY_EXPRESSIONS: dict[str, Callable[[Any], Any]] = {
    "xr_open": lambda open_: open_(chunks={"time": 6}),
    "xr_mean": lambda open_: open_(chunks={"time": 6}).mean("time"),
    "xr_anomaly": lambda open_: _anomaly(open_(chunks={"time": 6, "x": 15}).t),
    "xr_select": lambda open_: open_(chunks={"time": 6}).t.isel(x=slice(3, 20), y=[1, 5]),
    "xr_lazy_chunk": lambda open_: open_(chunks=None).chunk({"time": 12}).t + 1,
    "xr_memory_chunk": lambda open_: memory().chunk({"time": 12}).std(),
    "xr_groupby": lambda open_: open_(chunks={"time": 6}).t.groupby("time.dayofweek").mean(),
    "xr_rolling": lambda open_: open_(chunks={"time": 6}).t.rolling(time=3).mean(),
    "xr_coarsen": lambda open_: open_(chunks={"time": 6}).t.coarsen(time=3).sum(),
    "xr_ufunc": lambda open_: _ufunc(open_(chunks={"time": 6}).t),
}


def _anomaly(x: Any) -> Any:
    return x - x.mean("time")
