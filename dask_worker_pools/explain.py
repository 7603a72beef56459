"""Why a task, or a layer of tasks, is where a plan has it, and what it would cost elsewhere."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Literal

from dask.typing import Key

from dask_worker_pools.costs import cost, shipping
from dask_worker_pools.errors import UnknownTask
from dask_worker_pools.travel import Travels
from dask_worker_pools.words import counted, listed, pool_name, short_names, size_text

if TYPE_CHECKING:
    from dask_worker_pools.plan import Plan, Transfer

#: What amounts are: bytes; outputs, or partitions of sources, where no size is known; or one of
#: these times the cost of links.
Unit = Literal["bytes", "outputs", "partitions", "cost"]

#: Among how many names those are sought that are near to an unknown one.
MAX_NEAR = 10_000
#: How many layers of the same short name are proposed.
MAX_SAME = 3

#: How many pools stand on one line.
MAX_POOLS = 6


@dataclass(frozen=True, repr=False)
class Explanation(metaclass=Travels):
    """Why tasks are where a plan has them. Outputs of unknown size count as the plan assumed.

    It prints as text, a line for each question.
    """

    name: Key  #: the task's key, or the layer's name
    layer: str | None  #: the layer that the task belongs to; None = this is about a whole layer
    pools: Mapping[str | None, int]  #: how many tasks run in each pool; None = in none
    pinned: int  #: how many of them the user gave a pool
    blocked: int  #: how many of them the user kept out of every pool
    free: int  #: how many of them could be moved
    allowed: tuple[str, ...] | None  #: where the user lets the free ones go; None = anywhere
    nbytes: float  #: size of all their outputs
    assumed: int  #: how many of their outputs have an unknown size
    source: str  #: how the sizes of the layer's outputs are known
    inputs: Mapping[str | None, float]  #: size of what they need from others, by where it is made
    consumers: Mapping[str | None, int]  #: how many other tasks use their outputs, by pool
    transfers: tuple[Transfer, ...]  #: their outputs that are shipped
    ships: Mapping[str, float]  #: size of what is shipped, by the pool that receives it
    read_anywhere: float  #: size of what tasks without a pool read, which may have to be shipped
    #: What the plan would cost more if all the free ones were in another pool, and nothing else
    #: changed; negative where it would cost less. Empty if nothing can be moved.
    costs: Mapping[str, float]
    unit: Unit  #: of all sizes here
    cost_unit: Unit  #: of `costs`

    @property
    def next_best(self) -> str | None:
        """The other pool that costs least; None if nothing can be moved.

        Examples
        --------
        >>> from dask_worker_pools.plan import Plan
        >>> plan = Plan(
        ...     pools={"a": "A", "b": "B", "sum": "A"},
        ...     dependencies={"a": [], "b": [], "sum": ["a", "b"]},
        ...     layer_of={"a": "a", "b": "b", "sum": "sum"},
        ...     sizes={"a": 800, "b": 8, "sum": 800},
        ...     pinned={"a": "A", "b": "B"},
        ... )
        >>> plan.explain("sum").next_best, plan.explain("a").next_best
        ('B', None)
        """
        return min(self.costs, key=lambda pool: (self.costs[pool], pool), default=None)

    def __repr__(self) -> str:
        lines = {
            "where": self._where(),
            "output" if self._alone else "outputs": self._outputs(),
            "inputs": self._by_pool(self.inputs) or "none",
            "consumers": _tasks_by_pool(self.consumers) or "none",
            "ships": ", and ".join(self._shipped()) or "nothing",
            "elsewhere": self._elsewhere(),
        }
        width = max(map(len, lines))
        title = f"layer {self.name!r}" if self.layer is None else f"task {self.name!r}"
        of = "" if self.layer in (None, self.name) else f" of layer {self.layer!r}"
        return "\n".join([title + of, *(f"  {k:<{width}}  {v}" for k, v in lines.items())])

    @property
    def _alone(self) -> bool:
        return self.pinned + self.blocked + self.free == 1

    def _where(self) -> str:
        place = _tasks_by_pool(self.pools)
        if self._alone:
            place = pool_name(next(iter(self.pools)))
        return f"{place}: {', '.join(self._reasons())}"

    def _reasons(self) -> Iterator[str]:
        anywhere = self.allowed is None
        to = "run anywhere" if anywhere else f"run in {' or '.join(self.allowed or ['no pool'])}"
        counts = {
            "pinned": self.pinned,
            "blocked, any worker may run it": self.blocked,
            f"free to {to}": self.free,
        }
        for why, n in counts.items():
            if n:
                yield why if n == sum(counts.values()) else f"{n} {why}"
        if self.free and self.pools.keys() == {None}:
            yield "near to no pinned task"

    def _outputs(self) -> str:
        if self.unit == "outputs":
            return "size unknown, counts 1" if self._alone else "sizes unknown, each counts 1"
        if self.unit == "partitions":
            unknown = "size unknown, counts" if self._alone else "sizes unknown, count"
            return f"{unknown} {_amount(self.nbytes, self.unit)}"
        known = [self.source] if self.source and not (self._alone and self.assumed) else []
        if self.assumed:
            known += ["unknown, assumed" if self._alone else f"{self.assumed} unknown, assumed"]
        return _amount(self.nbytes, self.unit) + (f" ({'; '.join(known)})" if known else "")

    def _by_pool(self, amounts: Mapping[str, float] | Mapping[str | None, float]) -> str:
        texts = [f"{pool_name(pool)} {_amount(n, self.unit)}" for pool, n in amounts.items()]
        return listed(texts, MAX_POOLS)

    def _shipped(self) -> Iterator[str]:
        if self.ships:
            yield self._sent()
        if self.read_anywhere:
            yield f"up to {_amount(self.read_anywhere, self.unit)} read by tasks without a pool"

    def _sent(self) -> str:
        if self._alone:
            lands = {t.target: t.landing for t in self.transfers if t.landing is not None}
            texts = [
                f"{pool} {_amount(n, self.unit)}"
                + (f", once for all its tasks there, as {lands[pool]!r}" if pool in lands else "")
                for pool, n in self.ships.items()
            ]
            return "; ".join(texts)
        landing = sum(t.landing is not None for t in self.transfers)
        number = "all" if landing == len(self.transfers) else str(landing)
        once = f"; {number} once for several tasks there" if landing else ""
        transfers = counted(len(self.transfers), "transfer")
        return f"{self._by_pool(self.ships)} in {transfers}{once}"

    def _elsewhere(self) -> str:
        if not self.free:
            return "what is pinned stays" if self.pinned else "what is blocked stays"
        if not self.costs:
            return "no other pool to go to"
        together = "" if self._alone or self.free == 1 else f"all {self.free} together: "
        costs = sorted(self.costs.items(), key=lambda item: (item[1], item[0]))
        texts = [f"{pool} {self._difference(cost)}" for pool, cost in costs]
        texts[0] += " (next best)"
        return together + listed(texts, MAX_POOLS)

    def _difference(self, cost: float) -> str:
        if not cost:
            return "would cost the same"
        return f"would cost {_amount(abs(cost), self.cost_unit)} {'more' if cost > 0 else 'less'}"


def explain(plan: Plan, name: Hashable) -> Explanation:
    """Explain a plan's choice for one task, or for a layer of tasks.

    Parameters
    ----------
    plan : Plan
        The plan.
    name : Hashable
        A task's key, a layer's name, or the short name of a layer that no other one has.

    Raises
    ------
    UnknownTask
        There is no such task or layer.
    """
    layer, keys = _found(plan, name)
    group = set(keys)
    inputs = {
        needed: None for key in keys for needed in plan.dependencies[key] if needed not in group
    }
    consumers = {c for key in keys for c in plan.consumers.get(key, ())} - group
    transfers = [t for key in keys for t in plan.transfers_of.get(key, ())]
    ships: defaultdict[str, float] = defaultdict(float)
    for transfer in transfers:
        ships[transfer.target] += plan.size_of(transfer.key)
    needed: defaultdict[str | None, float] = defaultdict(float)
    for key in inputs:
        needed[plan.place_of(key)] += plan.size_of(key)
    free = [key for key in keys if key not in plan.pinned and key not in plan.blocked]
    restricted = [set(plan.allowed[key]) for key in free if key in plan.allowed]
    allowed = tuple(sorted(set.intersection(*restricted))) if restricted else None
    return Explanation(
        name=keys[0] if layer is None else layer,
        layer=plan.layer_of[keys[0]] if layer is None else None,
        pools=_count(plan.pools[key] for key in keys),
        pinned=sum(key in plan.pinned for key in keys),
        blocked=sum(key in plan.blocked for key in keys),
        free=len(free),
        allowed=allowed,
        nbytes=sum(map(plan.size_of, keys)),
        assumed=sum(key not in plan.sizes for key in keys),
        source=plan.sources.get(plan.layer_of[keys[0]], ""),
        inputs={pool: needed[pool] for pool in _sorted_pools(needed)},
        consumers=_count(map(plan.place_of, consumers)),
        transfers=tuple(transfers),
        ships=dict(sorted(ships.items())),
        read_anywhere=sum(plan.size_of(key) for key in plan.read_anywhere if key in group),
        costs=dict(_costs(plan, free, allowed)),
        unit=plan.unit,
        cost_unit=plan.unit if plan.link_cost is None else "cost",
    )


def _costs(
    plan: Plan, moved: Sequence[Key], allowed: Collection[str] | None
) -> Iterator[tuple[str, float]]:
    """What it would cost more to have all of `moved` in each other pool."""
    if not moved:
        return
    # Only their outputs and inputs can cross in other ways than now.
    changed = {*moved, *(needed for key in moved for needed in plan.dependencies[key])}
    now, then = shipping(plan, changed), shipping(plan, changed, moved)
    before = cost(plan, now)
    here = {plan.pools[key] for key in moved}
    for pool, workers in plan.workers.items():
        if workers and here != {pool} and (allowed is None or pool in allowed):
            yield pool, cost(plan, then, pool) - before


def _found(plan: Plan, name: Hashable) -> tuple[str | None, list[Key]]:
    """The layer of that name, or else None, and the tasks that are meant."""
    try:
        hash(name)
    except TypeError:
        raise UnknownTask(name, ()) from None
    if name in plan.pools:
        return None, [name]  # type: ignore[list-item]
    if name in plan.keys_by_layer:
        layer = str(name)
        return layer, plan.keys_by_layer[layer]
    meant = [layer for layer, short in short_names(plan.layers).items() if short == name]
    if len(meant) == 1:
        return meant[0], plan.keys_by_layer[meant[0]]
    raise UnknownTask(name, _near(plan, name))


def _near(plan: Plan, name: Hashable) -> list[str]:
    """Names of tasks and layers that look like `name`."""
    head = name[0] if isinstance(name, tuple) and name else name
    of_head = (str(key) for key in plan.pools if isinstance(key, tuple) and key[:1] == (head,))
    tasks = list(islice(of_head, MAX_NEAR))
    if tasks:
        return [*get_close_matches(str(name), tasks, n=2)]
    names = short_names(plan.layers)
    same = [short for layer, short in names.items() if layer.startswith(f"{head}-")]
    if same:
        return [repr(short) for short in same[:MAX_SAME]]
    heads = (str(key[0] if isinstance(key, tuple) and key else key) for key in plan.pools)
    words = dict.fromkeys((*names, *names.values(), *islice(heads, MAX_NEAR)))
    return [repr(near) for near in get_close_matches(str(head), list(words))]


def _sorted_pools(pools: Iterable[str | None]) -> list[str | None]:
    """Pools by name, no pool last."""
    return sorted(set(pools), key=lambda pool: (pool is None, pool or ""))


def _count(pools: Iterable[str | None]) -> dict[str | None, int]:
    counts = Counter(pools)
    return {pool: counts[pool] for pool in _sorted_pools(counts)}


def _tasks_by_pool(counts: Mapping[str | None, int]) -> str:
    texts = [f"{counted(n, 'task')} in {pool_name(pool)}" for pool, n in counts.items()]
    return listed(texts, MAX_POOLS)


def _amount(amount: float, unit: Unit) -> str:
    if unit == "bytes":
        return size_text(amount)
    if unit == "cost":
        return f"{amount:,.6g}"
    if amount == round(amount):
        return counted(round(amount), unit.removesuffix("s"))
    return f"{amount:g} {unit}"
