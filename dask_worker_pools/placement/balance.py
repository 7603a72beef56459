"""Spread the load where traffic hardly minds.

The load of a pool is the bytes that its tasks produce per worker. Among the placements within a
fraction ε of the least traffic T, one with a small largest load is sought:

1. *Price*. Let the hottest pool charge ε·T for all the bytes that it produces, and label anew.
   Staying would cost T + ε·T, so whatever is cheaper now has a traffic of (1 + ε)·T at most.
2. *Mix*. Between the old placement and the new one lie the mixtures. Tasks that differ are joined
   to blocks along the outputs they share. A block can go either way on its own: the old placement
   is the cheapest, so moving a block never gains, and all of them together cost ε·T at most. Small
   outputs need not join blocks.
3. *Share out*. Among blocks that weigh the same, those that cost least go first. Then only how many
   of them move matters, and the largest load is a convex function of that number.

First ε is next to nothing, twice: so little that outputs go on crossing late (`kinds`), and then
more than that counts. This shares out what can be had in either way at the same cost. At last it is
what one would accept; but traffic is spent only where it buys as many per cent of the largest load
as it costs.

The price is one step of the multiplicative weights method: S. Arora, E. Hazan, S. Kale, "The
multiplicative weights update method", Theory of Computing 8 (2012).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby, pairwise
from math import lcm, prod
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from dask_worker_pools.placement.blocks import Flags, Numbers, blocks_of, walk
from dask_worker_pools.placement.cuts import solve
from dask_worker_pools.placement.kinds import FREE, Kernel, Kinds, canonical
from dask_worker_pools.placement.nets import Problem
from dask_worker_pools.placement.problem import Pools

__all__ = ["Graph", "balanced"]

#: bytes that go from one pool to another
Shifts: TypeAlias = tuple[tuple[tuple[int, int], int], ...]

#: rounds of the three steps, where there are more than two pools
ROUNDS = 3

#: placements whose traffic differs by a smaller part count as equal: with how outputs cross, and
#: without
TIES = (Fraction(1, 10**12), Fraction(1, 10**6))

#: a largest load that exceeds the mean by a smaller part is good enough
EVEN = Fraction(1, 100)

#: how many times its margin all that is called small may weigh: most of it will not be cut
HOPE = 4


def balanced(
    placed: list[int],
    solution: Sequence[int],
    kernel: Kernel,
    graph: Graph,
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
    graph : Graph
        The tasks.
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
    if len(pools) < 2:
        return placed
    standing = Standing.of(placed, graph, kernel.pools)
    least = standing.traffic
    if not least:
        return placed
    rounds = 1 if len(pools) == 2 else ROUNDS
    for part in sorted({min(one, Fraction(balance)) for one in (*TIES, Fraction(balance))}):
        margin = least * part / (2 * rounds)
        charged: list[int] = []
        first = standing.made
        for _ in range(rounds):
            if standing.even:
                break
            charged.append(standing.hottest(set(pools).difference(charged)))
            if not standing.can_leave(charged[-1]):
                continue
            fees = {pool: margin / len(charged) / first[pool] for pool in charged if first[pool]}
            labels = kernel.by_kind(
                _priced(kernel, solution, fees, work / rounds / (1 + len(TIES)))
            )
            largest = standing.largest
            standing = _lowered(standing, labels, kernel, margin, least, part)
            if standing.largest == largest:
                break  # what did not help the hottest pool will hardly do so in others
    return cast("list[int]", standing.placed.tolist())


def _lowered(
    now: Standing, labels: list[int], kernel: Kernel, margin: Fraction, least: int, part: Fraction
) -> Standing:
    """Go towards other labels of the kinds, as far as that lowers the largest load and is worth it.

    What counts as small decides how far one can go. At first it is hopefully much.
    """
    graph = now.graph
    other = np.where(graph.free, np.array(labels, np.int32)[graph.kind], now.placed)
    moving = set(graph.kind[now.placed != other].tolist())
    if not moving:
        return now
    small = _small_first(kernel, moving)
    hopeful, safe = (_light(small, kernel, much) for much in (HOPE * margin, margin))
    for light in [hopeful] if np.array_equal(hopeful, safe) else [hopeful, safe]:
        then = now.instead(_mixed(now, other, light, kernel))
        gain, price = now.largest - then.largest, then.traffic - now.traffic
        worth = part in TIES or gain * least >= price * now.largest
        if gain >= 0 and worth and then.traffic <= least * (1 + part):
            return then
    return now


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

    def judged(self, placed: Numbers, cost: Sequence[Sequence[int]]) -> tuple[list[int], int]:
        """Bytes made under each label, and the cost of what crosses."""
        labels = len(cost)
        made = [0] * labels
        own = ~self.apart
        for (label,), nbytes in self._summed(self.size[own], placed[own]):
            made[label] += nbytes

        far = np.array([[bool(price) for price in row] for row in cost])
        crosses = far[placed[self.source], placed[self.user]]
        source, where = self.source[crosses], placed[self.user[crosses]]
        # What several users under one label need crosses once.
        source, where = np.divmod(np.unique(source.astype(np.int64) * labels + where), labels)
        ways = self._summed(self.size[source], placed[source], where)
        return made, sum(nbytes * cost[own][other] for (own, other), nbytes in ways)

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
        return cls(labels, graph, pools, rate, *graph.judged(labels, pools.cost))

    def instead(self, placed: Numbers) -> Standing:
        """Judge another placement of the same graph."""
        made, traffic = self.graph.judged(placed, self.pools.cost)
        return replace(self, placed=placed, made=made, traffic=traffic)

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

    def bring(nodes: Sequence[int], home: int) -> None:
        """Label nodes with `home`, if all of them may be there and if that costs no more."""
        if any(home not in kernel.options[node] for node in nodes):
            return
        before, old = problem.price(labels, nodes), [labels[node] for node in nodes]
        for node in nodes:
            labels[node] = home
        if problem.price(labels, nodes) > before:
            for node, label in zip(nodes, old, strict=True):
                labels[node] = label

    def label_of(maker: int) -> int:
        return labels[maker] if maker >= 0 else ~maker

    # All that comes of one pool's pinned outputs goes together: its parts hold each other back.
    for home, nodes in _natives(makers):
        bring([node for node in nodes if labels[node] != home], home)
    for net in sorted(kernel.nets, key=lambda net: net.hub):
        home = label_of(net.hub)
        away: dict[int, list[int]] = defaultdict(list)
        for node in net.consumers:
            if labels[node] != home and {home} == set(map(label_of, makers[node])):
                away[labels[node]].append(node)
        for nodes in away.values():
            bring(nodes, home)
    return labels


def _natives(makers: Sequence[Collection[int]]) -> Iterator[tuple[int, list[int]]]:
    """Groups of nodes that are made, directly or not, of pinned outputs of one pool alone."""
    home: list[int] = []
    one, other = [], []
    for node, mine in enumerate(makers):
        # Kinds that are not exact may use each other; then neither is known when it is needed.
        homes = {~maker if maker < 0 else home[maker] if maker < node else -1 for maker in mine}
        home.append(homes.pop() if len(homes) == 1 else -1)
        if home[node] >= 0:
            near = [maker for maker in mine if maker >= 0]  # which are of the same home
            one += [node] * len(near)
            other += near
    groups: dict[int, list[int]] = defaultdict(list)
    block = blocks_of(len(makers), np.array(one, np.int32), np.array(other, np.int32))
    for node, first in enumerate(block.tolist()):
        if home[node] >= 0:
            groups[first].append(node)
    for nodes in groups.values():
        yield home[nodes[0]], nodes


def _mixed(now: Standing, new: Numbers, light: Flags, kernel: Kernel) -> Numbers:
    """Take `new` rather than the old labels in as many blocks as is best for the largest load."""
    old, graph, rate = now.placed, now.graph, now.rate
    moving = old != new
    # What does not move itself still ties its consumers together.
    small = light[graph.kind[graph.source]]
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


def _small_first(kernel: Kernel, moving: set[int]) -> list[list[int]]:
    """Kinds whose outputs the moving ones use, in groups of equal ones, from small to large.

    Of equal outputs those at the ends of the graph come first: cutting the root of a tree makes two
    large blocks, cutting its leaves many small ones.
    """
    kinds = kernel.kinds
    tasks = Counter(kinds.of)
    height = _heights(kinds)
    rank = {
        kind: ((kinds.weight[kind] << 20) // tasks[kind], height[kind])
        for kind, users in enumerate(kinds.consumers)
        if not users.isdisjoint(moving)
    }
    ordered = sorted(rank, key=rank.__getitem__)
    return [list(group) for _, group in groupby(ordered, key=rank.__getitem__)]


def _light(small: list[list[int]], kernel: Kernel, margin: Fraction) -> Flags:
    """Kinds whose outputs are so small together that they need not keep blocks in one piece.

    Kinds that are equal in this are cut together or not at all.
    """
    kinds = kernel.kinds
    dearest = max(map(sum, kernel.pools.cost))
    light = np.zeros(len(kinds.label), np.bool_)
    for equal in small:
        margin -= dearest * sum(kinds.weight[kind] for kind in equal)
        if margin < 0:
            break
        light[equal] = True
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
