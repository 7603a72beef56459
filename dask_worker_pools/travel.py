"""How this package's functions and classes travel to processes that may not have the package.

They go by name, together with the source of the modules that they need. Where the same version is
installed the name means what is installed; elsewhere the source is imported (see `arrival`). A
scheduler is sent each module once a connection, and then names.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, update_wrapper
from types import MethodType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from dask_worker_pools import arrival, source

F = TypeVar("F", bound=Callable[..., Any])

#: The modules that went over each connection to a scheduler, and will be there before whatever
#: goes after them.
_gone: WeakKeyDictionary[Any, frozenset[str]] = WeakKeyDictionary()

#: The modules that went earlier over the connection on which a graph is being sent, and those
#: that go with it; None where nothing is sent, or nobody knows to whom.
_sending: ContextVar[tuple[frozenset[str], set[str]] | None] = ContextVar("_sending", default=None)


def reference(module: str, name: str, deep: bool) -> tuple[Any, ...]:
    """What an object of this package is pickled as.

    Parameters
    ----------
    module : str
        The module that it is in, as it is called here.
    name : str
        Its qualified name.
    deep : bool
        Whether it may need what functions import, too.
    """
    local = module.removeprefix(f"{source.HERE}.")
    root = _known_as()
    parts = tuple(map(source.packed, _to_go(source.parts(local, deep))))
    what = {"root": root, "boot": source.boot(), "what": (local, name, parts)}
    return eval, (arrival.FETCH, what)


@cache
def _known_as() -> str:
    """What this package is called where it goes; what comes back by that name is what is here."""
    root = source.root()
    if source.HERE == arrival.PACKAGE:
        sys.modules[root] = arrival
        for name, module in list(sys.modules.items()):
            if name.startswith(f"{arrival.PACKAGE}."):
                sys.modules[root + name.removeprefix(arrival.PACKAGE)] = module
    return root


def _to_go(parts: tuple[frozenset[str], ...]) -> Iterator[frozenset[str]]:
    """Those that have to go along."""
    sending = _sending.get()
    for part in parts:
        if sending is None:
            yield part
        elif not part <= sending[0]:
            sending[1].update(part)
            yield part


class ByValue:
    """A function of this package that is pickled with the source of what it needs.

    Examples
    --------
    >>> import pickle
    >>> from dask_worker_pools.plan import landing_key
    >>> pickle.loads(pickle.dumps(ByValue(landing_key)))("total", "B")
    'landing-B-total'
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self.function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return reference(self.function.__module__, self.function.__qualname__, deep=False)


class _Travelling:
    """A function that can be pickled for processes that do not have it; see `travels`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)
        self.__wrapped__ = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        # As functions do; `help` knows them by this.
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def __reduce__(self) -> tuple[Any, ...]:
        return reference(self.__wrapped__.__module__, self.__wrapped__.__qualname__, deep=True)


def travels(function: F) -> F:
    """Let a function be used in tasks, on workers that have this package or not."""
    return cast("F", _Travelling(function))


class Travels(type):
    """The class of classes that can be used in tasks, on workers that have this package or not."""


def _reduce_class(cls: Travels) -> Any:
    if cls.__module__.partition(".")[0] != source.HERE:
        return cls.__qualname__  # the user's own, derived from one of ours
    return reference(cls.__module__, cls.__qualname__, deep=True)


copyreg.pickle(Travels, _reduce_class)


def sending(send: Callable[..., Any], client: Any, *args: Any, **kwargs: Any) -> Any:
    """Let a client send a graph, and note what goes along.

    What is sent over one connection is read in this order. So once a message has been handed over,
    what went with it need not be sent again. A new connection, perhaps to a scheduler that was
    started anew, begins with nothing.
    """
    connection = getattr(client, "scheduler_comm", None)
    if connection is None:
        return send(client, *args, **kwargs)
    going: set[str] = set()
    with _told(gone(connection), going):
        futures = send(client, *args, **kwargs)
    if client.scheduler_comm is connection:
        note(connection, going)
    return futures


def gone(connection: Any) -> frozenset[str]:
    """The modules that went over a connection."""
    return _gone.get(connection, frozenset())


def note(connection: Any, modules: Iterable[str]) -> None:
    """Note modules that went over a connection."""
    _gone[connection] = gone(connection).union(modules)


@contextmanager
def _told(gone: frozenset[str], going: set[str]) -> Iterator[None]:
    token = _sending.set((gone, going))
    try:
        yield
    finally:
        _sending.reset(token)


def is_sending() -> bool:
    """Whether what is pickled now goes to a scheduler with a graph, as far as can be known."""
    client = getattr(sys.modules.get("distributed.client"), "Client", None)
    watched = hasattr(getattr(client, "_graph_to_futures", None), "__wrapped__")
    return not watched or _sending.get() is not None
