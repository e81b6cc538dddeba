"""What failed on the way, as a report tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flowkit.events import StepView
from flowkit.workflows.operations_report.values import Source

_IDLE = (
    "the engine has none, and the query names no file",
    "the query names a CSV instead",
    "CSV: the query names none",
    "search: the query asks for none",
)
"""Failures of sources that nobody named: no fallbacks."""


def short(said: str, characters: int = 200) -> str:
    line = " ".join(said.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def real_errors(step: StepView) -> list[str]:
    """What failed in a step, each once with how often; sources that nobody named are left out."""
    told = [each for each in step.errors if not any(idle in each for idle in _IDLE)]
    counted = Counter([*told, *(f"rejected: {text}" for text in step.feedback)])
    return [
        f"{short(text, 300)}{f' (×{often})' if often > 1 else ''}"
        for text, often in counted.items()
    ]


def idle_tries(step: StepView) -> int:
    """How often a source was passed over since nobody named it."""
    return sum(any(idle in each for idle in _IDLE) for each in step.errors)


def source_fallbacks(steps: Sequence[StepView], source: Source) -> list[str]:
    """Which source failed how, and which stood in."""
    failed = [error for step in steps if step.key == "orders" for error in real_errors(step)]
    return [f"orders: from {source.kind} ({'; '.join(failed)})"] if failed else []
