"""Sizes that do not depend on chance: of a long list, Dask looks at ten elements, drawn at random.

Two runs that send the same would then differ by some bytes. Loaded by each worker of
`benchmarks.sites` (``--preload``), so that what they write into their logs can be compared.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from itertools import islice
from typing import Any

from dask.sizeof import sizeof

#: How many elements are looked at: few enough to take no time that counts.
SAMPLES = 100


def sample_evenly() -> None:
    """Let `dask.sizeof` look at elements in equal distances, in this process.

    That is for lists, tuples and sets, and with them for dicts, whose keys and values are lists.
    """
    for kind in (list, tuple, set, frozenset):
        sizeof.register(kind, _size)


def _size(elements: Collection[Any]) -> int:
    count = len(elements)
    some = islice(elements, 0, None, max(1, count // SAMPLES))
    sizes = [int(sizeof(one)) for one in islice(some, SAMPLES if count > SAMPLES else count)]
    return sys.getsizeof(elements) + (sum(sizes) * count // len(sizes) if sizes else 0)


def dask_setup(worker: Any) -> None:
    """What ``--preload`` calls."""
    sample_evenly()
