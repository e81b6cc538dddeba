"""The report: one set of data, written as an HTML page that stands alone, and as Markdown.

Everything that came from outside (headlines, model text, error messages) is escaped: by Jinja's
autoescape in HTML, by the `md` filter in Markdown.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from flowkit.events import StepView
from flowkit.workflows.pages import environment, took
from flowkit.workflows.stock_analysis.judging import MEANINGS
from flowkit.workflows.stock_analysis.values import (
    Chart,
    Evidence,
    Headlines,
    Indicators,
    Opinion,
    Prices,
    StockQuery,
)

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, slots=True)
class Material:
    """All that a report tells."""

    query: StockQuery
    prices: Prices
    measured: Indicators
    news: Headlines
    opinion: Opinion
    chart: Chart
    steps: Sequence[StepView]
    run_id: str
    written_at: dt.datetime


def title(material: Material) -> str:
    """The report's one-line name."""
    return f"{material.prices.ticker}: short-term trend {material.opinion.judgement.trend}"


def render_html(material: Material, chart: str) -> str:
    """The page, with the chart's HTML put in as it is."""
    return _environment().get_template("report.html.j2").render(**_told(material), chart=chart)


def render_markdown(material: Material) -> str:
    """The same in Markdown; the chart is a link to the page beside it."""
    text = _environment().get_template("report.md.j2").render(**_told(material))
    return re.sub(r"\n{3,}", "\n\n", text)


def render_chart(prices: Prices, measured: Indicators, chart: str) -> str:
    """The chart as a page of its own."""
    told = {
        "prices": prices,
        "first": measured.points[0],
        "last": measured.points[-1],
        "chart": chart,
    }
    return _environment().get_template("chart.html.j2").render(**told)


def _told(material: Material) -> dict[str, Any]:
    measured = material.measured
    cited = {item.fact for item in material.opinion.judgement.evidence}
    return {
        "title": title(material),
        "query": material.query,
        "prices": material.prices,
        "facts": measured.facts,
        "points": measured.points,
        "warmup": measured.warmup,
        "rows": [
            (*MEANINGS.get(name, (name, "")), shown(name, value), name in cited)
            for name, value in measured.facts.items()
        ],
        "news": material.news,
        "judgement": material.opinion.judgement,
        "opinion": material.opinion,
        "author": author(material.opinion),
        "data_note": data_note(material),
        "chart_name": material.chart.page.name,
        "steps": [_step_row(step) for step in material.steps],
        "run_id": material.run_id,
        "written_at": material.written_at.strftime("%Y-%m-%d %H:%M UTC"),
        "sparkline": sparkline([point.close for point in measured.points]),
        "labels": {name: label for name, (label, _) in MEANINGS.items()},
    }


def author(opinion: Opinion) -> str:
    """Who judged, in a sentence for the first lines."""
    if opinion.computed:
        return (
            f"No language model was used. The judgement was computed by fixed technical rules "
            f"({opinion.model}); set OPENAI_API_KEY to have a language model judge."
        )
    return f"The judgement was written by the language model {opinion.model} and checked against the numbers."


def data_note(material: Material) -> str:
    """A warning where the prices do not reach to the day that was asked for, else empty."""
    last = material.prices.bars[-1].date
    if material.prices.source.sample:
        return f"Historical sample data: the prices end on {last} and say nothing about today."
    wanted = material.query.as_of or material.written_at.date()
    if (wanted - last).days > 7:
        return f"The prices end on {last}, {(wanted - last).days} days before {wanted}."
    if len(material.measured.points) < material.query.days:
        return f"The source has {len(material.measured.points)} days, {material.query.days} were asked for."
    return ""


def _step_row(step: StepView) -> dict[str, Any]:
    done = step.status == "done"
    return {
        "key": step.key,
        "node": step.node if done else "",
        "kind": step.kind,
        "status": "accepted" if step.kind == "verifier" and done else step.status,
        "attempts": step.attempts,
        "took": took(step.duration_s),
        "errors": _failures(step),
    }


def _failures(step: StepView) -> list[str]:
    """What failed or was refused on the way, each once, with how often."""
    told = [*step.errors, *(f"rejected before: {text}" for text in step.feedback)]
    counted = Counter(" ".join(text.split()) for text in told)
    return [
        f"{text[:240]}{'…' if len(text) > 240 else ''}{f' ({often} times)' if often > 1 else ''}"
        for text, often in counted.items()
    ]


def shown(name: str, value: float) -> str:
    """A fact with its unit; changes with their sign."""
    unit = MEANINGS.get(name, ("", ""))[1]
    if unit == "%":
        signed = name.startswith(("change_", "close_vs_", "volume_"))
        return f"{value:+.2f} %" if signed else f"{value:.2f} %"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.4g}"


def _shown_evidence(item: Evidence) -> str:
    return shown(item.fact, item.value)


def sparkline(closes: Sequence[float], width: int = 220, height: int = 48) -> str:
    """Points of an SVG polyline."""
    low, high = min(closes), max(closes)
    span = (high - low) or 1.0
    step = width / max(1, len(closes) - 1)
    ys = (height - 3 - (close - low) / span * (height - 6) for close in closes)
    return " ".join(f"{index * step:.1f},{y:.1f}" for index, y in enumerate(ys))


@cache
def _environment() -> Environment:
    made = environment("flowkit.workflows.stock_analysis")
    made.filters["shown"] = _shown_evidence
    return made
