"""chain: turns of one model step and one tool step of 2 KB each, every step durable before the next.

over_floor      µs a step over the floor's, one row a transaction
over_30_turns   µs a step of a long run over that of one with 30 turns
database        bytes of the database and its log after close, over the bytes of messages and results
memory          peak memory over that of a run with 30 turns
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio

from benchmarks import flows
from benchmarks.disk import fresh, size_of
from benchmarks.floor import DATA, Floor, row_of
from benchmarks.report import Figure, Row, at_most, in_turns, median, ratio

SHORT = 30


def rows(n: int | None, repeats: int) -> Iterator[Row]:
    if n is None:
        yield measure(300, repeats)
        yield growth(3000, repeats)
    else:
        yield measure(n, repeats) if n <= 1000 else growth(n, repeats)


def measure(n: int, repeats: int) -> Row:
    mine, floor = in_turns(repeats, partial(run, n), partial(by_hand, n))
    with fresh() as folder:
        anyio.run(flows.timed_run, folder / "runs.db", flows.chain(n), flows.Message(text="go"))
        stored = size_of(folder)
    payload = n * (len(flows.MESSAGE) + len(flows.RESULT))
    peaks = [[peak_kb(turns) for turns in (n, min(SHORT, n))] for _ in range(repeats)]
    return Row(
        "chain",
        n,
        {
            "us_a_step_over_floor": at_most(ratio(mine, floor), 1.3),
            "us_a_step": Figure(median(mine)),
            "floor_us_a_step": Figure(median(floor)),
            "database_over_payload": at_most(stored / payload, 1.3),
            "peak_memory_over_30_turns": at_most(
                median([long / short for long, short in peaks]), 1.2
            ),
            "peak_memory_mb": Figure(median([long for long, _ in peaks]) / 1024),
        },
        _settings(),
    )


def growth(n: int, repeats: int) -> Row:
    long, short = in_turns(repeats, partial(run, n), partial(_several, SHORT, repeats))
    return Row(
        "chain",
        n,
        {
            "us_a_step_over_30_turns": at_most(ratio(long, short), 1.1),
            "us_a_step": Figure(median(long)),
            "us_a_step_at_30_turns": Figure(median(short)),
        },
        _settings(),
    )


def _settings() -> dict[str, object]:
    return {"durability": "power", "text_bytes": flows.TEXT_BYTES}


def run(turns: int) -> float:
    """µs a step of a run on a fresh file."""
    flow = flows.chain(turns)
    with fresh() as folder:
        took = anyio.run(flows.timed_run, folder / "runs.db", flow, flows.Message(text="go"))
    return took / (2 * turns) * 1e6


def _several(turns: int, times: int) -> float:
    """The same, of several runs: a short one alone is mostly chance."""
    return median([run(turns) for _ in range(times)])


def by_hand(turns: int) -> float:
    with fresh() as folder:
        return anyio.run(_by_hand, folder / "floor.db", turns) / (2 * turns) * 1e6


async def _by_hand(path: Path, turns: int) -> float:
    floor = Floor(path, group=False)
    floor.open()
    began = time.perf_counter()
    for turn in range(1, turns + 1):
        model = flows.Message(text=flows.MESSAGE)
        key = f"plan/t{turn}"
        await floor.append(row_of(1, turn * 2 - 1, time.time(), key, "planned", DATA, model))
        tool = flows.Message(text=flows.RESULT)
        await floor.append(row_of(1, turn * 2, time.time(), f"{key}/act", "step_done", DATA, tool))
    took = time.perf_counter() - began
    floor.close()
    return took


def peak_kb(turns: int) -> int:
    """Peak memory of a fresh process that does nothing but one run."""
    command = [sys.executable, "-m", "benchmarks.alone", "chain", str(turns)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
