"""A graph as text for other programs: Mermaid, Graphviz DOT, SVG, JSON. Pure: data in, text out.

The SVG is laid out here: layers by longest path, a few barycentre sweeps against crossings, long edges
led around boxes by way points. It carries its own colours for light and dark pages, and no script.

    tool      a box            planner   a hexagon
    verifier  a rounded box    input     an oval          a | b | c: one box that lists them
    data      a line           checks    dashed           after=: dotted
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from flowkit.graph import INPUT, Graph, Step

Format = Literal["mermaid", "dot", "svg", "json"]
FORMATS: tuple[Format, ...] = ("mermaid", "dot", "svg", "json")

EdgeKind = Literal["data", "after", "checks"]

WAYPOINTS_MAX = 4000
"""Way points of long edges; a larger graph gets straight edges."""

SWEEPS = 4


def draw(graph: Graph, name: str, form: Format) -> str:
    """The graph in one of `FORMATS`; `name` is the workflow's."""
    drawers: dict[Format, Callable[[Graph, str], str]] = {
        "mermaid": mermaid,
        "dot": dot,
        "svg": svg,
        "json": as_json,
    }
    return drawers[form](graph, name)


@dataclass(frozen=True, slots=True)
class Edge:
    """From one step to another: its value, only its end (`after`), or a value to be judged."""

    source: str
    target: str
    kind: EdgeKind


def edges_of(graph: Graph) -> list[Edge]:
    """Every edge once, in the order of the steps; a verifier's first input is what it checks."""
    found: dict[tuple[str, str], Edge] = {}
    for step in graph.steps:
        inputs = [source.step for source in step.inputs if source.step]
        for key in inputs:
            kind: EdgeKind = "checks" if key == step.checks else "data"
            found.setdefault((key, step.key), Edge(key, step.key, kind))
        for key in step.after:
            found.setdefault((key, step.key), Edge(key, step.key, "after"))
    return list(found.values())


def kind_of(graph: Graph, step: Step) -> str:
    """The step's node kind, by its first alternative; "tool" where the graph does not say."""
    spec = graph.nodes.get(step.nodes[0]) if step.nodes else None
    return spec.kind if spec is not None else "tool"


def lines_of(graph: Graph, step: Step) -> list[str]:
    """What stands in a step's box: its key, then what the key does not say."""
    lines = [step.key + ("  × each" if step.each else "")]
    if len(step.nodes) > 1:
        lines += [node if index == 0 else f"| {node}" for index, node in enumerate(step.nodes)]
    elif step.nodes and step.nodes[0] != step.key.rpartition("/")[2]:
        lines.append(step.nodes[0])
    if any((spec := graph.nodes.get(node)) is not None and spec.once for node in step.nodes):
        lines.append("once")
    return lines


# ---- text formats


def mermaid(graph: Graph, name: str) -> str:
    """A Mermaid flowchart; GitHub and many editors show it."""
    ids = _ids(graph)
    lines = ["flowchart TD", f"  %% {_mermaid_text(name)}"]
    lines.append(f'  {ids[INPUT]}(["input"]):::input')
    shapes = {"tool": ("[", "]"), "planner": ("{{", "}}"), "verifier": ("(", ")")}
    for step in graph.steps:
        kind = kind_of(graph, step)
        left, right = shapes[kind]
        label = "<br/>".join(_mermaid_text(line) for line in lines_of(graph, step))
        lines.append(f'  {ids[step.key]}{left}"{label}"{right}:::{kind}')
    arrows: dict[EdgeKind, str] = {
        "data": "-->",
        "checks": "-. checks .->",
        "after": "-. after .->",
    }
    for edge in edges_of(graph):
        lines.append(f"  {ids[edge.source]} {arrows[edge.kind]} {ids[edge.target]}")
    if graph.output in ids:
        lines += ['  out(["output"]):::input', f"  {ids[graph.output]} --> out"]
    lines += [
        "  classDef input fill:none,stroke-dasharray:4 2",
        "  classDef tool fill:#dbeafe,stroke:#2563eb,color:#111827",
        "  classDef planner fill:#ede9fe,stroke:#7c3aed,color:#111827",
        "  classDef verifier fill:#dcfce7,stroke:#16a34a,color:#111827",
    ]
    return "\n".join(lines) + "\n"


def _mermaid_text(text: str) -> str:
    """A text inside a quoted label: everything that Mermaid or HTML could read goes as an entity."""
    return "".join(
        char if char.isalnum() or char in " _-./@|×" else f"#{ord(char)};" for char in text
    )


def dot(graph: Graph, name: str) -> str:
    """A Graphviz digraph."""
    ids = _ids(graph)
    lines = [
        f"digraph {_dot_text(name)} {{",
        '  graph [rankdir=TB, fontname="sans-serif"]',
        '  node [fontname="sans-serif", fontsize=11]',
        f"  {ids[INPUT]} [label={_dot_text('input')}, shape=oval]",
    ]
    shapes = {
        "tool": "shape=box",
        "planner": "shape=hexagon",
        "verifier": 'shape=box, style="rounded"',
    }
    for step in graph.steps:
        label = _dot_text("\n".join(lines_of(graph, step)))
        lines.append(f"  {ids[step.key]} [label={label}, {shapes[kind_of(graph, step)]}]")
    styles: dict[EdgeKind, str] = {
        "data": "",
        "checks": " [style=dashed, label=checks]",
        "after": " [style=dotted, label=after]",
    }
    for edge in edges_of(graph):
        lines.append(f"  {ids[edge.source]} -> {ids[edge.target]}{styles[edge.kind]}")
    if graph.output in ids:
        lines += ["  out [label=output, shape=oval]", f"  {ids[graph.output]} -> out"]
    return "\n".join([*lines, "}"]) + "\n"


def _dot_text(text: str) -> str:
    escaped = _plain(text, "\n").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def as_json(graph: Graph, name: str) -> str:
    """The graph as one JSON object: steps with their alternatives, and edges."""
    steps = [
        {
            "key": step.key,
            "kind": kind_of(graph, step),
            "nodes": list(step.nodes),
            "each": step.each,
            "checks": step.checks or None,
            "attempts": step.attempts if step.checks else None,
            "once": any((spec := graph.nodes.get(n)) is not None and spec.once for n in step.nodes),
        }
        for step in graph.steps
    ]
    edges = [{"from": e.source, "to": e.target, "kind": e.kind} for e in edges_of(graph)]
    whole = {"workflow": name, "output": graph.output, "steps": steps, "edges": edges}
    return json.dumps(whole, indent=2) + "\n"


def _ids(graph: Graph) -> dict[str, str]:
    """A short id for each key that any format takes."""
    ids = {INPUT: "in"}
    ids.update((step.key, f"s{index}") for index, step in enumerate(graph.steps, 1))
    return ids


# ---- the layout of the SVG

_CHAR, _LINE, _PAD, _GAP_X, _GAP_Y = 7.4, 17.0, 14.0, 26.0, 46.0


@dataclass(slots=True)
class _Box:
    """A step on the page, or, without lines, a way point of a long edge."""

    key: str
    lines: list[str] = field(default_factory=list[str])
    kind: str = ""
    layer: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = 8.0
    height: float = 0.0
    above: list[_Box] = field(default_factory=list["_Box"])
    below: list[_Box] = field(default_factory=list["_Box"])


_Path = tuple[EdgeKind, list[_Box]]


def svg(graph: Graph, name: str, states: Mapping[str, str] | None = None) -> str:
    """A drawing that stands alone. `states` may give steps a status: a class `is-<status>`, and a word."""
    boxes, edges = _boxes(graph)
    paths = _route(boxes, edges)
    layers = _order(paths, boxes)
    width, height = _place(layers)
    parts = [_head(name, width, height)]
    parts += [_path_svg(kind, path) for kind, path in paths]
    parts += [_box_svg(box, (states or {}).get(box.key, "")) for box in boxes.values()]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _boxes(graph: Graph) -> tuple[dict[str, _Box], list[Edge]]:
    boxes = {INPUT: _Box(INPUT, ["input"], "input")}
    for step in graph.steps:
        boxes[step.key] = _Box(step.key, lines_of(graph, step), kind_of(graph, step))
    edges = [edge for edge in edges_of(graph) if edge.source in boxes]
    if graph.output in boxes:
        boxes["$output"] = _Box("$output", ["output"], "input")
        edges.append(Edge(graph.output, "$output", "data"))
    for box in boxes.values():
        box.width = max(len(line) for line in box.lines) * _CHAR + 2 * _PAD
        box.width += 2 * _PAD if box.kind == "planner" else 0
        box.height = len(box.lines) * _LINE + _PAD
    waits = [(edge.source, edge.target) for edge in edges]
    for check in (edge for edge in edges if edge.kind == "checks"):
        # Who reads a checked value waits for its verifiers, and stands below them.
        waits += [
            (check.target, other.target)
            for other in edges
            if other.source == check.source and other.kind == "data"
        ]
    _layer(boxes, waits)
    return boxes, edges


def _layer(boxes: Mapping[str, _Box], waits: Sequence[tuple[str, str]]) -> None:
    """Longest path from the input, without recursion; a cycle (never in a checked graph) is cut."""
    below: dict[str, list[str]] = {key: [] for key in boxes}
    unmet = dict.fromkeys(boxes, 0)
    for source, target in waits:
        below[source].append(target)
        unmet[target] += 1
    free = [key for key, count in unmet.items() if not count]
    while free:
        key = free.pop()
        for target in below[key]:
            boxes[target].layer = max(boxes[target].layer, boxes[key].layer + 1)
            unmet[target] -= 1
            if not unmet[target]:
                free.append(target)


def _route(boxes: Mapping[str, _Box], edges: Sequence[Edge]) -> list[_Path]:
    """The boxes that each edge passes, way points included."""
    spans = sum(max(boxes[e.target].layer - boxes[e.source].layer - 1, 0) for e in edges)
    paths: list[_Path] = []
    for edge in edges:
        first, last = boxes[edge.source], boxes[edge.target]
        path = [first]
        if spans <= WAYPOINTS_MAX:
            path += [_Box("", layer=layer) for layer in range(first.layer + 1, last.layer)]
        path.append(last)
        for above, below in pairwise(path):
            above.below.append(below)
            below.above.append(above)
        paths.append((edge.kind, path))
    return paths


def _order(paths: Sequence[_Path], boxes: Mapping[str, _Box]) -> list[list[_Box]]:
    """The layers from top to bottom, each from left to right."""
    layers: list[list[_Box]] = [[] for _ in range(1 + max(b.layer for b in boxes.values()))]
    for box in boxes.values():
        layers[box.layer].append(box)
    for _, path in paths:
        for point in path[1:-1]:
            layers[point.layer].append(point)
    _spread(layers)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            layer.sort(key=lambda box: _middle(box.above if down else box.below, box))
            for place, box in enumerate(layer):
                box.x = place - len(layer) / 2
    return layers


def _spread(layers: Sequence[list[_Box]]) -> None:
    for layer in layers:
        for place, box in enumerate(layer):
            box.x = place - len(layer) / 2


def _middle(others: Sequence[_Box], box: _Box) -> float:
    return sum(other.x for other in others) / len(others) if others else box.x


def _place(layers: Sequence[list[_Box]]) -> tuple[float, float]:
    """Give every box its centre; boxes move towards their neighbours as far as there is room."""
    y = _GAP_X
    for layer in layers:
        tall = max((box.height for box in layer), default=0.0)
        left = -sum(box.width + _GAP_X for box in layer) / 2
        for box in layer:
            box.x, box.y = left + box.width / 2, y + tall / 2
            left += box.width + _GAP_X
        y += tall + _GAP_Y
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else list(reversed(layers)):
            _pull(layer, [_middle(box.above if down else box.below, box) for box in layer])
    every = [box for layer in layers for box in layer]
    least = min(box.x - box.width / 2 for box in every) - _GAP_X
    for box in every:
        box.x -= least
    return max(box.x + box.width / 2 for box in every) + _GAP_X, y - _GAP_Y + _GAP_X


def _pull(layer: Sequence[_Box], wanted: Sequence[float]) -> None:
    """Move a layer's boxes to the wanted places, in order and without overlap, errors shared."""
    right: list[float] = []
    for box, x in zip(layer, wanted, strict=True):
        if right:
            before = layer[len(right) - 1]
            x = max(x, right[-1] + (before.width + box.width) / 2 + _GAP_X)
        right.append(x)
    shift = sum(w - x for w, x in zip(wanted, right, strict=True)) / max(len(layer), 1)
    for box, x in zip(layer, right, strict=True):
        box.x = x + shift


# ---- the marks of the SVG

_STYLE = """\
svg{--ink:#1f2937;--line:#6b7280;--tool:#dbeafe;--tool-edge:#2563eb;--planner:#ede9fe;
--planner-edge:#7c3aed;--verifier:#dcfce7;--verifier-edge:#16a34a;--alert:#dc2626}
@media (prefers-color-scheme:dark){svg{--ink:#e5e7eb;--line:#9ca3af;--tool:#1e3a5f;--tool-edge:#60a5fa;
--planner:#3b2a63;--planner-edge:#a78bfa;--verifier:#14432a;--verifier-edge:#4ade80;--alert:#f87171}}
text{font:13px ui-sans-serif,system-ui,sans-serif;fill:var(--ink);text-anchor:middle}
.more{font-size:11px;opacity:.85}
path{fill:none;stroke:var(--line);stroke-width:1.4}
.checks{stroke-dasharray:6 4}.after{stroke-dasharray:1.5 4}
#tip path{fill:var(--line);stroke:none}
.shape{stroke-width:1.4}
.input .shape{fill:none;stroke:var(--line)}
.tool .shape{fill:var(--tool);stroke:var(--tool-edge)}
.planner .shape{fill:var(--planner);stroke:var(--planner-edge)}
.verifier .shape{fill:var(--verifier);stroke:var(--verifier-edge)}
.is-pending{opacity:.45}.is-running .shape,.is-waiting .shape{stroke-width:3}
.is-failed .shape,.is-rejected .shape,.is-unknown .shape{stroke:var(--alert);stroke-width:3}"""


def _head(name: str, width: float, height: float) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
        f"<title>{_xml(name)}</title>\n<style>\n{_STYLE}\n</style>\n"
        f'<defs>{tip} orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
    )


def _path_svg(kind: EdgeKind, path: Sequence[_Box]) -> str:
    first, last = path[0], path[-1]
    points = [(first.x, first.y + first.height / 2)]
    points += [(box.x, box.y) for box in path[1:-1]]
    points.append((last.x, last.y - last.height / 2))
    moves = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = (y0 + y1) / 2
        moves.append(f"C{x0:.1f} {bend:.1f} {x1:.1f} {bend:.1f} {x1:.1f} {y1:.1f}")
    return f'<path class="{kind}" d="{"".join(moves)}" marker-end="url(#tip)"/>'


def _box_svg(box: _Box, status: str) -> str:
    left, top = box.x - box.width / 2, box.y - box.height / 2
    size = f'x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    if box.kind == "planner":
        right, low, cut = left + box.width, top + box.height, _PAD
        corners = f"{left:.1f},{box.y:.1f} {left + cut:.1f},{top:.1f} {right - cut:.1f},{top:.1f}"
        corners += (
            f" {right:.1f},{box.y:.1f} {right - cut:.1f},{low:.1f} {left + cut:.1f},{low:.1f}"
        )
        shape = f'<polygon class="shape" points="{corners}"/>'
    else:
        radius = {"tool": 4.0, "verifier": 14.0}.get(box.kind, box.height / 2)
        shape = f'<rect class="shape" {size} rx="{radius:.1f}"/>'
    texts: list[str] = []
    for index, line in enumerate(box.lines):
        y = top + _PAD / 2 + _LINE * (index + 0.75)
        style = ' class="more"' if index else ""
        texts.append(f'<text{style} x="{box.x:.1f}" y="{y:.1f}">{_xml(line)}</text>')
    known = "".join(char for char in status if char.isalnum() or char == "-")
    title = f"{box.kind}: {box.key}" + (f" ({known})" if known else "")
    title = title if not box.key.startswith("$") else box.lines[0]
    classes = f"{box.kind} is-{known}" if known else box.kind
    return f'<g class="{classes}"><title>{_xml(title)}</title>{shape}{"".join(texts)}</g>'


def _xml(text: str) -> str:
    """Text as XML takes it: markup escaped, control characters left out."""
    kept = _plain(text)
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        kept = kept.replace(char, entity)
    return kept


def _plain(text: str, kept: str = "") -> str:
    """A text without control characters and half characters, which no format takes."""
    return "".join(char for char in text if char.isprintable() or char in kept)
