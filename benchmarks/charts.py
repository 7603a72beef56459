"""Charts of what was measured, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from benchmarks.report import Case

#: Colour and marker of each contender.
LOOKS = {
    "plain": ("#7f7f7f", "s"),
    "one": ("#d58f00", "^"),
    "rule": ("#0f7fb8", "D"),
    "pools": ("#c1272d", "o"),
}


def bytes_chart(cases: Sequence[Case], path: Path) -> None:
    """How many times the lower bound crossed, for each case and contender."""
    figure, axes = _rows(cases)
    axes.axvline(1, color="black", linewidth=0.8)
    for who, (colour, marker) in LOOKS.items():
        points = [
            (case.crossed(who) / case.bound, row)
            for row, case in enumerate(cases)
            if case.works(who) and case.bound
        ]
        xs, ys = zip(*points, strict=True) if points else ((), ())
        title = cases[0].contenders[who]
        axes.scatter(xs, ys, s=18, color=colour, marker=marker, label=title, alpha=0.8, zorder=3)
    axes.set_xlabel("bytes that crossed, as a multiple of the lower bound")
    _save(figure, axes, path)


def seconds_chart(cases: Sequence[Case], path: Path) -> None:
    """Wall time of each case and contender: median, and the range from least to most."""
    figure, axes = _rows(cases)
    for number, (who, (colour, marker)) in enumerate(LOOKS.items()):
        title = cases[0].contenders[who]
        for row, case in enumerate(cases):
            if not case.works(who):
                continue
            seconds = case.runs(who)["seconds"]
            height = row + 0.16 * (number - 1.5)
            axes.plot([min(seconds), max(seconds)], [height] * 2, color=colour, linewidth=1)
            label = title if row == 0 else None
            style = {"s": 12, "color": colour, "marker": marker, "label": label, "zorder": 3}
            axes.scatter([case.seconds(who)], [height], **style)
    axes.set_xlabel("seconds from sending the graph until the results are there")
    _save(figure, axes, path)


def _rows(cases: Sequence[Case]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, 1.4 + 0.22 * len(cases)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(cases)), [case.name for case in cases], fontsize=7)
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.grid(axis="x", color="#dddddd")
    for row, (one, other) in enumerate(pairwise(cases)):
        if one.record["title"] != other.record["title"]:
            axes.axhline(row + 0.5, color="#eeeeee", linewidth=0.8)
    return figure, axes


def _save(figure: Figure, axes: Any, path: Path) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.04), ncols=4, frameon=False, fontsize=8)
    # The same results give the same file, and text stays text.
    with mpl.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        # It may be wider in the reader's font than in ours.
        written = {"Date": None, "Creator": None}
        figure.savefig(path, metadata=written, bbox_inches="tight", pad_inches=0.4)
