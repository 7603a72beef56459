"""Real clusters for the tests: a scheduler and workers that are other processes.

The processes listen on 127.0.0.1 only, on ports that the operating system chooses, and cannot
import ``dask_worker_pools``, whether or not it is installed: what works on them works on a cluster
that never heard of this package.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import Client, futures_of
from distributed.diagnostics.plugin import SchedulerPlugin

HOST = "127.0.0.1"
PACKAGE = "dask_worker_pools"

#: Seconds until a process must be up. Generous: a loaded machine imports slowly.
START_TIMEOUT = 60.0
#: Seconds between SIGTERM and SIGKILL.
GRACE = 5.0

# PYTHONPATH comes before the standard library and site-packages, so this sitecustomize wins over
# theirs. ``site`` imports it last, after every .pth file of an editable install: its finder
# stands in front of theirs.
_BLOCKER = f"""
import sys

class _Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == {PACKAGE!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
        return None

sys.meta_path.insert(0, _Blocker)
"""


@dataclass
class Worker:
    """One ``dask worker`` process."""

    name: str  #: its name on the scheduler
    pool: str | None  #: the pool given on the command line
    process: subprocess.Popen[bytes]
    log: Path  #: what it printed
    address: str = ""  #: ``tcp://127.0.0.1:port``, known once it has joined


class PoolCluster:
    """A running scheduler and its workers; made by `start`."""

    def __init__(
        self,
        directory: Path,
        *,
        threads: int,
        env: Mapping[str, str] | None,
        config: Mapping[str, Any] | None,
        scheduler_config: Mapping[str, Any] | None,
    ) -> None:
        self.directory = directory
        self.threads = threads
        self.env = dict(env or {})
        self.config = dict(config or {})
        #: Workers started and not yet stopped, by name.
        self.workers: dict[str, Worker] = {}
        self._started = 0
        self._blocker = directory / "blocker"
        self._blocker.mkdir()
        (self._blocker / "sitecustomize.py").write_text(_BLOCKER)
        self._scheduler_config = scheduler_config
        self._scheduler, self._scheduler_log = self._start_scheduler()
        self._client: Client | None = None
        #: ``tcp://127.0.0.1:port`` of the scheduler.
        self.address = ""

    def _start_scheduler(self, port: str = "0") -> tuple[subprocess.Popen[bytes], Path]:
        return self._spawn(
            "scheduler",
            [
                *("scheduler", "--host", HOST, "--port", port, "--no-show", "--no-dashboard"),
                # The HTTP routes exist without a dashboard, and would listen on all interfaces.
                *("--dashboard-address", f"{HOST}:0"),
                *("--scheduler-file", str(self._scheduler_file)),
                # An orphan, left by a test run that was killed, ends by itself.
                *("--idle-timeout", "30 minutes"),
            ],
            self.env,
            {**self.config, **(self._scheduler_config or {})},
        )

    def restart_scheduler(self) -> None:
        """End the scheduler, with its workers, and start another at the same address."""
        _end([worker.process for worker in self.workers.values()])
        self.workers.clear()
        _end([self._scheduler])
        self._scheduler_file.unlink(missing_ok=True)
        self._scheduler, self._scheduler_log = self._start_scheduler(self.address.split(":")[-1])
        self._wait(
            self._scheduler_file.exists, self._scheduler, self._scheduler_log, "The scheduler"
        )

    @property
    def _scheduler_file(self) -> Path:
        return self.directory / "scheduler.json"

    def connect(self) -> None:
        """Wait for the scheduler and open the connection that watches the workers."""
        self._wait(self._read_address, self._scheduler, self._scheduler_log, "The scheduler")
        self._client = Client(self.address, set_as_default=False, timeout=START_TIMEOUT)

    def _read_address(self) -> bool:
        # The file may be there and not yet be written.
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.address = json.loads(self._scheduler_file.read_text())["address"]
        return bool(self.address)

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """The scheduler's process and those of the workers."""
        return [self._scheduler, *(worker.process for worker in self.workers.values())]

    def start_worker(
        self,
        pool: str | None = None,
        *,
        name: str | None = None,
        threads: int | None = None,
        resources: Mapping[str, float] | None = None,
        env: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> Worker:
        """Start one more worker.

        Parameters
        ----------
        pool : str, optional
            Offer ``pool-<pool>=1`` with ``--resources``. Default: no such option, so that the
            worker offers what `config` and `env` say.
        name : str, optional
            Default: the pool and a number, such as ``A-0``.
        threads : int, optional
            Default: that of the cluster.
        resources : mapping of str to float, optional
            More for ``--resources``, for example ``{"GPU": 1}``.
        env : mapping of str to str, optional
            Environment variables, on top of the cluster's, for example
            ``{"DASK_DISTRIBUTED__WORKER__RESOURCES__POOL_A": "1"}``.
        config : mapping, optional
            Dask configuration in a file of its own, on top of the cluster's, for example
            ``{"distributed": {"worker": {"resources": {"pool-A": 1}}}}``.
        wait : bool
            Wait until the scheduler knows it.
        """
        offers = ({f"pool-{pool}": 1.0} if pool is not None else {}) | dict(resources or {})
        name = name or f"{'none' if pool is None else pool}-{self._started}"
        self._started += 1
        process, log = self._spawn(
            name,
            [
                *("worker", self.address, "--host", HOST, "--no-nanny", "--name", name),
                *("--nthreads", str(threads or self.threads), "--memory-limit", "0"),
                *("--dashboard-address", f"{HOST}:0", "--no-dashboard", "--death-timeout", "30"),
                *("--local-directory", str(self.directory)),
                *(("--resources", _as_option(offers)) if offers else ()),
            ],
            {**self.env, **(env or {})},
            {**self.config, **(config or {})},
        )
        worker = self.workers[name] = Worker(name, pool, process, log)
        if wait:
            self.wait_for_workers()
        return worker

    def wait_for_workers(self) -> None:
        """Wait until every worker in `workers` has joined."""
        for worker in self.workers.values():
            if not worker.address:
                self._wait(
                    lambda w=worker: self._has_joined(w),  # type: ignore[misc]
                    worker.process,
                    worker.log,
                    f"Worker {worker.name!r}",
                )

    def _has_joined(self, worker: Worker) -> bool:
        worker.address = _addresses(self._connected()).get(worker.name, "")
        return bool(worker.address)

    def stop_worker(self, worker: Worker | str, *, kill: bool = False) -> None:
        """End a worker, with SIGTERM or at once, and wait until the scheduler has seen it go."""
        gone = self.workers.pop(worker if isinstance(worker, str) else worker.name)
        _end([gone.process], first=signal.SIGKILL if kill else signal.SIGTERM)
        wait_until(lambda: gone.name not in _addresses(self._connected()))

    def _connected(self) -> Client:
        assert self._client is not None, "call connect() first"
        return self._client

    def close(self) -> None:
        """End all processes; safe to call at any moment and twice."""
        if self._client is not None:
            self._client.close()
            self._client = None
        # Workers first: a worker that loses its scheduler complains and lingers.
        _end([worker.process for worker in self.workers.values()])
        _end([self._scheduler])
        self.workers.clear()

    def _spawn(
        self, name: str, arguments: list[str], env: Mapping[str, str], config: Mapping[str, Any]
    ) -> tuple[subprocess.Popen[bytes], Path]:
        log = self.directory / f"{name}.log"
        environment = _without_package(os.environ, self._blocker) | dict(env)
        if config:
            # JSON is YAML.
            file = self.directory / f"{name}.yaml"
            file.write_text(json.dumps(config))
            environment["DASK_CONFIG"] = str(file)
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                env=environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return process, log

    def _wait(
        self,
        up: Callable[[], bool],
        process: subprocess.Popen[bytes],
        log: Path,
        who: str,
    ) -> None:
        """Wait until `up()`; if its process ends or takes too long, fail with its log."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: process.poll() is not None or up(), timeout=START_TIMEOUT)
        if up():
            return
        state = f"ended with code {process.poll()}" if process.poll() is not None else "hangs"
        raise RuntimeError(f"{who} did not start: it {state}. Its log:\n{log.read_text()}")


@contextlib.contextmanager
def start(
    pools: Mapping[str | None, int] | Mapping[str, int],
    *,
    threads: int = 1,
    env: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    scheduler_config: Mapping[str, Any] | None = None,
) -> Iterator[PoolCluster]:
    """Start a scheduler and workers as other processes, and end them at the end of the block.

    Parameters
    ----------
    pools : mapping of str or None to int
        Workers per pool, for example ``{"A": 2, "B": 2, None: 1}``; under None, those without a
        pool. May be empty: see `PoolCluster.start_worker`.
    threads : int
        Threads per worker.
    env, config : mapping, optional
        Environment variables and Dask configuration of all the processes.
    scheduler_config : mapping, optional
        Dask configuration of the scheduler; its top-level entries replace those of `config`.
    """
    with tempfile.TemporaryDirectory(prefix="pool-cluster-") as directory:
        cluster = PoolCluster(
            Path(directory),
            threads=threads,
            env=env,
            config=config,
            scheduler_config=scheduler_config,
        )
        try:
            cluster.connect()
            for pool, count in pools.items():
                for i in range(count):
                    name = f"{'none' if pool is None else pool}-{i}"
                    cluster.start_worker(pool, name=name, wait=False)
            cluster.wait_for_workers()
            yield cluster
        finally:
            cluster.close()


def _as_option(resources: Mapping[str, float]) -> str:
    return " ".join(f"{name}={amount}" for name, amount in resources.items())


def _without_package(environment: Mapping[str, str], blocker: Path) -> dict[str, str]:
    """Environment in which `blocker` comes first and no directory with the package follows."""
    rest = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    kept = [entry for entry in rest if not (Path(entry) / PACKAGE).exists()]
    return {**environment, "PYTHONPATH": os.pathsep.join([str(blocker), *kept])}


def _end(processes: list[subprocess.Popen[bytes]], first: signal.Signals = signal.SIGTERM) -> None:
    """Send `first` to all, then SIGKILL to those that are left after `GRACE` seconds together."""
    for process in processes:
        process.send_signal(first)  # does nothing if it has ended
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(
    predicate: Callable[[], object], timeout: float = 10.0, interval: float = 0.02
) -> None:
    """Return as soon as `predicate()` is true; raise TimeoutError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Still not true after {timeout} s: {predicate!r}")
        time.sleep(interval)


# Functions below that run on the scheduler are nested in others: those travel by value, and the
# scheduler cannot import this module.


def _addresses(client: Client) -> dict[str, str]:
    """Address of each worker on the scheduler, by name."""

    def on_scheduler(dask_scheduler: Any) -> dict[str, str]:
        return {str(ws.name): ws.address for ws in dask_scheduler.workers.values()}

    found: dict[str, str] = client.run_on_scheduler(on_scheduler)
    return found


def stuck(client: Client) -> dict[Hashable, str]:
    """Keys on the scheduler that neither ran nor failed, with their state.

    That is ``no-worker``, ``waiting``, ``queued`` or ``processing``. Empty when nothing is left
    behind.
    """

    def on_scheduler(dask_scheduler: Any) -> dict[Hashable, str]:
        unfinished = {"no-worker", "waiting", "queued", "processing"}
        return {k: ts.state for k, ts in dask_scheduler.tasks.items() if ts.state in unfinished}

    found: dict[Hashable, str] = client.run_on_scheduler(on_scheduler)
    return found


def restrictions(client: Client, *persisted: Any) -> dict[Hashable, dict[str, float]]:
    """Resources that each task behind persisted collections or futures asks for, by key.

    The tasks need not be able to run: this waits until they are on the scheduler, no longer.
    Tasks of other computations are left out. Results of an earlier test are forgotten whenever
    the client's message about them arrives, so that a look at all tasks may find some.
    """
    results = [future.key for future in futures_of(persisted)]

    def on_scheduler(dask_scheduler: Any) -> dict[Hashable, dict[str, float]] | None:
        tasks = dask_scheduler.tasks
        if not tasks.keys() >= set(results):
            return None
        behind = set()
        left = [tasks[key] for key in results]
        while left:
            task = left.pop()
            if task not in behind:
                behind.add(task)
                left.extend(task.dependencies)
        return {task.key: dict(task.resource_restrictions or {}) for task in behind}

    found: dict[Hashable, dict[str, float]] | None = None

    def arrived() -> bool:
        nonlocal found
        found = client.run_on_scheduler(on_scheduler)
        return found is not None

    wait_until(arrived)
    assert found  # persisted collections have tasks
    return found


@dataclass(frozen=True)
class Execution:
    """One run of one task."""

    key: Hashable
    worker: str  #: address
    pools: frozenset[str | None]  #: pools of that worker, ``{None}`` if it offers none
    failed: bool  #: it raised; a task may run again


class Executions:
    """What ran on a cluster since the start of the block, and where; see `record_executions`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._name = f"record-executions-{uuid4().hex}"
        self._frozen: list[Execution] | None = None

    @property
    def tasks(self) -> list[Execution]:
        """Each run of each task, in the order in which they ended."""
        return self._read() if self._frozen is None else self._frozen

    @property
    def pools_of(self) -> dict[Hashable, set[str | None]]:
        """Pools of the workers that ran each key; ``{None}`` for a worker without a pool."""
        found: dict[Hashable, set[str | None]] = {}
        for task in self.tasks:
            found.setdefault(task.key, set()).update(task.pools)
        return found

    def reset(self) -> None:
        """Forget what ran so far."""
        self._read(clear=True)

    def _read(self, clear: bool = False) -> list[Execution]:
        def on_scheduler(name: str, clear: bool, dask_scheduler: Any) -> list[Any]:
            plugin = dask_scheduler.plugins[name]
            records = list(plugin.records)
            if clear:
                plugin.records.clear()
            return records

        records = self._client.run_on_scheduler(on_scheduler, self._name, clear)
        return [
            Execution(key, worker, frozenset(pools or [None]), failed)
            for key, worker, pools, failed in records
        ]

    def _open(self) -> None:
        self._client.register_plugin(_recorder(), name=self._name)

    def _close(self) -> None:
        try:
            self._frozen = self._read()
        finally:
            self._client.unregister_scheduler_plugin(self._name)


@contextlib.contextmanager
def record_executions(client: Client) -> Iterator[Executions]:
    """Record every task that a worker of the cluster runs during the block, whoever asked for it.

    As in::

        with record_executions(client) as ran:
            future.result()
        assert ran.pools_of[future.key] == {"A"}
    """
    executions = Executions(client)
    executions._open()
    try:
        yield executions
    finally:
        executions._close()


def _recorder() -> SchedulerPlugin:
    class Recorder(SchedulerPlugin):
        """Notes each task that a worker reports as done or failed."""

        def __init__(self) -> None:
            self.records: list[tuple[Hashable, str, list[str], bool]] = []

        async def start(self, scheduler: Any) -> None:
            self.scheduler = scheduler

        def transition(
            self, key: Hashable, start: str, finish: str, *args: Any, **kwargs: Any
        ) -> None:
            worker = kwargs.get("worker")
            if start != "processing" or finish not in ("memory", "erred") or worker is None:
                return
            # The worker's pools are read now: it may be gone when someone asks. The resource
            # is pool_a, not pool-a, where an environment variable declared it.
            offered = self.scheduler.workers[worker].resources
            pools = sorted(r[5:] for r in offered if r.lower().startswith(("pool-", "pool_")))
            self.records.append((key, worker, pools, finish == "erred"))

    return Recorder()
