"""The floor: the same rows, pragmas and promise written by hand, with SQLAlchemy Core on a thread.

Nothing here retries, folds, fences or decides. A row is built, handed to the one writing thread,
committed with FULL, and only then is who waits for it woken. What flowkit adds to that is what a
benchmark measures. One row a transaction (`group=False`), or all that wait (`group=True`).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
)

PAGE_BYTES = 16 * 1024
BATCH_MAX = 512

DATA = '{"input_hash":"0123456789abcdef0123456789abcdef","duration_s":1.234e-05}'
"""What an event of flowkit says beside its value."""

Row: TypeAlias = dict[str, Any]

EVENTS = Table(
    "events",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("run", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("alternative", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("data", Text, nullable=False),
    Column("value", Text),
    Index("events_seq", "run", "seq", unique=True),
)

INSERT = insert(EVENTS).inline()
SELECT = select(EVENTS).order_by(EVENTS.c.seq)


def engine_for(path: Path) -> Engine:
    """The engine of one held connection, set as flowkit's writer is."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)

    def connected(dbapi: Any, record: object) -> None:
        dbapi.isolation_level = None
        for pragma in (
            f"page_size={PAGE_BYTES}", "journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000",
        ):  # fmt: skip
            dbapi.execute(f"PRAGMA {pragma}")

    def began(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", began)
    return engine


_Item: TypeAlias = "tuple[Row, asyncio.Future[None]]"


class Floor:
    """A journal by hand. `open` in a running loop, `append` from any of its tasks, `close`."""

    def __init__(self, path: Path, *, group: bool) -> None:
        self._engine = engine_for(path)
        self._batch_max = BATCH_MAX if group else 1
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._ready = threading.Event()
        self.commits = 0

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    async def append(self, row: Row) -> None:
        """Return when the row is on disk."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((row, done))
        await done

    def _main(self) -> None:
        with self._engine.connect() as connection:
            with connection.begin():
                EVENTS.metadata.create_all(connection, checkfirst=True)
            self._ready.set()
            while batch := self._next():
                rows = [row for row, _ in batch]
                with connection.begin():
                    connection.execute(INSERT, rows[0] if len(rows) == 1 else rows)
                self.commits += 1
                self._loop.call_soon_threadsafe(_wake, [done for _, done in batch])

    def _next(self) -> list[_Item]:
        """One item, and with `group` all others that wait; nothing at the end."""
        first = self._queue.get()
        batch = [first] if first is not None else []
        while batch and len(batch) < self._batch_max and not self._queue.empty():
            item = self._queue.get()
            if item is None:
                self._queue.put(None)
                break
            batch.append(item)
        return batch


def _wake(waiting: Sequence[asyncio.Future[None]]) -> None:
    for done in waiting:
        done.set_result(None)


def row_of(run: int, seq: int, at: float, key: str, kind: str, data: str, value: BaseModel) -> Row:
    """A row in the shape of an event of flowkit's journal, its value dumped as flowkit's is."""
    return {
        "run": run,
        "seq": seq,
        "at": at,
        "kind": kind,
        "key": key,
        "alternative": 0,
        "attempt": 1,
        "data": data,
        "value": value.model_dump_json(),
    }
