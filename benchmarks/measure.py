"""One run of one contender: seconds, bytes that crossed, tasks submitted, and whether it worked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import dask
import numpy as np
import xarray as xr
from distributed import Client, SchedulerPlugin, futures_of, wait

from benchmarks.contenders import DEFAULTS, Contender
from benchmarks.graphs import are_frames
from benchmarks.network import wait_until
from dask_worker_pools import measure_transfers


@dataclass
class Run:
    """What was seen of one run."""

    status: str  #: "ok", or in a few words what went wrong
    seconds: float = 0.0  #: from sending the graph until the results are there
    crossed: int = 0  #: bytes that went from one pool to another
    submitted: int = 0  #: tasks that the scheduler got
    links: dict[str, int] = field(default_factory=dict)  #: bytes by link, such as "A→B"


def run_once(
    client: Client,
    contender: Contender,
    build: Callable[[Any], Sequence[Any]],
    *,
    keep: bool,
    timeout: float,
    expected: Sequence[Any] | None = None,
) -> Run:
    """Build, send, wait and clean up; a run that takes longer than `timeout` seconds hangs.

    If `expected` is given, what comes back must equal it.
    """
    wait_until_idle(client)
    with contender.client(), counted(client) as submitted, measure_transfers(client) as moved:
        start = time.perf_counter()
        collections = build(contender.pool)
        # Who cannot pin dataframes begins to load them now. With all others, nothing runs yet.
        built = time.perf_counter() - start if are_frames(collections) else 0.0
        optimize = contender.optimize(collections)
        with settings_of_scheduler(client, contender.scheduler(collections)):
            run = _timed(client, contender, collections, optimize, keep, timeout, expected)
        run.seconds += built
    run.submitted = submitted[0]
    run.crossed = moved.total_bytes
    run.links = {
        f"{source}→{target}": nbytes
        for (source, target), nbytes in sorted(moved.bytes_by_link.items(), key=str)
        if source != target
    }
    return run


def _timed(
    client: Client,
    contender: Contender,
    collections: Sequence[Any],
    optimize: bool,
    keep: bool,
    timeout: float,
    expected: Sequence[Any] | None,
) -> Run:
    send = client.persist if keep else client.compute
    start = time.perf_counter()
    futures: list[Any] = []
    try:
        sent = send(list(contender.rewrite(collections)), optimize_graph=optimize)
        futures = futures_of(sent)
        wait(futures, timeout=timeout)
        results = None if keep else client.gather(futures)
        seconds = time.perf_counter() - start
        if keep:
            for future in futures:
                if future.status == "error":
                    future.result()
    except TimeoutError:
        client.cancel(futures, force=True)
        return Run(f"not done after {timeout:g} s")
    except Exception as error:
        client.cancel(futures, force=True)
        return Run(f"{type(error).__name__}: {error}"[:200])
    if results is not None and expected is not None and not all(map(same, results, expected)):
        return Run("wrong result", seconds)
    return Run("ok", seconds)


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal, but for rounding."""
    if isinstance(one, xr.DataArray | xr.Dataset):
        try:
            xr.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        except AssertionError:
            return False
        return True
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and one and not isinstance(one[0], np.ndarray | float):
        return sorted(one) == sorted(other)
    return bool(np.allclose(one, other, rtol=1e-4, atol=1e-6))


def wait_until_idle(client: Client, timeout: float = 30.0) -> None:
    """Wait until the scheduler has forgotten all tasks: those it knows would keep their places."""

    def known(dask_scheduler: Any) -> int:
        return len(dask_scheduler.tasks)

    if not wait_until(lambda: not client.run_on_scheduler(known), timeout):
        raise RuntimeError(f"The scheduler still knows tasks of the run before, after {timeout} s.")


@contextlib.contextmanager
def settings_of_scheduler(client: Client, settings: Mapping[str, Any]) -> Iterator[None]:
    """Change Dask's configuration in the process of the scheduler."""

    def change(values: dict[str, Any]) -> dict[str, Any]:
        before = {name: dask.config.get(name, None) for name in values}
        dask.config.set(values)
        return before

    before = client.run_on_scheduler(change, {**DEFAULTS, **settings})
    try:
        yield
    finally:
        client.run_on_scheduler(change, before)


def _counter() -> SchedulerPlugin:
    """Plugin that counts the tasks of graphs; made in here, it travels by value."""

    class Counter(SchedulerPlugin):
        submitted = 0

        def update_graph(self, scheduler: Any, *, tasks: Any, **kwargs: Any) -> None:
            self.submitted += len(tasks)

    return Counter()


@contextlib.contextmanager
def counted(client: Client) -> Iterator[list[int]]:
    """Count the tasks that the scheduler gets; known when the block has ended."""
    name = f"count-{uuid4().hex}"

    def read(dask_scheduler: Any) -> int:
        return int(dask_scheduler.plugins[name].submitted)

    count: list[int] = []
    client.register_plugin(_counter(), name=name)
    try:
        yield count
    finally:
        count.append(client.run_on_scheduler(read))
        client.unregister_scheduler_plugin(name)
