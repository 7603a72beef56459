"""The pass that Dask calls on every graph inside `propagate_pools`.

It runs where the graph is optimised: in the scheduler's process, or in the user's for the local
schedulers. It reads pins, plans pools, fuses tasks inside them, and writes the pools down as
annotations of the tasks that will be submitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dask._task_spec import Alias
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.tokenize import tokenize
from dask.typing import Key

from dask_worker_pools.annotations import (
    BLOCKED,
    MOVES_KEY,
    PLANNED,
    POOL_KEY,
    PREFIX,
    SIZE_KEY,
    WEIGHT_KEY,
    Annotations,
    annotations_by_key,
)
from dask_worker_pools.cluster import (
    InMemory,
    check_counted,
    check_peer_to_peer,
    find_scheduler,
    in_memory,
    missing_pools,
    offered_resources,
    resource_names,
    restrict_to_workers,
    threads,
    warn_clients,
)
from dask_worker_pools.errors import LostKeys, NoSuchPool, NoSuchWorker
from dask_worker_pools.fusion import Optimization, Tasks, fuse
from dask_worker_pools.graph import (
    TaskGraph,
    as_high_level,
    layer_annotations,
    needed_by,
    read,
)
from dask_worker_pools.kinds import Kind, outputs_by_kind
from dask_worker_pools.landing import add_landings
from dask_worker_pools.lazy import Later
from dask_worker_pools.marks import SOURCE, Mark, marked
from dask_worker_pools.options import LinkCost, Missing, Options
from dask_worker_pools.own import Brought, brought_along, optimize_by
from dask_worker_pools.placement import Pools, place_numbered
from dask_worker_pools.plan import Plan
from dask_worker_pools.plugin import watch
from dask_worker_pools.task_sizes import ToldSizes, told_sizes

if TYPE_CHECKING:
    from distributed import Scheduler


#: Stands for the place of blocked tasks; no pool can have this name.
NOWHERE = ""
#: Between the names of pools: their tasks may run in any of them. No name can have it inside.
ANY_OF = ","


@dataclass(frozen=True, eq=False)
class Pass:
    """The pass, with all that it needs to know where it runs.

    Dask sorts collections by their optimisation: it is equal to itself, and hashable.
    """

    options: Options = field(default_factory=Options)
    #: the user's own optimisations, which take the place of Dask's
    optimizations: Mapping[Kind, Optimization] = field(default_factory=dict)
    #: annotations in force around the computation
    surrounding: Annotations = field(default_factory=dict)
    #: who sends the graph to a cluster; None = it stays in this process
    clients: frozenset[str] | None = None
    #: what each of the collections brings along, in their order; () if none brings anything
    own: Brought = ()

    def __call__(self, graph: Mapping[Key, Any], keys: Any, **kwargs: Any) -> HighLevelGraph:
        """Return the tasks to run, in one layer with annotations for each.

        Raises
        ------
        ConflictingPools, NoSuchPool, NoSuchWorker, AmbiguousPool, PeerToPeerInPool, UnknownPools
            The pools cannot be honoured. Nothing has been submitted.
        """
        graph = as_high_level(graph)
        outputs = list(dict.fromkeys(flatten(keys)))
        planned = self.plan(graph, outputs)
        self.check(planned)
        planned.note_moves()
        kept = list(flatten(kwargs.get("fuse_keys") or []))  # what Dask calls keys to keep
        result = self.fused(planned, brought_along(self.own, keys), outputs, kept)
        check_complete(result, outputs, planned.tasks.edges.outside)
        if planned.again:
            _without_aliases(result, outputs)
        layer = self.finish(result, planned)
        name = _layer_name(result, outputs, planned)
        return HighLevelGraph({name: layer}, {name: set()})

    def fused(
        self,
        planned: Planned,
        own: Collection[tuple[Optimization, list[Key]]],
        outputs: Collection[Key],
        kept: Collection[Key] = (),
    ) -> Tasks:
        """The tasks, fused inside pools, each kind of collection in its way.

        Parameters
        ----------
        planned : Planned
            The graph with its pools.
        own : collection of (callable, keys)
            Optimisations that collections bring along, each with its outputs.
        outputs, kept : collection of keys
            The wanted outputs, and other keys that must stay.
        """
        tasks, places = planned.tasks, planned.places()
        by_own = {key for _, keyed in own for key in keyed}
        kinds = outputs_by_kind([key for key in outputs if key not in by_own], tasks.by_key)
        single = len(kinds) + len(own) == 1
        result = Tasks()
        for kind, part in kinds.items():
            needed = tasks.by_key if single else needed_by(part, tasks.by_key)
            wanted = [*part, *(key for key in kept if key in needed.dependencies)]
            user = self.optimizations.get(kind)
            result.update(fuse(planned.graph, needed, places, wanted, kind, user))
        for function, keyed in own:
            needed = tasks.by_key if single else needed_by(keyed, tasks.by_key)
            result.update(optimize_by(function, planned.graph, needed, places, keyed))
        return result

    def plan(self, graph: HighLevelGraph, outputs: Sequence[Key]) -> Planned:
        """Read the tasks that the outputs need, and choose a pool for each."""
        tasks = read(graph, outputs, self.surrounding, given_on=self.clients is None)
        scheduler = None if self.clients is None else find_scheduler(self.clients)
        cluster = Cluster.met(tasks, self.options, scheduler)
        told = told_sizes(graph, tasks, measured=cluster.data.nbytes, needed=self.clients is None)
        # Without a cluster nobody knows how many threads there are to share load by.
        options = self.options if self.clients is not None else replace(self.options, balance=0)
        plan = make_plan(tasks, told, options, cluster)
        return Planned(graph, tasks, cluster, plan, scheduler, again=self.clients is None)

    def check(self, planned: Planned) -> None:
        """See to it that there are workers for the pools of a plan."""
        if planned.scheduler is None or self.options.missing == "wait":
            return
        if self.options.missing == "error":  # others may still come
            self.options.check_links(planned.cluster.names, planned.known_pools())
        _check_missing(planned, planned.scheduler, self.options.missing)

    def finish(self, result: Tasks, planned: Planned) -> MaterializedLayer:
        """The tasks to run, with landings and with annotations for each."""
        check_peer_to_peer(result.graph, result.pools)
        if planned.scheduler is not None:
            add_landings(result, planned.tasks.located())
        override = "resources" in self.surrounding
        again = planned.again
        layer = _write(result, planned.cluster.resources, planned.tasks, override, again)
        return _marked(layer, planned.plan) if again else layer


def _layer_name(result: Tasks, outputs: Sequence[Key], planned: Planned) -> str:
    """A name for the layer of all tasks.

    In this process what is made of the graph may look for the layer that held its output; and what
    is made of equal graphs is to be called the same.
    """
    if not planned.again:
        return f"pools-{uuid4().hex}"
    names = {planned.tasks.by_key.layer_of.get(key) for key in outputs}
    own = names.pop() if len(names) == 1 else None
    return own or f"pools-{tokenize(outputs, result.pools)}"


def check_complete(result: Tasks, outputs: Collection[Key], in_memory: Collection[Key]) -> None:
    """See to it that all outputs are there, and all that their tasks need.

    Raises
    ------
    LostKeys
        Something is missing.
    """
    needed = set(outputs).union(*(task.dependencies for task in result.graph.values()))
    if lost := needed.difference(result.graph, in_memory):
        raise LostKeys(None, sorted(lost, key=str))


@dataclass(frozen=True)
class Planned:
    """A graph with a pool chosen for each task, before anything is written."""

    graph: HighLevelGraph
    tasks: TaskGraph
    cluster: Cluster
    plan: Plan
    scheduler: Scheduler | None
    again: bool  #: the graph stays in this process: the pass may read what it writes here

    def note_moves(self) -> None:
        """Note where tasks may go on when the last worker of their pool has left.

        Only those that may be in several pools, and what is there because of them, have a choice.
        """
        tasks = self.tasks
        if self.scheduler is None or not tasks.several:
            return
        watch(self.scheduler)
        resources = self.cluster.resources
        outside = len(tasks.edges.outside)
        moves: dict[int, tuple[str, ...]] = dict.fromkeys(tasks.pinned, ())
        moves |= {
            n: tuple(resources[pool] for pool in any_of) for n, any_of in tasks.several.items()
        }
        for number, pools in moves.items():
            if number >= outside:
                key = tasks.key_of[number]
                tasks.annotations[key] = {**tasks.annotations.get(key, {}), MOVES_KEY: pools}

    def known_pools(self) -> set[str]:
        """All pools that the tasks name or the cluster has."""
        return {*self.tasks.pools(), *self.cluster.capacity}

    def places(self) -> dict[Key, str | None]:
        """Where each task runs.

        Blocked tasks are in a place of their own: fused with others they would lose the mark. So
        are those that may run in any of several pools, if they may be planned again, on a cluster:
        it is not settled before that where they run, nor where what is linked to them does.
        """
        tasks = self.tasks
        places = {**self.plan.pools, **dict.fromkeys(tasks.blocked_keys(), NOWHERE)}
        if self.again and (tasks.allowed or tasks.annotations):
            places |= {tasks.key_of[number]: None for number in tasks.unsettled()}
            several = tasks.allowed_by_key()
            places |= {key: ANY_OF.join(pools) for key, pools in several.items()}
        return places


@dataclass(frozen=True)
class Cluster:
    """The pools that a computation may use, as the workers call them."""

    resources: Mapping[str, str]  #: the resource that stands for each pool
    names: Mapping[str, str]  #: what the workers call each pool that the user named
    capacity: Mapping[str, float]  #: threads of each pool; empty where there is no cluster
    lacking: Sequence[NoSuchWorker] = ()  #: tasks that no worker at all could run
    data: InMemory = field(default_factory=InMemory)  #: what is in memory already

    @classmethod
    def met(
        cls,
        tasks: TaskGraph,
        options: Options,
        scheduler: Scheduler | None,
        data: InMemory | None = None,
    ) -> Cluster:
        """Call the pools in `tasks` as the workers do, and find data in memory.

        Without a scheduler `data` says what is known of it.
        """
        if data is None:
            data = InMemory() if scheduler is None else in_memory(scheduler, tasks.edges.outside)
        offered = data.offered if scheduler is None else offered_resources(scheduler)
        said = tasks.pools() | options.link_pools()
        spelled = resource_names(said, offered)
        names = {pool: name[len(PREFIX) :] for pool, name in spelled.items()}
        tasks.rename_pools(names)
        used = (*offered, *spelled.values(), *data.pools.values())
        resources = {name[len(PREFIX) :]: name for name in used}
        tasks.locate({key: name[len(PREFIX) :] for key, name in data.pools.items()})
        if scheduler is None:
            return cls(resources, names, {}, data=data)
        tasks.prefer_live({name[len(PREFIX) :] for name in offered})
        lacking = restrict_to_workers(tasks, scheduler)
        capacity = {name[len(PREFIX) :]: n for name, n in threads(scheduler).items()}
        return cls(resources, names, capacity, lacking, data)


def _check_missing(planned: Planned, scheduler: Scheduler, missing: Missing) -> None:
    plan, resources = planned.plan, planned.cluster.resources
    absent = missing_pools(plan, resources, offered_resources(scheduler))
    errors: list[NoSuchPool | NoSuchWorker] = [*absent, *planned.cluster.lacking]
    for error in errors:
        if missing == "error":
            raise error
        warn_clients(scheduler, f"{error.problem} The tasks wait for workers that do.")
    if missing == "error":
        check_counted(plan, resources, planned.tasks.annotations, scheduler)


def make_plan(tasks: TaskGraph, told: ToldSizes, options: Options, cluster: Cluster) -> Plan:
    """Choose a pool for every task of a graph."""
    link_cost = options.links(cluster.names)
    pools = chosen_pools(tasks, told, link_cost, cluster.capacity, options.balance)
    first = len(tasks.edges.outside)
    return Plan(
        pools=Later(lambda: dict(zip(tasks.key_of[first:], pools[first:]))),
        dependencies=Later(lambda: tasks.dependencies),
        layer_of=Later(lambda: tasks.by_key.layer_of),
        sizes=Later(lambda: {k: n for k, n in zip(tasks.key_of, told.nbytes) if n is not None}),
        pinned=Later(lambda: tasks.pins),
        blocked=tasks.blocked_keys(),
        sources=told.sources,
        counting=told.counting,
        weights=Later(lambda: {k: w for k, w in zip(tasks.key_of, told.weights) if w is not None}),
        link_cost=link_cost,
        capacity=cluster.capacity,
        allowed=tasks.allowed_by_key(),
    )


def chosen_pools(
    tasks: TaskGraph,
    told: ToldSizes,
    link_cost: LinkCost | None,
    capacity: Mapping[str, float],
    balance: float,
) -> Sequence[str | None]:
    """Choose a pool, or none, for every task, by number."""
    pools = Pools.gathered(tasks.pinned, tasks.allowed, link_cost, capacity)
    labels = place_numbered(
        tasks.edges.inputs,
        tasks.edges.counts,
        told.counted(),
        tasks.pinned,
        pools,
        outside=range(len(tasks.edges.outside)),
        allowed=tasks.allowed,
        blocked=tasks.blocked,
        balance=balance,
        key_of=lambda number: tasks.key_of[number],
    )
    return [*map(pools.label_names.__getitem__, labels)]


def _write(
    result: Tasks, resources: Mapping[str, str], tasks: TaskGraph, override: bool, again: bool
) -> MaterializedLayer:
    """The tasks with their annotations.

    `override`: resources said around the computation must not reach tasks without a pool.
    `again`: the pass will read what it wrote here, and must know the user's pins from its own.
    """
    # Most tasks have nothing of their own: what is written then follows from the pool.
    pools = set(result.pools.values())
    free: Annotations = {MOVES_KEY: True} if tasks.several else {}
    plain = {pool: _own_annotations(free, pool, resources, again, override) for pool in pools}
    written = {key: plain[pool] for key, pool in result.pools.items() if plain[pool]}
    pins = tasks.users_pins() if again else ()
    for key in {*result.annotations, *pins} & result.pools.keys():
        own, pool = free | result.annotations.get(key, {}), result.pools[key]
        written[key] = _own_annotations(own, pool, resources, again and key not in pins, override)
        if not written[key]:
            del written[key]
    layer = MaterializedLayer(result.graph)
    layer.annotations = layer_annotations(result.graph.keys(), written)
    return layer


def _without_aliases(result: Tasks, outputs: Collection[Key]) -> None:
    """Call each output by one name, where others in the same place mean the same.

    Dask leaves another name where it renames a fused task, for example. It costs Dask nothing, but
    to be marked it would have to become a task.
    """
    graph, pools, said = result.graph, result.pools, result.annotations
    users = Counter(chain.from_iterable(task.dependencies for task in graph.values()))
    users.update(outputs)
    wanted = set(outputs)
    other_names: dict[Key, Key] = {}
    for key in [key for key, task in graph.items() if isinstance(task, Alias)]:
        while isinstance(alias := graph.get(key), Alias) and (target := alias.target) in graph:
            if pools[target] != pools[key] or said.get(target) != said.get(key):
                break
            if users[target] > 1:
                if key not in wanted:
                    other_names[key] = target
                break
            only = graph.pop(target)
            del pools[target]
            renamed = Alias(key, only.target) if isinstance(only, Alias) else None
            graph[key] = renamed or only.substitute({}, key=key)
    for key, target in other_names.items():
        while target in other_names:
            target = other_names[target]
        other_names[key] = target
        del graph[key], pools[key]
    for key, task in graph.items():
        if not other_names.keys().isdisjoint(task.dependencies):
            graph[key] = task.substitute(other_names)


def _marked(layer: MaterializedLayer, plan: Plan) -> MaterializedLayer:
    """The layer with tasks that carry what is known of them, for when they are planned again."""
    sizes = {
        key: (size, plan.sources[plan.layer_of[key]])
        for key, size in plan.sizes.items()
        if key in plan.layer_of
    }
    alike: dict[Any, Annotations] = {}  # equal ones are one object, to save memory

    def known_of(key: Key) -> Annotations:
        # Tasks that were not looked at, as the expressions of frames inside one pool, may be later.
        size, source = sizes.get(key, (None, "unknown" if key in plan.layer_of else None))
        weight = plan.weights.get(key)
        told = {SIZE_KEY: size, SOURCE: source, WEIGHT_KEY: weight}
        known = {name: value for name, value in told.items() if value is not None}
        return alike.setdefault((size, source, weight), known)

    said = dict(annotations_by_key(layer.annotations, layer))
    marks: dict[Key, Mark] = {key: (said.get(key, {}), known_of(key)) for key in layer}
    carrying = MaterializedLayer({key: marked(task, marks[key]) for key, task in layer.items()})
    carrying.annotations = layer.annotations
    return carrying


def _own_annotations(
    own: Annotations, pool: str | None, resources: Mapping[str, str], planned: bool, override: bool
) -> Annotations:
    if MOVES_KEY in own and not (pool and own[MOVES_KEY]):
        own = {name: value for name, value in own.items() if name != MOVES_KEY}
    if pool and ANY_OF in pool:
        return without_surrounding_pool(own, tuple(pool.split(ANY_OF)))
    if pool:
        return with_pool(own, resources[pool], planned)
    if pool == NOWHERE:
        return without_surrounding_pool(own, BLOCKED)
    return without_surrounding_pool(own) if override else own


def with_pool(annotations: Annotations, resource: str, planned: bool) -> Annotations:
    """Annotations of a task in a pool: its counted resources and its pool's."""
    own = {**annotations, "resources": {**annotations.get("resources", {}), resource: 0}}
    if own.get("allow_other_workers"):
        # Other workers would lack the pool's resource, on which Dask's scheduler fails. It takes no
        # workers for any: those that were wished for may all be in other pools.
        own |= {"allow_other_workers": False, "workers": ()}
    return {**own, POOL_KEY: PLANNED} if planned else own


def without_surrounding_pool(
    annotations: Annotations, said: tuple[str, ...] | bool | None = None
) -> Annotations:
    """Annotations of a task without a pool of its own: resources said around it do not count.

    `said` are the pools that it may run in, or `BLOCKED`.
    """
    own = {**annotations, "resources": annotations.get("resources", {})}
    return own if said is None else {**own, POOL_KEY: said}
