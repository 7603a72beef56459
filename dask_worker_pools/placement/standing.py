"""How a placement does: the bytes that each pool produces, and what it costs to ship outputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm, prod

import numpy as np

from dask_worker_pools.placement.blocks import Flags, Numbers
from dask_worker_pools.placement.kinds import FREE, Kinds
from dask_worker_pools.placement.problem import Pools

__all__ = ["Graph", "Standing"]

#: a largest load that exceeds the mean by a smaller part is good enough
EVEN = Fraction(1, 100)


@dataclass(frozen=True, slots=True)
class Graph:
    """Tasks and their outputs, as arrays, in half the memory of Python's own numbers."""

    kind: Numbers  #: of each task
    free: Flags  #: tasks that may move
    apart: Flags  #: what is no load: data in memory, and tasks that are placed by load later
    source: Numbers  #: one end of each edge
    user: Numbers  #: the other
    size: Numbers  #: which one of `whole` each output has
    whole: list[int]  #: sizes, in the unit of the kinds

    @classmethod
    def of(
        cls,
        kinds: Kinds,
        inputs: Sequence[int],
        counts: Sequence[int],
        sizes: Sequence[float],
        apart: Collection[int],
    ) -> Graph:
        """Take a graph as it is numbered for its kinds; some tasks are neither moved nor a load."""
        distinct, size = np.unique(np.array(sizes, np.float64), return_inverse=True)
        kind = np.array(kinds.of, np.int32)
        free = np.array([label == FREE for label in kinds.label], np.bool_)[kind]
        others = np.zeros(len(kind), np.bool_)
        others[list(apart)] = True
        return cls(
            kind,
            free & ~others,
            others,
            np.array(inputs, np.int32),
            np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            size.astype(np.int32),
            [*map(kinds.whole, distinct.tolist())],
        )

    def made(self, placed: Numbers, labels: int) -> list[int]:
        """Bytes made under each of so many labels."""
        made = [0] * labels
        own = ~self.apart
        for (label,), nbytes in self._summed(self.size[own], placed[own]):
            made[label] += nbytes
        return made

    def traffic(self, placed: Numbers, cost: Sequence[Sequence[int]]) -> int:
        """Cost of what crosses."""
        far = np.array([[bool(price) for price in row] for row in cost])
        crosses = far[placed[self.source], placed[self.user]]
        source, where = self.source[crosses], placed[self.user[crosses]]
        # What several users under one label need crosses once.
        source, where = np.divmod(np.unique(source.astype(np.int64) * len(cost) + where), len(cost))
        ways = self._summed(self.size[source], placed[source], where)
        return sum(nbytes * cost[own][other] for (own, other), nbytes in ways)

    def _summed(self, size: Numbers, *labels: Numbers) -> Iterator[tuple[tuple[int, ...], int]]:
        """Bytes of outputs with these sizes, by the labels that they have and by size."""
        shape = (*(int(label.max(initial=0)) + 1 for label in labels), len(self.whole))
        place = np.ravel_multi_index((*labels, size), shape)
        if prod(shape) <= 4 * len(place):
            many = np.bincount(place)
            place = np.flatnonzero(many)
            many = many[place]
        else:  # a table of all combinations would be larger than the graph
            place, many = np.unique(place, return_counts=True)
        *which, number = (axis.tolist() for axis in np.unravel_index(place, shape))
        for *pools, one, times in zip(*which, number, many.tolist(), strict=True):
            yield tuple(pools), times * self.whole[one]


@dataclass(frozen=True, slots=True)
class Standing:
    """A placement, and how it does."""

    placed: Numbers  #: label of each task
    graph: Graph
    pools: Pools
    rate: Sequence[int]  #: load of a byte in each pool
    made: list[int]  #: bytes produced by label
    traffic: int  #: what it costs

    @classmethod
    def of(cls, placed: Sequence[int], graph: Graph, pools: Pools) -> Standing:
        """Judge a placement."""
        rate = _rates(pools.capacity)
        labels = np.array(placed, np.int32)
        made, traffic = graph.made(labels, len(pools.cost)), graph.traffic(labels, pools.cost)
        return cls(labels, graph, pools, rate, made, traffic)

    def instead(self, placed: Numbers) -> Standing:
        """Judge another placement of the same graph."""
        traffic = self.graph.traffic(placed, self.pools.cost)
        return replace(self.loaded(placed), traffic=traffic)

    def loaded(self, placed: Numbers) -> Standing:
        """Judge the load of another placement, and leave its traffic aside."""
        return replace(self, placed=placed, made=self.graph.made(placed, len(self.pools.cost)))

    def load(self, pool: int) -> int:
        """Bytes produced in a pool per worker, in the unit of `rate`."""
        return self.made[pool] * self.rate[pool]

    @property
    def largest(self) -> int:
        """The load of the hottest pool."""
        return max(map(self.load, range(len(self.rate))))

    @property
    def even(self) -> bool:
        """Whether no pool has much more than the mean load."""
        workers = [Fraction(1, each) for each in self.rate if each]
        made = sum(much for much, each in zip(self.made, self.rate) if each)
        return self.largest * sum(workers) <= made * (1 + EVEN)

    def can_leave(self, pool: int) -> bool:
        """Whether there is anything in a pool that does not have to be there."""
        return bool((self.placed[self.graph.free] == pool).any())

    def hottest(self, pools: Iterable[int]) -> int:
        """Which of some pools has the largest load."""
        return max(pools, key=lambda pool: (self.load(pool), pool))


def _rates(capacity: Sequence[Fraction]) -> list[int]:
    """Load of a byte in each pool, in a unit that makes it whole; 0 where nothing can change."""
    unit = lcm(*(workers.numerator for workers in capacity if workers))
    return [int(unit / workers) if workers else 0 for workers in capacity]
