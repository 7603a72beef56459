"""A plan as text, and as HTML for notebooks."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from dask_worker_pools.words import (
    bytes_text,
    counted,
    listed,
    name_of,
    pool_name,
    short_names,
    shortened,
)

if TYPE_CHECKING:
    from dask.typing import Key

    from dask_worker_pools.plan import Plan, Transfer

#: How many rows a table has, and how many of the assumptions stand below it.
MAX_ROWS, MAX_ASSUMPTIONS = 20, 5
#: How many links stand in the header, and how many destinations in a row.
MAX_LINKS, MAX_TARGETS = 6, 3
#: How many characters of a layer's name are shown.
MAX_NAME = 40

#: Says where some outputs of a pool are.
Say: TypeAlias = "Callable[[Plan, str | None, Collection[Key]], str]"

TEMPLATE = "worker_pools_plan.html.j2"


@dataclass(frozen=True)
class Row:
    """The tasks of a layer that run in one pool."""

    layer: str  #: name of the layer; empty = that of the row above
    pool: str
    tasks: str  #: how many there are
    nbytes: str  #: size of all their outputs
    sent: str  #: what is shipped of it, and where


COLUMNS = Row("layer", "pool", "tasks", "bytes out", "sent to")
TO_THE_RIGHT = Row("", "", "right", "right", "")


def as_text(plan: Plan) -> str:
    """Write what is shipped between pools, and a table of layers and pools."""
    rows, more = table(plan)
    lines = [header(plan), between(plan)]
    if rows:
        lines += ["", *_aligned([COLUMNS, *rows])]
    if more:
        lines.append(f"… and {counted(more, 'more layer')}")
    if notes := assumed(plan):
        lines += ["", *notes]
    return "\n".join(lines)


def as_html(plan: Plan) -> str:
    """Write the same as HTML; preformatted where Jinja2 or the template is missing."""
    try:
        # Imported here: Jinja2 may be missing, and so may this package on the scheduler.
        from dask_worker_pools.widgets import get_template

        template = get_template(TEMPLATE)
    except Exception:
        return f"<pre>{html.escape(as_text(plan))}</pre>"
    rows, more = table(plan)
    return str(
        template.render(
            header=header(plan),
            between=between(plan),
            columns=COLUMNS,
            rows=rows,
            more=f"… and {counted(more, 'more layer')}" if more else "",
            assumptions=assumed(plan),
        )
    )


def header(plan: Plan) -> str:
    """Say how large the plan is.

    Examples
    --------
    >>> from dask_worker_pools.plan import Plan
    >>> header(Plan({"a": None}, {"a": []}, {"a": "a"}, {}))
    'Plan of 1 task in 1 layer'
    """
    return f"Plan of {counted(len(plan.pools), 'task')} in {counted(len(plan.layers), 'layer')}"


def between(plan: Plan) -> str:
    """Say what is shipped between pools, in all and by link.

    Examples
    --------
    >>> from dask_worker_pools.plan import Plan
    >>> between(Plan({"a": "A", "b": "B"}, {"a": [], "b": ["a"]}, {"a": "a", "b": "b"}, {"a": 8}))
    'Between pools: 8 B in 1 transfer (A → B)'
    """
    said = [text for text in (_sent_in_all(plan), read_anywhere(plan)) if text]
    return f"Between pools: {', and '.join(said)}" if said else "Nothing is sent between pools"


def read_anywhere(plan: Plan, keys: Collection[Key] | None = None) -> str:
    """Say how much tasks without a pool read of what is in pools; empty if they do not.

    Examples
    --------
    >>> from dask_worker_pools.plan import Plan
    >>> plan = Plan({"a": "A", "b": None}, {"a": [], "b": ["a"]}, {"a": "a", "b": "b"}, {"a": 8})
    >>> read_anywhere(plan)
    'up to 8 B read by tasks without a pool'
    """
    read = [key for key in plan.read_anywhere if keys is None or key in keys]
    return f"up to {outputs_text(plan, read)} read by tasks without a pool" if read else ""


def outputs_text(plan: Plan, keys: Collection[Key]) -> str:
    """Write the bytes of outputs, or how many there are where no size is known."""
    sizes = [plan.sizes.get(key) for key in keys]
    return bytes_text(sizes) if set(sizes) != {None} else counted(len(sizes), "output")


def _sent_in_all(plan: Plan) -> str:
    if not plan.transfers:
        return ""
    by_link: defaultdict[str, list[Transfer]] = defaultdict(list)
    for transfer in plan.transfers:
        by_link[f"{transfer.source} → {transfer.target}"].append(transfer)
    links = sorted(by_link, key=lambda link: (*_weight(by_link[link]), link))
    texts = [f"{link} {_amount(by_link[link])}" for link in links] if len(links) > 1 else links
    total = f"{_amount(plan.transfers)} in {counted(len(plan.transfers), 'transfer')}"
    if all(transfer.nbytes is None for transfer in plan.transfers):
        total = f"{counted(len(plan.transfers), 'transfer')} of unknown size"
    return f"{total} ({listed(texts, MAX_LINKS)})"


def table(plan: Plan) -> tuple[list[Row], int]:
    """Make the first rows of the table; with the number of layers that are left out.

    A layer has one row for each pool that it has tasks in. Before all layers comes data in memory.
    """
    rows = list(islice(_data_rows(plan), MAX_ROWS))
    shown = 0
    for label, layers in plan.layers_by_label.items():
        keys = [key for layer in layers for key in plan.keys_by_layer[layer]]
        of_layer = list(_rows_by_pool(plan, label, keys, _said))
        if rows and len(rows) + len(of_layer) > MAX_ROWS:
            break
        rows += of_layer
        shown += len(layers)
    return rows, len(plan.layers) - shown


def assumed(plan: Plan) -> list[str]:
    """Say what was assumed about sizes that are not known."""
    if len(plan.assumptions) <= MAX_ASSUMPTIONS:
        return list(plan.assumptions)
    more = len(plan.assumptions) - MAX_ASSUMPTIONS
    return [*plan.assumptions[:MAX_ASSUMPTIONS], f"… and {more} more such layers"]


def _data_rows(plan: Plan) -> Iterator[Row]:
    of_name: defaultdict[str, list[Key]] = defaultdict(list)
    for key in plan.in_memory:
        of_name[str(name_of(key))].append(key)
    names = short_names(of_name)
    for name, keys in of_name.items():
        yield from _rows_by_pool(plan, names[name], keys, _held)


def _held(plan: Plan, pool: str | None, keys: Collection[Key]) -> str:
    """Where data in memory is, as far as that is known, and how its size is."""
    source = plan.sources.get(str(name_of(next(iter(keys)))))
    said = "in memory" + (f", {source}" if source else "")
    return said if pool is None else f"{pool} ({said})"


def _rows_by_pool(
    plan: Plan,
    label: str,
    keys: Collection[Key],
    say: Callable[[Plan, str | None, Collection[Key]], str],
) -> Iterator[Row]:
    in_pool: defaultdict[str | None, list[Key]] = defaultdict(list)
    for key in keys:
        in_pool[plan.place_of(key)].append(key)
    name = shortened(label, MAX_NAME)
    for pool in sorted(in_pool, key=lambda pool: (pool is None, pool or "")):
        inside = in_pool[pool]
        yield Row(
            name,
            say(plan, pool, inside),
            str(sum(key in plan.pools for key in inside) or ""),
            _size(plan, inside),
            _sent(plan, inside),
        )
        name = ""


def _said(plan: Plan, pool: str | None, keys: Collection[Key]) -> str:
    """The pool of tasks, and what the user said about them."""
    counts = {
        "pinned": sum(key in plan.pinned for key in keys),
        "blocked": sum(key in plan.blocked for key in keys),
    }
    said = [word if n == len(keys) else f"{n} {word}" for word, n in counts.items() if n]
    return pool_name(pool) + (f" ({', '.join(said)})" if said else "")


def _size(plan: Plan, keys: Collection[Key]) -> str:
    known = [plan.sizes[key] for key in keys if key in plan.sizes]
    if not known:
        return "unknown"
    return ("≥ " if len(known) < len(keys) else "") + bytes_text(known)


def _sent(plan: Plan, keys: Collection[Key]) -> str:
    by_target: defaultdict[str, list[Transfer]] = defaultdict(list)
    for key in keys:
        for transfer in plan.transfers_of.get(key, ()):
            by_target[transfer.target].append(transfer)
    texts = [f"{target} {_amount(by_target[target])}" for target in sorted(by_target)]
    own = set(keys)
    if read := [key for key in plan.read_anywhere if key in own]:
        texts.append(f"{pool_name(None)} ≤ {outputs_text(plan, read)}")
    return listed(texts, MAX_TARGETS)


def _amount(transfers: Sequence[Transfer]) -> str:
    """Bytes of transfers, or how many there are where no size is known."""
    sizes = [transfer.nbytes for transfer in transfers]
    return bytes_text(sizes) if set(sizes) != {None} else counted(len(sizes), "output")


def _weight(transfers: Sequence[Transfer]) -> tuple[float, int]:
    """A key that sorts the largest first."""
    return -sum(transfer.nbytes or 0.0 for transfer in transfers), -len(transfers)


def _aligned(rows: Sequence[Row]) -> Iterator[str]:
    columns = list(zip(*map(astuple, rows), strict=True))
    widths = [max(map(len, column)) for column in columns]
    for row in rows:
        cells = zip(astuple(row), astuple(TO_THE_RIGHT), widths, strict=True)
        yield "  ".join(
            cell.rjust(width) if right else cell.ljust(width) for cell, right, width in cells
        ).rstrip()
