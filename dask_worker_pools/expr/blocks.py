"""Blockwise expressions of frames, as placement sees them, and fused again after it.

Partition by partition such an expression needs the same partition of its inputs. So its edges are
known without a task of it, and a layer without tasks stands for it while pools are chosen. When it
turns out to run in one pool as a whole, and so does an input that only it needs, then both are
fused as Dask would have done had no marker been between them.

What is here is sent to the scheduler, with the source of all that it refers to.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from dask._task_spec import Task
from dask.blockwise import BlockIndex, Blockwise
from dask.typing import Key

from dask_worker_pools.annotations import Annotations
from dask_worker_pools.sizes import FRAME


def is_frame(expr: Any) -> bool:
    """Whether an expression is one of dask.dataframe, whose outputs are numbered."""
    return isinstance(expr, _frames("Expr"))


def is_graph(expr: Any) -> bool:
    """Whether an expression holds a graph that was written before, task by task."""
    return type(expr).__name__ == "FromGraph"


def is_shuffle(expr: Any) -> bool:
    """Whether an expression is a shuffle by tasks, in several steps."""
    return isinstance(expr, _frames("SimpleShuffle", "_shuffle"))


def _frames(name: str, module: str = "_expr") -> Any:
    # Arrays that are made of expressions come here too, perhaps where there is no dask.dataframe.
    return getattr(sys.modules.get(f"dask.dataframe.dask_expr.{module}"), name, ())


def block_inputs(expr: Any) -> dict[str, int] | None:
    """The number of partitions of each input, by its name; None if partitions do not correspond."""
    if not isinstance(expr, _frames("Blockwise")):
        return None
    count = expr.npartitions
    inputs: dict[str, int] = {}
    for one in expr.dependencies():
        parts = one.npartitions if is_frame(one) else None
        # What writes files has no meta to ask, nor must it be asked where partitions correspond.
        if parts is None or (parts != count and not (parts == 1 and expr._broadcast_dep(one))):
            return None
        inputs[one._name] = parts
    # What a class makes of its partitions is seen at both ends.
    for index in {0, count - 1} if count else ():
        key = expr._name, index
        needed = {(name, 0 if parts == 1 else index) for name, parts in inputs.items()}
        if expr._task(key, index).dependencies != needed:
            return None
    return inputs if count else None


def stand_in(name: str, partitions: int, inputs: Mapping[str, int], said: Annotations) -> Blockwise:
    """A layer that has the keys and the edges of an expression, and none of its tasks."""
    layer = Blockwise(
        name,
        "i",
        Task(name, object),
        [(BlockIndex((partitions,)), "i"), *((one, "i") for one in inputs)],
        {one: (count,) for one, count in inputs.items()},
        annotations=said or None,
    )
    layer.collection_annotations = {"type": FRAME}
    return layer


def refused(
    exprs: Iterable[Any], outputs: Collection[str], pools: Mapping[str, str | None]
) -> dict[str, Any]:
    """What to write for each expression, by its name: itself, or it fused with inputs of its pool.

    Parameters
    ----------
    exprs : iterable of expressions
        All that are computed, each after its inputs.
    outputs : collection of str
        Names of those whose partitions are wanted.
    pools : mapping of str to str or None
        The pool of each expression that is in one place as a whole.

    Returns
    -------
    dict of str to expression
        Those that were fused into others are absent.
    """
    listed = list(exprs)
    users = Counter(name for expr in listed for name in {one._name for one in expr.dependencies()})
    found: dict[str, Any] = {}
    for expr in listed:
        name, whole = expr._name, expr
        for one in expr.dependencies() if pools.get(name) and _fusible(expr) else ():
            if (
                one._name in found
                and pools.get(one._name) == pools[name]
                and users[one._name] == 1
                and one._name not in outputs
                and _fusible(one)
                and one.npartitions == expr.npartitions
            ):
                whole = _fused(whole, one, found.pop(one._name))
        found[name] = whole
    return found


def _fusible(expr: Any) -> bool:
    fusible = _frames("is_valid_blockwise_op")
    return bool(fusible and fusible(expr))


def _fused(expr: Any, needed: Any, whole: Any) -> Any:
    """An expression fused with one that it needs, which may be fused itself by now."""
    inner = _members(whole)
    outer = [one.substitute(needed, inner[0]) for one in _members(expr)]
    group = [*outer, *inner]
    names = {one._name for one in group}
    outside = {one._name: one for part in group for one in part.dependencies()}
    return _frames("Fused")(group, *(one for name, one in outside.items() if name not in names))


def _members(expr: Any) -> list[Any]:
    """The expressions that were fused into one."""
    return list(expr.exprs) if isinstance(expr, _frames("Fused")) else [expr]


def written(expr: Any, name: str) -> dict[Key, Any]:
    """The tasks of an expression, under a name that others know."""
    if expr._name == name:
        tasks: dict[Key, Any] = expr._layer()
        return tasks
    keys = [(name, index) for index in range(expr.npartitions)]
    return {key: expr._task(key, key[1]) for key in keys}
