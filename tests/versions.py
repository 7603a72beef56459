"""Run the test suite on several versions of Dask, each in an environment of its own.

Run as ``python tests/versions.py [version …]`` or by ``make test-versions``; without versions it
takes those of `VERSIONS`. Environments are made in ``.venvs`` and kept. The exit code is 0 if
every version passed. It needs the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venvs"

#: The oldest version that pyproject.toml allows, the newest that we know, and three between.
VERSIONS = ("2025.5.1", "2025.9.1", "2025.12.0", "2026.3.0", "2026.8.0")

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
    """What became of the suite on one version of Dask."""

    version: str
    passed: int = 0
    failed: int = 0  #: errors in fixtures included
    skipped: int = 0  #: expected failures included
    #: why there are no numbers, or none to rely on; empty if all is well
    problem: str = ""

    @property
    def good(self) -> bool:
        """Every test ran, at least one passed and none failed."""
        return self.passed > 0 and not self.failed and not self.problem


def requirements(version: str) -> list[str]:
    """What to install for a version of Dask."""
    older = [
        wanted
        for first_without, needed in CONSTRAINTS
        if _numbers(version) < _numbers(first_without)
        for wanted in needed
    ]
    # The two are released together, and fit together only in the same version.
    return [f"dask=={version}", f"distributed=={version}", *older]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def prepare(version: str) -> Path:
    """Make the environment of a version, unless it is there and up to date; its Python."""
    directory = ENVIRONMENTS / f"dask-{version}"
    python = directory / "bin" / "python"
    wanted = requirements(version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    state = json.dumps([sys.version, wanted, project])
    digest = hashlib.sha256(state.encode()).hexdigest()
    stamp = directory / "installed"
    if stamp.exists() and stamp.read_text() == digest:
        return python
    print(f"Installing {' '.join(wanted)} into {directory.relative_to(ROOT)}", flush=True)
    venv.create(directory, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run(
        [*pip, "--editable", f"{ROOT}[test]", *wanted],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stamp.write_text(digest)
    return python


def run(version: str, arguments: Sequence[str] = ()) -> Outcome:
    """Run the suite on one version, in its environment."""
    try:
        python = prepare(version)
    except subprocess.CalledProcessError as error:
        print(error.stdout, file=sys.stderr)
        return Outcome(version, problem=f"installing failed with code {error.returncode}")
    report = ENVIRONMENTS / f"dask-{version}" / "report.xml"
    report.unlink(missing_ok=True)
    print(f"Testing on Dask {version}", flush=True)
    # Dask's commands, which tests start, must be found in this environment.
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [str(python), "-m", "pytest", "-q", f"--junitxml={report}", *arguments],
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
    """The outcomes, one version a line."""
    lines = [f"{'dask':12}{'passed':>8}{'failed':>8}{'skipped':>8}"]
    for one in outcomes:
        line = f"{one.version:12}{one.passed:>8}{one.failed:>8}{one.skipped:>8}"
        lines.append(f"{line}  {one.problem}".rstrip())
    return "\n".join(lines)


def main(versions: Sequence[str] = ()) -> int:
    """Test on all versions, one after another, and print the table."""
    outcomes = [run(version) for version in versions or VERSIONS]
    print(f"\n{table(outcomes)}")
    return 0 if all(one.good for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
