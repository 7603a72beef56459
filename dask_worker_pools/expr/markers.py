"""Markers: expressions that say where what stands below them runs.

A marker floats up: a parent whose marked inputs are all in one place becomes one marker above the
parent of the bare inputs. So below a marker stands a tree as Dask would have built it without
pools, in which every rewrite of Dask finds what it looks for. Where two places meet the markers
stay, and a marker without a place goes on top, so that the root of every expression that touches
a pool is a marker.
"""

from __future__ import annotations

import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from dask._expr import Expr, _ExprSequence
from dask.tokenize import tokenize

from dask_worker_pools.expr.places import LIVE, Place, inside, within
from dask_worker_pools.expr.said import NOTHING, Said
from dask_worker_pools.expr.went import remember

if TYPE_CHECKING:
    from dask.highlevelgraph import MaterializedLayer

Dependents = defaultdict[str, list[weakref.ref[Expr]]]


class Marker:
    """What markers of all kinds of expressions have in common; mixed into an expression class."""

    frame: Any
    place: Place
    said: Said  #: what the user said of the expressions below
    operands: list[Any]
    _name: str
    _determ_token: str | None

    #: the kind of expressions that may stand below and above
    family: type[Expr]
    #: the class of the marker once it has been lowered
    settled: type[Any]

    @property
    def _meta(self) -> Any:
        return self.frame._meta

    def __init__(self, *operands: Any, **parameters: Any) -> None:
        # Defined so that Dask does not take an older marker of the same name: it notes in one that
        # it was optimised.
        pass

    def __dask_tokenize__(self) -> str:
        # All that was said: Dask takes an older parent of the same name, with its older markers.
        if not self._determ_token:
            name = type(self).__name__
            self._determ_token = tokenize(name, self.frame._name, self.place, *self.said)
        return self._determ_token

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.frame}, {self.place!r})"

    # --- what Dask's optimiser calls

    def finalize_compute(self) -> Any:
        """What is computed for the user, in the pool too."""
        return marker(type(self), self.frame.finalize_compute(), self.place, self.said)

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
        if (before := done.get(self._name)) is not None:
            return before
        # What Dask computes here on its own account, such as quantiles, runs in the pool.
        with within(self.place):
            frame = step(self.frame)
        result: Any = self
        if frame._name != self.frame._name or (kind and not isinstance(self, kind)):
            result = marker(kind or type(self), frame, self.place, self.said)
            if kind:
                result.__dict__["before"] = self
        done[self._name] = result
        return result

    def _simplify_up(self, parent: Any, dependents: Dependents) -> Any:
        if type(parent) is _ExprSequence:
            from dask_worker_pools.expr.sequence import PlacedSequence

            return PlacedSequence.of(parent.operands)
        if isinstance(parent, Marker) or not isinstance(parent, self.family):
            return None
        if inside() not in (None, ()):  # the user said where the parent runs
            return None
        above = [ref() for ref in dependents.get(parent._name, ())]
        root = all(one is None or isinstance(one, _ExprSequence) for one in above)
        new = floated(parent, type(self), root)
        if new is None or new.place is None or not has_marker(new.frame):
            return new
        # Dask goes on below a new marker without asking it, and other pools' markers down there
        # would float over what belongs to this one.
        return marker(type(self), *lifted(parent, None)) if root else None

    # --- the graph

    def names(self) -> set[str]:
        """The names that it has, and had before it was lowered if Dask's own stayed the same."""
        name = bare(self)._name
        found, one = {self._name}, self.__dict__.get("before")
        while one is not None and bare(one)._name == name:
            found.add(one._name)
            one = one.__dict__.get("before")
        return found

    @property
    def layer(self) -> MaterializedLayer:
        """The graph, with its pools, as one layer that is planned where it is materialised."""
        from dask_worker_pools.expr.layer import PlacedLayer
        from dask_worker_pools.expr.regions import placed

        return PlacedLayer(placed([self]))

    def _layer(self) -> Any:
        return self.layer

    def __dask_graph__(self) -> Any:
        remember(bare(self)._name, LIVE if self.place is None else self.place)
        return self.layer

    def __dask_annotations__(self) -> dict[str, Any]:
        return {}

    def __dask_keys__(self) -> Any:
        plain = bare(self)
        remember(plain._name, LIVE if self.place is None else self.place)
        return plain.__dask_keys__()


#: Where expressions keep what `has_marker` tells of them.
_MARKED = "_has_marker"

#: The kinds of markers that there are; each adds itself where it is defined.
KINDS: list[type[Any]] = []


def kind_of(expr: Any) -> type[Any] | None:
    """The kind of marker for an expression, if there is one."""
    if "dask.dataframe" in sys.modules:
        # It registers itself, where that has not been done: in tasks, on workers.
        from dask_worker_pools.expr import frames  # noqa: F401
    found = next((kind for kind in KINDS if isinstance(expr, kind.family)), None)
    if found is None and isinstance(expr, Expr):
        from dask_worker_pools.expr.arrays import kind_of_array

        return kind_of_array(expr)
    return found


def marked(frame: Any, place: Place, *said: Any) -> Any:
    """A marker of the kind that fits; `frame` itself, if there is none."""
    kind = kind_of(frame)
    return frame if kind is None else kind(frame, place, Said(*said))


def marker(kind: type[Any], frame: Any, place: Place, said: Said = NOTHING) -> Any:
    """A marker around `frame`. Of two that would stand around each other, one says all."""
    if isinstance(frame, Marker) and (place is None or frame.place in (place, None)):
        place = frame.place if place is None else place
        frame, said = frame.frame, said | frame.said
    return kind(frame, place, said)


def floated(parent: Any, kind: type[Any], root: bool) -> Any:
    """`parent` with the markers of its inputs above it; None if nothing is to be done.

    `root`: nothing stands above `parent`, so that a marker is needed there.
    """
    places = {one.place for one in parent.dependencies() if isinstance(one, Marker)}
    single = next(iter(places)) if len(places) == 1 else None
    if single is None or single is LIVE:
        below, _, said = lifted(parent, None)
        return marker(kind, below, None, said) if root or None in places else None
    return marker(kind, *lifted(parent, single))


def has_marker(expr: Any) -> bool:
    """Whether there is a marker in an expression; it never changes, so this is told once."""
    stack = [expr]
    while stack:
        one = stack[-1]
        inputs = one.dependencies()
        if waiting := [each for each in inputs if _MARKED not in each.__dict__]:
            stack += waiting
            continue
        stack.pop()
        below = any(each.__dict__[_MARKED] for each in inputs)
        one.__dict__[_MARKED] = below or isinstance(one, Marker)
    return bool(expr.__dict__[_MARKED])


def lifted(parent: Any, place: Place) -> tuple[Any, Place, Said]:
    """`parent` with no markers of `place`, and none without a place, below it.

    With it come `place` and what the markers that were there had kept.
    """
    found: list[Said] = []
    below = _without(parent, place, found, {})
    return below, place, reduce(or_, found, NOTHING)


def _without(expr: Any, place: Place, found: list[Said], done: dict[str, Any]) -> Any:
    if expr._name not in done:
        operands = []
        for op in expr.operands:
            if isinstance(op, Marker):
                if op.place in (place, None):
                    found.append(op.said)
                    op = op.frame  # below a marker there is none of the same place
            elif isinstance(op, Expr):
                op = _without(op, place, found, done)
            operands.append(op)
        changed = any(new is not old for new, old in zip(operands, expr.operands))
        done[expr._name] = type(expr)(*operands) if changed else expr
    return done[expr._name]


def unmarked(expr: Any) -> Iterator[Any]:
    """The expressions that no marker stands above, each once."""
    found: set[str] = set()
    stack = [expr]
    while stack:
        one = stack.pop()
        if not isinstance(one, Marker) and one._name not in found:
            found.add(one._name)
            yield one
            stack.extend(one.dependencies())


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
