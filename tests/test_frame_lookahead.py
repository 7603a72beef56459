"""A frame is sent before it grows: what is made of it is made where it is needed.

What the user made in a pool stays there, whatever it weighs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import clusters
import dask.dataframe as dd
import pandas as pd
import pytest
from distributed import Client
from frame_queries import CUSTOMERS, NARROW, ORDERS, WIDE, grown

from dask_worker_pools import (
    Plan,
    assign_pool,
    measure_transfers,
    plan_pools,
    pool,
    propagate_pools,
    propagate_pools_in_collection,
)
from dask_worker_pools.expr.regions import placed
from dask_worker_pools.slots import name_of
from dask_worker_pools.transfers import Transfers

#: What the narrow table weighs.
SENT = int(NARROW.x.nbytes)


def tables() -> tuple[Any, Any]:
    """The wide one in A and the narrow one in B, in the same partitions."""
    with pool("A"):
        wide = dd.from_pandas(WIDE, npartitions=4)
    with pool("B"):
        narrow = dd.from_pandas(NARROW, npartitions=4)
    return wide, narrow


def joined(wide: Any, narrow: Any) -> Any:
    """Both side by side; all columns are needed."""
    return wide.join(narrow).sum(axis=1)


def sent_to_a(moved: Transfers) -> int:
    """Bytes that went from B to A, but for what Dask adds to the columns of each partition."""
    sent = moved.bytes_by_link[("B", "A")]
    return sent - sent % SENT


def sent_from(plan: Plan) -> set[str]:
    """The beginnings of the names of what is sent."""
    return {str(name_of(transfer.key)).partition("-")[0] for transfer in plan.transfers}


def test_a_frame_is_sent_before_it_grows(client: Client) -> None:
    """Columns that follow from a frame are made in the pool that needs them, of what was sent."""
    wide, narrow = tables()
    result = joined(wide, grown(narrow))
    assert plan_pools(result).total_bytes == pytest.approx(SENT, rel=0.01)
    with clusters.record_executions(client) as ran, propagate_pools():
        with measure_transfers(client) as moved:
            got = result.compute()
    pd.testing.assert_series_equal(got, joined(WIDE, grown(NARROW)))
    assert sent_to_a(moved) == SENT
    assert set().union(*ran.pools_of.values()) == {"A", "B"}


def test_what_shrinks_is_made_at_home() -> None:
    """Of what is smaller than what it is made of, no task is looked at: it goes along."""
    wide, narrow = tables()
    less = narrow[narrow.x > 3000]
    plan = plan_pools(joined(wide, less))
    assert sent_from(plan) == {"getitem"}
    assert plan.total_bytes < 0.6 * SENT
    exprs = placed([joined(wide, less).optimize(fuse=False).expr])
    assert {name.partition("-")[0] for name in exprs.places} == {"frompandas", "gt", "getitem"}


@pytest.mark.parametrize("made", ["in a block", "assigned", "propagated"])
def test_what_the_user_pinned_stays(client: Client, made: str) -> None:
    """Columns that were made in a pool's block, or given to it, are made there and then sent."""
    wide, narrow = tables()
    if made == "in a block":
        with pool("B"):
            pinned = grown(narrow)
    elif made == "assigned":
        pinned = assign_pool(grown(dd.from_pandas(NARROW, npartitions=4)), "B")
    else:
        pinned = propagate_pools_in_collection(grown(narrow))
    result = joined(wide, pinned)
    assert plan_pools(result).total_bytes == pytest.approx(9 * SENT, rel=0.01)
    with propagate_pools(), measure_transfers(client) as moved:
        result.compute()
    assert sent_to_a(moved) == 9 * SENT


def parquet(tmp_path: Any) -> Any:
    """Customers in two files, whose rows are numbered."""
    for number in range(2):
        CUSTOMERS.to_parquet(tmp_path / f"{number}.parquet")
    return dd.read_parquet(tmp_path)


def functions(tmp_path: Any) -> Any:
    """Customers that two calls make."""
    made = CUSTOMERS
    return dd.from_map(lambda _: made, range(2), meta=made.iloc[:0])


@pytest.mark.parametrize("source", [parquet, functions])
def test_a_shuffle_runs_where_its_rows_are_needed(
    tmp_path: Any, source: Callable[[Any], Any]
) -> None:
    """Rows get labels as they are shuffled, so they are sent before, be their number known or not.

    ::

        orders (A) ──────────────────────→ merge (A)
        customers (B) → (sent) → shuffle (A) ──↗
    """
    with pool("A"):
        orders = dd.from_pandas(ORDERS, npartitions=8)
    with pool("B"):
        customers = source(tmp_path)
    plan = plan_pools(orders.merge(customers, on="customer"))
    assert len(plan.transfers) == 2
    assert {(transfer.source, transfer.target) for transfer in plan.transfers} == {("B", "A")}


def test_prices_of_links_decide_over_what_is_left_free() -> None:
    """Where it is dear to leave its pool, what grows stays and the other frame is sent to it."""
    wide, narrow = tables()
    plan = plan_pools(joined(wide, grown(narrow)), link_cost={("B", "A"): 100.0})
    assert plan.bytes_by_link.keys() == {("A", "B")}
    assert {pool for key, pool in plan.pools.items() if key not in plan.pinned} == {"B"}


def test_a_step_that_both_pools_use_is_made_once() -> None:
    """What grows and is needed at home too is made at home and sent, if that is less to send."""
    wide, narrow = tables()
    more = narrow.assign(y=narrow.x + 1)
    plan = plan_pools(joined(wide, more[["y"]]), more.y.sum())
    assert plan.total_bytes == pytest.approx(SENT, rel=0.01)
