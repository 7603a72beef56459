"""What Dask has to compute to know a frame's columns is computed before the frame is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pytest
from distributed import Client

from dask_worker_pools import pool, propagate_pools

# So many that Dask reads several files at a time when it needs few of them.
TABLE = pd.DataFrame({name: range(30) for name in "abcdefghijklmn"})


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three parts of the table."""
    for number in range(3):
        TABLE.iloc[10 * number : 10 * number + 10].to_parquet(tmp_path / f"{number}.parquet")
    return sorted(map(str, tmp_path.iterdir()))


@pytest.mark.filterwarnings("ignore::dask_worker_pools.PoolsIgnored")  # of Dask's own look
@pytest.mark.parametrize("enforce_metadata", [True, False])
def test_nothing_is_computed_while_a_frame_is_sent(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    files: list[str],
    enforce_metadata: bool,
) -> None:
    """A client that is sending holds a lock, without which nothing that it waits for may arrive."""
    depths = [0]
    send = Client._graph_to_futures

    def watched(*args: Any, **kwargs: Any) -> Any:
        depths.append(depths[-1] + 1)
        try:
            return send(*args, **kwargs)
        finally:
            depths.append(depths[-1] - 1)

    monkeypatch.setattr(Client, "_graph_to_futures", watched)
    with pool("A"):
        frame = dd.from_map(pd.read_parquet, files, enforce_metadata=enforce_metadata)
    with propagate_pools():
        for columns in (list(TABLE), "a", ["a"], ["b", "c"]):
            assert frame[columns].compute().equals(TABLE[columns])
    assert max(depths) == 1
