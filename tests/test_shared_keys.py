"""A task may stand in several layers, and nothing gets lost for it.

``x[a] = 0; x[b] = 0`` names the value that is set by its content: both steps hold the same task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask import delayed
from dask.graph_manipulation import wait_on
from distributed import Client
from sited import block_of, sited_array

from dask_worker_pools import propagate_pools

VALUES = np.arange(40.0)


def _set_twice(x: da.Array) -> Any:
    x = x.copy()
    x[0:2] = 0
    x[14:16] = 0
    return x


def _set_often(x: da.Array) -> Any:
    x = x.copy()
    for start in range(0, 40, 6):
        x[start : start + 2] = -1
        x[x > 30] = -1
    return x


def _set_to_array(x: da.Array) -> Any:
    x = x.copy()
    value = da.arange(4, chunks=2, dtype=float)
    x[0:4] = value
    x[20:24] = value
    return x


def _set_to_item(x: da.Array) -> Any:
    x = x.copy()
    total = x.sum()
    x[0:4] = total
    x[20:24] = total
    return x


def _set_under_mask(x: da.Array) -> Any:
    x = x.copy()
    x[x % 2 == 0] = 5
    x[x % 3 == 0] = 5
    return x


def _finalized_twice(x: da.Array) -> Any:
    return [delayed(np.sum)(x), delayed(np.sum)(x) + delayed(np.sum)(x + 1), x]


BUILDS: dict[str, Callable[[da.Array], Any]] = {
    "two slices": _set_twice,
    "many slices and masks": _set_often,
    "same array twice": _set_to_array,
    "same item twice": _set_to_item,
    "same number under masks": _set_under_mask,
    "one slice of another": lambda x: _set_twice(_set_twice(x) + 1),
    "fancy index twice": lambda x: x[[4, 6, 7, 11, 12, 13, 14, 15, 18, 20, 22, 35]][
        [0, 5, 7, 8, 9, 10]
    ],
    "take after take": lambda x: da.take(da.take(x, [30, 2, 17, 5, 9]), [3, 3, 0, 1]),
    "fancy index of two": lambda x: [
        x[[1, 12, 33]][[0, 2]],
        x[[1, 12, 33]][[2, 1]] + x[[5, 6, 7]][[0, 2]],
    ],
    "shuffled twice": lambda x: x.rechunk(8).shuffle([[0, 30], [17, 3]], axis=0)[[0, 3, 1]],
    "finalized twice": _finalized_twice,
    "waited for": lambda x: list(wait_on(_set_twice(x), x + 1)),
    "assigned by xarray": lambda x: (
        xr.DataArray(x, dims="i").isel(i=[3, 30, 12]).isel(i=[0, 2]).data
    ),
}

#: Where the array lies, and where the steps are built.
SITES: list[tuple[str | None, str | None]] = [
    (None, None),
    ("A", None),
    ("A", "B"),
    ("A", "anywhere"),
]

WAYS: dict[str, Callable[[Any], Any]] = {
    "compute": lambda x: dask.compute(x)[0],
    "persist": lambda x: dask.compute(dask.persist(x)[0])[0],
    "optimize": lambda x: dask.compute(dask.optimize(x)[0])[0],
    "persist, then go on": lambda x: dask.compute(_halved(dask.persist(x)[0]))[0],
    "several at once": lambda x: dask.compute(x, _halved(x), delayed(len)([1]))[0],
    "several persisted": lambda x: dask.compute(dask.persist(x, _halved(x))[0])[0],
}


def _halved(x: Any) -> Any:
    return [_halved(one) for one in x] if isinstance(x, list) else x / 2


def built(name: str, site: str | None, steps: str | None) -> Any:
    """What a user builds of an array."""
    x = da.from_array(VALUES, chunks=10) if site is None else sited_array(site, VALUES, 10)
    with block_of(steps):
        return BUILDS[name](x)


def expected(name: str, way: str) -> Any:
    """The same by plain Dask."""
    (found,) = dask.compute(BUILDS[name](da.from_array(VALUES, chunks=10)), scheduler="sync")
    return _halved(found) if way == "persist, then go on" else found


@pytest.mark.parametrize("sites", SITES, ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BUILDS)
def test_local(name: str, way: str, sites: tuple[str | None, str | None]) -> None:
    """In one process, the values are those of plain Dask."""
    with dask.config.set(scheduler="sync"), propagate_pools():
        found = WAYS[way](built(name, *sites))
    np.testing.assert_equal(found, expected(name, way))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BUILDS)
def test_cluster(client: Client, name: str, way: str) -> None:
    """On a cluster too; and sources are read in their own pool."""
    with propagate_pools():
        found = WAYS[way](built(name, "A", "B" if way == "compute" else None))
    np.testing.assert_equal(found, expected(name, way))
