"""Where expressions went that were computed.

What was persisted comes back as keys alone, of which a frame is made again; their name tells where
they are. `LIVE` says that it was left to the planner: then only a look at the data can tell.
"""

from __future__ import annotations

from dask_worker_pools.expr.places import LIVE, Place

_went: dict[str, Place] = {}


def remember(name: str, place: Place, limit: int = 10_000) -> None:
    """Note where an expression that is computed goes, unless that is left to the planner."""
    if _went.get(name) is not LIVE:
        _went[name] = place
    while len(_went) > limit:
        del _went[next(iter(_went))]


def remembered(name: str) -> set[Place]:
    """Where an expression went; empty if it went nowhere."""
    return {_went[name]} if name in _went else set()
