"""What was decided, as plain values; others print, explain and draw it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Set
from dataclasses import dataclass, field
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING, Any

from dask.typing import Key
from dask.utils import key_split

from dask_worker_pools.lazy import once
from dask_worker_pools.travel import Travels
from dask_worker_pools.words import counted, name_of, short_names, size_text

if TYPE_CHECKING:
    from dask_worker_pools.explain import Explanation, Unit

# What only readers of a plan ask for is imported where it is: the scheduler need not be sent it.


@dataclass(frozen=True)
class Transfer(metaclass=Travels):
    """One task's output, shipped to one other pool.

    It counts once however many tasks of the target pool consume it.
    """

    key: Key  #: the task whose output is shipped
    source: str | None  #: pool where it runs; None = no pool: it may run anywhere
    target: str  #: pool that it is shipped to
    nbytes: float | None  #: size of the output; None = unknown, which is not 0
    #: the identity task in the target pool through which an output with several consumers there
    #: crosses once; None = there is one consumer
    landing: Key | None = None


def landing_key(key: Key, target: str) -> Key:
    """Name the task through which an output lands in a pool.

    Parameters
    ----------
    key : Key
        The task whose output it is.
    target : str
        The pool where it lands.

    Examples
    --------
    >>> landing_key(("mean", 0, 1), "B"), landing_key("total", "B")
    (('landing-B-mean', 0, 1), 'landing-B-total')
    """
    if isinstance(key, str):
        return f"landing-{target}-{key}"
    if isinstance(key, tuple) and key and isinstance(key[0], str):
        return (f"landing-{target}-{key[0]}", *key[1:])
    return (f"landing-{target}", key)  # as text, 1 and "1" would be alike


@dataclass(frozen=True, repr=False)
class Plan(metaclass=Travels):
    """A pool, or none, for every task of a graph, and what follows from it.

    Properties are computed once: the mappings must not be changed afterwards.

    Examples
    --------
    >>> plan = Plan(
    ...     pools={"load": "A", "mean": "A", ("scale", 0): "B", ("scale", 1): "B"},
    ...     dependencies={
    ...         "load": [], "mean": ["load"], ("scale", 0): ["mean"], ("scale", 1): ["mean"]
    ...     },
    ...     layer_of={
    ...         "load": "load", "mean": "mean", ("scale", 0): "scale", ("scale", 1): "scale"
    ...     },
    ...     sizes={"load": 800, "mean": 8, ("scale", 0): 400, ("scale", 1): 400},
    ...     pinned={"load": "A", ("scale", 0): "B", ("scale", 1): "B"},
    ... )
    >>> plan
    Plan of 4 tasks in 3 layers
    Between pools: 8 B in 1 transfer (A → B)
    <BLANKLINE>
    layer  pool        tasks  bytes out  sent to
    load   A (pinned)      1      800 B
    mean   A               1        8 B  B 8 B
    scale  B (pinned)      2      800 B
    >>> plan.transfers
    (Transfer(key='mean', source='A', target='B', nbytes=8, landing='landing-B-mean'),)
    """

    pools: Mapping[Key, str | None]  #: where each task runs; None = anywhere
    dependencies: Mapping[Key, Collection[Key]]  #: the tasks whose output each task needs
    layer_of: Mapping[Key, str]  #: name of the layer that each task belongs to
    sizes: Mapping[Key, float]  #: bytes of each task's output, where known
    #: pools that the user said; also where data in memory lies, which are no tasks
    pinned: Mapping[Key, str] = field(default_factory=dict)
    blocked: Collection[Key] = frozenset()  #: tasks created under ``pool(None)``
    #: how the sizes of each layer's outputs are known: "declared", "chunks", "derived",
    #: "embedded", "rows" or "unknown"; several joined by "+"; "measured" of data in memory
    sources: Mapping[str, str] = field(default_factory=dict)
    counting: bool = False  #: no size is known: each output counts 1, or its weight
    #: how many partitions of sources outputs of unknown size are guessed to hold, where they are
    weights: Mapping[Key, float] = field(default_factory=dict)
    #: cost of a byte from one pool to another; None = 1 wherever
    link_cost: Callable[[str, str], float] | None = None
    capacity: Mapping[str, float] = field(default_factory=dict)  #: workers of each pool, else 1
    #: pools any of which a task may run in, for tasks that the user restricted so
    allowed: Mapping[Key, Collection[str]] = field(default_factory=dict)

    # --- What crosses ---------------------------------------------------------------------------

    @once
    def transfers(self) -> tuple[Transfer, ...]:
        """Outputs that cross from one pool to another, in the order of `pools`."""
        if len({*self.pools.values(), *self.pinned.values()} - {None}) < 2:
            return ()
        located = {**self.pinned, **self.pools}
        consumers: dict[str, dict[Key, int]] = {}  # how many, by target and output
        for key, inputs in self.dependencies.items():
            target = self.pools.get(key)
            if target is None:
                continue
            there = consumers.setdefault(target, {})
            for needed in inputs if isinstance(inputs, Set) else set(inputs):
                source = located.get(needed)
                if source is not None and source != target:
                    there[needed] = there.get(needed, 0) + 1
        shipped = set().union(*consumers.values())
        in_memory = sorted(shipped - self.pools.keys(), key=str)
        targets = sorted(consumers.items())
        return tuple(
            Transfer(
                key,
                located[key],
                target,
                self.sizes.get(key),
                landing_key(key, target) if there[key] > 1 else None,
            )
            for key in (*in_memory, *filter(shipped.__contains__, self.pools))
            for target, there in targets
            if key in there
        )

    @once
    def transfers_of(self) -> Mapping[Key, tuple[Transfer, ...]]:
        """The transfers of each output that is shipped."""
        found: defaultdict[Key, list[Transfer]] = defaultdict(list)
        for transfer in self.transfers:
            found[transfer.key].append(transfer)
        return {key: tuple(transfers) for key, transfers in found.items()}

    @once
    def bytes_by_link(self) -> Mapping[tuple[str, str], float]:
        """Bytes shipped from one pool to another; outputs of unknown size count nothing."""
        links: defaultdict[tuple[str, str], float] = defaultdict(float)
        for transfer in self.transfers:
            links[str(transfer.source), transfer.target] += transfer.nbytes or 0.0
        return dict(links)

    @property
    def total_bytes(self) -> float:
        """Bytes shipped between pools; outputs of unknown size count nothing."""
        return sum(self.bytes_by_link.values())

    @once
    def read_anywhere(self) -> tuple[Key, ...]:
        """Outputs of pools that tasks without a pool read, wherever these will run.

        Each may have to be sent there, or not: it is in none of the transfers.
        """
        anywhere = (inputs for key, inputs in self.dependencies.items() if self.is_anywhere(key))
        read = dict.fromkeys(chain.from_iterable(anywhere))
        return tuple(key for key in read if self.place_of(key) is not None)

    @property
    def bytes_read_anywhere(self) -> float:
        """Bytes that may be sent to tasks without a pool; unknown sizes count nothing."""
        return sum(self.sizes.get(key, 0.0) for key in self.read_anywhere)

    @once
    def cost(self) -> float:
        """What the pools were chosen to keep low: size × link cost, over all that crosses.

        Unlike `total_bytes` it counts outputs of unknown size as `assumptions` say, and what goes
        to and from tasks that may run in any pool by the pools' shares of `capacity`.
        """
        from dask_worker_pools.costs import cost, shipping

        return cost(self, shipping(self, self.consumers))

    # --- Layers ---------------------------------------------------------------------------------

    @once
    def keys_by_layer(self) -> Mapping[str, list[Key]]:
        """The tasks of each layer."""
        layers: defaultdict[str, list[Key]] = defaultdict(list)
        for key in self.pools:
            layers[self.layer_of[key]].append(key)
        return dict(layers)

    @once
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, each after those that it needs."""
        rank = {name: i for i, name in enumerate(self.keys_by_layer)}
        needs: dict[str, set[str]] = {name: set() for name in rank}
        for key, inputs in self.dependencies.items():
            if key in self.layer_of:
                needs[self.layer_of[key]].update(
                    self.layer_of[needed] for needed in inputs if needed in self.layer_of
                )
        done: dict[str, None] = {}
        entered: set[str] = set()  # layers may need each other, by different tasks
        stack = list(reversed(rank))
        while stack:
            name = stack.pop()
            if name in entered:
                done.setdefault(name)
                continue
            entered.add(name)
            stack.append(name)
            stack += sorted(needs[name] - entered, key=rank.__getitem__, reverse=True)
        return tuple(done)

    @once
    def layers_by_label(self) -> Mapping[str, tuple[str, ...]]:
        """The layers behind each name that readers see.

        Layers of one task each that share a short name, as those of delayed objects, stand
        together.
        """
        shorts = short_names(self.layers)
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for layer in self.layers:
            alone = len(self.keys_by_layer[layer]) == 1
            alike[str(key_split(layer)) if alone else layer].append(layer)
        return {
            shorts[layers[0]] if len(layers) == 1 else f"{name} ({len(layers)} layers)": (*layers,)
            for name, layers in alike.items()
        }

    def layers_in(self, pool: str) -> dict[str, int]:
        """How many tasks of each layer run in `pool`; layers with pinned tasks come first."""
        inside = [key for key, where in self.pools.items() if where == pool]
        pinned = dict.fromkeys(self.layer_of[key] for key in inside if key in self.pinned)
        counts = Counter(self.layer_of[key] for key in inside)
        return {
            name: counts[name]
            for name in (*pinned, *sorted(counts.keys() - pinned.keys(), key=str))
        }

    def data_in(self, pool: str) -> list[str]:
        """Names of the collections that have data in memory in `pool`."""
        inside = (key for key in self.in_memory if self.pinned.get(key) == pool)
        return list(dict.fromkeys(str(name_of(key)) for key in inside))

    # --- What was assumed -----------------------------------------------------------------------

    @once
    def typical_size(self) -> float | None:
        """Bytes that an output of unknown size counts: the median; None if no size is known.

        An output that has a weight counts so many times as much.
        """
        known = [size for key, size in self.sizes.items() if key in self._keys]
        return None if self.counting or not known else median(known)

    @once
    def unit(self) -> Unit:
        """What `size_of` counts: bytes; if no size is known, partitions of sources, or outputs."""
        if self.typical_size is not None:
            return "bytes"
        return "partitions" if self.weights else "outputs"

    def size_of(self, key: Key) -> float:
        """What an output counts, in `unit`: its bytes, or what is assumed."""
        typical = self.typical_size
        if typical is not None and key in self.sizes:
            return self.sizes[key]
        return (1.0 if typical is None else typical) * self.weights.get(key, 1.0)

    @once
    def assumptions(self) -> tuple[str, ...]:
        """Sentences about the sizes that are not known, and what was assumed instead.

        Examples
        --------
        >>> plan = Plan(
        ...     pools={"load": "A", "parse": "A"},
        ...     dependencies={"load": [], "parse": ["load"]},
        ...     layer_of={"load": "load", "parse": "parse"},
        ...     sizes={"load": 8 * 2**20},
        ... )
        >>> plan.assumptions
        ('size of 1 output of parse unknown: counted as the median, 8.00 MiB',)
        """
        if not self.pools:
            return ()
        if self.typical_size is None:
            of_sources = " of sources" if self.unit == "partitions" else ""
            return (f"counting {self.unit}{of_sources}, sizes unknown",)
        found = {
            label: [k for name in layers for k in self.keys_by_layer[name] if k not in self.sizes]
            for label, layers in self.layers_by_label.items()
        }
        typical = size_text(self.typical_size)
        return tuple(
            f"size of {counted(len(keys), 'output')} of {name} unknown: counted as "
            + ("partitions of sources, each " if any(k in self.weights for k in keys) else "")
            + f"the median, {typical}"
            for name, keys in found.items()
            if keys
        )

    # --- Around the tasks -----------------------------------------------------------------------

    @once
    def consumers(self) -> Mapping[Key, list[Key]]:
        """The tasks that need each output; outputs that none needs are absent."""
        found: defaultdict[Key, list[Key]] = defaultdict(list)
        for key, inputs in self.dependencies.items():
            for needed in inputs if isinstance(inputs, Set) else set(inputs):
                found[needed].append(key)
        return dict(found)

    @once
    def workers(self) -> Mapping[str, float]:
        """Workers of every pool that there is; 1 where `capacity` does not say."""
        allowed = chain.from_iterable(self.allowed.values())
        named = {*self.pools.values(), *self.pinned.values(), *self.capacity, *allowed}
        return {pool: self.capacity.get(pool, 1.0) for pool in sorted(filter(None, named))}

    def place_of(self, key: Key) -> str | None:
        """Pool of a task or of data in memory; None = none, or not known."""
        return self.pools[key] if key in self.pools else self.pinned.get(key)

    def is_anywhere(self, key: Key) -> bool:
        """Whether a task has no pool."""
        return key in self.pools and self.pools[key] is None

    @once
    def in_memory(self) -> tuple[Key, ...]:
        """Data in memory that tasks need: results of an earlier computation, which are no tasks."""
        return tuple(key for key in self.consumers if key not in self.pools)

    @once
    def _keys(self) -> Set[Key]:
        return {*self.pools, *self.in_memory}

    def explain(self, name: Hashable) -> Explanation:
        """Say why a task, or a layer of tasks, is where it is, and what other pools would cost.

        Parameters
        ----------
        name : Hashable
            A task's key or a layer's name. A layer's short name will do if no other has it.

        Returns
        -------
        Explanation
            It prints as text.

        Raises
        ------
        UnknownTask
            There is no such task or layer.

        Examples
        --------
        >>> plan = Plan(
        ...     pools={"a": "A", "b": "B", "sum": "A"},
        ...     dependencies={"a": [], "b": [], "sum": ["a", "b"]},
        ...     layer_of={"a": "a", "b": "b", "sum": "sum"},
        ...     sizes={"a": 800, "b": 8, "sum": 800},
        ...     pinned={"a": "A", "b": "B"},
        ... )
        >>> plan.explain("sum")
        task 'sum'
          where      A: free to run anywhere
          output     800 B
          inputs     A 800 B, B 8 B
          consumers  none
          ships      nothing
          elsewhere  B would cost 792 B more (next best)
        """
        from dask_worker_pools.explain import explain

        return explain(self, name)

    # --- For readers ----------------------------------------------------------------------------

    def __repr__(self) -> str:
        from dask_worker_pools.report import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from dask_worker_pools.report import as_html

        return as_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as values that JSON can hold; keys of tasks as text.

        Returns
        -------
        dict
            With ``pools`` (pool or None by task), ``transfers`` (each with ``key``, ``source``,
            ``target``, ``nbytes`` and ``landing``), ``bytes_by_link`` (bytes by source and then
            target), ``total_bytes``, ``bytes_read_anywhere``, ``in_memory`` (``pool`` and
            ``nbytes`` by key, None where unknown) and ``assumptions``.

        Examples
        --------
        >>> plan = Plan(
        ...     pools={"a": "A", "b": "B"},
        ...     dependencies={"a": [], "b": ["a"]},
        ...     layer_of={"a": "a", "b": "b"},
        ...     sizes={"a": 8, "b": 8},
        ... )
        >>> plan.to_dict()["bytes_by_link"], plan.to_dict()["total_bytes"]
        ({'A': {'B': 8.0}}, 8.0)
        """
        links: dict[str, dict[str, float]] = {}
        for (source, target), nbytes in self.bytes_by_link.items():
            links.setdefault(source, {})[target] = float(nbytes)
        return {
            "pools": {str(key): pool for key, pool in self.pools.items()},
            "transfers": [
                {
                    "key": str(transfer.key),
                    "source": transfer.source,
                    "target": transfer.target,
                    "nbytes": None if transfer.nbytes is None else float(transfer.nbytes),
                    "landing": None if transfer.landing is None else str(transfer.landing),
                }
                for transfer in self.transfers
            ],
            "bytes_by_link": links,
            "total_bytes": float(self.total_bytes),
            "bytes_read_anywhere": float(self.bytes_read_anywhere),
            "in_memory": {
                str(key): {"pool": self.place_of(key), "nbytes": self.sizes.get(key)}
                for key in self.in_memory
            },
            "assumptions": list(self.assumptions),
        }
