"""Markers in dask.dataframe.

This module imports dask.dataframe; it is itself imported when that is (see `registry`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from dask._task_spec import Alias
from dask.dataframe.dask_expr._expr import Blockwise
from dask.dataframe.dask_expr._expr import Expr as FrameExpr
from dask.typing import Key

from dask_worker_pools.expr.again import marked_again
from dask_worker_pools.expr.layer import sent
from dask_worker_pools.expr.markers import KINDS, Marker, bare, marker
from dask_worker_pools.expr.merging import merging
from dask_worker_pools.expr.places import within
from dask_worker_pools.expr.registry import register
from dask_worker_pools.travel import ByValue


class _FrameMarker(Marker, FrameExpr):
    """What a marker tells Dask about itself: whatever the frame below would say."""

    family = FrameExpr
    _parameters = ["frame", "place", "said"]  # noqa: RUF012
    _is_length_preserving = True

    @cached_property
    def _name(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__.lower()}-{self.deterministic_token}"

    @property
    def npartitions(self) -> Any:
        with within(self.place):
            return self.frame.npartitions

    @property
    def columns(self) -> Any:
        return self.frame.columns

    @property
    def _projection_columns(self) -> Any:
        return self.frame.columns

    @property
    def unique_partition_mapping_columns_from_shuffle(self) -> Any:
        # Of some renamed columns Dask fails to tell it, or tells it of no column: it rewrites them
        # before it asks, and cannot do so across a marker. To know nothing costs one more shuffle.
        try:
            found = self.frame.unique_partition_mapping_columns_from_shuffle
        except (KeyError, TypeError, ValueError):
            return set()
        return {columns for columns in found or () if columns is not None}

    def _divisions(self) -> Any:
        # Dask computes the quantiles for an index here.
        with within(self.place):
            return self.frame.divisions

    def optimize(self, **options: Any) -> Any:  # type: ignore[override]
        result = super().optimize(**options)
        if merging():
            result.__dict__["merged"] = True
        return result

    def _tune_up(self, parent: Any) -> Any:
        # Readers of few columns read several files at a time, where something follows that may
        # have other partitions then. What follows is above the marker.
        if isinstance(parent, Marker | Blockwise):
            return None
        probe = LoweredFrameInPool(self.frame, self.place, self.said)
        tuned = self.frame._tune_up(probe)
        if tuned is None or tuned._name == probe._name:
            return None
        return parent.substitute(self, marker(type(self), tuned.frame, self.place, self.said))

    def _task(self, key: Key, index: int) -> Any:
        return Alias(key, (self.frame._name, index))

    def __dask_graph__(self) -> Any:
        return super().__dask_graph__() if "merged" in self.__dict__ else self._layer()

    def _layer(self) -> Any:
        # People look for partitions under the name that a collection shows, which is that of its
        # marker, as it was built or lowered. So does what stands above, where Dask puts the graph
        # together itself.
        graph = super().__dask_graph__()
        for name in self.names():
            for key in self.__dask_keys__():
                graph[name, key[1]] = Alias((name, key[1]), key)
        return graph


class FrameInPool(_FrameMarker, Blockwise):
    """A frame in a pool, as it was built: to Dask, one more blockwise step."""

    def __reduce__(self) -> Any:
        return ByValue(marked_again), (self.frame, self.place, *self.said)


class LoweredFrameInPool(_FrameMarker):
    """A frame in a pool, lowered: not blockwise, so that fusion stops here."""

    def __reduce__(self) -> Any:
        return sent(self, bare(self))  # it is on its way to a scheduler


FrameInPool.settled = LoweredFrameInPool.settled = LoweredFrameInPool
KINDS.append(FrameInPool)
register(FrameInPool)
