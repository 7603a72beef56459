"""Dask's own optimisations, confined to one pool, with annotations kept.

Dask fuses as if there were no pools, and forgets annotations when it fuses tasks. So each kind of
collection is optimised in three steps:

1. *Layers.* Dask fuses blockwise layers on the graph without pools. A fused block whose tasks all
   run in one pool, none of them needed elsewhere, stays as Dask made it. Other blocks are fused
   again, task by task, without the edges that cross.
2. *Tasks.* Dask's low-level optimisation runs once per pool, on that pool's tasks alone, told that
   outputs which other pools need are wanted too: it never fuses past a wanted key.
3. *Annotations.* A task fused from several takes what they had, combined by Dask's rules. Tasks
   whose annotations cannot be combined are kept apart in step 2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from dask._task_spec import Alias, GraphNode, Task, _execute_subgraph, convert_legacy_graph
from dask.array.optimization import optimize as optimize_array
from dask.bag.core import optimize as optimize_bag
from dask.blockwise import Blockwise, fuse_roots, optimize_blockwise
from dask.delayed import optimize as optimize_delayed
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.typing import Key
from dask.utils import ensure_dict

from dask_worker_pools.annotations import (
    Annotations,
    combinable,
    merge_annotations,
    without_pool,
)
from dask_worker_pools.edges import has_legacy_tasks
from dask_worker_pools.errors import LostKeys
from dask_worker_pools.graph import (
    KeyedTasks,
    restrict,
    reverse_lookup,
    without_annotations,
)
from dask_worker_pools.kinds import Kind
from dask_worker_pools.slots import name_of

Optimization = Callable[..., Mapping[Key, Any]]
Pools = Mapping[Key, str | None]

#: Name of a layer that is there only while Dask fuses layers.
_GUARD = "pools-guard"

LOW_LEVEL: dict[Kind, Optimization] = {
    "array": optimize_array,
    "bag": optimize_bag,
    "delayed": optimize_delayed,
}


@dataclass
class Tasks:
    """Tasks as they will be submitted."""

    graph: dict[Key, Any] = field(default_factory=dict)
    pools: dict[Key, str | None] = field(default_factory=dict)
    annotations: dict[Key, Annotations] = field(default_factory=dict)

    def add(self, tasks: Mapping[Key, Any], pool: str | None) -> None:
        """Add tasks that run in `pool`."""
        self.graph.update(tasks)
        self.pools.update(dict.fromkeys(tasks, pool))

    def update(self, other: Tasks) -> None:
        """Take over all tasks of `other`."""
        self.graph.update(other.graph)
        self.pools.update(other.pools)
        self.annotations.update(other.annotations)


def fuse(
    graph: HighLevelGraph,
    tasks: KeyedTasks,
    pools: Pools,
    outputs: Collection[Key],
    kind: Kind,
    user: Optimization | None = None,
) -> Tasks:
    """Optimise the tasks of one kind of collection, as far as pools allow.

    Parameters
    ----------
    graph : HighLevelGraph
        The graph as Dask built it.
    tasks : KeyedTasks
        The part of it that `outputs` need.
    pools : mapping
        Where each task runs.
    outputs : collection of keys
        Keys that must be in the result.
    kind : {"array", "bag", "delayed", "frame"}
        Whose optimisation to run.
    user : callable, optional
        The user's own optimisation ``user(graph, keys)``, which then takes the place of Dask's.
    """
    if user is not None:
        return fuse_by(user, graph, tasks, pools, outputs)
    fused = _fuse_layers(graph, tasks, pools, outputs) if kind == "array" else _as_is(tasks, pools)
    fused.graph = tasks.converted(fused.graph)
    if kind == "frame":  # fused as expressions, before they became tasks
        return fused
    wanted = {*outputs, *_exported(fused), *_apart(fused)}
    done = Tasks()
    for pool, part in _by_pool(fused).items():
        if keys := [key for key in part if key in wanted]:
            result = ensure_dict(LOW_LEVEL[kind](part, keys))
            done.add(result, pool)
            done.annotations.update(_fused_annotations(result, fused.annotations))
    return done


def _as_is(tasks: KeyedTasks, pools: Pools) -> Tasks:
    done = Tasks(annotations=dict(tasks.annotations))
    for name, keys in tasks.keys.items():
        for pool, part in reverse_lookup({key: pools[key] for key in keys}).items():
            done.add(restrict(tasks.layers[name], part), pool)
    return done


# --- 1. layers


def _fuse_layers(
    graph: HighLevelGraph, tasks: KeyedTasks, pools: Pools, outputs: Collection[Key]
) -> Tasks:
    """Fuse as Dask fuses layers, then again without the edges that cross pools."""
    apart = {*_leaving(graph, tasks, pools), *_needed_elsewhere(graph, tasks, outputs)}
    fused = _dasks_choice(graph, outputs, apart)
    done = Tasks(annotations=dict(tasks.annotations))
    for name in [name for name in fused.layers if name in tasks.keys]:
        members = _members(name, graph, fused)
        if len(members) == 1:
            _split_layer(tasks.layers[name], tasks.keys[name], pools, done)
            continue
        inner = _fused_keys(name, members, tasks)
        places = {pools[key] for key in inner}
        if len(places) == 1:
            _keep_layer(fused.layers[name], tasks.keys[name], places.pop(), done)
        else:
            _refuse_blocks(tasks.keys[name], inner, fused.layers[name], tasks, pools, done)
        _merge_block_annotations(inner, tasks, done)
    return done


def _dasks_choice(
    graph: HighLevelGraph, outputs: Collection[Key], apart: Collection[str]
) -> HighLevelGraph:
    """The graph after Dask's fusion of layers, as if there were no pools.

    Dask does not see annotations here: it knows only some of them, and fails on callables. Layers
    whose annotations must not meet are kept `apart` as well: an empty layer that needs them keeps
    Dask from fusing them into another one that does.
    """
    differing = {
        needed
        for name, inputs in graph.dependencies.items()
        for needed in inputs
        if not _layers_combinable(graph.layers[needed], graph.layers[name])
    }
    bare = without_annotations(graph)
    guarded = HighLevelGraph(
        {**bare.layers, _GUARD: MaterializedLayer({})},
        {**bare.dependencies, _GUARD: differing.union(apart)},
    )
    fused = fuse_roots(optimize_blockwise(guarded, keys=outputs), keys=list(outputs))
    assert isinstance(fused, HighLevelGraph)
    return fused


def _leaving(graph: HighLevelGraph, tasks: KeyedTasks, pools: Pools) -> Iterator[str]:
    """Layers that are in one pool as a whole, and needed by a layer that is not all there.

    What they make crosses, or is a task of its own anyway. Dask need not fuse them with what is in
    other pools, only for them to be taken out again task by task.
    """
    places = {name: set(map(pools.__getitem__, keys)) for name, keys in tasks.keys.items()}
    for name in places:
        for needed in graph.dependencies[name]:
            if len(there := places.get(needed, ())) == 1 and there != places[name]:
                yield needed


def _needed_elsewhere(
    graph: HighLevelGraph, tasks: KeyedTasks, outputs: Iterable[Key]
) -> Iterator[str]:
    """Layers that are needed by the outputs, or by a layer that does not mention it.

    Dask's finalize layer names only the last of the layers that it takes keys from, and a task may
    stand in several layers, of which it is read from one. Dask would fuse the others away, as if
    nothing else needed them.
    """
    yield from {tasks.layer_of[key] for key in outputs if key in tasks.layer_of}
    for name, keys in tasks.keys.items():
        needed = chain.from_iterable(map(tasks.dependencies.__getitem__, keys))
        own = {*graph.dependencies[name], name}
        yield from {tasks.layer_of[key] for key in set(needed) & tasks.layer_of.keys()} - own


def _layers_combinable(one: Layer, other: Layer) -> bool:
    first, second = one.annotations or {}, other.annotations or {}
    if first == second:
        return True
    if any(callable(value) for value in (*first.values(), *second.values())):
        return False
    return combinable(without_pool(dict(first)), without_pool(dict(second)))


def _members(name: str, graph: HighLevelGraph, fused: HighLevelGraph) -> list[str]:
    """The layers that Dask fused into the layer `name`, itself first."""
    members = [name]
    for member in members:
        members += [d for d in graph.dependencies[member] if d not in fused.layers]
    return members


def _fused_keys(name: str, members: Collection[str], tasks: KeyedTasks) -> set[Key]:
    """The needed blocks of a fused layer, and all tasks of its members that are fused into them.

    Another layer may hold some of these tasks too, so blocks of the members are known by their
    names. A layer that holds all of another collection, as that of an array among the keywords of
    a function, has keys of many names.
    """
    names = {getattr(tasks.layers[member], "output", member) for member in members}
    within = set(members)
    inner = set(tasks.keys[name])
    stack = list(inner)
    while stack:
        for key in tasks.dependencies[stack.pop()]:
            if key in inner or key not in tasks.dependencies:
                continue
            if name_of(key) in names or tasks.layer_of[key] in within:
                inner.add(key)
                stack.append(key)
    return inner


def _split_layer(layer: Layer, keys: Collection[Key], pools: Pools, done: Tasks) -> None:
    for pool, part in reverse_lookup({key: pools[key] for key in keys}).items():
        done.add(restrict(layer, part), pool)


def _keep_layer(layer: Layer, keys: Collection[Key], pool: str | None, done: Tasks) -> None:
    # Layers that `fuse_roots` made are plain tasks under new names; unneeded ones go in step 2.
    kept = restrict(layer, keys) if isinstance(layer, Blockwise) else layer
    done.add(kept, pool)


def _refuse_blocks(
    blocks: Collection[Key],
    inner: Collection[Key],
    fused: Layer,
    tasks: KeyedTasks,
    pools: Pools,
    done: Tasks,
) -> None:
    """Fuse the blocks of a layer whose fused parts lie in several pools.

    A *head* is a task that must stay: a block of the layer itself, or one that a task in another
    pool needs. Every other task is fused into each head above it, as Dask would.
    """
    symbolic = isinstance(fused, Blockwise)
    heads = set(blocks)
    consumed: set[Key] = set()
    for key in inner:
        for needed in tasks.dependencies[key]:
            if needed in inner:
                # `fuse_roots` never repeats a task; fused blockwise layers repeat small ones.
                if pools[needed] != pools[key] or (needed in consumed and not symbolic):
                    heads.add(needed)
                consumed.add(needed)
    trees = {head: _tree(head, heads, inner, tasks) for head in heads}
    untouched = {
        key
        for key in blocks
        if symbolic and not any(k in heads for t in trees[key] for k in tasks.dependencies[t])
    }
    _split_layer(fused, untouched, pools, done)
    cut = {head: tree for head, tree in trees.items() if head not in untouched}
    single = _materialize(set().union(*cut.values()), tasks)
    for head, tree in cut.items():
        done.add({head: Task.fuse(*(single[key] for key in tree), key=head)}, pools[head])


def _tree(
    head: Key, heads: Collection[Key], inner: Collection[Key], tasks: KeyedTasks
) -> list[Key]:
    """The tasks to fuse into `head`, itself first."""
    tree = {head: None}
    stack = [head]
    while stack:
        for key in tasks.dependencies[stack.pop()]:
            if key in inner and key not in heads and key not in tree:
                tree[key] = None
                stack.append(key)
    return list(tree)


def _materialize(keys: Iterable[Key], tasks: KeyedTasks) -> dict[Key, GraphNode]:
    by_layer = reverse_lookup({key: tasks.layer_of[key] for key in keys})
    single: dict[Key, Any] = {}
    for name, part in by_layer.items():
        single.update(restrict(tasks.layers[name], part))
    return tasks.converted(single)


def _merge_block_annotations(inner: Collection[Key], tasks: KeyedTasks, done: Tasks) -> None:
    """Give the blocks of a fused layer what the tasks fused into them had."""
    if not tasks.annotations:
        return
    heads = {key for key in inner if key in done.graph}
    for head in heads:
        _annotate(head, _tree(head, heads, inner, tasks), tasks, done)


def _annotate(head: Key, tree: Iterable[Key], tasks: KeyedTasks, done: Tasks) -> None:
    parts = [tasks.annotations[key] for key in tree if key in tasks.annotations]
    if parts:
        done.annotations[head] = merge_annotations(parts)


# --- 2. tasks


def _by_pool(tasks: Tasks) -> dict[str | None, dict[Key, Any]]:
    parts: defaultdict[str | None, dict[Key, Any]] = defaultdict(dict)
    for key, task in tasks.graph.items():
        parts[tasks.pools[key]][key] = task
    return dict(parts)


def _exported(tasks: Tasks) -> Iterator[Key]:
    """Keys that a task in another pool needs."""
    pools = tasks.pools
    for key, task in tasks.graph.items():
        own = pools[key]
        for needed in task.dependencies:
            if pools.get(needed, own) != own:
                yield needed


def _apart(tasks: Tasks) -> Iterator[Key]:
    """Keys whose annotations cannot be combined with those of a task that needs them."""
    if not tasks.annotations:
        return
    for key, task in tasks.graph.items():
        own = tasks.annotations.get(key, {})
        for needed in task.dependencies:
            if not combinable(tasks.annotations.get(needed, {}), own):
                yield needed


# --- 3. annotations


def _fused_annotations(
    result: Mapping[Key, GraphNode], annotations: Mapping[Key, Annotations]
) -> Iterator[tuple[Key, Annotations]]:
    """Annotations of fused tasks, from those of the tasks inside them."""
    if not annotations:
        return
    for key, task in result.items():
        # An alias keeps the name that a fused task had before Dask renamed it.
        source = result.get(task.target, task) if isinstance(task, Alias) else task
        parts = [annotations[k] for k in (key, *_inside(source)) if k in annotations]
        if parts:
            yield key, merge_annotations(parts)


def _inside(task: GraphNode) -> Collection[Key]:
    """Keys of the tasks that Dask fused into this one."""
    if isinstance(task, Task) and task.func is _execute_subgraph:
        inner: Mapping[Key, GraphNode] = task.args[0]
        return inner.keys()
    return ()


# --- the user's own optimisation


def fuse_by(
    user: Optimization,
    graph: HighLevelGraph,
    tasks: KeyedTasks,
    pools: Pools,
    outputs: Collection[Key],
) -> Tasks:
    """Run the user's optimisation on each pool's part of the graph."""
    exported = set(outputs)
    for key, inputs in tasks.dependencies.items():
        exported.update(k for k in inputs if k in pools and pools[k] != pools[key])
    done = Tasks()
    for pool, keys in reverse_lookup({key: pools[key] for key in tasks.dependencies}).items():
        wanted = [key for key in keys if key in exported]
        returned = user(_pool_graph(graph, tasks, keys), wanted)
        if not isinstance(returned, Mapping):
            raise LostKeys(_name_of(user), wanted)
        result = dict(ensure_dict(returned))
        if lost := [key for key in wanted if key not in result]:
            raise LostKeys(_name_of(user), lost)
        done.add(convert_legacy_graph(result, tasks.known | result.keys()), pool)
    done.annotations.update(_fused_annotations(done.graph, tasks.annotations))
    return done


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _pool_graph(graph: HighLevelGraph, tasks: KeyedTasks, keys: Collection[Key]) -> HighLevelGraph:
    by_layer = reverse_lookup({key: tasks.layer_of[key] for key in keys})
    layers = {name: _pool_layer(name, part, tasks) for name, part in by_layer.items()}
    deps = {name: set(graph.dependencies[name]) for name in layers}
    # Dask expects to find every layer that another names, also those of other pools.
    outside = set().union(*deps.values()) - layers.keys()
    layers |= {name: MaterializedLayer({}) for name in outside}
    return HighLevelGraph(layers, deps | {name: set() for name in outside})


def _pool_layer(name: str, keys: Collection[Key], tasks: KeyedTasks) -> Layer:
    # Dask's fusion takes a blockwise layer for whole, even where it was restricted; and only
    # here is it known which tuples in a task are keys, of this pool or of others.
    layer = tasks.layers[name]
    if len(keys) == len(layer) and not has_legacy_tasks(layer):
        return layer
    return MaterializedLayer(_materialize(keys, tasks))
