"""Marks what dask.dataframe makes inside of `pool`, through its registry of collection types."""

from __future__ import annotations

import contextvars
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import dask
from dask._dispatch import get_collection_type
from dask.utils import is_arraylike

from dask_worker_pools.annotations import Annotations, without_pool
from dask_worker_pools.expr.blocks import is_graph
from dask_worker_pools.expr.build import built
from dask_worker_pools.expr.markers import Marker, bare
from dask_worker_pools.expr.places import inside, place_in

DATAFRAME = "dask.dataframe"


def install() -> None:
    """Mark frames from now on; if dask.dataframe is not there yet, as soon as it is imported.

    Arrays too, where they are made of expressions.
    """
    if dask.config.get("array.query-planning", None) is True:
        from dask.array._array_expr._expr import ArrayExpr

        from dask_worker_pools.expr.arrays import array_kind

        register(array_kind(ArrayExpr))
    if DATAFRAME in sys.modules:
        _import_frames()
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def after_frames(act: Callable[[], None]) -> None:
    """Do something as soon as dask.dataframe is imported, or now if it is."""
    if DATAFRAME in sys.modules:
        act()
    else:
        _waiting.append(act)


#: What waits for the import of dask.dataframe.
_waiting: list[Callable[[], None]] = []


def _import_frames() -> None:
    # It registers itself.
    importlib.import_module("dask_worker_pools.expr.frames")
    while _waiting:
        _waiting.pop(0)()


class _Watch(importlib.abc.MetaPathFinder):
    """Waits for the import of dask.dataframe, which takes a second that others need not spend."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != DATAFRAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _import_frames()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register(kind: type[Any]) -> None:
    """Mark what any entry of the registry makes of expressions of one kind."""
    for made_of, choose in dict(get_collection_type._lookup).items():
        get_collection_type.register(made_of, Marking(choose, built(kind)))


class _ForArray:
    """A marked frame as Dask reads it to make an array of its graph: under its bare name."""

    def __init__(self, expr: Any) -> None:
        self.expr = expr

    def optimize(self) -> _ForArray:
        """Optimise the frame."""
        return _ForArray(self.expr.optimize())

    def __dask_graph__(self) -> Any:
        return self.expr.layer

    def __getattr__(self, name: str) -> Any:
        return getattr(bare(self.expr), name)


class Marking:
    """An entry of the registry that marks what the entry before it makes."""

    def __init__(self, choose: Callable[[Any], Any], mark: Callable[[Any], Any]) -> None:
        self.choose = choose
        self.mark = mark

    def __call__(self, meta: Any) -> Callable[[Any], Any]:
        """Give the function that makes a collection of an expression."""
        make = self.choose(meta)

        def marked(expr: Any) -> Any:
            new = self.mark(expr)
            if isinstance(new, Marker) and is_arraylike(meta) and not isinstance(make, type):
                new = _ForArray(new)
            if new is expr and not place_in(dask.get_annotations()):
                return make(new)
            if inside() == () and not isinstance(expr, Marker) and not is_graph(expr):
                _warn_forgotten(without_pool(dask.get_annotations()))
            # Dask would warn that it ignores pools.
            return contextvars.Context().run(make, new)

        return marked


def _warn_forgotten(annotations: Annotations) -> None:
    if annotations:
        warnings.warn(
            f"The annotations {annotations} are forgotten, as dask.dataframe keeps none while a "
            "frame is built. Say them around the computation, where they hold for all tasks: "
            "with dask.annotate(…): frame.compute().",
            UserWarning,
            stacklevel=4,
        )
