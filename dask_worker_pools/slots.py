"""A number for each key that is met while a graph is read.

A block of an array has its place in the array's grid, any other key the next free number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import repeat
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from dask.typing import Key

from dask_worker_pools.words import name_of as name_of

Numbers: TypeAlias = npt.NDArray[np.int64]

NONE: Numbers = np.empty(0, np.int64)

#: What is known of a slot of a grid.
UNWANTED, WANTED, READ = 0, 1, 2

#: So few keys are looked up one by one.
FEW = 16


class Slots:
    """A number for each key that is met.

    Parameters
    ----------
    shapes : mapping of name to tuple of int
        The collections whose keys are blocks of a grid: a name and a place along each axis.
    """

    def __init__(self, shapes: Mapping[Hashable, tuple[int, ...]]) -> None:
        sizes = [prod(shape) for shape in shapes.values()]
        starts = np.cumsum([0, *sizes]).tolist()
        self.grids = {name: (start, shape) for (name, shape), start in zip(shapes.items(), starts)}
        self.state = np.zeros(starts[-1], np.uint8)
        self.loose: dict[Key, int] = {}
        #: keys that are not blocks and were not read yet, by collection
        self.waiting: defaultdict[Hashable, set[Key]] = defaultdict(set)

    @property
    def count(self) -> int:
        """How many slots there are."""
        return len(self.state) + len(self.loose)

    def part(self, name: Hashable) -> npt.NDArray[np.uint8]:
        """What is known of the slots of a grid."""
        start, shape = self.grids[name]
        return self.state[start : start + prod(shape)]

    def want(self, slots: Numbers) -> None:
        """Want the blocks behind slots, unless they were read."""
        self.state[slots] = np.maximum(self.state[slots], WANTED)

    def want_keys(self, keys: Sequence[Key]) -> Numbers:
        """Give the slots of keys, and want them unless they were read."""
        slots = self.of(keys)
        blocks = slots[slots < len(self.state)] if self.grids else NONE
        if len(blocks):
            self.want(blocks)
        return slots

    def of(self, keys: Sequence[Key]) -> Numbers:
        """Give the slot of each key; those that are met for the first time wait to be read."""
        if len(keys) <= FEW:
            return np.array([*map(self._of, keys)], np.int64)
        names = [key[0] if type(key) is tuple and key else key for key in keys]
        alike = names[0] in self.grids and names.count(names[0]) == len(names)
        if alike and (blocks := self._blocks(names[0], keys)) is not None:
            return blocks
        slots = np.empty(len(keys), np.int64)
        rest: Sequence[int] = range(len(keys))
        # Blocks of one array at once, where that is worth it: each array takes a look at all keys.
        for name in self.grids.keys() & names:
            own = [i for i in rest if names[i] == name]
            blocks = self._blocks(name, [keys[i] for i in own]) if len(own) > FEW else None
            if blocks is not None:
                slots[own] = blocks
                rest = [i for i in rest if names[i] != name]
        for i in rest:
            slots[i] = self._of(keys[i])
        return slots

    def _of(self, key: Key) -> int:
        slot = self.loose.get(key)
        if slot is not None:
            return slot
        name = name_of(key)
        if name in self.grids and (block := self._block(key, *self.grids[name])) is not None:
            return block
        slot = self.loose[key] = len(self.state) + len(self.loose)
        self.waiting[name].add(key)
        return slot

    def was_read(self, key: Key) -> bool:
        """Whether the task of a key was read already."""
        name = name_of(key)
        if key in self.loose:
            return key not in self.waiting[name]
        block = self._block(key, *self.grids[name]) if name in self.grids else None
        return block is not None and bool(self.state[block] == READ)

    @staticmethod
    def _block(key: Key, start: int, shape: tuple[int, ...]) -> int | None:
        if type(key) is not tuple or len(key) != 1 + len(shape):
            return None
        place = 0
        for index, length in zip(key[1:], shape):
            number = index if type(index) is int else _whole(index)
            if not 0 <= number < length:
                return None
            place = place * length + number
        return start + place

    def _blocks(self, name: Hashable, keys: Sequence[Key]) -> Numbers | None:
        """Slots of many blocks of one grid; None if not all of them are in it."""
        start, shape = self.grids[name]
        if set(map(type, keys)) != {tuple} or set(map(len, keys)) != {1 + len(shape)}:  # type: ignore[arg-type]
            return None
        if not shape:
            return np.full(len(keys), start)
        places = np.full(len(keys), start)
        for axis, (length, stride) in enumerate(zip(shape, strides(shape)), 1):
            column = [key[axis] for key in keys]  # type: ignore[index]
            if set(map(type, column)) != {int}:  # such as tuples, which NumPy would take apart
                return None
            indices = np.array(column)
            if indices.dtype.kind != "i" or indices.min() < 0 or indices.max() >= length:
                return None
            places += stride * indices
        return places


def _whole(index: Any) -> int:
    """The number of a block that equals `index`, or -1: (x, 1) and (x, numpy.int64(1)) are one."""
    try:
        whole = int(index)
    except (TypeError, ValueError, OverflowError):
        return -1
    return whole if whole == index else -1


def block_keys(
    name: Hashable, blocks: Numbers, shape: tuple[int, ...]
) -> Iterator[tuple[Any, ...]]:
    """Keys of blocks that are given by their place in a grid."""
    return zip(repeat(name, len(blocks)), *(axis.tolist() for axis in block_indices(blocks, shape)))


def block_indices(blocks: Numbers, shape: tuple[int, ...]) -> tuple[Numbers, ...]:
    """Index along each axis, of blocks given by their place in a grid."""
    return tuple(np.unravel_index(blocks, shape)) if shape else ()


def strides(shape: Sequence[int]) -> list[int]:
    """How far apart in a grid blocks are that are neighbours along each axis."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]
