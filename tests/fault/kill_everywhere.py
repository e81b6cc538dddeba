"""Kill the 12-step workflow with SIGKILL at every append, resume it, and tell what came of it.

A program of its own: it imports once and forks, so that hundreds of deaths take seconds. Prints one JSON
line for each death: `{"at", "phase", "result", "repeated", "lost", "integrity"}`; the test judges them.
With SEED COUNT: as many runs, each killed up to three times at random appends.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import anyio

from flowkit import Engine
from flowkit.events import Event
from flowkit.ports import Message
from flowkit.store import SqlStore
from tests.fault.w12 import Ledger, Report, Topic, w12

ENDING = ("step_done", "planned", "accepted", "rejected", "attempt_failed")


class DyingStore(SqlStore):
    """Kills its own process at the n-th append: before it, after it, or while others wait for it."""

    def __init__(self, path: Path, at: int, phase: str) -> None:
        super().__init__(str(path))
        self.left = at
        self.phase = phase

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        self.left -= 1
        if self.left == 0 and self.phase == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        messages = await super().append(run_id, events, expect=expect, epoch=epoch)
        if self.left == 0 and self.phase == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return messages


async def run(folder: Path, at: int, phase: str) -> Report:
    store = DyingStore(folder / "runs.db", at, phase)
    async with store, Engine(store, resources=[Ledger(folder / "ledger")]) as engine:
        return await engine.run(w12, Topic(text="t"), run_id="r")


def in_child(folder: Path, at: int, phase: str) -> int:
    """Run in a forked child; its exit status (negative: the signal that killed it)."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        report = anyio.run(run, folder, at, phase)
        (folder / "result.json").write_text(report.model_dump_json())
        code = 0
    finally:
        os._exit(code)


def finished(folder: Path) -> set[str]:
    """What the journal holds as ended: key, alternative and attempt."""
    with sqlite3.connect(folder / "runs.db") as connection:
        marks = ", ".join("?" * len(ENDING))
        rows = connection.execute(
            f"SELECT key, alternative, attempt FROM flowkit_events WHERE kind IN ({marks})",
            ENDING,
        ).fetchall()
    connection.close()
    return {" ".join(str(part) for part in row) for row in rows}


def ledger(folder: Path) -> Counter[str]:
    path = folder / "ledger"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def die_and_resume(at: int, phase: str) -> dict[str, object]:
    """One death at an append, then a resume without one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        died = in_child(folder, at, phase)
        if died == 0:
            return {"at": at, "phase": phase, "end": True}
        before, ended = ledger(folder), finished(folder)
        code = in_child(folder, 0, phase)
        after = ledger(folder)
        with sqlite3.connect(folder / "runs.db") as connection:
            (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        connection.close()
        return {
            "at": at,
            "phase": phase,
            "died": died,
            "code": code,
            "result": json.loads((folder / "result.json").read_text()) if code == 0 else None,
            "repeated": sorted(key for key in ended if after[key] != before[key]),
            "lost": sorted(ended - finished(folder)),
            "most": max(after.values()),
            "integrity": integrity,
        }


def die_again(random_: random.Random) -> dict[str, object]:
    """Up to three deaths of one run, each at a random append, then a resume without one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repeated: set[str] = set()
        held: set[str] = set()
        deaths = 0
        for _ in range(3):
            at, phase = random_.randrange(1, 12), random_.choice(["before", "after"])
            before = ledger(folder)
            died = in_child(folder, at, phase) != 0
            deaths += died
            repeated |= {key for key in held if ledger(folder)[key] != before[key]}
            held |= finished(folder)
        before = ledger(folder)
        code = in_child(folder, 0, "after")
        after = ledger(folder)
        with sqlite3.connect(folder / "runs.db") as connection:
            (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        connection.close()
        return {
            "deaths": deaths,
            "result": json.loads((folder / "result.json").read_text()) if code == 0 else None,
            "repeated": sorted(repeated | {key for key in held if after[key] != before[key]}),
            "lost": sorted(held - finished(folder)),
            "integrity": integrity,
        }


def main() -> None:
    if len(sys.argv) == 3:
        random_ = random.Random(int(sys.argv[1]))
        for _ in range(int(sys.argv[2])):
            print(json.dumps(die_again(random_)), flush=True)
        return
    for phase in ("before", "after"):
        at = 0
        while True:
            at += 1
            outcome = die_and_resume(at, phase)
            print(json.dumps(outcome), flush=True)
            if outcome.get("end"):
                break


if __name__ == "__main__":
    sys.exit(main())
