"""Compare this library with others on sites that are joined by slow links, on one machine.

Run as root: ``make bench-sites``, or ``python -m benchmarks.sites --help``. It makes network
namespaces (see `benchmarks.network`), starts ``dask scheduler`` and ``dask worker`` in them, runs
all workloads with all contenders (see `benchmarks.race`), writes what was seen as JSON, writes the
tables and charts of the documentation from it, and removes everything, also after a failure or
Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe
from benchmarks.network import HUB, Network, NotPossibleHere, check_possible
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "sites.json"
PORT = 8786  # inside of namespaces of our own, where nobody else can have it


class OutOfTime(Exception):
    """The whole run took longer than it may."""


class SiteCluster:
    """A scheduler at the hub and workers at the sites of a network."""

    def __init__(self, network: Network, directory: Path, workers: int) -> None:
        self.network = network
        self.directory = directory
        self.workers = workers * len(network.sites)
        self.address = f"tcp://{network.address(HUB)}:{PORT}"
        self._spawn(HUB, "scheduler", ["scheduler", "--port", str(PORT), "--no-show"])
        for site in network.sites:
            for number in range(workers):
                name = f"{site}-{number}"
                offered = ["--resources", f"pool-{site}=1", "--name", name]
                # No nanny, so that the process that we see is the worker.
                alone = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0"]
                patience = ["--death-timeout", "60"]
                sizes = ["--preload", "benchmarks.sampling"]
                options = [*alone, *offered, *patience, *sizes]
                self._spawn(site, name, ["worker", self.address, *options])

    def _spawn(self, place: str, name: str, arguments: Sequence[str]) -> None:
        host = self.network.address(place)
        where = ["--host", host, "--dashboard-address", f"{host}:0", "--no-dashboard"]
        with (self.directory / f"{name}.log").open("wb") as log:
            self.network.popen(
                place,
                [sys.executable, "-m", "dask", arguments[0], *arguments[1:], *where],
                cwd=self.directory,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which then ends the others
            )

    def logs(self) -> str:
        """The last lines that each process printed."""
        tails = {path.stem: path.read_text()[-1500:] for path in self.directory.glob("*.log")}
        return "\n".join(f"--- {name}\n{tail}" for name, tail in sorted(tails.items()) if tail)


def environment() -> dict[str, str]:
    """The processes find the benchmarks, and each of their threads computes alone."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **alone, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def groups(names: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """Names of workloads by the sites that they need."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in names or WORKLOADS:
        found.setdefault(tuple(WORKLOADS[name].sites), []).append(name)
    return found


def run_group(
    sites: Sequence[str],
    names: Sequence[str],
    data: Path,
    *,
    rate: float,
    repeat: int,
    timeout: float,
    deadline: float,
) -> list[dict[str, Any]]:
    """Run workloads that need the same sites."""
    with (
        tempfile.TemporaryDirectory(prefix="sites-") as directory,
        Network(sites, rate) as network,
    ):
        output = Path(directory, "results.json")
        # As many processes as have something to do at once; more sites, fewer workers in each.
        cluster = SiteCluster(network, Path(directory), workers=2 if len(sites) == 2 else 1)
        options = ["--scheduler", cluster.address, "--workers", str(cluster.workers)]
        options += ["--data", str(data), "--output", str(output)]
        options += ["--repeat", str(repeat), "--timeout", str(timeout), *names]
        command = [sys.executable, "-m", "benchmarks.race", *options]
        racing = network.popen(HUB, command, cwd=ROOT, env=environment())
        try:
            code = racing.wait(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise OutOfTime(f"Not done in time; see --limit. {cluster.logs()}") from None
        if code:
            raise RuntimeError(f"The run of {', '.join(names)} failed.\n{cluster.logs()}")
        found: list[dict[str, Any]] = json.loads(output.read_text())
        return found


def save(output: Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON, each case on a line of its own, so that changes can be read."""
    head = json.dumps({name: results[name] for name in ("machine", "settings")}, indent=1)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in results["cases"])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(f'{head[:-2]},\n "cases": [\n{lines}\n]\n}}\n')


@contextlib.contextmanager
def termination_raises() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that it cleans up."""

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.command()
@click.option("--rate", default=50.0, show_default=True, help="Mbit/s that each site may send.")
@click.option(
    "--repeat", default=5, show_default=True, type=click.IntRange(1), help="Runs of each contender."
)
@click.option(
    "--timeout", default=60.0, show_default=True, help="Seconds after which one run hangs."
)
@click.option("--limit", default=60.0, show_default=True, help="Minutes for everything.")
@click.option(
    "--output", default=RESULTS, type=click.Path(path_type=Path, dir_okay=False), help="JSON file."
)
@click.option("--docs/--no-docs", default=True, help="Write the tables and charts.")
@click.argument("names", nargs=-1)
def main(
    rate: float,
    repeat: int,
    timeout: float,
    limit: float,
    output: Path,
    docs: bool,
    names: tuple[str, ...],
) -> None:
    """Run the workloads NAMES, or all."""
    if unknown := sorted(set(names) - set(WORKLOADS)):
        raise click.BadParameter(f"{unknown} are not among {sorted(WORKLOADS)}.")
    try:
        check_possible()
    except NotPossibleHere as error:
        raise click.ClickException(str(error)) from None
    start = time.monotonic()
    records: list[dict[str, Any]] = []
    with termination_raises(), tempfile.TemporaryDirectory(prefix="sites-data-") as data:
        for sites, wanted in groups(names).items():
            records += run_group(
                sites,
                wanted,
                Path(data),
                rate=rate,
                repeat=repeat,
                timeout=timeout,
                deadline=start + 60 * limit,
            )
    settings = {"rate": rate, "repeat": repeat, "minutes": (time.monotonic() - start) / 60}
    settings["load"] = os.getloadavg()[2]
    save(output, {"machine": describe(), "settings": settings, "cases": records})
    click.echo(f"Wrote {output}")
    if docs:
        from benchmarks.report import write

        for path in write(output):
            click.echo(f"Wrote {path}")


if __name__ == "__main__":
    main()
