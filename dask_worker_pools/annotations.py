"""Pools as Dask annotations: saying a pool, reading it back, merging what else was said.

A pool is written as the resource ``pool-<name>`` with amount 0. Amount 0 restricts a task to
workers that offer the resource and takes nothing from them, so as many of the pool's tasks run at
once as there are threads; any larger amount would make the workers of a pool run one task at a
time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ContextDecorator
from contextvars import ContextVar
from typing import Any, cast

import dask
from dask.typing import Key

from dask_worker_pools.amounts import size_in_bytes
from dask_worker_pools.pool_error import InvalidType, InvalidValue
from dask_worker_pools.travel import Travels, travels

PREFIX = "pool-"

#: Annotation that repeats the pool's name, or the names of several, or says `BLOCKED`. A
#: ``dask.annotate(resources=…)`` inside the block replaces all resources; this key survives it.
#: It matters to this package only: the scheduler carries it along as any key it does not know.
#: `PLANNED` marks a pool in ``resources`` that a plan chose, and not the user.
POOL_KEY = "worker_pool"
BLOCKED = False
PLANNED = True

#: Annotation that declares the bytes of each output.
SIZE_KEY = "nbytes"
#: Annotation that says how many partitions of sources an output of unknown size holds.
WEIGHT_KEY = "worker_pool_weight"
#: Annotation that says in which pools a task may go on once the last worker of its own has left:
#: their resources, as a tuple; or True, any.
MOVES_KEY = "worker_pool_moves"
OWN_KEYS = frozenset({POOL_KEY, SIZE_KEY, WEIGHT_KEY, MOVES_KEY})

#: Annotations that say which workers can run a task.
RESTRICTING = frozenset({"resources", "workers", "allow_other_workers"})

#: Annotations that can be combined when two tasks are fused (see `merge_annotations`): those that
#: Dask knows how to combine, and one of ours.
COMBINABLE = frozenset(
    {"retries", "priority", "resources", "workers", "allow_other_workers", MOVES_KEY}
)

Annotations = dict[str, Any]


@travels
def pool(*names: str | None, nbytes: float | str | None = None) -> _PoolContext:
    """Say which pool of workers the collections created in this block belong to.

    Use it as a context manager or as a decorator. Every task created inside is *pinned*: it runs
    on workers started with ``--resources "pool-<name>=1"`` and nowhere else, as long as the
    computation runs inside `propagate_pools`. Around ``.compute()`` it pins every task that has no
    pool of its own.

    Parameters
    ----------
    *names : str or None
        Name of the pool, as in ``dask worker ADDRESS --resources "pool-A=1"`` without the
        ``pool-``. No white space, commas or equal signs, which that option cannot carry. Several
        names: each task may run in any of these pools. ``None`` blocks: what is created inside
        never gets a pool, and runs anywhere.
    nbytes : float or str, optional
        Size of each output created inside, such as ``"2 GiB"``, where Dask cannot know it: one
        partition of a bag, the result of one delayed function, one chunk of an array. Of dataframes
        it is the size of a partition of what is read or made; what follows is told from that.

    Returns
    -------
    context manager and decorator
        The innermost block wins. Other annotations from the surrounding blocks, counted
        resources such as ``{"GPU": 1}`` among them, stay in force.

    Raises
    ------
    InvalidType
        There is no name, or a name is neither a string nor None.
    InvalidValue
        A name is empty, already starts with ``pool-``, or cannot be written as a resource; None
        stands beside other names; `nbytes` is no size.

    Examples
    --------
    >>> import dask.array as da
    >>> from dask_worker_pools import get_pool, pool
    >>> with pool("A"):
    ...     a = da.random.random((10, 10))
    >>> get_pool(a)
    'A'
    """
    said: dict[str, Any] = {} if nbytes is None else {SIZE_KEY: check_nbytes(nbytes)}
    if not names:
        problem = "pool() needs the name of a pool, or None for no pool."
        raise InvalidType("pool", names, problem)
    if any(name is None for name in names):
        if len(names) == 1:
            return _PoolContext((), said)
        problem = f"pool{names!r} names pools and None, which means no pool: say either."
        raise InvalidValue("pool", names, problem)
    return _PoolContext(tuple(dict.fromkeys(map(check_pool_name, names))), said)


#: The blocks that are open, the innermost last. A context variable, as Dask's own annotations:
#: one object may be entered in several threads and asynchronous tasks at once.
_open: ContextVar[tuple[AbstractContextManager[Any], ...]] = ContextVar("_open", default=())


class _PoolContext(ContextDecorator, metaclass=Travels):
    """The block that `pool` opens. It may be entered again inside itself, and elsewhere."""

    def __init__(self, names: tuple[str, ...], said: Annotations) -> None:
        self.names = names
        self.said = said

    def __enter__(self) -> None:
        block = dask.annotate(**_entering(self.names, dask.get_annotations()), **self.said)
        block.__enter__()
        _open.set((*_open.get(), block))

    def __exit__(self, *exc: Any) -> None:
        if not _open.get():
            raise RuntimeError(f"{self!r} was left without having been entered.")
        *outer, block = _open.get()
        _open.set(tuple(outer))
        block.__exit__(*exc)

    def __repr__(self) -> str:
        return f"pool({', '.join(map(repr, self.names or (None,)))})"


def _entering(names: tuple[str, ...], surrounding: Mapping[str, Any]) -> Annotations:
    """Annotations that turn `surrounding` into those of a block of the pools `names`."""
    # Resources are all asked for at once: they can say one pool, and not any of several.
    one = names[0] if len(names) == 1 else None
    said: Annotations = {POOL_KEY: one or names or BLOCKED}
    inherited = surrounding.get("resources", {})
    if callable(inherited):
        return said | {"resources": _WithPool(inherited, one)}
    resources = _resources_in(one, inherited)
    # Nested annotations can replace a key but not remove it: write "resources" only if needed.
    return said | ({"resources": resources} if resources or inherited else {})


def _resources_in(name: str | None, inherited: Mapping[str, float]) -> dict[str, float]:
    counted = without_pools(inherited)
    return counted if name is None else counted | {PREFIX + name: 0}


class _WithPool(metaclass=Travels):
    """Resources that are told key by key, with a pool among them."""

    def __init__(self, inherited: Callable[[Key], Any], name: str | None) -> None:
        self.inherited = inherited
        self.name = name

    def __call__(self, key: Key) -> dict[str, float]:
        found = self.inherited(key)
        return _resources_in(self.name, found if isinstance(found, Mapping) else {})


def check_nbytes(nbytes: Any) -> float:
    """Return a declared size in bytes; say what is wrong with it otherwise."""
    size = size_in_bytes(nbytes)
    if size is None:
        raise InvalidValue(
            "nbytes",
            nbytes,
            f"nbytes={nbytes!r} is no size: say a number of bytes, 0 or more, or a string such as "
            "'2 GiB'.",
        )
    return size


def check_pool_name(name: object) -> str:
    """Return `name` if it can name a pool; say what is wrong with it otherwise."""
    if not isinstance(name, str):
        raise InvalidType(
            "pool",
            name,
            f"A pool is named by a string, or None for no pool, but got {name!r} "
            f"of type {type(name).__name__}.",
        )
    if problem := _problem_with(name):
        raise InvalidValue("pool", name, problem)
    return str(name)


def _problem_with(name: str) -> str | None:
    """Why a string cannot name a pool; None if it can."""
    if not name:
        return "A pool needs a name, but got ''. For 'no pool', say pool(None)."
    if normal_resource(name).startswith(PREFIX):
        return (
            f"Pool {name!r} already starts with {name[: len(PREFIX)]!r}, which is added for you: "
            f"say {name[len(PREFIX) :]!r}."
        )
    if re.search(r"[\s,=]", name):
        suggestion = re.sub(r"[\s,=]+", "-", name).strip("-") or "my-pool"
        return (
            f"Pool {name!r} contains white space, a comma or an equal sign, which "
            'dask worker --resources "pool-NAME=1" cannot carry. '
            f"Use for example {suggestion!r}."
        )
    return None


def pools_in(annotations: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the pools that a task's own annotations pin it to, sorted.

    ``resources`` that name a pool win over `POOL_KEY`: they can only have been said further in.
    """
    resources = annotations.get("resources")
    named = resources if isinstance(resources, Mapping) else {}
    if pools := sorted({pool for r in named if (pool := pool_of_resource(r))}):
        return tuple(pools)
    said = annotations.get(POOL_KEY)
    return (said,) if isinstance(said, str) else ()


def allowed_in(annotations: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the pools any of which a task may run in; () if it is not restricted so."""
    said = annotations.get(POOL_KEY)
    return said if isinstance(said, tuple) and not pools_in(annotations) else ()


def is_blocked(annotations: Mapping[str, Any]) -> bool:
    """Whether a task with these annotations was created under ``pool(None)``."""
    return annotations.get(POOL_KEY) is BLOCKED and not pools_in(annotations)


def is_planned(annotations: Mapping[str, Any]) -> bool:
    """Whether the pool in these annotations was chosen by a plan."""
    return annotations.get(POOL_KEY) is PLANNED


def said_inside(inner: Annotations, outer: Annotations) -> Annotations:
    """Annotations of a task that has `inner` of its own and stands where `outer` holds.

    Where it was said to run, only what was said with that counts: a GPU for the step that an array
    is given to is not for the array.
    """
    if POOL_KEY in inner or pools_in(inner):
        outer = {name: value for name, value in outer.items() if name not in RESTRICTING}
    return outer | inner


def without_pool(annotations: Mapping[str, Any]) -> Annotations:
    """Everything that `annotations` say to others than this package."""
    rest = {name: value for name, value in annotations.items() if name not in OWN_KEYS}
    if isinstance(resources := rest.get("resources"), Mapping):
        rest["resources"] = without_pools(resources)
        if not rest["resources"]:
            del rest["resources"]
    return rest


def without_pools(resources: object) -> dict[str, float]:
    """The counted resources (``GPU``, ``MEMORY``) of a ``resources`` annotation."""
    if not isinstance(resources, Mapping):
        return {}
    return {r: amount for r, amount in resources.items() if not pool_of_resource(r)}


def normal_resource(resource: str) -> str:
    """A resource's name without what environment variables lose: case, and ``-`` for ``_``."""
    return resource.casefold().replace("_", "-")


def pool_of_resource(resource: object) -> str | None:
    """The pool that a resource stands for, or None for counted resources such as ``GPU``."""
    if not isinstance(resource, str) or not normal_resource(resource).startswith(PREFIX):
        return None
    return resource[len(PREFIX) :] or None


def annotations_by_key(
    annotations: Mapping[str, Any] | None, keys: Iterable[Key]
) -> Iterator[tuple[Key, Annotations]]:
    """Yield each key with its own annotations, from a layer's annotations.

    A layer's annotation is a value for all its keys, or a callable asked key by key, which
    answers None or one of Dask's tombstones where it has nothing to say. Keys of one layer share
    one dict where they can: do not change it.
    """
    if not annotations:
        return
    if not any(callable(value) for value in annotations.values()):
        shared = dict(annotations)
        yield from ((key, shared) for key in keys)
        return
    for key in keys:
        values = {n: v(key) if callable(v) else v for n, v in annotations.items()}
        own = {n: v for n, v in values.items() if not _is_absent(v)}
        if own:
            yield key, own


def _is_absent(value: object) -> bool:
    # Dask's tombstone class is private; its name is checked so that no import can fail.
    return value is None or type(value).__name__ == "_AnnotationsTombstone"


def combinable(one: Annotations, other: Annotations) -> bool:
    """Whether one fused task can honour both: the rule of Dask's own blockwise fusion.

    Stricter in one point: two different sets of ``workers`` stay apart, since their intersection
    may be empty, and Dask reads an empty set as "anywhere".
    """
    if one == other:
        return True
    if not COMBINABLE.issuperset(one) or not COMBINABLE.issuperset(other):
        return False
    return _same_workers(one.get("workers"), other.get("workers"))


def _same_workers(one: Any, other: Any) -> bool:
    return one is None or other is None or _as_set(one) == _as_set(other)


def _as_set(workers: Any) -> set[Any]:
    return {workers} if isinstance(workers, str) else set(workers)


def merge_annotations(parts: Iterable[Annotations]) -> Annotations:
    """Annotations of a task fused from tasks that had `parts`, by Dask's own rules.

    1. ``retries``, ``priority`` and each of ``resources``: the largest.
    2. ``workers``: those of the parts that name any (`combinable` lets only equal sets meet).
    3. ``allow_other_workers``: only if every part that says anything allows it.
    4. `MOVES_KEY`: the pools that all parts that name any may go on in.
    5. anything else: equal in all parts, or the parts would not have been fused.
    """
    merged: Annotations = {}
    for part in parts:
        for name, value in part.items():
            merged[name] = _merge_value(name, merged[name], value) if name in merged else value
    return merged


def _merge_value(name: str, one: Any, other: Any) -> Any:
    if name in ("retries", "priority"):
        return max(one, other)
    if name == "resources":
        return cast(
            "dict[str, float]", {r: max(one.get(r, 0), other.get(r, 0)) for r in {**one, **other}}
        )
    if name == "allow_other_workers":
        return one and other
    if name == MOVES_KEY:
        return tuple(pool for pool in one if pool in other)
    return other
