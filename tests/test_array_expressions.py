"""Arrays that are made of expressions: dask.array's own, and those of the package dask-array.

Which arrays Dask has is settled when it is imported, so each test runs a script of its own on the
cluster of this module.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import clusters
import pytest
from distributed import Client

OWN = """
import dask
dask.config.set({"array.query-planning": True})
import dask.array as da
from dask_worker_pools import get_pool, plan_pools, pool, propagate_pools

with pool("A"):
    a = da.from_array(np.arange(64.0).reshape(8, 8), chunks=4)
with pool("B"):
    b = da.from_array(np.arange(8.0), chunks=4)
"""

PACKAGE = """
import dask
import dask_array as da
from dask_worker_pools import assign_pool, get_pool, plan_pools, propagate_pools

a = assign_pool(da.from_array(np.arange(64.0).reshape(8, 8), chunks=4), "A")
b = assign_pool(da.from_array(np.arange(8.0), chunks=4), "B")
"""

OPERATIONS = {
    "sum": ("(a + 1).sum()", {"A"}),
    "slice": ("(a * 2)[2:5, 3]", {"A"}),
    "rechunk": ("a.rechunk(2)", {"A"}),
    "transpose": ("a.T", {"A"}),
    "persist": ("(a + 1).persist().sum()", {"A"}),
    "two pools": ("b - a.mean()", {"A", "B"}),
    "blocks of two pools": ("a + b", {"A", "B"}),
}


def run(client: Client, before: str, operation: str) -> tuple[str, set[Any]]:
    """What a script prints, and the pools of all tasks that it ran."""
    assert client.scheduler is not None
    code = f"""
import numpy as np
{before}
from distributed import Client

with Client({client.scheduler.address!r}), propagate_pools():
    got = ({operation}).compute()
a, b = np.arange(64.0).reshape(8, 8), np.arange(8.0)
print(got.sum())
"""
    with clusters.record_executions(client) as ran:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), set().union(*ran.pools_of.values())


WANTED = {
    "sum": "2080.0",
    "slice": "162.0",
    "rechunk": "2016.0",
    "transpose": "2016.0",
    "persist": "2080.0",
    "two pools": "-224.0",
    "blocks of two pools": "2240.0",
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_arrays_of_expressions(client: Client, name: str) -> None:
    """Under array.query-planning, arrays that were made in pools are computed there."""
    operation, pools = OPERATIONS[name]
    assert run(client, OWN, operation) == (WANTED[name], pools)


@pytest.mark.skipif(
    find_spec("dask_array") is None,
    reason="the extra dask-array is not installed: importing it changes Dask's configuration",
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_arrays_of_the_package(client: Client, name: str) -> None:
    """Arrays of the package dask-array are computed in the pools that they were assigned to."""
    operation, pools = OPERATIONS[name]
    assert run(client, PACKAGE, operation) == (WANTED[name], pools)
