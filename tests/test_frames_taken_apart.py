"""Graphs that people take of frames in a pool, and put into graphs of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from dask_worker_pools import plan_pools, pool, propagate_pools
from dask_worker_pools.expr import markers

VALUES = pd.DataFrame({"k": [i * 5 % 7 for i in range(12)], "x": range(12)})


def part(i: int) -> pd.DataFrame:
    """One of the partitions of `VALUES`."""
    return VALUES.iloc[4 * i : 4 * i + 4]


def doubled(frame: Any) -> Any:
    """Twice a partition, if it is one."""
    assert isinstance(frame, pd.DataFrame), frame
    return frame * 2


def by_name(frame: Any) -> Any:
    """A graph over the keys that the name of a frame tells."""
    tasks: dict[Any, Any] = {
        ("mine", i): (doubled, (frame._name, i)) for i in range(frame.npartitions)
    }
    graph = HighLevelGraph.from_collections("mine", tasks, dependencies=[frame])
    return made(graph, frame, tasks)


def by_keys(frame: Any) -> Any:
    """A graph over the keys of a frame."""
    tasks: dict[Any, Any] = {
        ("mine", i): (doubled, key) for i, key in enumerate(frame.__dask_keys__())
    }
    return made(HighLevelGraph.from_collections("mine", tasks, dependencies=[frame]), frame, tasks)


def in_a_dict(frame: Any) -> Any:
    """One dict of a frame's tasks and others."""
    tasks = {("mine", i): (doubled, (frame._name, i)) for i in range(frame.npartitions)}
    return made({**dict(frame.dask), **tasks}, frame, tasks)


def merged(frame: Any) -> Any:
    """One dict, from the graph that Dask asks a collection for."""
    tasks = {("mine", i): (doubled, (frame._name, i)) for i in range(frame.npartitions)}
    return made(tasks | dict(frame.__dask_graph__()), frame, tasks)


def delayed(frame: Any) -> Any:
    """Delayed objects of all partitions, made by hand."""
    graph = HighLevelGraph.from_collections("taken", dict(frame.dask), dependencies=())
    parts = [Delayed((frame._name, i), graph, layer="taken") for i in range(frame.npartitions)]
    return dd.from_delayed([dask.delayed(doubled)(one) for one in parts], meta=frame._meta)


def delayed_graph(frame: Any) -> Any:
    """Delayed objects of all partitions, of the graph as the frame shows it."""
    parts = [Delayed((frame._name, i), frame.dask) for i in range(frame.npartitions)]
    return dd.from_delayed([dask.delayed(doubled)(one) for one in parts], meta=frame._meta)


def to_delayed(frame: Any) -> Any:
    """Delayed objects of all partitions."""
    return dd.from_delayed(list(map(dask.delayed(doubled), frame.to_delayed())), meta=frame._meta)


def partitions(frame: Any) -> Any:
    """Partitions by number, put together again."""
    return dd.concat([doubled_frame(frame.partitions[i]) for i in range(frame.npartitions)])


def got(frame: Any) -> Any:
    """Partitions that were got, put together again."""
    return dd.concat([doubled_frame(frame.get_partition(i)) for i in range(frame.npartitions)])


def doubled_frame(frame: Any) -> Any:
    """Twice a frame."""
    return frame.map_partitions(doubled, meta=frame._meta)


def made(graph: Any, frame: Any, tasks: dict[Any, Any]) -> Any:
    """A frame of a graph."""
    return dd.from_graph(graph, frame._meta, [None] * (len(tasks) + 1), list(tasks), "mine")


WAYS = [by_name, by_keys, in_a_dict, merged, delayed, delayed_graph, to_delayed, partitions, got]


@pytest.mark.parametrize("inside", [None, "A", "B"])
@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_taken_apart(way: Callable[[Any], Any], optimized: bool, inside: str | None) -> None:
    """Keys of a frame in a pool stand for its partitions, and its source stays in its pool."""
    with propagate_pools():
        with pool("A"):
            frame = dd.from_map(part, range(3), meta=VALUES.iloc[:0])
        frame = frame.optimize() if optimized else frame
        result = pooled(lambda: way(frame), inside)
        computed = result.compute(scheduler="sync")
        plan = plan_pools(result)
    pd.testing.assert_frame_equal(computed.reset_index(drop=True), VALUES * 2, check_dtype=False)
    sources = [key for key, needed in plan.dependencies.items() if not needed]
    assert {plan.pools[key] for key in sources} == {"A"}


def pooled(make: Callable[[], Any], name: str | None) -> Any:
    """What is made in a pool, or in none."""
    if name is None:
        return make()
    with pool(name):
        return make()


@pytest.mark.filterwarnings("ignore:Computing mixed collections")
def test_frame_and_delayed_at_once() -> None:
    """An optimised frame is computed and kept together with delayed objects."""
    with propagate_pools():
        with pool("A"):
            frame = dd.from_map(part, range(3), meta=VALUES.iloc[:0]).optimize()
        kept, one = dask.persist(frame, dask.delayed(int)(1), scheduler="sync")
        assert kept.x.sum().compute(scheduler="sync") == VALUES.x.sum()
        assert one.compute(scheduler="sync") == 1
        assert by_name(kept).x.sum().compute(scheduler="sync") == 2 * VALUES.x.sum()


# --- Markers further down


def blocked_columns() -> Any:
    """Columns taken in `pool(None)` after a join that computes divisions."""
    with pool("A"):
        left = dd.from_pandas(VALUES, npartitions=3)
    with pool("C"):
        right = dd.from_pandas(VALUES.assign(g=VALUES.x % 3), npartitions=2)
    both = right.merge(left[["k", "x"]].rename(columns={"x": "w"}), on="k")
    most = both.groupby("k").x.max().rename("most").to_frame()
    joined = both.set_index("k").join(most, how="left").reset_index()
    with pool(None):
        return joined.assign(x=joined.most)[["k", "g", "x"]]


@pytest.mark.parametrize(
    "make",
    [
        blocked_columns,
        lambda: counts("C", None, "A"),
        lambda: counts("C", "B", "A"),
        lambda: counts("A", "A", "A"),
    ],
)
def test_lowered_across_markers(make: Callable[[], Any]) -> None:
    """What follows markers is lowered as without pools, and gives as many rows."""
    with dask.config.set({"dataframe.shuffle.method": "tasks", "scheduler": "sync"}):
        with propagate_pools():
            result = make()
            rows = len(result.compute())
        plain = len(type(result)(markers.bare(result.expr)).compute())
    assert rows == plain > 0


def counts(first: str | None, second: str | None, third: str | None) -> Any:
    """Counts of counts, whose columns are renamed."""

    def of(frame: Any) -> Any:
        return frame.s.value_counts().reset_index().rename(columns={"count": "n"})

    table = VALUES.assign(s=VALUES.k.astype(str))
    frame = pooled(lambda: dd.from_pandas(table, npartitions=2), first)
    once = pooled(lambda: of(frame), second)
    return pooled(lambda: of(once), third)
