"""What the storage faults strike: the 12 steps of `w12`, then a tool that must not be repeated.

All that happens outside the journal goes to one ledger, in order: what ran, what the store has
acknowledged, and what was found recorded when a process began. So one pass tells whether a step ran
that had finished.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, Final

import flowkit.events as ev
from flowkit import Context, Engine, Ref, workflow
from flowkit.events import Event
from flowkit.nodes import tool
from flowkit.ports import Message
from flowkit.store import SqlStore
from flowkit.store.schema import MIGRATIONS
from tests.fault.w12 import RESULT, Ledger, Report, Topic, w12

ENDING: Final = ("step_done", "planned", "accepted", "rejected", "attempt_failed")


@tool(effect="once")
async def announce(ctx: Context, report: Report) -> str:
    ctx.resource(Ledger).write(ctx)
    return report.text


@workflow
def posted(topic: Ref[Topic]) -> Ref[str]:
    return announce(w12(topic))


POSTED: Final = RESULT.text


class Lines(Ledger):
    """The ledger of one run: `Ledger` writes what ran."""

    def say(self, text: str) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{text}\n".encode())
        os.close(handle)

    def hold(self, database: Path, run_id: str = "r") -> None:
        """Note what is recorded as ended; a process that begins must not do it again."""
        for row in events(database, run_id):
            if row[0] in ENDING:
                self.say(f"held {_attempt(row[2:5])}")

    def read(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def repeated(self) -> list[str]:
        """Attempts that ran though they had been acknowledged, or found recorded, as ended."""
        ended: set[str] = set()
        again: list[str] = []
        for line in self.read():
            word, _, rest = line.partition(" ")
            if word == "held":
                ended.add(rest)
            elif word == "ack":
                kind, _, *attempt = rest.split(" ")
                ended |= {_attempt(attempt)} if kind in ENDING else set()
            elif line in ended:
                again.append(line)
        return again

    def acknowledged(self) -> list[str]:
        """Kind, seq, key, alternative and attempt of what the store said was written."""
        return [line[4:] for line in self.read() if line.startswith("ack ")]

    def announced(self) -> int:
        return sum(line.startswith("announce ") for line in self.read())


def _attempt(parts: Iterable[object]) -> str:
    return " ".join(str(part) for part in parts)


class Telling(SqlStore):
    """Notes what it has acknowledged."""

    def __init__(self, path: Path, lines: Lines, **settings: Any) -> None:
        super().__init__(path, **settings)
        self._lines = lines

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        messages = await super().append(run_id, events, expect=expect, epoch=epoch)
        for event in events:
            self._lines.say(f"ack {event.kind} {event.seq} {_attempt_of(event)}")
        return messages


def _attempt_of(event: Event) -> str:
    return f"{event.key} {event.alternative} {event.attempt}"


async def bring_to_end(engine: Engine, run_id: str = "r") -> str:
    """Start the run or go on with it; whoever asks what became of `announce` hears that it was done."""
    handle = await engine.start(posted, Topic(text="t"), run_id=run_id)
    async with aclosing(handle.events(live=True)) as told:
        async for event in told:
            if isinstance(event.payload, ev.OutcomeUnknown):
                for step in (await engine.state(run_id))[1].unknown:  # not yet decided on
                    await engine.decide(run_id, step, "done", POSTED)
    return await handle.result()


# ---- what a database holds, looked up past the store


def events(database: Path, run_id: str = "r") -> list[tuple[Any, ...]]:
    """Kind, seq, key, alternative, attempt and the texts of a run's events."""
    with closing(sqlite3.connect(database)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "flowkit_events" not in tables:
            return []
        return connection.execute(
            "SELECT kind, seq, key, alternative, attempt, data, value FROM flowkit_events "
            "WHERE run = (SELECT id FROM flowkit_runs WHERE run_id = ?) ORDER BY seq",
            (run_id,),
        ).fetchall()


def soundness(database: Path) -> str:
    """`ok`, or what is wrong with the database as a whole."""
    with closing(sqlite3.connect(database)) as connection:
        (told,) = connection.execute("PRAGMA integrity_check").fetchone()
        strangers = connection.execute("PRAGMA foreign_key_check").fetchall()
        schemas = connection.execute("SELECT count(*) FROM flowkit_schema").fetchone()
    if strangers or schemas != (len(MIGRATIONS),):
        return f"{len(strangers)} rows without their run, {schemas[0]} schemas"
    return str(told)


def gaps(found: Sequence[tuple[Any, ...]]) -> bool:
    return [row[1] for row in found] != list(range(1, len(found) + 1))
