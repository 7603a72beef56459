"""The tasks of expressions with places, and the layer that plans them in the scheduler.

Where an expression and all that it is made of lie in one pool, its tasks get that pool without
being looked at. Only the tasks between pools are planned; at their borders a stub stands for what
they take of the rest. Blockwise expressions become tasks after that, and only once.

What is here is sent to the scheduler, with the source of all that it refers to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from dask._task_spec import Task, convert_legacy_graph
from dask.blockwise import Blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.typing import Key

from dask_worker_pools.annotations import SIZE_KEY, WEIGHT_KEY, Annotations
from dask_worker_pools.edges import toposort
from dask_worker_pools.errors import NoSuchPool
from dask_worker_pools.expr.blocks import (
    block_inputs,
    is_frame,
    is_graph,
    is_shuffle,
    refused,
    stand_in,
)
from dask_worker_pools.expr.blocks import written as written_out
from dask_worker_pools.expr.places import Place, annotations_of
from dask_worker_pools.fusion import Tasks as Result
from dask_worker_pools.graph import layer_annotations
from dask_worker_pools.optimize import Pass, Planned
from dask_worker_pools.propagate import pass_from
from dask_worker_pools.sizes import FRAME
from dask_worker_pools.slots import name_of

Tasks = dict[Key, Any]


@dataclass
class Placed:
    """Bare, lowered expressions, and where they were said to run."""

    exprs: list[Any]
    places: dict[str, Place]  #: by the names of expressions; those without are absent
    said: dict[Key, Annotations]  #: what was said of single tasks of `delayed`
    delayed: set[str]  #: names of the expressions that hold delayed objects, or graphs with pools
    nbytes: dict[str, float]  #: bytes of a partition, by the names of expressions
    weights: dict[str, float]  #: or else the partitions of sources that it is guessed to hold
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

    def annotations(self, name: str) -> Annotations:
        """What is known of the partitions of an expression."""
        told = {SIZE_KEY: self.nbytes.get(name), WEIGHT_KEY: self.weights.get(name)}
        own = annotations_of(self.places.get(name))
        return own | {key: value for key, value in told.items() if value is not None}

    def annotated(self, expr: Any, tasks: Iterable[Key]) -> dict[Key, Annotations]:
        """What is known of the tasks of an expression: where they run and how large they are."""
        own = self.annotations(expr._name)
        if expr._name not in self.delayed:
            if is_shuffle(expr) and not own.keys().isdisjoint((SIZE_KEY, WEIGHT_KEY)):
                return _steps_of_shuffle(expr, tasks, own)
            return dict.fromkeys(tasks, own) if own else {}
        # The tasks inside have pools of their own; those that make the partitions may have none.
        outputs = set(expr.operand("keys")) if is_graph(expr) else set()
        return {
            key: own
            if name_of(key) == expr._name or (key in outputs and key not in self.said)
            else self.said.get(key, {})
            for key in tasks
        }

    def fixed(self) -> dict[str, str]:
        """The pools of the expressions whose tasks need no plan, by name."""
        return {
            name: place
            for name, place in self.places.items()
            if isinstance(place, str) and name not in self.delayed
        }


def _steps_of_shuffle(expr: Any, tasks: Iterable[Key], own: Annotations) -> dict[Key, Annotations]:
    """What is known of the tasks inside a shuffle: those of each step hold all rows together."""
    steps: defaultdict[Hashable, list[Key]] = defaultdict(list)
    for key in tasks:
        steps[name_of(key)].append(key)
    said: dict[Key, Annotations] = {}
    for keys in steps.values():
        part = expr.npartitions / len(keys)
        sizes = {key: own[key] * part for key in (SIZE_KEY, WEIGHT_KEY) if key in own}
        said |= dict.fromkeys(keys, own | sizes)
    return said


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
        return _run(run, placed)
    outline = Outline.of(placed)
    planned = run.plan(outline.graph, outline.sinks())
    try:
        run.check(planned)
    except NoSuchPool as error:
        raise outline.counted(error, planned) from None
    planned.note_moves()
    return run.finish(outline.tasks(planned), planned)


def _run(run: Pass, placed: Placed) -> MaterializedLayer:
    graph = HighLevelGraph({FRAME: placed.layer()}, {FRAME: set()})
    (layer,) = run(graph, placed.keys()).layers.values()
    assert isinstance(layer, MaterializedLayer)
    return layer


@dataclass
class Outline:
    """Expressions, with as few of their tasks as a plan needs."""

    placed: Placed
    exprs: list[Any]  #: each after its inputs
    inside: dict[str, str]  #: pools of the expressions that are not looked at, by name
    written: dict[str, Tasks]  #: tasks of those of which no stand-in can be made
    graph: HighLevelGraph  #: what is between pools, with stubs for what it takes from inside

    @classmethod
    def of(cls, placed: Placed) -> Outline:
        """See what is inside the pools and what is between them."""
        exprs = {expr._name: expr for expr in walk(placed.exprs)}
        needs = {name: {one._name for one in e.dependencies()} for name, e in exprs.items()}
        pools = placed.fixed()
        inside = {
            name: pools[name]
            for name, inputs in needs.items()
            if name in pools and all(pools.get(one) == pools[name] for one in inputs)
        }
        blocks = {
            name: None if name in placed.delayed else block_inputs(expr)
            for name, expr in exprs.items()
        }
        written = _written(exprs, {n for n, inputs in blocks.items() if inputs is None})
        between = [name for name in needs if name not in inside]
        layers: dict[str, Layer] = {}
        for name in between:
            inputs, expr = blocks[name], exprs[name]
            if inputs is None:
                own = written[name]
                layers[name] = annotated_layer(own, placed.annotated(expr, own))
            else:
                said = placed.annotations(name)
                layers[name] = stand_in(name, expr.npartitions, inputs, said)
        # One stub a pool is needed in any case, for what is said of its tasks.
        taken = {one for name in between for one in needs[name]}
        stubs = {inside[name]: name for name in inside}
        stubs |= {name: name for name in inside if name in taken}
        for name in dict.fromkeys(stubs.values()):
            layers[name] = _stub(exprs[name], placed.annotations(name))
        edges = {
            name: (needs[name] & layers.keys() if name in between else set()) for name in layers
        }
        order = [exprs[name] for name in toposort(needs)]
        return cls(placed, order, inside, written, HighLevelGraph(layers, edges))

    def sinks(self) -> list[Key]:
        """The tasks that no other needs: with them all are planned."""
        whole: set[str] = set()  # all of their partitions are needed by a stand-in
        needed: set[Key] = set()
        for name, layer in self.graph.layers.items():
            if isinstance(layer, Blockwise):
                whole |= self.graph.dependencies[name]
            else:
                for task in layer.values():
                    needed |= task.dependencies
        keys: list[Key] = []
        for name, layer in self.graph.layers.items():
            if name in self.inside:
                keys.append(_first_key(layer))
            elif not (name in whole and isinstance(layer, Blockwise)):
                own = whole if name in whole else ()
                keys += [k for k in _keys_of(layer) if k not in needed and name_of(k) not in own]
        return keys

    def tasks(self, planned: Planned) -> Result:
        """All tasks, where they run."""
        places = planned.places()
        said = planned.tasks.annotations
        result = Result(annotations=dict(said))
        names = planned.cluster.names  # workers may spell a pool otherwise than the user
        whole: dict[str, str | None] = {
            name: names.get(pool, pool) for name, pool in self.inside.items()
        }
        for name in self.graph.layers.keys() - self.inside.keys() - self.written.keys():
            found = set(map(places.get, _keys_of(self.graph.layers[name])))
            if len(found) == 1:
                whole[name] = found.pop()
        outputs = {expr._name for expr in self.placed.exprs}
        for name, expr in refused(self.exprs, outputs, whole).items():
            own = self.written[name] if name in self.written else written_out(expr, name)
            if name in whole:
                result.add(own, whole[name])
            else:
                result.graph.update(own)
                result.pools.update((key, places.get(key)) for key in own)
        if said:
            result.annotations = self._annotations(said, result)
        return result

    def _annotations(
        self, said: Mapping[Key, Annotations], result: Result
    ) -> dict[Key, Annotations]:
        """What was said around the computation, of the tasks inside pools too."""
        of_pool: dict[str, Annotations] = {}
        for name in self.graph.layers.keys() & self.inside.keys():
            key = _first_key(self.graph.layers[name])
            of_pool[self.inside[name]] = said.get(key, {})
        kept = {key: own for key, own in said.items() if key in result.graph}
        for key in result.graph:
            if key not in kept and (own := of_pool.get(self.inside.get(str(name_of(key)), ""), {})):
                kept[key] = own
        return kept

    def counted(self, error: NoSuchPool, planned: Planned) -> NoSuchPool:
        """The error, with the tasks that were not looked at."""
        missing = {name for name, pool in self.inside.items() if pool == error.pool}
        tasks = {expr._name: expr for expr in self.exprs if expr._name in missing}
        hidden = sum(
            len(self.written[name]) if name in self.written else expr.npartitions
            for name, expr in tasks.items()
        )
        chunks = planned.tasks.edges.chunks
        counted = sum(len(chunk) for chunk in chunks if chunk.layer in missing)
        layers = dict.fromkeys([*error.layers, *missing])
        n_tasks = error.n_tasks + hidden - counted
        return NoSuchPool(error.pool, n_tasks, list(layers), error.pools, error.missing, error.data)


def _keys_of(layer: Layer) -> Collection[Key]:
    if isinstance(layer, Blockwise):
        return [(layer.output, index) for index in range(len(layer))]
    return layer.keys()


def _first_key(layer: Layer) -> Key:
    return (layer.output, 0) if isinstance(layer, Blockwise) else next(iter(layer.keys()))


def _stub(expr: Any, said: Annotations) -> Layer:
    """A stand-in for an expression inside a pool, without its inputs."""
    if is_frame(expr):
        return stand_in(expr._name, expr.npartitions, {}, said)
    keys = list(flatten(expr.__dask_keys__()))
    return annotated_layer({key: Task(key, object) for key in keys}, dict.fromkeys(keys, said))


def _written(exprs: Mapping[str, Any], names: Collection[str]) -> dict[str, Tasks]:
    """The tasks of some expressions, all in Dask's present form."""
    layers = {name: exprs[name]._layer() for name in names}
    # In tasks of the old form, tuples are keys if any expression has such a key.
    keys: set[Key] = set()
    for own in layers.values():
        keys.update(own)
    for name, expr in exprs.items():
        if name not in layers:
            keys.update(zip(repeat(name), range(expr.npartitions)))
    return {name: convert_legacy_graph(own, keys) for name, own in layers.items()}


def by_expression(placed: Placed) -> HighLevelGraph:
    """All tasks with the user's pins, in a layer for each expression."""
    layers: dict[str, Layer] = {}
    inputs: dict[str, set[str]] = {}
    exprs = {expr._name: expr for expr in walk(placed.exprs)}
    for name, own in _written(exprs, exprs.keys()).items():
        expr = exprs[name]
        layers[expr._name] = annotated_layer(own, placed.annotated(expr, own))
        inputs[expr._name] = {one._name for one in expr.dependencies()}
    return HighLevelGraph(layers, inputs)


class PlannedLayer(MaterializedLayer):
    """Plans its tasks when they are asked for, unless it is `opened` first."""

    def __init__(self, placed: Placed, run: Pass) -> None:
        Layer.__init__(self, {"": ""}, {"type": FRAME})
        self.placed = placed
        self.run = run
        # No `cached_property`: it holds a lock in Python 3.11, for which threads may wait.
        self._layer: MaterializedLayer | None = None

    @classmethod
    def arrive(cls, said: bytes, *placed: Any) -> PlannedLayer:
        """Build the layer where it was sent to, with the pass that was asked for."""
        return cls(Placed(*placed), pass_from(said))

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
