"""Eight processes that open one fresh file at the same moment. For `test_disk_crowd`.

    python -m tests.fault.disk.crowd append|same ROUNDS

`append`: each creates a run of its own and appends to it. `same`: each starts the same run. A process
waits at a gate, which opens for all at once. One JSON line for each round.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Final

import anyio

from flowkit import Engine
from flowkit.errors import RunBusy
from flowkit.events import Event, Waiting
from flowkit.ports import RunRecord
from flowkit.store import SqlStore
from tests.fault.disk.flow import Lines, bring_to_end, events, gaps, soundness

EIGHT: Final = 8
EVENTS: Final = 5


async def append(folder: Path, number: int) -> str:
    async with SqlStore(folder / "runs.db") as store:
        run_id = f"r{number}"
        await store.create(RunRecord(run_id, "flow", "0" * 32, 0.0))
        epoch = await store.claim(run_id, f"owner{number}", 60)
        assert epoch is not None
        for head in range(EVENTS):
            event = Event(head + 1, 0.0, Waiting("a word"))
            await store.append(run_id, [event], expect=head, epoch=epoch)
        return "done"


async def same(folder: Path, number: int) -> str:
    ledger = Lines(folder / "ledger")
    async with (
        SqlStore(folder / "runs.db") as store,
        Engine(store, resources=[ledger], poll_s=0.05) as engine,
    ):
        try:
            return await bring_to_end(engine)
        except RunBusy:
            return "RunBusy"


def together(work: Callable[[Path, int], Awaitable[str]], folder: Path) -> list[str]:
    """What eight processes came to that began at once."""
    gate, opening = os.pipe()
    children: list[tuple[int, int]] = []
    for number in range(EIGHT):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(opening)
                os.read(gate, 1)  # ends when the last writer of the gate is gone
                told = anyio.run(work, folder, number)
            except BaseException:  # noqa: BLE001  (told to the parent)
                told = traceback.format_exc()
            os.write(writing, told.encode()[-4000:])
            os._exit(0)
        os.close(writing)
        children.append((child, reading))
    os.close(opening)
    found: list[str] = []
    for child, reading in children:
        with os.fdopen(reading) as pipe:
            found.append(pipe.read())
        os.waitpid(child, 0)
    os.close(gate)
    return found


def play(what: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="flowkit-disk-") as name:
        folder = Path(name)
        database = folder / "runs.db"
        found = together({"append": append, "same": same}[what], folder)
        told: dict[str, object] = {"found": found, "sound": soundness(database)}
        if what == "append":
            rows = [events(database, f"r{number}") for number in range(EIGHT)]
            return {**told, "rows": [len(each) for each in rows], "gaps": any(map(gaps, rows))}
        with closing(sqlite3.connect(database)) as connection:
            (runs,) = connection.execute("SELECT count(*) FROM flowkit_runs").fetchone()
        kinds = Counter(row[0] for row in events(database))
        ran = Counter(Lines(folder / "ledger").read())
        return {**told, "runs": runs, "claimed": kinds["claimed"], "most": max(ran.values())}


def main() -> None:
    logging.disable()
    import_module("sqlalchemy.dialects.sqlite")  # once for all children
    what, rounds = sys.argv[1:]
    for _ in range(int(rounds)):
        print(json.dumps(play(what)), flush=True)


if __name__ == "__main__":
    main()
