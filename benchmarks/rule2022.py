"""The rule of the 2022 library of the same name, written anew from its description.

Whole layers are placed, from the inputs forward. A layer that is not pinned goes to the pool that
holds most bytes among the layers that it needs. If the size of one of these is not known, it goes
to the pool that holds most keys. A layer that needs none with a pool gets none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import dask
from dask.blockwise import optimize_blockwise
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from benchmarks.graphs import are_frames
from dask_worker_pools.annotations import annotations_by_key
from dask_worker_pools.expr.markers import bare
from dask_worker_pools.expr.planned import walk
from dask_worker_pools.sizes import LayerSizes, layer_sizes

PREFIX = "pool-"

#: What Dask must not do, lest pools are lost or merged (see `benchmarks.contenders`).
UNFUSED = {"optimization.fuse.active": False, "optimization.annotations.fuse": False}


def pool_of(layer: Layer) -> str | None:
    """The pool that a layer is annotated with; if its keys differ, that of most of them."""
    said: Counter[str] = Counter()
    for _, own in annotations_by_key(layer.annotations, layer.get_output_keys()):
        said.update(
            r.removeprefix(PREFIX) for r in own.get("resources", ()) if r.startswith(PREFIX)
        )
    return max(said, key=lambda pool: (said[pool], pool)) if said else None


def pools_of_layers(graph: HighLevelGraph) -> dict[str, str | None]:
    """The pool of every layer, by the rule."""
    sizes = layer_sizes(graph)
    pools: dict[str, str | None] = {}
    for name in graph._toposort_layers():
        said = pool_of(graph.layers[name])
        pools[name] = said or most(graph.dependencies[name], pools, sizes)
    return pools


def most(
    inputs: Any, pools: Mapping[str, str | None], sizes: Mapping[str, LayerSizes]
) -> str | None:
    """The pool with most bytes among layers, or with most keys where a size is not known."""
    known = all(sizes[name].known == sizes[name].count for name in inputs)
    held: Counter[str] = Counter()
    for name in sorted(inputs):
        if where := pools[name]:
            held[where] += sizes[name].total if known else sizes[name].count  # type: ignore[assignment]
    return max(held, key=lambda pool: (held[pool], pool)) if held else None


def with_layers(loaded: Mapping[str, str], collections: Sequence[Any]) -> Sequence[Any]:
    """Dataframes as delayed objects, with a layer for each expression, as they had them in 2022.

    In `loaded` is the pool of those that are in memory. Unlike dataframes, delayed objects keep
    annotations, and this library does not mark them.
    """
    if not are_frames(collections):
        return collections
    layers: dict[str, Layer] = {}
    needs: dict[str, set[str]] = {}
    ends = [bare(frame.expr).optimize() for frame in collections]
    for expr in walk(ends):
        layer = MaterializedLayer(expr._layer())
        if (where := loaded.get(expr._name)) is not None:
            layer.annotations = {"resources": {PREFIX + where: 0}}
        layers[expr._name] = layer
        needs[expr._name] = {needed._name for needed in expr.dependencies()}
    graph = HighLevelGraph(layers, needs)
    return [Delayed(key, graph, layer=end._name) for end in ends for key in end.__dask_keys__()]


def optimize(graph: HighLevelGraph, keys: Any, **kwargs: Any) -> HighLevelGraph:
    """Stand in Dask's configuration, under ``array_optimize`` and its like, and apply the rule."""
    if not isinstance(graph, HighLevelGraph):
        graph = HighLevelGraph.from_collections("graph", graph, dependencies=())
    layers = {}
    for name, pool in pools_of_layers(graph).items():
        layers[name] = layer = copy(graph.layers[name])
        if pool is not None:
            layer.annotations = {**(layer.annotations or {}), "resources": {PREFIX + pool: 0}}
    graph = HighLevelGraph(layers, graph.dependencies)
    with dask.config.set(UNFUSED):
        fused: HighLevelGraph = optimize_blockwise(graph, keys=list(flatten([keys])))
    return fused.cull(set(flatten([keys])))  # last: it leaves names that nothing refers to
