"""Fixtures for tests on a real cluster, one cluster per module."""

from __future__ import annotations

from collections.abc import Iterator

import clusters
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


@pytest.fixture
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no task waits on the scheduler."""
    yield
    if "client" in request.fixturenames:
        client: Client = request.getfixturevalue("client")
        clusters.wait_until(lambda: not clusters.stuck(client))
