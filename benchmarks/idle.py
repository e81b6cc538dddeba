"""idle: what a waiting run costs: n runs wait for a signal, their memory given back.

Resident memory of a fresh process, n waiting runs less none, after a warm-up run and a collection.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.report import Figure, Row, at_most, median


def rows(n: int | None, repeats: int) -> Iterator[Row]:
    yield measure(n or 1000, repeats)


def measure(n: int, repeats: int) -> Row:
    found = [_measure_alone(n) for _ in range(repeats)]
    return Row(
        "idle",
        n,
        {
            "kb_a_run": at_most(median([resident for resident, _ in found]), 20),
            "kb_a_run_of_python_objects": Figure(median([traced for _, traced in found])),
        },
        {"suspend_after_s": 0.05, "memory": "resident set; Python objects by tracemalloc"},
    )


def _measure_alone(n: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.alone"]
    found: list[float] = []
    for what in ("idle", "idle-traced"):
        done = subprocess.run([*command, what, str(n)], check=True, capture_output=True, text=True)
        found.append(float(done.stdout))
    return found[0], found[1]
