"""The charts: how a program for them is asked for, run before, checked; and SVG where none can run."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files

from flowkit.nodes.tools.python import PythonResult
from flowkit.workflows.operations_report.texts import chart_texts
from flowkit.workflows.operations_report.values import Language, Numbers, Series

TOLERANCE = 0.005
"""Of a chart's total: what a program may lose by rounding."""

PICTURE_MIN = (400, 120)
PICTURE_BYTES = (4_000, 4_000_000)

_TASK = """\
Write a Python program that draws the charts of an operations report with matplotlib.

- Before it this is run already: `data` (a dict, below in short), `words` (labels in the report's language), `plt`,
  and `shown(names)`, which gives names that the font has. The font is set: do not change it. No network, no other
  files.
- It saves {pictures}. Each at least 1000 pixels wide (figsize of 9 inches at the dpi that is set).
{charts}- Its last line is an expression: a dict from each file's name to the sum of all values drawn in it.

```json
{facts}
```
"""
_CHARTS: Mapping[str, str] = {
    "daily.png": 'GMV as bars and net sales as a line, by day, of data["days"]: [date, gmv, net]; both are summed.',
    "channels.png": 'horizontal bars of data["channels"] and data["categories"]: [name, net sales]; all are summed.',
    "buyers.png": 'data["new_buyers"] and data["returning_buyers"], as parts of one bar; both are summed.',
}


@cache
def _data(name: str) -> str:
    return files("flowkit.workflows.operations_report").joinpath("data", name).read_text("utf-8")


def shipped_program() -> str:
    """The program that ships with flowkit."""
    return _data("charts.py.txt")


def whole_program(code: str) -> str:
    """A program with what runs before it."""
    return _data("prelude.py.txt") + code


def totals(series: Series) -> dict[str, float]:
    """The pictures that are wanted, and the sum of the values in each."""
    parts = [value for _, value in (*series.channels, *series.categories)]
    found = {
        "daily.png": sum(gmv + net for _, gmv, net in series.days),
        "channels.png": sum(parts),
        "buyers.png": float(series.new_buyers + series.returning_buyers),
    }
    return (
        found if parts else {name: each for name, each in found.items() if name != "channels.png"}
    )


def chart_data(numbers: Numbers, language: Language) -> str:
    """What programs find as data.json."""
    told = numbers.series.model_dump(mode="json")
    words = {each: dict(chart_texts(numbers, each)) for each in ("en", "zh")}
    return json.dumps({**told, "language": language, "words": words}, ensure_ascii=False)


def prompt(series: Series, refused: str = "") -> str:
    """The request for a program."""
    wanted = list(totals(series))
    facts = {
        "pictures": wanted,
        "days": len(series.days),
        "channels": len(series.channels),
        "categories": len(series.categories),
    }
    asked = _TASK.format(
        pictures=", ".join(wanted),
        charts="".join(f"- {name}: {_CHARTS[name]}\n" for name in wanted),
        facts=json.dumps(facts),
    )
    if refused:
        told = refused.replace("`", "'")[:2000]
        asked += f"\nYour program before was refused. Send the whole of a better one. What was wrong:\n{told}\n"
    return asked


def result_faults(result: PythonResult, series: Series) -> list[str]:
    """What is wrong with what a program gave, its pictures' bytes aside."""
    if not result.ok:
        return [f"{result.error} {result.hint}".strip()]
    wanted, made = totals(series), {each.name for each in result.files}
    found = [f"{name} was not saved" for name in wanted if name not in made]
    if "missing from" in result.stderr and "Glyph" in result.stderr:
        found.append("a label has signs that the font lacks: use `words` and `shown(names)`")
    try:
        said: object = json.loads(result.value)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return [*found, "its last line is no dict from each file's name to the sum of its values"]
    for name, total in wanted.items():
        value: object = said.get(name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
        if number is None or not abs(number - total) <= TOLERANCE * max(abs(total), 1):
            found.append(
                f"the values drawn in {name} sum up to {value!r}, the data's to {total:.2f}"
            )
    return found


def picture_faults(name: str, png: bytes) -> list[str]:
    """What is wrong with a picture: it is none, too small, or with nothing on it."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or len(png) < 33:
        return [f"{name} is no PNG"]
    width, height = struct.unpack(">II", png[16:24])
    if width < PICTURE_MIN[0] or height < PICTURE_MIN[1]:
        return [f"{name} has {width}×{height} pixels, at least {PICTURE_MIN[0]}×{PICTURE_MIN[1]}"]
    if not PICTURE_BYTES[0] <= len(png) <= PICTURE_BYTES[1]:
        return [f"{name} has {len(png):,} bytes: it is empty, or far too large"]
    return []


# ---- SVG, by our own code


def svg_charts(numbers: Numbers, language: Language) -> dict[str, str]:
    """The same charts, plainer. Their text is in the reader's fonts."""
    series, words = numbers.series, chart_texts(numbers, language)
    found = {"daily.svg": _daily(series, words)}
    if series.channels or series.categories:
        bars = [*series.channels, *series.categories]
        found["channels.svg"] = _bars(words["chart_channels"], bars)
    buyers = [
        (words["new_buyers"], float(series.new_buyers)),
        (words["returning"], float(series.returning_buyers)),
    ]
    found["buyers.svg"] = _bars(words["chart_buyers"], buyers)
    return found


def _daily(series: Series, words: Mapping[str, str]) -> str:
    top = max((gmv for _, gmv, _ in series.days), default=0) or 1.0
    step, base = 840 / len(series.days), 250
    bars: list[str] = []
    points: list[str] = []
    ticks: list[str] = []
    for number, (day, gmv, net) in enumerate(series.days):
        left, high = 40 + number * step, 190 * gmv / top
        bars.append(
            f'<rect x="{left:.1f}" y="{base - high:.1f}" width="{step * 0.7:.1f}" height="{high:.1f}" fill="#a9bfec"/>'
        )
        points.append(f"{left + step * 0.35:.1f},{base - 190 * net / top:.1f}")
        if day.day % 5 == 1:
            ticks.append(_text(left + step * 0.35, base + 18, str(day.day), "middle"))
    line = f'<polyline points="{" ".join(points)}" fill="none" stroke="#2458c5" stroke-width="2"/>'
    legend = f"{words['gmv']} ▇   {words['net_sales']} ―   max {top:,.0f}"
    parts = [*bars, line, *ticks, _text(40, 48, legend)]
    return _svg(words["chart_daily"], parts, 280)


def _bars(title: str, rows: Sequence[tuple[str, float]]) -> str:
    top = max((value for _, value in rows), default=0) or 1.0
    parts: list[str] = []
    for number, (name, value) in enumerate(rows):
        y = 40 + 26 * number
        wide = 520 * value / top
        parts.append(_text(190, y + 15, name[:24], "end"))
        parts.append(f'<rect x="200" y="{y}" width="{wide:.1f}" height="20" fill="#2458c5"/>')
        parts.append(_text(206 + wide, y + 15, f"{value:,.0f}"))
    return _svg(title, parts, 50 + 26 * len(rows))


def _text(x: float, y: float, said: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def _svg(title: str, parts: Sequence[str], height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" font-size="13" '
        f'font-family="sans-serif" fill="#1f2733"><rect width="900" height="{height}" fill="#fff"/>'
        f'<text x="12" y="24" font-size="16">{escape(title)}</text>{"".join(parts)}</svg>\n'
    )
