"""Of what is said about pools in several places, what was said closest to the data holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
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
from distributed import Client, get_worker

from dask_worker_pools import pool, propagate_pools

Words = Callable[[], AbstractContextManager[Any]]

#: What can be said, and the pools in which a task of which only this was said may run.
SAID: dict[str, Words] = {
    "nothing": nullcontext,
    "A": lambda: pool("A"),
    "B or C": lambda: pool("B", "C"),
    "no pool": lambda: pool(None),
    "A by hand": lambda: dask.annotate(resources={"pool-A": 1}),
    "counted": lambda: dask.annotate(resources={"GPU": 1}),
}
ANYWHERE = frozenset({"A", "B", "C", "none"})
PLACES: dict[str, frozenset[str]] = {
    "A": frozenset({"A"}),
    "B or C": frozenset({"B", "C"}),
    "no pool": ANYWHERE,
    "A by hand": frozenset({"A"}),
}
KINDS = ["array", "bag", "delayed", "frame"]


@pytest.fixture(scope="module")
def pool_cluster() -> Iterator[clusters.PoolCluster]:
    """One worker in each of the pools A, B and C, and two in none; each has four GPUs."""
    with clusters.start({}) as cluster:
        for name in ("A", "B", "C", None, None):
            cluster.start_worker(name, resources={"GPU": 4}, wait=False)
        cluster.wait_for_workers()
        yield cluster


pytestmark = pytest.mark.usefixtures("client", "nothing_left")


def pools_of(workers: Any) -> set[str]:
    """Pools of workers, by their names."""
    return {str(worker).partition("-")[0] for worker in workers}


def make(kind: str) -> Any:
    """Six tasks, each of which returns the name of the worker that it ran on."""
    unique = uuid4().hex

    # Nested functions travel to the workers by value.
    def name(*_: Any) -> Any:
        return get_worker().name

    def block(block_id: Any = None) -> Any:
        return np.array([name()], dtype="U20")

    def frame(_: int) -> pd.DataFrame:
        return pd.DataFrame({"worker": [name()]})

    if kind == "array":
        meta = np.empty(0, "U20")
        return da.map_blocks(block, chunks=((1,) * 6,), dtype="U20", meta=meta, name=f"at-{unique}")
    if kind == "bag":
        return db.from_sequence([f"{n}-{unique}" for n in range(6)], npartitions=6).map(name)
    if kind == "delayed":
        return [delayed(name, pure=False)(n) for n in range(6)]
    meta = pd.DataFrame({"worker": pd.Series(dtype=object)})
    return dd.from_map(frame, range(6), meta=meta, label=f"at-{unique}", enforce_metadata=False)


def values(x: Any) -> Any:
    """Compute what `make` returned, as names of workers."""
    (result,) = dask.compute(x)
    return result["worker"] if isinstance(result, pd.DataFrame) else result


def used(x: Any) -> Any:
    """Give what `make` returned to a function, which adds the name of its own worker."""

    def both(given: Any) -> tuple[list[str], str]:
        names = given["worker"] if isinstance(given, pd.DataFrame) else given
        return [*map(str, names)], get_worker().name

    return delayed(both, pure=False)(x)


def stepped(x: Any, kind: str) -> Any:
    """Go on from what `make` returned, by the means of its own kind."""
    if kind == "array":
        return da.concatenate([x, x])
    if kind == "bag":
        return x.map(lambda name: name)
    if kind == "frame":
        return x.map_partitions(lambda part: part, meta=x._meta)
    return [delayed(lambda name: name)(one) for one in x]


def pairs(kind: str) -> Iterator[tuple[str, str]]:
    """All that can be said while a kind is built, and around that."""
    said = [word for word in SAID if kind != "frame" or word != "counted"]
    return ((inside, around) for inside in said for around in said)


CASES = [(kind, *pair) for kind in KINDS for pair in pairs(kind)]
#: A frame that was built in no pool is not planned, and several pools are no annotation of Dask's.
COMPUTED = [case for case in CASES if case != ("frame", "nothing", "B or C")]
#: Dask's own `annotate` drops the resources of another one around it.
BUILT = [case for case in CASES if case[1:] != ("counted", "A by hand")]


@pytest.mark.parametrize(("kind", "inside", "around"), COMPUTED)
def test_around_computing(kind: str, inside: str, around: str) -> None:
    """What was said at building holds; if no pool was, then what is said around computing."""
    with SAID[inside]():
        x = make(kind)
    with propagate_pools(), SAID[around]():
        ran = pools_of(values(x))
    assert ran <= PLACES.get(inside, PLACES.get(around, ANYWHERE))


@pytest.mark.parametrize(("kind", "inside", "around"), BUILT)
def test_around_building(kind: str, inside: str, around: str) -> None:
    """Of two blocks around building, the inner one holds."""
    with SAID[around](), SAID[inside]():
        x = make(kind)
    with propagate_pools():
        ran = pools_of(values(x))
    assert ran <= PLACES.get(inside, PLACES.get(around, ANYWHERE))


@pytest.mark.parametrize(("kind", "inside", "around"), CASES)
def test_around_a_use(kind: str, inside: str, around: str) -> None:
    """A function called on data in a block runs where the block says, and the data where it was."""
    with propagate_pools():
        with SAID[inside]():
            x = make(kind)
        with SAID[around]():
            result = used(x)
        names, where = result.compute()
    assert pools_of(names) <= PLACES.get(inside, ANYWHERE)
    assert pools_of([where]) <= PLACES.get(around, ANYWHERE)


@pytest.mark.parametrize(("kind", "inside", "around"), CASES)
def test_around_the_next_step(kind: str, inside: str, around: str) -> None:
    """A step built in a block does not take with it what it is made of."""
    with SAID[inside]():
        x = make(kind)
    with SAID[around]():
        y = stepped(x, kind)
    with propagate_pools():
        ran = pools_of(values(y))
    assert ran <= PLACES.get(inside, ANYWHERE)


@pytest.mark.parametrize("around", SAID)
@pytest.mark.parametrize("inside", SAID)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_around_both(client: Client, kind: str, inside: str, around: str) -> None:
    """Persisted and then taken apart, the parts stay where the inner block said."""
    with propagate_pools():
        with SAID[inside]():
            x = make(kind)
        with SAID[around]():
            (kept,) = dask.persist(x)
            ran = pools_of(values(kept))
    assert ran <= PLACES.get(inside, PLACES.get(around, ANYWHERE))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_several_pools_stay_several(kind: str) -> None:
    """Used by a function or taken apart, data of several pools may still run in any of them."""
    with propagate_pools():
        with pool("a pool that nobody offers".replace(" ", "-"), "B"):
            x = make(kind)
        names, _ = used(x).compute()
        apart = [one for one in dask.optimize(x) for one in (one if kind == "delayed" else [one])]
        ran = pools_of([name for one in dask.compute(*apart) for name in np.ravel(one)])
    assert pools_of(names) == ran == {"B"}
