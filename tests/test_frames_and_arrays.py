"""Frames in a pool and arrays, in one operation."""

from __future__ import annotations

import operator
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

from dask_worker_pools import pool, propagate_pools

VALUES = np.arange(8.0)


@pytest.mark.parametrize("frames_first", [True, False])
@pytest.mark.parametrize("operation", [operator.add, operator.mul])
def test_operation(operation: Callable[[Any, Any], Any], frames_first: bool) -> None:
    """A series in a pool takes an array, which gets its index, and gives what pandas gives."""
    expected = pd.Series(VALUES, index=range(8, 16))
    with pool("A"):
        series = dd.from_pandas(expected, npartitions=2)
    array = da.from_array(VALUES, chunks=4)
    first, second = (series, array) if frames_first else (array, series)
    with propagate_pools():
        result = operation(first, second).compute(scheduler="sync")
    pd.testing.assert_series_equal(result, operation(expected, VALUES))


def test_new_column() -> None:
    """An array becomes a column of a frame in a pool."""
    expected = pd.DataFrame({"x": VALUES}, index=range(8, 16))
    with pool("A"):
        frame = dd.from_pandas(expected, npartitions=2)
    with propagate_pools():
        frame["y"] = da.from_array(VALUES, chunks=4)
        result = frame.compute(scheduler="sync")
    pd.testing.assert_frame_equal(result, expected.assign(y=VALUES))


def test_markers_imported_first() -> None:
    """Frames are marked also where the import of the markers is what imports dask.dataframe."""
    code = """if True:
        import dask_worker_pools.expr.frames
        import dask.dataframe as dd, pandas as pd
        with dask_worker_pools.pool("A"):
            frame = dd.from_pandas(pd.DataFrame({"x": [1]}), npartitions=1)
        assert type(frame.expr).__name__ == "FrameInPool", frame.expr
    """
    subprocess.run([sys.executable, "-c", code], check=True)
