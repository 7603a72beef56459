"""What the user said of single expressions, as the markers above them keep it."""

from __future__ import annotations

from typing import Any, NamedTuple

from dask.tokenize import tokenize

#: What Dask's optimiser changes of a source: what of it is read.
CHANGING = frozenset({"columns", "filters", "calculate_divisions", "_partitions", "_series"})


class Said(NamedTuple):
    """Markers float up over what follows, so they say by name what is meant."""

    pins: tuple[str, ...] = ()  #: bare names of the expressions that were pinned, in order
    sizes: tuple[tuple[str, float], ...] = ()  #: bytes of a partition of sources (`source_name`)
    #: whether something was pinned that Dask's optimiser may take apart, rename and move, so that
    #: nobody can tell it then from what just followed
    steps: bool = False

    @classmethod
    def pinned(cls, *exprs: Any) -> Said:
        """Bare expressions that the user pinned."""
        names = tuple(sorted({expr._name for expr in exprs}))
        return cls(names, steps=not all(map(is_loaded, exprs)))

    def __or__(self, other: Said) -> Said:
        pins, sizes = {*self.pins, *other.pins}, {*self.sizes, *other.sizes}
        return Said(tuple(sorted(pins)), tuple(sorted(sizes)), self.steps or other.steps)


#: What there is to keep where nothing was said.
NOTHING = Said()


def is_source(expr: Any) -> bool:
    """Whether an expression reads or makes partitions, and needs no other."""
    return any(kind.__name__ == "IO" for kind in type(expr).__mro__)


def is_loaded(expr: Any) -> bool:
    """Whether an expression needs no other, or makes what a source gives a frame, unasked.

    So is what Dask fused with a source: they are loaded in one task.
    """
    fused = type(expr).__name__ == "Fused"
    return any(
        is_source(one) or type(one).__name__ == "ArrowStringConversion" or not one.dependencies()
        for one in (expr.exprs if fused else [expr])
    )


def source_name(expr: Any) -> str:
    """A name for a source, whatever of it is read."""
    named = zip(expr._parameters, expr.operands)
    return str(tokenize(type(expr).__name__, *(op for name, op in named if name not in CHANGING)))
