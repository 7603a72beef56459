"""What `propagate_pools` and `plan_pools` can be told, checked where it is said."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any, Literal, get_args

from dask_worker_pools.errors import UnknownPools

Missing = Literal["error", "warn", "wait"]
LinkCost = Callable[[str, str], float]


@dataclass(frozen=True)
class Options:
    """How to choose pools, and what to do about missing ones."""

    missing: Missing = "error"  #: what to do about a pool that no worker offers
    balance: float = 0.01  #: part of the least traffic to accept on top of it, for less load
    #: cost of a byte from one pool to another: given by a function, or by pairs, else 1
    link_cost: Mapping[tuple[str, str], float] | LinkCost | None = None

    def __post_init__(self) -> None:
        if self.missing not in get_args(Missing):
            raise ValueError(
                f"missing={self.missing!r} is not one of {', '.join(map(repr, get_args(Missing)))}."
            )
        if not _is_amount(self.balance):
            raise ValueError(
                f"balance={self.balance!r} is no fraction of the traffic: say 0 or more, "
                "for example 0.01."
            )
        if isinstance(self.link_cost, Mapping):
            for pair, cost in self.link_cost.items():
                _check_link(pair, cost)
        elif self.link_cost is not None and not callable(self.link_cost):
            raise TypeError(
                "link_cost is a mapping of (source, target) to the cost of a byte, or a function "
                f"of both, but got {self.link_cost!r}."
            )

    def links(self, names: Mapping[str, str], known: Collection[str]) -> LinkCost | None:
        """The cost of links between pools as the cluster calls them.

        Parameters
        ----------
        names : mapping of str to str
            What the cluster calls each pool that was said.
        known : collection of str
            All pools that there are, as the cluster calls them.

        Raises
        ------
        UnknownPools
            `link_cost` names others.
        """
        if not isinstance(self.link_cost, Mapping):
            return self.link_cost
        costs = {
            (names.get(source, source), names.get(target, target)): float(cost)
            for (source, target), cost in self.link_cost.items()
        }
        if unknown := sorted({pool for pair in costs for pool in pair} - set(known)):
            raise UnknownPools("link_cost", unknown, sorted(known))
        return lambda source, target: costs.get((source, target), 1.0)

    def link_pools(self) -> set[str]:
        """The pools that `link_cost` names."""
        if not isinstance(self.link_cost, Mapping):
            return set()
        return {pool for pair in self.link_cost for pool in pair}


def _check_link(pair: Any, cost: Any) -> None:
    if not (
        isinstance(pair, tuple)
        and len(pair) == 2
        and all(isinstance(pool, str) and pool for pool in pair)
    ):
        raise TypeError(f"link_cost has keys (source, target), two names of pools; got {pair!r}.")
    if not _is_amount(cost):
        raise ValueError(f"link_cost[{pair!r}] = {cost!r} is no cost of a byte: say 0 or more.")


def _is_amount(value: Any) -> bool:
    return isinstance(value, Real) and isfinite(value) and float(value) >= 0
