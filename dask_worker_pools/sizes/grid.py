"""Blocks of arrays that are the product of their axes: many sizes in a few tuples."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import product
from math import isnan, prod
from operator import getitem
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.typing import Key

from dask_worker_pools.sizes.measure import element_bytes

__all__ = ["Axis", "Grid", "lengths_of"]

#: Lengths along one axis by block index. Overlap pieces have fractional indices.
Axis = Sequence[int] | Mapping[float, int]


@dataclass(frozen=True)
class Grid:
    """Blocks that are the product of their axes.

    Examples
    --------
    >>> grid = Grid("x", ((5, 5, 2), (4,)), np.dtype("int8"), "chunks")
    >>> grid.count, grid.total
    (3, 48.0)
    >>> grid.of(("x", 2, 0))
    8.0
    >>> dict(grid.items())
    {('x', 0, 0): 20.0, ('x', 1, 0): 20.0, ('x', 2, 0): 8.0}
    """

    name: str  #: first part of the keys
    axes: tuple[Axis, ...]  #: lengths by block index; NaN where unknown
    dtype: np.dtype[Any]  #: of one element; a structured one where an output is several arrays
    source: str  #: "chunks" or "derived"
    extra: int = 0  #: bytes of each block besides its elements, as of `Block`
    picked: Set[tuple[float, ...]] | None = None  #: the blocks of a culled layer; None: all

    @property
    def count(self) -> int:
        """Number of blocks."""
        return prod(map(len, self.axes)) if self.picked is None else len(self.picked)

    @property
    def known(self) -> int:
        """Number of blocks of known size."""
        if self.picked is not None:
            return sum(1 for _ in self.items())
        return prod(len(_known(axis)) for axis in self.axes)

    @property
    def total(self) -> float:
        """Bytes of all blocks of known size."""
        if self.picked is not None:
            return sum(size for _, size in self.items())
        elements = prod(sum(_known(axis)) for axis in self.axes)
        return element_bytes(elements, self.dtype, len(self.axes), self.extra * self.known)

    @property
    def uniform(self) -> float | None:
        """Bytes of each block if all are alike and known."""
        shape: list[int] = []
        for axis in self.axes:
            lengths = set(lengths_of(axis))
            if len(lengths) != 1:
                return None
            shape.extend(lengths)
        return self._of_shape(shape)

    def shape(self, key: Any) -> tuple[int, ...] | None:
        """Give the shape of a block by its key; None if the key is not one of this grid's."""
        if type(key) is not tuple or len(key) != 1 + len(self.axes) or key[0] != self.name:
            return None
        if self.picked is not None and key[1:] not in self.picked:
            return None
        try:
            return tuple(map(getitem, self.axes, key[1:]))
        except (LookupError, TypeError):
            return None

    def of(self, key: Any) -> float | None:
        """Give the bytes of a block by its key; None if unknown."""
        shape = self.shape(key)
        return None if shape is None else self._of_shape(shape)

    def _of_shape(self, shape: Sequence[int]) -> float | None:
        size = element_bytes(prod(shape), self.dtype, len(shape), self.extra)
        return None if isnan(size) else size

    def block_keys(self) -> Iterator[Key]:
        """Yield the keys of all blocks."""
        if self.picked is not None:
            return ((self.name, *index) for index in self.picked)
        return product((self.name,), *map(_indices, self.axes))

    def table(self) -> npt.NDArray[np.float64]:
        """Give the bytes of all blocks; NaN where unknown."""
        table = np.array(element_bytes(1, self.dtype, len(self.axes)))
        for axis in self.axes:
            table = np.multiply.outer(table, np.array(lengths_of(axis), dtype=float))
        return table + self.extra

    def items(self) -> Iterable[tuple[Key, float]]:
        """Yield the key and bytes of each block of known size."""
        if self.picked is not None:
            return [(key, size) for key in self.block_keys() if (size := self.of(key)) is not None]
        table = self.table()
        pairs = zip(self.block_keys(), table.ravel().tolist(), strict=True)
        if np.isnan(table).any():
            return [(key, size) for key, size in pairs if not isnan(size)]
        return pairs


def lengths_of(axis: Axis) -> list[int]:
    """Give the lengths of the blocks along an axis, in order."""
    return list(axis.values()) if isinstance(axis, Mapping) else list(axis)


def _indices(axis: Axis) -> Iterable[float]:
    return axis if isinstance(axis, Mapping) else range(len(axis))


def _known(axis: Axis) -> list[int]:
    return [length for length in lengths_of(axis) if not isnan(length)]
