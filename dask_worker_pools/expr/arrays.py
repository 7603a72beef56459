"""Markers in arrays that are made of expressions.

They are dask.array's own under ``array.query-planning``, and those of the package dask-array.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import Any

from dask._expr import Expr

from dask_worker_pools.expr.again import marked_again
from dask_worker_pools.expr.layer import sent
from dask_worker_pools.expr.markers import KINDS, Marker, bare
from dask_worker_pools.travel import ByValue

#: Modules that have a class ``ArrayExpr``.
FAMILIES = ("dask.array._array_expr._expr", "dask_array._expr")


def array_kind(base: type[Any]) -> type[Any]:
    """The class of markers for arrays of one family, whose expressions are of class `base`."""

    class ArrayInPool(Marker, base):  # type: ignore[misc]
        """An array in a pool, as it was built."""

        family = base
        _parameters = ["frame", "place", "said"]  # noqa: RUF012

        @cached_property
        def _name(self) -> str:  # type: ignore[override]
            return f"{type(self).__name__.lower()}-{self.deterministic_token}"

        @cached_property
        def chunks(self) -> Any:
            return self.frame.chunks

        def __reduce__(self) -> Any:
            return ByValue(marked_again), (self.frame, self.place, *self.said)

    class LoweredArrayInPool(ArrayInPool):
        """An array in a pool, lowered."""

        def __reduce__(self) -> Any:
            return sent(self, bare(self))  # it is on its way to a scheduler

    ArrayInPool.settled = LoweredArrayInPool
    KINDS.append(ArrayInPool)
    return ArrayInPool


def kind_of_array(expr: Expr) -> type[Any] | None:
    """The kind of marker for an expression of an array, made when it is first asked for."""
    for module in FAMILIES:
        base = getattr(sys.modules.get(module), "ArrayExpr", None)
        if base is not None and isinstance(expr, base):
            return array_kind(base)
    return None
