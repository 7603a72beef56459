"""Run Dask's own tests of dataframes, as installed, with every frame in one pool of a cluster.

Run as ``python tests/upstream/run.py [option …] [path or -k … of pytest]``. A test that fails
must fail without pools too, or be one of `structural.STRUCTURAL`; a wrong result is never
excused. The exit code is 0 if that holds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from structural import STRUCTURAL

HERE = Path(__file__).resolve().parent
PACKAGE = "dask/dataframe/dask_expr"
SUITE = (f"{PACKAGE}/tests", f"{PACKAGE}/io/tests")

#: Their tests start clusters of their own, and end all others: they have a process to themselves.
OWN_CLUSTERS = (
    *(f"{part}/test_distributed.py" for part in SUITE),
    f"{PACKAGE}/tests/test_diagnostics.py",
    f"{SUITE[1]}/test_parquet.py::test_ensure_plan_computed_during_optimization",
)

#: Exit codes of pytest after which its results can be believed: all passed, some failed.
FINISHED = (0, 1)


@dataclass(frozen=True)
class Failure:
    """A test that did not pass."""

    test: str  #: its id, as pytest takes it
    message: str  #: the exception
    wrong: bool  #: a result differed from what was expected


@dataclass
class Verdict:
    """What the failures with pools mean."""

    summary: str = ""  #: last line of pytest
    structural: list[Failure] = field(default_factory=list)
    without_pools: list[Failure] = field(default_factory=list)  #: those of plain Dask, too
    unexplained: list[Failure] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing is left to explain."""
        return not self.unexplained

    def __str__(self) -> str:
        lines = [
            self.summary,
            f"{len(self.structural)} failed by their structure, as listed",
            f"{len(self.without_pools)} fail without pools, too",
            f"{len(self.unexplained)} unexplained",
        ]
        for one in self.unexplained:
            what = "WRONG RESULT" if one.wrong else "failed"
            lines.append(f"  {what}: {one.test}\n    {one.message.splitlines()[0]}")
        return "\n".join(lines)


def site() -> Path:
    """The directory in which Dask is installed, with its tests."""
    spec = find_spec("dask")
    if spec is None or spec.origin is None:
        raise SystemExit("Dask is not installed in this environment.")
    directory = Path(spec.origin).parent.parent
    if missing := [part for part in SUITE if not (directory / part).is_dir()]:
        raise SystemExit(
            f"The Dask in {directory} came without its tests ({', '.join(missing)}). "
            "Install it from PyPI, whose wheels have them."
        )
    return directory


def run_pytest(
    arguments: Sequence[str], options: Sequence[str], *, quiet: bool = False
) -> tuple[list[Failure], str]:
    """Run tests of Dask's under the plugin `marking`: what failed, and pytest's last line."""
    with tempfile.TemporaryDirectory(prefix="upstream-") as directory:
        results = Path(directory, "failures.jsonl")
        results.touch()
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--tb=native", "--disable-warnings"),
            *("-p", "no:cacheprovider", "-c", str(HERE / "dask.ini"), "--rootdir", str(site())),
            *("-p", "marking", "--results", str(results), *options, *arguments),
        ]
        last = ""
        with subprocess.Popen(
            command,
            cwd=site(),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as done:
            assert done.stdout is not None
            for line in done.stdout:
                if not quiet:
                    print(line, end="", flush=True)
                last = line.strip() or last
        if done.returncode not in FINISHED:
            raise SystemExit(f"pytest ended with code {done.returncode}: {last}")
        lines = results.read_text().splitlines()
    # A test may fail and then fail to clean up.
    failures = {one.test: one for one in reversed([Failure(**json.loads(x)) for x in lines])}
    return list(failures.values())[::-1], last


def _environment() -> dict[str, str]:
    """Find the plugin and its helpers; clusters that tests start themselves have the pool, too."""
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    pool = {"DASK_DISTRIBUTED__WORKER__RESOURCES__POOL_A": "1"}
    return {**os.environ, **pool, "PYTHONPATH": os.pathsep.join(paths)}


def judge(arguments: Sequence[str], options: Sequence[str] = (), *, quiet: bool = False) -> Verdict:
    """Run tests with pools, and those that fail unexpectedly once more without."""
    if arguments:
        failures, summary = run_pytest(arguments, options, quiet=quiet)
    else:
        others = [*SUITE, *(f"--deselect={tests}" for tests in OWN_CLUSTERS)]
        failures, summary = run_pytest(others, options, quiet=quiet)
        more, last = run_pytest(OWN_CLUSTERS, [*options, "--local"], quiet=quiet)
        failures, summary = [*failures, *more], f"{summary}\n{last}"
    verdict = Verdict(summary)
    open_cases: list[Failure] = []
    for one in failures:
        listed = any(known.explains(one.test, one.message) for known in STRUCTURAL)
        (verdict.structural if listed and not one.wrong else open_cases).append(one)
    if open_cases:
        names = _failing_without_pools([one.test for one in open_cases], options)
        for one in open_cases:
            (verdict.without_pools if one.test in names else verdict.unexplained).append(one)
    return verdict


def _failing_without_pools(tests: Sequence[str], options: Sequence[str]) -> set[str]:
    """Those of some tests that fail without pools."""
    own = [test for test in tests if any(some in test for some in OWN_CLUSTERS)]
    failures: list[Failure] = []
    if others := [test for test in tests if test not in own]:
        failures += run_pytest(others, [*options, "--pools=none"], quiet=True)[0]
    if own:
        failures += run_pytest(own, [*options, "--local", "--pools=none"], quiet=True)[0]
    return {one.test for one in failures}


def main(arguments: Sequence[str]) -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", choices=["none", "sources", "everywhere"], default="sources")
    parser.add_argument("--local", action="store_true", help="without a cluster")
    options, rest = parser.parse_known_args(arguments)
    marking = [f"--pools={options.pools}", *(["--local"] if options.local else [])]
    verdict = judge(rest, marking)
    print(verdict)
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
