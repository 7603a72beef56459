"""From a HighLevelGraph to a placement problem, and from a plan back to a HighLevelGraph.

Blockwise layers stay symbolic here: their edges come from the index structure. Only what the
wanted keys need is read, so dead tasks decide nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Set
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from dask._task_spec import GraphNode, Task, TaskRef
from dask.blockwise import Blockwise
from dask.core import flatten, keys_in_tasks
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.typing import Key

from dask_worker_pools.annotations import (
    Annotations,
    allowed_in,
    annotations_by_key,
    is_blocked,
    is_planned,
    pools_in,
    without_pool,
)
from dask_worker_pools.errors import ConflictingPools

Dependencies = dict[Key, Set[Key]]

#: What is said around a computation and must be known of each task.
CARRIED = frozenset({"resources", "workers", "allow_other_workers"})

#: Attribute of a task's function that holds the task's annotations (see `marked`).
MARK = "_dask_annotations"

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)


@dataclass
class TaskGraph:
    """The tasks that a computation needs, as placement sees them."""

    layers: dict[str, Layer]  #: the layers as Dask built them
    keys: dict[str, list[Key]]  #: the needed keys of each layer
    dependencies: Dependencies  #: the keys that each needed task depends on
    layer_of: dict[Key, str] = field(default_factory=dict)
    pins: dict[Key, str] = field(default_factory=dict)
    planned: set[Key] = field(default_factory=set)  #: pinned by an earlier plan, not by the user
    blocked: set[Key] = field(default_factory=set)
    #: the pools any of which a task may run in, for the tasks that are restricted so
    allowed: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    #: what was annotated besides the pool, for the tasks that have anything
    annotations: dict[Key, Annotations] = field(default_factory=dict)
    _keys_by_name: dict[Hashable, list[Key]] = field(default_factory=dict)

    @property
    def keys_by_name(self) -> dict[Hashable, list[Key]]:
        """The needed keys by the collection that they belong to."""
        if not self._keys_by_name:
            for key in self.dependencies:
                self._keys_by_name.setdefault(name_of(key), []).append(key)
        return self._keys_by_name

    def data(self) -> set[Key]:
        """Keys that tasks depend on and the graph does not hold: data already in memory."""
        return {
            k for inputs in self.dependencies.values() for k in inputs
        } - self.dependencies.keys()

    def locate(self, pools: Mapping[Key, str]) -> None:
        """Say where data already in memory lies."""
        self.pins.update(pools)

    def pools(self) -> set[str]:
        """All pools that the user named."""
        return {*self.pins.values(), *(pool for any_of in self.allowed.values() for pool in any_of)}

    def rename_pools(self, names: Mapping[str, str]) -> None:
        """Call pools as the cluster calls them."""
        self.pins = {key: names.get(pool, pool) for key, pool in self.pins.items()}
        self.allowed = {
            key: tuple(dict.fromkeys(names.get(pool, pool) for pool in any_of))
            for key, any_of in self.allowed.items()
        }

    def prefer_live(self, live: Collection[str]) -> None:
        """Of several allowed pools, keep those that there are; all of them if there are none."""
        self.allowed = {
            key: tuple(pool for pool in any_of if pool in live) or any_of
            for key, any_of in self.allowed.items()
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
    graph: HighLevelGraph, keys: Iterable[Any], surrounding: Annotations | None = None
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

    Raises
    ------
    ConflictingPools
        A task is pinned to more than one pool.
    """
    tasks = TaskGraph(dict(graph.layers), {}, {})
    _read_edges(graph, set(flatten(keys)), tasks)
    for name, layer in graph.layers.items():
        keys = _held_keys(name, layer, tasks)
        said = dict(annotations_by_key(layer.annotations, keys))
        if name in tasks.keys and not isinstance(layer, Blockwise):
            marks = {key: mark for key in tasks.keys[name] if (mark := mark_of(layer[key]))}
            said |= {key: said.get(key, {}) | mark for key, mark in marks.items()}
        _read_annotations(name, said, tasks)
    if surrounding:
        _apply_surrounding(surrounding, tasks)
    return tasks


def _held_keys(name: str, layer: Layer, tasks: TaskGraph) -> Collection[Key]:
    """The needed keys for which an annotated layer speaks: those read from it, and its own.

    Dask repeats tasks in layers of other collections, which say nothing of them, or something of
    their own: what the collection's own layer said holds.
    """
    if not layer.annotations:
        return ()
    if isinstance(layer, Blockwise) and not layer.is_materialized():
        return tasks.keys_by_name.get(layer.output, ())
    own = (key for key in tasks.keys_by_name.get(name, ()) if key in layer)
    return {*tasks.keys.get(name, ()), *own}


def needed_by(outputs: Collection[Key], tasks: TaskGraph) -> TaskGraph:
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
    return TaskGraph(
        tasks.layers,
        reverse_lookup({key: tasks.layer_of[key] for key in reached}),
        {key: tasks.dependencies[key] for key in reached},
        {key: tasks.layer_of[key] for key in reached},
        {key: pool for key, pool in tasks.pins.items() if key in reached},
        {key for key in tasks.planned if key in reached},
        {key for key in tasks.blocked if key in reached},
        {key: any_of for key, any_of in tasks.allowed.items() if key in reached},
        {key: own for key, own in tasks.annotations.items() if key in reached},
    )


def _read_edges(graph: HighLevelGraph, wanted: set[Key], tasks: TaskGraph) -> None:
    # Needed keys wait under their collection's name, so that each layer looks at its own only.
    needed: defaultdict[Hashable, set[Key]] = defaultdict(set)
    for key in wanted:
        needed[name_of(key)].add(key)
    known = _keys_for_legacy_tasks(graph)
    for name in reversed(toposort(graph.dependencies)):
        found = _layer_edges(graph.layers[name], needed, known)
        if not found:
            continue
        tasks.keys[name] = list(found)
        for key, inputs in found.items():
            needed[name_of(key)].discard(key)
            tasks.layer_of[key] = name
            tasks.dependencies[key] = inputs
        for inputs in found.values():
            for key in inputs:
                if key not in found:
                    needed[name_of(key)].add(key)


def name_of(key: Key) -> Hashable:
    """The name of the collection that a key belongs to."""
    return key[0] if type(key) is tuple and key else key


def _keys_for_legacy_tasks(graph: HighLevelGraph) -> Collection[Key]:
    # Only tasks written as plain tuples need to be told which of their arguments are keys.
    if any(map(has_legacy_tasks, graph.layers.values())):
        return graph.get_all_external_keys()
    return ()


def has_legacy_tasks(layer: Layer) -> bool:
    """Whether a layer holds tasks in the old form, a tuple of a function and its arguments."""
    if isinstance(layer, Blockwise):
        return False
    return any(not isinstance(task, GraphNode) for task in layer.values())


def _layer_edges(
    layer: Layer, needed: Mapping[Hashable, set[Key]], known: Collection[Key]
) -> Mapping[Key, Set[Key]]:
    """Tasks of `layer` that are needed, directly or inside the layer, with their inputs."""
    if isinstance(layer, Blockwise) and not layer.is_materialized():
        wanted = needed.get(layer.output)
        if not wanted:
            return {}
        available = layer.get_output_keys() if layer.output_blocks else None
        wanted = wanted & available if available is not None else wanted
        # Older versions of Dask see single keys among the arguments only if they are told them.
        single = {argument.key for argument, _ in layer.indices if isinstance(argument, TaskRef)}
        edges: Mapping[Key, Set[Key]] = layer.cull(wanted, single)[1] if wanted else {}
        return edges
    return _materialized_edges(layer, needed, known)


def _materialized_edges(
    layer: Mapping[Key, Any], needed: Mapping[Hashable, set[Key]], known: Collection[Key]
) -> dict[Key, Set[Key]]:
    names = {name_of(key) for key in layer}
    stack = [key for name in names for key in needed.get(name, ()) if key in layer]
    found: dict[Key, Set[Key]] = {}
    while stack:
        key = stack.pop()
        if key in found:
            continue
        task = layer[key]
        if isinstance(task, GraphNode):
            found[key] = task.dependencies
        elif isinstance(task, TaskRef):
            # A future: data in memory. Under its own key there is nothing left to run.
            if task.key == key:
                continue
            found[key] = {task.key}
        else:
            found[key] = keys_in_tasks(known, [task])
        stack.extend(k for k in found[key] if k in layer)
    return found


def _read_annotations(layer: str, said: Mapping[Key, Annotations], tasks: TaskGraph) -> None:
    # Keys of a layer mostly share one dict: look into each dict once.
    seen: dict[int, tuple[tuple[str, ...], tuple[str, ...], bool, Annotations]] = {}
    for key, own in said.items():
        if id(own) not in seen:
            seen[id(own)] = pools_in(own), allowed_in(own), is_blocked(own), without_pool(own)
        pools, allowed, blocked, rest = seen[id(own)]
        if pools:
            _pin(key, layer, pools, is_planned(own), tasks)
        elif allowed:
            tasks.allowed[key] = allowed
        elif blocked:
            tasks.blocked.add(key)
        if rest:
            tasks.annotations[key] = rest
    tasks.blocked.difference_update(tasks.pins)
    for key in tasks.allowed.keys() & (tasks.pins.keys() | tasks.blocked):
        del tasks.allowed[key]


def _pin(key: Key, layer: str, pools: tuple[str, ...], planned: bool, tasks: TaskGraph) -> None:
    # A task may stand in several layers. The user's word in them must not differ; what an earlier
    # plan wrote gives way to it, and to what another earlier plan wrote.
    before = tasks.pins.get(key, pools[0])
    if len(pools) > 1 or (before != pools[0] and not planned and key not in tasks.planned):
        raise ConflictingPools(key, layer, sorted({*pools, before}))
    if planned and key in tasks.pins:
        return
    tasks.pins[key] = pools[0]
    (tasks.planned.add if planned else tasks.planned.discard)(key)


def _apply_surrounding(surrounding: Annotations, tasks: TaskGraph) -> None:
    free = [key for key in tasks.dependencies if key not in tasks.pins and key not in tasks.blocked]
    for key, own in annotations_by_key(surrounding, tasks.dependencies):
        # The scheduler would drop resources for tasks that get some of their own, for a pool; and
        # where a task may run for other reasons decides which pool it can have.
        outer = {name: value for name, value in without_pool(own).items() if name in CARRIED}
        if outer:
            tasks.annotations[key] = {**outer, **tasks.annotations.get(key, {})}
    for key, own in annotations_by_key(surrounding, free):
        if pools := pools_in(own):
            _pin(key, tasks.layer_of[key], pools, False, tasks)
        elif allowed := allowed_in(own):
            tasks.allowed[key] = allowed
        elif is_blocked(own):
            tasks.blocked.add(key)


def marked(task: Any, annotations: Annotations) -> Any:
    """A copy of `task` that carries its annotations itself, through a partial of its function.

    Dask forgets a layer's annotations where it gives a collection to a function of another
    collection, as in ``delayed(f)(array)``, and renames the tasks. A partial can be unpickled
    without this package.
    """
    if not isinstance(task, Task):
        return task
    function = partial(task.func)
    setattr(function, MARK, annotations)
    copied = copy(task)
    copied.func = function
    return copied


def mark_of(task: Any) -> Annotations:
    """The annotations that a task carries itself, also inside of one that only renames it."""
    while isinstance(task, Task):
        if isinstance(task.func, partial):
            mark: Annotations = task.func.__dict__.get(MARK, {})
            return mark
        if getattr(task.func, "__qualname__", "") != "ProhibitReuse._identity":
            return {}
        (task,) = task.args
    return {}


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


class Part(NamedTuple):
    """The tasks of one layer that run in one pool."""

    layer: str
    pool: str | None
    rank: int  #: tells parts apart that would depend on each other in a circle

    def name(self) -> str:
        """Name of a layer that holds this part alone."""
        where = "anywhere" if self.pool is None else self.pool
        return f"{self.layer}-{where}" + (f"-{self.rank}" if self.rank else "")


def split_by_pool(
    graph: HighLevelGraph,
    tasks: TaskGraph,
    annotations: Mapping[Key, Annotations],
    pools: Mapping[Key, str | None],
) -> HighLevelGraph:
    """Write pools into a graph: each layer once per pool that it has tasks in.

    Parameters
    ----------
    graph : HighLevelGraph
        The graph as Dask built it.
    tasks : TaskGraph
        What `read` found in it.
    annotations : mapping
        All annotations of each task, its pool's resource among them.
    pools : mapping
        The pool of each task.

    Returns
    -------
    HighLevelGraph
        The last part of each layer keeps the layer's name and depends on the others, so that
        collections and layers built on top find all of it under the name that they know. Tasks
        that nothing needs are still there: another graph that this one is merged with, in which
        layers have the same names, may need them.
    """
    part_of = _acyclic_parts(tasks, pools)
    inputs = _part_edges(part_of, tasks.dependencies)
    parts = toposort(inputs)
    last = {part.layer: part for part in parts}
    names = {part: part.layer if last[part.layer] == part else part.name() for part in parts}
    keys_of = reverse_lookup(part_of)
    layers = dict(graph.layers)
    edges = {name: set(needed) for name, needed in graph.dependencies.items()}
    for part in parts:
        layer, keys = graph.layers[part.layer], keys_of[part]
        layers[names[part]] = _part_layer(layer, keys, last[part.layer] == part, tasks, annotations)
        edges.setdefault(names[part], set()).update(names[one] for one in inputs[part])
        edges[part.layer] |= {names[part]} - {part.layer}
    return HighLevelGraph(layers, edges)


def _acyclic_parts(tasks: TaskGraph, pools: Mapping[Key, str | None]) -> dict[Key, Part]:
    """The part of each task, such that no two parts depend on each other.

    A layer whose tasks depend on each other may go from A to B and back to A. Such parts are cut
    by rank: how often the longest path to the task changed part before it.
    """
    part_of = {key: Part(layer, pools[key], 0) for key, layer in tasks.layer_of.items()}
    edges = _part_edges(part_of, tasks.dependencies)
    circular = edges.keys() - set(_sortable(edges))
    if not circular:
        return part_of
    rank: dict[Key, int] = {}
    for key in toposort(tasks.dependencies):
        inputs = [k for k in tasks.dependencies[key] if part_of.get(k) in circular]
        own = part_of[key]
        rank[key] = max((rank[k] + (part_of[k] != own) for k in inputs), default=0)
    return {
        key: part._replace(rank=rank[key]) if part in circular else part
        for key, part in part_of.items()
    }


def _part_edges(
    part_of: Mapping[Key, Part], dependencies: Mapping[Key, Collection[Key]]
) -> dict[Part, set[Part]]:
    edges: dict[Part, set[Part]] = {part: set() for part in part_of.values()}
    for key, inputs in dependencies.items():
        edges[part_of[key]].update(part_of[k] for k in inputs if k in part_of)
    for part, inputs_of_part in edges.items():
        inputs_of_part.discard(part)
    return edges


def _part_layer(
    layer: Layer,
    keys: Collection[Key],
    last: bool,
    tasks: TaskGraph,
    annotations: Mapping[Key, Annotations],
) -> Layer:
    if last and len(keys) == len(tasks.keys[tasks.layer_of[next(iter(keys))]]):
        part = copy(layer)
    else:
        # A part of a blockwise layer must not be blockwise itself: Dask would fuse it into its
        # consumers under the layer's name, as if it were all of it.
        dead = [key for key in layer if key not in tasks.dependencies] if last else []
        part = MaterializedLayer({key: layer[key] for key in (*keys, *dead)})
    part.annotations = layer_annotations(keys, annotations)
    part.collection_annotations = layer.collection_annotations
    return part


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


def toposort(dependencies: Mapping[K, Collection[K]]) -> list[K]:
    """Keys, each after those that it depends on; those in a circle last, as they came."""
    order = _sortable(dependencies)
    if len(order) < len(dependencies):
        placed = set(order)
        order += [key for key in dependencies if key not in placed]
    return order


def _sortable(dependencies: Mapping[K, Collection[K]]) -> list[K]:
    """Keys, each after those that it depends on, without those in or behind a circle."""
    waiting: dict[K, int] = {}
    consumers: defaultdict[K, list[K]] = defaultdict(list)
    for key, inputs in dependencies.items():
        known = [k for k in inputs if k in dependencies and k != key]
        waiting[key] = len(known)
        for k in known:
            consumers[k].append(key)
    order = [key for key, count in waiting.items() if not count]
    for key in order:
        for consumer in consumers[key]:
            waiting[consumer] -= 1
            if not waiting[consumer]:
                order.append(consumer)
    return order
