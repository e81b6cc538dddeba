"""What a benchmark prints: rows of figures, each with its goal, as JSON lines or as a table."""

from __future__ import annotations

import gc
import json
import platform
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

REPEATS = 5
"""Every time is the median of so many, taken in turns with what it is compared with."""

PACKAGES = ("anyio", "pydantic", "SQLAlchemy", "networkx")


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number. `goal` is None where it only explains another figure."""

    value: float
    goal: float | None = None
    at_least: bool = False

    @property
    def ok(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"value": _short(self.value), "goal": self.goal, "ok": self.ok}
        if self.goal is not None:
            found["goal_is"] = "at least" if self.at_least else "at most"
        return found


def at_most(value: float, goal: float) -> Figure:
    return Figure(value, goal)


def at_least(value: float, goal: float) -> Figure:
    return Figure(value, goal, at_least=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a scenario: its size, its settings, and what was measured."""

    scenario: str
    n: int
    figures: Mapping[str, Figure]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def ok(self) -> bool:
        return all(figure.ok is not False for figure in self.figures.values())

    def as_json(self) -> str:
        figures = {name: figure.as_json() for name, figure in self.figures.items()}
        return json.dumps(
            {
                "scenario": self.scenario,
                "n": self.n,
                "settings": dict(self.settings),
                "versions": versions(),
                "figures": figures,
            }
        )

    def as_text(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines = [f"{self.scenario}  n={self.n}" + (f"  ({settings})" if settings else "")]
        for name, figure in self.figures.items():
            goal = ""
            if figure.goal is not None:
                sign = ">=" if figure.at_least else "<="
                goal = f"{sign} {figure.goal:g}".ljust(10) + ("ok" if figure.ok else "MISSED")
            lines.append(f"  {name:<34}{_short(figure.value):>12,}  {goal}".rstrip())
        return "\n".join(lines)


def versions() -> dict[str, str]:
    """What the figures depend on, besides the machine."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in ("flowkit-agents", *PACKAGES):
        try:
            found[package.lower()] = version(package)
        except PackageNotFoundError:
            found[package.lower()] = "not installed"
    return found


def _short(value: float) -> float:
    """A number as far as it means something: three digits, or all of a larger integer."""
    if value == int(value) or abs(value) >= 1000:
        return round(value)
    return float(f"{value:.3g}")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def in_turns(repeats: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measure all of them, then all again, so that a slow minute hits them alike."""
    found: list[list[float]] = [[] for _ in measures]
    for _ in range(repeats):
        for values, measure in zip(found, measures, strict=True):
            gc.collect()
            values.append(measure())
    return found


def ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios taken pair by pair: both of a pair met the same disk."""
    return median([value / floor for value, floor in zip(values, base, strict=True)])


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def say(text: str) -> None:
    """A word on the way, for who waits; not part of the result."""
    print(text, file=sys.stderr, flush=True)
