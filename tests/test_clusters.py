"""The clusters that the other tests stand on do what those tests believe."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from typing import Any

import clusters
import pytest
from distributed import Client, get_worker

psutil: Any = pytest.importorskip("psutil")  # distributed depends on it; it has no types


def resources(client: Client) -> dict[str, dict[str, float]]:
    """What each worker offers, by its name."""

    def on_scheduler(dask_scheduler: Any) -> dict[str, dict[str, float]]:
        return {ws.name: dict(ws.resources) for ws in dask_scheduler.workers.values()}

    found: dict[str, dict[str, float]] = client.run_on_scheduler(on_scheduler)
    return found


@pytest.fixture
def extra_worker(pool_cluster: clusters.PoolCluster) -> Iterator[clusters.Worker]:
    """One more worker, in a pool of its own."""
    worker = pool_cluster.start_worker("extra")
    yield worker
    if worker.name in pool_cluster.workers:
        pool_cluster.stop_worker(worker)


def test_the_package_is_importable_here() -> None:
    """The next test would prove nothing if the package were not installed."""
    assert importlib.util.find_spec("dask_worker_pools") is not None


def test_no_process_of_the_cluster_can_import_the_package(client: Client) -> None:
    """On the scheduler and on all workers, importing the package raises ModuleNotFoundError."""

    def attempt() -> set[str]:
        import importlib

        outcomes = set()
        for name in ("dask_worker_pools", "dask_worker_pools.annotations"):
            try:
                importlib.import_module(name)
                outcomes.add("imported")
            except ModuleNotFoundError:
                outcomes.add("ModuleNotFoundError")
        return outcomes

    assert client.run_on_scheduler(attempt) == {"ModuleNotFoundError"}
    assert list(client.run(attempt).values()) == [{"ModuleNotFoundError"}] * 5


def test_code_of_the_package_sent_by_reference_fails(client: Client) -> None:
    """A function of the package that travels by name does not arrive."""
    from dask_worker_pools.annotations import check_pool_name

    with pytest.raises(RuntimeError, match="deserialization of the task graph"):
        client.submit(check_pool_name, "A").result()


def test_the_workers_offer_their_pools(client: Client) -> None:
    """Two workers offer pool-A, two pool-B, and one nothing."""
    assert resources(client) == {
        "A-0": {"pool-A": 1},
        "A-1": {"pool-A": 1},
        "B-0": {"pool-B": 1},
        "B-1": {"pool-B": 1},
        "none-0": {},
    }


def test_everything_listens_on_the_loopback_only(pool_cluster: clusters.PoolCluster) -> None:
    """No process of the cluster listens on another address than 127.0.0.1."""
    for process in pool_cluster.processes:
        connections = psutil.Process(process.pid).net_connections(kind="inet")
        assert {c.laddr.ip for c in connections if c.status == "LISTEN"} == {"127.0.0.1"}


def test_a_worker_added_later_declares_its_pool_by_any_of_the_three_ways(
    pool_cluster: clusters.PoolCluster, client: Client
) -> None:
    """The command line, a config file and the environment each reach the worker's resources."""
    config = {"distributed": {"worker": {"resources": {"pool-C": 1}}}}
    env = {"DASK_DISTRIBUTED__WORKER__RESOURCES__POOL_C": "1"}
    added = [
        pool_cluster.start_worker("C", resources={"GPU": 2}, wait=False),
        pool_cluster.start_worker(config=config, wait=False),
        pool_cluster.start_worker(env=env, wait=False),
    ]
    pool_cluster.wait_for_workers()
    offered = resources(client)
    for worker in added:
        pool_cluster.stop_worker(worker)
    assert [offered[worker.name] for worker in added] == [
        {"pool-C": 1, "GPU": 2},
        {"pool-C": 1},
        {"pool_c": 1},
    ]


@pytest.mark.parametrize("kill", [False, True])
def test_a_stopped_worker_is_gone_from_the_scheduler(
    pool_cluster: clusters.PoolCluster, client: Client, extra_worker: clusters.Worker, kill: bool
) -> None:
    """After stop_worker the process has ended and the scheduler does not list the worker."""
    pool_cluster.stop_worker(extra_worker, kill=kill)
    assert extra_worker.process.returncode is not None
    assert extra_worker.name not in resources(client)


def test_each_run_of_each_task_is_recorded_with_its_pools(client: Client) -> None:
    """Tasks that succeed and that fail are recorded, with the pools of their worker."""

    def where(fail: bool = False) -> str:
        if fail:
            raise ZeroDivisionError
        return str(get_worker().address)

    with clusters.record_executions(client) as ran:
        good = client.submit(where, key="good", resources={"pool-A": 0})
        address = good.result()
        client.submit(where, True, key=("bad", 0), resources={"pool-B": 0}).exception()
        addresses = client.scheduler_info(n_workers=-1)["workers"]
        unpooled = next(a for a, w in addresses.items() if not w["resources"])
        client.submit(where, key="free", workers=[unpooled]).result()
    assert ran.pools_of == {"good": {"A"}, ("bad", 0): {"B"}, "free": {None}}
    assert [(t.key, t.failed) for t in ran.tasks] == [
        ("good", False),
        (("bad", 0), True),
        ("free", False),
    ]
    assert ran.tasks[0].worker == address


def test_records_can_be_read_and_reset_within_the_block(client: Client) -> None:
    """After reset(), only what runs from then on is recorded."""
    with clusters.record_executions(client) as ran:
        client.submit(int, key="before").result()
        assert set(ran.pools_of) == {"before"}
        ran.reset()
        client.submit(int, key="after").result()
    assert set(ran.pools_of) == {"after"}


def test_stuck_shows_a_task_that_no_worker_may_run(client: Client) -> None:
    """A task for a pool without workers is stuck, its dependent too, and neither once released."""
    first = client.submit(int, key="nowhere", resources={"pool-nowhere": 0})
    second = client.submit(int, first, key="after-nowhere")
    clusters.wait_until(lambda: len(clusters.stuck(client)) == 2)
    assert clusters.stuck(client) == {"nowhere": "no-worker", "after-nowhere": "waiting"}
    first.release()
    second.release()
    clusters.wait_until(lambda: not clusters.stuck(client))


def test_wait_until_gives_up() -> None:
    """A condition that does not come true raises TimeoutError."""
    with pytest.raises(TimeoutError):
        clusters.wait_until(lambda: False, timeout=0.05)


def test_a_process_that_does_not_start_shows_its_log() -> None:
    """The error at start-up holds what the process printed, and no process is left."""
    broken = {"DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME": "no-such-scheme"}
    before = set(psutil.Process().children())
    with pytest.raises(RuntimeError, match=r"(?s)scheduler did not start.*no-such-scheme"):
        clusters.start({"A": 1}, env=broken).__enter__()
    assert set(psutil.Process().children()) == before


def test_the_processes_end_after_a_failure_in_the_block() -> None:
    """An exception in the block ends all processes, even one that ignores SIGTERM."""
    pids: list[int] = []

    def fail() -> None:
        with clusters.start({"A": 1}) as cluster:
            pids.extend(process.pid for process in cluster.processes)
            # A process that is halted does not answer to SIGTERM.
            os.kill(cluster.workers["A-0"].process.pid, signal.SIGSTOP)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
