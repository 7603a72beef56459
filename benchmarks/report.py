"""Tables and charts of the documentation, from the results that `benchmarks.sites` wrote.

``python -m benchmarks.report`` writes them again without running anything. The prose in
``docs/benchmarks.md`` is by hand; what stands between ``<!-- name -->`` and ``<!-- /name -->`` is
replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, nan
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import click

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results" / "sites.json"

PLAIN, OURS = "plain", "pools"
#: What the library aims at: see `verdicts`.
MOST_OVER_BOUND, LEAST_SPEED_UP, MOST_OFF = 1.05, 3.0, 0.10


@dataclass(frozen=True)
class Case:
    """What was seen of one workload in one shape."""

    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.record['title']}, {self.record['shape']}"

    @property
    def bound(self) -> float:
        return float(self.record["bound"]["nbytes"])

    @property
    def predicted(self) -> float:
        return float(self.record["predicted"])

    @property
    def foretold(self) -> str:
        """What was predicted, in words: of sizes that nobody knows nothing is."""
        unknown = not self.predicted and any("unknown" in one for one in self.record["assumptions"])
        return "unknown" if unknown else amount(self.predicted)

    @property
    def contenders(self) -> Mapping[str, str]:
        titles: Mapping[str, str] = self.record["titles"]
        return titles

    def runs(self, who: str) -> Mapping[str, Any]:
        runs: Mapping[str, Any] = self.record["runs"][who]
        return runs

    def works(self, who: str) -> bool:
        return bool(self.runs(who)["status"] == "ok")

    def crossed(self, who: str) -> float:
        """Median of the bytes that crossed; infinite if the contender failed."""
        return float(median(self.runs(who)["crossed"])) if self.works(who) else inf

    def seconds(self, who: str) -> float:
        """Median of the wall times; infinite if the contender failed."""
        return float(median(self.runs(who)["seconds"])) if self.works(who) else inf

    @cached_property
    def worst(self) -> int:
        """The most bytes that crossed in any run of this library."""
        return int(max(self.runs(OURS)["crossed"]))


@dataclass(frozen=True)
class Verdict:
    """What became of a target."""

    target: str
    outcome: str
    met: bool
    misses: Sequence[str] = ()


def verdicts(cases: Sequence[Case]) -> list[Verdict]:
    """Hold all cases against the targets; what is missed is named."""
    return [_near_bound(cases), _below_others(cases), _faster(cases), _foreseen(cases)]


def _met(target: str, cases: Sequence[Case], misses: Sequence[str]) -> Verdict:
    reached = len(cases) - len(misses)
    return Verdict(target, f"{reached} of {len(cases)}", not misses, misses)


def _near_bound(cases: Sequence[Case]) -> Verdict:
    misses = [
        f"{case.name}: {amount(case.worst)}, at least {amount(case.bound)} must"
        for case in cases
        if not case.works(OURS) or case.worst > MOST_OVER_BOUND * case.bound
    ]
    return _met("at most 1.05 × the lower bound crosses, in the worst run", cases, misses)


def _below_others(cases: Sequence[Case]) -> Verdict:
    misses = []
    for case in cases:
        others = [who for who in case.contenders if who != OURS]
        best = min(others, key=case.crossed)
        if case.crossed(OURS) > case.crossed(best):
            more = case.crossed(OURS) - case.crossed(best)
            misses.append(f"{case.name}: {amount(more)} more than {case.contenders[best]}")
    return _met("never more than the best of the others", cases, misses)


def speed_up(cases: Sequence[Case], who: str) -> float:
    """Geometric mean of a contender's wall time over ours, where both work."""
    both = [case for case in cases if case.works(who) and case.works(OURS)]
    if not both:
        return nan
    return geometric_mean(case.seconds(who) / case.seconds(OURS) for case in both)


def best_of_all(cases: Sequence[Case]) -> float:
    """Geometric mean of plain Dask's wall time over that of the fastest contender in each case."""
    both = [case for case in cases if case.works(PLAIN)]
    if not both:
        return nan
    return geometric_mean(
        case.seconds(PLAIN) / min(map(case.seconds, case.contenders)) for case in both
    )


def _faster(cases: Sequence[Case]) -> Verdict:
    mean = speed_up(cases, PLAIN)
    slower = [
        f"{case.name}: {case.seconds(OURS) / case.seconds(PLAIN):.1f} × the time of plain Dask"
        for case in cases
        if case.seconds(OURS) > 1.1 * case.seconds(PLAIN)
    ]
    target = "3 × as fast as plain Dask, in geometric mean"
    return Verdict(target, f"{mean:.2f} ×", mean >= LEAST_SPEED_UP, slower)


def _foreseen(cases: Sequence[Case]) -> Verdict:
    misses = [
        f"{case.name}: {case.foretold} predicted, {amount(case.crossed(OURS))} measured"
        for case in cases
        if abs(case.predicted - case.crossed(OURS)) > MOST_OFF * case.crossed(OURS)
    ]
    return _met("predicted within 10 % of what is measured", cases, misses)


# --- Text ---------------------------------------------------------------------------------------


def amount(nbytes: float) -> str:
    """Bytes with three digits: ``32 B``, ``17.7 kB``, ``8.23 MB``."""
    if nbytes == inf:
        return "–"
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if nbytes >= 0.9995 * size:
            return (
                f"{nbytes / size:.3g} {unit}"
                if nbytes < 1000 * size
                else f"{nbytes / size:.0f} {unit}"
            )
    return f"{nbytes:.0f} B"


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of Markdown: a head, and rows; the first `left` columns are text."""
    head, *body = rows
    rule = ["---" if i < left else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def named(cases: Sequence[Case]) -> Iterator[tuple[Case, str, str]]:
    """Each case with its title, where it is the first of that, and its shape."""
    before = ""
    for case in cases:
        title = case.record["title"]
        yield case, "" if title == before else title, case.record["shape"]
        before = title


def bytes_table(cases: Sequence[Case]) -> str:
    titles = cases[0].contenders
    rows = [["workload", "shape", "lower bound", "predicted", *titles.values()]]
    for case, title, shape in named(cases):
        least = min(case.crossed(who) for who in titles)
        cells = [_crossed_cell(case, who, least) for who in titles]
        bound = ("" if case.record["bound"]["exact"] else "≥ ") + amount(case.bound)
        rows.append([title, shape, bound, case.foretold, *cells])
    return table(rows, left=2)


def _crossed_cell(case: Case, who: str, least: float) -> str:
    if not case.works(who):
        return str(case.runs(who)["status"])
    text = amount(case.crossed(who))
    return f"**{text}**" if case.crossed(who) <= 1.01 * least else text


def seconds_table(cases: Sequence[Case]) -> str:
    titles = cases[0].contenders
    head = ["workload", "shape", *titles.values(), *(f"tasks, {t}" for t in titles.values())]
    rows = [head]
    for case, title, shape in named(cases):
        fastest = min(case.seconds(who) for who in titles)
        times = [_seconds_cell(case, who, fastest) for who in titles]
        tasks = [_tasks_cell(case, who) for who in titles]
        rows.append([title, shape, *times, *tasks])
    return table(rows, left=2)


def _seconds_cell(case: Case, who: str, fastest: float) -> str:
    if not case.works(who):
        return "–"
    seconds = case.runs(who)["seconds"]
    middle = f"{case.seconds(who):.2f}"
    middle = f"**{middle}**" if case.seconds(who) <= 1.01 * fastest else middle
    return f"{middle} ({min(seconds):.2f}–{max(seconds):.2f})"


def _tasks_cell(case: Case, who: str) -> str:
    return f"{median(case.runs(who)['submitted']):.0f}" if case.works(who) else "–"


def skipped(records: Sequence[Mapping[str, Any]]) -> str:
    """What was not run, and why."""
    reasons = {record["title"]: record["skipped"] for record in records if "skipped" in record}
    lines = [f"- {title}: {reason}" for title, reason in reasons.items()]
    return "Not run:\n\n" + "\n".join(lines) if lines else ""


def targets(cases: Sequence[Case]) -> str:
    found = verdicts(cases)
    rows = [["target", "outcome", ""]]
    rows += [[one.target, one.outcome, "met" if one.met else "**missed**"] for one in found]
    text = [table(rows, left=3)]
    for one in found:
        if one.misses:
            what = (
                "Slower than plain Dask by more than a tenth" if "fast" in one.target else "Missed"
            )
            about = "" if "fast" in one.target else f" “{one.target}”"
            text.append(f"{what}{about}:\n\n" + "\n".join(f"- {miss}" for miss in one.misses))
    others = {who: title for who, title in cases[0].contenders.items() if who not in (OURS, PLAIN)}
    also = " and ".join(f"{speed_up(cases, who):.2f} × as fast as {t}" for who, t in others.items())
    text.append(
        f"In geometric mean over the cases in which both work, this library is {also}. "
        "Whichever contender is the fastest in each case, this one included, is together "
        f"{best_of_all(cases):.2f} × as fast as plain Dask."
    )
    return "\n\n".join(text)


def machine(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
    rows = [["", ""], *([name, text] for name, text in results["machine"].items())]
    rows += [
        ["each site may send", f"{settings['rate']:g} Mbit/s"],
        ["runs of each contender", str(settings["repeat"])],
        ["the whole run took", f"{settings['minutes']:.0f} minutes"],
        ["processes that wanted to run, last 15 minutes", f"{settings['load']:.1f}"],
    ]
    return table(rows, left=2)


def replace_blocks(text: str, blocks: Mapping[str, str]) -> str:
    r"""Put new text between the marks of each block.

    >>> replace_blocks("a <!-- x -->old<!-- /x --> b", {"x": "new"})
    'a <!-- x -->\\n\\nnew\\n\\n<!-- /x --> b'
    """
    for name, block in blocks.items():
        pattern = re.compile(f"(<!-- {name} -->).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"There is no <!-- {name} --> … <!-- /{name} --> to write to.")
        text = pattern.sub(lambda match, b=block: f"{match[1]}\n\n{b}\n\n{match[2]}", text)  # type: ignore[misc]
    return text


def write(results: Path = RESULTS, docs: Path = DOCS) -> list[Path]:
    """Write tables into the documentation, and charts beside it; give what was written."""
    from benchmarks.charts import bytes_chart, seconds_chart

    found = json.loads(results.read_text())
    cases = [Case(record) for record in found["cases"] if "skipped" not in record]
    blocks = {
        "machine": machine(found),
        "targets": targets(cases),
        "bytes": "\n\n".join(filter(None, (bytes_table(cases), skipped(found["cases"])))),
        "seconds": seconds_table(cases),
    }
    docs.write_text(replace_blocks(docs.read_text(), blocks))
    images = docs.parent / "images"
    images.mkdir(exist_ok=True)
    charts = [images / "benchmarks-bytes.svg", images / "benchmarks-seconds.svg"]
    bytes_chart(cases, charts[0])
    seconds_chart(cases, charts[1])
    return [docs, *charts]


@click.command()
@click.option("--results", default=RESULTS, type=click.Path(path_type=Path, exists=True))
@click.option("--docs", default=DOCS, type=click.Path(path_type=Path, exists=True))
def main(results: Path, docs: Path) -> None:
    """Write tables and charts from results that are there."""
    for path in write(results, docs):
        click.echo(f"Wrote {path}")


if __name__ == "__main__":
    main()
