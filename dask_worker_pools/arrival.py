"""Where code of this package arrives: what is installed there, or else the source that came along.

This module is itself sent as source, ahead of the rest. It uses the standard library only.
"""

from __future__ import annotations

import bz2
import pickle
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, NamedTuple

PACKAGE = "dask_worker_pools"

#: What unpickles an object, with its operands as names: the module of that root, if it is here
#: already, or else this module, made of its own source, looks the object up.
FETCH = (
    "(__import__('sys').modules.get(root) or "
    "exec(__import__('bz2').decompress(boot), scope := {'__name__': root}) or "
    "scope['rooted'](root, boot)).fetch(root, *what)"
)


class Module(NamedTuple):
    """A module as it is sent."""

    source: str
    file: str  #: where it lies in the process that sent it
    is_package: bool


class Received(MetaPathFinder, ExecutionLoader):
    """Imports the modules of one version of the package from the source that came.

    They are called ``dask_worker_pools_<version>``, so that clients with different versions get
    on in one scheduler, and nothing is mistaken for what may be installed there.
    """

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}
        self._seen: set[bytes] = set()

    def add(self, root: str, part: bytes) -> None:
        """Keep the modules of a packet."""
        if part not in self._seen:
            for name, module in pickle.loads(bz2.decompress(part)).items():
                self.modules.setdefault(f"{root}.{name}", Module(*module))
            self._seen.add(part)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Tell where a module comes from, if it came."""
        module = self.modules.get(fullname)
        if module is None:
            return None
        spec = ModuleSpec(fullname, self, origin=module.file, is_package=module.is_package)
        spec.has_location = True  # it shall have a __file__, which tracebacks show
        return spec

    def get_filename(self, fullname: str) -> str:
        """Where the module lies in the process that sent it."""
        return self.modules[fullname].file

    def get_source(self, fullname: str) -> str:
        """The source, which tracebacks show."""
        return self.modules[fullname].source

    def is_package(self, fullname: str) -> bool:
        """Whether it has modules of its own."""
        return self.modules[fullname].is_package


def rooted(root: str, boot: bytes) -> ModuleType:
    """The package into which modules come, made of the source of this module."""
    received = Received()
    source = bz2.decompress(boot).decode()
    received.modules[root] = Module(source, f"{root}/__init__.py", True)
    received.modules[f"{root}.arrival"] = Module(source, f"{root}/arrival.py", False)
    sys.meta_path.append(received)
    return import_module(root)  # of several threads that come here at once, one makes it


def fetch(root: str, module: str, name: str, parts: Sequence[bytes]) -> Any:
    """An object of the package: of what is installed if that is the same, else of what came."""
    home = installed(root)
    if not home:
        keep(root, parts)
        if lacking(root, [module]):
            return Absent
    return resolve_name(f"{home or root}.{module}:{name}")


def keep(root: str, parts: Sequence[bytes]) -> None:
    """Keep modules that came, to be imported when they are needed."""
    received: Any = sys.modules[root].__loader__
    for part in parts:
        received.add(root, part)


def lacking(root: str, modules: Sequence[str]) -> list[str]:
    """The modules that are neither installed here nor came."""
    if installed(root):
        return []
    received: Any = sys.modules[root].__loader__
    return [name for name in modules if f"{root}.{name}" not in received.modules]


@cache
def installed(root: str) -> str:
    """The package, if this process can import the same version; else nothing."""
    try:
        loaded = sys.modules.get(f"{PACKAGE}.source")
        if loaded is not None:
            return PACKAGE if loaded.root() == root else ""
        spec = find_spec(PACKAGE)
        if spec is None or not spec.origin or named(Path(spec.origin).parent) != root:
            return ""
        import_module(PACKAGE)
    except Exception:
        return ""  # what is broken there is as good as absent
    return PACKAGE


def named(directory: Path) -> str:
    """What the package is called where it arrives: a name that tells its content."""
    content = sha256()
    for file in sorted(directory.rglob("*.py")):
        source = file.read_bytes()
        content.update(f"{file.relative_to(directory).as_posix()} {len(source)} ".encode())
        content.update(source)
    return f"{PACKAGE}_{content.hexdigest()[:16]}"


class Absent(Mapping[Any, Any]):
    """Stands for what is made by code that should have come earlier, and has not.

    It can be unpickled as an optimisation or as a layer of a graph. Whoever uses it learns more.
    """

    def __init__(self, *args: Any) -> None:
        pass

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise CodeMissing

    __call__ = __getitem__ = __iter__ = __len__ = _refuse
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return True


class CodeMissing(Exception):
    """The user's `dask_worker_pools.CodeNotReceived`, as long as it has not got there."""

    def __reduce__(self) -> tuple[Any, ...]:
        root = __name__.removesuffix(".arrival")
        source: str = sys.modules[root].__loader__.get_source(root)  # type: ignore[union-attr]
        boot = bz2.compress(source.encode())
        return eval, (
            f"{FETCH}()",
            {"root": root, "boot": boot, "what": ("arrival", "missing", ())},
        )


def missing() -> Exception:
    """The error as this process knows it."""
    try:
        error: Exception = resolve_name(f"{PACKAGE}.errors:CodeNotReceived")()
    except ImportError:
        return CodeMissing()
    return error
