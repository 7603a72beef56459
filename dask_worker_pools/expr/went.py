"""Where expressions went that were computed.

What was persisted comes back as keys alone, of which a frame is made again; their name tells where
they are.
"""

from __future__ import annotations

from dask_worker_pools.expr.places import Place

_went: dict[str, Place] = {}


def remember(name: str, place: Place, limit: int = 10_000) -> None:
    """Note where an expression that is computed goes."""
    _went[name] = place
    while len(_went) > limit:
        del _went[next(iter(_went))]


def remembered(name: str) -> set[Place]:
    """Where an expression went; empty if it went nowhere."""
    return {_went[name]} if name in _went else set()
