"""fanout: one run maps a trivial tool over n items, with the default budget (100 at once).

Against the floor's group commit: n tasks that hand in one row each, all waiting at once. Results
have 2 KB, as the floor's rows in docs; `..._small` is the same with results of a few bytes.
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
from benchmarks.report import Figure, Row, at_least, in_turns, median, ratio

SMALL = "found"


def rows(n: int | None, repeats: int) -> Iterator[Row]:
    yield measure(n or 1000, repeats)


def measure(n: int, repeats: int) -> Row:
    mine, floor, small, floor_small = in_turns(
        repeats,
        partial(run, n, flows.RESULT),
        partial(by_hand, n, flows.RESULT),
        partial(run, n, SMALL),
        partial(by_hand, n, SMALL),
    )
    return Row(
        "fanout",
        n,
        {
            "steps_a_second_over_floor": at_least(ratio(mine, floor), 0.6),
            "steps_a_second": Figure(median(mine)),
            "floor_steps_a_second": Figure(median(floor)),
            "over_floor_small": Figure(ratio(small, floor_small)),
        },
        {"durability": "power", "parallel_max": 100, "text_bytes": flows.TEXT_BYTES},
    )


def run(n: int, text: str) -> float:
    """Steps a second of one run on a fresh file."""
    flow = flows.fanout(text)
    with fresh() as folder:
        return n / anyio.run(flows.timed_run, folder / "runs.db", flow, flows.Count(n=n))


def by_hand(n: int, text: str) -> float:
    with fresh() as folder:
        return n / anyio.run(_by_hand, folder / "floor.db", n, text)


async def _by_hand(path: Path, n: int, text: str) -> float:
    floor = Floor(path, group=True)
    floor.open()

    async def work(item: int) -> None:
        key, value = f"look_up/{item}", flows.Message(text=text)
        await floor.append(row_of(1, item + 1, time.time(), key, "step_done", DATA, value))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for item in range(n):
            tasks.create_task(work(item))
    took = time.perf_counter() - began
    floor.close()
    return took
