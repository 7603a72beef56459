"""What is said of the cost of planning is measured, without a cluster that would be looked at."""

from __future__ import annotations

import pytest

from benchmarks.history import Planning
from benchmarks.planning import SHAPES, measure


@pytest.mark.filterwarnings("ignore:Increasing number of chunks")  # they are to be many
@pytest.mark.parametrize("shape", SHAPES)
def test_planning_is_compared_with_dask_on_the_same_graph(shape: str) -> None:
    """All parts of planning take time, and none of what is tracked is free or without bounds."""
    cost = measure(shape, pools=2, tasks=500)
    assert cost.tasks > 100
    assert min(cost.dask, cost.read, cost.sizes, cost.place) > 0
    tracked = Planning()
    assert tracked.track_time(shape, 500, 2) > 0
    assert 0 < tracked.track_memory(shape, 500, 2) < 100
    assert tracked.track_whole_pass(shape, 500, 2) > 0


@pytest.mark.filterwarnings("ignore:Increasing number of chunks")  # they are to be many
@pytest.mark.parametrize("shape", SHAPES)
def test_pools_leave_hardly_more_tasks_than_dask(shape: str) -> None:
    """Fusion pool by pool leaves as many tasks as fusion without pools, or a third more."""
    assert 0 < Planning().track_tasks(shape, 2000, 2) < 4 / 3
