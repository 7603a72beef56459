"""Markers at build time: what a new collection's expression becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask

from dask_worker_pools.expr.markers import Marker, floated, lifted, marker
from dask_worker_pools.expr.places import place_in


def built(kind: type[Any]) -> Callable[[Any], Any]:
    """The function that marks the expressions of a family as they become collections."""

    def mark(expr: Any) -> Any:
        if not isinstance(expr, kind.family) or isinstance(expr, Marker):
            return expr
        place = place_in(dask.get_annotations())
        if place is not None:
            return marker(kind, lifted(expr, place), place)
        if any(isinstance(one, Marker) for one in expr.dependencies()):
            return floated(expr, kind, root=True)
        return expr

    return mark
