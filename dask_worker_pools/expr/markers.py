"""Markers: expressions that say where what stands below them runs.

A marker floats up: a parent whose marked inputs are all in one place becomes one marker above the
parent of the bare inputs. So below a marker stands a tree as Dask would have built it without
pools, in which every rewrite of Dask finds what it looks for. Where two places meet the markers
stay, and a marker without a place goes on top, so that the root of every expression that touches
a pool is a marker.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dask._expr import Expr, _ExprSequence

from dask_worker_pools.expr.places import LIVE, Place, inside, within

if TYPE_CHECKING:
    from dask_worker_pools.expr.layer import PlacedLayer

Dependents = defaultdict[str, list[weakref.ref[Expr]]]


class Marker:
    """What markers of all kinds of expressions have in common; mixed into an expression class."""

    frame: Any
    place: Place
    operands: list[Any]
    _name: str

    #: the kind of expressions that may stand below and above
    family: type[Expr]
    #: the class of the marker once it has been lowered
    settled: type[Any]

    @property
    def _meta(self) -> Any:
        return self.frame._meta

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.frame}, {self.place!r})"

    def around(self, frame: Any, place: Place) -> Any:
        """A marker of this kind, and never a marker directly around a marker of the same place."""
        return marker(type(self), frame, place)

    # --- what Dask's optimiser calls

    def simplify_once(self, dependents: Dependents, simplified: dict[str, Any]) -> Any:
        """Simplify what is below as if there were no marker."""
        return self._step(simplified, lambda frame: frame.simplify_once(dependents, simplified))

    def rewrite(self, kind: str, rewritten: dict[str, Any]) -> Any:
        """Rewrite what is below as if there were no marker."""
        return self._step(rewritten, lambda frame: frame.rewrite(kind=kind, rewritten=rewritten))

    def lower_once(self, lowered: dict[str, Any]) -> Any:
        """Lower what is below as if there were no marker."""
        return self._step(lowered, lambda frame: frame.lower_once(lowered), self.settled)

    def _step(
        self, done: dict[str, Any], step: Callable[[Any], Any], kind: type[Any] | None = None
    ) -> Any:
        if self._name not in done:
            # What Dask computes here on its own account, such as quantiles, runs in the pool.
            with within(self.place):
                frame = step(self.frame)
            if frame._name != self.frame._name or (kind and not isinstance(self, kind)):
                done[self._name] = marker(kind or type(self), frame, self.place)
            else:
                done[self._name] = self
        return done[self._name]

    def _simplify_up(self, parent: Any, dependents: Dependents) -> Any:
        if type(parent) is _ExprSequence:
            return PlacedSequence(*parent.operands)
        if isinstance(parent, Marker) or not isinstance(parent, self.family):
            return None
        if inside() is not None:  # the user said where the parent runs
            return None
        root = not any(ref() is not None for ref in dependents.get(parent._name, ()))
        return floated(parent, type(self), root)

    # --- the graph

    @property
    def layer(self) -> PlacedLayer:
        """The graph, with its pools, as one layer that is planned where it is materialised."""
        from dask_worker_pools.expr.layer import PlacedLayer

        return PlacedLayer([self])

    def _layer(self) -> Any:
        return self.layer

    __dask_graph__ = _layer

    def __dask_annotations__(self) -> dict[str, Any]:
        return {}

    def __dask_keys__(self) -> Any:
        return bare(self).__dask_keys__()


class PlacedSequence(_ExprSequence):
    """Several expressions computed at once, some of them with a pool: planned together."""

    @property
    def layer(self) -> PlacedLayer:
        """The graph of all, as one layer."""
        from dask_worker_pools.expr.layer import PlacedLayer

        return PlacedLayer(self.operands)

    def __dask_graph__(self) -> Any:
        return self.layer

    _layer = __dask_graph__

    def __dask_annotations__(self) -> dict[str, Any]:
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        from dask_worker_pools.expr.layer import sent

        return sent(self, bare_sequence(self))

    def __dask_keys__(self) -> list[Any]:
        return [list(bare(op).__dask_keys__()) for op in self.operands]


#: The kinds of markers that there are; each adds itself where it is defined.
KINDS: list[type[Any]] = []


def kind_of(expr: Any) -> type[Any] | None:
    """The kind of marker for an expression, if there is one."""
    return next((kind for kind in KINDS if isinstance(expr, kind.family)), None)


def bare_sequence(sequence: _ExprSequence) -> _ExprSequence:
    """The same expressions without markers."""
    return _ExprSequence(*map(bare, sequence.operands))


def marker(kind: type[Any], frame: Any, place: Place) -> Any:
    """A marker around `frame`, unless a marker that says more is there."""
    if isinstance(frame, Marker):
        if place is None or frame.place == place:
            return frame if isinstance(frame, kind) else kind(frame.frame, frame.place)
        if frame.place is None:
            return kind(frame.frame, place)
    return kind(frame, place)


def floated(parent: Any, kind: type[Any], root: bool) -> Any:
    """`parent` with the markers of its inputs above it; None if nothing is to be done.

    `root`: nothing stands above `parent`, so that a marker is needed there.
    """
    places = {one.place for one in parent.dependencies() if isinstance(one, Marker)}
    single = next(iter(places)) if len(places) == 1 else None
    if single is None or single is LIVE:
        return marker(kind, lifted(parent, None), None) if root or None in places else None
    return marker(kind, lifted(parent, single), single)


def lifted(parent: Any, place: Place) -> Any:
    """`parent` with no markers of `place`, and none without a place, right below it."""
    operands = [
        op.frame if isinstance(op, Marker) and op.place in (place, None) else op
        for op in parent.operands
    ]
    changed = any(new is not old for new, old in zip(operands, parent.operands))
    return type(parent)(*operands) if changed else parent


def bare(expr: Any, done: dict[str, Any] | None = None) -> Any:
    """The expression without its markers: exactly Dask's own."""
    done = {} if done is None else done
    if expr._name in done:
        return done[expr._name]
    if isinstance(expr, Marker):
        result = bare(expr.frame, done)
    else:
        operands = [_bare_operand(op, done) for op in expr.operands]
        changed = any(new is not old for new, old in zip(operands, expr.operands))
        result = type(expr)(*operands) if changed else expr
    done[expr._name] = result
    return result


def _bare_operand(operand: Any, done: dict[str, Any]) -> Any:
    if isinstance(operand, Expr):
        return bare(operand, done)
    # Fused expressions hold the expressions that were fused in a list.
    if isinstance(operand, list) and operand and all(isinstance(op, Expr) for op in operand):
        new = [bare(op, done) for op in operand]
        return new if any(a is not b for a, b in zip(new, operand)) else operand
    return operand
