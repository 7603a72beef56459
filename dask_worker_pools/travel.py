"""Functions that travel by value: where they arrive this package need not be installed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import cloudpickle

__all__ = ["ByValue"]


class ByValue:
    """A function of this package that is pickled with all of the code that it needs.

    Examples
    --------
    >>> import pickle
    >>> from dask_worker_pools.plan import landing_key
    >>> pickle.loads(pickle.dumps(ByValue(landing_key)))("total", "B")
    'landing-B-total'
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self.function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return cloudpickle.loads, (_Compressed(_code(self.function)),)


@cache
def _code(function: Callable[..., Any]) -> bytes:
    """The code: the same each time, and slow to collect."""
    return zlib.compress(cloudpickle.dumps(function))


class _Compressed:
    """Bytes that are unpacked where they are unpickled: Dask keeps what it has sent for a while."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return zlib.decompress, (self.data,)
