"""Spread the load where traffic hardly minds.

The load of a pool is the bytes that its tasks produce per worker. Among the placements within a
fraction ε of the least traffic T, the one with the smallest largest load is sought:

1. *Price*. Let the hottest pool charge ε·T for all the bytes that it produces, and label anew.
   Staying would cost T + ε·T, so whatever is cheaper now has a traffic of (1 + ε)·T at most.
2. *Mix*. Between the old placement and the new one lie the mixtures. Tasks that differ are joined
   to blocks along the outputs they share. A block can go either way on its own: the old placement
   is the cheapest, so moving a block never gains, and all of them together cost ε·T at most. Small
   outputs need not join blocks, as long as they sum up to no more than another ε·T.
3. *Share out*. Blocks that weigh the same are interchangeable: only how many of them move matters,
   and the largest load is a convex function of that number.

The price is one step of the multiplicative weights method: S. Arora, E. Hazan, S. Kale, "The
multiplicative weights update method", Theory of Computing 8 (2012).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise
from math import lcm
from typing import TypeAlias, cast

import numpy as np

from dask_worker_pools.placement.blocks import Flags, Numbers, blocks_of, walk
from dask_worker_pools.placement.cuts import solve
from dask_worker_pools.placement.kinds import Kernel, Kinds, canonical
from dask_worker_pools.placement.nets import Problem

__all__ = ["balanced"]

#: bytes that go from one pool to another
Shifts: TypeAlias = tuple[tuple[tuple[int, int], int], ...]

#: rounds of the three steps, where there are more than two pools
ROUNDS = 3


def balanced(
    placed: list[int],
    solution: Sequence[int],
    kernel: Kernel,
    inputs: Sequence[int],
    counts: Sequence[int],
    sizes: Sequence[float],
    balance: float,
    work: float,
) -> list[int]:
    """Lower the largest load, for a little more traffic.

    Parameters
    ----------
    placed : list of int
        Label of each task, with the least traffic.
    solution : sequence of int
        The same by the nodes of `kernel`.
    kernel : Kernel
        What the cuts see of the graph.
    inputs, counts, sizes
        The graph, as numbered for `kernel`.
    balance : float
        How much more traffic to accept, as a fraction of the least.
    work : float
        Arcs that the cuts may look at, all rounds together.

    Returns
    -------
    list of int
        Label of each task.
    """
    pools = kernel.pools.options(kernel.pools.open)
    least = kernel.problem(work).price(solution, range(len(solution)))
    if len(pools) < 2 or not least:
        return placed
    rounds = 1 if len(pools) == 2 else ROUNDS
    margin = least * Fraction(balance) / (2 * rounds)
    graph = Graph.of(kernel.kinds, inputs, counts, sizes)
    rate = _rates(kernel.pools.capacity)
    best = np.array(placed, np.int32)
    first = made = graph.made(best, len(rate))
    charged: list[int] = []
    for _ in range(rounds):
        hot = max(set(pools).difference(charged), key=lambda pool: (made[pool] * rate[pool], pool))
        charged.append(hot)
        if not any(label == hot for label in solution):
            continue
        fees = {pool: margin / len(charged) / first[pool] for pool in charged if first[pool]}
        labels = kernel.by_kind(_priced(kernel, solution, fees, work / rounds))
        other = np.array(labels, np.int32)[graph.kind]
        mixed = _mixed(best, other, graph, kernel, margin, rate, made)
        if not _within(mixed, kernel, least * (1 + Fraction(balance))):
            break
        best, made = mixed, graph.made(mixed, len(rate))
    return cast("list[int]", best.tolist())


@dataclass(frozen=True, slots=True)
class Graph:
    """Tasks and their outputs, as arrays, in half the memory of Python's own numbers."""

    kind: Numbers  #: of each task
    source: Numbers  #: one end of each edge
    user: Numbers  #: the other
    size: Numbers  #: which one of `whole` each output has
    whole: list[int]  #: sizes, in the unit of the kinds

    @classmethod
    def of(
        cls, kinds: Kinds, inputs: Sequence[int], counts: Sequence[int], sizes: Sequence[float]
    ) -> Graph:
        """Take a graph as it is numbered for its kinds."""
        distinct, size = np.unique(np.array(sizes, np.float64), return_inverse=True)
        return cls(
            np.array(kinds.of, np.int32),
            np.array(inputs, np.int32),
            np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            size.astype(np.int32),
            [*map(kinds.whole, distinct.tolist())],
        )

    def made(self, placed: Numbers, pools: int) -> list[int]:
        """Bytes produced in each pool."""
        sizes = len(self.whole)
        many = np.bincount(placed.astype(np.int64) * sizes + self.size)
        made = [0] * pools
        for place in np.flatnonzero(many[: pools * sizes]).tolist():
            label, size = divmod(place, sizes)
            made[label] += int(many[place]) * self.whole[size]
        return made


def _rates(capacity: Sequence[Fraction]) -> list[int]:
    """Load of a byte in each pool, in a unit that makes it whole; 0 where nothing can change."""
    unit = lcm(*(workers.numerator for workers in capacity if workers))
    return [int(unit / workers) if workers else 0 for workers in capacity]


def _within(placed: Numbers, kernel: Kernel, limit: Fraction) -> bool:
    """Whether traffic keeps to its limit, as far as that can be seen: if tasks are kinds."""
    if len(kernel.kinds.label) < len(placed):
        return True
    labels = placed[kernel.nodes].tolist()
    return kernel.problem(0).price(labels, range(len(labels))) <= limit


def _priced(
    kernel: Kernel, solution: Sequence[int], fees: dict[int, Fraction], work: float
) -> Sequence[int]:
    """Label the nodes anew, with a fee on each byte made in some pools."""
    unit = lcm(*(fee.denominator for fee in fees.values()))
    labels = range(len(kernel.pools.cost))
    fee = [int(fees.get(label, 0) * unit) for label in labels]
    problem = Problem(
        kernel.options,
        kernel.nets,
        [[cost * unit for cost in row] for row in kernel.pools.cost],
        [[kernel.kinds.weight[kind] * fee[label] for label in labels] for kind in kernel.nodes],
        work,
    )
    found = solve(problem, solution)
    everything = range(len(found))
    best = min(solution, found, key=lambda labels: problem.price(labels, everything))
    return _made_at_home(kernel, best)


def _made_at_home(kernel: Kernel, solution: Sequence[int]) -> list[int]:
    """Let what is made of outputs of one pool alone be made there, unless that sends more.

    A fee makes outputs cross early and whole. Then all that is made of them has to stay together.
    """
    problem, labels = kernel.problem(0), list(solution)
    makers: list[set[int]] = [set() for _ in kernel.nodes]
    for net in kernel.nets:
        for node in net.consumers:
            makers[node].add(net.hub)

    def label_of(maker: int) -> int:
        return labels[maker] if maker >= 0 else ~maker

    for net in sorted(kernel.nets, key=lambda net: net.hub):
        home = label_of(net.hub)
        away: dict[int, list[int]] = defaultdict(list)
        for node in net.consumers:
            if labels[node] != home:
                away[labels[node]].append(node)
        for label, nodes in away.items():
            if not all(
                home in kernel.options[node] and {home} == set(map(label_of, makers[node]))
                for node in nodes
            ):
                continue
            before = problem.price(labels, nodes)
            for node in nodes:
                labels[node] = home
            if problem.price(labels, nodes) > before:
                for node in nodes:
                    labels[node] = label
    return labels


def _mixed(
    old: Numbers,
    new: Numbers,
    graph: Graph,
    kernel: Kernel,
    margin: Fraction,
    rate: Sequence[int],
    made: Sequence[int],
) -> Numbers:
    """Take `new` rather than `old` in as many blocks as is best for the largest load."""
    moving = old != new
    if not moving.any():
        return old
    light = _light(kernel, set(graph.kind[moving].tolist()), margin)
    # What does not move itself still ties its consumers together.
    tied = moving[graph.user] & ~light[graph.kind[graph.source]]
    block = blocks_of(len(moving), graph.user[tied], graph.source[tied])
    alike = _alike_blocks(old, new, block, graph)

    made = list(made)
    place: Numbers | None = None
    takes = np.zeros(len(moving), np.bool_)
    for shifts in sorted(alike, key=lambda shifts: (-sum(much for _, much in shifts), shifts)):
        group = alike[shifts]
        many = _best_share(made, shifts, len(group), rate)
        made = _shifted(made, shifts, many)
        if 0 < many < len(group):
            if place is None:
                place = _first_places(block, moving, graph, kernel.kinds)
            group = group[np.argsort(place[group])]
        takes[group[:many]] = True
    return np.where(moving & takes[block], new, old)


def _alike_blocks(
    old: Numbers, new: Numbers, block: Numbers, graph: Graph
) -> dict[Shifts, Numbers]:
    """Group blocks that move the same bytes between the same pools, by what they move."""
    movers = np.flatnonzero(old != new)
    labels, sizes = int(max(old.max(), new.max())) + 1, len(graph.whole)
    way = (old[movers].astype(np.int64) * labels + new[movers]) * sizes + graph.size[movers]
    ways, way = np.unique(way, return_inverse=True)
    shift = [
        ((way // sizes // labels, way // sizes % labels), graph.whole[way % sizes])
        for way in ways.tolist()
    ]

    # How often each block goes each way, block by block.
    pairs, many = np.unique(block[movers].astype(np.int64) * len(ways) + way, return_counts=True)
    which = pairs // len(ways)
    counted = np.stack([pairs % len(ways), many], axis=1)
    starts = np.flatnonzero(np.diff(which, prepend=-1))
    same: dict[bytes, list[int]] = defaultdict(list)
    for start, stop in pairwise([*starts.tolist(), len(pairs)]):
        same[counted[start:stop].tobytes()].append(start)

    alike: dict[Shifts, list[Numbers]] = defaultdict(list)
    for packed, members in same.items():
        moved: dict[tuple[int, int], int] = defaultdict(int)
        for number, times in np.frombuffer(packed, np.int64).reshape(-1, 2).tolist():
            pools, size = shift[number]
            moved[pools] += times * size
        alike[tuple(sorted(moved.items()))].append(which[members])
    return {shifts: np.concatenate(groups) for shifts, groups in alike.items()}


def _first_places(block: Numbers, moving: Flags, graph: Graph, kinds: Kinds) -> Numbers:
    """Where a walk through the graph first meets what moves of each block."""
    rank = np.unique(canonical(kinds), return_inverse=True)[1].astype(np.int32)
    place = walk(graph.source, graph.user, rank[graph.kind])
    first = np.full(len(block), len(block), np.int32)
    np.minimum.at(first, block[moving], place[moving])
    return first


def _shifted(made: Sequence[int], shifts: Shifts, times: int) -> list[int]:
    """Bytes made in each pool after some has moved."""
    after = list(made)
    for (source, target), much in shifts:
        after[source] -= times * much
        after[target] += times * much
    return after


def _best_share(
    made: Sequence[int],
    shifts: Shifts,
    many: int,
    rate: Sequence[int],
) -> int:
    """How many of so many like blocks to move, for the lowest largest load, then the most even.

    Both are convex in that number, so the search halves.
    """

    def uneven(times: int) -> tuple[int, int]:
        after = _shifted(made, shifts, times)
        loads = [much * each for much, each in zip(after, rate, strict=True)]
        return max(loads), sum(much * load for much, load in zip(after, loads, strict=True))

    low, high = 0, many
    while low < high:
        middle = (low + high) // 2
        if uneven(middle + 1) < uneven(middle):
            low = middle + 1
        else:
            high = middle
    return low


def _light(kernel: Kernel, moving: set[int], margin: Fraction) -> Flags:
    """Kinds whose outputs are so small together that they need not keep blocks in one piece.

    From small outputs to large ones, and from the ends of the graph backward: cutting the root of
    a tree makes two large blocks, cutting its leaves many small ones. Kinds that are equal in this
    are cut together or not at all.
    """
    kinds = kernel.kinds
    tasks = Counter(kinds.of)
    height = _heights(kinds)
    dearest = max(map(sum, kernel.pools.cost))
    rank = {
        kind: (kinds.weight[kind] / tasks[kind], height[kind])
        for kind, users in enumerate(kinds.consumers)
        if not users.isdisjoint(moving)
    }
    light = np.zeros(len(kinds.label), np.bool_)
    for _, group in groupby(sorted(rank, key=rank.__getitem__), key=rank.__getitem__):
        equal = list(group)
        margin -= dearest * sum(kinds.weight[kind] for kind in equal)
        if margin < 0:
            break
        for kind in equal:
            light[kind] = True
    return light


def _heights(kinds: Kinds) -> list[int]:
    """Count the steps from each kind to the nearest end of the graph."""
    producers: list[list[int]] = [[] for _ in kinds.label]
    height = [-1] * len(kinds.label)
    ends = []
    for kind, users in enumerate(kinds.consumers):
        free = [user for user in users if user >= 0]
        for user in free:
            producers[user].append(kind)
        if not free:
            height[kind] = 0
            ends.append(kind)
    for kind in ends:
        for producer in producers[kind]:
            if height[producer] < 0:
                height[producer] = height[kind] + 1
                ends.append(producer)
    return height
