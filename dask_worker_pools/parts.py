"""A graph with pools written into it: each layer once per pool that it has tasks in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from typing import NamedTuple

from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.typing import Key

from dask_worker_pools.annotations import Annotations
from dask_worker_pools.edges import sortable, toposort
from dask_worker_pools.graph import KeyedTasks, layer_annotations, reverse_lookup


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
    tasks: KeyedTasks,
    annotations: Mapping[Key, Annotations],
    pools: Mapping[Key, str | None],
) -> HighLevelGraph:
    """Write pools into a graph: each layer once per pool that it has tasks in.

    Parameters
    ----------
    graph : HighLevelGraph
        The graph as Dask built it.
    tasks : KeyedTasks
        What `read` found in it, by key.
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


def _acyclic_parts(tasks: KeyedTasks, pools: Mapping[Key, str | None]) -> dict[Key, Part]:
    """The part of each task, such that no two parts depend on each other.

    A layer whose tasks depend on each other may go from A to B and back to A. Such parts are cut
    by rank: how often the longest path to the task changed part before it.
    """
    part_of = {key: Part(layer, pools[key], 0) for key, layer in tasks.layer_of.items()}
    edges = _part_edges(part_of, tasks.dependencies)
    circular = edges.keys() - set(sortable(edges))
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
    tasks: KeyedTasks,
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
