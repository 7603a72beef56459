"""What is said of a whole call, as ``client.persist(frame, resources={"GPU": 1})`` does.

Dask hands it to the scheduler beside the graph, which drops it for tasks that have resources of
their own, as each task with a pool has. Said around the call it reaches the pass.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import dask


def said_around(**options: Any) -> AbstractContextManager[Any]:
    """A block in which what is said of a call is said around it too."""
    names = ("resources", "workers", "allow_other_workers")
    said = {name: options[name] for name in names if options.get(name)}
    if isinstance(said.get("workers"), str):
        said["workers"] = [said["workers"]]
    block: AbstractContextManager[Any] = dask.annotate(**said)
    return block
