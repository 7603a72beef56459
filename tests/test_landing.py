"""Outputs that several tasks of another pool need cross once, by the bytes that workers log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import clusters
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.base import tokenize
from distributed import Client, wait

from dask_worker_pools import measure_transfers, plan_pools, pool, propagate_pools


@pytest.fixture(scope="module")
def pool_cluster() -> Iterator[clusters.PoolCluster]:
    """Four workers in each of two pools, one thread each."""
    with clusters.start({"A": 4, "B": 4}) as cluster:
        yield cluster


def made(name: str, shape: tuple[int, ...], chunks: Any, dtype: str = "f8") -> Any:
    """An array whose chunks are made by tasks pinned to a pool."""
    normal = da.core.normalize_chunks(chunks, shape)

    def load(block_info: Any = None) -> Any:  # nested: the workers cannot import this module
        import numpy

        shape = block_info[None]["chunk-shape"]
        return numpy.random.default_rng(1).random(shape).astype(dtype)

    unique = f"load-{name}-{tokenize(shape, chunks, dtype)}"  # or both pools' loads are one
    meta = np.empty((0,) * len(shape), dtype)
    with pool(name):
        return da.map_blocks(load, chunks=normal, dtype=dtype, meta=meta, name=unique)


def mask() -> Any:
    """A mask in A that each of eight blocks in B needs."""
    return made("B", (800, 500), (100, 500)) * made("A", (500,), 500)


def climatology() -> Any:
    """Months in B minus a mean over months in A."""
    return made("B", (12, 200, 200), (1, 200, 200)) - made("A", (4, 200, 200), 200).mean(axis=0)


def outer() -> Any:
    """A vector of A, spread over columns in B before it meets what is there."""
    spread = made("A", (1000,), 250)[:, None] * da.ones((1, 600), chunks=300)
    return (spread + made("B", (1000, 600), (250, 300))).sum(axis=1)


def product() -> Any:
    """A matrix product: each block of A's small matrix is needed by several of B's."""
    return made("B", (800, 400), 200) @ made("A", (400, 200), 200)


def stencil() -> Any:
    """Differences of neighbours across the boundary of two halves."""
    both = da.concatenate([made("A", (400, 300), (100, 300)), made("B", (400, 300), (100, 300))])
    return both[1:] - both[:-1]


def gathered() -> Any:
    """The mean over both halves."""
    both = da.concatenate([made("A", (400, 300), (100, 300)), made("B", (400, 300), (100, 300))])
    return (both + 1).mean(axis=0)


def forecast() -> Any:
    """An xarray job: the mean of realisations in A minus observations in B."""
    members = xr.DataArray(made("A", (6, 5, 80, 90), (1, 5, 80, 90)), dims=("r", "h", "y", "x"))
    observed = xr.DataArray(made("B", (80, 90), (80, 90)), dims=("y", "x"))
    return members.mean("r").isel(h=3) - observed


def zonal() -> Any:
    """An xarray job: a zonal mean in B of data that a small mask of A selects."""
    field = xr.DataArray(made("B", (24, 80, 90), (3, 80, 90)), dims=("t", "y", "x"))
    land = xr.DataArray(made("A", (80, 90), (80, 90)), dims=("y", "x")) > 0.5
    return field.where(land).mean("x")


WORKLOADS = [mask, climatology, outer, product, stencil, gathered, forecast, zonal]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda build: build.__name__)
def test_bytes_that_cross_are_those_of_the_plan(client: Client, workload: Any) -> None:
    """On each link, the workers log what the plan predicts, within a tenth."""
    x = workload()
    expected = x.compute(scheduler="sync")
    plan = plan_pools(x, balance=0)
    with measure_transfers(client) as moved, propagate_pools(balance=0):
        persisted = x.persist()
        wait(persisted)
    np.testing.assert_allclose(persisted.compute(), expected)
    assert plan.total_bytes > 0
    predicted: dict[Any, float] = dict(plan.bytes_by_link)
    measured: dict[Any, float] = {
        link: n for link, n in moved.bytes_by_link.items() if link[0] != link[1]
    }
    for link in predicted.keys() | measured.keys():
        assert measured.get(link, 0) == pytest.approx(predicted.get(link, 0), rel=0.1, abs=3000)


def test_one_consumer_needs_no_landing(client: Client) -> None:
    """An output with one consumer in the other pool is fetched by it, with no task between."""
    a, b = made("A", (10,), 10), made("B", (1000,), 1000)
    with clusters.record_executions(client) as ran, propagate_pools(balance=0):
        (a.sum() + b).compute()
    assert not any("landing" in str(task.key) for task in ran.tasks)


def test_landing_is_readable_and_in_the_destination(client: Client) -> None:
    """The landing task is named for its pool and what it lands, and runs there, once."""
    with clusters.record_executions(client) as ran, propagate_pools(balance=0):
        mask().compute()
    landings = [task for task in ran.tasks if "landing" in str(task.key)]
    assert len(landings) == 1
    assert str(landings[0].key).startswith("('landing-B-")
    assert landings[0].pools == {"B"}


def test_data_in_memory_lands_too(client: Client) -> None:
    """Persisted data of one pool that several tasks of another need crosses once."""
    with propagate_pools(balance=0):
        mask_there = made("A", (500,), 500).persist()
        big = made("B", (800, 500), (100, 500))
        with measure_transfers(client) as moved:
            (big * mask_there).sum().compute()
    assert moved.bytes_by_link["A", "B"] == pytest.approx(500 * 8, rel=0.1)
