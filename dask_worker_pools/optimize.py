"""The pass that Dask calls on every graph inside `propagate_pools`.

It runs where the graph is optimised: in the scheduler's process, or in the user's for the local
schedulers. It reads pins, plans pools, fuses tasks inside them, and writes the pools down as
annotations of the tasks that will be submitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.typing import Key

from dask_worker_pools.annotations import (
    BLOCKED,
    PLANNED,
    POOL_KEY,
    PREFIX,
    SIZE_KEY,
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
from dask_worker_pools.options import Missing, Options
from dask_worker_pools.placement import place
from dask_worker_pools.plan import Plan
from dask_worker_pools.sizes import SizeEstimates, output_sizes

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
        tasks = read(graph, outputs, self.surrounding)
        scheduler = None if self.clients is None else find_scheduler(self.clients)
        cluster = Cluster.met(tasks, self.options, scheduler)
        plan = make_plan(graph, tasks, self.options, cluster)
        if scheduler is not None:
            _check_missing(plan, cluster.resources, tasks, scheduler, self.options.missing)
        # Blocked tasks are in a place of their own: fused with others they would lose the mark.
        places = {**plan.pools, **dict.fromkeys(tasks.blocked, NOWHERE)}
        result = Tasks()
        for kind, part in outputs_by_kind(outputs, tasks).items():
            needed = needed_by(part, tasks)
            user = self.optimizations.get(kind)
            result.update(fuse(graph, needed, places, part, kind, user))
        check_peer_to_peer(result.graph, result.pools)
        if scheduler is not None:
            add_landings(result, tasks.pins)
        override = "resources" in self.surrounding
        again = self.clients is None
        if again:
            _keep_declared_sizes(result, graph, tasks)
        layer = _write(result, cluster.resources, tasks, override, again)
        name = f"pools-{uuid4().hex}"
        return HighLevelGraph({name: layer}, {name: set()})


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
        data = pools_of_data(scheduler, tasks.data())
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
    known = {*tasks.pools(), *cluster.capacity}
    link_cost = options.links(cluster.names, known)
    # Without a pin there is nothing to choose, and no size to know.
    near = tasks.pins or tasks.allowed
    estimates = output_sizes(graph, tasks.keys) if near else SizeEstimates({}, {})
    sizes = estimates.nbytes
    pools = place(
        tasks.dependencies,
        tasks.pins,
        sizes,
        allowed=tasks.allowed,
        blocked=tasks.blocked,
        link_cost=link_cost,
        capacity=cluster.capacity,
        balance=options.balance,
    )
    return Plan(
        pools={key: pools[key] for key in tasks.dependencies},
        dependencies=tasks.dependencies,
        layer_of=tasks.layer_of,
        sizes=sizes,
        pinned=tasks.pins,
        blocked=tasks.blocked,
        sources=estimates.sources,
        counting=bool(near) and not sizes,
        link_cost=link_cost,
        capacity=cluster.capacity,
        allowed=tasks.allowed,
    )


def _keep_declared_sizes(result: Tasks, graph: HighLevelGraph, tasks: TaskGraph) -> None:
    """Annotate tasks with the sizes that were declared for them: they will be planned again."""
    for name, layer in graph.layers.items():
        declared = (layer.annotations or {}).get(SIZE_KEY)
        if declared is None:
            continue
        for key, own in annotations_by_key({SIZE_KEY: declared}, tasks.keys.get(name, ())):
            if key in result.graph:
                result.annotations[key] = {**result.annotations.get(key, {}), **own}


def _write(
    result: Tasks, resources: Mapping[str, str], tasks: TaskGraph, override: bool, again: bool
) -> Layer:
    """The tasks with their annotations.

    `override`: resources said around the computation must not reach tasks without a pool.
    `again`: the pass will read what it wrote here, and must know the user's pins from its own.
    """
    written = {}
    for key, pool in result.pools.items():
        own = result.annotations.get(key, {})
        blocked = pool == NOWHERE
        if pool and not blocked:
            own = with_pool(own, resources[pool], planned=again and key not in tasks.pins)
        elif blocked or override:
            own = without_surrounding_pool(own, blocked)
        if own:
            written[key] = own
    graph = result.graph
    if again:
        graph = graph | {key: marked(graph[key], own) for key, own in written.items()}
    layer = MaterializedLayer(graph)
    layer.annotations = layer_annotations(result.graph.keys(), written)
    return layer


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
