"""Questions and answers about whole collections, outside of any computation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar, cast

from dask._expr import Expr
from dask.base import is_dask_collection, unpack_collections
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.typing import Key

from dask_worker_pools.amounts import counts_by_pool
from dask_worker_pools.annotations import (
    BLOCKED,
    PREFIX,
    annotations_by_key,
    pools_in,
)
from dask_worker_pools.cluster import InMemory, in_memory_of_clients
from dask_worker_pools.errors import InvalidType
from dask_worker_pools.expr import graphs
from dask_worker_pools.graph import TaskGraph, as_high_level, futures_in, read
from dask_worker_pools.optimize import (
    Cluster,
    make_plan,
    with_pool,
    without_surrounding_pool,
)
from dask_worker_pools.options import UNSAID, LinkCosts, Options, Unsaid, only_said
from dask_worker_pools.parts import split_by_pool
from dask_worker_pools.plan import Plan
from dask_worker_pools.propagate import current_options
from dask_worker_pools.task_sizes import told_sizes
from dask_worker_pools.travel import travels

T = TypeVar("T")


@travels
def get_pool(collection: Any) -> str | None:
    """Return the pool of a collection's output.

    Parameters
    ----------
    collection : dask collection
        An array, an xarray object, a bag, a delayed object or a dask.dataframe.

    Returns
    -------
    str or None
        The pool that the tasks of the last layer are annotated with; None if they have none, or
        more than one between them. Of a dask.dataframe: the one pool of all that it is made of.
        Of data in memory: the pool where it lies, which is asked of its client.

    Raises
    ------
    InvalidType
        `collection` is no Dask collection, or none that can have pools.

    Examples
    --------
    >>> import dask.array as da
    >>> from dask_worker_pools import get_pool, pool, propagate_pools_in_collection
    >>> with pool("A"):
    ...     a = da.ones(4)
    >>> get_pool(a), get_pool(a + 1)
    ('A', None)
    >>> get_pool(propagate_pools_in_collection(a + 1))
    'A'
    """
    if not graphs.is_expression(collection):
        return _pool_of_outputs(_graph_of(collection), collection.__dask_keys__())
    said, graph = graphs.pool_of(collection), graphs.kept(collection)
    if said is not None or graph is None:
        return said
    return _pool_of_outputs(graph, futures_in(graph))


def _pool_of_outputs(graph: HighLevelGraph, keys: Iterable[Any]) -> str | None:
    outputs = set(flatten(keys))
    found: dict[Key, tuple[str, ...]] = {}
    for layer in graph.layers.values():
        if layer.annotations:
            own = outputs & layer.get_output_keys()
            found |= {k: pools_in(said) for k, said in annotations_by_key(layer.annotations, own)}
    futures = futures_in(graph)
    kept = in_memory_of_clients(outputs & futures.keys(), futures).pools
    found |= {key: (resource[len(PREFIX) :],) for key, resource in kept.items()}
    places = {found.get(key, ()) for key in outputs}
    (pools,) = places if len(places) == 1 else ((),)
    return pools[0] if len(pools) == 1 else None


@travels
def propagate_pools_in_collection(collection: T) -> T:
    """Return the same collection with a pool written on every task that should have one.

    Nothing is computed or fused. Compute the result inside `propagate_pools`: Dask itself forgets
    pools when it fuses tasks.

    Parameters
    ----------
    collection : dask collection
        An array, an xarray object, a bag, a delayed object or a dask.dataframe.

    Returns
    -------
    dask collection
        Of the same type, with the same keys. A dask.dataframe gets a pool where all tasks that
        are to be placed go to the same one; otherwise it stays as it is, and is planned again
        when it is computed.

    Raises
    ------
    InvalidType
        `collection` is no Dask collection, or none that can have pools.
    ConflictingPools
        A task is pinned to more than one pool.

    Examples
    --------
    >>> import dask.bag as db
    >>> from dask_worker_pools import get_pool, pool, propagate_pools_in_collection
    >>> with pool("A"):
    ...     words = db.from_sequence(["to", "be"], npartitions=2)
    >>> get_pool(propagate_pools_in_collection(words.map(len)))
    'A'
    """
    if graphs.is_expression(collection):
        return _propagate_in_expression(collection)
    graph = _graph_of(collection)
    tasks = read(graph, collection.__dask_keys__())  # type: ignore[attr-defined]
    plan = _plan(graph, tasks, current_options())
    annotations = {key: tasks.annotations.get(key, {}) for key in tasks.dependencies}
    blocked = tasks.blocked_keys()
    for key, where in plan.pools.items():
        if where is not None:
            planned = not tasks.is_users(key)
            annotations[key] = with_pool(annotations[key], PREFIX + where, planned)
        elif key in blocked:
            annotations[key] = without_surrounding_pool(annotations[key], BLOCKED)
    return _rebuild(collection, split_by_pool(graph, tasks.by_key, annotations, plan.pools))


def _propagate_in_expression(collection: T) -> T:
    plan = plan_pools(collection)
    everywhere = set(plan.pools.values())
    free = {pool for key, pool in plan.pools.items() if key not in plan.pinned}
    written = everywhere if len(everywhere) == 1 else free
    pool = written.pop() if len(written) == 1 else None
    return collection if pool is None else cast("T", graphs.put(collection, pool))


def _rebuild(collection: T, graph: HighLevelGraph) -> T:
    if isinstance(collection, Delayed):
        # Its own way to be rebuilt loses the layer's name where that is not its key.
        (layer,) = collection.__dask_layers__()
        length = getattr(collection, "_length", None)
        return cast("T", Delayed(collection.key, graph, length, layer=layer))
    rebuild, arguments = collection.__dask_postpersist__()  # type: ignore[attr-defined]
    return cast("T", rebuild(graph, *arguments))


@travels
def plan_pools(
    *collections: Any,
    balance: float | Unsaid = UNSAID,
    link_cost: LinkCosts | Unsaid = UNSAID,
    capacity: Mapping[str, float] | None = None,
) -> Plan:
    """Plan pools as `propagate_pools` does, and return the plan instead of running it.

    Parameters
    ----------
    *collections : dask collections, HighLevelGraphs, or containers of collections
        What would be computed at once.
    balance, link_cost
        As for `propagate_pools`, whose options hold here too where it is on and these are not said.
    capacity : mapping of str to float, optional
        Threads of each pool, or workers: what load is shared by. `propagate_pools` asks the
        cluster; here every pool counts 1 unless it is named.

    Returns
    -------
    Plan
        A pool, or none, for every task.

    Raises
    ------
    InvalidType
        There is no collection among them, or one that cannot have pools; or an option is of a wrong
        type.
    InvalidValue
        An option makes no sense.
    ConflictingPools
        A task is pinned to more than one pool.
    UnknownPools
        The `link_cost` that is said here names pools that are not among those of the tasks.

    Examples
    --------
    >>> import dask.array as da
    >>> from dask_worker_pools import plan_pools, pool
    >>> with pool("A"):
    ...     a = da.ones(4, chunks=2)
    >>> set(plan_pools(a + 1).pools.values())
    {'A'}
    """
    options = replace(current_options(), **only_said(balance=balance, link_cost=link_cost))
    counts = {} if capacity is None else counts_by_pool("capacity", capacity)
    given = [one for one in collections if isinstance(one, HighLevelGraph)]
    outputs = [key for graph in given for key in _last_keys(graph)]
    others = [one for one in collections if not isinstance(one, HighLevelGraph)]
    found, _ = unpack_collections(*others)
    for one in others:
        if not is_dask_collection(one) and not unpack_collections(one)[0]:
            raise _not_a_collection(one)
    if not collections:
        problem = "No collections were given: say which ones to plan pools for."
        raise InvalidType("collections", collections, problem)
    expressions = [one for one in found if graphs.is_expression(one)]
    if expressions:
        graph, keys = graphs.graph_of(one.expr for one in expressions)
        given.append(graph)
        outputs += keys
    for collection in found:
        if not graphs.is_expression(collection):
            given.append(_graph_of(collection))
            outputs += flatten(collection.__dask_keys__())
    graph = HighLevelGraph.merge(*given)
    tasks = read(graph, outputs)
    if link_cost is not UNSAID:
        options.check_links({}, {*tasks.pools(), *counts})
    return _plan(graph, tasks, options, counts)


def _plan(
    graph: HighLevelGraph,
    tasks: TaskGraph,
    options: Options,
    capacity: Mapping[str, float] = MappingProxyType({}),
) -> Plan:
    data = _in_memory(graph, tasks.edges.outside)
    cluster = replace(Cluster.met(tasks, options, None, data), capacity=capacity)
    return make_plan(tasks, told_sizes(graph, tasks, measured=data.nbytes), options, cluster)


def _in_memory(graph: HighLevelGraph, keys: Collection[Key]) -> InMemory:
    """What clients know of data in memory; nothing is asked where a graph needs none."""
    return in_memory_of_clients(keys, futures_in(graph)) if keys else InMemory()


def _last_keys(graph: HighLevelGraph) -> Iterable[Key]:
    """Output keys of the layers that nothing depends on."""
    needed = set().union(*graph.dependencies.values())
    for name, layer in graph.layers.items():
        if name not in needed:
            yield from layer.get_output_keys()


def _graph_of(collection: Any) -> HighLevelGraph:
    if not is_dask_collection(collection):
        raise _not_a_collection(collection)
    if isinstance(getattr(collection, "expr", None), Expr):
        raise InvalidType(
            "collection",
            collection,
            f"This collection of type {type(collection).__module__}.{type(collection).__name__} is "
            "made of expressions that cannot have pools: only arrays, xarray objects, bags, "
            "delayed objects and dask.dataframe collections can.",
        )
    return as_high_level(collection.__dask_graph__())


def _not_a_collection(thing: object) -> InvalidType:
    return InvalidType(
        "collection",
        thing,
        f"Expected a Dask collection (an array, an xarray object, a bag, a delayed object or a "
        f"dask.dataframe), but got {thing!r} of type {type(thing).__name__}.",
    )
