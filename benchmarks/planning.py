"""Cost of planning, beside what Dask spends on writing out and ordering the same graph.

Run as ``python -m benchmarks.planning [tasks, default 100000] [shape …]``. Every figure is a ratio
of processor time measured in this one run, in this one process: the machine may be busy.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from math import exp, fsum, log
from time import process_time
from typing import Any

import dask.array as da
from dask._task_spec import convert_legacy_graph
from dask.core import flatten
from dask.order import order
from dask.utils import ensure_dict

from dask_worker_pools import pool
from dask_worker_pools.collection import plan_pools
from dask_worker_pools.graph import read
from dask_worker_pools.placement import place
from dask_worker_pools.sizes import output_sizes


def readme(n: int) -> Any:
    """The README's example: one large array, one of a row of blocks."""
    with pool("A"):
        a = da.zeros((n, n), chunks=1)
    with pool("B"):
        b = da.ones(n, chunks=1)
    return [(a - 1).sum(), b - a.mean()]


def equal(n: int) -> Any:
    """Two equal arrays added, and the mean of the sum."""
    with pool("A"):
        a = da.zeros((n, n), chunks=1)
    with pool("B"):
        b = da.ones((n, n), chunks=1)
    return [(a + b).mean()]


def outer(n: int) -> Any:
    """A small array that is spread before it meets a large one."""
    with pool("A"):
        a = da.zeros(n, chunks=1)
    with pool("B"):
        b = da.ones((n, n), chunks=1)
    return [(a[:, None] * da.full((1, n), 2.0, chunks=1) + b).sum()]


def stencil(n: int) -> Any:
    """Neighbours across the boundary of two halves."""
    with pool("A"):
        a = da.zeros((n // 2, n), chunks=2)
    with pool("B"):
        b = da.ones((n - n // 2, n), chunks=2)
    both = da.concatenate([a, b])
    return [both[1:] - both[:-1]]


def matmul(n: int) -> Any:
    """A product of arrays in two pools, plus one of a third."""
    k = max(2, round(n ** (2 / 3)))
    with pool("A"):
        a = da.zeros((k, k), chunks=1)
    with pool("B"):
        b = da.ones((k, k), chunks=1)
    with pool("C"):
        c = da.full((k, k), 3.0, chunks=1)
    return [a @ b.T + c]


def five_sites(n: int) -> Any:
    """Map and reduce over an array whose parts lie in five pools."""
    parts = []
    for number in range(5):
        with pool(f"site-{number}"):
            parts.append(da.full((max(1, n // 5), n), float(number), chunks=1))
    both = da.concatenate(parts)
    return [((both - both.mean()) ** 2).sum()]


SHAPES: dict[str, Callable[[int], Any]] = {
    build.__name__: build for build in (readme, equal, outer, stencil, matmul, five_sites)
}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    gc.disable()
    try:
        start = process_time()
        result = call()
        return process_time() - start, result
    finally:
        gc.enable()


def merged(collections: list[Any]) -> tuple[Any, list[Any]]:
    from dask.highlevelgraph import HighLevelGraph

    graph = HighLevelGraph.merge(*(x.dask for x in collections))
    return graph, [key for x in collections for key in flatten(x.__dask_keys__())]


def sized(build: Callable[[int], Any], tasks: int) -> int:
    """The size at which a shape has about as many tasks as asked for."""
    n = 10
    count = len(ensure_dict(merged(build(n))[0]))
    while count < tasks:
        n = round(n * max(1.1, (tasks / count) ** 0.5))
        count = len(ensure_dict(merged(build(n))[0])) if n < 400 else tasks
    return n


def measure(name: str, tasks: int) -> float:
    build = SHAPES[name]
    n = sized(build, tasks)
    graph, keys = merged(build(n))
    dask_time, raw = timed(lambda: convert_legacy_graph(ensure_dict(graph)))
    order_time, _ = timed(lambda: order(raw))
    dask_time += order_time
    graph, keys = merged(build(n))
    read_time, found = timed(lambda: read(graph, keys))
    size_time, sizes = timed(lambda: output_sizes(graph, found.keys).nbytes)
    place_time, _ = timed(lambda: place(found.dependencies, found.pins, sizes))
    plan_time, _ = timed(lambda: plan_pools(*build(n)))
    total = read_time + size_time + place_time
    print(
        f"{name:12s} {len(raw):9,d} tasks  dask {dask_time:6.2f} s"
        f"   read {read_time / dask_time:6.1%}  sizes {size_time / dask_time:6.1%}"
        f"  place {place_time / dask_time:6.1%}  sum {total / dask_time:6.1%}"
        f"   plan_pools (balanced) {plan_time / dask_time:6.1%}",
        flush=True,
    )
    return total / dask_time


def memory(name: str, tasks: int) -> float:
    """Peak memory of planning over that of the graph, written out."""
    build = SHAPES[name]
    n = sized(build, tasks)
    graph, _ = merged(build(n))
    tracemalloc.start()
    raw = convert_legacy_graph(ensure_dict(graph))
    held, _ = tracemalloc.get_traced_memory()
    del raw
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    plan_pools(*build(n))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (peak - before) / held


def main(tasks: int = 100_000, *names: str) -> None:
    ratios = [measure(name, tasks) for name in names or SHAPES]
    mean = exp(fsum(map(log, ratios)) / len(ratios))
    print(f"geometric mean {mean:.1%}, worst {max(ratios):.1%}")
    for name in names or SHAPES:
        part = memory(name, tasks // 10)
        print(
            f"{name:12s} {tasks // 10:9,d} tasks  peak memory of plan_pools {part:.0%} of the graph"
        )


if __name__ == "__main__":
    main(*(int(text) if text.isdigit() else text for text in sys.argv[1:]))  # type: ignore[arg-type]
