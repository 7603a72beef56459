"""Cost of planning, for asv (airspeed velocity), which follows it from commit to commit.

Run as ``asv run --python=same --quick`` for the commit at hand, as ``asv run v0.1..main`` for the
history; ``--bench 'Planning.*readme'`` picks some. What is tracked are ratios to what Dask takes
for the same graph in the same run, as in :mod:`benchmarks.planning`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from benchmarks.planning import SHAPES, fused, measure, memory

Track = TypeVar("Track", bound=Callable[..., float])


def in_unit(unit: str) -> Callable[[Track], Track]:
    """Say in which unit asv is to show what a function tracks."""

    def mark(track: Track) -> Track:
        track.unit = unit  # type: ignore[attr-defined]
        return track

    return mark


class Planning:
    """One shape, of so many tasks, in so many pools."""

    param_names = ("shape", "tasks", "pools")
    params: tuple[Sequence[Any], ...] = (
        list(SHAPES),
        [10_000, 100_000, 1_000_000],
        [2, 20],
    )
    timeout = 3600

    @in_unit("of Dask's time")
    def track_time(self, shape: str, tasks: int, pools: int) -> float:
        """Time of planning."""
        return measure(shape, pools, tasks).planning

    @in_unit("of the graph")
    def track_memory(self, shape: str, tasks: int, pools: int) -> float:
        """Peak memory of planning, over that of the graph written out."""
        return memory(shape, pools, tasks)

    @in_unit("× Dask's")
    def track_whole_pass(self, shape: str, tasks: int, pools: int) -> float:
        """Time of the whole pass, with fusion, over that of Dask's optimisation."""
        return fused(shape, pools, tasks).time

    @in_unit("× Dask's")
    def track_tasks(self, shape: str, tasks: int, pools: int) -> float:
        """Tasks that fusion leaves, over those that Dask leaves without pools."""
        return fused(shape, pools, tasks).tasks
