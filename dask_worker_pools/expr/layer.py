"""The graph of expressions with pools: one layer that is planned where it is materialised.

In the user's process it is the graph as Dask would have built it, with the user's pins as
annotations. On its way to a scheduler it becomes a `PlannedLayer`, which takes the pass along. In
a graph of arrays or delayed objects, which has a pass of its own, it is opened instead, and
planned together with the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

import dask
from dask._expr import Expr, HLGExpr
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.typing import Key

from dask_worker_pools.annotations import SIZE_KEY, WEIGHT_KEY, Annotations, annotations_by_key
from dask_worker_pools.expr.places import LIVE
from dask_worker_pools.expr.planned import Placed, PlannedLayer
from dask_worker_pools.expr.went import remember
from dask_worker_pools.marks import SOURCE, Mark, marked
from dask_worker_pools.propagate import asked, is_on
from dask_worker_pools.sizes import FRAME
from dask_worker_pools.travel import ByValue


class PlacedLayer(MaterializedLayer):
    """The tasks of lowered expressions with markers, in the user's process."""

    def __init__(self, placed: Placed) -> None:
        Layer.__init__(self, {"": ""}, {"type": FRAME})
        self.placed = replace(placed, added={})
        for expr in self.placed.exprs:
            if expr._name not in self.placed.places:
                remember(expr._name, LIVE)

    def opened(self) -> MaterializedLayer:
        """The tasks with the user's pins."""
        return self._opened

    @cached_property
    def _opened(self) -> MaterializedLayer:
        return self.placed.layer()

    @property
    def mapping(self) -> Mapping[Key, Any]:  # type: ignore[override]
        """The tasks, each with its pin: people copy them into graphs of their own."""
        return self._marked

    @cached_property
    def _marked(self) -> Mapping[Key, Any]:
        tasks: Mapping[Key, Any] = self._opened.mapping
        said = annotations_by_key(self._opened.annotations, tasks)
        return {**tasks, **{key: marked(tasks[key], _mark(own)) for key, own in said}}

    def copy(self) -> dict[Key, Any]:
        """The tasks, in one dict."""
        return dict(self.mapping)

    @property
    def annotations(self) -> Mapping[str, Any] | None:
        """The user's pins."""
        return self._opened.annotations

    @annotations.setter
    def annotations(self, value: Any) -> None:
        pass  # they follow from the markers

    def __setitem__(self, key: Key, task: Any) -> None:
        """Add a task; Dask does so when it makes an array of a frame."""
        self.placed.added[key] = task
        self.__dict__.pop("_opened", None)
        self.__dict__.pop("_marked", None)

    def __reduce__(self) -> tuple[Any, ...]:
        if not is_on():
            return MaterializedLayer, (self._opened.mapping,)
        if dask.config.get("dask-expr-no-serialize", False):  # Dask's switch for its own tests
            opened = self._opened
            return MaterializedLayer, (opened.mapping, opened.annotations)
        state = tuple(getattr(self.placed, one.name) for one in fields(self.placed))
        return ByValue(PlannedLayer.arrive), (asked(), *state)


def _mark(own: Annotations) -> Mark:
    """The mark of a task with annotations: what was said of it, and what is known of its output."""
    known = {name: own[name] for name in (SIZE_KEY, WEIGHT_KEY) if name in own}
    said = {name: value for name, value in own.items() if name not in known}
    return said, {**known, SOURCE: "rows"} if known else known


def sent(expr: Any, plain: Expr) -> tuple[Any, ...]:
    """What a lowered expression is pickled as, on its way to a scheduler."""
    if not is_on():
        reduced: tuple[Any, ...] = plain.__reduce__()
        return reduced
    graph = HighLevelGraph({FRAME: expr.layer}, {FRAME: set()})
    return HLGExpr, (graph, None, expr.__dask_keys__())
