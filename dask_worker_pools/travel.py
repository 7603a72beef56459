"""Functions that travel by value: where they arrive this package need not be installed."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from operator import call
from types import ModuleType
from typing import Any

import cloudpickle

__all__ = ["ByValue"]

#: The module, made where functions arrive, that keeps them there; and how many it keeps.
KEEPER, KEPT = "functions that came by value from dask-worker-pools", 16


class ByValue:
    """A function of this package that is pickled with all of the code that it needs.

    A process to which the same function comes again from the same process, as it does to a
    scheduler with each computation, uses what it unpacked the first time.

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
        return call, (_Unpacked(_unpacking()), *_packed(self.function))


def arrived(name: str, code: bytes) -> Any:
    """The function that travels as `code`, unpacked when it first comes to this process."""
    keeper = sys.modules.setdefault(KEEPER, ModuleType(KEEPER))
    kept: dict[str, Any] = vars(keeper).setdefault("functions", {})
    function = kept.pop(name, None)
    if function is None:
        for longest_unused in list(kept)[: max(0, len(kept) - KEPT + 1)]:
            kept.pop(longest_unused, None)
        function = cloudpickle.loads(zlib.decompress(code))
    kept[name] = function
    return function


class _Unpacked:
    """What was pickled already, and is unpickled with what holds it."""

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled

    def __reduce__(self) -> tuple[Any, ...]:
        return cloudpickle.loads, (self.pickled,)


@cache
def _unpacking() -> bytes:
    """`arrived` itself, by value."""
    pickled: bytes = cloudpickle.dumps(arrived)
    return pickled


@cache
def _packed(function: Callable[..., Any]) -> tuple[str, bytes]:
    """A name for the code, and the code: the same each time, and slow to collect."""
    code = zlib.compress(cloudpickle.dumps(function))
    return sha256(code).hexdigest(), code
