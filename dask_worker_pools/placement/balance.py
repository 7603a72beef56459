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

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, compress, groupby
from math import lcm
from operator import ne

from dask_worker_pools.placement.cuts import solve
from dask_worker_pools.placement.kinds import Kernel, Kinds, canonical
from dask_worker_pools.placement.nets import Problem

__all__ = ["balanced"]

#: stands for no task
NOBODY = -1

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
        Arcs that each round of cuts may look at.

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
    rate = _rates(kernel.pools.capacity)
    first = made = _made(placed, kernel.kinds, sizes, len(rate))
    charged: list[int] = []
    for _ in range(rounds):
        hot = max(set(pools).difference(charged), key=lambda pool: (made[pool] * rate[pool], pool))
        charged.append(hot)
        if not any(label == hot for label in solution):
            continue
        fees = {pool: margin / len(charged) / first[pool] for pool in charged if first[pool]}
        other = kernel.by_kind(_priced(kernel, solution, fees, work))
        ways = placed, [*map(other.__getitem__, kernel.kinds.of)]
        mixed = _mixed(*ways, kernel, inputs, counts, sizes, margin, rate, made)
        if not _within(mixed, kernel, least * (1 + Fraction(balance))):
            break
        placed, made = mixed, _made(mixed, kernel.kinds, sizes, len(rate))
    return placed


def _rates(capacity: Sequence[Fraction]) -> list[int]:
    """Load of a byte in each pool, in a unit that makes it whole; 0 where nothing can change."""
    unit = lcm(*(workers.numerator for workers in capacity if workers))
    return [int(unit / workers) if workers else 0 for workers in capacity]


def _made(placed: Sequence[int], kinds: Kinds, sizes: Sequence[float], pools: int) -> list[int]:
    """Bytes produced in each pool."""
    made = [0] * pools
    for (label, size), count in Counter(zip(placed, sizes)).items():
        if label < pools:
            made[label] += count * kinds.whole(size)
    return made


def _within(placed: Sequence[int], kernel: Kernel, limit: Fraction) -> bool:
    """Whether traffic keeps to its limit, as far as that can be seen: if tasks are kinds."""
    if len(kernel.kinds.label) < len(placed):
        return True
    problem = kernel.problem(0)
    return problem.price([placed[kind] for kind in kernel.nodes], range(len(kernel.nodes))) <= limit


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
    old: list[int],
    new: list[int],
    kernel: Kernel,
    inputs: Sequence[int],
    counts: Sequence[int],
    sizes: Sequence[float],
    margin: Fraction,
    rate: Sequence[int],
    made: Sequence[int],
) -> list[int]:
    """Take `new` rather than `old` in as many blocks as is best for the largest load."""
    kinds = kernel.kinds
    moving = bytearray(map(ne, old, new))
    if not any(moving):
        return old
    light = _light(kernel, set(compress(kinds.of, moving)), margin)
    blocks = _blocks(moving, [*map(light.__getitem__, kinds.of)], inputs, counts)

    # Blocks are alike if they move the same bytes between the same pools.
    alike: dict[tuple[tuple[tuple[int, int], int], ...], list[list[int]]] = defaultdict(list)
    whole = {size: kinds.whole(size) for size in set(sizes)}
    for block in blocks:
        shift: dict[tuple[int, int], int] = defaultdict(int)
        for task in block:
            shift[old[task], new[task]] += whole[sizes[task]]
        alike[tuple(sorted(shift.items()))].append(block)

    mixed = old.copy()
    made = list(made)
    place: Sequence[int] = ()
    for shifts in sorted(alike, key=lambda shifts: (-sum(much for _, much in shifts), shifts)):
        group = alike[shifts]
        many = _best_share(made, shifts, len(group), rate)
        made = _shifted(made, shifts, many)
        if 0 < many < len(group):
            place = place or _neighbourly(kinds, inputs, counts)
            group.sort(key=lambda block: min(map(place.__getitem__, block)))
        for block in group[:many]:
            for task in block:
                mixed[task] = new[task]
    return mixed


def _shifted(
    made: Sequence[int], shifts: Sequence[tuple[tuple[int, int], int]], times: int
) -> list[int]:
    """Bytes made in each pool after some has moved."""
    after = list(made)
    for (source, target), much in shifts:
        after[source] -= times * much
        after[target] += times * much
    return after


def _best_share(
    made: Sequence[int],
    shifts: Sequence[tuple[tuple[int, int], int]],
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


def _light(kernel: Kernel, moving: set[int], margin: Fraction) -> list[bool]:
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
    light = [False] * len(kinds.label)
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


def _blocks(
    moving: bytearray, light: Sequence[bool], inputs: Sequence[int], counts: Sequence[int]
) -> list[list[int]]:
    """Join moving tasks along the outputs that they share unless these are light."""
    movers = [*compress(range(len(counts)), moving)]
    parent = [NOBODY] * len(counts)
    for task in movers:
        parent[task] = task
    ends = array("q", accumulate(counts))
    for task in movers:
        own = _root(parent, task)
        for source in inputs[ends[task] - counts[task] : ends[task]]:
            if light[source]:
                continue
            # What does not move itself still ties its consumers together.
            other = source if parent[source] != NOBODY else own
            # As in `_root`; a call for each edge would take half of the time.
            while (above := parent[other]) != other:
                parent[other] = other = parent[above]
            parent[other] = parent[source] = own
    blocks: dict[int, list[int]] = defaultdict(list)
    for task in movers:
        blocks[_root(parent, task)].append(task)
    return list(blocks.values())


def _root(parent: list[int], task: int) -> int:
    """Who stands for all tasks that `task` was joined with."""
    while (above := parent[task]) != task:
        parent[task] = task = parent[above]
    return task


def _neighbourly(kinds: Kinds, inputs: Sequence[int], counts: Sequence[int]) -> Sequence[int]:
    """Place of each task in a breadth-first walk from the ends: what is used together is close.

    Inputs of different kinds are visited in an order that depends on nothing but the graph.
    """
    order = canonical(kinds)
    rank_of = [order[kind] for kind in kinds.of].__getitem__
    ends = array("q", accumulate(counts))
    used = bytearray(len(counts))
    for source in inputs:
        used[source] = True
    queue = sorted((task for task in range(len(counts)) if not used[task]), key=rank_of)
    place = array("q", [-1]) * len(counts)
    for task in queue:
        place[task] = 0
    for number, task in enumerate(queue):
        place[task] = number
        mine = [s for s in inputs[ends[task] - counts[task] : ends[task]] if place[s] < 0]
        if len(mine) > 1:
            mine.sort(key=rank_of)
        for source in mine:
            if place[source] < 0:
                place[source] = 0
                queue.append(source)
    return place
