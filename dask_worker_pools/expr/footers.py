"""What the footers of a few parquet files say of all: rows, bytes of texts, ranges of columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import chain, pairwise
from math import isfinite
from typing import Any, NamedTuple

from dask.base import tokenize
from dask.utils import natural_sort_key

#: So many files are looked into.
FILES = 3


class Range(NamedTuple):
    """Where the values of a column lie."""

    low: Any  #: the least value: an integer, a float, a date or a time
    high: Any  #: the greatest
    nulls: float = 0.0  #: the part of the rows that have no value


@dataclass(frozen=True)
class Footers:
    """What is known of a table."""

    rows: float  #: of a partition, on average
    texts: dict[str, float]  #: bytes of a text, by the name of its column; of all columns
    ranges: dict[str, Range]  #: by the names of columns, those that are read


#: What was read of files, or why it was not, by the names of readers, which change with the files.
_read: dict[str, Footers | OSError] = {}


def footers(expr: Any) -> Footers:
    """Look into a few files of an expression that reads parquet, once.

    Raises
    ------
    OSError
        If this process may not open what the workers read.
    """
    if expr._name not in _read:
        if len(_read) > 1000:
            _read.clear()
        arrow = hasattr(expr, "approx_statistics")  # read through pyarrow's file systems
        try:
            _read[expr._name] = _of_dask(expr) if arrow else _of_files(expr)
        except OSError as error:  # to try again, for each condition, may take long
            _read[expr._name] = error
    said = _read[expr._name]
    if isinstance(said, OSError):
        raise said.with_traceback(None)
    return said


def _of_dask(expr: Any) -> Footers:
    """What Dask has read of a few files, the smallest and the largest among them."""
    mean = expr.approx_statistics()
    rows = float(mean["num_rows"])
    return Footers(rows, _text_bytes(mean["columns"], rows), _cached_ranges(expr))


def _cached_ranges(expr: Any) -> dict[str, Range]:
    """Ranges in the same files: `approx_statistics` leaves them out, but Dask has kept them."""
    try:
        from dask.dataframe.dask_expr.io.parquet import _STATS_CACHE

        files = expr._dataset_info["all_files"]
        # They are listed as the file system gives them.
        listed = sorted(range(len(files)), key=lambda i: natural_sort_key(files[i].path))
        places = {i: place for place, i in enumerate(listed)}
        groups = {
            places[i]: _STATS_CACHE[tokenize(files[i])]["row_groups"]
            for i in expr.sample_statistics()
        }
        return _ranges(_wanted(expr), groups, len(files))
    except Exception:  # another version of Dask keeps them elsewhere, or not
        return {}


def _of_files(expr: Any) -> Footers:
    if expr._plan["empty"]:  # Dask found that its filters leave nothing
        return Footers(0.0, {}, {})
    wanted = _wanted(expr)
    files = list(_groups_of(expr, some_files(expr)))
    rows = [float(sum(group.num_rows for group in groups)) for groups in files]
    every = [group for groups in files for group in groups]
    texts = _text_bytes(every[0].to_dict()["columns"], every[0].num_rows) if every else {}
    # The first and the last of the files are among them.
    groups = {i: [_as_dict(g, wanted) for g in one] for i, one in enumerate(files)}
    return Footers(mean_of_files(expr, rows), texts, _ranges(wanted, groups, len(files)))


def filters_of(expr: Any) -> list[list[tuple[Any, ...]]]:
    """The filters of a reader: lists of comparisons, of one of which all have to hold."""
    filters = expr.operand("filters") or []
    return filters if not filters or isinstance(filters[0], list) else [filters]


def mean_of_files(expr: Any, some: list[float]) -> float:
    """Mean of what `some_files` have: the last, often of what was left over, is only itself."""
    *others, last = some
    n = len(expr._plan["parts"])
    return last if not others else last / n + (1 - 1 / n) * sum(others) / len(others)


def some_files(expr: Any) -> list[tuple[str, Any]]:
    """Paths of a few of the files, with the row groups that are read of each.

    They are the first, the last and one between: where files follow each other in time, or by
    number, only both ends together tell how far the values reach.
    """
    parts = expr._plan["parts"]
    last = len(parts) - 1
    chosen = sorted({last * i // (FILES - 1) for i in range(FILES)})
    return [parts[i]["piece"][:2] for i in chosen]


def _groups_of(expr: Any, files: Iterable[tuple[str, Any]]) -> Iterator[list[Any]]:
    """Metadata of the row groups that are read of each file."""
    import pyarrow.parquet as pq

    info = expr._dataset_info
    for path, groups in files:
        if info["has_metadata_file"]:  # it has all footers
            footer = next(f.metadata for f in info["ds"].get_fragments() if f.path == path)
        else:
            with info["fs"].open(path) as file:
                footer = pq.ParquetFile(file).metadata
        chosen = range(footer.num_row_groups) if groups in (None, [None]) else groups
        yield [footer.row_group(i) for i in chosen]


def _text_bytes(columns: list[dict[str, Any]], rows: float) -> dict[str, float]:
    if not rows:
        return {}
    return {c["path_in_schema"]: c["total_uncompressed_size"] / rows for c in columns}


# --- ranges


def _wanted(expr: Any) -> set[str]:
    """Columns that a filter may ask for: those that are read, and those of the reader's own."""
    asked = {str(name) for every in filters_of(expr) for name, *_ in every}
    return {str(name) for name in expr.columns} | asked


def _as_dict(group: Any, wanted: set[str]) -> dict[str, Any]:
    """A row group as Dask keeps it; reading all of a wide table would take long."""
    columns = (group.column(i) for i in range(group.num_columns))
    return {
        "num_rows": group.num_rows,
        "columns": [column.to_dict() for column in columns if column.path_in_schema in wanted],
    }


def _ranges(
    wanted: set[str], files: Mapping[int, Iterable[dict[str, Any]]], n: int
) -> dict[str, Range]:
    """Ranges of columns in `n` files, of some of which the row groups are here, by number."""
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    rows = 0
    for i, groups in files.items():
        for group in groups:
            rows += group["num_rows"]
            for column in group["columns"]:
                if column["path_in_schema"] in wanted:
                    found.setdefault(column["path_in_schema"], []).append((i, column))
    ranges = {name: _range(columns, rows, n) for name, columns in found.items()}
    return {name: one for name, one in ranges.items() if one is not None}


def _range(columns: list[tuple[int, dict[str, Any]]], rows: int, n: int) -> Range | None:
    ends: dict[int, list[Any]] = {}
    nulls = 0
    for i, column in columns:
        said = column["statistics"] or {}
        empty = said.get("null_count") or 0
        nulls += empty
        if empty < column["num_values"]:  # a group without any value has no least one
            ends.setdefault(i, []).extend((said.get("min"), said.get("max")))
    if not ends or not all(map(_ordered, chain(*ends.values()))):
        return None
    try:
        reached = _reached({i: (min(one), max(one)) for i, one in sorted(ends.items())}, n)
    except (TypeError, OverflowError):  # of another type in another file, or beyond the last date
        return None
    return Range(*reached, nulls / rows)


def _reached(ends: Mapping[int, tuple[Any, Any]], n: int) -> tuple[Any, Any]:
    """How far the values in `n` files reach, of some of which the least and the greatest are here.

    That is as far as in those; but where each file goes on where another ended, as in a table by
    days, also as far as it takes at the same pace to the first file and to the last.

    >>> _reached({2: (20, 29), 4: (40, 49)}, 10)
    (0, 99)
    >>> _reached({2: (20, 45), 4: (20, 49)}, 10)
    (20, 49)
    """
    (first, (low, high)), *_, (last, (low_then, high_then)) = [*ends.items()] * 2
    ranges = list(ends.values())
    follows = all(a[1] <= b[0] for a, b in pairwise(ranges))
    precedes = all(a[0] >= b[1] for a, b in pairwise(ranges))
    if first < last and (follows or precedes):
        for i in (0, n - 1):
            steps = (i - first) / (last - first)
            ranges.append((_moved(low, low_then, steps), _moved(high, high_then, steps)))
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _moved(start: Any, end: Any, steps: float) -> Any:
    moved = start + (end - start) * steps
    return round(moved) if isinstance(start, int) else moved


def _ordered(end: Any) -> bool:
    """Whether it may be the end of a range: texts are cut off, and truth has no range."""
    if isinstance(end, bool):
        return False
    return isinstance(end, date) or (isinstance(end, int | float) and isfinite(end))
