"""What is said of a whole call, as ``client.persist(frame, resources={"GPU": 1})`` does.

Dask hands it to the scheduler beside the graph, which drops it for tasks that have resources of
their own, as each task with a pool has. Said around the call it reaches the pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask


def said_around(send: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Send a graph to the scheduler, with what is said of the call said around it too."""
    names = ("resources", "workers", "allow_other_workers")
    said = {name: options[name] for name in names if options.get(name)}
    if isinstance(said.get("workers"), str):
        said["workers"] = [said["workers"]]
    with dask.annotate(**said):
        return send(*args, **options)
