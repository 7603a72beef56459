"""What moved between workers is measured whole, from the workers' own logs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any

import clusters
import numpy as np
import pytest
from distributed import Client, wait

from dask_worker_pools.transfers import MeasuredTransfer, Transfers, measure_transfers

KB = 1000

LOG_LENGTH = 2


@pytest.fixture(scope="module")
def pool_cluster() -> Iterator[clusters.PoolCluster]:
    """A cluster whose logs hold two entries only."""
    config = {"distributed": {"admin": {"low-level-log-length": LOG_LENGTH}}}
    with clusters.start({"A": 2, "B": 2, None: 1}, config=config) as cluster:
        yield cluster


def address(cluster: clusters.PoolCluster, name: str) -> str:
    """Where the worker of this name listens."""
    return cluster.workers[name].address


def move(
    client: Client, cluster: clusters.PoolCluster, source: str, target: str, nbytes: int = KB
) -> None:
    """Have `nbytes` made on one worker and used on another."""
    make = client.submit(np.ones, nbytes, "u1", workers=[address(cluster, source)], pure=False)
    wait(make)
    size = client.submit(len, make, workers=[address(cluster, target)], pure=False)
    assert size.result() == nbytes


def size_of(nbytes: int) -> int:
    """What Dask takes an array of so many bytes to weigh."""
    from dask.sizeof import sizeof

    return int(sizeof(np.ones(nbytes, "u1")))


@pytest.mark.parametrize(
    ("source", "target", "link"),
    [
        ("A-0", "B-0", ("A", "B")),
        ("B-1", "A-1", ("B", "A")),
        ("A-0", "A-1", ("A", "A")),
        ("A-1", "none-0", ("A", None)),
        ("none-0", "B-0", (None, "B")),
    ],
)
def test_a_transfer_counts_for_the_pools_of_its_two_ends(
    client: Client,
    pool_cluster: clusters.PoolCluster,
    source: str,
    target: str,
    link: tuple[str | None, str | None],
) -> None:
    """The bytes stand under (source pool, target pool), and in the total if the two differ."""
    with measure_transfers(client) as moved:
        move(client, pool_cluster, source, target)
    assert moved.bytes_by_link == {link: size_of(KB)}
    assert moved.total_bytes == (0 if link[0] == link[1] else size_of(KB))


def test_a_record_says_what_went_where(client: Client, pool_cluster: clusters.PoolCluster) -> None:
    """Each transfer is recorded once, with its keys, workers, pools, bytes and duration."""
    source, target = address(pool_cluster, "A-0"), address(pool_cluster, "B-0")
    made = client.submit(np.ones, KB, "u1", key=("made", 0), workers=[source])
    with measure_transfers(client) as moved:
        client.submit(len, made, workers=[target]).result()
    [record] = moved.transfers
    assert record == MeasuredTransfer(
        keys=(("made", 0),),
        source=source,
        target=target,
        source_pool="A",
        target_pool="B",
        nbytes=size_of(KB),
        seconds=record.seconds,
    )
    assert record.seconds > 0


def test_nothing_is_measured_where_nothing_moved(client: Client) -> None:
    """A block without transfers has none."""
    with measure_transfers(client) as moved:
        assert client.submit(int, pure=False).result() == 0
    assert moved.transfers == []
    assert moved.bytes_by_link == {}
    assert moved.total_bytes == 0


def test_what_a_client_gathers_or_moved_before_does_not_count(
    client: Client, pool_cluster: clusters.PoolCluster
) -> None:
    """Results that go to the client, and transfers before the block, are not in it."""
    move(client, pool_cluster, "A-0", "B-0")
    with measure_transfers(client) as moved:
        client.submit(np.ones, KB, pure=False).result()
    assert moved.transfers == []


def test_no_entry_is_lost_when_the_logs_overflow(
    client: Client, pool_cluster: clusters.PoolCluster
) -> None:
    """Ten transfers between two workers whose logs hold two are all measured."""
    with measure_transfers(client) as moved:
        for i in range(10):
            move(client, pool_cluster, "A-0", "B-0", KB + i)
    assert moved.bytes_by_link == {("A", "B"): sum(size_of(KB + i) for i in range(10))}
    assert len(moved.transfers) == 10


def test_the_workers_are_left_as_they_were(
    client: Client, pool_cluster: clusters.PoolCluster
) -> None:
    """After the block the logs are plain, hold the last entries, and no plugin is left."""

    def logs(dask_worker: Any) -> list[tuple[bool, int | None, int]]:
        both = (dask_worker.transfer_incoming_log, dask_worker.transfer_outgoing_log)
        return [(type(log) is deque, log.maxlen, len(log)) for log in both]

    def plugins(dask_scheduler: Any) -> list[str]:
        names = [*dask_scheduler.plugins, *dask_scheduler.worker_plugins]
        return [name for name in names if "transfers" in name]

    def worker_plugins(dask_worker: Any) -> list[str]:
        return [name for name in dask_worker.plugins if "transfers" in name]

    with measure_transfers(client):
        for _ in range(3):
            move(client, pool_cluster, "A-0", "A-1")
    found = client.run(logs)
    assert all(plain and length == LOG_LENGTH for log in found.values() for plain, length, _ in log)
    assert found[address(pool_cluster, "A-1")][0][2] == LOG_LENGTH
    assert client.run_on_scheduler(plugins) == []
    assert set(map(len, client.run(worker_plugins).values())) == {0}


def test_blocks_may_overlap(client: Client, pool_cluster: clusters.PoolCluster) -> None:
    """Each of two blocks that overlap measures what moved while it ran."""
    first, second = measure_transfers(client), measure_transfers(client)
    in_first = first.__enter__()
    move(client, pool_cluster, "A-0", "B-0", 1 * KB)
    in_second = second.__enter__()
    move(client, pool_cluster, "A-0", "B-0", 2 * KB)
    first.__exit__(None)
    move(client, pool_cluster, "A-0", "B-0", 4 * KB)
    second.__exit__(None)
    assert [t.nbytes for t in in_first.transfers] == [size_of(1 * KB), size_of(2 * KB)]
    assert [t.nbytes for t in in_second.transfers] == [size_of(2 * KB), size_of(4 * KB)]


def test_workers_that_join_in_the_block_are_measured(
    client: Client, pool_cluster: clusters.PoolCluster
) -> None:
    """All of what a new worker gets and sends counts, in its pool."""
    with measure_transfers(client) as moved:
        new = pool_cluster.start_worker("C")
        for _ in range(LOG_LENGTH + 1):
            move(client, pool_cluster, "A-0", new.name)
            move(client, pool_cluster, new.name, "B-0")
    pool_cluster.stop_worker(new)
    expected = (LOG_LENGTH + 1) * size_of(KB)
    assert moved.bytes_by_link == {("A", "C"): expected, ("C", "B"): expected}


@pytest.mark.parametrize("kill", [False, True])
def test_a_worker_that_leaves_in_the_block_is_measured(
    client: Client, pool_cluster: clusters.PoolCluster, kill: bool
) -> None:
    """What a worker got and sent counts, in its pool, though its own logs are gone with it."""
    with measure_transfers(client) as moved:
        short_lived = pool_cluster.start_worker("C")
        move(client, pool_cluster, "A-0", short_lived.name)
        move(client, pool_cluster, short_lived.name, "B-0")
        pool_cluster.stop_worker(short_lived, kill=kill)
    assert moved.bytes_by_link == {("A", "C"): size_of(KB), ("C", "B"): size_of(KB)}


def test_what_workers_that_left_sent_each_other_is_not_lost_silently(
    client: Client, pool_cluster: clusters.PoolCluster
) -> None:
    """If two workers left, a warning names them; the rest is measured all the same."""
    gone = [pool_cluster.start_worker("C", wait=False) for _ in range(2)]
    pool_cluster.wait_for_workers()

    def measure() -> Transfers:
        with measure_transfers(client) as moved:
            move(client, pool_cluster, gone[0].name, gone[1].name)
            move(client, pool_cluster, "A-0", "B-0")
            for worker in gone:
                pool_cluster.stop_worker(worker)
        return moved

    with pytest.warns(RuntimeWarning, match="2 workers left") as warned:
        moved = measure()
    assert all(worker.address in str(warned[0].message) for worker in gone)
    assert warned[0].filename == __file__
    assert moved.bytes_by_link == {("A", "B"): size_of(KB)}


def test_replicas_count(client: Client, pool_cluster: clusters.PoolCluster) -> None:
    """Data that Dask copies to another pool by itself is measured too."""
    made = client.submit(np.ones, KB, "u1", workers=[address(pool_cluster, "A-0")], pure=False)
    wait(made)
    with measure_transfers(client) as moved:
        client.replicate([made], workers=[address(pool_cluster, "B-0")])
    assert moved.bytes_by_link == {("A", "B"): size_of(KB)}


def test_a_worker_in_two_pools_counts_in_the_one_it_shares(
    client: Client, pool_cluster: clusters.PoolCluster
) -> None:
    """A worker in A and B is at home with either, and in A as seen from elsewhere."""
    both = pool_cluster.start_worker("A", resources={"pool-B": 1})
    with measure_transfers(client) as moved:
        move(client, pool_cluster, "A-0", both.name)
        move(client, pool_cluster, both.name, "B-0")
        move(client, pool_cluster, both.name, "none-0")
    pool_cluster.stop_worker(both)
    one = size_of(KB)
    assert moved.bytes_by_link == {("A", "A"): one, ("B", "B"): one, ("A", None): one}
    assert moved.total_bytes == one


def test_what_moved_is_not_known_before_the_end(client: Client) -> None:
    """Reading the measure within the block raises an error that says so."""
    with measure_transfers(client) as moved:
        with pytest.raises(RuntimeError, match="once the measured block has ended"):
            _ = moved.total_bytes


def test_an_exception_in_the_block_passes_and_the_measure_is_there(
    client: Client, pool_cluster: clusters.PoolCluster
) -> None:
    """A block that fails has measured what moved before."""
    seen = []

    def fail() -> None:
        with measure_transfers(client) as moved:
            seen.append(moved)
            move(client, pool_cluster, "A-0", "B-0")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen[0].total_bytes == size_of(KB)


def test_asynchronous_clients(pool_cluster: clusters.PoolCluster) -> None:
    """With an asynchronous client, ``async with`` measures, and ``with`` raises TypeError."""

    async def measure() -> dict[tuple[str | None, str | None], int]:
        async with Client(pool_cluster.address, asynchronous=True, set_as_default=False) as client:
            with pytest.raises(TypeError, match="async with"):
                measure_transfers(client).__enter__()
            source, target = address(pool_cluster, "A-0"), address(pool_cluster, "B-0")
            async with measure_transfers(client) as moved:
                made = client.submit(np.ones, KB, "u1", workers=[source], pure=False)
                await client.submit(len, made, workers=[target], pure=False)
            return moved.bytes_by_link

    assert asyncio.run(measure()) == {("A", "B"): size_of(KB)}


def test_async_with_needs_an_asynchronous_client(client: Client) -> None:
    """``async with`` and a client that is not asynchronous raise TypeError."""

    async def measure() -> None:
        async with measure_transfers(client):
            raise AssertionError("not reached")

    with pytest.raises(TypeError, match="not asynchronous"):
        asyncio.run(measure())
