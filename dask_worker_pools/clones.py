"""Copies of layers under other names keep what was said of the layers.

`dask.graph_manipulation` copies the layers of a collection in `bind`, `clone` and `wait_on`. Dask
forgets annotations there, but for those of blockwise layers, and shapes everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

import dask
from dask.base import clone_key
from dask.blockwise import Blockwise
from dask.highlevelgraph import Layer
from dask.typing import Key

from dask_worker_pools.annotations import (
    POOL_KEY,
    Annotations,
    annotations_by_key,
    pools_in,
    without_pool,
)
from dask_worker_pools.graph import layer_annotations
from dask_worker_pools.marks import mark_of


def clone(
    original: Callable[..., tuple[Layer, bool]],
    layer: Layer,
    keys: Collection[Key],
    seed: Hashable,
    bind_to: Key | None = None,
) -> tuple[Layer, bool]:
    """Clone a layer as Dask does, and say of the copy what was said of the layer."""
    copied, bound = original(layer, keys, seed, bind_to)
    copied.annotations = _annotations(layer, keys, seed)
    if layer.collection_annotations and not copied.collection_annotations:
        copied.collection_annotations = dict(layer.collection_annotations)
    return copied, bound


def _annotations(layer: Layer, keys: Collection[Key], seed: Hashable) -> Annotations | None:
    """The annotations of a copied layer: its own, and those around the copying."""
    around, own = dask.get_annotations(), layer.annotations or {}
    if isinstance(layer, Blockwise) and not any(map(callable, (*around.values(), *own.values()))):
        return _inside(around, own) or None  # alike for all blocks, which are not written out
    said = dict(annotations_by_key(own, layer.get_output_keys()))
    if not isinstance(layer, Blockwise):
        # A task may carry more itself, and loses it where it is wrapped to be bound.
        marks = {key: mark_of(task) for key, task in layer.items()}
        said |= {key: said.get(key, {}) | mark[0] for key, mark in marks.items() if mark}
    new = {key: clone_key(key, seed) if key in keys else key for key in layer.get_output_keys()}
    outer = dict(annotations_by_key(around, new.values()))
    merged = {copy: _inside(outer.get(copy, {}), said.get(key, {})) for key, copy in new.items()}
    return layer_annotations(merged, merged)


def _inside(around: Annotations, own: Mapping[str, Any]) -> Annotations:
    """What holds for a task that was annotated itself and is copied in an annotated block."""
    if pools_in(own) or POOL_KEY in own:
        around = without_pool(around)  # what was said to be somewhere stays there
    merged = {**around, **own}
    if "resources" in around and "resources" in own:
        merged["resources"] = {**around["resources"], **own["resources"]}
    return merged
