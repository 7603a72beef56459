"""Merge nodes that no cheapest labelling tells apart.

Let net e join the nodes u1, u2, … to h, where each u may take any label that h may. If some labels
on e differ, giving all of them that of h saves at least the weight of e; what it can add, where all
links cost the same, is the weight of the other nets of the u's. So if

    weight(e) > Σ over u of (weight of all nets of u - weight(e)),

all nodes of e have one label in *every* cheapest labelling, and they may as well be one node. The
inequality is strict, so all merges found hold at once, in whatever order they are found.

Source: this is the heavy-edge rule of M. Padberg and G. Rinaldi, "An efficient algorithm for the
minimum capacity cut problem", Mathematical Programming 47 (1990), for nets and many labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dask_worker_pools.placement.nets import Net, Problem

__all__ = ["contracted", "is_contractible"]


def is_contractible(problem: Problem) -> bool:
    """Whether all links that matter cost the same, and labels cost nothing in themselves."""
    labels = set().union(*problem.options)
    for net in problem.nets:
        labels |= net.present
        if net.hub < 0:
            labels.add(~net.hub)
    costs = {problem.cost[p][q] for p in labels for q in labels if p != q}
    return len(costs) == 1 and not problem.burden


def contracted(problem: Problem) -> tuple[Problem, list[int]]:
    """Merge what every cheapest labelling keeps together.

    Returns
    -------
    smaller : Problem
        The same problem on fewer nodes.
    where : list of int
        Node of the smaller problem for each node; `~label` if its label is certain.

    Examples
    --------
    Node 0 holds on to label 0 with 5 units and to node 1 with 4, node 1 to label 1 with 2.

    >>> nets = [Net(5, ~0, (0,), frozenset()), Net(4, 0, (1,), frozenset())]
    >>> nets += [Net(2, 1, (), frozenset([1]))]
    >>> contracted(Problem([(0, 1), (0, 1)], nets, [[0, 1], [1, 0]]))[1]
    [-1, -1]
    """
    where = list(range(len(problem.options)))
    while True:
        leader = _merged(problem)
        if all(mine == node for node, mine in enumerate(leader)):
            return problem, where
        heads = [node for node, mine in enumerate(leader) if mine == node]
        number = {node: index for index, node in enumerate(heads)}
        step = [number[mine] if mine >= 0 else mine for mine in leader]
        problem = _rebuilt(problem, step, len(heads))
        where = [step[node] if node >= 0 else node for node in where]


def _merged(problem: Problem) -> list[int]:
    """One node of each group that is to be merged; `~label` if the group has a certain label."""
    weight = [sum(problem.nets[net].weight for net in nets) for nets in problem.touching]
    leader = list(range(len(weight)))

    def head(node: int) -> int:
        while node >= 0 and leader[node] != node:
            if leader[node] >= 0:
                leader[node] = leader[leader[node]] if leader[leader[node]] >= 0 else leader[node]
            node = leader[node]
        return node

    for net in problem.nets:
        nodes = [*net.consumers, *([net.hub] if net.hub >= 0 else [])]
        fixed = {*net.present, *([~net.hub] if net.hub < 0 else [])}
        if len(fixed) > 1:
            continue
        if fixed:
            (label,) = fixed
            hub = ~label
            options: tuple[int, ...] = (label,)
        else:
            hub = max(nodes, key=weight.__getitem__)
            nodes.remove(hub)
            options = problem.options[hub]
        spare = net.weight - sum(weight[node] - net.weight for node in nodes)
        if spare > 0 and all(set(options).issubset(problem.options[node]) for node in nodes):
            for node in nodes:
                first, second = sorted((head(node), head(hub)))
                if second >= 0:
                    leader[second] = first
    return [head(node) for node in range(len(leader))]


def _rebuilt(problem: Problem, step: Sequence[int], nodes: int) -> Problem:
    """Return the problem on merged nodes; nets with the same ends become one."""
    options = [set(range(len(problem.cost))) for _ in range(nodes)]
    for node, head in enumerate(step):
        if head >= 0:
            options[head].intersection_update(problem.options[node])
    weight: dict[tuple[tuple[int, ...], frozenset[int]], int] = defaultdict(int)
    for net in problem.nets:
        ends = {step[node] for node in net.consumers}
        ends.add(step[net.hub] if net.hub >= 0 else net.hub)
        ends.update(~label for label in net.present)
        free = tuple(sorted(end for end in ends if end >= 0))
        if free and len(ends) > 1:
            weight[free, frozenset(~end for end in ends if end < 0)] += net.weight
    nets = [
        # Where links cost the same any end may be the hub.
        Net(w, ~min(fixed), free, fixed - {min(fixed)})
        if fixed
        else Net(w, free[0], free[1:], fixed)
        for (free, fixed), w in weight.items()
    ]
    return Problem([tuple(sorted(mine)) for mine in options], nets, problem.cost, work=problem.work)
