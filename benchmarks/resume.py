"""resume: a run of n turns, stopped before its last one, is taken up by a fresh process.

start_over_floor   from after the imports until the first new step executes (the file is opened,
                   the journal read and folded, the run claimed, the step begun), over the
                   floor's: open, read all rows, parse them, append the next
repeated           steps that ran again though they were done: each execution writes its key
                   to a file, and nothing else counts
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
from sqlalchemy import select

from benchmarks import flows
from benchmarks.disk import fresh
from benchmarks.floor import DATA, EVENTS, INSERT, Floor, engine_for, row_of
from benchmarks.report import Figure, Row, at_most, median, ratio
from flowkit import Engine
from flowkit.store import SqlStore

SMALL = 300


def rows(n: int | None, repeats: int) -> Iterator[Row]:
    if n is None:
        yield measure(300, repeats)
        yield growth(3000, repeats)
    else:
        yield measure(n, repeats) if n <= 1000 else growth(n, repeats)


def measure(n: int, repeats: int) -> Row:
    found = [resume(n) for _ in range(repeats)]
    mine = [took for took, _, _ in found]
    floor = [took for _, took, _ in found]
    return Row(
        "resume",
        n,
        {
            "start_over_floor": at_most(ratio(mine, floor), 1.5),
            "steps_repeated": at_most(sum(repeated for _, _, repeated in found), 0),
            "start_ms": Figure(median(mine)),
            "floor_start_ms": Figure(median(floor)),
        },
        {"durability": "power", "stopped_by": "SIGKILL", "stopped_at_turn": n - 1},
    )


def growth(n: int, repeats: int) -> Row:
    found = [(resume(n), resume(SMALL)) for _ in range(repeats)]
    long = [large[0] for large, _ in found]
    short = [small[0] for _, small in found]
    return Row(
        "resume",
        n,
        {
            "start_over_300_turns": at_most(ratio(long, short), 10),
            "steps_repeated": at_most(sum(large[2] for large, _ in found), 0),
            "start_ms": Figure(median(long)),
            "start_ms_at_300_turns": Figure(median(short)),
        },
        {"durability": "power", "stopped_by": "SIGKILL", "stopped_at_turn": n - 1},
    )


def resume(n: int) -> tuple[float, float, int]:
    """Milliseconds of flowkit and of the floor, and how many steps ran twice."""
    with fresh() as folder:
        _alone("resume-begin", n, folder, killed=True)
        mine = float(_alone("resume-go-on", n, folder))
        _alone("resume-floor-begin", n, folder)
        floor = float(_alone("resume-floor-go-on", n, folder))
        ran = Counter((folder / "ledger").read_text().split())
    in_flight = _last_step(n)
    return mine, floor, sum(times - 1 for key, times in ran.items() if key != in_flight)


def _alone(what: str, n: int, folder: Path, *, killed: bool = False) -> str:
    command = [sys.executable, "-m", "benchmarks.alone", what, str(n), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != (-9 if killed else 0):
        raise RuntimeError(f"{what} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def _last_step(n: int) -> str:
    """The step in which the first process is killed: the tool of the last turn but one."""
    return f"plan/t{max(n - 1, 1)}/act"


def begin(n: int, folder: Path) -> None:
    """Run until turn n-1, then die as by `kill -9`, in the middle of a step."""

    def told(step: str) -> None:
        _note(folder, step)
        if step == _last_step(n):
            os.kill(os.getpid(), 9)

    flow = flows.chain(n, told)
    anyio.run(flows.timed_run, folder / "runs.db", flow, flows.Message(text="go"))


def go_on(n: int, folder: Path) -> float:
    """Milliseconds until the first new step executes; then the run goes on to its end."""
    first: list[float] = []

    def told(step: str) -> None:
        if not first:
            first.append(time.perf_counter())
        _note(folder, step)

    flow = flows.chain(n, told)

    async def main() -> float:
        began = time.perf_counter()
        async with SqlStore(folder / "runs.db") as store, Engine(store, workflows=[flow]) as engine:
            await engine.resume("measured")
        return (first[0] - began) * 1000

    gc.collect()
    return anyio.run(main)


def _note(folder: Path, step: str) -> None:
    with (folder / "ledger").open("a") as file:
        file.write(f"{step}\n")


def floor_begin(n: int, folder: Path) -> None:
    """The rows of so many turns, by hand."""
    engine = engine_for(folder / "floor.db")
    with engine.connect() as connection, connection.begin():
        EVENTS.metadata.create_all(connection)
        rows = [_row(seq) for seq in range(1, 2 * n - 1)]
        if rows:
            connection.execute(INSERT, rows)
    engine.dispose()


def _row(seq: int) -> dict[str, object]:
    text = flows.Message(text=flows.MESSAGE if seq % 2 else flows.RESULT)
    return row_of(1, seq, time.time(), f"plan/t{seq}/act", "step_done", DATA, text)


def floor_go_on(n: int, folder: Path) -> float:
    """Milliseconds to open the file, read and parse all rows, and append the next one."""
    gc.collect()
    return anyio.run(_floor_go_on, folder / "floor.db")


async def _floor_go_on(path: Path) -> float:
    began = time.perf_counter()
    floor = Floor(path, group=False)
    floor.open()
    rows = await anyio.to_thread.run_sync(_read, path)
    await floor.append(_row(len(rows) + 1))
    took = time.perf_counter() - began
    floor.close()
    return took * 1000


def _read(path: Path) -> list[tuple[object, flows.Message]]:
    with engine_for(path).connect() as connection:
        found = connection.execute(select(EVENTS).order_by(EVENTS.c.seq)).all()
    return [(json.loads(row.data), flows.Message.model_validate_json(row.value)) for row in found]


SUBCOMMANDS = {
    "resume-begin": begin,
    "resume-go-on": go_on,
    "resume-floor-begin": floor_begin,
    "resume-floor-go-on": floor_go_on,
}
