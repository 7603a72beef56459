"""Counted resources decide in which pools a step can run, before it is placed."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from uuid import uuid4

import clusters
import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask import delayed
from distributed import Client, get_worker

from dask_worker_pools import NoSuchWorker, WorkersOutsidePool, pool, propagate_pools

#: The pool and the counted resources of each worker.
WORKERS: dict[str, tuple[str | None, dict[str, float]]] = {
    "cpu-0": ("cpu", {}),
    "cpu-1": ("cpu", {"MEMORY": 50}),
    "gpu-0": ("gpu", {"GPU": 1, "MEMORY": 100}),
    "big-gpu-0": ("big-gpu", {"GPU": 4}),
    "none-0": (None, {"FPGA": 1}),
    "none-1": (None, {}),
}


@pytest.fixture(scope="module")
def pool_cluster() -> Iterator[clusters.PoolCluster]:
    """One worker for each entry of `WORKERS`, by that name."""
    with clusters.start({}) as cluster:
        for name, (where, resources) in WORKERS.items():
            cluster.start_worker(where, name=name, resources=resources, wait=False)
        cluster.wait_for_workers()
        yield cluster


pytestmark = pytest.mark.usefixtures("client", "nothing_left")

Words = Callable[[], AbstractContextManager[Any]]


def asks(**resources: float) -> AbstractContextManager[Any]:
    """What is created inside asks for counted resources."""
    return dask.annotate(resources=resources)


def traced(kind: str, around_step: Words, source: str = "cpu") -> Any:
    """Sources in a pool, and a step: computed, the names of the workers of both, in pairs."""
    unique = uuid4().hex

    # Nested functions travel to the workers by value.
    def first(*_: Any) -> Any:
        return get_worker().name

    def then(before: Any) -> tuple[Any, Any]:
        return before, get_worker().name

    def block() -> Any:
        return np.array([first()], dtype=object)

    def stepped(before: Any) -> Any:
        result = np.empty(1, dtype=object)
        result[0] = then(before[0])
        return result

    if kind == "array":
        with pool(source):
            x = da.map_blocks(
                block, chunks=((1,) * 4,), dtype=object, meta=np.empty(0, object), name=unique
            )
        with around_step():
            return x.map_blocks(stepped, dtype=object, meta=np.empty(0, object))
    if kind == "bag":
        with pool(source):
            b = db.from_sequence([f"{n}-{unique}" for n in range(4)], npartitions=4).map(first)
        with around_step():
            return b.map(then)
    with pool(source):
        loads = [delayed(first, pure=False)(n) for n in range(4)]
    with around_step():
        return [delayed(then, pure=False)(load) for load in loads]


def workers(x: Any) -> tuple[set[str], set[str]]:
    """Workers that ran the sources, and those that ran the step."""
    (pairs,) = dask.compute(x)
    sources, steps = zip(*pairs, strict=True)
    return set(sources), set(steps)


#: What is said around a step, and the workers that may run it.
STEPS: dict[str, tuple[Words, set[str]]] = {
    "a GPU": (lambda: asks(GPU=1), {"gpu-0", "big-gpu-0"}),
    "many GPUs": (lambda: asks(GPU=2), {"big-gpu-0"}),
    "a GPU and memory": (lambda: asks(GPU=1, MEMORY=60), {"gpu-0"}),
    "memory": (lambda: asks(MEMORY=60), {"gpu-0"}),
    "little memory": (lambda: asks(MEMORY=10), {"cpu-1"}),
    "what only workers outside of pools have": (lambda: asks(FPGA=1), {"none-0"}),
    "nothing": (nullcontext, {"cpu-0", "cpu-1"}),
    "a GPU, of one worker": (
        lambda: dask.annotate(resources={"GPU": 1}, workers=["big-gpu-0", "cpu-0"]),
        {"big-gpu-0"},
    ),
    "a GPU, or other workers": (
        lambda: dask.annotate(
            resources={"GPU": 2}, workers=["big-gpu-0"], allow_other_workers=False
        ),
        {"big-gpu-0"},
    ),
}


@pytest.mark.parametrize("said", STEPS)
@pytest.mark.parametrize("kind", ["array", "bag", "delayed"])
def test_a_free_step_goes_where_it_can_run(kind: str, said: str) -> None:
    """A step that says no pool runs in one that has what it asks for; its inputs stay."""
    around, able = STEPS[said]
    with propagate_pools():
        sources, steps = workers(traced(kind, around))
    assert sources <= {"cpu-0", "cpu-1"}
    assert steps <= able


@pytest.mark.parametrize("kind", ["array", "bag", "delayed"])
def test_it_follows_its_inputs_where_they_have_it(kind: str) -> None:
    """Of two pools with GPUs, a step runs in the one where its inputs are."""
    with propagate_pools():
        assert workers(traced(kind, lambda: asks(GPU=1), source="big-gpu")) == (
            {"big-gpu-0"},
            {"big-gpu-0"},
        )


@contextmanager
def both(outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> Iterator[None]:
    """One block inside of another."""
    with outer, inner:
        yield


#: Pools that are said together with counted resources, and the workers that may run the step.
WITH_POOLS: dict[str, tuple[Words, set[str]]] = {
    "the pool that has it": (lambda: both(pool("gpu"), asks(GPU=1)), {"gpu-0"}),
    "one of two has it": (lambda: both(pool("cpu", "gpu"), asks(GPU=1)), {"gpu-0"}),
    "said the other way round": (lambda: both(asks(GPU=1), pool("cpu", "gpu")), {"gpu-0"}),
    "one of two has enough": (lambda: both(pool("gpu", "big-gpu"), asks(GPU=3)), {"big-gpu-0"}),
    "no pool": (lambda: both(pool(None), asks(FPGA=1)), {"none-0"}),
}


@pytest.mark.parametrize("said", WITH_POOLS)
@pytest.mark.parametrize("kind", ["array", "bag", "delayed"])
def test_with_pools(kind: str, said: str) -> None:
    """Of the pools that were said only those count that have what a step asks for."""
    around, able = WITH_POOLS[said]
    with propagate_pools():
        assert workers(traced(kind, around))[1] <= able


#: What no worker can do, and the error's pool.
IMPOSSIBLE: dict[str, tuple[Words, str | None]] = {
    "nobody": (lambda: asks(TPU=1), None),
    "nobody has so much": (lambda: asks(GPU=8), None),
    "not in this pool": (lambda: both(pool("cpu"), asks(GPU=1)), "cpu"),
    "not in these pools": (lambda: both(pool("cpu"), asks(FPGA=1)), "cpu"),
    "not on one worker": (lambda: asks(GPU=4, MEMORY=60), None),
}


@pytest.mark.parametrize("said", IMPOSSIBLE)
def test_what_cannot_run_is_an_error(client: Client, said: str) -> None:
    """Resources that no worker has, or none of the pool, raise NoSuchWorker and leave nothing."""
    around, where = IMPOSSIBLE[said]
    x = traced("array", around)
    with propagate_pools(), pytest.raises(NoSuchWorker) as caught:
        x.compute()
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.pool, error.n_tasks, str(error)) == (where, 4, str(caught.value))
    assert not clusters.stuck(client)


def test_workers_outside_of_several_pools(client: Client) -> None:
    """Workers that are in none of the pools that were said are an error, and no way out of them."""
    x = traced("array", lambda: both(pool("gpu", "big-gpu"), dask.annotate(workers=["cpu-0"])))
    with propagate_pools(), pytest.raises(WorkersOutsidePool, match="'gpu or big-gpu'"):
        x.compute()
    assert not clusters.stuck(client)


def test_waiting_for_what_nobody_has(client: Client, pool_cluster: clusters.PoolCluster) -> None:
    """With missing="wait" a step waits for a worker that has it, in whatever pool it joins."""
    x = traced("delayed", lambda: asks(TPU=1))
    with propagate_pools(missing="wait"):
        futures = client.compute(x)
        clusters.wait_until(lambda: "no-worker" in clusters.stuck(client).values())
        worker = pool_cluster.start_worker("late", name="late-0", resources={"TPU": 1})
        pairs = client.gather(futures)
    pool_cluster.stop_worker(worker)
    assert {step for _, step in pairs} == {"late-0"}


def test_warning_of_what_nobody_has(client: Client) -> None:
    """With missing="warn" it says what is missing."""
    x = traced("delayed", lambda: asks(TPU=1))
    with propagate_pools(missing="warn"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        futures = client.compute(x)
        clusters.wait_until(lambda: caught)
    client.cancel(futures)
    assert "ask for TPU=1, but no worker offers it. The tasks wait" in str(caught[0].message)


def test_far_from_pools_nothing_changes(client: Client) -> None:
    """Where nothing is linked to a pool, counted resources alone give none to anything."""
    with pool("cpu"):
        apart = delayed(int, pure=False)(1)
    first = delayed(int, pure=False)(2)
    with asks(GPU=1):
        second = delayed(abs, pure=False)(first)
    with propagate_pools():
        kept = dask.persist(apart, second)
        asked = {*map(tuple, clusters.restrictions(client, *kept).values())}
    assert asked - {()} == {("GPU",), ("pool-cpu",)}


def test_a_graph_that_was_planned_before() -> None:
    """A function of a list of steps does not settle where they run before there is a cluster."""
    with propagate_pools():
        steps = traced("delayed", lambda: asks(GPU=1))
        pairs = delayed(list, pure=False)(steps).compute()
    sources, ran = map(set, zip(*pairs, strict=True))
    assert sources <= {"cpu-0", "cpu-1"}
    assert ran <= {"gpu-0", "big-gpu-0"}


def _array(load: Callable[..., Any]) -> Any:
    return da.from_array(np.arange(4), chunks=2).map_blocks(load, dtype=object, meta=np.empty(0))


GIVEN: dict[str, tuple[Callable[[Any], Any], Callable[[Callable[..., Any], Any], Any]]] = {
    "array": (_array, lambda f, x: delayed(f)(x)),
    "bag": (
        lambda load: db.from_sequence([1, 2], npartitions=2).map(load),
        lambda f, b: delayed(f)(b),
    ),
    "delayed": (lambda load: delayed(load)(1), lambda f, d: delayed(f)([d, d])),
    "parts": (_array, lambda f, x: delayed(f)(x.to_delayed().tolist())),
    "keyword": (_array, lambda f, x: db.range(1, npartitions=1).map(lambda _, k: f(k), k=x)),
}


@pytest.mark.parametrize("words", [{"resources": {"GPU": 1}}, {"workers": ["gpu-0"]}], ids=str)
@pytest.mark.parametrize("kind", GIVEN)
def test_what_is_given_to_a_step_asks_for_nothing(kind: str, words: dict[str, Any]) -> None:
    """A step on a whole collection may ask for a GPU; the collection's own tasks do not."""

    def load(x: Any) -> Any:
        assert get_worker().name.startswith("cpu")
        return x

    def step(_: Any) -> str:
        return str(get_worker().name)

    make, give = GIVEN[kind]
    with propagate_pools():
        with pool("cpu"):
            source = make(load)
        with dask.annotate(**words):
            result = give(step, source)
        (where,) = dask.compute(result)
    assert "gpu" in str(where)


@pytest.mark.parametrize("pinned", [True, False])
def test_workers_that_are_only_wished_for(pinned: bool) -> None:
    """A wish for workers of another pool does not keep a task in a pool from running."""
    hint = dask.annotate(workers=["gpu-0"], allow_other_workers=True)
    with propagate_pools():
        with hint if pinned else nullcontext(), pool("cpu"):
            x = _array(lambda block: np.array([get_worker().name] * len(block), dtype=object))
        with nullcontext() if pinned else hint:
            x = x.map_blocks(lambda block: block, dtype=object, meta=np.empty(0))
        assert {name.partition("-")[0] for name in x.compute()} == {"cpu"}
