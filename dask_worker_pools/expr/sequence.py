"""Several expressions computed at once: planned together, with results in the order of the call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from dask._expr import Expr, HLGExpr, _ExprSequence, _HLGExprGroup, _HLGExprSequence
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from dask_worker_pools.expr.layer import PlacedLayer, sent
from dask_worker_pools.expr.markers import Marker, bare
from dask_worker_pools.expr.merging import while_merging
from dask_worker_pools.expr.pins import settled
from dask_worker_pools.expr.planned import Placed
from dask_worker_pools.expr.regions import placed
from dask_worker_pools.propagate import Hook, is_on
from dask_worker_pools.sizes import FRAME


class PlacedSequence(_ExprSequence):
    """Several expressions computed at once, some of them with a pool: planned together."""

    @classmethod
    def of(cls, exprs: Iterable[Any]) -> PlacedSequence:
        """The sequence of some expressions, with each pin where it belongs."""
        return cls(*settled(exprs))

    @cached_property
    def placed(self) -> Placed:
        """Where all of it runs, but for what is left to the planner."""
        return placed(self.operands)

    @property
    def layer(self) -> PlacedLayer:
        """The graph of all, as one layer."""
        return PlacedLayer(self.placed)

    def __dask_graph__(self) -> Any:
        return self.layer

    _layer = __dask_graph__

    def __dask_annotations__(self) -> dict[str, Any]:
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        return sent(self, _ExprSequence(*map(bare, self.operands)))

    def __dask_keys__(self) -> list[Any]:
        if is_on():
            # What frames have to compute for that is computed now. When Dask sends the graph it
            # holds a lock, and would wait for itself.
            _ = self.placed
        return [list(op.__dask_keys__()) for op in self.operands]


def as_graphs(original: Callable[..., Any], sequence: _ExprSequence) -> Any:
    """Make graphs of all operands where some are graphs already, which a pass is to plan.

    Goes around `_ExprSequence._simplify_down`. Dask's own graphs of frames have no optimisation and
    tell their keys in no order.
    """
    operands = sequence.operands
    if not any(map(_is_hooked, operands)) or not all(isinstance(op, Expr) for op in operands):
        return while_merging(original, sequence)
    frames = iter(settled(op for op in operands if not isinstance(op, HLGExpr)))
    return _HLGExprSequence(
        *(op if isinstance(op, HLGExpr) else _as_graph(next(frames)) for op in operands)
    )


def as_one_group(original: Callable[..., Any], sequence: _HLGExprSequence) -> Any:
    """Merge all graphs into one, which one pass plans.

    Goes around `_HLGExprSequence._tune_down`. Dask merges the graphs of one optimisation at a time,
    and takes the results in the order of these groups, whatever the order of the call.
    """
    operands = sequence.operands
    hook = next((op.low_level_optimizer for op in operands if _is_hooked(op)), None)
    if len(operands) < 2 or hook is None:
        return original(sequence)
    return _HLGExprSequence(
        _HLGExprGroup(
            dsk=HighLevelGraph.merge(*(op.hlg for op in operands)),
            low_level_optimizer=Hook(tuple(map(_own, operands)), hook.inherited),
            output_keys=[op.__dask_keys__() for op in operands],
            postcompute=[op.postcompute for op in operands],
        )
    )


def _is_hooked(expr: Any) -> bool:
    return isinstance(expr, HLGExpr) and isinstance(expr.low_level_optimizer, Hook)


def _own(graph: HLGExpr) -> Any:
    """The optimisation that a collection brings along, if it does."""
    found = graph.low_level_optimizer
    return next(iter(found.own), None) if isinstance(found, Hook) else found


def _as_graph(expr: Any) -> HLGExpr:
    optimized = expr.optimize()
    layer: Layer
    if isinstance(optimized, Marker):
        layer = optimized.layer
    else:
        tasks = optimized.__dask_graph__()
        layer = MaterializedLayer(tasks, collection_annotations={"type": FRAME})
    name = optimized._name
    return HLGExpr(HighLevelGraph({name: layer}, {name: set()}), Hook(), optimized.__dask_keys__())
