"""What can be told to the choice of pools: load, link costs, declared sizes, several pools."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import pytest
from dask import delayed
from dask.core import flatten
from tracing import run_with_pools, source, traced

from dask_worker_pools import UnknownPools, plan_pools, pool, propagate_pools
from dask_worker_pools.options import Options


def equal_halves(n_chunks: int = 100) -> Any:
    """The sum of two arrays of one size, in two pools: where each block is made does not matter."""
    with pool("A"):
        a = da.ones((n_chunks * 10,), chunks=10, name="in-a")
    with pool("B"):
        b = da.ones((n_chunks * 10,), chunks=10, name="in-b")
    return a + b


def shares(x: Any, **options: Any) -> Counter[str | None]:
    """How many of the output's blocks each pool makes."""
    plan = plan_pools(x, **options)
    return Counter(plan.pools[key] for key in x.__dask_keys__())


def test_equal_choices_are_shared_out() -> None:
    """Blocks that may be made in either of two pools at the same cost alternate between them."""
    assert shares(equal_halves()) == {"A": 50, "B": 50}


def test_pieces_of_chunks_are_shared_out() -> None:
    """Where chunks have to be cut up, half of the pieces go each way, and no more is sent."""
    with pool("A"):
        a = da.ones((80, 80), chunks=20, name="in-a")
    with pool("B"):
        b = da.ones((80, 80), chunks=20, name="in-b")
    shifted = a[1:, 1:] - b[:-1, :-1]
    least = plan_pools(shifted, balance=0).total_bytes
    links = plan_pools(shifted).bytes_by_link
    assert sum(links.values()) <= 1.01 * least
    assert min(links["A", "B"], links["B", "A"]) > 0.4 * least


def test_shares_follow_the_number_of_workers() -> None:
    """With 2 workers against 100, nearly all blocks are made by the 100."""
    found = shares(equal_halves(), capacity={"A": 2, "B": 100})
    assert found["B"] >= 95


def test_balance_costs_at_most_its_share_of_traffic() -> None:
    """The balanced plan moves at most 1 % more bytes than the least."""
    x = equal_halves() - da.ones((1000,), chunks=10, dtype="f4")
    least = plan_pools(x, balance=0).total_bytes
    assert 0 < plan_pools(x).total_bytes <= 1.01 * least


def test_balance_can_be_turned_off() -> None:
    """With ``balance=0`` nothing is shared out: all blocks go the same way."""
    assert len(shares(equal_halves(), balance=0)) == 1


def test_dear_links_are_avoided() -> None:
    """What costs more to send than to fetch is not sent, though it is smaller."""
    with pool("eu"):
        a = source("a", (8,))
    with pool("us"):
        b = source("b", (4,))
    x = traced("x", a.rechunk(8), b.rechunk(4).sum())
    where = {"us": 4 * 8, "eu": 8 * 8}  # bytes that would be sent there
    assert shares(x) == {"eu": 1}, where
    assert shares(x, link_cost={("us", "eu"): 100, ("eu", "us"): 0.01}) == {"us": 1}
    assert shares(x, link_cost=lambda source, target: 100 if target == "eu" else 0.01) == {"us": 1}


def test_link_costs_of_unknown_pools_are_refused() -> None:
    """A pool that does not exist in a link's cost is an error with those that do."""
    with pytest.raises(UnknownPools, match="do not exist: 'uk'. There are: 'A', 'B'") as caught:
        plan_pools(equal_halves(1), link_cost={("uk", "A"): 2})
    assert pickle.loads(pickle.dumps(caught.value)).unknown == ("uk",)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"balance": -1}, ValueError, "balance=-1 is no fraction"),
        ({"balance": "1%"}, ValueError, "balance='1%' is no fraction"),
        ({"link_cost": 3}, TypeError, "mapping of .source, target.*got 3"),
        ({"link_cost": {"A": 3}}, TypeError, "two names of pools; got 'A'"),
        ({"link_cost": {("A", "B"): -3}}, ValueError, "= -3 is no cost"),
        ({"link_cost": {("A", "B"): float("nan")}}, ValueError, "= nan is no cost"),
    ],
)
def test_bad_options_are_refused_at_once(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """An option that makes no sense is refused where it is said, and nothing is turned on."""
    for where in (Options, propagate_pools):
        with pytest.raises(error, match=message):
            where(**options)
    assert "array_optimize" not in dask.config.config


def test_declared_sizes_decide() -> None:
    """A bag's partitions, of unknown size, count as declared: the small side is sent."""

    def joined(first: str, second: str) -> Any:
        with pool("A", nbytes=first):
            a = db.from_sequence(range(4), npartitions=1).map(str)
        with pool("B", nbytes=second):
            b = db.from_sequence(range(5), npartitions=1).map(str)
        return db.zip(a, b)

    assert set(shares(joined("1 GiB", "1 kiB"))) == {"A"}
    assert set(shares(joined("1 kiB", "1 GiB"))) == {"B"}


def test_declared_sizes_do_not_hinder_fusion() -> None:
    """The declaration is read and goes: tasks are fused as without it."""
    with pool("A", nbytes="1 MiB"):
        declared = source("declared")
    with pool("A"):
        plain = source("plain")
    assert run_with_pools(declared + 1).n_tasks == run_with_pools(plain + 1).n_tasks
    assert all("nbytes" not in said for said in run_with_pools(declared + 1).annotations.values())


def test_declared_sizes_outlive_being_built_into_another_collection() -> None:
    """Sizes of delayed objects count where a list of them was given to another inside the block."""
    with propagate_pools():
        with pool("A", nbytes="1 GiB"):
            large = delayed(str)(1)
        with pool("B", nbytes="1 kiB"):
            small = delayed(str)(2)
        joined = delayed(list)([large, small])
    plan = plan_pools(joined)
    assert plan.pools[joined.key] == "A"
    assert plan.total_bytes == 1024


def test_any_of_several_pools() -> None:
    """A task that may run in A or B runs where its consumers are, and never in C."""
    with pool("A", "B"):
        either = source("either", (8,), 8)
    with pool("B"):
        b = source("b", (8,), 8)
    with pool("C"):
        c = source("c", (8,), 8)
    for together, allowed in (([either, b], {"B"}), ([either, c, c + 1], {"A", "B"})):
        pools = plan_pools(traced("x", *together)).pools
        assert {pools[key] for key in flatten(either.__dask_keys__())} <= allowed
