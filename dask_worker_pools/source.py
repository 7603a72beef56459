"""The source of this package, as much of it as others need: what `arrival` imports there."""

from __future__ import annotations

import ast
import bz2
import pickle
import sys
from collections.abc import Callable, Iterator
from functools import cache, wraps
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any, ParamSpec, TypeVar

from dask_worker_pools.arrival import PACKAGE, Module, named

#: What this package is called here: something else where it came as source.
HERE = str(__package__)

#: The module with which most others come: what it needs is packed once, and apart.
CORE = "propagate"

P = ParamSpec("P")
R = TypeVar("R")

_lock = RLock()


def locked_cache(function: Callable[P, R]) -> Callable[P, R]:
    """Keep what a function returns, until more of the source comes.

    One thread at a time is in any such function: Python 3.11 cannot parse in two threads at once
    (python/cpython#106905).
    """

    @cache
    def kept(received: int, args: tuple[Any, ...]) -> Any:
        return function(*args)  # type: ignore[call-arg]

    @wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with _lock:
            result: R = kept(_received(), args)
            return result

    return locked


def _received() -> int:
    """How many modules came here; 0 where the package is installed."""
    loader: Any = None if HERE == PACKAGE else sys.modules[HERE].__loader__
    return 0 if loader is None else len(loader.modules)


@locked_cache
def root() -> str:
    """What this package is called where it arrives."""
    return HERE if HERE != PACKAGE else named(Path(__file__).parent)


@locked_cache
def boot() -> bytes:
    """The source of `arrival`, which comes first."""
    return bz2.compress(module("arrival").source.encode())


@locked_cache
def parts(name: str, deep: bool) -> tuple[frozenset[str], ...]:
    """The modules that a module needs, itself among them, in packets."""
    boot = {"arrival"}  # it is there before any packet
    whole, core = needed(name, deep) - boot, needed(CORE, False) - boot
    packets = (core, whole - core) if CORE in whole else (whole,)
    return tuple(filter(None, packets))


@locked_cache
def packed(names: frozenset[str]) -> bytes:
    """Some modules, to be sent."""
    # Of this much text bz2 makes a tenth less than lzma does.
    return bz2.compress(pickle.dumps({name: tuple(module(name)) for name in sorted(names)}, 4))


@locked_cache
def needed(name: str, deep: bool) -> frozenset[str]:
    """A module and all that it imports; if `deep`, those that its functions import too."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one and one not in found and _is_module(one):
            found.add(one)
            waiting += [*_imports(one, deep), one.rpartition(".")[0]]
    return frozenset(found)


@locked_cache
def module(name: str) -> Module:
    """A module of this package, in short."""
    if HERE != PACKAGE:
        received: Any = sys.modules[HERE].__loader__
        return Module(*received.modules[f"{HERE}.{name}"])
    spec = find_spec(f"{HERE}.{name}")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {HERE}.{name}", name=f"{HERE}.{name}")
    is_package = spec.submodule_search_locations is not None
    # By name, so that it is not sent itself: what came is short already.
    shortened = import_module(f"{HERE}.shorten").shortened
    package = name if is_package else _package(name)
    return Module(shortened(_text(spec), PACKAGE, package), spec.origin, is_package)


def _text(spec: ModuleSpec) -> str:
    """The source of a module as it was written."""
    file = Path(str(spec.origin))
    if file.is_file():
        return file.read_text(encoding="utf-8")
    source = getattr(spec.loader, "get_source", lambda name: None)(spec.name)
    if source is None:
        raise ImportError(f"The source of {spec.name} is needed, but {spec.loader} has none.")
    return str(source)


def _package(name: str) -> str:
    return name.rpartition(".")[0]


def _imports(name: str, deep: bool) -> Iterator[str]:
    """The modules of this package that one of them imports."""
    package = name if module(name).is_package else _package(name)
    for one in _statements(ast.parse(module(name).source), deep):
        if isinstance(one, ast.ImportFrom) and one.level:
            above = package.split(".") if package else []
            base = ".".join([*above[: len(above) - one.level + 1], *filter(None, [one.module])])
            yield base
            for alias in one.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                if (not base or module(base).is_package) and _is_module(inner):
                    yield inner


@locked_cache
def _is_module(name: str) -> bool:
    return find_spec(f"{HERE}.{name}") is not None


def _statements(tree: ast.AST, deep: bool) -> Iterator[ast.AST]:
    """What is run when a module is imported; if `deep`, what its functions run too."""
    for one in ast.iter_child_nodes(tree):
        for_types = isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING"
        if for_types or (isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and not deep):
            continue
        yield one
        yield from _statements(one, deep)
