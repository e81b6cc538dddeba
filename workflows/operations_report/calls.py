"""The log of tool calls: tool, parameters, result, duration, and what failed on the way."""

from __future__ import annotations

import hashlib
from typing import Any

from flowkit.events import StepView
from flowkit.workflows.operations_report.texts import shown
from flowkit.workflows.operations_report.told import Told
from flowkit.workflows.operations_report.trouble import idle_tries, real_errors, short
from flowkit.workflows.pages import took

_BEFORE_CHARTS = ("scope", "places", "orders", "sales", "numbers", "numbers_recounted")


def rows(told: Told) -> list[dict[str, Any]]:
    """A row for each call of a tool, in order."""
    called = [step for step in told.steps if step.attempts and step.kind in ("tool", "verifier")]
    # Programs came into the run after the steps that wait for them, and ended before them.
    called.sort(key=lambda step: not step.key.startswith("charts/"))
    first = [step for step in called if step.key in _BEFORE_CHARTS]
    return [_row(told, step) for step in [*first, *(each for each in called if each not in first)]]


def _row(told: Told, step: StepView) -> dict[str, Any]:
    parameters, result = _told(told, step.key)
    if step.kind == "verifier":
        result = "accepted" if step.status == "done" else step.status
    return {
        "tool": step.node,
        "key": step.key,
        "parameters": short(parameters),
        "result": short(result, 260),
        "took": took(step.duration_s),
        "attempts": step.attempts - idle_tries(step),
        "errors": real_errors(step),
    }


def _told(told: Told, key: str) -> tuple[str, str]:
    """Parameters and result of a step, in short."""
    scope, sales, table = told.scope, told.sales, told.table
    asked = f"brand={scope.brand}, month={scope.month}"
    counted = f"{len(told.numbers.metrics)} numbers"
    encoding = f" ({table.source.encoding})" if table.source.encoding else ""
    known = {
        "scope": (asked, f"language={scope.language}"),
        "places": ("the query", table.source.kind),
        "orders": (
            f"{table.source.kind}: {table.source.name}",
            f"{table.count:,} lines{encoding}, {table.months[0]} to {table.months[-1]}"
            + (f", brands: {', '.join(table.brands[:5])}" if table.brands else ""),
        ),
        "sales": (
            asked,
            f"{sales.lines:,} lines, {sales.first_day} to {sales.last_day}",
        ),
        "numbers": (
            f"{sales.lines:,} lines, {asked}",
            ", ".join(f"{each.id}={shown(each)}" for each in told.numbers.metrics if not each.name),
        ),
        "findings": (
            f"{counted}, language={scope.language}",
            f"{len(told.read.reading.findings)} findings by {told.read.author}",
        ),
    }
    if key.startswith("charts/"):
        return _program(told, key)
    return known.get(key, (f"{counted}, {asked}", ""))


def _program(told: Told, key: str) -> tuple[str, str]:
    """The program of a turn, as its author, length and hash, with what it gave."""
    turn = key.split("/")[1].removeprefix("t")
    tries = told.charts.tries
    if not turn.isdigit() or not 0 < int(turn) <= len(tries):
        return "", ""
    tried = tries[int(turn) - 1]
    digest = hashlib.sha256(tried.code.encode()).hexdigest()[:12]
    lines = len(tried.code.splitlines())
    said = f"program by {tried.author}, {lines} lines, sha256 {digest}; data.json"
    return said, tried.said
