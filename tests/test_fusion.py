"""Dask's fusion, confined to one pool, with the other annotations kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph
from tracing import Run, nothing, run, run_with_pools, source, trace, traced

from dask_worker_pools import LostKeys, PeerToPeerInPool, plan_pools, pool, propagate_pools
from dask_worker_pools.optimize import Pass


def arrays(said: Callable[[str], Any]) -> dict[str, Any]:
    """Everyday computations on data of two pools."""
    random = da.random.default_rng(0)
    with said("A"):
        a = random.random((40, 40), chunks=10)
        small = random.random(40, chunks=10)
        ones = da.ones((40, 40), chunks=10)
    with said("B"):
        b = random.random((40, 40), chunks=10)
    both = da.concatenate([a, b])
    return {
        "sum": (a + 1).sum(),
        "sum of two": (a + b).mean(),
        "diamond": ((ones + 1) * 2 - ones.T).sum(),
        "concatenate": (both + 1).mean(axis=0),
        "diamond over both": ((both + 1) * (both + 2) - both * 3).sum(axis=0),
        "matmul": a @ b.T,
        "slices": a[1:, 1:] - b[:-1, :-1],
        "deviation": da.std(a - b.mean(axis=0), axis=1),
        "overlap": da.map_overlap(np.copy, both, depth=1, boundary="none", dtype=float),
        "rechunk": both.rechunk((20, 8), method="tasks").sum(axis=1),
        "broadcast": (both - (small * 2 + 1)[None, :]) * small.mean(),
    }


def others(said: Callable[[str], Any]) -> dict[str, Any]:
    """The same for bags and delayed objects."""
    with said("A"):
        bag = db.from_sequence(range(100), npartitions=10)
        one = dask.delayed(len)("abc")
    with said("B"):
        two = dask.delayed(len)("abcd")
    return {
        "fold": bag.map(str).filter(len).map(len).sum(),
        "frequencies": bag.map(lambda x: x % 3).frequencies(),
        "partitions": bag.map_partitions(list).fold(max),
        "delayed": dask.delayed(sum)([one + 1, two + 2]),
    }


NAMES = [*arrays(nothing), *others(nothing)]


def everything(said: Callable[[str], Any]) -> dict[str, Any]:
    """All of them."""
    return arrays(said) | others(said)


@pytest.mark.parametrize("name", NAMES)
def test_one_pool_costs_no_task(name: str) -> None:
    """With everything in one pool, exactly as many tasks are submitted as without pools."""
    in_one_pool = everything(lambda _: pool("A"))[name]
    done = run_with_pools(in_one_pool)
    assert done.n_tasks == run(everything(nothing)[name]).n_tasks
    assert done.pools() == {("A",)}


@pytest.mark.parametrize("name", NAMES)
def test_no_pool_costs_no_task(name: str) -> None:
    """With no pool at all, exactly as many tasks are submitted as without the library."""
    collection = everything(nothing)[name]
    done = run_with_pools(collection)
    assert done.n_tasks == run(collection).n_tasks
    assert done.annotations == {}


@pytest.mark.parametrize("name", NAMES)
def test_two_pools_cost_tasks_at_crossings_only(name: str) -> None:
    """Across pools, at most two more tasks are submitted for each output that crosses."""
    pinned = everything(pool)[name]
    done = run_with_pools(pinned)
    extra = done.n_tasks - run(everything(nothing)[name]).n_tasks
    assert extra <= 2 * len(plan_pools(pinned).transfers)
    for pools in done.pools():
        assert len(pools) == 1


def joined(said: Callable[[str], Any]) -> da.Array:
    """A diamond of fused layers whose blocks meet data of other pools in one block of four.

    blocks          0  1  2  3
    both            A  A  B  B   -> left, right -> total
    weights         A  A  A  B   -----------------^
    """
    with said("A"):
        both = [source("a", (8,))]
        weights = [source("w", (12,))]
    with said("B"):
        both.append(source("b", (8,)))
        weights.append(source("v", (4,)))
    plus = traced("plus", da.concatenate(both))
    weights_there = da.concatenate(weights)
    return traced("total", traced("left", plus), traced("right", plus), weights_there)


def test_blocks_are_fused_apart_where_they_cross_only() -> None:
    """Of a fused layer, the blocks at home stay one task each, and the crossing one becomes two."""
    (total,) = dask.persist(joined(pool), scheduler="sync")
    plan = plan_pools(joined(pool))
    assert len(plan.transfers) == 1
    with propagate_pools():
        plain = run(dask.delayed(list)(joined(nothing).to_delayed().ravel().tolist()))
        done = run(dask.delayed(list)(joined(pool).to_delayed().ravel().tolist()))
    np.testing.assert_array_equal(np.concatenate(done.results[0]), total.compute())
    assert done.n_tasks <= plain.n_tasks + 1
    assert done.pools_of("total") == {("A",), ("B",)}


def annotated_chain(**annotations: Any) -> da.Array:
    """Three operations, the middle one annotated, on data of pool A.

    A step that asks for workers, and is not pinned, gets its pool where there is a cluster.
    """
    with pool("A"):
        first = source("first")
    asks = annotations.keys() & {"workers", "resources"}
    with pool("A") if asks else nothing(), dask.annotate(**annotations):
        middle = traced("middle", first)
    return traced("last", middle)


@pytest.mark.parametrize(
    "annotations",
    [
        {"priority": 7},
        {"retries": 3},
        {"workers": ["tcp://127.0.0.1:1"]},
        {"allow_other_workers": False},
        {"mine": {"any": "thing"}},
    ],
    ids=lambda annotations: next(iter(annotations)),
)
def test_annotations_stay_on_their_tasks(annotations: dict[str, Any]) -> None:
    """Whatever was annotated is on the task that does the annotated work, beside its pool."""
    done = run_with_pools(annotated_chain(**annotations))
    for found in done.operations["middle"]:
        assert {name: found[name] for name in annotations} == annotations
        assert found["resources"] == {"pool-A": 0}


def test_counted_resources_and_pool_are_both_asked_for() -> None:
    """A task with ``GPU: 1`` in a pool asks for both."""
    done = run_with_pools(annotated_chain(resources={"GPU": 1}))
    assert {str(found["resources"]) for found in done.operations["middle"]} == {
        str({"GPU": 1, "pool-A": 0})
    }


def test_annotations_stay_without_any_pool() -> None:
    """The library keeps annotations also where no pool is used at all, which Dask does not."""
    with dask.annotate(priority=7):
        collection = traced("annotated", source("first"))
    assert run(collection).operations["annotated"][0] == {}
    kept = run_with_pools(collection).operations["annotated"]
    assert kept == [{"priority": 7}] * 4


def test_unknown_annotations_are_not_spread() -> None:
    """A task without an annotation of the user's own never runs inside one that has it."""
    done = run_with_pools(annotated_chain(mine=1))
    assert all("mine" not in found for found in done.operations["first"])
    assert all("mine" not in found for found in done.operations["last"])


def test_two_sets_of_workers_are_not_fused() -> None:
    """Tasks restricted to different workers stay apart: no worker is in both sets."""
    with dask.annotate(workers=["tcp://127.0.0.1:1"]):
        first = source("first")
    with dask.annotate(workers=["tcp://127.0.0.1:2"]):
        second = traced("second", first)
    done = run_with_pools(second)
    assert [found["workers"] for found in done.operations["first"]] == [["tcp://127.0.0.1:1"]] * 4
    assert [found["workers"] for found in done.operations["second"]] == [["tcp://127.0.0.1:2"]] * 4


def test_annotations_given_as_callables_are_kept_per_key() -> None:
    """A callable annotation is asked for each key, also where Dask would fuse and fail."""
    with pool("A"):
        first = source("first", (8,))
    with dask.annotate(priority=lambda key: 10 + key[-1]):
        second = traced("second", first)
        third = traced("third", second)
    done = run_with_pools(third)
    assert sorted(found["priority"] for found in done.operations["third"]) == [10, 11]


def test_blocked_tasks_keep_their_mark_and_stay_apart() -> None:
    """What was created under ``pool(None)`` has no pool and is fused with nothing in a pool."""
    with pool("A"):
        first = source("first")
    with pool(None):
        second = traced("second", first)
    third = traced("third", second)
    done = run_with_pools(third)
    assert done.pools_of("first") == {("A",)}
    assert done.pools_of("second") == {()}


def count_calls(calls: list[Any]) -> Callable[..., Any]:
    """An optimisation of the user's own that fuses nothing."""

    def optimization(graph: Any, keys: Any, **kwargs: Any) -> dict[Any, Any]:
        calls.append((type(graph), sorted(map(str, keys))))
        return dict(graph)

    return optimization


def test_users_optimization_runs_once_per_pool() -> None:
    """The user's own function gets each pool's tasks, with the keys that it must keep."""
    calls: list[Any] = []
    with pool("A"):
        a = source("a", (8,))
    with pool("B"):
        b = source("b", (8,))
    collection = traced("both", a, b)
    with dask.config.set(array_optimize=count_calls(calls)):
        done = run_with_pools(collection)
    assert {graph_type for graph_type, _ in calls} == {HighLevelGraph}
    assert len(calls) == 2
    assert done.pools_of("a") == {("A",)}
    assert done.pools_of("b") == {("B",)}
    np.testing.assert_array_equal(done.results[0], collection.compute(scheduler="sync"))


def test_users_optimization_must_keep_what_other_pools_need() -> None:
    """A function that drops wanted keys is an error that names it and a key."""

    def forgetful(graph: Any, keys: Any, **kwargs: Any) -> dict[Any, Any]:
        return {}

    with pool("A"):
        a = source("a")
    with (
        dask.config.set(array_optimize=forgetful),
        pytest.raises(LostKeys, match="forgetful.*must keep all of `keys`") as caught,
    ):
        run_with_pools(a + 1)
    assert caught.value.keys


def test_kinds_are_optimized_each_in_its_way() -> None:
    """Computed together, an array is fused, a bag too, and delayed tasks stay single."""
    with pool("A"):
        array = source("array", (8,))
        bag = db.from_sequence(range(4), npartitions=2)
        value = dask.delayed(trace("delayed"))(np.zeros(1))
    collections = [traced("top", array), bag.map(str).map(len), dask.delayed(abs)(value)]
    apart = sum(run(one).n_tasks for one in collections)
    with propagate_pools():
        together = run(*collections)
    assert together.n_tasks == apart
    assert together.pools() == {("A",)}


def test_a_key_of_two_kinds_runs_in_one_pool() -> None:
    """Tasks that an array and a delayed object share are planned once."""
    with pool("A"):
        array = source("shared", (8,))
    with pool("B"):
        other = source("other", (8,))
    delayed = array.to_delayed(optimize_graph=False).ravel()
    done = run_with_pools(traced("both", array, other), *[dask.delayed(abs)(d) for d in delayed])
    assert done.pools_of("shared") == {("A",)}
    assert all(len(pools) <= 1 for pools in done.pools())


def test_peer_to_peer_barrier_in_a_pool_is_refused() -> None:
    """A barrier that would wait for ever is an error that names the configuration key."""

    class P2PBarrierTask(dask._task_spec.Task):
        pass

    with pool("A"):
        a = dask.delayed(abs)(1, dask_key_name="input")
    barrier = P2PBarrierTask("barrier", min, dask._task_spec.TaskRef("input"), 0)
    graph = HighLevelGraph.from_collections("barrier", {"barrier": barrier}, dependencies=[a])
    with pytest.raises(PeerToPeerInPool, match=r"array\.rechunk\.method.*tasks"):
        Pass()(graph, [["barrier"]])


def test_fusion_may_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``optimization.fuse.active: False`` tasks are not fused, and pools hold all the same."""
    with dask.config.set({"optimization.fuse.active": False}):
        done: Run = run_with_pools(annotated_chain(priority=1))
    assert done.pools() == {("A",)}


def test_halves_of_a_concatenation_stay_at_home() -> None:
    """What is done to each half is done where it lies, also where all is gathered at the end."""
    with pool("A"):
        a = source("a", (8,))
    with pool("B"):
        b = source("b", (8,))
    both = da.concatenate([a, b])
    plan = plan_pools(both + 1)
    done = run_with_pools(traced("plus", both))
    assert [plan.pools[key] for key in (both + 1).__dask_keys__()] == ["A", "A", "B", "B"]
    assert sorted(done.pools_of("plus")) == [("A",), ("B",)]


def adding(x: Any) -> Any:
    """The sum of what is in `x`."""
    return np.sum(x)


def test_an_argument_keeps_its_pool_in_another_pool() -> None:
    """A pinned collection given to a function in another pool is still made in its own."""
    with propagate_pools():
        with pool("A"):
            a = source("a")
        with pool("B"):
            total = dask.delayed(trace("total"))(a)
        done = run(total)
    assert done.pools_of("a") == {("A",)}
    assert done.pools_of("total") == {("B",)}


def test_tasks_in_two_layers_keep_their_pin() -> None:
    """Tasks that an array and delayed objects hold in layers of their own stay where they were."""
    with propagate_pools():
        with pool("A"):
            a = source("a")
        with pool("B"):
            b = source("b")
        chunk = (a + b).to_delayed().ravel()[0]
        done = run(chunk, (a * 2 + b).sum(), (a * 2).sum())
    assert done.pools_of("a") == {("A",)}
    assert done.pools_of("b") == {("B",)}


def test_assigning_a_part_of_an_array_to_itself_keeps_its_pins() -> None:
    """Dask repeats the tasks of an assigned part, without annotations, beside the pinned ones."""
    with pool("A"):
        a = source("a")
    a = a + 0
    a[0] = a[1]
    assert run_with_pools(a).pools_of("a") == {("A",)}


def test_blocked_arguments_stay_blocked() -> None:
    """What was created under ``pool(None)`` has no pool, also as an argument of delayed tasks."""
    with propagate_pools():
        with pool(None):
            x = source("x")
        with pool("A"):
            y = source("y")
        done = run(dask.delayed(adding)([x + 1, y]), dask.delayed(adding)(x + 1))
    assert done.pools_of("x") == {()}
    assert done.pools_of("y") == {("A",)}


def test_other_workers_are_not_allowed_into_a_pool() -> None:
    """``allow_other_workers``, on which Dask's scheduler fails in a pool, is taken back there."""
    with pool("A"), dask.annotate(workers=["tcp://127.0.0.1:1"], allow_other_workers=True):
        a = source("a")
    (said, *_) = run_with_pools(a).operations["a"]
    assert said["allow_other_workers"] is False
    assert said["resources"] == {"pool-A": 0}


def test_free_arguments_in_another_pool_are_not_pinned() -> None:
    """An array without a pool that is given to functions in two pools can still go anywhere."""
    with propagate_pools():
        free = source("free")
        with pool("B"):
            one = dask.delayed(adding)(free)
        with pool("C"):
            two = dask.delayed(adding)(free)
        with pool(None):
            blocked = source("blocked")
        with pool("B"):
            three = dask.delayed(adding)(blocked)
        done = run(one, two, three, free + 1, blocked[::2])
    assert done.pools_of("blocked") == {()}


@pytest.mark.parametrize("kind", ["array", "bag"])
def test_keys_that_are_asked_for_survive(kind: str) -> None:
    """Whoever optimises a graph himself says in `fuse_keys`, as Dask calls it, what to keep."""
    with pool("A"):
        x = da.ones(4, chunks=2) if kind == "array" else db.from_sequence([1, 2], npartitions=2)
    y = x.map_blocks(np.negative) if kind == "array" else x.map(str)
    z = y.map_blocks(np.square) if kind == "array" else y.map(len)
    with propagate_pools():
        plain = z.__dask_optimize__(z.dask, z.__dask_keys__())
        asked = z.__dask_optimize__(
            z.dask, z.__dask_keys__(), fuse_keys=[*y.__dask_keys__(), "in no graph"]
        )
    assert not plain.keys() & {*y.__dask_keys__()}
    assert asked.keys() >= {*y.__dask_keys__(), *z.__dask_keys__()}
    assert "in no graph" not in asked
