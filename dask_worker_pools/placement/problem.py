"""A placement problem by number: pools, the task graph, and what can be wrong with either.

Names become small numbers once, so that everything after works on flat lists. Numbers of pools
follow the order of their names; numbers of tasks are a topological order. Nothing that is decided
later depends on the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, chain, repeat
from math import isfinite, lcm
from operator import lt
from typing import Any, Generic, TypeAlias, TypeVar, cast

from dask_worker_pools.travel import Travels

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
    "TaskGraph",
]

Pool: TypeAlias = str
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class PlacementError(ValueError, metaclass=Travels):
    """What was asked for cannot be placed. The arguments are the fields of the error."""


class InvalidSize(PlacementError):
    """The size of an output is negative, infinite or not a number."""

    def __init__(self, key: Hashable, size: float) -> None:
        super().__init__(key, size)
        self.key = key
        self.size = size

    def __str__(self) -> str:
        return (
            f"The output of task {self.key!r} has size {self.size!r}. Sizes are finite and not "
            "negative; leave the task out of `sizes` if its size is unknown."
        )


class InvalidLinkCost(PlacementError):
    """The cost of a link is negative, infinite or not a number."""

    def __init__(self, source: Pool, target: Pool, cost: float) -> None:
        super().__init__(source, target, cost)
        self.source = source
        self.target = target
        self.cost = cost

    def __str__(self) -> str:
        return (
            f"The link from pool {self.source!r} to pool {self.target!r} costs {self.cost!r}. "
            "Link costs are finite and not negative."
        )


class InvalidCapacity(PlacementError):
    """The capacity of a pool is negative, infinite or not a number."""

    def __init__(self, pool: Pool, capacity: float) -> None:
        super().__init__(pool, capacity)
        self.pool = pool
        self.capacity = capacity

    def __str__(self) -> str:
        return (
            f"Pool {self.pool!r} has capacity {self.capacity!r}. Capacities count workers: they "
            "are finite and not negative."
        )


class InvalidBalance(PlacementError):
    """The traffic to spend on a lower load is negative, infinite or not a number."""

    def __init__(self, balance: float) -> None:
        super().__init__(balance)
        self.balance = balance

    def __str__(self) -> str:
        return (
            f"balance={self.balance!r} is no part of the least traffic. Say 0.01 for one per cent "
            "more, or 0 for none."
        )


class PinNotAllowed(PlacementError):
    """A task is pinned to a pool that it is not allowed in."""

    def __init__(self, key: Hashable, pool: Pool, allowed: Collection[Pool]) -> None:
        super().__init__(key, pool, allowed)
        self.key = key
        self.pool = pool
        self.allowed = allowed

    def __str__(self) -> str:
        pools = ", ".join(map(repr, self.allowed)) or "none (it is blocked)"
        return (
            f"Task {self.key!r} is pinned to pool {self.pool!r}, but the pools it is allowed in "
            f"are: {pools}. Change the pin or what is allowed."
        )


class NoPoolAllowed(PlacementError):
    """A task is not pinned and none of the pools that it is allowed in can receive tasks."""

    def __init__(self, key: Hashable, allowed: Collection[Pool]) -> None:
        super().__init__(key, allowed)
        self.key = key
        self.allowed = allowed

    def __str__(self) -> str:
        pools = ", ".join(map(repr, self.allowed)) or "none"
        return (
            f"Task {self.key!r} has no pool to go to. It is allowed in: {pools}. A pool of "
            "capacity 0 receives no tasks but those pinned to it."
        )


class GraphCycle(PlacementError):
    """Tasks depend on each other in a circle."""

    def __init__(self, keys: Sequence[Hashable]) -> None:
        super().__init__(keys)
        self.keys = keys

    def __str__(self) -> str:
        return "These tasks depend on each other in a circle: " + " → ".join(map(repr, self.keys))


@dataclass(frozen=True, slots=True)
class Pools:
    """Pools by number, and two labels more: blocked, and nowhere (which costs nothing)."""

    names: list[Pool]
    cost: list[list[int]]  #: link cost from label to label, in units of 1 / `unit`
    unit: int
    capacity: list[Fraction]

    @property
    def blocked(self) -> int:
        """Label of the tasks that may be in any pool."""
        return len(self.names)

    @property
    def nowhere(self) -> int:
        """Label of the tasks that have no place and need none."""
        return len(self.names) + 1

    @property
    def open(self) -> int:
        """Bits of the pools that receive tasks."""
        return sum(1 << pool for pool, workers in enumerate(self.capacity) if workers)

    @property
    def label_names(self) -> list[Pool | None]:
        """Name of each label; None for those that are no pool."""
        return [*self.names, None, None]

    def options(self, mask: int) -> tuple[int, ...]:
        """Return the pools of a mask."""
        return tuple(pool for pool in range(len(self.names)) if mask >> pool & 1)

    @classmethod
    def gathered(
        cls,
        pins: Mapping[Any, Pool],
        allowed: Mapping[Any, Collection[Pool]],
        link_cost: Callable[[Pool, Pool], float] | None,
        capacity: Mapping[Pool, float] | None,
    ) -> Pools:
        """Pools that are named anywhere, in the order of their names."""
        workers = capacity or {}
        for pool, count in workers.items():
            if not (isfinite(count) and count >= 0):
                raise InvalidCapacity(pool, count)
        names = sorted({*pins.values(), *workers, *chain.from_iterable(allowed.values())})
        rows = [[Fraction(0)] * (len(names) + 2) for _ in range(len(names) + 2)]
        for p, source in enumerate(names):
            for q, target in enumerate(names):
                if p != q:
                    cost = 1 if link_cost is None else link_cost(source, target)
                    if not (isfinite(cost) and cost >= 0):
                        raise InvalidLinkCost(source, target, cost)
                    rows[p][q] = Fraction(cost)
        counts = [Fraction(workers.get(name, 1)) for name in names]
        whole = sum(counts)
        shares = [count / whole if whole else Fraction(1, len(names)) for count in counts]
        blocked = len(names)
        for p in range(len(names)):
            rows[p][blocked] = sum((s * rows[p][q] for q, s in enumerate(shares)), Fraction())
            rows[blocked][p] = sum((s * rows[q][p] for q, s in enumerate(shares)), Fraction())
        unit = lcm(*(cost.denominator for row in rows for cost in row))
        return cls(names, [[int(cost * unit) for cost in row] for row in rows], unit, counts)


@dataclass(frozen=True, slots=True)
class TaskGraph(Generic[K]):
    """A task graph by number: every task comes after its inputs."""

    keys: list[K]  #: as they came, which may be any order
    number: dict[K, int]  #: where each of them came
    order: Sequence[int]  #: where each task came
    rank: Sequence[int]  #: which task came at each place
    inputs: list[int]  #: inputs of task 0, then those of task 1, and so on
    counts: list[int]  #: how many inputs each task has
    outside: Collection[K] = ()  #: keys of data in memory, which are no tasks

    def tasks(self, keys: Iterable[K]) -> list[int]:
        """Tasks behind those of `keys` that are in the graph."""
        return [self.rank[self.number[key]] for key in keys if key in self.number]

    def by_task(self, values: Mapping[K, V]) -> dict[int, V]:
        """Values of keys, by task, without those of keys that are not in the graph."""
        where = map(self.number.get, values)
        return {self.rank[i]: value for i, value in zip(where, values.values()) if i is not None}

    def ordered(self, values: Sequence[V]) -> Sequence[V]:
        """Values as the keys came, by task."""
        return values if isinstance(self.order, range) else [*map(values.__getitem__, self.order)]

    def as_came(self, values: Sequence[V]) -> Sequence[V]:
        """Values by task, as the keys came."""
        return values if isinstance(self.rank, range) else [*map(values.__getitem__, self.rank)]

    @classmethod
    def interned(cls, dependencies: Mapping[K, Collection[K]]) -> TaskGraph[K]:
        """Give the keys of a graph numbers."""
        keys = list(dependencies)
        number = dict(zip(keys, range(len(keys))))
        try:
            inputs = [*map(number.__getitem__, chain.from_iterable(dependencies.values()))]
        except KeyError:
            used = dict.fromkeys(chain.from_iterable(dependencies.values()))
            outside: dict[K, Collection[K]] = {key: () for key in used if key not in number}
            return replace(cls.interned(outside | dict(dependencies)), outside=outside)
        counts = list(map(len, dependencies.values()))
        consumers = chain.from_iterable(map(repeat, range(len(keys)), counts))
        forward = sum(map(lt, inputs, consumers))
        if forward == len(inputs):
            return cls(keys, number, range(len(keys)), range(len(keys)), inputs, counts)
        try:
            order, rank, inputs = sorted_tasks(inputs, counts, backward=2 * forward < len(inputs))
        except GraphCycle as cycle:
            raise GraphCycle([keys[cast("int", task)] for task in cycle.keys]) from None
        return cls(keys, number, order, rank, inputs, [*map(counts.__getitem__, order)])


def sorted_tasks(
    inputs: Sequence[int], counts: Sequence[int], *, backward: bool
) -> tuple[list[int], list[int], list[int]]:
    """Order tasks topologically, depth first; what comes in order already costs least.

    Parameters
    ----------
    inputs, counts
        Inputs of the tasks one after the other, and how many each has.
    backward : bool
        Whether more tasks come before their inputs than after.

    Returns
    -------
    order, rank, inputs : list of int
        Tasks in topological order, the place of each task in it, and the inputs that way.
    """
    ends = [*accumulate(counts)]
    rank = [-1] * len(counts)
    entered = bytearray(len(counts))
    order: list[int] = []
    ordered: list[int] = []
    rank_of = rank.__getitem__
    tasks = range(len(counts))
    for root in reversed(tasks) if backward else tasks:
        if rank[root] >= 0:
            continue
        path = [root]
        while path:
            task = path.pop()
            # A task that waits for its inputs is on the path as its complement.
            waited = task < 0
            if waited:
                task = ~task
            elif rank[task] >= 0:
                continue
            if counts[task]:
                mine = inputs[ends[task] - counts[task] : ends[task]]
                ranks = [*map(rank_of, mine)]
                if -1 in ranks:
                    if entered[task]:
                        waiting = [~other for other in path if other < 0]
                        raise GraphCycle(waiting[waiting.index(task) :])
                    entered[task] = True
                    path.append(~task)
                    path += mine
                    continue
                ordered += ranks
            rank[task] = len(order)
            order.append(task)
    return order, rank, ordered
