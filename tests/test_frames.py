"""dask.dataframe: what is made in a pool runs there, and what follows runs where fewest bytes move.

The cluster has workers in pool A, in pool B and in none. Neither the scheduler nor the workers can
import this package.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clusters
import dask
import dask.array as da
import dask.dataframe as dd
import pandas as pd
import pytest
from dask.delayed import delayed
from distributed import Client, futures_of, wait
from frame_queries import CUSTOMERS, ORDERS
from packaging.version import Version

from dask_worker_pools import (
    NoSuchPool,
    PeerToPeerInPool,
    assign_pool,
    get_pool,
    measure_transfers,
    pool,
    propagate_pools,
)

Where = dict[Any, set[str | None]]

MIXED = "ignore:Computing mixed collections:UserWarning"


pytestmark = pytest.mark.usefixtures("nothing_left")


def orders(where: str | None = "A", partitions: int = 4) -> Any:
    """200 orders, in a pool."""
    with pool(where):
        return dd.from_pandas(ORDERS, npartitions=partitions)


def customers(where: str | None = "B") -> Any:
    """20 customers in two partitions, in a pool."""
    with pool(where):
        return dd.from_pandas(CUSTOMERS, npartitions=2)


def joined() -> Any:
    """Orders of pool A by the country of customers of pool B."""
    bought = orders()
    kept = bought[bought.total > 100]
    return kept.merge(customers(), on="customer").groupby("country").total.sum()


JOINED = ORDERS[ORDERS.total > 100].merge(CUSTOMERS, on="customer").groupby("country").total.sum()


def run(client: Client, compute: Callable[[], Any], once: bool = True) -> tuple[Any, Where]:
    """What `compute` gives inside `propagate_pools`, and where each task ran.

    `once`: all of it is one computation, so that each task ran in one place.
    """
    with clusters.record_executions(client) as ran, propagate_pools():
        result = compute()
        wait(futures_of(result))
    found = ran.pools_of
    assert found
    assert not once or {key: where for key, where in found.items() if len(where) > 1} == {}
    return result, found


def pools(found: Where) -> set[str | None]:
    """The pools of all tasks."""
    return set().union(*found.values())


def of(found: Where, name: str) -> set[str | None]:
    """The pools of the tasks of one kind."""
    kinds = {
        k: v for k, v in found.items() if str(k[0] if isinstance(k, tuple) else k).startswith(name)
    }
    assert kinds, f"{name!r} is none of {list(found)}"
    return set().union(*kinds.values())


def same(got: Any, wanted: Any) -> None:
    """Frames and series are equal, whatever Dask made of index types and order."""
    if isinstance(wanted, pd.DataFrame):
        pd.testing.assert_frame_equal(got.sort_index(), wanted.sort_index(), check_dtype=False)
    elif isinstance(wanted, pd.Series):
        pd.testing.assert_series_equal(
            got.sort_index(), wanted.sort_index(), check_dtype=False, check_index_type=False
        )
    else:
        assert got == wanted


# --- sources


def written(directory: Path) -> Path:
    """A directory of four parquet files."""
    for i in range(4):
        part = ORDERS.iloc[50 * i : 50 * i + 50]
        part.to_parquet(directory / f"{i}.parquet", index=False)
    return directory


def parquet(directory: Path) -> Any:
    """Orders that are read from parquet."""
    return dd.read_parquet(written(directory))


def arrow(directory: Path) -> Any:
    """The same, read with pyarrow's own file systems, which has Dask compute statistics."""
    return dd.read_parquet(written(directory), filesystem="arrow")


def csv(directory: Path) -> Any:
    """Orders that are read from csv."""
    for i in range(4):
        ORDERS.iloc[50 * i : 50 * i + 50].to_csv(directory / f"{i}.csv")
    return dd.read_csv(directory / "*.csv", parse_dates=["day"])


def mapped(directory: Path) -> Any:
    """Orders that a function makes."""

    def part(i: int) -> pd.DataFrame:
        return frame.iloc[50 * i : 50 * i + 50]

    frame = ORDERS
    return dd.from_map(part, range(4), meta=ORDERS.iloc[:0])


def from_array(directory: Path) -> Any:
    """Totals that come from an array."""
    totals = da.from_array(ORDERS.total.to_numpy(), chunks=50)
    return dd.from_dask_array(totals, columns="total").to_frame()


SOURCES = [parquet, arrow, csv, mapped, from_array]


@pytest.mark.parametrize("source", SOURCES)
def test_source(client: Client, tmp_path: Path, source: Callable[[Path], Any]) -> None:
    """What was made in pool A is read there, and what follows runs there, whatever the source."""
    clear_statistics()
    with pool("A"):
        made = source(tmp_path)
    frame, where = run(client, lambda: made[["total"]].sum().compute())
    assert pools(where) == {"A"}
    same(frame, ORDERS[["total"]].sum())


def clear_statistics() -> None:
    """Make Dask forget what it knows of parquet files."""
    from dask.dataframe.dask_expr.io import parquet as module

    module._STATS_CACHE.clear()


def test_delayed_objects_keep_their_own_pools(client: Client) -> None:
    """A frame of delayed objects of two pools loads each in its own."""

    def part(i: int) -> pd.DataFrame:
        return frame.iloc[100 * i : 100 * i + 100]

    def other(i: int) -> pd.DataFrame:
        return part(i)

    frame = ORDERS
    with pool("A"):
        a = delayed(part)(0)
    with pool("B"):
        b = delayed(other)(1)
    total, where = run(
        client, lambda: dd.from_delayed([a, b], meta=ORDERS.iloc[:0]).total.sum().compute()
    )
    assert total == ORDERS.total.sum()
    assert of(where, "part") == {"A"}
    assert of(where, "other") == {"B"}


def test_methods_in_a_block_are_pinned(client: Client) -> None:
    """A step that is built inside a pool's block runs in that pool, also on data of another."""

    def only_in_a(frame: pd.DataFrame) -> pd.DataFrame:
        return frame

    with pool("A"):
        moved = customers("B").map_partitions(only_in_a)
    result, where = run(client, lambda: (moved.rest + 1).sum().compute())
    assert result == 2 * len(CUSTOMERS)
    assert of(where, "frompandas") == {"B"}
    assert of(where, "chunk") == {"A"}  # it is fused with `only_in_a`, and free to run in B


def test_what_meets_is_fused_with_the_side_it_runs_beside(client: Client) -> None:
    """Where frames of two pools meet, the step is one task with those of the pool it runs in."""

    def ones(part: int) -> pd.DataFrame:
        return pd.DataFrame({"x": [1, 1]})

    def numbers(part: int) -> pd.DataFrame:
        # A column of two is taken to be smaller than an only one: it is sent, and all meet in A.
        return pd.DataFrame({"x": [part, part], "y": 0})

    def made(name: str, function: Any) -> Any:
        with pool(name):
            divisions = tuple(range(0, 10, 2))
            return dd.from_map(function, range(4), meta=function(0), divisions=divisions) + 1

    result, where = run(client, lambda: (made("A", ones).x + made("B", numbers).x).sum().compute())
    assert result == 2 * (4 * 2 + 6 + 4)
    assert set().union(*where.values()) == {"A", "B"}
    # A task for each partition in either pool, and the sum of all.
    assert len(where) == 2 * 4 + 1


def test_blocked(client: Client) -> None:
    """What is made in `pool(None)` gets no pool, and does not pull what follows into one."""
    frame = orders(None)

    with propagate_pools():
        future = client.compute(frame.total.sum())
        wait(future)
        asked = clusters.restrictions(client, future)
    assert future.result() == ORDERS.total.sum()
    assert not any(asked.values())


def test_any_of_several_pools(client: Client) -> None:
    """What may run in A or B runs in one of them, and goes to the data that it meets."""
    with pool("A", "B"):
        either = dd.from_pandas(CUSTOMERS, npartitions=1)
    result, where = run(
        client, lambda: either.merge(customers("B"), on="customer").rest_x.sum().compute()
    )
    assert result == len(CUSTOMERS)
    assert pools(where) == {"B"}


# --- ways to compute


WAYS: dict[str, Callable[[Any, Client, Path], Any]] = {
    "compute": lambda frame, client, path: frame.compute(),
    "dask.compute": lambda frame, client, path: dask.compute(frame)[0],
    "persist": lambda frame, client, path: frame.persist(),
    "dask.persist": lambda frame, client, path: dask.persist(frame)[0],
    "Client.compute": lambda frame, client, path: client.compute(frame).result(),
    "Client.persist": lambda frame, client, path: client.persist(frame),
    "optimize": lambda frame, client, path: frame.optimize().compute(),
    "to_delayed": lambda frame, client, path: dask.compute(*frame.to_delayed()),
    "delayed": lambda frame, client, path: delayed(len)(frame).compute(),
    "to_parquet": lambda frame, client, path: frame.to_frame().to_parquet(path / "out"),
    "len": lambda frame, client, path: len(frame),
    "head": lambda frame, client, path: frame.head(1, npartitions=-1),
    "tail": lambda frame, client, path: frame.tail(1),
    "iteration": lambda frame, client, path: list(frame.to_frame().itertuples()),
    "partitions": lambda frame, client, path: [one.compute() for one in frame.partitions],
    "values": lambda frame, client, path: frame.values.compute(),
    "to_dask_array": lambda frame, client, path: frame.to_dask_array(lengths=True).sum().compute(),
    "set_index": lambda frame, client, path: frame.to_frame().set_index("total").compute(),
    "sort_values": lambda frame, client, path: frame.to_frame().sort_values("total").compute(),
    "quantile": lambda frame, client, path: frame.quantile(0.5).compute(),
    "describe": lambda frame, client, path: frame.describe().compute(),
    "cumsum": lambda frame, client, path: frame.cumsum().compute(),
    "repartition": lambda frame, client, path: frame.repartition(npartitions=2).compute(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("partitions", [1, 4])
def test_way_in_one_pool(client: Client, tmp_path: Path, way: str, partitions: int) -> None:
    """However a frame of pool A is computed, every task runs in A, of one partition as of many."""
    frame = orders(partitions=partitions).assign(total=lambda f: f.total + 1).total
    _, where = run(client, lambda: WAYS[way](frame, client, tmp_path))
    assert pools(where) == {"A"}


@pytest.mark.parametrize("way", WAYS)
def test_way_across_pools(client: Client, tmp_path: Path, way: str) -> None:
    """However a join of two pools is computed, its loads run in theirs and no task in no pool."""
    frame = orders().merge(customers(), on="customer").total
    _, where = run(client, lambda: WAYS[way](frame, client, tmp_path), once=False)
    assert pools(where) == {"A", "B"}
    for key, ran in where.items():
        if "frompandas" in str(key):
            assert ran == ({"A"} if key[1] > 1 else ran)
            assert len(ran) == 1


def test_join_gives_what_pandas_gives(client: Client) -> None:
    """A filtered join of two pools and a groupby give the right values."""
    result, where = run(client, lambda: joined().compute())
    same(result, JOINED)
    assert pools(where) == {"A", "B"}


def test_several_at_once(client: Client) -> None:
    """Frames, an array and a delayed object are computed at once, in order, each in its pool."""
    with pool("B"):
        ones = da.ones(8, chunks=4)
        word = delayed(str.upper)("x")
    frame = orders()

    def compute() -> Any:
        return dask.compute(ones.sum(), frame.total.sum(), word, joined(), ones + 1)

    (total, bought, text, join, twos), where = run(client, compute)
    assert (total, bought, text, twos.tolist()) == (8, ORDERS.total.sum(), "X", [2.0] * 8)
    same(join, JOINED)
    assert pools(where) == {"A", "B"}
    assert of(where, "upper") == {"B"}


def test_several_frames_share_what_they_share(client: Client) -> None:
    """A source that frames of two pools use and nobody pinned runs once, in one of them."""
    free = dd.from_pandas(CUSTOMERS.rename(columns={"rest": "free"}), npartitions=1)

    def compute() -> Any:
        return dask.compute(
            orders("A").merge(free, on="customer").free.sum(),
            customers("B").merge(free, on="customer").free.sum(),
        )

    result, where = run(client, compute)
    assert result == (len(ORDERS), len(CUSTOMERS))
    assert pools(where) == {"A", "B"}


def test_array_as_a_column(client: Client) -> None:
    """An array that becomes a column of a frame of pool A is computed with it there."""
    frame = orders()
    with pool("A"):
        frame["more"] = da.arange(len(ORDERS), chunks=50)
    result, where = run(client, lambda: (frame.total + frame.more).sum().compute())
    assert result == 2 * ORDERS.total.sum()
    assert pools(where) == {"A"}


def test_persisted_frames_keep_their_pool(client: Client) -> None:
    """What follows from a persisted frame runs where it lies, and nothing is loaded again."""

    def compute() -> Any:
        kept = orders().assign(n=1).persist()
        wait(kept)
        return get_pool(kept), get_pool(kept.total.sum()), (kept.total + kept.n).sum().compute()

    result, where = run(client, compute)
    assert result == ("A", "A", ORDERS.total.sum() + len(ORDERS))
    assert pools(where) == {"A"}
    assert sum("frompandas" in str(key) for key in where) == 4


@pytest.mark.skipif(
    Version(dask.__version__) < Version("2026.1"),
    reason="older versions of Dask cannot persist frames and arrays at once",
)
@pytest.mark.filterwarnings(MIXED)
def test_frames_and_arrays_persisted_at_once(client: Client) -> None:
    """Frames and arrays that are persisted at once are loaded in their pools, and stay there."""
    with pool("B"):
        ones = da.ones(8, chunks=4)

    def compute() -> Any:
        kept, twos = dask.persist(orders(), ones + 1)
        wait([kept, twos])
        return get_pool(kept), kept.total.sum().compute(), twos.sum().compute()

    result, where = run(client, compute)
    assert result == ("A", ORDERS.total.sum(), 16)
    assert of(where, "frompandas") == {"A"}
    assert of(where, "add") == {"B"}
    assert pools(where) == {"A", "B"}


def test_persisted_join(client: Client) -> None:
    """What follows from a persisted join runs in the two pools, and in no other place."""

    def compute() -> Any:
        kept = orders().merge(customers(), on="customer").persist()
        return kept.groupby("country").total.sum().compute()

    result, where = run(client, compute)
    same(result, ORDERS.merge(CUSTOMERS, on="customer").groupby("country").total.sum())
    assert pools(where) == {"A", "B"}


def test_the_smaller_side_is_sent(client: Client) -> None:
    """Of a join, about as many bytes cross as the smaller side has after its filter."""
    big = pd.DataFrame({"key": range(200_000), "x": 1.0, "y": 2.0})
    small = pd.DataFrame({"key": range(0, 200_000, 20), "z": 3.0})
    with pool("A"):
        left = dd.from_pandas(big, npartitions=4)
    with pool("B"):
        right = dd.from_pandas(small, npartitions=2)
    with propagate_pools(), measure_transfers(client) as moved:
        result = left.merge(right, on="key").z.sum().compute()
    assert result == 3.0 * len(small)
    sent = moved.bytes_by_link
    row = 3 * 8  # with the index
    assert sent.get(("A", "B"), 0) < 2_000
    assert 0 < sent["B", "A"] <= 1.2 * row * len(small)


def test_the_side_of_fewer_partitions_is_sent(client: Client) -> None:
    """Of a join of frames that functions make, about as many bytes cross as the one of fewer
    partitions has: nobody knows their sizes.
    """

    def numbered(i: int, name: str) -> pd.DataFrame:
        return pd.DataFrame({"key": range(10_000 * i, 10_000 * (i + 1)), name: 1.0})

    with pool("A"):
        left = dd.from_map(numbered, range(8), name="x")
    with pool("B"):
        right = dd.from_map(numbered, range(2), name="y")
    with propagate_pools(), measure_transfers(client) as moved:
        result = left.merge(right, on="key").y.sum().compute()
    assert result == 20_000
    row = 3 * 8  # with the index
    assert moved.bytes_by_link.get(("A", "B"), 0) < 2_000
    assert 0 < moved.bytes_by_link["B", "A"] <= 1.2 * row * 20_000


def test_the_side_of_fewer_declared_bytes_is_sent(client: Client) -> None:
    """Where sizes are declared, they are what counts, in the scheduler too."""

    def numbered(i: int, name: str) -> pd.DataFrame:
        return pd.DataFrame({"key": range(1000 * i, 1000 * (i + 1)), name: 1.0})

    with pool("A", nbytes="1 MB"):
        left = dd.from_map(numbered, range(8), name="x")
    with pool("B", nbytes="64 MB"):
        right = dd.from_map(numbered, range(2), name="y")
    with propagate_pools(), measure_transfers(client) as moved:
        result = left.merge(right, on="key").y.sum().compute()
    assert result == 2000
    assert {(a, b) for a, b in moved.bytes_by_link if a != b} == {("A", "B")}


# --- what can go wrong


def test_missing_pool(client: Client) -> None:
    """A pool that no worker offers is an error that counts all its tasks, before anything runs."""
    with propagate_pools(), pytest.raises(NoSuchPool) as caught:
        assign_pool(dd.from_pandas(ORDERS, npartitions=4), "C").total.sum().compute()
    assert caught.value.pool == "C"
    assert caught.value.n_tasks == 13
    assert set(caught.value.pools) == {"A", "B"}


def test_missing_pool_of_what_dask_computes_itself(client: Client) -> None:
    """A pool that is missing for the quantiles of an index is an error, and does not hang."""
    with propagate_pools(), pytest.raises(NoSuchPool):
        assign_pool(dd.from_pandas(ORDERS, npartitions=4), "C").set_index("total").compute()


def test_peer_to_peer(client: Client) -> None:
    """A peer-to-peer shuffle that was asked for by name is an error, and does not hang."""
    with propagate_pools(), pytest.raises(PeerToPeerInPool) as caught:
        orders().shuffle("customer", shuffle_method="p2p").total.sum().compute()
    assert caught.value.config == "dataframe.shuffle.method"


def test_outside_of_propagation(client: Client) -> None:
    """Outside of `propagate_pools` a frame with pools is computed as by Dask, with a warning."""
    with pytest.warns(UserWarning, match="outside of propagate_pools"):
        assert orders().total.sum().compute() == ORDERS.total.sum()


def test_a_frame_in_a_task(client: Client) -> None:
    """A frame that is sent to a worker without this package is a frame without pools there."""

    def count(frame: Any) -> int:
        return int(frame.npartitions) * 10 + len(frame.columns)

    assert client.submit(count, orders()).result() == 45


def test_pools_hold_where_dataframe_is_imported_late(client: Client) -> None:
    """dask.dataframe may be imported after this package, also inside the pool's block."""
    assert client.scheduler is not None
    code = f"""
import sys
from dask_worker_pools import pool, propagate_pools
assert "dask.dataframe" not in sys.modules
from distributed import Client
import pandas as pd
with Client({client.scheduler.address!r}), propagate_pools():
    with pool("B"):
        import dask.dataframe as dd
        frame = dd.from_pandas(pd.DataFrame({{"late": [1, 2]}}), npartitions=2)
    print(frame.late.sum().compute())
"""
    with clusters.record_executions(client) as ran:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
        )
    assert done.stdout == "3\n", done.stderr
    assert pools(ran.pools_of) == {"B"}
