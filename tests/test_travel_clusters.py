"""What is sent to real clusters, none of whose processes has the package, and works there."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clusters
import dask
import dask.array as da
import dask.bag as db
import pytest
from distributed import Client, fire_and_forget

import dask_worker_pools
from dask_worker_pools import (
    CodeNotReceived,
    NoSuchPool,
    PoolError,
    assign_pool,
    get_pool,
    plan_pools,
    pool,
    propagate_pools,
    source,
    travel,
)

KIB = 1024
numbers = itertools.count()


def array() -> Any:
    """A sum over two pools, another one each time."""
    with pool("A"):
        a = da.ones(6, chunks=3, name=f"a-{next(numbers)}")
    with pool("B"):
        b = da.ones(6, chunks=3, name=f"b-{next(numbers)}")
    return (a + b).sum()


def bag() -> Any:
    """The length of a bag of pool A, another one each time."""
    with pool("A"):
        return db.from_sequence(range(20 + next(numbers)), npartitions=2).count()


def frame() -> Any:
    """The sum of a column of a frame in pool A, another one each time."""
    dd, pd = pytest.importorskip("dask.dataframe"), pytest.importorskip("pandas")
    with pool("A"):
        return dd.from_pandas(pd.DataFrame({"x": range(20 + next(numbers))}), npartitions=2).x.sum()


def delayed() -> Any:
    """A delayed object of pool B, another one each time."""
    with pool("B"):
        return dask.delayed(max)(3, next(numbers))


KINDS = [array, bag, frame, delayed]


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[clusters.PoolCluster]:
    """A worker in pool A and one in B."""
    with clusters.start({"A": 1, "B": 1}) as cluster:
        yield cluster


def bytes_sent(client: Client, compute: Callable[[], object]) -> int:
    """Bytes that a client sends while something is computed."""
    connection: Any = client.scheduler_comm
    before = connection.byte_count
    compute()
    return int(connection.byte_count - before)


@pytest.mark.filterwarnings("ignore::dask_worker_pools.PoolsIgnored")
@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_a_few_kilobytes_larger_than_dasks(kind: Callable[[], Any]) -> None:
    """The first computation on a scheduler that knows nothing sends little more than plain Dask."""
    kind().compute(scheduler="sync")  # Dask imports things, and asks the cluster about versions
    with clusters.start({"A": 1, "B": 1}) as cluster, Client(cluster.address) as client:
        plain = [bytes_sent(client, kind().compute) for _ in range(3)]
        with propagate_pools():
            sent = [bytes_sent(client, kind().compute) for _ in range(4)]
        assert max(sent[:1]) < min(plain) + 10 * KIB
        assert max(sent[1:]) < min(plain) + 4 * KIB
        with Client(cluster.address) as other, propagate_pools():
            assert bytes_sent(other, kind().compute) < min(plain) + 10 * KIB


def test_the_code_goes_once_to_a_scheduler(
    small_cluster: clusters.PoolCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many clients there are, and whatever they compute, they send the code once."""
    packed: list[int] = []
    pack = source.packed

    def counted(names: frozenset[str]) -> bytes:
        packed.append(len(pack(names)))
        return pack(names)

    monkeypatch.setattr(source, "packed", counted)
    for _ in range(3):
        with Client(small_cluster.address), propagate_pools():
            for kind in (array, bag, array):
                kind().compute()
    assert len(packed) <= 1
    assert sum(packed) < 56 * KIB


@pytest.mark.parametrize("kind", KINDS)
def test_asynchronous_clients_send_the_code_along(
    small_cluster: clusters.PoolCluster, kind: Callable[[], Any]
) -> None:
    """A client that cannot wait sends the code with its first graph, and a name with later ones."""

    async def computed() -> list[int]:
        sent = []
        async with Client(small_cluster.address, asynchronous=True) as client:
            for _ in range(3):
                before = client.scheduler_comm.byte_count
                await client.compute(kind())
                sent.append(client.scheduler_comm.byte_count - before)
        return sent

    with propagate_pools():
        first, *later = asyncio.run(computed())
    assert first < 64 * KIB
    assert max(later) < 10 * KIB


def test_a_scheduler_may_refuse_to_run_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be sent ahead, the code goes along, once."""

    def refuse(*args: Any) -> None:
        raise ValueError("The 'run_function' handler has been explicitly disallowed.")

    with clusters.start({"A": 1, "B": 1}) as cluster:
        with Client(cluster.address) as client, propagate_pools():
            with monkeypatch.context() as patched:
                patched.setattr(client, "run_on_scheduler", refuse)
                first = bytes_sent(client, lambda: array().compute())
                assert array().compute() == 12
                later = bytes_sent(client, lambda: array().compute())
    assert 40 * KIB < first < 64 * KIB
    assert later < 10 * KIB


@pytest.mark.parametrize("kind", [array, frame])
def test_a_scheduler_that_was_started_anew_gets_the_code(kind: Callable[[], Any]) -> None:
    """A client goes on with another scheduler that was started at the same address."""
    with clusters.start({"A": 1, "B": 1}) as cluster:
        with Client(cluster.address, timeout=30) as client, propagate_pools():
            kind().compute()
            before = client.scheduler_info()["id"]
            cluster.restart_scheduler()
            clusters.wait_until(lambda: client.scheduler_info()["id"] != before, timeout=30)
            clusters.wait_until(lambda: client.status == "running", timeout=30)
            for name in ("A", "B"):
                cluster.start_worker(name)
            expected = kind().compute(scheduler="sync")
            assert kind().compute() >= expected


def test_a_lost_message_is_an_error_that_says_what_to_do() -> None:
    """A scheduler that lacks code it should have says so, by the package's own error."""
    with clusters.start({"A": 1, "B": 1}) as cluster:
        for kind in (array, frame):
            with Client(cluster.address) as client, propagate_pools():
                travel.note(client.scheduler_comm, source.needed("expr.planned", False))
                with pytest.raises(CodeNotReceived, match="Compute again"):
                    kind().compute()
        with Client(cluster.address), propagate_pools():
            assert array().compute() == 12


def test_threads_may_be_first_together() -> None:
    """Several threads that compute on a scheduler that knows nothing get their results."""
    with clusters.start({"A": 1, "B": 1}, threads=2) as cluster:
        with Client(cluster.address), propagate_pools():
            found: list[float] = []
            threads = [
                threading.Thread(target=lambda: found.append(array().compute())) for _ in range(6)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
    assert found == [12] * 6


COMPUTE = """
import os, sys
import dask.array as da
from distributed import Client
from dask_worker_pools import NoSuchPool, pool, propagate_pools, source

def compute(address):
    with Client(address) as client, propagate_pools():
        with pool("A"):
            a = da.ones(6, chunks=3, name=f"a-{os.getpid()}")
        assert (a + 1).sum().compute() == 12
        with pool("C"):
            c = da.ones(6, chunks=3, name=f"c-{os.getpid()}")
        try:
            c.compute()
        except NoSuchPool as error:
            return str(error)

"""


def run(code: str, path: Path, *arguments: str) -> str:
    """What a program prints, with the package that lies at a path."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPUTE + code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=path,
        env={"PYTHONPATH": str(path), "PATH": ""},
    )
    return answer.stdout.strip()


def test_clients_of_different_versions_get_on(
    small_cluster: clusters.PoolCluster, tmp_path: Path
) -> None:
    """Each client's computations run its own version, in one scheduler, in any order."""
    here = Path(dask_worker_pools.__file__).parent
    shutil.copytree(here, tmp_path / here.name, ignore=shutil.ignore_patterns("__pycache__"))
    errors = tmp_path / here.name / "errors.py"
    errors.write_text(errors.read_text().replace("but no worker offers it", "but nobody has it"))
    code = "print(source.root(), compute(sys.argv[1]))"
    with Client(small_cluster.address), propagate_pools():
        assert array().compute() == 12
        other = run(code, tmp_path, small_cluster.address)
        assert array().compute() == 12
        own = run(code, here.parent, small_cluster.address)
    assert "but nobody has it" in other
    assert "but no worker offers it" in own
    assert own.split()[0] == source.root() != other.split()[0]


def test_a_forked_process_begins_anew(small_cluster: clusters.PoolCluster) -> None:
    """A process that was forked off one that computed computes with a client of its own."""
    code = """
print(compute(sys.argv[1])[:8], flush=True)
child = os.fork()
if not child:
    print(compute(sys.argv[1])[:8], flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    path = Path(dask_worker_pools.__file__).parents[1]
    assert run(code, path, small_cluster.address).split() == ["pool", "'C'"] * 2


def test_what_is_fired_and_forgotten_runs(
    small_cluster: clusters.PoolCluster, tmp_path: Path
) -> None:
    """A client may leave at once after its first computation was sent."""

    def write(total: float) -> None:
        (tmp_path / "total").write_text(str(float(total)))

    with Client(small_cluster.address) as client, propagate_pools():
        fire_and_forget(client.compute(dask.delayed(write)(array())))
    clusters.wait_until((tmp_path / "total").exists)
    clusters.wait_until(lambda: (tmp_path / "total").read_text() == "12.0")


def test_errors_are_the_users_own(small_cluster: clusters.PoolCluster) -> None:
    """What is raised in the scheduler is caught by the class that the user imports."""
    with pool("C"):
        c = da.ones(3, name="in-C")
    with Client(small_cluster.address), propagate_pools():
        with pytest.raises(NoSuchPool) as caught:
            c.compute()
    assert type(caught.value) is NoSuchPool
    assert caught.value.pool == "C"
    assert caught.value.pools == {"A": 1, "B": 1}


# --- in tasks


def _uses_pool(x: int) -> Any:
    with pool("A"):
        return dask.get_annotations()["worker_pool"]


def _plans(x: int) -> Any:
    with pool("A"):
        a = da.ones((4, 4), chunks=2, name="a")
    plan = plan_pools(a.sum())
    return get_pool(a), set(plan.pools.values()), plan.total_bytes


def _computes(x: int) -> Any:
    with propagate_pools():
        with pool("A"):
            a = da.ones(4, chunks=2) + x
        return [float(total) for total in dask.compute(a.sum(), (a + 1).sum())]


def _assigns(x: int) -> Any:
    import dask.dataframe as dd
    import pandas as pd

    frame = assign_pool(dd.from_pandas(pd.DataFrame({"x": range(4)}), npartitions=2), "A")
    with propagate_pools():
        return get_pool(frame), int(frame.x.sum().compute())


def _catches(x: int) -> Any:
    try:
        raise NoSuchPool("C", 1, ["l"], {})
    except PoolError as error:
        return error.pool if isinstance(error, NoSuchPool) else None


class _Job:
    def __init__(self) -> None:
        self.where = pool("A", "B")

    def run(self, x: int) -> Any:
        """Say where."""
        with self.where:
            return dask.get_annotations()["worker_pool"]


@pool("A")
def _decorated(x: int) -> Any:
    return dask.get_annotations()["worker_pool"], x + 1


IN_TASKS: list[tuple[Callable[..., Any], Any]] = [
    (_uses_pool, "A"),
    (_plans, ("A", {"A"}, 0.0)),
    (_computes, [8.0, 12.0]),
    (_assigns, ("A", 6)),
    (_catches, "C"),
    (_Job().run, ("A", "B")),
    (_decorated, ("A", 2)),
]


@pytest.fixture
def _by_value() -> Iterator[None]:
    """What is defined here is sent as what a notebook defines."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("_by_value")
@pytest.mark.parametrize(("function", "expected"), IN_TASKS)
def test_functions_of_the_package_work_in_tasks(
    small_cluster: clusters.PoolCluster, function: Callable[..., Any], expected: Any
) -> None:
    """Tasks use the package on workers that do not have it, however they are made."""

    # Nested, so that it is sent by value; what is above goes with it.
    def task(x: int) -> Any:
        return function(x)

    with Client(small_cluster.address) as client:
        assert client.submit(task, 1, pure=False).result(timeout=60) == expected
        assert client.gather(client.map(task, [1, 1], pure=False)) == [expected] * 2
        assert dask.delayed(task, pure=False)(1).compute() == expected
        with propagate_pools():
            assert dask.delayed(task, pure=False)(1).compute() == expected


def test_public_functions_are_tasks(small_cluster: clusters.PoolCluster) -> None:
    """Functions of the package can be tasks themselves, and what they return comes back."""
    with Client(small_cluster.address) as client:
        context = client.submit(pool, "A").result(timeout=60)
        assert repr(context) == "pool('A')"
        assert type(context) is type(pool("A"))
        with pytest.raises(ValueError, match="A pool needs a name"):
            client.submit(pool, "").result(timeout=60)
        with pytest.raises(NoSuchPool, match="'C' is required"):
            client.submit(_raiser(), pure=False).result(timeout=60)


def test_more_may_come_to_a_process_that_has_some(small_cluster: clusters.PoolCluster) -> None:
    """What needs more of the package than came before it brings the rest along."""
    with clusters.start({"A": 1}) as cluster, Client(cluster.address) as client:
        block = client.submit(repr, pool("A"), pure=False).result()
        options = client.submit(repr, propagate_pools(balance=0.5), pure=False)
        switch = client.submit(repr, propagate_pools, pure=False)
        assert block == "pool('A')"
        assert "balance=0.5" in options.result()
        assert switch.result().endswith("propagate.propagate_pools'>")


def _raiser() -> Callable[[], None]:
    def raises() -> None:
        raise NoSuchPool("C", 1, ["l"], {})

    return raises
