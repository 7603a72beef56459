"""Saying a pool, and reading it back."""

from __future__ import annotations

import threading
from typing import Any

import cloudpickle
import dask
import pytest

from dask_worker_pools import pool
from dask_worker_pools.annotations import (
    allowed_in,
    annotations_by_key,
    combinable,
    is_blocked,
    merge_annotations,
    pools_in,
    without_pool,
)


def said() -> dict[str, Any]:
    """The annotations in force."""
    return dask.get_annotations()


def test_pool_asks_for_its_resource_with_amount_zero() -> None:
    """Inside the block, tasks are restricted to the pool's workers and take nothing from them."""
    with pool("A"):
        assert said()["resources"] == {"pool-A": 0}
    assert said() == {}


def test_surrounding_counted_resources_survive() -> None:
    """A GPU asked for outside is still asked for inside, and put back on leaving."""
    with dask.annotate(resources={"GPU": 1}, priority=3):
        with pool("A"):
            assert said()["resources"] == {"GPU": 1, "pool-A": 0}
            assert said()["priority"] == 3
        assert said() == {"resources": {"GPU": 1}, "priority": 3}


def test_counted_resources_said_inside_keep_the_pool() -> None:
    """A later annotation of resources replaces Dask's dict, but not the pool."""
    with pool("A"), dask.annotate(resources={"GPU": 1}):
        assert pools_in(said()) == ("A",)
        assert without_pool(said()) == {"resources": {"GPU": 1}}


def test_innermost_pool_wins() -> None:
    """Of nested blocks, the inner one says the pool, and the outer one again after it."""
    with pool("A"):
        with pool("B"):
            assert pools_in(said()) == ("B",)
            assert said()["resources"] == {"pool-B": 0}
        assert pools_in(said()) == ("A",)


def test_none_blocks_until_an_inner_pool() -> None:
    """``pool(None)`` takes the pool away, keeps the GPU, and can be overruled further in."""
    with dask.annotate(resources={"GPU": 1}), pool("A"), pool(None):
        assert pools_in(said()) == ()
        assert is_blocked(said())
        assert said()["resources"] == {"GPU": 1}
        with pool("B"):
            assert pools_in(said()) == ("B",)
            assert not is_blocked(said())


def test_handwritten_resource_inside_a_pool_wins() -> None:
    """``dask.annotate(resources={"pool-B": 1})`` further in overrules the surrounding pool."""
    for surrounding in ("A", None):
        with pool(surrounding), dask.annotate(resources={"pool-B": 1}):
            assert pools_in(said()) == ("B",)
            assert not is_blocked(said())


def test_callable_resources_get_the_pool_key_by_key() -> None:
    """Resources given as a function of the key are asked, and the pool added to each answer."""
    with dask.annotate(resources=lambda key: {"GPU": 1} if key == "x" else None), pool("A"):
        resources = said()["resources"]
    assert resources("x") == {"GPU": 1, "pool-A": 0}
    assert resources("y") == {"pool-A": 0}
    assert cloudpickle.loads(cloudpickle.dumps(resources))("x") == {"GPU": 1, "pool-A": 0}


def test_pool_decorates_functions() -> None:
    """A decorated function runs inside the block at every call, and recursively."""

    @pool("A")
    def load(depth: int) -> tuple[str, ...]:
        return load(depth - 1) if depth else pools_in(said())

    assert load(3) == load(0) == ("A",)
    assert said() == {}


def test_pool_is_left_after_an_error() -> None:
    """An exception inside the block leaves nothing of it behind."""
    with pytest.raises(ZeroDivisionError), pool("A"):
        _ = 1 / 0
    assert said() == {}


def test_one_object_may_be_entered_in_several_threads() -> None:
    """A context object shared by threads gives each its own block."""
    shared = pool("A")
    barrier = threading.Barrier(4, timeout=30)
    seen: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def work() -> None:
        with shared:
            barrier.wait()
            inside = pools_in(said())
            barrier.wait()
        seen.append((inside, said()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [(("A",), {})] * 4


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", ValueError, r"needs a name, but got ''.*pool\(None\)"),
        ("my site", ValueError, "'my site' contains white space.*'my-site'"),
        ("a,b", ValueError, "comma"),
        ("a=b", ValueError, "equal sign"),
        (" ", ValueError, "'my-pool'"),
        ("pool-A", ValueError, "already starts with 'pool-'.*say 'A'"),
        ("Pool-A", ValueError, "already starts with 'Pool-'.*say 'A'"),
        ("pool_A", ValueError, "already starts with 'pool_'.*say 'A'"),
        (3, TypeError, "string.*got 3 of type int"),
        (["A"], TypeError, r"got \['A'\] of type list"),
        (b"A", TypeError, "of type bytes"),
    ],
)
def test_bad_names_are_refused_at_once(name: Any, error: type[Exception], message: str) -> None:
    """What cannot name a pool is refused where it is said, with what to say instead."""
    with pytest.raises(error, match=message):
        pool(name)
    assert said() == {}


def test_annotations_may_be_values_or_callables() -> None:
    """A layer's annotations are read per key in both forms, and absent answers are left out."""

    class _AnnotationsTombstone: ...

    values = {"x": {"pool-A": 0}, "y": _AnnotationsTombstone()}
    read = dict(annotations_by_key({"resources": values.get, "retries": 2}, ["x", "y", "z"]))
    assert read == {
        "x": {"resources": {"pool-A": 0}, "retries": 2},
        "y": {"retries": 2},
        "z": {"retries": 2},
    }
    assert dict(annotations_by_key({"resources": values.get}, ["z"])) == {}
    assert dict(annotations_by_key(None, ["x"])) == {}


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ({}, {"priority": 1}, True),
        ({"priority": 2}, {"retries": 1}, True),
        ({"mine": 1}, {"mine": 1}, True),
        ({"mine": 1}, {"mine": 2}, False),
        ({"mine": 1}, {}, False),
        ({"workers": ["a"]}, {"workers": ["a"], "priority": 1}, True),
        ({"workers": ["a"]}, {"workers": ["b"]}, False),
        ({"workers": "a"}, {"workers": ["a"], "priority": 1}, True),
        ({"workers": ["a"]}, {}, True),
    ],
)
def test_only_annotations_that_one_task_can_honour_combine(
    one: dict[str, Any], other: dict[str, Any], together: bool
) -> None:
    """Tasks are fused only if Dask's rules can combine what was annotated, both ways round."""
    assert combinable(one, other) is together
    assert combinable(other, one) is together


def test_fused_annotations_follow_dasks_rules() -> None:
    """The largest retries, priority and resources count; other workers only if all allow them."""
    merged = merge_annotations(
        [
            {"retries": 1, "priority": 5, "resources": {"GPU": 1}, "allow_other_workers": True},
            {"retries": 3, "priority": 2, "resources": {"GPU": 2, "MEMORY": 7}},
            {"allow_other_workers": False, "workers": ["a"]},
        ]
    )
    assert merged == {
        "retries": 3,
        "priority": 5,
        "resources": {"GPU": 2, "MEMORY": 7},
        "allow_other_workers": False,
        "workers": ["a"],
    }


def test_several_pools_mean_any_of_them() -> None:
    """Tasks made under several names are restricted to these pools, and pinned to none."""
    with pool("A", "B", "A"):
        assert pools_in(said()) == ()
        assert allowed_in(said()) == ("A", "B")
        with pool("C"):
            assert pools_in(said()) == ("C",)
            assert allowed_in(said()) == ()
        with pool(None):
            assert is_blocked(said())
            assert allowed_in(said()) == ()


def test_several_pools_keep_counted_resources_only() -> None:
    """An outer pool's resource is taken away, which the inner block's choice would contradict."""
    with dask.annotate(resources={"GPU": 1}), pool("A"), pool("B", "C"):
        assert said()["resources"] == {"GPU": 1}


def test_no_pool_is_not_one_of_several() -> None:
    """None beside names, or no name at all, is refused."""
    with pytest.raises(ValueError, match="None, which means no pool"):
        pool("A", None)
    with pytest.raises(TypeError, match="needs the name of a pool"):
        pool()


@pytest.mark.parametrize("nbytes", ["2 GiB", 2 * 2**30])
def test_sizes_may_be_declared(nbytes: Any) -> None:
    """The size of each output is kept in bytes."""
    with pool("A", nbytes=nbytes):
        assert said()["nbytes"] == 2 * 2**30
        assert "nbytes" not in without_pool(said())


@pytest.mark.parametrize("nbytes", [-1, float("nan"), "two", [1], "-3 MB"])
def test_bad_sizes_are_refused_at_once(nbytes: Any) -> None:
    """What is no size is refused where it is said."""
    with pytest.raises(ValueError, match="nbytes=.* is no size"):
        pool("A", nbytes=nbytes)
