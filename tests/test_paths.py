"""On every way to compute, each task runs in its pool, and the values stay what they were.

The cluster has workers in pool A, in pool B and in none. Functions inside the graphs note on which
worker they ran, so that fused tasks cannot hide one another; the scheduler says where each key ran.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
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
from dask.delayed import Delayed
from dask.sizeof import sizeof
from distributed import Client, futures_of, get_worker, wait

from dask_worker_pools import (
    WorkersOutsidePool,
    pool,
    propagate_pools,
    propagate_pools_in_collection,
)

Way = Callable[[Any, Client], Any]

VALUES = np.arange(256.0).reshape(16, 16)
KINDS = ["array", "dataarray", "dataset", "bag", "delayed"]


class Trace:
    """Notes of functions that run in tasks about the pool of their worker."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._topic = f"trace-{uuid4().hex}"

    def note(self, name: str) -> Callable[..., Any]:
        """Return a function that returns its first argument, and notes where it was called."""
        topic = self._topic

        # Nested functions travel by value: the workers cannot import this module.
        def noted(value: Any) -> Any:
            try:
                worker = get_worker()
            except ValueError:
                return value  # a local scheduler
            worker.log_event(topic, (name, sorted(worker.state.total_resources)))
            return value

        return noted

    @property
    def places(self) -> dict[str, set[str | None]]:
        """Pools in which each name was noted."""
        found: dict[str, set[str | None]] = {}
        for _, (name, offered) in self._client.get_events(self._topic):
            found.setdefault(name, set()).update(
                [r.removeprefix("pool-") for r in offered] or [None]
            )
        return found


@pytest.fixture
def trace(client: Client) -> Trace:
    """Notes of this test alone."""
    return Trace(client)


pytestmark = pytest.mark.usefixtures("nothing_left")


# --- collections


def array(trace: Trace, where: str | None, name: str, values: Any = VALUES) -> Any:
    """An array of chunks of 4, loaded in a pool if one is named."""
    with pool(where) if where else nullcontext():
        source = da.from_array(values, chunks=4, name=f"values-{uuid4().hex}")
        return source.map_blocks(trace.note(name), dtype=float, meta=source._meta)


def noting(x: Any, trace: Trace, name: str) -> Any:
    """`x` after one more step, which nothing is said about."""
    if isinstance(x, xr.DataArray):
        return x.copy(data=noting(x.data, trace, name))
    return x.map_blocks(trace.note(name), dtype=float, meta=x._meta)


def bag(trace: Trace, where: str | None, name: str, n: int = 4) -> Any:
    """A bag with one number in each of its `n` partitions."""
    with pool(where) if where else nullcontext():
        return db.from_sequence(range(n), npartitions=n).map(trace.note(name))


def delayeds(trace: Trace, where: str | None, name: str, n: int = 4) -> list[Delayed]:
    """`n` numbers, each delayed."""
    with pool(where) if where else nullcontext():
        return [delayed(trace.note(name))(i) for i in range(n)]


def chain(kind: str, trace: Trace) -> Any:
    """A collection whose load is pinned to A; one more step follows.

    ::

        load (A) → step → …
    """
    if kind == "array":
        return noting(array(trace, "A", "load") + 1, trace, "step")
    if kind == "dataarray":
        return noting(
            xr.DataArray(array(trace, "A", "load"), dims=("x", "y")).mean("x"), trace, "step"
        )
    if kind == "dataset":
        data = xr.DataArray(array(trace, "A", "load"), dims=("x", "y"))
        return xr.Dataset({"load": data, "step": noting(data + 1, trace, "step").sum("y")})
    if kind == "bag":
        return bag(trace, "A", "load").map(lambda x: x + 1).map(trace.note("step"))
    return delayed(trace.note("step"))(delayed(sum)(delayeds(trace, "A", "load")))


def joint(kind: str, trace: Trace) -> Any:
    """A collection of two pools, joined where the larger part of the data lies.

    ::

        large (A) ──→ join → …
        small (B) ────↗
    """
    if kind == "bag":
        total = bag(trace, "B", "small", n=2).sum()
        return bag(trace, "A", "large").map(lambda x, y: x + y, total).map(trace.note("join"))
    if kind == "delayed":
        parts = [*delayeds(trace, "A", "large"), *delayeds(trace, "B", "small", n=2)]
        return delayed(trace.note("join"))(delayed(sum)(parts))
    large = array(trace, "A", "large")
    small = array(trace, "B", "small", VALUES[0])
    if kind == "array":
        return noting(large - small, trace, "join")
    both = xr.Dataset({"large": (("x", "y"), large), "small": ("y", small)})
    joined = noting(both.large - both.small, trace, "join")
    return joined if kind == "dataarray" else joined.to_dataset(name="joined")


def assert_same(got: Any, wanted: Any) -> None:
    """Values are equal, whatever they are made of."""
    if isinstance(wanted, xr.DataArray | xr.Dataset):
        xr.testing.assert_identical(got, wanted)
    else:
        np.testing.assert_array_equal(got, wanted)


def pools_of(ran: clusters.Executions) -> set[str | None]:
    """Pools of all tasks that ran; no task ran in two."""
    found = ran.pools_of
    assert found
    assert {key: where for key, where in found.items() if len(where) > 1} == {}
    return set().union(*found.values())


def address_of(client: Client) -> str:
    """Address of the client's scheduler."""
    assert client.scheduler is not None
    return str(client.scheduler.address)


# --- the example


def test_readme_example(client: Client) -> None:
    """Of the README's example, one chain runs in A, and the other in B but for a's mean."""
    with pool("A"):
        a = da.random.random((10, 10))
    with pool("B"):
        b = da.random.random(10)
    run_in_a = (a - 1).sum()
    run_in_b = b - a.mean()
    wanted = dask.compute(run_in_a, run_in_b, scheduler="threads")
    with clusters.record_executions(client) as ran:
        with propagate_pools():
            in_a, in_b = dask.compute(run_in_a, run_in_b)
    np.testing.assert_allclose(in_a, wanted[0])
    np.testing.assert_allclose(in_b, wanted[1])
    assert pools_of(ran) == {"A", "B"}

    def where(*parts: str) -> set[str | None]:
        """Pools of the keys that have one of `parts` in their name."""
        named = {k: v for k, v in ran.pools_of.items() if any(part in str(k) for part in parts)}
        return set().union(*named.values())

    assert where(a.name) == where("sum") == where("mean") == {"A"}
    assert where(b.name) == where(run_in_b.name, "sub-finalize") == {"B"}


# --- all kinds, all paths


def _persist(x: Any, client: Client) -> Any:
    return x.persist().compute()


def _dask_persist(x: Any, client: Client) -> Any:
    (persisted,) = dask.persist(x)
    return persisted.compute()


def _client_persist(x: Any, client: Client) -> Any:
    return client.persist(x).compute()


def _dask_compute(x: Any, client: Client) -> Any:
    first, nested = dask.compute(x, {"again": [x]})
    assert_same(nested["again"][0], first)
    return first


def _not_default(x: Any, client: Client) -> Any:
    with Client(address_of(client), set_as_default=False) as other:
        return other.compute(other.persist(x)).result(timeout=30)


def _asynchronous(x: Any, client: Client) -> Any:
    async def run() -> Any:
        async with Client(address_of(client), asynchronous=True, set_as_default=False) as other:
            return await other.compute(other.persist(x))

    return asyncio.run(asyncio.wait_for(run(), 30))


def _in_a_thread(x: Any, client: Client) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(x.compute()))
    thread.start()
    thread.join()
    return results[0]


PATHS: dict[str, Way] = {
    "compute": lambda x, client: x.compute(),
    "persist": _persist,
    "dask.compute": _dask_compute,
    "dask.persist": _dask_persist,
    "Client.compute": lambda x, client: client.compute(x).result(timeout=30),
    "Client.compute of a list": lambda x, client: client.gather(client.compute([x]))[0],
    "Client.persist": _client_persist,
    "compute(scheduler=client)": lambda x, client: x.compute(scheduler=client),
    "a client that is not the default": _not_default,
    "an asynchronous client": _asynchronous,
    "a thread": _in_a_thread,
    "propagate_pools_in_collection": lambda x, _: propagate_pools_in_collection(x).compute(),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_from_one_pool_stays_there(
    client: Client, trace: Trace, kind: str, path: str
) -> None:
    """Every task after a load in A runs in A, on every path, and the values are right."""
    x = chain(kind, trace)
    wanted = x.compute(scheduler="synchronous")
    with clusters.record_executions(client) as ran, propagate_pools():
        got = PATHS[path](x, client)
    assert_same(got, wanted)
    assert pools_of(ran) == {"A"}
    assert trace.places == {"load": {"A"}, "step": {"A"}}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_pools_meet_where_the_larger_part_lies(
    client: Client, trace: Trace, kind: str, path: str
) -> None:
    """Pinned loads stay, the smaller result is shipped, and no task runs outside of the pools."""
    x = joint(kind, trace)
    wanted = x.compute(scheduler="synchronous")
    with clusters.record_executions(client) as ran, propagate_pools():
        got = PATHS[path](x, client)
    assert_same(got, wanted)
    assert pools_of(ran) == {"A", "B"}
    assert trace.places == {"large": {"A"}, "small": {"B"}, "join": {"A"}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_call_holds_until_it_is_undone(client: Client, trace: Trace, kind: str) -> None:
    """Called without a block, propagation is on from then on."""
    x = joint(kind, trace)
    with clusters.record_executions(client) as ran:
        on = propagate_pools()
        try:
            x.compute()
        finally:
            on.__exit__()
    assert pools_of(ran) == {"A", "B"}
    assert trace.places == {"large": {"A"}, "small": {"B"}, "join": {"A"}}


@pytest.mark.parametrize("amount", [0, 1])
@pytest.mark.parametrize("path", ["compute", "persist", "Client.compute"])
def test_pins_by_hand_count(client: Client, trace: Trace, path: str, amount: float) -> None:
    """Old code that annotates the resource itself pins as pool() does."""
    with dask.annotate(resources={"pool-A": amount}):
        x = array(trace, None, "load").rechunk(8)
        parts = delayeds(trace, None, "load")
    with clusters.record_executions(client) as ran, propagate_pools():
        assert_same(PATHS[path](noting(x, trace, "step"), client), VALUES)
        assert PATHS[path](delayed(trace.note("step"))(delayed(sum)(parts)), client) == 6
    assert pools_of(ran) == {"A"}
    assert trace.places == {"load": {"A"}, "step": {"A"}}


# --- several collections at once


@pytest.mark.parametrize(
    "at_once",
    [
        lambda xs: dask.compute(*xs),
        lambda xs: dask.compute(*dask.persist(*xs)),
    ],
    ids=["dask.compute", "dask.persist"],
)
def test_all_kinds_at_once(
    client: Client, trace: Trace, at_once: Callable[[list[Any]], tuple[Any, ...]]
) -> None:
    """Collections of every kind that are computed together each run in their pools."""
    xs = [joint(kind, trace) for kind in KINDS]
    wanted = dask.compute(*xs, scheduler="synchronous")
    with clusters.record_executions(client) as ran, propagate_pools():
        got = at_once(xs)
    for one, other in zip(got, wanted, strict=True):
        assert_same(one, other)
    assert pools_of(ran) == {"A", "B"}
    assert trace.places == {"large": {"A"}, "small": {"B"}, "join": {"A"}}


def shared_with_delayed(trace: Trace) -> list[Any]:
    """An array, and delayed objects made from its chunks."""
    shared = noting(array(trace, "A", "load"), trace, "shared")
    used = delayed(trace.note("b"))(array(trace, "B", "other", VALUES[0]).to_delayed().tolist())
    parts = delayed(trace.note("both"))([*shared.to_delayed().ravel().tolist(), used])
    return [shared.sum(), parts, shared + 1]


def shared_with_xarray(trace: Trace) -> list[Any]:
    """An array, and a labelled array of it."""
    shared = noting(array(trace, "A", "load"), trace, "shared")
    return [shared, xr.DataArray(shared).sum(), array(trace, "B", "other", VALUES[0])]


def shared_with_bag(trace: Trace) -> list[Any]:
    """Delayed objects, and a bag of them."""
    parts = delayeds(trace, "A", "load")
    listed = [delayed(lambda x: [x])(part) for part in parts]
    numbers = db.from_delayed(listed).map(trace.note("shared"))
    return [delayed(sum)(parts), numbers.sum(), bag(trace, "B", "other"), *parts]


@pytest.mark.parametrize("build", [shared_with_delayed, shared_with_xarray, shared_with_bag])
def test_a_task_that_kinds_share_has_one_pool(
    client: Client, trace: Trace, build: Callable[[Trace], list[Any]]
) -> None:
    """A task used by collections of two kinds is planned once and runs in one pool."""
    with propagate_pools():
        xs = build(trace)
        with clusters.record_executions(client) as ran:
            persisted = dask.persist(*xs)
            wait(persisted)
            asked = clusters.restrictions(client, *persisted)
            dask.compute(*persisted)
    assert pools_of(ran) == {"A", "B"}
    assert {len(resources) for resources in asked.values()} == {1}
    places = trace.places
    assert places["load"] == {"A"}
    assert places["other"] == {"B"}
    assert places["shared"] == {"A"}


# --- what travels


def test_the_client_may_have_seen_anything(client: Client, trace: Trace) -> None:
    """Dask's own registries, filled by what this process measured before, stay at home."""
    assert sizeof(np.sum) > 0  # its class cannot be unpickled
    x = chain("array", trace)
    with clusters.record_executions(client) as ran, propagate_pools():
        x.compute()
    assert pools_of(ran) == {"A"}


# --- persisted data


@pytest.mark.parametrize("kind", KINDS)
def test_consumers_of_persisted_data_stay_in_its_pool(
    client: Client, trace: Trace, kind: str
) -> None:
    """What is computed from persisted data in a later computation runs where the data lies."""
    with propagate_pools():
        persisted = chain(kind, trace).persist()
        wait(futures_of(persisted))
    with clusters.record_executions(client) as ran, propagate_pools():
        if kind == "bag":
            persisted.map(trace.note("later")).count().compute()
        elif kind == "delayed":
            delayed(trace.note("later"))(persisted).compute()
        elif kind == "dataset":
            noting(persisted["load"], trace, "later").sum().compute()
        else:
            noting(persisted, trace, "later").sum().compute()
    assert pools_of(ran) == {"A"}
    assert trace.places["later"] == {"A"}


def test_persisted_data_counts_like_a_pin(client: Client, trace: Trace) -> None:
    """Large persisted data of A and a small array of B meet in A."""
    with propagate_pools():
        large = array(trace, "A", "large").persist()
        wait(large)
        with clusters.record_executions(client) as ran:
            noting(large - array(trace, "B", "small", VALUES[0]), trace, "join").compute()
    assert pools_of(ran) == {"A", "B"}
    assert trace.places == {"large": {"A"}, "small": {"B"}, "join": {"A"}}


def test_persisted_by_another_client(client: Client, trace: Trace) -> None:
    """Consumers stay in the pool of data that a client which is not the default persisted."""
    with Client(address_of(client), set_as_default=False) as other, propagate_pools():
        persisted = other.persist(array(trace, "B", "load"))
        wait(persisted)
        with clusters.record_executions(client) as ran:
            other.compute(noting(persisted, trace, "later").sum()).result(timeout=30)
    assert pools_of(ran) == {"B"}
    assert trace.places == {"load": {"B"}, "later": {"B"}}


# --- writing, and other exits


def _store(x: da.Array, directory: Path) -> Any:
    zarr: Any = pytest.importorskip("zarr")
    target = zarr.create_array(directory / "x", shape=x.shape, chunks=(4, 4), dtype=float)
    da.store(x, target, lock=False)
    return target[:]


def _store_later(x: da.Array, directory: Path) -> Any:
    zarr: Any = pytest.importorskip("zarr")
    target = zarr.create_array(directory / "x", shape=x.shape, chunks=(4, 4), dtype=float)
    dask.compute(da.store(x, target, lock=False, compute=False))
    return target[:]


def _store_and_return(x: da.Array, directory: Path) -> Any:
    zarr: Any = pytest.importorskip("zarr")
    target = zarr.create_array(directory / "x", shape=x.shape, chunks=(4, 4), dtype=float)
    return da.store(x, target, lock=False, return_stored=True).compute()


def _to_zarr(x: da.Array, directory: Path) -> Any:
    zarr: Any = pytest.importorskip("zarr")
    x.to_zarr(str(directory / "x"))
    return zarr.open_array(directory / "x")[:]


def _dataset_to_zarr(x: da.Array, directory: Path) -> Any:
    xr.Dataset({"x": (("i", "j"), x)}).to_zarr(directory / "x", zarr_format=2)
    with xr.open_zarr(directory / "x", chunks=None) as found:
        return found.x.values


def _to_delayed(x: da.Array, directory: Path) -> Any:
    return np.block([list(dask.compute(*row)) for row in x.to_delayed()])


def _load(x: da.Array, directory: Path) -> Any:
    return xr.DataArray(x).load().values


def _load_dataset(x: da.Array, directory: Path) -> Any:
    return xr.Dataset({"x": (("i", "j"), x)}).load().x.values


def _asarray(x: da.Array, directory: Path) -> Any:
    return np.asarray(x)


@pytest.mark.parametrize(
    "exit_",
    [
        _store,
        _store_later,
        _store_and_return,
        _to_zarr,
        _dataset_to_zarr,
        _to_delayed,
        _load,
        _load_dataset,
        _asarray,
    ],
)
def test_arrays_that_leave(
    client: Client, trace: Trace, tmp_path: Path, exit_: Callable[[da.Array, Path], Any]
) -> None:
    """An array that is stored, loaded or turned into delayed objects is computed in its pools."""
    x = joint("array", trace)
    wanted = x.compute(scheduler="synchronous")
    with clusters.record_executions(client) as ran, propagate_pools():
        got = exit_(x, tmp_path)
    assert_same(got, wanted)
    assert pools_of(ran) == {"A", "B"}
    assert trace.places == {"large": {"A"}, "small": {"B"}, "join": {"A"}}


def test_bag_to_textfiles(client: Client, trace: Trace, tmp_path: Path) -> None:
    """A bag's files are written in its pool."""
    x = chain("bag", trace).map(str)
    with clusters.record_executions(client) as ran, propagate_pools():
        files = x.to_textfiles(str(tmp_path / "*.txt"))
    assert [Path(file).read_text() for file in files] == ["1", "2", "3", "4"]
    assert pools_of(ran) == {"A"}
    assert trace.places == {"load": {"A"}, "step": {"A"}}


def test_bag_to_delayed(client: Client, trace: Trace) -> None:
    """A bag's partitions, as delayed objects, are computed in its pool."""
    x = chain("bag", trace)
    with clusters.record_executions(client) as ran, propagate_pools():
        assert dask.compute(*x.to_delayed()) == ([1], [2], [3], [4])
    assert pools_of(ran) == {"A"}
    assert trace.places == {"load": {"A"}, "step": {"A"}}


def test_xarray_from_zarr(client: Client, trace: Trace, tmp_path: Path) -> None:
    """A store opened inside a pool is read in that pool only."""
    source = xr.Dataset({"x": (("i", "j"), da.from_array(VALUES, chunks=4))})
    with dask.config.set(scheduler="threads"):
        source.to_zarr(tmp_path / "x", zarr_format=2)
    with pool("B"), xr.open_zarr(tmp_path / "x") as opened:
        with clusters.record_executions(client) as ran, propagate_pools():
            total = float(noting(opened.x, trace, "step").sum())
    assert total == VALUES.sum()
    assert pools_of(ran) == {"B"}
    assert trace.places == {"step": {"B"}}


# --- collections as arguments of others


ARGUMENTS: dict[str, Callable[[Any, Any, Trace], Any]] = {
    "delayed(f)(array)": lambda x, _, trace: delayed(trace.note("step"))(x).sum(),
    "delayed(f)([array])": lambda x, _, trace: delayed(trace.note("step"))([x]),
    "delayed(f)(key=array)": lambda x, _, trace: delayed(dict)(key=x),
    "delayed(f)(bag)": lambda _, x, trace: delayed(trace.note("step"))(x),
    "delayed(f)({key: bag})": lambda _, x, trace: delayed(trace.note("step"))({"key": x}),
    "from_delayed(delayed(f)(array))": lambda x, _, trace: da.from_delayed(
        delayed(np.sum)(x), (), float
    ),
    "map_blocks(f, key=array)": lambda x, _, trace: da.ones(4, chunks=2).map_blocks(
        lambda one, key: one * key.sum(), key=x, dtype=float
    ),
    "Bag.map(f, key=array)": lambda x, _, trace: db.from_sequence(range(4)).map(
        lambda one, key: one * key.sum(), key=x
    ),
}


@pytest.mark.parametrize("form", ARGUMENTS)
def test_a_collection_keeps_its_pool_as_an_argument(
    client: Client, trace: Trace, form: str
) -> None:
    """A collection that is given to a function of another collection is loaded in its pool."""
    with propagate_pools():
        x = ARGUMENTS[form](array(trace, "A", "load"), bag(trace, "A", "load", n=8), trace)
        x.compute()
    assert trace.places["load"] == {"A"}


# --- each task by itself


def concatenated(trace: Trace) -> Any:
    """Halves of one array: two rows of chunks loaded in A, two in B."""
    half = VALUES[:8]
    both = da.concatenate([array(trace, "A", "a", half), array(trace, "B", "b", half)])
    return both.map_blocks(
        lambda x, a, b, block_id: a(x) if block_id[0] < 2 else b(x),
        trace.note("after a"),
        trace.note("after b"),
        dtype=float,
        meta=both._meta,
    )


@pytest.mark.parametrize(
    "end",
    [
        lambda x: wait(x.persist()),
        lambda x: x.sum(axis=1).compute(),
        lambda x: x.sum().compute(),
        lambda x: (x + 1).compute(),
        lambda x: x[:8].compute(),
    ],
    ids=["persist", "sum of rows", "sum", "compute", "compute one half"],
)
def test_concatenated_halves_stay_at_home(
    client: Client, trace: Trace, end: Callable[[da.Array], Any]
) -> None:
    """Pools are chosen task by task: the tasks after each half of a concatenation stay with it."""
    x = concatenated(trace)
    with clusters.record_executions(client) as ran, propagate_pools():
        end(x)
    assert pools_of(ran) <= {"A", "B"}
    places = trace.places
    assert places.pop("after a") == places.pop("a") == {"A"}
    assert all(where == {"B"} for where in places.values())


# --- pools around the computation


@pytest.mark.parametrize("inside", [True, False], ids=["pool inside", "pool outside"])
@pytest.mark.parametrize("kind", KINDS)
def test_pool_around_compute_pins_free_tasks(
    client: Client, trace: Trace, kind: str, inside: bool
) -> None:
    """`with pool("B"): x.compute()` runs in B whatever has no pool of its own."""
    x = {
        "array": lambda: noting(da.ones((16, 16), chunks=4), trace, "free"),
        "dataarray": lambda: xr.DataArray(noting(da.ones(16, chunks=4), trace, "free")),
        "dataset": lambda: xr.Dataset({"v": ("x", noting(da.ones(16, chunks=4), trace, "free"))}),
        "bag": lambda: db.from_sequence(range(4)).map(trace.note("free")),
        "delayed": lambda: delayed(trace.note("free"))(1),
    }[kind]()
    blocks = (
        (propagate_pools, lambda: pool("B")) if inside else (lambda: pool("B"), propagate_pools)
    )
    with clusters.record_executions(client) as ran:
        with blocks[0](), blocks[1]():
            x.compute()
    assert pools_of(ran) == {"B"}
    assert trace.places == {"free": {"B"}}


@pytest.mark.parametrize("kind", KINDS)
def test_pool_around_compute_leaves_pins(client: Client, trace: Trace, kind: str) -> None:
    """A pool around the computation does not move tasks that have one, but decides the others."""
    x = chain(kind, trace)
    with clusters.record_executions(client) as ran, propagate_pools(), pool("B"):
        x.compute()
    assert pools_of(ran) == {"A", "B"}
    assert trace.places == {"load": {"A"}, "step": {"B"}}


@pytest.mark.parametrize("around", ["A", None])
def test_blocked_tasks_get_no_pool(
    pool_cluster: clusters.PoolCluster, client: Client, trace: Trace, around: str | None
) -> None:
    """Tasks made under pool(None) have no pool, between pinned ones or with a pool around.

    ::

        first (A) → blocked, on the worker without a pool → last (A)
    """
    outside = pool_cluster.workers["none-0"].address
    first = array(trace, "A", "first")
    with pool(None), dask.annotate(workers=[outside]):
        blocked = noting(first, trace, "blocked")
    with pool("A"):
        last = noting(blocked, trace, "last")
    with propagate_pools(), pool(around):
        wait(persisted := last.persist(), timeout=30)
        persisted.compute()
    assert trace.places == {"first": {"A"}, "blocked": {None}, "last": {"A"}}


def test_blocked_tasks_ask_for_nothing(client: Client, trace: Trace) -> None:
    """On the scheduler, a task made under pool(None) has no restriction; its consumers neither."""
    with pool(None):
        x = db.from_sequence(range(4), npartitions=4).map(trace.note("blocked"))
    with propagate_pools():
        persisted = x.map(trace.note("free")).persist()
        wait(futures_of(persisted))
        assert set(map(len, clusters.restrictions(client, persisted).values())) == {0}
        with pool("A"):
            around = x.map(trace.note("around")).persist()
            wait(futures_of(around))
        asked = clusters.restrictions(client, around)
    assert trace.places["around"] == {"A"}
    assert {"pool-A": 0} in asked.values()


# --- local schedulers


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize("kind", KINDS)
def test_local_schedulers_have_no_pools(
    client: Client, trace: Trace, kind: str, scheduler: str
) -> None:
    """With a client at hand and a pool that no worker offers, local results are the same."""
    with pool("nowhere"):
        x = {
            "array": lambda: da.from_array(VALUES, chunks=4),
            "dataarray": lambda: xr.DataArray(da.from_array(VALUES, chunks=4)),
            "dataset": lambda: xr.Dataset({"x": (("x", "y"), da.from_array(VALUES, chunks=4))}),
            "bag": lambda: db.from_sequence(range(4)).map(float),
            "delayed": lambda: delayed(float)(3),
        }[kind]()
    x = x.map(abs) if kind == "bag" else x + 1
    wanted = x.compute(scheduler=scheduler)
    with clusters.record_executions(client) as ran, propagate_pools():
        assert_same(x.compute(scheduler=scheduler), wanted)
        with dask.config.set(scheduler=scheduler):
            (persisted,) = dask.persist(x)
            assert_same(persisted.compute(), wanted)
            with pool("B"):
                assert_same(x.compute(), wanted)
    assert ran.pools_of == {}


def test_local_schedulers_without_a_client() -> None:
    """In a process that never had a client, the default schedulers give the same results."""
    code = """if True:
        import dask, dask.array as da, dask.bag as db
        from dask_worker_pools import pool, propagate_pools
        with pool("A"):
            a, b, d = da.ones(4, chunks=2), db.from_sequence([1, 2]), dask.delayed(int)(5)
        with propagate_pools(), dask.config.set(scheduler="threads"):
            assert dask.compute((a + 1).sum(), b.sum(), d + 1) == (8, 3, 6)
        with propagate_pools():
            assert ((a + 1).sum().compute(), (d + 1).compute()) == (8, 6)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_restricted_to_workers_of_another_pool(client: Client, trace: Trace) -> None:
    """Tasks that may run on one worker only run there, after loads that run in their pool."""
    (worker,) = [w for w, name in names_of(client).items() if name == "B-0"]
    x = array(trace, "A", "load")
    with dask.annotate(workers=[worker]):
        total = noting(x, trace, "step").sum()
    with propagate_pools():
        total.compute()
    assert trace.places == {"load": {"A"}, "step": {"B"}}


def test_restricted_to_workers_outside_its_pool(client: Client, trace: Trace) -> None:
    """A pin and workers that contradict it are an error, not a task that waits for ever."""
    (worker,) = [w for w, name in names_of(client).items() if name == "none-0"]
    with dask.annotate(workers=[worker]):
        x = array(trace, "A", "load")
    with propagate_pools(), pytest.raises(WorkersOutsidePool, match="pinned to pool 'A'"):
        x.compute()
    assert not clusters.stuck(client)


def names_of(client: Client) -> dict[str, str]:
    """Names of the workers, by address."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return {address: str(worker["name"]) for address, worker in workers.items()}


def test_written_by_a_function_that_optimizes_itself(
    client: Client, trace: Trace, tmp_path: Path
) -> None:
    """`to_npy_stack`, which runs the optimisation by itself, writes in the pool of its data."""
    x = noting(array(trace, "A", "load"), trace, "step")
    wanted = x.compute(scheduler="synchronous")
    with propagate_pools():
        da.to_npy_stack(tmp_path / "stack", x)
    assert trace.places == {"load": {"A"}, "step": {"A"}}
    np.testing.assert_array_equal(da.from_npy_stack(tmp_path / "stack").compute(), wanted)
