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

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from fractions import Fraction
from math import lcm
from typing import cast

import numpy as np

from dask_worker_pools.placement.blocks import blocks_of
from dask_worker_pools.placement.cuts import solve
from dask_worker_pools.placement.kinds import Kernel
from dask_worker_pools.placement.mixture import light, mixed, small_first
from dask_worker_pools.placement.nets import Problem
from dask_worker_pools.placement.standing import Graph, Standing

__all__ = ["balanced"]

#: rounds of the three steps, where there are more than two pools
ROUNDS = 3

#: placements whose traffic differs by a smaller part count as equal: with how outputs cross, and
#: without
TIES = (Fraction(1, 10**12), Fraction(1, 10**6))

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
    small = small_first(kernel, graph, moving)
    hopeful, safe = (light(small, kernel, much) for much in (HOPE * margin, margin))
    for cut in [hopeful] if np.array_equal(hopeful, safe) else [hopeful, safe]:
        then = now.instead(mixed(now, other, cut, kernel))
        gain, price = now.largest - then.largest, then.traffic - now.traffic
        worth = part in TIES or gain * least >= price * now.largest
        if gain >= 0 and worth and then.traffic <= least * (1 + part):
            return then
    return now


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
