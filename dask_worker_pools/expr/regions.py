"""From markers to the place of each expression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dask.delayed import Delayed
from dask.typing import Key

from dask_worker_pools.annotations import Annotations, annotations_by_key
from dask_worker_pools.expr.markers import Marker, bare
from dask_worker_pools.expr.places import Place
from dask_worker_pools.graph import as_high_level


def places_of(exprs: Iterable[Any]) -> dict[str, Place]:
    """The place of each expression below markers, by the name that it has without markers."""
    names: dict[str, Any] = {}
    found: dict[str, set[Place]] = {}
    stack: list[tuple[Any, Place]] = [(expr, None) for expr in exprs]
    seen: set[tuple[str, Place]] = set()
    while stack:
        expr, place = stack.pop()
        if (expr._name, place) in seen:
            continue
        seen.add((expr._name, place))
        if isinstance(expr, Marker):
            stack.append((expr.frame, expr.place))
            continue
        found.setdefault(bare(expr, names)._name, set()).add(place)
        stack.extend((one, place) for one in expr.dependencies())
    # What two places use, and was not said to be in either, is left to the planner.
    return {
        name: place
        for name, places in found.items()
        if len(places) == 1 and (place := next(iter(places))) is not None
    }


def delayed_pins(exprs: Iterable[Any]) -> dict[Key, Annotations]:
    """What was said of the delayed objects that frames were made from."""
    said: dict[Key, Annotations] = {}
    stack = list(exprs)
    seen: set[str] = set()
    while stack:
        expr = stack.pop()
        if expr._name in seen:
            continue
        seen.add(expr._name)
        stack.extend(expr.dependencies())
        for operand in expr.operands:
            if isinstance(operand, Delayed):
                for layer in as_high_level(operand.__dask_graph__()).layers.values():
                    for key, own in annotations_by_key(layer.annotations, layer.keys()):
                        said[key] = own
    return said
