"""Arrays and bags that become frames and back: only the conversion gets the pool around it.

Built inside and outside of `propagate_pools`, in no pool, the pool of the source, and another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

from dask_worker_pools import assign_pool, plan_pools, pool, propagate_pools


def load() -> Any:
    """One block of an array."""
    return np.ones((2, 2))


def read(items: Any) -> list[dict[str, float]]:
    """One partition of a bag."""
    return [{"a": 1.0} for _ in items]


def table(i: int) -> pd.DataFrame:
    """One partition of a frame."""
    return pd.DataFrame({"a": [1.0, 2.0]}, index=[2 * i, 2 * i + 1])


def array(name: str = "C") -> Any:
    """An array whose blocks are loaded in a pool."""
    with pool(name):
        chunks = ((2,) * 4, (2,))
        meta = np.empty((0, 0))
        return da.map_blocks(load, chunks=chunks, dtype=float, meta=meta, name=f"load-{name}")


def bag() -> Any:
    """A bag whose partitions are read in pool C."""
    with pool("C"):
        return db.from_sequence(range(8), npartitions=4).map_partitions(read)


def frame() -> Any:
    """A frame whose partitions are made in pool C."""
    with pool("C"):
        return dd.from_map(table, range(4), meta={"a": float})


def two_sources() -> Any:
    """An array with blocks from two pools."""
    return da.concatenate([array("C"), array("B")])


def partitions() -> list[Any]:
    """Delayed partitions of a frame, made in pool C."""
    with pool("C"):
        return [dask.delayed(table)(i, dask_key_name=f"table-{i}") for i in range(4)]


#: The source and its conversion; the names of the tasks of the source, and of the conversion.
CONVERSIONS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], str, str]] = {
    "from_dask_array": (
        array,
        lambda x: dd.from_dask_array(x, columns=["a", "b"]),
        "load-",
        "from-dask-array",
    ),
    "to_dask_dataframe": (
        array,
        lambda x: x.to_dask_dataframe(columns=["a", "b"]),
        "load-",
        "from-dask-array",
    ),
    "a step before": (
        array,
        lambda x: dd.from_dask_array((x + 1)[:, 0], columns="a"),
        "load-",
        "from-dask-array",
    ),
    "two sources": (
        two_sources,
        lambda x: dd.from_dask_array(x, columns=["a", "b"]),
        "load-",
        "from-dask-array",
    ),
    "with an index": (
        array,
        lambda x: dd.from_dask_array(x, columns=["a", "b"], index=frame().index),
        "load-",
        "from-dask-array",
    ),
    "bag": (bag, lambda b: b.to_dataframe(meta={"a": float}), "read-", "to_dataframe"),
    "bag, not optimised": (
        bag,
        lambda b: b.to_dataframe(meta={"a": float}, optimize_graph=False),
        "read-",
        "to_dataframe",
    ),
    "from_delayed": (
        partitions,
        lambda parts: dd.from_delayed(parts, meta={"a": float}),
        "table-",
        "fromdelayed",
    ),
    "to_bag": (frame, lambda f: f.to_bag(), "table-", "to_bag"),
    "to_bag of frames": (frame, lambda f: f.to_bag(format="frame"), "table-", "no conversion"),
    "to_dask_array": (frame, lambda f: f.to_dask_array(), "table-", "values"),
}


@pytest.fixture(params=["inside", "outside"])
def building(request: pytest.FixtureRequest) -> Iterator[ExitStack]:
    """What is built before the stack is closed is built inside of `propagate_pools`, or outside."""
    with ExitStack() as stack:
        if request.param == "inside":
            stack.enter_context(propagate_pools())
        yield stack


def places(collection: Any, name: str) -> set[str | None]:
    """The pools of the tasks of a name, whether fused with others or not."""
    with propagate_pools():
        plan = plan_pools(collection)
    return {pool for key, pool in plan.pools.items() if name_of(key).startswith(name)}


def name_of(key: Any) -> str:
    """The name that a key starts with."""
    return str(key[0] if isinstance(key, tuple) else key)


def check(result: Any, sources: str, made: str, expected: set[str], pooled: str | None) -> None:
    """Sources are in their pools, the conversion in its own, and the result as without pools."""
    assert places(result, sources) <= expected
    everywhere = places(result, "")
    assert expected <= everywhere
    if pooled not in (None, *expected) and made != "no conversion":
        assert places(result, made) == {pooled}


@pytest.mark.parametrize("inside", [None, "C", "A"])
@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversion(building: ExitStack, name: str, inside: str | None) -> None:
    """Sources keep their pool; the conversion alone gets the pool in which it is made."""
    source, convert, sources, made = CONVERSIONS[name]
    given = source()
    with ExitStack() as block:
        if inside is not None:
            block.enter_context(pool(inside))
        result = convert(given)
    building.close()
    expected = {"C", "B"} if source is two_sources else {"C"}
    check(result, sources, made, expected, inside)
    with propagate_pools():
        assert len(result.compute(scheduler="sync")) > 0


@pytest.mark.parametrize("name", [n for n in CONVERSIONS if not n.startswith("to_")])
def test_assigned_later(building: ExitStack, name: str) -> None:
    """`assign_pool` says the pool of the conversion, and not that of what it converts."""
    source, convert, sources, made = CONVERSIONS[name]
    result = convert(source())
    building.close()
    expected = {"C", "B"} if source is two_sources else {"C"}
    check(assign_pool(result, "A"), sources, made, expected, "A")


@pytest.mark.parametrize("inside", [None, "A"])
def test_no_pins(inside: str | None) -> None:
    """Without pins a conversion is as Dask made it, in its pool as a whole."""
    with ExitStack() as block:
        if inside is not None:
            block.enter_context(pool(inside))
        result = dd.from_dask_array(da.ones((8, 2), chunks=(2, 2)), columns=["a", "b"])
    assert places(result, "") == {inside}
