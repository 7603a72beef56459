"""The tests of other projects that are run with pools, by table, and where they are found."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

#: Where the sources of projects are kept whose wheels have no tests.
CACHE = Path(__file__).resolve().parents[2] / ".venvs" / "sources"

FRAMES = "dask/dataframe/dask_expr"


@dataclass(frozen=True)
class Suite:
    """Some tests of a project."""

    name: str
    project: str  #: name of the distribution that they come with
    tests: tuple[str, ...]  #: directories, files and tests, below `root`
    #: Tests that start clusters of their own and end all others: they get a process of their own.
    own_clusters: tuple[str, ...] = ()
    options: tuple[str, ...] = ()  #: more options of pytest
    cluster: bool = False  #: whether what they compute runs on a cluster, unless asked otherwise
    in_source: bool = False  #: whether only the source distribution has the tests

    def root(self) -> Path:
        """The directory below which the tests are: fetched, if need be."""
        root = _source(self.project) if self.in_source else _installed(self.project)
        if missing := [test for test in self.tests if not (root / test.split("::")[0]).exists()]:
            raise SystemExit(
                f"{self.project} in {root} came without its tests ({', '.join(missing)}). "
                "Install it from PyPI, whose wheels have them."
            )
        return root


def _installed(project: str) -> Path:
    spec = find_spec(project.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise SystemExit(f"{project} is not installed here; the extra 'upstream' brings it.")
    return Path(spec.origin).parent.parent


def _source(project: str) -> Path:
    """The unpacked tests of the source distribution, in the version that is installed."""
    release = f"{project.replace('-', '_')}-{version(project)}"
    root = CACHE / release
    if root.exists():
        return root
    CACHE.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    wanted = ["--no-deps", "--no-binary", project, f"{project}=={version(project)}"]
    done = subprocess.run(
        [*pip, "--dest", str(CACHE), *wanted],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"The source of {project} could not be fetched:\n{done.stdout}")
    with tarfile.open(CACHE / f"{release}.tar.gz") as archive:
        # The package itself stays out: it would be imported instead of the one that is installed.
        tests = [one for one in archive if one.name.startswith(f"{release}/tests/")]
        archive.extractall(CACHE, members=tests, filter="data")
    return root


SUITES = (
    Suite(
        "dask.dataframe",
        "dask",
        (f"{FRAMES}/tests", f"{FRAMES}/io/tests"),
        own_clusters=(
            f"{FRAMES}/tests/test_distributed.py",
            f"{FRAMES}/io/tests/test_distributed.py",
            f"{FRAMES}/tests/test_diagnostics.py",
            f"{FRAMES}/io/tests/test_parquet.py::test_ensure_plan_computed_during_optimization",
        ),
        cluster=True,
    ),
    Suite("dask.array", "dask", ("dask/array/tests",)),
    Suite("dask.bag", "dask", ("dask/bag/tests",)),
    Suite("dask.delayed", "dask", ("dask/tests/test_delayed.py",)),
    Suite("dask.base", "dask", ("dask/tests/test_base.py",)),
    Suite(
        "dask.highgraph",
        "dask",
        (
            "dask/tests/test_highgraph.py",
            "dask/tests/test_graph_manipulation.py",
            "dask/tests/test_hlgexpr.py",
        ),
    ),
    Suite(
        "xarray",
        "xarray",
        (
            "xarray/tests/test_dask.py",
            "xarray/tests/test_groupby.py",
            "xarray/tests/test_computation.py",
            "xarray/tests/test_distributed.py",
        ),
        own_clusters=("xarray/tests/test_distributed.py",),
    ),
    Suite(
        "xarray.backends",
        "xarray",
        ("xarray/tests/test_backends.py",),
        options=("-k", "dask or chunk or parallel or mfdataset"),
    ),
    Suite("flox", "flox", ("tests/test_core.py", "tests/test_xarray.py"), in_source=True),
    Suite("dask-image", "dask-image", ("tests",), in_source=True),
    Suite(
        "dask-histogram",
        "dask-histogram",
        ("dask_histogram",),  # no release has its tests: its examples
        options=("--doctest-modules",),
    ),
    Suite("dask-geopandas", "dask-geopandas", ("dask_geopandas/tests",)),
)

BY_NAME = {suite.name: suite for suite in SUITES}
