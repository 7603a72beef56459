"""Functions that travel by value."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from dask_worker_pools.plan import landing_key
from dask_worker_pools.travel import KEEPER, KEPT, ByValue


@pytest.fixture(autouse=True)
def nothing_came_yet() -> Iterator[None]:
    """Start as a process does to which nothing has come, and leave no trace."""
    before = sys.modules.pop(KEEPER, None)
    yield
    sys.modules.pop(KEEPER, None)
    if before is not None:
        sys.modules[KEEPER] = before


def sent(function: Callable[..., object]) -> bytes:
    """What is sent for a function."""
    return pickle.dumps(ByValue(function))


def test_what_comes_again_is_not_unpacked_again() -> None:
    """A process to which the same function comes twice has it once."""
    assert pickle.loads(sent(landing_key)) is pickle.loads(sent(landing_key))


def test_what_arrives_is_a_copy() -> None:
    """What arrives is made of what was sent, even where this package can be imported."""
    arrived = pickle.loads(sent(landing_key))
    assert arrived is not landing_key
    assert arrived("total", "B") == landing_key("total", "B")


def test_functions_that_came_long_ago_are_forgotten() -> None:
    """A process keeps so many functions and no more, and unpacks again what it forgot."""
    many = [sent(partial(pow, exp=exp)) for exp in range(KEPT + 3)]
    first = pickle.loads(many[0])
    assert [pickle.loads(code)(2) for code in many] == [2**exp for exp in range(KEPT + 3)]
    assert len(sys.modules[KEEPER].functions) == KEPT
    again = pickle.loads(many[0])
    assert again is not first
    assert again(2) == 1
