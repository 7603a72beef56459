"""Run a graph task by task and measure every output."""

from math import nan
from typing import Any

import numpy as np
from dask._task_spec import convert_legacy_graph
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof
from dask.typing import Key
from dask.utils import ensure_dict


def run_all(graph: HighLevelGraph) -> dict[Key, Any]:
    """Give every output of a graph."""
    tasks = convert_legacy_graph(ensure_dict(graph))
    results: dict[Key, Any] = {}
    waiting = list(tasks)
    while waiting:
        key = waiting[-1]
        missing = [d for d in tasks[key].dependencies if d not in results]
        if missing:
            waiting.extend(missing)
            continue
        waiting.pop()
        if key not in results:
            results[key] = tasks[key]({d: results[d] for d in tasks[key].dependencies})
    return results


def true_nbytes(value: object) -> float:
    """Bytes of an output as a worker counts them; an array that repeats one element counts it all.

    NaN for arrays of objects, of which Dask measures a sample.
    """
    if isinstance(value, np.ndarray):
        return nan if value.dtype.hasobject else value.nbytes
    return float(sizeof(value))
