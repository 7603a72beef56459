"""Pools of whole collections: asking, writing them into graphs, planning."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
import xarray as xr
from dask._expr import LLGExpr
from dask.base import DaskMethodsMixin
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer, compute_layer_dependencies
from tracing import run_with_pools, source, traced

from dask_worker_pools import (
    ConflictingPools,
    get_pool,
    plan_pools,
    pool,
    propagate_pools_in_collection,
)
from dask_worker_pools.annotations import annotations_by_key, pools_in
from dask_worker_pools.edges import toposort


def collections(name: str) -> dict[str, Any]:
    """One collection of each type, made in a pool."""
    with pool(name):
        return {
            "array": da.ones(4, chunks=2, name=f"ones-{name}"),
            "dataarray": xr.DataArray(da.ones((4, 2), chunks=2), dims=("x", "y")),
            "dataset": xr.Dataset({"t": ("x", da.ones(4, chunks=2)), "n": ("x", np.arange(4))}),
            "bag": db.from_sequence(range(4), npartitions=2),
            "item": db.from_sequence(range(4), npartitions=2).sum(),
            "delayed": dask.delayed(len)("abc"),
        }


TYPES = list(collections("A"))


@pytest.mark.parametrize("kind", TYPES)
def test_pool_of_a_collection_is_that_of_its_output(kind: str) -> None:
    """A collection made in a pool is in it."""
    assert get_pool(collections("A")[kind]) == "A"


@pytest.mark.parametrize("kind", TYPES)
def test_propagated_collection_is_of_the_same_type(kind: str) -> None:
    """Propagation gives the same type with the same keys and value, in the pool of its inputs."""
    collection = collections("A")[kind]
    downstream = collection if kind == "item" else step(collection)
    propagated = propagate_pools_in_collection(downstream)
    assert type(propagated) is type(downstream)
    assert list(flatten(propagated.__dask_keys__())) == list(flatten(downstream.__dask_keys__()))
    assert get_pool(propagated) == "A"
    got, want = (one.compute(scheduler="sync") for one in (propagated, downstream))
    assert bool(np.all(got == want))
    (result,) = run_with_pools(propagated).results
    assert bool(np.all(result == want)) or kind in ("dataarray", "dataset")


def step(collection: Any) -> Any:
    """Something downstream of a collection."""
    return collection.map(str) if isinstance(collection, db.Bag) else collection + 1


def test_handwritten_annotations_count() -> None:
    """Code that annotates ``pool-A`` by hand, with whatever amount, has pinned its tasks."""
    for amount in (0, 1):
        with dask.annotate(resources={"pool-A": amount}):
            a = da.ones(4)
        assert get_pool(a) == "A"
        assert get_pool(propagate_pools_in_collection(a + 1)) == "A"


def test_no_pool_is_none() -> None:
    """A collection without a pool, downstream of one, or blocked, has none."""
    with pool("A"):
        a = da.ones(4)
        with pool(None):
            blocked = da.ones(5)
    assert get_pool(da.ones(3)) is get_pool(a + 1) is get_pool(blocked) is None


def test_two_pools_are_none() -> None:
    """A collection whose output lies in several pools is in none of them."""
    with pool("A"):
        a = source("a")
    with pool("B"):
        b = source("b")
    both = propagate_pools_in_collection(da.concatenate([a, b]) + 1)
    assert get_pool(both) is None
    assert set(written(both).values()) == {("A",), ("B",)}


def written(collection: Any) -> dict[Any, tuple[str, ...]]:
    """The pools written on every task of a collection's graph."""
    return {
        key: pools_in(said)
        for layer in collection.dask.layers.values()
        for key, said in annotations_by_key(layer.annotations, layer.keys())
    }


def test_propagated_graph_can_be_built_upon() -> None:
    """A propagated collection is culled, sliced and combined as any other."""
    with pool("A"):
        a = source("a")
    with pool("B"):
        b = source("b")
    both = da.concatenate([a, b])
    on_top = (propagate_pools_in_collection(both + 1)[2:, ::2] * 2).sum(axis=0)
    check_layers(on_top.dask)
    expected = ((both + 1)[2:, ::2] * 2).sum(axis=0).compute(scheduler="sync")
    np.testing.assert_array_equal(on_top.compute(scheduler="sync"), expected)
    np.testing.assert_array_equal(run_with_pools(on_top).results[0], expected)


def check_layers(graph: HighLevelGraph) -> None:
    """Layers know, directly or not, all layers that their tasks need, and can be sorted."""
    order = {name: place for place, name in enumerate(toposort(graph.dependencies))}
    for name, needed in compute_layer_dependencies(graph.layers).items():
        assert needed <= graph.cull_layers([name]).layers.keys()
    for name, needed in graph.dependencies.items():
        assert all(order[one] < order[name] for one in needed)


def test_layers_stay_acyclic_where_tasks_return_to_a_pool() -> None:
    """A layer that goes from A to B and back to A is cut into parts that form no circle.

    one layer:  x0 (A) -> x1 (B) -> x2 (A) -> x3 (B)
    """
    where = {"x0": "A", "x1": "B", "x2": "A", "x3": "B"}
    tasks = {"x0": (abs, -1), "x1": (abs, "x0"), "x2": (abs, "x1"), "x3": (abs, "x2")}
    layer = MaterializedLayer(
        tasks, annotations={"resources": lambda key: {f"pool-{where[key]}": 0}}
    )
    chain = Delayed("x3", HighLevelGraph({"x3": layer}, {"x3": set()}))
    propagated = propagate_pools_in_collection(chain)
    assert written(propagated) == {key: (name,) for key, name in where.items()}
    check_layers(propagated.dask)
    assert propagated.compute(scheduler="sync") == 1


def test_symbolic_layers_stay_symbolic() -> None:
    """Blockwise layers are neither built to be read nor built to be written."""
    with pool("A"):
        a = da.ones((100, 100), chunks=10)
    with pool("B"):
        b = da.ones((100, 100), chunks=10, dtype="f4")
    both = a * 2 + b
    propagated = propagate_pools_in_collection(both)
    for graph in (both.dask, propagated.dask):
        assert not any(layer.is_materialized() for layer in graph.layers.values())


def test_plan_says_where_every_task_runs() -> None:
    """The plan of the README's example has one transfer, of 32 bytes, from A to B."""
    with pool("A"):
        a = da.random.random((10, 10))
    with pool("B"):
        b = da.random.random(10)
    run_in_b = b - a.mean()
    plan = plan_pools((a - 1).sum(), [run_in_b])
    assert plan.pools[(run_in_b.name, 0)] == "B"
    (transfer,) = plan.transfers
    assert (transfer.source, transfer.target, transfer.nbytes) == ("A", "B", 32)
    assert plan.bytes_by_link == {("A", "B"): 32}
    assert plan.total_bytes == 32


def test_plan_takes_graphs() -> None:
    """A HighLevelGraph is planned by its last layers."""
    with pool("A"):
        a = source("a")
    plan = plan_pools((a + 1).dask)
    assert set(plan.pools.values()) == {"A"}
    assert len(plan.pools) == 8


def test_dead_tasks_decide_nothing() -> None:
    """Only what the outputs need counts: nine tenths of the data may lie elsewhere, unused."""
    with pool("A"):
        a = source("a", (4,), 1)
    with pool("B"):
        b = source("b", (400,), 10)
    both = da.concatenate([a, b])
    plan = plan_pools((both[:4] + a).sum())
    assert set(plan.pools.values()) == {"A"}


@pytest.mark.parametrize("ask", [get_pool, propagate_pools_in_collection, plan_pools])
@pytest.mark.parametrize("thing", [3, "abc", None, np.ones(3), [1, 2]], ids=repr)
def test_what_is_no_collection_is_refused(ask: Any, thing: Any) -> None:
    """Anything but a collection is an error that shows it and its type."""
    with pytest.raises(TypeError, match=rf"Dask collection.*type {type(thing).__name__}"):
        ask(thing)


@pytest.mark.parametrize("ask", [get_pool, propagate_pools_in_collection, plan_pools])
def test_other_expressions_are_refused(ask: Any) -> None:
    """A collection of expressions of an unknown kind is an error that says what can have pools."""

    class Unknown(DaskMethodsMixin):
        expr = LLGExpr({"x": 1})

        def __dask_graph__(self) -> Any:
            return self.expr.__dask_graph__()

        def __dask_keys__(self) -> Any:
            return ["x"]

    with pytest.raises(TypeError, match=r"Unknown.*expressions that cannot have pools"):
        ask(Unknown())


def test_conflicting_pins_are_refused() -> None:
    """One task in two pools is an error with the task, its layer and both pools."""
    with dask.annotate(resources={"pool-A": 0, "pool-B": 0}):
        a = da.ones(4, name="both")
    with pytest.raises(ConflictingPools, match="'both'.*2 pools at once: 'A', 'B'") as caught:
        plan_pools(a + 1)
    assert caught.value.key == ("both", 0)
    assert caught.value.pools == ("A", "B")


def test_traced_operations_stay_where_they_were_written() -> None:
    """Computed inside the context, a propagated collection runs where it was written to run."""
    with pool("A"):
        a = source("a")
    propagated = propagate_pools_in_collection(traced("step", a))
    done = run_with_pools(propagated)
    assert done.pools_of("a") == done.pools_of("step") == {("A",)}


def test_separately_planned_collections_meet_without_conflict() -> None:
    """Tasks that two plans put in different pools run in one of them, and pins stay."""
    free = source("free")
    with pool("A"):
        a = source("a", chunks=8)
    with pool("B"):
        b = source("b", chunks=8)
    one, two = traced("one", free.rechunk(8), a, a + 1), traced("two", free.rechunk(8), b, b + 1)
    assert get_pool(propagate_pools_in_collection(one)) == "A"
    assert get_pool(propagate_pools_in_collection(two)) == "B"
    done = run_with_pools(propagate_pools_in_collection(one), propagate_pools_in_collection(two))
    assert done.pools_of("a") == {("A",)}
    assert done.pools_of("b") == {("B",)}
    assert len(done.pools_of("free")) == 1
