"""The problem that the cuts solve: label the nodes of a hypergraph at the least cost.

A *net* is one output: a hub (its producer) and its consumers. It costs its weight times the price
of the link from the hub's label to each other label that a consumer has: shipped once per label.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Net", "Problem"]


@dataclass(frozen=True, slots=True)
class Net:
    """One output, or several that always travel together."""

    weight: int  #: bytes, in the unit of the problem
    hub: int  #: node that produces it; `~label` if the producer is fixed
    consumers: tuple[int, ...]  #: nodes that use it
    present: frozenset[int]  #: labels of the fixed tasks that use it


@dataclass(slots=True)
class Problem:
    """Nodes to label, in topological order, and the nets between them."""

    options: list[tuple[int, ...]]  #: labels each node may take, ascending, at least one
    nets: list[Net]
    cost: Sequence[Sequence[int]]  #: link cost from label to label; zero from a label to itself
    burden: Sequence[Sequence[int]] = ()  #: cost of each label for each node; empty means none
    work: float = float("inf")  #: arcs that may still be looked at
    gave_up: bool = field(init=False, default=False)  #: whether a cut was too much for that
    touching: list[list[int]] = field(init=False)  #: nets of each node

    def __post_init__(self) -> None:
        self.touching = [[] for _ in self.options]
        for number, net in enumerate(self.nets):
            for node in net.consumers:
                self.touching[node].append(number)
            if net.hub >= 0:
                self.touching[net.hub].append(number)

    def nets_of(self, nodes: Iterable[int]) -> list[int]:
        """Numbers of the nets that touch any of `nodes`."""
        return list(dict.fromkeys(n for node in nodes for n in self.touching[node]))

    def nets_around(self, node: int) -> list[Net]:
        """Return the nets that touch `node`."""
        return [self.nets[number] for number in self.touching[node]]

    def price(self, labels: Sequence[int], nodes: Collection[int]) -> int:
        """Cost of what `nodes` have a part in."""
        total = sum(self.burden[node][labels[node]] for node in nodes) if self.burden else 0
        for number in self.nets_of(nodes):
            net = self.nets[number]
            row = self.cost[labels[net.hub] if net.hub >= 0 else ~net.hub]
            needed = net.present.union([labels[node] for node in net.consumers])
            total += net.weight * sum(row[label] for label in needed)
        return total
