"""What a task gives, told from what it takes: shape and dtype inference for Dask's own functions.

Nothing here runs a task. `infer` walks a task as Dask would when running it, with a `Block` (a
shape and a dtype) standing for each array, and answers a function's call by a rule from the table
`RULES`. A rule has the signature of the function it speaks for, so ``partial`` objects, nested
tasks and keyword arguments need no further care. A function without a rule raises `Unknown`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    NestedContainer,
    Task,
    TaskRef,
    convert_legacy_task,
)
from dask.typing import Key

from dask_worker_pools.sizes.measure import Block, Unknown
from dask_worker_pools.sizes.rules import (
    MISLEADING,
    RULES,
    SELECTIONS,
    SEVERAL,
    as_block,
    elementwise,
    truth,
)

__all__ = ["GraphNode", "Task", "convert_legacy_task", "gives_several", "infer", "misleading"]


def infer(node: object, lookup: Callable[[Key], object]) -> object:
    """Tell what a task gives.

    Parameters
    ----------
    node : object
        A node of a task graph, or anything that may stand among a task's arguments.
    lookup : callable
        Gives the output of another task: a `Block`, or the data itself where the graph holds it.

    Returns
    -------
    object
        A `Block`, data that the graph holds, or a container of these.

    Raises
    ------
    Unknown
        If no rule covers the task or one of its inputs.

    Examples
    --------
    >>> task = Task("y", np.sum, TaskRef("x"), axis=0, keepdims=True)
    >>> infer(task, {"x": Block((5, 7), np.dtype("int8"))}.__getitem__)
    Block(shape=(1, 7), dtype=dtype('int64'), extra=0)
    """
    if isinstance(node, TaskRef):
        return lookup(node.key)
    if not isinstance(node, GraphNode):
        return node
    if isinstance(node, Alias):
        return lookup(node.target)
    if isinstance(node, DataNode):
        return node.value
    if not isinstance(node, Task):
        raise Unknown(f"a node of {type(node)}")
    args = [infer(arg, lookup) for arg in node.args]
    if isinstance(node, NestedContainer):
        return type(node).constructor(args)
    kwargs = {name: infer(arg, lookup) for name, arg in node.kwargs.items()}
    return call(node.func, args, kwargs)


def call(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Tell what a call gives, by the function's rule."""
    if isinstance(func, partial):
        return call(func.func, [*func.args, *args], {**func.keywords, **kwargs})
    if _is_composed(func):
        result = call(func.first, args, kwargs)
        for step in func.funcs:
            result = call(step, [result], {})
        return result
    name = _name(func)
    rule = WRAPPERS.get(name) or RULES.get(name)
    if rule is None and isinstance(func, np.ufunc) and func.nout == 1:
        rule = truth if func in PREDICATES else elementwise
    if rule is None:
        raise Unknown(f"no rule for {name}")
    try:
        return rule(*args, **kwargs)
    except Unknown:
        raise
    except Exception as error:  # a call the rule was not written for
        raise Unknown(f"{name}: {error}") from error


def misleading(func: Any, kwargs: Mapping[str, Any], *, blockwise: bool) -> bool:
    """Tell whether a layer made with this function may misstate its chunks.

    The steps of a reduction are annotated with the chunks before the step, or with the dtype after
    the last one, except the last step itself; filters with the chunks before the filter. An index
    comes from another array, and may filter, in Blockwise layers only.
    """
    names = MISLEADING | SELECTIONS if blockwise else MISLEADING
    return any(keywords.get("keepdims", name in names) for name, keywords in _steps(func, kwargs))


def gives_several(func: Any) -> bool:
    """Tell whether a function gives several arrays at once."""
    return _name(func) in SEVERAL


def _steps(func: Any, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the names of the functions that a function is made of, with their keywords."""
    if isinstance(func, partial):
        yield from _steps(func.func, {**func.keywords, **kwargs})
    elif _is_composed(func):
        yield from _steps(func.funcs[-1], {})  # the last one makes the output
    elif "enforce_dtype_function" in kwargs:
        rest = {name: value for name, value in kwargs.items() if not name.startswith("enforce_")}
        yield from _steps(kwargs["enforce_dtype_function"], rest)
    else:
        yield _name(func), kwargs


def _is_composed(func: Any) -> bool:
    # toolz and cytoolz each have their own class.
    return type(func).__name__ == "Compose" and hasattr(func, "first")


def _name(func: Any) -> str:
    method = getattr(func, "method", None)  # dask.utils.methodcaller
    if isinstance(method, str):
        return f"method {method}"
    name = getattr(func, "__qualname__", type(func).__qualname__)
    return f"{getattr(func, '__module__', None)}.{name}"


def _apply(func: Any, args: Any = (), kwargs: Any = None) -> Any:
    return call(func, args, kwargs or {})


def _enforce_dtype(
    *args: Any, enforce_dtype: Any, enforce_dtype_function: Any, **kwargs: Any
) -> Block:
    result = as_block(call(enforce_dtype_function, args, kwargs))
    return Block(result.shape, np.dtype(enforce_dtype))


def _pass_extra_kwargs(func: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
    extra = dict(zip(keys, args, strict=False))
    return call(func, args[len(keys) :], kwargs | extra)


def _subgraph(inner: Any, outkey: Any, inkeys: Any, *dependencies: Any) -> Any:
    values = dict(zip(inkeys, dependencies, strict=True))

    def lookup(key: Key) -> object:
        if key not in values:
            values[key] = infer(inner[key], lookup)
        return values[key]

    return lookup(outkey)


#: Rules of functions that call another one.
WRAPPERS: dict[str, Callable[..., Any]] = {
    "dask._task_spec._execute_subgraph": _subgraph,
    "dask.array.core._enforce_dtype": _enforce_dtype,
    "dask.array.core._pass_extra_kwargs": _pass_extra_kwargs,
    "dask.utils.apply": _apply,
}

#: Elementwise functions that say yes or no.
PREDICATES = frozenset(
    (
        *(np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal),
        *(np.logical_and, np.logical_or, np.logical_not, np.isnan, np.isfinite, np.isinf),
    )
)
