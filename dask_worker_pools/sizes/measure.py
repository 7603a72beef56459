"""Bytes of outputs: of arrays that are not there, and of data that a graph holds.

Nothing is loaded or computed to be measured: a handle of data elsewhere counts as the handle.
"""

from dataclasses import dataclass
from itertools import islice
from math import isnan, nan, prod
from numbers import Number
from sys import getsizeof
from types import BuiltinFunctionType, FunctionType
from typing import Any

import dask.sizeof
import numpy as np

__all__ = ["Block", "Bytes", "Unknown", "element_bytes", "fixed_itemsize", "nbytes"]


class Unknown(Exception):
    """The output of a task cannot be told without running it."""


@dataclass(frozen=True, slots=True)
class Block:
    """An array that is not there.

    Examples
    --------
    >>> nbytes(Block((10, 3), np.dtype("float32")))
    120.0
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  #: of one element; a structured one where an output is several arrays
    extra: int = 0  #: bytes besides the elements: of what holds several arrays together

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)


@dataclass(frozen=True, slots=True)
class Bytes:
    """An output of which only the bytes are known."""

    nbytes: float


#: Arrays, there or not.
_ARRAYS = (Block, np.ndarray, np.generic)

#: Objects that hold nothing but what Python itself counts.
_PLAIN: tuple[type, ...] = (
    *(Number, str, bytes, bytearray, memoryview, type(None), slice, range, np.dtype),
    *(FunctionType, BuiltinFunctionType, type),
)

#: Packages whose objects are wholly in memory and known to `dask.sizeof`.
_IN_MEMORY = frozenset({"array", "cudf", "cupy", "pandas", "pyarrow", "scipy"})

#: Attributes of xarray's objects that give what is behind them without loading it.
_XARRAY_HOLDS = ("array", "_data", "_variable", "_variables")

#: Bytes of an object of NumPy's, by dtype, once they were asked for.
_numbers: dict[np.dtype[Any], int] = {}

#: So many items of a container are measured.
_SAMPLES = 50


def element_bytes(elements: float, dtype: np.dtype[Any], axes: int, extra: int = 0) -> float:
    """Give the bytes of so many elements.

    What has no axes counts as an object of NumPy's, as reductions give it: an array of no axes,
    which is rare, is smaller.
    """
    return float(elements * dtype.itemsize if axes else _number(dtype)) + extra


def _number(dtype: np.dtype[Any]) -> int:
    """Give the bytes of one element by itself, which is an object of NumPy's."""
    if dtype not in _numbers:
        _numbers[dtype] = int(dask.sizeof.sizeof(np.zeros((), dtype)[()]))
    return _numbers[dtype]


def fixed_itemsize(dtype: Any) -> int | None:
    """Give the bytes of one element, or None if they differ from one element to the next."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.kind == "T":
        return None
    return dtype.itemsize


def nbytes(value: object) -> float:
    """Give the bytes of an output.

    Data held by the graph is measured as `dask.sizeof` does, with two differences: samples of long
    containers are not random, and an object that would load or compute something to be measured
    counts as the handle it is.

    Raises
    ------
    Unknown
        If it cannot be told.
    """
    if isinstance(value, _ARRAYS):
        if fixed_itemsize(value.dtype) is None:
            size = nan
        elif isinstance(value, Block):
            size = element_bytes(prod(value.shape), value.dtype, value.ndim, value.extra)
        elif isinstance(value, np.ndarray):
            size = float(value.nbytes)
        else:
            size = float(_number(value.dtype))
        if isnan(size):
            raise Unknown(f"{value.dtype} with shape {value.shape}")
        return size
    if isinstance(value, Bytes):
        return float(value.nbytes)
    if isinstance(value, Unknown):
        raise value
    if isinstance(value, dict):
        return getsizeof(value) + _sample(value) + _sample(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return getsizeof(value) + _sample(value)
    try:
        return float(_measure(value))
    except Unknown:
        raise
    except Exception as error:
        raise Unknown(f"{type(value)}: {error}") from error


def _sample(items: Any) -> float:
    """Estimate the bytes of many items from some of them, evenly spread."""
    step = max(1, len(items) // _SAMPLES)
    some = [nbytes(item) for item in islice(items, 0, None, step)]
    return sum(some) * len(items) / len(some) if some else 0.0


def _measure(value: Any) -> float:
    package = (type(value).__module__ or "").partition(".")[0]
    if package == "xarray":
        # Its own ``data`` and ``values`` would load: go by the attributes behind them.
        held = [getattr(value, name, None) for name in _XARRAY_HOLDS]
        return sum(nbytes(part) for part in held if part is not None) or getsizeof(value)
    if package in _IN_MEMORY:
        # As a module's attribute: the function itself, a registry, must not travel by value.
        return float(dask.sizeof.sizeof(value))
    if isinstance(value, _PLAIN) or hasattr(type(value), "dtype"):
        # Also the handle of data elsewhere (zarr, HDF5): asked on the class, so nothing is opened.
        return float(getsizeof(value))
    raise Unknown(f"{type(value)} does not say how much it holds")
