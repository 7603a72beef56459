"""The table of versions says what happened, and nothing bad passes for good."""

from __future__ import annotations

import os
import platform
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import environments
import pytest
import versions
from packaging.requirements import Requirement
from packaging.version import Version

REPORT = """<?xml version="1.0"?>
<testsuites><testsuite name="pytest" tests="9" errors="{errors}" failures="{failures}" skipped="1"/>
</testsuites>"""


def reported(directory: Path, *, errors: int = 0, failures: int = 0) -> Path:
    """A report as pytest writes it."""
    report = directory / "report.xml"
    report.write_text(REPORT.format(errors=errors, failures=failures))
    return report


def test_all_passed(tmp_path: Path) -> None:
    """A version is good whose tests passed or were skipped."""
    found = versions.outcome("2026.3.0", reported(tmp_path), 0)
    assert found == versions.Outcome("2026.3.0", passed=8, failed=0, skipped=1)
    assert found.good


def test_errors_count_as_failures(tmp_path: Path) -> None:
    """Tests that failed and tests that could not be set up are one number, and are not good."""
    found = versions.outcome("2026.3.0", reported(tmp_path, errors=2, failures=1), 1)
    assert found == versions.Outcome("2026.3.0", passed=5, failed=3, skipped=1)
    assert not found.good


@pytest.mark.parametrize(("code", "problem"), [(2, "code 2"), (5, "code 5"), (1, "no failure")])
def test_a_report_without_failures_is_not_enough(tmp_path: Path, code: int, problem: str) -> None:
    """Where pytest says by its exit code that something is wrong, the version is not good."""
    found = versions.outcome("2026.3.0", reported(tmp_path), code)
    assert problem in found.problem
    assert not found.good


@pytest.mark.parametrize("text", [None, "", "<testsuites/>", "<testsuites><tests"])
def test_no_report(tmp_path: Path, text: str | None) -> None:
    """A version whose report is missing or cut off is not good, even if pytest ended well."""
    report = tmp_path / "report.xml"
    if text is not None:
        report.write_text(text)
    found = versions.outcome("2026.3.0", report, 0)
    assert found.problem == "pytest wrote no report"
    assert not found.good


def test_table() -> None:
    """Each version has a line with its numbers and its problem."""
    table = versions.table(
        [
            versions.Outcome("2025.5.1", 100, 0, 2),
            versions.Outcome("2026.3.0", problem="installing failed with code 1"),
            versions.Outcome("2026.8.0@3.12", problem="no such Python here: 3.12", absent=True),
        ]
    )
    assert [line.split(maxsplit=5) for line in table.splitlines()] == [
        ["dask", "python", "passed", "failed", "skipped"],
        ["2025.5.1", "3.11", "100", "0", "2"],
        ["2026.3.0", "3.11", "0", "0", "0", "installing failed with code 1"],
        ["2026.8.0", "3.12", "–", "–", "–", "no such Python here: 3.12"],
    ]


def test_one_bad_version_decides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All versions are run, also after one that fails, and the exit code is then 1."""
    failures = {"2025.5.1": 1, "2026.3.0": 0}
    monkeypatch.setattr(
        versions, "run", lambda version: versions.Outcome(version, 10, failures[version])
    )
    assert versions.main(list(failures)) == 1
    assert list(failures) == [x.split()[0] for x in capsys.readouterr().out.splitlines()[-2:]]
    assert versions.main(["2026.3.0"]) == 0


@pytest.mark.parametrize(
    ("absent", "code"), [(["2026.8.0@3.12"], 0), (["2026.3.0", "2026.8.0@3.12"], 1)]
)
def test_a_missing_python_decides_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    absent: list[str],
    code: int,
) -> None:
    """A version without its Python is told and counts for nothing; one must have passed."""

    def no_python(name: str, *args: object, python: str) -> None:
        raise environments.NoSuchPython(python)

    run = versions.run
    monkeypatch.setattr(versions, "prepare", no_python)
    monkeypatch.setattr(
        versions,
        "run",
        lambda version: run(version) if version in absent else versions.Outcome(version, 10),
    )
    assert versions.main(["2026.3.0", "2026.8.0@3.12"]) == code
    assert capsys.readouterr().out.splitlines()[-1].endswith("no such Python here: 3.12")


def test_each_python_that_the_package_names_is_tested() -> None:
    """The Pythons of the classifiers are those of the table; the oldest is the one required."""
    project = tomllib.loads((environments.ROOT / "pyproject.toml").read_text())["project"]
    named = {
        python
        for line in project["classifiers"]
        if re.fullmatch(r"3\.\d+", python := line.rpartition(" :: ")[2])
    }
    assert {versions.split(version)[1] for version in versions.VERSIONS} == named
    assert project["requires-python"] == f">={versions.PYTHON}"


def test_finds_this_python() -> None:
    """The Python that runs the tests is found first, for it is there."""
    path, whole = environments.find_python(environments.THIS_PYTHON)
    assert path == sys.executable
    assert whole.split()[0] == platform.python_version()


def test_a_command_that_fails_is_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called like a Python and does not run, or is another, is passed over."""
    for version, command in (("3.98", "exit 127"), ("3.99", f'exec {sys.executable} "$@"')):
        (tmp_path / f"python{version}").write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / f"python{version}").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(environments, "_fetch", lambda version: None)
    for version in ("3.98", "3.99"):
        with pytest.raises(environments.NoSuchPython, match=f"no such Python here: {version}"):
            environments.find_python(version)


def test_pythons_of_pyenv_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that pyenv installed, and that is not switched on, is found."""
    there = tmp_path / "versions" / "3.97.2" / "bin" / "python3.97"
    there.parent.mkdir(parents=True)
    there.write_text("#!/bin/sh\necho '3.97.2 (of a test)'\n")
    there.chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert environments.find_python("3.97") == (str(there), "3.97.2 (of a test)")


def test_oldest_is_what_the_package_asks_for() -> None:
    """The table starts with the oldest Dask that the package can be installed with."""
    project = tomllib.loads((environments.ROOT / "pyproject.toml").read_text())["project"]
    oldest, *others = [Version(versions.split(version)[0]) for version in versions.VERSIONS]
    assert oldest == min([oldest, *others])
    needs = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    for name in ("dask", "distributed"):
        assert [str(one) for one in needs[name]] == [f">={oldest}"]


def test_versions_match() -> None:
    """Dask and distributed are installed in the same version."""
    wanted = {r.name: str(r.specifier) for r in map(Requirement, versions.requirements("2025.9.1"))}
    assert wanted["dask"] == wanted["distributed"] == "==2025.9.1"


@pytest.mark.parametrize("script", [versions, environments], ids=lambda module: module.__name__)
def test_uses_the_standard_library_only(script: ModuleType) -> None:
    """The script starts in an environment where nothing is installed."""
    assert script.__file__ is not None
    source = Path(script.__file__).read_text()
    imported = {
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    }
    assert imported <= sys.stdlib_module_names | {"environments"}
