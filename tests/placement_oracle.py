"""Independent answers to compare with: the objective written down again, and exhaustive search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import product

Pool = str
Key = int


@dataclass(frozen=True)
class Case:
    """A placement problem."""

    graph: Mapping[Key, Collection[Key]]
    pins: Mapping[Key, Pool]
    sizes: Mapping[Key, float]
    pools: str
    link: Mapping[tuple[Pool, Pool], float]
    capacity: Mapping[Pool, float]
    allowed: Mapping[Key, Collection[Pool]] = field(default_factory=dict)
    blocked: Collection[Key] = ()

    @property
    def link_cost(self) -> Callable[[Pool, Pool], float]:
        """Link cost as a function."""
        return lambda source, target: self.link[source, target]

    def cost(self) -> Callable[[Mapping[Key, Pool | None]], float]:
        """Price of an assignment in which blocked tasks are in the place called "*"."""
        whole = sum(self.capacity.values())
        share = {pool: self.capacity[pool] / whole for pool in self.pools}

        def between(source: Pool | None, target: Pool | None) -> float:
            if source == target or source is None or target is None:
                return 0.0
            if source == "*":
                return sum(share[p] * between(p, target) for p in self.pools)
            if target == "*":
                return sum(share[p] * between(source, p) for p in self.pools)
            return self.link[source, target]

        places = [*self.pools, "*", None]
        price = {(p, q): between(p, q) for p in places for q in places}
        users: dict[Key, list[Key]] = {key: [] for key in self.graph}
        for key, inputs in self.graph.items():
            for source in inputs:
                users[source].append(key)

        def cost(assignment: Mapping[Key, Pool | None]) -> float:
            return sum(
                self.sizes[key]
                * sum(price[assignment[key], q] for q in {assignment[user] for user in users[key]})
                for key in self.graph
            )

        return cost

    def cheapest(self, answer: Mapping[Key, Pool | None]) -> tuple[float, float]:
        """Cost of an answer, and the least that any costs with the same tasks without a pool."""
        cost = self.cost()
        trial = dict(answer) | dict.fromkeys(self.blocked, "*")
        mine = cost(trial)
        free = [key for key, pool in answer.items() if pool is not None and key not in self.pins]
        best = mine
        for pools in product(*[sorted(self.allowed.get(key, self.pools)) for key in free]):
            trial.update(zip(free, pools, strict=True))
            best = min(best, cost(trial))
        return mine, best
