"""What a plan takes frames to weigh: bytes that are known, declared, or counted by partitions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import dask.dataframe as dd
import pandas as pd
import pytest
from frame_queries import CUSTOMERS, ORDERS, QUERIES, some_customers, source

from dask_worker_pools import assign_pool, plan_pools, pool
from dask_worker_pools.expr.graphs import graph_of
from dask_worker_pools.expr.rows import PARTITION, Estimates
from dask_worker_pools.graph import read
from dask_worker_pools.optimize import Pass
from dask_worker_pools.plan import Plan
from dask_worker_pools.slots import name_of
from dask_worker_pools.task_sizes import told_sizes

# What Dask's own code warns of, with pandas 3.1; what older Dask does, with NumPy 2.
pytestmark = [
    pytest.mark.usefixtures("by_tasks"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
    pytest.mark.filterwarnings("ignore:Passing more than 2 positional"),
]


def test_unknown_sizes_are_counted_instead() -> None:
    """Where the size of one side of a join is unknown, no bytes are told, and the plan says so."""
    with pool("A"):
        a = dd.from_pandas(ORDERS, npartitions=4)
    with pool("B"):
        b = dd.from_map(some_customers, range(2), meta=CUSTOMERS.iloc[:0])
    plan = plan_pools(a.merge(b, on="customer"))
    assert plan.counting
    assert "count" in " ".join(plan.assumptions)
    assert plan.sizes == {}


def made(where: str, files: int, nbytes: float | None = None) -> Any:
    """A frame that a function makes, in a pool: nobody knows its size unless it is declared."""
    with pool(where, nbytes=nbytes):
        return dd.from_map(
            some_customers, range(files), meta=CUSTOMERS.iloc[:0], label=f"in-{where}"
        )


def linked(plan: Plan) -> set[tuple[str | None, str]]:
    """From where and to where a plan sends anything."""
    return {(transfer.source, transfer.target) for transfer in plan.transfers}


@pytest.mark.parametrize(("in_a", "in_b", "link"), [(8, 2, ("B", "A")), (2, 8, ("A", "B"))])
def test_of_two_unknown_sizes_the_side_of_fewer_partitions_is_sent(
    in_a: int, in_b: int, link: tuple[str, str]
) -> None:
    """Of two frames of unknown size, the one that is made of fewer partitions is sent, though both
    have as many once they are shuffled.
    """
    plan = plan_pools(made("A", in_a).merge(made("B", in_b), on="customer"))
    assert linked(plan) == {link}


def test_what_is_kept_of_an_unknown_size_counts() -> None:
    """Of two frames of unknown size, of as many partitions, the one that was filtered is sent."""
    left, right = made("A", 4), made("B", 4)
    for kept, other, link in ((left, right, ("A", "B")), (right, left, ("B", "A"))):
        plan = plan_pools(kept[kept.customer == 3].merge(other, on="customer"))
        assert linked(plan) == {link}


def test_of_fewer_columns_less_is_sent(tmp_path: Path) -> None:
    """Of two frames of as many csv files, the one of which fewer columns are read is sent."""
    for name in ("a0", "a1", "b0", "b1"):
        ORDERS.to_csv(tmp_path / f"{name}.csv", index=False)
    with pool("A"):
        left = dd.read_csv(tmp_path / "a*.csv")
    with pool("B"):
        right = dd.read_csv(tmp_path / "b*.csv")
    for some, other, link in ((left, right, ("A", "B")), (right, left, ("B", "A"))):
        plan = plan_pools(some[["customer", "total"]].merge(other, on="customer"))
        assert linked(plan) == {link}


def test_no_bytes_are_claimed_for_unknown_sizes() -> None:
    """What is made of partitions of unknown size weighs so many of them, and has no bytes."""
    plan = plan_pools(made("A", 8).merge(made("B", 2), on="customer"))
    assert {transfer.nbytes for transfer in plan.transfers} == {None}
    assert plan.sizes == {}
    assert plan.total_bytes == 0
    sent = {transfer.key for transfer in plan.transfers}
    assert sum(map(plan.size_of, sent)) == pytest.approx(2)


def test_a_plan_shows_what_is_inside_pools_too() -> None:
    """Where the sizes of frames are known, a plan tells those of all outputs, and assumes nothing.

    The pieces that a shuffle cuts hold as much together as what it makes of them.
    """
    with pool("A"):
        left = dd.from_pandas(ORDERS, npartitions=8)
    with pool("B"):
        right = dd.from_pandas(CUSTOMERS, npartitions=2)
    plan = plan_pools(left[left.total > 100].merge(right, on="customer"))
    assert plan.assumptions == ()
    assert plan.sizes.keys() >= plan.pools.keys()
    total: Counter[Any] = Counter()
    for key, size in plan.sizes.items():
        total[name_of(key)] += round(size * 1000)
    shuffles = [str(name).removeprefix("split-") for name in total if str(name)[:6] == "split-"]
    assert len(shuffles) == 2
    for name in shuffles:
        assert total[name] == pytest.approx(total[f"split-{name}"], rel=1e-3)


@pytest.mark.parametrize(("in_a", "in_b", "link"), [(1e6, 8e6, ("A", "B")), (4e6, 8e6, ("B", "A"))])
def test_declared_sizes_of_frames_are_weighed_as_bytes(
    in_a: float, in_b: float, link: tuple[str, str]
) -> None:
    """The side of fewer declared bytes is sent, and they are what a plan says is sent."""
    plan = plan_pools(made("A", 8, in_a).merge(made("B", 2, in_b), on="customer"))
    assert linked(plan) == {link}
    # The labels of the rows, which each has once they are shuffled, come on top.
    assert min(8 * in_a, 2 * in_b) <= plan.total_bytes <= 1.5 * min(8 * in_a, 2 * in_b)
    assert plan.assumptions == ()


def test_declared_sizes_are_of_all_columns() -> None:
    """Of a partition of which fewer columns are used, less is sent."""
    whole = plan_pools(made("A", 8, 8e6).merge(made("B", 2, 4e6), on="customer"))
    some = made("A", 8, 8e6).merge(made("B", 2, 4e6)[["customer"]], on="customer")
    assert linked(whole) == linked(plan_pools(some)) == {("B", "A")}
    assert plan_pools(some).total_bytes < 0.9 * whole.total_bytes


def test_a_declared_size_is_of_what_is_made_in_the_block() -> None:
    """A method that is called in the block leaves what was made before with its own size."""
    left, right = made("A", 8, 1e6), made("B", 2, 8e6)
    alone = plan_pools(left.merge(right, on="customer"))
    with pool("B", nbytes=1e9):
        again = plan_pools(left.merge(right, on="customer"))
    sent = {plan.size_of(key) for plan in (alone, again) for key in plan.sizes}
    assert max(sent) < 1e8


def test_a_size_may_be_declared_anew() -> None:
    """What is built again with another size has that, while the first is still there."""
    first, second = (
        made("A", 8, size).merge(made("B", 2, 8e6), on="customer") for size in (1e6, 1e8)
    )
    assert linked(plan_pools(first)) == {("A", "B")}
    assert linked(plan_pools(second)) == {("B", "A")}


def test_declared_sizes_outlast_all_that_happens_to_a_marker() -> None:
    """A size stays declared where a frame is pickled, assigned, or pinned in one place of two."""
    left, right = made("A", 8, 1e6), made("B", 2, 8e6)
    total = plan_pools(left.merge(right, on="customer")).total_bytes
    copied = cloudpickle.loads(cloudpickle.dumps(left))
    assert plan_pools(copied.merge(right, on="customer")).total_bytes == total
    again = assign_pool(left[left.customer > 0], "A").merge(right, on="customer")
    assert 0 < plan_pools(again).total_bytes < total
    bare_left = dd.from_map(some_customers, range(8), meta=CUSTOMERS.iloc[:0], label="in-A")
    both = plan_pools(left.merge(right, on="customer"), bare_left.merge(right, on="customer"))
    assert both.assumptions == ()


def test_what_a_plan_says_of_unknown_sizes() -> None:
    """A plan says that it counts partitions of sources."""
    plan = plan_pools(made("A", 8).merge(made("B", 2), on="customer"))
    assert plan.assumptions == ("counting partitions of sources, sizes unknown",)
    assert "Between pools: 2 transfers of unknown size (B → A)" in repr(plan)
    (made_in_b,) = {name for name in plan.layers if name.startswith("in-B")}
    assert "sizes unknown, count 2 partitions" in repr(plan.explain(made_in_b))


@pytest.mark.parametrize(("partitions", "files", "link"), [(8, 2, ("B", "A")), (2, 8, ("A", "B"))])
def test_a_partition_of_unknown_size_is_like_the_known_ones(
    partitions: int, files: int, link: tuple[str, str]
) -> None:
    """Of a frame of known and one of unknown size, the one of fewer partitions is sent; no bytes
    are claimed for either.
    """
    with pool("A"):
        known = dd.from_pandas(ORDERS, npartitions=partitions)
    plan = plan_pools(known.merge(made("B", files), on="customer"))
    assert linked(plan) == {link}
    assert {transfer.nbytes for transfer in plan.transfers} == {None}


def _narrow(rows: pd.DataFrame) -> pd.DataFrame:
    return rows


@pytest.mark.parametrize("width", [1, 2, 8])
@pytest.mark.parametrize("used", [1, 8])
def test_a_known_frame_weighs_as_much_as_an_unknown_one(width: int, used: int) -> None:
    """Of the same rows, known and unknown, 4 partitions are sent and not 7, whatever labels they
    have and whichever columns are used of them.
    """
    table = pd.DataFrame({f"x{i}": range(700) for i in range(width)}, dtype="int32")
    columns = list(table.columns[:used])
    with pool("A"):
        known = dd.from_pandas(table, npartitions=4)
    with pool("B"):
        parts = [table.iloc[100 * i : 100 * i + 100] for i in range(7)]
        unknown = dd.from_map(_narrow, parts, meta=table.iloc[:0])
    plan = plan_pools(known[columns].merge(unknown[columns], on="x0"))
    assert linked(plan) == {("A", "B")}
    if used >= width:
        assert [plan.weights[sent.key] for sent in plan.transfers] == pytest.approx([1] * 4)


def test_a_source_that_is_read_several_partitions_at_a_time_counts_once(tables: Path) -> None:
    """What a partition weighs does not change where Dask reads several of a source at once."""
    estimates = Estimates()
    frame = dd.read_parquet(tables / "orders")[["total"]] + 1
    fused = frame.optimize().expr
    assert fused.npartitions < frame.npartitions
    assert estimates.nbytes(fused) is not None
    whole = Estimates().nbytes(dd.read_parquet(tables / "orders").expr)
    assert estimates.typical_source() == pytest.approx(whole)


def test_known_sizes_weigh_against_each_other() -> None:
    """Where others are of unknown size, of two frames of known size the smaller is still sent."""
    with pool("A"):
        long = dd.from_pandas(pd.concat([ORDERS] * 10), npartitions=2)
    with pool("B"):
        short = dd.from_pandas(ORDERS, npartitions=4)
    unknown = made("C", 3).merge(made("D", 2), on="customer")
    plan = plan_pools(long.merge(short, on="customer"), unknown)
    assert plan.counting
    assert linked(plan) == {("B", "A"), ("D", "C")}


def test_weights_outlast_a_plan() -> None:
    """A graph that was planned in the user's process weighs as much when it is planned again."""
    graph, keys = graph_of([made("A", 8).merge(made("B", 2), on="customer").expr])
    again = Pass()(graph, keys)
    before, after = (Counter(told_sizes(one, read(one, keys)).weights) for one in (graph, again))
    assert before == after
    assert before[1.0] == 2  # what is sent: partitions of sources
    assert before.keys() - {None, 1.0}


def test_unknown_frames_beside_arrays_of_known_size() -> None:
    """Beside arrays, a partition of unknown size counts as the median of what is known."""
    arrays = []
    for where in ("A", "B"):
        with pool(where):
            arrays.append(da.ones((4, 100), chunks=(1, 100)))
    joined = made("A", 8).merge(made("B", 2), on="customer")
    plan = plan_pools(joined, arrays[0] + arrays[1])
    assert not plan.counting
    shipped = [t for t in plan.transfers if t.nbytes is None]
    assert {(t.source, t.target) for t in shipped} == {("B", "A")}
    assert sum(plan.size_of(t.key) for t in shipped) == pytest.approx(2 * 800)
    assert any(
        "counted as partitions of sources, each the median, 800 B" in said
        for said in plan.assumptions
    )


# --- bytes of expressions


@pytest.mark.parametrize("kind", ["pandas", "parquet"])
@pytest.mark.parametrize("name", ["itself", "columns", "assign", "merge", "shuffle", "drop"])
def test_estimated_bytes(kind: str, name: str, tables: Path) -> None:
    """Bytes told from rows are within a factor of two of those of the result."""
    frame = QUERIES[name](*source(kind, tables)).optimize(fuse=False)
    told = Estimates().nbytes(frame.expr)
    assert told is not None
    result = frame.compute()
    true = pd.DataFrame(result).memory_usage(deep=True).sum()
    assert true / 2 <= told * frame.npartitions <= 2 * true


def test_bytes_of_functions_are_unknown(tables: Path) -> None:
    """What a function reads, and what follows from it, has no known size."""
    orders, _ = source("map", tables)
    assert Estimates().nbytes(orders.expr) is None
    assert Estimates().nbytes(orders.total.optimize().expr) is None


def test_bytes_of_functions_are_assumed_where_asked_for(tables: Path) -> None:
    """A partition that a function reads has as many bytes as are assumed, and a column of it
    fewer.
    """
    orders, _ = source("map", tables)
    assert Estimates(1000.0).nbytes(orders.expr) == pytest.approx(1000)
    column = Estimates(1000.0).nbytes(orders.total.optimize(fuse=False).expr)
    assert column is not None
    assert 0 < column < 500


@pytest.mark.parametrize(
    ("kind", "assumed"), [("pandas", None), ("parquet", None), ("map", PARTITION)]
)
def test_every_query_has_a_size(kind: str, assumed: float | None, tables: Path) -> None:
    """Dask's expressions are known by name: of data of known size, or of a size that is assumed,
    each query has one.

    Quantiles are an exception: their sketches are of no known size.
    """
    lost = []
    for name, query in QUERIES.items():
        frame = query(*source(kind, tables)).optimize(fuse=False)
        if Estimates(assumed).nbytes(frame.expr) is None:
            lost.append(name)
    assert set(lost) <= {"quantile", "describe"}
