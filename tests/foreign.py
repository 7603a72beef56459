"""A collection as another project would have it, with an optimisation of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from dask.base import DaskMethodsMixin
from dask.threaded import get as threaded_get


class Table(DaskMethodsMixin):
    """The chunks of an array, as a collection of another project would hold them."""

    __dask_scheduler__ = staticmethod(threaded_get)

    def __init__(self, graph: Any, name: str, n: int, optimization: Any) -> None:
        self.graph, self.name, self.n, self.optimization = graph, name, n, optimization

    @classmethod
    def of(cls, array: Any, optimization: Any) -> Table:
        """The chunks of an array of one axis."""
        return cls(array.dask, array.name, array.npartitions, optimization)

    @property
    def __dask_optimize__(self) -> Any:
        return self.optimization

    def __dask_graph__(self) -> Any:
        return self.graph

    def __dask_keys__(self) -> list[Any]:
        return [(self.name, i) for i in range(self.n)]

    def __dask_layers__(self) -> tuple[str, ...]:
        return (self.name,)

    def __dask_tokenize__(self) -> str:
        return self.name

    def __dask_postcompute__(self) -> Any:
        return np.concatenate, ()

    def __dask_postpersist__(self) -> Any:
        return self._rebuild, ()

    def _rebuild(self, graph: Any, *, rename: Any = None) -> Table:
        return Table(graph, self.name, self.n, self.optimization)
