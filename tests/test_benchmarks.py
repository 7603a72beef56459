"""The benchmarks measure what they say: lower bounds, contenders, reports, and comparisons."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import clusters
import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from dask import delayed
from distributed import Client
from placement_oracle import Case as Placement

from benchmarks import rule2022
from benchmarks.compare import main as compare_main
from benchmarks.contenders import annotated, contenders, mixes
from benchmarks.graphs import are_frames, measured, whole_graph
from benchmarks.measure import run_once
from benchmarks.oracle import least_traffic, shrink
from benchmarks.race import Question, race
from benchmarks.report import Case as Seen
from benchmarks.report import amount, best_of_all, replace_blocks, table, verdicts, write
from benchmarks.sites import save
from benchmarks.workloads import WORKLOADS, Case, Workload
from dask_worker_pools import LocalPoolCluster

# --- Lower bounds -----------------------------------------------------------------------------


def random_placement(seed: int) -> Placement:
    """A small problem with one cost for all links."""
    rng = random.Random(seed)
    pools = "ABC"[: rng.choice([2, 3])]
    n = rng.randint(4, 9)
    graph = {
        k: {rng.randrange(k) for _ in range(rng.randint(0, 2))} if k else set() for k in range(n)
    }
    likely = {key: 0.15 if inputs else 0.8 for key, inputs in graph.items()}
    return Placement(
        graph,
        pins={key: rng.choice(pools) for key in graph if rng.random() < likely[key]},
        sizes={key: rng.choice([0.0, 1.0, 2.0, 3.0, 8.0, 30.0]) for key in graph},
        pools=pools,
        link={(p, q): float(p != q) for p in pools for q in pools},
        capacity=dict.fromkeys(pools, 1.0),
    )


@pytest.mark.parametrize("seed", range(60))
def test_the_lower_bound_is_what_trying_everything_finds(seed: int) -> None:
    """On random graphs of up to nine tasks and three pools, HiGHS and exhaustive search agree."""
    case = random_placement(seed)
    start = {key: case.pins.get(key, case.pools[0]) for key in case.graph}
    bound = least_traffic(case.graph, case.pins, case.sizes)
    assert bound.exact
    assert bound.nbytes == pytest.approx(case.cheapest(start)[1])


def test_shrinking_merges_chains() -> None:
    """A chain of a hundred steps, each smaller than the one before, is no more than its ends."""
    graph: dict[int, list[int]] = {0: [], **{n: [n - 1] for n in range(1, 100)}}
    sizes = {n: float(200 - n) for n in graph}
    assert shrink(graph, {0: "A", 99: "B"}, sizes).nodes == 2
    assert least_traffic(graph, {0: "A", 99: "B"}, sizes).nbytes == 200 - 98


def test_true_sizes_are_those_that_workers_measure() -> None:
    """Every needed task is run, and its output measured by Dask's own `sizeof`."""
    with annotated("A"):
        x = da.ones((10, 10), chunks=5) + 0
    instance = measured(*whole_graph([x.sum()], keep=False))
    assert instance.outputs == [100.0]
    assert set(instance.pins.values()) == {"A"}
    assert instance.pinned_bytes()["A"] >= 4 * 25 * 8
    assert sum(size == 32 for size in instance.sizes.values()) >= 1  # a number, as Python holds it


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workloads write what they read."""
    return tmp_path_factory.mktemp("stores")


def test_only_frames_are_frames() -> None:
    """A delayed object, which says yes to any attribute, is no frame; a frame is one."""
    frame = dd.from_pandas(pd.DataFrame({"x": [1, 2]}), npartitions=1)
    assert are_frames([frame])
    assert are_frames([frame.x])
    assert not are_frames([delayed(int)(1), da.ones(1), db.from_sequence([1])])


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_plan_sends_more_than_must_be(name: str, stores: Path) -> None:
    """With the true sizes of its outputs, each workload's plan sends at most 1.05 × the bound."""
    workload = WORKLOADS[name]
    question = Question.of(Case(workload, next(iter(workload.shapes)), stores), threads=2)
    instance, pools = question.instance, question.plan.pools
    assert question.bound.exact
    assert set(instance.pins.values()) == set(workload.sites)
    sent = {
        (key, pools[user])
        for user, inputs in instance.dependencies.items()
        for key in inputs
        if pools[user] != pools[key]
    }
    assert sum(instance.sizes[key] for key, _ in sent) <= 1.05 * question.bound.nbytes


# --- The rule of 2022 -------------------------------------------------------------------------


def arrays() -> tuple[da.Array, da.Array]:
    """A large array in A, a small one in B."""
    with annotated("A"):
        a = da.ones((20, 20), chunks=10, name="a")
    with annotated("B"):
        b = da.ones(20, chunks=10, name="b")
    return a, b


def by_rule(collection: Any) -> dict[str, str | None]:
    """Pools of the layers, by the beginning of their names."""
    graph = collection.__dask_graph__()
    return {name.partition("-")[0]: p for name, p in rule2022.pools_of_layers(graph).items()}


def test_the_rule_follows_most_bytes() -> None:
    """A layer goes where most bytes of the layers that it needs are, whatever comes after it."""
    a, b = arrays()
    assert by_rule(b - a.mean())["sub"] == "B"
    assert by_rule(a - b)["sub"] == "A"
    assert by_rule(da.outer(b, b) + a.astype("f4"))["add"] == "B"  # 1600 bytes are sent, not 160


def test_the_rule_follows_most_keys_where_sizes_are_unknown() -> None:
    """Of delayed objects, whose size nobody knows, the pool with more keys wins."""
    with annotated("A"):
        first = [delayed(str)(n) for n in range(2)]
    with annotated("B"):
        second = [delayed(str)(n) for n in range(3)]
    assert by_rule(delayed(list)([*first, *second]))["list"] == "B"


def test_the_rule_keeps_pools_apart_and_results_right() -> None:
    """Each task has one pool when Dask has optimised by the rule, and the sum is right."""
    a, b = arrays()
    x = (a - b + 1).sum()
    graph = rule2022.optimize(x.dask, x.__dask_keys__())
    said = [(layer.annotations or {})["resources"] for layer in graph.layers.values()]
    assert {name for own in said for name in own} == {"pool-A", "pool-B"}
    assert all(len(own) == 1 for own in said)
    with dask.config.set(array_optimize=rule2022.optimize):
        assert x.compute(scheduler="sync") == 400


def test_plain_dask_is_told_not_to_merge_pools() -> None:
    """It is seen beforehand whether Dask's fusion would merge loads of two pools."""
    a, b = arrays()
    assert mixes([a + b])
    assert not mixes([a + 1, b + 1])


# --- Runs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local_client() -> Iterator[Client]:
    """Two workers in each of two pools."""
    with LocalPoolCluster({"A": 2, "B": 2}, processes=False) as cluster:
        with cluster.get_client() as client:
            yield client


def small(pool: Any, data: Path, n: int) -> list[Any]:
    """A workload as in the benchmarks."""
    with pool("A"):
        a = da.random.default_rng(0).random((n, n), chunks=n // 2)
    with pool("B"):
        b = da.random.default_rng(0).random(n, chunks=n // 2)
    return [(a - b).mean(), b + a.sum(axis=0)]


@pytest.fixture(scope="module")
def record(local_client: Client) -> dict[str, Any]:
    """What was seen of all contenders on a small workload."""
    workload = Workload("small", "A small one", small, {"only": {"n": 100}})
    return race(local_client, Case(workload, "only"), repeat=2, timeout=60)


def test_every_contender_gives_the_right_result(record: dict[str, Any]) -> None:
    """All four finish twice, with the results of a run without a cluster, and are measured."""
    assert [runs["status"] for runs in record["runs"].values()] == ["ok"] * 4
    for runs in record["runs"].values():
        assert len(runs["seconds"]) == len(runs["crossed"]) == 2
        assert min(runs["seconds"]) > 0
        assert min(runs["submitted"]) > 3


def test_no_contender_sends_less_than_the_bound(record: dict[str, Any]) -> None:
    """The bound holds for what was measured; this library meets it, and foresees what it sends."""
    bound = record["bound"]["nbytes"]
    assert all(min(runs["crossed"]) >= bound for runs in record["runs"].values())
    assert max(record["runs"]["pools"]["crossed"]) <= 1.05 * bound
    assert record["predicted"] == pytest.approx(bound, rel=0.1)


def test_a_run_that_never_ends_is_given_up(local_client: Client) -> None:
    """Work for a pool that is not there is not done in time, and leaves nothing behind."""

    def build(pool: Any) -> list[Any]:
        with pool("nowhere"):
            return [da.ones(4)]

    run = run_once(local_client, contenders("A")[0], build, keep=False, timeout=0.5)
    assert run.status == "not done after 0.5 s"
    again = run_once(
        local_client, contenders("A")[0], lambda pool: [da.ones(4)], keep=True, timeout=60
    )
    assert again.status == "ok"


def test_a_wrong_result_is_noticed(local_client: Client) -> None:
    """A result that is not the expected one fails the run; an exception is named."""
    plain = contenders("A")[0]

    def run(x: Any, expected: Any) -> str:
        return run_once(
            local_client, plain, lambda pool: [x], keep=False, timeout=60, expected=[expected]
        ).status

    assert run(da.arange(4), np.arange(4)) == "ok"
    assert run(da.arange(4), np.arange(4) + 1) == "wrong result"
    assert run(delayed(int)("x"), 1).startswith("ValueError: invalid literal")


def joined(pool: Any, data: Path, n: int) -> list[Any]:
    """A join of two frames, the second of which is the smaller."""
    with pool("A") as stay:
        large = stay(dd.from_pandas(pd.DataFrame({"x": range(8 * n), "y": 1.0}), npartitions=4))
    with pool("B") as stay:
        small = stay(dd.from_pandas(pd.DataFrame({"x": range(n)}), npartitions=2))
    return [large.merge(small, on="x").y.sum()]


def test_every_contender_joins_dataframes(local_client: Client) -> None:
    """Whoever cannot pin a frame loads it in its pool first; this library sends what it must."""
    workload = Workload("joined", "A join", joined, {"only": {"n": 5000}}, keep=True)
    with clusters.record_executions(local_client) as ran:
        record = race(local_client, Case(workload, "only"), repeat=1, timeout=60)
    assert [runs["status"] for runs in record["runs"].values()] == ["ok"] * 4
    assert {pools for own in ran.pools_of.values() for pools in own} == {"A", "B"}
    crossed = {name: runs["crossed"][0] for name, runs in record["runs"].items()}
    # Not to the byte: what is told of the labels may differ by some hundred bytes.
    bound = pytest.approx(record["bound"]["nbytes"], rel=0.01)
    assert min(crossed.values()) == bound
    assert crossed["pools"] == bound
    assert crossed["pools"] > 8 * 5000


def test_the_rule_places_the_steps_of_a_join(local_client: Client) -> None:
    """Loads stay, each side is shuffled at home, and the rest goes where more partitions are."""
    loaded: dict[str, str] = {}
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        (frame,) = joined(partial(annotated, loaded=loaded), Path(), 100)
        assert set(loaded.values()) == {"A", "B"}
        (sent,) = rule2022.with_layers(loaded, [frame])
    placed = rule2022.pools_of_layers(sent.__dask_graph__())
    assert {where for name, where in placed.items() if "shuffle" in name} == {"A", "B"}
    (last,) = sent.__dask_layers__()
    assert placed[last] == "A"
    assert sent.compute() == 100


def test_sizes_do_not_depend_on_chance() -> None:
    """A long list has one size, told from elements all along it; a short one is counted whole."""
    script = """
from benchmarks.sampling import sample_evenly
from dask.sizeof import sizeof
sample_evenly()
long = ["x" * n for n in range(1000)]
again = {sizeof(long) for _ in range(20)}
print(*again, sizeof(dict.fromkeys(long)), sizeof(long[-3:]), sizeof([]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    of_list, of_dict, of_few, of_none = map(int, done.stdout.split())
    long = ["x" * n for n in range(1000)]
    assert of_list == pytest.approx(sys.getsizeof(long) + sum(map(sys.getsizeof, long)), rel=0.1)
    assert of_dict > of_list - sys.getsizeof(long)
    assert of_few == sys.getsizeof(long[-3:]) + sum(map(sys.getsizeof, long[-3:]))
    assert of_none == sys.getsizeof([])


# --- Reports ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (32, "32 B"), (17738, "17.7 kB"), (999_999, "1 MB"), (8.2256e6, "8.23 MB")],
)
def test_amounts_have_three_digits(nbytes: float, text: str) -> None:
    """Bytes are shown in the unit that suits them."""
    assert amount(nbytes) == text


def test_tables_are_markdown() -> None:
    """Numbers stand to the right."""
    assert table([["a", "b"], ["x", "1"]]) == "| a | b |\n| --- | --: |\n| x | 1 |"


def test_blocks_that_are_not_there_are_an_error() -> None:
    """Nothing is written where there is no place for it."""
    with pytest.raises(ValueError, match="no <!-- x -->"):
        replace_blocks("text", {"x": "new"})


def changed(record: dict[str, Any], **ours: Any) -> Seen:
    """The same case with other figures of this library."""
    runs = {**record["runs"], "pools": {**record["runs"]["pools"], **ours}}
    return Seen({**record, "runs": runs})


def test_misses_are_named(record: dict[str, Any]) -> None:
    """A case that misses a target is counted and named, with what was seen."""
    bound = record["bound"]["nbytes"]
    good = changed(record, crossed=[bound, bound], seconds=[1e-6, 1e-6])
    bad = changed(record, crossed=[2 * bound, 1e9], seconds=[100.0, 100.0])
    assert [one.met for one in verdicts([good])] == [True] * 4
    near, below, fast, foreseen = verdicts([good, bad])
    assert (near.outcome, near.met) == ("1 of 2", False)
    assert near.misses == [f"A small one, only: 1000 MB, at least {amount(bound)} must"]
    assert "more than" in below.misses[0]
    assert "× the time of plain Dask" in fast.misses[0]
    assert "predicted" in foreseen.misses[0]


def test_the_best_of_all_takes_the_fastest_contender_of_each_case(record: dict[str, Any]) -> None:
    """It is never slower than plain Dask, and twice as fast where another takes half the time."""
    plain = median(record["runs"]["plain"]["seconds"])
    half = changed(record, seconds=[plain / 1000])
    assert best_of_all([half]) == pytest.approx(1000)
    assert best_of_all([changed(record, seconds=[100.0])]) >= 1
    assert best_of_all([]) != best_of_all([])  # not a number


def test_a_contender_that_fails_is_shown_as_that(record: dict[str, Any], tmp_path: Path) -> None:
    """What went wrong stands in the table, and the chart does without it."""
    failed = {**record["runs"]["rule"], "status": "not done after 60 s"}
    text = written({**record, "runs": {**record["runs"], "rule": failed}}, tmp_path)
    assert "| not done after 60 s |" in text


def written(record: dict[str, Any], folder: Path) -> str:
    """The page and charts that are written for one case, twice."""
    results, page = folder / "results.json", folder / "page.md"
    settings = {"rate": 50.0, "repeat": 2, "minutes": 1.0, "load": 0.5}
    save(results, {"machine": {"processor": "slow"}, "settings": settings, "cases": [record]})
    assert json.loads(results.read_text())["cases"] == [record]
    names = ("targets", "bytes", "seconds", "machine")
    page.write_text("\n".join(f"<!-- {name} -->\n<!-- /{name} -->" for name in names))
    first = [path.read_bytes() for path in write(results, page)]
    assert first == [path.read_bytes() for path in write(results, page)]
    assert all(b"<svg" in svg and b"A small one, only" in svg for svg in first[1:])
    return page.read_text()


def test_pages_and_charts_are_written_from_results(record: dict[str, Any], tmp_path: Path) -> None:
    """Tables and charts show the case; writing them again changes nothing."""
    text = written(record, tmp_path)
    assert "| A small one | only | " in text
    assert "| processor | slow |" in text
    assert "50 Mbit/s" in text


# --- Comparing one's own ----------------------------------------------------------------------

MODULE = """
import dask.array as da
import dask.dataframe as dd
import pandas as pd
from dask_worker_pools import pool

def build():
    with pool("A"):
        a = da.ones((40, 40), chunks=20, name="mine-a") * 1
    with pool("B"):
        b = da.ones(40, chunks=20, name="mine-b") * 2
    return {"difference": b - a.mean(), "total": a.sum()}

def frames():
    with pool("A"):
        a = dd.from_pandas(pd.DataFrame({"x": range(100)}), npartitions=2)
    with pool("B"):
        b = dd.from_pandas(pd.DataFrame({"x": range(100), "y": 1}), npartitions=2)
    return a.merge(b, on="x"), a.x.sum()

def without_pools():
    return da.ones(4)

def nothing():
    return 3
"""


@pytest.fixture
def my_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user."""
    (tmp_path / "my_own_module.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield "my_own_module"
    sys.modules.pop("my_own_module", None)


def test_comparing_prints_the_plan_and_both_measures(my_module: str, local_client: Client) -> None:
    """The plan, what it predicts on each link, and what was measured both ways."""
    address = local_client.scheduler_info()["address"]
    result = CliRunner().invoke(compare_main, [f"{my_module}:build", "--scheduler", address])
    assert result.exit_code == 0, result.output
    assert "Between pools: 32 B in 1 transfer (A → B)" in result.output
    assert "this library" in result.output
    assert "plain Dask" in result.output
    assert "A→B" in result.output


@pytest.mark.filterwarnings("ignore:A dask.dataframe with pools:UserWarning")  # in plain Dask
@pytest.mark.parametrize("options", [[], ["--persist"]])
def test_dataframes_are_compared_too(
    my_module: str, local_client: Client, options: list[str]
) -> None:
    """Frames are fetched or persisted, and the smaller one is sent."""
    address = local_client.scheduler_info()["address"]
    arguments = [f"{my_module}:frames", "--scheduler", address, *options]
    result = CliRunner().invoke(compare_main, arguments)
    assert result.exit_code == 0, result.output
    assert "Between pools: 800 B in 2 transfers (A → B)" in result.output


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("my_own_module", "Expected module:function"),
        ("my_own_module:nix", "has no attribute 'nix'"),
        ("not_there:build", "No module named 'not_there'"),
        ("my_own_module:MODULE_", "has no attribute"),
        ("my_own_module:nothing", "no Dask collection"),
        ("my_own_module:without_pools", "Nothing that my_own_module:without_pools returns"),
    ],
)
def test_what_cannot_be_compared_is_refused(my_module: str, target: str, message: str) -> None:
    """A target that is no function, or returns nothing to place, is an error that says so."""
    result = CliRunner().invoke(compare_main, [target])
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
