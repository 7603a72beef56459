"""What part of the rows a filter keeps.

A filter is tried on rows that stand in for those of the frame: of data in memory a sample, of
parquet rows that are made up from the least and the greatest value of each column. Those are
spread evenly between the two, and the values of one column say nothing of those of another.
A condition that cannot be tried keeps the part that databases guess.

That is the interpolation of System R, for any combination of conditions: of ``x > value``, the
part ``(max - value) / (max - min)``; of a range of one column its part of the whole range; of
conditions on several columns the product [1]_. As in a Latin hypercube, each column has one value
in each of the equal parts of its range, in an order of its own [2]_, so there is next to no error
from sampling.

References
----------
.. [1] P. G. Selinger, M. M. Astrahan, D. D. Chamberlin, R. A. Lorie and T. G. Price, "Access path
   selection in a relational database management system", SIGMOD 1979.
.. [2] M. D. McKay, R. J. Beckman and W. J. Conover, "A comparison of three methods for selecting
   values of input variables in the analysis of output from a computer code", Technometrics 21,
   1979.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from datetime import date
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from dask_worker_pools.expr.footers import Range, filters_of, footers
from dask_worker_pools.expr.said import is_source

#: The part of the rows that a comparison keeps: of ``==``, and of any other.
EQUAL, OTHER = 0.1, 1 / 3
#: So many rows stand in for those of a frame; no smaller part than one of them is told.
ROWS = 10_000
#: With fewer that are left, a condition is tried on all.
ENOUGH = 100

#: Which rows a condition keeps.
Mask = NDArray[np.bool_]

#: What a comparison means, by how Dask's expressions and parquet's filters write it.
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}
#: The same comparison with its sides exchanged, where that is another.
FLIPPED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}


def kept_by_filter(expr: Any) -> float:
    """The part of its input's rows that a filter keeps, guessed at worst."""
    try:
        known: dict[str, Mask] = {}
        return _part(_mask(expr.predicate, known), _conditions(expr.frame, known))
    except Exception:  # nothing is to fail for a guess
        return OTHER


def kept_by_reader(expr: Any) -> float:
    """The part of the rows in the files that the filters of a reader of parquet keep."""
    try:
        return _part(_mask_of_reader(expr), [])
    except Exception:  # nothing is to fail for a guess
        return OTHER


def _part(mask: Mask, below: list[Mask]) -> float:
    """The part of the rows that a mask keeps of those that others have left."""
    left = np.logical_and.reduce(below) if below else np.ones(ROWS, bool)
    return float(mask[left].mean() if left.sum() >= ENOUGH else mask.mean())


def _conditions(frame: Any, known: dict[str, Mask]) -> list[Mask]:
    """The filters that a frame has been through, as far as its source can be seen."""
    masks = []
    for one in _down(frame):
        if _kind(one) == "Filter":
            masks.append(_mask(one.predicate, known))
        elif _kind(one) == "ReadParquet" and one.operand("filters"):
            masks.append(_mask_of_reader(one))
    return masks


# --- conditions


def _mask(predicate: Any, known: dict[str, Mask]) -> Mask:
    """The rows that an expression is true for; those of its parts are kept by their names.

    What is made of the same condition several times would be walked as often, and twice as often
    with each step.
    """
    if predicate._name not in known:
        known[predicate._name] = _made_of(predicate, known)
    return known[predicate._name]


def _made_of(predicate: Any, known: dict[str, Mask]) -> Mask:
    name = type(predicate).__name__
    if name == "And":
        return _mask(predicate.left, known) & _mask(predicate.right, known)
    if name == "Or":
        return _mask(predicate.left, known) | _mask(predicate.right, known)
    if name == "Invert":
        return ~_mask(predicate.frame, known)
    try:
        return _tried(predicate, name)
    except Exception:  # no such column, or its values do not compare
        sign = getattr(predicate, "_operator_repr", "==" if name == "Isin" else "")
        return _guess(sign, _meaning(predicate))


def _tried(predicate: Any, name: str) -> Mask:
    if name == "Isin":
        return _column(predicate.frame).among(predicate.operand("values").obj._obj)
    if name in ("NotNull", "IsNa"):
        return _column(predicate.frame).there ^ (name == "IsNa")
    if name == "Between":
        ends = {"both": (">=", "<="), "left": (">=", "<"), "right": (">", "<=")}
        low, high = ends.get(predicate.inclusive, (">", "<"))
        column = _column(predicate.frame)
        return column.compared(low, predicate.left) & column.compared(high, predicate.right)
    if not hasattr(predicate, "_operator_repr"):
        return _column(predicate).compared("==", True)
    sign, left, right = predicate._operator_repr, predicate.left, predicate.right
    if _is_expr(right):
        sign, left, right = FLIPPED.get(sign, sign), right, left
    return _column(left).compared(sign, right)


def _is_expr(value: Any) -> bool:
    return hasattr(value, "dependencies")


def _meaning(predicate: Any) -> str:
    """What a condition says, which is the same of equal frames; names that Dask gives are not."""
    parts = [predicate] if _kind(predicate) else [type(predicate).__name__, *predicate.operands]
    return " ".join(map(_said_of, parts))


def _said_of(part: Any) -> str:
    if not _is_expr(part):
        said = repr(part)
        return type(part).__name__ if " at 0x" in said else said  # a function, say
    if hasattr(part, "obj"):
        return repr(getattr(part.obj, "_obj", None))  # the values of `isin`
    columns = ",".join(map(str, part.columns))
    return columns if _kind(part) or is_source(part) else f"{type(part).__name__} {columns}"


def _mask_of_reader(expr: Any) -> Mask:
    """The rows that parquet's filters keep: any of several lists of comparisons."""
    each = [[_compared_by_reader(expr, *one) for one in every] for every in filters_of(expr)]
    if not each:
        return np.ones(ROWS, bool)
    return np.asarray(np.logical_or.reduce([np.logical_and.reduce(masks) for masks in each]))


def _compared_by_reader(expr: Any, name: str, sign: str, value: Any) -> Mask:
    try:
        said = footers(expr)
        # A nested column has a path of names; a dot may be part of a single name as well.
        columns = {*said.texts, *(path.partition(".")[0] for path in said.texts)}
        if columns and name not in columns:
            return np.ones(ROWS, bool)  # it is in the paths of files, and Dask has chosen by those
        column = _MadeUp(_range(expr, name), name)
        if sign in ("in", "not in"):
            return column.among(value) ^ (sign == "not in")
        return column.compared(sign, value)
    except Exception:  # nothing is known of it, or its values do not compare
        return _guess("==" if sign == "in" else sign, f"{name} {sign} {value}")


def _guess(sign: str, label: str) -> Mask:
    """Rows that a condition may keep of which nothing is known, whatever others keep."""
    part = {"==": EQUAL, "=": EQUAL, "!=": 1 - EQUAL, "not in": 1 - EQUAL}.get(sign, OTHER)
    return _spread(label) < part


def _spread(label: str) -> NDArray[np.float64]:
    """Numbers between 0 and 1 at equal distances, in an order that a label stands for."""
    order = np.random.default_rng(crc32(label.encode())).permutation(ROWS)
    return (order + 0.5) / ROWS


# --- columns


class Column(Protocol):
    """Values of a column in the rows that stand in for those of its source."""

    @property
    def there(self) -> Mask:
        """The rows that have a value."""

    def compared(self, sign: str, value: Any) -> Mask:
        """The rows for which a comparison with a value holds."""

    def among(self, values: Collection[Any]) -> Mask:
        """The rows that have any of some values."""


class _Sampled:
    """A column of data in memory, of which one row is looked at in each of many equal stretches.

    Which one is left to chance: at equal distances, values that come again and again would be the
    same each time. It is the same one for all columns.
    """

    def __init__(self, values: Any) -> None:
        drawn = np.arange(ROWS) + np.random.default_rng(0).random(ROWS)
        self.values = values.iloc[(drawn * len(values) / ROWS).astype(np.int64)]

    @property
    def there(self) -> Mask:
        return _true(self.values.notna())

    def compared(self, sign: str, value: Any) -> Mask:
        return _true(COMPARE[sign](self.values, value))

    def among(self, values: Collection[Any]) -> Mask:
        return _true(self.values.isin(list(values)))


def _true(answers: Any) -> Mask:
    return np.asarray(answers.to_numpy(dtype=bool, na_value=False))


class _MadeUp:
    """A column of which the range is known: its values are spread evenly there."""

    def __init__(self, told: Range, name: str) -> None:
        self.name = name
        self.times = isinstance(told.low, date)
        self.low, self.high = self._number(told.low), self._number(told.high)
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        # Where so few values are possible, each is frequent, as in a column of a single value.
        self.few = self.low == self.high or (whole and self.high - self.low < 1 / EQUAL)
        values = self.low + _spread(name) * (self.high - self.low + whole)
        self.values = np.floor(values) if whole else values
        self.there = _spread(f"nulls of {name}") >= told.nulls

    def compared(self, sign: str, value: Any) -> Mask:
        compare, number = COMPARE[sign], self._number(value)
        if compare is operator.ne:
            return ~self.compared("==", value)  # what has no value differs from all
        if compare is operator.eq and not self.few:
            return self.among([value])  # how many values there are is not known
        return np.asarray(compare(self.values, number)) & self.there

    def among(self, values: Collection[Any]) -> Mask:
        numbers = [self._number(value) for value in values]
        if self.few:
            return np.isin(self.values, numbers) & self.there
        if not any(self.low <= number <= self.high for number in numbers):
            return np.zeros(ROWS, bool)
        return _guess("==", f"{self.name} {numbers}") & self.there

    def _number(self, value: Any) -> Any:
        """Times as seconds, in UTC; what is no number is an error."""
        if not self.times:
            return value.item() if isinstance(value, np.generic) else value + 0
        if isinstance(value, int | float):
            raise TypeError(f"{value!r} is no time.")
        import pandas as pd

        return pd.Timestamp(value).timestamp()


#: Steps that keep rows and the values of columns, and those that only name columns otherwise.
#: What a choice of partitions leaves may have other values.
SAME = {"Projection", "Assign", "ResetIndex", "ShuffleBase", "SimpleShuffle"}
SAME |= {"Filter", "Repartition", "RepartitionToFewer", "RepartitionToMore"}
RENAMED = {"RenameFrame", "RenameSeries", "AddPrefix", "ToFrame"}
KNOWN = {*SAME, *RENAMED, "Fused", "FusedIO", "ReadParquet", "FromPandas"}


def _kind(expr: Any) -> str:
    """The name of an expression's class or of the nearest base class that is known here."""
    return next((kind.__name__ for kind in type(expr).__mro__ if kind.__name__ in KNOWN), "")


def _down(expr: Any) -> Iterator[Any]:
    """An expression and those below it, down to the source if only known steps are between."""
    while True:
        yield expr
        kind = _kind(expr)
        if kind == "Fused":
            expr = expr.operands[0][0]  # the first of those that were fused stands for all
        elif kind == "FusedIO":
            expr = expr.operand("_expr")
        elif kind in SAME | RENAMED:
            expr = expr.frame
        else:
            return


def _column(series: Any) -> Column:
    """The column of a source that a series is, value by value.

    Raises
    ------
    LookupError
        If it is none, or nothing is known of it.
    """
    (name,) = series.columns
    for one in _down(series):
        kind = _kind(one)
        if kind in RENAMED | {"ResetIndex"}:
            # What was an index comes first; a series of any name follows it.
            at = list(one.columns).index(name) - len(one.columns) + len(one.frame.columns)
            if at < 0:
                raise LookupError(f"{name!r} was an index.")
            name = one.frame.columns[at]
        elif kind == "Assign" and name in one.operands[1::2]:
            raise LookupError(f"{name!r} was computed.")
        elif kind == "ReadParquet":
            return _MadeUp(_range(one, name), str(name))
        elif kind == "FromPandas":
            return _Sampled(_values(one, name))
    raise LookupError(f"{name!r} comes from {type(one).__name__}.")


def _values(source: Any, name: Any) -> Any:
    """A column of data in memory, in the partitions that are left of it."""
    parts = source.operand("_partitions")
    # Partitions are cut from what Dask has sorted, for which nothing needs to be sorted otherwise.
    frame = source.operand("frame") if parts is None else source.frame
    data = getattr(frame, "_data", frame)
    if hasattr(data, "columns"):
        data = data[name]
    elif name != data.name:
        raise LookupError(f"{name!r} is not the series.")
    if parts is None:
        return data
    ends = source._divisions_and_locations[1]
    return data.iloc[np.concatenate([np.arange(ends[i], ends[i + 1]) for i in parts])]


def _range(reader: Any, name: Any) -> Range:
    """The range of a column in parquet files; of some partitions of theirs it may be another."""
    if reader.operand("_partitions") is not None:
        raise LookupError(f"{name!r} is read of some partitions.")
    return footers(reader).ranges[name]
