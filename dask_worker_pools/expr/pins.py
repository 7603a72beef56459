"""Which expressions the user pinned: two places for one are an error, and a pin holds everywhere.

Markers float up over what follows, and take what has no pool with them. So they also say, by name,
which of the expressions below the user pinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dask_worker_pools.errors import ConflictingPools
from dask_worker_pools.expr.markers import Marker, bare, floated, kind_of, lifted, marker
from dask_worker_pools.expr.places import Place
from dask_worker_pools.expr.said import Said


def pinned(exprs: Iterable[Any]) -> dict[str, Place]:
    """The place of each expression that the user pinned, by its bare name.

    Raises
    ------
    ConflictingPools
        One is pinned to two pools.
    """
    said: dict[str, Place] = {}
    for expr, _ in _with_places(exprs):
        if not isinstance(expr, Marker):
            continue
        for name in expr.said.pins:
            before = said.setdefault(name, expr.place)
            pools = {place for place in (before, expr.place) if isinstance(place, str)}
            if len(pools) > 1:
                raise ConflictingPools(name, name.rpartition("-")[0] or name, sorted(pools))
            if isinstance(expr.place, str):
                said[name] = expr.place
    return said


def settled(exprs: Iterable[Any]) -> list[Any]:
    """The expressions, marked so that each pinned one is in its place wherever it occurs.

    One may have been built in a pool and, the same again, without: then it went along into
    whatever pool it was used in.
    """
    marked = list(exprs)
    said = pinned(marked)
    names: dict[str, Any] = {}
    astray = (
        said.get(bare(expr, names)._name, place) != place
        for expr, place in _with_places(marked)
        if not isinstance(expr, Marker)
    )
    if not said or not any(astray):
        return marked
    done: dict[str, Any] = {}
    sizes = Said((), tuple(sorted(declared_sizes(marked).items())))
    return [_marked_again(bare(expr), said, sizes, done) for expr in marked]


def declared_sizes(exprs: Iterable[Any]) -> dict[str, float]:
    """Bytes of a partition of sources, by their names (`source_name`), as the user declared them.

    Where they were declared twice, the larger counts.
    """
    markers = (expr for expr, _ in _with_places(exprs) if isinstance(expr, Marker))
    return dict(sorted({size for expr in markers for size in expr.said.sizes}))


def _marked_again(expr: Any, said: dict[str, Place], sizes: Said, done: dict[str, Any]) -> Any:
    kind = kind_of(expr)
    if expr._name not in done:
        operands = [
            _marked_again(op, said, sizes, done) if hasattr(op, "_name") and kind_of(op) else op
            for op in expr.operands
        ]
        changed = any(new is not old for new, old in zip(operands, expr.operands))
        new = type(expr)(*operands) if changed else expr
        if expr._name in said and kind:
            place = said[expr._name]
            new = marker(kind, lifted(new, place)[0], place, sizes | Said.pinned(expr))
        elif kind and any(isinstance(one, Marker) for one in new.dependencies()):
            new = floated(new, kind, root=True)
        done[expr._name] = new
    return done[expr._name]


def _with_places(exprs: Iterable[Any]) -> Iterator[tuple[Any, Place]]:
    """Each expression, markers too, with each place that it is in."""
    stack: list[tuple[Any, Place]] = [(expr, None) for expr in exprs]
    seen: set[tuple[str, Place, tuple[Any, ...]]] = set()
    while stack:
        expr, place = stack.pop()
        known = expr._name, place, expr.said if isinstance(expr, Marker) else ()
        if known not in seen:
            seen.add(known)
            yield expr, place
            below = expr.place if isinstance(expr, Marker) else place
            stack.extend((one, below) for one in expr.dependencies())
