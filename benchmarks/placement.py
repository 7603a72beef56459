"""Traffic of the chosen pools over the least that there is, on problems whose optimum is known.

Run as ``python -m benchmarks.placement``. The problems are in ``tests/data``: graphs of arrays and
synthetic ones, with the exact optimum of each from an integer programme.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from statistics import geometric_mean
from time import process_time
from typing import Any

from dask_worker_pools.placement import place, traffic

PROBLEMS = Path(__file__).parent.parent / "tests" / "data" / "open.json.gz"


def arguments(problem: dict[str, Any]) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
    """What `place` wants to know of a problem."""
    names = [f"p{pool}" for pool in range(problem["pools"])]
    number = {name: pool for pool, name in enumerate(names)}
    pins = {task: names[pool] for task, pool in enumerate(problem["pin"]) if pool >= 0}
    masks = dict(enumerate(problem["mask"] or ()))
    options = {
        "blocked": [task for task, pool in enumerate(problem["pin"]) if pool == -2],
        "link_cost": lambda p, q: problem["cost"][number[p]][number[q]],
        "capacity": dict.fromkeys(names, 1),
        "allowed": {
            task: [name for name in names if mask >> number[name] & 1]
            for task, mask in masks.items()
            if mask is not None and task not in pins
        },
    }
    return (dict(enumerate(problem["inputs"])), pins, dict(enumerate(problem["size"]))), options


def main() -> None:
    ratios = []
    for problem in json.loads(gzip.decompress(PROBLEMS.read_bytes())):
        (graph, pins, sizes), options = arguments(problem)
        start = process_time()
        pools = place(graph, pins, sizes, **options)
        seconds = process_time() - start
        options.pop("allowed")
        cost, optimum = traffic(graph, pools, sizes, **options), problem["optimum"]
        ratios.append(cost / optimum if optimum else 1.0 + (cost > 0))
        print(
            f"{problem['name']:32s} {len(graph):7,d} tasks  {problem['pools']:2d} pools"
            f"  {ratios[-1]:.5f} × the optimum  {seconds / len(graph) * 1e6:7.1f} µs a task",
            flush=True,
        )
    mean = geometric_mean(ratios)
    print(f"{len(ratios)} problems: geometric mean {mean:.5f}, worst {max(ratios):.5f}")


if __name__ == "__main__":
    main()
