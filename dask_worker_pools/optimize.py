"""The pass that Dask calls on every graph inside `propagate_pools`.

It runs where the graph is optimised: in the scheduler's process, or in the user's for the local
schedulers. It reads pins, plans pools, fuses tasks inside them, and writes the pools down as
annotations of the tasks that will be submitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.typing import Key

from dask_worker_pools.annotations import (
    BLOCKED,
    PLANNED,
    POOL_KEY,
    PREFIX,
    SIZE_KEY,
    WEIGHT_KEY,
    Annotations,
    annotations_by_key,
)
from dask_worker_pools.cluster import (
    check_counted,
    check_peer_to_peer,
    find_scheduler,
    missing_pools,
    offered_resources,
    pools_of_data,
    resource_names,
    restrict_to_workers,
    threads,
    warn_clients,
)
from dask_worker_pools.edges import Chunk, Edges
from dask_worker_pools.fusion import Optimization, Tasks, fuse
from dask_worker_pools.graph import (
    TaskGraph,
    as_high_level,
    layer_annotations,
    marked,
    needed_by,
    read,
)
from dask_worker_pools.kinds import Kind, outputs_by_kind
from dask_worker_pools.landing import add_landings
from dask_worker_pools.lazy import Later
from dask_worker_pools.options import LinkCost, Missing, Options
from dask_worker_pools.placement import Pools, place_numbered
from dask_worker_pools.plan import Plan
from dask_worker_pools.sizes import LayerSizes, layer_sizes, layer_weights

if TYPE_CHECKING:
    from distributed import Scheduler


#: Stands for the place of blocked tasks; no pool can have this name.
NOWHERE = ""


@dataclass(frozen=True)
class Pass:
    """The pass, with all that it needs to know where it runs."""

    options: Options = field(default_factory=Options)
    #: the user's own optimisations, which take the place of Dask's
    optimizations: Mapping[Kind, Optimization] = field(default_factory=dict)
    #: annotations in force around the computation
    surrounding: Annotations = field(default_factory=dict)
    #: who sends the graph to a cluster; None = it stays in this process
    clients: frozenset[str] | None = None

    def __call__(self, graph: Mapping[Key, Any], keys: Any, **kwargs: Any) -> HighLevelGraph:
        """Return the tasks to run, in one layer with annotations for each.

        Raises
        ------
        ConflictingPools, NoSuchPool, NoSuchWorker, AmbiguousPool, PeerToPeerInPool
            The pools cannot be honoured. Nothing has been submitted.
        """
        graph = as_high_level(graph)
        outputs = list(dict.fromkeys(flatten(keys)))
        planned = self.plan(graph, outputs)
        self.check(planned)
        tasks, places = planned.tasks, planned.places()
        result = Tasks()
        asked_to_keep = list(flatten(kwargs.get("fuse_keys") or []))  # as Dask calls them
        kinds = outputs_by_kind(outputs, tasks.by_key)
        for kind, part in kinds.items():
            needed = needed_by(part, tasks.by_key) if len(kinds) > 1 else tasks.by_key
            user = self.optimizations.get(kind)
            kept = [key for key in asked_to_keep if key in needed.dependencies]
            result.update(fuse(graph, needed, places, [*part, *kept], kind, user))
        layer = self.finish(result, planned)
        name = f"pools-{uuid4().hex}"
        return HighLevelGraph({name: layer}, {name: set()})

    def plan(self, graph: HighLevelGraph, outputs: Sequence[Key]) -> Planned:
        """Read the tasks that the outputs need, and choose a pool for each."""
        tasks = read(graph, outputs, self.surrounding)
        scheduler = None if self.clients is None else find_scheduler(self.clients)
        cluster = Cluster.met(tasks, self.options, scheduler)
        plan = make_plan(graph, tasks, self.options, cluster)
        return Planned(graph, tasks, cluster, plan, scheduler)

    def check(self, planned: Planned) -> None:
        """See to it that there are workers for the pools of a plan."""
        if planned.scheduler is not None:
            _check_missing(
                planned.plan,
                planned.cluster.resources,
                planned.tasks,
                planned.scheduler,
                self.options.missing,
            )

    def finish(self, result: Tasks, planned: Planned) -> MaterializedLayer:
        """The tasks to run, with landings and with annotations for each."""
        check_peer_to_peer(result.graph, result.pools)
        if planned.scheduler is not None:
            add_landings(result, planned.tasks.located())
        override = "resources" in self.surrounding
        again = self.clients is None
        if again:
            _keep_declared_sizes(result, planned.graph, planned.tasks)
        return _write(result, planned.cluster.resources, planned.tasks, override, again)


@dataclass(frozen=True)
class Planned:
    """A graph with a pool chosen for each task, before anything is written."""

    graph: HighLevelGraph
    tasks: TaskGraph
    cluster: Cluster
    plan: Plan
    scheduler: Scheduler | None

    def places(self) -> dict[Key, str | None]:
        """Where each task runs.

        Blocked tasks are in a place of their own: fused with others they would lose the mark.
        """
        return {**self.plan.pools, **dict.fromkeys(self.tasks.blocked_keys(), NOWHERE)}


@dataclass(frozen=True)
class Cluster:
    """The pools that a computation may use, as the workers call them."""

    resources: Mapping[str, str]  #: the resource that stands for each pool
    names: Mapping[str, str]  #: what the workers call each pool that the user named
    capacity: Mapping[str, float]  #: threads of each pool; empty where there is no cluster

    @classmethod
    def met(cls, tasks: TaskGraph, options: Options, scheduler: Scheduler | None) -> Cluster:
        """Call the pools in `tasks` as the workers do, and find data in memory."""
        offered = Counter[str]() if scheduler is None else offered_resources(scheduler)
        said = tasks.pools() | options.link_pools()
        spelled = resource_names(said, offered)
        names = {pool: name[len(PREFIX) :] for pool, name in spelled.items()}
        tasks.rename_pools(names)
        resources = {name[len(PREFIX) :]: name for name in (*offered, *spelled.values())}
        if scheduler is None:
            return cls(resources, names, {})
        tasks.prefer_live({name[len(PREFIX) :] for name in offered})
        restrict_to_workers(tasks, scheduler)
        data = pools_of_data(scheduler, tasks.edges.outside)
        tasks.locate({key: name[len(PREFIX) :] for key, name in data.items()})
        capacity = {name[len(PREFIX) :]: n for name, n in threads(scheduler).items()}
        return cls(resources, names, capacity)


def _check_missing(
    plan: Plan,
    resources: Mapping[str, str],
    tasks: TaskGraph,
    scheduler: Scheduler,
    missing: Missing,
) -> None:
    if missing == "wait":
        return
    for error in missing_pools(plan, resources, offered_resources(scheduler)):
        if missing == "error":
            raise error
        warn_clients(scheduler, f"{error.problem} The tasks wait for workers that do.")
    if missing == "error":
        check_counted(plan, resources, tasks.annotations, scheduler)


def make_plan(graph: HighLevelGraph, tasks: TaskGraph, options: Options, cluster: Cluster) -> Plan:
    """Choose a pool for every task of a graph."""
    told = told_sizes(graph, tasks)
    link_cost = options.links(cluster.names, {*tasks.pools(), *cluster.capacity})
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


@dataclass(frozen=True)
class ToldSizes:
    """Bytes of outputs, by the number of the task."""

    nbytes: list[float | None]  #: None where they are unknown
    sources: Mapping[str, str]  #: how those of each layer are known
    counting: bool  #: none is known, where it would matter
    #: partitions of sources that those of unknown size are guessed to hold; empty if none is
    weights: list[float | None] = field(default_factory=list)

    def counted(self) -> list[float | None]:
        """What each output counts; None where that is as much as a typical one."""
        if not self.weights:
            return self.nbytes
        typical = median([size for size in self.nbytes if size is not None] or [1.0])
        return [
            typical * (1.0 if weight is None else weight) if size is None else size
            for size, weight in zip(self.nbytes, self.weights)
        ]


def told_sizes(graph: HighLevelGraph, tasks: TaskGraph) -> ToldSizes:
    """Tell the bytes of each task's output, as far as they are known."""
    if not tasks.pinned and not tasks.allowed:
        # Without a pin there is nothing to choose, and no size to know.
        return ToldSizes([None] * len(tasks.edges.counts), {}, False)
    names = {chunk.layer for chunk in tasks.edges.chunks}
    layers, weights = layer_sizes(graph, names), layer_weights(graph, names)
    return ToldSizes(
        _by_number(layers, tasks.edges),
        {name: sizes.source for name, sizes in layers.items()},
        not any(sizes.known for sizes in layers.values()),
        _by_number(weights, tasks.edges) if weights else [],
    )


def _by_number(layers: Mapping[str, LayerSizes], edges: Edges) -> list[float | None]:
    """What is told of outputs, by the number of the task."""
    numbered: list[float | None] = [None] * len(edges.outside)
    alike: dict[float | None, float | None] = {}  # equal sizes are one object, to save memory
    for chunk in edges.chunks:
        layer = layers.get(chunk.layer)
        if layer is None or not layer.known:
            numbered += [None] * len(chunk)
        elif layer.uniform is not None:
            numbered += [layer.uniform] * len(chunk)
        elif told := _told_blocks(layer, chunk):
            numbered += told
        else:
            keys = chunk.keys_in_order()
            listed = map(layer.of_all(keys).get, keys)
            numbered += (alike.setdefault(size, size) for size in listed)
    return numbered


def _told_blocks(layer: LayerSizes, chunk: Chunk) -> list[float | None] | None:
    """Sizes of blocks of an array; None where they have to be looked up by key."""
    if chunk.blocks is None:
        return None
    (name,) = chunk.names
    return layer.of_blocks(name, chunk.blocks)


def _keep_declared_sizes(result: Tasks, graph: HighLevelGraph, tasks: TaskGraph) -> None:
    """Annotate tasks with the sizes that were declared for them: they will be planned again."""
    for name, layer in graph.layers.items():
        said = layer.annotations or {}
        declared = {key: said[key] for key in (SIZE_KEY, WEIGHT_KEY) if said.get(key) is not None}
        if not declared:
            continue
        for key, own in annotations_by_key(declared, tasks.by_key.keys.get(name, ())):
            if key in result.graph:
                result.annotations[key] = {**result.annotations.get(key, {}), **own}


def _write(
    result: Tasks, resources: Mapping[str, str], tasks: TaskGraph, override: bool, again: bool
) -> MaterializedLayer:
    """The tasks with their annotations.

    `override`: resources said around the computation must not reach tasks without a pool.
    `again`: the pass will read what it wrote here, and must know the user's pins from its own.
    """
    # Most tasks have nothing of their own: what is written then follows from the pool.
    pools = set(result.pools.values())
    plain = {pool: _own_annotations({}, pool, resources, again, override) for pool in pools}
    written = {key: plain[pool] for key, pool in result.pools.items() if plain[pool]}
    pins = tasks.pins if again else {}
    for key in {*result.annotations, *pins} & result.pools.keys():
        own, pool = result.annotations.get(key, {}), result.pools[key]
        written[key] = _own_annotations(own, pool, resources, again and key not in pins, override)
        if not written[key]:
            del written[key]
    graph = result.graph
    if again:
        graph = graph | {key: marked(graph[key], own) for key, own in written.items()}
    layer = MaterializedLayer(graph)
    layer.annotations = layer_annotations(result.graph.keys(), written)
    return layer


def _own_annotations(
    own: Annotations, pool: str | None, resources: Mapping[str, str], planned: bool, override: bool
) -> Annotations:
    if pool:
        return with_pool(own, resources[pool], planned)
    blocked = pool == NOWHERE
    return without_surrounding_pool(own, blocked) if blocked or override else own


def with_pool(annotations: Annotations, resource: str, planned: bool) -> Annotations:
    """Annotations of a task in a pool: its counted resources and its pool's."""
    own = {**annotations, "resources": {**annotations.get("resources", {}), resource: 0}}
    if own.get("allow_other_workers"):
        # Other workers would lack the pool's resource, on which Dask's scheduler fails.
        own["allow_other_workers"] = False
    return {**own, POOL_KEY: PLANNED} if planned else own


def without_surrounding_pool(annotations: Annotations, blocked: bool) -> Annotations:
    """Annotations of a task without pool: resources said around the computation do not count."""
    own = {**annotations, "resources": annotations.get("resources", {})}
    return {**own, POOL_KEY: BLOCKED} if blocked else own
