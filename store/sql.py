"""`SqlStore`: journals and artifacts in a database file, safe from crashes and power cuts."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import anyio
from anyio import to_thread
from sqlalchemy import QueuePool

from flowkit.errors import JournalConflict, StoreUnusable
from flowkit.events import Event
from flowkit.owner import is_gone
from flowkit.ports import Journal, Message, RunQuery, RunRecord
from flowkit.store import operations as ops
from flowkit.store import sqlite, statements
from flowkit.store.ledger import Ledger
from flowkit.store.rules import (
    ACTIVE,
    Batch,
    Run,
    check_texts,
    message_texts,
    not_found,
    read_events,
)
from flowkit.store.sqlite import Durability
from flowkit.store.writer import Writer, closed

T = TypeVar("T")

_INT_MAX = 2**63 - 1


class SqlStore:
    """Keeps journals and artifacts in an SQLite file, which is made when it is first used.

    Args:
        target: A path, with any suffix; or, with `://` in it, an SQLAlchemy URL (`sqlite:///path`).
        durability: "power": what was acknowledged survives a power cut; each commit waits for the
            disk. "process": it survives the death of the process, but a power cut or a crash of the
            system may take back the last commits. The file stays sound in both.
        now: The clock that leases are measured by.

    Raises:
        StoreUnusable: at once for a target that is no file; at first use if the file cannot be used.
        SchemaTooNew: at first use, if a newer flowkit wrote the file.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        durability: Durability = "power",
        now: Callable[[], float] = time.time,
    ) -> None:
        if durability not in get_args(Durability):
            raise ValueError(f'durability={durability!r}: use "power" or "process".')
        self.path = sqlite.path_of(str(target))
        self._durability: Durability = durability
        self._now = now
        self._opening = anyio.Lock()
        self._limiter: anyio.CapacityLimiter | None = None
        self._writer: Writer | None = None
        self._readers: QueuePool | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.close()

    @property
    def is_open(self) -> bool:
        """Whether the file is open; an engine opens a store that is not, and closes it again."""
        return self._writer is not None and not self._closed

    async def open(self) -> None:
        """Open the file now and bring its tables up to date. The first use does it otherwise."""
        await self._open()

    async def _open(self) -> Writer:
        if self._writer is not None and not self._closed:
            return self._writer
        async with self._opening:
            if self._closed:
                raise closed(self.path)
            if self._writer is None:
                self._limiter = anyio.CapacityLimiter(sqlite.READERS)
                self._writer = await to_thread.run_sync(self._open_file)
            return self._writer

    def _open_file(self) -> Writer:
        sqlite.check_file(self.path)
        engine = sqlite.write_engine(self.path, self._durability)
        try:
            sqlite.create_file(self.path)
            connection = engine.connect()
            try:
                sqlite.prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
        except sqlite.FAILURES as error:
            raise sqlite.explain(error, self.path, "open the database") from error
        except OSError as error:
            raise StoreUnusable(
                f"{self.path}: cannot make the file: {error.strerror}. Choose another path."
            ) from error
        self._readers = sqlite.readers(self.path)
        writer = Writer(engine, self.path, Ledger(self._now))
        writer.start(connection)
        return writer

    async def close(self) -> None:
        """Commit what waits and close the file. Again does nothing; a closed store stays closed."""
        with anyio.CancelScope(shield=True):
            async with self._opening:
                if self._closed:
                    return
                self._closed = True
                if self._writer is not None:
                    await self._close_readers()
                    await to_thread.run_sync(self._writer.stop)

    async def _close_readers(self) -> None:
        """Wait for reads that are under way; their connections would keep the log open."""
        assert self._limiter is not None
        assert self._readers is not None
        borrowers = [object() for _ in range(sqlite.READERS)]
        for borrower in borrowers:
            await self._limiter.acquire_on_behalf_of(borrower)
        self._readers.dispose()
        for borrower in borrowers:
            self._limiter.release_on_behalf_of(borrower)

    async def create(self, run: RunRecord) -> None:
        Run.of(run)
        await (await self._open()).submit(ops.Create(run))

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        batch = Batch.of(events)
        writer = self._writer or await self._open()
        return await writer.submit(ops.Append(_known(run_id), batch, expect, epoch))

    async def claim(
        self, run_id: str, owner: str, lease_s: float, token: int | None = None
    ) -> int | None:
        writer = await self._open()
        return await writer.submit(ops.Claim(_known(run_id), owner, lease_s, token))

    async def renew(self, run_id: str, epoch: int, lease_s: float) -> Sequence[Message] | None:
        return await (await self._open()).submit(ops.Renew(_known(run_id), epoch, lease_s))

    async def release(self, run_id: str, epoch: int) -> None:
        await (await self._open()).submit(ops.Release(_known(run_id), epoch))

    async def post(self, run_id: str, message: Message) -> None:
        message_texts(message)
        await (await self._open()).submit(ops.Post(_known(run_id), message))

    async def put(self, data: bytes) -> str:
        """Store the bytes durably; their SHA-256 as hex."""
        writer = await self._open()
        sha256 = await to_thread.run_sync(_sha256, data)
        await writer.submit(ops.Put(sha256, data))
        return sha256

    async def load(self, run_id: str, *, after: int = 0) -> Journal:
        return await self._read(_load, _known(run_id), min(max(after, 0), _INT_MAX))

    async def runs(self, query: RunQuery) -> Sequence[RunRecord]:
        try:
            check_texts("query", query.run_id, query.prefix, query.workflow)
        except ValueError:
            return ()  # nothing that is stored can match
        return await self._read(_runs, query)

    async def get(self, sha256: str) -> bytes:
        """The bytes; `StoreUnusable` if they are not there, or not what was stored."""
        if not sha256.isascii():  # nor could a database be asked for half a character
            raise _no_artifact(sha256)
        return await self._read(_artifact, sha256)

    async def _read(self, read: Callable[..., T], *args: Any) -> T:
        await self._open()
        return await to_thread.run_sync(partial(self._query, read, *args), limiter=self._limiter)

    def _query(self, read: Callable[..., T], *args: Any) -> T:
        if self._closed or self._readers is None:
            raise closed(self.path)
        try:
            with sqlite.reading(self._readers) as dbapi:
                return read(dbapi, *args)
        except sqlite.FAILURES as error:
            raise sqlite.explain(error, self.path, "read") from error


def _known(run_id: str) -> str:
    """The id itself, if a run can have it."""
    try:
        check_texts("run", run_id)
    except ValueError:
        raise not_found(run_id) from None
    return run_id


def _no_artifact(sha256: str) -> StoreUnusable:
    return StoreUnusable(f"artifact {sha256[:80]!r} is not in this store")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _load(dbapi: sqlite3.Connection, run_id: str, after: int) -> Journal:
    found = next(sqlite.rows(dbapi, statements.RUN, (run_id,)), None)
    if found is None:
        raise not_found(run_id)
    run = Run.read(found)
    rows = sqlite.rows(dbapi, statements.EVENTS_AFTER, (run.row, after))
    return Journal(run.record(), read_events(run_id, rows, after))


def _artifact(dbapi: sqlite3.Connection, sha256: str) -> bytes:
    found = next(sqlite.rows(dbapi, statements.ARTIFACT, (sha256,)), None)
    if found is None:
        raise _no_artifact(sha256)
    data = bytes(found[0])
    if _sha256(data) != sha256:
        raise StoreUnusable(f"artifact {sha256} is damaged. Restore the database from a backup.")
    return data


def _runs(dbapi: sqlite3.Connection, query: RunQuery) -> list[RunRecord]:
    gone: list[str] = []
    if query.free_at is not None:  # whose process is gone is asked once for each owner
        owners = sqlite.rows(dbapi, statements.OWNERS, (*sorted(ACTIVE), query.free_at))
        gone = [owner for (owner,) in owners if is_gone(owner)]
    text, bound = statements.listing(query, gone)
    records: list[RunRecord] = []
    limit = min(max(query.limit, 0), _INT_MAX)
    for stored in sqlite.rows(dbapi, text, (*bound, limit)):
        try:
            records.append(Run.read(stored).record())
        except JournalConflict:
            continue  # one damaged row must not hide the others; loading it says what is wrong
    return records
