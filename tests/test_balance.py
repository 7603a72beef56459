"""How the load is spread where traffic hardly minds.

In the drawings `A` and `B` are pools, a name with a pool in brackets is pinned, and numbers are
bytes. Data flows from left to right.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from placement_cases import Graph, add_then_mean, answer, cases, cost_of, exhaustively, shuffled
from placement_oracle import Case

from dask_worker_pools.placement import place, traffic


def sums(placed: Mapping[Any, str | None]) -> Counter[str | None]:
    """How many of the sums are in each pool."""
    return Counter(pool for key, pool in placed.items() if key[0] == "sum")


@pytest.mark.parametrize("blocks", [64, 2048])
@pytest.mark.parametrize(
    ("capacity", "share"),
    [({"A": 4, "B": 4}, 0.5), ({"A": 2, "B": 100}, 0), ({"A": 100, "B": 2}, 1)],
)
def test_ties_are_dealt_out_by_workers(
    blocks: int, capacity: dict[str, float], share: float
) -> None:
    """Sums that could be in either pool go where workers are, at hardly more traffic.

    a_i[A] 1M --> sum_i 1M --> mean 8
    b_i[B] 1M --'
    """
    graph, pins, sizes = add_then_mean(blocks)
    least = traffic(graph, place(graph, pins, sizes, capacity=capacity), sizes)
    placed = place(graph, pins, sizes, capacity=capacity, balance=0.01)
    assert sums(placed)["A"] == blocks * share
    assert least <= traffic(graph, placed, sizes) <= 1.01 * least


def test_sizes_that_all_differ_are_dealt_out() -> None:
    """Load is shared evenly among many tasks of which no two are alike in size."""
    graph: Graph = {}
    pins: dict[str, str] = {}
    sizes: dict[str, float] = {}
    for number in range(40_000):
        a, b, c = (f"{name}-{number}" for name in "abc")
        graph |= {a: [], b: [], c: [a, b]}
        pins |= {a: "A", b: "B"}
        sizes |= dict.fromkeys((a, b, c), 1000 + number)
    placed = place(graph, pins, sizes, balance=0.01)
    load: defaultdict[str | None, float] = defaultdict(float)
    for key, where in placed.items():
        load[where] += sizes[key]
    assert load["A"] == pytest.approx(load["B"], rel=1e-3)


@pytest.mark.parametrize("balance", [0.0, 0.01])
def test_sizes_may_be_as_small_as_numbers_are(balance: float) -> None:
    """The least float is a size like any other, beside a large one too."""
    graph: Graph = {"a": [], "b": [], "sum": ["a", "b"]}
    placed = place(graph, {"a": "A", "b": "B"}, {"a": 5e-324, "b": 1e18}, balance=balance)
    assert placed["sum"] == "B"


@pytest.mark.parametrize("pools", ["AB", "ABC"])
def test_traffic_is_spent_only_where_it_lowers_the_load(pools: str) -> None:
    """Each per cent of traffic buys a per cent of the largest load; nothing gets hotter."""
    spent = []

    @exhaustively
    @given(cases(pools))
    def check(case: Case) -> None:
        case = replace(case, allowed={})

        def judged(balance: float) -> tuple[float, float]:
            placed = answer(case, balance)
            made: defaultdict[str | None, float] = defaultdict(float)
            for key, pool in placed.items():
                made[pool] += case.sizes[key]
            return cost_of(case, placed), max(made[pool] / case.capacity[pool] for pool in pools)

        (least, hot), (cost, after) = judged(0.0), judged(1.0)
        assert after <= hot
        assert cost <= 2 * least + 1e-9
        assert (cost - least) * hot <= (hot - after) * least + 1e-6
        spent.append(cost > least)

    check()
    assert any(spent)


def test_equal_ways_are_dealt_out_for_nothing() -> None:
    """What is made of one side alone stays there, when what is made of both could be on either.

    u[A] 4M --> u² 4M --> end 1k
      '-------> uv 4M --> end 1k
    v[B] 4M --'
      '-------> v² 4M --> end 1k
    """
    graph: Graph = {name: [] for name in "uv"}
    graph |= {"uu": ["u"], "uv": ["u", "v"], "vv": ["v"]}
    graph |= {f"end-{name}": [name] for name in ("uu", "uv", "vv")}
    sizes = {key: 1000.0 if "end" in key else 4e6 for key in graph}
    placed = place(graph, {"u": "A", "v": "B"}, sizes, balance=0.01)
    assert (placed["uu"], placed["vv"]) == ("A", "B")
    assert traffic(graph, placed, sizes) == 4e6


def test_of_blocks_that_weigh_the_same_the_cheaper_one_moves() -> None:
    """What is moved for the load, and at what cost, does not depend on the order of tasks."""
    graph: Graph = {0: [], 1: [0], 2: [0], 3: [0], 4: [2], 5: [4], 6: [], 7: [1, 4], 8: []}
    pins = {1: "A", 3: "B", 5: "A", 6: "A", 7: "B"}
    sizes: dict[int, float] = {0: 3, 1: 2, 2: 2, 3: 1, 4: 3, 5: 2, 6: 1, 7: 3, 8: 3}
    found = set()
    for seed in range(40):
        keys = random.Random(seed).sample(sorted(graph), len(graph))
        placed = place({key: graph[key] for key in keys}, pins, sizes, balance=1.0)
        found.add(traffic(graph, placed, sizes))
    assert found == {8}


def test_data_in_memory_are_no_load() -> None:
    """What lies in memory already does not send the work elsewhere."""
    graph, pins, sizes = add_then_mean(64)
    graph["sum", 0] = [*graph["sum", 0], "kept"]
    placed = place(graph, {**pins, "kept": "B"}, {**sizes, "kept": 1e9}, balance=0.01)
    assert 30 <= sums(placed)["B"] <= 34


@pytest.mark.parametrize("balance", [0.01, 1.0])
def test_sizes_may_be_as_large_as_numbers_are(balance: float) -> None:
    """Sums of sizes may be larger than any float."""
    graph: Graph = {"x": [], "v": [], "y": ["x", "v"], "z": ["y"], "w": ["y"]}
    placed = place(graph, {"x": "A", "v": "B"}, dict.fromkeys(graph, 1e308), balance=balance)
    assert set(placed.values()) <= {"A", "B"}


def test_without_balance_ties_stay_together() -> None:
    """A balance of 0 accepts no more traffic at all."""
    graph, pins, sizes = add_then_mean(64)
    placed = place(graph, pins, sizes)
    assert len(sums(placed)) == 1
    assert traffic(graph, placed, sizes) == 64e6


def test_ties_between_three_pools_are_dealt_out() -> None:
    """Of three pools that are equally near, none makes more than its part."""
    graph, pins, sizes = add_then_mean(64, "ABC")
    least = traffic(graph, place(graph, pins, sizes), sizes)
    placed = place(graph, pins, sizes, balance=0.01)
    assert max(sums(placed).values()) <= 32
    assert traffic(graph, placed, sizes) <= 1.01 * least


@pytest.mark.parametrize("blocks", [64, 1500])
def test_balance_does_not_depend_on_names_and_order(blocks: int) -> None:
    """Sums are dealt out by subtrees, which subtrees ever: traffic and load are the same."""
    graph, pins, sizes = add_then_mean(blocks)

    def outcome(seed: int) -> tuple[float, Counter[Any], Counter[Any]]:
        renamed, new = shuffled(seed, graph)
        old = {name: key for key, name in new.items()}
        lengths = {new[key]: size for key, size in sizes.items()}
        placed = place(
            renamed,
            {new[key]: pool for key, pool in pins.items()},
            lengths,
            capacity={"A": 2, "B": 3},
            balance=0.01,
        )
        kinds_in = Counter((str(old[name])[:7], pool) for name, pool in placed.items())
        split = Counter(
            tuple(sorted(str(placed[s]) for s in renamed[name]))
            for name in renamed
            if "mean" in str(old[name])
        )
        return traffic(renamed, placed, lengths), kinds_in, split

    assert outcome(1) == outcome(2) == outcome(3)


def loads(placed: Mapping[Any, str | None], sizes: Mapping[Any, float]) -> dict[str | None, float]:
    """Bytes made in each pool."""
    made: defaultdict[str | None, float] = defaultdict(float)
    for key, pool in placed.items():
        made[pool] += sizes[key]
    return dict(made)


def test_a_chain_crosses_where_load_is_even() -> None:
    """Where a chain may cross anywhere, each pool makes half of it.

    x[A] 8M --> y 8M --> z 8M --> w[B] 8M
    """
    graph: Graph = {"x": [], "y": ["x"], "z": ["y"], "w": ["z"]}
    sizes = dict.fromkeys(graph, 8e6)
    placed = place(graph, {"x": "A", "w": "B"}, sizes, balance=0.01)
    assert (placed["y"], placed["z"]) == ("A", "B")


def test_what_is_shipped_either_way_goes_both_ways() -> None:
    """Of groups that may be made in either pool whole, each pool makes one.

    u_i[A] 4M --------------> product_i 4M --> partial_i 2M --> mean (one of a group) 1k
    v_i[B] 4M --> part_i 4M --'
    """
    graph: Graph = {}
    pins: dict[Any, str] = {}
    for group in range(2):
        for i in range(6):
            graph |= {
                ("u", group, i): [],
                ("v", group, i): [],
                ("part", group, i): [("v", group, i)],
            }
            pins |= {("u", group, i): "A", ("v", group, i): "B"}
            graph["product", group, i] = [("u", group, i), ("part", group, i)]
            graph["partial", group, i] = [("product", group, i)]
        graph["mean", group] = [("partial", group, i) for i in range(6)]
    nbytes = {"partial": 2e6, "mean": 1e3}
    sizes = {key: nbytes.get(key[0], 4e6) for key in graph}
    placed = place(graph, pins, sizes, balance=0.01)
    assert traffic(graph, placed, sizes) == 12 * 4e6
    assert loads(placed, sizes)["A"] == loads(placed, sizes)["B"]
    assert placed["mean", 0] != placed["mean", 1]


def test_what_moves_as_a_whole_only_is_cut_nearer_to_the_end() -> None:
    """Where all that follows from one output could move but not a part of it, less of it moves.

    x_i[A] 1M --> whole 8M --> row_i 1M --> turned_i 1M --> sum_i 1M
                                                b_i[B] 1M --'
    """
    numbers = range(8)
    graph: Graph = {"whole": [("x", i) for i in numbers]}
    pins: dict[Any, str] = {}
    for i in numbers:
        graph |= {("x", i): [], ("b", i): [], ("row", i): ["whole"]}
        graph |= {("turned", i): [("row", i)], ("sum", i): [("turned", i), ("b", i)]}
        pins |= {("x", i): "A", ("b", i): "B"}
    sizes = {key: 8e6 if key == "whole" else 1e6 for key in graph}
    placed = place(graph, pins, sizes, balance=0.01)
    assert traffic(graph, placed, sizes) == 8e6
    assert max(loads(placed, sizes).values()) <= sum(sizes.values()) / 2 + 1e6


def test_ends_of_one_side_stay_at_home_when_the_rest_goes_both_ways() -> None:
    """Means of u² and v² are made where u and v lie, and half of the means of u·v in each pool.

    u_i[A] 4M --> square_i 4M --> mean (one of a group) 1k --> all 1k
        '-------> product_i 8M --> mean (one of a group) 1k --> all 1k
    v_i[B] 4M --> part_i 4M --'
        '-------> square_i 4M --> mean (one of a group) 1k --> all 1k
    """
    graph: Graph = {
        ("all", of): [("mean", of, group) for group in range(2)] for of in ("u", "v", "uv")
    }
    pins: dict[Any, str] = {}
    for group in range(2):
        for i in range(6):
            u, v, part = (("u", group, i), ("v", group, i), ("part", group, i))
            graph |= {u: [], v: [], part: [v], ("square", *u): [u], ("square", *v): [v]}
            graph["product", group, i] = [u, part]
            pins |= {u: "A", v: "B"}
        for of in "uv":
            graph["mean", of, group] = [("square", of, group, i) for i in range(6)]
        graph["mean", "uv", group] = [("product", group, i) for i in range(6)]
    nbytes = {"mean": 1e3, "all": 1e3, "product": 8e6}
    sizes = {key: nbytes.get(key[0], 4e6) for key in graph}
    least = traffic(graph, place(graph, pins, sizes), sizes)
    placed = place(graph, pins, sizes, balance=0.01)
    assert traffic(graph, placed, sizes) <= 1.001 * least
    assert loads(placed, sizes)["A"] == pytest.approx(loads(placed, sizes)["B"], rel=0.01)
    assert {placed["mean", "u", group] for group in range(2)} == {"A"}
    assert {placed["mean", "v", group] for group in range(2)} == {"B"}
    assert Counter(placed["mean", "uv", group] for group in range(2)) == {"A": 1, "B": 1}


def test_mixtures_do_not_depend_on_the_order_of_tasks() -> None:
    """Chains of which some end in one pool and some in the other are mixed alike in any order."""
    chains = [
        "3 4",
        "5 6 11",
        "5 8 9 10 12",
        "8 21 22",
        "19 20",
        "23",
        "28 33 34",
        "32",
        "52 53 54",
    ]
    chains += ["36 37 38 39 40 41 42 63 64 65", "37 68 69 70", "61 62", "77 78", "89 90 96", "95"]
    graph: Graph = {int(name): [] for name in " ".join(chains).split()}
    for chain in chains:
        for source, user in pairwise(map(int, chain.split())):
            graph[user] = [source]
    pins = dict.fromkeys((4, 9, 11, 33, 38, 53, 70, 89, 95), "A")
    pins |= dict.fromkeys((3, 20, 23, 32, 34, 52, 54, 62, 65, 78), "B")
    allowed = {19: ["A"], 69: ["B"]}
    sizes = dict.fromkeys(graph, 1.0)
    found = set()
    for seed in range(20):
        keys = random.Random(seed).sample(sorted(graph), len(graph))
        again = {key: graph[key] for key in keys}
        placed = place(again, pins, sizes, allowed=allowed, balance=0.5)
        found.add((traffic(graph, placed, sizes), max(loads(placed, sizes).values())))
    assert len(found) == 1
