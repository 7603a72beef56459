"""Pools whose workers leave: data that was kept there, and tasks that may go on elsewhere."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
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
from distributed import Client, Event, wait

from dask_worker_pools import NoSuchPool, pool, propagate_pools

POOLS = {"spot": 1, "od": 1, "other": 1, None: 1}


@pytest.fixture(scope="module")
def pool_cluster() -> Iterator[clusters.PoolCluster]:
    """One worker in each pool, and one in none."""
    with clusters.start(POOLS) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _all_there(pool_cluster: clusters.PoolCluster, client: Client) -> Iterator[None]:
    """After each test there is a worker in each pool again, and no task waits."""
    yield
    there = {worker.pool for worker in pool_cluster.workers.values()}
    for name in POOLS.keys() - there:
        pool_cluster.start_worker(name)
    for worker in [*pool_cluster.workers.values()]:
        if worker.pool not in POOLS:
            pool_cluster.stop_worker(worker)
    clusters.wait_until(lambda: not clusters.stuck(client))


def leave(cluster: clusters.PoolCluster, name: str, *, kill: bool = True) -> None:
    """Let all workers of a pool leave; killed, they hand over nothing."""
    for worker in [*cluster.workers.values()]:
        if worker.pool == name:
            cluster.stop_worker(worker, kill=kill)


def made(kind: str) -> tuple[Any, Callable[[Any], Any], Any]:
    """A collection of its own, what is made of it, and what that is as a value."""
    unique = uuid4().hex

    def load(n: Any = 0) -> Any:
        return np.ones(4)

    if kind == "array":
        x = da.map_blocks(
            load, chunks=((4,) * 4,), dtype=float, meta=np.empty(0), name=f"kept-{unique}"
        )
        return x, lambda x: (x + 1).sum(), 32
    if kind == "bag":
        b = db.from_sequence([f"{n}-{unique}" for n in range(8)], npartitions=4)
        return b.map(len), lambda b: b.map(lambda n: 1).sum(), 8
    if kind == "delayed":
        return (
            delayed(load, pure=False)(dask_key_name=f"kept-{unique}"),
            lambda x: delayed(np.sum)(x),
            4,
        )
    frame = pd.DataFrame({"x": np.arange(8.0)})
    return dd.from_pandas(frame, npartitions=4, sort=False), lambda f: f.x.sum(), 28


KINDS = ["array", "bag", "delayed", "frame"]


# --- data whose pool is gone


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_a_pool_that_left_is_an_error(
    pool_cluster: clusters.PoolCluster, client: Client, kind: str
) -> None:
    """Data that was lost with its pool raises NoSuchPool, which names the pool and the data."""
    with pool("spot"):
        x, step, _ = made(kind)
    with propagate_pools():
        kept = x.persist()
        wait(kept)
        leave(pool_cluster, "spot")
        with pytest.raises(NoSuchPool, match="'spot' is required by") as caught:
            step(kept).compute()
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.pool, str(error)) == ("spot", str(caught.value))
    # A frame keeps the pool that was said of it, and so do its tasks.
    assert len(error.data) == (kind != "frame")
    assert "spot" not in error.pools


@pytest.mark.parametrize("kind", KINDS)
def test_waiting_for_data_of_a_pool_that_left(
    pool_cluster: clusters.PoolCluster, client: Client, kind: str
) -> None:
    """With missing="wait" it waits, and goes on once the pool has come back."""
    with pool("spot"):
        x, step, value = made(kind)
    with propagate_pools(missing="wait"):
        kept = x.persist()
        wait(kept)
        leave(pool_cluster, "spot")
        future = client.compute(step(kept))
        clusters.wait_until(lambda: clusters.stuck(client))
        pool_cluster.start_worker("spot")
        assert future.result(timeout=30) == value
        assert step(kept).compute() == value


def test_warning_of_data_of_a_pool_that_left(
    pool_cluster: clusters.PoolCluster, client: Client
) -> None:
    """With missing="warn" it says so and waits."""
    with pool("spot"):
        x, step, value = made("array")
    with propagate_pools(missing="warn"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = x.persist()
        wait(kept)
        leave(pool_cluster, "spot")
        future = client.compute(step(kept))
        clusters.wait_until(lambda: caught)
        pool_cluster.start_worker("spot")
        assert future.result(timeout=30) == value
    assert "data that was kept there ('kept')" in str(caught[0].message)


def test_data_that_only_another_pool_reads(
    pool_cluster: clusters.PoolCluster, client: Client
) -> None:
    """Lost data is an error too where all that reads it is pinned to another pool."""
    with pool("spot"):
        x, step, _ = made("array")
    with propagate_pools():
        kept = x.persist()
        wait(kept)
        leave(pool_cluster, "spot")
        with pool("od"):
            y = step(kept)
        with pytest.raises(NoSuchPool, match="by data that was kept there \\('kept'\\), but no"):
            y.compute()


def test_data_that_was_handed_over(pool_cluster: clusters.PoolCluster, client: Client) -> None:
    """Data that a leaving pool handed over to another lies there, and so does what follows."""
    with pool("spot"):
        x, step, value = made("array")
    with propagate_pools():
        kept = x.persist()
        wait(kept)
        client.replicate(kept, n=1, workers=[pool_cluster.workers["od-0"].address])
        client.replicate(kept, n=4)
        leave(pool_cluster, "spot")
        assert step(kept).compute() == value


def test_copies_do_not_move_data(client: Client) -> None:
    """Data with copies in other pools counts as being where it was made."""
    with pool("spot"):
        x, _, _ = made("array")
    with propagate_pools():
        kept = x.persist()
        wait(kept)
        client.replicate(kept)
        asked = clusters.restrictions(client, (kept + 1).persist())
    assert {pools for resources in asked.values() for pools in resources} == {"pool-spot"}


# --- tasks that may go on elsewhere


def gated(names: tuple[str, ...], gate: str) -> Any:
    """Four tasks of some pools that start when a gate opens, and their sum."""

    def load(n: int) -> int:
        Event(gate).wait()
        return n

    with pool(*names):
        loads = [delayed(load, pure=False)(n) for n in range(4)]
    return delayed(sum, pure=False)([delayed(abs, pure=False)(one) for one in loads])


def test_tasks_go_on_in_the_other_pool(pool_cluster: clusters.PoolCluster, client: Client) -> None:
    """When the last worker of spot has left, what may be in spot or od goes on in od."""
    gate = Event(f"gate-{uuid4().hex}", client=client)
    with propagate_pools(), clusters.record_executions(client) as ran:
        total = gated(("spot", "od"), gate.name)
        leave(pool_cluster, "od")
        future = client.compute(total)
        clusters.wait_until(lambda: "processing" in clusters.stuck(client).values())
        pool_cluster.start_worker("od")
        leave(pool_cluster, "spot")
        gate.set()
        assert future.result(timeout=30) == 6
    assert set().union(*ran.pools_of.values()) == {"od"}


def test_the_other_pool_joins_later(pool_cluster: clusters.PoolCluster, client: Client) -> None:
    """If there is no worker of od either, tasks wait, and go on in od as soon as there is one."""
    gate = Event(f"gate-{uuid4().hex}", client=client)
    with propagate_pools(), clusters.record_executions(client) as ran:
        leave(pool_cluster, "od")
        future = client.compute(gated(("spot", "od"), gate.name))
        clusters.wait_until(lambda: "processing" in clusters.stuck(client).values())
        leave(pool_cluster, "spot")
        clusters.wait_until(lambda: "no-worker" in clusters.stuck(client).values())
        pool_cluster.start_worker("od")
        gate.set()
        assert future.result(timeout=30) == 6
    assert set().union(*ran.pools_of.values()) == {"od"}


def test_lost_results_are_made_again_in_the_other_pool(
    pool_cluster: clusters.PoolCluster, client: Client
) -> None:
    """What was made in spot and is lost with it is made again in od."""
    with propagate_pools():
        leave(pool_cluster, "od")
        with pool("spot", "od"):
            x, _, value = made("array")
        kept = (x + 1).persist()
        wait(kept)
        pool_cluster.start_worker("od")
        with clusters.record_executions(client) as ran:
            leave(pool_cluster, "spot")
            wait(kept)
            assert float(kept.sum().compute()) == value
    assert set().union(*ran.pools_of.values()) == {"od"}


def test_pinned_tasks_wait(pool_cluster: clusters.PoolCluster, client: Client) -> None:
    """What the user pinned to spot waits for spot, and what is made of it waits with it."""
    gate = Event(f"gate-{uuid4().hex}", client=client)
    with propagate_pools(), clusters.record_executions(client) as ran:
        both = delayed(sum, pure=False)(
            [gated(("spot", "od"), gate.name), gated(("spot",), gate.name)]
        )
        future = client.compute(both)
        clusters.wait_until(lambda: "processing" in clusters.stuck(client).values())
        leave(pool_cluster, "spot")
        gate.set()
        clusters.wait_until(lambda: "processing" not in clusters.stuck(client).values())
        assert "no-worker" in clusters.stuck(client).values()
        assert set().union(*ran.pools_of.values()) <= {"od", "spot"}
        pool_cluster.start_worker("spot")
        assert future.result(timeout=30) == 12


def test_several_pools_leave_one_after_the_other(
    pool_cluster: clusters.PoolCluster, client: Client
) -> None:
    """Tasks go on in whatever pool of theirs is left at last, and in no other."""
    gate = Event(f"gate-{uuid4().hex}", client=client)
    with propagate_pools(), clusters.record_executions(client) as ran:
        future = client.compute(gated(("spot", "other", "od"), gate.name))
        clusters.wait_until(lambda: "processing" in clusters.stuck(client).values())
        leave(pool_cluster, "other")
        leave(pool_cluster, "spot")
        gate.set()
        assert future.result(timeout=30) == 6
    assert set().union(*ran.pools_of.values()) == {"od"}


def test_counted_resources_hold_elsewhere_too(
    pool_cluster: clusters.PoolCluster, client: Client
) -> None:
    """A task goes on only where there is what it asks for."""
    gate = Event(f"gate-{uuid4().hex}", client=client)
    pool_cluster.start_worker("small", resources={"GPU": 1})
    pool_cluster.start_worker("large", resources={"GPU": 4})
    pool_cluster.start_worker("first", resources={"GPU": 4})
    with propagate_pools(), clusters.record_executions(client) as ran:
        with dask.annotate(resources={"GPU": 2}):
            total = gated(("first", "small", "od", "large"), gate.name)
        leave(pool_cluster, "large")
        future = client.compute(total)
        clusters.wait_until(lambda: "processing" in clusters.stuck(client).values())
        pool_cluster.start_worker("large", resources={"GPU": 4})
        leave(pool_cluster, "first")
        gate.set()
        assert future.result(timeout=30) == 6
    assert {"large"} == set().union(*ran.pools_of.values()) - {"od", "small"}
    loads = [pools for key, pools in ran.pools_of.items() if str(key).startswith("load")]
    assert loads
    assert set().union(*loads) == {"large"}


def test_nothing_is_kept(pool_cluster: clusters.PoolCluster, client: Client) -> None:
    """The scheduler has one plugin for this, however much was computed, and it keeps nothing."""
    for _ in range(3):
        with propagate_pools(), pool("spot", "od"):
            assert delayed(abs, pure=False)(-1).compute() == 1

    def plugins(dask_scheduler: Any) -> list[int]:
        found = dask_scheduler.plugins
        return [len(vars(found[name])) for name in found if "worker-pools" in name]

    assert client.run_on_scheduler(plugins) == [0]
