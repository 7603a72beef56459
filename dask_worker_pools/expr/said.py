"""What the user said of single expressions, as the markers above them keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dask.tokenize import tokenize

from dask_worker_pools.annotations import SIZE_KEY, check_nbytes

#: What Dask's optimiser changes of a source: what of it is read.
CHANGING = frozenset({"columns", "filters", "calculate_divisions", "_partitions", "_series"})


class Said(NamedTuple):
    """Markers float up over what follows, so they say by name what is meant."""

    pins: tuple[str, ...] = ()  #: bare names of the expressions that were pinned, in order
    sizes: tuple[tuple[str, float], ...] = ()  #: bytes of a partition of sources (`source_name`)

    def __or__(self, other: Said) -> Said:
        pins, sizes = {*self.pins, *other.pins}, {*self.sizes, *other.sizes}
        return Said(tuple(sorted(pins)), tuple(sorted(sizes)))


def is_source(expr: Any) -> bool:
    """Whether an expression reads or makes partitions, and needs no other."""
    return any(kind.__name__ == "IO" for kind in type(expr).__mro__)


def source_name(expr: Any) -> str:
    """A name for a source, whatever of it is read."""
    named = zip(expr._parameters, expr.operands)
    return str(tokenize(type(expr).__name__, *(op for name, op in named if name not in CHANGING)))


def declared(expr: Any, annotations: Mapping[str, Any]) -> Said:
    """What annotations declare of the sources of an expression."""
    nbytes = annotations.get(SIZE_KEY)
    if nbytes is None or callable(nbytes):
        return Said()
    sources = {source_name(one) for one in expr.walk() if is_source(one)}
    return Said((), tuple((name, check_nbytes(nbytes)) for name in sorted(sources)))
