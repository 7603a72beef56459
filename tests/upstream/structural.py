"""Tests of Dask's that cannot hold when frames are in a pool, and why: none is about a value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Structural:
    """Tests that ask how an expression is made, not what it computes."""

    test: str  #: pattern of ``file::test`` as in a shell, such as ``test_core.py::test_repr*``
    message: str  #: regular expression found in what the failing test says
    reason: str  #: why it must fail

    def explains(self, test: str, message: str) -> bool:
        """Whether a failure is this one."""
        name = test.rpartition("/")[2]
        return fnmatchcase(name, self.test) and re.search(self.message, message) is not None


STRUCTURAL: tuple[Structural, ...] = ()
