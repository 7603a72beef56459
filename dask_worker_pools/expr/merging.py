"""Tells when Dask makes graphs of frames, to compute them with arrays or delayed objects.

Of such a graph Dask takes all keys that no other needs for the frame's partitions. So it must not
have the other names under which people look for partitions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

_merging: ContextVar[bool] = ContextVar("_merging", default=False)


def merging() -> bool:
    """Whether Dask makes graphs of frames, to compute them with others."""
    return _merging.get()


def while_merging(simplify_down: Callable[[Any], Any], sequence: Any) -> Any:
    """Let Dask simplify a sequence of expressions, and make graphs of all if some are graphs."""
    token = _merging.set(True)
    try:
        return simplify_down(sequence)
    finally:
        _merging.reset(token)
