"""What follows from data of several pools follows it; what tasks without a pool read is told."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from uuid import uuid4

import clusters
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed
from dask.utils import format_bytes
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from placement_cases import Graph, exhaustively

from dask_worker_pools import plan_pools, pool, propagate_pools
from dask_worker_pools.placement import place, traffic
from dask_worker_pools.visualize import draw


@pytest.fixture(scope="module")
def pool_cluster() -> Iterator[clusters.PoolCluster]:
    """One worker in A, three in B, two in C, two in no pool."""
    with clusters.start({"A": 1, "B": 3, "C": 2, None: 2}) as cluster:
        yield cluster


def blocks(n: int = 16, shape: int = 1000) -> Any:
    """An array of `n` blocks."""
    name = f"load-{uuid4().hex}"

    def load() -> Any:
        return np.ones(shape)

    return da.map_blocks(load, chunks=((shape,) * n,), dtype=float, meta=np.empty(0), name=name)


def loaded(kind: str) -> Any:
    """A collection of several tasks."""
    if kind == "array":
        return blocks()
    if kind == "bag":
        return db.from_sequence([f"{i}-{uuid4().hex}" for i in range(16)], npartitions=16)
    if kind == "delayed":
        return [delayed(lambda i: i + 1, pure=False)(i) for i in range(16)]
    return dd.from_pandas(pd.DataFrame({"x": np.arange(16.0)}), npartitions=4, sort=False)


STEPS: dict[str, Callable[[Any], Any]] = {
    "array": lambda x: (x[::-1].rechunk(500) + 1).sum(),
    "bag": lambda x: x.map(len).map(lambda n: n + 1).fold(max),
    "delayed": lambda x: delayed(sum)([delayed(abs)(one) for one in x]),
    "frame": lambda x: (x.x + 1).sum(),
}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("kind", STEPS)
def test_what_follows_stays_in_the_pools(client: Client, kind: str) -> None:
    """All that is made of data of A or B runs in A or B, and no task anywhere else."""
    with propagate_pools(), clusters.record_executions(client) as ran:
        with pool("A", "B"):
            x = loaded(kind)
        STEPS[kind](x).compute()
    assert set().union(*ran.pools_of.values()) <= {"A", "B"}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    "step",
    [
        lambda x: x + 1,
        lambda x: x.sum(),
        lambda x: x[::-1].rechunk(500) - 1,
        lambda x: da.concatenate([x, x + 1]),
        lambda x: x.map_overlap(lambda y: y, depth=1, dtype=float),
        lambda x: delayed(np.sum)(x),
    ],
    ids=["add", "sum", "rechunk", "concatenate", "overlap", "delayed"],
)
def test_steps_of_an_array_follow(client: Client, step: Callable[[da.Array], Any]) -> None:
    """A step that says nothing of pools follows an array that may be in A or B."""
    with propagate_pools(), clusters.record_executions(client) as ran:
        with pool("A", "B"):
            x = blocks()
        step(x).compute()
    assert set().union(*ran.pools_of.values()) <= {"A", "B"}


@pytest.mark.usefixtures("nothing_left")
def test_persisted_parts_follow(client: Client) -> None:
    """Steps that are apart from each other are shared between A and B by their threads."""
    with propagate_pools():
        with pool("A", "B"):
            x = blocks()
        kept = (x + 1).persist()
        asked = clusters.restrictions(client, kept)
        assert float(kept.sum().compute()) == 32_000
    counts = Counter(tuple(resources) for resources in asked.values())
    assert counts[("pool-B",)] == 3 * counts[("pool-A",)] > 0
    assert set(counts) == {("pool-A",), ("pool-B",)}


# --- placement


def chains(n: int) -> Graph:
    """Tasks ``(0, i)``, each with one consumer ``(1, i)``."""
    return {(0, i): [] for i in range(n)} | {(1, i): [(0, i)] for i in range(n)}


@pytest.mark.parametrize("balance", [0.0, 0.01])
@pytest.mark.parametrize("n", [8, 200, 6000])
def test_apart_they_are_shared_by_load(n: int, balance: float) -> None:
    """Chains that nothing links are split between the pools by their workers, at no cost.

    (0, i) (A or B) → (1, i)
    """
    graph = chains(n)
    sizes = dict.fromkeys(graph, 8.0)
    placed = place(
        graph,
        {},
        sizes,
        allowed={key: "AB" for key in graph if key[0] == 0},
        capacity={"A": 1, "B": 3, "C": 9},
        balance=balance,
    )
    assert traffic(graph, placed, sizes) == 0
    assert Counter(placed.values()) == {"A": n // 2, "B": 3 * n // 2}


@pytest.mark.parametrize("n", [8, 6000])
def test_together_they_are_in_one(n: int) -> None:
    """Chains that are summed up are all in one pool: nothing is sent.

    (0, i) (A or B) → (1, i) → sum
    """
    graph = chains(n) | {"sum": [(1, i) for i in range(n)]}
    allowed = {key: "AB" for key in graph if key[0] == 0}
    placed = place(graph, {}, dict.fromkeys(graph, 8.0), allowed=allowed, balance=0.01)
    assert len(set(placed.values())) == 1
    assert set(placed.values()) <= {"A", "B"}


def test_of_the_pools_in_common() -> None:
    """Linked tasks of different pools meet in the one that all may be in.

    x (A or B) → sum ← y (B or C)
    """
    graph = {"x": [], "y": [], "sum": ["x", "y"]}
    placed = place(graph, {}, {}, allowed={"x": "AB", "y": "BC"})
    assert placed == {"x": "B", "y": "B", "sum": "B"}


def test_with_none_in_common() -> None:
    """Where there is none the smaller output crosses, and the total says so.

    x (A or B, 9) → sum ← y (C or D, 1)
    """
    graph = {"x": [], "y": [], "sum": ["x", "y"]}
    sizes = {"x": 9, "y": 1, "sum": 1}
    placed = place(graph, {}, sizes, allowed={"x": "AB", "y": "CD"})
    assert placed["sum"] == placed["x"]
    assert traffic(graph, placed, sizes) == 1


@exhaustively
@given(st.integers(0, 2**32))
def test_nothing_is_cheaper(seed: int) -> None:
    """Without any pin, no other placement of linked tasks sends less."""
    r = random.Random(seed)
    graph = {task: [s for s in range(task) if r.random() < 0.35] for task in range(6)}
    sizes = {task: r.choice([1, 2, 5, 20]) for task in graph}
    allowed = {task: r.sample("ABC", r.randint(1, 2)) for task in graph if r.random() < 0.5}
    placed = place(graph, {}, sizes, allowed=allowed, balance=r.choice([0.0, 0.0, 1e-9]))
    assert all(placed[task] in pools for task, pools in allowed.items())
    free = [task for task, where in placed.items() if where is not None]
    trials = product(*(allowed.get(task, "ABC") for task in free))
    best = min(traffic(graph, placed | dict(zip(free, trial)), sizes) for trial in trials)
    assert traffic(graph, placed, sizes) == best
    unplaced = {task for task, where in placed.items() if where is None}
    assert not any(set(graph[task]) & set(free) for task in unplaced)
    assert not any(set(graph[task]) & unplaced for task in free)


# --- tasks without a pool


def test_what_tasks_without_a_pool_read_is_told() -> None:
    """The plan never says that nothing is sent where tasks without a pool read from pools."""
    with pool("A"):
        x = da.ones((4, 1000), chunks=(1, 1000), name=f"x-{uuid4().hex}")
    with pool(None):
        y = x.sum(axis=1)
    plan = plan_pools(y)
    read = [*plan.read_anywhere]
    assert {plan.pools[key] for key in read} == {"A"}
    assert plan.bytes_read_anywhere == sum(plan.sizes[key] for key in read) > 0
    said = f"up to {format_bytes(int(plan.bytes_read_anywhere))} read by tasks without a pool"
    explained = repr(plan.explain(plan.layer_of[read[0]]))
    for shown in (repr(plan), plan._repr_html_(), explained, draw(plan).source):
        assert said in shown
    assert "Nothing is sent" not in repr(plan) + plan._repr_html_() + draw(plan).source
    assert plan.to_dict()["bytes_read_anywhere"] == plan.bytes_read_anywhere
    assert plan.total_bytes == 0


@pytest.mark.parametrize("level", ["layer", "task"])
def test_an_output_that_many_read_counts_once(level: Any) -> None:
    """Several tasks without a pool that read one output read it once, as tasks of a pool do."""
    with pool("A"):
        x = delayed(bytes, pure=False)(800)
    with pool(None):
        many = [delayed(len, pure=False)(x) for _ in range(3)]
    plan = plan_pools(*many)
    assert len(plan.read_anywhere) == 1
    assert "up to 1 output read by tasks without a pool" in repr(plan)
    assert draw(plan, level=level).source.count("≤ 1 output") == 1


def test_what_stays_in_pools_is_not_read_elsewhere() -> None:
    """Where no task is without a pool there is nothing to tell of them."""
    with pool("A"):
        x = blocks()
    with pool("B"):
        y = x + 1
    assert plan_pools(y).read_anywhere == ()
    assert plan_pools(y).to_dict()["bytes_read_anywhere"] == 0
    assert "without a pool" not in repr(plan_pools(y))
