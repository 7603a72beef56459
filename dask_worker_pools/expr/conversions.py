"""Arrays and bags that become frames, and frames that become bags, with their pools.

Dask flattens the graph of what it converts, and drops the annotations. So the pins are first
written into the tasks themselves, and only the conversion gets the pool that is in force around it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVar

import dask
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from dask_worker_pools.annotations import POOL_KEY, allowed_in, is_blocked, pools_in
from dask_worker_pools.expr.build import pinned_here
from dask_worker_pools.expr.markers import Marker, kind_of
from dask_worker_pools.expr.places import place_in
from dask_worker_pools.graph import as_high_level
from dask_worker_pools.marks import mark_of
from dask_worker_pools.propagate import pass_here

T = TypeVar("T")


def array_to_frame(convert: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """Make a frame of an array by ``dask.dataframe.from_dask_array``."""
    if not _has_pins(x):
        return convert(x, *args, **kwargs)
    # Dask would fuse the conversion with what it converts.
    with dask.config.set({"optimization.fuse.active": False}):
        return _pinned(Context().run(convert, _marked(x), *args, **kwargs))


def bag_to_frame(convert: Callable[..., Any], bag: Any, *args: Any, **kwargs: Any) -> Any:
    """Make a frame of a bag by its ``to_dataframe``."""
    if not _has_pins(bag):
        return convert(bag, *args, **kwargs)
    names = ("meta", "columns", "optimize_graph")
    options = {**dict(zip(names, args)), **kwargs, "optimize_graph": False}
    return _pinned(Context().run(convert, _marked(bag), **options))


def frame_to_bag(convert: Callable[..., Any], frame: Any, *args: Any, **kwargs: Any) -> Any:
    """Make a bag of a frame by ``dask.dataframe.to_bag``."""
    bag = convert(frame, *args, **kwargs)
    graph = frame.optimize().__dask_graph__() if hasattr(frame, "optimize") else None
    if not isinstance(graph, Layer) or bag.name == frame.optimize()._name:
        return bag
    own = {key: task for key, task in bag.dask.items() if key[0] == bag.name}
    source = f"frame-{bag.name}"
    layers: dict[str, Layer] = {bag.name: MaterializedLayer(own), source: graph}
    bag.dask = HighLevelGraph(layers, {bag.name: {source}, source: set()})
    return bag


def _has_pins(collection: Any) -> bool:
    """Whether the user said of any task of a collection where it runs."""
    graph = getattr(collection, "dask", None)
    if not isinstance(graph, HighLevelGraph):
        return False
    return any(map(_is_pinned, as_high_level(graph).layers.values()))


def _is_pinned(layer: Layer) -> bool:
    said = layer.annotations or {}
    if any(callable(said.get(name)) for name in (POOL_KEY, "resources")):
        return True
    if pools_in(said) or allowed_in(said) or is_blocked(said):
        return True
    return not isinstance(layer, Blockwise) and any(map(_carries_pin, layer.values()))


def _carries_pin(task: Any) -> bool:
    mark = mark_of(task)
    return mark is not None and bool(mark[0])


def _marked(collection: T) -> T:
    """The same collection with one layer of tasks that carry their pins themselves."""
    # What is said around holds for the conversion.
    tasks = pass_here()(collection.__dask_graph__(), collection.__dask_keys__())  # type: ignore[attr-defined]
    layer = MaterializedLayer(dict(tasks))
    layer.annotations = None  # not those in force
    (name,) = collection.__dask_layers__()  # type: ignore[attr-defined]
    rebuild, arguments = collection.__dask_postpersist__()  # type: ignore[attr-defined]
    made: T = rebuild(HighLevelGraph({name: layer}, {name: set()}), *arguments)
    return made


def _pinned(frame: Any) -> Any:
    """The frame in the pool that is in force, but for the tasks that have one."""
    place, kind = place_in(dask.get_annotations()), kind_of(frame.expr)
    if place is None or kind is None:
        return frame
    expr = frame.expr.frame if isinstance(frame.expr, Marker) else frame.expr
    return Context().run(type(frame), pinned_here(kind, expr, place))
