"""Markers of dask.dataframe, without a cluster: what Dask's optimiser sees, and what users ask."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import dask.dataframe as dd
import pandas as pd
import pytest
from dask._expr import FinalizeCompute
from dask.base import collections_to_expr
from dask.dataframe.dask_expr._expr import Filter
from dask.dataframe.dask_expr.io import ReadParquet
from frame_queries import CUSTOMERS, ORDERS, QUERIES, SOURCES, source

from dask_worker_pools import (
    ConflictingPools,
    assign_pool,
    get_pool,
    plan_pools,
    pool,
    propagate_pools,
    propagate_pools_in_collection,
    visualize_pools,
)
from dask_worker_pools.expr.markers import Marker, bare
from dask_worker_pools.slots import name_of

# What Dask's own code warns of, with pandas 3.1; what older Dask does, with NumPy 2.
pytestmark = [
    pytest.mark.usefixtures("by_tasks"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
    pytest.mark.filterwarnings("ignore:Passing more than 2 positional"),
]


def computed(collection: Any) -> Any:
    """The expression that `dask.compute` would send to a scheduler."""
    (expr,) = FinalizeCompute(collections_to_expr([collection])).optimize().operands
    return expr


# --- what the optimiser sees


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", QUERIES)
def test_plan_under_one_pool_is_dasks_own(kind: str, name: str, tables: Path) -> None:
    """Below its marker, the optimised plan of a query in one pool is named as that of plain Dask:
    as computed, and as fused for `persist`.
    """
    plain = QUERIES[name](*source(kind, tables))
    with pool("A"):
        sources = source(kind, tables)
    marked = QUERIES[name](*sources)
    assert get_pool(marked) == "A"
    for one, other in (
        (computed(marked), computed(plain)),
        (marked.optimize(fuse=True).expr, plain.optimize(fuse=True).expr),
    ):
        assert isinstance(one, Marker)
        assert bare(one)._name == other._name


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", [name for name in QUERIES if "merge" in name])
def test_plan_of_a_join_is_dasks_own(kind: str, name: str, tables: Path) -> None:
    """Without its markers, the optimised plan of a join of two pools is that of plain Dask."""
    plain = QUERIES[name](*source(kind, tables))
    with pool("A"):
        orders, _ = source(kind, tables)
    with pool("B"):
        _, customers = source(kind, tables)
    marked = computed(QUERIES[name](orders, customers))
    assert isinstance(marked, Marker)
    assert bare(marked)._name == computed(plain)._name


def test_there_are_enough_queries() -> None:
    """The table above has at least 40 queries for three sources."""
    assert len(QUERIES) >= 40
    assert len(SOURCES) == 3


@pytest.mark.parametrize("name", ["merge", "merge filtered", "filter merged", "merge left"])
@pytest.mark.parametrize("kind", SOURCES)
def test_queries_across_pools_keep_their_values(kind: str, name: str, tables: Path) -> None:
    """A join of two pools gives what plain Dask gives, inside `propagate_pools` too."""
    wanted = QUERIES[name](*source(kind, tables)).compute()
    with pool("A"):
        orders, _ = source(kind, tables)
    with pool("B"):
        _, customers = source(kind, tables)
    with propagate_pools():
        got = QUERIES[name](orders, customers).compute()
    pd.testing.assert_frame_equal(_in_order(got), _in_order(wanted))


def _in_order(result: Any) -> pd.DataFrame:
    frame = pd.DataFrame(result).reset_index(drop=not result.index.name)
    return frame.sort_values(list(frame.columns), ignore_index=True)


def test_filters_and_columns_reach_the_files_of_both_pools(tables: Path) -> None:
    """A filter and a choice of columns after a join of two pools are pushed into both readers."""
    with pool("A"):
        orders = dd.read_parquet(tables / "orders", filesystem="arrow")
    with pool("B"):
        customers = dd.read_parquet(tables / "customers", filesystem="arrow")
    merged = orders.merge(customers, on="customer")
    query = merged[merged.total > 100][["country", "total"]]
    plan = bare(query.optimize(fuse=False).expr)
    # Readers may be wrapped into others, which read several files at a time.
    inner = [one for step in plan.walk() for one in (step, *step.operands)]
    readers = [one for one in inner if isinstance(one, ReadParquet)]
    columns = {tuple(sorted(one.columns)) for one in readers}
    assert columns == {("customer", "total"), ("country", "customer")}
    assert [[("total", ">", 100)]] in [one.operand("filters") for one in readers]
    assert not list(plan.find_operations(Filter))


# --- what users ask


def test_get_pool() -> None:
    """The pool of a frame is that of all that it is made of; of two pools, or none, it is None."""
    with pool("A"):
        a = dd.from_pandas(ORDERS, npartitions=2)
    with pool("B"):
        b = dd.from_pandas(CUSTOMERS, npartitions=2)
    free = dd.from_pandas(CUSTOMERS, npartitions=2)
    assert get_pool(a) == get_pool(a.total.sum()) == get_pool(a[["total"]]) == "A"
    assert get_pool(a.merge(b, on="customer")) is None
    assert get_pool(free) is None


def test_plan_of_a_join() -> None:
    """A plan of a join says what is sent where, in bytes told from rows; nothing is computed."""
    with pool("A"):
        a = dd.from_pandas(ORDERS, npartitions=2)
    with pool("B"):
        b = dd.from_pandas(CUSTOMERS, npartitions=1)
    plan = plan_pools(a.merge(b, on="customer"))
    assert {where for key, where in plan.pools.items() if "frompandas" in str(key)} == {"A", "B"}
    assert set(plan.bytes_by_link) == {("B", "A")}
    assert not plan.counting
    assert set(plan.sources.values()) <= {"rows", "rows+unknown"}


def test_frames_are_planned_with_arrays() -> None:
    """Frames and arrays can be planned at once."""
    with pool("A"):
        frame = dd.from_pandas(ORDERS, npartitions=2)
    with pool("B"):
        array = da.ones(4)
    plan = plan_pools(frame.total.sum(), {"more": [array + 1]})
    assert set(plan.pools.values()) == {"A", "B"}


def test_propagated_collection() -> None:
    """A frame of which all that is free goes to one pool gets that pool."""
    with pool("A"):
        a = dd.from_pandas(pd.concat([ORDERS] * 50), npartitions=2)
    with pool("B"):
        b = dd.from_pandas(CUSTOMERS, npartitions=1)
    joined = a.merge(b, on="customer")
    propagated = propagate_pools_in_collection(joined)
    assert get_pool(propagated) == "A"
    assert bare(propagated.expr)._name == bare(joined.expr)._name
    assert plan_pools(propagated).pools == plan_pools(joined).pools


def test_drawing(tmp_path: Path) -> None:
    """A frame of two pools is drawn with both."""
    with pool("A"):
        a = dd.from_pandas(ORDERS, npartitions=2)
    with pool("B"):
        b = dd.from_pandas(CUSTOMERS, npartitions=1)
    visualize_pools(a.merge(b, on="customer"), filename=str(tmp_path / "join.dot"))
    drawn = (tmp_path / "join.dot").read_text()
    assert "frompandas" in drawn
    assert "blockwisemerge" in drawn


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_keep_their_pool(way: Any) -> None:
    """A copied frame, and one that was pickled and read again, is in the pool that it was in."""
    with pool("A"):
        frame = dd.from_pandas(ORDERS, npartitions=2)
    copied = way(frame)
    assert get_pool(copied) == "A"
    assert copied._name == frame._name


# --- two pools for one


def test_one_source_in_two_pools() -> None:
    """A source that was made in two pools is an error when they meet, which names both."""
    with pool("A"):
        a = dd.from_pandas(ORDERS, npartitions=2)
    with pool("B"):
        b = dd.from_pandas(ORDERS, npartitions=2)
    with pytest.raises(ConflictingPools) as caught:
        a.merge(b, on="customer")
    assert caught.value.pools == ("A", "B")
    assert "frompandas" in caught.value.layer
    read = cloudpickle.loads(cloudpickle.dumps(caught.value))
    assert (read.pools, str(read)) == (caught.value.pools, str(caught.value))


def test_one_source_in_two_pools_computed_at_once() -> None:
    """The same source in two pools is an error where both are computed at once."""
    frame = dd.from_pandas(ORDERS, npartitions=2)
    a, b = assign_pool(frame, "A"), assign_pool(frame, "B")
    with propagate_pools(), pytest.raises(ConflictingPools, match="'A', 'B'"):
        dask.compute(a.total.sum(), b.total.mean())


def test_another_pool_cannot_be_assigned() -> None:
    """A frame in one pool is not moved to another by `assign_pool`."""
    frame = assign_pool(dd.from_pandas(ORDERS, npartitions=2), "A")
    assert get_pool(assign_pool(frame, "A")) == "A"
    with pytest.raises(ConflictingPools, match="'A', 'B'"):
        assign_pool(frame.total, "B")


def test_a_pin_holds_where_the_same_was_built_without() -> None:
    """What was made in pool A is in A also where it was made again without a pool, and then used
    with data of B.
    """
    again = dd.from_pandas(CUSTOMERS, npartitions=2)
    with pool("A"):
        pinned = dd.from_pandas(CUSTOMERS, npartitions=2)
    with pool("B"):
        orders = dd.from_pandas(ORDERS, npartitions=2)
    plan = plan_pools(orders.merge(again, on="customer"), pinned)
    key = pinned.optimize().__dask_keys__()[0]
    assert plan.pools[key] == "A"
    assert {where for k, where in plan.pools.items() if name_of(k) == key[0]} == {"A"}


def test_assigned_to_a_join() -> None:
    """`assign_pool` of a join pins what is free in it, and leaves its inputs where they are."""
    with pool("A"):
        a = dd.from_pandas(ORDERS, npartitions=2)
    with pool("B"):
        b = dd.from_pandas(CUSTOMERS, npartitions=2)
    plan = plan_pools(assign_pool(a.merge(b, on="customer"), "C"))
    assert {where for key, where in plan.pools.items() if "merge" in str(key)} == {"C"}
    assert {where for key, where in plan.pools.items() if "frompandas" in str(key)} == {"A", "B"}


@pytest.mark.parametrize("thing", [1, "orders", ORDERS, da.ones(3), None])
def test_assigning_a_pool_to_something_else(thing: Any) -> None:
    """`assign_pool` of what is no collection of expressions says what it got."""
    with pytest.raises(TypeError, match=type(thing).__name__):
        assign_pool(thing, "A")


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("a b", ValueError), (3, TypeError)])
def test_assigning_a_bad_name(name: Any, error: type[Exception]) -> None:
    """`assign_pool` checks names as `pool` does."""
    with pytest.raises(error):
        assign_pool(dd.from_pandas(ORDERS, npartitions=2), name)
