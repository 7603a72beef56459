"""dask.dataframe: what is made in a pool runs there, and what follows runs where fewest bytes move.

The cluster has workers in pool A, in pool B and in none. Neither the scheduler nor the workers can
import this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import clusters
import dask.dataframe as dd
import pandas as pd
import pytest
from distributed import Client

from dask_worker_pools import assign_pool, pool, propagate_pools

ORDERS = pd.DataFrame({"customer": [i % 20 for i in range(400)], "total": range(400)})
CUSTOMERS = pd.DataFrame({"customer": range(20), "country": ["de", "fr"] * 10})


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no task waits on the scheduler."""
    yield
    if "client" in request.fixturenames:
        client: Client = request.getfixturevalue("client")
        clusters.wait_until(lambda: not clusters.stuck(client))


def orders(where: str = "A") -> Any:
    """400 orders in a pool."""
    with pool(where):
        return dd.from_pandas(ORDERS, npartitions=4)


def customers(where: str = "B") -> Any:
    """20 customers in a pool."""
    with pool(where):
        return dd.from_pandas(CUSTOMERS, npartitions=2)


def run(client: Client, compute: Callable[[], Any]) -> tuple[Any, set[str | None]]:
    """What `compute` gives inside `propagate_pools`, and the pools of all tasks that ran."""
    with clusters.record_executions(client) as ran, propagate_pools():
        result = compute()
    found = ran.pools_of
    assert found
    assert {key: where for key, where in found.items() if len(where) > 1} == {}
    return result, set().union(*found.values())


def test_a_frame_made_in_a_pool_runs_there(client: Client) -> None:
    """All that follows from a frame of pool A runs in A."""
    result, where = run(client, lambda: orders().groupby("customer").total.sum().compute())
    assert where == {"A"}
    pd.testing.assert_series_equal(result, ORDERS.groupby("customer").total.sum())


def test_assigned_pool(client: Client) -> None:
    """`assign_pool` says the pool of a frame that was built without one."""
    frame = assign_pool(dd.from_pandas(ORDERS, npartitions=4), "B")
    result, where = run(client, lambda: frame.total.sum().compute())
    assert where == {"B"}
    assert result == ORDERS.total.sum()


def test_join_runs_where_the_larger_side_is(client: Client) -> None:
    """A filtered join of frames of two pools gives what pandas gives, in these two pools."""

    def join() -> Any:
        kept = orders()[lambda frame: frame.total > 100]
        return kept.merge(customers(), on="customer").groupby("country").total.sum().compute()

    result, where = run(client, join)
    assert where == {"A", "B"}
    wanted = ORDERS[ORDERS.total > 100].merge(CUSTOMERS, on="customer")
    pd.testing.assert_series_equal(
        result.sort_index(), wanted.groupby("country").total.sum(), check_index_type=False
    )
