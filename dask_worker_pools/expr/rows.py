"""How many bytes a partition of a frame has, told from its expression: rows × bytes of a row.

Rows are counted where frames are made: exactly for data in memory, from the footers of a few files
for parquet. From there on they follow the expressions. What a filter keeps is told from the range
of its column where that is known; otherwise, and for the number of groups, the usual guesses of
databases stand in. What a source holds that says nothing of itself (csv, functions, delayed
objects) is unknown, and so is all that follows from it, unless a size is assumed for its
partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isnan, prod
from statistics import median
from types import MappingProxyType
from typing import Any

import numpy as np

from dask_worker_pools.expr.filters import kept_by_filter, kept_by_reader
from dask_worker_pools.expr.footers import footers, mean_of_files, some_files
from dask_worker_pools.expr.said import is_source, source_name

#: Groups, as a part of the rows.
GROUPS = 0.1
#: Bytes of a text of which nothing is known, and of what is no column of a frame.
TEXT, SCALAR = 32.0, 8.0
#: Bytes to assume of a partition where the size of no source is known: so many that a single row is
#: next to nothing. What follows from it is told in parts of it.
PARTITION = 1e8

#: A partition's rows on average, or None if they are unknown.
Rows = float | None


class Estimates:
    """Bytes of the partitions of expressions, asked one by one.

    Parameters
    ----------
    assumed : float, optional
        Bytes of a partition of which nothing is known; None = they stay unknown.
    declared : mapping of str to float
        Bytes of a partition of sources, by their names (`source_name`).
    """

    def __init__(
        self, assumed: float | None = None, declared: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        self._assumed = assumed
        self._declared = declared
        self._sources: dict[str, Any] = {}  # the readers that were looked at, by name
        self._rows: dict[str, Rows] = {}
        # Bytes of a text in the sources below an expression, by its name and that of the column.
        self._texts: dict[str, Mapping[str, float]] = {}

    def nbytes(self, expr: Any, whole: bool = False) -> float | None:
        """Mean bytes of a partition of an expression, or of a chunk; None if unknown.

        `whole`: of a source with all columns, of which perhaps some are read.
        """
        try:
            if hasattr(type(expr), "chunks"):
                return _chunk_bytes(expr)
            rows = self.rows(expr)
            meta = _whole(expr) if whole else expr._meta
            return None if rows is None else rows * self._row_bytes(expr, meta)
        except Exception:  # another version of Dask; nothing is to fail for a guess
            return None

    def all_bytes(self, expr: Any) -> float | None:
        """Bytes of all partitions or chunks of an expression together; None if unknown."""
        each = self.nbytes(expr)
        if each is None:
            return None
        parts: int = prod(expr.numblocks) if hasattr(type(expr), "chunks") else expr.npartitions
        return each * parts

    def rows(self, expr: Any) -> Rows:
        """Mean rows of a partition."""
        # Deep expressions must not recurse: inputs first.
        stack = [expr]
        while stack:
            one = stack[-1]
            waiting = [d for d in _inputs(one) if d._name not in self._rows]
            if one._name in self._rows or not waiting:
                stack.pop()
                if one._name not in self._rows:
                    self._rows[one._name] = self._told(one)
            else:
                stack += waiting
        return self._rows[expr._name]

    def typical_source(self) -> float | None:
        """Median bytes of a partition of the sources so far, with all columns.

        That is what a partition of unknown size is compared with. None if none is known.
        """
        every = Estimates(declared=self._declared)
        sizes = (every.nbytes(source, whole=True) for source in self._sources.values())
        known = [size for size in sizes if size is not None]
        return median(known) if known else None

    def _told(self, expr: Any) -> Rows:
        names = [kind.__name__ for kind in type(expr).__mro__]
        rule = next((RULES[name] for name in names if name in RULES), None)
        self._texts[expr._name] = _longest([self._texts[one._name] for one in _inputs(expr)])
        try:
            if is_source(expr):
                if rule is not _fused_io:  # it holds a source, which counts itself
                    self._sources[expr._name] = expr
                if self._declared and (nbytes := self._declared.get(source_name(expr))):
                    return self._rows_in(nbytes, expr)
            rows = rule(self, expr) if rule else None
            return self._rows_in(self._assumed, expr) if rows is None else rows
        except Exception:
            return None

    def _rows_in(self, nbytes: float | None, expr: Any) -> Rows:
        """Rows in so many bytes of a partition with all columns, of which perhaps some are read."""
        if nbytes is None:
            return None
        return nbytes / self._row_bytes(expr, _whole(expr))

    def _index_bytes(self, expr: Any) -> float:
        """Bytes of a row's label, of which there are none where rows are only numbered."""
        meta = expr._meta
        labelled = getattr(meta, "ndim", 0) > 0 and hasattr(meta, "index")
        return SCALAR if labelled and not _numbered(expr) else 0.0

    def _row_bytes(self, expr: Any, meta: Any) -> float:
        """Bytes of a row of an expression, if it looks like `meta`."""
        return _width(meta, self._texts[expr._name]) + self._index_bytes(expr)

    def _total(self, expr: Any) -> Rows:
        rows = self.rows(expr)
        return None if rows is None else rows * expr.npartitions


def _width(meta: Any, texts: Mapping[str, float]) -> float:
    if not hasattr(meta, "dtype") and not hasattr(meta, "dtypes"):
        return SCALAR
    if not hasattr(meta, "columns"):
        return _bytes_of(getattr(meta, "name", None), meta.dtype, texts)
    return sum(_bytes_of(name, dtype, texts) for name, dtype in zip(meta.columns, meta.dtypes))


def _bytes_of(column: Any, dtype: Any, texts: Mapping[str, float]) -> float:
    if isinstance(dtype, np.dtype) and not dtype.hasobject and dtype.itemsize:
        return float(dtype.itemsize)
    return texts.get(str(column), TEXT if _is_text(dtype) else SCALAR)


def _longest(each: list[Mapping[str, float]]) -> Mapping[str, float]:
    """Bytes of texts in what has several inputs; where two have the same column, the longer."""
    if all(texts is each[0] for texts in each):  # most often, so that nothing is copied
        return each[0] if each else MappingProxyType({})
    names = {name for texts in each for name in texts}
    return {name: max(texts.get(name, 0.0) for texts in each) for name in names}


def _chunk_bytes(array: Any) -> float | None:
    size = prod(array.shape) * float(array.dtype.itemsize) / max(1, prod(array.numblocks))
    return None if isnan(size) else size


def _whole(expr: Any) -> Any:
    """An empty frame with all columns of a source, of which perhaps some are read."""
    if "user_meta" in expr._parameters and hasattr(expr.operand("user_meta"), "dtypes"):
        return expr.operand("user_meta")
    if "columns" not in expr._parameters or expr.operand("columns") is None:
        return expr._meta
    names = [kind.__name__ for kind in type(expr).__mro__]
    if "FromPandas" in names:
        frame = expr.operand("frame")
        return getattr(frame, "_data", frame).iloc[:0]
    return expr._dataset_info["base_meta"] if "ReadParquet" in names else expr._meta


def _numbered(expr: Any) -> bool:
    """Whether rows are labelled as their source numbered them: such a range takes no memory.

    As soon as rows are chosen, shuffled or grouped, each has its label.
    """
    stack, seen = [expr], 0
    while stack:
        one = stack.pop()
        kinds = {kind.__name__ for kind in type(one).__mro__}
        one = one.operand("_expr") if "FusedIO" in kinds else one
        seen += 1
        if "BlockwiseIO" in kinds:
            if type(getattr(one._meta, "index", None)).__name__ != "RangeIndex":
                return False
        elif "BlockwiseMerge" in kinds:  # by columns, it numbers what it has found
            if one.left_index or one.right_index:
                return False
            continue
        elif "ResetIndex" in kinds:
            continue
        elif seen > 100 or not kinds & {"Elemwise", "Fused"}:  # so long a chain is rare
            return False
        stack += _fused(one) or one.dependencies()
    return True


def _is_text(dtype: Any) -> bool:
    return str(dtype) in ("object", "str", "string") or str(dtype).startswith("string")


def _inputs(expr: Any) -> list[Any]:
    fused = _fused(expr)
    return [*fused, *expr.dependencies()] if fused else list(expr.dependencies())


def _fused(expr: Any) -> list[Any]:
    """The first of the expressions that were fused into one: it stands for all of them."""
    exprs = expr.operands[0] if type(expr).__name__ == "Fused" else None
    return [exprs[0]] if isinstance(exprs, list) else []


# --- sources


def _pandas(self: Estimates, expr: Any) -> Rows:
    frame = expr.operand("frame")
    data = getattr(frame, "_data", frame)
    if len(data) and hasattr(data, "columns"):
        sample = data.iloc[:: max(1, len(data) // 1000)]
        meta = expr._meta if hasattr(expr._meta, "columns") else expr._meta.to_frame()
        texts_of: dict[str, float] = {}
        for name, dtype in zip(meta.columns, meta.dtypes):
            if _is_text(dtype):
                # Before pandas 3, Dask makes Arrow's texts of Python's as it loads them.
                texts = sample[name].astype(dtype)
                texts_of[str(name)] = texts.memory_usage(index=False, deep=True) / len(sample)
        self._texts[expr._name] = texts_of
    return len(data) / max(1, len(expr._divisions_and_locations[0]) - 1)


def _parquet(self: Estimates, expr: Any) -> Rows:
    try:
        said = footers(expr)
    except OSError:  # the user need not be allowed to open what the workers read
        return _cut(_by_file_sizes(expr), kept_by_reader(expr))
    self._texts[expr._name] = said.texts
    return _cut(said.rows, kept_by_reader(expr))


def _by_file_sizes(expr: Any) -> float:
    """Rows as if files held them as memory does: what is packed has more of them."""
    info = expr._dataset_info
    sizes = [float(info["fs"].size(path)) for path, _ in some_files(expr)]
    return mean_of_files(expr, sizes) / _width(info["base_meta"], {})


# --- what follows


def _same(self: Estimates, expr: Any) -> Rows:
    """As many rows as the largest input."""
    known = [self.rows(one) for one in expr.dependencies()]
    return None if None in known or not known else max(k for k in known if k is not None)


def _first(self: Estimates, expr: Any) -> Rows:
    return self.rows(expr.dependencies()[0])


def _filter(self: Estimates, expr: Any) -> Rows:
    rows = self.rows(expr.frame)
    return None if rows is None else _cut(rows, kept_by_filter(expr))


def _cut(rows: float, part: float) -> float:
    """A part of the rows: at least one is left, for who filters expects to find some."""
    return max(rows * part, min(rows, 1.0))


def _spread(self: Estimates, expr: Any) -> Rows:
    """All rows of the first input, in other partitions."""
    total = self._total(expr.dependencies()[0])
    return None if total is None else total / max(1, expr.npartitions)


def _concat(self: Estimates, expr: Any) -> Rows:
    totals = [self._total(one) for one in expr.dependencies()]
    known = [total for total in totals if total is not None]
    return None if len(known) < len(totals) else sum(known) / max(1, expr.npartitions)


def _join(self: Estimates, expr: Any) -> Rows:
    """As many rows as the longer side, as where each row has one partner."""
    totals = [self._total(expr.left), self._total(expr.right)]
    known = [total for total in totals if total is not None]
    return None if len(known) < 2 else max(known) / max(1, expr.npartitions)


def _reduced(self: Estimates, expr: Any) -> Rows:
    """Groups, or one row, of each partition."""
    kind = expr.operand("kind") if "kind" in expr._parameters else None
    named = " ".join(c.__name__ for c in (kind.__mro__ if isinstance(kind, type) else ()))
    rows = _first(self, expr)
    return None if rows is None else max(1.0, rows * GROUPS) if "roup" in named else 1.0


def _aggregated(self: Estimates, expr: Any) -> Rows:
    return _first(self, expr)


def _fused_io(self: Estimates, expr: Any) -> Rows:
    """Partitions of a source read several at a time; the source is no dependency."""
    total = self._total(expr.operand("_expr"))
    self._texts[expr._name] = self._texts[expr.operand("_expr")._name]
    return None if total is None else total / max(1, expr.npartitions)


def _fused_rows(self: Estimates, expr: Any) -> Rows:
    return self.rows(_fused(expr)[0])


#: How many rows a partition has, by the name of the expression's class or of the nearest base
#: class that is here.
RULES: dict[str, Callable[[Estimates, Any], Rows]] = {
    "FromPandas": _pandas,
    "ReadParquet": _parquet,
    "FusedIO": _fused_io,
    "FusedParquetIO": _fused_io,
    "Fused": _fused_rows,
    "Filter": _filter,
    "Projection": _first,
    "Partitions": _first,
    "Merge": _join,
    "BlockwiseMerge": _join,
    "BroadcastJoin": _join,
    "Concat": _concat,
    "StackPartition": _concat,
    "Chunk": _reduced,
    "GroupByChunk": _reduced,
    "TreeReduce": _aggregated,
    "ShuffleReduce": _spread,
    "ApplyConcatApply": _reduced,
    "ShuffleBase": _spread,
    "SimpleShuffle": _spread,
    "CumulativeFinalize": _first,
    "CreateOverlappingPartitions": _spread,
    "ResolveOverlappingDivisions": _spread,
    "_DelayedExpr": lambda self, expr: 1.0,
    "BlockwiseIO": lambda self, expr: None,
    "Blockwise": _same,
    "Repartition": _spread,
    "RepartitionToFewer": _spread,
    "RepartitionToMore": _spread,
    "RepartitionDivisions": _spread,
    "FinalizeComputeDF": _spread,
    "Literal": lambda self, expr: 1.0,
}
