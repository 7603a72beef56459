"""The live cluster, asked from inside the scheduler process while a graph is optimised there.

Dask hands an optimisation the graph and the wanted keys, and nothing of the cluster. The
scheduler is therefore found among the process's own: the private attributes that this takes are
read in `client_ids` and `find_scheduler`, and nowhere else.
"""

from __future__ import annotations

import pickle
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask.typing import Key

from dask_worker_pools.annotations import (
    PREFIX,
    Annotations,
    normal_resource,
    pool_of_resource,
    without_pools,
)
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
    from distributed import Client, Scheduler
    from distributed.scheduler import WorkerState

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
    needed = {pool: (plan.layers_in(pool), plan.data_in(pool)) for pool in absent}
    missing = [pool for pool in absent if any(needed[pool])]
    return [
        NoSuchPool(pool, sum(layers.values()), list(layers), live, missing, data)
        for pool in missing
        for layers, data in [needed[pool]]
    ]


@dataclass(frozen=True)
class Asked:
    """What tasks ask of a worker, besides a pool."""

    names: tuple[str, ...] | None  #: addresses, names or hosts; None = any worker
    counted: tuple[tuple[str, float], ...]  #: counted resources, such as ``GPU``, and how much

    @classmethod
    def by(cls, annotations: Annotations) -> Asked:
        """Read what a task asks for."""
        workers = annotations.get("workers")
        if not workers or annotations.get("allow_other_workers"):
            names = None
        else:
            names = (workers,) if isinstance(workers, str) else tuple(sorted(map(str, workers)))
        return cls(names, tuple(sorted(without_pools(annotations.get("resources")).items())))

    def named(self, workers: Iterable[WorkerState]) -> list[WorkerState]:
        """The workers that are named."""
        if self.names is None:
            return list(workers)
        return [w for w in workers if not {w.address, str(w.name), w.host}.isdisjoint(self.names)]

    def equipped(self, workers: Iterable[WorkerState]) -> list[WorkerState]:
        """The workers that offer as much of each counted resource."""
        return [
            w
            for w in workers
            if all(w.resources.get(name, -1) >= much for name, much in self.counted)
        ]


def restrict_to_workers(tasks: TaskGraph, scheduler: Scheduler) -> list[NoSuchWorker]:
    """Let tasks have only pools of workers that can run them: named ones, with what they ask for.

    Tasks that only workers outside of all pools can run, or none yet, get no pool.

    Returns
    -------
    list of NoSuchWorker
        One for each set of counted resources that no worker offers.

    Raises
    ------
    WorkersOutsidePool
        A task is pinned to a pool that none of its workers is in.
    """
    asked: defaultdict[Asked, list[int]] = defaultdict(list)
    for key, own in tasks.annotations.items():
        if (what := Asked.by(own)) != Asked(None, ()):
            asked[what].append(tasks.number_of[key])
    for what in [what for what in asked if what.names is not None]:
        _restrict_to_named(tasks, asked[what], what, scheduler)
    free = tasks.near_pools() if any(what.counted for what in asked) else set()
    workers = list(scheduler.workers.values())
    missing = []
    for what, numbers in asked.items():
        near = [number for number in numbers if number in free] if what.counted else []
        able = what.equipped(what.named(workers))
        pools = _pools_of(able)
        for number in near:
            either = tasks.allowed.get(number)
            if either is None and pools:
                tasks.allowed[number] = tuple(sorted(pools))
            elif either is None:
                tasks.blocked.add(number)
            else:  # of the user's own words some hold, or all: then the plan will be refused
                tasks.allowed[number] = tuple(pool for pool in either if pool in pools) or either
        if near and not what.equipped(workers):
            layers = tasks.layers_of(near)
            missing.append(NoSuchWorker(None, dict(what.counted), len(near), layers))
    return missing


def _restrict_to_named(
    tasks: TaskGraph, numbers: Iterable[int], asked: Asked, scheduler: Scheduler
) -> None:
    names = asked.names or ()
    pools = _pools_of(asked.named(list(scheduler.workers.values())))
    for number in numbers:
        pinned, either = tasks.pinned.get(number), tasks.allowed.get(number)
        said = (pinned,) if pinned is not None else either
        left = tuple(pool for pool in said or sorted(pools) if pool in pools)
        if said is not None and not left:
            raise WorkersOutsidePool(tasks.key_of[number], " or ".join(said), names)
        if pinned is None and left:
            tasks.allowed[number] = left
        elif pinned is None:
            tasks.blocked.add(number)


def _pools_of(workers: Iterable[WorkerState]) -> set[str]:
    return {pool for w in workers for r in w.resources if (pool := pool_of_resource(r))}


@dataclass(frozen=True)
class InMemory:
    """What is known of data that an earlier computation left in memory."""

    #: the pool resource where it lies, or will once it has run. Copies elsewhere do not count as
    #: long as there is one where it was made; what is in several other pools, or none, is left out
    pools: Mapping[Key, str] = field(default_factory=dict)
    nbytes: Mapping[Key, float] = field(default_factory=dict)  #: bytes, as its workers count them
    offered: Counter[str] = field(default_factory=Counter)  #: the cluster's, if it was asked


def in_memory(scheduler: Scheduler, keys: Iterable[Key]) -> InMemory:
    """What the scheduler knows of data of an earlier computation."""
    pools, nbytes = {}, {}
    for key in keys:
        if task := scheduler.tasks.get(key):
            home = _only_pool(task.resource_restrictions or ())
            holders = {r for worker in task.who_has or () for r in worker.resources}
            # All workers of its pool may have left, and handed it over to others.
            resource = home if home in holders or not task.who_has else _only_pool(holders)
            if resource is not None:
                pools[key] = resource
            if task.nbytes >= 0:
                nbytes[key] = float(task.nbytes)
    return InMemory(pools, nbytes)


def in_memory_of_clients(keys: Collection[Key], futures: Mapping[Key, Any]) -> InMemory:
    """What clients can tell of data in memory, without a word to asynchronous ones.

    Those of its futures are asked, where a graph still holds them, else the current one.
    """
    keys_of: defaultdict[Client, list[Key]] = defaultdict(list)
    for key in keys:
        if client := futures[key].client if key in futures else _current_client():
            keys_of[client].append(key)
    pools: dict[Key, str] = {}
    nbytes: dict[Key, float] = {}
    offered: Counter[str] = Counter()
    for client, own in keys_of.items():
        if client.asynchronous or client.status != "running":
            continue
        workers = client.scheduler_info(n_workers=-1)["workers"]
        resources = {address: worker["resources"] for address, worker in workers.items()}
        offered.update(r for names in resources.values() for r in names if pool_of_resource(r))
        scheduler: Any = client.scheduler
        holders = client.sync(scheduler.who_has, keys=own)
        there = [key for key in own if holders.get(key)]
        sizes = client.nbytes(there, summary=False) if there else {}
        nbytes |= {key: float(size) for key, size in sizes.items()}
        for key in there:
            of_key = {r for address in holders[key] for r in resources.get(address, ())}
            if (resource := _only_pool(of_key)) is not None:
                pools[key] = resource
    return InMemory(pools, nbytes, offered)


def _current_client() -> Client | None:
    from distributed import Client

    try:
        client: Client = Client.current()
    except ValueError:
        return None
    return client


def _only_pool(resources: Iterable[str]) -> str | None:
    pools = {r for r in resources if pool_of_resource(r) is not None}
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
    asked: defaultdict[tuple[str, Asked], list[Key]] = defaultdict(list)
    for key, own in annotations.items():
        if own.get("resources") and (pool := plan.pools.get(key)) is not None:
            asked[pool, Asked.by(own)].append(key)
    workers = list(scheduler.workers.values())
    for (pool, what), keys in asked.items():
        inside = [worker for worker in what.named(workers) if resources[pool] in worker.resources]
        if inside and not what.equipped(inside):
            layers = list(dict.fromkeys(plan.layer_of[key] for key in keys))
            raise NoSuchWorker(pool, dict(what.counted), len(keys), layers)


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
