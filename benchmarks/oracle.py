"""The fewest bytes that any placement can send: an integer programme, solved by HiGHS.

Each task runs in one pool. An output that is used in other pools than its own is sent to each of
them once, however many tasks use it there. That is what any way of running the graph has to send
at least, whatever its scheduler does: no contender is asked to find it.

Before it is solved the graph is shrunk, without changing what is least:

1. A task that only one other uses, and whose output is no smaller than all its inputs together,
   may as well run where it is used: that saves its output, and costs its inputs at most.
2. A task with one input that no other uses, and whose output is no larger, may as well run where
   that input is made: it is sent to at most one place more, and the input to one less.
3. A task that nobody uses, with one input, may as well run where that is made.

Each holds wherever all other tasks are. So a whole tree of such merges may be taken at once: move
the tasks one by one, from its root outward, and no move costs anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Bound:
    """The fewest bytes that must cross, or a number that they are at least."""

    nbytes: float
    exact: bool  #: whether some placement sends no more than that
    nodes: int  #: tasks that were left to place, after shrinking


def least_traffic(
    dependencies: Mapping[K, Collection[K]],
    pins: Mapping[K, str],
    sizes: Mapping[K, float],
    time_limit: float = 60.0,
) -> Bound:
    """Find the fewest bytes that must cross between pools.

    Parameters
    ----------
    dependencies : mapping of key to collection of keys
        The inputs of each task, all of which are tasks.
    pins : mapping of key to str
        The pool of each task that may not move.
    sizes : mapping of key to float
        Bytes of each task's output.
    time_limit : float
        Seconds that HiGHS may take. After that, what it has proved by then is given.

    Examples
    --------
    >>> graph = {"a": [], "b": [], "mean": ["a"], "difference": ["b", "mean"]}
    >>> sizes = {"a": 800, "b": 80, "mean": 8, "difference": 80}
    >>> least_traffic(graph, {"a": "A", "b": "B"}, sizes).nbytes
    8.0
    """
    pools = sorted(set(pins.values()))
    if len(pools) < 2:
        return Bound(0.0, True, 0)
    problem = shrink(dependencies, pins, sizes)
    if not problem.nets:
        return Bound(0.0, True, problem.nodes)
    return _solve(problem, pools, time_limit)


@dataclass(frozen=True)
class Problem:
    """Nodes to place, by number, and the outputs between them."""

    #: bytes by who makes an output and who uses it, without its maker
    nets: Mapping[tuple[int, frozenset[int]], float]
    pinned: Mapping[int, str]  #: the pool of nodes that may not move
    nodes: int  #: how many there are


def shrink(
    dependencies: Mapping[K, Collection[K]], pins: Mapping[K, str], sizes: Mapping[K, float]
) -> Problem:
    """Merge tasks that may as well run together.

    >>> graph = {"a": [], "b": [], "mean": ["a"], "difference": ["b", "mean"]}
    >>> sizes = {"a": 800, "b": 80, "mean": 8, "difference": 80}
    >>> shrink(graph, {"a": "A", "b": "B"}, sizes).nodes
    3
    """
    inputs = {key: set(needed) for key, needed in dependencies.items()}
    users: dict[K, set[K]] = {key: set() for key in inputs}
    for key, needed in inputs.items():
        for source in needed:
            users[source].add(key)
    joined = DisjointSet(inputs)
    for key in inputs.keys() - pins.keys():
        other = _may_join(key, inputs, users, sizes)
        if other is not None:
            joined.merge(key, other)
    number = {subset: i for i, subset in enumerate({joined[key]: None for key in inputs})}
    node = {key: number[joined[key]] for key in inputs}
    nets: defaultdict[tuple[int, frozenset[int]], float] = defaultdict(float)
    for key, using in users.items():
        others = frozenset(node[user] for user in using) - {node[key]}
        if others and sizes[key]:
            nets[node[key], others] += sizes[key]
    return Problem(
        nets, {node[key]: pool for key, pool in pins.items() if key in node}, len(number)
    )


def _may_join(
    key: K,
    inputs: Mapping[K, Collection[K]],
    users: Mapping[K, Collection[K]],
    sizes: Mapping[K, float],
) -> K | None:
    """The task that `key` may run with, by the rules above; None if no rule says one."""
    if len(users[key]) == 1 and sizes[key] >= sum(sizes[source] for source in inputs[key]):
        return next(iter(users[key]))  # 1
    if len(inputs[key]) == 1:
        (source,) = inputs[key]
        if not users[key] or (len(users[source]) == 1 and sizes[key] <= sizes[source]):
            return source  # 3, 2
    return None


def _solve(problem: Problem, pools: Sequence[str], time_limit: float) -> Bound:
    """Solve the programme.

    ``x[node, pool]`` is 1 where a node is, and ``y[net, pool]`` 1 where an output is sent to. For
    each user of an output: ``y[net, pool] >= x[user, pool] - x[maker, pool]``.
    """
    nets = list(problem.nets)
    at = np.arange(problem.nodes * len(pools)).reshape(problem.nodes, len(pools))
    sent = at.size + np.arange(len(nets) * len(pools)).reshape(len(nets), len(pools))
    pairs = [(i, maker, user) for i, (maker, using) in enumerate(nets) for user in using]
    net, maker, user = np.array(pairs).T
    columns = np.stack([sent[net], at[maker], at[user]], axis=-1).reshape(-1, 3)
    rows = np.repeat(np.arange(len(columns)), 3)
    signs = np.tile([1.0, 1.0, -1.0], len(columns))
    size = at.size + sent.size
    covers = coo_array((signs, (rows, columns.ravel())), shape=(len(columns), size))
    one_place = coo_array(
        (np.ones(at.size), (np.repeat(np.arange(problem.nodes), len(pools)), at.ravel())),
        shape=(problem.nodes, size),
    )
    lowest, cost, whole = np.zeros(size), np.zeros(size), np.zeros(size)
    cost[sent] = np.array([problem.nets[net] for net in nets])[:, None]
    whole[at] = 1
    for node, pool in problem.pinned.items():
        lowest[at[node, pools.index(pool)]] = 1
    found = milp(
        cost,
        integrality=whole,
        bounds=Bounds(lowest, 1),
        constraints=[
            LinearConstraint(covers.tocsr(), 0, np.inf),
            LinearConstraint(one_place.tocsr(), 1, 1),
        ],
        options={"time_limit": time_limit, "mip_rel_gap": 0},
    )
    if found.status == 0:
        where = found.x[at].argmax(axis=1)
        return Bound(traffic(problem, where), True, problem.nodes)
    if found.mip_dual_bound is None or not np.isfinite(found.mip_dual_bound):
        raise RuntimeError(f"HiGHS proved nothing in {time_limit:g} s: {found.message}")
    return Bound(max(0.0, float(found.mip_dual_bound)), False, problem.nodes)


def traffic(problem: Problem, where: Sequence[int]) -> float:
    """Bytes that cross if each node is where it is said to be."""
    return sum(
        nbytes * len({where[user] for user in users} - {where[maker]})
        for (maker, users), nbytes in problem.nets.items()
    )
