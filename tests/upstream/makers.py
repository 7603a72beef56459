"""Calls that make a collection from something that is none, by table, and the pools they get."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import cycle
from types import FrameType
from typing import Any

from dask.array.random import RandomState
from dask.base import is_dask_collection
from dask.highlevelgraph import HighLevelGraph

from dask_worker_pools import pool

#: Pools of successive calls, by mode.
MODES: dict[str, tuple[str, ...]] = {"none": (), "one": ("A",), "alternating": ("A", "B")}

_FRAMES = r"(from|read)_[a-z_]+|timeseries"
_FILLED = r"(ones|zeros|full|empty)(_like)?"
_DRAWN = "|".join(name for name in dir(RandomState) if name[0] != "_" and name != "seed")

#: Functions: the module that shows them, and a regular expression of their names.
FUNCTIONS: tuple[tuple[str, str], ...] = (
    ("dask.array", rf"from_?[a-z_]+|{_FILLED}|arange|linspace|eye|tri|indices|(as|asany)?array"),
    ("dask.array.random", _DRAWN),
    ("dask.bag", r"(from|read)_[a-z_]+|range"),
    ("dask.dataframe", _FRAMES),
    ("dask.dataframe.dask_expr", _FRAMES),
    ("dask.dataframe.dask_expr.datasets", _FRAMES),
    ("dask_geopandas", r"(from|read)_(?!dask_dataframe)[a-z_]+"),
    ("dask_image.imread", r"imread"),
    ("xarray", r"open_(dataset|dataarray|mfdataset|zarr)"),
)


def _not_chunked(this: Any, *args: Any, **kwargs: Any) -> bool:
    return not is_dask_collection(this)


def _from_values(this: Any, *args: Any, **kwargs: Any) -> bool:
    """Nothing among the arguments, or in a list among them, is a collection."""
    arguments = [*args, *kwargs.values()]
    inner = [x for some in arguments if isinstance(some, list | tuple | set) for x in some]
    inner += [x for some in arguments if isinstance(some, dict) for x in some.values()]
    return not any(map(is_dask_collection, [*arguments, *inner]))


def _from_tasks(this: Any, *args: Any, **kwargs: Any) -> bool:
    """No argument is a graph with layers: the test wrote the tasks down itself."""
    return not any(isinstance(some, HighLevelGraph) for some in [*args, *kwargs.values()])


def _always(*args: Any, **kwargs: Any) -> bool:
    return True


#: Methods: the class, a regular expression of their names, and when a call makes something new.
METHODS: tuple[tuple[str, tuple[str, str, Callable[..., bool]]], ...] = (
    ("dask.array", ("Array", r"__new__", _from_tasks)),
    ("dask.array.random", ("RandomState", _DRAWN, _always)),
    ("dask.array.random", ("Generator", _DRAWN, _always)),
    ("dask.bag", ("Bag", r"__init__", _from_tasks)),
    ("dask.delayed", ("DelayedLeaf", r"__call__", _from_values)),
    ("xarray", ("DataArray", r"chunk", _not_chunked)),
    ("xarray", ("Dataset", r"chunk", _not_chunked)),
    ("xarray", ("Variable", r"chunk", _not_chunked)),
)

#: What these packages call themselves, for their own ends, is no creation of the test's.
INSIDE = ("dask", "distributed", "xarray")


@dataclass
class Makers:
    """Gives a pool to each call that makes a collection; to the first call the first pool."""

    pools: Sequence[str]
    _next: Iterator[str] = field(init=False)
    _busy: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin with the first pool again, so that a test alone does as it does among others."""
        self._next = cycle(self.pools)

    def wrap(self) -> None:
        """Wrap all that is in the tables and installed, wherever it was imported already."""
        wrapped: dict[int, tuple[Any, Any]] = {}
        for module, pattern in _installed(FUNCTIONS):
            for name, value in vars(module).items():
                if re.fullmatch(pattern, name) and callable(value):
                    wrapped[id(value)] = value, self._in_pool(value)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in {"dask", "xarray", "dask_geopandas", "dask_image"}:
                for attribute, value in list(vars(module).items()):
                    if id(value) in wrapped:
                        setattr(module, attribute, wrapped[id(value)][1])
        for module, (cls, pattern, makes) in _installed(METHODS):
            owner = getattr(module, cls)
            for name in [name for name in dir(owner) if re.fullmatch(pattern, name)]:
                marked: Any = self._in_pool(getattr(owner, name), makes)
                setattr(owner, name, staticmethod(marked) if name == "__new__" else marked)

    def _in_pool(
        self, make: Callable[..., Any], makes: Callable[..., bool] = _always
    ) -> Callable[..., Any]:
        @functools.wraps(make)
        def marked(*args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1)
            if self._busy or _is_inside(caller) or not makes(*args, **kwargs):
                return make(*args, **kwargs)
            self._busy = True
            try:
                with pool(next(self._next)):
                    return make(*args, **kwargs)
            finally:
                self._busy = False

        return marked


def _installed(table: Sequence[tuple[str, Any]]) -> Iterator[tuple[Any, Any]]:
    """The modules of a table that can be imported, each with its entry."""
    for name, entry in table:
        try:
            module = import_module(name)
        except ImportError:
            continue
        yield module, entry


def _is_inside(caller: FrameType) -> bool:
    name = str(caller.f_globals.get("__name__", ""))
    return name.partition(".")[0] in INSIDE and ".tests" not in name
