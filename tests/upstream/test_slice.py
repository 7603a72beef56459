"""Other projects' tests hold with pools: a part of them here, all of them in `run`."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import run
import structural
from suites import BY_NAME, FRAMES

#: A part that is quick: the suite, where calls go, its tests.
SLICE = (
    ("dask.dataframe", "one", (f"{FRAMES}/tests/test_predicate_pushdown.py",)),
    ("dask.array", "alternating", ("dask/array/tests/test_slicing.py",)),
    ("dask.bag", "alternating", ("dask/bag/tests/test_random.py",)),
    ("dask.delayed", "alternating", ("dask/tests/test_delayed.py",)),
    ("dask.highgraph", "one", BY_NAME["dask.highgraph"].tests),
    ("xarray", "alternating", ("xarray/tests/test_dask.py",)),
)

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
@pytest.mark.parametrize(("suite", "mode", "tests"), SLICE, ids=lambda some: str(some)[:20])
def test_slice(suite: str, mode: str, tests: tuple[str, ...]) -> None:
    """No test of the slice fails, but for those that are listed."""
    verdict = run.judge(BY_NAME[suite], mode, tests, quiet=True)
    assert verdict.good, str(verdict)


def test_failures_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails without pools too is no fault of pools; a wrong result is never excused."""
    file = tmp_path / "test_mine.py"
    file.write_text(EXPECTS_NO_POOLS)
    excused = structural.Structural("to see what it cannot excuse", "", ("test_mine.py::*",))
    monkeypatch.setattr(run, "STRUCTURAL", (excused,))
    verdict = run.judge(BY_NAME["dask.dataframe"], "one", [str(file)], quiet=True)
    assert [one.test.rpartition("::")[2] for one in verdict.structural] == ["test_says_so"]
    assert [one.test.rpartition("::")[2] for one in verdict.without_pools] == ["test_fails_anyway"]
    assert [(one.test.rpartition("::")[2], one.wrong) for one in verdict.unexplained] == [
        ("test_gets_other_values", True)
    ]
    assert not verdict.good
    assert "WRONG RESULT" in str(verdict)
    assert verdict.passed == 1


#: A test that sees in which pool each of its collections was made.
SAYS_POOLS = """
import dask
import dask.array as da
import dask.bag as db
import numpy as np
from dask_worker_pools import get_pool

@dask.delayed
def double(x):
    return 2 * x

def test_pools():
    made = [
        da.ones(3),
        da.random.default_rng(0).random(3),
        db.from_sequence([1, 2]),
        double(1),
        da.from_array(np.ones(3)),
    ]
    follows = double(made[0].sum())
    assert [get_pool(one) for one in made] + [get_pool(follows)] == {expected}
"""


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", [None] * 6),
        ("one", ["A"] * 5 + [None]),
        ("alternating", ["A", "B", "A", "B", "A", None]),
    ],
)
def test_what_makes_a_collection_is_in_a_pool(
    tmp_path: Path, mode: str, expected: list[str | None]
) -> None:
    """Each call that makes something is in a pool, by turns or not; what follows in none."""
    file = tmp_path / "test_mine.py"
    file.write_text(SAYS_POOLS.replace("{expected}", repr(expected)))
    verdict = run.judge(BY_NAME["dask.delayed"], mode, [str(file)], quiet=True)
    assert verdict.good, str(verdict)


def test_table_is_written_between_its_marks(tmp_path: Path) -> None:
    """The page keeps its text and the lines of other suites; a suite has one line."""
    page = tmp_path / "page.md"
    marks = "".join(f"<!-- {m} -->\n<!-- end of {m} -->\n" for m in ("table", "reasons"))
    page.write_text(f"Before\n{marks}After\n")
    release = f"dask {version('dask')}"
    for suite, summary in (("dask.delayed", "7 passed"), ("dask.bag", "8 passed")) * 2:
        run.write([run.Verdict(suite, "one", "local", [f"1 failed, {summary}"])], page)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("Before", "After")
    assert [line for line in lines if line.startswith("| dask")] == [
        f"| dask.bag | {release} | one | local | 8 | 0 | 0 | 0 |",
        f"| dask.delayed | {release} | one | local | 7 | 0 | 0 | 0 |",
    ]
    assert lines.count(f"- {structural.STRUCTURAL[0].reason}.") == 1


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
