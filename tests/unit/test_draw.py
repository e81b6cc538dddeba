"""Drawings of graphs: every format is read back by a parser, hostile texts are escaped."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest

from flowkit.graph import INPUT, Graph, NodeSpec, Source, Step
from flowkit.view.draw import FORMATS, Format, draw, svg

NS = {"s": "http://www.w3.org/2000/svg"}

NODES = {
    "look": NodeSpec("look", "tool"),
    "guess": NodeSpec("guess", "tool"),
    "plan": NodeSpec("plan", "planner"),
    "pay": NodeSpec("pay", "tool", once=True),
    "fits": NodeSpec("fits", "verifier"),
}

GRAPH = Graph(
    (
        Step("find", ("look", "guess"), (Source(INPUT),)),
        Step("fits", ("fits",), (Source("find"), Source(INPUT)), checks="find"),
        Step("plan", ("plan",), (Source("find"),)),
        Step("sub/look", ("look",), (Source("plan"),), each=True),
        Step("pay", ("pay",), (Source("find"), Source(text='"x"')), after=("sub/look",)),
    ),
    "pay",
    NODES,
)

EVIL = "a\"b<script>'&\\n]]>--\n\x1b[31m`|{}%%[]();end ￾\ud800"


def long_graph(steps: int) -> Graph:
    made = [Step("s0", ("look",), (Source(INPUT),))]
    for index in range(1, steps):
        inputs = (Source(f"s{index - 1}"), Source(f"s{index // 2}"), Source(INPUT))
        made.append(Step(f"s{index}", ("look",), inputs))
    return Graph(tuple(made), f"s{steps - 1}", NODES)


def evil_graph() -> Graph:
    nodes = {EVIL: NodeSpec(EVIL, "tool"), "look": NodeSpec("look", "tool")}
    return Graph((Step(EVIL, (EVIL, "look"), (Source(INPUT),)),), EVIL, nodes)


def read(text: str) -> ET.Element:
    return ET.fromstring(text)


def boxes(root: ET.Element) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right, bottom of each box, by what its title says."""
    found: dict[str, tuple[float, float, float, float]] = {}
    for group in root.findall("s:g", NS):
        title = group.findtext("s:title", "", NS)
        rect, polygon = group.find("s:rect", NS), group.find("s:polygon", NS)
        if rect is not None:
            x, y, width, height = (
                float(rect.get(name, "")) for name in ("x", "y", "width", "height")
            )
            found[title] = (x, y, x + width, y + height)
        elif polygon is not None:
            points = [tuple(map(float, p.split(","))) for p in polygon.get("points", "").split()]
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            found[title] = (min(xs), min(ys), max(xs), max(ys))
    return found


def test_svg_draws_each_kind_in_its_shape_and_fallbacks_in_one_box() -> None:
    root = read(svg(GRAPH, "wf"))
    groups = {group.findtext("s:title", "", NS): group for group in root.findall("s:g", NS)}
    assert set(groups) == {
        "input", "output", "tool: find", "verifier: fits", "planner: plan", "tool: sub/look", "tool: pay"
    }  # fmt: skip
    lines = [each.text for each in groups["tool: find"].findall("s:text", NS)]
    assert lines == ["find", "look", "| guess"]
    assert groups["planner: plan"].find("s:polygon", NS) is not None
    assert "once" in [each.text for each in groups["tool: pay"].findall("s:text", NS)]
    paths = [each.get("class") for each in root.findall("s:path", NS)]
    assert paths.count("checks") == 1
    assert paths.count("after") == 1
    style = root.findtext("s:style", "", NS)
    assert ".checks{stroke-dasharray" in style
    assert "prefers-color-scheme:dark" in style
    assert "<script" not in svg(GRAPH, "wf")


def test_svg_layers_go_down_and_boxes_never_overlap() -> None:
    for graph in (GRAPH, long_graph(60)):
        root = read(svg(graph, "wf"))
        places = boxes(root)
        width, height = float(root.get("width", "")), float(root.get("height", ""))
        for left, top, right, bottom in places.values():
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
        for one, other in itertools.combinations(places.values(), 2):
            apart = (
                one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            )
            assert apart, "boxes overlap"
    places = boxes(read(svg(GRAPH, "wf")))
    assert places["input"][3] < places["tool: find"][1]
    assert places["verifier: fits"][3] < places["planner: plan"][1], "readers stand below verifiers"


def test_svg_shows_states() -> None:
    text = svg(GRAPH, "wf", {"find": "failed", "pay": 'x" onload="y'})
    root = read(text)
    classes = [group.get("class") for group in root.findall("s:g", NS)]
    assert "tool is-failed" in classes
    assert "onload" not in " ".join(root.attrib)
    assert 'onload="' not in text


@pytest.mark.parametrize("form", FORMATS)
def test_hostile_texts_are_escaped(form: Format) -> None:
    text = draw(evil_graph(), EVIL, form)
    assert "<script>" not in text or form in ("dot", "json")
    assert "\x1b" not in text
    assert "\ud800" not in text
    if form == "svg":
        assert read(text) is not None
    elif form == "json":
        assert json.loads(text)["workflow"] == EVIL
    elif form == "mermaid":
        for label in re.findall(r'"([^"\n]*)"', text):
            assert not set(label) & set("`;'\\{}()[]") - {";"}, label
        assert text.count('"') % 2 == 0
    else:
        assert dot_strings_close(text)


def dot_strings_close(text: str) -> bool:
    return text.isprintable() or re.sub(r'"(?:[^"\\]|\\.)*"', "", text).count('"') == 0


def test_mermaid_marks_kinds_and_edges() -> None:
    text = draw(GRAPH, "wf", "mermaid")
    assert text.startswith("flowchart TD\n")
    assert 's1["find<br/>look<br/>#124; guess"]:::tool' in text.replace("|", "#124;")
    assert 's2("fits"):::verifier' in text
    assert 's3{{"plan"}}:::planner' in text
    assert "s1 -. checks .-> s2" in text
    assert "s4 -. after .-> s5" in text
    assert "s5 --> out" in text


def test_dot_is_a_digraph_that_graphviz_reads() -> None:
    text = draw(GRAPH, "wf", "dot")
    assert text.startswith('digraph "wf" {\n')
    assert "s1 -> s2 [style=dashed" in text
    assert text.count("{") == text.count("}")
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tcanon"], input=text, text=True, check=True, capture_output=True)


def test_json_names_steps_and_edges() -> None:
    data = json.loads(draw(GRAPH, "wf", "json"))
    assert data["output"] == "pay"
    assert [step["kind"] for step in data["steps"]] == [
        "tool",
        "verifier",
        "planner",
        "tool",
        "tool",
    ]
    assert {"from": "find", "to": "fits", "kind": "checks"} in data["edges"]
    assert {"from": INPUT, "to": "fits", "kind": "data"} in data["edges"]
    assert data["steps"][4]["once"] is True


def test_a_graph_of_thousands_of_steps_is_drawn() -> None:
    assert len(read(svg(long_graph(2000), "big")).findall("s:g", NS)) == 2002


def test_a_graph_without_specs_is_drawn_as_tools() -> None:
    bare = Graph(GRAPH.steps, GRAPH.output)
    for form in FORMATS:
        assert draw(bare, "wf", form)
