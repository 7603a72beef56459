"""How numbers, sizes and pools are written wherever this package says something."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable

from dask.typing import Key
from dask.utils import format_bytes, key_split

#: How many characters of a layer's token tell it from others of the same short name.
TOKEN = 6


def counted(n: int, noun: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> counted(1, "task"), counted(3, "task")
    ('1 task', '3 tasks')
    """
    return f"{n} {noun}{'s'[: n != 1]}"


def size_text(nbytes: float) -> str:
    """Write a number of bytes.

    Examples
    --------
    >>> size_text(8 * 2**20)
    '8.00 MiB'
    """
    return str(format_bytes(round(nbytes)))


def bytes_text(sizes: Iterable[float | None]) -> str:
    """Write the sum of `sizes`, and say so where some or all of them are unknown.

    Examples
    --------
    >>> bytes_text([8, 8]), bytes_text([8, None]), bytes_text([None])
    ('16 B', '≥ 8 B', 'size unknown')
    """
    sizes = list(sizes)
    known = [size for size in sizes if size is not None]
    if not known:
        return "size unknown"
    total = size_text(math.fsum(known))
    return total if len(known) == len(sizes) else f"≥ {total}"


def pool_name(pool: str | None) -> str:
    """Write a pool, or that there is none."""
    return "no pool" if pool is None else pool


def listed(texts: Collection[str], limit: int) -> str:
    """Join texts by commas; beyond `limit` of them, say how many more there are.

    Examples
    --------
    >>> listed(["A", "B", "C"], 3), listed(["A", "B", "C"], 2)
    ('A, B, C', 'A, B and 1 more')
    """
    shown = ", ".join(list(texts)[:limit])
    more = len(texts) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def short_names(layers: Collection[str]) -> dict[str, str]:
    """Give each layer a name to read: without its token where that tells it from the others.

    Examples
    --------
    >>> list(short_names(["sum-0123456789abcdef", "add-0123456789abcdef"]).values())
    ['sum', 'add']
    >>> list(short_names(["add-0123456789abcdef", "add-fedcba9876543210"]).values())
    ['add-012345', 'add-fedcba']
    """
    names = {layer: str(key_split(layer)) for layer in layers}
    for length in (1 + TOKEN, None):
        taken = Counter(names.values())
        for layer, name in names.items():
            if taken[name] > 1:
                names[layer] = layer if length is None else layer[: len(name) + length]
    return names


def shortened(text: str, length: int) -> str:
    """Leave out the middle of a text that is too long.

    Examples
    --------
    >>> shortened("sum", 5), shortened("mean-aggregate", 9)
    ('sum', 'mean…gate')
    """
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[: length - 1 - half]}…{text[-half:]}"


def name_of(key: Key) -> Hashable:
    """The name of the collection that a key belongs to."""
    return key[0] if type(key) is tuple and key else key
