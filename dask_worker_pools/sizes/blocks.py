"""What each layer of a graph gives: grids of blocks where it can be, single tasks where it must be.

The outputs of an array layer form a grid: the shape of an output is one entry per axis, picked by
the key's block index. So a layer of a million tasks is told by a few tuples of chunk lengths, and
a Blockwise layer is never written out. Tasks that are not part of a grid (the middle of a rechunk
or of a cumulative sum, delayed functions) are told one by one, when asked for.
"""

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from itertools import product
from math import isnan, prod
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph, Layer
from dask.layers import ArrayOverlapLayer
from dask.typing import Key

from dask_worker_pools.sizes.grid import Axis, Grid, lengths_of
from dask_worker_pools.sizes.measure import Block, Bytes, Unknown, fixed_itemsize, nbytes
from dask_worker_pools.sizes.rules import as_block
from dask_worker_pools.sizes.shapes import (
    GraphNode,
    Task,
    convert_legacy_task,
    gives_several,
    infer,
    misleading,
)

__all__ = ["FRAME", "GraphBlocks"]

#: What layers of frames say they are of.
FRAME = "dask.dataframe"

#: A layer is given up after so many tasks in a row that cannot be told: they are all alike.
PATIENCE = 64


def is_of_frame(layer: Layer) -> bool:
    """Whether a layer was made of the expressions of frames."""
    return (layer.collection_annotations or {}).get("type") == FRAME


class _Wanted(Exception):
    """The task with this key, of this layer, must be told first."""


class GraphBlocks:
    """What each output of a graph is, layer by layer.

    Parameters
    ----------
    graph : HighLevelGraph
        It is read, never changed: no Blockwise layer is materialised.
    measured : mapping of key to float, optional
        Bytes of data that is in memory already.
    """

    def __init__(
        self, graph: HighLevelGraph, measured: Mapping[Key, float] = MappingProxyType({})
    ) -> None:
        self._in_memory = measured
        self._layers: Mapping[str, Layer] = graph.layers
        self._dependencies: Mapping[str, Set[str]] = graph.dependencies
        self._tasks = {name: _tasks(layer) for name, layer in graph.layers.items()}
        self._grids: dict[str, tuple[Grid, ...]] = dict.fromkeys(graph.layers, ())
        #: What single tasks give; the reason, an `Unknown`, where that is not known.
        self._told: dict[Key, object] = {}
        #: How many tasks in a row of each layer could not be told.
        self._failures: Counter[str] = Counter()
        for name in _inputs_first(graph):
            try:
                self._grids[name] = self._find_grids(name)
            except Exception:  # `Unknown`, or a layer that is not as Dask makes them
                continue

    def grids(self, layer: str) -> tuple[Grid, ...]:
        """Give the grids of a layer; none if its outputs form none that is known."""
        return self._grids[layer]

    def tasks(self, layer: str) -> Mapping[Key, object]:
        """Give the written-out tasks of a layer; none if it is symbolic."""
        return self._tasks[layer]

    def count(self, layer: str) -> int:
        """Give the number of a layer's outputs, without materialising it."""
        source = self._layers[layer]
        if isinstance(source, Blockwise):
            return len(source)
        gridded = sum(grid.count for grid in self.grids(layer))
        return len(self.tasks(layer)) or gridded or len(source)

    def keys(self, layer: str) -> Grid | Collection[Key]:
        """Give a layer's keys: as a grid, whose sizes mean nothing, where it is Blockwise."""
        source = self._layers[layer]
        if isinstance(source, Blockwise):
            axes = tuple((1,) * source.dims[i] for i in source.output_indices)
            picked = source.output_blocks or None
            return Grid(source.output, axes, np.dtype("u1"), "declared", picked=picked)
        if tasks := self.tasks(layer):
            return tasks.keys()
        return [key for grid in self.grids(layer) for key in grid.block_keys()] or source.keys()

    def told(self, key: Key, layer: str) -> tuple[float, str] | None:
        """Give the bytes of one written-out task's output, and how they are known; or None."""
        if key not in self._told and self._failures[layer] >= PATIENCE:
            return None
        try:
            if key not in self._told:
                self._told[key] = self._tell(self._node(key, layer), layer)
            value = self._told[key]
            size = nbytes(value)
        except Exception as error:  # `Unknown`, or a task that is not as Dask makes them
            self._told[key] = Unknown(str(error))
            self._failures[layer] += 1
            return None
        self._failures[layer] = 0
        return size, "derived" if isinstance(value, Block | Bytes) else "embedded"

    # -- Grids ---------------------------------------------------------------------------------

    def _find_grids(self, name: str) -> tuple[Grid, ...]:
        layer = self._layers[name]
        if is_of_frame(layer):
            return ()  # no blocks: its expressions tell its rows
        if isinstance(layer, Blockwise):
            return (self._blockwise_grid(name, layer),)
        chunks, dtype = _annotated(layer)
        if chunks is None:
            return (self._regained(name),)
        if _has_unknown(chunks) and self._in_memory:
            chunks = _filled(name, chunks, dtype, self._in_memory)
        grid = Grid(name, chunks, dtype, "chunks")
        if isinstance(layer, ArrayOverlapLayer):
            return (grid, _overlap_pieces(layer, dtype))
        tasks = self._tasks[name]
        return (self._checked(grid, tasks) if tasks else grid,)

    def _checked(self, grid: Grid, tasks: Mapping[Key, object]) -> Grid:
        """Compare a grid with the tasks that are there, and with what one of them gives."""
        if not all(key in tasks for key in grid.block_keys()):
            keys: Iterator[Any] = (key for key in grid.block_keys() if key in tasks)
            grid = replace(grid, picked=frozenset(key[1:] for key in keys))
        sample = _largest(grid)
        if sample not in tasks:
            sample = next(iter(grid.block_keys()))
        node = self._node(sample, grid.name)
        if not isinstance(node, Task) or not misleading(node.func, node.kwargs, blockwise=False):
            return grid
        found = self._tell(node, grid.name)
        if not isinstance(found, Block) or found.shape != grid.shape(sample):
            raise Unknown("the blocks are not as annotated")
        return replace(grid, dtype=found.dtype, source="derived", extra=found.extra)

    def _regained(self, name: str) -> Grid:
        """Put single tasks together to a grid: those of a layer without annotations."""
        blocks: dict[Any, Block] = {}
        source = "embedded"
        for key in self._tasks[name]:
            if isinstance(key, tuple) and key[0] == name and self.told(key, name):
                value = self._told[key]
                if not isinstance(value, Block | np.ndarray):
                    raise Unknown(f"{key!r} is no array")
                if isinstance(value, Block):
                    source = "derived"
                blocks[key[1:]] = as_block(value)
        if not blocks:
            raise Unknown("no arrays")
        index, block = next(iter(blocks.items()))
        axes: list[dict[int, int]] = [{} for _ in index]
        for index, other in blocks.items():
            for axis, i, length in zip(axes, index, other.shape, strict=True):
                axis[i] = length
        ordered = tuple(tuple(axis[i] for i in range(len(axis))) for axis in axes)
        grid = Grid(name, ordered, block.dtype, source, block.extra)
        for index, other in blocks.items():
            if other != Block(grid.shape((name, *index)) or (), grid.dtype, grid.extra):
                raise Unknown("the tasks do not form a grid")
        return grid if grid.count == len(blocks) else replace(grid, picked=frozenset(blocks))

    def _blockwise_grid(self, name: str, layer: Blockwise) -> Grid:
        numblocks = tuple(layer.dims[i] for i in layer.output_indices)
        picked = layer.output_blocks or None
        annotated, dtype = _annotated(layer)
        if annotated is not None and _has_unknown(annotated) and self._in_memory:
            # What it is made of may be in memory, where its chunks are known after all.
            aligned = self._aligned_chunks(layer)
            annotated = annotated if _has_unknown(aligned) else None
        chunks = self._aligned_chunks(layer) if annotated is None else annotated
        if tuple(map(len, chunks)) != numblocks:
            raise Unknown(f"{numblocks} blocks with chunks {chunks}")
        if annotated is not None and not misleading(
            layer.task.func, layer.task.kwargs, blockwise=True
        ):
            return Grid(layer.output, chunks, dtype, "chunks", picked=picked)
        axes, block = self._measured(name, layer, chunks)
        return Grid(layer.output, axes, block.dtype, "derived", block.extra, picked)

    def _aligned_chunks(self, layer: Blockwise) -> tuple[tuple[int, ...], ...]:
        """Give the chunks of the inputs along each axis of the output."""
        chunks: dict[Any, tuple[int, ...]] = {
            index: length if isinstance(length, tuple) else (length,)
            for index, length in cast("Mapping[Any, Any]", layer.new_axes).items()
        }
        for name, indices in layer.indices:
            axes = self._input_axes(layer, name)
            for index, axis in zip(indices or (), axes, strict=False):
                # Where inputs are broadcast, the longest one gives the length.
                chunks[index] = max(chunks.get(index, ()), axis, key=lambda c: (len(c), sum(c)))
        return tuple(chunks[index] for index in layer.output_indices)

    def _input_axes(self, layer: Blockwise, name: object) -> tuple[tuple[int, ...], ...]:
        if not isinstance(name, str):
            return ()
        if name in layer.io_deps:
            return getattr(layer.io_deps[name], "chunks", ())
        return next((tuple(map(tuple, map(lengths_of, g.axes))) for g in self._grids[name]), ())

    def _measured(
        self, name: str, layer: Blockwise, chunks: tuple[tuple[int, ...], ...]
    ) -> tuple[tuple[tuple[int, ...], ...], Block]:
        """Tell a Blockwise layer's blocks from its function: lengths by axis, and one of them.

        What a function makes of an axis follows from the length of the chunk there.
        """
        longest = tuple(lengths.index(max(lengths)) for lengths in chunks)
        block = self._probe(name, layer, longest)
        if block.ndim != len(chunks):
            raise Unknown("the function gives another number of axes")
        axes = []
        for i, lengths in enumerate(chunks):

            def length_at(length: int, i: int = i, lengths: tuple[int, ...] = lengths) -> int:
                index = (*longest[:i], lengths.index(length), *longest[i + 1 :])
                return self._probe(name, layer, index).shape[i]

            axes.append(_mapped(lengths, block.shape[i], length_at))
        if fixed_itemsize(block.dtype) is None:
            raise Unknown(f"elements of {block.dtype}")
        return tuple(axes), block

    def _probe(self, name: str, layer: Blockwise, index: tuple[int, ...]) -> Block:
        """Tell one block of a Blockwise layer, writing out that one task of a copy."""
        copy: Any = layer
        try:
            node = copy._cull({index})[layer.output, *index]
            block = self._tell(node, name)
        except Unknown:
            raise
        except Exception as error:  # a layer that Dask itself could not write out
            raise Unknown(f"{layer.output}: {error}") from error
        if not isinstance(block, Block):
            raise Unknown(f"{layer.output} does not give arrays")
        return block

    # -- Single tasks --------------------------------------------------------------------------

    def _tell(self, node: object, layer: str) -> object:
        """Tell one task, its inputs first."""
        try:
            return self._infer(node, layer)
        except _Wanted:
            self._tell_inputs(node, layer)
            return self._infer(node, layer)

    def _tell_inputs(self, node: object, layer: str) -> None:
        """Tell a task's inputs and theirs; without recursion, as chains can be long."""
        expanded: set[Key] = set()
        todo = self._missing_inputs(node, layer)
        while todo:
            key, home = todo[-1]
            if key not in self._told:
                try:
                    current = self._node(key, home)
                    self._told[key] = self._infer(current, home)
                except _Wanted:
                    if key not in expanded:
                        expanded.add(key)
                        todo += self._missing_inputs(current, home)
                        continue
                    self._told[key] = Unknown("the task waits for itself")
                except Unknown as unknown:
                    self._told[key] = unknown
            todo.pop()

    def _infer(self, node: object, layer: str) -> object:
        lookup, inputs = self._lookup(layer), getattr(node, "dependencies", ())
        key = node.key if isinstance(node, Task) else None
        if isinstance(key, str) and key.startswith("finalize-"):
            # What Dask appends to a compute: it puts all its inputs together.
            return Bytes(sum(nbytes(lookup(part)) for part in inputs))
        return infer(node, lookup)

    def _missing_inputs(self, node: object, layer: str) -> list[tuple[Key, str]]:
        lookup, missing = self._lookup(layer), []
        for key in node.dependencies if isinstance(node, GraphNode) else ():
            try:
                lookup(key)
            except Unknown:
                continue
            except _Wanted as wanted:
                missing.append(wanted.args)
        return missing

    def _lookup(self, layer: str) -> Callable[[Key], object]:
        """Give the function that answers for the inputs of a layer's tasks."""

        def lookup(key: Key) -> object:
            for other in self._candidates(key, layer):
                for grid in self._grids[other]:
                    if (shape := grid.shape(key)) is not None:
                        return Block(shape, grid.dtype, grid.extra)
                if key in self._in_memory:
                    return Bytes(self._in_memory[key])
                if key in self._tasks[other]:
                    if key not in self._told:
                        raise _Wanted(key, other)
                    value = self._told[key]
                    if isinstance(value, Unknown):
                        raise Unknown(*value.args)
                    return value
            raise Unknown(f"{key!r} is not told by any layer")

        return lookup

    def _candidates(self, key: Key, near: str) -> Iterator[str]:
        """Yield the layers that may have a key, as seen from a layer that refers to it."""
        name = key[0] if isinstance(key, tuple) and key else key
        if isinstance(name, str) and name in self._layers:
            yield name
        yield near
        for other in self._dependencies.get(near, ()):
            if other in self._layers:
                yield other

    def _keys_for(self, layer: str) -> Container[Key]:
        near = [layer, *self._dependencies.get(layer, ())]
        return _Keys(self._layers, [self._tasks[n] for n in near if self._tasks.get(n)])

    def _node(self, key: Key, layer: str) -> object:
        """Give a task in Dask's present form; older layers hold tuples."""
        task = self._tasks[layer][key]
        if isinstance(task, GraphNode):
            return task
        try:
            return convert_legacy_task(key, task, self._keys_for(layer))
        except Exception as error:
            raise Unknown(f"{key!r}: {error}") from error


class _Keys(Container[Key]):
    """The keys that a layer's tasks may refer to."""

    def __init__(self, layers: Container[str], tasks: list[Mapping[Key, object]]) -> None:
        self._layers, self._tasks = layers, tasks

    def __contains__(self, key: Any) -> bool:
        name = key[0] if isinstance(key, tuple) and key else key
        if isinstance(name, str) and name in self._layers:
            return True
        return any(key in tasks for tasks in self._tasks)


def _annotated(layer: Layer) -> tuple[tuple[tuple[int, ...], ...] | None, Any]:
    """Give the chunks and dtype that a layer's collection stated, if they tell bytes."""
    told = getattr(layer, "collection_annotations", None) or {}
    chunks, dtype = told.get("chunks"), told.get("dtype")
    if chunks is None:
        return None, None
    if fixed_itemsize(dtype) is None:
        raise Unknown(f"elements of {dtype}")
    if not str(told.get("chunk_type", "numpy.")).startswith(("numpy.", "cupy.")):
        raise Unknown(f"blocks of {told['chunk_type']}")
    return chunks, dtype


def _has_unknown(chunks: Iterable[Iterable[float]]) -> bool:
    return any(isnan(length) for lengths in chunks for length in lengths)


def _filled(
    name: str,
    chunks: tuple[tuple[int, ...], ...],
    dtype: np.dtype[Any],
    in_memory: Mapping[Key, float],
) -> tuple[tuple[int, ...], ...]:
    """Chunks with the lengths of one axis, where they are unknown, told from blocks in memory."""
    unknown = [i for i, lengths in enumerate(chunks) if _has_unknown([lengths])]
    if len(unknown) > 1:
        return chunks
    (axis,) = unknown
    lengths = list(chunks[axis])
    for place, length in enumerate(lengths):
        if isnan(length):
            index = tuple(place if i == axis else 0 for i in range(len(chunks)))
            others = prod(own[0] for i, own in enumerate(chunks) if i != axis)
            size = in_memory.get((name, *index))
            found = None if size is None or not others else size / (others * dtype.itemsize)
            if found is None or not found.is_integer():
                return chunks
            lengths[place] = int(found)
    return (*chunks[:axis], tuple(lengths), *chunks[axis + 1 :])


def _mapped(
    lengths: tuple[int, ...], longest: int, length_at: Callable[[int], int]
) -> tuple[int, ...]:
    """Give the lengths that a function makes of an axis, asking for as few as possible.

    A longer chunk never gives a shorter output. So the longest and the shortest chunk tell most
    functions: one that keeps lengths, and one that makes them all the same.
    """
    if any(map(isnan, lengths)):
        return (longest,) * len(lengths)  # 1, or as unknown as before
    if longest == max(lengths):
        return lengths
    if longest == length_at(min(lengths)):
        return (longest,) * len(lengths)
    new = {length: length_at(length) for length in set(lengths)}
    return tuple(new[length] for length in lengths)


def _tasks(layer: Layer) -> Mapping[Key, object]:
    if isinstance(layer, Blockwise) and gives_several(layer.task.func):
        # No grid is made of tuples. Such layers (decompositions of matrices) have few blocks: what
        # is written out here is a copy.
        blocks = product(*(range(layer.dims[i]) for i in layer.output_indices))
        return dict(cast("Any", layer)._cull(layer.output_blocks or set(blocks)))
    if isinstance(layer, Blockwise | ArrayOverlapLayer) or not layer.is_materialized():
        return {}
    return getattr(layer, "mapping", layer)


def _largest(grid: Grid) -> Key:
    """Give the key of a largest block."""
    lengths = map(lengths_of, grid.axes)
    return (grid.name, *(axis.index(max(axis)) if axis else 0 for axis in lengths))


def _overlap_pieces(layer: ArrayOverlapLayer, dtype: np.dtype[Any]) -> Grid:
    """Give the pieces that an overlap cuts from its input.

    Block i along an axis is taken whole at index i; its last elements at i + 0.1, for the block
    after it, and its first at i - 0.1, for the block before it. The indices are written as Dask
    computes them, since they must be equal to the last bit.
    """
    axes: list[Axis] = []
    for i, lengths in enumerate(layer.chunks):
        depth = layer.axes.get(i, 0)
        before, after = depth if isinstance(depth, tuple) else (depth, depth)
        axis: dict[float, int] = dict(enumerate(lengths))
        if before:
            axis |= {j - 0.9: min(before, lengths[j - 1]) for j in range(1, len(lengths))}
        if after:
            axis |= {j + 0.9: min(after, lengths[j + 1]) for j in range(len(lengths) - 1)}
        axes.append(axis)
    return Grid(f"getitem-{layer.token}", tuple(axes), dtype, "derived")


def _inputs_first(graph: HighLevelGraph) -> Iterator[str]:
    """Yield the layers, each after those it depends on; in a cycle, in any order."""
    done: set[str] = set()
    for start in graph.layers:
        todo = [(start, False)]
        while todo:
            name, ready = todo.pop()
            if ready:
                yield name
            elif name not in done and name in graph.layers:
                done.add(name)
                todo.append((name, True))
                todo.extend((other, False) for other in graph.dependencies.get(name, ()))
