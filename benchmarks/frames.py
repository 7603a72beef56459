"""Cost of placing the tasks of frames, beside what Dask spends on writing out and ordering them.

Run as ``python -m benchmarks.frames [tasks, default 100000] [shape …]``. Every figure is a ratio
of processor time measured in this one run, in this one process: the machine may be busy. Placing
is all that happens to a graph with pools on top of being written out: reading it, sizes, the
choice of pools, landings and annotations. Dask's part is writing out and ordering the same graph.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import log
from statistics import geometric_mean
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
from dask._task_spec import convert_legacy_graph
from dask.order import order
from dask.utils import ensure_dict

from benchmarks.planning import timed
from dask_worker_pools import pool, propagate_pools
from dask_worker_pools.expr.planned import plan_tasks
from dask_worker_pools.propagate import asked, pass_from

META = pd.DataFrame({"key": [0], "value": [0.0]})


def part(number: int, start: int = 0) -> pd.DataFrame:
    """One partition."""
    return META + start + number


def table(place: AbstractContextManager[object], n: int, start: int = 0) -> Any:
    """A frame of `n` partitions with known divisions, in a place; `start` tells tables apart."""
    divisions = tuple(range(n + 1))
    with place:
        return dd.from_map(part, range(n), start=start, meta=META, divisions=divisions)


#: `pool`, or what stands in for it where there shall be none.
Put = Callable[[str], AbstractContextManager[object]]


def reduction(n: int, put: Put) -> Any:
    """A sum in one pool."""
    frame = table(put("A"), n)
    return frame[frame.value > 1].value.sum()


def aligned(n: int, put: Put) -> Any:
    """Partition by partition over two pools."""
    return (table(put("A"), n).value + table(put("B"), n, 1).value).sum()


def join(n: int, put: Put) -> Any:
    """A filtered join of two pools through a shuffle, and a groupby."""
    left, right = table(put("A"), n), table(put("B"), n, 1)
    joined = left[left.value > 1].merge(right, on="key")
    return joined.groupby("key").value_x.sum()


def five_sites(n: int, put: Put) -> Any:
    """A table whose parts lie in five pools, grouped."""
    parts = [table(put(f"site-{number}"), max(1, n // 5), number) for number in range(5)]
    return dd.concat(parts).groupby("key").value.mean()


SHAPES: dict[str, Callable[[int, Put], Any]] = {
    build.__name__: build for build in (reduction, aligned, join, five_sites)
}


def no_pool(name: str) -> AbstractContextManager[object]:
    """Stand in for `pool`."""
    return nullcontext()


def sized(build: Callable[[int, Put], Any], tasks: int) -> int:
    """The number of partitions with which a shape has about as many tasks as asked for."""
    small, large = (len(graph_of(build(n, no_pool).optimize())) for n in (128, 512))
    power = log(large / small) / log(4)
    n: float = 512 * (tasks / large) ** (1 / power)
    return round(n)


def graph_of(collection: Any) -> dict[Any, Any]:
    """All tasks of an optimised collection, in the form in which they are sent to the scheduler."""
    graph: dict[Any, Any] = convert_legacy_graph(ensure_dict(collection.__dask_graph__()))
    return graph


def measure(name: str, tasks: int) -> float:
    """Print what a shape costs; the cost of placing over that of Dask."""
    build = SHAPES[name]
    n = sized(build, tasks)
    optimize_time, plain = timed(lambda: build(n, no_pool).optimize())
    write_time, raw = timed(lambda: graph_of(plain))
    order_time, _ = timed(lambda: order(raw))
    dask_time = write_time + order_time
    marked_time, marked = timed(lambda: build(n, pool).optimize())
    with propagate_pools():
        # What the scheduler gets, and what it does before it orders the tasks.
        layer_time, layer = timed(lambda: marked.expr.layer)
        plan_time, planned = timed(lambda: plan_tasks(layer.placed, pass_from(asked())))
        plan_time += layer_time
    part = (plan_time - write_time) / dask_time
    print(
        f"{name:12s} {len(raw):9,d} tasks  dask {dask_time:6.2f} s"
        f" (writing {write_time / dask_time:.0%})   placing {part:6.1%}"
        f"   optimising with pools {marked_time / optimize_time:.2f} of without"
        f"   tasks with pools {len(planned.mapping) / len(raw):.2f} of without",
        flush=True,
    )
    return max(part, 1e-9)


def main(tasks: int = 100_000, *names: str) -> None:
    """Measure all shapes, or those named."""
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        ratios = [measure(name, tasks) for name in names or SHAPES]
    print(f"geometric mean {geometric_mean(ratios):.1%}, worst {max(ratios):.1%}")


if __name__ == "__main__":
    main(*(int(text) if text.isdigit() else text for text in sys.argv[1:]))  # type: ignore[arg-type]
