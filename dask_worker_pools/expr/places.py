"""Where an expression was said to run: what a marker holds, from annotations and back.

A *place* is the name of a pool, a tuple of names (any of these pools), `BLOCKED` (no pool, as
``pool(None)`` says), `LIVE` (data in memory: wherever it lies), or None: nothing was said, and the
planner chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from dask_worker_pools.annotations import (
    BLOCKED,
    POOL_KEY,
    PREFIX,
    Annotations,
    allowed_in,
    is_blocked,
    pool,
    pools_in,
)
from dask_worker_pools.errors import ConflictingPools
from dask_worker_pools.propagate import is_on

Place = str | tuple[str, ...] | bool | None

LIVE = True


def place_in(annotations: Mapping[str, Any]) -> Place:
    """The place that annotations say."""
    if pools := pools_in(annotations):
        if len(pools) > 1:
            raise ConflictingPools("expression", "dask.annotate", pools)
        return pools[0]
    return allowed_in(annotations) or (BLOCKED if is_blocked(annotations) else None)


def annotations_of(place: Place) -> Annotations:
    """The annotations that say a place, as `pool` writes them."""
    if isinstance(place, str):
        return {POOL_KEY: place, "resources": {PREFIX + place: 0}}
    return {} if place is None or place is LIVE else {POOL_KEY: place}


def single_place(places: Iterable[Place]) -> Place:
    """The place of what has parts in `places`: theirs if it is one, else none."""
    found = set(places)
    return found.pop() if len(found) == 1 else None


#: The place of the marker below which Dask's optimiser is at work; () where it is not.
_inside: ContextVar[Place] = ContextVar("_inside", default=())


def inside() -> Place:
    """The place of the marker below which Dask's optimiser is at work; () where it is not."""
    return _inside.get()


@contextmanager
def within(place: Place) -> Iterator[None]:
    """A block in which what Dask computes on its own account runs in a place."""
    names = (place,) if isinstance(place, str) else place if isinstance(place, tuple) else ()
    names = names if is_on() else ()
    token = _inside.set(place)
    try:
        with pool(*names) if names else nullcontext():
            yield
    finally:
        _inside.reset(token)
