"""What this package's functions and classes are pickled as, and what they are where they arrive."""

from __future__ import annotations

import ast
import copy
import inspect
import json
import os
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import pytest

import dask_worker_pools
from dask_worker_pools import (
    NoSuchPool,
    PoolError,
    arrival,
    assign_pool,
    get_pool,
    measure_transfers,
    plan_pools,
    pool,
    propagate_pools_in_collection,
    source,
    travel,
    visualize_pools,
)
from dask_worker_pools.expr.planned import PlannedLayer
from dask_worker_pools.propagate import pass_from
from dask_worker_pools.shorten import shortened
from dask_worker_pools.travel import ByValue, Travels

FUNCTIONS: list[Any] = [
    pool,
    assign_pool,
    get_pool,
    plan_pools,
    propagate_pools_in_collection,
    visualize_pools,
    measure_transfers,
]
CLASSES = sorted(
    (one for one in vars(dask_worker_pools).values() if isinstance(one, type)),
    key=lambda one: one.__name__,
)
DUMPS = [pickle.dumps, cloudpickle.dumps]


def name_of(one: Any) -> str:
    """What a case is called."""
    return str(getattr(one, "__name__", one))


@pool("A")
def decorated(x: int) -> int:
    """A function of the user's."""
    return x + 1


class Job:
    """An object of the user's that holds a pool."""

    def __init__(self) -> None:
        self.where = pool("A", "B")

    def run(self) -> str:
        """Say where."""
        with self.where:
            return repr(self.where)


def elsewhere(code: str, sent: bytes = b"", block: bool = True) -> Any:
    """What `code` gives in a fresh process, which gets `sent`; it may not import this package."""
    blocked = "sys.modules['dask_worker_pools'] = None\n" if block else ""
    script = (
        f"import pickle, sys, json\n{blocked}sent = sys.stdin.buffer.read()\n{code}\n"
        "sys.stdout.buffer.write(pickle.dumps(result))"
    )
    path = str(Path(dask_worker_pools.__file__).parents[1])
    answer = subprocess.run(
        [sys.executable, "-c", script],
        input=sent,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "" if block else path},
        check=True,
    )
    return pickle.loads(answer.stdout)


# --- in this process


@pytest.mark.parametrize("dumps", DUMPS)
@pytest.mark.parametrize("one", [*FUNCTIONS, *CLASSES], ids=name_of)
def test_what_is_public_arrives_as_itself(one: Any, dumps: Callable[[Any], bytes]) -> None:
    """Where the package is installed, its functions and classes mean those that are there."""
    assert pickle.loads(dumps(one)) is one


@pytest.mark.parametrize("one", FUNCTIONS, ids=name_of)
def test_functions_look_like_functions(one: Any) -> None:
    """To who asks for help, its parameters or its source, a function is one."""
    looks_like_one: bool = inspect.isroutine(one)
    assert looks_like_one
    assert one.__doc__
    assert one.__name__ in inspect.getsource(one)
    assert inspect.signature(one) == inspect.signature(one.__wrapped__)
    assert repr(one) == repr(one.__wrapped__)


def test_functions_are_methods_where_they_are_put_into_classes() -> None:
    """A function of the package that is put into a class gets the instance."""

    class Named(str):
        where = pool

    assert repr(Named("A").where()) == "pool('A')"
    assert Named.where is pool


def test_classes_stay_themselves_when_others_arrive() -> None:
    """What comes to the process that has the package leaves its classes and sources alone."""
    before = {name: id(one) for name, one in vars(dask_worker_pools.optimize).items()}
    source_before = inspect.getsource(dask_worker_pools.optimize.Pass)
    for function in (pass_from, PlannedLayer.arrive):
        assert pickle.loads(pickle.dumps(ByValue(function))) == function
    assert {name: id(one) for name, one in vars(dask_worker_pools.optimize).items()} == before
    assert inspect.getsource(dask_worker_pools.optimize.Pass) == source_before


def test_derived_errors_are_the_users() -> None:
    """A class that the user derives from an error is pickled as any of the user's."""
    assert pickle.loads(pickle.dumps(Derived)) is Derived
    assert type(pickle.loads(pickle.dumps(Derived("C", 1, [], {})))) is Derived


class Derived(NoSuchPool):
    """An error of the user's."""


@pytest.mark.parametrize("cls", [c for c in CLASSES if isinstance(c, Travels)], ids=name_of)
def test_classes_can_be_copied(cls: type) -> None:
    """A class is its own copy."""
    assert copy.copy(cls) is copy.deepcopy(cls) is cls


# --- in a process without the package

FETCHED = "one = pickle.loads(sent)\n"


@pytest.mark.parametrize("dumps", DUMPS)
def test_functions_work_without_the_package(dumps: Callable[[Any], bytes]) -> None:
    """Where the package is not installed, its functions and classes do what they do here."""
    with pool("A"):
        a = da.ones(4, chunks=2, name="a")
    code = FETCHED + (
        "pool, get_pool, plan_pools, error, x = one\n"
        "try: raise error('C', 1, ['l'], {})\n"
        "except error as caught: raised = str(caught)\n"
        "result = repr(pool('A')), get_pool(x), repr(plan_pools(x.sum())), raised"
    )
    there = elsewhere(code, dumps((pool, get_pool, plan_pools, NoSuchPool, a)))
    error = str(NoSuchPool("C", 1, ["l"], {}))
    assert there == (repr(pool("A")), "A", repr(plan_pools(a.sum())), error)


@pytest.mark.parametrize("dumps", DUMPS)
def test_what_is_public_comes_back_as_itself(dumps: Callable[[Any], bytes]) -> None:
    """What went to a process without the package is sent on by that, and comes back the same."""
    public = [*FUNCTIONS, *CLASSES]
    code = FETCHED + (
        "assert all('dask_worker_pools_' in each.__module__ for each in one)\nresult = one"
    )
    there = elsewhere(code, dumps(public))
    assert [again is one for again, one in zip(there, public)] == [True] * len(public)


def test_what_is_made_there_comes_back() -> None:
    """Values of the package's own classes come back from where it is not installed."""
    with pool("A"):
        a = da.ones((4, 4), chunks=2, name="a")
    with pool("B"):
        b = da.ones((4, 4), chunks=2, name="b")
    plan = plan_pools((a + b.T).sum())
    code = FETCHED + (
        "plan_pools, error, pool, x = one\nplan = plan_pools(x)\n"
        "result = plan.transfers, plan.explain(plan.layers[0]), error('C', 1, [], {}), pool('A')"
    )
    made = elsewhere(code, cloudpickle.dumps((plan_pools, NoSuchPool, pool, (a + b.T).sum())))
    transfers, explanation, error, context = made
    assert transfers == plan.transfers
    assert repr(explanation) == repr(plan.explain(plan.layers[0]))
    assert type(error) is NoSuchPool
    assert repr(context) == "pool('A')"


def test_users_functions_and_objects_travel() -> None:
    """Decorated functions and objects that hold a pool work where the package is not installed."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        sent = cloudpickle.dumps((decorated, Job().run))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert elsewhere(FETCHED + "result = one[0](1), one[1]()", sent) == (2, "pool('A', 'B')")


def test_classes_are_the_same_each_time() -> None:
    """What comes twice to a process is imported once."""
    sent = pickle.dumps((NoSuchPool, pool))
    code = "one, two = pickle.loads(sent), pickle.loads(sent)\nresult = one == two"
    assert elsewhere(code, sent)
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as threads:\n"
        "    found = list(threads.map(pickle.loads, [sent] * 32))\n"
        "result = len({(id(a), id(b)) for a, b in found})"
    )
    assert elsewhere(code, sent) == 1


def test_tracebacks_show_the_source() -> None:
    """What fails there has its file, line and source in the traceback."""
    code = FETCHED + (
        "import traceback\ntry: one('A', '')\nexcept ValueError: result = traceback.format_exc()"
    )
    shown = elsewhere(code, pickle.dumps(pool))
    lines, first = inspect.getsourcelines(dask_worker_pools.annotations.check_pool_name)
    raised = next(i for i, line in enumerate(lines) if "raise InvalidValue" in line)
    assert f'{dask_worker_pools.annotations.__file__}", line {first + raised}' in shown
    assert "raise InvalidValue" in shown.split("check_pool_name")[-1].splitlines()[1]


def test_an_installed_package_is_used() -> None:
    """Where the same version is installed, though not imported yet, nothing is built."""
    code = (
        FETCHED + "result = one.__module__, [m for m in sys.modules if 'pools_' in m and '.' in m]"
    )
    assert elsewhere(code, pickle.dumps(NoSuchPool), block=False) == (NoSuchPool.__module__, [])


def test_another_version_is_left_alone(tmp_path: Path) -> None:
    """Where another version is installed, or a broken one, what was sent is used."""
    for content in ("", "1 / 0"):
        (tmp_path / "dask_worker_pools").mkdir(exist_ok=True)
        (tmp_path / "dask_worker_pools/__init__.py").write_text(content)
        code = f"sys.path.insert(0, {str(tmp_path)!r})\n" + FETCHED
        code += "del sys.path[0]\nresult = one.__module__, 'dask_worker_pools' in sys.modules"
        module, imported = elsewhere(code, pickle.dumps(NoSuchPool), block=False)
        assert module == f"{source.root()}.errors"
        assert not imported


def test_what_should_have_come_earlier_says_so() -> None:
    """A name without its code is unpickled, and is an error of the user's where it is used."""
    with travel._told(source.needed("propagate", False), set()):
        sent = pickle.dumps(ByValue(pass_from))
    assert len(sent) < 2500
    code = FETCHED + "try: one(b'')({}, [])\nexcept Exception as error: result = error"
    error = elsewhere(code, sent)
    assert type(error) is dask_worker_pools.CodeNotReceived
    assert isinstance(error, PoolError)
    assert "Compute again" in str(error)


# --- what goes along


def test_modules_that_went_do_not_go_again() -> None:
    """With a graph goes what did not go with an earlier one, and no more."""
    core = source.needed("propagate", False) - {"arrival"}
    going: set[str] = set()
    with travel._told(frozenset(), going):
        first = pickle.dumps(ByValue(pass_from))
    assert going == core
    going = set()
    with travel._told(core, going):
        frames = pickle.dumps(ByValue(PlannedLayer.arrive))
        later = pickle.dumps(ByValue(pass_from))
    assert going == {"expr", "expr.planned", "expr.blocks", "expr.places"}
    assert len(first) < 60_000
    assert len(frames) < 8_000
    assert len(later) < 2_500


@pytest.mark.parametrize("outside", ["visualize", "collection", "explain", "report", "shorten"])
def test_the_scheduler_is_sent_what_it_needs(outside: str) -> None:
    """What only the user's process needs does not go to the scheduler."""
    assert outside not in source.needed("expr.planned", False)


MODULES = [
    found.name.removeprefix("dask_worker_pools.")
    for found in pkgutil.walk_packages(dask_worker_pools.__path__, "dask_worker_pools.")
]


@pytest.mark.parametrize("name", MODULES)
def test_what_goes_is_the_program(name: str) -> None:
    """A module in short is the same program, line by line, but for what only people read."""
    module = source.module(name)
    given = Path(module.file).read_text()
    assert "dask_worker_pools." not in "".join(
        line for line in module.source.splitlines() if line.lstrip().startswith("from ")
    )
    assert statements(module.source) == statements(given)
    package = name if module.is_package else name.rpartition(".")[0]
    assert shortened(module.source, "dask_worker_pools", package) == module.source


def statements(code: str) -> list[tuple[str, int]]:
    """The kinds of statements and their lines; those that declare a type count as any."""
    kept = ast.Return, ast.Raise, ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef
    return [(type(n).__name__, n.lineno) for n in ast.walk(ast.parse(code)) if isinstance(n, kept)]


@pytest.mark.parametrize(
    ("given", "short"),
    [
        (
            "def f(a: int, *b: str, c: float = 1) -> None:\n    pass",
            "def f(a, *b, c = 1) :\n    pass",
        ),
        ('"""Doc."""\nx = 1  # why', '""\nx = 1'),
        ('def f():\n    """Doc\n    more."""', 'def f():\n    ""\n'),
        (
            "def f():\n    a: int = 1\n    b: str\n    return a",
            "def f():\n    a = 1\n    0\n    return a",
        ),
        ("class C:\n    a: int\n    b: str = 'é: #'", "class C:\n    a: int\n    b: str = 'é: #'"),
        ("from top.a import b\nfrom top import c", "from ..a import b\nfrom .. import c"),
        (
            "def f(x: dict[str,\n        int]) -> tuple[\n    int]:\n    g(x)",
            "def f(x\n)\n:\n    g(x)",
        ),
        ("x = 'ä'  # ö\ny: int = 1", "x = 'ä'\ny: int = 1"),
        ("from topmost import x", "from topmost import x"),
    ],
)
def test_source_in_short(given: str, short: str) -> None:
    """Docstrings, comments and types go, lines stay; imports of the package become relative."""
    assert shortened(given, "top", "inner") == short


def test_the_version_tells_the_content(tmp_path: Path) -> None:
    """Two versions of which a file differs, in name or content, are called differently."""
    names: set[str] = set()
    for file, content in [("a.py", "x"), ("a.py", "y"), ("b.py", "y"), ("c/b.py", "y")]:
        directory = tmp_path / str(len(names))
        (directory / file).parent.mkdir(parents=True)
        (directory / file).write_text(content)
        names.add(arrival.named(directory))
    assert len(names) == 4
    assert json.dumps(sorted(names))  # plain text
