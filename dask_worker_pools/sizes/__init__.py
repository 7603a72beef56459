"""How many bytes each task's output has, told without computing anything.

In order of trust, for each output:

0. *measured*: what is in memory already has the size that its worker counted;
1. *declared*: the annotation ``nbytes`` of its layer: a number, a string such as ``"2 GiB"``, or a
   function of the key that gives one of these, or anything else where it does not say;
2. *chunks*: the chunks and dtype of the array that the layer was made for;
3. *derived*: told from the sizes of the task's inputs and what Dask's functions do to them;
4. *embedded*: measured, where the graph holds the data itself;
5. *rows*: of frames, rows × bytes of a row, as their expressions tell;
6. *unknown*: none of these. An unknown size is absent, which is never the same as 0.

Bytes are those that a worker counts, `dask.sizeof`. But an array counts all its elements, also
where a block repeats one of them without storing it again (``da.ones`` before anything is done with
it).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from math import isnan
from numbers import Real
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph, Layer
from dask.typing import Key

from dask_worker_pools.amounts import size_in_bytes
from dask_worker_pools.annotations import WEIGHT_KEY
from dask_worker_pools.pool_error import PoolError
from dask_worker_pools.sizes.blocks import FRAME, GraphBlocks, is_of_frame
from dask_worker_pools.sizes.grid import Grid

__all__ = [
    "FRAME",
    "DeclaredSizeError",
    "LayerSizes",
    "SizeEstimates",
    "joined_sources",
    "layer_sizes",
    "layer_weights",
    "output_sizes",
]

TRUST = ("measured", "declared", "chunks", "derived", "embedded", "rows", "unknown")


class DeclaredSizeError(PoolError, ValueError):
    """An ``nbytes`` annotation is not a number of bytes.

    Attributes
    ----------
    layer : str
        Name of the annotated layer.
    value : object
        What the annotation says.
    """

    fields = ("layer", "value")

    def __init__(self, layer: str, value: object) -> None:
        super().__init__(layer, value)
        self.layer = layer
        self.value = value

    def __str__(self) -> str:
        return (
            f"Layer {self.layer!r} declares nbytes={self.value!r}. "
            "Give a number of bytes, 0 or more, or a string such as '2 GiB'."
        )


@dataclass(frozen=True)
class LayerSizes:
    """The outputs' sizes of one layer, symbolic where the layer is.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.zeros((6, 4), chunks=(2, 4), dtype="int8")
    >>> sizes = layer_sizes(x.dask)[x.name]
    >>> sizes.count, sizes.uniform, sizes.total, sizes.source
    (3, 8.0, 24.0, 'chunks')
    >>> sizes.of((x.name, 2, 0))
    8.0
    """

    #: Number of outputs. Of a rechunk peer to peer, which hides its tasks, only the final blocks.
    count: int
    known: int  #: number of outputs of known size
    total: float  #: bytes of all outputs of known size
    uniform: float | None  #: bytes of each output if all are known and alike
    source: str  #: where the sizes are from; several joined by "+", the most trusted first
    grids: tuple[Grid, ...] = field(default=(), repr=False)  #: blocks of arrays
    listed: Mapping[Key, float] = field(default_factory=dict, repr=False)  #: bytes of other tasks

    def of(self, key: Key) -> float | None:
        """Give the bytes of the output of one of this layer's keys; None if unknown.

        That the key is one of this layer's is taken for granted.
        """
        if self.uniform is not None:
            return self.uniform
        if key in self.listed:
            return self.listed[key]
        return next((size for grid in self.grids if (size := grid.of(key)) is not None), None)

    def of_all(self, keys: Collection[Key]) -> dict[Key, float]:
        """Give the bytes of the outputs of many of this layer's keys; unknown ones are absent."""
        if self.uniform is not None:
            return dict.fromkeys(keys, self.uniform)
        if 4 * len(keys) > self.known:  # then a table of all is faster than picking one by one
            table = dict(self.items())
            return {key: table[key] for key in keys if key in table}
        return {key: size for key in keys if (size := self.of(key)) is not None}

    def of_blocks(self, name: object, blocks: npt.NDArray[np.int64]) -> list[float | None] | None:
        """Give the bytes of blocks by their place in the grid that a collection's keys form.

        Parameters
        ----------
        name : object
            The first part of the keys.
        blocks : array of int
            Places in the grid, in the order of the keys.

        Returns
        -------
        list of float or None
            None in it where a size is unknown; None for all of it where sizes are listed by key.
        """
        if self.listed or len(self.grids) != 1 or self.grids[0].name != name:
            return None
        table = self.grids[0].table().ravel()[blocks]
        if np.isnan(table).any():
            return [None if isnan(size) else size for size in table.tolist()]
        # Sizes that are equal are one object: a table of many takes no more room than places.
        alike = {size: size for size in np.unique(table).tolist()}
        return [*map(alike.__getitem__, table.tolist())]

    def items(self) -> Iterator[tuple[Key, float]]:
        """Yield the key and bytes of each output of known size."""
        if self.uniform is not None:
            keys = chain(self.listed, *(grid.block_keys() for grid in self.grids))
            yield from zip(keys, repeat(self.uniform))
            return
        for grid in self.grids:
            yield from grid.items()
        yield from self.listed.items()


@dataclass(frozen=True)
class SizeEstimates:
    """Bytes of each task's output, as far as they are known without computing."""

    nbytes: dict[Key, float]  #: bytes by key; an unknown size is absent
    #: By layer: "declared", "chunks", "derived", "embedded", "rows" or "unknown". Where a layer's
    #: outputs are told in several ways these are joined by "+", the most trusted first;
    #: "…+unknown" if some of its outputs are absent.
    sources: dict[str, str]


def output_sizes(
    graph: HighLevelGraph, keys: Mapping[str, Collection[Key]] | None = None
) -> SizeEstimates:
    """Tell how many bytes each task's output has, without computing anything.

    Parameters
    ----------
    graph : HighLevelGraph
        The graph, optimised or not. It is not changed: no Blockwise layer is materialised.
    keys : mapping of str to collection of keys, optional
        The wanted keys of each wanted layer. Default: all keys of all layers.

    Returns
    -------
    SizeEstimates
        Unknown sizes are absent.

    Raises
    ------
    DeclaredSizeError
        If an ``nbytes`` annotation is negative, not finite, or cannot be read.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.zeros((4, 6), chunks=(2, 6), dtype="float32")
    >>> total = x.sum(axis=0, split_every=2)
    >>> sizes = output_sizes(total.dask)
    >>> sizes.nbytes[x.name, 0, 0], sizes.nbytes[total.name, 0]
    (48.0, 24.0)
    >>> sizes.sources[total.name]
    'chunks'
    """
    layers = layer_sizes(graph, None if keys is None else keys.keys())
    nbytes: dict[Key, float] = {}
    # Layers may repeat a task of another one: the more trusted size is written last.
    by_trust = sorted(layers.items(), key=lambda item: -TRUST.index(item[1].source.split("+")[0]))
    for name, sizes in by_trust:
        if keys is None:
            nbytes.update(sizes.items())
        else:
            nbytes.update(sizes.of_all(keys[name]))
    return SizeEstimates(nbytes, {name: sizes.source for name, sizes in layers.items()})


def layer_sizes(
    graph: HighLevelGraph,
    layers: Collection[str] | None = None,
    measured: Mapping[Key, float] = MappingProxyType({}),
) -> dict[str, LayerSizes]:
    """Tell the sizes of each layer's outputs, keeping layers symbolic.

    Parameters
    ----------
    graph : HighLevelGraph
        The graph; it is not changed.
    layers : collection of str, optional
        Names of the wanted layers; names that the graph lacks are left out. Default: all.
    measured : mapping of key to float, optional
        Bytes of data that is in memory already, under keys of the graph.

    Returns
    -------
    dict of str to LayerSizes
        By layer name, in the graph's order.

    Raises
    ------
    DeclaredSizeError
        As for `output_sizes`.
    """
    blocks = GraphBlocks(graph, measured)
    return {
        name: _sizes_of(name, layer, blocks)
        for name, layer in graph.layers.items()
        if layers is None or name in layers
    }


def layer_weights(graph: HighLevelGraph, layers: Collection[str]) -> dict[str, LayerSizes]:
    """Give what outputs of unknown size weigh in each layer where that was said: no bytes.

    Parameters
    ----------
    graph : HighLevelGraph
        The graph; it is not changed.
    layers : collection of str
        Names of the wanted layers.

    Returns
    -------
    dict of str to LayerSizes
        By layer name; layers of which nothing was said are absent. A weight stands where a size
        would.
    """
    return {
        name: _told_by_rows(layer, layer.annotations[WEIGHT_KEY])
        for name, layer in graph.layers.items()
        if name in layers and layer.annotations and WEIGHT_KEY in layer.annotations
    }


def _sizes_of(name: str, layer: Layer, blocks: GraphBlocks) -> LayerSizes:
    declared = layer.annotations.get("nbytes") if layer.annotations else None
    try:
        if is_of_frame(layer):
            return _told_by_rows(layer, declared)
        if declared is None:
            return _found(name, blocks)
        if callable(declared):
            return _declared_by_key(name, declared, blocks)
        return _declared_alike(_parse(name, declared), blocks.keys(name))
    except DeclaredSizeError:
        raise
    except Exception:  # a layer that Dask could not write out; it will say so itself
        return LayerSizes(0, 0, 0.0, None, "unknown")


def _told_by_rows(layer: Layer, told: object) -> LayerSizes:
    """Give the outputs of frames the sizes that their expressions told, and no others."""
    if isinstance(layer, Blockwise) and not callable(told):  # alike, and not written out
        size = float(told) if isinstance(told, Real) else None
        known, source = (0, "unknown") if size is None else (len(layer), "rows")
        return LayerSizes(len(layer), known, known * (size or 0.0), size, source)
    listed: dict[Key, float] = {}
    if callable(told):
        sizes = ((key, told(key)) for key in layer)
        # Nearly all are floats, which is seen faster than that they are real numbers.
        listed = {k: float(n) for k, n in sizes if type(n) is float or isinstance(n, Real)}
    elif isinstance(told, Real):
        listed = dict.fromkeys(layer, float(told))
    return _summed(len(layer), (), listed, {"rows"} if listed else set())


def _found(name: str, blocks: GraphBlocks) -> LayerSizes:
    """Tell a layer's sizes from the graph."""
    grids, tasks = blocks.grids(name), blocks.tasks(name)
    listed: dict[Key, float] = {}
    sources = {grid.source for grid in grids if grid.known}
    gridded = sum(grid.count for grid in grids)
    for key in tasks if len(tasks) > gridded else ():
        if all(grid.shape(key) is None for grid in grids):
            told = blocks.told(key, name)
            if told is not None:
                listed[key], source = told
                sources.add(source)
    return _summed(blocks.count(name), grids, listed, sources)


def _declared_alike(size: float, keys: Grid | Collection[Key]) -> LayerSizes:
    """Give every output the declared size."""
    count = keys.count if isinstance(keys, Grid) else len(keys)
    grids = (keys,) if isinstance(keys, Grid) else ()
    listed = {} if isinstance(keys, Grid) else dict.fromkeys(keys, size)
    return LayerSizes(count, count, count * size, size, "declared", grids, listed)


def _declared_by_key(
    name: str, declared: Callable[[Key], object], blocks: GraphBlocks
) -> LayerSizes:
    """Give the outputs that the function speaks of the declared size, the others their own."""
    keys = blocks.keys(name)
    said = {}
    for key in keys.block_keys() if isinstance(keys, Grid) else keys:
        try:
            value = declared(key)
        except Exception:  # it does not say; nothing is to fail for that
            continue
        # Dask itself wraps annotations in functions that give a marker for "nothing was said".
        if isinstance(value, str | Real | np.ndarray) and not isinstance(value, bool):
            said[key] = _parse(name, value)
    found = _found(name, blocks)
    listed = dict(found.items()) | said
    sources = {"declared"} if said else set()
    if len(said) < len(listed):
        sources.update(found.source.split("+"))
    return _summed(found.count, (), listed, sources)


def _summed(
    count: int, grids: tuple[Grid, ...], listed: dict[Key, float], sources: set[str]
) -> LayerSizes:
    known = len(listed) + sum(grid.known for grid in grids)
    total = sum(listed.values()) + sum(grid.total for grid in grids)
    alike = {grid.uniform for grid in grids} | set(listed.values())
    uniform = alike.pop() if known == count and len(alike) == 1 else None
    told = sources - {"unknown"} if known == count else sources | {"unknown"}
    return LayerSizes(count, known, total, uniform, joined_sources(told), grids, listed)


def joined_sources(sources: Iterable[str]) -> str:
    """Say in how many ways sizes are known, the most trusted first.

    Examples
    --------
    >>> joined_sources({"unknown", "chunks+derived", "declared"})
    'declared+chunks+derived+unknown'
    """
    told = {part for source in sources for part in source.split("+")}
    return "+".join(sorted(told, key=TRUST.index)) or "unknown"


def _parse(layer: str, value: object) -> float:
    size = size_in_bytes(value)
    if size is None:
        raise DeclaredSizeError(layer, value)
    return size
