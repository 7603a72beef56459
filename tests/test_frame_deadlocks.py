"""Frames that compute on their own account start on clusters in the user's process, too."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest

#: What computes while it is built or optimised: quantiles, divisions, lengths.
OPERATIONS = {
    "join": "f.set_index('k').join(h.set_index('k'), rsuffix='r')",
    "merge on the index": (
        "f.set_index('k').merge(h.set_index('k'), left_index=True, right_index=True)"
    ),
    "join across pools": "f.set_index('k').join(g.set_index('k'), rsuffix='r')",
    "concat": "dd.concat([f.set_index('k'), h.set_index('k')])",
    "sum": "f.set_index('k').x + h.set_index('k').x",
    "loc": "f.set_index('k').loc[2:4]",
    "repartition": "f.set_index('k').repartition(npartitions=1)",
    "divisions": "f.set_index('k').repartition(divisions=[0, 2, 5], force=True)",
    "rolling": "f.set_index('k').rolling(2).sum()",
    "sort_values": "f.sort_values('k').merge(h.sort_values('k'), on='k')",
    "known divisions": "f.set_index('k') if f.set_index('k').divisions else None",
    "length": "f.assign(n=len(f.set_index('k').join(h.set_index('k'), rsuffix='r')))",
}

CLUSTERS = {
    "threads": "LocalPoolCluster({'A': 1, 'B': 1}, processes=False, dashboard_address=None)",
    "processes": "LocalPoolCluster({'A': 1, 'B': 1}, dashboard_address=None)",
    "no pools": "distributed.LocalCluster(2, processes=False, threads_per_worker=1, "
    "dashboard_address=None, resources={'pool-A': 1, 'pool-B': 1})",
}

PROGRAM = """
import contextlib, faulthandler, os, sys
import dask.dataframe as dd, distributed, pandas as pd
from dask_worker_pools import LocalPoolCluster, pool, propagate_pools

def read(i, shift):
    return pd.DataFrame({{"k": [i * 5 % 3 + j for j in range(4)], "x": 1.0 + shift}})

def made(name, shift):
    with pool(name):
        return dd.from_map(read, range(2), shift=shift, meta={{"k": int, "x": float}})

if __name__ == "__main__":
    f, g, h = made("A", 0), made("B", 1), made("A", 2)
    with {cluster} as cluster, distributed.Client(cluster):
        propagate_pools()
        for name, operation in {operations}.items():
            faulthandler.dump_traceback_later(45, exit=True, file=open(os.devnull, "w"))
            eval(operation).compute()
            print(name, flush=True)
        faulthandler.cancel_dump_traceback_later()
"""


@cache
def ended(cluster: str) -> frozenset[str]:
    """The operations that ended on a cluster, each in time; after one that hangs, the others."""
    left, done = dict(OPERATIONS), set()
    while left:
        program = PROGRAM.format(cluster=CLUSTERS[cluster], operations=left)
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=600
        )
        now = run.stdout.splitlines()
        done |= {*now}
        left = {name: left[name] for name in [*left][len(now) + 1 :]}
    return frozenset(done)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_ends(cluster: str, operation: str) -> None:
    """What needs quantiles or lengths is computed, wherever the scheduler runs."""
    assert operation in ended(cluster)
