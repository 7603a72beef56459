"""Placements of the least cost when some pools charge a fee for what they produce."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from math import lcm

import numpy as np

from dask_worker_pools.placement.blocks import blocks_of
from dask_worker_pools.placement.cuts import solve
from dask_worker_pools.placement.kinds import Kernel
from dask_worker_pools.placement.nets import Problem

__all__ = ["ends_at_home", "made_at_home", "under_fees"]


def under_fees(
    kernel: Kernel,
    solution: Sequence[int],
    fees: Mapping[int, Fraction],
    work: float,
    fixed: Collection[int] = (),
) -> Sequence[int]:
    """Label the nodes anew, from `solution`, with a fee on each byte made in some pools.

    Those in `fixed` keep their labels.
    """
    unit = lcm(*(fee.denominator for fee in fees.values()))
    labels = range(len(kernel.pools.cost))
    fee = [int(fees.get(label, 0) * unit) for label in labels]
    options = list(kernel.options)
    for node in fixed:
        options[node] = (solution[node],)
    problem = Problem(
        options,
        kernel.nets,
        [[cost * unit for cost in row] for row in kernel.pools.cost],
        [[kernel.kinds.weight[kind] * fee[label] for label in labels] for kind in kernel.nodes],
        work,
    )
    found = solve(problem, solution)
    everything = range(len(found))
    return min(solution, found, key=lambda labels: problem.price(labels, everything))


def made_at_home(kernel: Kernel, solution: Sequence[int]) -> list[int]:
    """Let what is made of outputs of one pool alone be made there, unless that sends more.

    A fee makes outputs cross early and whole. Then all that is made of them has to stay together.
    """
    problem, labels = kernel.problem(0), list(solution)
    makers = _makers(kernel)

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


def ends_at_home(kernel: Kernel, solution: Sequence[int]) -> list[int]:
    """Let what is made of outputs of one pool alone be made there, if no other has a use for it.

    That is never dearer. Whatever else needs these outputs may then be made elsewhere by parts.
    """
    labels = list(solution)
    away: set[int] = set()  # groups that something else has a use for
    groups = list(_natives(_makers(kernel)))
    member = {node: number for number, (_, nodes) in enumerate(groups) for node in nodes}
    for net in kernel.nets:
        if net.hub in member:
            own = member[net.hub]
            users = {member.get(node) for node in net.consumers}
            if not (users <= {own} and net.present <= {groups[own][0]}):
                away.add(own)
    for number, (home, nodes) in enumerate(groups):
        if number not in away and all(home in kernel.options[node] for node in nodes):
            for node in nodes:
                labels[node] = home
    return labels


def _makers(kernel: Kernel) -> list[set[int]]:
    """What each node is made of."""
    makers: list[set[int]] = [set() for _ in kernel.nodes]
    for net in kernel.nets:
        for node in net.consumers:
            makers[node].add(net.hub)
    return makers


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
