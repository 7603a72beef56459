"""Bags are grouped inside of `propagate_pools` as outside of it, though not by the same method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import clusters
import dask
import dask.bag as db
import pytest
from distributed import Client

from dask_worker_pools import pool, propagate_pools


def grouped(bag: Any) -> list[Any]:
    """Groups of a bag, in an order of their own."""
    groups = bag.compute(scheduler="sync")
    return sorted((key, sorted(row["v"] for row in rows)) for key, rows in groups)


@pytest.mark.parametrize(
    "group",
    [
        lambda bag: bag.groupby("k"),
        lambda bag: bag.groupby(lambda row: row["k"]),
        lambda bag: bag.groupby("k", npartitions=1),
        lambda bag: bag.groupby(lambda row: row["k"], npartitions=2),
        lambda bag: bag.groupby(lambda row: row["k"], shuffle="tasks"),
        lambda bag: bag.groupby("k", shuffle="disk"),
    ],
)
def test_bags_are_grouped_as_by_dask(group: Callable[[Any], Any]) -> None:
    """With a local scheduler, a bag is grouped by the method that Dask takes, with its options."""
    rows = [{"k": i % 3, "v": i} for i in range(12)]
    expected = group(db.from_sequence(rows, npartitions=4))
    with propagate_pools():
        with pool("A"):
            bag = db.from_sequence(rows, npartitions=4)
        found = group(bag)
        assert found.npartitions == expected.npartitions
        assert grouped(found) == grouped(expected)
        with propagate_pools():
            assert group(bag).npartitions == expected.npartitions


@pytest.mark.parametrize("configured", ["disk", "tasks", "p2p"])
def test_the_configured_method_holds(configured: str) -> None:
    """A method of shuffling that was configured outside is the one that bags are grouped by."""
    bag = db.from_sequence(range(12), npartitions=4)
    with dask.config.set({"dataframe.shuffle.method": configured}):
        expected = bag.groupby(lambda n: n % 3, npartitions=2).npartitions
        with propagate_pools():
            assert bag.groupby(lambda n: n % 3, npartitions=2).npartitions == expected


def test_bags_on_a_cluster_are_grouped_in_their_pool() -> None:
    """With a cluster the groups of a bag are made in its pool."""
    with (
        clusters.start({"A": 1, "B": 1}) as cluster,
        Client(cluster.address) as client,
        clusters.record_executions(client) as ran,
        propagate_pools(),
    ):
        with pool("B"):
            bag = db.from_sequence(range(40), npartitions=4)
        groups = dict(bag.groupby(lambda n: n % 3).compute())
    assert sorted(groups) == [0, 1, 2]
    assert set().union(*ran.pools_of.values()) == {"B"}
