"""Options hold for what is inside: inner blocks, plans and drawings; costs fail nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clusters
import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask import delayed
from distributed import Client
from tracing import run_with_pools, source, traced

from dask_worker_pools import (
    InvalidValue,
    PoolError,
    UnknownPools,
    get_pool,
    plan_pools,
    pool,
    propagate_pools,
    propagate_pools_in_collection,
    visualize_pools,
)
from dask_worker_pools.options import Options
from dask_worker_pools.propagate import current_options

#: What a byte costs between two pools of three, of which A alone is in most of these graphs.
COSTS = {("A", "B"): 0.02, ("B", "C"): 0.09, ("C", "A"): 3.0}


def in_pool(name: str, build: Callable[[], Any]) -> Any:
    """What is built in a pool."""
    with pool(name):
        return build()


def numbers(name: str = "A") -> Any:
    """An array in a pool."""
    return in_pool(name, lambda: da.ones(4, chunks=2, name=f"ones-in-{name}"))


BUILDING: dict[str, Callable[[], Any]] = {
    "array": lambda: numbers().sum().compute(),
    "unpinned": lambda: da.ones(4, chunks=2).sum().compute(),
    "delayed of an array": lambda: delayed(np.sum)(numbers()).compute(),
    "delayed of an unpinned array": lambda: delayed(np.sum)(da.ones(4)).compute(),
    "to_delayed": lambda: sum(np.sum(one) for one in dask.compute(*numbers().to_delayed())),
    "optimize": lambda: dask.optimize(numbers())[0].sum().compute(),
    "persist": lambda: numbers().persist().sum().compute(),
    "bag": lambda: in_pool("A", lambda: db.from_sequence([1, 3], npartitions=2)).sum().compute(),
    "delayed": lambda: in_pool("A", lambda: delayed(sum)([1, 3])).compute(),
    "written": lambda: propagate_pools_in_collection(numbers() + 0).sum().compute(),
    "boolean": lambda: (x := numbers())[x > 0].sum().compute(),
}


@pytest.mark.parametrize("case", BUILDING)
def test_costs_where_there_is_no_cluster(case: str) -> None:
    """Costs of links of pools that are not in a graph fail nothing that stays in this process."""
    with propagate_pools(link_cost=COSTS), dask.config.set(scheduler="sync"):
        assert BUILDING[case]() == 4
        assert plan_pools(numbers() + 1).total_bytes == 0


@pytest.mark.parametrize("case", BUILDING)
def test_costs_on_a_cluster(client: Client, case: str) -> None:
    """On a cluster that has all pools of the costs, a graph need not have them."""
    costs = {("A", "B"): 0.02, ("B", "A"): 0.09}
    with propagate_pools(link_cost=costs):
        assert BUILDING[case]() == 4


def test_costs_of_pools_that_the_cluster_has_not(client: Client) -> None:
    """Costs of a pool that is not on the cluster are an error where it is asked, and whole."""
    with propagate_pools(link_cost=COSTS), pytest.raises(UnknownPools) as caught:
        numbers().sum().compute()
    assert isinstance(caught.value, PoolError)
    assert (caught.value.option, caught.value.unknown) == ("link_cost", ("C",))
    assert caught.value.known == ("A", "B")
    assert not clusters.stuck(client)


@pytest.mark.parametrize("missing", ["warn", "wait"])
def test_costs_of_pools_that_may_come(client: Client, missing: Any) -> None:
    """Where tasks may wait for pools, so may their costs."""
    with propagate_pools(link_cost=COSTS, missing=missing):
        assert numbers().sum().compute() == 4


@pytest.mark.parametrize("returned", [None, "1", -1, float("nan")])
def test_a_function_of_links_that_fails_on_the_scheduler(client: Client, returned: Any) -> None:
    """What a function of links should not return comes back as the error that says so."""
    with (
        propagate_pools(link_cost=lambda source, target: returned),
        pytest.raises(InvalidValue, match="link_cost.*must return a number") as caught,
    ):
        (numbers() + numbers("B")).sum().compute()
    assert caught.value.argument == "link_cost"
    assert (
        caught.value.value is returned
        or caught.value.value != caught.value.value
        or (caught.value.value == returned)
    )
    assert not clusters.stuck(client)


def test_an_inner_block_inherits() -> None:
    """An inner `propagate_pools` has the options of the outer one, but for those that it says."""
    with propagate_pools(missing="wait", balance=0.5, link_cost=COSTS):
        with propagate_pools() as inner:
            assert inner.options == current_options() == Options("wait", 0.5, COSTS)
        with propagate_pools(balance=0):
            assert current_options() == Options("wait", 0, COSTS)
            with propagate_pools(link_cost=None, missing="error"):
                assert current_options() == Options("error", 0, None)
        assert current_options() == Options("wait", 0.5, COSTS)
    assert current_options() == Options()


def test_a_block_entered_again_inherits_anew() -> None:
    """What is entered again inherits from what is around it then."""
    again = propagate_pools(balance=0)
    with again:
        assert again.options == Options(balance=0)
    with propagate_pools(missing="wait"), again:
        assert again.options == Options("wait", 0)


def test_a_call_for_the_session_is_around_all_that_follows() -> None:
    """A plain call is the outer one of later blocks, also in other threads."""
    found: list[Options] = []

    def inner() -> None:
        with propagate_pools(balance=0):
            found.append(current_options())

    session = propagate_pools(missing="wait")
    try:
        thread = threading.Thread(target=inner)
        thread.start()
        thread.join()
    finally:
        session.__exit__()
    assert found == [Options("wait", 0)]


def dear() -> Any:
    """A sum of two arrays that is made in B, unless the link there is dear."""
    a, b = in_pool("A", lambda: source("a", (4,))), in_pool("B", lambda: source("b", (8,)))
    return traced("x", a.sum(), b.rechunk(8))


def test_plans_have_the_options_that_are_on(tmp_path: Path) -> None:
    """Plans, drawings and written pools follow the options that are on."""
    costs = {("A", "B"): 1000.0}
    x = dear()

    def where() -> set[str | None]:
        plan = plan_pools(x)
        visualize_pools(x, filename=tmp_path / "on.dot")
        visualize_pools(plan, filename=tmp_path / "plan.dot")
        assert (tmp_path / "on.dot").read_text() == (tmp_path / "plan.dot").read_text()
        found = {plan.pools[key] for key in x.__dask_keys__()}
        assert get_pool(propagate_pools_in_collection(x)) == next(iter(found))
        assert run_with_pools(x).pools_of("x") == {(next(iter(found)),)}
        return found

    assert where() == {"B"}
    with propagate_pools(link_cost=costs):
        assert where() == {"A"}
        assert {plan_pools(x, link_cost=None).pools[k] for k in x.__dask_keys__()} == {"B"}
    assert {plan_pools(x, link_cost=costs).pools[k] for k in x.__dask_keys__()} == {"A"}


def test_drawings_have_options_of_their_own(tmp_path: Path) -> None:
    """Options that are given to a drawing are those of a plan, and no attributes of the graph."""
    x = dear()
    costs = {("A", "B"): 1000.0}
    visualize_pools(
        x,
        filename=tmp_path / "own.dot",
        balance=0,
        link_cost=costs,
        capacity={"A": 3},
        rankdir="BT",
    )
    plan = plan_pools(x, balance=0, link_cost=costs, capacity={"A": 3})
    visualize_pools(plan, filename=tmp_path / "plan.dot", rankdir="BT")
    text = (tmp_path / "own.dot").read_text()
    assert text == (tmp_path / "plan.dot").read_text()
    assert "rankdir=BT" in text
    assert "balance" not in text
