"""All contenders on all workloads, one after the other in turns, on a cluster that is there.

`benchmarks.sites` starts this where the scheduler of its simulated sites can be reached. Each case
is written down as soon as it is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
from distributed import Client
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.contenders import contenders, in_pool
from benchmarks.graphs import Instance, measured, whole_graph
from benchmarks.measure import Run, run_once
from benchmarks.oracle import Bound, least_traffic
from benchmarks.sampling import sample_evenly
from benchmarks.workloads import Case, cases
from dask_worker_pools import Plan, plan_pools, propagate_pools


@dataclass(frozen=True)
class Question:
    """What a case asks for, before anyone answers."""

    instance: Instance  #: with true sizes
    plan: Plan  #: what this library would do
    bound: Bound  #: what anyone has to send

    @classmethod
    def of(cls, case: Case, threads: int) -> Question:
        """Run the case once, here, and plan it."""
        with propagate_pools():  # so that nothing forgets its pool while it is built
            collections = case.build(in_pool)
        graph, outputs = whole_graph(collections, case.workload.keep)
        instance = measured(graph, outputs)
        plan = plan_pools(graph, capacity=dict.fromkeys(case.workload.sites, threads))
        bound = least_traffic(instance.dependencies, instance.pins, instance.sizes)
        return cls(instance, plan, bound)


def race(
    client: Client, case: Case, repeat: int, timeout: float, tick: Any = lambda **what: None
) -> dict[str, Any]:
    """Run one case with every contender `repeat` times, in turns, and give all that was seen."""
    threads = sum(client.nthreads().values()) // len(case.workload.sites)
    question = Question.of(case, threads)
    held = question.instance.pinned_bytes()
    home = max(sorted(held), key=lambda site: held[site])
    expected = None if case.workload.keep else question.instance.outputs
    runners = contenders(home)
    runs: dict[str, list[Run]] = {contender.name: [] for contender in runners}
    for turn in range(repeat):
        # Whoever is first in a turn may find the machine in another state than the others.
        for contender in runners[turn % len(runners) :] + runners[: turn % len(runners)]:
            done = runs[contender.name]
            if any(run.status != "ok" for run in done):
                tick(advance=1)
                continue  # once is enough to know
            tick(description=f"{case.workload.name}: {contender.title}")
            done.append(
                run_once(
                    client,
                    contender,
                    case.build,
                    keep=case.workload.keep,
                    timeout=timeout,
                    expected=expected,
                )
            )
            tick(advance=1)
    return {
        "workload": case.workload.name,
        "title": case.workload.title,
        "shape": case.shape,
        "sites": list(case.workload.sites),
        "keep": case.workload.keep,
        "home": home,
        "tasks": len(question.instance.dependencies),
        "pinned": held,
        "bound": asdict(question.bound),
        "predicted": question.plan.total_bytes,
        "assumptions": list(question.plan.assumptions),
        "runs": {name: together(done) for name, done in runs.items()},
        "titles": {contender.name: contender.title for contender in runners},
    }


def together(runs: list[Run]) -> dict[str, Any]:
    """All runs of a contender; the first that failed says how."""
    return {
        "status": next((run.status for run in runs if run.status != "ok"), "ok"),
        "seconds": [round(run.seconds, 4) for run in runs],
        "crossed": [run.crossed for run in runs],
        "submitted": [run.submitted for run in runs],
        "links": runs[-1].links,
    }


def race_all(
    client: Client, todo: Iterable[Case], repeat: int, timeout: float, output: Path
) -> None:
    """Run all cases and write them to a file, with a bar that shows how far it is."""
    todo = list(todo)
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    done: list[dict[str, Any]] = []
    with Progress(*columns) as progress:
        if todo:
            warm_up(client, todo[0], timeout)
        task = progress.add_task("", total=len(todo) * repeat * len(contenders("")))
        for case in todo:
            progress.update(task, description=f"{case.workload.name}: lower bound")
            start = time.monotonic()
            try:
                record = race(client, case, repeat, timeout, lambda **w: progress.update(task, **w))
            except Exception as error:
                # Listed, so that nobody takes it for forgotten; the others go on.
                reason = f"{type(error).__name__}: {error}"
                record = {"title": case.workload.title, "shape": case.shape, "skipped": reason}
                progress.update(task, advance=repeat * len(contenders("")))
            done.append({**record, "took": round(time.monotonic() - start, 1)})
            output.write_text(json.dumps(done))
            progress.console.print(_summary(record))


def warm_up(client: Client, case: Case, timeout: float) -> None:
    """Let all processes import what they need, and connect, before anything is measured."""
    for contender in contenders(case.workload.sites[0]):
        run_once(client, contender, case.build, keep=case.workload.keep, timeout=timeout)


def _summary(record: dict[str, Any]) -> str:
    if "skipped" in record:
        return f"{record['title']}, {record['shape']}: skipped: {record['skipped']}"
    parts = []
    for name, runs in record["runs"].items():
        what = f"{median(runs['seconds']):.2f} s, {median(runs['crossed']) / 1e6:.2f} MB"
        parts.append(f"{name}: {what if runs['status'] == 'ok' else runs['status']}")
    bound = record["bound"]["nbytes"] / 1e6
    return f"{record['workload']}, {record['shape']}: {'; '.join(parts)}; bound {bound:.2f} MB"


@click.command()
@click.option("--scheduler", required=True, help="Address of the scheduler.")
@click.option("--workers", required=True, type=int, help="How many workers to wait for.")
@click.option("--data", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--repeat", default=5, show_default=True, type=click.IntRange(1))
@click.option("--timeout", default=60.0, show_default=True, help="Seconds until a run hangs.")
@click.argument("names", nargs=-1)
def main(
    scheduler: str,
    workers: int,
    data: Path,
    output: Path,
    repeat: int,
    timeout: float,
    names: tuple[str, ...],
) -> None:
    """Run the workloads NAMES."""
    sample_evenly()
    with Client(scheduler, timeout=60) as client:
        client.wait_for_workers(workers, timeout=60)
        race_all(client, cases(names, data), repeat, timeout, output)


if __name__ == "__main__":
    main()
