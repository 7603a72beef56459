"""Whose optimisation each output of a merged graph wants: array, bag, delayed or frame.

Dask merges the graphs of all collections that are computed at once, so that pools are planned for
all of them together, and says no more which output came from what.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from dask.typing import Key

from dask_worker_pools.graph import KeyedTasks

Kind = Literal["array", "bag", "delayed", "frame"]


def outputs_by_kind(outputs: Iterable[Key], tasks: KeyedTasks) -> dict[Kind, list[Key]]:
    """The outputs of each kind of collection."""
    kinds: dict[Kind, list[Key]] = {}
    for key in outputs:
        kinds.setdefault(_kind(key, tasks), []).append(key)
    return kinds


def _kind(key: Key, tasks: KeyedTasks) -> Kind:
    """The kind of one output, told by what Dask and its collections leave in the graph.

    1. Dask's own finalize task calls the collection's ``__dask_postcompute__`` function.
    2. Arrays leave ``collection_annotations`` on their last layer.
    3. Partitions of a bag are numbered, in a layer of the bag's name.
    4. Layers of frames say so; Dask has optimised them before they became tasks.
    5. Anything else is delayed, which is optimised least: a wrong guess costs speed only.
    """
    name = tasks.layer_of.get(key)
    if name is None:
        return "delayed"
    layer = tasks.layers[name]
    if isinstance(key, str) and key.startswith("finalize-"):  # 1
        function = getattr(layer[key], "func", None)
        return "bag" if getattr(function, "__module__", None) == "dask.bag.core" else "array"
    made_for = str((layer.collection_annotations or {}).get("type", ""))
    if made_for.startswith("dask.array"):  # 2
        return "array"
    if made_for.startswith("dask.dataframe"):  # 4
        return "frame"
    if isinstance(key, tuple) and len(key) == 2 and key[0] == name:  # 3
        return "bag"
    return "delayed"
