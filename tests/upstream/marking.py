"""Pytest plugin that runs somebody else's tests with what they make in pools.

It is loaded with ``-p marking`` by `run`, into a pytest that runs other projects' own tests. Those
know nothing of pools. Every call that makes a collection runs inside ``pool("A")``, or by turns
inside ``pool("A")`` and ``pool("B")``, and every test inside `propagate_pools`. What a test
computes runs on a cluster that has a pool A and a pool B, in other processes that cannot import
this package, or, with ``--local``, by Dask's local schedulers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from clusters import Executions, record_executions, start
from dask.array import utils as array_utils
from dask.bag import utils as bag_utils
from dask.dataframe import utils as frame_utils
from distributed import Client
from distributed.client import _set_global_client
from makers import MODES, Makers

from dask_worker_pools import propagate_pools

#: Whoever raises an AssertionError in one of these compared a result with what was expected.
COMPARISONS = re.compile(
    r"/(pandas/_?testing|numpy/testing|numpy/_core/.*|xarray/testing|geopandas/testing"
    r"|dask/(dataframe|array|bag)/utils\.py)"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options that `run` gives."""
    parser.addoption("--pools", choices=list(MODES), default="one")
    parser.addoption("--local", action="store_true", help="Dask's local schedulers, no cluster")
    parser.addoption("--results", type=Path, help="file for one line of JSON for each failure")


def pytest_configure(config: pytest.Config) -> None:
    """Wrap what makes collections, before any test module imports it."""
    config.pluginmanager.register(Marking(config), "marking-everything")


class Marking:
    """Puts each test in its surroundings and notes how those that fail do so."""

    def __init__(self, config: pytest.Config) -> None:
        self.makers = Makers(MODES[config.getoption("--pools")])
        self.results: Path | None = config.getoption("--results")
        self.client: Client | None = None
        self.ran: Executions | None = None
        self._stack = ExitStack()
        if self.makers.pools:
            self.makers.wrap()
        if not config.getoption("--local"):
            compute_on_cluster()
            # The scheduler in another process: in this one it would wait for ever in Python 3.11
            # where a test has it find divisions while it finds them itself (`cached_property`).
            cluster = self._stack.enter_context(start({"A": 2, "B": 1}))
            self.client = self._stack.enter_context(Client(cluster.address))
            self.ran = self._stack.enter_context(record_executions(self.client))

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Each test anew: those of clusters take the client away."""
        _set_global_client(self.client)
        self.makers.restart()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Around the test itself: fixtures that start a cluster put the configuration back."""
        if not self.makers.pools:
            return (yield)
        with propagate_pools():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
        """Write down what failed, and whether a result was wrong."""
        report: Any = yield
        if report.failed and self.results is not None:
            error = call.excinfo
            wrong = (
                error is not None
                and error.errisinstance(AssertionError)
                and any(COMPARISONS.search(str(entry.path)) for entry in error.traceback)
            )
            message = error.exconly() if error is not None else str(report.longrepr)
            # Whole, so that it can be run again from anywhere.
            test = f"{item.path}::{item.nodeid.partition('::')[2]}"
            line = {"test": test, "message": message, "wrong": wrong}
            with self.results.open("a") as out:
                print(json.dumps(line), file=out)
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where tasks ran."""
        if self.ran is not None:
            places = Counter(str(pool) for task in self.ran.tasks for pool in task.pools)
            terminalreporter.write_line(f"Tasks by pool: {dict(sorted(places.items()))}")

    def pytest_unconfigure(self) -> None:
        """End the cluster."""
        self._stack.close()


def compute_on_cluster() -> None:
    """Let ``assert_eq`` compute where `Client` does, and not, as by default, in this process."""
    for module in (array_utils, bag_utils, frame_utils):
        defaults = module.assert_eq.__defaults__ or ()
        module.assert_eq.__defaults__ = tuple(
            None if value == "sync" else value for value in defaults
        )
