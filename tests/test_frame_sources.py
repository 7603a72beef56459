"""Every source stays in its pool, and every pinned step, however frames of pools are combined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import clusters
import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask.delayed import delayed
from dask.typing import Key
from distributed import Client, get_worker, wait
from frame_queries import NARROW, WIDE, grown

from dask_worker_pools import (
    assign_pool,
    get_pool,
    measure_transfers,
    plan_pools,
    pool,
    propagate_pools,
)
from dask_worker_pools.expr.graphs import graph_of
from dask_worker_pools.expr.regions import placed
from dask_worker_pools.graph import read
from dask_worker_pools.slots import name_of

ROWS = 200
TABLES = [
    pd.DataFrame({"k": np.arange(ROWS) % 50, name: np.arange(float(ROWS)), f"{name}2": 2.0})
    for name in "xyz"
]
#: What frames of several pools are made to: each takes the three tables.
QUERIES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "merge, merge": lambda x, y, z: x.merge(y, on="k").merge(z, on="k"),
    "sum of merges": lambda x, y, z: x.merge(y, on="k").merge(z, on="k").x.sum(),
    "join, join": lambda x, y, z: x[["x"]].join(y[["y"]]).join(z[["z"]]),
    "sum of columns": lambda x, y, z: x.k + y.k + z.k,
    "difference, then more": lambda x, y, z: ((x.k - y.k) * z.k + x.k).max(),
    "filter by another": lambda x, y, z: x[x.k > y.k - z.k],
    "filter by a sum": lambda x, y, z: x[x.x + y.y > 3].x.sum() + z.z.sum(),
    "filter": lambda x, y, z: x[x.k + y.k > 3].assign(z=z.z.max()),
    "assign": lambda x, y, z: x.assign(s=x.k + y.k + z.k)[["s", "x"]],
    "reductions": lambda x, y, z: x.x - y.y.mean() + z.z.min(),
    "mean of a sum": lambda x, y, z: x.k - (y.k + z.k).mean(),
}


@pytest.fixture(scope="module", autouse=True)
def shuffled_by_tasks() -> Iterator[None]:
    """Shuffle by tasks, as inside `propagate_pools`, which plans here are made without."""
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        yield


def tables(places: str) -> list[Any]:
    """The three tables, each in a pool; a dash stands for ``pool(None)``."""
    frames = []
    for table, place in zip(TABLES, places, strict=True):
        with pool(None if place == "-" else place):
            frames.append(dd.from_pandas(table, npartitions=2))
    return frames


def is_of(key: Key, kind: str) -> bool:
    """Whether a task is of a kind of expressions."""
    return str(name_of(key)).startswith(kind)


def values(result: Any) -> list[float]:
    """All numbers of a result, in order of size."""
    return sorted(np.ravel(result).tolist())


@pytest.mark.parametrize("places", ["ABA", "ABB", "ABC", "BAA", "A-A", "AB-"])
@pytest.mark.parametrize("name", QUERIES)
def test_sources_are_pinned_in_every_graph(name: str, places: str) -> None:
    """Of the graph that is planned, sources are pinned where they were made, or are blocked."""
    graph, keys = graph_of([QUERIES[name](*tables(places)).expr])
    found = read(graph, keys)
    sources = [key for key in found.dependencies if is_of(key, "frompandas")]
    partitions = 2 * (3 - places.count("-"))
    pins = [found.pins[key] for key in sources if key in found.pins]
    assert len(pins) == partitions
    assert sorted(pins) == sorted(2 * places.replace("-", ""))
    assert len(sources) - len(pins) == 2 * places.count("-")
    assert set(sources) - found.pins.keys() == set(sources) & found.blocked_keys()


@pytest.mark.parametrize("name", QUERIES)
def test_three_tables_of_two_pools(client: Client, name: str) -> None:
    """On a cluster, tables of A, B and A give the result that they give in pandas."""
    with clusters.record_executions(client) as ran, propagate_pools():
        got = QUERIES[name](*tables("ABA")).compute()
    assert values(got) == values(QUERIES[name](*TABLES))
    assert set().union(*ran.pools_of.values()) == {"A", "B"}


def test_a_step_over_two_pools_stays_where_it_was_pinned() -> None:
    """A join that was made in A is made there, whatever is chosen of its columns later."""
    x, y, z = tables("ABC")
    with pool("A"):
        joined = x.merge(y, on="k")
    plan = plan_pools(joined.merge(z, on="k")[["x", "y", "z"]].sum())
    of_merge = [key for key in plan.pinned if str(key).startswith("('blockwisemerge")]
    assert of_merge
    assert {plan.pools[key] for key in of_merge} == {"A"}


def wide() -> Any:
    """A table of many columns, in A."""
    with pool("A"):
        return dd.from_pandas(WIDE, 4)


def narrow(place: str) -> Any:
    """A table of one column, in a pool."""
    with pool(place):
        return dd.from_pandas(NARROW, 4)


@pytest.mark.parametrize("use", ["as it is", "in the join"])
def test_a_pinned_step_stays_where_it_is_built_again_without_a_pool(
    client: Client, use: str
) -> None:
    """Columns made in B, and the same without a block in the same computation, are made in B."""
    n = narrow("B")
    with pool("B"):
        pinned = grown(n)
    again = grown(n) if use == "as it is" else wide().join(grown(n)[["x3"]]).x3
    with clusters.record_executions(client) as ran, propagate_pools():
        dask.compute(wide().join(pinned).sum(axis=1), again.sum())
    made = [pools for key, pools in ran.pools_of.items() if "assign" in str(key)]
    assert made
    assert set().union(*made) == {"B"}


def test_what_was_persisted_where_it_grew_stays_there(client: Client) -> None:
    """A frame that was moved to A to be made there is used there when it is persisted."""
    w, g = wide(), grown(narrow("B"))
    with propagate_pools():
        persisted, other = dask.persist(g, w.join(g).sum(axis=1))
        wait([persisted, other])
        with measure_transfers(client) as moved:
            assert persisted.x3.sum().compute() == (np.arange(4000.0) + 3).sum()
    assert get_pool(persisted) == "A"  # a look at the data tells it
    assert moved.bytes_by_link.get(("A", "B"), 0) == 0


def test_an_optimised_frame_leaves_its_graph_as_it_was() -> None:
    """A frame's graph has its own keys, also while the same, optimised, is still there."""
    frame = narrow("A").x
    optimised = frame.optimize(fuse=False)
    keys = [(frame._name, number) for number in range(4)]
    again = dd.from_graph(dict(frame.dask), frame._meta, frame.divisions, keys, "again")
    assert again.sum().compute(scheduler="sync") == np.arange(4000.0).sum()
    assert optimised.npartitions == 4


def test_an_assigned_source_is_sent_before_it_grows() -> None:
    """A frame of delayed objects is a source, also where its pool was assigned to it."""
    table = pd.DataFrame({"x": np.arange(1000.0)})
    frame = dd.from_delayed([delayed(lambda: table)()] * 4, meta=table, divisions=(0, 1, 2, 3, 3))
    assert not assign_pool(frame, "B").expr.said.steps
    assert assign_pool(grown(frame), "B").expr.said.steps


@pytest.mark.parametrize("places", [("A", "B"), (None,)], ids=["any of two", "blocked"])
def test_what_is_not_pinned_to_one_pool_counts_where_it_may_be(
    places: tuple[str | None, ...],
) -> None:
    """What grows stays at home beside a frame that may be there, though that is used in C, too."""
    home = grown(narrow("B"))
    with pool(*places):
        other = dd.from_pandas(pd.DataFrame({"o": np.arange(4000.0), "p": 1.0}), 4)
    with pool("C"):
        large = dd.from_pandas(pd.DataFrame({f"c{i}": np.arange(4000.0) for i in range(40)}), 4)
    both = other.join(home).sum(axis=1).sum(), large.join(other).sum(axis=1).sum()
    sequence = [one.optimize(fuse=False).expr for one in both]
    found = placed(sequence).places
    assert {place for name, place in found.items() if "assign" in name} == {"B"}


@pytest.mark.parametrize(("places", "kept"), [((None,), {None}), (("A", "B"), {"A", "B"})])
def test_what_follows_from_such_a_frame_is_as_it_is(
    places: tuple[str | None, ...], kept: set[str | None]
) -> None:
    """What is made of a blocked frame alone is blocked, and of one in either pool in one of them,
    where another pool needs it.
    """
    with pool(*places):
        frame = dd.from_pandas(pd.DataFrame({"x": np.arange(4000.0)}), 4)
    with pool("C"):
        large = dd.from_pandas(pd.DataFrame({f"c{i}": np.arange(4000.0) for i in range(40)}), 4)
    plan = plan_pools(large.join(grown(frame)).sum(axis=1), wide().w1.sum())
    made = {plan.pools[key] for key in plan.pools if is_of(key, "assign")}
    assert made
    assert made <= kept


SMALL = pd.DataFrame({"k": range(0, 30, 3), "w": 1.5})

BESIDE: dict[str, Callable[[Any], Any]] = {
    "merge": lambda a: a.merge(SMALL, on="k"),
    "merge left": lambda a: a.merge(SMALL, on="k", how="left"),
    "merge twice": lambda a: a.merge(SMALL, on="k", how="left").merge(SMALL, on="k", how="left"),
    "columns of a merge": lambda a: a.merge(SMALL, on="k", how="left")[["k", "w"]],
    "map_partitions": lambda a: a.map_partitions(lambda part, other: part, SMALL, meta=a._meta),
}

PATHS: dict[str, Callable[[Any], Any]] = {
    "compute": lambda frame: frame.compute(),
    "persist": lambda frame: frame.persist().compute(),
    "optimize": lambda frame: frame.optimize().compute(),
    "to_delayed": lambda frame: dask.compute(*frame.to_delayed()),
    "beside an array": lambda frame: dask.compute(da.ones(2), frame),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("beside", BESIDE)
def test_a_source_that_is_fused_stays_in_its_pool(client: Client, beside: str, path: str) -> None:
    """A source that Dask fuses with a step on small data is read in its own pool on every path."""

    def load(i: int, place: str) -> pd.DataFrame:
        assert f"pool-{place}" in get_worker().state.total_resources
        return pd.DataFrame({"k": range(10 * i, 10 * i + 10), place: 1})

    with propagate_pools():
        frames = []
        for place in "AB":
            with pool(place):
                meta = pd.DataFrame({"k": [0], place: [1]})
                frames.append(dd.from_map(load, range(3), place=place, meta=meta))
        PATHS[path](BESIDE[beside](frames[0]).merge(frames[1], on="k"))
