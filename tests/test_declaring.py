"""Workers declare their pool in any way that Dask documents, and offer other resources besides."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import uuid4

import clusters
import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed
from distributed import Client, LocalCluster, futures_of, wait

from dask_worker_pools import AmbiguousPool, NoSuchPool, pool, propagate_pools

VALUES = np.arange(64.0).reshape(8, 8)

#: What each worker is started with. Their pools' names differ in more than case, "-" and "_",
#: but for the last two.
WORKERS: dict[str, dict[str, Any]] = {
    "command line": {"pool": "eu-west"},
    "file": {"config": {"distributed": {"worker": {"resources": {"pool-us.east": 1}}}}},
    "environment": {"env": {"DASK_DISTRIBUTED__WORKER__RESOURCES__POOL_AP_SOUTH_1": "1"}},
    "plain": {"pool": "farm"},
    "gpu": {"pool": "farm", "resources": {"GPU": 1, "MEMORY": 70e9}},
    "gpu elsewhere": {"resources": {"GPU": 1}},
    "exact": {"pool": "Twin"},
    "similar": {"env": {"DASK_DISTRIBUTED__WORKER__RESOURCES__POOL_TWIN": "1"}},
}


@pytest.fixture(scope="module")
def pool_cluster() -> Iterator[clusters.PoolCluster]:
    """One worker for each entry of `WORKERS`, by that name."""
    with clusters.start({}) as cluster:
        for name, options in WORKERS.items():
            cluster.start_worker(name=name.replace(" ", "-"), wait=False, **options)
        cluster.wait_for_workers()
        yield cluster


pytestmark = pytest.mark.usefixtures("nothing_left")


def make(kind: str) -> Any:
    """A collection of 16 tasks and more."""
    if kind == "array":
        return da.from_array(VALUES, chunks=2, name=f"values-{uuid4().hex}")
    if kind == "bag":
        return db.from_sequence(range(16), npartitions=16)
    return delayed(list)([delayed(int)(n, dask_key_name=f"int-{uuid4().hex}") for n in range(16)])


KINDS = ["array", "bag", "delayed"]


@pytest.fixture
def ran_on(
    pool_cluster: clusters.PoolCluster, client: Client
) -> Callable[[Callable[[], Any]], set[str]]:
    """Run a function inside propagate_pools; return the names of the workers that were used."""
    names = {worker.address: name for name, worker in pool_cluster.workers.items()}

    def run(function: Callable[[], Any]) -> set[str]:
        with clusters.record_executions(client) as ran, propagate_pools():
            function()
        return {names[task.worker] for task in ran.tasks}

    return run


Ran = Callable[[Callable[[], Any]], set[str]]


# --- the three ways


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "worker"),
    [
        ("eu-west", "command-line"),
        ("us.east", "file"),
        ("ap-south-1", "environment"),
        # As spelled by those who know what the environment makes of it, or do not care.
        ("ap_south_1", "environment"),
        ("AP-South_1", "environment"),
        ("EU_WEST", "command-line"),
    ],
)
def test_all_ways_to_declare_a_pool(ran_on: Ran, name: str, worker: str, kind: str) -> None:
    """A pool is found however its workers declared it, whatever its name's case, `-` and `_`."""
    with pool(name):
        x = make(kind)
    assert ran_on(x.compute) == {worker}


def test_the_environment_changes_names(client: Client) -> None:
    """What the environment declared arrives in lower case with underscores only."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    offered = {worker["name"]: worker["resources"] for worker in workers}
    assert offered["environment"] == {"pool_ap_south_1": 1}


def test_pools_of_all_ways_in_one_graph(ran_on: Ran) -> None:
    """Pools that were declared in different ways meet in one computation."""
    parts = []
    for name in ("eu-west", "us.east", "ap-south-1"):
        with pool(name):
            parts.append(make("array"))
    assert ran_on((parts[0] + parts[1] - parts[2]).sum().compute) == {
        "command-line",
        "file",
        "environment",
    }


def test_two_spellings_of_one_pool_are_one(ran_on: Ran) -> None:
    """Tasks pinned under two spellings of a pool's name run in that pool together."""
    with pool("ap-south-1"):
        x = make("array")
    with pool("AP_SOUTH_1"):
        y = x + make("array")
    assert ran_on(y.sum().compute) == {"environment"}


def test_persisted_data_of_a_pool_from_the_environment(ran_on: Ran) -> None:
    """What consumes persisted data later follows it into a pool with a changed name."""
    with pool("AP-south-1"), propagate_pools():
        x = make("array").persist()
        wait(x)
    assert ran_on((x + 1).sum().compute) == {"environment"}


def test_frames_in_pools_of_all_spellings(ran_on: Ran) -> None:
    """Frames stay in a pool whose workers spell its name in another way, and meet others."""
    frame = pd.DataFrame({"key": range(40), "value": 1.0})
    with pool("AP-south-1"):
        left = dd.from_pandas(frame, npartitions=4)
    with pool("eu-west"):
        right = dd.from_pandas(frame.rename(columns={"value": "other"}), npartitions=4)
    assert ran_on((left.value + 1).sum().compute) == {"environment"}
    assert ran_on((left.value + right.other).sum().compute) == {"environment", "command-line"}
    assert ran_on(left.merge(right, on="key").compute) == {"environment", "command-line"}


# --- similar names


def test_an_exact_name_wins_over_a_similar_one(ran_on: Ran) -> None:
    """Of two resources that fit, the one that is spelled as the pool is taken."""
    with pool("Twin"):
        x = make("array")
    assert ran_on(x.sum().compute) == {"exact"}


@pytest.mark.parametrize("name", ["twin", "TWIN"])
def test_an_ambiguous_name_is_an_error_that_lists_both(client: Client, name: str) -> None:
    """A name that fits two resources, and neither exactly, raises AmbiguousPool with both."""
    with pool(name):
        x = make("array")
    with propagate_pools(), pytest.raises(AmbiguousPool) as caught:
        x.sum().compute()
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.pool, error.resources) == (name, ("pool-Twin", "pool_twin"))
    assert str(error) == str(caught.value)
    for part in (repr(name), "'pool-Twin'", "'pool_twin'"):
        assert part in str(error)
    assert not clusters.stuck(client)


# --- counted resources

GPU = {"GPU": 1}


@contextmanager
def gpu_outside() -> Iterator[None]:
    """`GPU: 1`, then the pool."""
    with dask.annotate(resources=GPU), pool("farm"):
        yield


@contextmanager
def gpu_inside() -> Iterator[None]:
    """The pool, then `GPU: 1`."""
    with pool("farm"), dask.annotate(resources=GPU):
        yield


@contextmanager
def by_hand() -> Iterator[None]:
    """Both in one annotation, without this package."""
    with dask.annotate(resources={"pool-farm": 1, "GPU": 1}):
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("say", [gpu_outside, gpu_inside, by_hand])
def test_a_pool_and_a_gpu(
    ran_on: Ran, kind: str, say: Callable[[], AbstractContextManager[Any]]
) -> None:
    """A task that needs a pool and a GPU runs on the one worker that has both."""
    with say():
        x = make(kind)
        x = x.map(abs) if kind == "bag" else x + (1 if kind == "array" else [])
    assert ran_on(lambda: wait(futures_of(x.persist()))) == {"gpu"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_around_the_computation(ran_on: Ran, kind: str) -> None:
    """`GPU: 1` around compute holds for the tasks of a pool too."""
    with pool("farm"):
        x = make(kind)

    def run() -> None:
        with dask.annotate(resources=GPU):
            (x.map(abs) if kind == "bag" else x + (1 if kind == "array" else [])).compute()

    assert ran_on(run) == {"gpu"}


def test_a_pool_and_a_gpu_around_the_computation(ran_on: Ran) -> None:
    """A pool and a GPU said around compute hold for tasks of which nothing was said."""
    x = make("array")

    def run() -> None:
        with gpu_outside():
            (x + 1).sum().compute()

    assert ran_on(run) == {"gpu"}


def test_only_the_tasks_that_asked_need_the_gpu(client: Client) -> None:
    """What follows from a task with a GPU gets its pool, and not its GPU."""
    with gpu_outside():
        x = make("array")
    with propagate_pools():
        persisted = (x + 1).rechunk(8).persist()
        wait(persisted)
        asked = clusters.restrictions(client, persisted)
    assert all("pool-farm" in resources for resources in asked.values())
    assert asked[futures_of(persisted)[0].key] == {"pool-farm": 0}


@pytest.mark.parametrize("memory", [1e9, 70e9])
def test_amounts_are_kept(client: Client, memory: float) -> None:
    """A counted resource keeps its amount, and the pool takes nothing from its workers."""
    with dask.annotate(resources={"MEMORY": memory}), pool("farm"):
        x = make("delayed")
    with propagate_pools():
        persisted = x.persist()
        wait(persisted)
        asked = clusters.restrictions(client, persisted)
    assert {"MEMORY": memory, "pool-farm": 0} in asked.values()


def test_a_gpu_without_a_pool(ran_on: Ran) -> None:
    """Without a pool, a GPU is all that a task needs."""
    with dask.annotate(resources=GPU):
        x = [delayed(abs)(n, dask_key_name=f"abs-{uuid4().hex}") for n in range(16)]
    assert ran_on(lambda: dask.compute(*x)) <= {"gpu", "gpu-elsewhere"}


# --- clusters in this process


def local_cluster(**options: Any) -> LocalCluster:
    """A scheduler and two workers in this process, on the loopback."""
    return LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        **options,
    )


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"distributed.worker.resources.pool-A": 1}, {}),
        ({}, {"resources": {"pool-A": 1}}),
        ({"distributed.worker.resources": {"pool_a": 1}}, {}),
    ],
    ids=["config", "resources=", "config as from the environment"],
)
def test_local_cluster(config: dict[str, Any], options: dict[str, Any]) -> None:
    """The workers of a LocalCluster are in the pool that the configuration or an option says."""
    with dask.config.set(config), local_cluster(**options) as cluster, Client(cluster) as client:
        with pool("A"):
            x = make("array")
        with propagate_pools(), clusters.record_executions(client) as ran:
            assert (x + 1).sum().compute() == (VALUES + 1).sum()
            persisted = (x + 1).persist()
            wait(persisted)
            asked = clusters.restrictions(client, persisted)
        assert {len(resources) for resources in asked.values()} == {1}
        assert len(ran.tasks) > 0
        with pool("B"):
            y = make("array")
        with propagate_pools(), pytest.raises(NoSuchPool, match=r"'[Aa]' \(2 workers\)"):
            y.sum().compute()


def test_each_of_two_clusters_has_its_own_pools(client: Client) -> None:
    """With several clusters at hand, the pools that count are those of the one that computes."""
    with pool("here"):
        x = make("array")
    with pool("eu-west"):
        y = make("array")
    with (
        local_cluster(resources={"pool-here": 1}) as one,
        local_cluster(resources={"pool-there": 1}) as two,
        Client(one, set_as_default=False) as first,
        Client(two, set_as_default=False) as second,
        propagate_pools(),
    ):
        for _ in range(3):
            assert first.compute(x.sum()).result(timeout=30) == VALUES.sum()
            assert client.compute(y.sum()).result(timeout=30) == VALUES.sum()
            with pytest.raises(NoSuchPool) as caught:
                second.compute(x.sum()).result(timeout=30)
            assert caught.value.pools == {"there": 2}
            with pytest.raises(NoSuchPool, match="eu-west"):
                client.compute(x.sum()).result(timeout=30)


def test_a_worker_that_joins_declares_a_pool(
    pool_cluster: clusters.PoolCluster, client: Client
) -> None:
    """A pool is there as soon as a worker has joined, and gone when its last worker has left."""
    with pool("new"):
        x = make("array")
    with propagate_pools():
        with pytest.raises(NoSuchPool):
            x.sum().compute()
        worker = pool_cluster.start_worker("new")
        try:
            assert x.sum().compute() == VALUES.sum()
        finally:
            pool_cluster.stop_worker(worker)
        with pytest.raises(NoSuchPool) as caught:
            x.sum().compute()
    assert "new" not in caught.value.pools
