"""Draw a plan: each layer in the colour of its pool, and what crosses from one pool to another."""

from __future__ import annotations

import html
import itertools
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import graphviz
from dask.typing import Key
from dask.utils import key_split, natural_sort_key

from dask_worker_pools.collection import plan_pools
from dask_worker_pools.colors import fill_of, pool_colors, readable_on
from dask_worker_pools.errors import InvalidType, InvalidValue, PoolError
from dask_worker_pools.options import UNSAID, LinkCosts, Unsaid, only_said
from dask_worker_pools.plan import Plan, Transfer
from dask_worker_pools.report import outputs_text, read_anywhere
from dask_worker_pools.travel import travels
from dask_worker_pools.words import bytes_text, counted, name_of, pool_name

Level = Literal["layer", "task"]

#: Formats that can be written. "dot" is the source of the drawing, and needs no dot program.
FORMATS = ("png", "svg", "pdf", "dot", "jpeg", "jpg")
RASTER_FORMATS = frozenset({"png", "jpeg", "jpg"})

#: The largest plan that is drawn task by task; beyond that no one can read it.
MAX_TASKS = 500

GRAPH_ATTR = {
    "rankdir": "LR",
    "bgcolor": "white",
    "fontname": "Helvetica,Arial,sans-serif",
    "fontsize": "13",
    "labelloc": "t",
    "labeljust": "l",
    "nodesep": "0.35",
    "ranksep": "0.45",
    "pad": "0.2",
}
#: What may be said of the graph as a keyword: the attributes that Graphviz' dot knows, so that a
#: misspelt one, or an option of another function, is noticed.
# fmt: off
GRAPH_ATTRIBUTES = frozenset((
    "URL", "bgcolor", "center", "class", "colorscheme", "comment", "compound", "concentrate",
    "dpi", "fontcolor", "fontname", "fontpath", "fontsize", "gradientangle", "href", "id",
    "imagepath", "label", "labeljust", "labelloc", "landscape", "layout", "margin", "newrank",
    "nodesep", "nojustify", "ordering", "orientation", "outputorder", "pack", "packmode", "pad",
    "penwidth", "quantum", "rankdir", "ranksep", "ratio", "remincross", "resolution", "rotate",
    "searchsize", "size", "splines", "style", "stylesheet", "target", "tooltip", "truecolor",
    "viewport",
))
# fmt: on
#: The options of `visualize_pools`.
OPTIONS = ("filename", "format", "level", "balance", "link_cost", "capacity")
NODE_ATTR = {
    "shape": "box",
    "style": "rounded,filled",
    "fontname": "Helvetica,Arial,sans-serif",
    "fontsize": "13",
    "color": "#555555",
    "margin": "0.16,0.09",
}
EDGE_ATTR = {
    "color": "#8A8A8A",
    "arrowsize": "0.7",
    "fontname": "Helvetica,Arial,sans-serif",
    "fontsize": "12",
}
CROSSING_ATTR = {"color": "black", "penwidth": "2", "style": "dashed", "arrowsize": "0.9"}
LANDING_ATTR = {
    "shape": "ellipse",
    "style": "filled",
    "fontsize": "10",
    "margin": "0.03,0.01",
    "height": "0.3",
    "width": "0.6",
}
PINNED_ATTR = {"color": "black", "penwidth": "2.5"}

#: How many entries of the legend, or pools of one split layer, stand side by side.
PER_ROW = {"legend": 5, "split": 3}
#: Cells of a legend entry: a pool's colour, its number of tasks, the gap to the next entry.
CELLS_PER_ENTRY = 3
#: How many pools a split layer's label names; its tooltip names them all.
MAX_SPLIT_NAMES = 6


class GraphvizNotFound(PoolError, RuntimeError):
    """The ``dot`` program, which lays out and renders the drawing, is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "drawing needs Graphviz' program 'dot', which is not on the PATH. Install it with "
            "'apt install graphviz' (Debian, Ubuntu), 'brew install graphviz' (macOS), "
            "'conda install -c conda-forge graphviz' (any system) or 'choco install graphviz' "
            "(Windows); 'pip install graphviz' alone does not bring it. "
            'Without it, format="dot" still writes the drawing\'s source.'
        )


@travels
def visualize_pools(
    *objs: Any,
    filename: str | os.PathLike[str] | None = "dask-pools.svg",
    format: str | None = None,
    level: Level = "layer",
    balance: float | Unsaid = UNSAID,
    link_cost: LinkCosts | Unsaid = UNSAID,
    capacity: Mapping[str, float] | None = None,
    **kwargs: Any,
) -> Any:
    """Draw where each layer will run, and what will be shipped between pools.

    Nothing is computed: the picture shows what `propagate_pools` would decide.

    Parameters
    ----------
    *objs : Dask collections, HighLevelGraphs, containers of collections, or one Plan
        What to draw, planned together as one graph.
    filename : str, path or None
        File to write. If None, no file is written: the value returned shows the picture in a
        notebook.
    format : {"png", "svg", "pdf", "dot", "jpeg", "jpg"}, optional
        Format of the picture. By default the extension of `filename`, or "png" if it has none;
        if both are given, the format decides, and the extension follows it.
    level : {"layer", "task"}
        Draw one box per layer, or one per task (at most 500 tasks).
    balance, link_cost, capacity
        As for `plan_pools`. A Plan was made with its own.
    **kwargs
        Graphviz attributes of the graph, such as ``rankdir="BT"``, and the options of `draw`.

    Returns
    -------
    IPython.display.SVG, IPython.display.Image or None
        What a notebook shows: None for "pdf" and "dot", or if IPython is not installed.

    Raises
    ------
    InvalidType
        There is nothing to draw, an argument holds no Dask collection that can have pools, or a
        keyword is neither an option nor an attribute of the graph.
    InvalidValue
        Unknown format or level, an option that makes no sense, or more than 500 tasks with
        ``level="task"``.
    ConflictingPools
        A task is pinned to more than one pool.
    OSError
        The directory of `filename` does not exist or cannot be written to.
    GraphvizNotFound
        The ``dot`` program is not installed. Raised before any planning.

    See Also
    --------
    draw : the same drawing as a ``graphviz.Digraph``, from a Plan.

    Examples
    --------
    >>> import os, tempfile
    >>> import dask.array as da
    >>> from dask_worker_pools import pool, visualize_pools
    >>> with pool("A"):
    ...     a = da.ones((10, 10))
    >>> filename = os.path.join(tempfile.mkdtemp(), "pools.dot")
    >>> visualize_pools(a.sum(), filename=filename)
    >>> os.path.exists(filename)
    True
    """
    _check_level(level)
    path, format = _destination(filename, format)
    if format != "dot" and shutil.which("dot") is None:
        raise GraphvizNotFound
    _check_attributes(kwargs.keys() - {"graph_attr", "node_attr", "edge_attr"})
    counts = UNSAID if capacity is None else capacity
    options = only_said(balance=balance, link_cost=link_cost, capacity=counts)
    graph = draw(_as_plan(objs, options), level=level, **kwargs)
    return _write(graph, path, format)


def draw(
    plan: Plan,
    *,
    level: Level = "layer",
    graph_attr: Mapping[str, Any] | None = None,
    node_attr: Mapping[str, Any] | None = None,
    edge_attr: Mapping[str, Any] | None = None,
    **attrs: Any,
) -> graphviz.Digraph:
    """Draw a plan.

    Each transfer is counted on one edge, that to its first consumer, so that the bytes on all
    edges add up to ``plan.total_bytes``.

    Parameters
    ----------
    plan : Plan
        What to draw.
    level : {"layer", "task"}
        Draw one box per layer, or one per task (at most 500 tasks).
    graph_attr, node_attr, edge_attr : mapping, optional
        Graphviz attributes that replace the defaults.
    **attrs
        More attributes of the graph, of those in `GRAPH_ATTRIBUTES`; any other is said with
        `graph_attr`. ``label`` is a heading above title and legend.

    Returns
    -------
    graphviz.Digraph
        Not rendered yet; a notebook shows it.

    Raises
    ------
    InvalidType
        An attribute is none of those.
    InvalidValue
        Unknown level, or more than 500 tasks with ``level="task"``.

    Examples
    --------
    >>> from dask_worker_pools.plan import Plan
    >>> plan = Plan(
    ...     pools={"load": "A", "mean": "A", "subtract": "B"},
    ...     dependencies={"load": [], "mean": ["load"], "subtract": ["mean"]},
    ...     layer_of={"load": "load", "mean": "mean", "subtract": "subtract"},
    ...     sizes={"load": 800, "mean": 8},
    ... )
    >>> "8 B" in draw(plan).source
    True
    """
    _check_level(level)
    _check_attributes(attrs)
    known = _with_data(plan)
    shown = known if level == "layer" else _with_landings(known)
    boxes = _layer_boxes(plan) if level == "layer" else _task_boxes(plan)
    boxes += _data_boxes(plan, level)
    if level == "task":
        boxes += _landing_boxes(known, shown)
    edges = _Edges.between(boxes, shown)
    colors = pool_colors(pool for pool in plan.pools.values() if pool is not None)

    attributes = GRAPH_ATTR | _as_text(graph_attr or {}) | _as_text(attrs)
    attributes["label"] = _graph_label(plan, boxes, edges, colors, heading=attributes.get("label"))
    graph = graphviz.Digraph(
        "pools",
        graph_attr=attributes,
        node_attr=NODE_ATTR | _as_text(node_attr or {}),
        edge_attr=EDGE_ATTR | _as_text(edge_attr or {}),
    )
    for box in boxes:
        graph.node(box.node, **_box_attributes(box, shown, colors))
    for source, target in sorted(edges.local):
        read = edges.read.get((source, target), ())
        graph.edge(boxes[source].node, boxes[target].node, **_local_attributes(read, shown))
    for (source, target), transfers in sorted(edges.crossing.items(), key=lambda item: item[0]):
        graph.edge(
            boxes[source].node, boxes[target].node, **_crossing_attributes(transfers, plan.counting)
        )
    return graph


# --- What stands in the drawing ---------------------------------------------------------------


@dataclass(frozen=True)
class _Box:
    """One box of the drawing: a layer or a task."""

    node: str  #: its identifier in the dot source
    title: str  #: its short name, as shown
    name: str  #: its full name
    keys: Sequence[Key]  #: its tasks
    is_task: bool = False  #: whether it is drawn with level="task"
    is_landing: bool = False  #: whether an output crosses here once, for several tasks
    is_data: bool = False  #: whether it is no task, but what an earlier computation left in memory


def _layer_boxes(plan: Plan) -> list[_Box]:
    return [
        _Box(f"layer{i}", key_split(layer), layer, keys)
        for i, (layer, keys) in enumerate(plan.keys_by_layer.items())
    ]


def _data_boxes(plan: Plan, level: Level) -> list[_Box]:
    """A box for each collection, or each output, of which it is known where in memory it is."""
    keys = sorted(filter(plan.pinned.__contains__, plan.in_memory), key=_natural)
    if level == "task":
        return [
            _Box(f"data{i}", _task_title(key), str(key), [key], is_task=True, is_data=True)
            for i, key in enumerate(keys)
        ]
    named: defaultdict[str, list[Key]] = defaultdict(list)
    for key in keys:
        named[str(name_of(key))].append(key)
    return [
        _Box(f"data{i}", key_split(name), name, own, is_data=True)
        for i, (name, own) in enumerate(named.items())
    ]


def _with_data(plan: Plan) -> Plan:
    """The same plan with data in memory as if it were tasks, where it is known in which pool."""
    data = [key for key in plan.in_memory if key in plan.pinned]
    return replace(
        plan,
        pools={**plan.pools, **{key: plan.pinned[key] for key in data}},
        dependencies={**plan.dependencies, **dict.fromkeys(data, ())},
        layer_of={**plan.layer_of, **{key: str(name_of(key)) for key in data}},
    )


def _with_landings(plan: Plan) -> Plan:
    """The same plan with a task for each landing, between an output and its consumers there."""
    landings = {(t.key, t.target): t.landing for t in plan.transfers if t.landing is not None}
    dependencies: dict[Key, Collection[Key]] = {
        key: [landings.get((needed, plan.pools[key] or ""), needed) for needed in inputs]
        for key, inputs in plan.dependencies.items()
        if key in plan.pools
    }
    return Plan(
        pools={**plan.pools, **{landing: target for (_, target), landing in landings.items()}},
        dependencies=dependencies | {landing: [key] for (key, _), landing in landings.items()},
        layer_of={**plan.layer_of, **{landing: str(landing) for landing in landings.values()}},
        sizes={
            **plan.sizes,
            **{new: plan.sizes[key] for (key, _), new in landings.items() if key in plan.sizes},
        },
        pinned=plan.pinned,
        blocked=plan.blocked,
        counting=plan.counting,
        weights=plan.weights,
    )


def _task_boxes(plan: Plan) -> list[_Box]:
    """A box for each task."""
    if len(plan.pools) > MAX_TASKS:
        raise InvalidValue(
            "level",
            "task",
            f'level="task" draws at most {MAX_TASKS} tasks, but this graph has '
            f'{len(plan.pools)}. Use level="layer", or fewer chunks.',
        )
    # Tasks of a layer come in any order; (x, 2) goes before (x, 10).
    keys = [key for layer in plan.keys_by_layer.values() for key in sorted(layer, key=_natural)]
    return [
        _Box(f"task{i}", _task_title(key), str(key), [key], is_task=True)
        for i, key in enumerate(keys)
    ]


def _landing_boxes(plan: Plan, shown: Plan) -> list[_Box]:
    """A box for each task that only `shown` has."""
    landings = sorted(shown.pools.keys() - plan.pools.keys(), key=_natural)
    return [
        _Box(f"landing{i}", "landing", str(key), [key], is_task=True, is_landing=True)
        for i, key in enumerate(landings)
    ]


def _natural(key: Key) -> Any:
    return natural_sort_key(str(key))


def _task_title(key: Key) -> str:
    index = ", ".join(map(str, key[1:])) if isinstance(key, tuple) else ""
    return f"{key_split(key)} ({index})" if index else str(key_split(key))


@dataclass(frozen=True)
class _Edges:
    """Edges between boxes, which are given by their positions."""

    local: Collection[tuple[int, int]]  #: something stays in its pool, or has none
    crossing: Mapping[tuple[int, int], Sequence[Transfer]]  #: transfers counted on the edge
    #: outputs of pools that are read by tasks without a pool, counted on the edge
    read: Mapping[tuple[int, int], Sequence[Key]]

    @classmethod
    def between(cls, boxes: Sequence[_Box], plan: Plan) -> _Edges:
        """Edges between `boxes`, with what crosses on the first edge that uses it."""
        box_of = {key: i for i, box in enumerate(boxes) for key in box.keys}
        sent: dict[tuple[Key, str | None], Transfer] = {
            (transfer.key, transfer.target): transfer for transfer in plan.transfers
        }
        local: set[tuple[int, int]] = set()
        crossing: dict[tuple[int, int], list[Transfer]] = {}
        read: dict[tuple[int, int], list[Key]] = {}
        read_anywhere = set(plan.read_anywhere)
        counted_on: dict[tuple[Key, str | None], tuple[int, int]] = {}
        for key, needed in _drawable_dependencies(plan):
            ends = box_of[needed], box_of[key]
            route = needed, plan.pools[key]
            if route in sent:
                crossing.setdefault(ends, [])
                counted_on[route] = min(ends, counted_on.get(route, ends))
            elif route[1] is None and needed in read_anywhere:
                local.add(ends)
                counted_on[route] = min(ends, counted_on.get(route, ends))
            elif ends[0] != ends[1]:  # inside a layer, what stays in its pool is no news
                local.add(ends)
        for route, ends in counted_on.items():
            if route in sent:
                crossing[ends].append(sent[route])
            else:
                read.setdefault(ends, []).append(route[0])
        return cls(local, crossing, read)


def _drawable_dependencies(plan: Plan) -> Iterator[tuple[Key, Key]]:
    """Yield each task with each of its inputs; data of unknown place have no box."""
    for key, inputs in plan.dependencies.items():
        for needed in inputs:
            if key in plan.pools and needed in plan.pools:
                yield key, needed


# --- Boxes and edges --------------------------------------------------------------------------


def _box_attributes(box: _Box, plan: Plan, colors: Mapping[str, str]) -> dict[str, str]:
    shares = _by_pool(plan.pools[key] for key in box.keys)
    if box.is_landing:
        return _landing_attributes(box, plan, colors)
    fills = [fill_of(pool, colors) for pool in shares]
    said = [_in_memory(box, plan)] if box.is_data else _said(box, plan)
    lines = [f"<B>{_escape(box.title)}</B>", *_where(box, shares), *said]
    label = "<BR/>".join(lines)
    attributes = {"tooltip": _box_tooltip(box, plan, shares)}
    if any(key in plan.pinned for key in box.keys):
        attributes |= PINNED_ATTR
    if len(shares) == 1:
        text = readable_on(fills[0])
        return attributes | {"label": f"<{label}>", "fillcolor": fills[0], "fontcolor": text}
    return attributes | {
        # No text colour is readable on every stripe: the text stands on a white plate.
        "label": f'<<TABLE BORDER="0" CELLBORDER="0" CELLPADDING="5" BGCOLOR="white" '
        f'STYLE="rounded"><TR><TD>{label}</TD></TR></TABLE>>',
        "style": "striped",
        "fillcolor": _stripes(fills, list(shares.values())),
        "fontcolor": "black",
    }


def _landing_attributes(box: _Box, plan: Plan, colors: Mapping[str, str]) -> dict[str, str]:
    [key] = box.keys
    fill = fill_of(plan.pools[key], colors)
    tooltip = f"{box.name}\ncrosses once, for all that need it in {plan.pools[key]}"
    return LANDING_ATTR | {
        "label": box.title,
        "fillcolor": fill,
        "fontcolor": readable_on(fill),
        "tooltip": "\n".join(map(_escape, tooltip.split("\n"))),
    }


def _by_pool(pools: Iterable[str | None]) -> dict[str | None, int]:
    """Count tasks by pool; pools in the order of their names, no pool last."""
    counts = Counter(pools)
    return {pool: counts[pool] for pool in sorted(counts, key=lambda p: (p is None, p or ""))}


def _where(box: _Box, shares: Mapping[str | None, int]) -> list[str]:
    """Lines that say how many of the box's tasks run in which pool."""
    if len(shares) == 1:
        [(pool, n)] = shares.items()
        place = "no pool" if pool is None else f"in {_escape(pool)}"
        if box.is_task:
            return [place]
        return [
            counted(n, "output" if box.is_data else "task")
            + (", " if pool is None else " ")
            + place
        ]
    named = [f"{_escape(pool_name(pool))}: {n}" for pool, n in shares.items()]
    if len(named) > MAX_SPLIT_NAMES:
        more = len(named) - MAX_SPLIT_NAMES + 1
        named[-more:] = [f"and {more} more"]
    return [", ".join(row) for row in _rows(named, PER_ROW["split"])]


def _said(box: _Box, plan: Plan) -> list[str]:
    """Lines that say what the user decided about the box's tasks."""
    total = len(box.keys)
    counts = {
        "pinned": sum(key in plan.pinned for key in box.keys),
        "blocked": sum(key in plan.blocked for key in box.keys),
    }
    return [word if n == total else f"{n} of {total} {word}" for word, n in counts.items() if n > 0]


def _in_memory(box: _Box, plan: Plan) -> str:
    """A line that says how large data in memory is."""
    return f"{bytes_text(plan.sizes.get(key) for key in box.keys)} in memory"


def _box_tooltip(box: _Box, plan: Plan, shares: Mapping[str | None, int]) -> str:
    where = ", ".join(f"{pool_name(pool)}: {counted(n, 'task')}" for pool, n in shares.items())
    produced = bytes_text(plan.sizes.get(key) for key in box.keys)
    return "\n".join(map(_escape, [box.name, where, f"bytes out: {produced}"]))


def _stripes(fills: Sequence[str], tasks: Sequence[int]) -> str:
    """Graphviz' colour list: each fill with its share, the last one taking what remains."""
    total = sum(tasks)
    shares = [f"{fill};{n / total:.6f}" for fill, n in zip(fills[:-1], tasks[:-1], strict=True)]
    return ":".join([*shares, fills[-1]])


def _local_attributes(read: Sequence[Key], plan: Plan) -> dict[str, str]:
    """Attributes of an edge inside a pool, or to tasks without one, which may be elsewhere."""
    if not read:
        return {}
    tooltip = "read by tasks without a pool, wherever they run"
    return {"label": f"≤ {outputs_text(plan, read)}", "tooltip": tooltip, "labeltooltip": tooltip}


def _crossing_attributes(transfers: Sequence[Transfer], counting: bool) -> dict[str, str]:
    """Attributes of an edge between pools; without transfers, all are counted elsewhere."""
    if not transfers:
        tooltip = "shipped once, and counted on another edge"
        return CROSSING_ATTR | {"label": "shared", "tooltip": tooltip, "labeltooltip": tooltip}
    links = sorted({f"{pool_name(t.source)} → {t.target}" for t in transfers})
    number = counted(len(transfers), "output")
    amount = number if counting else bytes_text(t.nbytes for t in transfers)
    n = sum(t.landing is not None for t in transfers)
    once = "" if not n else "lands once" if n == len(transfers) else f"{n} land once"
    tooltip = _escape(
        f"{counted(len(transfers), 'transfer')}: {', '.join(links)}" + (f"; {once}" if once else "")
    )
    return CROSSING_ATTR | {
        "label": f"<<B>{amount}</B>>",
        "tooltip": tooltip,
        "labeltooltip": tooltip,
    }


# --- Title and legend -------------------------------------------------------------------------


def _graph_label(
    plan: Plan, boxes: Sequence[_Box], edges: _Edges, colors: Mapping[str, str], heading: str | None
) -> str:
    """Title and legend as one table: Graphviz keeps a graph's label clear of the drawing."""
    entries = [_pool_entry(pool, n, colors) for pool, n in _by_pool(plan.pools.values()).items()]
    columns = CELLS_PER_ENTRY * max(1, min(len(entries), PER_ROW["legend"]))
    rows = [_across(columns, f'<FONT POINT-SIZE="15">{_title(plan, edges)}</FONT>')]
    if heading:
        rows.insert(0, _across(columns, f'<B><FONT POINT-SIZE="17">{_escape(heading)}</FONT></B>'))
    rows += ["".join(row) for row in _rows(entries, PER_ROW["legend"])]
    if edges.crossing:
        rows.append(_crossing_entry(edges, columns, any(box.is_landing for box in boxes)))
    rows.append('<TD HEIGHT="4"></TD>')  # keeps the legend off the first boxes
    cells = "".join(f"<TR>{row}</TR>" for row in rows)
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLPADDING="3" CELLSPACING="4">{cells}</TABLE>>'


def _across(columns: int, text: str) -> str:
    return f'<TD ALIGN="LEFT" COLSPAN="{columns}">{text}</TD>'


def _title(plan: Plan, edges: _Edges) -> str:
    transfers = list(itertools.chain.from_iterable(edges.crossing.values()))
    said = [read_anywhere(plan)] if plan.read_anywhere else []
    if transfers:
        number = counted(len(transfers), "transfer")
        total = bytes_text(transfer.nbytes for transfer in transfers)
        counts = f"<B>{number}</B> ({_escape(plan.assumptions[0])})" if plan.counting else ""
        said.insert(0, counts or f"<B>{total}</B> in {number}")
    return f"Between pools: {', and '.join(said)}" if said else "Nothing is sent between pools"


def _pool_entry(pool: str | None, n_tasks: int, colors: Mapping[str, str]) -> str:
    """Cells that show a pool's colour and number of tasks, and the gap to the next entry."""
    fill, tasks = fill_of(pool, colors), counted(n_tasks, "task")
    return (
        f'<TD BGCOLOR="{fill}" STYLE="rounded" WIDTH="40"><FONT COLOR="{readable_on(fill)}">'
        f"<B> {_escape(pool_name(pool))} </B></FONT></TD>"
        f'<TD ALIGN="LEFT">{tasks}</TD><TD WIDTH="8"></TD>'
    )


def _crossing_entry(edges: _Edges, columns: int, lands: bool) -> str:
    """Cells that explain the edges between pools, under those of the pools."""
    lines = ["sent from one pool to another"]
    if lands:
        lines.append("landing: sent once, for several tasks")
    if not all(edges.crossing.values()):
        lines.append("shared: sent once, counted on another edge")
    # A line is aligned by the break at its end.
    meaning = "".join(f'{line}<BR ALIGN="LEFT"/>' for line in lines) if lines[1:] else lines[0]
    # A cell that has only a lower border, dashed, looks like the edges that it explains.
    return (
        '<TD><TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0">'
        '<TR><TD BORDER="2" SIDES="B" STYLE="dashed" WIDTH="36" HEIGHT="8"></TD></TR>'
        f'<TR><TD HEIGHT="8"></TD></TR></TABLE></TD>{_across(columns - 1, meaning)}'
    )


# --- Text -------------------------------------------------------------------------------------


def _escape(text: str) -> str:
    """`text` as Graphviz shows it letter for letter, in labels and tooltips.

    Both are read as XML, without control characters. Afterwards a backslash starts an escape, in
    some versions of Graphviz even a doubled one: a sign that looks the same stands for it.
    """
    printable = "".join(c if c.isprintable() else " " for c in text)
    return html.escape(printable).replace("\\", "\N{SET MINUS}")


def _rows(entries: Sequence[str], length: int) -> list[Sequence[str]]:
    return [entries[start : start + length] for start in range(0, len(entries), length)]


def _as_text(attributes: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in attributes.items()}


# --- Arguments and files ----------------------------------------------------------------------


def _check_level(level: object) -> None:
    if level not in get_args(Level):
        problem = f'level must be "layer" or "task", but got {level!r}.'
        raise InvalidValue("level", level, problem)


def _check_attributes(names: Iterable[str]) -> None:
    """Refuse keywords that Graphviz would pass over without a word."""
    if unknown := sorted(set(names) - GRAPH_ATTRIBUTES):
        raise InvalidType(
            "attribute",
            unknown[0],
            f"{unknown[0]!r} is neither an option ({', '.join(OPTIONS)}) nor one of the attributes "
            f"of the graph that can be said so: {', '.join(sorted(GRAPH_ATTRIBUTES))}. Say other "
            f"attributes with graph_attr={{{unknown[0]!r}: …}}.",
        )


def _destination(
    filename: str | os.PathLike[str] | None, format: str | None
) -> tuple[Path | None, str]:
    """The file to write, if any, and its format; an error if that cannot work."""
    if filename is None:
        return None, _known_format(format or "png")
    if not isinstance(filename, str | os.PathLike):
        problem = f"filename is a path, or None for no file, but got {filename!r}."
        raise InvalidType("filename", filename, problem)
    path = Path(filename)
    if not path.name:
        problem = f"cannot write to {os.fspath(filename)!r}: it names no file."
        raise InvalidValue("filename", filename, problem)
    extension = path.suffix.removeprefix(".").lower()
    format = _known_format(format or extension or "png")
    if extension != format:
        stem = path.stem if extension in FORMATS else path.name
        path = path.with_name(f"{stem}.{format}")
    _check_directory(path)
    return path, format


def _known_format(format: str) -> str:
    if str(format).lower() not in FORMATS:
        raise InvalidValue(
            "format",
            format,
            f"cannot draw in format {format!r}. Formats are {', '.join(map(repr, FORMATS))}: "
            "use one as the filename's extension, or say format=….",
        )
    return format.lower()


def _check_directory(path: Path) -> None:
    directory = path.parent
    if not directory.is_dir():
        raise FileNotFoundError(f"cannot write {str(path)!r}: no directory {str(directory)!r}.")
    if not os.access(directory, os.W_OK):
        raise PermissionError(
            f"cannot write {str(path)!r}: no permission to write in {str(directory)!r}."
        )


def _as_plan(objs: Sequence[Any], options: Mapping[str, Any]) -> Plan:
    if not any(isinstance(obj, Plan) for obj in objs):
        return plan_pools(*objs, **options)
    if len(objs) > 1:
        problem = f"a Plan is drawn alone, but got {len(objs)} arguments."
        raise InvalidType("objs", objs, problem)
    for name, value in options.items():
        problem = f"{name}={value!r} comes too late for a Plan: say it to plan_pools."
        raise InvalidType(name, value, problem)
    plan: Plan = objs[0]
    return plan


def _write(graph: graphviz.Digraph, path: Path | None, format: str) -> Any:
    """Write the file, if any, and return what a notebook shows.

    As ``dask.dot.graphviz_to_file``, which however needs the dot program for format "dot", and
    refuses "jpg" where IPython is installed.
    """
    if format == "dot":
        data = graph.source.encode()
    else:
        if format in RASTER_FORMATS:
            graph.graph_attr.setdefault("dpi", "144")
        data = graph.pipe(format=format)
    if path is not None:
        path.write_bytes(data)
    return _shown_in_notebook(data, format)


def _shown_in_notebook(data: bytes, format: str) -> Any:
    try:
        from IPython import display
    except ImportError:
        return None
    if format == "svg":
        return display.SVG(data=data)
    if format in RASTER_FORMATS:
        return display.Image(data=data, format=format)
    return None
