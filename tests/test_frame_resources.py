"""Counted resources on frames: kept if said of a computation, warned about elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import clusters
import dask
import dask.dataframe as dd
import pandas as pd
import pytest
from distributed import Client

from dask_worker_pools import LocalPoolCluster, pool, propagate_pools

VALUES = pd.DataFrame({"x": range(8)})
GPU = {"GPU": 1.0}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client of a cluster whose only pool has two GPUs."""
    with (
        LocalPoolCluster(
            {"A": 1}, resources={"A": {"GPU": 2}}, processes=False, dashboard_address=None
        ) as cluster,
        cluster.get_client() as client,
    ):
        yield client


def frame(name: str | None, shift: int) -> Any:
    """A frame in a pool, or in none."""
    if name is None:
        return dd.from_pandas(VALUES + shift, npartitions=2) + 1
    with pool(name):
        return dd.from_pandas(VALUES + shift, npartitions=2) + 1


def around(frame: Any, client: Client) -> Any:
    """Resources that are said around the call."""
    with dask.annotate(resources=GPU):
        return client.persist(frame)


WAYS: list[Callable[[Any, Client], Any]] = [
    lambda frame, client: client.persist(frame, resources=GPU),
    lambda frame, client: frame.persist(resources=GPU),
    lambda frame, client: dask.persist(frame, resources=GPU)[0],
    lambda frame, client: client.compute(frame, resources=GPU),
    around,
]


@pytest.mark.filterwarnings("ignore:Dask annotations")  # of frames in no pool, as without us
@pytest.mark.parametrize("name", ["A", None])
@pytest.mark.parametrize("way", WAYS)
def test_kept(client: Client, way: Callable[[Any, Client], Any], name: str | None) -> None:
    """What is said of a computation holds for all of its tasks, besides their pool."""
    made = frame(name, shift=10 * WAYS.index(way) + (name is None))
    with propagate_pools():
        asked = clusters.restrictions(client, way(made, client))
    expected = GPU | ({"pool-A": 0} if name else {})
    assert all(one == expected for one in asked.values()), asked


@pytest.mark.parametrize("said", [{"workers": ["A-0"]}, {"priority": 3}, {"retries": 2}])
def test_other_options(client: Client, said: dict[str, Any]) -> None:
    """Other options of a call leave tasks in their pool."""
    with propagate_pools():
        kept = client.persist(frame("A", shift=100 + len(str(said))), **said)
        asked = clusters.restrictions(client, kept)
        assert len(kept.compute()) == len(VALUES)
    assert all(one == {"pool-A": 0} for one in asked.values()), asked


@pytest.mark.parametrize(
    "said", [{"resources": GPU}, {"priority": 3, "retries": 2}, {"workers": ["A-0"]}]
)
@pytest.mark.parametrize("pool_first", [True, False])
def test_forgotten(said: dict[str, Any], pool_first: bool) -> None:
    """What is said while a frame in a pool is built is forgotten, each time with a warning."""
    blocks: list[Callable[[], Any]] = [lambda: pool("A"), lambda: dask.annotate(**said)]
    outer, inner = blocks if pool_first else blocks[::-1]
    for _ in range(2):
        with pytest.warns(UserWarning, match="are forgotten") as warned, outer(), inner():
            dd.from_pandas(VALUES, npartitions=2)
        assert str(next(iter(said))) in str(warned[0].message)


@pytest.mark.filterwarnings("error")
def test_pools_are_not_forgotten() -> None:
    """A pool alone is kept, and nothing is said."""
    with pool("A"), dask.annotate(resources={"pool-A": 1}):
        dd.from_pandas(VALUES, npartitions=2).x.sum()
