"""What happens on the scheduler to the tasks of a pool whose last worker has left.

A task that the user pinned to the pool waits. One that may run in any of several pools goes on in
another of them, and one that is there only because of its neighbours goes on where these are.
Which are which is written on the tasks, under `MOVES_KEY`, so that nothing is kept here: what the
scheduler forgets is forgotten.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dask_worker_pools.annotations import MOVES_KEY, normal_resource, pool_of_resource

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.diagnostics.plugin import SchedulerPlugin
    from distributed.scheduler import TaskState

#: Name of the plugin among those of a scheduler.
NAME = "dask-worker-pools"


def watch(scheduler: Scheduler) -> None:
    """See to the scheduler's pools from now on, if nothing does yet."""
    if NAME not in scheduler.plugins:
        scheduler.add_plugin(_plugin(scheduler), name=NAME, idempotent=True)


def _plugin(scheduler: Scheduler) -> SchedulerPlugin:
    # Imported here: whoever only builds collections need not import distributed.
    from distributed.diagnostics.plugin import SchedulerPlugin

    class PoolPlugin(SchedulerPlugin):
        """Tells what happens to workers to what sees to the pools; no error gets out of it."""

        def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
            self._settle()

        def add_worker(self, scheduler: Scheduler, worker: str) -> None:
            if scheduler.unrunnable:
                self._settle()

        def _settle(self) -> None:
            try:
                go_on(scheduler)
            except Exception:
                logging.getLogger("distributed.scheduler").exception("Pools were not seen to")

    return PoolPlugin()


def go_on(scheduler: Scheduler) -> None:
    """Let tasks of pools that have no worker go on in others, as far as they may."""
    offered = {name: bool(workers) for name, workers in scheduler.resources.items()}
    if all(there or pool_of_resource(name) is None for name, there in offered.items()):
        return
    live = [name for name, there in offered.items() if there]
    lost = [task for task in scheduler.tasks.values() if _home(task, but_not=live) is not None]
    if not any(_moves(task) for task in lost):
        return
    # Of the tasks of one graph, each comes after its inputs.
    lost.sort(key=lambda task: (task.priority is None, task.priority))
    waiting: set[TaskState] = set()
    chosen: Counter[str] = Counter()
    ready = []
    for task in lost:
        held = any(needed in waiting for needed in task.dependencies)
        target = None if held else _target(task, live, chosen, scheduler)
        if target is not None:
            _move(task, target)
            chosen[target] += 1
            ready += [task.key] * (task.state == "no-worker")
        elif not task.who_has:
            waiting.add(task)
    if ready:
        # What is recommended last is done first.
        recommended: Any = dict.fromkeys(reversed(ready), "processing")
        scheduler.transitions(recommended, stimulus_id="pool-without-workers")


def _home(task: TaskState, but_not: Collection[str] = ()) -> str | None:
    """The resource of a task's pool; None if it has none, or one of some."""
    for resource in task.resource_restrictions or ():
        if pool_of_resource(resource) is not None and resource not in but_not:
            return resource
    return None


def _moves(task: TaskState) -> Any:
    """The pools in which a task may go on: some, any (True), or none."""
    return (task.annotations or {}).get(MOVES_KEY, ())


def _target(
    task: TaskState, live: Collection[str], chosen: Counter[str], scheduler: Scheduler
) -> str | None:
    """The pool where a task should go on: that of most of its inputs, else the first that it may.

    Of those that may go on anywhere, tasks without such inputs follow the others.
    """
    options = [pool for pool in _options(_moves(task), live) if _can_run(task, pool, scheduler)]
    if not options:
        return None
    nbytes: Counter[str] = Counter()
    for needed in task.dependencies:
        for pool in _whereabouts(needed):
            nbytes[pool] += max(1, needed.get_nbytes())
    follow = chosen if _moves(task) is True else Counter[str]()
    return max(options, key=lambda pool: (nbytes[pool], follow[pool], -options.index(pool)))


def _options(moves: Any, live: Collection[str]) -> Iterator[str]:
    pools = sorted(resource for resource in live if pool_of_resource(resource) is not None)
    if moves is True:
        yield from pools
        return
    for said in moves:
        alike = [pool for pool in pools if normal_resource(pool) == normal_resource(said)]
        yield from [said] if said in alike else alike


def _whereabouts(task: TaskState) -> Iterable[str]:
    """The pools where an output lies, or will."""
    if task.who_has:
        return {r for w in task.who_has for r in w.resources if pool_of_resource(r) is not None}
    return filter(None, [_home(task)])


def _can_run(task: TaskState, pool: str, scheduler: Scheduler) -> bool:
    """Whether a worker of a pool has all else that a task asks for."""
    able = set(scheduler.resources[pool])
    for resource, amount in (task.resource_restrictions or {}).items():
        if pool_of_resource(resource) is None:
            offered = scheduler.resources.get(resource, {})
            able &= {worker for worker, much in offered.items() if much >= amount}
    if task.worker_restrictions or task.host_restrictions:
        hosts = {scheduler.coerce_hostname(host) for host in task.host_restrictions or ()}
        named = task.worker_restrictions or ()
        able = {w for w in able if w in named or scheduler.workers[w].host in hosts}
    return bool(able)


def _move(task: TaskState, pool: str) -> None:
    kept = {
        resource: amount
        for resource, amount in (task.resource_restrictions or {}).items()
        if pool_of_resource(resource) is None
    }
    task.resource_restrictions = kept | {pool: 0}
