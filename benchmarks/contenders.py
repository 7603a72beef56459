"""Ways to run the same computation on the same cluster.

They differ in what stands in Dask's configuration, in the user's process and in the scheduler's,
while a computation is built and sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
from dask.array.optimization import optimize as optimize_array
from dask.bag import Bag
from dask.highlevelgraph import HighLevelGraph

from benchmarks import rule2022
from benchmarks.graphs import whole_graph
from benchmarks.rule2022 import PREFIX, UNFUSED
from dask_worker_pools import pool, propagate_pools

#: Peer-to-peer rechunking ignores resources, and waits for ever if there are some.
BY_TASKS = {"array.rechunk.method": "tasks", "dataframe.shuffle.method": "tasks"}
#: What Dask does if nothing is said, in the process of the scheduler.
DEFAULTS: dict[str, Any] = {
    "optimization.fuse.active": None,
    "optimization.annotations.fuse": True,
}


def annotated(name: str, nbytes: Any = None) -> AbstractContextManager[Any]:
    """Pin what is created in the block, with the means of plain Dask; sizes cannot be said."""
    return dask.annotate(resources={PREFIX + name: 0})


@dataclass(frozen=True)
class Contender:
    """One way to run computations."""

    name: str
    title: str
    pool: Callable[..., AbstractContextManager[Any]]  #: how loads are pinned
    #: in the user's process, around building and sending
    client: Callable[[], AbstractContextManager[Any]]
    #: configuration in the scheduler's process, for these collections
    scheduler: Callable[[Sequence[Any]], Mapping[str, Any]]
    #: whether Dask may optimise these collections
    optimize: Callable[[Sequence[Any]], bool] = lambda collections: True
    frames: bool = False  #: whether it can pin dataframes: they ignore annotations


def contenders(home: str) -> list[Contender]:
    """All of them; `home` is the site where everything runs that may, for the second."""
    return [
        Contender("plain", "plain Dask", annotated, _by_tasks, _unfused, _keeps_annotations),
        Contender(
            "one", "one site", annotated, partial(_all_in, home), _never_fused, _keeps_annotations
        ),
        Contender("rule", "rule of 2022", annotated, _rule, _never_fused),
        Contender(
            "pools",
            "this library",
            pool,
            propagate_pools,
            lambda collections: DEFAULTS,
            frames=True,
        ),
    ]


def _by_tasks() -> AbstractContextManager[Any]:
    return dask.config.set(BY_TASKS)


def _all_in(home: str) -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.enter_context(_by_tasks())
    stack.enter_context(dask.annotate(resources={PREFIX + home: 0}))
    return stack


def _rule() -> AbstractContextManager[Any]:
    hooks = ("array_optimize", "bag_optimize", "delayed_optimize")
    return dask.config.set({**BY_TASKS, **dict.fromkeys(hooks, rule2022.optimize)})


def _unfused(collections: Sequence[Any]) -> Mapping[str, Any]:
    """Settings under which plain Dask keeps pins, and does as well as it can.

    Low-level fusion drops annotations, so it is off. Blockwise fusion merges a load with what
    follows from it, which is good; but where it would merge loads of two pools no worker could run
    the result, and it must keep its hands off annotated layers.
    """
    return {
        "optimization.fuse.active": False,
        "optimization.annotations.fuse": not mixes(collections),
    }


def _never_fused(collections: Sequence[Any]) -> Mapping[str, Any]:
    return UNFUSED


def mixes(collections: Sequence[Any]) -> bool:
    """Whether Dask's fusion merges tasks of two pools."""
    graph, outputs = whole_graph(collections, keep=False)
    with dask.config.set({**DEFAULTS, "optimization.fuse.active": False}):
        optimized = optimize_array(graph, outputs)
    assert isinstance(optimized, HighLevelGraph)
    said = ((layer.annotations or {}).get("resources") for layer in optimized.layers.values())
    # Layers of delayed objects, which are never fused, may hold functions instead.
    merged = [own for own in said if isinstance(own, dict)]
    return any(sum(name.startswith(PREFIX) for name in own) > 1 for own in merged)


def _keeps_annotations(collections: Sequence[Any]) -> bool:
    """False for bags: their optimisation drops annotations, whatever the settings."""
    return not any(isinstance(collection, Bag) for collection in collections)
