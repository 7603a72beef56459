"""Run the test suite on several versions of Dask and of Python, each in its own environment.

Run as ``python tests/versions.py [version …]`` or by ``make test-versions``. A version is one of
Dask, ``2026.3.0``, or one of Dask and one of Python, ``2026.3.0@3.12``; without any it takes those
of `VERSIONS`. Environments are made in ``.venvs`` and kept. The exit code is 0 if every version
passed, those left out for which there is no Python on this machine. It needs the standard library
only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from environments import ENVIRONMENTS, ROOT, NoSuchPython, prepare

#: The oldest Python that pyproject.toml allows.
PYTHON = "3.11"

#: The oldest Dask that pyproject.toml allows, the newest that we know, and three between; and the
#: newest on newer Pythons.
VERSIONS = (
    "2025.5.1",
    "2025.9.1",
    "2025.12.0",
    "2026.3.0",
    "2026.8.0",
    "2026.8.0@3.12",
    "2026.8.0@3.13",
)

#: What must be older for the sake of an old Dask: its first version that needs nothing of the kind,
#: and the requirements of all before.
CONSTRAINTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # They use what pandas 3 deprecates, for reading parquet among others, and what NumPy 2.4
    # deprecates, for sorting; a warning fails a test.
    ("2026.3.0", ("numpy<2.4", "pandas<3")),
    ("2026.8.0", ("pandas<3.1",)),
)


@dataclass(frozen=True)
class Outcome:
    """What became of the suite on one version."""

    version: str  #: of Dask, and after ``@`` of Python
    passed: int = 0
    failed: int = 0  #: errors in fixtures included
    skipped: int = 0  #: expected failures included
    #: why there are no numbers, or none to rely on; empty if all is well
    problem: str = ""
    absent: bool = False  #: there is no such Python here, so that nothing is known

    @property
    def good(self) -> bool:
        """Every test ran, at least one passed and none failed."""
        return self.passed > 0 and not self.failed and not self.problem


def split(version: str) -> tuple[str, str]:
    """The version of Dask, and that of Python."""
    dask, _, python = version.partition("@")
    return dask, python or PYTHON


def requirements(dask: str) -> list[str]:
    """What to install for a version of Dask."""
    older = [
        wanted
        for first_without, needed in CONSTRAINTS
        if _numbers(dask) < _numbers(first_without)
        for wanted in needed
    ]
    # The two are released together, and fit together only in the same version.
    return [f"dask=={dask}", f"distributed=={dask}", *older]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def run(version: str, arguments: Sequence[str] = ()) -> Outcome:
    """Run the suite on one version, in its environment."""
    dask, python = split(version)
    name = f"dask-{dask}-python-{python}"
    try:
        inside = prepare(name, "test", requirements(dask), python=python)
    except NoSuchPython as error:
        return Outcome(version, problem=str(error), absent=True)
    except subprocess.CalledProcessError as error:
        print(error.stdout, file=sys.stderr)
        return Outcome(version, problem=f"installing failed with code {error.returncode}")
    report = ENVIRONMENTS / name / "report.xml"
    report.unlink(missing_ok=True)
    print(f"Testing on Dask {dask}, Python {python}", flush=True)
    # Dask's commands, which tests start, must be found in this environment.
    path = os.pathsep.join([str(inside.parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [str(inside), "-m", "pytest", "-q", f"--junitxml={report}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
    )
    return outcome(version, report, done.returncode)


def outcome(version: str, report: Path, code: int) -> Outcome:
    """Read what pytest reported, given its exit code (0: all passed, 1: some failed)."""
    problem = "" if code in (0, 1) else f"pytest ended with code {code}"
    try:
        suite = next(ElementTree.parse(report).iter("testsuite"))
    except (OSError, ElementTree.ParseError, StopIteration):
        return Outcome(version, problem=problem or "pytest wrote no report")
    tests, errors, failures, skipped = (
        int(suite.attrib[name]) for name in ("tests", "errors", "failures", "skipped")
    )
    failed = errors + failures
    if code == 1 and not failed:
        problem = "pytest ended with code 1, yet reported no failure"
    return Outcome(version, tests - failed - skipped, failed, skipped, problem)


def table(outcomes: Iterable[Outcome]) -> str:
    """The outcomes, one version a line; no numbers where there is no such Python."""
    lines = [f"{'dask':12}{'python':8}{'passed':>8}{'failed':>8}{'skipped':>8}"]
    for one in outcomes:
        dask, python = split(one.version)
        counts = ("–",) * 3 if one.absent else (one.passed, one.failed, one.skipped)
        numbers = "".join(f"{count:>8}" for count in counts)
        lines.append(f"{dask:12}{python:8}{numbers}  {one.problem}".rstrip())
    return "\n".join(lines)


def main(versions: Sequence[str] = ()) -> int:
    """Test on all versions, one after another, and print the table."""
    outcomes = [run(version) for version in versions or VERSIONS]
    print(f"\n{table(outcomes)}")
    known = [one for one in outcomes if not one.absent]
    return 0 if known and all(one.good for one in known) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
