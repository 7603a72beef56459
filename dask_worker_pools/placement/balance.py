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
4. *Widen*. If that is not enough, let all other pools charge, too. What leaves as much as can be in
   the hottest pool, and what leaves as little, are the two ends of what can be had, and there are
   mixtures between these.
5. *Narrow*. If blocks are too large to be shared out, let only what is near to the end of the graph
   leave the hottest pool: as little of it as makes another one the hottest.

First ε is next to nothing, twice: so little that outputs go on crossing late (`kinds`), and then
more than that counts. This shares out what can be had in either way at the same cost. At last it is
what one would accept; but traffic is spent only where it buys as many per cent of the largest load
as it costs.

The price is one step of the multiplicative weights method: S. Arora, E. Hazan, S. Kale, "The
multiplicative weights update method", Theory of Computing 8 (2012).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import cast

import numpy as np

from dask_worker_pools.placement.blocks import Numbers
from dask_worker_pools.placement.fees import ends_at_home, made_at_home, under_fees
from dask_worker_pools.placement.kinds import Kernel
from dask_worker_pools.placement.mixture import heights, light, mixed, small_first
from dask_worker_pools.placement.standing import Graph, Standing

__all__ = ["balanced"]

#: rounds of these steps, where there are more than two pools
ROUNDS = 3

#: placements whose traffic differs by a smaller part count as equal: with how outputs cross, and
#: without
TIES = (Fraction(1, 10**12), Fraction(1, 10**6))

#: how many times its margin all that is called small may weigh: most of it will not be cut
HOPE = 4

#: kernels with more nodes × labels are of irregular graphs, where the last two steps take long and
#: are of little use
REGULAR = 800


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
    least, hottest = standing.traffic, standing.largest
    if not least:
        return placed
    rounds = 1 if len(pools) == 2 else ROUNDS
    useless: set[tuple[int, int, int]] = set()
    for part in sorted({min(one, Fraction(balance)) for one in (*TIES, Fraction(balance))}):
        margin = least * part / (2 * rounds)
        share = work / rounds / (1 + len(TIES))
        step = Step(kernel, solution, least, hottest, part, margin, share, useless)
        charged: list[int] = []
        first = standing.made
        for _ in range(rounds):
            if standing.even:
                break
            charged.append(standing.hottest(set(pools).difference(charged)))
            if not standing.can_leave(charged[-1]):
                continue
            largest = standing.largest
            fees, others = (
                {pool: margin / len(group) / first[pool] for pool in group if first[pool]}
                for group in (charged, [pool for pool in pools if pool not in charged])
            )
            standing = step.lowered(standing, fees, others)
            if standing.largest == largest:
                break  # what did not help the hottest pool will hardly do so in others
    return cast("list[int]", standing.placed.tolist())


@dataclass(frozen=True, slots=True)
class Step:
    """What it takes to lower the largest load, and what that may cost."""

    kernel: Kernel
    solution: Sequence[int]  #: labels of the nodes with the least traffic
    least: int  #: the least traffic
    largest: int  #: the largest load, with that
    part: Fraction  #: how much more of it may be spent
    margin: Fraction  #: what pools charge together
    work: float  #: arcs that each cut may look at
    useless: set[tuple[int, int, int]]  #: mixtures that were no better, for all steps

    def lowered(
        self, now: Standing, fees: Mapping[int, Fraction], others: Mapping[int, Fraction]
    ) -> Standing:
        """Take from pools that charge fees; `others` are those that the rest could charge."""
        for number, (one, other) in enumerate(self._ends(now, fees, others)):
            then = self._mixed(now, one, other)
            # Ends but for the first do not care how late outputs cross: only a gain is worth that.
            now = then if not number or then.largest < now.largest else now
            if now.even:
                break
        return now

    def _ends(
        self, now: Standing, fees: Mapping[int, Fraction], others: Mapping[int, Fraction]
    ) -> Iterator[tuple[Numbers, Numbers]]:
        """Pairs of placements of tasks, between which a mixture may do."""
        kernel = self.kernel
        fewest = under_fees(kernel, self.solution, fees, self.work)
        yield now.placed, self._tasks(now, made_at_home(kernel, fewest))
        if len(kernel.nodes) * len(now.rate) > REGULAR or self.part == min(TIES):
            return
        most = under_fees(kernel, self.solution, others, self.work)
        yield (
            self._tasks(now, ends_at_home(kernel, most)),
            self._tasks(now, ends_at_home(kernel, fewest)),
        )
        widest, narrowest = self._tasks(now, most), self._tasks(now, fewest)
        yield widest, narrowest

        def hottest(placed: Numbers) -> int:
            return now.loaded(placed).hottest(range(len(now.rate)))

        pool = hottest(widest)
        if hottest(narrowest) == pool:
            return  # whatever may leave it is not enough, and mixed in already
        height = [*map(heights(kernel.kinds).__getitem__, kernel.nodes)]

        @cache
        def near(limit: int) -> Numbers:
            """What leaves it if only so much at the end of the graph may."""
            fixed = [node for node, far in enumerate(height) if far >= limit]
            return self._tasks(now, under_fees(kernel, most, fees, self.work, fixed))

        low, high = 0, max(height) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if hottest(near(middle)) == pool else (low, middle)
        yield widest, near(high)
        yield near(low), near(high)

    def _tasks(self, now: Standing, solution: Sequence[int]) -> Numbers:
        """Labels of all tasks that nodes with these labels stand for."""
        labels = np.array(self.kernel.by_kind(solution), np.int32)
        return np.where(now.graph.free, labels[now.graph.kind], now.placed)

    def _mixed(self, now: Standing, one: Numbers, other: Numbers) -> Standing:
        """A mixture of two placements, if it does better than what is there and is worth it.

        What counts as small decides how far one can go. At first it is hopefully much.
        """
        graph = now.graph
        moving = set(graph.kind[one != other].tolist())
        if not moving:
            return now
        start = now if one is now.placed else now.loaded(one)
        small = small_first(self.kernel, graph, moving)
        hopeful, safe = (
            light(small, self.kernel, much) for much in (HOPE * self.margin, self.margin)
        )
        ends = hash(one.tobytes()), hash(other.tobytes())
        for cut in [hopeful] if np.array_equal(hopeful, safe) else [hopeful, safe]:
            mixture = *ends, hash(cut.tobytes())
            if mixture in self.useless:
                continue
            then = now.instead(mixed(start, other, cut, self.kernel))
            if then.largest >= now.largest:
                self.useless.add(mixture)
            if self._is_worth(now, then):
                return then
        return now

    def _is_worth(self, now: Standing, then: Standing) -> bool:
        """Whether a placement has a lower largest load, or one as low, at a fair price."""
        gain, price = now.largest - then.largest, then.traffic - now.traffic
        worth = self.part in TIES or gain * self.least >= price * self.largest
        return gain >= 0 and worth and then.traffic <= self.least * (1 + self.part)
