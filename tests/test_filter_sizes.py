"""What filters keep is told from what is known of columns; nothing is computed for it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from size_truth import run_all, true_nbytes

from benchmarks.contenders import in_pool
from benchmarks.workloads import join
from dask_worker_pools import plan_pools
from dask_worker_pools.expr import filters as filters_module
from dask_worker_pools.expr.markers import bare
from dask_worker_pools.expr.rows import Estimates

Frame = Any
Build = Callable[[Frame], Frame]

ROWS, FILES = 80_000, 8
DAY = pd.Timestamp("2020-01-15")

# What Dask's own code warns of, with pandas 3.1.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    """Shuffle by tasks, as inside `propagate_pools`, and compute in this thread."""
    with dask.config.set({"dataframe.shuffle.method": "tasks", "scheduler": "sync"}):
        yield


def made() -> pd.DataFrame:
    """A table of columns of all kinds; those called `number` and `time` rise from row to row."""
    rng = np.random.default_rng(0)
    at = np.arange(ROWS)
    table = pd.DataFrame(
        {
            "x": 100 * rng.random(ROWS),
            "y": rng.random(ROWS),
            "kind": rng.integers(0, 5, ROWS),
            "number": at,
            "time": pd.Timestamp("2020") + pd.to_timedelta(at, unit="min"),
            "half": np.where(rng.random(ROWS) < 0.5, np.nan, rng.random(ROWS)),
            "word": rng.choice(list("abc"), ROWS),
            "seven": 7,
            "true": rng.random(ROWS) < 0.9,
        }
    )
    table["zoned"] = table.time.dt.tz_localize("UTC")
    return table.assign(day=table.time.dt.date)


TABLE = made()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table in parquet files that follow each other."""
    directory = tmp_path_factory.mktemp("table")
    for i in range(FILES):
        part = TABLE.iloc[i * ROWS // FILES : (i + 1) * ROWS // FILES]
        part.to_parquet(directory / f"{i}.parquet")
    return directory


def source(kind: str, files: Path) -> Frame:
    """The table, read by Dask's older or newer reader of parquet, or in memory."""
    if kind == "memory":
        return dd.from_pandas(TABLE, npartitions=FILES)
    return dd.read_parquet(files, filesystem=kind)


def told(frame: Frame, fuse: bool = True) -> float:
    """Rows of all partitions, as they are told."""
    optimised = frame.optimize(fuse=fuse)
    rows = Estimates().rows(optimised.expr)
    assert rows is not None
    return rows * int(optimised.npartitions)


SOURCES = ["fsspec", "arrow", "memory"]

FILTERS: dict[str, Build] = {
    "above": lambda t: t[t.x > 70],
    "turned": lambda t: t[20 >= t.x],  # noqa: SIM300 - that the value is on the left is the case
    "range": lambda t: t[(t.x > 20) & (t.x < 40)],
    "between": lambda t: t[t.x.between(20, 50)],
    "either end": lambda t: t[(t.x < 20) | (t.x > 80)],
    "overlap": lambda t: t[(t.x > 20) | (t.x > 50)],
    "two columns": lambda t: t[(t.x > 50) & (t.y < 0.4)],
    "either column": lambda t: t[(t.x > 50) | (t.y < 0.4)],
    "not": lambda t: t[~(t.x > 90)],
    "method": lambda t: t[t.x.gt(70)],
    "one after the other": lambda t: (lambda s: s[s.x < 80])(t[t.x > 50]),
    "few values": lambda t: t[t.kind == 2],
    "all but one": lambda t: t[t.kind != 2],
    "several": lambda t: t[t.kind.isin([1, 2, 9])],
    "constant": lambda t: t[t.seven == 7],
    "everything": lambda t: t[t.x > -1],
    "rising": lambda t: t[t.number > 60_000],
    "time": lambda t: t[t.time > DAY],
    "zoned": lambda t: t[t.zoned > DAY.tz_localize("UTC")],
    "day": lambda t: t[t.day > datetime.date(2020, 1, 15)],
    "without value": lambda t: t[t.half > 0.5],
    "with value": lambda t: t[t.half.notnull()],
    "renamed": lambda t: (lambda s: s[s.z > 70])(t.rename(columns={"x": "z", "y": "x"})),
    "beside computed": lambda t: (lambda s: s[s.x > 70])(t.assign(z=t.x * t.y)),
    "series": lambda t: t.x[t.x > 70],
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", FILTERS)
def test_range(kind: str, name: str, files: Path) -> None:
    """The rows that a filter keeps are told from the least and the greatest value of its columns,
    or from a sample of data in memory.
    """
    build = FILTERS[name]
    true = len(build(TABLE))
    assert told(build(source(kind, files))) == pytest.approx(true, rel=0.05)
    assert told(build(source(kind, files)), fuse=False) == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("period", [2, 10, 16])
def test_periodic(period: int) -> None:
    """What a filter keeps is told right also of values in memory that come again and again."""
    frame = dd.from_pandas(pd.DataFrame({"sensor": np.arange(160_000) % period}), npartitions=4)
    assert told(frame[frame.sensor == 0]) == pytest.approx(160_000 / period, rel=0.1)


def test_shared_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition is tried once, however often others are made of it."""
    tried = []
    column = filters_module._column

    def counted(series: Any) -> filters_module.Column:
        tried.append(series)
        return column(series)

    monkeypatch.setattr(filters_module, "_column", counted)
    frame = dd.from_pandas(TABLE, npartitions=FILES)
    mask = frame.x > 70
    for _ in range(14):
        mask = mask & mask
    part = filters_module.kept_by_filter(frame[mask][mask].expr)
    assert part == 1
    assert len(tried) == 1


@pytest.mark.parametrize("kind", ["fsspec", "arrow"])
@pytest.mark.parametrize(
    "filters",
    [
        [("x", ">", 70)],
        [("x", ">", 20), ("x", "<", 40)],
        [[("x", "<", 20)], [("x", ">", 80)]],
        [("number", ">", 60_000)],
        [("kind", "in", [1, 2])],
        [("kind", "not in", [1, 2])],
        [("time", ">", DAY)],
    ],
    ids=str,
)
def test_filters_of_readers(kind: str, filters: Any, files: Path) -> None:
    """The same holds for what a reader of parquet is told to leave out, whether or not Dask skips
    files on that account.
    """
    true = len(pd.read_parquet(files, filters=filters))
    frame = dd.read_parquet(files, filesystem=kind, filters=filters)
    assert told(frame) == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("kind", ["fsspec", "arrow"])
def test_files_chosen_by_their_paths(kind: str, tmp_path: Path) -> None:
    """Rows are not taken off a second time for files that are left out by what their paths say."""
    pd.DataFrame({"x": np.arange(1000.0), "site": np.arange(1000) % 5}).to_parquet(
        tmp_path, partition_cols=["site"]
    )
    filters = [("site", "==", 3), ("x", ">=", 500)]
    frame = dd.read_parquet(tmp_path, filesystem=kind, filters=filters)
    assert told(frame) == pytest.approx(100, rel=0.05)


def test_filter_after_a_filter_of_the_reader(files: Path) -> None:
    """A filter of a column that the reader has filtered is told from what that has left."""
    frame = dd.read_parquet(files, filters=[("x", ">", 50)])
    true = ((TABLE.x > 50) & (TABLE.x < 80)).sum()
    assert told(frame[frame.x < 80]) == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("kind", ["fsspec", "arrow"])
@pytest.mark.parametrize(
    ("build", "part"),
    [
        (lambda t: t[t.word == "a"], 1 / 10),
        (lambda t: t[t.word > "a"], 1 / 3),
        (lambda t: t[t.true], 1 / 3),
        (lambda t: t[t.number == 5], 1 / 10),
        (lambda t: t[t.word.isin(["a", "b"])], 1 / 10),
        (lambda t: t[t.x > t.y], 1 / 3),
        (lambda t: (lambda s: s[s.x > 70])(t.assign(x=t.x * t.y)), 1 / 3),
        (lambda t: t[t.x.abs() > 70], 1 / 3),
    ],
)
def test_guess(kind: str, build: Build, part: float, files: Path) -> None:
    """Where parquet does not say enough, or a column was computed, a part is guessed."""
    assert told(build(source(kind, files))) == pytest.approx(part * ROWS, rel=0.001)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    "build", [lambda t: t[t.x > 1000], lambda t: t[t.seven < 7], lambda t: t[t.kind == 9]]
)
def test_outside(kind: str, build: Build, files: Path) -> None:
    """Of a filter that finds nothing in the range, one row of each partition is told."""
    assert told(build(source(kind, files))) == FILES


@pytest.mark.parametrize("name", ["x", "half"])
def test_guesses_of_equal_frames(name: str) -> None:
    """Of frames that say the same, the same is guessed, whatever Dask calls them."""
    frames = []
    for label in ("one", "other"):
        frame = dd.from_map(lambda i: TABLE, range(2), meta=TABLE.iloc[:0], label=label)
        other = frame[name].map(lambda x: x + 1, meta=(name, float))
        frames.append(frame[(other > 3) & (frame.y.abs() < 2) & frame.kind.isin([1, 2])])
    one, other = (Estimates(1e8).rows(frame.optimize().expr) for frame in frames)
    assert one == other


def test_index_as_a_column() -> None:
    """What was an index is not taken for the values of a series that it labelled."""
    labels = pd.RangeIndex(1000, name="i")
    for name in ("z", None):
        series = pd.Series(np.zeros(1000), name=name, index=labels)
        frame = dd.from_pandas(series, npartitions=2).reset_index()
        computed = frame.assign(w=frame.i * 2)
        assert told(computed[computed.i > 500]) == pytest.approx(1000 / 3, rel=0.01)
    named = dd.from_pandas(pd.Series(np.arange(1000), name="z", index=labels), 2).reset_index()
    computed = named.assign(w=named.i * 2)
    assert told(computed[computed.z >= 900]) == pytest.approx(100, rel=0.05)


def test_some_partitions() -> None:
    """What a filter keeps of some partitions in memory is told from those."""
    frame = dd.from_pandas(pd.DataFrame({"x": np.arange(1000)}), npartitions=4)
    for parts, kept in (([3], 250), ([0], 1), ([2, 3], 250)):  # one row is told at least
        some = frame.partitions[parts]
        assert told(some[some.x >= 750]) == pytest.approx(kept, rel=0.01)


@pytest.mark.parametrize("kind", ["fsspec", "arrow"])
def test_some_partitions_of_files(kind: str, files: Path) -> None:
    """The range of all files does not stand for that of some: a part is guessed."""
    some = source(kind, files).partitions[[FILES - 1]]
    assert told(some[some.number > 10]) == pytest.approx(ROWS / FILES / 3, rel=0.01)


@pytest.mark.parametrize("kind", ["fsspec", "arrow"])
def test_dot_in_a_name(kind: str, tmp_path: Path) -> None:
    """A column with a dot in its name is not taken for one in the paths of files."""
    pd.DataFrame({"a.b": np.arange(1000.0)}).to_parquet(tmp_path / "0.parquet")
    frame = dd.read_parquet(tmp_path, filesystem=kind, filters=[("a.b", ">=", 900)])
    assert told(frame) == pytest.approx(100, rel=0.05)


ODD = [None, "text", float("nan"), True, pd.NaT, Decimal(5), 1 << 80, 1j, DAY, np.int8(5), b"5", []]


@pytest.mark.parametrize("column", ["x", "number", "time", "day", "word", "true", "half", "seven"])
def test_odd_values(column: str, files: Path) -> None:
    """What does not compare with a column is a guess, and no error."""
    for value in ODD:
        for sign in ("==", "!=", "<", ">=", "in", "unheard of"):
            frame = dd.read_parquet(files)
            expr = frame.expr.substitute_parameters({"filters": [(column, sign, value)]})
            rows = Estimates()._told(frame.expr)
            assert rows is not None
            # Dask would read the files for the filter that it does not understand.
            expr._dataset_info_cache = frame.expr._dataset_info
            kept = Estimates()._told(expr)
            assert kept is not None
            assert 1 <= kept <= rows


def test_rising_files(tmp_path: Path) -> None:
    """Of files that follow each other, those looked at tell how far all of them reach, also where
    the smallest and the largest are in the middle.
    """
    for i in range(20):
        rows = 1000 + (i in (9, 12)) - (i in (7, 8))
        part = pd.DataFrame({"number": i * 1000 + np.arange(rows) % 1000})
        part.to_parquet(tmp_path / f"{i}.parquet", index=False)
    for kind in ("fsspec", "arrow"):
        frame = dd.read_parquet(tmp_path, filesystem=kind)
        assert told(frame[frame.number >= 19_000]) == pytest.approx(1000, rel=0.1)


def test_last_file(tmp_path: Path) -> None:
    """A last file that holds what was left over does not stand for others."""
    for i in range(9):
        rows = 1000 if i < 8 else 1
        pd.DataFrame({"x": np.ones(rows)}).to_parquet(tmp_path / f"{i}.parquet", index=False)
    assert told(dd.read_parquet(tmp_path)) == pytest.approx(8001)


def written(directory: Path, tables: list[pa.Table], **kwargs: Any) -> Frame:
    """Tables in parquet files, as they are written otherwise than by Dask."""
    for i, table in enumerate(tables):
        pq.write_table(table, directory / f"{i}.parquet", **kwargs)
    return dd.read_parquet(directory)


def test_without_statistics(tmp_path: Path) -> None:
    """Files that do not say what lies in their columns leave a guess."""
    tables = [pa.table({"x": np.arange(1000.0)})] * 3
    frame = written(tmp_path, tables, write_statistics=False)
    assert told(frame[frame.x > 900]) == pytest.approx(1000, rel=0.001)


def test_group_without_values(tmp_path: Path) -> None:
    """A row group without any value does not hide the range of the others."""
    none = pa.table({"x": pa.array([None] * 1000, pa.float64())})
    frame = written(tmp_path, [pa.table({"x": np.arange(1000.0)}), none])
    assert told(frame[frame.x >= 500]) == pytest.approx(500, rel=0.05)


def test_infinite(tmp_path: Path) -> None:
    """A column that reaches to infinity has no range."""
    frame = written(tmp_path, [pa.table({"x": [*np.arange(999.0), np.inf]})])
    assert told(frame[frame.x > 900]) == pytest.approx(1000 / 3, rel=0.001)


def test_last_date(tmp_path: Path) -> None:
    """A column of which the dates would go on beyond the last one hides the range of no other."""
    for i in range(9):
        rows = 1000 if i else 900  # Dask looks at the smallest, and at some that are as large
        day = datetime.date(9999 if i else 2000, 12, 31)
        table = pa.table({"day": [day] * rows, "x": np.arange(rows) / rows})
        pq.write_table(table, tmp_path / f"{i}.parquet")
    frame = dd.read_parquet(tmp_path, filesystem="arrow")
    assert told(frame[frame.x >= 0.9]) == pytest.approx(890, rel=0.05)


def test_row_groups(tmp_path: Path) -> None:
    """The range of a file is that of all its row groups."""
    frame = written(tmp_path, [pa.table({"x": np.arange(1000)})], row_group_size=100)
    assert told(frame[frame.x >= 200]) == pytest.approx(800, rel=0.01)


def test_nothing_left(files: Path) -> None:
    """A reader that leaves out all files has a size, so that the others' are not forgotten."""
    frame = dd.read_parquet(files, filters=[("number", ">", 10 * ROWS)])
    assert Estimates().nbytes(frame.optimize().expr) == 0


@pytest.mark.parametrize("kind", SOURCES)
def test_bytes_of_series(kind: str, files: Path) -> None:
    """A series has as many bytes as its values, and those of labels once rows are chosen."""
    frame = source(kind, files)
    for series in (frame.x, frame.x + frame.y, frame.x[frame.x > 50], frame.shuffle("kind").x):
        expr = series.optimize(fuse=False).expr.lower_completely()
        outputs = run_all(expr.__dask_graph__())
        true = [true_nbytes(v) for key, v in outputs.items() if key[0] == expr._name]  # type: ignore[index]
        assert Estimates().nbytes(expr) == pytest.approx(np.mean(true), rel=0.05)


@pytest.mark.parametrize("kind", ["fsspec", "memory"])
def test_texts_of_two_frames(kind: str, tmp_path: Path) -> None:
    """The texts of a frame count as long as they are there, not as in another that has a column of
    the same name.
    """
    frames = []
    for length in (1, 1000):
        table = pd.DataFrame({"at": range(100), "text": [f"{i:0{length}}" for i in range(100)]})
        path = tmp_path / f"{length}.parquet"
        table.to_parquet(path, compression=None)
        read = dd.read_parquet(path) if kind == "fsspec" else dd.from_pandas(table, npartitions=1)
        frames.append(read[read["at"] >= 0].optimize(fuse=False).expr)
    apart = [Estimates().nbytes(frame) for frame in frames]
    for order in (frames, frames[::-1]):
        estimates = Estimates()
        told = {frame._name: estimates.rows(frame) for frame in order}
        assert None not in told.values()
        assert [estimates.nbytes(frame) for frame in frames] == apart


def test_traffic_of_a_filtered_join(tmp_path: Path) -> None:
    """The bytes that a join of a filtered table sends are predicted within a tenth."""
    (joined,) = join(in_pool, tmp_path, rows=62_500, other=250_000)
    plan = plan_pools(joined)
    lowered = joined.optimize(fuse=False).expr.lower_completely()
    outputs = run_all(bare(lowered, {}).__dask_graph__())
    sent = sum(true_nbytes(outputs[transfer.key]) for transfer in plan.transfers)
    assert sent == pytest.approx(6.04e6, rel=0.01)
    assert plan.total_bytes == pytest.approx(sent, rel=0.1)
