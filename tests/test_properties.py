"""What must hold for every graph: random programs with random pins and annotations."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tracing import Run, run, run_with_pools, source, traced

from dask_worker_pools import plan_pools, pool, propagate_pools_in_collection

POOLS = st.sampled_from(["A", "B", "C", None, "free", "free", "free"])
ANNOTATIONS = st.sampled_from(
    [{}, {}, {}, {"priority": 5}, {"retries": 2}, {"mine": "x"}, {"resources": {"GPU": 1}}]
)


@dataclass
class Step:
    """One operation of a random program."""

    kind: str
    inputs: tuple[int, int]
    where: str | None
    annotations: dict[str, Any]


@dataclass
class Program:
    """A random program, and what was said of each of its traced operations."""

    steps: list[Step]
    outputs: list[int]
    pins: dict[str, str] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    annotations: dict[str, dict[str, Any]] = field(default_factory=dict)


STEP_KINDS = ["source", "unary", "binary", "concatenate", "slice", "sum", "transpose"]
STEP_KINDS += ["rechunk", "dot"]
STEPS = st.builds(
    Step,
    st.sampled_from(STEP_KINDS),
    st.tuples(st.integers(0, 50), st.integers(0, 50)),
    POOLS,
    ANNOTATIONS,
)
PROGRAMS = st.builds(
    Program, st.lists(STEPS, min_size=1, max_size=12), st.lists(st.integers(0, 50), min_size=1)
)


def arrays(program: Program) -> list[da.Array]:
    """Build the outputs of a program, and note what was said."""
    made = [source("first")]
    for number, step in enumerate(program.steps):
        x, y = (made[i % len(made)] for i in step.inputs)
        name = f"{step.kind}{number}"
        with ExitStack() as said:
            said.enter_context(dask.annotate(**step.annotations))
            if step.where != "free":
                said.enter_context(pool(step.where))
            made.append(array_of(step.kind, name, x, y))
        note(program, name, step)
    return list({made[i % len(made)].name: made[i % len(made)] for i in program.outputs}.values())


def array_of(kind: str, name: str, x: da.Array, y: da.Array) -> Any:
    """The array of one step; all are 8 × 8, so that any may meet any."""
    match kind:
        case "source":
            return source(name)
        case "unary":
            return traced(name, x)
        case "binary":
            return traced(name, x, y)
        case "concatenate":
            return da.concatenate([x[:4], y[4:]])
        case "slice":
            return da.concatenate([x[1:], y[:1]]).rechunk(4)
        case "sum":
            return x + y.sum(axis=0)
        case "transpose":
            return x.T + y
        case "rechunk":
            return x.rechunk((8, 2), method="tasks").rechunk(4, method="tasks")
    return (x % 7) @ (y % 5)


def note(program: Program, name: str, step: Step) -> None:
    """Remember what was said of a traced operation."""
    if step.where is None:
        program.blocked.add(name)
    elif step.where != "free":
        program.pins[name] = step.where
    program.annotations[name] = step.annotations


def check(program: Program, done: Run, annotations: bool = True) -> None:
    """Pins did not move, blocked tasks have no pool, annotations are where they were said."""
    for name, where in program.pins.items():
        if name in done.operations:
            assert done.pools_of(name) == {(where,)}
    for name in program.blocked & done.operations.keys():
        assert done.pools_of(name) == {()}
    for name, said in program.annotations.items() if annotations else ():
        for found in done.operations.get(name, ()):
            for key, value in said.items():
                if key == "resources":
                    assert found["resources"]["GPU"] == value["GPU"]
                else:
                    assert found[key] == value


def users_optimization(graph: Any, keys: Any, **kwargs: Any) -> Any:
    """An optimisation of the user's own, which does what Dask's does."""
    return dask.array.optimize(graph, keys, **kwargs)


@pytest.mark.parametrize("own", [None, users_optimization], ids=["dask's", "own"])
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=PROGRAMS)
def test_arrays_keep_pins_values_and_annotations(program: Program, own: Any) -> None:
    """Whatever is pinned stays, results equal plain Dask's, other annotations survive."""
    outputs = arrays(program)
    expected = dask.compute(*outputs, scheduler="sync", optimize_graph=False)
    with dask.config.set(array_optimize=own):
        done = run_with_pools(*outputs)
    for got, want in zip(done.results, expected, strict=True):
        np.testing.assert_array_equal(got, want)
    check(program, done, annotations=own is None)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=PROGRAMS)
def test_written_collections_keep_pins_and_values(program: Program) -> None:
    """Pools written into collections hold when these are computed, and Dask can compute them."""
    written = [propagate_pools_in_collection(output) for output in arrays(program)]
    expected = dask.compute(*written, scheduler="sync", optimize_graph=False)
    done = run_with_pools(*written)
    for got, want, plain in zip(done.results, expected, run(*written).results, strict=True):
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(plain, want)
    check(program, done)


def random_programs(count: int) -> Iterator[Program]:
    """Random programs that are the same at every run."""
    chance = random.Random(0)
    for _ in range(count):
        steps = [
            Step(
                chance.choice(STEP_KINDS), (chance.randrange(50), chance.randrange(50)), "free", {}
            )
            for _ in range(chance.randrange(1, 10))
        ]
        yield Program(steps, [chance.randrange(50) for _ in range(chance.randrange(1, 4))])


@pytest.mark.parametrize("where", ["free", "A"])
def test_without_crossings_fusion_is_dasks(where: str) -> None:
    """With no pool, or all in one pool, as many tasks are submitted as plain Dask submits.

    Dask's linear fusion depends on the order of a set, so that the same graph gives a few tasks
    more or fewer from run to run: the sum over many programs is compared.
    """
    ours = dasks = 0
    for program in random_programs(60):
        dasks += run(*arrays(program)).n_tasks
        for step in program.steps:
            step.where = where
        with pool("A") if where == "A" else nullcontext():
            outputs = arrays(program)
        done = run_with_pools(*outputs)
        ours += done.n_tasks
        assert done.pools() == {("A",) if where == "A" else ()}
    assert ours == pytest.approx(dasks, rel=0.03)


def test_fusion_loses_tasks_at_crossings_only() -> None:
    """With pools, at most one more task is submitted for each edge that crosses pools."""
    chance = random.Random(1)
    crossings = 0
    for program in random_programs(60):
        dasks = max(run(*arrays(program)).n_tasks for _ in range(3))
        for step in program.steps:
            step.where = chance.choice(["A", "B", "free", "free"])
        outputs = arrays(program)
        plan = plan_pools(*outputs)
        edges = sum(
            plan.pools[key] != plan.pools.get(needed, plan.pools[key])
            for key, inputs in plan.dependencies.items()
            for needed in inputs
        )
        crossings += edges
        noise = 4  # see above
        assert run_with_pools(*outputs).n_tasks <= dasks + edges + noise
    assert crossings > 50
