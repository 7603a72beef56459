"""Plans made by hand, for the tests of what is read off and drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask.typing import Key

from dask_worker_pools.plan import Plan


def plan_of(
    pools: Mapping[Any, str | None],
    edges: str = "",
    *,
    sizes: Mapping[Any, float] | None = None,
    pinned: str = "",
    blocked: str = "",
    **more: Any,
) -> Plan:
    """Make a plan from short words.

    Tasks are called like ``load.0``, which is task 0 of the layer ``load-0123abcd``; without a
    number, the layer has only that task. Edges are like ``load.0>sum load.1>sum``. Sources that
    are no tasks are data in memory.
    """
    dependencies: dict[Key, list[Key]] = {key: [] for key in pools}
    for edge in edges.split():
        source, target = edge.split(">")
        dependencies[target].append(source)
    return Plan(
        pools=pools,
        dependencies=dependencies,
        layer_of={key: f"{key.partition('.')[0]}-0123abcd" for key in pools},
        sizes=sizes or {},
        pinned={key: str(pools.get(key, "A")) for key in pinned.split()},
        blocked=frozenset(blocked.split()),
        **more,
    )
