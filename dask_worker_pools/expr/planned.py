"""The tasks of expressions with places, and the layer that plans them in the scheduler.

What is here travels to the scheduler by value, with all that it refers to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.typing import Key

from dask_worker_pools.annotations import Annotations
from dask_worker_pools.expr.places import Place, annotations_of
from dask_worker_pools.graph import layer_annotations
from dask_worker_pools.optimize import Pass

#: The type that these layers say they are of.
FRAME = "dask.dataframe"


@dataclass
class Placed:
    """Bare, lowered expressions, and where they were said to run."""

    exprs: list[Any]
    places: dict[str, Place]  #: by the names of expressions; those without are absent
    said: dict[Key, Annotations]  #: what was said of single tasks
    added: dict[Key, Any] = field(default_factory=dict)  #: more tasks

    def layer(self) -> MaterializedLayer:
        """All tasks, with the user's pins."""
        tasks: dict[Key, Any] = {}
        said: dict[Key, Annotations] = {}
        for expr in _walk(self.exprs):
            own = expr._layer()
            tasks.update(own)
            if annotations := annotations_of(self.places.get(expr._name)):
                said.update(dict.fromkeys(own, annotations))
        said.update(self.said)
        tasks.update(self.added)
        layer = MaterializedLayer(tasks)
        layer.annotations = layer_annotations(tasks.keys(), said)
        layer.collection_annotations = {"type": FRAME}
        return layer

    def keys(self) -> list[Key]:
        """The keys of the outputs."""
        return [key for expr in self.exprs for key in expr.__dask_keys__()]


def _walk(exprs: Iterable[Any]) -> Iterator[Any]:
    seen: set[str] = set()
    stack = list(exprs)
    while stack:
        expr = stack.pop()
        if expr._name not in seen:
            seen.add(expr._name)
            yield expr
            stack.extend(expr.dependencies())


class PlannedLayer(MaterializedLayer):
    """Plans its tasks when they are asked for, unless it is `opened` first."""

    def __init__(self, placed: Placed, run: Pass) -> None:
        Layer.__init__(self, {"": ""}, {"type": FRAME})
        self.placed = placed
        self.run = run
        # No `cached_property`: it holds a lock in Python 3.11, and cannot travel by value.
        self._layer: MaterializedLayer | None = None

    @classmethod
    def arrive(cls, run: Pass, *placed: Any) -> PlannedLayer:
        """Build the layer where it was sent to."""
        return cls(Placed(*placed), run)

    def opened(self) -> MaterializedLayer:
        """The tasks, not planned, for a pass that plans a larger graph."""
        return self.placed.layer()

    def _planned(self) -> MaterializedLayer:
        if self._layer is None:
            graph = HighLevelGraph({FRAME: self.placed.layer()}, {FRAME: set()})
            (layer,) = self.run(graph, self.placed.keys()).layers.values()
            assert isinstance(layer, MaterializedLayer)
            self._layer = layer
        return self._layer

    @property
    def mapping(self) -> Mapping[Key, Any]:  # type: ignore[override]
        """The tasks to run."""
        tasks: Mapping[Key, Any] = self._planned().mapping
        return tasks

    @property
    def annotations(self) -> Mapping[str, Any] | None:
        """Their annotations."""
        return self._planned().annotations

    @annotations.setter
    def annotations(self, value: Any) -> None:
        pass  # they follow from the plan
