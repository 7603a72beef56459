"""Whoever forgets `propagate_pools` is told so, once a computation, where it matters."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import pandas as pd
import pytest
import xarray as xr
from dask import delayed
from distributed import Client, wait

from dask_worker_pools import (
    PoolsIgnored,
    get_pool,
    plan_pools,
    pool,
    propagate_pools,
    visualize_pools,
)

TABLE = pd.DataFrame({"x": [3, 1, 2, 4], "y": [1.0, 2.0, 3.0, 4.0]})

KINDS: dict[str, Callable[[], Any]] = {
    "array": lambda: da.ones(4, chunks=2),
    "bag": lambda: db.from_sequence([1, 2], npartitions=2),
    "delayed": lambda: delayed(str)("x"),
    "delayed on a list": lambda: delayed(list)([delayed(str)(1), delayed(str)(2)]),
    "frame": lambda: dd.from_pandas(TABLE, npartitions=2),
    "xarray": lambda: xr.DataArray(da.ones(4, chunks=2), dims="x"),
    "dataset": lambda: xr.Dataset({"x": ("t", da.ones(4, chunks=2)), "y": ("t", [1, 2, 3, 4])}),
}

PATHS: dict[str, Callable[[Client, Any], Any]] = {
    "compute": lambda client, one: one.compute(),
    "persist": lambda client, one: wait(one.persist()),
    "dask.compute": lambda client, one: dask.compute({"nested": [one, one]}),
    "Client.compute": lambda client, one: wait(client.compute(one)),
    "Client.persist": lambda client, one: wait(client.persist([one])),
    "beside what has no pool": lambda client, one: dask.compute(delayed(str)(2), one),
}

MIXED = "ignore:Computing mixed collections:UserWarning"


def warned(action: Callable[[], Any]) -> list[warnings.WarningMessage]:
    """What is said of ignored pools during an action."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [one for one in caught if issubclass(one.category, PoolsIgnored)]


def in_pool(build: Callable[[], Any], *names: str | None) -> Any:
    """What is built in a pool."""
    with pool(*names):
        return build()


@pytest.mark.filterwarnings(MIXED)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_once(client: Client, kind: str, path: str) -> None:
    """Each kind, by each way of computing, warns once, and where the user's code is."""
    made = in_pool(KINDS[kind], "A")
    (said,) = warned(lambda: PATHS[path](client, made))
    assert "computed outside of propagate_pools()" in str(said.message)
    assert Path(said.filename).name == Path(__file__).name


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows(client: Client, kind: str) -> None:
    """What is built on something pinned warns too, and so does what may run in several pools."""
    for names in (("A",), ("A", "B")):
        made = in_pool(KINDS[kind], *names)
        later = delayed(str)(made) if kind.startswith("delayed") else made
        assert len(warned(later.compute)) == 1


@pytest.mark.filterwarnings(MIXED)
def test_several_at_once(client: Client) -> None:
    """One computation of everything says it once."""
    made = [in_pool(build, "A") for build in KINDS.values()]
    assert len(warned(lambda: dask.compute(*made))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_not_inside(client: Client, kind: str) -> None:
    """Inside of `propagate_pools` nothing is said, also where it was built before."""
    made = in_pool(KINDS[kind], "A")
    with propagate_pools():
        assert warned(lambda: dask.compute(made, made.persist())) == []


@pytest.mark.parametrize("kind", KINDS)
def test_not_without_a_pool(client: Client, kind: str) -> None:
    """What has no pool, or was said to have none, is computed without a word."""
    for made in (KINDS[kind](), in_pool(KINDS[kind], None)):
        assert warned(made.compute) == []


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("kind", KINDS)
def test_not_in_this_process(client: Client, kind: str, scheduler: str) -> None:
    """Local schedulers have no pools, and say nothing of them."""
    made = in_pool(KINDS[kind], "A")
    assert warned(lambda: made.compute(scheduler=scheduler)) == []
    assert warned(lambda: made.persist(scheduler=scheduler)) == []


LOOKING: dict[str, Callable[[Any, Path], Any]] = {
    "plan_pools": lambda one, _: plan_pools(one),
    "visualize_pools": lambda one, path: visualize_pools(one, filename=path / "pools.dot"),
    "get_pool": lambda one, _: get_pool(one),
    "repr": lambda one, _: repr(one),
    "HTML": lambda one, _: one._repr_html_() if hasattr(one, "_repr_html_") else "",
}


@pytest.mark.parametrize("look", LOOKING)
@pytest.mark.parametrize("kind", KINDS)
def test_not_by_looking(client: Client, kind: str, look: str, tmp_path: Path) -> None:
    """Plans and drawings compute nothing that is worth a word."""
    made = in_pool(KINDS[kind], "A")
    assert warned(lambda: LOOKING[look](made, tmp_path)) == []


def test_not_what_dask_computes_to_plan(client: Client) -> None:
    """The quantiles for an index, which a plan has to know, are not the user's computation."""
    frame = in_pool(lambda: dd.from_pandas(TABLE, npartitions=2, sort=False), "A")
    with propagate_pools():
        indexed = frame.set_index("x")
    assert warned(lambda: plan_pools(indexed.y.sum())) == []


def test_graphs_as_they_are(client: Client) -> None:
    """What is not optimised keeps its pools, as Dask honours them itself."""
    made = in_pool(KINDS["array"], "A")
    assert warned(lambda: made.compute(optimize_graph=False)) == []


def test_data_in_memory(client: Client) -> None:
    """What lies in a pool after `persist` is computed on without a word: nothing is loaded."""
    made = in_pool(KINDS["array"], "A")
    with propagate_pools():
        kept = made.persist()
    assert warned(lambda: (kept + 1).sum().compute()) == []


def test_another_thread(client: Client) -> None:
    """It is on for all threads, and said in whichever thread computes."""
    made = in_pool(KINDS["array"], "A")
    results: list[int] = []

    def compute() -> None:
        results.append(len(warned(made.compute)))

    with propagate_pools():
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
    compute()
    assert results == [0, 1]


def test_a_loop(client: Client) -> None:
    """A line that is run again and again says it once, unless a filter wants it each time."""
    with pool("A"):
        x = da.ones(4, chunks=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        for _ in range(3):
            x.sum().compute()
    assert len([one for one in caught if issubclass(one.category, PoolsIgnored)]) == 1


def test_as_an_error(client: Client) -> None:
    """Turned into an error it stops the computation before anything is sent."""
    made = in_pool(KINDS["array"], "A")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PoolsIgnored, match="outside of propagate_pools"):
            made.compute()


def test_futures(client: Client) -> None:
    """What is submitted obeys its pool without `propagate_pools`, and is not looked at."""

    class Odd:
        """It has no token."""

        def __dask_tokenize__(self) -> None:
            raise AssertionError("it was tokenised")

    def submit() -> None:
        with pool("A"):
            wait(client.submit(type, Odd(), key="type-of-odd", pure=False))

    assert warned(submit) == []
