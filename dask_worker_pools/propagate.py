"""`propagate_pools`: the switch that makes Dask run the pass, and turns it off exactly.

Dask asks the configuration for the optimisation of arrays, bags and delayed objects when a
computation starts. One hook answers for all three, so that Dask merges whatever is computed at
once into one graph, and pools are planned for all of it. The hook is pickled on its way to the
scheduler; what arrives there is a `Pass`, whole, so that neither the scheduler nor the workers
need this package.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import fields, replace
from typing import Any

import cloudpickle
import dask
from dask.base import dont_optimize
from dask.highlevelgraph import HighLevelGraph
from dask.typing import Key

from dask_worker_pools.cluster import TASK_BASED, client_ids, has_client
from dask_worker_pools.errors import InvalidType
from dask_worker_pools.fusion import Optimization
from dask_worker_pools.kinds import Kind
from dask_worker_pools.optimize import Pass
from dask_worker_pools.options import UNSAID, LinkCosts, Missing, Options, Unsaid, only_said
from dask_worker_pools.own import Brought
from dask_worker_pools.travel import ByValue, Travels, is_sending

#: The configuration keys under which Dask looks for an optimisation.
CONFIG: dict[str, Kind] = {
    "array_optimize": "array",
    "bag_optimize": "bag",
    "delayed_optimize": "delayed",
}

SHUFFLE = TASK_BASED["DataFrameShuffleSpec"]

_lock = threading.RLock()

#: Everything that is on in this process, in the order in which it was turned on.
_on: list[propagate_pools] = []

#: What this thread or task turned on itself, which it prefers to what others did.
_own: ContextVar[tuple[propagate_pools, ...]] = ContextVar("propagate_pools", default=())


class propagate_pools(metaclass=Travels):
    """Give every task downstream of a pinned one the pool that moves the fewest bytes.

    Use it as a context manager, or call it to turn propagation on for the rest of the session.
    It holds for everything that is computed meanwhile, in all threads: ``compute``, ``persist``,
    ``Client.compute`` and ``Client.persist``, ``store``, ``to_zarr`` and ``to_delayed``, for
    arrays, xarray objects, bags and delayed objects. Local schedulers have no pools and give
    the same results.

    Peer-to-peer rechunking and shuffling, which cannot keep to a pool, give way to the task-based
    methods. An optimisation of your own under ``array_optimize``, ``bag_optimize`` or
    ``delayed_optimize`` stays in use, and is called for the tasks of one pool at a time.

    Parameters
    ----------
    missing : {"error", "warn", "wait"}, optional
        What to do about a pool that no worker offers. ``"error"`` (the default) raises
        `NoSuchPool` before anything is submitted. ``"wait"`` lets the tasks wait for workers that
        join later, and ``"warn"`` does too and says so.
    balance : float, optional
        How much more traffic between pools to accept for a lower load, as a part of the least
        traffic. Among the placements within it, one with few bytes produced per thread in the
        busiest pool is chosen; each per cent of traffic spent on that lowers them by a per cent at
        least. 0 asks for the least traffic alone, whatever the load.
    link_cost : mapping or callable, optional
        What a byte costs from one pool to another, in any unit: ``{("eu", "us"): 0.02}``, where
        pairs that are not named cost 1, or a function of the two names. Names are compared with the
        cluster's pools where there is a cluster, unless `missing` lets tasks wait.

    Raises
    ------
    InvalidValue
        `missing` is none of these, or `balance` or a cost is negative or not finite.
    InvalidType
        `link_cost` is neither, or an optimisation of your own is no function.

    Notes
    -----
    Inside another `propagate_pools`, options that are not said are those of the outer one.

    Examples
    --------
    >>> import dask.array as da
    >>> from dask_worker_pools import pool, propagate_pools
    >>> with pool("A"):
    ...     a = da.ones(4)
    >>> with propagate_pools():
    ...     (a + 1).sum().compute()
    np.float64(8.0)
    """

    def __init__(
        self,
        *,
        missing: Missing | Unsaid = UNSAID,
        balance: float | Unsaid = UNSAID,
        link_cost: LinkCosts | Unsaid = UNSAID,
    ) -> None:
        self._set_up(only_said(missing=missing, balance=balance, link_cost=link_cost))
        with _lock:
            self._turn_on()

    def _set_up(self, said: dict[str, Any]) -> None:
        self._said = said
        self.options = Options(**said)
        self.optimizations: dict[Kind, Optimization] = {}
        self.shuffle: str | None = None  # the method of shuffling that was configured before
        self._config: dask.config.set | None = None
        self._depth = 0  # blocks entered and not left: the same object may be entered again

    def __reduce__(self) -> tuple[Any, ...]:
        return ByValue(arrived), (self._said,)

    def __enter__(self) -> propagate_pools:
        with _lock:
            self._depth += 1
            if self not in _on:
                self._turn_on()
        return self

    def __exit__(self, *exc: object) -> None:
        with _lock:
            self._depth = max(0, self._depth - 1)
            if not self._depth and self in _on:
                self._turn_off()

    def __repr__(self) -> str:
        options = ", ".join(f"{f.name}={getattr(self.options, f.name)!r}" for f in fields(Options))
        return f"propagate_pools({options})"

    def _turn_on(self) -> None:
        self.options = replace(current_options(), **self._said)
        found = {key: dask.config.get(key, None) for key in CONFIG}
        if all(isinstance(value, Hook) for value in found.values()):
            self.optimizations = _on[-1].optimizations if _on else {}
            self.shuffle = _on[-1].shuffle if _on else None
        else:
            self.optimizations = _optimizations(found)
            self.shuffle = _on[-1].shuffle if _on else dask.config.get(SHUFFLE, None)
            hooks = dict.fromkeys(CONFIG, Hook())
            by_tasks = dict.fromkeys(TASK_BASED.values(), "tasks")
            self._config = dask.config.set({**hooks, **by_tasks})
        _on.append(self)
        _own.set((*_own.get(), self))

    def _turn_off(self) -> None:
        _on.remove(self)
        _own.set(tuple(one for one in _own.get() if one is not self))
        if self._config is None:
            return
        # Threads may leave in any order: the configuration is put back by the last to leave.
        heirs = [one for one in _on if one._config is None]
        if heirs:
            heirs[0]._config = self._config
        else:
            self._config.__exit__(None, None, None)
        self._config = None


def arrived(said: dict[str, Any]) -> propagate_pools:
    """What was pickled with these options: not on where it arrives before it is entered."""
    one = propagate_pools.__new__(propagate_pools)
    one._set_up(said)
    return one


def _optimizations(found: Mapping[str, Any]) -> dict[Kind, Optimization]:
    """The user's own optimisations, among what stands under the keys of `CONFIG`."""
    inherited = _on[-1].optimizations if _on else {}
    chosen: dict[Kind, Optimization] = {}
    for key, kind in CONFIG.items():
        value = found[key]
        if isinstance(value, Hook):
            chosen |= {kind: inherited[kind]} if kind in inherited else {}
        elif value and not callable(value):
            problem = f"dask.config {key!r} is {value!r}, which is no function of a graph."
            raise InvalidType(key, value, problem)
        elif value:
            chosen[kind] = value
        elif kind == "bag" and key in dask.config.config:
            chosen[kind] = dont_optimize  # as Dask reads it; the others take no notice
    return chosen


class Hook:
    """Stands in Dask's configuration and becomes a `Pass` where and when it is used.

    Hooks are equal unless they hold other optimisations, which is how Dask knows that collections
    may be optimised together. One that a process inherits with its configuration stays a hook, and
    keeps to what was asked for where it comes from.
    """

    def __init__(self, own: Brought = (), inherited: Pass | None = None) -> None:
        #: what each of the collections brings along, in their order; () if none brings anything
        self.own = own if any(own) else ()
        self.inherited = inherited

    def __call__(self, graph: Mapping[Key, Any], keys: Any, **kwargs: Any) -> HighLevelGraph:
        """Run the pass in this process."""
        return self.current_pass(None)(graph, keys, **kwargs)

    def current_pass(self, clients: frozenset[str] | None) -> Pass:
        """The pass as this thread asked for it, or else as any other did, or another process."""
        return current_pass(clients, self.own, self.inherited)

    def __copy__(self) -> Hook:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if is_sending():
            return ByValue(pass_from), (_said(self.current_pass(client_ids())),)
        return ByValue(inherited_hook), (_said(self.current_pass(None)),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hook) and self.own == other.own

    def __hash__(self) -> int:
        return hash(Hook)

    def __repr__(self) -> str:
        return "<propagate_pools>"


def hooked(original: Callable[..., Any], collection: Any, optimize_graph: bool = True) -> Any:
    """The graph of a collection, for Dask, with a hook also where it brings its own optimisation.

    Goes around `HLGExpr.from_collection`.
    """
    expr = original(collection, optimize_graph=optimize_graph)
    found = expr.low_level_optimizer
    if not is_on() or not optimize_graph or isinstance(found, Hook):
        return expr
    dsk, _, *rest = expr.operands
    return type(expr)(dsk, Hook((found or dont_optimize,)), *rest)


def without_hooks(serialize: Callable[..., Any], data: Any) -> Any:
    """Write configuration down without the hooks, which are for this process and its children.

    Goes around `dask.config.serialize`, by which clusters on other machines are configured.
    """
    if isinstance(data, Mapping):
        data = {key: value for key, value in data.items() if not isinstance(value, Hook)}
    return serialize(data)


def grouped(original: Callable[..., Any], bag: Any, *args: Any, **kwargs: Any) -> Any:
    """Group a bag by way of the disk where Dask would.

    Goes around `Bag.groupby`, which reads the method of shuffling that dataframes have to use in
    pools. Where there is no cluster there are no pools, and only the disk takes a field's name, or
    a number of partitions, to group by.
    """
    said = inspect.signature(original).bind(bag, *args, **kwargs)
    now = _current()
    untouched = dask.config.get(SHUFFLE, None) == "tasks"
    if now and untouched and said.arguments.get("shuffle") is None and not has_client():
        before = now.shuffle or "disk"
        said.arguments["shuffle"] = "tasks" if before == "p2p" else before
    return original(*said.args, **said.kwargs)


def asked() -> bytes:
    """The pass that is asked for here and now, for `pass_from` in the scheduler."""
    return _said(current_pass(client_ids()))


def _said(now: Pass) -> bytes:
    options = {f.name: getattr(now.options, f.name) for f in fields(Options)}
    said: bytes = cloudpickle.dumps(
        (options, now.optimizations, now.surrounding, now.clients, now.own)
    )
    return said


def pass_from(said: bytes) -> Pass:
    """The pass as it was asked for, where it arrives."""
    options, *rest = cloudpickle.loads(said)
    return Pass(Options(**options), *rest)


def current_options() -> Options:
    """The options that are on here and now; those that hold where nothing is said, if none are."""
    now = _current()
    return Options() if now is None else now.options


def _current() -> propagate_pools | None:
    """What this thread turned on last, or else what any other did."""
    with _lock:
        own = [one for one in _own.get() if one in _on]
        return next(iter((own or _on)[-1:]), None)


def inherited_hook(said: bytes) -> Hook:
    """The hook of a process that inherits the configuration of another."""
    return Hook(inherited=pass_from(said))


def current_pass(
    clients: frozenset[str] | None, own: Brought = (), inherited: Pass | None = None
) -> Pass:
    """The pass as this thread asked for it, or else as any other did, or another process."""
    surrounding = dask.get_annotations()
    now = _current() or inherited
    if now is None:  # built inside the block, used after it
        return Pass(surrounding=surrounding, clients=clients, own=own)
    return Pass(now.options, now.optimizations, surrounding, clients, own)


def pass_here() -> Pass:
    """The pass for a graph that stays in this process, whatever is said around."""
    return replace(current_pass(None), surrounding={})


def is_on() -> bool:
    """Whether `propagate_pools` is on, here or where this process got its configuration from."""
    return bool(_on) or isinstance(dask.config.get("array_optimize", None), Hook)
