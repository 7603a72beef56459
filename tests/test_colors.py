"""Every pool has a colour of its own, the same each time, and text on it can be read."""

from __future__ import annotations

import pytest

from dask_worker_pools.colors import (
    NO_POOL_COLOR,
    OKABE_ITO,
    contrast,
    pool_colors,
    readable_on,
)


def test_few_pools_get_the_colour_blind_safe_palette() -> None:
    """Up to seven pools have the colours of Okabe and Ito."""
    assert tuple(pool_colors("ABCDEFG").values()) == OKABE_ITO


@pytest.mark.parametrize("n", [1, 7, 8, 22, 300])
def test_colours_are_distinct(n: int) -> None:
    """Any number of pools get as many colours, none of them that of 'no pool'."""
    colors = pool_colors(f"p{i}" for i in range(n))
    assert len({*colors.values(), NO_POOL_COLOR}) == n + 1


def test_first_colours_are_far_apart() -> None:
    """The colours of the first 21 pools differ visibly, not by a shade."""
    colors = [bytes.fromhex(c[1:]) for c in pool_colors(f"p{i:02d}" for i in range(21)).values()]
    pairs = [(one, two) for i, one in enumerate(colors) for two in colors[:i]]
    distances = [sum((x - y) ** 2 for x, y in zip(*pair, strict=True)) ** 0.5 for pair in pairs]
    assert min(distances) > 25


def test_colours_follow_names_alone() -> None:
    """The same set of pools has the same colours, in whatever order and how often it is given."""
    assert pool_colors(["b", "a", "c"]) == pool_colors(["c", "c", "b", "a"])


def test_text_is_readable_on_every_fill() -> None:
    """Labels have a contrast of 4.5 or more to the fill that they stand on."""
    fills = [*pool_colors(f"p{i}" for i in range(500)).values(), NO_POOL_COLOR]
    assert min(contrast(readable_on(fill), fill) for fill in fills) >= 4.5
