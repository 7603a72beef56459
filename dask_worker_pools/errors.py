"""What can go wrong with pools: errors that carry fields, and survive the way to the user."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from dask.typing import Key
from dask.utils import key_split

from dask_worker_pools.pool_error import InvalidType, InvalidValue, PoolError
from dask_worker_pools.travel import Travels
from dask_worker_pools.words import counted

__all__ = [
    "AmbiguousPool",
    "ConflictingPools",
    "InvalidType",
    "InvalidValue",
    "LostKeys",
    "NoSuchPool",
    "NoSuchWorker",
    "PeerToPeerInPool",
    "PoolError",
    "PoolsIgnored",
    "UnknownPools",
    "UnknownTask",
    "WorkersOutsidePool",
]


class PoolsIgnored(UserWarning, metaclass=Travels):
    """Something with a pool is computed outside of `propagate_pools`."""


class NoSuchPool(PoolError, ValueError):
    """A pool is required that no worker offers.

    Attributes
    ----------
    pool : str
        The pool that is missing.
    n_tasks : int
        Number of tasks that need it.
    layers : tuple of str
        Names of the layers that need it, those with pinned tasks first.
    pools : dict of str to int
        Pools of the cluster, and the number of workers in each.
    missing : tuple of str
        All pools that are required and missing.
    data : tuple of str
        Names of the collections whose data in memory is lost with the pool, or was to be made
        there by an earlier computation.
    """

    fields = ("pool", "n_tasks", "layers", "pools", "missing", "data")

    def __init__(
        self,
        pool: str,
        n_tasks: int,
        layers: Sequence[str],
        pools: Mapping[str, int],
        missing: Sequence[str] = (),
        data: Sequence[str] = (),
    ) -> None:
        self.pool = pool
        self.n_tasks = n_tasks
        self.layers = tuple(layers)
        self.pools = dict(pools)
        self.missing = tuple(missing)
        self.data = tuple(data)
        super().__init__(
            f'{self.problem} Start workers with --resources "pool-{pool}=1", fix the name, or let '
            'the tasks wait for such workers with propagate_pools(missing="wait").'
        )

    @property
    def problem(self) -> str:
        """What is wrong, without what to do about it."""
        others = [name for name in self.missing if name != self.pool]
        also = f" Missing too: {', '.join(map(repr, others))}." if others else ""
        needs = []
        if self.data:
            needs.append(f"data that was kept there ({_some(self.data, of='data')})")
        if self.layers:
            needs.append(f"{counted(self.n_tasks, 'task')} ({_some(self.layers)})")
        return (
            f"pool {self.pool!r} is required by {' and by '.join(needs)}, "
            f"but no worker offers it.{also} "
            f"Pools on this cluster: {_with_workers(self.pools)}."
        )


class NoSuchWorker(PoolError, ValueError):
    """Tasks ask for counted resources that no worker offers, or none of their pool.

    Attributes
    ----------
    pool : str or None
        The pool; None if no worker at all offers them.
    resources : dict of str to float
        What the tasks ask for besides it.
    n_tasks : int
        Number of such tasks.
    layers : tuple of str
        Names of their layers.
    """

    fields = ("pool", "resources", "n_tasks", "layers")

    def __init__(
        self, pool: str | None, resources: Mapping[str, float], n_tasks: int, layers: Sequence[str]
    ) -> None:
        self.pool = pool
        self.resources = dict(resources)
        self.n_tasks = n_tasks
        self.layers = tuple(layers)
        offered = self._asked.replace(",", "")
        if pool is None:
            super().__init__(
                f'{self.problem} Start one with --resources "{offered}", or let the tasks wait for '
                'such workers with propagate_pools(missing="wait").'
            )
            return
        super().__init__(
            f'{self.problem} Start one with --resources "pool-{pool}=1 {offered}", or keep these '
            "tasks out of the pool."
        )

    @property
    def problem(self) -> str:
        """What is wrong, without what to do about it."""
        tasks = f"{counted(self.n_tasks, 'task')} ({_some(self.layers)})"
        if self.pool is None:
            return f"{tasks} ask for {self._asked}, but no worker offers it."
        return (
            f"{tasks} in pool {self.pool!r} ask for {self._asked}, "
            "but no worker of that pool offers it."
        )

    @property
    def _asked(self) -> str:
        return ", ".join(f"{name}={amount:g}" for name, amount in self.resources.items())


class ConflictingPools(PoolError, ValueError):
    """One task is pinned to more than one pool; no worker could run it.

    Attributes
    ----------
    key : Hashable
        The task.
    layer : str
        Name of its layer.
    pools : tuple of str
        The pools that it is pinned to.
    """

    fields = ("key", "layer", "pools")

    def __init__(self, key: Key, layer: str, pools: Sequence[str]) -> None:
        self.key = key
        self.layer = layer
        self.pools = tuple(pools)
        super().__init__(
            f"task {key!r} of layer {layer!r} is pinned to {len(self.pools)} pools at once: "
            f"{', '.join(map(repr, self.pools))}. A task runs in one pool: keep one of the "
            "annotations, or build the data once in each pool."
        )


class AmbiguousPool(PoolError, ValueError):
    """A pool's name fits several resources that the workers offer.

    Attributes
    ----------
    pool : str
        The name that was asked for.
    resources : tuple of str
        The resources that it fits.
    """

    fields = ("pool", "resources")

    def __init__(self, pool: str, resources: Sequence[str]) -> None:
        self.pool = pool
        self.resources = tuple(resources)
        super().__init__(
            f"pool {pool!r} fits several resources of this cluster's workers: "
            f"{', '.join(map(repr, self.resources))}. They differ only in case, '-' or '_': "
            "use one spelling for all workers, or name the pool exactly as one of them."
        )


class PeerToPeerInPool(PoolError, RuntimeError):
    """A peer-to-peer rechunk or shuffle touches a pool, where it would wait for ever.

    Attributes
    ----------
    key : Hashable
        The barrier task of the shuffle.
    pools : tuple of str
        The pools at its inputs and outputs.
    config : str
        The configuration key that chooses the task-based method instead.
    """

    fields = ("key", "pools", "config")

    def __init__(self, key: Key, pools: Sequence[str], config: str) -> None:
        self.key = key
        self.pools = tuple(pools)
        self.config = config
        super().__init__(
            f"the peer-to-peer barrier {key!r} touches pools {', '.join(map(repr, self.pools))}, "
            "but Dask's peer-to-peer method ignores pools and would wait for ever. Build the "
            "collection inside propagate_pools(), or under "
            f'dask.config.set({{"{config}": "tasks"}}).'
        )


class LostKeys(PoolError, RuntimeError):
    """Tasks got lost that are still needed: an optimisation dropped them.

    Attributes
    ----------
    function : str or None
        Name of the user's own optimisation; None if it was the one of this package.
    keys : tuple
        The keys that had to be kept.
    """

    fields = ("function", "keys")

    def __init__(self, function: str | None, keys: Sequence[Key]) -> None:
        self.function = function
        self.keys = tuple(keys)
        super().__init__(
            f"{counted(len(self.keys), 'task')} got lost while tasks were fused, for example "
            f"{self.keys[0]!r}. Nothing was computed. Please report this with the program; until "
            "it is mended, fuse nothing: dask.config.set(array_optimize=dask.base.dont_optimize) "
            "before propagate_pools()."
            if function is None
            else f"the optimisation {function!r} was called with keys to keep, and returned a "
            f"graph without {len(self.keys)} of them, for example {self.keys[0]!r}. It is called "
            "as f(graph, keys) for the tasks of one pool at a time, and must keep all of `keys`: "
            "outputs, and tasks that other pools need."
        )


class WorkersOutsidePool(PoolError, ValueError):
    """A task is restricted to workers none of which is in its pool.

    Attributes
    ----------
    key : Hashable
        The task.
    pool : str
        The pool that it is pinned to.
    workers : tuple of str
        The workers that it is restricted to.
    """

    fields = ("key", "pool", "workers")

    def __init__(self, key: Key, pool: str, workers: Sequence[str]) -> None:
        self.key = key
        self.pool = pool
        self.workers = tuple(workers)
        super().__init__(
            f"task {key!r} is pinned to pool {pool!r} and restricted to workers "
            f"{', '.join(map(repr, self.workers))}, none of which is in that pool. Take back one "
            "of the two."
        )


class UnknownPools(PoolError, ValueError):
    """An option names pools that neither the computation nor the cluster has.

    Attributes
    ----------
    option : str
        The option.
    unknown : tuple of str
        The pools that do not exist.
    known : tuple of str
        Those that do.
    """

    fields = ("option", "unknown", "known")

    def __init__(self, option: str, unknown: Sequence[str], known: Sequence[str]) -> None:
        self.option = option
        self.unknown = tuple(unknown)
        self.known = tuple(known)
        super().__init__(
            f"{option} names pools that do not exist: {', '.join(map(repr, self.unknown))}. "
            f"There are: {', '.join(map(repr, self.known)) or 'none'}. Fix the names, or leave "
            "them out."
        )


class UnknownTask(PoolError, KeyError):
    """A plan was asked about something that is none of its tasks and layers.

    Attributes
    ----------
    name : Hashable
        What was asked for.
    near : tuple of str
        Tasks and layers of the plan that are called nearly so.
    """

    fields = ("name", "near")

    def __init__(self, name: Hashable, near: Sequence[str]) -> None:
        self.name = name
        self.near = tuple(near)
        super().__init__(name, self.near)

    def __str__(self) -> str:
        near = (
            f"Did you mean {' or '.join(self.near)}?"
            if self.near
            else "plan.layers has the names of all layers, plan.pools the keys of all tasks."
        )
        return f"no task and no layer of this plan is called {self.name!r}. {near}"


class CodeNotReceived(PoolError, RuntimeError):
    """The scheduler was not sent, on this connection, the code that plans the computation.

    That is so when the connection was lost, and made anew, while a computation was being sent.
    """

    def __init__(self) -> None:
        super().__init__(
            "the scheduler has not received the code of dask_worker_pools that should have come "
            "with an earlier computation: the connection was lost in between. Compute again, which "
            "sends it anew."
        )


def _some(layers: Sequence[str], limit: int = 3, of: str = "tasks") -> str:
    """The first layers, by the readable part of their names."""
    names = list(dict.fromkeys(map(key_split, layers)))
    shown = ", ".join(map(repr, names[:limit]))
    more = len(names) - limit
    return f"{shown} and {more} more kind{'s'[: more != 1]} of {of}" if more > 0 else shown


def _with_workers(pools: Mapping[str, int]) -> str:
    if not pools:
        return "none"
    return ", ".join(f"{name!r} ({counted(n, 'worker')})" for name, n in sorted(pools.items()))
