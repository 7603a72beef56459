"""Sizes that do not depend on chance: of a long list, Dask looks at ten elements, drawn at random.

Two runs that send the same would then differ by some bytes. Loaded by each worker of
`benchmarks.sites` (``--preload``), so that what they write into their logs can be compared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from dask.sizeof import sizeof

#: How many elements are looked at, at most: few enough to take no time that counts.
SAMPLES = 100


def sample_evenly() -> None:
    """Let `dask.sizeof` look at elements in equal distances, in this process.

    That is for lists and tuples, and with them for dicts, whose keys and values are lists.
    """
    for kind in (list, tuple):
        sizeof.register(kind, _size)


def _size(elements: Sequence[Any]) -> int:
    step = max(1, -(-len(elements) // SAMPLES))
    sizes = [int(sizeof(one)) for one in elements[::step]]
    whole = sum(sizes) * len(elements) // len(sizes) if sizes else 0
    return sys.getsizeof(elements) + whole


def dask_setup(worker: Any) -> None:
    """What ``--preload`` calls."""
    sample_evenly()
