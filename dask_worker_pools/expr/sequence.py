"""Several expressions computed at once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from dask._expr import HLGExpr, HLGFinalizeCompute, _ExprSequence, _HLGExprSequence
from dask.highlevelgraph import HighLevelGraph

from dask_worker_pools.expr.layer import PlacedLayer, sent
from dask_worker_pools.expr.markers import Marker, bare
from dask_worker_pools.expr.pins import settled
from dask_worker_pools.expr.planned import Placed
from dask_worker_pools.expr.regions import placed
from dask_worker_pools.propagate import Hook, is_on


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

    def _simplify_down(self) -> Any:
        """Make graphs of all, if some are graphs already, and let one pass plan them together."""
        graphs = (HLGExpr, HLGFinalizeCompute)
        if not is_on() or not any(isinstance(op, graphs) for op in self.operands):
            return super()._simplify_down()
        return _HLGExprSequence(
            *(op if isinstance(op, graphs) else _as_graph(op) for op in self.operands)
        )

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


def _as_graph(expr: Any) -> HLGExpr:
    optimized = expr.optimize()
    tasks = optimized.layer if isinstance(optimized, Marker) else optimized.__dask_graph__()
    graph = HighLevelGraph.from_collections(optimized._name, tasks, dependencies=())
    return HLGExpr(graph, Hook(), optimized.__dask_keys__())
