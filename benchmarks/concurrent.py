"""concurrent: n runs of ten steps each, at once, in one process and one file.

Against the floor's group commit with n producers that hand in ten rows each, one after the other.
Results have 2 KB, as the floor's rows in docs; `..._small` is the same with results of a few bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio

from benchmarks import flows
from benchmarks.disk import fresh
from benchmarks.floor import DATA, Floor, row_of
from benchmarks.report import Figure, Row, at_least, at_most, in_turns, median, ratio
from flowkit import Engine, FlowkitError
from flowkit.store import SqlStore

STEPS = 10
SMALL = "found"


def rows(n: int | None, repeats: int) -> Iterator[Row]:
    yield measure(n or 1000, repeats)


def measure(n: int, repeats: int) -> Row:
    wrong: list[str] = []
    mine, floor, small, floor_small = in_turns(
        repeats,
        partial(run, n, flows.RESULT, wrong),
        partial(by_hand, n, flows.RESULT),
        partial(run, n, SMALL, wrong),
        partial(by_hand, n, SMALL),
    )
    return Row(
        "concurrent",
        n,
        {
            "steps_a_second_over_floor": at_least(ratio(mine, floor), 0.4),
            "errors": at_most(len(wrong), 0),
            "steps_a_second": Figure(median(mine)),
            "floor_steps_a_second": Figure(median(floor)),
            "over_floor_small": Figure(ratio(small, floor_small)),
        },
        {"durability": "power", "steps_a_run": STEPS, "text_bytes": flows.TEXT_BYTES},
    )


def run(n: int, text: str, wrong: list[str]) -> float:
    """Steps a second of all runs together, on a fresh file."""
    with fresh() as folder:
        return n * STEPS / anyio.run(_run, folder / "runs.db", n, text, wrong)


async def _run(path: Path, n: int, text: str, wrong: list[str]) -> float:
    flow = flows.line(STEPS)
    async with SqlStore(path) as store, Engine(store, workflows=[flow]) as engine:

        async def one(number: int) -> None:
            try:
                letter = flows.Letter(n=number, text=text)
                found = await engine.run(flow, letter, run_id=f"run-{number}")
            except FlowkitError as error:
                wrong.append(str(error))
            else:
                if found.n != number + STEPS:
                    wrong.append(f"run {number} gave {found.n}")

        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(n):
                tasks.start_soon(one, number)
        return time.perf_counter() - began


def by_hand(n: int, text: str) -> float:
    with fresh() as folder:
        return n * STEPS / anyio.run(_by_hand, folder / "floor.db", n, text)


async def _by_hand(path: Path, n: int, text: str) -> float:
    floor = Floor(path, group=True)
    floor.open()

    async def one(number: int) -> None:
        for step in range(1, STEPS + 1):
            value = flows.Letter(n=number + step, text=text)
            row = row_of(number, step, time.time(), f"add-{step}", "step_done", DATA, value)
            await floor.append(row)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(n):
            tasks.create_task(one(number))
    took = time.perf_counter() - began
    floor.close()
    return took
