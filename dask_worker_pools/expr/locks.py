"""Cached properties of expressions without their locks, as in Python 3.12 and later.

In Python 3.11 each ``functools.cached_property`` holds one lock for all instances of its class. A
frame that asks for its divisions may have to compute quantiles for that: the thread that asks holds
the locks of ``divisions``, ``npartitions`` and whatever called for them until the result is there.
The scheduler asks other expressions the same before it starts anything, and with a scheduler in the
same process, as a `LocalCluster` has, it would wait for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cached_property
from typing import Any

from dask._expr import Expr


def unlock() -> None:
    """Take the locks away from all classes of expressions that there are by now.

    A thread that holds one goes on to release it, and nobody else waits for it. Two threads that
    ask at the same moment compute the same value twice.
    """
    if sys.version_info >= (3, 12):
        return
    for kind in _kinds(Expr):
        for value in vars(kind).values():
            if isinstance(value, cached_property):
                vars(value)["lock"] = nullcontext()


def _kinds(base: type[Any]) -> Iterator[type[Any]]:
    yield base
    kinds: list[type] = base.__subclasses__()
    for kind in kinds:
        yield from _kinds(kind)
