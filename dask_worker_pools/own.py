"""Optimisations that collections bring along: dask-histogram, dask-awkward, your own class.

What such a function does is not known. Those that we know rewrite layers, for which they have to
see the whole graph, and fuse them as Dask does, but never layers whose annotations they cannot
combine. So each is called once with the whole graph, in which every layer lies in one pool and
says so. What it returns is checked: if it renamed tasks, or fused tasks of two pools, it is called
again, for the tasks of one pool at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from dask._task_spec import GraphNode, convert_legacy_graph
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.typing import Key
from dask.utils import ensure_dict

from dask_worker_pools.annotations import (
    POOL_KEY,
    Annotations,
    merge_annotations,
    without_pool,
)
from dask_worker_pools.fusion import Optimization, Pools, Tasks, fuse_by
from dask_worker_pools.graph import KeyedTasks
from dask_worker_pools.parts import split_by_pool

#: What each of some collections brings along; None: it has the optimisation of its kind.
Brought: TypeAlias = tuple[Optimization | None, ...]


def brought_along(own: Brought, keys: Any) -> list[tuple[Optimization, list[Key]]]:
    """The optimisations that collections bring along, each with the keys that it is asked for.

    Parameters
    ----------
    own : tuple of callable or None
        What each collection brings along. A single one stands for all keys.
    keys : nested list of keys
        The keys of the collections, a list for each; those of a single one as it has them.
    """
    found: list[tuple[Optimization, list[Key]]] = []
    for function, part in zip(own, keys if len(own) > 1 else [keys]):
        if function is None:
            continue
        wanted = next((known for other, known in found if other == function), None)
        if wanted is None:
            found.append((function, wanted := []))
        wanted += (key for key in flatten([part]) if key not in wanted)
    return found


def optimize_by(
    function: Optimization,
    graph: HighLevelGraph,
    tasks: KeyedTasks,
    pools: Pools,
    outputs: Collection[Key],
) -> Tasks:
    """Run the optimisation that collections bring along, as far as pools allow.

    Parameters
    ----------
    function : callable
        The optimisation, ``function(graph, keys)``.
    graph, tasks, pools, outputs
        As for `fuse`.
    """
    returned = function(_in_pools(graph, tasks, pools), list(outputs))
    if isinstance(returned, Mapping):
        whole = convert_legacy_graph(ensure_dict(returned), {*tasks.dependencies, *returned})
        if (done := _placed(_needed(whole, outputs), tasks, pools)) and not (
            set(outputs) - done.graph.keys()
        ):
            return done
    return fuse_by(function, graph, tasks, pools, outputs)


def _in_pools(graph: HighLevelGraph, tasks: KeyedTasks, pools: Pools) -> HighLevelGraph:
    """The layers that are needed, each in one pool, and annotated with it."""
    said: dict[Key, Annotations] = {}
    for name, keys in tasks.keys.items():
        plain = {
            label: value
            for label, value in without_pool(graph.layers[name].annotations or {}).items()
            if not callable(value)
        }
        for pool in {pools[key] for key in keys}:
            own = plain if pool is None else plain | {POOL_KEY: pool}
            said |= dict.fromkeys((key for key in keys if pools[key] == pool), own)
    needed = graph.cull_layers(tasks.keys)
    return split_by_pool(needed, tasks, said, pools)


def _needed(graph: Mapping[Key, GraphNode], outputs: Collection[Key]) -> dict[Key, GraphNode]:
    found: dict[Key, GraphNode] = {}
    stack = [key for key in outputs if key in graph]
    while stack:
        key = stack.pop()
        if key not in found:
            found[key] = graph[key]
            stack += (one for one in graph[key].dependencies if one in graph)
    return found


def _placed(optimized: Mapping[Key, GraphNode], tasks: KeyedTasks, pools: Pools) -> Tasks | None:
    """Optimised tasks with their pools; None if these cannot be told, or one task has several."""
    done = Tasks()
    everywhere = {pools[key] for key in tasks.dependencies}
    for key, task in optimized.items():
        if key not in tasks.dependencies:
            if len(everywhere) > 1:
                return None
            done.add({key: task}, next(iter(everywhere)))
            continue
        inside = _fused_into(key, task, tasks)
        if any(pools[one] != pools[key] for one in inside):
            return None
        done.add({key: task}, pools[key])
        if parts := [tasks.annotations[one] for one in inside if one in tasks.annotations]:
            done.annotations[key] = merge_annotations(parts)
    return done


def _fused_into(key: Key, task: GraphNode, tasks: KeyedTasks) -> list[Key]:
    """The tasks that were fused into one, itself first: those between it and its inputs."""
    inside = {key: None}
    stack = [key]
    while stack:
        for one in tasks.dependencies[stack.pop()]:
            if one in tasks.dependencies and one not in task.dependencies and one not in inside:
                inside[one] = None
                stack.append(one)
    return list(inside)
