"""Run other projects' own tests, as installed, with what they make in pools; see `suites`.

Run as ``python tests/upstream/run.py [option …] [suite …]``, or by ``make test-upstream``; without
suites it takes all. A test that fails must fail without pools too, or be one of
`structural.STRUCTURAL`; a wrong result is never excused. The exit code is 0 if that holds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from structural import STRUCTURAL
from suites import BY_NAME, SUITES, Suite

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs" / "upstream.md"

#: Where creations go, as `makers.MODES` says; that module cannot be imported without Dask.
MODES = ("one", "alternating")

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

    suite: str = ""
    mode: str = ""
    where: str = ""  #: "cluster" or "local"
    summaries: list[str] = field(default_factory=list)  #: last lines of pytest
    structural: list[Failure] = field(default_factory=list)
    without_pools: list[Failure] = field(default_factory=list)  #: those of plain Dask, too
    unexplained: list[Failure] = field(default_factory=list)

    @property
    def passed(self) -> int:
        """How many tests passed."""
        found = [re.search(r"(\d+) passed", line) for line in self.summaries]
        return sum(int(one[1]) for one in found if one)

    @property
    def good(self) -> bool:
        """Tests passed, and nothing is left to explain."""
        return self.passed > 0 and not self.unexplained

    def __str__(self) -> str:
        lines = [
            *self.summaries,
            f"{len(self.structural)} failed by their structure, as listed",
            f"{len(self.without_pools)} fail without pools, too",
            f"{len(self.unexplained)} unexplained",
        ]
        for one in self.unexplained:
            what = "WRONG RESULT" if one.wrong else "failed"
            lines.append(f"  {what}: {one.test}\n    {_first_line(one.message)}")
        return "\n".join(lines)


def _first_line(message: str) -> str:
    return next(iter(message.splitlines()), "")


def run_pytest(
    suite: Suite, tests: Sequence[str], options: Sequence[str], *, quiet: bool = False
) -> tuple[list[Failure], str]:
    """Run tests of a suite under the plugin `marking`: what failed, and pytest's last line."""
    root = suite.root()
    with tempfile.TemporaryDirectory(prefix="upstream-") as directory:
        results = Path(directory, "failures.jsonl")
        results.touch()
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--tb=native", "--disable-warnings"),
            "--show-capture=no",
            *("-p", "no:cacheprovider", "-c", str(HERE / "others.ini"), "--rootdir", str(root)),
            *("-p", "marking", "--results", str(results), *options, *suite.options, *tests),
        ]
        last = ""
        with subprocess.Popen(
            command,
            cwd=root,
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
    """Find the plugin and its helpers; clusters that tests start themselves have pools, too."""
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    pools = {f"DASK_DISTRIBUTED__WORKER__RESOURCES__POOL_{name}": "1" for name in ("A", "B")}
    return {**os.environ, **pools, "PYTHONPATH": os.pathsep.join(paths)}


def judge(
    suite: Suite,
    mode: str = "one",
    tests: Sequence[str] = (),
    *,
    cluster: bool | None = None,
    options: Sequence[str] = (),
    quiet: bool = False,
) -> Verdict:
    """Run tests of a suite with pools, and those that fail unexpectedly once more without."""
    on_cluster = suite.cluster if cluster is None else cluster
    verdict = Verdict(suite.name, mode, "cluster" if on_cluster else "local")
    open_cases: list[Failure] = []
    for part, local in _parts(suite, tests or suite.tests, on_cluster):
        marking = [f"--pools={mode}", *local, *options]
        failures, summary = run_pytest(suite, part, marking, quiet=quiet)
        verdict.summaries.append(summary)
        for one in failures:
            listed = any(known.explains(one.test, one.message) for known in STRUCTURAL)
            (verdict.structural if listed and not one.wrong else open_cases).append(one)
    fail_anyway: set[str] = set()
    for part, local in _parts(suite, [one.test for one in open_cases], on_cluster):
        marking = ["--pools=none", *local, *options]
        fail_anyway |= {one.test for one in run_pytest(suite, part, marking, quiet=True)[0]}
    for one in open_cases:
        (verdict.without_pools if one.test in fail_anyway else verdict.unexplained).append(one)
    return verdict


def _parts(
    suite: Suite, tests: Sequence[str], cluster: bool
) -> Iterable[tuple[Sequence[str], Sequence[str]]]:
    """What to give to one process each: tests, and the option that says where they compute.

    Those that start clusters of their own are apart from the others.
    """
    own = [test for test in tests if any(some in test for some in suite.own_clusters)]
    if tests == suite.tests:
        own = list(suite.own_clusters)
    if others := [test for test in tests if test not in own]:
        apart = [f"--deselect={some}" for some in suite.own_clusters]
        yield [*others, *apart], [] if cluster else ["--local"]
    if own:
        yield own, ["--local"]


HEADER = (
    "| suite | release | pools | computed | passed | structural | fail without pools "
    "| unexplained |",
    "| --- | --- | --- | --- | --: | --: | --: | --: |",
)


def table(verdicts: Iterable[Verdict], written: str = "") -> str:
    """The verdicts in Markdown, one a line, and the lines of suites that were `written` before."""
    rows = {_key(line): line for line in written.splitlines() if line not in HEADER}
    for one in verdicts:
        line = (
            f"| {one.suite} | {_release(one.suite)} | {one.mode} | {one.where} | {one.passed} "
            f"| {len(one.structural)} | {len(one.without_pools)} | {len(one.unexplained)} |"
        )
        rows[_key(line)] = line
    order = list(BY_NAME)
    in_order = sorted(rows, key=lambda key: (order.index(key[0]), key[1:]))
    return "\n".join([*HEADER, *(rows[key] for key in in_order)])


def _key(line: str) -> tuple[str, str, str]:
    """What a line of the table is about: suite, pools, where it was computed."""
    _, suite, _, pools, computed, *_ = (cell.strip() for cell in line.split("|"))
    return suite, pools, computed


def _release(suite: str) -> str:
    project = BY_NAME[suite].project
    return f"{project} {version(project)}"


def write(verdicts: Iterable[Verdict], page: Path = DOCS) -> None:
    """Put the verdicts into the table of a page, and all reasons below it, between their marks."""
    reasons = "\n".join(f"- {why}." for why in dict.fromkeys(one.reason for one in STRUCTURAL))
    text = _between("table", page.read_text(), lambda written: table(verdicts, written))
    page.write_text(_between("reasons", text, lambda written: reasons))


def _between(mark: str, text: str, change: Callable[[str], str]) -> str:
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    before, _, rest = text.partition(begin)
    written, _, after = rest.partition(end)
    return f"{before}{begin}{change(written.strip())}\n{end}{after}"


def main(arguments: Sequence[str]) -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(BY_NAME)}")
    parser.add_argument("--pools", choices=["none", *MODES], help="in this mode only")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--cluster", action="store_true", default=None, help="compute on a cluster")
    where.add_argument("--local", dest="cluster", action="store_false", help="compute without one")
    parser.add_argument("--tests", nargs="+", default=(), help="these of the suite's tests")
    parser.add_argument("-k", help="only tests with such names, as pytest has it")
    parser.add_argument("--write", action="store_true", help="write into the table of the docs")
    options = parser.parse_args(arguments)
    if unknown := set(options.suites) - set(BY_NAME):
        parser.error(f"no such suite: {', '.join(unknown)}")
    if options.write and (options.tests or options.k or options.pools == "none"):
        parser.error("--write takes whole suites, with pools")
    verdicts = []
    for suite in SUITES:
        if options.suites and suite.name not in options.suites:
            continue
        for mode in [options.pools] if options.pools else MODES:
            print(f"\n{suite.name}, pools: {mode}", flush=True)
            named = ("-k", options.k) if options.k else ()
            verdict = judge(suite, mode, options.tests, cluster=options.cluster, options=named)
            print(verdict)
            verdicts.append(verdict)
    print(f"\n{table(verdicts)}")
    if options.write:
        write(verdicts)
    return 0 if all(verdict.good for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
