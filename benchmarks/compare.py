"""Compare what is predicted with what is measured, and with plain Dask, for a computation of yours.

``python -m benchmarks.compare my_module:build`` imports ``my_module``, calls ``build()``, which
returns one or several Dask collections with loads pinned by `dask_worker_pools.pool`, and computes
them twice on a cluster on this machine: inside `propagate_pools`, and with plain Dask. It prints
the plan, and the bytes between pools as predicted and as measured both times.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
from dask.base import unpack_collections
from dask.utils import format_bytes
from distributed import Client
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import contenders
from benchmarks.graphs import whole_graph
from benchmarks.measure import Run, run_once
from dask_worker_pools import LocalPoolCluster, Plan, plan_pools, propagate_pools
from dask_worker_pools.annotations import pool_of_resource


def found(target: str) -> Callable[[], Any]:
    """The function that ``module:name`` stands for."""
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise click.BadParameter(f"Expected module:function, but got {target!r}.")
    sys.path.insert(0, "")  # as `python -m` itself does: modules in the current directory
    try:
        build = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise click.BadParameter(f"{target!r}: {error}.") from error
    except AttributeError as error:
        raise click.BadParameter(f"{target!r}: {error}.") from error
    if not callable(build):
        raise click.BadParameter(f"{target!r} is {build!r}, which is no function.")
    return build  # type: ignore[no-any-return]


def collections_of(build: Callable[[], Any]) -> list[Any]:
    """The collections that a function returns, alone or in a list, a tuple or a dict."""
    returned = build()
    collections, _ = unpack_collections(returned)
    if not collections:
        raise click.UsageError(f"The function returned {returned!r}: no Dask collection is in it.")
    return list(collections)


def planned(build: Callable[[], Any], keep: bool, capacity: Mapping[str, float]) -> Plan:
    """What the library would do."""
    with propagate_pools():
        collections = collections_of(build)
    graph, _ = whole_graph(collections, keep)
    return plan_pools(graph, capacity=capacity)


def pools_of(plan: Plan) -> list[str]:
    """The pools that the computation names."""
    several = {pool for allowed in plan.allowed.values() for pool in allowed}
    return sorted({*plan.pinned.values(), *several})


@contextlib.contextmanager
def cluster(address: str | None, pools: Sequence[str], workers: int) -> Iterator[Client]:
    """A cluster that is there, or one of so many workers for each pool."""
    if address is not None:
        with Client(address, timeout=60) as client:
            yield client
        return
    local = LocalPoolCluster(dict.fromkeys(pools, workers), silence_logs=logging.CRITICAL)
    with local, local.get_client() as client:
        yield client


def threads(client: Client) -> dict[str, float]:
    """Threads of each pool of a cluster."""
    total: dict[str, float] = {}
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        for pool in filter(None, map(pool_of_resource, worker["resources"])):
            total[pool] = total.get(pool, 0) + worker["nthreads"]
    return total


def transfers_table(plan: Plan, runs: Mapping[str, Run]) -> Table:
    """Bytes by link: predicted, and measured in each run."""
    predicted = {f"{source}→{target}": n for (source, target), n in plan.bytes_by_link.items()}
    shown = Table("link", "predicted", *runs)
    for column in shown.columns[1:]:
        column.justify = "right"
    for link in sorted({*predicted, *(link for run in runs.values() for link in run.links)}):
        measured = [_cell(run, run.links.get(link, 0)) for run in runs.values()]
        shown.add_row(link, format_bytes(int(predicted.get(link, 0))), *measured)
    total = [_cell(run, run.crossed) for run in runs.values()]
    shown.add_section()
    shown.add_row("together", format_bytes(int(plan.total_bytes)), *total)
    shown.add_row("tasks submitted", "", *(str(run.submitted) for run in runs.values()))
    seconds = [f"{run.seconds:.2f} s" if run.status == "ok" else "" for run in runs.values()]
    shown.add_row("wall time", "", *seconds)
    return shown


def _cell(run: Run, nbytes: int) -> str:
    return format_bytes(nbytes) if run.status == "ok" else "–"


def compare(
    build: Callable[[], Any], client: Client, keep: bool, timeout: float, console: Console
) -> dict[str, Run]:
    """Plan, run both ways, and print what was found."""
    plan = planned(build, keep, threads(client))
    console.print(repr(plan), markup=False, highlight=False)
    runs = {
        contender.title: run_once(
            client, contender, lambda pool: collections_of(build), keep=keep, timeout=timeout
        )
        for contender in reversed(contenders(""))
        if contender.name in ("pools", "plain")
    }
    console.print(transfers_table(plan, runs))
    for title, run in runs.items():
        if run.status != "ok":
            console.print(f"{title}: {run.status}", markup=False)
    return runs


@click.command()
@click.argument("target", metavar="MODULE:FUNCTION")
@click.option("--workers", default=2, show_default=True, help="Workers of each pool.")
@click.option("--scheduler", help="Address of a cluster to use, instead of one on this machine.")
@click.option("--persist", is_flag=True, help="Leave results on the workers, do not fetch them.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds until a run hangs.")
def main(target: str, workers: int, scheduler: str | None, persist: bool, timeout: float) -> None:
    """Plan and run the collections that MODULE:FUNCTION returns, with and without pools."""
    build = found(target)
    pools = pools_of(planned(build, persist, {}))
    if not pools:
        raise click.UsageError(
            f"Nothing that {target} returns is in a pool. Say where data is loaded: "
            'with pool("A"): ...'
        )
    with cluster(scheduler, pools, workers) as client:
        runs = compare(build, client, persist, timeout, Console())
    if any(run.status != "ok" for run in runs.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
