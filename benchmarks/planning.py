"""Cost of planning, beside what Dask itself spends on the same graph in the same run.

Run as ``python -m benchmarks.planning [tasks, default 100000] [shape …]``; ``--pools 20`` divides
the arrays of the shapes that allow it among so many pools; ``--growth`` measures at a hundredth, a
tenth and all of the tasks, and compares what a task takes; ``--whole`` measures the whole pass too.
Peak memory takes long to trace, so it is that of a graph of 100 000 tasks, or ``--traced`` ones.

Every figure is a ratio of processor time or memory, measured in this one process. *Dask* is what it
spends on writing out the graph, converting and ordering it.
"""

from __future__ import annotations

import argparse
import gc
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import geometric_mean
from time import process_time
from typing import Any

import dask.array as da
from dask._task_spec import convert_legacy_graph
from dask.array.optimization import optimize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.order import order
from dask.utils import ensure_dict

from dask_worker_pools import pool
from dask_worker_pools.collection import plan_pools
from dask_worker_pools.graph import read
from dask_worker_pools.optimize import Pass, chosen_pools
from dask_worker_pools.options import Options
from dask_worker_pools.task_sizes import told_sizes

#: elements along a side of a block; none is ever made
SIDE = 1000


def readme(n: int, pools: int) -> Any:
    """The README's example: one large array, one of a row of blocks."""
    a, b = square(n, pools, first=0), square(n, pools, first=1, rows=1)[0]
    return [(a - 1).sum(), b - a.mean()]


def equal(n: int, pools: int) -> Any:
    """Two equal arrays added, and the mean of the sum."""
    return [(square(n, pools, first=0) + square(n, pools, first=1)).mean()]


def outer(n: int, pools: int) -> Any:
    """A small array that is spread before it meets a large one."""
    a, b = square(n, pools, first=0, rows=1)[0], square(n, pools, first=1)
    return [(a[:, None] * da.full((1, n * SIDE), 2.0, chunks=SIDE) + b).sum()]


def stencil(n: int, pools: int) -> Any:
    """Neighbours across the boundaries of the pools' parts."""
    parts = []
    for number in range(pools):
        with pool(f"rows-{number}"):
            shape = max(1, n // pools) * SIDE, n * SIDE
            parts.append(da.full(shape, float(number), chunks=SIDE))
    both = da.concatenate(parts)
    return [both[1:] - both[:-1]]


def matmul(n: int, pools: int) -> Any:
    """A product of arrays in two pools, plus one of a third."""
    k = max(2, round(n ** (2 / 3)))
    a, b, c = (square(k, pools, first=first) for first in range(3))
    return [a @ b.T + c]


def five_sites(n: int, pools: int) -> Any:
    """Map and reduce over an array whose parts lie in five pools, or in more."""
    sites = max(5, pools)
    whole = square(max(sites, n), sites, first=0)
    return [((whole - whole.mean()) ** 2).sum()]


def square(n: int, pools: int, *, first: int, rows: int | None = None) -> Any:
    """Square of n × n blocks, or `rows` × n, in one pool; of many pools each has some rows."""
    rows = n if rows is None else rows
    parts = 1 if pools < 5 or rows < pools else pools
    made = []
    for number in range(parts):
        size = rows // parts + (number < rows % parts)
        with pool(f"site-{(first + number) % max(3, pools)}"):
            made.append(da.full((size * SIDE, n * SIDE), float(first + number), chunks=SIDE))
    return da.concatenate(made) if parts > 1 else made[0]


SHAPES: dict[str, Callable[[int, int], Any]] = {
    build.__name__: build for build in (readme, equal, outer, stencil, matmul, five_sites)
}


@dataclass
class Cost:
    """What a graph costs, in seconds of processor time and in bytes."""

    tasks: int
    dask: float
    read: float
    sizes: float
    place: float  #: with the default balance

    @property
    def planning(self) -> float:
        """Planning over Dask's own time."""
        return (self.read + self.sizes + self.place) / self.dask


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    gc.disable()
    try:
        start = process_time()
        result = call()
        return process_time() - start, result
    finally:
        gc.enable()


def merged(collections: list[Any]) -> tuple[HighLevelGraph, list[Any]]:
    graph = HighLevelGraph.merge(*(x.dask for x in collections))
    return graph, [key for x in collections for key in flatten(x.__dask_keys__())]


def written_out(graph: HighLevelGraph) -> Any:
    return convert_legacy_graph(ensure_dict(graph))


def sized(build: Callable[[int, int], Any], pools: int, tasks: int) -> int:
    """The size at which a shape has about as many tasks as asked for."""
    small = max(40, 2 * pools)
    count = len(ensure_dict(merged(build(small, pools))[0]))
    n: float = small * (tasks / count) ** 0.5
    return max(small // 2, round(n))


def measure(name: str, pools: int, tasks: int) -> Cost:
    build = SHAPES[name]
    n = sized(build, pools, tasks)
    graph, _ = merged(build(n, pools))
    seconds, count = timed(lambda: len(order(written_out(graph))))
    graph, keys = merged(build(n, pools))
    reading, found = timed(lambda: read(graph, keys))
    sizing, sizes = timed(lambda: told_sizes(graph, found))
    placing, _ = timed(lambda: chosen_pools(found, sizes, None, {}, Options().balance))
    return Cost(count, seconds, reading, sizing, placing)


@dataclass(frozen=True)
class Fused:
    """What the whole pass does with a graph, over what Dask's own optimisation does with it."""

    time: float  #: of processor
    tasks: float  #: that are left


def fused(name: str, pools: int, tasks: int) -> Fused:
    """Run the pass, with fusion and all, and Dask's own optimisation."""
    build = SHAPES[name]
    n = sized(build, pools, tasks)
    graph, keys = merged(build(n, pools))
    theirs, optimized = timed(lambda: ensure_dict(optimize(graph, keys)))
    left = len(optimized)
    del optimized
    graph, keys = merged(build(n, pools))
    # As on a cluster, but one of which nothing is known.
    ours, planned = timed(lambda: Pass(clients=frozenset({"nobody"}))(graph, keys))
    return Fused(ours / theirs, len(ensure_dict(planned)) / left)


def memory(name: str, pools: int, tasks: int) -> float:
    """Peak memory of planning over that of the graph, written out."""
    build = SHAPES[name]
    n = sized(build, pools, tasks)
    tracemalloc.start()
    raw = written_out(merged(build(n, pools))[0])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del raw
    collections = build(n, pools)
    gc.collect()
    tracemalloc.start()
    plan = plan_pools(*collections)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del plan
    return peak / held


def report(name: str, pools: int, tasks: int, traced: int, whole: bool) -> Cost:
    """Measure one shape at one size, and print its line."""
    cost = measure(name, pools, tasks)
    line = (
        f"{name:12s} {cost.tasks:9,d} tasks  Dask {cost.dask / cost.tasks * 1e6:5.1f} µs each"
        f"   read {cost.read / cost.dask:5.1%}  sizes {cost.sizes / cost.dask:5.1%}"
        f"  place {cost.place / cost.dask:5.1%}  planning {cost.planning:5.1%}"
        f"   peak memory {memory(name, pools, min(tasks, traced)):5.1%}"
    )
    if whole:
        found = fused(name, pools, tasks)
        line += f"   pass {found.time:5.2f} × Dask's optimisation, {found.tasks:5.2f} × its tasks"
    print(line, flush=True)
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("tasks", nargs="?", type=int, default=100_000)
    parser.add_argument("shapes", nargs="*", metavar="shape", help=", ".join(SHAPES))
    parser.add_argument("--pools", type=int, default=2)
    parser.add_argument("--traced", type=int, default=100_000, help="most tasks for peak memory")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--whole", action="store_true")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", "Increasing number of chunks")
    names = asked.shapes or list(SHAPES)
    if unknown := set(names) - SHAPES.keys():
        parser.error(f"no such shape: {sorted(unknown)}; there are {list(SHAPES)}")
    largest = []
    for name in names:
        parts = (100, 10, 1) if asked.growth else (1,)
        costs = [
            report(name, asked.pools, asked.tasks // part, asked.traced, asked.whole)
            for part in parts
        ]
        largest.append(costs[-1])
        if asked.growth:
            each = [cost.planning * cost.dask / cost.tasks for cost in costs]
            print(
                f"{name:12s} a task takes {each[-1] / each[0]:.2f} × what it takes in the smallest"
            )
    for what, ratios in (
        ("planning", [cost.planning for cost in largest]),
        ("placing", [cost.place / cost.dask for cost in largest]),
    ):
        print(f"{what}: geometric mean {geometric_mean(ratios):.1%}, worst {max(ratios):.1%}")


if __name__ == "__main__":
    main()
