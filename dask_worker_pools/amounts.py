"""Numbers and sizes as users say them: of Python's types or NumPy's, or as text."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
from dask.utils import parse_bytes

from dask_worker_pools.pool_error import InvalidType, InvalidValue


def amount(value: Any) -> float | None:
    """A finite number that is not negative; None for everything else.

    Examples
    --------
    >>> amount(3), amount(np.float32(0.5)), amount(np.array(2)), amount(True), amount(10**400)
    (3.0, 0.5, 2.0, None, None)
    """
    if isinstance(value, np.ndarray | np.generic):
        if value.ndim or value.dtype.kind not in "iuf":
            return None
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) and number >= 0 else None


def size_in_bytes(value: Any) -> float | None:
    """A size in bytes, said as a number or a string; None for everything that is no size.

    Examples
    --------
    >>> size_in_bytes("2 kiB"), size_in_bytes("lots"), size_in_bytes(-1)
    (2048.0, None, None)
    """
    if not isinstance(value, str):
        return amount(value)
    try:
        return amount(parse_bytes(value)) if value.strip() else None
    except (OverflowError, ValueError):
        return None


def counts_by_pool(argument: str, value: Any) -> dict[str, float]:
    """Check what counts something of each pool, such as its threads.

    Raises
    ------
    InvalidType, InvalidValue
        It is no mapping of names to finite numbers that are not negative.
    """
    if not isinstance(value, Mapping):
        raise InvalidType(
            argument,
            value,
            f'{argument} is said pool by pool, for example {argument}={{"A": 8}}, but got '
            f"{value!r} of type {type(value).__name__}.",
        )
    counts = {pool: amount(count) for pool, count in value.items()}
    for pool, count in counts.items():
        if not isinstance(pool, str):
            raise InvalidType(
                argument, pool, f"{argument} has names of pools as keys, but got {pool!r}."
            )
        if count is None:
            raise InvalidValue(
                argument,
                value[pool],
                f"{argument} of pool {pool!r} is {value[pool]!r}: say a number, 0 or more.",
            )
    return {pool: count for pool, count in counts.items() if count is not None}
