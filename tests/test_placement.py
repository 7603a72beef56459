"""What `place` promises, one true sentence a test.

In the drawings `A` and `B` are pools, a name with a pool in brackets is pinned, and numbers are
bytes. Data flows from left to right.
"""

from __future__ import annotations

import gzip
import json
import pickle
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from placement_cases import Graph, add_then_mean, answer, cases, cost_of, exhaustively, shuffled
from placement_oracle import Case

from benchmarks.placement import PROBLEMS, arguments
from dask_worker_pools.placement import (
    GraphCycle,
    InvalidBalance,
    InvalidCapacity,
    InvalidLinkCost,
    InvalidSize,
    NoPoolAllowed,
    PinNotAllowed,
    PlacementError,
    cuts,
    kinds,
    place,
    traffic,
)

INSTANCES: list[dict[str, Any]] = json.loads(gzip.decompress(PROBLEMS.read_bytes()))


@pytest.mark.parametrize("instance", INSTANCES, ids=lambda instance: instance["name"])
@pytest.mark.parametrize("balance", [0.0, 0.01])
def test_traffic_is_at_the_optimum(instance: dict[str, Any], balance: float) -> None:
    """Traffic is within 0.1 % of the optimum, and within 1 % more if load counts too."""
    (graph, pins, sizes), options = arguments(instance)
    placed = place(graph, pins, sizes, **options, balance=balance)
    masks = options.pop("allowed")
    cost = traffic(graph, placed, sizes, **options)
    assert instance["optimum"] * (1 - 1e-9) <= cost
    assert cost <= instance["optimum"] * (1.001 + balance)
    assert all(placed[key] == pool for key, pool in pins.items())
    assert all(placed[key] in pools for key, pools in masks.items() if placed[key] is not None)


@pytest.mark.parametrize("pools", ["AB", "ABC", "ABCD"])
def test_exhaustive_search_finds_nothing_cheaper(pools: str) -> None:
    """Two pools are exact; more are within 5 % each and 0.5 % in the mean, costs of any kind."""
    ratios = []

    @exhaustively
    @given(cases(pools))
    def check(case: Case) -> None:
        placed = answer(case)
        mine, best = case.cheapest(placed)
        cost = cost_of(case, placed)
        assert cost == pytest.approx(mine)
        ratios.append(mine / best if best else 1.0 + (mine > 1e-9))

    check()
    assert max(ratios) <= (1 + 1e-9 if len(pools) == 2 else 1.05)
    assert mean(ratios) <= 1.005


def test_forward_tasks_follow_their_inputs() -> None:
    """A chain stays where it begins.

    x[A] 8 --> y 8 --> z 8
    """
    graph: Graph = {"x": [], "y": ["x"], "z": ["y"]}
    assert set(place(graph, {"x": "A"}, {}).values()) == {"A"}


def test_backward_inputs_follow_their_only_user() -> None:
    """What only A uses is made in A.

    a[A] 8 ----> sum 8
    any_pool 8 --'
    """
    graph: Graph = {"a": [], "any_pool": [], "sum": ["a", "any_pool"]}
    assert set(place(graph, {"a": "A"}, {}).values()) == {"A"}


def test_small_inputs_travel_before_they_are_expanded() -> None:
    """The small source crosses, not what is made of it.

    small[A] 1 --> expanded 100 --> used[B] 1
    """
    graph: Graph = {"small": [], "expanded": ["small"], "used": ["expanded"]}
    sizes = {"small": 1, "expanded": 100, "used": 1}
    placed = place(graph, {"small": "A", "used": "B"}, sizes)
    assert placed["expanded"] == "B"
    assert traffic(graph, placed, sizes) == 1


def test_the_wall_between_two_domains_is_short() -> None:
    """Steps of a stencil change pools together, in the middle.

    x0[A] --> y0 --> z0[A]       every y and z takes its own row
    x1[A] --> y1 --> z1[A]       and the neighbouring ones
    x2[B] --> y2 --> z2[B]
    x3[B] --> y3 --> z3[B]
    """
    width, steps = 24, 6
    graph: Graph = {(0, i): [] for i in range(width)}
    for step in range(1, steps):
        for i in range(width):
            near = range(max(0, i - 1), min(width, i + 2))
            graph[step, i] = [(step - 1, other) for other in near]
    ends = [(step, i) for step in (0, steps - 1) for i in range(width)]
    pins: dict[Any, str] = {end: "AB"[end[1] >= width // 2] for end in ends}
    placed = place(graph, pins, dict.fromkeys(graph, 4))
    assert traffic(graph, placed, dict.fromkeys(graph, 4)) == 2 * 4 * (steps - 1)


def test_an_output_is_shipped_once_to_each_pool() -> None:
    """Three users in B cost as much as one, so the middle stays in A.

    x[A] 5 --> u 2 --> p[B], q[B], r[B]
    """
    graph: Graph = {"x": [], "u": ["x"], "p": ["u"], "q": ["u"], "r": ["u"]}
    sizes = {"x": 5, "u": 2, "p": 1, "q": 1, "r": 1}
    placed = place(graph, {"x": "A", "p": "B", "q": "B", "r": "B"}, sizes)
    assert placed["u"] == "A"
    assert traffic(graph, placed, sizes) == 2


def test_blocked_tasks_have_no_pool_and_pull_by_capacity() -> None:
    """A blocked task is mostly where most workers are, and so is what only it is near to.

    x[A] 3 --> y 4 --> blocked
    """
    graph: Graph = {"x": [], "y": ["x"], "blocked": ["y"]}
    sizes = {"x": 3, "y": 4, "blocked": 1}
    many_in_b = {"A": 1, "B": 99}
    placed = place(graph, {"x": "A"}, sizes, blocked=["blocked"], capacity=many_in_b)
    assert placed == {"x": "A", "y": "B", "blocked": None}
    placed = place(graph, {"x": "A"}, sizes, blocked=["blocked"], capacity={"A": 1, "B": 1})
    assert placed == {"x": "A", "y": "A", "blocked": None}


def test_no_link_leads_through_a_blocked_task() -> None:
    """What is only near to a blocked task stays without a pool.

    x[A] --> blocked --> y
    """
    graph: Graph = {"x": [], "blocked": ["x"], "y": ["blocked"]}
    placed = place(graph, {"x": "A"}, {}, blocked=["blocked"])
    assert placed == {"x": "A", "blocked": None, "y": None}


def test_restricted_tasks_go_to_the_best_pool_they_may_go_to() -> None:
    """A task that may not be where its input is goes to an allowed pool, and its users with it.

    x[A] 8 --> y (B or C) 8 --> z 8
               w[C] 1 --'
    """
    graph: Graph = {"x": [], "w": [], "y": ["x", "w"], "z": ["y"]}
    placed = place(graph, {"x": "A", "w": "C"}, {}, allowed={"y": ["B", "C"]})
    assert placed["y"] == placed["z"] == "C"


def test_restricted_tasks_without_a_link_go_where_load_is_least() -> None:
    """A restriction holds where nothing else does.

    heavy[A] 100       u (A or B) 5       v (A or B) 5
    """
    graph: Graph = {"heavy": [], "u": [], "v": ["u"]}
    sizes = {"heavy": 100, "u": 5, "v": 5}
    placed = place(graph, {"heavy": "A"}, sizes, allowed={"u": "AB", "v": "AB"})
    assert placed == {"heavy": "A", "u": "B", "v": "B"}


def test_what_is_near_to_nothing_floats() -> None:
    """Tasks that no path connects to a pin have no pool; a path may change its direction.

    x[A] --> y <-- w --> v          p --> q
    """
    graph: Graph = {"x": [], "w": [], "y": ["x", "w"], "v": ["w"], "p": [], "q": ["p"]}
    placed = place(graph, {"x": "A"}, {})
    assert placed == dict.fromkeys("xyvw", "A") | dict.fromkeys("pq")


def test_link_costs_need_not_be_symmetric() -> None:
    """Bytes take the cheap direction.

    a[A] 10 --> sum 1 <-- b[B] 10
    """
    graph: Graph = {"a": [], "b": [], "sum": ["a", "b"]}
    sizes = {"a": 10, "b": 10, "sum": 1}

    def cheap_to(pool: str) -> Callable[[str, str], float]:
        return lambda source, target: 0.1 if target == pool else 1.0

    pins: dict[Any, str] = {"a": "A", "b": "B"}
    assert place(graph, pins, sizes, link_cost=cheap_to("A"))["sum"] == "A"
    assert place(graph, pins, sizes, link_cost=cheap_to("B"))["sum"] == "B"


def test_a_pool_without_workers_receives_nothing() -> None:
    """Pins stay in a pool of capacity 0, and everything else keeps away from it."""
    graph: Graph = {"x": [], "y": ["x"], "z": []}
    placed = place(graph, {"x": "A"}, {}, capacity={"A": 0, "B": 1})
    assert placed == {"x": "A", "y": "B", "z": None}
    assert place(graph, {"x": "A"}, {}, capacity={"A": 0}) == {"x": "A", "y": None, "z": None}


def test_data_in_memory_costs_nothing_unless_it_is_pinned() -> None:
    """A dependency that is no task is a source without a pool, or with one.

    (memory) --> x --> y
    """
    graph: Graph = {"x": ["memory"], "y": ["x"]}
    assert place(graph, {}, {}) == {"x": None, "y": None}
    assert place(graph, {"memory": "A"}, {}) == {"x": "A", "y": "A"}
    assert place(graph, {"y": "B"}, {}) == {"x": "B", "y": "B"}


def test_an_empty_graph_is_placed() -> None:
    """Nothing in, nothing out."""
    assert place({}, {}, {}) == {}


def test_one_pool_takes_everything_that_is_linked() -> None:
    """With one pool there is only the question of who is linked."""
    graph: Graph = {"x": [], "y": ["x"], "z": []}
    assert place(graph, {"x": "A"}, {}) == {"x": "A", "y": "A", "z": None}


def test_missing_sizes_count_as_the_median() -> None:
    """An unknown size is neither nothing nor everything.

    a[A] 5 --> sum <-- b[B] ?      c[B] 1, d[B] 100: the median is 5 or more
    """
    graph: Graph = {"a": [], "b": [], "c": [], "d": [], "sum": ["a", "b", "c"]}
    pins: dict[Any, str] = {"a": "A", "b": "B", "c": "B", "d": "B"}
    assert place(graph, pins, {"a": 5, "c": 1, "d": 100})["sum"] == "B"


@pytest.mark.parametrize("size", [-1, float("nan"), float("inf")])
def test_sizes_must_be_numbers(size: float) -> None:
    """Sizes that are no amount of bytes are refused by name."""
    with pytest.raises(InvalidSize, match="'x'") as caught:
        place({"x": [], "y": ["x"]}, {"y": "A"}, {"x": size, "y": 1})
    assert caught.value.key == "x"


def test_a_pin_must_be_allowed() -> None:
    """A pin outside `allowed`, or on a blocked task, is a contradiction."""
    with pytest.raises(PinNotAllowed, match=r"'A'.*'B'"):
        place({"x": []}, {"x": "A"}, {}, allowed={"x": ["B"]})
    with pytest.raises(PinNotAllowed, match="blocked"):
        place({"x": []}, {"x": "A"}, {}, blocked=["x"])


def test_a_restricted_task_needs_a_pool_with_workers() -> None:
    """Nothing is allowed where nothing can run."""
    with pytest.raises(NoPoolAllowed, match="capacity 0"):
        place({"x": []}, {}, {}, allowed={"x": ["A"]}, capacity={"A": 0})
    with pytest.raises(NoPoolAllowed):
        place({"x": []}, {}, {}, allowed={"x": []})


def test_a_cycle_is_named() -> None:
    """Of all tasks, those on the cycle are told, each before the one that it needs."""
    graph: Graph = {"x": ["a"], "a": ["b", "y"], "b": ["c"], "c": ["a"], "y": []}
    with pytest.raises(GraphCycle) as caught:
        place(graph, {}, {})
    assert sorted(map(str, caught.value.keys)) == ["a", "b", "c"]


@pytest.mark.parametrize("bad", [-0.01, float("nan"), float("inf")])
def test_balance_must_be_a_number(bad: float) -> None:
    """What may be spent on a lower load is finite and not negative."""
    with pytest.raises(InvalidBalance, match=re.escape(f"balance={bad!r}")):
        place({"x": []}, {"x": "A"}, {}, balance=bad)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_capacities_and_link_costs_must_be_numbers(bad: float) -> None:
    """What is no number of workers or no price is refused."""
    with pytest.raises(InvalidCapacity, match="'A'"):
        place({"x": []}, {"x": "A"}, {}, capacity={"A": bad})
    with pytest.raises(InvalidLinkCost, match=r"'A'.*'B'"):
        place({"x": [], "y": []}, {"x": "A", "y": "B"}, {}, link_cost=lambda p, q: bad)


@pytest.mark.parametrize(
    "error",
    [
        InvalidSize("x", -1),
        PinNotAllowed("x", "A", ["B"]),
        NoPoolAllowed("x", []),
        InvalidLinkCost("A", "B", -1),
        InvalidCapacity("A", -1),
        InvalidBalance(-1.0),
        GraphCycle(["x", "y"]),
    ],
)
def test_errors_survive_pickling(error: PlacementError) -> None:
    """An error that crosses processes arrives whole."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


@pytest.mark.parametrize("instance", INSTANCES, ids=lambda instance: instance["name"])
def test_names_and_order_do_not_matter(instance: dict[str, Any]) -> None:
    """The same graph under other names, in another order, gets the isomorphic answer."""
    (graph, pins, sizes), options = arguments(instance)
    first = place(graph, pins, sizes, **options)
    renamed, new = shuffled(3, graph)
    for name in ("allowed",):
        options[name] = {new[key]: pools for key, pools in options[name].items()}
    options["blocked"] = [new[key] for key in options["blocked"]]
    second = place(
        renamed,
        {new[key]: pool for key, pool in reversed(pins.items())},
        {new[key]: size for key, size in sizes.items()},
        **options,
    )
    assert {key: second[new[key]] for key in graph} == first


def grid(width: int, steps: int) -> tuple[Graph, dict[Any, str], dict[Any, float]]:
    """Return an irregular graph: steps over columns, with sizes and pins of any kind."""
    r = random.Random(1)
    graph: Graph = {}
    pins: dict[Any, str] = {}
    for step in range(steps):
        for i in range(width):
            near = range(max(0, i - 1), min(width, i + 2))
            graph[step, i] = [(step - 1, o) for o in near if r.random() < 0.7] if step else []
            if not step or r.random() < 0.02:
                pins[step, i] = "ABC"[i * 3 // width] if r.random() < 0.8 else r.choice("ABC")
    return graph, pins, {key: float(r.randint(1, 1000)) for key in graph}


def uneven(source: str, target: str) -> float:
    """Link costs that are not symmetric."""
    return {"AB": 1.0, "BA": 3.0, "AC": 2.0, "CA": 1.0, "BC": 5.0, "CB": 1.0}[source + target]


def test_large_irregular_graphs_beat_greedy_and_single_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is too large to cut whole is cut in windows, from greedy labels and single moves."""
    graph, pins, sizes = grid(60, 40)
    monkeypatch.setattr(cuts, "LARGE", 1000)
    placed = place(graph, pins, sizes, link_cost=uneven)
    cost = traffic(graph, placed, sizes, link_cost=uneven)
    monkeypatch.setattr(cuts, "_windows", lambda *args: None)
    plain = traffic(graph, place(graph, pins, sizes, link_cost=uneven), sizes, link_cost=uneven)
    assert cost < plain


def test_without_work_to_spend_the_answer_is_greedy_with_single_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the allowance of work is gone there is an answer all the same."""
    graph, pins, sizes = grid(60, 40)
    monkeypatch.setattr("dask_worker_pools.placement.WORK", 0)
    monkeypatch.setattr("dask_worker_pools.placement.WORK_PER_TASK", 0)
    placed = place(graph, pins, sizes)
    forward = greedy(graph, pins, sizes)
    assert traffic(graph, placed, sizes) <= traffic(graph, forward, sizes)


def greedy(graph: Graph, pins: Mapping[Any, str], sizes: Mapping[Any, float]) -> dict[Any, str]:
    """Each task where most bytes of its inputs are."""
    placed: dict[Any, str] = {}
    for key, inputs in graph.items():
        votes = Counter[str]()
        for source in inputs:
            votes[placed[source]] += int(sizes[source])
        placed[key] = pins.get(key) or min(votes or "A", key=lambda pool: (-votes[pool], pool))
    return placed


def test_classes_cost_nothing_on_regular_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking interchangeable tasks together finds the traffic that taking them singly finds."""
    graph, pins, sizes = add_then_mean(100)
    graph |= {("twice", i): [("sum", i), ("A", (i + 1) % 100)] for i in range(100)}
    sizes |= {("twice", i): 3e5 for i in range(100)}
    pins |= {("twice", i): "B" for i in range(0, 100, 3)}
    singly = traffic(graph, place(graph, pins, sizes), sizes)
    monkeypatch.setattr(kinds, "SMALL", 0)
    assert traffic(graph, place(graph, pins, sizes), sizes) == singly


def test_links_are_seen_through_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains that look alike but for a far link float one by one.

    x_i --> y_i --> z_i, where only z_0 has a sibling that is pinned
    """
    graph: Graph = {}
    for i in range(50):
        graph |= {("x", i): [], ("y", i): [("x", i)], ("z", i): [("y", i)]}
    graph["pinned", 0] = [("y", 0)]
    monkeypatch.setattr(kinds, "SMALL", 0)
    placed = place(graph, {("pinned", 0): "A"}, {})
    assert [key for key, pool in placed.items() if pool] == [
        ("x", 0),
        ("y", 0),
        ("z", 0),
        ("pinned", 0),
    ]


def test_equal_placements_cross_late() -> None:
    """Of placements that cost the same, the one with the latest crossing is chosen.

    a0 (A) -> scale0 -> shift0 -> gather     all outputs of 8 bytes
    b0 (B) -> scale1 -> shift1 --^
    """
    graph = {
        "a": [],
        "b": [],
        "scale0": ["a"],
        "scale1": ["b"],
        "shift0": ["scale0", "scale0"],
        "shift1": ["scale1"],
        "gather": ["shift0", "shift1"],
    }
    placed = place(graph, {"a": "A", "b": "B"}, dict.fromkeys(graph, 8.0))
    assert placed["scale0"] == placed["shift0"] == "A"
    assert placed["scale1"] == placed["shift1"] == "B"


def test_equal_placements_cross_late_in_large_graphs() -> None:
    """The same where tasks are placed by their classes."""
    graph: dict[str, list[str]] = {"gather": []}
    for number in range(3000):
        graph |= {f"load{number}": [], f"plus{number}": [f"load{number}"]}
        graph["gather"].append(f"plus{number}")
    pins = {f"load{number}": "AB"[number % 3 == 0] for number in range(3000)}
    placed = place(graph, pins, dict.fromkeys(graph, 8.0))
    assert all(placed[f"plus{number}"] == pins[f"load{number}"] for number in range(3000))


@pytest.mark.parametrize("pools", ["AB", "ABC"])
def test_grouping_tasks_that_are_alike_costs_nothing(
    pools: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of a graph around two tasks are placed as cheaply by group as task by task."""
    worse = []

    @exhaustively
    @given(cases(pools))
    def check(case: Case) -> None:
        many = copies(case, 12)
        costs = []
        for tiny in (0, len(many.graph)):
            monkeypatch.setattr(kinds, "TINY", tiny)
            costs.append(
                traffic(
                    many.graph,
                    answer(many),
                    many.sizes,
                    blocked=many.blocked,
                    link_cost=many.link_cost,
                    capacity=many.capacity,
                )
            )
        grouped, single = costs
        worse.append(grouped / single if single else 1.0 + (grouped > 1e-9))

    check()
    assert max(worse) <= 1 + 1e-9


def copies(case: Case, times: int) -> Case:
    """Repeat a case, except for its first two tasks, which all copies share."""

    def named(task: int, copy: int) -> int:
        return task if task < 2 else task + copy * len(case.graph)

    every = [(task, copy) for task in case.graph for copy in range(times if task > 1 else 1)]
    return replace(
        case,
        graph={
            named(task, copy): [named(source, copy) for source in case.graph[task]]
            for task, copy in every
        },
        pins={named(task, copy): case.pins[task] for task, copy in every if task in case.pins},
        sizes={named(task, copy): case.sizes[task] for task, copy in every},
        allowed={
            named(task, copy): case.allowed[task] for task, copy in every if task in case.allowed
        },
        blocked=[named(task, copy) for task, copy in every if task in case.blocked],
    )
