"""The graph of expressions with pools, as a plan or a drawing wants it: a layer for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dask
from dask._expr import Expr
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.typing import Key

from dask_worker_pools.cluster import TASK_BASED
from dask_worker_pools.expr.ignored import unasked
from dask_worker_pools.expr.markers import Marker, bare, kind_of, marker
from dask_worker_pools.expr.planned import by_expression
from dask_worker_pools.expr.regions import placed
from dask_worker_pools.expr.said import Said
from dask_worker_pools.expr.sequence import PlacedSequence


def is_expression(collection: Any) -> bool:
    """Whether a collection is made of expressions that can have pools."""
    expr = getattr(collection, "expr", None)
    return isinstance(expr, Expr) and kind_of(expr) is not None


def graph_of(exprs: Iterable[Any]) -> tuple[HighLevelGraph, list[Key]]:
    """The optimised graph of expressions, with the user's pins, and its output keys.

    What Dask's optimiser computes on its own account, such as the quantiles for an index, is
    computed.
    """
    # As inside `propagate_pools`: the other method cannot keep to a pool.
    with dask.config.set(dict.fromkeys(TASK_BASED.values(), "tasks")), unasked():
        sequence = PlacedSequence.of(exprs).optimize()
    found = placed(sequence.operands)
    return by_expression(found), found.keys()


def pool_of(collection: Any) -> str | None:
    """The pool that an expression as a whole was said to be in, or follows to."""
    place = collection.expr.place if isinstance(collection.expr, Marker) else None
    return place if isinstance(place, str) else None


def kept(collection: Any) -> HighLevelGraph | None:
    """The graph of a persisted collection; None of others, whose graph is not made for that."""
    expr = bare(collection.expr)
    if type(expr).__name__ != "FromGraph":
        return None
    return HighLevelGraph({expr._name: MaterializedLayer(expr._layer())}, {expr._name: set()})


def put(collection: Any, pool: str) -> Any:
    """The collection with a pool for all its tasks that have none."""
    expr = collection.expr
    kind = type(expr) if isinstance(expr, Marker) else kind_of(expr)
    assert kind is not None
    return type(collection)(marker(kind, expr, pool, Said(steps=True)))
