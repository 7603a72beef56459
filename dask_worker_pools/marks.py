"""What a task carries itself: where it was said to run, and how large its output is.

Dask forgets the annotations of layers, and the chunks of arrays, where it gives a collection to a
function of another one, as in ``delayed(f)(array)``, and renames the tasks. So a task carries what
is known of it as an attribute of its function, which is wrapped for that in a `functools.partial`:
it can be unpickled without this package.
"""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import Any, TypeGuard

from dask._task_spec import Alias, GraphNode, NestedContainer, Task, TaskRef
from toolz import identity

from dask_worker_pools.annotations import Annotations

#: Attribute of a task's function that holds its mark.
MARK = "_dask_worker_pools"

#: The task's annotations, and what is known of its output, by the names of annotations: its bytes,
#: or else what it weighs. Under `SOURCE` it says how the bytes are known.
Mark = tuple[Annotations, Annotations]
SOURCE = "source"


def marked(task: Any, mark: Mark) -> Any:
    """A copy of a task that carries a mark."""
    if not isinstance(task, GraphNode):
        return task
    if isinstance(task, Task) and not isinstance(task, NestedContainer):
        copied = copy(task)
    elif mark[0]:
        # Data that the graph holds, or another name for an output, has no function of its own.
        # toolz is wherever Dask is; this package need not be.
        given = TaskRef(task.target) if isinstance(task, Alias) else task
        copied = Task(task.key, identity, given)
    else:
        return task
    unmarked = copied.func.func if _carries(copied.func) else copied.func  # one mark is enough
    function = partial(unmarked)
    setattr(function, MARK, mark)
    copied.func = function
    return copied


def _carries(function: Any) -> TypeGuard[partial[Any]]:
    return isinstance(function, partial) and MARK in vars(function)


def mark_of(task: Any) -> Mark | None:
    """What a task carries, also inside of one that only renames it."""
    while isinstance(task, Task):
        if isinstance(task.func, partial):
            mark: Mark | None = vars(task.func).get(MARK)
            return mark
        if getattr(task.func, "__qualname__", "") != "ProhibitReuse._identity":
            return None
        (task,) = task.args
    return None
