"""Collections with an optimisation of their own are placed like any other, and keep it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import clusters
import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask import delayed
from distributed import Client
from foreign import Table
from tracing import optimized, run_with_pools, source, traced

from dask_worker_pools import pool, propagate_pools
from dask_worker_pools.annotations import pools_in
from dask_worker_pools.errors import LostKeys

#: What was called where the graph is optimised, by its name: the keys that it was called with.
CALLS: list[tuple[str, list[Any]]] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def whole(graph: Any, keys: Any, **kwargs: Any) -> Any:
    """Fuse layers, as dask-histogram does: annotations are kept, and so is the graph's form."""
    from dask.blockwise import fuse_roots, optimize_blockwise
    from dask.core import flatten

    wanted = list(flatten(keys))
    CALLS.append(("whole", wanted))
    return fuse_roots(optimize_blockwise(graph, keys=wanted), keys=wanted).cull(set(wanted))


def renaming(graph: Any, keys: Any, **kwargs: Any) -> Any:
    """Fuse tasks under new names: annotations are lost, and with them all trace of pools."""
    from dask._task_spec import convert_legacy_graph, fuse_linear_task_spec
    from dask.core import flatten
    from dask.utils import ensure_dict

    wanted = set(flatten(keys))
    CALLS.append(("renaming", sorted(wanted, key=str)))
    return fuse_linear_task_spec(convert_legacy_graph(ensure_dict(graph)), wanted)


def plain(graph: Any, keys: Any, **kwargs: Any) -> Any:
    """Return plain tasks."""
    CALLS.append(("plain", []))
    return dict(graph)


def losing(graph: Any, keys: Any, **kwargs: Any) -> Any:
    """Return nothing of what was asked for."""
    return {}


def two_sources() -> tuple[Any, Any]:
    """An array in pool A and one in pool B, of four chunks each."""
    with pool("A"):
        a = source("a", (64,), 16)
    with pool("B"):
        b = source("b", (64,), 16)
    return a, b


OPTIMIZATIONS = [whole, renaming, plain, None]


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_pools(optimization: Any) -> None:
    """Sources run in their pools, and each step where its input lies, whatever is optimised how."""
    a, b = two_sources()
    both = traced("h", da.concatenate([traced("f", a), traced("g", b)]))
    run = run_with_pools(Table.of(both, optimization))
    np.testing.assert_array_equal(run.results[0], both.compute(scheduler="sync"))
    assert run.pools_of("a") == run.pools_of("f") == {("A",)}
    assert run.pools_of("b") == run.pools_of("g") == {("B",)}
    assert run.pools_of("h") == {("A",), ("B",)}


@pytest.mark.parametrize(("optimization", "calls"), [(whole, 1), (plain, 1), (renaming, 3)])
def test_it_is_called(optimization: Any, calls: int) -> None:
    """It gets the whole graph; if it hides where tasks come from, each pool's tasks after that."""
    a, b = two_sources()
    table = Table.of(da.concatenate([a + 1, b + 1]), optimization)
    n_tasks = run_with_pools(table).n_tasks
    assert len(CALLS) == calls
    if optimization is not plain:
        assert n_tasks == 8 + 1  # a task for each chunk, and the one that puts them together


def test_nothing_pinned() -> None:
    """Where nothing is pinned it is called once, with the keys that are asked for."""
    table = Table.of(da.ones(4, chunks=2) + 1, renaming)
    with propagate_pools():
        table.persist(scheduler="sync")
    (call,) = CALLS
    assert call == ("renaming", table.__dask_keys__())


def test_fusion_never_crosses() -> None:
    """Two pools meet in a step that Dask would fuse with both: what crosses is not fused."""
    a, b = two_sources()
    small = traced("small", b)[:1].sum()
    run = run_with_pools(Table.of(traced("step", a, small), whole))
    assert run.pools_of("step") == run.pools_of("a") == {("A",)}
    assert run.pools_of("small") == {("B",)}


def test_several_at_once() -> None:
    """Each gets the keys of its own collections, and results are in the order of the call."""
    a, b = two_sources()
    first, second = Table.of(a + 1, whole), Table.of(b + 2, renaming)
    bag = db.from_sequence([1, 2], npartitions=2)
    with propagate_pools():
        results = dask.compute(bag, first, (a + b).sum(), second, delayed(str)(3), scheduler="sync")
    assert results[0] == [1, 2]
    assert results[4] == "3"
    np.testing.assert_array_equal(results[1], (a + 1).compute(scheduler="sync"))
    np.testing.assert_array_equal(results[3], (b + 2).compute(scheduler="sync"))
    asked = dict(CALLS)
    assert set(asked) == {"whole", "renaming"}
    assert len(asked["whole"]) == len(asked["renaming"]) == 1


def test_annotations_are_kept() -> None:
    """What else was annotated is on the task that the annotated one was fused into."""
    with pool("A"), dask.annotate(priority=7):
        a = source("a", (64,), 16)
    run = run_with_pools(Table.of(a + 1, whole))
    loads = [said for said in run.annotations.values() if said.get("priority") == 7]
    assert len(loads) == 4


def test_what_loses_keys_is_refused() -> None:
    """An optimisation that does not return what it was asked for is named."""
    a, _ = two_sources()
    with propagate_pools(), pytest.raises(LostKeys, match="losing"):
        Table.of(a, losing).compute(scheduler="sync")


def test_an_optimisation_set_inside() -> None:
    """An optimisation that is configured inside of the block is run, and what it gives placed."""
    a, b = two_sources()
    with propagate_pools(), dask.config.set(array_optimize=whole):
        tasks, said, _ = optimized(a + b.sum())
    assert [name for name, _ in CALLS] == ["whole"]
    assert {pools_in(said.get(key, {})) for key in tasks} == {("A",), ("B",)}


def by_value(fuse: bool) -> Callable[..., Any]:
    """An optimisation that travels whole: the scheduler cannot import this module."""

    def optimization(graph: Any, keys: Any, **kwargs: Any) -> Any:
        from dask.blockwise import optimize_blockwise
        from dask.core import flatten

        wanted = list(flatten(keys))
        return optimize_blockwise(graph, keys=wanted) if fuse else dict(graph)

    return optimization


PATHS: dict[str, Callable[[Client, Any], Any]] = {
    "compute": lambda client, one: one.compute(),
    "persist": lambda client, one: one.persist().compute(),
    "optimize": lambda client, one: dask.optimize(one)[0].compute(),
    "Client.compute": lambda client, one: client.compute(one).result(),
    "Client.compute of several": lambda client, one: client.compute([one, one])[1].result(),
    "Client.persist": lambda client, one: client.persist(one).compute(),
    "beside others": lambda client, one: dask.compute(delayed(str)(1), one)[1],
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fuse", [True, False])
def test_on_a_cluster(client: Client, path: str, fuse: bool) -> None:
    """By each way of computing, the chunks of each pool are made and counted in that pool."""
    with pool("A"):
        a = da.ones(1000, chunks=500, name=f"in-a-{path}-{fuse}")
    with pool("B"):
        b = da.ones(1000, chunks=500, name=f"in-b-{path}-{fuse}")
    sums = da.concatenate([a + 1, b + 1]).map_blocks(lambda x: x.sum(keepdims=True), chunks=(1,))
    table = Table.of(sums, by_value(fuse))
    with clusters.record_executions(client) as ran, propagate_pools():
        result = PATHS[path](client, table)
    assert list(result) == [1000.0] * 4
    places: dict[Any, Any] = dict(ran.pools_of)
    counted = {key: pools for key, pools in places.items() if key[0] == sums.name}
    assert counted == {(sums.name, i): {"A"} if i < 2 else {"B"} for i in range(4)}
    assert all(pools == {"A"} for key, pools in places.items() if key[0] == a.name)
    assert all(pools == {"B"} for key, pools in places.items() if key[0] == b.name)


def test_histograms() -> None:
    """Histograms of dask-histogram are filled where the data lies."""
    dask_histogram = pytest.importorskip("dask_histogram", reason="it needs dask-histogram")
    import boost_histogram

    with pool("A"):
        a = source("a", (64,), 16)
    with pool("B"):
        b = source("b", (640,), 160)
    axis = boost_histogram.axis.Regular(4, 0, 1000)
    histogram = dask_histogram.factory(da.concatenate([a, b]), axes=(axis,))
    run = run_with_pools(histogram)
    assert run.results[0].sum() == 704
    assert run.pools() == {("A",), ("B",)}
