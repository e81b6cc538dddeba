"""Words and numbers as a report shows them, in English and Chinese."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from flowkit.workflows.operations_report.values import Language, Metric, Numbers


@cache
def _texts() -> Mapping[Language, Mapping[str, str]]:
    place = files("flowkit.workflows.operations_report").joinpath("data", "texts.json")
    told: Mapping[Language, Mapping[str, str]] = json.loads(place.read_text("utf-8"))
    return told


def text(name: str, language: Language) -> str:
    return _texts()[language][name]


def texts(language: Language) -> Mapping[str, str]:
    return _texts()[language]


def label(metric: Metric, language: Language) -> str:
    """A number's name, such as "Net sales of Web shop"."""
    if metric.name:
        return text(metric.id.rpartition("_")[0], language).replace("{name}", metric.name)
    return text(metric.id, language)


def shown(metric: Metric, currency: str = "", *, before: bool = False) -> str:
    """A value with its unit; a dash where there is none."""
    value = metric.before if before else metric.value
    if value is None:
        return "–"
    if metric.unit == "percent":
        return f"{value:.1f} %"
    if metric.unit == "count":
        return f"{value:,.0f}"
    return f"{currency} {value:,.2f}".strip()


def shown_change(metric: Metric, language: Language) -> str:
    """How much it moved, with its sign."""
    if metric.change is None:
        return "–"
    unit = text("points", language) if metric.unit == "percent" else "%"
    # What rounds to nothing has no sign.
    return f"{metric.change:+.1f} {unit}" if abs(metric.change) >= 0.05 else f"0.0 {unit}"


def chart_texts(numbers: Numbers, language: Language) -> Mapping[str, str]:
    """The words that charts need."""
    names = (
        "gmv", "net_sales", "new_buyers", "returning", "day",
        "chart_daily", "chart_channels", "chart_buyers",
    )  # fmt: skip
    return {name: text(name, language) for name in names}
