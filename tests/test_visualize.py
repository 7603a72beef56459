"""Drawing a plan: what the dot source says, what files come out, and what is refused."""

from __future__ import annotations

import html
import json
import os
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import dask.array as da
import graphviz
import pytest
from plans import plan_of

from dask_worker_pools import plan_pools, pool, visualize
from dask_worker_pools.colors import NO_POOL_COLOR, contrast, pool_colors
from dask_worker_pools.plan import Plan
from dask_worker_pools.visualize import (
    GraphvizNotFound,
    draw,
    visualize_pools,
)

MiB = 2**20
LEVELS: tuple[visualize.Level, ...] = ("layer", "task")

#: The first bytes of a file of each format.
MAGIC = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff",
    "jpg": b"\xff\xd8\xff",
    "svg": b"<?xml",
    "pdf": b"%PDF-",
    "dot": b"digraph ",
}


@pytest.fixture
def readme() -> Plan:
    r"""Plan of the README's example, where one small mean goes from A to B.

    load_a (A) -> sub (A) -> sum (A)
             \-> mean (A) -> minus (B)
    load_b (B) -------------/
    """
    return plan_of(
        {"load_a": "A", "sub": "A", "sum": "A", "mean": "A", "load_b": "B", "minus": "B"},
        "load_a>sub sub>sum load_a>mean mean>minus load_b>minus",
        sizes={"load_a": 800, "sub": 800, "mean": 8, "load_b": 80, "minus": 80},
        pinned="load_a load_b",
    )


class Drawing:
    """What the dot program reads in a drawing."""

    def __init__(self, graph: graphviz.Digraph) -> None:
        parsed = json.loads(graph.pipe("dot_json", encoding="utf-8"), strict=False)
        boxes: list[dict[str, Any]] = parsed.get("objects", [])
        titles = {box["_gvid"]: _lines(box["label"])[0] for box in boxes}
        #: Boxes by the title in their label.
        self.boxes = {titles[box["_gvid"]]: box for box in boxes}
        self.edge_attributes: list[dict[str, Any]] = parsed.get("edges", [])
        #: Title of the source, title of the target, label or None, of each edge.
        self.edges = [
            (
                titles[edge["tail"]],
                titles[edge["head"]],
                " ".join(_lines(edge.get("label", ""))) or None,
            )
            for edge in self.edge_attributes
        ]
        self.attributes = parsed
        #: Lines of title and legend, a row of the legend being one line.
        self.legend = _lines(parsed["label"])

    def lines(self, title: str) -> list[str]:
        """Lines of a box's label."""
        return _lines(self.boxes[title]["label"])


def _lines(label: str) -> list[str]:
    """Text of a label, line by line, without its markup."""
    broken = re.sub(r"</TR>|<BR[^>]*/>", "\n", label)
    text = html.unescape(re.sub(r"<[^>]*>", " ", broken))
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


# --- Boxes ------------------------------------------------------------------------------------


def test_a_box_per_layer(readme: Plan) -> None:
    """Each layer is a box with its short name, its number of tasks and its pool."""
    drawing = Drawing(draw(readme))
    assert list(drawing.boxes) == ["load_a", "sub", "sum", "mean", "load_b", "minus"]
    assert drawing.lines("sub") == ["sub", "1 task in A"]
    assert drawing.lines("minus") == ["minus", "1 task in B"]


def test_a_box_has_the_colour_of_its_pool(readme: Plan) -> None:
    """Layers of one pool share its colour, and layers of another have another."""
    boxes = Drawing(draw(readme)).boxes
    colors = {title: box["fillcolor"] for title, box in boxes.items()}
    assert {colors[t] for t in ("load_a", "sub", "sum", "mean")} == {pool_colors("AB")["A"]}
    assert {colors[t] for t in ("load_b", "minus")} == {pool_colors("AB")["B"]}


def test_tooltip_says_the_whole_name_and_bytes_out() -> None:
    """A box's tooltip has the layer's full name, its pools, and the bytes of its outputs."""
    plan = plan_of({"load.0": "A", "load.1": "B"}, sizes={"load.0": MiB, "load.1": MiB})
    tooltip = Drawing(draw(plan)).boxes["load"]["tooltip"]
    assert tooltip.split("\n") == ["load-0123abcd", "A: 1 task, B: 1 task", "bytes out: 2.00 MiB"]


def test_split_layer_is_striped_in_proportion() -> None:
    """A layer split between pools has a stripe per pool, as wide as its share of the tasks."""
    plan = plan_of({f"add.{i}": "A" if i < 6 else "B" for i in range(8)})
    drawing = Drawing(draw(plan))
    box = drawing.boxes["add"]
    colors = pool_colors("AB")
    assert box["style"] == "striped"
    assert box["fillcolor"] == f"{colors['A']};0.750000:{colors['B']}"
    assert drawing.lines("add") == ["add", "A: 6, B: 2"]


def test_split_layer_may_be_partly_without_pool() -> None:
    """Tasks without a pool in a split layer have a stripe and a word too, after the pools."""
    drawing = Drawing(draw(plan_of({"add.0": None, "add.1": "B", "add.2": "A"})))
    assert drawing.lines("add") == ["add", "A: 1, B: 1, no pool: 1"]
    assert drawing.boxes["add"]["fillcolor"].endswith(f":{NO_POOL_COLOR}")


def test_shares_of_a_split_layer_never_exceed_the_whole() -> None:
    """The dot program accepts the stripes of layers split into many uneven shares."""
    pools = {f"add.{i}": f"pool{i % 7}" for i in range(1000)}
    fills = Drawing(draw(plan_of(pools))).boxes["add"]["fillcolor"].split(":")
    shares = [float(fill.partition(";")[2]) for fill in fills[:-1]]
    assert len(fills) == 7
    assert sum(shares) + 142 / 1000 == pytest.approx(1, abs=1e-4)


def test_layer_split_between_many_pools_stays_small() -> None:
    """A label names the first pools of a widely split layer; the tooltip names all."""
    drawing = Drawing(draw(plan_of({f"add.{i}": f"p{i:02d}" for i in range(50)})))
    assert drawing.lines("add") == [
        "add",
        "p00: 1, p01: 1, p02: 1",
        "p03: 1, p04: 1, and 45 more",
    ]
    assert "p49: 1 task" in drawing.boxes["add"]["tooltip"]


def test_pinned_layers_are_marked(readme: Plan) -> None:
    """Layers that the user pinned have a bold border and the word; others have neither."""
    drawing = Drawing(draw(readme))
    assert drawing.lines("load_a") == ["load_a", "1 task in A", "pinned"]
    assert float(drawing.boxes["load_a"]["penwidth"]) > 2
    assert drawing.lines("sub")[-1] == "1 task in A"
    assert "penwidth" not in drawing.boxes["sub"]


def test_partly_pinned_layer_says_how_many() -> None:
    """A layer of which some tasks are pinned says how many."""
    plan = plan_of({"add.0": "A", "add.1": "A", "add.2": "A"}, pinned="add.1")
    assert Drawing(draw(plan)).lines("add") == ["add", "3 tasks in A", "1 of 3 pinned"]


def test_blocked_layers_say_so() -> None:
    """A layer made under pool(None) says that it is blocked; a free one says only 'no pool'."""
    plan = plan_of({"write": None, "read": None}, blocked="write")
    drawing = Drawing(draw(plan))
    assert drawing.lines("write") == ["write", "1 task, no pool", "blocked"]
    assert drawing.lines("read") == ["read", "1 task, no pool"]
    assert drawing.boxes["write"]["fillcolor"] == NO_POOL_COLOR


@pytest.mark.parametrize("name", ["<b>", 'say "x"', "a&amp;b", "tab\there", "\x01bell", "a:b"])
def test_odd_names_are_shown_letter_for_letter(name: str) -> None:
    """Names that mean something to dot or HTML stand in tooltips as they are, blanks aside."""
    plan = Plan({"k": name}, {"k": []}, {"k": name}, {})
    graph = draw(plan)
    assert graph.pipe("svg").startswith(MAGIC["svg"])
    shown = html.unescape(Drawing(graph).attributes["objects"][0]["tooltip"])
    assert shown.splitlines()[0] == re.sub(r"[\t\x01]", " ", name)


def test_backslash_is_no_escape_of_dot() -> None:
    r"""A name with ``\N``, which dot would replace by the name of its node, shows no such name."""
    plan = Plan({"k": r"pool\N"}, {"k": []}, {"k": r"layer\N"}, {})
    svg = draw(plan).pipe("svg", encoding="utf-8")
    assert "in pool\N{SET MINUS}N" in svg
    shown = [line for line in svg.splitlines() if "<text" in line or "xlink:title" in line]
    assert len(shown) == 6
    assert "layer0" not in "".join(shown)


# --- Edges ------------------------------------------------------------------------------------


def test_crossing_edge_is_apart_and_carries_its_bytes(readme: Plan) -> None:
    """The edge between pools is dashed, bold and labelled with its bytes; the others are plain."""
    drawing = Drawing(draw(readme))
    assert ("mean", "minus", "8 B") in drawing.edges
    assert [label for *_, label in drawing.edges].count(None) == 4
    by_label = dict(
        zip((label for *_, label in drawing.edges), drawing.edge_attributes, strict=True)
    )
    assert by_label["8 B"]["style"] == "dashed"
    assert float(by_label["8 B"]["penwidth"]) >= 2
    assert by_label["8 B"]["tooltip"] == "1 transfer: A → B"
    assert by_label["8 B"]["color"] != by_label[None]["color"]
    assert not by_label[None].get("style")


def test_transfers_of_a_pair_of_layers_are_added_up() -> None:
    """Several transfers between two layers are one edge, with the sum of their bytes.

    load.0 (A), load.1 (A), load.2 (B) -> sum (B)
    """
    plan = plan_of(
        {"load.0": "A", "load.1": "A", "load.2": "B", "sum": "B"},
        "load.0>sum load.1>sum load.2>sum",
        sizes={"load.0": 3 * MiB, "load.1": 5 * MiB, "load.2": 7 * MiB},
    )
    edges = Drawing(draw(plan)).edges
    assert sorted(edges, key=str) == [("load", "sum", "8.00 MiB"), ("load", "sum", None)]


@pytest.mark.parametrize(
    ("sizes", "label"),
    [
        ({}, "size unknown"),
        ({"load.0": 8 * MiB}, "≥ 8.00 MiB"),
        ({"load.0": 8 * MiB, "load.1": 0}, "8.00 MiB"),
        ({"load.0": 0.0, "load.1": 0.0}, "0 B"),
    ],
)
def test_unknown_sizes_are_said(sizes: dict[str, float], label: str) -> None:
    """An edge and the title say whether none or only some of the sizes are known."""
    plan = plan_of({"load.0": "A", "load.1": "A", "sum": "B"}, "load.0>sum load.1>sum", sizes=sizes)
    drawing = Drawing(draw(plan))
    assert drawing.edges == [("load", "sum", label)]
    assert drawing.legend[0] == f"Between pools: {label} in 2 transfers"


def test_transfer_is_counted_on_one_edge_only() -> None:
    """An output that several layers of a pool use is counted once, and 'shared' elsewhere.

    mask (A) -> one (B), two (B), three (C)
    """
    plan = plan_of(
        {"mask": "A", "one": "B", "two": "B", "three": "C"},
        "mask>one mask>two mask>three",
        sizes={"mask": MiB},
    )
    drawing = Drawing(draw(plan))
    assert drawing.edges == [
        ("mask", "one", "1.00 MiB"),
        ("mask", "two", "shared"),
        ("mask", "three", "1.00 MiB"),
    ]
    assert plan.total_bytes == 2 * MiB
    assert drawing.legend[0] == "Between pools: 2.00 MiB in 2 transfers"


@pytest.mark.parametrize("level", ["layer", "task"])
def test_bytes_on_edges_add_up_to_the_total(level: visualize.Level) -> None:
    """The labels of all edges add up to the plan's total, whatever consumes what."""
    tasks = {f"{layer}.{i}": "ABC"[(i + n) % 3] for n, layer in enumerate("xyz") for i in range(6)}
    below = [f"x.{i}>y.{j}" for i in range(6) for j in range(6) if (i * j) % 4 != 1]
    further = [f"{layer}.{i}>z.{j}" for layer in "xy" for i in range(6) for j in range(i, 6)]
    sizes = {key: n + 1 for n, key in enumerate(tasks)}  # below 900 B labels are exact
    plan = plan_of(tasks, " ".join(below + further), sizes=sizes)
    labels = [label for *_, label in Drawing(draw(plan, level=level)).edges if label]
    counted = [int(label.removesuffix(" B")) for label in labels if label != "shared"]
    assert sum(counted) == plan.total_bytes > 0


def test_crossing_inside_a_layer_is_drawn() -> None:
    """A transfer between two tasks of one layer is an edge from the layer to itself."""
    plan = plan_of({"tree.0": "A", "tree.1": "B"}, "tree.0>tree.1", sizes={"tree.0": 5})
    assert Drawing(draw(plan)).edges == [("tree", "tree", "5 B")]


def test_dependency_inside_a_layer_and_pool_is_not_drawn() -> None:
    """What one task of a layer hands to another in the same pool is left out."""
    plan = plan_of({"tree.0": "A", "tree.1": "A"}, "tree.0>tree.1", sizes={"tree.0": 5})
    assert Drawing(draw(plan)).edges == []


def test_edge_to_no_pool_says_what_may_be_sent() -> None:
    """Tasks without a pool run anywhere: an edge to them says what may have to be sent."""
    plan = plan_of(
        {"load": "A", "show": None, "save": "B"}, "load>show show>save", sizes={"load": 9}
    )
    assert [label for *_, label in Drawing(draw(plan)).edges] == ["≤ 9 B", None]


def test_data_already_in_memory_have_no_box() -> None:
    """A dependency that is in no layer, such as a future's data, is left out of the drawing."""
    plan = Plan({"sum": "A"}, {"sum": ["future"]}, {"sum": "sum-1"}, {})
    drawing = Drawing(draw(plan))
    assert list(drawing.boxes) == ["sum"]
    assert drawing.edges == []


# --- Title and legend -------------------------------------------------------------------------


def test_legend_names_what_is_there(readme: Plan) -> None:
    """Title and legend give the bytes between pools, tasks per pool, and what dashes mean."""
    assert Drawing(draw(readme)).legend == [
        "Between pools: 8 B in 1 transfer",
        "A 4 tasks B 2 tasks",
        "sent from one pool to another",
    ]


def test_legend_leaves_out_what_is_not_there() -> None:
    """Without crossings and without free tasks the legend speaks of neither."""
    legend = Drawing(draw(plan_of({"load": "A"}))).legend
    assert legend == ["Nothing is sent between pools", "A 1 task"]


def test_legend_shows_no_pool_last() -> None:
    """Tasks without a pool are an entry of their own, after all pools."""
    legend = Drawing(draw(plan_of({"a": None, "b": "zebra", "c": "ant"}))).legend
    assert legend[1] == "ant 1 task zebra 1 task no pool 1 task"


def test_legend_explains_shared_edges_if_there_are_any() -> None:
    """The word 'shared' is explained where it is used."""
    plan = plan_of({"mask": "A", "one": "B", "two": "B"}, "mask>one mask>two")
    assert Drawing(draw(plan)).legend[-1] == "shared: sent once, counted on another edge"


def test_legend_of_many_pools_has_several_rows() -> None:
    """Ten pools are legible: five entries of the legend stand in a row."""
    legend = Drawing(draw(plan_of({f"load{i}": f"p{i}" for i in range(10)}))).legend
    assert [row.count("task") for row in legend[1:]] == [5, 5]


def test_empty_plan_is_drawn() -> None:
    """A plan without tasks is an empty drawing, no error."""
    drawing = Drawing(draw(Plan({}, {}, {}, {})))
    assert drawing.boxes == {}
    assert drawing.legend == ["Nothing is sent between pools"]


@pytest.mark.parametrize("level", ["layer", "task"])
def test_same_plan_same_source(level: visualize.Level) -> None:
    """The source does not depend on the order of a layer's tasks, or of dependencies."""
    sources, users = [f"load.{i}" for i in range(12)], [f"sum.{i}" for i in range(12)]
    edges = [f"{source}>{user}" for source in sources for user in users]
    where: dict[Any, str] = {key: "ABC"[i % 5 % 3] for i, key in enumerate(sources + users)}
    sizes = {key: 0.1 * i for i, key in enumerate(where)}
    plan = plan_of(where, " ".join(edges), sizes=sizes)
    turned = plan_of(
        {key: where[key] for key in sources[::-1] + users[::-1]},
        " ".join(edges[::-1]),
        sizes=sizes,
    )
    assert draw(plan, level=level).source == draw(turned, level=level).source
    assert plan.transfers != turned.transfers


# --- Colours ----------------------------------------------------------------------------------


def test_boxes_use_the_readable_colour() -> None:
    """Boxes write in black or white by their fill; split boxes write black on a white plate."""
    pools: dict[str, str | None] = {f"load{i}": f"p{i:02d}" for i in range(20)}
    drawing = Drawing(draw(plan_of(pools | {"add.0": "p05", "add.1": "p04"})))
    for title in pools:
        box = drawing.boxes[title]
        assert contrast(box["fontcolor"], box["fillcolor"]) >= 4.5
    assert {drawing.boxes[title]["fontcolor"] for title in pools} == {"#000000", "#FFFFFF"}
    assert drawing.boxes["add"]["fontcolor"] == "black"
    assert 'BGCOLOR="white"' in drawing.boxes["add"]["label"]


# --- Task level -------------------------------------------------------------------------------


def test_task_level_draws_tasks() -> None:
    """With level="task" each task is a box, titled by its short name and its chunk."""
    keys: Sequence[Any] = [("load-0123abcd", 0, 1), ("load-0123abcd", 0, 2), "sum-0123abcd"]
    plan = Plan(
        dict(zip(keys, ["A", None, "B"], strict=True)),
        {keys[0]: [], keys[1]: [], keys[2]: keys[:2]},
        {keys[0]: "load-0123abcd", keys[1]: "load-0123abcd", keys[2]: "sum-0123abcd"},
        {keys[0]: 7},
        pinned={keys[0]: "A"},
    )
    drawing = Drawing(draw(plan, level="task"))
    assert drawing.lines("load (0, 1)") == ["load (0, 1)", "in A", "pinned"]
    assert drawing.lines("load (0, 2)") == ["load (0, 2)", "no pool"]
    assert ("load (0, 1)", "sum", "7 B") in drawing.edges
    assert ("load (0, 2)", "sum", None) in drawing.edges
    assert drawing.legend[1] == "A 1 task B 1 task no pool 1 task"


def test_task_level_has_a_limit() -> None:
    """More tasks than anyone could read are refused, with their number and the way out."""
    plan = plan_of({f"load.{i}": "A" for i in range(501)})
    with pytest.raises(ValueError, match=r'at most 500 tasks.* has 501.*level="layer"'):
        draw(plan, level="task")
    assert list(Drawing(draw(plan)).boxes) == ["load"]


def test_unknown_level_is_refused(readme: Plan, tmp_path: Path) -> None:
    """A level that does not exist is an error that names it, and no file is written."""
    with pytest.raises(ValueError, match=r"level must be .* got 'chunk'"):
        visualize_pools(readme, filename=tmp_path / "pools.dot", level="chunk")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# --- Attributes -------------------------------------------------------------------------------


def test_keywords_are_graph_attributes(readme: Plan) -> None:
    """Extra keywords reach Graphviz as attributes of the graph, also numbers."""
    attributes = Drawing(draw(readme, rankdir="BT", nodesep=2)).attributes
    assert (attributes["rankdir"], attributes["nodesep"]) == ("BT", "2")


def test_attributes_as_in_dask(readme: Plan) -> None:
    """graph_attr, node_attr and edge_attr replace defaults, and keywords win over graph_attr."""
    drawing = Drawing(
        draw(
            readme,
            graph_attr={"rankdir": "TB", "pad": "1"},
            node_attr={"fontsize": 30},
            edge_attr={"arrowhead": "vee"},
            rankdir="RL",
        )
    )
    assert (drawing.attributes["rankdir"], drawing.attributes["pad"]) == ("RL", "1")
    assert drawing.boxes["sub"]["fontsize"] == "30"
    assert drawing.edge_attributes[0]["arrowhead"] == "vee"


def test_label_is_a_heading(readme: Plan) -> None:
    """A label of the user's own stands above title and legend, and does not replace them."""
    legend = Drawing(draw(readme, label="Ours & theirs")).legend
    assert legend[:2] == ["Ours & theirs", "Between pools: 8 B in 1 transfer"]


# --- Files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [*MAGIC, "PNG"])
def test_extension_chooses_the_format(extension: str, readme: Plan, tmp_path: Path) -> None:
    """The file is written under the name given, in the format that its extension says."""
    path = tmp_path / f"pools.v1.{extension}"
    visualize_pools(readme, filename=str(path))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes().startswith(MAGIC[extension.lower()])


@pytest.mark.parametrize(
    ("filename", "format", "written"),
    [
        ("pools", None, "pools.png"),
        ("pools", "svg", "pools.svg"),
        ("pools.v1", "pdf", "pools.v1.pdf"),
        ("pools.svg", "SVG", "pools.svg"),
        ("pools.svg", "png", "pools.png"),
    ],
)
def test_format_wins_over_extension(
    filename: str, format: str | None, written: str, readme: Plan, tmp_path: Path
) -> None:
    """The extension follows the format; without either the picture is a PNG."""
    visualize_pools(readme, filename=tmp_path / filename, format=format)
    [path] = tmp_path.iterdir()
    assert path.name == written
    assert path.read_bytes().startswith(MAGIC[path.suffix[1:]])


def test_default_file_is_an_svg(
    readme: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a filename the picture is dask-pools.svg in the working directory."""
    monkeypatch.chdir(tmp_path)
    visualize_pools(readme)
    assert (tmp_path / "dask-pools.svg").read_bytes().startswith(MAGIC["svg"])


def test_dot_file_is_the_source(readme: Plan, tmp_path: Path) -> None:
    """Format "dot" writes the source of the drawing, which needs no dot program to write."""
    visualize_pools(readme, filename=tmp_path / "pools.dot", rankdir="BT")
    assert (tmp_path / "pools.dot").read_text("utf-8") == draw(readme, rankdir="BT").source


def test_pictures_are_sharp_unless_told_otherwise(readme: Plan, tmp_path: Path) -> None:
    """PNGs have 144 dots per inch, so that text is sharp; the user's own dpi wins."""

    def width(path: Path) -> int:
        return int.from_bytes(path.read_bytes()[16:20], "big")

    visualize_pools(readme, filename=tmp_path / "sharp.png")
    visualize_pools(readme, filename=tmp_path / "coarse.png", dpi=72)
    assert width(tmp_path / "sharp.png") == pytest.approx(2 * width(tmp_path / "coarse.png"), abs=2)


def test_no_filename_no_file(readme: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """filename=None writes nothing, and without IPython there is nothing to show."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert visualize_pools(readme, filename=None) is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def ipython(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for what IPython shows in a notebook, which keep what they are given."""
    display = types.SimpleNamespace(
        SVG=lambda data: ("SVG", data), Image=lambda data, format: (format, data)
    )
    module = types.ModuleType("IPython")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)


@pytest.mark.usefixtures("ipython")
@pytest.mark.parametrize("format", ["svg", "png", "jpeg", "jpg"])
def test_notebooks_show_the_picture(format: str, readme: Plan, tmp_path: Path) -> None:
    """With IPython the value returned shows the same picture that is in the file."""
    kind, data = visualize_pools(readme, filename=None, format=format)
    assert kind == ("SVG" if format == "svg" else format)
    assert data.startswith(MAGIC[format])
    assert visualize_pools(readme, filename=tmp_path / "pools", format=format) == (kind, data)
    assert (tmp_path / f"pools.{format}").read_bytes() == data


@pytest.mark.usefixtures("ipython")
@pytest.mark.parametrize("format", ["pdf", "dot"])
def test_notebooks_cannot_show_pdf_and_dot(format: str, readme: Plan, tmp_path: Path) -> None:
    """For formats that IPython cannot show, None is returned, as by Dask, and the file written."""
    assert visualize_pools(readme, filename=tmp_path / "pools", format=format) is None
    assert (tmp_path / f"pools.{format}").read_bytes().startswith(MAGIC[format])


# --- Arguments --------------------------------------------------------------------------------


def test_collections_are_planned_together(
    readme: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All arguments go to one planning, and what is drawn is the plan that it returns."""
    planned: list[Any] = []

    def plan_pools(*objs: Any) -> Plan:
        planned.extend(objs)
        return readme

    monkeypatch.setattr(visualize, "plan_pools", plan_pools)
    x, y = da.ones(3), da.zeros(3)
    objs = [x, [y, {"name": y}], x.__dask_graph__()]
    visualize_pools(*objs, filename=tmp_path / "pools.dot")
    assert planned == objs
    assert (tmp_path / "pools.dot").read_text("utf-8") == draw(readme).source


def test_readme_example(tmp_path: Path) -> None:
    """The README's example is drawn with both pools and one small transfer, from A to B."""
    with pool("A"):
        a = da.random.random((10, 10))
    with pool("B"):
        b = da.random.random(10)
    plan = plan_pools((a - 1).sum(), b - a.mean())
    drawing = Drawing(draw(plan))
    assert drawing.legend[0] == "Between pools: 32 B in 1 transfer"
    assert re.fullmatch(r"A \d+ tasks B 2 tasks", drawing.legend[1])
    visualize_pools((a - 1).sum(), b - a.mean(), filename=tmp_path / "pools.png")
    assert (tmp_path / "pools.png").read_bytes().startswith(MAGIC["png"])


def _no_planning(*_: Any) -> NoReturn:
    raise AssertionError("planned, although this cannot be drawn")


@pytest.fixture
def no_planning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test fail if anything is planned."""
    monkeypatch.setattr(visualize, "plan_pools", _no_planning)


@pytest.mark.usefixtures("no_planning")
def test_missing_dot_is_said_before_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the dot program the error says how to install it, before any planning."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GraphvizNotFound, match=r"apt install.*brew install.*conda.*choco"):
        visualize_pools(da.ones(3), filename=tmp_path / "pools.svg")
    assert issubclass(GraphvizNotFound, RuntimeError)
    assert list(tmp_path.iterdir()) == []


def test_dot_source_needs_no_dot_program(
    readme: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Format "dot" is written where the dot program is not installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    visualize_pools(readme, filename=tmp_path / "pools.dot")
    assert (tmp_path / "pools.dot").read_bytes().startswith(MAGIC["dot"])


@pytest.mark.usefixtures("no_planning")
@pytest.mark.parametrize(("filename", "format"), [("pools.gif", None), ("pools.svg", "gif")])
def test_unknown_format_is_refused(filename: str, format: str | None, tmp_path: Path) -> None:
    """A format that cannot be written is an error that lists those that can."""
    with pytest.raises(ValueError, match=r"'gif'.*'png', 'svg', 'pdf', 'dot', 'jpeg'"):
        visualize_pools(da.ones(3), filename=tmp_path / filename, format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_planning")
def test_missing_directory_is_refused(tmp_path: Path) -> None:
    """A directory that does not exist is an error that names it, before any planning."""
    with pytest.raises(FileNotFoundError, match=r"cannot write .*no directory .*nowhere"):
        visualize_pools(da.ones(3), filename=tmp_path / "nowhere" / "pools.svg")


@pytest.mark.usefixtures("no_planning")
def test_unwritable_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory without permission to write is an error that names it, before any planning."""
    # Permissions do not stop root, who may be running the tests.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=f"no permission to write in '{tmp_path}'"):
        visualize_pools(da.ones(3), filename=tmp_path / "pools.svg")


@pytest.mark.usefixtures("no_planning")
def test_empty_filename_is_refused() -> None:
    """An empty filename is an error of its own, not a file called '.png'."""
    with pytest.raises(ValueError, match="'': it names no file"):
        visualize_pools(da.ones(3), filename="")


def test_something_must_be_given(tmp_path: Path) -> None:
    """Without arguments there is nothing to draw."""
    with pytest.raises(TypeError, match="No collections"):
        visualize_pools(filename=tmp_path / "pools.svg")


@pytest.mark.parametrize(
    ("obj", "named"), [(5, "int"), ("x", "str"), ([], "list"), ({"a": [1]}, "dict")]
)
def test_objects_without_collections_are_refused(obj: object, named: str, tmp_path: Path) -> None:
    """An argument that holds no collection is an error that names its type."""
    with pytest.raises(TypeError, match=f"of type {named}"):
        visualize_pools(da.ones(3), obj, filename=tmp_path / "pools.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_planning")
def test_plan_is_drawn_alone(readme: Plan, tmp_path: Path) -> None:
    """A plan among other arguments is an error: two plannings cannot be merged."""
    with pytest.raises(TypeError, match="a Plan is drawn alone, but got 2 arguments"):
        visualize_pools(readme, da.ones(3), filename=tmp_path / "pools.svg")


# --- Landings ---------------------------------------------------------------------------------


@pytest.fixture
def landing() -> Plan:
    """Plan of a mean that three tasks of another pool need, and one of a third.

    mean (A) → use.0, use.1, use.2 (B)
            └→ far (C)
    """
    return plan_of(
        {"mean": "A", "use.0": "B", "use.1": "B", "use.2": "B", "far": "C"},
        "mean>use.0 mean>use.1 mean>use.2 mean>far",
        sizes={"mean": 8},
    )


def test_landings_are_drawn_between_output_and_consumers(landing: Plan) -> None:
    """Task by task, an output with several consumers in a pool reaches them through its landing."""
    drawing = Drawing(draw(landing, level="task"))
    assert set(drawing.edges) == {
        ("mean", "landing", "8 B"),
        ("landing", "use.0", None),
        ("landing", "use.1", None),
        ("landing", "use.2", None),
        ("mean", "far", "8 B"),
    }
    box = drawing.boxes["landing"]
    assert box["fillcolor"] == pool_colors("ABC")["B"]
    assert box["tooltip"] == "landing-B-mean\ncrosses once, for all that need it in B"


def test_landings_are_no_tasks_of_the_plan(landing: Plan) -> None:
    """Title and legend count the plan's own tasks and transfers, and say what a landing is."""
    by_layer, by_task = (Drawing(draw(landing, level=level)).legend for level in LEVELS)
    assert by_layer == ["Between pools: 16 B in 2 transfers", *by_layer[1:]]
    assert by_task == [*by_layer, "landing: sent once, for several tasks"]


def test_layers_say_what_lands_once(landing: Plan) -> None:
    """Layer by layer, the tooltip of an edge says which of its transfers land once."""
    tooltips = {edge["tooltip"] for edge in Drawing(draw(landing)).edge_attributes}
    assert tooltips == {"1 transfer: A → B; lands once", "1 transfer: A → C"}


def test_without_sizes_outputs_are_counted() -> None:
    """Where no size is known, title and edges count outputs, and the title says why."""
    plan = plan_of({"x.0": "A", "x.1": "A", "y": "B"}, "x.0>y x.1>y")
    drawing = Drawing(draw(replace(plan, counting=True)))
    assert drawing.legend[0] == "Between pools: 2 transfers (counting outputs, sizes unknown)"
    assert drawing.edges == [("x", "y", "2 outputs")]


def test_title_says_what_weights_count() -> None:
    """Where outputs of unknown size have weights, the title says that partitions are counted."""
    plan = plan_of({"x": "A", "y": "B"}, "x>y", counting=True, weights={"x": 0.5})
    legend = Drawing(draw(plan)).legend
    assert legend[0] == (
        "Between pools: 1 transfer (counting partitions of sources, sizes unknown)"
    )
