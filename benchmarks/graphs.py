"""What a computation is, before anyone optimises it: its whole graph, and the true sizes in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dask._expr import HLGExpr  # the one place where graphs get their finalize tasks
from dask._task_spec import convert_legacy_graph
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof
from dask.typing import Key
from dask.utils import ensure_dict

from dask_worker_pools.expr.graphs import graph_of
from dask_worker_pools.graph import read
from dask_worker_pools.sizes import FRAME


@dataclass(frozen=True)
class Instance:
    """A computation as a problem of placement, with sizes as Dask's workers measure them."""

    dependencies: dict[Key, frozenset[Key]]
    pins: dict[Key, str]
    sizes: dict[Key, float]  #: bytes of each output, measured by running all tasks
    outputs: list[Any]  #: what the wanted tasks gave

    def pinned_bytes(self) -> dict[str, float]:
        """Bytes that lie in each pool to begin with."""
        total: Counter[str] = Counter()
        for key, pool in self.pins.items():
            total[pool] += self.sizes[key]  # type: ignore[assignment]
        return dict(total)


def are_frames(collections: Sequence[Any]) -> bool:
    """Whether there are dataframes among collections."""
    # Asked of the class: a delayed object says yes to any attribute.
    return any(hasattr(type(collection), "expr") for collection in collections)


def whole_graph(collections: Sequence[Any], keep: bool) -> tuple[HighLevelGraph, list[Key]]:
    """The graph that ``compute`` (or ``persist``, if `keep`) of collections sends, and its outputs.

    ``compute`` adds one task for each collection, which puts its parts together.
    """
    graphs, outputs = [], list[Key]()
    exprs = [one.expr for one in collections if are_frames([one])]
    if exprs:
        graph, keys = graph_of(exprs if keep else [expr.finalize_compute() for expr in exprs])
        graphs.append(graph)
        outputs += keys
    for collection in collections:
        if are_frames([collection]):
            continue
        expression = HLGExpr.from_collection(collection, optimize_graph=False)
        if not keep:
            expression = expression.finalize_compute().optimize()
        graphs.append(expression.hlg)
        outputs += flatten(expression.__dask_keys__())
    return HighLevelGraph.merge(*graphs), outputs


def measured(graph: HighLevelGraph, outputs: Sequence[Key]) -> Instance:
    """Run every task that outputs need here, one after the other, and measure what it gives."""
    tasks = convert_legacy_graph(ensure_dict(graph))
    found = read(graph, outputs)
    users = Counter(key for inputs in found.dependencies.values() for key in inputs)
    users.update(outputs)
    results: dict[Key, Any] = {}
    sizes: dict[Key, float] = {}
    waiting = list(outputs)
    while waiting:
        key = waiting[-1]
        if key in sizes:
            waiting.pop()
            continue
        inputs = found.dependencies[key]
        missing = [needed for needed in inputs if needed not in sizes]
        if missing:
            waiting += missing
            continue
        results[key] = tasks[key]({needed: results[needed] for needed in inputs})
        sizes[key] = float(sizeof(results[key]))
        for needed in inputs:
            users[needed] -= 1
            if not users[needed]:
                del results[needed]
    dependencies = {key: frozenset(inputs) for key, inputs in found.dependencies.items()}
    # Of frames, what goes along with its inputs is annotated too. The workloads pin loads only.
    follows = {
        key
        for layer in graph.layers.values()
        if (layer.collection_annotations or {}).get("type") == FRAME
        for key in layer.get_output_keys()
        if dependencies.get(key)
    }
    pins = {key: pool for key, pool in found.pins.items() if key not in follows}
    return Instance(dependencies, pins, sizes, [results[key] for key in outputs])
