"""xarray's groupby and rolling, on a cluster: the values of xarray, each task where the plan says.

They are the operations of xarray that bring neighbouring or far blocks together, in graphs that
are no plain Blockwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import clusters
import numpy as np
import pytest
import xarray as xr
from distributed import Client

from dask_worker_pools import plan_pools, pool, propagate_pools

Query = Callable[[Any, Any], Any]

#: 24 days on a small grid, and a value for each day: what is computed must be exact in any order.
DAYS = np.arange("2020-01-01", "2020-01-25", dtype="M8[D]")
FIELD = xr.DataArray(
    np.arange(24 * 6 * 8.0).reshape(24, 6, 8) % 31,
    dims=("time", "y", "x"),
    coords={"time": DAYS},
    name="t",
)
SERIES = xr.DataArray(np.arange(24.0) % 5, dims="time", coords={"time": DAYS}, name="s")

#: Each takes the field, which lies in pool A, and the series of pool B.
QUERIES: dict[str, Query] = {
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


@pytest.mark.parametrize("name", QUERIES)
def test_values_and_places(client: Client, name: str) -> None:
    """The result is that of xarray in memory, and every task ran in the pool that the plan says."""
    made = QUERIES[name](*opened())
    plan = plan_pools(made, capacity={"A": 2, "B": 2})
    with clusters.record_executions(client) as ran, propagate_pools():
        got = made.compute()
    xr.testing.assert_allclose(got, QUERIES[name](FIELD, SERIES), rtol=1e-12)
    places: dict[Any, Any] = {t.landing: t.target for t in plan.transfers}
    places |= plan.pools
    found = {key: where for key, where in ran.pools_of.items() if "finalize" not in str(key)}
    assert len(found) >= 10
    assert found == {key: {places.get(key)} for key in found}
    # What makes the result for the user has no key in the plan; it runs in a pool too.
    assert all(where < {"A", "B"} for where in ran.pools_of.values())
