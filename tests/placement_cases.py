"""Problems for `place`, made at random, and how the tests ask for answers."""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Mapping
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from placement_oracle import Case

from dask_worker_pools.placement import place, traffic

Graph = dict[Any, Collection[Any]]


@st.composite
def cases(draw: st.DrawFn, pools: str) -> Case:
    """Small graphs with everything in them."""
    r = random.Random(draw(st.integers(0, 2**32)))
    tasks = r.randint(3, 8 if len(pools) > 3 else 9)
    density = r.choice([0.2, 0.35, 0.6])
    graph = {task: [s for s in range(task) if r.random() < density] for task in range(tasks)}
    pins = {task: r.choice(pools) for task in graph if r.random() < 0.4}
    free = [task for task in graph if task not in pins]
    costs = r.choice([[1.0], [0.5, 1, 2, 5]])
    return Case(
        graph=graph,
        pins=pins,
        sizes={task: r.choice([1, 1, 2, 3, 5, 8, 20]) for task in graph},
        pools=pools,
        link={(p, q): r.choice(costs) for p in pools for q in pools},
        capacity={pool: r.choice([1, 1, 2, 4]) for pool in pools},
        allowed={t: r.sample(pools, r.randint(1, len(pools))) for t in free if r.random() < 0.15},
        blocked=[task for task in free if r.random() < 0.1],
    )


def answer(case: Case, balance: float = 0.0) -> dict[int, str | None]:
    """Place a case."""
    return place(
        case.graph,
        case.pins,
        case.sizes,
        allowed=case.allowed,
        blocked=case.blocked,
        link_cost=case.link_cost,
        capacity=case.capacity,
        balance=balance,
    )


def cost_of(case: Case, placed: Mapping[int, str | None]) -> float:
    """Traffic of a placement."""
    return traffic(
        case.graph,
        placed,
        case.sizes,
        blocked=case.blocked,
        link_cost=case.link_cost,
        capacity=case.capacity,
    )


exhaustively = settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def shuffled(seed: int, graph: Graph) -> tuple[Graph, dict[Any, Hashable]]:
    """Return the graph under other names and in another order, and the new names."""
    r = random.Random(seed)
    names: list[Any] = [f"{r.random()}" for _ in graph]
    new = dict(zip(graph, names, strict=True))
    keys = r.sample(list(graph), len(graph))
    return {new[key]: r.sample([new[s] for s in graph[key]], len(graph[key])) for key in keys}, new


def add_then_mean(blocks: int, pools: str = "AB") -> tuple[Graph, dict[Any, str], dict[Any, float]]:
    """Return two arrays of equal blocks, their sum, and its mean by a tree."""
    graph: Graph = {}
    pins: dict[Any, str] = {}
    for i in range(blocks):
        for pool in pools:
            graph[pool, i] = []
            pins[pool, i] = pool
        graph["sum", i] = [(pool, i) for pool in pools]
    below: list[Any] = [("sum", i) for i in range(blocks)]
    level = 0
    while len(below) > 1:
        level += 1
        above: list[Any] = []
        for i in range(0, len(below), 4):
            above.append(("mean", level, i))
            graph[above[-1]] = below[i : i + 4]
        below = above
    sizes: dict[Any, float] = {key: 8.0 if "mean" in str(key) else 1e6 for key in graph}
    return graph, pins, sizes
