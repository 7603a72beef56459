"""How many bytes each task's output has, by the number of the task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median
from types import MappingProxyType

from dask.highlevelgraph import HighLevelGraph
from dask.typing import Key

from dask_worker_pools.annotations import SIZE_KEY, WEIGHT_KEY, Annotations
from dask_worker_pools.edges import Chunk, Edges
from dask_worker_pools.graph import TaskGraph
from dask_worker_pools.marks import SOURCE
from dask_worker_pools.sizes import LayerSizes, joined_sources, layer_sizes, layer_weights
from dask_worker_pools.slots import name_of


@dataclass(frozen=True)
class ToldSizes:
    """Bytes of outputs, by the number of the task."""

    nbytes: list[float | None]  #: None where they are unknown
    sources: Mapping[str, str]  #: how those of each layer are known
    counting: bool  #: none is known, where it would matter
    #: partitions of sources that those of unknown size are guessed to hold; empty if none is
    weights: list[float | None] = field(default_factory=list)

    def counted(self) -> list[float | None]:
        """What each output counts; None where that is as much as a typical one."""
        if not self.weights:
            return self.nbytes
        typical = median([size for size in self.nbytes if size is not None] or [1.0])
        return [
            typical * (1.0 if weight is None else weight) if size is None else size
            for size, weight in zip(self.nbytes, self.weights)
        ]


def told_sizes(
    graph: HighLevelGraph,
    tasks: TaskGraph,
    *,
    measured: Mapping[Key, float] = MappingProxyType({}),
    needed: bool = False,
) -> ToldSizes:
    """Tell the bytes of each task's output, as far as they are known.

    `measured` are those of data in memory, as the workers count them. They are `needed` also where
    nothing is pinned if somebody else will plan what comes of it.
    """
    if not tasks.pinned and not tasks.allowed and not needed:
        # Without a pin there is nothing to choose, and no size to know.
        return ToldSizes([None] * len(tasks.edges.counts), {}, False)
    names = {chunk.layer for chunk in tasks.edges.chunks}
    outside = tasks.edges.outside
    layers = layer_sizes(graph, names | {str(name_of(key)) for key in outside}, measured)
    weights = layer_weights(graph, names)
    sources = {name: layers[name].source for name in layers if name in names}
    for key in measured:
        sources.setdefault(str(name_of(key)), "measured")
    told = ToldSizes(
        [measured.get(key, _graphs(layers, key)) for key in outside]
        + _by_number(layers, tasks.edges),
        sources,
        not any(sizes.known for sizes in layers.values()) and not measured,
        [*repeat(None, len(outside)), *_by_number(weights, tasks.edges)] if weights else [],
    )
    marks = {key: known for chunk in tasks.edges.chunks for key, (_, known) in chunk.marks.items()}
    return _with_marks(told, marks, tasks) if marks else told


def _with_marks(told: ToldSizes, marks: Mapping[Key, Annotations], tasks: TaskGraph) -> ToldSizes:
    """Sizes with what tasks carry of their own: it was told where more was known of them."""
    nbytes, weights = list(told.nbytes), list(told.weights)
    weighed = any(WEIGHT_KEY in known for known in marks.values())
    if weighed and not weights:
        weights = [None] * len(nbytes)
    sources: defaultdict[str, set[str]] = defaultdict(set)
    for chunk in tasks.edges.chunks:
        for number, key in zip(chunk.numbers, chunk.keys_in_order() if chunk.marks else ()):
            if known := marks.get(key):
                nbytes[number] = known.get(SIZE_KEY)
                sources[chunk.layer].add(known[SOURCE])
                if weights:
                    weights[number] = known.get(WEIGHT_KEY)
            else:
                sources[chunk.layer].add(told.sources[chunk.layer])
    joined = {name: joined_sources(parts) for name, parts in sources.items()}
    counting = all(size is None for size in nbytes)
    return ToldSizes(nbytes, {**told.sources, **joined}, counting, weights)


def _graphs(layers: Mapping[str, LayerSizes], key: Key) -> float | None:
    """The bytes of data in memory, as far as the graph itself tells."""
    layer = layers.get(str(name_of(key)))
    return None if layer is None else layer.of(key)


def _by_number(layers: Mapping[str, LayerSizes], edges: Edges) -> list[float | None]:
    """What is told of the outputs of tasks, by the number of the task."""
    numbered: list[float | None] = []
    alike: dict[float | None, float | None] = {}  # equal sizes are one object, to save memory
    for chunk in edges.chunks:
        layer = layers.get(chunk.layer)
        if layer is None or not layer.known:
            numbered += [None] * len(chunk)
        elif layer.uniform is not None:
            numbered += [layer.uniform] * len(chunk)
        elif told := _told_blocks(layer, chunk):
            numbered += told
        else:
            keys = chunk.keys_in_order()
            listed = map(layer.of_all(keys).get, keys)
            numbered += (alike.setdefault(size, size) for size in listed)
    return numbered


def _told_blocks(layer: LayerSizes, chunk: Chunk) -> list[float | None] | None:
    """Sizes of blocks of an array; None where they have to be looked up by key."""
    if chunk.blocks is None:
        return None
    (name,) = chunk.names
    return layer.of_blocks(name, chunk.blocks)
