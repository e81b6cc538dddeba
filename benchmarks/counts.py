"""Exact counts of what a run writes: they hold on every machine, where times do not."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from pydantic import BaseModel
from sqlalchemy import Engine, create_engine, event, text

from benchmarks import flows
from benchmarks.disk import fresh, size_of
from flowkit import Workflow


@dataclass
class Commits:
    """Write transactions that were committed: with FULL, flushes of the disk."""

    n: int = 0


@contextmanager
def commits() -> Generator[Commits]:
    """Count the commits of every connection that is opened inside, at SQLite itself."""
    found = Commits()

    def connected(dbapi: Any, record: object) -> None:
        writes = False

        def traced(statement: str) -> None:
            nonlocal writes
            if statement.startswith("BEGIN"):
                writes = "IMMEDIATE" in statement
            elif statement.startswith("COMMIT"):
                found.n += writes

        dbapi.set_trace_callback(traced)

    event.listen(Engine, "connect", connected)
    try:
        yield found
    finally:
        event.remove(Engine, "connect", connected)


@dataclass(frozen=True, slots=True)
class Counted:
    """What one run has written. `row_bytes` are those of its rows, `file_bytes` those on disk."""

    commits: int
    events: int
    seq: int
    row_bytes: int
    file_bytes: int


def counted(flow: Workflow[Any, Any], value: BaseModel) -> Counted:
    """Run a workflow on a fresh file, and count."""
    with fresh() as folder:
        path = folder / "runs.db"
        with commits() as found:
            anyio.run(flows.timed_run, path, flow, value)
        size = size_of(folder)
        events, seq, row_bytes = _rows(path)
        return Counted(found.n, events, seq, row_bytes, size)


def _rows(path: Path) -> tuple[int, int, int]:
    columns = ("kind", "key", "data", "value")
    length = " + ".join(f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in columns)
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            asked = text(f"SELECT count(*), max(seq), sum({length}) FROM flowkit_events")
            events, seq, row_bytes = connection.execute(asked).one()
            return int(events), int(seq), int(row_bytes)
    finally:
        engine.dispose()
