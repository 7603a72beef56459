"""From markers to the place of each expression: what `Placed` holds.

What is made of one pool's frames alone goes along with them, without a look at its tasks, so long
as it does not grow: what is larger than what it is made of had better be made where it is needed. A
plan of whole expressions tells which these are, and leaves them to the plan of tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from math import isfinite
from typing import Any

from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, Layer
from dask.typing import Key

from dask_worker_pools import placement
from dask_worker_pools.annotations import (
    BLOCKED,
    Annotations,
    annotations_by_key,
    is_planned,
    said_inside,
)
from dask_worker_pools.edges import toposort
from dask_worker_pools.expr.blocks import is_frame, is_graph
from dask_worker_pools.expr.locks import unlock
from dask_worker_pools.expr.markers import Marker, bare
from dask_worker_pools.expr.pins import declared_sizes
from dask_worker_pools.expr.places import LIVE, Place, place_in
from dask_worker_pools.expr.planned import Placed, walk
from dask_worker_pools.expr.rows import PARTITION, Estimates
from dask_worker_pools.expr.said import is_loaded
from dask_worker_pools.graph import as_high_level
from dask_worker_pools.marks import mark_of


def placed(exprs: Iterable[Any]) -> Placed:
    """Lowered expressions with markers as bare ones and the place of each."""
    unlock()  # before they are sent to a scheduler, which may be in this process
    marked = list(exprs)
    names: dict[str, Any] = {}
    plain = [bare(expr, names) for expr in marked]
    found = _said(marked, names)
    declared = declared_sizes(marked)
    places = _grown(plain, found)
    if apart := _better_apart(plain, found, places, declared):
        places = _grown(plain, found, apart)
    said: dict[Key, Annotations] = {}
    delayed: set[str] = set()
    for expr in walk(plain):
        held = held_annotations(expr)
        if held or _delayed(expr):
            said |= held
            delayed.add(expr._name)
    sizes = _sizes(plain, places, declared)
    return Placed(plain, places, said, delayed, *sizes)


def _said(marked: Iterable[Any], names: dict[str, Any]) -> dict[str, set[Place]]:
    """The places that were said of each expression, by the name that it has without markers.

    Of what markers took along, floating up from sources, nothing was said.
    """
    found: dict[str, set[Place]] = {}
    stack: list[tuple[Any, Place, bool]] = [(expr, None, True) for expr in marked]
    seen: set[tuple[str, Place, bool]] = set()
    while stack:
        expr, place, all_of_it = stack.pop()
        if (expr._name, place, all_of_it) in seen:
            continue
        seen.add((expr._name, place, all_of_it))
        if isinstance(expr, Marker):
            all_of_it = expr.said.steps or not isinstance(expr.place, str)
            stack.append((expr.frame, expr.place, all_of_it))
            continue
        own = found.setdefault(bare(expr, names)._name, set())
        if all_of_it or is_loaded(expr):
            own.add(place)
        stack.extend((one, place, all_of_it) for one in expr.dependencies())
    return found


def _better_apart(
    plain: Iterable[Any],
    found: Mapping[str, set[Place]],
    places: Mapping[str, Place],
    declared: Mapping[str, float],
) -> set[str]:
    """Expressions that should not go along with their inputs, as far as whole ones can tell."""
    exprs = {expr._name: expr for expr in walk(plain)}
    said = {name: place for name, place in places.items() if found[name] == {place}}
    if len(said) == len(places) or len(set(places.values())) < 2:
        return set()
    estimates = Estimates(declared=declared)
    told = {name: estimates.all_bytes(expr) for name, expr in exprs.items()}
    if None in told.values():
        assuming = Estimates(estimates.typical_source() or PARTITION, declared)
        told = {name: assuming.all_bytes(expr) for name, expr in exprs.items()}
    best = placement.place(
        {name: [one._name for one in expr.dependencies()] for name, expr in exprs.items()},
        {name: where for name, where in said.items() if isinstance(where, str)},
        _known(told),
        allowed={name: where for name, where in said.items() if isinstance(where, tuple)},
        blocked=[name for name, where in said.items() if where is BLOCKED],
    )
    return {name for name in places.keys() - said.keys() if best[name] != places[name]}


def _grown(
    plain: Iterable[Any], found: Mapping[str, set[Place]], apart: Collection[str] = ()
) -> dict[str, Place]:
    """The place of each expression: the one that was said, or the one of all its inputs.

    What two places use, and was not said to be in either, is left to the planner, and so is what
    had better be apart from its inputs.
    """
    places: dict[str, Place] = {}
    exprs = {expr._name: expr for expr in walk(plain)}
    needs = {name: [one._name for one in expr.dependencies()] for name, expr in exprs.items()}
    for expr in map(exprs.__getitem__, toposort(needs)):
        said = found[expr._name]
        place = next(iter(said)) if len(said) == 1 else None
        if place is None and len(said) < 2 and expr._name not in apart:
            inputs = {places.get(one._name) for one in expr.dependencies()}
            single = next(iter(inputs)) if len(inputs) == 1 else None
            place = single if isinstance(single, str) else None
        if place is not None and place is not LIVE:
            places[expr._name] = place
    return places


def _sizes(
    plain: Iterable[Any], places: dict[str, Place], declared: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes of a partition, where a choice depends on them, or else what it weighs.

    If one of them is unknown all are left out: what was assumed must not be reported as bytes. A
    partition weighs as many partitions of sources as it holds, if those of unknown size are as
    large as the others.
    """
    between = {one._name: one for one in _between(plain, places)}
    estimates = Estimates(declared=declared)
    told = {name: estimates.nbytes(one) for name, one in between.items()}
    nbytes = _known(told)
    if len(nbytes) == len(told):
        # Those inside pools change nothing, but who looks at a plan wants to see them.
        return _known({one._name: estimates.nbytes(one) for one in walk(plain)}), {}
    unit = estimates.typical_source() or PARTITION
    assuming = Estimates(unit, declared)
    guessed = {name: assuming.nbytes(one) for name, one in between.items() if is_frame(one)}
    return {}, {name: size / unit for name, size in _known(guessed).items()}


def _between(plain: Iterable[Any], places: dict[str, Place]) -> Iterator[Any]:
    """The expressions that are not inside one pool, and their inputs."""
    for expr in walk(plain):
        place = places.get(expr._name)
        inner = all(places.get(one._name) == place for one in expr.dependencies())
        if not (inner and isinstance(place, str)):
            yield from (expr, *expr.dependencies())


def _known(sizes: dict[str, float | None]) -> dict[str, float]:
    return {name: size for name, size in sizes.items() if size is not None and isfinite(size)}


def _delayed(expr: Any) -> list[Delayed]:
    return [operand for operand in expr.operands if isinstance(operand, Delayed)]


def held_annotations(expr: Any) -> dict[Key, Annotations]:
    """What was said of single tasks of the graphs that an expression holds."""
    said: dict[Key, Annotations] = {}
    for one in _delayed(expr):
        said |= _layer_annotations(as_high_level(one.__dask_graph__()))
    if is_graph(expr):
        graph = expr.operand("layer")
        if isinstance(graph, HighLevelGraph):
            said |= _layer_annotations(as_high_level(graph))
        elif isinstance(graph, Layer):
            said |= dict(annotations_by_key(graph.annotations, graph.keys()))
        marks = ((key, mark_of(task)) for key, task in dict(graph).items())
        said |= {key: said_inside(mark[0], said.get(key, {})) for key, mark in marks if mark}
    return said


def _layer_annotations(graph: HighLevelGraph) -> dict[Key, Annotations]:
    said: dict[Key, Annotations] = {}
    for layer in graph.layers.values():
        said.update(annotations_by_key(layer.annotations, layer.keys()))
    return said


def held_places(expr: Any) -> set[Place]:
    """The places of what an expression takes from the graphs it holds; empty if nothing is said."""
    said = held_annotations(expr)
    keys = expr.operand("keys") if is_graph(expr) else [one.key for one in _delayed(expr)]
    own = [said.get(key, {}) for key in keys]
    return {None if is_planned(one) else place_in(one) for one in own} if said else set()
