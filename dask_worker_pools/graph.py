"""The tasks of a graph as placement sees them, with what the user said of each.

Edges come by number (`edges`). Pins and restrictions are kept by number too, so that a layer of a
million pinned tasks costs no look-up; what others ask for by key is made when they ask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Set
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from dask._task_spec import GraphNode, TaskRef, convert_legacy_graph
from dask.blockwise import Blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.typing import Key

from dask_worker_pools.annotations import (
    RESTRICTING,
    SIZE_KEY,
    WEIGHT_KEY,
    Annotations,
    allowed_in,
    annotations_by_key,
    is_blocked,
    is_planned,
    pools_in,
    said_inside,
    without_pool,
)
from dask_worker_pools.edges import Chunk, Edges
from dask_worker_pools.errors import ConflictingPools
from dask_worker_pools.lazy import once
from dask_worker_pools.placement import near_pools
from dask_worker_pools.slots import name_of

Dependencies = dict[Key, Set[Key]]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)


@dataclass
class KeyedTasks:
    """Tasks by key: what fusion works on."""

    layers: dict[str, Layer]  #: the layers as Dask built them
    keys: dict[str, list[Key]]  #: the needed keys of each layer
    dependencies: Dependencies  #: the keys that each needed task depends on
    layer_of: dict[Key, str]
    #: what was annotated besides the pool, for the tasks that have anything
    annotations: dict[Key, Annotations]
    in_memory: Collection[Key] = ()  #: keys of data in memory, which are no tasks

    @once
    def known(self) -> Set[Key]:
        """All keys that tasks may refer to."""
        return self.dependencies.keys() | set(self.in_memory)

    def converted(self, tasks: Mapping[Key, Any]) -> dict[Key, GraphNode]:
        """Tasks in Dask's present form: in older ones, tuples that are keys stand for outputs."""
        converted: dict[Key, GraphNode] = convert_legacy_graph(tasks, self.known)
        return converted


@dataclass
class TaskGraph:
    """The tasks that a computation needs, as placement sees them."""

    layers: dict[str, Layer]  #: the layers as Dask built them
    edges: Edges
    #: pool of each pinned task, and of data in memory, by number
    pinned: dict[int, str] = field(default_factory=dict)
    #: tasks that an earlier plan pinned, and not the user
    planned: set[int] = field(default_factory=set)
    blocked: set[int] = field(default_factory=set)
    #: the pools any of which a task may run in, for the tasks that are restricted so
    allowed: dict[int, tuple[str, ...]] = field(default_factory=dict)
    #: those of them that the user said, whether or not there are workers
    several: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    #: what was annotated besides the pool, for the tasks that have anything
    annotations: dict[Key, Annotations] = field(default_factory=dict)

    # --- By key -----------------------------------------------------------------------------------

    @once
    def key_of(self) -> list[Key]:
        """Key of each number."""
        listed = list(self.edges.outside)
        for chunk in self.edges.chunks:
            listed += chunk.keys_in_order()
        return listed

    @once
    def number_of(self) -> dict[Key, int]:
        """Number of each key."""
        return dict(zip(self.key_of, range(len(self.key_of))))

    @once
    def dependencies(self) -> Dependencies:
        """The keys that each task depends on."""
        counts, first = self.edges.counts, len(self.edges.outside)
        needed = [*map(self.key_of.__getitem__, self.edges.inputs)]
        ends = [0]
        for count in counts[first:]:
            ends.append(ends[-1] + count)
        parts = (set(needed[start:end]) for start, end in pairwise(ends))
        return dict(zip(self.key_of[first:], parts))

    @once
    def by_key(self) -> KeyedTasks:
        """The tasks by key."""
        keys: dict[str, list[Key]] = {}
        layer_of: dict[Key, str] = {}
        for chunk in self.edges.chunks:
            own = self.key_of[chunk.numbers.start : chunk.numbers.stop]
            keys.setdefault(chunk.layer, []).extend(own)
            layer_of |= dict.fromkeys(own, chunk.layer)
        return KeyedTasks(
            self.layers,
            keys,
            self.dependencies,
            layer_of,
            self.annotations,
            self.edges.outside,
        )

    @property
    def pins(self) -> dict[Key, str]:
        """Pool of each pinned task, and of data in memory."""
        return self._keyed(self.pinned)

    def located(self) -> dict[Key, str]:
        """Where data in memory lies, as far as it is known."""
        outside = enumerate(self.edges.outside)
        return {key: self.pinned[number] for number, key in outside if number in self.pinned}

    def blocked_keys(self) -> set[Key]:
        """Tasks that never get a pool."""
        return {self.key_of[number] for number in self.blocked}

    def allowed_by_key(self) -> dict[Key, tuple[str, ...]]:
        """The pools any of which a task may run in."""
        return self._keyed(self.allowed)

    def users_pins(self) -> set[Key]:
        """Tasks that the user pinned, and no earlier plan."""
        return {self.key_of[number] for number in self.pinned if number not in self.planned}

    def is_users(self, key: Key) -> bool:
        """Whether the user pinned a task, and no earlier plan."""
        number = self.number_of[key]
        return number in self.pinned and number not in self.planned

    def _keyed(self, values: Mapping[int, V]) -> dict[Key, V]:
        return dict(zip(map(self.key_of.__getitem__, values), values.values()))

    # --- What is learnt of the cluster ------------------------------------------------------------

    def locate(self, pools: Mapping[Key, str]) -> None:
        """Say where data already in memory lies."""
        for number, key in enumerate(self.edges.outside):
            if key in pools:
                self.pinned[number] = pools[key]

    def pools(self) -> set[str]:
        """All pools that the user named."""
        named = (pool for any_of in self.allowed.values() for pool in any_of)
        return {*self.pinned.values(), *named}

    def rename_pools(self, names: Mapping[str, str]) -> None:
        """Call pools as the cluster calls them."""
        if all(pool == name for pool, name in names.items()):
            return
        self.pinned = {number: names.get(pool, pool) for number, pool in self.pinned.items()}
        self.allowed = {
            number: tuple(dict.fromkeys(names.get(pool, pool) for pool in any_of))
            for number, any_of in self.allowed.items()
        }

    def near_pools(self) -> set[int]:
        """The free tasks that will have a pool, as something links them to one."""
        return self._linked(self.pinned, self.allowed)

    def unsettled(self) -> set[int]:
        """The tasks whose pool only a cluster can tell, and the free ones linked to them.

        They may run in any of several pools, or on some workers only.
        """
        said = self.annotations.items()
        asking = (key for key, own in said if own.get("workers") or own.get("resources"))
        bound = {*self.allowed, *map(self.number_of.__getitem__, asking)}
        bound -= self.pinned.keys() | self.blocked
        return self._linked((), bound) if bound else set()

    def _linked(self, pinned: Collection[int], restricted: Collection[int]) -> set[int]:
        fixed = {*self.pinned, *self.blocked, *range(len(self.edges.outside))}
        return {*near_pools(self.edges.inputs, self.edges.counts, pinned, fixed, restricted)}

    def layers_of(self, numbers: Iterable[int]) -> list[str]:
        """The layers of some tasks."""
        return list(dict.fromkeys(self.by_key.layer_of[self.key_of[n]] for n in numbers))

    def prefer_live(self, live: Collection[str]) -> None:
        """Of several allowed pools, keep those that there are; all of them if there are none."""
        self.several = self.allowed
        self.allowed = {
            number: tuple(pool for pool in any_of if pool in live) or any_of
            for number, any_of in self.allowed.items()
        }


def as_high_level(graph: Mapping[Any, Any]) -> HighLevelGraph:
    """Return `graph` itself, or a plain mapping of tasks as a graph of one layer."""
    if isinstance(graph, HighLevelGraph):
        return _opened(graph)
    layer = graph if isinstance(graph, Layer) else MaterializedLayer(dict(graph))
    return HighLevelGraph({"graph": layer}, {"graph": set()})


def _opened(graph: HighLevelGraph) -> HighLevelGraph:
    """The graph without layers that would plan themselves: here they are planned with the rest."""
    opened = {
        name: layer.opened() for name, layer in graph.layers.items() if hasattr(layer, "opened")
    }
    return HighLevelGraph({**graph.layers, **opened}, graph.dependencies) if opened else graph


def read(
    graph: HighLevelGraph,
    keys: Iterable[Any],
    surrounding: Annotations | None = None,
    *,
    given_on: bool = False,
) -> TaskGraph:
    """Read the tasks that `keys` need, with their pins and other annotations.

    Parameters
    ----------
    graph : HighLevelGraph
        The graph, with annotations as the user said them.
    keys : nested iterable of keys
        The wanted outputs.
    surrounding : dict, optional
        Annotations in force around the computation itself. As for Dask's scheduler, they hold
        for the tasks that say nothing else under the same name.
    given_on : bool
        Whether the graph stays in this process, as where a collection is given to a step that is
        made inside these annotations. Then the workers that they ask for are meant for the step.

    Raises
    ------
    ConflictingPools
        A task is pinned to more than one pool.
    """
    tasks = TaskGraph(dict(graph.layers), Edges.read(graph, set(flatten(keys))))
    chunks_of: defaultdict[str, list[Chunk]] = defaultdict(list)
    for chunk in tasks.edges.chunks:
        chunks_of[chunk.layer].append(chunk)
    owners = {getattr(layer, "output", name): name for name, layer in graph.layers.items()}
    for name, layer in graph.layers.items():
        _read_layer(name, layer, chunks_of[name], owners, tasks)
    _settle(tasks)
    if surrounding:
        if not given_on:
            _restrict_surrounded(surrounding, tasks)
        _pin_surrounded(surrounding, tasks)
    return tasks


def futures_in(graph: HighLevelGraph) -> dict[Key, Any]:
    """The futures of data in memory that a graph holds, by their keys."""
    layers = (layer for layer in graph.layers.values() if layer.is_materialized())
    tasks = (task for layer in layers for task in layer.values())
    # Known by what it has: its class is distributed's, which need not be there.
    return {one.key: one for one in tasks if isinstance(one, TaskRef) and hasattr(one, "client")}


def _read_layer(
    name: str,
    layer: Layer,
    chunks: Collection[Chunk],
    owners: Mapping[Hashable, str],
    tasks: TaskGraph,
) -> None:
    # Sizes are read elsewhere, and may differ from task to task where nothing else does.
    marks = {key: said for chunk in chunks for key, (said, _) in chunk.marks.items() if said}
    spoken = {n: v for n, v in (layer.annotations or {}).items() if n not in (SIZE_KEY, WEIGHT_KEY)}
    numbers = _held_numbers(name, layer, chunks, owners, tasks) if spoken else ()
    if not marks and not any(map(callable, spoken.values())):
        if numbers:
            _note(spoken, numbers, name, tasks)
        return
    held = [tasks.key_of[number] for number in numbers]
    said = dict(annotations_by_key(spoken, held))
    said |= {key: said_inside(mark, said.get(key, {})) for key, mark in marks.items()}
    # Keys mostly share one dict: look into each dict once.
    alike: dict[int, tuple[Annotations, list[int]]] = {}
    for key, own in said.items():
        alike.setdefault(id(own), (own, []))[1].append(tasks.number_of[key])
    for own, of_own in alike.values():
        _note(own, of_own, name, tasks)


def _held_numbers(
    name: str,
    layer: Layer,
    chunks: Collection[Chunk],
    owners: Mapping[Hashable, str],
    tasks: TaskGraph,
) -> Collection[int]:
    """The needed tasks for which an annotated layer speaks: those read from it, and its own.

    Dask repeats tasks in layers of other collections, which say nothing of them, or something of
    their own: what the collection's own layer said holds. `owners` are these layers, by the names
    of collections.
    """
    output = layer.output if isinstance(layer, Blockwise) else name
    elsewhere = [
        number
        for chunk in tasks.edges.chunks
        if chunk.layer != name
        for number, key in chunk.numbers_of(output)
        if _holds(layer, key)
    ]
    foreign = {one for chunk in chunks for one in chunk.names if owners.get(one, name) != name}
    if foreign:
        return elsewhere + [
            number
            for chunk in chunks
            for number, key in zip(chunk.numbers, chunk.keys_in_order())
            if name_of(key) not in foreign or not _holds(tasks.layers[owners[name_of(key)]], key)
        ]
    if len(chunks) == 1 and not elsewhere:
        return next(iter(chunks)).numbers
    return [number for chunk in chunks for number in chunk.numbers] + elsewhere


def _holds(layer: Layer, key: Key) -> bool:
    """Whether a layer has a task with a key of its collection; no symbolic one is written out."""
    return (isinstance(layer, Blockwise) and not layer.is_materialized()) or key in layer


def _note(own: Annotations, numbers: Collection[int], layer: str, tasks: TaskGraph) -> None:
    """Note what was said alike of several tasks."""
    if pools := pools_in(own):
        _pin(numbers, layer, pools, is_planned(own), tasks)
    elif allowed := allowed_in(own):
        tasks.allowed |= dict.fromkeys(numbers, allowed)
    elif is_blocked(own):
        tasks.blocked.update(numbers)
    if rest := without_pool(own):
        tasks.annotations |= dict.fromkeys((tasks.key_of[number] for number in numbers), rest)


def _pin(
    numbers: Collection[int], layer: str, pools: tuple[str, ...], planned: bool, tasks: TaskGraph
) -> None:
    # A task may stand in several layers. The user's word in them must not differ; what an earlier
    # plan wrote gives way to it, and to what another earlier plan wrote.
    pool = pools[0]
    pinned = tasks.pinned
    again = [] if pinned.keys().isdisjoint(numbers) else [n for n in numbers if n in pinned]
    conflicts = (n for n in again if pinned[n] != pool and not planned and n not in tasks.planned)
    conflict = next(iter(numbers) if len(pools) > 1 else conflicts, None)
    if conflict is not None:
        known = sorted({*pools, pinned.get(conflict, pool)})
        raise ConflictingPools(tasks.key_of[conflict], layer, known)
    if planned:
        fresh = set(numbers).difference(again)
        tasks.planned |= fresh
        tasks.pinned |= dict.fromkeys(fresh, pool)
    else:
        tasks.planned.difference_update(again)
        tasks.pinned |= dict.fromkeys(numbers, pool)


def _settle(tasks: TaskGraph) -> None:
    """Let a pin win over being blocked, and both over being restricted."""
    tasks.blocked.difference_update(tasks.pinned)
    for number in [n for n in tasks.allowed if n in tasks.pinned or n in tasks.blocked]:
        del tasks.allowed[number]


def _restrict_surrounded(surrounding: Annotations, tasks: TaskGraph) -> None:
    first = len(tasks.edges.outside)
    for key, own in annotations_by_key(surrounding, tasks.key_of[first:]):
        # The scheduler would drop resources for tasks that get some of their own, for a pool; and
        # where a task may run for other reasons decides which pool it can have.
        outer = {name: value for name, value in without_pool(own).items() if name in RESTRICTING}
        if outer:
            tasks.annotations[key] = {**outer, **tasks.annotations.get(key, {})}


def _pin_surrounded(surrounding: Annotations, tasks: TaskGraph) -> None:
    for chunk in tasks.edges.chunks:
        bound = tasks.pinned.keys() | tasks.blocked | tasks.allowed.keys()
        free = {tasks.key_of[n]: n for n in chunk.numbers if n not in bound}
        for key, own in annotations_by_key(surrounding, free):
            if pools := pools_in(own):
                _pin([free[key]], chunk.layer, pools, False, tasks)
            elif allowed := allowed_in(own):
                tasks.allowed[free[key]] = allowed
            elif is_blocked(own):
                tasks.blocked.add(free[key])


def needed_by(outputs: Collection[Key], tasks: KeyedTasks) -> KeyedTasks:
    """The part of `tasks` that `outputs` need."""
    reached = dict.fromkeys(key for key in outputs if key in tasks.dependencies)
    stack = list(reached)
    while stack:
        for key in tasks.dependencies[stack.pop()]:
            if key in tasks.dependencies and key not in reached:
                reached[key] = None
                stack.append(key)
    if len(reached) == len(tasks.dependencies):
        return tasks
    layer_of = {key: tasks.layer_of[key] for key in reached}
    return KeyedTasks(
        tasks.layers,
        reverse_lookup(layer_of),
        {key: tasks.dependencies[key] for key in reached},
        layer_of,
        {key: own for key, own in tasks.annotations.items() if key in reached},
        tasks.in_memory,
    )


def without_annotations(graph: HighLevelGraph) -> HighLevelGraph:
    """The same graph with no annotations, so that Dask fuses as if there were none."""
    return HighLevelGraph(
        {name: _bare(layer) for name, layer in graph.layers.items()}, graph.dependencies
    )


def _bare(layer: Layer) -> Layer:
    if not layer.annotations:
        return layer
    bare = copy(layer)
    bare.annotations = None
    return bare


def restrict(layer: Layer, keys: Collection[Key]) -> Layer:
    """The layer with `keys` only; symbolic if the layer is."""
    if isinstance(layer, Blockwise) and not layer.is_materialized():
        return layer.cull(set(keys), ())[0]
    return MaterializedLayer({key: layer[key] for key in keys})


def layer_annotations(
    keys: Collection[Key], annotations: Mapping[Key, Annotations]
) -> dict[str, Any] | None:
    """Annotations of a layer, from those of its tasks.

    A value that all tasks share stands for itself, as Dask fuses only such layers; others are
    looked up by key.
    """
    by_name: defaultdict[str, dict[Key, Any]] = defaultdict(dict)
    for key in keys:
        for name, value in annotations.get(key, {}).items():
            by_name[name][key] = value
    return {name: _shared_or_by_key(values, len(keys)) for name, values in by_name.items()} or None


def _shared_or_by_key(values: Mapping[Key, Any], n_keys: int) -> Any:
    first = next(iter(values.values()))
    if len(values) == n_keys and all(v is first or v == first for v in values.values()):
        return first
    # A dict's own method: whoever unpickles it need not have this package.
    return values.get


def reverse_lookup(value_of: Mapping[K, V]) -> dict[V, list[K]]:
    """The keys that have each value."""
    keys_of: defaultdict[V, list[K]] = defaultdict(list)
    for key, value in value_of.items():
        keys_of[value].append(key)
    return dict(keys_of)
