"""Data in memory: where it is, how large it is, and what follows from its true size."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
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
from dask.utils import key_split
from distributed import Client, futures_of, wait

from dask_worker_pools import get_pool, measure_transfers, plan_pools, pool, propagate_pools
from dask_worker_pools.visualize import draw

MiB = 2**20

pytestmark = pytest.mark.usefixtures("nothing_left")


def persisted(name: str, make: Callable[[], Any]) -> Any:
    """A collection of a pool, in memory."""
    with propagate_pools():
        with pool(name):
            x = make()
        (kept,) = dask.persist(x)
        wait(kept)
    return kept


def blob(mebibytes: float) -> Any:
    """A delayed object of unknown size; it turns out to have so many MiB."""

    def make(n: int) -> Any:
        return np.zeros(n, "u1")

    return delayed(make, pure=False)(int(mebibytes * MiB))


def filtered(n: int) -> Any:
    """An array of unknown chunks, four of them; each turns out to have `n` numbers."""
    x = da.arange(8 * n, chunks=2 * n, dtype=float)
    return x[x % 2 == 0]


def crossed(measured: Any) -> float:
    """Bytes that went from one pool to another."""
    links = measured.bytes_by_link.items()
    return float(sum(n for (source, target), n in links if source != target))


# --- sizes that decide


def using() -> Callable[..., float]:
    """A step that needs all of its arguments; nested, it travels by value."""

    def use(*values: Any) -> float:
        return sum(float(value.sum()) for value in values)

    return use


def test_of_pairs_the_smaller_one_is_sent(client: Client) -> None:
    """Of persisted delayed objects of 8 and 1 MiB, the small one goes to the large one."""
    large = persisted("A", lambda: [blob(8) for _ in range(3)])
    small = persisted("B", lambda: [blob(1) for _ in range(3)])
    with propagate_pools(), measure_transfers(client) as measured:
        steps = [delayed(using(), pure=False)(*pair) for pair in zip(large, small, strict=True)]
        kept = dask.persist(*steps)
        asked = clusters.restrictions(client, *kept)
        wait(kept)
    assert {pools for key, own in asked.items() if "use" in str(key) for pools in own} == {"pool-A"}
    assert crossed(measured) < 4 * MiB
    assert plan_pools(*steps).total_bytes < 4 * MiB


@pytest.mark.parametrize(
    "step",
    [
        lambda x, y: da.concatenate([x, y]).sum(),
        lambda x, y: (da.concatenate([x + 1, -y]) * 2).sum(),
        lambda x, y: delayed(using())(delayed(np.sort)(x), y),
        lambda x, y: delayed(using())(x.to_delayed()[0], y.to_delayed()[0], y.to_delayed()[1]),
    ],
    ids=["concatenate", "elementwise", "delayed", "parts"],
)
def test_arrays_of_unknown_chunks(client: Client, step: Callable[[Any, Any], Any]) -> None:
    """Persisted arrays of unknown chunks count what they turned out to have."""
    large, small = (
        persisted("A", lambda: filtered(100_000)),
        persisted("B", lambda: filtered(1000)),
    )
    with propagate_pools():
        plan = plan_pools(step(large, small))
    assert 0 < plan.total_bytes <= 4 * 8000 + 200
    assert None not in {transfer.nbytes for transfer in plan.transfers}


@pytest.mark.parametrize("shape", [(1000,), (1000, 3)], ids=["one axis", "two axes"])
def test_what_is_derived_from_true_sizes(client: Client, shape: tuple[int, ...]) -> None:
    """Elementwise steps and reductions of filtered data are told from its true size."""

    def make() -> Any:
        x = da.ones(shape, chunks=(500, *shape[1:])) * 2
        return x[da.arange(1000, chunks=500) % 4 == 0]

    kept = persisted("A", make)
    plan = plan_pools(kept * 2 + 1, (kept - 1).sum())
    blocks = 250 * 8 * int(np.prod(shape[1:])) / 2
    elementwise = [n for key, n in plan.sizes.items() if key_split(key) in ("add", "sub")]
    assert elementwise == [blocks] * 4
    assert not any("unknown" in source for source in plan.sources.values())


def test_the_pass_counts_them_too(client: Client) -> None:
    """What is computed goes where the plan said."""
    large, small = (
        persisted("A", lambda: filtered(100_000)),
        persisted("B", lambda: filtered(1000)),
    )
    with propagate_pools(), measure_transfers(client) as measured:
        step = delayed(using(), pure=False)(delayed(np.sort)(large), small)
        assert step.compute() > 0
    assert crossed(measured) < MiB


# --- where it is, and how large

MADE: dict[str, tuple[Callable[[], Any], float]] = {
    "array": (lambda: da.random.random(1000, chunks=500), 8000),
    "masked": (lambda: filtered(250), 8000),
    "delayed": (lambda: blob(1), MiB),
    "bag": (lambda: db.from_sequence([f"{n}-{uuid4().hex}" for n in range(8)], npartitions=2), 300),
    "frame": (
        lambda: dd.from_pandas(
            pd.DataFrame({"x": np.random.default_rng().random(1000)}), npartitions=2
        ),
        8000,
    ),
}


@pytest.mark.parametrize("kind", MADE)
def test_where_it_is(client: Client, kind: str) -> None:
    """The pool of persisted data is told by its client."""
    kept = persisted("B", MADE[kind][0])
    clusters.wait_until(lambda: get_pool(kept) == "B")  # copies of an earlier test may still go


@pytest.mark.parametrize("kind", ["array", "masked", "delayed", "bag"])
def test_a_plan_says_where_and_how_large(client: Client, kind: str) -> None:
    """A plan of persisted data has its pool and its bytes, in text, HTML, JSON and drawing."""
    make, nbytes = MADE[kind]
    kept = persisted("B", make)
    following = {
        "array": lambda x: x + 1,
        "masked": lambda x: x + 1,
        "delayed": lambda x: delayed(using())(x),
        "bag": lambda x: x.map(len),
    }[kind]
    plan = plan_pools(following(kept))
    assert set(plan.pools.values()) == {"B"}
    assert {plan.place_of(key) for key in plan.in_memory} == {"B"}
    assert nbytes <= sum(plan.sizes[key] for key in plan.in_memory) < 2 * nbytes + 1000
    assert "B (in memory, measured)" in repr(plan)
    assert "B (in memory, measured)" in plan._repr_html_()
    held = json.loads(json.dumps(plan.to_dict()))["in_memory"].values()
    assert {one["pool"] for one in held} == {"B"}
    assert all(one["nbytes"] > 0 for one in held)
    for source in (draw(plan).source, draw(plan, level="task").source):
        assert "in memory" in source
        assert "in B" in source


def test_data_of_two_pools(client: Client) -> None:
    """Data of two pools has none as a whole; each part has its own in the plan."""
    both = da.concatenate(
        [
            persisted("A", lambda: da.random.random(4, chunks=2)),
            persisted("B", lambda: da.random.random(4, chunks=2)),
        ]
    )
    with propagate_pools():
        kept = both.persist()
        wait(kept)
    assert get_pool(kept) is None
    plan = plan_pools(kept + 1)
    assert sorted(str(where) for where in plan.pools.values()) == ["A", "A", "B", "B"]
    assert plan.total_bytes == 0


def test_data_of_no_pool(client: Client) -> None:
    """Data that lies on a worker of no pool has none; its size is known all the same."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    (free,) = [worker["name"] for worker in workers if not worker["resources"]]
    with dask.annotate(workers=[free]):
        kept = delayed(np.zeros, pure=False)(1000).persist(optimize_graph=False)
    wait(kept)
    assert get_pool(kept) is None
    with pool("A"):
        plan = plan_pools(delayed(using())(kept))
    (key,) = plan.in_memory
    assert plan.place_of(key) is None
    assert plan.sizes[key] >= 8000


def test_an_asynchronous_client_is_not_asked(pool_cluster: clusters.PoolCluster) -> None:
    """Where asking would mean to wait, what is known without is told."""

    async def run() -> tuple[Any, str | None]:
        async with Client(pool_cluster.address, asynchronous=True, set_as_default=False) as client:
            with propagate_pools():
                with pool("A"):
                    x = da.ones(4, chunks=2, name=f"x-{uuid4().hex}")
                kept = client.persist(x)
                await asyncio.gather(*futures_of(kept))
                return plan_pools(kept + 1), get_pool(kept)

    plan, where = asyncio.run(run())
    assert where is None
    assert set(plan.pools.values()) == {None}
    assert ["x", "in", "memory", "unknown"] in [line.split() for line in repr(plan).split("\n")]


def test_a_closed_client_is_not_asked(pool_cluster: clusters.PoolCluster) -> None:
    """Data of a client that was closed is planned as before: its place is not known."""
    with Client(pool_cluster.address, set_as_default=False) as client, propagate_pools():
        with pool("A"):
            x = da.ones(4, chunks=2, name=f"x-{uuid4().hex}")
        kept = client.persist(x)
        wait(kept)
        assert get_pool(kept) == "A"
    assert get_pool(kept) is None
    assert set(plan_pools(kept + 1).pools.values()) == {None}
