"""Random programs of mixed collections have plain Dask's values and read each source in its pool.

A program makes sources, in pools or not, and goes on from them: arrays, bags, delayed objects and
dataframes, each given to functions of the others, some of them persisted on the way. Several of
its values are computed at once.

``PROGRAMS=2000 pytest tests/test_programs.py`` tries so many programs, new ones at each run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed
from distributed import Client, futures_of, get_worker, wait
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_sweep import assert_same

from dask_worker_pools import pool, propagate_pools

# Said by plain Dask as well: dataframes cannot be kept as expressions when others are there.
pytestmark = pytest.mark.filterwarnings("ignore:Computing mixed collections")

#: Programs to try; if the environment does not say, few, and the same at each run.
COUNT = int(os.environ.get("PROGRAMS", "0"))

#: What is said of a step: the pools of a block around it, None inside of `pool`, nothing.
Where = tuple[str | None, ...]
PLACES: list[Where] = [("A",), ("B",), ("A", "B"), (None,), ()]


@dataclass(frozen=True)
class Step:
    """One operation: what it makes, of which earlier values, and where."""

    operation: str
    inputs: tuple[int, int]
    where: Where


@dataclass(frozen=True)
class Program:
    """Steps, and the numbers of the values that are computed."""

    steps: list[Step]
    outputs: list[int]


class Reads:
    """Which parts of sources were read in this process, and how often, or reported by workers."""

    def __init__(self, client: Client | None = None) -> None:
        self._client = client
        self._topic = f"reads-{uuid4().hex}"
        self._here: list[tuple[Any, ...]] = []

    def reader(self, name: str, value: Callable[[int], Any]) -> Callable[[int], Any]:
        """A function that returns part `i` of a source, and notes that and where it was read."""
        topic, here = self._topic, self._here

        # Nested functions travel by value: the workers cannot import this module.
        def read(i: int) -> Any:
            try:
                worker = get_worker()
            except ValueError:
                here.append((name, i, []))
            else:
                offered = sorted(worker.state.total_resources)
                worker.log_event(topic, (name, i, [r.removeprefix("pool-") for r in offered]))
            return value(i)

        return read

    @property
    def all(self) -> list[tuple[str, int, list[str]]]:
        """Source, part and pools of the worker, for each read."""
        events = self._client.get_events(self._topic) if self._client else ()
        return [*self._here, *(event for _, event in events)]

    def counts(self) -> Counter[tuple[str, int]]:
        """How often each part of each source was read."""
        return Counter((name, i) for name, i, _ in self.all)


# --- operations: all values of one kind have one shape, so that any may meet any

GRID = np.arange(24.0).reshape(6, 4)
Made = Callable[..., Any]


def array_source(read: Made, name: str) -> Any:
    """An array of 6 × 4 in four chunks, one read each."""

    def block(block_id: Any = None) -> Any:
        return read(2 * block_id[0] + block_id[1])

    chunks, meta = ((3, 3), (2, 2)), GRID[:0, :0]
    return da.map_blocks(block, chunks=chunks, dtype=float, meta=meta, name=name)


def frame_source(read: Made, name: str) -> Any:
    """A dataframe of two partitions of four rows."""
    meta = pd.DataFrame({"v": [0.0]}, index=[0])[:0]
    return dd.from_map(read, range(2), meta=meta, divisions=(0, 4, 7), label=name)


def delayed_part(read: Made, name: str) -> Any:
    """One number, delayed."""
    return delayed(read)(0, dask_key_name=name)


def bag_source(read: Made, name: str) -> Any:
    """A bag of two partitions of three numbers."""
    parts = [delayed(read)(i, dask_key_name=f"{name}-{i}") for i in range(2)]
    return db.from_delayed(parts)


#: By kind: what makes a source of a function that reads its parts, and the values of the parts.
SOURCES: dict[str, tuple[Made, Callable[[int], Callable[[int], Any]]]] = {
    "array": (array_source, lambda seed: lambda i: (GRID[:3, :2] + 5 * i + seed) % 13),
    "bag": (bag_source, lambda seed: lambda i: [i + seed, 2 * i, 7.0]),
    "delayed": (delayed_part, lambda seed: lambda i: 3.0 + seed),
    "frame": (
        frame_source,
        lambda seed: (
            lambda i: pd.DataFrame(
                {"v": [seed + j % 5.0 for j in range(4)]}, index=range(4 * i, 4 * i + 4)
            )
        ),
    ),
}

#: The kinds of the inputs and of the value, and the operation.
OPERATIONS: dict[str, tuple[str, str, str, Made]] = {
    "held array": ("array", "array", "array", lambda x, y: x - da.from_array(GRID, chunks=3) + y),
    "add": ("array", "array", "array", lambda x, y: (x + y) % 13),
    "where": ("array", "array", "array", lambda x, y: da.where(x > y, x, y)),
    "cut and joined": ("array", "array", "array", lambda x, y: da.concatenate([x[:3], y[3:]])),
    "total": ("array", "array", "array", lambda x, y: (x - y.sum(axis=0)) % 13),
    "product": ("array", "array", "array", lambda x, y: (x @ y.T @ x) % 13),
    "cumsum": ("array", "array", "array", lambda x, y: (x.cumsum(axis=0) + y) % 13),
    "overlap": (
        *("array", "array", "array"),
        lambda x, y: x.map_overlap(lambda b: b[::-1], depth=1, boundary="reflect") - y,
    ),
    "rechunked": ("array", "array", "array", lambda x, y: (x.rechunk(2) + y).rechunk((3, 2))),
    "assigned": ("array", "array", "array", lambda x, y: assigned(x) + y),
    "keyword array": (
        *("array", "array", "array"),
        lambda x, y: x.map_blocks(lambda b, k=None: (b + k.sum()) % 13, k=y, dtype=float),
    ),
    "keyword delayed": (
        *("array", "delayed", "array"),
        lambda x, d: x.map_blocks(lambda b, k=None: (b + k) % 13, k=d, dtype=float),
    ),
    "from delayed": (
        *("array", "delayed", "array"),
        lambda x, d: (x - da.from_delayed(d, (), float)) % 13,
    ),
    "values of a frame": (
        *("array", "frame", "array"),
        lambda x, f: (x - f.v.to_dask_array(lengths=[4, 4]).sum()) % 13,
    ),
    "map": ("bag", "bag", "bag", lambda x, y: db.map(lambda a, b: (a + b) % 13, x, y)),
    "bag and total": (
        *("bag", "bag", "bag"),
        lambda x, y: x.map_partitions(lambda p, n: [(i + n) % 13 for i in p], y.sum()),
    ),
    "bag, keyword array": (
        *("bag", "array", "bag"),
        lambda x, a: x.map(lambda i, k=None: (i + k.sum()) % 13, k=a),
    ),
    "bag, keyword delayed": (
        *("bag", "delayed", "bag"),
        lambda x, d: x.map(lambda i, k=0: (i + k) % 13, k=d),
    ),
    "sum of delayed": ("delayed", "delayed", "delayed", lambda x, y: (x + y) % 13),
    "list of delayed": ("delayed", "delayed", "delayed", lambda x, y: delayed(sum)([x, y, x])),
    "sum of an array": ("array", "delayed", "delayed", lambda a, d: (delayed(np.sum)(a) - d) % 13),
    "sum of a bag": ("bag", "delayed", "delayed", lambda b, d: (b.sum().to_delayed() + d) % 13),
    "length of all": (
        *("frame", "bag", "delayed"),
        lambda f, b: delayed(lambda one, other: float(len(one) + len(other)))(f, b),
    ),
    "frames added": ("frame", "frame", "frame", lambda x, y: (x + y) % 13),
    "frames merged": (
        *("frame", "frame", "frame"),
        lambda x, y: x.merge(y, left_index=True, right_index=True).rename(columns={"v_x": "v"})[
            ["v"]
        ],
    ),
    "frame and scalar": ("frame", "frame", "frame", lambda x, y: (x + y.v.max()) % 13),
    "frame, mapped": (
        *("frame", "delayed", "frame"),
        lambda x, d: x.map_partitions(lambda p, n: (p + n) % 13, d, meta={"v": "float64"}),
    ),
}
PERSIST = "persist"


def assigned(x: da.Array) -> da.Array:
    """A copy of which two parts were set."""
    x = x.copy()
    x[0:2] = 1
    x[3:, 1] = 2
    return x


KINDS = [*SOURCES]
NAMES = [*SOURCES, *SOURCES, *OPERATIONS, *(f"{PERSIST} {kind}" for kind in KINDS)]
STEPS = st.builds(
    Step,
    st.sampled_from(NAMES),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.sampled_from([*PLACES, (), (), ()]),
)
PROGRAMS = st.builds(
    Program,
    st.lists(STEPS, min_size=2, max_size=9),
    st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True),
)


# --- running a program


@dataclass
class Building:
    """The values of a program, by kind, and where its sources are pinned."""

    reads: Reads
    pools: bool
    values: list[tuple[str, Any]] = field(default_factory=list)
    pins: dict[str, Where] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        """Do one step."""
        kind, value = self.made(step)
        self.values.append((kind, value))

    def made(self, step: Step) -> tuple[str, Any]:
        """The kind and the value that a step makes."""
        if step.operation in SOURCES:
            return step.operation, self.source(step.operation, step.where)
        if step.operation.startswith(PERSIST):
            kind = step.operation.removeprefix(f"{PERSIST} ")
            (value,) = dask.persist(self.input(kind, step.inputs[0]))
            if futures := futures_of(value):
                wait(futures)
            return kind, value
        one, other, kind, operation = OPERATIONS[step.operation]
        inputs = self.input(one, step.inputs[0]), self.input(other, step.inputs[1])
        with self.inside(step.where):
            return kind, operation(*inputs)

    def source(self, kind: str, where: Where) -> Any:
        """A new source."""
        make, parts = SOURCES[kind]
        seed = len(self.pins)
        name = f"{kind}{seed}"
        self.pins[name] = where
        with self.inside(where):
            return make(self.reads.reader(name, parts(seed)), f"{name}-{uuid4().hex}")

    def input(self, kind: str, number: int) -> Any:
        """An earlier value of a kind; if there is none, a source that nothing is said about."""
        if not any(kind == found for found, _ in self.values):
            self.values.append((kind, self.source(kind, ())))
        alike = [value for found, value in self.values if found == kind]
        return alike[number % len(alike)]

    def inside(self, where: Where) -> Any:
        """A block in pools, if the program runs with pools and names any."""
        return pool(*where) if where and self.pools else nullcontext()


def build(program: Program, reads: Reads, pools: bool) -> tuple[list[Any], Mapping[str, Where]]:
    """Collections that a program computes, and where its sources are pinned."""
    building = Building(reads, pools)
    for step in program.steps:
        building.add(step)
    numbers = dict.fromkeys(i % len(building.values) for i in program.outputs)
    return [building.values[i][1] for i in numbers], building.pins


def check(program: Program, reads: Reads) -> Mapping[str, Where]:
    """Run a program with pools, and compare it with plain Dask; return where sources are pinned."""
    plain = Reads()
    with dask.config.set({"scheduler": "sync", "dataframe.shuffle.method": "tasks"}):
        dask.compute(*build(program, plain, pools=False)[0])
        # Each alone: computed at once, plain Dask returns some of different kinds misplaced.
        wanted = [x.compute() for x in build(program, Reads(), pools=False)[0]]
    with propagate_pools():
        made, pins = build(program, reads, pools=True)
        got = list(dask.compute(*made))
    assert_same(got, wanted)
    more = reads.counts() - plain.counts()
    assert not more, f"read more often than by plain Dask: {dict(more)}"
    return pins


def examples(count: int) -> Any:
    """So many programs, the same at each run, if the environment does not ask for more."""
    return settings(
        max_examples=COUNT or count,
        derandomize=not COUNT,
        database=None,
        deadline=None,
        print_blob=bool(COUNT),
        suppress_health_check=list(HealthCheck),
    )


@examples(60)
@given(program=PROGRAMS)
def test_local(program: Program) -> None:
    """On a local scheduler, values are plain Dask's, and no source is read more often."""
    with dask.config.set(scheduler="sync"):
        check(program, Reads())


@examples(20)
@given(program=PROGRAMS)
def test_cluster(client: Client, program: Program) -> None:
    """On a cluster, that holds too, and each source is read in a pool that it is pinned to."""
    reads = Reads(client)
    pins = check(program, reads)
    for name, _, offered in reads.all:
        allowed = {place for place in pins[name] if place is not None}
        assert not allowed or allowed & set(offered), f"{name}, {pins[name]}: read in {offered}"


@pytest.mark.parametrize("name", [*OPERATIONS])
def test_each_operation(name: str) -> None:
    """Each operation of programs, on inputs in two pools, has plain Dask's value."""
    one, other, _, _ = OPERATIONS[name]
    steps = [Step(one, (0, 0), ("A",)), Step(other, (0, 0), ("B",)), Step(name, (0, 1), ())]
    persisted = [Step(f"{PERSIST} {one}", (0, 0), ()), Step(name, (-1, 1), ())]
    with dask.config.set(scheduler="sync"):
        check(Program([*steps, *persisted], [0, 2, 4]), Reads())
