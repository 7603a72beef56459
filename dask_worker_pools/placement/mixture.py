"""Mixtures of two placements: blocks of tasks that go one way or the other, each on its own.

Tasks that differ are joined to blocks along the outputs they share, but for small ones. Blocks that
weigh the same differ in cost only, so that their number is all there is to choose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby, pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dask_worker_pools.placement.blocks import Flags, Numbers, blocks_of, walk
from dask_worker_pools.placement.kinds import Kernel, Kinds, canonical
from dask_worker_pools.placement.standing import Graph, Standing

__all__ = ["heights", "light", "mixed", "small_first"]

#: bytes that go from one pool to another
Shifts: TypeAlias = tuple[tuple[tuple[int, int], int], ...]


def mixed(now: Standing, new: Numbers, cut: Flags, kernel: Kernel) -> Numbers:
    """Take `new` rather than the old labels in as many blocks as is best for the largest load.

    Outputs of the kinds in `cut` do not join blocks.
    """
    old, graph, rate = now.placed, now.graph, now.rate
    moving = old != new
    # What does not move itself still ties its consumers together.
    small = cut[graph.kind[graph.source]]
    tied = moving[graph.user] & ~small
    block = blocks_of(len(moving), graph.user[tied], graph.source[tied])
    alike = _alike_blocks(old, new, block, graph)

    made = now.made[: len(rate)]
    rank: Numbers | None = None
    takes = np.zeros(len(moving), np.bool_)
    for shifts in sorted(alike, key=lambda shifts: (-sum(much for _, much in shifts), shifts)):
        group = alike[shifts]
        many = _best_share(made, shifts, len(group), rate)
        made = _shifted(made, shifts, many)
        if 0 < many < len(group):
            if rank is None:
                place = _first_places(block, moving, graph, kernel.kinds)
                price = _prices(old, new, block, graph, small, kernel)
                rank = np.argsort(np.lexsort((place, price)))
            group = group[np.argsort(rank[group])]
        takes[group[:many]] = True
    return np.where(moving & takes[block], new, old)


def _prices(
    old: Numbers, new: Numbers, block: Numbers, graph: Graph, small: Flags, kernel: Kernel
) -> Numbers:
    """What it costs to move each block alone, for the small outputs that it shares with others.

    In parts of the largest of these costs, rounded so that no order of sums can be seen.
    """
    labels = len(kernel.pools.cost)
    dearest = max(map(max, kernel.pools.cost)) or 1
    cost = np.array([[each / dearest for each in row] for row in kernel.pools.cost])
    largest = max(graph.whole) or 1
    weight = np.array([float(Fraction(size, largest)) for size in graph.whole])
    source, user = graph.source[small], graph.user[small]
    apart = block[source] != block[user]
    price = np.zeros(len(block))

    def add(blocks: Numbers, outputs: Numbers, each: npt.NDArray[np.float64]) -> None:
        amount = weight[graph.size[outputs]] * each
        np.add(price, np.bincount(blocks, amount, minlength=len(block)), out=price)

    # An output moves away from users: to each of their labels it is sent from elsewhere.
    one, there = np.divmod(np.unique(_joined(labels, source[apart], old[user[apart]])), labels)
    add(block[one], one, cost[new[one], there] - cost[old[one], there])

    # Users move away from an output: labels at which no other user is left, and new ones.
    places, users = np.unique(_joined(labels, source, old[user]), return_counts=True)
    move = apart & (old[user] != new[user])
    source, user = source[move], user[move]
    leaving = _joined(labels, _joined(len(block), source, block[user]), old[user])
    leaving, leavers = np.unique(leaving, return_counts=True)
    both, label = np.divmod(leaving, labels)
    one, mover = np.divmod(both, len(block))
    there = users[np.searchsorted(places, _joined(labels, one, label))]
    add(mover, one, np.where(there == leavers, -cost[old[one], label], 0.0))

    coming = np.unique(_joined(labels, _joined(len(block), source, block[user]), new[user]))
    both, label = np.divmod(coming, labels)
    one, mover = np.divmod(both, len(block))
    add(
        mover,
        one,
        np.where(np.isin(_joined(labels, one, label), places), 0.0, cost[old[one], label]),
    )

    scale = np.abs(price).max(initial=0.0)
    return np.rint(price / (scale or 1.0) * 1e9).astype(np.int64)


def _joined(base: int, high: Numbers, low: Numbers) -> Numbers:
    """Two numbers as one."""
    return high.astype(np.int64) * base + low


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
    last = np.argsort(rank[graph.kind[graph.user]], kind="stable")
    place = walk(graph.source[last], graph.user[last], rank[graph.kind])
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


def small_first(kernel: Kernel, graph: Graph, moving: set[int]) -> list[list[int]]:
    """Kinds whose outputs the moving ones use, in groups of equal ones, from small to large.

    Of equal outputs those at the ends of the graph come first: cutting the root of a tree makes two
    large blocks, cutting its leaves many small ones.
    """
    kinds = kernel.kinds
    tasks = np.bincount(graph.kind).tolist()
    height = heights(kinds)
    rank = {
        kind: ((kinds.weight[kind] << 20) // tasks[kind], height[kind])
        for kind, users in enumerate(kinds.consumers)
        if not users.isdisjoint(moving)
    }
    ordered = sorted(rank, key=rank.__getitem__)
    return [list(group) for _, group in groupby(ordered, key=rank.__getitem__)]


def light(small: list[list[int]], kernel: Kernel, margin: Fraction) -> Flags:
    """Kinds whose outputs are so small together that they need not keep blocks in one piece.

    Kinds that are equal in this are cut together or not at all.
    """
    kinds = kernel.kinds
    dearest = max(map(sum, kernel.pools.cost))
    cut = np.zeros(len(kinds.label), np.bool_)
    for equal in small:
        margin -= dearest * sum(kinds.weight[kind] for kind in equal)
        if margin < 0:
            break
        cut[equal] = True
    return cut


def heights(kinds: Kinds) -> list[int]:
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
