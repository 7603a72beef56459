"""Sources that can be read in their own pool only, of each kind of collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dask.array as da
import dask.bag as db
import numpy as np
from dask import delayed
from distributed import get_worker

from dask_worker_pools import pool


def only_in(site: str) -> Callable[..., Any]:
    """A function that returns its argument, and fails on the workers of another pool."""

    # Nested functions travel by value: the workers cannot import this module.
    def read(value: Any, *_: Any) -> Any:
        try:
            worker = get_worker()
        except ValueError:
            return value  # a local scheduler
        if f"pool-{site}" not in worker.state.total_resources:
            raise RuntimeError(f"read on worker {worker.name!r}, but the data lies in pool {site}")
        return value

    return read


def sited_array(site: str, values: Any, chunks: int) -> Any:
    """An array whose chunks can be read in one pool only."""
    read = only_in(site)
    held = np.asarray(values)

    def block(block_info: Any = None) -> Any:
        places = block_info[None]["array-location"]
        return read(held[tuple(slice(*place) for place in places)])

    lengths = da.core.normalize_chunks(chunks, held.shape)
    with pool(site):
        return da.map_blocks(block, chunks=lengths, dtype=held.dtype, meta=held[:0])


def sited_bag(site: str, parts: Iterable[list[Any]]) -> Any:
    """A bag whose partitions can be read in one pool only."""
    read = only_in(site)
    with pool(site):
        return db.from_delayed([delayed(read, pure=False)(part) for part in parts])


def sited_value(site: str, value: Any) -> Any:
    """A delayed object that can be read in one pool only."""
    with pool(site):
        return delayed(only_in(site), pure=False)(value)


def block_of(where: str | None) -> AbstractContextManager[Any]:
    """The block that says where: the name of a pool, "anywhere" for none, or nothing."""
    if where is None:
        return nullcontext()
    return pool(None) if where == "anywhere" else pool(where)
