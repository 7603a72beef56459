"""Pytest plugin that runs somebody else's tests with every dataframe in pool A.

It is loaded with ``-p marking`` by `run`, into a pytest that runs Dask's own tests. Those know
nothing of pools. Every function that makes a frame runs inside ``pool("A")``, every test inside
`propagate_pools`, and what a test computes runs on a cluster that has a pool A and a pool B, in
other processes that cannot import this package.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pytest
from clusters import Executions, record_executions, start
from dask.dataframe import dask_expr, utils
from distributed import Client
from distributed.client import _set_global_client

from dask_worker_pools import pool, propagate_pools

POOL = "A"

#: Functions that make a frame from something that is none.
MAKERS = re.compile(r"(from|read)_[a-z_]+|timeseries")

#: Whoever raises an AssertionError in one of these compared a result with what was expected.
COMPARISONS = re.compile(r"/(pandas/_?testing|numpy/testing|dask/(dataframe|array)/utils\.py)")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options that `run` gives."""
    parser.addoption("--pools", choices=["none", "sources", "everywhere"], default="sources")
    parser.addoption("--local", action="store_true", help="Dask's local schedulers, no cluster")
    parser.addoption("--results", type=Path, help="file for one line of JSON for each failure")


def pytest_configure(config: pytest.Config) -> None:
    """Wrap what makes frames, before any test module imports it."""
    config.pluginmanager.register(Marking(config), "marking-everything")


class Marking:
    """Puts each test in its surroundings and notes how those that fail do so."""

    def __init__(self, config: pytest.Config) -> None:
        self.pools: str = config.getoption("--pools")
        self.results: Path | None = config.getoption("--results")
        self.client: Client | None = None
        self.ran: Executions | None = None
        self._stack = ExitStack()
        if self.pools == "sources":
            wrap_makers()
        if not config.getoption("--local"):
            compute_on_cluster()
            # The scheduler in another process: in this one it would wait for ever in Python 3.11
            # where a test has it find divisions while it finds them itself (`cached_property`).
            cluster = self._stack.enter_context(start({POOL: 2, "B": 1}))
            self.client = self._stack.enter_context(Client(cluster.address))
            self.ran = self._stack.enter_context(record_executions(self.client))

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Each test anew: those of clusters take the client away."""
        _set_global_client(self.client)

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        """Around the test itself: fixtures that start a cluster put the configuration back."""
        with ExitStack() as surroundings:
            if self.pools != "none":
                surroundings.enter_context(propagate_pools())
            if self.pools == "everywhere":
                surroundings.enter_context(pool(POOL))
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


def wrap_makers() -> None:
    """Let every function that makes a frame run inside ``pool(POOL)``, wherever it was imported."""
    public = [vars(module) for module in (dd, dask_expr, dask_expr.datasets)]
    makers = [
        value
        for names in public
        for name, value in names.items()
        if MAKERS.fullmatch(name) and callable(value)
    ]
    marked = {id(make): in_pool(make) for make in makers}
    for name, module in list(sys.modules.items()):
        if name.startswith("dask."):
            for attribute, value in list(vars(module).items()):
                if id(value) in marked:
                    setattr(module, attribute, marked[id(value)])


def in_pool(make: Callable[..., Any]) -> Callable[..., Any]:
    """The function `make`, run inside ``pool(POOL)``."""

    @functools.wraps(make)
    def marked(*args: Any, **kwargs: Any) -> Any:
        with pool(POOL):
            return make(*args, **kwargs)

    return marked


def compute_on_cluster() -> None:
    """Let ``assert_eq`` compute where `Client` does, and not, as by default, in this process."""
    defaults = utils.assert_eq.__defaults__
    utils.assert_eq.__defaults__ = tuple(
        None if value == "sync" else value for value in defaults or ()
    )
