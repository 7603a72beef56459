"""Sizes of parquet tables are told as far as the user's process may look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.local import LocalFileSystem

from dask_worker_pools.expr.rows import Estimates

ROWS, PARTITIONS = 20_000, 4


class Elsewhere(LocalFileSystem):  # type: ignore[misc]
    """A file system whose tables only workers can open; the user has copies of the metadata."""

    locked = False
    refused = 0

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.locked and Path(path).name != "_metadata":
            self.refused += 1
            raise PermissionError(path)
        return super()._open(path, *args, **kwargs)


@pytest.fixture
def table() -> pd.DataFrame:
    """A table of numbers that do not compress well."""
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.random(ROWS), "y": rng.integers(0, 1 << 40, ROWS)})


def estimated(path: Path, table: pd.DataFrame, *, metadata: bool) -> float:
    """What is told of a partition of the column x, where no file of the table can be opened."""
    dd.from_pandas(table, npartitions=PARTITIONS).to_parquet(
        path, write_metadata_file=metadata, write_index=False
    )
    file_system = Elsewhere(skip_instance_cache=True)
    # Without metadata, Dask itself needs to look into one file.
    expr = dd.read_parquet(path, filesystem=file_system)[["x"]].optimize(fuse=False).expr
    file_system.locked = True
    nbytes = Estimates().nbytes(expr)
    assert nbytes is not None
    return nbytes


def test_metadata_file(tmp_path: Path, table: pd.DataFrame) -> None:
    """Where a table has a file of metadata, no other is opened, and rows are counted exactly."""
    told = estimated(tmp_path / "table", table, metadata=True)
    assert told == ROWS / PARTITIONS * table.x.dtype.itemsize  # rows are only numbered


def test_file_sizes(tmp_path: Path, table: pd.DataFrame) -> None:
    """Where no file can be opened, the sizes of the files tell the rows."""
    told = estimated(tmp_path / "table", table, metadata=False)
    true = ROWS / PARTITIONS * table.x.dtype.itemsize
    assert 0.5 * true < told < 2 * true


def test_files_are_tried_once(tmp_path: Path, table: pd.DataFrame) -> None:
    """What cannot be opened is not tried again for each condition of a filter."""
    dd.from_pandas(table, npartitions=PARTITIONS).to_parquet(tmp_path, write_index=False)
    file_system = Elsewhere(skip_instance_cache=True)
    frame = dd.read_parquet(tmp_path, filesystem=file_system)
    expr = frame[(frame.x > 0.1) & (frame.y > 5) & (frame.x < 0.9)].optimize(fuse=False).expr
    file_system.locked = True
    assert Estimates().nbytes(expr) is not None
    assert file_system.refused == 1
