"""What `propagate_pools` and `plan_pools` can be told, checked where it is said."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeAlias, get_args

from dask_worker_pools.amounts import amount
from dask_worker_pools.errors import InvalidType, InvalidValue, UnknownPools

Missing = Literal["error", "warn", "wait"]
LinkCost = Callable[[str, str], float]
LinkCosts: TypeAlias = Mapping[tuple[str, str], float] | LinkCost | None


class Unsaid(Enum):
    """Stands for an option that is not said: what holds around it goes on."""

    UNSAID = "as around"

    def __repr__(self) -> str:
        return f"<{self.value}>"


UNSAID = Unsaid.UNSAID


def only_said(**options: Any) -> dict[str, Any]:
    """The options that are said."""
    return {name: value for name, value in options.items() if value is not UNSAID}


@dataclass(frozen=True)
class Options:
    """How to choose pools, and what to do about missing ones."""

    missing: Missing = "error"  #: what to do about a pool that no worker offers
    balance: float = 0.01  #: part of the least traffic to accept on top of it, for less load
    #: cost of a byte from one pool to another: given by a function, or by pairs, else 1
    link_cost: LinkCosts = None

    def __post_init__(self) -> None:
        allowed = get_args(Missing)
        if self.missing not in allowed:
            problem = f"missing={self.missing!r} is not one of {', '.join(map(repr, allowed))}."
            raise InvalidValue("missing", self.missing, problem)
        if amount(self.balance) is None:
            raise InvalidValue(
                "balance",
                self.balance,
                f"balance={self.balance!r} is no fraction of the traffic: say 0 or more, "
                "for example 0.01.",
            )
        if isinstance(self.link_cost, Mapping):
            for pair, cost in self.link_cost.items():
                _check_link(pair, cost)
        elif self.link_cost is not None and not callable(self.link_cost):
            raise InvalidType(
                "link_cost",
                self.link_cost,
                "link_cost is a mapping of (source, target) to the cost of a byte, or a function "
                f"of both, but got {self.link_cost!r}.",
            )

    def links(self, names: Mapping[str, str]) -> LinkCost | None:
        """The cost of links between pools as the cluster calls them.

        Parameters
        ----------
        names : mapping of str to str
            What the cluster calls each pool that was said.
        """
        if self.link_cost is None:
            return None
        if not isinstance(self.link_cost, Mapping):
            return _checked(self.link_cost)
        costs = {
            (names.get(source, source), names.get(target, target)): float(cost)
            for (source, target), cost in self.link_cost.items()
        }
        return lambda source, target: costs.get((source, target), 1.0)

    def check_links(self, names: Mapping[str, str], known: Collection[str]) -> None:
        """Refuse costs of links of pools that do not exist.

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
        named = {names.get(pool, pool) for pool in self.link_pools()}
        if unknown := sorted(named - set(known)):
            raise UnknownPools("link_cost", unknown, sorted(known))

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
        problem = f"link_cost has keys (source, target), two names of pools; got {pair!r}."
        raise InvalidType("link_cost", pair, problem)
    if amount(cost) is None:
        problem = f"link_cost[{pair!r}] = {cost!r} is no cost of a byte: say 0 or more."
        raise InvalidValue("link_cost", cost, problem)


def _checked(function: LinkCost) -> LinkCost:
    """The user's function of links, with a look at what it returns."""

    def link_cost(source: str, target: str) -> float:
        cost = amount(returned := function(source, target))
        if cost is None:
            raise InvalidValue(
                "link_cost",
                returned,
                f"link_cost({source!r}, {target!r}) returned {returned!r}, which is no cost of a "
                "byte: it must return a number, 0 or more.",
            )
        return cost

    return link_cost
