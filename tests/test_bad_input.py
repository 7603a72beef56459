"""What cannot work raises an error that says why, soon, and leaves nothing behind.

After each test the scheduler holds no task of it, and Dask's configuration is what it was.
"""

from __future__ import annotations

import copy
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import clusters
import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
import xarray as xr
from dask import delayed
from distributed import Client, futures_of
from distributed.client import FutureCancelledError

from dask_worker_pools import (
    ConflictingPools,
    NoSuchPool,
    NoSuchWorker,
    PeerToPeerInPool,
    PoolError,
    pool,
    propagate_pools,
    propagate_pools_in_collection,
)
from dask_worker_pools.errors import LostKeys

VALUES = np.arange(64.0).reshape(8, 8)

#: Seconds within which an error must be there; far more than it takes.
SOON = 10.0


def tasks_on(client: Client) -> dict[Hashable, str]:
    """All tasks on the scheduler, with their state."""

    def on_scheduler(dask_scheduler: Any) -> dict[Hashable, str]:
        return {key: ts.state for key, ts in dask_scheduler.tasks.items()}

    found: dict[Hashable, str] = client.run_on_scheduler(on_scheduler)
    return found


@pytest.fixture(autouse=True)
def nothing_left(client: Client) -> Iterator[None]:
    """After each test, its tasks are gone, the configuration is what it was, and work goes on."""
    before = copy.deepcopy(dask.config.config)
    tasks = tasks_on(client).keys()
    yield
    assert dask.config.config == before
    clusters.wait_until(lambda: tasks_on(client).keys() <= tasks)
    with pool("A"):
        x = values()
    with propagate_pools():
        assert (x + 1).sum().compute() == (VALUES + 1).sum()


def values(chunks: Any = 4) -> Any:
    """An array under a name of its own."""
    return da.from_array(VALUES, chunks=chunks, name=f"values-{uuid4().hex}")


def pinned(name: str) -> Any:
    """An array in a pool."""
    with pool(name):
        return values()


def with_gpu(build: Callable[[], Any]) -> Any:
    """What `build` makes, with a GPU asked for."""
    with dask.annotate(resources={"GPU": 1}):
        return build()


# --- the table


@dataclass(frozen=True)
class Row:
    """One way to go wrong, and what it says."""

    build: Callable[[], Any]  #: a collection
    error: type[BaseException]
    says: tuple[str, ...] = ()  #: parts of the message
    fields: Mapping[str, Any] = field(default_factory=dict)  #: some of the error's attributes
    around: Callable[[], AbstractContextManager[Any]] = nullcontext  #: around the computation


def conflicting() -> Any:
    """An array of two pools."""
    with dask.annotate(resources={"pool-A": 0, "pool-B": 1}):
        return da.from_array(VALUES, chunks=4, name="twice")


def conflicting_tasks() -> Any:
    """Delayed objects, the second of two pools."""
    one = delayed(int)(1)
    with dask.annotate(resources={"pool-A": 0, "pool-B": 0, "GPU": 1}):
        return delayed(abs)(one, dask_key_name="twice")


def peer_to_peer(before: str | None = None, after: str | None = None) -> Any:
    """An array rechunked peer to peer, its inputs or its outputs in a pool."""
    with pool(before) if before else nullcontext():
        x = values((2, 8))
    with pool(after) if after else nullcontext():
        with dask.config.set({"array.rechunk.method": "p2p"}):
            return x.rechunk((8, 2))


def raising(graph: Any, keys: Any, **kwargs: Any) -> Any:
    """An optimisation of the user that fails."""
    raise ZeroDivisionError("the user's own mistake")


def optimised_by(kind: str, function: Any) -> Callable[[], AbstractContextManager[Any]]:
    """A user's optimisation, as it reaches the scheduler."""
    return lambda: dask.config.set({f"{kind}_optimize": function})


def by_value(name: str) -> Any:
    """An optimisation that the scheduler can unpickle: it cannot import this module."""

    def raises(graph: Any, keys: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("the user's own mistake")

    def loses(graph: Any, keys: Any, **kwargs: Any) -> Any:
        return {}

    def returns_nothing(graph: Any, keys: Any, **kwargs: Any) -> Any:
        return None

    lock = threading.Lock()

    def unpicklable(graph: Any, keys: Any, **kwargs: Any) -> Any:
        with lock:
            return graph

    return {"raises": raises, "loses": loses, "nothing": returns_nothing, "lock": unpicklable}[name]


def annotated_by(function: Callable[[Any], Any]) -> Any:
    """An array whose resources are looked up by key."""
    with dask.annotate(resources=function):
        return values()


NOWHERE = (
    "'nowhere'",
    "no worker offers it",
    "'A' (2 workers)",
    "'B' (2 workers)",
    "pool-nowhere=1",
)
NO_POOL = {"pool": "nowhere", "pools": {"A": 2, "B": 2}}

ROWS: dict[str, Row] = {
    "no such pool: array": Row(
        lambda: pinned("nowhere"), NoSuchPool, (*NOWHERE, "5 tasks"), {**NO_POOL, "n_tasks": 5}
    ),
    "no such pool: dataset": Row(
        lambda: xr.Dataset({"v": (("x", "y"), pinned("nowhere"))}), NoSuchPool, NOWHERE, NO_POOL
    ),
    "no such pool: bag": Row(
        lambda: in_pool("nowhere", lambda: db.from_sequence(range(4), npartitions=2)),
        NoSuchPool,
        (*NOWHERE, "3 tasks", "from_sequence"),
        {**NO_POOL, "n_tasks": 3},
    ),
    "no such pool: delayed": Row(
        lambda: in_pool("nowhere", lambda: delayed(int)(dask_key_name="the-only-one")),
        NoSuchPool,
        (*NOWHERE, "1 task ", "the-only-one"),
        {**NO_POOL, "n_tasks": 1, "layers": ("the-only-one",)},
    ),
    "no such pool: beside one that is there": Row(
        lambda: pinned("A") + pinned("nowhere"), NoSuchPool, NOWHERE, NO_POOL
    ),
    "no such pool: only for data that is shipped away": Row(
        lambda: pinned("A") + pinned("nowhere")[:1], NoSuchPool, NOWHERE, NO_POOL
    ),
    "no such pool: around the computation": Row(
        lambda: values(), NoSuchPool, NOWHERE, NO_POOL, lambda: pool("nowhere")
    ),
    "no such pool: by hand": Row(
        lambda: annotated_by(lambda key: {"pool-nowhere": 1}), NoSuchPool, NOWHERE, NO_POOL
    ),
    "no such pool: written in the collection": Row(
        lambda: propagate_pools_in_collection(pinned("nowhere") + 1), NoSuchPool, NOWHERE, NO_POOL
    ),
    "no such pool: its name is nearly right": Row(
        lambda: pinned("AA"), NoSuchPool, ("'AA'", "'A' (2 workers)"), {"pool": "AA"}
    ),
    "no such worker: the pool has no GPU": Row(
        lambda: in_pool("A", lambda: with_gpu(values)),
        NoSuchWorker,
        ("in pool 'A' ask for GPU=1", "no worker of that pool", '"pool-A=1 GPU=1"'),
        {"pool": "A", "resources": {"GPU": 1}},
    ),
    "two pools: array": Row(
        conflicting,
        ConflictingPools,
        ("'twice'", "2 pools", "'A', 'B'"),
        {"pools": ("A", "B"), "layer": "twice"},
    ),
    "two pools: delayed": Row(
        conflicting_tasks,
        ConflictingPools,
        ("'twice'", "2 pools", "'A', 'B'"),
        {"pools": ("A", "B"), "key": "twice", "layer": "twice"},
    ),
    "two pools: around the computation": Row(
        values,
        ConflictingPools,
        ("2 pools", "'A', 'B'"),
        {"pools": ("A", "B")},
        lambda: dask.annotate(resources={"pool-A": 0, "pool-B": 0}),
    ),
    "two pools: looked up by key": Row(
        lambda: annotated_by(lambda key: {"pool-A": 0, "pool-B": 0}),
        ConflictingPools,
        ("2 pools", "'A', 'B'"),
        {"pools": ("A", "B")},
    ),
    "peer to peer: inputs": Row(
        lambda: peer_to_peer(before="A"),
        PeerToPeerInPool,
        ("'A'", "array.rechunk.method", "tasks", "inside propagate_pools()"),
        {"pools": ("A",), "config": "array.rechunk.method"},
    ),
    "peer to peer: barrier and outputs": Row(
        lambda: peer_to_peer(after="B"),
        PeerToPeerInPool,
        ("'B'", "array.rechunk.method"),
        {"pools": ("B",), "config": "array.rechunk.method"},
    ),
    "peer to peer: between two pools": Row(
        lambda: peer_to_peer(before="A", after="B"),
        PeerToPeerInPool,
        ("array.rechunk.method",),
        {"config": "array.rechunk.method"},
    ),
    "peer to peer: pool around the computation": Row(
        peer_to_peer, PeerToPeerInPool, ("'A'", "array.rechunk.method"), {}, lambda: pool("A")
    ),
    "optimisation raises: array": Row(
        lambda: pinned("A"),
        ZeroDivisionError,
        ("the user's own mistake",),
        {},
        optimised_by("array", by_value("raises")),
    ),
    "optimisation raises: bag": Row(
        lambda: db.from_sequence(range(4)),
        ZeroDivisionError,
        ("the user's own mistake",),
        {},
        optimised_by("bag", by_value("raises")),
    ),
    "optimisation raises: delayed": Row(
        lambda: delayed(int)(1),
        ZeroDivisionError,
        ("the user's own mistake",),
        {},
        optimised_by("delayed", by_value("raises")),
    ),
    "optimisation loses tasks": Row(
        lambda: pinned("A"),
        LostKeys,
        ("'by_value.<locals>.loses'", "keys to keep"),
        {"function": "by_value.<locals>.loses"},
        optimised_by("array", by_value("loses")),
    ),
    "optimisation returns nothing": Row(
        lambda: pinned("A"),
        LostKeys,
        ("nothing", "must keep all of `keys`"),
        {},
        optimised_by("array", by_value("nothing")),
    ),
    "optimisation cannot be pickled": Row(
        lambda: pinned("A"),
        TypeError,
        ("Could not serialize",),
        {},
        optimised_by("array", by_value("lock")),
    ),
    "optimisation cannot be imported on the scheduler": Row(
        lambda: pinned("A"),
        RuntimeError,
        ("deserialization of the task graph",),
        {},
        optimised_by("array", raising),
    ),
    "annotation raises": Row(lambda: annotated_by(lambda key: {}[key]), KeyError, ("values-",)),
}


def in_pool(name: str, build: Callable[[], Any]) -> Any:
    """What `build` returns, built in a pool."""
    with pool(name):
        return build()


def failing(row: Row, compute: Callable[[Any], Any]) -> BaseException:
    """The error that a computation raises."""
    x = row.build()
    with row.around(), propagate_pools(), pytest.raises(row.error) as caught:
        compute(x)
    return caught.value


@pytest.mark.parametrize("case", ROWS)
def test_the_error_says_what_is_wrong(client: Client, case: str) -> None:
    """A computation that cannot work raises this error in the user's process, soon and whole."""
    row = ROWS[case]
    started = time.monotonic()
    error = failing(row, lambda x: x.compute())
    assert time.monotonic() - started < SOON
    assert type(error) is row.error
    for part in row.says:
        assert part in str(error)
    for name, value in row.fields.items():
        assert getattr(error, name) == value
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is row.error
    assert str(again) == str(error)
    if isinstance(error, PoolError):
        assert [getattr(again, n) for n in error.fields] == [
            getattr(error, n) for n in error.fields
        ]
    assert not clusters.stuck(client)


WAYS: dict[str, Callable[[Any, Client], Any]] = {
    "dask.compute": lambda x, _: dask.compute(delayed(int)(1), x),
    "Client.compute": lambda x, client: client.compute(x).result(timeout=30),
    "persist": lambda x, _: futures_of(x.persist())[0].result(timeout=30),
    "dask.persist": lambda x, _: futures_of(dask.persist(x))[0].result(timeout=30),
    "Client.persist": lambda x, client: futures_of(client.persist(x))[0].result(timeout=30),
    "nested contexts": lambda x, _: in_nested(x),
}


def in_nested(x: Any) -> Any:
    """Computed in an inner propagate_pools that says nothing else."""
    with propagate_pools():
        return x.compute()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "case",
    [
        "no such pool: array",
        "no such pool: dataset",
        "two pools: array",
        "peer to peer: inputs",
        "optimisation raises: array",
    ],
)
def test_the_error_comes_on_every_way_to_compute(client: Client, case: str, way: str) -> None:
    """The error is the same for compute and persist, of Dask and of the client."""
    started = time.monotonic()
    failing(ROWS[case], lambda x: WAYS[way](x, client))
    assert time.monotonic() - started < SOON


def test_what_is_made_from_failed_data_fails(client: Client) -> None:
    """Data that could not be persisted has the error, and what is made from it fails soon too."""
    with propagate_pools():
        persisted = pinned("nowhere").persist()
        with pytest.raises(NoSuchPool):
            futures_of(persisted)[0].result(timeout=30)
        with pytest.raises((NoSuchPool, FutureCancelledError)):
            (persisted + 1).sum().compute()


# --- missing=


@pytest.mark.parametrize("missing", ["ignore", "", "Error", None, True, 0, ["warn"]])
def test_unknown_options_are_refused(client: Client, missing: Any) -> None:
    """A value of `missing` that does not exist raises ValueError with the ones that do."""
    with pytest.raises(ValueError, match="'error', 'warn', 'wait'") as caught:
        propagate_pools(missing=missing)
    assert repr(missing) in str(caught.value)
    assert "array_optimize" not in dask.config.config


def late(pool_cluster: clusters.PoolCluster, client: Client, future: Any) -> None:
    """Let a worker of pool "late" join as soon as tasks wait for it; then wait for the result."""
    clusters.wait_until(lambda: "no-worker" in clusters.stuck(client).values())
    assert not future.done()
    worker = pool_cluster.start_worker("late")
    try:
        with clusters.record_executions(client):
            assert future.result(timeout=30) == (VALUES + 1).sum()
    finally:
        pool_cluster.stop_worker(worker)


def test_wait(pool_cluster: clusters.PoolCluster, client: Client) -> None:
    """With missing="wait", tasks wait without a word for a worker of their pool and then finish."""
    x = (pinned("late") + 1).sum()
    with clusters.record_executions(client) as ran, propagate_pools(missing="wait"):
        late(pool_cluster, client, client.compute(x))
    assert set().union(*ran.pools_of.values()) == {"late"}


def test_warn(pool_cluster: clusters.PoolCluster, client: Client) -> None:
    """With missing="warn", a warning in the user's process says so, and then tasks wait."""
    x = (pinned("late") + 1).sum()
    with clusters.record_executions(client) as ran, propagate_pools(missing="warn"):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            future = client.compute(x)
            clusters.wait_until(lambda: warned)
        late(pool_cluster, client, future)
    # Each client of this process shows it: the test's, and the one that the cluster keeps.
    (category, message), *more = {(w.category, str(w.message)) for w in warned}
    assert not more
    assert category is UserWarning
    for part in ("'late'", "14 tasks", "no worker offers it", "'A' (2 workers)"):
        assert part in message
    assert set().union(*ran.pools_of.values()) == {"late"}


@pytest.mark.parametrize("missing", ["warn", "wait", "error"])
def test_nothing_is_said_when_no_pool_is_missing(client: Client, missing: Any) -> None:
    """With all pools there, the three values of `missing` do the same, without a warning."""
    with propagate_pools(missing=missing):
        assert (pinned("A") + pinned("B")).sum().compute() == 2 * VALUES.sum()


def test_waiting_tasks_can_be_cancelled(client: Client) -> None:
    """Tasks that wait for a pool go away with their future."""
    with propagate_pools(missing="wait"):
        future = client.compute(pinned("nowhere").sum())
    clusters.wait_until(lambda: "no-worker" in clusters.stuck(client).values())
    future.cancel()
    clusters.wait_until(lambda: not clusters.stuck(client))


@pytest.mark.parametrize(("outer", "inner"), [("wait", "error"), ("warn", "error")])
def test_the_inner_context_decides(client: Client, outer: Any, inner: Any) -> None:
    """Of nested contexts, the inner one says what to do about a missing pool."""
    with propagate_pools(missing=outer), propagate_pools(missing=inner), pytest.raises(NoSuchPool):
        pinned("nowhere").compute()


# --- peer to peer


def test_rechunk_inside_uses_tasks(client: Client) -> None:
    """An array that is rechunked inside the context stays in its pool, whatever was configured."""
    x = in_pool("A", lambda: values((2, 8)))
    with clusters.record_executions(client) as ran:
        with dask.config.set({"array.rechunk.method": "p2p"}), propagate_pools():
            result = x.rechunk((8, 2)).compute()
    np.testing.assert_array_equal(result, VALUES)
    assert set().union(*ran.pools_of.values()) == {"A"}
    assert not any("barrier" in str(key) for key in ran.pools_of)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside pools"])
def test_peer_to_peer_without_pools_works(client: Client, beside: bool) -> None:
    """A peer-to-peer rechunk that touches no pool works inside the context."""
    x = peer_to_peer()
    others = [pinned("A").sum(), pinned("B").sum()] if beside else []
    with clusters.record_executions(client) as ran, propagate_pools():
        result, *sums = dask.compute(x, *others)
    np.testing.assert_array_equal(result, VALUES)
    assert sums == [VALUES.sum()] * len(others)
    assert any("barrier" in str(key) for key in ran.pools_of)


# --- on leaving


@pytest.mark.parametrize("again", [False, True], ids=["once", "again inside"])
def test_the_configuration_is_restored_after_an_error(client: Client, again: bool) -> None:
    """An exception that leaves the block turns propagation off, and the user's settings stay."""

    def own(graph: Any, keys: Any, **kwargs: Any) -> Any:
        return graph

    def fail() -> None:
        with propagate_pools(), propagate_pools() if again else nullcontext():
            assert dask.config.config != before
            raise ZeroDivisionError

    settings = {"array_optimize": own, "bag_optimize": False, "array.rechunk.method": "p2p"}
    with dask.config.set(settings):
        before = copy.deepcopy(dask.config.config)
        with pytest.raises(ZeroDivisionError):
            fail()
        assert dask.config.config == before


def test_a_context_entered_twice_holds_until_it_is_left_twice(client: Client) -> None:
    """Entering the same context inside itself does not turn it off too early."""
    x = pinned("A").sum()
    with propagate_pools() as on:
        with on:
            pass
        with clusters.record_executions(client) as ran:
            x.compute()
    assert set().union(*ran.pools_of.values()) == {"A"}


def test_tasks_that_fail_leave_nothing(client: Client) -> None:
    """A task that raises in its pool raises its own error, and the others are forgotten."""

    def divide(block: Any) -> Any:
        raise ZeroDivisionError("in a task")

    x = pinned("A").map_blocks(divide, dtype=float, meta=VALUES)
    with propagate_pools(), pytest.raises(ZeroDivisionError, match="in a task"):
        (x + pinned("B")).sum().compute()


def test_plain_dask_waits_for_ever_where_this_raises(client: Client) -> None:
    """Without this package, a pool that no worker offers leaves the tasks waiting in silence."""
    with dask.annotate(resources={"pool-nowhere": 0}):
        future = client.compute(delayed(int)(1))
    clusters.wait_until(lambda: set(clusters.stuck(client).values()) == {"no-worker"})
    assert future.status == "pending"
    future.cancel()
