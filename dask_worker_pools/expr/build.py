"""Markers at build time: what a new collection's expression becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask

from dask_worker_pools.annotations import SIZE_KEY, check_nbytes
from dask_worker_pools.expr.blocks import is_graph
from dask_worker_pools.expr.markers import (
    Marker,
    bare,
    floated,
    has_marker,
    lifted,
    marker,
    unmarked,
)
from dask_worker_pools.expr.pins import pinned
from dask_worker_pools.expr.places import Place, place_in, single_place
from dask_worker_pools.expr.regions import held_places
from dask_worker_pools.expr.said import Said, is_source, source_name
from dask_worker_pools.expr.went import remembered


def built(kind: type[Any]) -> Callable[[Any], Any]:
    """The function that marks the expressions of a family as they become collections."""

    def mark(expr: Any) -> Any:
        if not isinstance(expr, kind.family) or isinstance(expr, Marker):
            return expr
        place = place_in(dask.get_annotations())
        if place is not None:
            return pinned_here(kind, expr, place)
        markers = [one for one in expr.dependencies() if isinstance(one, Marker)]
        if len({one.place for one in markers}) > 1:
            pinned(markers)  # complains as early as it can
        if markers:
            return floated(expr, kind, root=True)
        # Dask's optimiser computes parts of an expression, which may have markers further down.
        if has_marker(expr):
            return marker(kind, expr, None)
        if places := _inherited(expr):
            return marker(kind, expr, single_place(places))
        return expr

    return mark


def pinned_here(kind: type[Any], expr: Any, place: Place) -> Any:
    """A marker that says that the user pinned an expression."""
    below, _, said = lifted(expr, place)
    return marker(kind, below, place, said | Said.pinned(bare(expr)) | Said((), _declared(expr)))


def _declared(expr: Any) -> tuple[tuple[str, float], ...]:
    """The size that annotations in force declare, of each source that has not got its pool yet."""
    nbytes = dask.get_annotations().get(SIZE_KEY)
    if nbytes is None or callable(nbytes):
        return ()
    sources = {source_name(one) for one in unmarked(expr) if is_source(one)}
    return tuple((name, check_nbytes(nbytes)) for name in sources)


def _inherited(expr: Any) -> set[Place]:
    """Where what a frame is made of lies: data in memory, or delayed objects."""
    if is_graph(expr):
        if places := held_places(expr):
            return places
        names = {key[0] for key in expr.operand("keys")}
        return {place for name in names for place in remembered(name)}
    # The frame that is made of delayed objects, or what makes its texts Arrow's.
    inner = [one for step in expr.dependencies() for one in (step, *step.dependencies())]
    return {place for one in inner for place in held_places(one)}
