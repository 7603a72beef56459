"""A cluster on this machine with workers in pools."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from typing import Any

import clusters
import pytest
from distributed import Client, LocalCluster, SpecCluster
from distributed.system import MEMORY_LIMIT

from dask_worker_pools.localcluster import LocalPoolCluster

psutil: Any = pytest.importorskip("psutil")  # distributed depends on it; it has no types


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalPoolCluster]:
    """Three processes in two pools."""
    with LocalPoolCluster({"A": 2, "B": 1}, resources={"B": {"GPU": 2}}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalPoolCluster) -> Iterator[Client]:
    """A client of `cluster`."""
    with cluster.get_client() as client:
        yield client


@pytest.fixture
def in_process() -> Iterator[LocalPoolCluster]:
    """Three workers in two pools, as threads: quick to start, for tests that change it."""
    with LocalPoolCluster(
        {"A": 2, "B": 1}, processes=False, dashboard_address=None, resources={"B": {"GPU": 2}}
    ) as cluster:
        yield cluster


def workers(client: Client) -> dict[str, dict[str, Any]]:
    """What the scheduler knows about each worker, by its name."""
    known = client.scheduler_info(n_workers=-1)["workers"].values()
    return {worker["name"]: worker for worker in known}


def listening(process: Any) -> set[str]:
    """Addresses on which a process listens."""
    connections = process.net_connections(kind="inet")
    return {c.laddr.ip for c in connections if c.status == "LISTEN"}


def test_workers_are_named_after_their_pool_and_offer_it(client: Client) -> None:
    """Worker A-1 is the second of pool A, and offers pool-A and what was asked for beside it."""
    assert {name: worker["resources"] for name, worker in workers(client).items()} == {
        "A-0": {"pool-A": 1},
        "A-1": {"pool-A": 1},
        "B-0": {"pool-B": 1, "GPU": 2},
    }


def test_workers_have_one_thread_and_share_the_memory(client: Client) -> None:
    """Each worker has one thread and a third of the memory of the machine."""
    assert {w["nthreads"] for w in workers(client).values()} == {1}
    assert {w["memory_limit"] for w in workers(client).values()} == {MEMORY_LIMIT // 3}


def test_a_task_runs_in_the_pool_that_it_asks_for(client: Client) -> None:
    """Tasks with a pool's resource run on its workers."""
    with clusters.record_executions(client) as ran:
        futures = [
            client.submit(int, key=(pool, i), resources={f"pool-{pool}": 0})
            for pool in ("A", "B")
            for i in range(4)
        ]
        client.gather(futures)
    assert ran.pools_of == {(pool, i): {pool} for pool in ("A", "B") for i in range(4)}


def test_each_worker_is_a_process(client: Client) -> None:
    """The workers run in as many processes, none of which is this one."""
    pids = set(client.run(os.getpid).values())
    assert len(pids) == 3
    assert os.getpid() not in pids


def test_everything_listens_on_the_loopback_only(client: Client) -> None:
    """The scheduler, the nannies and the workers listen on 127.0.0.1 and nowhere else."""
    process = psutil.Process()
    found = [listening(p) for p in (process, *process.children(recursive=True))]
    assert set().union(*found) == {"127.0.0.1"}
    assert sum(map(bool, found)) == 4  # the scheduler, here, and three workers


@pytest.mark.parametrize(
    "options",
    [
        {"dashboard_address": None},
        {"dashboard_address": 0},
        {"dashboard_address": ":0", "worker_dashboard_address": ":0"},
        {"dashboard_address": "127.0.0.1:0"},
    ],
    ids=str,
)
def test_no_dashboard_listens_elsewhere(options: dict[str, Any]) -> None:
    """With a dashboard or without, on any port, nothing listens beyond 127.0.0.1."""
    before = len(psutil.Process().net_connections(kind="inet"))
    with LocalPoolCluster({"A": 1}, processes=False, **options):
        assert len(psutil.Process().net_connections(kind="inet")) > before
        assert listening(psutil.Process()) == {"127.0.0.1"}


@pytest.mark.skipif(sys.platform == "darwin", reason="127.0.0.2 is no address there")
def test_the_user_may_have_it_listen_elsewhere() -> None:
    """With host=, scheduler, worker and dashboard listen there."""
    with LocalPoolCluster({"A": 1}, processes=False, host="127.0.0.2") as cluster:
        assert cluster.scheduler_address.startswith("tcp://127.0.0.2:")
        assert cluster.scheduler.http_server.address == "127.0.0.2"
        [worker] = cluster.workers.values()
        assert worker.address.startswith("tcp://127.0.0.2:")
        assert worker.http_server.address == "127.0.0.2"


def test_it_is_what_users_of_distributed_know() -> None:
    """It is a LocalCluster, with a name and a link to the dashboard."""
    with LocalPoolCluster({"A": 1}, processes=False, name="mine") as cluster:
        assert isinstance(cluster, LocalCluster)
        assert cluster.name == "mine"
        assert "mine" in repr(cluster)
        assert "workers=1" in repr(cluster)
        assert cluster.dashboard_link.startswith("http://127.0.0.1:")


def test_a_fixed_memory_limit_holds_for_each_worker() -> None:
    """memory_limit= is that of one worker, as in LocalCluster."""
    with LocalPoolCluster({"A": 2}, processes=False, memory_limit="1 GiB") as cluster:
        limits = {w.memory_manager.memory_limit for w in cluster.workers.values()}
    assert limits == {2**30}


def test_scale_changes_the_pools_that_it_names(in_process: LocalPoolCluster) -> None:
    """Named pools get the number of workers asked for, new ones too; the others keep theirs."""
    with in_process.get_client() as client:
        in_process.scale({"A": 1, "C": 2})
        clusters.wait_until(lambda: set(workers(client)) == {"A-0", "B-0", "C-0", "C-1"})
        assert in_process.pools == {"A": 1, "B": 1, "C": 2}
        assert workers(client)["C-1"]["resources"] == {"pool-C": 1}


def test_scale_back_and_forth_gives_the_same_workers(in_process: LocalPoolCluster) -> None:
    """A pool that was emptied and filled again offers what it offered at first."""
    with in_process.get_client() as client:
        in_process.scale({"B": 0})
        clusters.wait_until(lambda: set(workers(client)) == {"A-0", "A-1"})
        in_process.scale({"B": 2})
        clusters.wait_until(lambda: set(workers(client)) == {"A-0", "A-1", "B-0", "B-1"})
        assert workers(client)["B-1"]["resources"] == {"pool-B": 1, "GPU": 2}


def test_scale_to_nothing(in_process: LocalPoolCluster) -> None:
    """scale(0) ends all workers."""
    with in_process.get_client() as client:
        in_process.scale(0)
        clusters.wait_until(lambda: not workers(client))
        assert in_process.pools == {}


@pytest.mark.parametrize("count", [1, 3, -1])
def test_scale_by_a_number_is_refused(in_process: LocalPoolCluster, count: Any) -> None:
    """A number of workers, without the pool, raises TypeError and changes nothing."""
    with pytest.raises(TypeError, match="pool by pool"):
        in_process.scale(count)
    assert in_process.pools == {"A": 2, "B": 1}


def test_a_bad_pool_in_scale_changes_nothing(in_process: LocalPoolCluster) -> None:
    """If one of the pools is refused, none is scaled."""
    with pytest.raises(ValueError, match="pool 'B' takes a number of at least 0, but got -1"):
        in_process.scale({"A": 5, "B": -1})
    assert in_process.pools == {"A": 2, "B": 1}


def test_adaptive_scaling_is_refused(in_process: LocalPoolCluster) -> None:
    """adapt() raises an error that says why, and what to do."""
    with pytest.raises(NotImplementedError, match=r'without regard to pools.*scale\(\{"A": 4\}'):
        in_process.adapt(minimum=0, maximum=10)


def test_get_client_gives_the_same_client_twice(in_process: LocalPoolCluster) -> None:
    """As in every cluster of Dask, the current client is reused."""
    with in_process.get_client() as client:
        assert in_process.get_client() is client
        assert client.submit(int, resources={"pool-A": 0}).result() == 0


def test_asynchronous_use() -> None:
    """``async with`` starts it, ``await scale`` scales it, and the end closes it."""

    async def use() -> tuple[int, set[str], str]:
        options: dict[str, Any] = {"processes": False, "asynchronous": True}
        async with LocalPoolCluster({"A": 1, "B": 1}, **options) as cluster:
            async with Client(cluster, asynchronous=True, set_as_default=False) as client:
                answer = await client.submit(int, resources={"pool-B": 0})
                await cluster.scale({"A": 2})
                await client.wait_for_workers(3)
                names = await client.run(lambda dask_worker: dask_worker.name)
        return answer, set(names.values()), cluster.status.name

    assert asyncio.run(use()) == (0, {"A-0", "A-1", "B-0"}, "closed")


def test_no_process_is_left_after_the_block() -> None:
    """When the block ends, by an exception too, the workers' processes have ended."""
    processes: list[Any] = []

    def fail() -> None:
        with LocalPoolCluster({"A": 1}) as cluster, cluster.get_client() as client:
            processes.extend(map(psutil.Process, client.run(os.getpid).values()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(processes) == 1
    clusters.wait_until(lambda: not any(p.is_running() for p in processes))


@pytest.mark.parametrize(
    ("pools", "error", "message"),
    [
        ({}, ValueError, "name one"),
        (3, TypeError, "pool by pool, for example .* but got 3 of type int"),
        (["A", "B"], TypeError, r"pool by pool.* but got \['A', 'B'\]"),
        ({"A": 0}, ValueError, "pool 'A' takes a number of at least 1, but got 0"),
        ({"A": -2}, ValueError, "at least 1, but got -2"),
        ({"A": 1.5}, TypeError, "pool 'A' takes a whole number, but got 1.5 of type float"),
        ({"A": "2"}, TypeError, "whole number, but got '2'"),
        ({"A": True}, TypeError, "whole number, but got True"),
        ({"A": None}, TypeError, "whole number, but got None"),
        ({"": 1}, ValueError, "needs a name"),
        ({"two words": 1}, ValueError, "white space"),
        ({"pool-A": 1}, ValueError, "already starts with 'pool-'"),
        ({1: 1}, TypeError, "named by a string"),
        ({None: 1}, TypeError, "is in a pool"),
    ],
    ids=str,
)
def test_bad_pools_are_refused(pools: Any, error: type[Exception], message: str) -> None:
    """What is wrong with the pools is said before anything starts."""
    clusters_before = set(SpecCluster._instances)
    with pytest.raises(error, match=message):
        LocalPoolCluster(pools)
    assert set(SpecCluster._instances) == clusters_before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resources": {"B": {"GPU": 1}}}, ValueError, r"name \['B'\], but the pools are \['A'\]"),
        ({"resources": 1}, TypeError, "resources are said pool by pool"),
        ({"resources": {"A": 1}}, TypeError, "pool 'A' are named and counted"),
        ({"resources": {"A": {"GPU": 0}}}, ValueError, "positive amount of 'GPU', but got 0"),
        ({"resources": {"A": {"GPU": "1"}}}, ValueError, "positive amount of 'GPU', but got '1'"),
        ({"resources": {"A": {"pool-B": 1}}}, ValueError, "'pool-B' cannot be a resource"),
        ({"resources": {"A": {1: 1}}}, ValueError, "1 cannot be a resource"),
        ({"threads_per_worker": 0}, ValueError, "threads_per_worker .* at least 1, but got 0"),
        ({"threads_per_worker": None}, TypeError, "threads_per_worker takes a whole number"),
    ],
    ids=str,
)
def test_bad_options_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """What is wrong with the options is said before anything starts."""
    clusters_before = set(SpecCluster._instances)
    with pytest.raises(error, match=message):
        LocalPoolCluster({"A": 1}, **options)
    assert set(SpecCluster._instances) == clusters_before


def test_a_worker_that_cannot_start_closes_the_cluster() -> None:
    """If a worker fails to start, the error says so and nothing is left running."""
    before = {c for c in SpecCluster._instances if c.status.name != "closed"}
    with pytest.raises(TypeError, match="no_such_option"):
        LocalPoolCluster({"A": 1}, processes=False, no_such_option=1)
    assert {c for c in SpecCluster._instances if c.status.name != "closed"} == before
