"""Fixtures: a real cluster, one a module, and tables of dataframes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import clusters
import dask
import pytest
from distributed import Client


@pytest.fixture(scope="module")
def pool_cluster() -> Iterator[clusters.PoolCluster]:
    """Two workers in pool A, two in pool B, one in no pool; one thread each."""
    with clusters.start({"A": 2, "B": 2, None: 1}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(pool_cluster: clusters.PoolCluster) -> Iterator[Client]:
    """A client of `pool_cluster`, and the default one."""
    with Client(pool_cluster.address) as client:
        yield client


@pytest.fixture(scope="module")
def by_tasks() -> Iterator[None]:
    """Shuffle by tasks, as inside `propagate_pools`, and compute here."""
    with dask.config.set({"dataframe.shuffle.method": "tasks", "scheduler": "sync"}):
        yield


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Orders and customers as parquet files (`frame_queries`)."""
    from frame_queries import write_tables  # it imports dask.dataframe, which most can do without

    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no task waits on the scheduler."""
    yield
    if "client" in request.fixturenames:
        client: Client = request.getfixturevalue("client")
        clusters.wait_until(lambda: not clusters.stuck(client))
