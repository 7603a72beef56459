"""Colours of pools: as many as are asked for, easy to tell apart, with text that can be read."""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Iterable, Iterator, Mapping

#: Colours that stay apart for colour-blind readers. Source: M. Okabe and K. Ito, "Color Universal
#: Design", 2008. Their eighth colour, black, is left to text and crossings.
OKABE_ITO = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
NO_POOL_COLOR = "#E8E8E8"


def pool_colors(pools: Iterable[str]) -> dict[str, str]:
    """Give each pool a colour of its own; the same set of pools always gets the same colours.

    Parameters
    ----------
    pools : iterable of str
        Names of pools, in any order and number.

    Returns
    -------
    dict of str to str
        Fill colours as ``#RRGGBB``, by pool in the order of their names.

    Examples
    --------
    >>> pool_colors(["B", "A"])
    {'A': '#56B4E9', 'B': '#E69F00'}
    """
    return dict(zip(sorted(set(pools)), _distinct_colors(), strict=False))


def _distinct_colors() -> Iterator[str]:
    """Yield colours without end and without repetition, the easiest to tell apart first."""
    seen = {NO_POOL_COLOR}
    for color in _candidate_colors():
        if color not in seen:
            seen.add(color)
            yield color


def _candidate_colors() -> Iterator[str]:
    yield from OKABE_ITO
    yield from (_mix(color, "#000000", 0.5) for color in OKABE_ITO)
    yield from (_mix(color, "#FFFFFF", 0.6) for color in OKABE_ITO)
    # Steps of the golden ratio never come back to the same hue, and keep neighbours far apart;
    # those of the square root of two spread the lightness, independently of the hue.
    for i in itertools.count():
        lightness = 0.25 + 0.6 * (i * 2**0.5 % 1)
        rgb = colorsys.hls_to_rgb(i * 0.6180339887498949 % 1, lightness, 0.6)
        yield _hex(255 * value for value in rgb)


def _mix(color: str, other: str, share: float) -> str:
    pairs = zip(_rgb(color), _rgb(other), strict=True)
    return _hex((1 - share) * one + share * two for one, two in pairs)


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue


def _hex(values: Iterable[float]) -> str:
    return "#" + "".join(f"{round(value):02X}" for value in values)


def fill_of(pool: str | None, colors: Mapping[str, str]) -> str:
    """The colour of a pool, among those of all; None stands for no pool."""
    return NO_POOL_COLOR if pool is None else colors[pool]


def contrast(one: str, other: str) -> float:
    """Contrast of two ``#RRGGBB`` colours, from 1 to 21, as WCAG 2 defines it.

    Examples
    --------
    >>> contrast("#FFFFFF", "#000000")
    21.0
    """
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    channels = [value / 255 for value in _rgb(color)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def readable_on(fill: str) -> str:
    """Black or white, whichever is read more easily on `fill`: a contrast of at least 4.5.

    Examples
    --------
    >>> readable_on("#F0E442"), readable_on("#0072B2")
    ('#000000', '#FFFFFF')
    """
    return max("#000000", "#FFFFFF", key=lambda text: contrast(text, fill))
