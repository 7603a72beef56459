"""Landing tasks: an output with several consumers in another pool crosses once, for real.

Dask fetches a remote output once for each worker that needs it, from any holder. Where two or more
tasks of a pool need an output of another, an identity task in their pool takes it over the link,
and they fetch it from that task, inside the pool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from dask._task_spec import Task, TaskRef
from dask.typing import Key
from toolz import identity

from dask_worker_pools.fusion import Tasks
from dask_worker_pools.plan import landing_key


def add_landings(tasks: Tasks, data: Mapping[Key, str]) -> None:
    """Put landing tasks where outputs have several consumers in another pool.

    This comes after fusion: what was fused into one task is one consumer.

    Parameters
    ----------
    tasks : Tasks
        The tasks to submit; changed in place.
    data : mapping of key to pool
        Where data already in memory lies.
    """
    for (key, target), consumers in _crossings(tasks, data).items():
        if len(consumers) < 2:
            continue
        landing = landing_key(key, target)
        for consumer in consumers:
            tasks.graph[consumer] = tasks.graph[consumer].substitute({key: landing})
        # toolz is wherever Dask is; this package need not be.
        tasks.add({landing: Task(landing, identity, TaskRef(key))}, target)


def _crossings(tasks: Tasks, data: Mapping[Key, str]) -> dict[tuple[Key, str], list[Key]]:
    """The consumers of each output in each other pool."""
    crossings: defaultdict[tuple[Key, str], list[Key]] = defaultdict(list)
    pools = tasks.pools
    for key, task in tasks.graph.items():
        target = pools[key]
        if not target:
            continue
        for needed in task.dependencies:
            source = pools[needed] if needed in pools else data.get(needed)
            if source and source != target:
                crossings[needed, target].append(key)
    return crossings
