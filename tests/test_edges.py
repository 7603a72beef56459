"""Graphs read by number: the same tasks and edges as of the graph written out, at less cost."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import cycle
from typing import Any

import dask
import dask.array as da
import pytest
from dask._task_spec import convert_legacy_graph
from dask.blockwise import Blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.typing import Key
from dask.utils import ensure_dict
from size_expressions import EXPRESSIONS

from dask_worker_pools import plan_pools, pool
from dask_worker_pools.annotations import PREFIX
from dask_worker_pools.graph import as_high_level, read
from dask_worker_pools.placement import GraphCycle, place, traffic


def graph_and_keys(name: str) -> tuple[HighLevelGraph, list[Key]]:
    """Return the graph of an expression, whose sources are in two pools by turns."""
    made = EXPRESSIONS[name]()
    collections = made if isinstance(made, list | tuple) else [made]
    graph = HighLevelGraph.merge(*(as_high_level(one.__dask_graph__()) for one in collections))
    keys = [key for one in collections for key in flatten(one.__dask_keys__())]
    layers = dict(graph.layers)
    for (layer, needed), where in zip(graph.dependencies.items(), cycle("AB")):
        if not needed:
            layers[layer] = copy(layers[layer])
            layers[layer].annotations = {"resources": {PREFIX + where: 0}}
    return HighLevelGraph(layers, graph.dependencies), keys


def written_out(graph: HighLevelGraph) -> HighLevelGraph:
    """Return the same graph with every layer written out."""
    layers = {
        name: MaterializedLayer(dict(layer), annotations=layer.annotations)
        for name, layer in copied(graph).layers.items()
    }
    return HighLevelGraph(layers, graph.dependencies)


def copied(graph: HighLevelGraph) -> HighLevelGraph:
    """Return the graph with layers of its own, that may be written out without a trace."""
    layers = {name: copy(layer) for name, layer in graph.layers.items()}
    return HighLevelGraph(layers, graph.dependencies)


def needed(graph: Mapping[Key, Any], keys: Sequence[Key]) -> dict[Key, set[Key]]:
    """Return the tasks that `keys` need, and their inputs, as Dask's own tasks tell."""
    tasks = convert_legacy_graph(dict(graph))
    found: dict[Key, set[Key]] = {}
    stack = [key for key in keys if key in tasks]
    while stack:
        key = stack.pop()
        if key not in found:
            found[key] = set(tasks[key].dependencies)
            stack += found[key]
    return found


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_edges_are_those_of_the_graph_written_out(name: str) -> None:
    """The tasks that a computation needs and their inputs are as in the graph written out."""
    graph, keys = graph_and_keys(name)
    expected = needed(ensure_dict(copied(graph)), keys)
    tasks = read(graph, keys)
    assert tasks.dependencies == expected
    assert tasks.by_key.layer_of.keys() == expected.keys()
    number = tasks.number_of
    assert all(number[i] < number[key] for key, inputs in expected.items() for i in inputs)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_planning_writes_no_layer_out(name: str) -> None:
    """Planning makes no task of a Blockwise layer, wherever its inputs lie."""
    graph, _ = graph_and_keys(name)
    blockwise = [layer for layer in graph.layers.values() if isinstance(layer, Blockwise)]
    before = [layer.is_materialized() for layer in blockwise]
    plan = plan_pools(graph)
    assert plan.total_bytes >= 0
    assert [layer.is_materialized() for layer in blockwise] == before


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_plan_is_that_of_the_graph_written_out(name: str) -> None:
    """What is chosen by number sends as much as what is chosen by key, of tasks written out."""
    graph, _ = graph_and_keys(name)
    plan = plan_pools(graph, balance=0)
    tasks = written_out(graph)
    by_key = read(tasks, [key for key in plan.pools if key not in plan.consumers])
    pools = place(by_key.dependencies, by_key.pins, plan.sizes)
    assert pools.keys() == plan.pools.keys()
    assert plan.cost == pytest.approx(traffic(by_key.dependencies, pools, plan.sizes))


def test_part_of_an_array_needs_a_part_of_the_tasks() -> None:
    """Of a large array of which one block is used, that block's tasks are read."""
    x = (da.zeros((100, 100), chunks=1) + 1)[3:4, 5:6]
    tasks = read(x.dask, x.__dask_keys__())
    assert len(tasks.dependencies) == 3


def test_culled_layers_hold_the_blocks_that_were_left() -> None:
    """Blocks that were culled away are data from elsewhere, and no tasks."""
    x = da.zeros(4, chunks=1) + 1
    keys = [(x.name, 0), (x.name, 2)]
    culled = x.dask.cull(keys)
    assert set(read(culled, keys).dependencies) == set(needed(ensure_dict(culled), keys))
    assert read(culled, [(x.name, 1)]).edges.outside == [(x.name, 1)]


def test_tasks_that_stand_in_two_layers_are_read_once() -> None:
    """Tasks that two layers hold, as those of Dask's shuffle do, count once."""
    order = [7, 0, 6, 1, 5, 2, 4, 3]
    a, b = (da.ones(8, chunks=4, name=name)[order] for name in "ab")
    x = (a + b).sum()
    tasks = read(x.dask, x.__dask_keys__())
    assert tasks.dependencies == needed(ensure_dict(copied(x.dask)), [*flatten(x.__dask_keys__())])
    assert len(tasks.edges.counts) == len(tasks.dependencies)


def test_layers_may_forget_what_they_need() -> None:
    """Tasks are found, and come after their inputs, where layers do not name all they depend on."""
    layers = {
        "last": MaterializedLayer({"last": (operator.add, "x", "y")}),
        "x": MaterializedLayer({"x": (abs, "root")}),
        "y": MaterializedLayer({"y": (abs, "root")}),
        "root": MaterializedLayer({"root": (int, 1)}),
    }
    graph = HighLevelGraph(layers, {"last": {"x"}, "x": {"root"}, "y": {"root"}, "root": set()})
    tasks = read(graph, ["last"])
    assert tasks.dependencies == {
        "root": set(), "x": {"root"}, "y": {"root"}, "last": {"x", "y"}
    }  # fmt: skip
    assert all(
        tasks.number_of[i] < tasks.number_of[key]
        for key, inputs in tasks.dependencies.items()
        for i in inputs
    )


def test_layers_may_need_each_other() -> None:
    """Two layers that use each other's tasks, but in no circle, are read task by task.

    one: a ------> c
          `-> b --^      two: b
    """
    layers = {
        "one": MaterializedLayer({"a": (int, 1), "c": (operator.add, "a", "b")}),
        "two": MaterializedLayer({"b": (abs, "a")}),
    }
    graph = HighLevelGraph(layers, {"one": {"two"}, "two": {"one"}})
    tasks = read(graph, ["c"])
    assert tasks.key_of == ["a", "b", "c"]
    assert tasks.by_key.keys == {"one": ["a", "c"], "two": ["b"]}


def test_circle_is_refused() -> None:
    """Tasks that need each other are an error that names them."""
    layers = {"x": MaterializedLayer({"a": (abs, "b"), "b": (abs, "a")})}
    with pytest.raises(GraphCycle, match="'a' → 'b'|'b' → 'a'"):
        read(HighLevelGraph(layers, {"x": set()}), ["a"])


def test_many_small_layers_are_read() -> None:
    """Delayed objects, each in a layer of its own, are read with the pools they were made in."""
    with pool("A"):
        parts = [dask.delayed(int)(n) for n in range(50)]
    total = dask.delayed(sum)(parts)
    tasks = read(as_high_level(total.__dask_graph__()), [total.key])
    assert set(tasks.pins) == {part.key for part in parts}
    assert tasks.dependencies[total.key] >= set(tasks.pins)
