"""Turning propagation on and off: exactly, in any order, in threads."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Iterator
from typing import Any

import dask
import pytest
from tracing import run, source, traced

from dask_worker_pools import pool, propagate_pools
from dask_worker_pools.annotations import annotations_by_key
from dask_worker_pools.propagate import CONFIG, Hook, current_pass


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """After every test, the configuration is what it was."""
    before = copy.deepcopy(dask.config.config)
    yield
    assert dask.config.config == before


def is_on() -> bool:
    """Whether computations go through the pass."""
    found = {isinstance(dask.config.get(key, None), Hook) for key in CONFIG}
    assert len(found) == 1
    return found.pop()


def test_configuration_is_set_inside_only() -> None:
    """Inside the block all kinds go through the pass and rechunking by tasks, and not after it."""
    with propagate_pools():
        assert is_on()
        assert dask.config.get("array.rechunk.method") == "tasks"
        assert dask.config.get("dataframe.shuffle.method") == "tasks"
    assert not is_on()


def test_previous_values_are_put_back() -> None:
    """What stood under the keys before stands there again, also values that mean nothing."""
    before = {"array_optimize": max, "bag_optimize": False, "array.rechunk.method": "p2p"}
    with dask.config.set(before):
        with propagate_pools():
            assert is_on()
        assert {key: dask.config.get(key) for key in before} == before
        assert "delayed_optimize" not in dask.config.config


def test_off_again_after_an_error() -> None:
    """An exception inside the block turns it off as well."""
    with pytest.raises(ZeroDivisionError), propagate_pools():
        _ = 1 / 0
    assert not is_on()


def test_nested_blocks_end_one_by_one() -> None:
    """An inner block changes the options, and leaving it brings back the outer one's."""
    with propagate_pools(missing="wait"):
        with propagate_pools(missing="warn"):
            assert current_pass(None).options.missing == "warn"
        assert is_on()
        assert current_pass(None).options.missing == "wait"
    assert not is_on()


def test_plain_call_lasts() -> None:
    """Called as a function it stays on, until its result is left as a block."""
    session = propagate_pools()
    assert is_on()
    with propagate_pools():
        pass
    assert is_on()
    with session:
        assert is_on()
    assert not is_on()
    with session:
        assert is_on()


def test_threads_may_leave_in_any_order() -> None:
    """The first thread to enter may be the first to leave; the last to leave puts all back."""
    entered, first_left, second_left = (threading.Event() for _ in range(3))
    seen: list[Any] = []

    def first() -> None:
        with propagate_pools(missing="wait"):
            entered.set()
            seen.append(current_pass(None).options.missing)
            second_entered.wait(30)
        first_left.set()

    second_entered = threading.Event()

    def second() -> None:
        entered.wait(30)
        with propagate_pools(missing="warn"):
            second_entered.set()
            first_left.wait(30)
            seen.append((is_on(), current_pass(None).options.missing))
        second_left.set()

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert second_left.is_set()
    assert seen == ["wait", (True, "warn")]
    assert not is_on()


def test_threads_follow_their_own_options() -> None:
    """A thread's own block decides for it; a thread without one follows the last turned on."""
    barrier = threading.Barrier(3, timeout=30)
    seen: dict[str, str] = {}

    def work(missing: Any) -> None:
        with propagate_pools(missing=missing):
            barrier.wait()
            seen[missing] = current_pass(None).options.missing
            barrier.wait()

    threads = [threading.Thread(target=work, args=(one,)) for one in ("wait", "warn")]
    for thread in threads:
        thread.start()
    barrier.wait()
    followed = current_pass(None).options.missing
    barrier.wait()
    for thread in threads:
        thread.join(30)
    assert seen == {"wait": "wait", "warn": "warn"}
    assert followed in seen


def test_asynchronous_tasks_may_interleave() -> None:
    """Blocks of coroutines that overlap end cleanly too."""

    async def work(missing: Any, mine: asyncio.Event, other: asyncio.Event) -> str:
        with propagate_pools(missing=missing):
            mine.set()
            await other.wait()
            return current_pass(None).options.missing

    async def both() -> tuple[str, str]:
        one, two = asyncio.Event(), asyncio.Event()
        first, second = await asyncio.gather(work("wait", one, two), work("warn", two, one))
        return first, second

    assert asyncio.run(both()) == ("wait", "warn")
    assert not is_on()


def test_users_optimization_set_inside_is_found_by_an_inner_block() -> None:
    """A function that the user sets inside a block runs inside the next block."""

    def mine(graph: Any, keys: Any, **kwargs: Any) -> Any:
        return dict(graph)

    with propagate_pools(), dask.config.set(array_optimize=mine):
        with propagate_pools():
            assert is_on()
            assert current_pass(None).optimizations == {"array": mine}
        assert dask.config.get("array_optimize") is mine


def test_unknown_option_is_refused_and_nothing_turned_on() -> None:
    """A value that ``missing`` does not take is refused with those that it does."""
    with pytest.raises(ValueError, match="missing='ignore'.*'error', 'warn', 'wait'"):
        propagate_pools(missing="ignore")  # type: ignore[arg-type]
    assert not is_on()


def test_an_optimization_that_is_no_function_is_refused() -> None:
    """What cannot be called is refused with the configuration key that it stands under."""
    with (
        dask.config.set(bag_optimize="fast"),
        pytest.raises(TypeError, match="'bag_optimize' is 'fast'"),
    ):
        propagate_pools()
    assert not is_on()


def test_surrounding_pool_pins_what_is_free() -> None:
    """A pool around the computation holds for every task that has none of its own."""
    with pool("B"):
        pinned = source("pinned")
    with pool(None):
        blocked = source("blocked")
    free = source("free")
    with propagate_pools(), pool("A"):
        done = run(traced("together", pinned, blocked, free))
    assert done.pools_of("pinned") == {("B",)}
    assert done.pools_of("blocked") == {()}
    assert done.pools_of("free") == done.pools_of("together") == {("A",)}


def test_surrounding_resources_reach_tasks_in_pools() -> None:
    """A GPU asked for around the computation is asked for beside the pool."""
    with pool("A"):
        pinned = source("pinned")
    with propagate_pools(), dask.annotate(resources={"GPU": 1}):
        sent = current_pass(frozenset())  # to whatever cluster
    layers = sent(pinned.dask, pinned.__dask_keys__()).layers.values()
    said = [own for layer in layers for _, own in annotations_by_key(layer.annotations, layer)]
    assert [own["resources"] for own in said] == [{"pool-A": 0, "GPU": 1}] * pinned.npartitions


def test_built_inside_and_computed_after_is_plain_dask() -> None:
    """An expression made inside and run after the block is optimised as Dask does."""
    hook = Hook()
    collection = source("free") + 1
    (layer,) = hook(collection.dask, collection.__dask_keys__()).layers.values()
    assert layer.annotations is None
