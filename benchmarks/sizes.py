"""Time of telling sizes, per key and relative to Dask writing out and ordering the same graph.

Run as ``python -m benchmarks.sizes [blocks along each of two axes, default 1000]``.
"""

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import dask
import dask.array as da
from dask._task_spec import convert_legacy_graph
from dask.order import order
from dask.utils import ensure_dict

from dask_worker_pools.sizes import layer_sizes, output_sizes


def best(call: Callable[[], object], repeats: int = 2) -> float:
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def report(name: str, make: Callable[[], da.Array]) -> None:
    graph = make().dask
    symbolic = best(lambda: layer_sizes(graph))
    listed = best(lambda: output_sizes(graph))
    layer = max(graph.layers, key=lambda name: layer_sizes(graph)[name].count)
    wanted = list(dict(layer_sizes(graph)[layer].items()))
    picked = best(lambda: output_sizes(graph, {layer: wanted}))
    start = perf_counter()
    tasks = len(order(convert_legacy_graph(ensure_dict(graph))))
    dask_itself = perf_counter() - start
    print(
        f"{name:28s} {tasks:9,d} tasks  symbolic {symbolic / tasks * 1e6:7.3f} µs/key"
        f"  as a dict {listed / tasks * 1e6:6.3f}  by key {picked / len(wanted) * 1e6:6.3f}"
        f"  of Dask's own time {symbolic / dask_itself:6.2%}, dict {listed / dask_itself:6.1%}"
    )


def main(n: int) -> None:
    dask.config.set({"array.rechunk.method": "tasks"})

    def ones(chunk: Any = 10) -> Any:
        return da.ones((10 * n, 10 * n), chunks=chunk, dtype="f4")

    irregular = tuple(8 if i % 2 else 12 for i in range(n))
    report("ones + 1", lambda: ones() + 1)
    report("ones + 1, irregular chunks", lambda: ones((irregular, irregular)) + 1)
    report("mean(axis=0)", lambda: ones().mean(axis=0))
    report("std()", lambda: ones().std())
    report("ones + ones.T", lambda: ones() + ones().T)
    n = n // 3
    report("rechunk", lambda: da.ones((10 * n, 10 * n), chunks=10).rechunk(15))
    report("map_overlap", lambda: da.ones((10 * n, 10 * n), chunks=10).map_overlap(abs, depth=1))
    report("cumsum", lambda: da.ones((10 * n, 10 * n), chunks=10).cumsum(axis=0))
    report("argmax", lambda: da.ones((10 * n, 10 * n), chunks=10).argmax(axis=0))
    report("slices", lambda: da.ones((10 * n, 10 * n), chunks=10)[5:-5, ::2])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
