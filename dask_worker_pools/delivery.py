"""The code that a scheduler needs goes ahead of the first graph, where the client can wait.

A client that is asynchronous cannot: its first graph takes the code along.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_worker_pools import arrival, source, travel
from dask_worker_pools.propagate import is_on


def sending(send: Callable[..., Any], client: Any, *args: Any, **kwargs: Any) -> Any:
    """Let a client send a graph; goes around ``Client._graph_to_futures``."""
    if is_on():
        _ahead(client)
    return travel.sending(send, client, *args, **kwargs)


def _ahead(client: Any) -> None:
    """Send the scheduler what it lacks, unless it goes with the graph."""
    core = source.needed(source.CORE, False) - {"arrival"}
    connection = getattr(client, "scheduler_comm", None)
    if connection is None or client.asynchronous or core <= travel.gone(connection):
        return
    root = source.root()
    try:
        if client.run_on_scheduler(travel.ByValue(arrival.lacking), root, sorted(core)):
            client.run_on_scheduler(travel.ByValue(arrival.keep), root, [source.packed(core)])
    except Exception:
        return  # a scheduler may refuse to run functions; what is wrong otherwise will be seen
    travel.note(connection, core)
