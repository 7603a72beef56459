"""The tasks of expressions with places, and the layer that plans them in the scheduler.

Where an expression and all that it is made of lie in one pool, its tasks get that pool without
being looked at. Only the tasks between pools are planned; at their borders a stub stands for each
output of the rest that they take.

What is here travels to the scheduler by value, with all that it refers to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dask._task_spec import Task, convert_legacy_graph
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.typing import Key

from dask_worker_pools.annotations import SIZE_KEY, Annotations, annotations_by_key
from dask_worker_pools.cluster import check_peer_to_peer
from dask_worker_pools.errors import NoSuchPool
from dask_worker_pools.expr.places import Place, annotations_of
from dask_worker_pools.graph import layer_annotations
from dask_worker_pools.optimize import Pass
from dask_worker_pools.sizes import FRAME
from dask_worker_pools.slots import name_of

Tasks = dict[Key, Any]


@dataclass
class Placed:
    """Bare, lowered expressions, and where they were said to run."""

    exprs: list[Any]
    places: dict[str, Place]  #: by the names of expressions; those without are absent
    said: dict[Key, Annotations]  #: what was said of single tasks of `delayed`
    delayed: set[str]  #: names of the expressions that hold delayed objects
    nbytes: dict[str, float]  #: bytes of a partition, by the names of expressions
    added: Tasks = field(default_factory=dict)  #: more tasks

    def keys(self) -> list[Key]:
        """The keys of the outputs."""
        return [key for expr in self.exprs for key in expr.__dask_keys__()]

    def layer(self) -> MaterializedLayer:
        """All tasks, with the user's pins."""
        tasks: Tasks = {}
        said: dict[Key, Annotations] = {}
        for expr in walk(self.exprs):
            own = expr._layer()
            tasks.update(own)
            said.update(self.annotated(expr, own))
        tasks.update(self.added)
        return annotated_layer(tasks, said)

    def annotated(self, expr: Any, tasks: Iterable[Key]) -> dict[Key, Annotations]:
        """What is known of the tasks of an expression: where they run and how large they are."""
        own = annotations_of(self.places.get(expr._name))
        if expr._name in self.nbytes:
            own[SIZE_KEY] = self.nbytes[expr._name]
        if expr._name not in self.delayed:
            return dict.fromkeys(tasks, own) if own else {}
        # The delayed objects inside have pools of their own.
        return {key: own if name_of(key) == expr._name else self.said.get(key, {}) for key in tasks}

    def fixed(self) -> dict[str, str]:
        """The pools of the expressions whose tasks need no plan, by name."""
        return {
            name: place
            for name, place in self.places.items()
            if isinstance(place, str) and name not in self.delayed
        }


def annotated_layer(tasks: Tasks, said: Mapping[Key, Annotations]) -> MaterializedLayer:
    """A layer of tasks with annotations for each."""
    layer = MaterializedLayer(tasks)
    layer.annotations = layer_annotations(tasks.keys(), said)
    layer.collection_annotations = {"type": FRAME}
    return layer


def walk(exprs: Iterable[Any]) -> Iterator[Any]:
    """Each expression once."""
    seen: set[str] = set()
    stack = list(exprs)
    while stack:
        expr = stack.pop()
        if expr._name not in seen:
            seen.add(expr._name)
            yield expr
            stack.extend(expr.dependencies())


def plan_tasks(placed: Placed, run: Pass) -> MaterializedLayer:
    """The tasks to run, with their pools as annotations."""
    if placed.added or any(callable(value) for value in run.surrounding.values()):
        return _run(run, {FRAME: placed.layer()}, {FRAME: set()}, placed.keys())
    pools = placed.fixed()
    inside: dict[str, Tasks] = {}  # tasks that are not looked at, by expression
    between: dict[str, MaterializedLayer] = {}  # tasks to plan
    inputs: dict[str, set[str]] = {}  # by the names of expressions
    for expr, own in _tasks(placed.exprs):
        pool = pools.get(expr._name)
        if pool and all(pools.get(one._name) == pool for one in expr.dependencies()):
            inside[expr._name] = own
        else:
            between[expr._name] = annotated_layer(own, placed.annotated(expr, own))
            inputs[expr._name] = {one._name for one in expr.dependencies()}
    stubs = _stubs(placed, inside, between, pools)
    _check_peer_to_peer(inside, pools)
    try:
        layer = _run(run, {**between, **stubs}, inputs, _sinks(between, stubs))
    except NoSuchPool as error:
        raise _counted(error, inside, stubs, pools) from None
    return _joined(layer, inside, stubs, pools)


def by_expression(placed: Placed) -> HighLevelGraph:
    """All tasks with the user's pins, in a layer for each expression."""
    layers: dict[str, Layer] = {}
    inputs: dict[str, set[str]] = {}
    for expr, own in _tasks(placed.exprs):
        layers[expr._name] = annotated_layer(own, placed.annotated(expr, own))
        inputs[expr._name] = {one._name for one in expr.dependencies()}
    return HighLevelGraph(layers, inputs)


def _tasks(exprs: Iterable[Any]) -> Iterator[tuple[Any, Tasks]]:
    """Each expression with its tasks, all in Dask's present form."""
    layers = [(expr, expr._layer()) for expr in walk(exprs)]
    # In tasks of the old form, tuples are keys if any expression has such a key.
    keys: set[Key] = set()
    for _, own in layers:
        keys.update(own)
    for expr, own in layers:
        yield expr, convert_legacy_graph(own, keys)


def _run(
    run: Pass, layers: Mapping[str, Layer], inputs: Mapping[str, set[str]], keys: Iterable[Key]
) -> MaterializedLayer:
    edges = {name: inputs.get(name, set()) & layers.keys() for name in layers}
    (layer,) = run(HighLevelGraph(layers, edges), list(keys)).layers.values()
    assert isinstance(layer, MaterializedLayer)
    return layer


def _stubs(
    placed: Placed,
    inside: Mapping[str, Tasks],
    between: Mapping[str, MaterializedLayer],
    pools: Mapping[str, str],
) -> dict[str, MaterializedLayer]:
    """A stand-in for each task inside that one between needs, and for one of each pool."""
    needed: dict[str, set[Key]] = {}
    for layer in between.values():
        for task in layer.mapping.values():
            for key in task.dependencies:
                if (name := name_of(key)) in inside:
                    needed.setdefault(str(name), set()).add(key)
    seen = {pools[name] for name in needed}
    for name, tasks in inside.items():
        if pools[name] not in seen and tasks:
            seen.add(pools[name])
            needed[name] = {next(iter(tasks))}
    stubs = {}
    for name, keys in needed.items():
        own = annotations_of(pools[name])
        if name in placed.nbytes:
            own[SIZE_KEY] = placed.nbytes[name]
        tasks = {key: Task(key, object) for key in keys}
        stubs[name] = annotated_layer(tasks, dict.fromkeys(keys, own))
    return stubs


def _sinks(*parts: Mapping[str, MaterializedLayer]) -> list[Key]:
    """The tasks that no other needs: with them all are planned."""
    layers = [layer.mapping for part in parts for layer in part.values()]
    needed = {key for tasks in layers for task in tasks.values() for key in task.dependencies}
    return [key for tasks in layers for key in tasks if key not in needed]


def _check_peer_to_peer(inside: Mapping[str, Tasks], pools: Mapping[str, str]) -> None:
    for name, tasks in inside.items():
        if any(type(task).__name__ == "P2PBarrierTask" for task in tasks.values()):
            check_peer_to_peer(tasks, dict.fromkeys(tasks, pools[name]))


def _joined(
    layer: MaterializedLayer,
    inside: Mapping[str, Tasks],
    stubs: Mapping[str, MaterializedLayer],
    pools: Mapping[str, str],
) -> MaterializedLayer:
    """The planned tasks and those inside, which get what the stub of their pool got."""
    said = dict(annotations_by_key(layer.annotations, layer.mapping))
    of_pool: dict[str, Annotations] = {}
    tasks: Tasks = dict(layer.mapping)
    for name, stub in stubs.items():
        for key in stub.mapping:
            of_pool[pools[name]] = said.pop(key, {})
            tasks.pop(key, None)
    for name, own in inside.items():
        tasks.update(own)
        said.update(dict.fromkeys(own, of_pool[pools[name]]))
    return annotated_layer(tasks, said)


def _counted(
    error: NoSuchPool,
    inside: Mapping[str, Tasks],
    stubs: Mapping[str, MaterializedLayer],
    pools: Mapping[str, str],
) -> NoSuchPool:
    """The error, with the tasks that were not looked at."""
    missing = [name for name in inside if pools[name] == error.pool]
    hidden = sum(len(inside[name]) for name in missing)
    counted = sum(len(stub.mapping) for name, stub in stubs.items() if name in missing)
    layers = dict.fromkeys([*error.layers, *missing])
    n_tasks = error.n_tasks + hidden - counted
    return NoSuchPool(error.pool, n_tasks, list(layers), error.pools, error.missing)


class PlannedLayer(MaterializedLayer):
    """Plans its tasks when they are asked for, unless it is `opened` first."""

    def __init__(self, placed: Placed, run: Pass) -> None:
        Layer.__init__(self, {"": ""}, {"type": FRAME})
        self.placed = placed
        self.run = run
        # No `cached_property`: it holds a lock in Python 3.11, and cannot travel by value.
        self._layer: MaterializedLayer | None = None

    @classmethod
    def arrive(cls, run: Pass, *placed: Any) -> PlannedLayer:
        """Build the layer where it was sent to."""
        return cls(Placed(*placed), run)

    def opened(self) -> MaterializedLayer:
        """The tasks, not planned, for a pass that plans a larger graph."""
        return self.placed.layer()

    def _planned(self) -> MaterializedLayer:
        if self._layer is None:
            self._layer = plan_tasks(self.placed, self.run)
        return self._layer

    @property
    def mapping(self) -> Mapping[Key, Any]:  # type: ignore[override]
        """The tasks to run."""
        tasks: Mapping[Key, Any] = self._planned().mapping
        return tasks

    @property
    def annotations(self) -> Mapping[str, Any] | None:
        """Their annotations."""
        return self._planned().annotations

    @annotations.setter
    def annotations(self, value: Any) -> None:
        pass  # they follow from the plan
