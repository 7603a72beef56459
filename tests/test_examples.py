"""The examples run, as a user runs them, and print what the README shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["federated_join", "two_sites"])
def test_example(name: str) -> None:
    """An example ends well, having failed without the library and succeeded with it; the README
    shows what it prints.
    """
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    without, _, with_pools = done.stdout.partition("With propagate_pools():\n")
    assert re.fullmatch(r"Without propagate_pools\(\):\n  FileNotFoundError: .*\n", without)
    assert with_pools.startswith("  the result equals that of ")
    readme = (ROOT / "README.md").read_text()
    # Which file is missed first, and the last digits of what was sent, differ from run to run.
    for line in with_pools.splitlines():
        words = re.split(r"  +", line.strip())
        assert words[0] in readme
