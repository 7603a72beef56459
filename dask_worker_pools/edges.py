"""The tasks that a computation needs, by number, with the edges between them.

A graph is read from the wanted keys back to its sources, layer by layer, so that dead tasks cost
nothing. Blockwise layers stay symbolic: their edges are arithmetic on the indices of blocks, done
for a whole layer at once, and no task or key of theirs is made. Other layers hold tasks already,
and are read one by one.

While it is read, a key has a *slot*: a block of an array has its place in the array's grid, any
other key the next free number. At the end each task gets its *number*, such that every task comes
after its inputs.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import (
    Collection,
    Container,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass, field
from itertools import chain, groupby, pairwise, product, repeat
from math import prod
from typing import Any, TypeGuard, TypeVar, cast

import numpy as np
import numpy.typing as npt
from dask._task_spec import GraphNode, TaskRef
from dask.blockwise import Blockwise
from dask.core import keys_in_tasks
from dask.highlevelgraph import HighLevelGraph, Layer
from dask.typing import Key

from dask_worker_pools.marks import Mark, mark_of
from dask_worker_pools.placement.problem import TaskGraph
from dask_worker_pools.slots import (
    FEW,
    NONE,
    READ,
    WANTED,
    Numbers,
    Slots,
    block_indices,
    block_keys,
    name_of,
    strides,
)

K = TypeVar("K", bound=Hashable)


@dataclass
class Chunk:
    """Tasks of one layer that were read together."""

    layer: str
    shape: tuple[int, ...]  #: number of blocks along each axis
    blocks: Numbers | None  #: places in the grid; None = no blocks, but `listed` keys
    listed: list[Key]
    slots: Numbers
    inputs: Numbers  #: slots of the inputs of the first task, then of the second, and so on
    counts: Sequence[int]  #: how many inputs each task has
    names: Set[Hashable]  #: the collections that the keys belong to, and perhaps others
    marks: dict[Key, Mark] = field(default_factory=dict)  #: what tasks carry themselves
    first: int = 0  #: number of the first of these tasks

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def numbers(self) -> range:
        """Numbers of these tasks."""
        return range(self.first, self.first + len(self))

    def keys_in_order(self) -> Collection[Key]:
        """Keys of these tasks, in the order of their numbers."""
        if self.blocks is None:
            return self.listed
        if np.array_equal(self.blocks, np.arange(prod(self.shape))):
            return cast("list[Key]", [*product(self.names, *map(range, self.shape))])
        (name,) = self.names
        return list(block_keys(name, self.blocks, self.shape))

    def numbers_of(self, name: Hashable) -> Iterable[tuple[int, Key]]:
        """Those of these tasks that belong to a collection, with their keys."""
        if name in self.names:
            for number, key in zip(self.numbers, self.keys_in_order()):
                if name_of(key) == name:
                    yield number, key


@dataclass
class Edges:
    """The needed tasks of a graph, each after its inputs."""

    chunks: list[Chunk]
    outside: list[Key]  #: data in memory, which has the first numbers and no inputs
    inputs: array[int]  #: inputs of task 0, then those of task 1, and so on
    counts: list[int]  #: how many inputs each task has

    @classmethod
    def read(cls, graph: HighLevelGraph, wanted: Collection[Key]) -> Edges:
        """Read the tasks that the `wanted` keys need.

        Parameters
        ----------
        graph : HighLevelGraph
            It is not changed, and none of its Blockwise layers is materialised.
        wanted : collection of keys
            The outputs; keys that the graph lacks stand for data in memory.
        """
        return _Reader(graph).read(wanted)


class _Reader:
    """Reads one graph."""

    def __init__(self, graph: HighLevelGraph) -> None:
        self.graph = graph
        self.slots = Slots(_grid_shapes(graph))
        self.names = {
            name: {name_of(key) for key in _tasks(layer)}
            for name, layer in graph.layers.items()
            if not _is_symbolic(layer)
        }
        self.known = _Keys(graph, self.names)
        self.chunks: list[Chunk] = []  # consumers before producers

    def read(self, wanted: Collection[Key]) -> Edges:
        self.slots.want_keys(list(wanted))
        order = toposort(self.graph.dependencies)[::-1]
        # Layers do not always name all that they need: then another round finds it.
        found = True
        while found:
            found = False
            for name in order:
                for chunk in self._layer(name, self.graph.layers[name]):
                    self.chunks.append(chunk)
                    found = True
        return self._numbered()

    def _layer(self, name: str, layer: Layer) -> Iterator[Chunk]:
        if _is_symbolic(layer):
            if layer.output in self.slots.grids:
                yield from self._blockwise(name, layer)
                return
            keys = self.slots.waiting.get(layer.output, set())
            keys = keys & layer.get_output_keys() if keys else keys
            if keys:
                yield self._listed(name, _culled(layer, keys), {})
            return
        tasks = _tasks(layer)
        stack = [key for key in self._wanted(self.names[name]) if key in tasks]
        if stack:
            found, marks = _written(tasks, stack, self.known, self.slots)
            if found:
                yield self._listed(name, found, marks)

    def _wanted(self, names: Iterable[Hashable]) -> Iterator[Key]:
        """Keys of some collections that are wanted and were not read."""
        for name in names:
            yield from tuple(self.slots.waiting.get(name, ()))
            if name in self.slots.grids:
                _, shape = self.slots.grids[name]
                blocks = np.flatnonzero(self.slots.part(name) == WANTED)
                yield from block_keys(name, blocks, shape)

    def _blockwise(self, name: str, layer: Blockwise) -> Iterator[Chunk]:
        start, shape = self.slots.grids[layer.output]
        state = self.slots.part(layer.output)
        wanted = state == WANTED
        if layer.output_blocks:
            wanted &= _mask(layer.output_blocks, shape)
        blocks = np.flatnonzero(wanted)
        if not len(blocks):
            return
        if not _arithmetic(layer, self.slots.grids):
            keys: set[Key] = {*block_keys(layer.output, blocks, shape)}
            yield self._listed(name, _culled(layer, keys), {})
            return
        state[blocks] = READ
        inputs = self._block_inputs(layer, block_indices(blocks, shape), len(blocks))
        self.slots.want(inputs[inputs < len(self.slots.state)])
        counts = [inputs.shape[1]] * len(blocks)
        names = {layer.output}
        yield Chunk(name, shape, blocks, [], start + blocks, inputs.ravel(), counts, names)

    def _block_inputs(self, layer: Blockwise, axes: Sequence[Numbers], blocks: int) -> Numbers:
        """Slots of the inputs of each block, one row a block."""
        axis_of = dict(zip(layer.output_indices, axes))
        single = self.slots.want_keys(_single_keys(layer))
        columns = [np.broadcast_to(single, (blocks, len(single)))]
        seen = set()  # an argument without indices need not be hashable
        for argument, indices in layer.indices:
            if indices is None or (argument, indices) in seen:
                continue
            elif argument not in layer.io_deps:
                seen.add((argument, indices))
                start, shape = self.slots.grids[argument]
                column = np.full((blocks, 1), start)
                for index, length, stride in zip(indices, shape, strides(shape)):
                    if length == 1:  # the same block for all, as in broadcasting
                        continue
                    if index in axis_of:
                        column = column + stride * axis_of[index][:, np.newaxis]
                    else:  # contracted: all blocks along this axis
                        along = stride * np.arange(layer.dims[index])
                        column = (column[:, :, np.newaxis] + along).reshape(blocks, -1)
                columns.append(column)
        return np.hstack(columns)

    def _listed(
        self, name: str, found: Mapping[Key, Collection[Key]], marks: dict[Key, Mark]
    ) -> Chunk:
        """Tasks whose keys and inputs were read one by one."""
        keys = list(found)
        if any(key in found for inputs in found.values() for key in inputs):
            keys = toposort(found)
        counts = [len(found[key]) for key in keys]
        inputs = self.slots.want_keys([*chain.from_iterable(map(found.__getitem__, keys))])
        slots = self.slots.of(keys)
        if self.slots.grids:
            self.slots.state[slots[slots < len(self.slots.state)]] = READ
        for key in keys:
            self.slots.waiting[name_of(key)].discard(key)
        names = set(map(name_of, keys)) if len(keys) > FEW else self.names.get(name, {name})
        if len(names) == 1 and slots.max() < len(self.slots.state):
            start, shape = self.slots.grids[next(iter(names))]  # the keys can be told again
            return Chunk(name, shape, slots - start, [], slots, inputs, counts, names, marks)
        return Chunk(name, (), None, keys, slots, inputs, counts, names, marks)

    def _numbered(self) -> Edges:
        outside = [*self._wanted(dict.fromkeys((*self.slots.grids, *self.slots.waiting)))]
        in_memory = self.slots.of(outside)
        chunks = self.chunks[::-1]
        # The way in which chunks were read is nearly always an order in which they can be run.
        for reordered in (_sorted_chunks, _cut_chunks, None):
            inputs, is_sorted = _input_numbers(in_memory, chunks, self.slots.count)
            if is_sorted or reordered is None:
                break
            chunks = reordered(chunks, self.slots.count)
        first = len(outside)
        for chunk in chunks:
            chunk.first = first
            first += len(chunk)
            chunk.slots = chunk.inputs = NONE
        counts = [*repeat(0, len(outside)), *chain.from_iterable(c.counts for c in chunks)]
        # An array of the standard library is quicker to walk than one of NumPy.
        return Edges(chunks, outside, array("i", inputs.tobytes()), counts)


def _joined(parts: Iterable[Numbers]) -> Numbers:
    return np.concatenate([NONE, *parts])


def _input_numbers(
    first: Numbers, chunks: Collection[Chunk], slots: int
) -> tuple[npt.NDArray[np.int32], bool]:
    """Number the tasks as the chunks come; say whether each task comes after its inputs."""
    number = np.empty(slots, np.int32)
    order = _joined((first, *(chunk.slots for chunk in chunks)))
    number[order] = np.arange(len(order), dtype=np.int32)
    del order
    inputs = number[_joined(chunk.inputs for chunk in chunks)]
    is_sorted, done, task = True, 0, len(first)
    for chunk in chunks:
        tasks = np.repeat(np.arange(task, task + len(chunk)), chunk.counts)
        is_sorted &= bool((inputs[done : done + len(tasks)] < tasks).all())
        done += len(tasks)
        task += len(chunk)
    return inputs, is_sorted


def _sorted_chunks(chunks: list[Chunk], slots: int) -> list[Chunk]:
    """Chunks, each after those it needs, as far as they do not need each other."""
    chunk_of = np.full(slots, -1)
    chunk_of[_joined(chunk.slots for chunk in chunks)] = np.repeat(
        np.arange(len(chunks)), [len(chunk) for chunk in chunks]
    )
    consumers = np.repeat(np.arange(len(chunks)), [len(chunk.inputs) for chunk in chunks])
    producers = chunk_of[_joined(chunk.inputs for chunk in chunks)]
    needs: dict[int, set[int]] = {number: set() for number in range(len(chunks))}
    for consumer, producer in np.unique(np.stack([consumers, producers]), axis=1).T.tolist():
        if producer not in (-1, consumer):
            needs[consumer].add(producer)
    return [chunks[number] for number in toposort(needs)]


def _cut_chunks(chunks: list[Chunk], slots: int) -> list[Chunk]:
    """Cut chunks that need each other, by different tasks.

    Raises
    ------
    GraphCycle
        Tasks need each other.
    """
    keys = [key for chunk in chunks for key in chunk.keys_in_order()]
    order = _joined(chunk.slots for chunk in chunks)
    counts = [*chain.from_iterable(chunk.counts for chunk in chunks)]
    number = np.full(slots, -1)
    number[order] = np.arange(len(order))
    all_inputs = _joined(chunk.inputs for chunk in chunks)
    ends = np.cumsum([0, *counts]).tolist()
    own = [number[all_inputs[start:end]].tolist() for start, end in pairwise(ends)]
    tasks = TaskGraph.interned(
        {key: [keys[i] for i in mine if i >= 0] for key, mine in zip(keys, own)}
    )
    layer_of = [chunk.layer for chunk in chunks for _ in chunk.counts]
    marks = {key: mark for chunk in chunks for key, mark in chunk.marks.items()}
    cut = []
    for layer, group in groupby(tasks.order, key=layer_of.__getitem__):
        part = list(group)
        listed = [keys[i] for i in part]
        part_inputs = _joined(all_inputs[ends[i] : ends[i + 1]] for i in part)
        part_marks = {key: marks[key] for key in listed if key in marks}
        part_counts = [counts[i] for i in part]
        names = {name_of(key) for key in listed}
        cut.append(
            Chunk(layer, (), None, listed, order[part], part_inputs, part_counts, names, part_marks)
        )
    return cut


def _grid_shapes(graph: HighLevelGraph) -> dict[Hashable, tuple[int, ...]]:
    """The collections that Blockwise layers speak of, with their number of blocks by axis.

    Collections of which layers say different things are left out.
    """
    shapes: dict[Hashable, tuple[int, ...]] = {}
    differing: set[Hashable] = set()
    for layer in graph.layers.values():
        if not isinstance(layer, Blockwise):
            continue
        said = {name: tuple(n) for name, n in layer.numblocks.items() if name not in layer.io_deps}
        said[layer.output] = tuple(layer.dims[index] for index in layer.output_indices)
        for name, shape in said.items():
            if shapes.setdefault(name, shape) != shape:
                differing.add(name)
    return {name: shape for name, shape in shapes.items() if name not in differing}


def _arithmetic(layer: Blockwise, grids: Collection[Hashable]) -> bool:
    """Whether the inputs of all blocks follow from their indices."""
    if any(dependency.produces_keys for dependency in layer.io_deps.values()):
        return False
    return all(
        indices is None or argument in layer.io_deps or argument in grids
        for argument, indices in layer.indices
    )


def _culled(layer: Blockwise, keys: set[Key]) -> Mapping[Key, Collection[Key]]:
    """The inputs of some blocks, as Dask tells them."""
    single = set(_single_keys(layer))
    edges: Mapping[Key, set[Key]] = layer.cull(keys, ())[1]
    return {key: inputs | single for key, inputs in edges.items()}


def _single_keys(layer: Blockwise) -> list[Key]:
    """The keys among the arguments of all blocks, also in lists. Dask sees only bare ones."""
    constants = [argument for argument, indices in layer.indices if indices is None]
    return list(dict.fromkeys(chain.from_iterable(map(_keys_in, constants))))


def _keys_in(argument: object) -> Collection[Key]:
    if isinstance(argument, TaskRef):
        return (argument.key,)
    return argument.dependencies if isinstance(argument, GraphNode) else ()


def _written(
    tasks: Mapping[Key, Any], keys: Iterable[Key], known: Container[Key], slots: Slots
) -> tuple[dict[Key, Collection[Key]], dict[Key, Mark]]:
    """Tasks of a layer that `keys` need inside it, with their inputs and what they carry."""
    stack = list(keys)
    found: dict[Key, Collection[Key]] = {}
    marks: dict[Key, Mark] = {}
    while stack:
        key = stack.pop()
        if key in found:
            continue
        task = tasks[key]
        if isinstance(task, GraphNode):
            found[key] = task.dependencies
            if mark := mark_of(task):
                marks[key] = mark
        elif isinstance(task, TaskRef):
            # A future: data in memory. Under its own key there is nothing left to run.
            if task.key == key:
                continue
            found[key] = {task.key}
        else:
            found[key] = {
                *keys_in_tasks(cast("Collection[Key]", known), [task]),
                *_futures_in(task),
            }
        for needed in found[key]:
            # Layers may repeat tasks of others: each is read once.
            if needed in tasks and needed not in found and not slots.was_read(needed):
                stack.append(needed)
    return found, marks


def _futures_in(task: Any) -> Iterator[Key]:
    """Keys of the futures among the arguments of a task in the old form: data in memory."""
    stack = [task]
    while stack:
        one = stack.pop()
        if isinstance(one, TaskRef):
            yield one.key
        elif isinstance(one, tuple | list | set):
            stack += one
        elif isinstance(one, dict):
            stack += one.values()


class _Keys(Container[Key]):
    """All keys of a graph: arguments of tasks in the old form that are among them are inputs."""

    def __init__(self, graph: HighLevelGraph, names: Mapping[str, Set[Hashable]]) -> None:
        self.outputs = {layer.output for layer in graph.layers.values() if _is_symbolic(layer)}
        self.holders: defaultdict[Hashable, list[Container[Key]]] = defaultdict(list)
        for layer, of_layer in names.items():
            for name in of_layer:
                self.holders[name].append(_tasks(graph.layers[layer]))

    def __contains__(self, key: Any) -> bool:
        name = key[0] if type(key) is tuple and key else key
        if name in self.outputs:
            # Whatever has such a name; should it be no block, it stands for nothing that is there.
            return name is not key
        return name in self.holders and any(key in tasks for tasks in self.holders[name])


def _tasks(layer: Layer) -> Mapping[Key, Any]:
    """The tasks of a layer, without the detour through the layer's own methods."""
    tasks: Mapping[Key, Any] = getattr(layer, "mapping", layer)
    return tasks


def _is_symbolic(layer: Layer) -> TypeGuard[Blockwise]:
    return isinstance(layer, Blockwise) and not layer.is_materialized()


def has_legacy_tasks(layer: Layer) -> bool:
    """Whether a layer holds tasks in the old form, a tuple of a function and its arguments."""
    if isinstance(layer, Blockwise):
        return False
    return any(not isinstance(task, GraphNode) for task in _tasks(layer).values())


def _mask(blocks: Collection[tuple[int, ...]], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[tuple(np.array([*blocks], np.int64).reshape(len(blocks), len(shape)).T)] = True
    return mask.ravel()


def toposort(dependencies: Mapping[K, Collection[K]]) -> list[K]:
    """Keys, each after those that it depends on; those in a circle last, as they came."""
    order = sortable(dependencies)
    if len(order) < len(dependencies):
        placed = set(order)
        order += [key for key in dependencies if key not in placed]
    return order


def sortable(dependencies: Mapping[K, Collection[K]]) -> list[K]:
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
