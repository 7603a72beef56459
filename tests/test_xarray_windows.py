"""xarray's groupby and rolling, on a cluster: the values of xarray, each task where the plan says.

They are the operations of xarray that bring neighbouring or far blocks together, in graphs that
are no plain Blockwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import clusters
import pytest
import xarray as xr
from distributed import Client
from operations import FIELD, SERIES, WINDOWS

from dask_worker_pools import plan_pools, pool, propagate_pools


@pytest.fixture(scope="module")
def pool_cluster() -> Iterator[clusters.PoolCluster]:
    """Workers as for other tests; what is not fused runs under keys of the plan."""
    unfused = {"optimization": {"fuse": {"active": False}}}
    with clusters.start({"A": 2, "B": 2, None: 1}, scheduler_config=unfused) as cluster:
        yield cluster


pytestmark = pytest.mark.usefixtures("nothing_left")


def opened() -> tuple[xr.DataArray, xr.DataArray]:
    """The field, loaded in pool A, and the series, loaded in B, each under names of its own."""
    with pool("A"):
        field = FIELD.chunk({"time": 5, "y": 3}, name_prefix=f"field-{uuid4().hex}-")
    with pool("B"):
        series = SERIES.chunk({"time": 6}, name_prefix=f"series-{uuid4().hex}-")
    return field, series


@pytest.mark.parametrize("name", WINDOWS)
def test_values_and_places(client: Client, name: str) -> None:
    """The result is that of xarray in memory, and every task ran in the pool that the plan says."""
    made = WINDOWS[name](*opened())
    plan = plan_pools(made, capacity={"A": 2, "B": 2})
    with clusters.record_executions(client) as ran, propagate_pools():
        got = made.compute()
    xr.testing.assert_allclose(got, WINDOWS[name](FIELD, SERIES), rtol=1e-12)
    places: dict[Any, Any] = {t.landing: t.target for t in plan.transfers}
    places |= plan.pools
    found = {key: where for key, where in ran.pools_of.items() if "finalize" not in str(key)}
    assert len(found) >= 10
    assert found == {key: {places.get(key)} for key in found}
    # What makes the result for the user has no key in the plan; it runs in a pool too.
    assert all(where < {"A", "B"} for where in ran.pools_of.values())
