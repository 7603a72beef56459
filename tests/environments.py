"""Environments for tests, each with a Python and packages of its own, in ``.venvs``.

They are made once and kept. Run as ``python tests/environments.py NAME EXTRAS`` it prints the
Python of such an environment, for the Makefile. It needs the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venvs"

#: The Python that this script runs on, and which is there in any case.
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

#: Prints the whole version of a Python that can make environments.
PROBE = "import ensurepip, sys, venv; print(sys.version)"


class NoSuchPython(Exception):
    """No Python of a version is on this machine, and none could be fetched."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return f"no such Python here: {self.version}"


def prepare(
    name: str, extras: str, requirements: Sequence[str] = (), *, python: str = THIS_PYTHON
) -> Path:
    """Make an environment of the package and others, unless it is up to date; its Python.

    Raises
    ------
    NoSuchPython
        There is no such Python.
    subprocess.CalledProcessError
        Something could not be installed; its output says why.
    """
    interpreter, whole_version = find_python(python)
    directory = ENVIRONMENTS / name
    inside = directory / "bin" / "python"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    state = json.dumps([whole_version, extras, list(requirements), project])
    digest = hashlib.sha256(state.encode()).hexdigest()
    stamp = directory / "installed"
    if stamp.exists() and stamp.read_text() == digest:
        return inside
    what = " ".join([f"Python {python}", f"the extras {extras}", *requirements])
    print(f"Installing {what} into {directory.relative_to(ROOT)}", file=sys.stderr, flush=True)
    _run([interpreter, "-m", "venv", "--clear", str(directory)])
    _install(inside, "--editable", f"{ROOT}[{extras}]", *requirements)
    stamp.write_text(digest)
    return inside


def find_python(version: str) -> tuple[str, str]:
    """A Python of a version such as ``"3.12"`` that can make environments: path, whole version."""
    for candidate in _pythons(version):
        try:
            found = _run([candidate, "-c", PROBE])
        except (OSError, subprocess.CalledProcessError):
            continue  # such as a command of pyenv that is not switched on
        if found.startswith(f"{version}."):
            return candidate, found
    raise NoSuchPython(version)


def _pythons(version: str) -> Iterator[str]:
    """Where one may be, the nearest first; the last is downloaded."""
    yield sys.executable
    name = f"python{version}"
    if on_path := shutil.which(name):
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/{name}")))
    if by_uv := _fetch(version):
        yield by_uv


def _fetch(version: str) -> str | None:
    """Let uv, which comes from PyPI, bring a Python; None where it cannot, as without network."""
    directory = ENVIRONMENTS / "uv"
    uv = directory / "bin" / "uv"
    pythons = {**os.environ, "UV_PYTHON_INSTALL_DIR": str(ENVIRONMENTS / "pythons")}
    try:
        if not uv.exists():
            _run([sys.executable, "-m", "venv", "--clear", str(directory)])
            _install(directory / "bin" / "python", "uv")
        _run([str(uv), "python", "install", "--no-bin", version], environment=pythons)
        found = _run([str(uv), "python", "find", "--managed-python", version], environment=pythons)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"uv brings no Python {version}: {error}", file=sys.stderr)
        return None
    return found


def _install(python: Path, *requirements: str) -> None:
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    _run([*pip, *requirements])


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """What a command prints; an error has its complaints, too."""
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        output = done.stdout + done.stderr
        raise subprocess.CalledProcessError(done.returncode, command, output)
    return done.stdout.strip()


if __name__ == "__main__":
    try:
        print(prepare(*sys.argv[1:3]))
    except subprocess.CalledProcessError as error:
        sys.exit(error.stdout)
