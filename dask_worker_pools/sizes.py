"""Bytes of each task's output, as far as they can be told without computing anything."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dask.highlevelgraph import HighLevelGraph
from dask.typing import Key


@dataclass(frozen=True)
class SizeEstimates:
    """Sizes of outputs; unknown = absent."""

    nbytes: dict[Key, float]


def output_sizes(graph: HighLevelGraph, keys: Mapping[str, Collection[Key]]) -> SizeEstimates:
    """Sizes of the chunks of arrays, from the shape and dtype that Dask notes on layers."""
    known: dict[Key, float] = {}
    for name, wanted in keys.items():
        noted = graph.layers[name].collection_annotations or {}
        if "chunks" not in noted or noted.get("dtype") is None:
            continue
        chunks, itemsize = noted["chunks"], noted["dtype"].itemsize
        for key in wanted:
            if isinstance(key, tuple) and key[0] == name and len(key) == len(chunks) + 1:
                shape = [sizes[int(i)] for sizes, i in zip(chunks, key[1:], strict=True)]
                if not any(math.isnan(n) for n in shape):
                    known[key] = float(math.prod(shape) * itemsize)
    return SizeEstimates(known)
