"""`assign_pool`: says the pool of a collection that was built elsewhere."""

from __future__ import annotations

from contextvars import Context
from typing import Any, TypeVar

from dask._expr import Expr

from dask_worker_pools.annotations import BLOCKED, check_pool_name
from dask_worker_pools.errors import ConflictingPools, InvalidType
from dask_worker_pools.expr.markers import Marker, bare, kind_of, lifted, marker, unmarked
from dask_worker_pools.expr.places import Place
from dask_worker_pools.expr.planned import walk
from dask_worker_pools.expr.regions import held_places
from dask_worker_pools.expr.said import NOTHING, Said
from dask_worker_pools.travel import travels

T = TypeVar("T")


@travels
def assign_pool(collection: T, name: str | None) -> T:
    """Say which pool a collection belongs to, for one that was built outside of `pool`.

    Parameters
    ----------
    collection : dask collection
        A dask.dataframe collection, or another that is made of expressions: an array under
        ``array.query-planning``, or of the package dask-array.
    name : str or None
        Name of the pool, as for `pool`. None: its tasks never get a pool.

    Returns
    -------
    dask collection
        The same collection. All its tasks that have no pool yet are pinned.

    Raises
    ------
    InvalidType
        `collection` is no Dask collection, or one that is not made of expressions.
    ConflictingPools
        The collection is in another pool already.

    Examples
    --------
    >>> import dask.dataframe as dd, pandas as pd
    >>> from dask_worker_pools import assign_pool, get_pool
    >>> orders = dd.from_pandas(pd.DataFrame({"total": [1, 2]}), npartitions=1)
    >>> get_pool(assign_pool(orders, "eu").total.sum())
    'eu'
    """
    place = BLOCKED if name is None else check_pool_name(name)
    expr = getattr(collection, "expr", None)
    kind = kind_of(expr) if isinstance(expr, Expr) else None
    if kind is None:
        raise InvalidType(
            "collection",
            collection,
            f"assign_pool takes a collection that is made of expressions, such as a "
            f"dask.dataframe, but got {collection!r} of type {type(collection).__name__}. "
            "Build others inside pool().",
        )
    if isinstance(expr, Marker) and expr.place not in (None, place) and not _follows(expr):
        pools = sorted({_named(expr.place), _named(place)})
        raise ConflictingPools(bare(expr)._name, type(expr.frame).__name__, pools)
    frame, before = (expr.frame, expr.said) if isinstance(expr, Marker) else (expr, NOTHING)
    below, _, said = lifted(frame, place)
    names: dict[str, Any] = {}
    without_pool = (bare(one, names) for one in unmarked(frame))
    new = marker(kind, below, place, before | said | Said.pinned(*without_pool))
    # Dask would warn that it ignores the pools around.
    return Context().run(type(collection), new)


def _named(place: Place) -> str:
    if isinstance(place, tuple):
        return " or ".join(place)
    return place if isinstance(place, str) else "no pool"


def _follows(expr: Marker) -> bool:
    """Whether a frame is where the delayed objects or the graph are that it is made of."""
    return not expr.said.pins and any(map(held_places, walk([expr.frame])))
