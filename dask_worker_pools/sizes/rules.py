"""What Dask's and NumPy's functions make of the shapes and dtypes of their arguments.

Each rule has the signature of the function it speaks for, takes a `Block` for each array, and gives
a `Block`. A rule may assume what Dask assumes when it calls the function: an exception in it means
that the call is of another kind, and its output unknown.

A task that gives a dictionary of arrays of one shape (the steps of a mean or a variance) is told as
one block with a structured dtype, and the bytes of the dictionary besides.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import dask.sizeof
import numpy as np

from dask_worker_pools.sizes.measure import Block, Unknown

__all__ = ["MISLEADING", "RULES", "SELECTIONS", "SEVERAL", "as_block", "elementwise", "truth"]


def as_block(value: Any) -> Block:
    """Take the shape and dtype of anything like an array; a number has no axes."""
    if isinstance(value, Block):
        return value
    if isinstance(value, int | float | complex):
        return Block((), np.result_type(value))
    return Block(tuple(value.shape), np.dtype(value.dtype))


def _first(nested: Any) -> Block:
    while isinstance(nested, list | tuple):
        nested = nested[0]
    return as_block(nested)


def _blocks(nested: Any) -> Iterator[Block]:
    if isinstance(nested, list | tuple):
        for item in nested:
            yield from _blocks(item)
    else:
        yield as_block(nested)


def _axes(axis: Any, ndim: int) -> set[int]:
    if axis is None:
        return set(range(ndim))
    return {i % ndim for i in (axis if isinstance(axis, list | tuple) else (axis,))}


def _reduce(shape: tuple[int, ...], axis: Any, keepdims: bool) -> tuple[int, ...]:
    axes = _axes(axis, len(shape))
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def _same_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype


def _summed_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    total: np.generic = np.sum(np.empty(0, dtype))  # NumPy itself says how it widens
    return total.dtype


def _bool_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(bool)


def _reduction(result_dtype: Callable[[np.dtype[Any]], np.dtype[Any]]) -> Callable[..., Block]:
    def rule(x: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Block:
        x = _first(x)
        dtype = np.dtype(dtype) if dtype is not None else result_dtype(x.dtype)
        return Block(_reduce(x.shape, axis, keepdims), dtype)

    return rule


def _together(*names: str) -> int:
    """Give the bytes of a dictionary of arrays besides those of the arrays."""
    return int(dask.sizeof.sizeof(dict.fromkeys(names, np.empty(0))))


def _mean_chunk(
    x: Any, *, axis: Any, keepdims: bool, dtype: Any = "f8", numel: Any = None, **_: Any
) -> Block:
    dtype, extra = np.dtype(dtype), _together("n", "total")
    fields = [("total", dtype)]
    if numel is None:  # all blocks have as many elements: one number, repeated without storing it
        extra += dtype.itemsize
    else:
        fields.append(("n", dtype))
    return Block(_reduce(as_block(x).shape, axis, keepdims), np.dtype(fields), extra)


def _moment_chunk(
    x: Any,
    *,
    axis: Any,
    keepdims: bool,
    order: int = 2,
    dtype: Any = "f8",
    implicit_complex_dtype: bool = False,
    **_: Any,
) -> Block:
    x = as_block(x)
    total = x.dtype if implicit_complex_dtype else dtype
    fields = np.dtype([("total", total), ("n", "i8"), ("M", dtype, (order - 1,))])
    return Block(_reduce(x.shape, axis, keepdims), fields, _together("total", "n", "M"))


def _moment_combine(pairs: Any, *, axis: Any, order: int = 2, **_: Any) -> Block:
    x = _first(pairs)
    m = np.result_type(x.dtype["M"].base, np.int64)  # multiplied by the counts
    fields = np.dtype([("total", x.dtype["total"]), ("n", "i8"), ("M", m, (order - 1,))])
    return Block(_reduce(x.shape, axis, True), fields, x.extra)


def _mean_combine(pairs: Any, *, axis: Any, keepdims: bool = True, **_: Any) -> Block:
    x = _first(pairs)
    total = _summed_dtype(x.dtype["total"])
    fields = np.dtype([("n", total), ("total", total)])
    return Block(_reduce(x.shape, axis, keepdims), fields, _together("n", "total"))


def _aggregate(pairs: Any, *, axis: Any, keepdims: bool, dtype: Any = "f8", **_: Any) -> Block:
    return Block(_reduce(_first(pairs).shape, axis, keepdims), np.dtype(dtype))


def _arg_chunk(func: Any, argfunc: Any, x: Any, axis: Any, offset_info: Any) -> Block:
    x = as_block(x)
    fields = np.dtype([("vals", x.dtype), ("arg", np.intp)])
    return Block(_reduce(x.shape, axis, True), fields)


def _arg_combine(argfunc: Any, data: Any, axis: Any, **_: Any) -> Block:
    return Block(_reduce(as_block(data).shape, axis, True), as_block(data).dtype)


def _arg_aggregate(argfunc: Any, data: Any, axis: Any, keepdims: bool = False) -> Block:
    return Block(_reduce(as_block(data).shape, axis, keepdims), as_block(data).dtype["arg"])


def _topk(a: Any, k: int, axis: Any, keepdims: bool) -> Block:
    a, axes = as_block(a), _axes(axis, as_block(a).ndim)
    # In this order an unknown length (NaN) stays unknown.
    return Block(tuple(min(n, abs(k)) if i in axes else n for i, n in enumerate(a.shape)), a.dtype)


def _chunk_sum(a: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Block:
    # Of a matrix product: its blocks have one element on the axis of the sum.
    x = _first(a)
    return x if keepdims else Block(_reduce(x.shape, axis[0], False), x.dtype)


def _concatenate(arrays: Any, axis: int = 0) -> Block:
    blocks = [as_block(x) for x in arrays]
    shape = list(blocks[0].shape)
    shape[axis] = sum(x.shape[axis] for x in blocks)
    return Block(tuple(shape), np.result_type(*{x.dtype for x in blocks}))


def _concatenate_nested(arrays: Any, axes: Any) -> Any:
    if not isinstance(arrays, list | tuple):
        return arrays
    if not axes:
        return arrays[0]
    return _concatenate([_concatenate_nested(x, axes[1:]) for x in arrays], axes[0])


def _concatenate3(arrays: Any) -> Block:
    return as_block(_concatenate_nested(arrays, range(_first(arrays).ndim)))


def _concatenate_axes(arrays: Any, axes: Any) -> Block:
    return as_block(_concatenate_nested(arrays, axes))


def _concatenate_shaped(arrays: Any, shape: Any) -> Block:
    nested = list(arrays)
    for n in reversed(shape[1:]):
        nested = [nested[i : i + n] for i in range(0, len(nested), n)]
    return _concatenate3(nested)


def _sorted_together(arrs: Any, sorter: Any, axis: int) -> Block:
    return _concatenate(arrs, axis)


def _getitem(x: Any, index: Any, **_: Any) -> Any:
    if isinstance(x, tuple | list | dict):
        return x[index]
    x = as_block(x)
    if isinstance(index, str):
        return Block(x.shape, x.dtype[index])
    index = index if isinstance(index, tuple) else (index,)
    sizes, fancy = [], 0
    rest = iter(x.shape)
    for item in index:
        if isinstance(item, slice):
            sizes.append(len(range(*item.indices(next(rest)))))
        elif item is None:
            sizes.append(1)
        elif item is Ellipsis:
            raise Unknown("an ellipsis in an index")
        elif np.ndim(item) == 0 and not isinstance(item, Block):
            next(rest)
        else:
            fancy += 1
            sizes.append(_picked(item, next(rest)))
    if fancy > 1:
        raise Unknown("more than one array in an index")
    return Block((*sizes, *rest), x.dtype)


def _picked(index: Any, size: int) -> int:
    """Count the elements that an array of positions or flags picks from an axis."""
    if isinstance(index, Block):
        if index.dtype == bool or index.ndim != 1:
            raise Unknown("picked by values that are not known yet")
        return index.shape[0]
    index = np.asarray(index)
    return int(index.sum()) if index.dtype == bool else len(index)


def _shuffle_getitem(x: Any, index: Any) -> Any:
    return _getitem(x, index[1])


def elementwise(*args: Any, dtype: Any = None, **_: Any) -> Block:
    """Tell what arithmetic gives: arguments are broadcast, dtypes promoted."""
    blocks = [as_block(x) for x in args]
    # A Python number has no dtype of its own: it takes that of the arrays.
    dtypes = [x if isinstance(x, int | float | complex) else as_block(x).dtype for x in args]
    shape = np.broadcast_shapes(*(x.shape for x in blocks))
    return Block(shape, np.dtype(dtype) if dtype else np.result_type(*dtypes))


def truth(*args: Any, **_: Any) -> Block:
    """Tell what a comparison gives."""
    return Block(elementwise(*args).shape, np.dtype(bool))


def _full_like(x: Any, fill_value: Any, dtype: Any = None, shape: Any = None, **_: Any) -> Block:
    x = as_block(x)
    return Block(x.shape if shape is None else tuple(shape), np.dtype(dtype or x.dtype))


def _full(shape: Any, *_: Any, dtype: Any = "f8", **__: Any) -> Block:
    return Block((shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype))


def _broadcast_to(x: Any, shape: Any, **_: Any) -> Block:
    return Block(tuple(shape), as_block(x).dtype)


def _transpose(x: Any, axes: Any = None) -> Block:
    x = as_block(x)
    return Block(tuple(x.shape[i] for i in axes or reversed(range(x.ndim))), x.dtype)


def _reshape(x: Any, shape: Any, *_: Any, **__: Any) -> Block:
    x = as_block(x)
    if -1 in shape:
        known = -prod(shape)
        shape = [prod(x.shape) // known if n == -1 else n for n in shape]
    return Block(tuple(shape), x.dtype)


def _astype(x: Any, astype_dtype: Any = None, **_: Any) -> Block:
    return Block(as_block(x).shape, np.dtype(astype_dtype))


def _qr(a: Any) -> tuple[Block, Block]:
    a = as_block(a)
    rows, columns = a.shape
    rank = min(rows, columns)
    return Block((rows, rank), a.dtype), Block((rank, columns), a.dtype)


def _svd(a: Any) -> tuple[Block, Block, Block]:
    a = as_block(a)
    rows, columns = a.shape
    values = Block((min(a.shape),), np.empty(0, a.dtype).real.dtype)
    return Block((rows, rows), a.dtype), values, Block((columns, columns), a.dtype)


def _dot(a: Any, b: Any) -> Block:
    a, b = as_block(a), as_block(b)
    if not (a.ndim and b.ndim):
        raise Unknown("a product with a number")
    rest = b.shape[:-2] + b.shape[-1:] if b.ndim > 1 else ()
    return Block(a.shape[:-1] + rest, np.result_type(a.dtype, b.dtype))


def _solve(a: Any, b: Any) -> Block:
    return Block(as_block(b).shape, np.result_type(as_block(a).dtype, as_block(b).dtype))


def _unchanged(x: Any, *_: Any, **__: Any) -> Any:
    return x


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _cast(*args: Any, typ: Any) -> Any:
    return typ(args)


def _same(value: Any, *_: Any) -> Any:
    return value


def _depends_on_values(*_: Any, **__: Any) -> Any:
    raise Unknown("the size depends on the values")


_CORE = "dask.array.core"
_REDUCTIONS = "dask.array.reductions"
_CHUNK = "dask.array.chunk"

#: Steps of reductions, and functions whose output is as long as the values make it.
_STEPS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        (f"numpy.{name}" for name in ("sum", "prod", "nansum", "nanprod")),
        _reduction(_summed_dtype),
    ),
    **dict.fromkeys(
        (
            *(f"numpy.{name}" for name in ("min", "max", "amin", "amax", "nanmin", "nanmax")),
            *(f"{_REDUCTIONS}.{name}" for name in ("chunk_min", "chunk_max")),
            *(f"{_REDUCTIONS}.{name}" for name in ("_nanmin_skip", "_nanmax_skip")),
        ),
        _reduction(_same_dtype),
    ),
    **dict.fromkeys(("numpy.any", "numpy.all"), _reduction(_bool_dtype)),
    f"{_REDUCTIONS}.mean_chunk": _mean_chunk,
    f"{_REDUCTIONS}.mean_combine": _mean_combine,
    f"{_REDUCTIONS}.mean_agg": _aggregate,
    f"{_REDUCTIONS}.moment_chunk": _moment_chunk,
    f"{_REDUCTIONS}.moment_combine": _moment_combine,
    f"{_REDUCTIONS}.moment_agg": _aggregate,
    f"{_REDUCTIONS}.arg_chunk": _arg_chunk,
    f"{_REDUCTIONS}.arg_combine": _arg_combine,
    f"{_REDUCTIONS}.arg_agg": _arg_aggregate,
    f"{_REDUCTIONS}.nanarg_agg": _arg_aggregate,
    f"{_CHUNK}.topk": _topk,
    f"{_CHUNK}.topk_aggregate": _topk,
    "dask.array.routines._chunk_sum": _chunk_sum,
    **dict.fromkeys(
        (
            "dask.array.slicing.getitem_variadic",
            "numpy.bincount",
            "numpy.unique",
            f"{_REDUCTIONS}._unique_internal",
            "dask.array.routines._unique_internal",
            f"{_CHUNK}.slice_with_int_dask_array",
        ),
        _depends_on_values,
    ),
}

#: Functions that give several arrays at once.
SEVERAL = frozenset(("numpy.linalg.qr", "dask.array.linalg._wrapped_qr", "numpy.linalg.svd"))

#: Functions that pick elements, by an index that may be another array's block.
SELECTIONS = frozenset(("_operator.getitem", f"{_CHUNK}.getitem"))

#: Functions whose layers may misstate their chunks.
MISLEADING = frozenset(_STEPS)

#: What each function gives, by the function's module and name. Names and not functions, so that
#: a name which another Dask lacks does no harm, and the table can travel to another process.
RULES: dict[str, Callable[..., Any]] = {
    **_STEPS,
    **dict.fromkeys(
        (*SELECTIONS, *(f"{_CORE}.{name}" for name in ("getter", "getter_inline"))),
        _getitem,
    ),
    f"{_CORE}.getter_nofancy": _getitem,
    "dask.array._shuffle._getitem": _shuffle_getitem,
    "dask.array._shuffle.concatenate_arrays": _sorted_together,
    "numpy.concatenate": _concatenate,
    f"{_CORE}._concatenate2": _concatenate_nested,
    f"{_CORE}.concatenate3": _concatenate3,
    f"{_CORE}.finalize": _concatenate3,
    f"{_CORE}.concatenate_axes": _concatenate_axes,
    f"{_CORE}.concatenate_shaped": _concatenate_shaped,
    "dask._task_spec._identity_cast": _cast,
    **dict.fromkeys(("toolz.functoolz.identity", "dask._expr.ProhibitReuse._identity"), _same),
    **dict.fromkeys(
        (
            *(f"_operator.{name}" for name in ("add", "sub", "mul", "pow", "mod", "floordiv")),
            *(f"{_REDUCTIONS}.{name}" for name in ("_cumsum_merge", "_cumprod_merge")),
        ),
        elementwise,
    ),
    **dict.fromkeys((f"_operator.{name}" for name in ("lt", "le", "gt", "ge", "eq", "ne")), truth),
    **dict.fromkeys(
        (
            *("_operator.neg", "_operator.pos", "_operator.abs", "numpy.copy", "method copy"),
            *("numpy.cumsum", "numpy.cumprod"),
        ),
        _unchanged,
    ),
    "dask.graph_manipulation.chunks.bind": _same,
    "dask.graph_manipulation.chunks.checkpoint": _nothing,
    "numpy.full_like": _full_like,
    **dict.fromkeys(("numpy.zeros", "numpy.ones", "numpy.empty"), _full),
    "numpy.broadcast_to": _broadcast_to,
    "numpy.transpose": _transpose,
    "method reshape": _reshape,
    "numpy.reshape": _reshape,
    f"{_CHUNK}.astype": _astype,
    "numpy.linalg.qr": _qr,
    "dask.array.linalg._wrapped_qr": _qr,
    "numpy.linalg.svd": _svd,
    "builtins.tuple": tuple,
    "numpy.vstack": _concatenate,
    "numpy.dot": _dot,
    "dask.array.utils.solve_triangular_safe": _solve,
    "dask.array.linalg._solve_triangular_lower": _solve,
}
