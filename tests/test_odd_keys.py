"""Graphs made by hand may have any key that Dask allows: their tasks run in their pools too."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import clusters
import dask.array as da
import numpy as np
import pytest
from dask._task_spec import Task, TaskRef
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.typing import Key
from distributed import Client
from test_edges import copied, needed

from dask_worker_pools import plan_pools, pool, propagate_pools, visualize_pools
from dask_worker_pools.graph import read

#: Kinds of keys, each made of a number: as a key by itself, and inside of others.
KEYS: dict[str, Any] = {
    "int": lambda n: n,
    "numpy int": lambda n: np.int64(100 + n),
    "float": lambda n: n + 0.5,
    "numpy float": lambda n: np.float64(n + 0.25),
    "bytes": lambda n: b"part %d" % n,
    "name of bytes": lambda n: (b"part", n),
    "numpy ints": lambda n: ("part", np.int32(n), np.uint8(n)),
    "floats": lambda n: ("part", n / 4),
    "nested": lambda n: (("part", n), ("of", (b"it", n))),
    "no name": lambda n: (n, n),
}

A, B = ({"resources": {f"pool-{name}": 0}} for name in "AB")


pytestmark = pytest.mark.usefixtures("nothing_left")


def by_hand(key: Any, legacy: bool) -> tuple[Delayed, list[Key], list[Key]]:
    """Six sources, four of pool A and two of pool B, a step on each, and their sum.

    With it, the keys of the sources and of the steps. Old tasks are tuples, with keys as they are.
    """
    first = 20 * legacy  # a cluster may still know the keys of the other form
    sources: list[Key] = [key(first + n) for n in range(6)]
    steps: list[Key] = [key(first + n) for n in range(10, 16)]
    total = f"total-{uuid4().hex}"

    def task(name: Key, function: Any, *inputs: Key) -> Any:
        # No argument of the sources is equal to a key, whatever that is made of.
        if legacy:
            return (function, *(inputs or ("seven",)))
        return Task(name, function, *(map(TaskRef, inputs) if inputs else ("seven",)))

    layers = {
        "a": MaterializedLayer({k: task(k, len) for k in sources[:4]}, annotations=A),
        "b": MaterializedLayer({k: task(k, len) for k in sources[4:]}, annotations=B),
        "steps": MaterializedLayer(
            {k: task(k, operator.neg, source) for k, source in zip(steps, sources)}
        ),
        "total": MaterializedLayer({total: task(total, _adder(), *steps)}),
    }
    uses = {"a": set(), "b": set(), "steps": {"a", "b"}, "total": {"steps"}}
    return Delayed(total, HighLevelGraph(layers, uses), layer="total"), sources, steps


def _adder() -> Callable[..., int]:
    # Nested functions travel by value: the workers cannot import this module.
    return lambda *values: sum(values)


@pytest.mark.parametrize(
    ("kind", "legacy"),
    [
        *((kind, False) for kind in KEYS),
        # Dask itself takes bytes and NumPy's integers in old tasks for values.
        *((kind, True) for kind in KEYS if kind not in ("bytes", "numpy int")),
    ],
)
def test_tasks_of_any_key_run_in_their_pools(client: Client, kind: str, legacy: bool) -> None:
    """What is pinned runs in its pool, what follows where the plan says, whatever the keys are."""
    made, sources, steps = by_hand(KEYS[kind], legacy)
    plan = plan_pools(made)
    assert plan.dependencies.keys() == {*sources, *steps, made.key}
    assert [plan.pools[key] for key in sources] == ["A"] * 4 + ["B"] * 2
    assert [plan.pools[key] for key in steps] == ["A"] * 4 + ["B"] * 2
    assert plan.pools[made.key] == "A"
    with clusters.record_executions(client) as ran, propagate_pools():
        assert client.compute(made).result() == -6 * 5
    assert {key: ran.pools_of[key] for key in plan.pools} == {
        key: {where} for key, where in plan.pools.items()
    }


def test_keys_that_read_alike_land_apart(client: Client) -> None:
    """Outputs whose keys are the same text arrive in another pool each as what it is."""
    keys: list[Any] = [101, "101", b"x", "b'x'", (102, 0), ("102", 0), ("(102, 0)", 0)]
    keys += [(b"y", 1), ("b'y'", 1), 103.5, "103.5"]
    values = range(len(keys))
    parts = {key: Task(key, int, value) for key, value in zip(keys, values)}
    layers = {"parts": MaterializedLayer(parts, annotations=B)}
    uses: dict[str, set[str]] = {"parts": set()}
    made = []
    for _ in range(2):  # several consumers, so that outputs land
        name = f"all-{uuid4().hex}"
        gather = Task(name, lambda *args: args, *map(TaskRef, keys))
        layers[name] = MaterializedLayer({name: gather}, annotations=A)
        uses[name] = {"parts"}
        made.append(name)
    graph = HighLevelGraph(layers, uses)
    both = [Delayed(name, graph, layer=name) for name in made]
    landings = [transfer.landing for transfer in plan_pools(both).transfers]
    assert len(set(landings)) == len(keys)
    with propagate_pools():
        got = client.gather(client.compute(both))
    assert got == [tuple(values)] * 2


#: Other ways to write the number of a block, all of them equal to it.
NUMBERS: dict[str, Any] = {
    "numpy int": np.int64,
    "unsigned": np.uint8,
    "float": float,
    "numpy float": np.float32,
    "mixed": lambda n: (int, np.int16, float)[n % 3](n),
}


def of_blocks(n: int, number: Any) -> Delayed:
    """The sum of `n` blocks of an array in pool A, which a task names by other numbers."""
    with pool("A"):
        blocks = da.ones(n, chunks=1) + 1
    total = f"total-{uuid4().hex}"
    keys: list[Key] = [(blocks.name, number(i)) for i in range(n)]
    last = MaterializedLayer({total: Task(total, _adder(), *map(TaskRef, keys))})
    graph = HighLevelGraph(
        {**blocks.dask.layers, "total": last},
        {**blocks.dask.dependencies, "total": {blocks.name}},
    )
    return Delayed(total, graph, layer="total")


@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("kind", NUMBERS)
def test_equal_keys_are_one_key(client: Client, kind: str, n: int) -> None:
    """A block that is asked for by an equal number is that block: it is planned and runs once."""
    made = of_blocks(n, NUMBERS[kind])
    plan = plan_pools(made)
    assert plan.dependencies == needed(dict(copied(made.dask)), [made.key])
    assert set(plan.pools.values()) == {"A"}
    with clusters.record_executions(client) as ran, propagate_pools():
        assert client.compute(made).result() == 2 * n
    assert set().union(*ran.pools_of.values()) == {"A"}
    assert all(run.pools == {"A"} for run in ran.tasks)


@pytest.mark.parametrize("n", [3, 40])
def test_wanted_by_equal_keys(n: int) -> None:
    """Outputs may be named by equal numbers too."""
    x = da.ones(n, chunks=1) + 1
    tasks = read(x.dask, [(x.name, np.int64(i)) for i in range(n)])
    assert tasks.dependencies == needed(dict(copied(x.dask)), [(x.name, i) for i in range(n)])
    assert not tasks.edges.outside


@pytest.mark.parametrize(
    "index",
    [
        lambda n: (n, 0),
        lambda n: (n, 0) if n % 2 else n,
        lambda n: str(n),
        lambda n: b"%d" % n,
        lambda n: n + 0.5,
        lambda n: n - 40,
        lambda n: 2**70 + n,
        lambda n: (-1) ** n * float("inf") if n < 2 else f"inf {n}",
    ],
    ids=["tuple", "tuple or int", "str", "bytes", "half", "negative", "huge", "infinite"],
)
@pytest.mark.parametrize("n", [3, 40])
def test_keys_named_like_an_array(n: int, index: Any) -> None:
    """Keys that begin with an array's name, and are none of its blocks, are keys like any other."""
    x = da.ones(40, chunks=1) + 1
    others: list[Key] = [(x.name, index(i)) for i in range(n)]
    own = {key: Task(key, abs, TaskRef((x.name, i))) for i, key in enumerate(others)}
    more: dict[Key, Any] = {key: task for key, task in own.items() if key not in x.dask}
    more["total"] = Task("total", _adder(), *map(TaskRef, others))
    graph = HighLevelGraph(
        {**x.dask.layers, "more": MaterializedLayer(more)},
        {**x.dask.dependencies, "more": {x.name}},
    )
    tasks = read(graph, ["total"])
    assert tasks.dependencies == needed(dict(copied(graph)), ["total"])
    assert not tasks.edges.outside


@pytest.mark.parametrize("kind", KEYS)
def test_answers_about_odd_keys(kind: str, tmp_path: Path) -> None:
    """Plans of odd keys can be printed, explained and drawn."""
    made, sources, _ = by_hand(KEYS[kind], False)
    plan = plan_pools(made)
    assert "2 transfers of unknown size (B → A)" in str(plan)
    assert "A: pinned" in str(plan.explain(sources[0]))
    for level in ("layer", "task"):
        visualize_pools(plan, filename=tmp_path / f"{level}.svg", level=level)
        assert "A" in (tmp_path / f"{level}.svg").read_text()
