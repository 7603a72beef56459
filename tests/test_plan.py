"""A plan: what crosses, what it costs, why tasks are where they are, and how it reads."""

from __future__ import annotations

import html
import itertools
import json
import os
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

import cloudpickle
import dask.array as da
import pytest
from dask import delayed
from dask.typing import Key
from plans import plan_of

from dask_worker_pools import plan_pools, pool
from dask_worker_pools.errors import UnknownTask
from dask_worker_pools.placement import traffic
from dask_worker_pools.plan import Plan, Transfer, landing_key

MiB = 2**20


@pytest.fixture
def fan() -> Plan:
    """A mean of A that three tasks of B need, and one of C.

    load (A, 800) → mean (A, 8) → use.0, use.1, use.2 (B)
                               └→ far (C)
    """
    return plan_of(
        {"load": "A", "mean": "A", "use.0": "B", "use.1": "B", "use.2": "B", "far": "C"},
        "load>mean mean>use.0 mean>use.1 mean>use.2 mean>far",
        sizes={"load": 800, "mean": 8, "use.0": 40, "use.1": 40, "use.2": 40, "far": 1},
        pinned="load use.0 use.1 use.2 far",
    )


# --- What crosses -----------------------------------------------------------------------------


def test_several_consumers_land_once(fan: Plan) -> None:
    """An output with several consumers in a pool lands there; one with a single one does not.

    mean (A) → use.0, use.1, use.2 (B): lands
            └→ far (C): does not
    """
    assert fan.transfers == (
        Transfer("mean", "A", "B", 8, landing="landing-B-mean"),
        Transfer("mean", "A", "C", 8, landing=None),
    )
    assert fan.bytes_by_link == {("A", "B"): 8, ("A", "C"): 8}
    assert fan.total_bytes == 16


def test_landing_counts_consumers_and_not_uses() -> None:
    """A task that names an input twice is one consumer.

    x (A) ⇉ y (B)
    """
    [transfer] = plan_of({"x": "A", "y": "B"}, "x>y x>y").transfers
    assert transfer.landing is None


@pytest.mark.parametrize(
    ("key", "landing"),
    [
        ("mean", "landing-eu-mean"),
        (("mean-1a2b", 0, 1), ("landing-eu-mean-1a2b", 0, 1)),
        ((("a", 1), 0), ("landing-eu", (("a", 1), 0))),
        (7, ("landing-eu", 7)),
        (("7", 0), ("landing-eu-7", 0)),
        ((7, 0), ("landing-eu", (7, 0))),
    ],
)
def test_landing_keys_read_like_their_outputs(key: Key, landing: Key) -> None:
    """A landing is called as the output is, with the pool where it lands."""
    assert landing_key(key, "eu") == landing


def test_landing_keys_are_apart() -> None:
    """Each landing of a plan has a key of its own, which no task has.

    x.0 … x.3 (A) → every one of y.0 … y.3 (B), z.0 … z.3 (C)
    """
    tasks = {f"{name}.{i}": where for name, where in zip("xyz", "ABC") for i in range(4)}
    edges = [f"x.{i}>{name}.{j}" for i in range(4) for j in range(4) for name in "yz"]
    plan = plan_of(tasks, " ".join(edges))
    landings = [transfer.landing for transfer in plan.transfers]
    assert len(set(landings)) == len(landings) == 8
    assert plan.pools.keys().isdisjoint(landings)


def test_data_in_memory_crosses_too() -> None:
    """Data that lies in a pool's memory is shipped to the tasks of another that need it.

    data (memory of A) → x, y (B)
    """
    plan = plan_of({"x": "B", "y": "B"}, "data>x data>y", sizes={"data": 8}, pinned="data")
    assert plan.transfers == (Transfer("data", "A", "B", 8, landing="landing-B-data"),)
    assert plan.cost == 8
    assert plan.explain("x").inputs == {"A": 8}


def test_transfers_do_not_depend_on_the_order_of_inputs() -> None:
    """Transfers come in the order of the tasks, whatever order inputs have.

    x.0 … x.5 (A) → every one of y.0 … y.5 (B or C)
    """
    tasks = {f"x.{i}": "A" for i in range(6)} | {f"y.{i}": "BC"[i % 2] for i in range(6)}
    edges = [f"x.{i}>y.{j}" for i in range(6) for j in range(6)]
    shuffled = random.Random(0).sample(edges, len(edges))
    assert plan_of(tasks, " ".join(edges)).transfers == plan_of(tasks, " ".join(shuffled)).transfers


def test_one_pool_ships_nothing() -> None:
    """Within one pool nothing crosses.

    x (A) → y (A) → z (A)
    """
    plan = plan_of({"x": "A", "y": "A", "z": "A"}, "x>y y>z", sizes={"x": 8, "y": 8, "z": 8})
    assert plan.transfers == ()
    assert plan.cost == 0
    assert "Nothing is sent between pools" in repr(plan)


def test_empty_plan() -> None:
    """A plan of nothing has nothing to say, and says it."""
    plan = plan_of({})
    assert repr(plan) == "Plan of 0 tasks in 0 layers\nNothing is sent between pools"
    assert plan.cost == 0
    assert plan.assumptions == ()
    assert "0 tasks" in plan._repr_html_()


# --- Costs ------------------------------------------------------------------------------------


def test_cost_counts_each_output_once_a_pool(fan: Plan) -> None:
    """The cost is size × link cost, once for each pool that an output is shipped to.

    mean (A, 8) → three tasks (B), one task (C)
    """
    assert fan.cost == 16
    priced = replace(fan, link_cost=lambda source, target: {"B": 10, "C": 0.5}.get(target, 1))
    assert priced.cost == 84
    assert priced.total_bytes == 16


def test_cost_is_what_placement_minimises() -> None:
    """Whatever is blocked, unknown or priced, the cost is that of the placement's objective.

    Random graphs of ten tasks in three pools.
    """
    rng = random.Random(1)
    for _ in range(50):
        keys: list[Any] = [f"x.{i}" for i in range(10)]
        pools = {key: rng.choice(["A", "B", "C", None]) for key in keys}
        edges = [f"{a}>{b}" for a, b in itertools.combinations(keys, 2) if rng.random() < 0.3]
        blocked = [key for key, where in pools.items() if where is None and rng.random() < 0.5]
        plan = plan_of(
            pools,
            " ".join(edges),
            sizes={key: rng.randrange(100) for key in keys},
            blocked=" ".join(blocked),
            link_cost=lambda source, target: ord(source) - 64 + 2 * (ord(target) - 64),
            capacity={"A": 1, "B": 2, "C": 3},
        )
        assert plan.cost == pytest.approx(
            traffic(
                plan.dependencies,
                pools,
                plan.sizes,
                blocked=blocked,
                link_cost=plan.link_cost,
                capacity=plan.capacity,
            )
        )


def test_unknown_sizes_cost_the_median() -> None:
    """An output of unknown size costs the median of the known ones, but has no bytes.

    x (A, 10), y (A, ?), z (A, 20) → sum (B, 40)
    """
    plan = plan_of(
        {"x": "A", "y": "A", "z": "A", "sum": "B"},
        "x>sum y>sum z>sum",
        sizes={"x": 10, "z": 20, "sum": 40},
    )
    assert plan.cost == 10 + 20 + 20
    assert plan.total_bytes == 30
    assert plan.assumptions == ("size of 1 output of y unknown: counted as the median, 20 B",)


def test_without_sizes_outputs_are_counted() -> None:
    """Where no size is known each output counts 1, and the plan says so everywhere.

    x.0, x.1 (A) → sum (B)
    """
    plan = plan_of({"x.0": "A", "x.1": "A", "sum": "B"}, "x.0>sum x.1>sum", counting=True)
    assert plan.cost == 2
    assert plan.assumptions == ("counting outputs, sizes unknown",)
    assert "Between pools: 2 transfers of unknown size (A → B)" in repr(plan)
    assert repr(plan).endswith("\n\ncounting outputs, sizes unknown")
    assert "A would cost 2 outputs less (next best)" in repr(plan.explain("sum"))


def test_outputs_of_unknown_size_may_weigh_differently() -> None:
    """Where no size is known an output that has a weight counts it, in partitions of sources.

    x (A, weighs ½) → sum (B), y (A) → sum
    """
    plan = plan_of(
        {"x": "A", "y": "A", "sum": "B"}, "x>sum y>sum", counting=True, weights={"x": 0.5}
    )
    assert plan.cost == 1.5
    assert plan.assumptions == ("counting partitions of sources, sizes unknown",)
    assert "Between pools: 2 transfers of unknown size (A → B)" in repr(plan)
    assert "A would cost 1.5 partitions less (next best)" in repr(plan.explain("sum"))
    assert "size unknown, counts 0.5 partitions" in repr(plan.explain("x"))
    assert "size unknown, counts 1 partition\n" in repr(plan.explain("y"))
    assert [transfer.nbytes for transfer in plan.transfers] == [None, None]


def test_weights_beside_known_sizes_are_of_the_median() -> None:
    """Where others are known, an output of unknown size counts its weight of the median.

    x (A, ?, weighs ½), y (A, 8) → sum (B, 8)
    """
    plan = plan_of(
        {"x": "A", "y": "A", "sum": "B"},
        "x>sum y>sum",
        sizes={"y": 8, "sum": 8},
        weights={"x": 0.5, "y": 100},
    )
    assert plan.cost == 4 + 8
    assert plan.total_bytes == 8
    assert plan.assumptions == (
        "size of 1 output of x unknown: counted as partitions of sources, each the median, 8 B",
    )


# --- Explanations -----------------------------------------------------------------------------


@pytest.fixture
def between_two() -> Plan:
    """A free sum between two pools.

    x (A, 100) ┐         ┌→ p, q (A)
    y (B, 10)  ┴→ sum (30) → r (B)
    """
    return plan_of(
        {"x": "A", "y": "B", "sum": "A", "p": "A", "q": "A", "r": "B"},
        "x>sum y>sum sum>p sum>q sum>r",
        sizes={"x": 100, "y": 10, "sum": 30, "p": 1, "q": 1, "r": 1},
        pinned="x y p q r",
        sources={"sum-0123abcd": "chunks"},
        capacity={"C": 2},
    )


def test_explaining_a_task(between_two: Plan) -> None:
    """It has the task's inputs and consumers by pool, what it ships, and what moving it costs.

    x (A, 100), y (B, 10) → sum (A, 30) → p, q (A), r (B)
    """
    why = between_two.explain("sum")
    assert why.inputs == {"A": 100, "B": 10}
    assert why.consumers == {"A": 2, "B": 1}
    assert why.ships == {"B": 30}
    assert why.costs == {"B": 90, "C": 100 + 10 + 60 - 40}
    assert why.next_best == "B"
    assert (
        repr(why)
        == """\
task 'sum' of layer 'sum-0123abcd'
  where      A: free to run anywhere
  output     30 B (chunks)
  inputs     A 100 B, B 10 B
  consumers  2 tasks in A, 1 task in B
  ships      B 30 B
  elsewhere  B would cost 90 B more (next best), C would cost 130 B more"""
    )


def test_costs_elsewhere_are_those_of_the_plan_that_one_would_have(between_two: Plan) -> None:
    """What another pool would cost more is the difference between the costs of two plans.

    x (A, 100), y (B, 10) → sum → p, q (A), r (B)
    """
    for where, more in between_two.explain("sum").costs.items():
        moved = replace(between_two, pools={**between_two.pools, "sum": where})
        assert moved.cost - between_two.cost == more


def test_a_better_place_costs_less() -> None:
    """A task that is not where it costs least is explained honestly.

    x (A, 100) → y (B)
    """
    plan = plan_of({"x": "A", "y": "B"}, "x>y", sizes={"x": 100, "y": 1}, pinned="x")
    assert plan.explain("y").costs == {"A": -100}
    assert "A would cost 100 B less (next best)" in repr(plan.explain("y"))


def test_explaining_a_layer_moves_all_its_free_tasks() -> None:
    """For a layer, other pools are priced for all its free tasks together.

    x.0 … x.3 (A, 10 each) → y.0, y.1 (A), y.2 (A, pinned), y.3 (B) → sum (A)
    """
    tasks = {f"x.{i}": "A" for i in range(4)} | {f"y.{i}": "AAAB"[i] for i in range(4)}
    plan = plan_of(
        tasks | {"sum": "A"},
        " ".join(f"x.{i}>y.{i} y.{i}>sum" for i in range(4)),
        sizes=dict.fromkeys(tasks, 10),
        pinned="x.0 x.1 x.2 x.3 y.2 sum",
    )
    why = plan.explain("y")
    assert (why.pinned, why.free, why.pools) == (1, 3, {"A": 3, "B": 1})
    assert why.inputs == {"A": 40}
    assert why.consumers == {"A": 1}
    assert why.costs == {"A": -20, "B": 40}
    assert "where      3 tasks in A, 1 task in B: 1 pinned, 3 free to run anywhere" in repr(why)
    assert "all 3 together: A would cost 20 B less (next best)" in repr(why)


def test_pinned_and_blocked_tasks_have_nowhere_else() -> None:
    """What the user pinned or blocked is not priced elsewhere.

    x (A) → y (blocked) → z (B)
    """
    plan = plan_of(
        {"x": "A", "y": None, "z": "B"},
        "x>y y>z",
        sizes={"x": 8, "y": 8, "z": 8},
        pinned="x z",
        blocked="y",
    )
    pinned, blocked = plan.explain("x"), plan.explain("y")
    assert pinned.costs == blocked.costs == {}
    assert pinned.next_best is None
    assert "where      A: pinned" in repr(pinned)
    assert "where      no pool: blocked, any worker may run it" in repr(blocked)


def test_tasks_near_to_nothing_are_called_so() -> None:
    """A task that no pinned task is connected with has no pool, and costs nothing in any.

    x (A)    y (no pool)
    """
    why = plan_of({"x": "A", "y": None}, sizes={"x": 8, "y": 8}, pinned="x").explain("y")
    assert "no pool: free to run anywhere, near to no pinned task" in repr(why)
    assert why.costs == {"A": 0}
    assert "A would cost the same" in repr(why)


def test_restricted_tasks_are_priced_where_they_may_go() -> None:
    """A task that may only run in some pools is priced in those.

    x (A, 100) → y (A; A or B) ; C has workers too
    """
    plan = plan_of(
        {"x": "A", "y": "A"},
        "x>y",
        sizes={"x": 100, "y": 1},
        pinned="x",
        capacity={"B": 1, "C": 1},
        allowed={"y": ("B", "A")},
    )
    assert plan.explain("y").costs == {"B": 100}
    assert "free to run in A or B" in repr(plan.explain("y"))


def test_pools_without_workers_are_no_alternative() -> None:
    """A pool of capacity 0 receives only what is pinned to it.

    x (A) → y (A)    z (B), which has no workers
    """
    plan = plan_of({"x": "A", "y": "A", "z": "B"}, "x>y", pinned="x z", capacity={"B": 0})
    assert plan.explain("y").costs == {}
    assert "no other pool to go to" in repr(plan.explain("y"))


def test_explaining_what_lands(fan: Plan) -> None:
    """An output that crosses once for several tasks is shown with its landing.

    mean (A) → use.0, use.1, use.2 (B), far (C)
    """
    text = repr(fan.explain("mean"))
    assert "B 8 B, once for all its tasks there, as 'landing-B-mean'; C 8 B" in text


def test_link_costs_have_no_unit(fan: Plan) -> None:
    """With link costs, what other pools would cost is no number of bytes.

    mean (A) → use.0, use.1, use.2 (B), far (C)
    """
    why = replace(fan, link_cost=lambda source, target: 0.5).explain("mean")
    assert "B would cost 396 more (next best), C would cost 396 more" in repr(why)


def test_explaining_by_short_name(fan: Plan) -> None:
    """A layer is found by its whole name, and by its short one if no other has it.

    use.0, use.1, use.2 (B)
    """
    assert fan.explain("use").name == fan.explain("use-0123abcd").name == "use-0123abcd"
    twice = plan_of({"x": "A", "y": "A"})
    twice = replace(twice, layer_of={"x": "add-0123abcd", "y": "add-fedc9876"})
    with pytest.raises(UnknownTask) as raised:
        twice.explain("add")
    assert raised.value.near == ("'add-0123ab'", "'add-fedc98'")
    assert twice.explain("add-fedc98").name == "add-fedc9876"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("maen", ("'mean'",)),
        (("x", 99), ("('x', 9)", "('x', 8)")),
        (("xx", 0), ("'x'",)),
        ("nothing like it", ()),
        (["x"], ()),
    ],
)
def test_unknown_names_come_with_near_ones(name: Any, near: tuple[str, ...]) -> None:
    """Asking about what is not there says what is called nearly so.

    mean, ('x', 0) … ('x', 9)
    """
    keys: list[Key] = ["mean", *(("x", i) for i in range(10))]
    plan = Plan(
        pools=dict.fromkeys(keys, "A"),
        dependencies={key: [] for key in keys},
        layer_of={key: "mean" if key == "mean" else "x" for key in keys},
        sizes={},
    )
    with pytest.raises(UnknownTask, match="no task and no layer of this plan is called") as raised:
        plan.explain(name)
    assert raised.value.near == near
    assert isinstance(raised.value, KeyError)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (copy.name, copy.near, str(copy)) == (name, near, str(raised.value))


# --- Text and HTML ----------------------------------------------------------------------------


def test_table_of_layers_and_pools() -> None:
    """The plan prints as a table, layers in graph order, below what crosses in all.

    load.0 (A), load.1 (B) → double.0 (A), double.1 (B) → sum (A) → keep (blocked)
    """
    plan = plan_of(
        {
            "keep": None,
            "sum": "A",
            "double.0": "A",
            "double.1": "B",
            "load.0": "A",
            "load.1": "B",
        },
        "load.0>double.0 load.1>double.1 double.0>sum double.1>sum sum>keep",
        sizes={"load.0": MiB, "load.1": MiB, "double.0": 2 * MiB, "double.1": 2 * MiB, "sum": 8},
        pinned="load.0 load.1",
        blocked="keep",
    )
    assert (
        repr(plan)
        == """\
Plan of 6 tasks in 4 layers
Between pools: 2.00 MiB in 1 transfer (B → A), and up to 8 B read by tasks without a pool

layer   pool               tasks  bytes out  sent to
load    A (pinned)             1   1.00 MiB
        B (pinned)             1   1.00 MiB
double  A                      1   2.00 MiB
        B                      1   2.00 MiB  A 2.00 MiB
sum     A                      1        8 B  no pool ≤ 8 B
keep    no pool (blocked)      1    unknown

size of 1 output of keep unknown: counted as the median, 1.00 MiB"""
    )


def test_links_are_listed_largest_first() -> None:
    """Above the table stand the bytes of all links, the largest first.

    x (A, 8) → y (C, 80) → z (B)
    """
    plan = plan_of({"x": "A", "y": "C", "z": "B"}, "x>y y>z", sizes={"x": 8, "y": 80})
    assert "Between pools: 88 B in 2 transfers (C → B 80 B, A → C 8 B)" in repr(plan)


def test_long_plans_are_cut_short() -> None:
    """Only the first twenty or so rows are printed, and how many layers are missing.

    layer00 → layer01 → … → layer29 (A)
    """
    names = [f"layer{i:02}x" for i in range(30)]
    plan = plan_of(
        dict.fromkeys(names, "A"), " ".join(map(">".join, itertools.pairwise(names))), sizes={}
    )
    lines = repr(plan).splitlines()
    assert len(lines) < 30
    assert "… and 10 more layers" in lines
    assert [line.split()[0] for line in lines[4:24]] == names[:20]


def test_layers_of_one_task_stand_together() -> None:
    """Delayed calls of one function, each a layer of its own, share a row.

    load × 30 → total
    """

    def load(i: int) -> int:
        return i

    with pool("A"):
        parts = [delayed(load, pure=False)(i) for i in range(30)]
    plan = plan_pools(delayed(sum)(parts))
    assert len(plan.layers) > 30
    assert "load (30 layers)  A (pinned)     30" in repr(plan)
    assert len(repr(plan).splitlines()) < 12


def test_layers_that_need_each_other_are_all_listed() -> None:
    """Layers are listed once each, also where two of them need each other.

    x.0 → y.0 → x.1
    """
    plan = plan_of({"x.0": "A", "y.0": "A", "x.1": "A"}, "x.0>y.0 y.0>x.1")
    assert sorted(plan.layers) == ["x-0123abcd", "y-0123abcd"]


def test_html_holds_what_the_text_says(fan: Plan) -> None:
    """In a notebook the plan is a table with the same figures.

    load (A) → mean (A) → use.0, use.1, use.2 (B), far (C)
    """
    page = fan._repr_html_()
    assert "<table" in page
    for cell in ("load", "A (pinned)", "800 B", "B 8 B, C 8 B", "A → B 8 B"):
        assert cell in page
    assert "<li>size of 1 output" not in page
    assert "<li>" in replace(fan, sizes={"mean": 8})._repr_html_()


def test_html_escapes_names() -> None:
    """Names of layers and pools cannot break the page.

    <b>&x (<i>A</i>)    y (B)
    """
    plan = plan_of({"<b>&x": "<i>A</i>", "y": "B"})
    page = plan._repr_html_()
    assert "<i>" not in page
    assert html.escape("<i>A</i>") in page
    assert "<b>&x" not in page


@pytest.mark.parametrize("missing", ["jinja2", "template"])
def test_html_without_jinja2_is_the_text(
    fan: Plan, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Jinja2, or without the template, the notebook shows the text.

    load (A) → mean (A) → use.0, use.1, use.2 (B), far (C)
    """

    def fails(name: str) -> None:
        raise ImportError(missing) if missing == "jinja2" else LookupError(name)

    monkeypatch.setattr("dask_worker_pools.widgets.get_template", fails)
    assert fan._repr_html_() == f"<pre>{html.escape(repr(fan))}</pre>"


def test_dict_is_json(fan: Plan) -> None:
    """A plan can be written as JSON, with the keys of tasks as text.

    load (A) → mean (A) → use.0, use.1, use.2 (B), far (C)
    """
    data = json.loads(json.dumps(fan.to_dict()))
    assert data["pools"]["use.1"] == "B"
    assert data["transfers"][0] == {
        "key": "mean",
        "source": "A",
        "target": "B",
        "nbytes": 8.0,
        "landing": "landing-B-mean",
    }
    assert data["bytes_by_link"] == {"A": {"B": 8.0, "C": 8.0}}
    assert (data["total_bytes"], data["assumptions"]) == (16.0, [])


def test_dict_of_an_array_is_json() -> None:
    """Tuples as keys, and sizes from NumPy, are no obstacle to JSON.

    a (A, 4 blocks) + b (B, 4 blocks)
    """
    with pool("A"):
        a = da.ones((4, 4), chunks=2)
    with pool("B"):
        b = da.ones((4, 4), chunks=2)
    data = json.loads(json.dumps(plan_pools(a + b).to_dict()))
    assert str((a.name, 0, 0)) in data["pools"]


# --- Computed once, and travelling ------------------------------------------------------------


def test_properties_are_computed_once(fan: Plan) -> None:
    """What follows from a plan is computed when it is first asked for, and kept."""
    assert fan.transfers is fan.transfers
    assert fan.consumers is fan.consumers
    assert replace(fan, sizes={}).transfers is not fan.transfers


def test_what_was_computed_is_no_part_of_the_plan(fan: Plan) -> None:
    """Plans are equal whatever was asked of one of them, and cannot be changed."""
    other = replace(fan)
    assert fan.transfers
    assert fan == other
    with pytest.raises(AttributeError):
        fan.transfers = ()


def test_travels(fan: Plan) -> None:
    """A plan and its class work where this package is not installed.

    load (A) → mean (A) → use.0, use.1, use.2 (B), far (C)
    """
    code = (
        "import pickle, sys; sys.modules['dask_worker_pools'] = None\n"
        "cls, plan = pickle.load(sys.stdin.buffer)\n"
        "plan = cls(plan.pools, plan.dependencies, plan.layer_of, plan.sizes, plan.pinned)\n"
        "assert plan.transfers is plan.transfers\n"
        "assert plan._repr_html_().startswith('<')\n"
        "out = [repr(plan), repr(plan.transfers), plan.cost, repr(plan.explain('mean'))]\n"
        "sys.stdout.buffer.write(pickle.dumps(out))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        input=cloudpickle.dumps((Plan, fan)),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ""},
        check=True,
    )
    there = pickle.loads(answer.stdout)
    assert there == [repr(fan), repr(fan.transfers), fan.cost, repr(fan.explain("mean"))]
