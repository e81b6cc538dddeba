"""What a report tells: the material of its pages, in the report's language."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flowkit.events import StepView
from flowkit.workflows.operations_report import trouble
from flowkit.workflows.operations_report.findings import filled
from flowkit.workflows.operations_report.metrics import UNITS
from flowkit.workflows.operations_report.texts import label, shown, shown_change, text
from flowkit.workflows.operations_report.values import (
    Charts,
    Metric,
    Numbers,
    Read,
    Sales,
    Scope,
    Table,
)

OFFLINE = "flowkit-offline"
_CHARTS = {"daily": "chart_daily", "channels": "chart_channels", "buyers": "chart_buyers"}


@dataclass(frozen=True)
class Told:
    """All that a report tells. `model` is whom the run could ask."""

    scope: Scope
    table: Table
    sales: Sales
    numbers: Numbers
    read: Read
    charts: Charts
    pictures: Sequence[bytes]
    steps: Sequence[StepView]
    model: str
    run_id: str
    written_at: dt.datetime

    def say(self, name: str, **put: object) -> str:
        """A text in the report's language, with values put in."""
        said = text(name, self.scope.language)
        for key, value in put.items():
            said = said.replace("{" + key + "}", str(value))
        return said

    @property
    def title(self) -> str:
        return self.say("title", brand=self.scope.brand, month=self.scope.month)

    @cached_property
    def models(self) -> list[str]:
        """The language models that wrote a part that is shown."""
        wrote = [] if self.read.computed else [self.read.author]
        wrote += [self.charts.author] if self.charts.how == "model" else []
        return [name for name in dict.fromkeys(wrote) if name != OFFLINE]

    @cached_property
    def fallbacks(self) -> list[str]:
        """What stood in for what, and why."""
        found = trouble.source_fallbacks(self.steps, self.sales.source)
        if self.read.author == "flowkit":
            errors = [
                error for step in self.steps if step.key == "findings" for error in step.errors
            ]
            why = [*errors, *(f"refused: {each}" for each in self.read.refused)]
            found.append(f"findings: by fixed rules ({trouble.short('; '.join(why), 400)})")
        failed = [f"{each.author}: {each.said}" for each in self.charts.tries if not each.ok]
        if self.charts.how != "model" and (failed or self.model != OFFLINE):
            why_not = trouble.short("; ".join(failed) or "the model gave no program", 400)
            name = {"svg": "SVG by flowkit", "shipped": "flowkit's own program"}[self.charts.how]
            found.append(f"charts: {name} ({why_not})")
        if self.charts.language != self.scope.language:
            found.append("charts: English labels, since no font with Chinese characters was found")
        return found

    @property
    def authors(self) -> list[str]:
        """Who wrote it, in sentences for the first lines."""
        said: list[str] = []
        if self.sales.source.sample:
            said.append(self.say("sample"))
        if not self.read.computed:
            said.append(self.say("author", author=self.read.author))
        else:
            said.append(self.say("rules_instead" if self.read.author == "flowkit" else "computed"))
        said.append(self.say(f"charts_{self.charts.how}", author=self.charts.author))
        if self.charts.language != self.scope.language:
            said.append(self.say("charts_english"))
        return [*said, self.say("check_it")]

    @property
    def notes(self) -> list[str]:
        """What was done to the data, and what its period means."""
        told = [self.say(name, count=value) for name, value in self.sales.notes]
        return told if self.sales.month_before else [*told, self.say("no_before")]

    def row(self, metric: Metric) -> dict[str, str]:
        language, currency = self.scope.language, self.scope.currency
        return {
            "id": metric.id,
            "label": label(metric, language),
            "value": shown(metric, currency),
            "before": shown(metric, currency, before=True),
            "change": shown_change(metric, language),
            "what": self.say(f"def_{metric.id}") if metric.id in UNITS else "",
        }

    @property
    def findings(self) -> list[dict[str, Any]]:
        known = self.numbers.by_id()
        return [
            {
                "kind": each.kind,
                "claim": self.fill(each.claim),
                "action": self.fill(each.action),
                "row": self.row(known[each.metric]),
            }
            for each in sorted(self.read.reading.findings, key=lambda each: each.kind != "problem")
        ]

    def fill(self, said: str) -> str:
        return filled(said, self.numbers, self.scope.language, self.scope.currency)

    @property
    def shown_charts(self) -> list[dict[str, str]]:
        """Each chart with its name, title, and itself as a data address."""
        return [
            {
                "name": kept.name,
                "title": self.say(_CHARTS[kept.name.rpartition(".")[0]]),
                "url": f"data:{kept.media_type};base64,{base64.b64encode(data).decode()}",
            }
            for kept, data in zip(self.charts.pictures, self.pictures, strict=True)
        ]
