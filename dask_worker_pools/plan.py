"""What was decided, and what can go wrong: plain values, printed and drawn by others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask.typing import Key
from dask.utils import key_split


@dataclass(frozen=True)
class Transfer:
    """One task's output, shipped to one other pool.

    It counts once however many tasks of the target pool consume it.
    """

    key: Key  #: the task whose output is shipped
    source: str | None  #: pool where it runs; None = no pool: it may run anywhere
    target: str  #: pool that it is shipped to
    nbytes: float | None  #: size of the output; None = unknown, which is not 0


@dataclass(frozen=True)
class Plan:
    """A pool, or none, for every task of a graph, and what follows from it."""

    pools: Mapping[Key, str | None]  #: where each task runs; None = anywhere
    dependencies: Mapping[Key, Collection[Key]]  #: the tasks whose output each task needs
    layer_of: Mapping[Key, str]  #: name of the layer that each task belongs to
    sizes: Mapping[Key, float]  #: bytes of each task's output, where known
    pinned: Mapping[Key, str] = field(default_factory=dict)  #: pools that the user said
    blocked: Collection[Key] = frozenset()  #: tasks created under ``pool(None)``

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """Outputs that cross from one pool to another, in graph order."""
        crossing: dict[tuple[Key, str], Transfer] = {}
        for key, inputs in self.dependencies.items():
            target = self.pools.get(key)
            if target is None:
                continue
            for needed in inputs:
                source = self.pools.get(needed)
                if source is not None and source != target and (needed, target) not in crossing:
                    crossing[needed, target] = Transfer(
                        needed, source, target, self.sizes.get(needed)
                    )
        return tuple(crossing.values())

    @property
    def bytes_by_link(self) -> dict[tuple[str, str], float]:
        """Bytes shipped from one pool to another; outputs of unknown size count nothing."""
        links: defaultdict[tuple[str, str], float] = defaultdict(float)
        for transfer in self.transfers:
            links[str(transfer.source), transfer.target] += transfer.nbytes or 0.0
        return dict(links)

    @property
    def total_bytes(self) -> float:
        """Bytes shipped between pools; outputs of unknown size count nothing."""
        return sum(self.bytes_by_link.values())

    @property
    def keys_by_layer(self) -> dict[str, list[Key]]:
        """The tasks of each layer."""
        layers: defaultdict[str, list[Key]] = defaultdict(list)
        for key in self.pools:
            layers[self.layer_of[key]].append(key)
        return dict(layers)

    def layers_in(self, pool: str) -> dict[str, int]:
        """How many tasks of each layer run in `pool`; layers with pinned tasks come first."""
        inside = [key for key, where in self.pools.items() if where == pool]
        pinned = dict.fromkeys(self.layer_of[key] for key in inside if key in self.pinned)
        counts = Counter(self.layer_of[key] for key in inside)
        return {name: counts[name] for name in (*pinned, *sorted(counts.keys() - pinned.keys()))}


class PoolError(Exception):
    """What this package raises when pools cannot be honoured.

    Raised in the scheduler process as well as in the user's, so every subclass can be pickled:
    it is built again from its fields.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self.fields)

    #: names of the constructor's parameters, which are also attributes
    fields: tuple[str, ...] = ()


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
    """

    fields = ("pool", "n_tasks", "layers", "pools", "missing")

    def __init__(
        self,
        pool: str,
        n_tasks: int,
        layers: Sequence[str],
        pools: Mapping[str, int],
        missing: Sequence[str] = (),
    ) -> None:
        self.pool = pool
        self.n_tasks = n_tasks
        self.layers = tuple(layers)
        self.pools = dict(pools)
        self.missing = tuple(missing)
        super().__init__(
            f'{self.problem} Start workers with --resources "pool-{pool}=1", fix the name, or let '
            'the tasks wait for such workers with propagate_pools(missing="wait").'
        )

    @property
    def problem(self) -> str:
        """What is wrong, without what to do about it."""
        others = [name for name in self.missing if name != self.pool]
        also = f" Missing too: {', '.join(map(repr, others))}." if others else ""
        return (
            f"pool {self.pool!r} is required by {_tasks(self.n_tasks)} ({_some(self.layers)}), "
            f"but no worker offers it.{also} Pools on this cluster: {_counted(self.pools)}."
        )


class NoSuchWorker(PoolError, ValueError):
    """Tasks of a pool ask for counted resources that no worker of the pool offers.

    Attributes
    ----------
    pool : str
        The pool.
    resources : dict of str to float
        What the tasks ask for besides it.
    n_tasks : int
        Number of such tasks.
    layers : tuple of str
        Names of their layers.
    """

    fields = ("pool", "resources", "n_tasks", "layers")

    def __init__(
        self, pool: str, resources: Mapping[str, float], n_tasks: int, layers: Sequence[str]
    ) -> None:
        self.pool = pool
        self.resources = dict(resources)
        self.n_tasks = n_tasks
        self.layers = tuple(layers)
        asked = ", ".join(f"{name}={amount:g}" for name, amount in self.resources.items())
        super().__init__(
            f"{_tasks(n_tasks)} ({_some(self.layers)}) in pool {pool!r} ask for {asked}, but no "
            f"worker of that pool offers it. Start one with "
            f'--resources "pool-{pool}=1 {asked.replace(",", "")}", or keep these tasks out of '
            "the pool."
        )


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
    """The user's own optimisation dropped tasks that are still needed.

    Attributes
    ----------
    function : str
        Name of the optimisation.
    keys : tuple
        The keys that it was told to keep, and lost.
    """

    fields = ("function", "keys")

    def __init__(self, function: str, keys: Sequence[Key]) -> None:
        self.function = function
        self.keys = tuple(keys)
        super().__init__(
            f"the optimisation {function!r} was called with keys to keep, and returned a graph "
            f"without {len(self.keys)} of them, for example {self.keys[0]!r}. It is called as "
            "f(graph, keys) for the tasks of one pool at a time, and must keep all of `keys`: "
            "outputs, and tasks that other pools need."
        )


def _tasks(n: int) -> str:
    return f"{n} task{'s'[: n != 1]}"


def _some(layers: Sequence[str], limit: int = 3) -> str:
    """The first layers, by the readable part of their names."""
    names = list(dict.fromkeys(map(key_split, layers)))
    shown = ", ".join(map(repr, names[:limit]))
    more = len(names) - limit
    return f"{shown} and {more} more kind{'s'[: more != 1]} of tasks" if more > 0 else shown


def _counted(pools: Mapping[str, int]) -> str:
    if not pools:
        return "none"
    return ", ".join(f"{name!r} ({_workers(n)})" for name, n in sorted(pools.items()))


def _workers(n: int) -> str:
    return f"{n} worker{'s'[: n != 1]}"
