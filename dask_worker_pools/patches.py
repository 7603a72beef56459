"""Methods of Dask that are replaced where Dask has no hook: all of them are named here.

A method is replaced once, when this package is imported. One that another version of Dask writes
otherwise is left as it is: a test says so, and what depends on it is lost, but nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pkgutil import resolve_name
from typing import Any

from dask_worker_pools import clones
from dask_worker_pools.delivery import sending
from dask_worker_pools.expr.conversions import array_to_frame, bag_to_frame, frame_to_bag
from dask_worker_pools.expr.ignored import warn_if_ignored
from dask_worker_pools.expr.registry import after_frames
from dask_worker_pools.expr.sequence import as_graphs, as_one_group
from dask_worker_pools.expr.spoken import said_around
from dask_worker_pools.propagate import grouped, hooked, without_hooks

Method = Callable[..., Any]


@dataclass(frozen=True)
class Patch:
    """A method of a class of Dask, and what is done around it."""

    owner: str  #: the class, as ``module:name``, or the module of a function
    method: str
    parameters: tuple[str, ...]  #: the parameters that the method must have
    around: Callable[..., Any]  #: called with the original method and then its arguments

    def original(self) -> Method | None:
        """The method as Dask wrote it; None if this version of Dask has another or none."""
        try:
            found = _function(vars(resolve_name(self.owner))[self.method])
            method: Method = getattr(found, "__wrapped__", found)
            parameters = tuple(inspect.signature(method).parameters)
        except (AttributeError, ImportError, KeyError, TypeError, ValueError):
            return None
        return method if parameters == self.parameters else None

    def apply(self) -> None:
        """Replace the method, unless this version of Dask has another."""
        method, around = self.original(), self.around
        if method is None:
            return

        @wraps(method)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return around(method, *args, **kwargs)

        owner = resolve_name(self.owner)
        static = isinstance(vars(owner)[self.method], staticmethod)
        setattr(owner, self.method, staticmethod(replaced) if static else replaced)


def _function(found: Any) -> Any:
    """The function behind what a class holds under the name of a method."""
    return found.__func__ if isinstance(found, staticmethod) else found


def _to_scheduler(send: Method, client: Any, expr: Any, *args: Any, **kwargs: Any) -> Any:
    """Send a graph to a scheduler, with the code that it needs there."""
    warn_if_ignored(expr)
    with said_around(**kwargs):
        return sending(send, client, expr, *args, **kwargs)


_CLONE = ("self", "keys", "seed", "bind_to")
_FROM_ARRAY = ("x", "columns", "index", "meta")
_TO_DATAFRAME = ("self", "meta", "columns", "optimize_graph")
_GROUPBY = ("self", "grouper", "method", "npartitions", "blocksize", "max_branch", "shuffle")
_TO_SCHEDULER = (
    "self",
    "expr",
    "keys",
    "span_metadata",
    "workers",
    "allow_other_workers",
    "internal_priority",
    "user_priority",
    "resources",
    "retries",
    "fifo_timeout",
    "actors",
)

#: All methods that are replaced.
PATCHES: tuple[Patch, ...] = (
    Patch("dask.highlevelgraph:Layer", "clone", _CLONE, clones.clone),
    Patch("dask.blockwise:Blockwise", "clone", _CLONE, clones.clone),
    Patch("dask.config", "serialize", ("data",), without_hooks),
    Patch("dask._expr:HLGExpr", "from_collection", ("collection", "optimize_graph"), hooked),
    Patch("dask._expr:_ExprSequence", "_simplify_down", ("self",), as_graphs),
    Patch("dask._expr:_HLGExprSequence", "_tune_down", ("self",), as_one_group),
    Patch("dask.bag:Bag", "groupby", _GROUPBY, grouped),
    Patch("distributed:Client", "_graph_to_futures", _TO_SCHEDULER, _to_scheduler),
    Patch("dask.bag:Bag", "to_dataframe", _TO_DATAFRAME, bag_to_frame),
)

#: Those of dask.dataframe, replaced as soon as it is imported.
FRAME_PATCHES: tuple[Patch, ...] = (
    Patch("dask.dataframe.io", "from_dask_array", _FROM_ARRAY, array_to_frame),
    Patch("dask.dataframe.dask_expr.io.bag", "to_bag", ("df", "index", "format"), frame_to_bag),
)


def install() -> None:
    """Replace the methods."""
    for patch in PATCHES:
        patch.apply()
    for patch in FRAME_PATCHES:
        after_frames(patch.apply)
