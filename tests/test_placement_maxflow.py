"""Dinic's flow against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from dask_worker_pools.placement.maxflow import Network

NODES = 7
CAPACITIES = st.dictionaries(
    st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), st.integers(0, 9), max_size=25
)


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(CAPACITIES, st.lists(st.integers(-9, 9), min_size=NODES, max_size=NODES))
def test_the_cut_costs_what_scipy_lets_flow(
    capacities: dict[tuple[int, int], int], terminals: list[int]
) -> None:
    """The source's side costs exactly the largest flow that an independent solver finds."""
    network = Network(NODES)
    dense = np.zeros((NODES + 2, NODES + 2), dtype=np.int32)
    for (tail, head), capacity in capacities.items():
        if tail != head:
            network.arc(tail, head, capacity)
            dense[tail, head] = capacity
    for node, extra in enumerate(terminals):
        network.terminal(node, source=max(extra, 0), sink=max(-extra, 0))
        dense[NODES, node] = max(extra, 0)
        dense[node, NODES + 1] = max(-extra, 0)
    near = set(network.source_side() or ()) | {NODES}
    cut = sum(int(dense[p, q]) for p in near for q in range(NODES + 2) if q not in near)
    assert cut == maximum_flow(csr_array(dense), NODES, NODES + 1).flow_value


def test_a_spent_budget_gives_no_answer() -> None:
    """Giving up is told apart from an empty side."""
    network = Network(2)
    network.terminal(0, source=5)
    network.arc(0, 1, 3)
    network.terminal(1, sink=5)
    assert network.source_side(budget=0) is None
    assert Network(1).source_side(budget=0) == []


@pytest.mark.parametrize("length", [1, 10, 2000])
def test_long_chains_do_not_exhaust_the_stack(length: int) -> None:
    """The search does not recurse."""
    network = Network(length)
    network.terminal(0, source=2)
    for node in range(length - 1):
        network.arc(node, node + 1, 1 if node == length - 2 else 5)
    network.terminal(length - 1, sink=9)
    assert len(network.source_side() or ()) == (length - 1 if length > 1 else 0)
