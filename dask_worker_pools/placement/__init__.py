"""The choice of a pool for every task, so that the fewest bytes move between pools.

Each task makes one output. An output that has consumers in other pools than its own is shipped to
each of these pools once, however many consumers wait there, and shipping costs its size times the
price of the link::

    traffic = Σ over outputs  size × Σ link_cost(own pool, q)  over the other pools q that use it

:func:`place` minimises that sum. Tasks with a pin stay where they are, all others follow from
them: forward (a sum of what is in A is made in A), backward (what only A needs is made in A), and
anything in between, such as shipping a small array before it is expanded.

The method, one idea a module:

1. Tasks that no path connects to a pin, or to a task that is restricted to some pools, have
   nothing to be near to. They stay without a pool.
2. Interchangeable tasks become one node (`classes`, `kinds`).
3. Minimum cuts label the nodes (`cuts`), exactly for two pools, with Dinic's maximum flow
   (`maxflow`). Large problems first lose the nodes that are certain to stay together
   (`contraction`), and those that are still too large to cut whole are cut in windows.
4. Where the choice does not matter, outputs cross as late as they can (`kinds`), and load decides
   for what may be in any of several pools (`loose`); where it matters little, load decides too
   (`balance`, `mixture`, `standing`).

Pools are told apart by name where nothing else does it. For the rest traffic and load depend on the
graph only: not on the names of keys, nor on any order of dictionaries, which decides at most which
of several tasks that are equally well placed goes where. There are two exceptions: irregular graphs
of more than a few thousand tasks, which are cut in parts; and, rarely, the load of tasks that have
the same surroundings at every distance without being interchangeable.

>>> graph = {"a": [], "b": [], "sum": ["a", "b"], "scale": [], "out": ["sum", "scale"]}
>>> pins = {"a": "eu", "b": "us"}
>>> place(graph, pins, {"a": 100, "b": 1, "sum": 100, "scale": 1, "out": 1})
{'a': 'eu', 'b': 'us', 'sum': 'eu', 'scale': 'eu', 'out': 'eu'}
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from math import isfinite
from statistics import median
from types import MappingProxyType
from typing import TypeVar, cast

from dask_worker_pools.placement.balance import balanced
from dask_worker_pools.placement.cuts import solve
from dask_worker_pools.placement.kinds import Kernel, Kinds, crossing_late, linked_kinds, unlink
from dask_worker_pools.placement.loose import loose_groups, near_pools, share
from dask_worker_pools.placement.problem import (
    GraphCycle,
    InvalidBalance,
    InvalidCapacity,
    InvalidLinkCost,
    InvalidSize,
    NoPoolAllowed,
    PinNotAllowed,
    PlacementError,
    Pool,
    Pools,
    TaskGraph,
)
from dask_worker_pools.placement.standing import Graph

__all__ = [
    "GraphCycle",
    "InvalidBalance",
    "InvalidCapacity",
    "InvalidLinkCost",
    "InvalidSize",
    "NoPoolAllowed",
    "PinNotAllowed",
    "PlacementError",
    "Pool",
    "Pools",
    "near_pools",
    "place",
    "place_numbered",
    "traffic",
]

K = TypeVar("K", bound=Hashable)

#: how many arcs the cuts may look at: so many, and so many for each task
WORK, WORK_PER_TASK = 3_000_000, 5


def place(
    dependencies: Mapping[K, Collection[K]],
    pins: Mapping[K, Pool],
    sizes: Mapping[K, float],
    *,
    allowed: Mapping[K, Collection[Pool]] = MappingProxyType({}),
    blocked: Collection[K] = (),
    link_cost: Callable[[Pool, Pool], float] | None = None,
    capacity: Mapping[Pool, float] | None = None,
    balance: float = 0.0,
) -> dict[K, Pool | None]:
    """Choose a pool for every task, so that the fewest bytes move between pools.

    Parameters
    ----------
    dependencies : mapping of key to collection of keys
        The inputs of each task. Inputs that are not tasks themselves stand for data already in
        memory: they cost nothing, unless they are pinned.
    pins : mapping of key to pool
        Tasks whose pool is decided.
    sizes : mapping of key to float
        Bytes of each task's output. Where one is missing the median of the others counts, or 1.
    allowed : mapping of key to collection of pools
        Tasks that may only go to some pools.
    blocked : collection of keys
        Tasks that get no pool. They count as being in each pool with its share of `capacity`.
    link_cost : callable, optional
        Cost per byte from one pool to another, by default 1. It need not be symmetric.
    capacity : mapping of pool to float, optional
        Workers of each pool, by default 1. A pool with none receives only what is pinned to it.
    balance : float
        How much more traffic, as a fraction of the least, to accept for a lower load: the most
        bytes that any pool produces per worker. Traffic is spent only where it lowers the load by
        as large a fraction.

    Returns
    -------
    dict of key to pool or None
        None for blocked tasks, and for tasks that no path connects to a pinned task, or to one that
        `allowed` restricts, whatever its direction.

    Raises
    ------
    PlacementError
        One of its subclasses, if the input makes no sense.

    Examples
    --------
    Everything that is made from `x` and used in A follows `x` to A.

    >>> place({"x": [], "y": ["x"], "z": []}, {"x": "A"}, {"x": 8, "y": 8, "z": 8})
    {'x': 'A', 'y': 'A', 'z': None}
    """
    pools = Pools.gathered(pins, allowed, link_cost, capacity)
    graph = TaskGraph.interned(dependencies)
    labels = place_numbered(
        graph.inputs,
        graph.counts,
        graph.ordered(_looked_up(graph.keys, sizes)),
        graph.by_task(pins),
        pools,
        outside=graph.tasks(graph.outside),
        allowed=graph.by_task(allowed),
        blocked=graph.tasks(blocked),
        balance=balance,
        key_of=lambda task: graph.keys[graph.order[task]],
    )
    placed = dict(zip(graph.keys, map(pools.label_names.__getitem__, graph.as_came(labels))))
    for key in graph.outside:
        del placed[key]
    return placed


def place_numbered(
    inputs: Sequence[int],
    counts: Sequence[int],
    sizes: Sequence[float | None],
    pins: Mapping[int, Pool],
    pools: Pools,
    *,
    outside: Collection[int] = (),
    allowed: Mapping[int, Collection[Pool]] = MappingProxyType({}),
    blocked: Collection[int] = (),
    balance: float = 0.0,
    key_of: Callable[[int], Hashable] = int,
) -> Sequence[int]:
    """:func:`place` by number, for callers whose tasks are numbered already.

    Parameters
    ----------
    inputs : sequence of int
        The inputs of task 0, then those of task 1, and so on; each comes before its consumers.
    counts : sequence of int
        How many inputs each task has.
    sizes : sequence of float or None
        Bytes of each task's output; None where it is unknown.
    pins, allowed, blocked, balance
        As for :func:`place`, by number.
    pools : Pools
        All pools, and what their links cost.
    outside : collection of int
        Those that stand for data in memory.
    key_of : callable
        What errors call a task.

    Returns
    -------
    sequence of int
        For each task a place in ``pools.label_names``.

    Raises
    ------
    PlacementError
        As for :func:`place`.
    """
    if not (isfinite(balance) and balance >= 0):
        raise InvalidBalance(balance)
    return _placed(
        inputs,
        counts,
        _known_sizes(sizes, key_of),
        _fixed_labels(pools, pins, outside, blocked, key_of),
        _masks(pools, pins, allowed, blocked, key_of),
        pools,
        outside,
        balance,
    )


def traffic(
    dependencies: Mapping[K, Collection[K]],
    assignment: Mapping[K, Pool | None],
    sizes: Mapping[K, float],
    *,
    blocked: Collection[K] = (),
    link_cost: Callable[[Pool, Pool], float] | None = None,
    capacity: Mapping[Pool, float] | None = None,
) -> float:
    """Cost of shipping every output once to each other pool that uses it.

    This is what :func:`place` minimises, written down plainly. A blocked producer costs the mean
    over the pools it may be in, weighted by capacity; blocked consumers of an output count as one
    more place it is shipped to, at the mean cost of the links there. Outputs of tasks without a
    pool cost nothing, nor does shipping to them.

    Parameters
    ----------
    dependencies, sizes, blocked, link_cost, capacity
        As in :func:`place`.
    assignment : mapping of key to pool or None
        A pool for each task; may hold keys of data in memory too.

    Examples
    --------
    `x` has two consumers in B and is shipped there once.

    >>> graph = {"x": [], "y": ["x"], "z": ["x"]}
    >>> traffic(graph, {"x": "A", "y": "B", "z": "B"}, {"x": 5, "y": 1, "z": 1})
    5.0
    """
    pins = {key: pool for key, pool in assignment.items() if pool is not None}
    pools = Pools.gathered(pins, {}, link_cost, capacity)
    label = {key: pools.names.index(pool) for key, pool in pins.items()}
    label |= dict.fromkeys(blocked, pools.blocked)
    needed: dict[K, set[int]] = defaultdict(set)
    for key, inputs in dependencies.items():
        for source in inputs:
            needed[source].add(label.get(key, pools.nowhere))
    keys = list(needed)
    filled = dict(zip(keys, _known_sizes(_looked_up(keys, sizes), keys.__getitem__)))
    total = sum(
        Fraction(filled[key]) * sum(pools.cost[label.get(key, pools.nowhere)][q] for q in where)
        for key, where in needed.items()
    )
    return float(total / pools.unit)


def _looked_up(keys: Sequence[K], sizes: Mapping[K, float]) -> list[float | None]:
    """Size of each key's output; None where it is missing."""
    # Comparing lists of the same objects is many times cheaper than looking each of them up.
    if len(sizes) == len(keys) and list(sizes) == keys:
        return list(sizes.values())
    return list(map(sizes.get, keys))


def _known_sizes(
    sizes: Sequence[float | None], key_of: Callable[[int], Hashable]
) -> Sequence[float]:
    """The same sizes, with the median of the known ones, or else 1, where one is missing."""
    distinct = set(sizes)
    for size in distinct:
        if size is not None and not (isfinite(size) and size >= 0):
            raise InvalidSize(key_of(next(n for n, s in enumerate(sizes) if s is size)), size)
    if None in distinct:
        typical = median([size for size in sizes if size is not None] or [1])
        return [typical if size is None else size for size in sizes]
    return cast("Sequence[float]", sizes)


def _fixed_labels(
    pools: Pools,
    pins: Mapping[int, Pool],
    outside: Collection[int],
    blocked: Collection[int],
    key_of: Callable[[int], Hashable],
) -> dict[int, int]:
    """Label of every task that is not to be placed."""
    label = {pool: index for index, pool in enumerate(pools.names)}
    fixed = dict.fromkeys(outside, pools.nowhere)
    fixed |= zip(pins, map(label.__getitem__, pins.values()))
    for task in blocked:
        if task in pins:
            raise PinNotAllowed(key_of(task), pins[task], ())
    return fixed | dict.fromkeys(blocked, pools.blocked)


def _masks(
    pools: Pools,
    pins: Mapping[int, Pool],
    allowed: Mapping[int, Collection[Pool]],
    blocked: Collection[int],
    key_of: Callable[[int], Hashable],
) -> dict[int, int]:
    """Bits of the pools that each restricted task may go to."""
    bit = {pool: 1 << index for index, pool in enumerate(pools.names)}
    others = set(blocked)
    masks: dict[int, int] = {}
    for task, any_of in allowed.items():
        if task in pins:
            if pins[task] not in any_of:
                raise PinNotAllowed(key_of(task), pins[task], any_of)
        elif task not in others:
            masks[task] = sum(bit[pool] for pool in set(any_of)) & pools.open
            if not masks[task]:
                raise NoPoolAllowed(key_of(task), any_of)
    return masks


def _placed(
    inputs: Sequence[int],
    counts: Sequence[int],
    sizes: Sequence[float],
    fixed: Mapping[int, int],
    masks: Mapping[int, int],
    pools: Pools,
    outside: Collection[int],
    balance: float,
) -> list[int]:
    """Label of each task."""
    kinds = crossing_late(Kinds.of_graph(inputs, counts, sizes, fixed, masks), pools)
    linked = linked_kinds(kinds, pools)
    kernel = Kernel.of_kinds(kinds, linked, pools)
    work = WORK + WORK_PER_TASK * len(counts)
    solution = solve(kernel.problem(work))
    placed = [*map(kernel.by_kind(solution).__getitem__, kinds.of)]
    loose = loose_groups(inputs, counts, fixed, masks, pools) if masks else []
    if balance:
        apart = {*outside, *chain.from_iterable(group.tasks for group in loose)}
        graph = Graph.of(kinds, inputs, counts, sizes, apart)
        placed = balanced(placed, solution, kernel, graph, balance, work)
    if not kinds.stable:
        unlink(placed, inputs, counts, fixed, masks, pools)
    if loose:
        share(loose, placed, sizes, outside, pools)
    return placed
