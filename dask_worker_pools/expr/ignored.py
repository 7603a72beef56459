"""Pools that are not honoured, because `propagate_pools` is not on: said once a computation."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from dask._expr import Expr, HLGExpr, LLGExpr
from dask.highlevelgraph import Layer

from dask_worker_pools.annotations import POOL_KEY, annotations_by_key
from dask_worker_pools.errors import PoolsIgnored
from dask_worker_pools.expr.layer import PlacedLayer
from dask_worker_pools.expr.markers import Marker
from dask_worker_pools.expr.places import inside
from dask_worker_pools.expr.planned import walk
from dask_worker_pools.propagate import is_on

#: Whether what is computed here is computed by this package, and not by the user.
_unasked: ContextVar[bool] = ContextVar("_unasked", default=False)


@contextmanager
def unasked() -> Iterator[None]:
    """A block in which nothing is said of pools that are ignored."""
    token = _unasked.set(True)
    try:
        yield
    finally:
        _unasked.reset(token)


#: So the names of functions begin that make a collection, and may compute a part of what they read
#: to see what it is like. The user has computed nothing yet.
LOOKS_AT = ("from_", "read_")


def warn_if_ignored(expr: Any) -> None:
    """Say that pools are ignored, of something with a pool that goes to a cluster."""
    if is_on() or _unasked.get() or inside() != () or not _says_pool(expr):
        return
    level, called = _outside_of_dask()
    if called.startswith(LOOKS_AT):
        return
    caller = sys._getframe(level - 1)
    place = caller.f_code.co_filename, caller.f_lineno
    if place in _said_at and not _wanted_each_time():
        return
    _said_at.add(place)
    warnings.warn(
        "Something with a pool is computed outside of propagate_pools(): pools are ignored. "
        "Its tasks may run anywhere, and nothing follows it.",
        PoolsIgnored,
        stacklevel=level,
    )


#: Files and lines where it was said. Python notes that too, but forgets it whenever a filter of
#: warnings changes, as it does in many a computation.
_said_at: set[tuple[str, int]] = set()


def _wanted_each_time() -> bool:
    """Whether a filter asks for the warning each time that there is reason for it."""
    return any(
        action in ("always", "error") and text is None and issubclass(PoolsIgnored, category)
        for action, text, category, *_ in warnings.filters
    )


def _says_pool(expr: Any) -> bool:
    """Whether the user said a pool of anything in an expression."""
    if not isinstance(expr, Expr) or isinstance(expr, LLGExpr):  # what `submit` sends
        return False
    if isinstance(expr, HLGExpr):
        fused = expr.low_level_optimizer is not None  # else annotations hold as they are
        return any(_layer_says_pool(layer, fused) for layer in expr.hlg.layers.values())
    if any(isinstance(op, HLGExpr) for op in expr.operands):
        return any(map(_says_pool, expr.operands))
    return any(isinstance(one, Marker) and _is_pool(one.place) for one in walk([expr]))


def _layer_says_pool(layer: Layer, fused: bool) -> bool:
    if isinstance(layer, PlacedLayer):
        return any(map(_is_pool, layer.placed.places.values()))
    said = (layer.annotations or {}).get(POOL_KEY)
    if not fused or not callable(said):
        return fused and _is_pool(said)
    named = annotations_by_key({POOL_KEY: said}, layer.keys())
    return any(_is_pool(own.get(POOL_KEY)) for _, own in named)


def _is_pool(place: object) -> bool:
    return isinstance(place, str | tuple)


def _outside_of_dask() -> tuple[int, str]:
    """How far up the stack, from where it is asked, the user's own code is, and what it called."""
    frame, level, called = sys._getframe(1), 1, ""
    while frame.f_back is not None and _is_ours(frame.f_globals):
        called = frame.f_code.co_name
        frame, level = frame.f_back, level + 1
    return level, called


def _is_ours(module: Mapping[str, Any]) -> bool:
    package = str(module.get("__name__", "")).partition(".")[0]
    return package in ("dask", "distributed", "dask_worker_pools", "functools", "xarray")
