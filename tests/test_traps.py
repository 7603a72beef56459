"""Where plain Dask loses or mixes up pools, and that it does not happen inside propagate_pools.

Each trap is shown twice: first what plain `dask.annotate` does, so that we notice when Dask mends
it, then the same computation inside `propagate_pools`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from uuid import uuid4

import clusters
import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask import delayed
from dask.array.optimization import optimize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Client, futures_of, get_worker, wait

from dask_worker_pools import get_pool, plan_pools, pool, propagate_pools
from dask_worker_pools import propagate_pools_in_collection as written

Places = dict[str, set[str]]

VALUES = np.arange(64.0).reshape(8, 8)


@pytest.fixture(scope="module")
def gpu_worker(pool_cluster: clusters.PoolCluster) -> clusters.Worker:
    """One more worker of pool A, which has a GPU."""
    return pool_cluster.start_worker("A", name="A-gpu", resources={"GPU": 1})


pytestmark = pytest.mark.usefixtures("nothing_left")


class Steps:
    """Functions that note on which worker they ran, for chains of steps."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._topic = f"steps-{uuid4().hex}"

    def __call__(self, name: str) -> Callable[[Any], Any]:
        """A step that returns what it gets."""
        topic = self._topic

        # Nested functions travel by value: the workers cannot import this module.
        def step(value: Any) -> Any:
            worker = get_worker()
            offered = sorted(r for r in worker.state.total_resources if r.startswith("pool-"))
            worker.log_event(topic, (name, str(worker.address), offered))
            return value

        return step

    def _noted(self) -> list[tuple[str, str, list[str]]]:
        return [event for _, event in self._client.get_events(self._topic)]

    @property
    def pools(self) -> Places:
        """Pools in which each step ran; ``{""}`` for none."""
        found: Places = {}
        for name, _, offered in self._noted():
            found.setdefault(name, set()).update([r[5:] for r in offered] or [""])
        return found

    @property
    def workers(self) -> Places:
        """Workers on which each step ran."""
        found: Places = {}
        for name, address, _ in self._noted():
            found.setdefault(name, set()).add(address)
        return found


@pytest.fixture
def steps(client: Client) -> Steps:
    """Steps of this test alone."""
    return Steps(client)


def by_hand(name: str) -> Any:
    """What users write without this package."""
    return dask.annotate(resources={f"pool-{name}": 0})


def chain(kind: str, steps: Steps, pools: str, say: Callable[[str], Any]) -> Any:
    """A collection of 16 parts, and steps on each part: one for each letter of `pools`.

    The steps are called "1", "2" and so on. `say` annotates with a pool.
    """
    x: Any = None
    for number, name in enumerate(pools, start=1):
        with say(name):
            step = steps(str(number))
            if kind == "array":
                if x is None:
                    x = da.from_array(VALUES, chunks=2, name=f"values-{uuid4().hex}")
                x = x.map_blocks(step, dtype=float, meta=x._meta)
            else:
                x = (db.from_sequence(range(16), npartitions=16) if x is None else x).map(step)
    return x


# --- annotations that low-level fusion drops


@pytest.mark.parametrize("kind", ["array", "bag"])
def test_plain_annotations_die_in_low_level_fusion(client: Client, steps: Steps, kind: str) -> None:
    """Plain Dask submits fused tasks without any restriction, and they run outside of the pool.

    ::

        1 (A) → 2 (A)
    """
    x = chain(kind, steps, "AA", by_hand).persist()
    assert set(map(str, clusters.restrictions(client, x).values())) == {"{}"}
    wait(futures_of(x))
    assert not steps.pools["1"] <= {"A"}


@pytest.mark.parametrize("kind", ["array", "bag"])
def test_annotations_survive_low_level_fusion(client: Client, steps: Steps, kind: str) -> None:
    """Inside propagate_pools all tasks of that chain are restricted to A, and run there."""
    x = chain(kind, steps, "AA", by_hand)
    with clusters.record_executions(client) as ran, propagate_pools():
        persisted = x.persist()
        wait(futures_of(persisted))
    assert set(map(str, clusters.restrictions(client, persisted).values())) == {"{'pool-A': 0}"}
    assert set().union(*ran.pools_of.values()) == {"A"}
    assert steps.pools == {"1": {"A"}, "2": {"A"}}


def test_turning_fusion_off_here_does_not_help_plain_dask(client: Client, steps: Steps) -> None:
    """The scheduler is another process and fuses by its own configuration."""
    with dask.config.set({"optimization.fuse.active": False}):
        x = chain("array", steps, "AA", by_hand).persist()
        assert set(map(str, clusters.restrictions(client, x).values())) == {"{}"}


@pytest.mark.parametrize("kind", ["array", "bag"])
def test_fusion_in_one_pool_is_as_good_as_plain_dasks(
    client: Client, steps: Steps, kind: str
) -> None:
    """A chain of one pool is submitted as as many tasks as plain Dask submits without pools."""
    plain = chain(kind, steps, "AAA", lambda name: contextlib.nullcontext())
    with clusters.record_executions(client) as ran:
        plain.compute()
    pooled = chain(kind, steps, "AAA", pool)
    with clusters.record_executions(client) as ran_in_pools, propagate_pools():
        pooled.compute()
    assert len(ran_in_pools.pools_of) == len(ran.pools_of)


# --- layers of two pools that blockwise fusion merges


def test_plain_blockwise_fusion_merges_two_pools(client: Client, steps: Steps) -> None:
    """Plain Dask fuses layers of two pools into tasks that ask for both; no worker has both."""
    x = chain("array", steps, "AB", by_hand)
    with dask.config.set({"optimization.fuse.active": False}):
        graph = optimize(x.dask, x.__dask_keys__())
    merged = [layer.annotations for layer in graph.layers.values() if layer.annotations]
    assert {"resources": {"pool-A": 0, "pool-B": 0}} in merged


@pytest.mark.parametrize("say", [by_hand, pool])
@pytest.mark.parametrize("kind", ["array", "bag"])
def test_layers_of_two_pools_stay_apart(
    client: Client, steps: Steps, kind: str, say: Callable[[str], Any]
) -> None:
    """Inside propagate_pools each step of such a chain runs in its own pool.

    ::

        1 (A) → 2 (B)
    """
    x = chain(kind, steps, "AB", say)
    with propagate_pools():
        persisted = x.persist()
        wait(futures_of(persisted))
        asked = clusters.restrictions(client, persisted)
    assert {len(resources) for resources in asked.values()} == {1}
    assert steps.pools == {"1": {"A"}, "2": {"B"}}


def test_blocks_of_two_pools_that_share_an_input_stay_apart(client: Client, steps: Steps) -> None:
    """An array used in two pools is made in its own and shipped to the other.

    ::

        x (A) ──→ y (A) ──→ sum
         └──────→ z (B) ────↗
    """
    x = chain("array", steps, "A", pool)
    with pool("A"):
        y = x.map_blocks(steps("y"), dtype=float, meta=x._meta)
    with pool("B"):
        z = x.map_blocks(steps("z"), dtype=float, meta=x._meta)
    with propagate_pools():
        total = (y + z).sum().compute()
    assert total == 2 * VALUES.sum()
    assert steps.pools == {"1": {"A"}, "y": {"A"}, "z": {"B"}}


# --- chains that low-level fusion contracts over a crossing


@pytest.mark.parametrize("pools", ["AB", "ABA", "AABB"])
@pytest.mark.parametrize("kind", ["array", "bag"])
def test_plain_low_level_fusion_ignores_crossings(
    client: Client, steps: Steps, kind: str, pools: str
) -> None:
    """Plain Dask makes one task of a chain through two pools, so part of it runs in a wrong one."""
    chain(kind, steps, pools, by_hand).compute()
    ran = steps.workers
    assert all(ran[step] == ran["1"] for step in ran)
    wrong = [steps.pools[str(n)] - {name} for n, name in enumerate(pools, start=1)]
    assert any(wrong)


@pytest.mark.parametrize("pools", ["AB", "ABA", "AABB", "ABABAB"])
@pytest.mark.parametrize("kind", ["array", "bag"])
def test_chains_are_cut_at_the_crossings_only(
    client: Client, steps: Steps, kind: str, pools: str
) -> None:
    """Inside propagate_pools a chain is fused within each pool, and not from one to the other."""
    x = chain(kind, steps, pools, pool)
    with clusters.record_executions(client) as ran, propagate_pools():
        persisted = x.persist()
        wait(futures_of(persisted))
    assert steps.pools == {str(n): {name} for n, name in enumerate(pools, start=1)}
    # A fused task runs under a new name, and hands on its result under the old one.
    crossings = sum(one != other for one, other in pairwise(pools))
    assert len(ran.pools_of) <= 16 * 2 * (1 + crossings)


# --- layers that would depend on each other in a circle


def test_plain_dask_drops_circular_layers_silently() -> None:
    """A graph of one layer for each pool, A → B → A, passes validation and loses its tasks."""
    first = delayed(abs)(1)
    second = delayed(abs)(first)
    third = delayed(abs)(second)
    tasks = dict(third.dask)
    layers = {
        "A": MaterializedLayer({key: tasks[key] for key in (first.key, third.key)}),
        "B": MaterializedLayer({second.key: tasks[second.key]}),
    }
    graph = HighLevelGraph(layers, {"A": {"B"}, "B": {"A"}})
    graph.validate()
    assert not graph.cull([third.key]).layers
    with pytest.raises(KeyError):
        Delayed(third.key, graph, layer="A").compute(scheduler="synchronous")


@pytest.mark.parametrize("rewrite", [written, lambda x: x], ids=["written", "as it is"])
def test_layers_go_to_another_pool_and_back(
    client: Client, steps: Steps, rewrite: Callable[[Any], Any]
) -> None:
    """A layer whose tasks depend on each other across two pools is neither lost nor moved.

    ::

        layer:  a (A) → b (B) → c (A) → d (B)
    """
    tasks: dict[str, Any] = {}
    previous: Any = 0
    for name in "abcd":
        tasks[f"{name}-trap"] = (steps(name), previous)
        previous = f"{name}-trap"
    where = {f"{name}-trap": {f"pool-{'AB'[n % 2]}": 0} for n, name in enumerate("abcd")}
    layer = MaterializedLayer(tasks, annotations={"resources": where.get})
    x = Delayed("d-trap", HighLevelGraph({"d-trap": layer}, {"d-trap": set()}))
    with propagate_pools():
        assert rewrite(x).compute() == 0
    assert steps.pools == {"a": {"A"}, "b": {"B"}, "c": {"A"}, "d": {"B"}}


# --- resources that nested annotations lose


def test_plain_nested_annotations_lose_the_gpu(client: Client, steps: Steps) -> None:
    """In plain Dask a pool inside of `GPU: 1` replaces it."""
    with dask.annotate(resources={"GPU": 1}), by_hand("A"):
        x = delayed(steps("1"))(0)
    persisted = x.persist()
    assert clusters.restrictions(client, persisted) == {x.key: {"pool-A": 0}}


def test_nested_pools_keep_the_gpu(
    client: Client, gpu_worker: clusters.Worker, steps: Steps
) -> None:
    """A pool() inside of `GPU: 1` needs both, and runs on the one worker that has them."""
    with dask.annotate(resources={"GPU": 1}), pool("A"):
        x = [delayed(steps("1"))(n) for n in range(8)]
    with propagate_pools():
        persisted = dask.persist(*x)
        asked = clusters.restrictions(client, persisted)
        dask.compute(*persisted)
    assert list(asked.values()) == [{"GPU": 1, "pool-A": 0}] * 8
    assert steps.workers == {"1": {gpu_worker.address}}


# --- one key in two pools


def equal_arrays(order: str) -> list[Any]:
    """Two arrays of the same values, one of each pool, and therefore with the same keys."""
    value = np.random.default_rng().random()
    built = []
    for name in order:
        with pool(name):
            built.append(da.full((8, 8), value, chunks=2))
    assert built[0].name == built[1].name
    assert [get_pool(x) for x in built] == list(order)
    return built


@pytest.mark.parametrize("order", ["AB", "BA"])
def test_plain_dask_keeps_one_of_two_pools_of_a_key(order: str) -> None:
    """Dask merges equal layers of two collections, and the annotations of the last one win."""
    merged = HighLevelGraph.merge(*(x.dask for x in equal_arrays(order)))
    (layer,) = merged.layers.values()
    assert (layer.annotations or {})["resources"] == {f"pool-{order[-1]}": 0}


@pytest.mark.parametrize("order", ["AB", "BA"])
def test_one_key_in_two_pools_runs_in_the_last(client: Client, order: str) -> None:
    """Equal arrays that were made in two pools are one array, which runs in the pool said last.

    That is Dask's merging of graphs, and inside propagate_pools no different.
    """
    first, second = equal_arrays(order)
    results = first.sum(), second.max()
    assert set(plan_pools(*results).pools.values()) == {order[-1]}
    with clusters.record_executions(client) as ran, propagate_pools():
        dask.compute(*results)
    assert set().union(*ran.pools_of.values()) == {order[-1]}


@pytest.mark.parametrize("order", ["AB", "BA"])
def test_the_same_collection_twice_runs_in_the_pool_of_the_first(
    client: Client, order: str
) -> None:
    """Of equal collections that are computed together, Dask looks at the first only."""
    with clusters.record_executions(client) as ran, propagate_pools():
        dask.compute(*equal_arrays(order))
    assert set().union(*ran.pools_of.values()) == {order[0]}
