"""Ways to run the same computation on the same cluster.

They differ in what stands in Dask's configuration, in the user's process and in the scheduler's,
while a computation is built and sent.
"""

from __future__ import annotations

import contextvars
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
from dask.array.optimization import optimize as optimize_array
from dask.bag import Bag
from dask.highlevelgraph import HighLevelGraph
from distributed import default_client
from toolz import identity

from benchmarks import rule2022
from benchmarks.graphs import are_frames, whole_graph
from benchmarks.rule2022 import PREFIX, UNFUSED
from benchmarks.workloads import PoolFunction
from dask_worker_pools import PoolsIgnored, pool, propagate_pools
from dask_worker_pools.expr.markers import bare

#: Peer-to-peer rechunking ignores resources, and waits for ever if there are some.
BY_TASKS = {"array.rechunk.method": "tasks", "dataframe.shuffle.method": "tasks"}
#: What Dask does if nothing is said, in the process of the scheduler.
DEFAULTS: dict[str, Any] = {
    "optimization.fuse.active": None,
    "optimization.annotations.fuse": True,
}


@contextmanager
def in_pool(name: str, nbytes: Any = None) -> Iterator[Callable[[Any], Any]]:
    """Pin what is created in the block with this library: dataframes stay where they are made."""
    with pool(name, nbytes=nbytes):
        yield identity


@contextmanager
def annotated(
    name: str, nbytes: Any = None, loaded: dict[str, str] | None = None
) -> Iterator[Callable[[Any], Any]]:
    """Pin what is created in the block, with the means of plain Dask; sizes cannot be said.

    Dataframes forget annotations, and keep what they are computed with: to have one in a pool is to
    load it at once. In `loaded` it is noted where each expression is.
    """
    resources = {PREFIX + name: 0}

    def load(frame: Any) -> Any:
        # As if this library were not there: it reads annotations, and marks what is made with them.
        plain = type(frame)(bare(frame.expr))
        persist = default_client().persist
        held = contextvars.Context().run(persist, plain, resources=resources)
        if loaded is not None:
            loaded[held.expr._name] = name
        return held

    with dask.annotate(resources=resources), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Dask annotations", UserWarning)
        yield load


@dataclass(frozen=True)
class Contender:
    """One way to run computations."""

    name: str
    title: str
    pool: PoolFunction  #: how loads are pinned
    #: in the user's process, around building and sending
    client: Callable[[], AbstractContextManager[Any]]
    #: configuration in the scheduler's process, for these collections
    scheduler: Callable[[Sequence[Any]], Mapping[str, Any]]
    #: whether Dask may optimise these collections
    optimize: Callable[[Sequence[Any]], bool] = lambda collections: True
    #: what is sent instead of these collections
    rewrite: Callable[[Sequence[Any]], Sequence[Any]] = identity


def contenders(home: str) -> list[Contender]:
    """All of them; `home` is the site where everything runs that may, for the second."""
    loaded: dict[str, str] = {}
    return [
        Contender("plain", "plain Dask", annotated, _by_tasks, _unfused, _keeps_annotations),
        Contender(
            "one",
            "one site",
            annotated,
            partial(_all_in, home),
            _never_fused,
            _keeps_annotations,
            rewrite=partial(rule2022.with_layers, {}),
        ),
        Contender(
            "rule",
            "rule of 2022",
            partial(annotated, loaded=loaded),
            _rule,
            _never_fused,
            rewrite=partial(rule2022.with_layers, loaded),
        ),
        Contender("pools", "this library", in_pool, propagate_pools, lambda collections: DEFAULTS),
    ]


def _by_tasks() -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.enter_context(dask.config.set(BY_TASKS))
    # They may be given what was built in pools: that these are ignored is what is compared.
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore", PoolsIgnored)
    return stack


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
    """Whether Dask's fusion merges tasks of two pools; it never sees loads of dataframes."""
    if are_frames(collections):
        return False
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
