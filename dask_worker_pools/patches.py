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

from dask_worker_pools.expr.conversions import array_to_frame, bag_to_frame, frame_to_bag
from dask_worker_pools.expr.merging import while_merging
from dask_worker_pools.expr.registry import after_frames
from dask_worker_pools.expr.spoken import said_around

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
            found = vars(resolve_name(self.owner))[self.method]
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

        setattr(resolve_name(self.owner), self.method, replaced)


#: All methods that are replaced.
PATCHES: tuple[Patch, ...] = (
    Patch("dask._expr:_ExprSequence", "_simplify_down", ("self",), while_merging),
    Patch(
        "dask.bag.core:Bag",
        "to_dataframe",
        ("self", "meta", "columns", "optimize_graph"),
        bag_to_frame,
    ),
    Patch(
        "distributed.client:Client",
        "_graph_to_futures",
        (
            *("self", "expr", "keys", "span_metadata", "workers", "allow_other_workers"),
            *("internal_priority", "user_priority", "resources", "retries", "fifo_timeout"),
            "actors",
        ),
        said_around,
    ),
)

#: Those of dask.dataframe, replaced as soon as it is imported.
FRAME_PATCHES: tuple[Patch, ...] = (
    Patch(
        "dask.dataframe.io", "from_dask_array", ("x", "columns", "index", "meta"), array_to_frame
    ),
    Patch("dask.dataframe.dask_expr.io.bag", "to_bag", ("df", "index", "format"), frame_to_bag),
)


def install() -> None:
    """Replace the methods."""
    for patch in PATCHES:
        patch.apply()
    for patch in FRAME_PATCHES:
        after_frames(patch.apply)
