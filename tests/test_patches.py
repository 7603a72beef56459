"""Every method of Dask that is replaced is there, as it was when we last looked."""

from __future__ import annotations

import pytest

from dask_worker_pools.patches import FRAME_PATCHES, PATCHES, Patch


@pytest.mark.parametrize(
    "patch", [*PATCHES, *FRAME_PATCHES], ids=lambda patch: f"{patch.owner}.{patch.method}"
)
def test_fits(patch: Patch) -> None:
    """Dask has the method, with the parameters that we know."""
    assert patch.original() is not None


@pytest.mark.parametrize(
    "drifted",
    [
        Patch("dask._expr:NoSuchClass", "optimize", ("self",), print),
        Patch("dask._expr:Expr", "no_such_method", ("self",), print),
        Patch("dask._expr:Expr", "optimize", ("self", "another"), print),
    ],
)
def test_drift(drifted: Patch) -> None:
    """A method that is not there, or has other parameters, is left alone."""
    assert drifted.original() is None
    drifted.apply()
