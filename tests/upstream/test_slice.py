"""Dask's own tests hold with every frame in a pool: a part of them here, all of them in `run`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import run
import structural

#: A part that is quick on a cluster; `test_merge.py`, for one, takes minutes.
SLICE = ("test_partitioning_knowledge.py", "test_predicate_pushdown.py")

#: Tests of this sort can be written by nobody but us.
EXPECTS_NO_POOLS = """
import dask.dataframe as dd
import pandas as pd
from dask.dataframe.utils import assert_eq
from dask_worker_pools import get_pool

frame = pd.DataFrame({"x": [1, 2, 3]})

def test_says_so():
    assert get_pool(dd.from_pandas(frame, npartitions=1)) is None

def test_gets_other_values():
    collection = dd.from_pandas(frame, npartitions=1)
    assert_eq(collection, frame if get_pool(collection) is None else frame + 1)

def test_fails_anyway():
    assert_eq(dd.from_pandas(frame, npartitions=1), frame + 1)

def test_passes():
    assert_eq(dd.from_pandas(frame, npartitions=1), frame)
"""


@pytest.mark.timeout(1200)  # hundreds of tests; a busy machine takes its time
def test_slice() -> None:
    """No test of the slice fails, but for those that are listed."""
    verdict = run.judge([f"{run.SUITE[0]}/{name}" for name in SLICE], quiet=True)
    assert verdict.good, str(verdict)
    assert " passed" in verdict.summary


def test_failures_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails without pools too is no fault of pools; a wrong result is never excused."""
    file = tmp_path / "test_mine.py"
    file.write_text(EXPECTS_NO_POOLS)
    excused = structural.Structural("to see what it cannot excuse", "", ("test_mine.py::*",))
    monkeypatch.setattr(run, "STRUCTURAL", (excused,))
    verdict = run.judge([str(file)], quiet=True)
    assert [one.test.rpartition("::")[2] for one in verdict.structural] == ["test_says_so"]
    assert [one.test.rpartition("::")[2] for one in verdict.without_pools] == ["test_fails_anyway"]
    assert [(one.test.rpartition("::")[2], one.wrong) for one in verdict.unexplained] == [
        ("test_gets_other_values", True)
    ]
    assert not verdict.good
    assert "WRONG RESULT" in str(verdict)
    assert verdict.summary.startswith("3 failed, 1 passed")


def test_excuses_are_narrow() -> None:
    """An entry of the list holds for the tests that it names and for what it says they say."""
    known = structural.Structural("the marker is seen", "InPool", ("test_core.py::test_repr*",))
    assert known.explains("dask/tests/test_core.py::test_repr[1]", "AssertionError: InPool(x)")
    assert not known.explains("dask/tests/test_core.py::test_repr[1]", "KeyError: 'x'")
    assert not known.explains("dask/tests/test_expr.py::test_repr[1]", "AssertionError: InPool(x)")


@pytest.mark.parametrize("known", structural.STRUCTURAL, ids=lambda known: known.tests[0])
def test_every_excuse_has_a_reason(known: structural.Structural) -> None:
    """Nothing is excused without a reason, nor whatever it says."""
    assert known.reason
    assert known.message
    assert not any(re.search(known.message, text) for text in ("", "AssertionError", "KeyError"))
