"""Sizes without sampling: Dask looks at ten elements of a long list, chosen at random.

Two runs that send the same would then differ by some bytes. Loaded by each worker of
`benchmarks.sites` (``--preload``), so that what they write into their logs can be compared.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any

from dask.sizeof import sizeof


def look_at_all() -> None:
    """Let `dask.sizeof` measure every element of lists, tuples, sets and dicts in this process."""
    for kind in (list, tuple, set, frozenset):
        sizeof.register(kind, _size_of_all)


def _size_of_all(elements: Collection[Any]) -> int:
    return sys.getsizeof(elements) + sum(int(sizeof(one)) for one in elements)


def dask_setup(worker: Any) -> None:
    """What ``--preload`` calls."""
    look_at_all()
