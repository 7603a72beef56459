"""The live cluster, asked from inside the scheduler process while a graph is optimised there.

Dask hands an optimisation the graph and the wanted keys, and nothing of the cluster. The
scheduler is therefore found among the process's own: the private attributes that this takes are
read in `client_ids` and `find_scheduler`, and nowhere else.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dask.typing import Key

from dask_worker_pools.annotations import PREFIX, Annotations, normal_resource, pool_of_resource
from dask_worker_pools.errors import (
    AmbiguousPool,
    NoSuchPool,
    NoSuchWorker,
    PeerToPeerInPool,
    WorkersOutsidePool,
)
from dask_worker_pools.graph import TaskGraph
from dask_worker_pools.plan import Plan

if TYPE_CHECKING:
    from distributed import Scheduler

#: Configuration that makes Dask use the task-based methods, by the name of the spec of the
#: peer-to-peer method that they replace.
TASK_BASED = {
    "ArrayRechunkSpec": "array.rechunk.method",
    "DataFrameShuffleSpec": "dataframe.shuffle.method",
}


def client_ids() -> frozenset[str]:
    """Ids of the clients of this process, by which `find_scheduler` knows theirs."""
    from distributed import Client

    return frozenset(client.id for client in list(getattr(Client, "_instances", ())))


def has_client() -> bool:
    """Whether what is computed here goes to a cluster, unless another scheduler is said."""
    from distributed import default_client

    try:
        default_client()
    except ValueError:
        return False
    return True


def find_scheduler(clients: Collection[str]) -> Scheduler | None:
    """The scheduler that is optimising the graph that one of `clients` sent.

    A process holds one scheduler, except where several clusters share it, as in tests: then the
    one that these clients are connected to, and of those the one that is reading a graph. None
    where that leaves several: to ask the wrong one would be worse than to ask none.
    """
    from distributed import Scheduler

    running = [s for s in list(getattr(Scheduler, "_instances", ())) if s.status.name == "running"]
    ours = [s for s in running if any(client in s.clients for client in clients)] or running
    busy = [s for s in ours if getattr(s, "_active_graph_updates", 0)] or ours
    return busy[0] if len(busy) == 1 else None


def offered_resources(scheduler: Scheduler) -> Counter[str]:
    """Pool resources that the live workers offer, with the number of workers of each."""
    workers = list(scheduler.workers.values())
    return Counter(r for w in workers for r in w.resources if pool_of_resource(r) is not None)


def threads(scheduler: Scheduler) -> Counter[str]:
    """Threads of the live workers, by the pool resources that they offer."""
    found: Counter[str] = Counter()
    for worker in list(scheduler.workers.values()):
        for resource in worker.resources:
            if pool_of_resource(resource) is not None:
                found[resource] += worker.nthreads
    return found


def resource_names(pools: Iterable[str], offered: Mapping[str, int]) -> dict[str, str]:
    """The resource that the workers offer for each pool: as it is spelled, else as it was meant.

    An environment variable ``DASK_DISTRIBUTED__WORKER__RESOURCES__POOL_A`` arrives as ``pool_a``,
    so a name that no worker offers as it is spelled is looked up without regard to case, ``-``
    and ``_``. A pool that is not found keeps its own spelling.

    Raises
    ------
    AmbiguousPool
        Several resources differ from the name only in these.
    """
    return {pool: _resource_name(pool, offered) for pool in pools}


def _resource_name(pool: str, offered: Mapping[str, int]) -> str:
    exact = PREFIX + pool
    if exact in offered:
        return exact
    similar = sorted(r for r in offered if normal_resource(r) == normal_resource(exact))
    if len(similar) > 1:
        raise AmbiguousPool(pool, similar)
    return similar[0] if similar else exact


def missing_pools(
    plan: Plan, resources: Mapping[str, str], offered: Mapping[str, int]
) -> list[NoSuchPool]:
    """One error for each pool that the plan needs and no worker offers."""
    live: Counter[str] = Counter()
    for resource, count in offered.items():
        live[str(pool_of_resource(resource))] += count
    absent = sorted(pool for pool in resources if resources[pool] not in offered)
    needed = {pool: layers for pool in absent if (layers := plan.layers_in(pool))}
    missing = list(needed)
    return [
        NoSuchPool(pool, sum(needed[pool].values()), list(needed[pool]), live, missing)
        for pool in missing
    ]


def restrict_to_workers(tasks: TaskGraph, scheduler: Scheduler) -> None:
    """Let tasks that are restricted to workers have only the pools of these workers.

    Raises
    ------
    WorkersOutsidePool
        A task is pinned to a pool that none of its workers is in.
    """
    pools_of: dict[str, set[str]] = {}
    for key, own in tasks.annotations.items():
        workers = own.get("workers")
        if not workers or own.get("allow_other_workers"):
            continue
        names = [workers] if isinstance(workers, str) else sorted(map(str, workers))
        pools = {pool for n in names for pool in pools_of.setdefault(n, _pools_at(n, scheduler))}
        task = tasks.number_of[key]
        if task in tasks.pinned:
            if tasks.pinned[task] not in pools:
                raise WorkersOutsidePool(key, tasks.pinned[task], names)
        elif pools:
            either = tasks.allowed.get(task, ())
            tasks.allowed[task] = tuple(p for p in either if p in pools) or tuple(sorted(pools))
        else:
            tasks.blocked.add(task)
            tasks.allowed.pop(task, None)


def _pools_at(name: str, scheduler: Scheduler) -> set[str]:
    """Pools of the workers with an address, a name, or on a host."""
    found = [w for w in list(scheduler.workers.values()) if name in (w.address, w.name, w.host)]
    return {pool for w in found for r in w.resources if (pool := pool_of_resource(r))}


def pools_of_data(scheduler: Scheduler, keys: Iterable[Key]) -> dict[Key, str]:
    """The pool resource where data of an earlier computation lies, or will once it has run."""
    found = {}
    for key in keys:
        if task := scheduler.tasks.get(key):
            holders = task.who_has or ()
            resource = _only_pool(task.resource_restrictions or ())
            resource = resource or _only_pool(*(worker.resources for worker in holders))
            if resource is not None:
                found[key] = resource
    return found


def _only_pool(*resources: Iterable[str]) -> str | None:
    pools = {r for names in resources for r in names if pool_of_resource(r) is not None}
    return pools.pop() if len(pools) == 1 else None


def check_counted(
    plan: Plan,
    resources: Mapping[str, str],
    annotations: Mapping[Key, Annotations],
    scheduler: Scheduler,
) -> None:
    """Refuse tasks whose pool has no worker with the counted resources that they ask for.

    Raises
    ------
    NoSuchWorker
        Such tasks would wait for ever.
    """
    asked: dict[tuple[str, tuple[tuple[str, float], ...]], list[Key]] = {}
    for key, own in annotations.items():
        counted = own.get("resources")
        if counted and (pool := plan.pools.get(key)) is not None:
            asked.setdefault((pool, tuple(sorted(counted.items()))), []).append(key)
    workers = [worker.resources for worker in list(scheduler.workers.values())]
    for (pool, counted), keys in asked.items():
        inside = [offered for offered in workers if resources[pool] in offered]
        if inside and not any(
            all(offered.get(name, -1) >= amount for name, amount in counted) for offered in inside
        ):
            layers = list(dict.fromkeys(plan.layer_of[key] for key in keys))
            raise NoSuchWorker(pool, dict(counted), len(keys), layers)


def warn_clients(scheduler: Scheduler, message: str) -> None:
    """Show a warning in the user's own process; the scheduler's log is far away."""
    event: dict[str, Any] = {
        "message": pickle.dumps(message),
        "category": pickle.dumps(UserWarning),
    }
    scheduler.loop.add_callback(scheduler.log_event, "warn", event)


def check_peer_to_peer(graph: Mapping[Key, Any], pools: Mapping[Key, str | None]) -> None:
    """Refuse peer-to-peer barriers that touch a pool: they would wait for ever.

    Raises
    ------
    PeerToPeerInPool
        The barrier, its inputs or its outputs have a pool.
    """
    barriers = {key: task for key, task in graph.items() if _is_barrier(task)}
    if not barriers:
        return
    touched: dict[Key, set[str | None]] = {
        key: {pools.get(key), *(pools.get(k) for k in task.dependencies)}
        for key, task in barriers.items()
    }
    for key, task in graph.items():
        for barrier in barriers.keys() & task.dependencies:
            touched[barrier].add(pools.get(key))
    for key, places in touched.items():
        if named := sorted(pool for pool in places if pool):
            spec = type(getattr(barriers[key], "spec", None)).__name__
            raise PeerToPeerInPool(key, named, TASK_BASED.get(spec, "array.rechunk.method"))


def _is_barrier(task: object) -> bool:
    # Known by its name: the class is private, and must not be imported for graphs without one.
    return type(task).__name__ == "P2PBarrierTask"
