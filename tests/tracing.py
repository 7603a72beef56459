"""Run the pass in this process, and every task it returns, noting where each operation ran.

No cluster: what a scheduler would do with the tasks' annotations is read off them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
from dask._expr import FinalizeCompute
from dask._task_spec import Alias, GraphNode, convert_legacy_graph
from dask.base import collections_to_expr, tokenize, unpack_collections
from dask.core import flatten, toposort
from dask.typing import Key

from dask_worker_pools import propagate_pools
from dask_worker_pools.annotations import Annotations, pools_in

#: Annotations of the task that is running.
_running: ContextVar[Annotations] = ContextVar("_running")
_seen: ContextVar[dict[str, list[Annotations]]] = ContextVar("_seen")


@dataclass
class Run:
    """What the pass returned, and what happened when it was executed."""

    graph: dict[Key, GraphNode]
    annotations: dict[Key, Annotations]
    results: tuple[Any, ...]
    #: annotations of the tasks in which each traced operation ran, by the operation's name
    operations: dict[str, list[Annotations]] = field(default_factory=dict)

    def pools_of(self, operation: str) -> set[tuple[str, ...]]:
        """The pools in which an operation ran."""
        return {pools_in(annotations) for annotations in self.operations[operation]}

    @property
    def n_tasks(self) -> int:
        """Tasks submitted, without those that only give another name to a result."""
        return sum(not isinstance(task, Alias) for task in self.graph.values())

    def pools(self) -> set[tuple[str, ...]]:
        """All places where tasks are to run; () is anywhere."""
        return {pools_in(self.annotations.get(key, {})) for key in self.graph}


def optimized(*collections: Any) -> tuple[dict[Key, GraphNode], dict[Key, Annotations], list[Key]]:
    """Tasks, annotations and wanted keys of ``dask.compute(*collections)``, not yet run."""
    found, _ = unpack_collections(*collections)
    expr = FinalizeCompute(collections_to_expr(found)).optimize()
    graph = convert_legacy_graph(expr.__dask_graph__())
    annotations: dict[Key, Annotations] = {}
    for name, by_key in expr.__dask_annotations__().items():
        for key, value in by_key.items():
            if value is not None:
                annotations.setdefault(key, {})[name] = value
    return graph, annotations, list(flatten(expr.__dask_keys__()))


def run(*collections: Any) -> Run:
    """Compute collections with what the surrounding configuration makes of them."""
    graph, annotations, wanted = optimized(*collections)
    order = toposort(graph, {key: set(task.dependencies) for key, task in graph.items()})
    operations: dict[str, list[Annotations]] = {}
    values: dict[Key, Any] = {}
    tracing = _seen.set(operations)
    try:
        for key in order:
            task = graph[key]
            now = _running.set(annotations.get(key, {}))
            values[key] = task({k: values[k] for k in task.dependencies})
            _running.reset(now)
    finally:
        _seen.reset(tracing)
    return Run(graph, annotations, tuple(values[key] for key in wanted), operations)


def run_with_pools(*collections: Any) -> Run:
    """Compute collections inside `propagate_pools`."""
    with propagate_pools():
        return run(*collections)


def trace(name: str) -> Callable[..., Any]:
    """A function of arrays that adds them and notes, under `name`, where it ran."""

    def operation(*values: Any) -> Any:
        _seen.get({}).setdefault(name, []).append(_running.get({}))
        return sum(values[1:], start=values[0] + 1)

    operation.__name__ = name
    return operation


def traced(name: str, *arrays: da.Array) -> da.Array:
    """An elementwise operation of `arrays`, traced under `name`."""
    unique = f"{name}-{tokenize(*arrays)}"
    return da.map_blocks(trace(name), *arrays, dtype=arrays[0].dtype, name=unique)


def source(name: str, shape: tuple[int, ...] = (8, 8), chunks: int = 4) -> da.Array:
    """An array of integers made by tasks traced under `name`."""
    operation = trace(name)

    def block(block_info: Any = None) -> Any:
        location = block_info[None]["array-location"]
        grid = np.ix_(*(np.arange(*along) for along in location))
        return operation(sum(step * axis for step, axis in zip((1, 10), grid, strict=False)))

    normal = da.core.normalize_chunks(chunks, shape)
    return da.map_blocks(
        block, chunks=normal, dtype=int, meta=np.zeros((0,) * len(shape), int), name=name
    )


@contextmanager
def nothing(name: str | None = None) -> Iterator[None]:
    """Stands in for ``pool`` where there should be none."""
    yield
