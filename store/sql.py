"""`SqlStore`: journals and artifacts in a database, safe from crashes and power cuts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar, get_args

import anyio
from anyio import to_thread
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from flowkit.errors import JournalConflict, StoreUnusable
from flowkit.events import Event, Status
from flowkit.owner import is_gone
from flowkit.ports import Journal, Message, RunQuery, RunRecord
from flowkit.store import operations as ops
from flowkit.store import statements
from flowkit.store.ledger import Ledger
from flowkit.store.marks import swept_before
from flowkit.store.place import READERS, Ask, Durability, Stored
from flowkit.store.rules import (
    ACTIVE,
    Batch,
    Run,
    check_texts,
    message_texts,
    not_found,
    read_events,
)
from flowkit.store.sqlite import SqliteFile, path_of
from flowkit.store.sweeping import portions, unreferenced
from flowkit.store.writer import Writer, closed

if TYPE_CHECKING:
    from flowkit.store.postgres import Postgres

T = TypeVar("T")

_INT_MAX = 2**63 - 1

_ASKED_MAX = 500

# What one transaction deletes, so that an append that comes meanwhile does not wait for long.
_DELETED_ROWS_MAX = 2_000
_DISCARDED_BYTES_MAX = 8 << 20


class SqlStore:
    """Keeps journals and artifacts in an SQLite file, which is made when it is first used, or in a
    PostgreSQL database, where several processes may drive different runs.

    Args:
        target: A path, with any suffix; or, with `://` in it, an SQLAlchemy URL (`sqlite:///path`,
            `postgresql://user:password@host/database`; options behind `?` are libpq's).
        durability: "power": what was acknowledged survives a power cut; each commit waits for the
            disk. "process": it survives the death of the process, but a power cut or a crash of the
            system (or of the PostgreSQL server) may take back the last commits. The database stays
            sound in both.
        now: The clock that leases are measured by.

    Raises:
        StoreUnusable: at once for a target that names no database, or needs a package that is not
            installed; at first use if the database cannot be used.
        SchemaTooNew: at first use, if a newer flowkit wrote the database.
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
        self._place = _place_of(str(target), durability)
        self._now = now
        self._opening = anyio.Lock()
        self._limiter: anyio.CapacityLimiter | None = None
        self._writer: Writer | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.close()

    @property
    def name(self) -> str:
        """The database as messages name it: a path, or a URL without its password."""
        return self._place.name

    @property
    def is_open(self) -> bool:
        """Whether the database is open; an engine opens a store that is not, and closes it again."""
        return self._writer is not None and not self._closed

    async def open(self) -> None:
        """Open the database now and bring its tables up to date. The first use does it otherwise."""
        await self._open()

    async def _open(self) -> Writer:
        if self._writer is not None and not self._closed:
            return self._writer
        async with self._opening:
            if self._closed:
                raise closed(self.name)
            if self._writer is None:
                self._limiter = anyio.CapacityLimiter(READERS)
                self._writer = await to_thread.run_sync(self._start_writer)
            return self._writer

    def _start_writer(self) -> Writer:
        session = self._place.open()
        writer = Writer(self._place, Ledger(self._now))
        writer.start(session)
        return writer

    async def close(self) -> None:
        """Commit what waits and close the database. Again does nothing; a closed store stays closed."""
        with anyio.CancelScope(shield=True):
            async with self._opening:
                if self._closed:
                    return
                self._closed = True
                if self._writer is not None:
                    await self._close_readers()
                    await to_thread.run_sync(self._writer.stop)

    async def _close_readers(self) -> None:
        """Wait for reads that are under way; their connections would keep SQLite's log open."""
        assert self._limiter is not None
        borrowers = [object() for _ in range(READERS)]
        for borrower in borrowers:
            await self._limiter.acquire_on_behalf_of(borrower)
        self._place.close()
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

    async def ended(self, before: Mapping[Status, float]) -> Sequence[str]:
        return await self._read(partial(_ended, before=before))

    async def forks(self) -> Sequence[tuple[str, str]]:
        return await self._read(_forks)

    async def delete(self, run_ids: Sequence[str]) -> Sequence[str]:
        writer = await self._open()
        sizes = await self._read(partial(_sizes, run_ids=run_ids))
        deleted: list[str] = []
        for portion in portions(sizes, _DELETED_ROWS_MAX):
            async with _paced():
                done = await writer.submit_all([ops.Delete(run_id) for run_id in portion])
            deleted += [run_id for run_id, gone in zip(portion, done, strict=True) if gone]
        return deleted

    async def sweep(self, without: Sequence[str] | None = None) -> tuple[int, int]:
        writer = await self._open()
        now = self._now()
        before = swept_before(now, await self._read(partial(_held_since, now=now)))
        sizes = await unreferenced(self._read, before, without or ())
        if without is not None:
            return len(sizes), sum(sizes.values())
        count = size = 0
        for portion in portions(sizes, _DISCARDED_BYTES_MAX):
            async with _paced():
                done = await writer.submit(ops.Discard(portion, before))
            count, size = count + done[0], size + done[1]
        return count, size

    async def vacuum(self) -> tuple[int, int]:
        writer = await self._open()
        alone = writer.drove or not await self._read(partial(_held_since, now=self._now()))
        work = partial(self._vacuum, alone)
        if self._place.vacuum_locks:  # so nobody here runs into the lock
            return await writer.alone(ops.Errand(work))
        return await to_thread.run_sync(work)

    def _vacuum(self, alone: bool) -> tuple[int, int]:
        try:
            return self._place.vacuum(alone)
        except self._place.failures as error:
            raise self._place.explain(error, "vacuum; nothing was lost") from error

    async def load(self, run_id: str, *, after: int = 0) -> Journal:
        after = min(max(after, 0), _INT_MAX)
        return await self._read(partial(_load, run_id=_known(run_id), after=after))

    async def runs(self, query: RunQuery) -> Sequence[RunRecord]:
        try:
            check_texts("query", query.run_id, query.prefix, query.workflow)
        except ValueError:
            return ()  # nothing that is stored can match
        return await self._read(partial(_runs, query=query))

    async def get(self, sha256: str) -> bytes:
        """The bytes; `StoreUnusable` if they are not there, or not what was stored."""
        if not (sha256.isascii() and sha256.isprintable()):  # nor could a database be asked
            raise _no_artifact(sha256)
        return await self._read(partial(_artifact, sha256=sha256))

    async def _read(self, work: Callable[[Ask], T]) -> T:
        await self._open()
        return await to_thread.run_sync(self._query, work, limiter=self._limiter)

    def _query(self, work: Callable[[Ask], T]) -> T:
        if self._closed:
            raise closed(self.name)
        try:
            return self._place.read(work)
        except self._place.failures as error:
            raise self._place.explain(error, "read") from error


def has_tables(target: str) -> bool:
    """Whether a server's database has tables of ours; looking makes none. `StoreUnusable` as of a store."""
    place = _place_of(target, "power")
    return not isinstance(place, SqliteFile) and place.has_tables()


def _place_of(target: str, durability: Durability) -> SqliteFile | Postgres:
    try:
        url = make_url(target) if "://" in target else None
    except (ArgumentError, ValueError):
        url = None  # `path_of` says so
    if url is None or url.get_backend_name() == "sqlite":
        return SqliteFile(path_of(target), durability)
    if url.get_backend_name() != "postgresql":
        raise StoreUnusable(
            f"SqlStore cannot use {url.get_backend_name()!r}, only SQLite and PostgreSQL. Give the "
            f"path of a file, or postgresql://user@host/database."
        )
    try:
        from flowkit.store.postgres import Postgres
    except ImportError as error:
        raise StoreUnusable(
            f'PostgreSQL needs psycopg ({error}): pip install "flowkit-agents[postgres]"'
        ) from error
    return Postgres(url, durability)


def _known(run_id: str) -> str:
    """The id itself, if a run can have it."""
    if not _is_storable(run_id):
        raise not_found(run_id)
    return run_id


def _is_storable(run_id: str) -> bool:
    try:
        check_texts("run", run_id)
    except ValueError:
        return False
    return True


@asynccontextmanager
async def _paced() -> AsyncGenerator[None]:
    """Rest as long as the work has taken: who waits for SQLite's lock only looks now and then."""
    began = time.perf_counter()
    yield
    await anyio.sleep(time.perf_counter() - began)


def _no_artifact(sha256: str) -> StoreUnusable:
    return StoreUnusable(f"artifact {sha256[:80]!r} is not in this store")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _load(ask: Ask, run_id: str, after: int) -> Journal:
    found = next(ask(statements.RUN, (run_id,)), None)
    if found is None:
        raise not_found(run_id)
    run = Run.read(found)
    rows = ask(statements.EVENTS_AFTER, (run.row, after))
    if after < run.base_seq:
        rows = chain(_beginning(ask, run, after), rows)
    return Journal(run.record(), read_events(run_id, rows, after, run.head))


def _beginning(ask: Ask, run: Run, after: int) -> Iterator[Stored]:
    """What a run began with: rows of the run that it was forked from, and of that one's base."""
    parts: dict[int, Iterator[Stored]] = {}
    name, until = run.base, run.base_seq
    while after < until:
        found = next(ask(statements.RUN, (name,)), None)
        if found is None:
            break  # `read_events` says what is missing
        base = Run.read(found)
        if base.row in parts:
            break  # damaged: it begins with itself
        parts[base.row] = ask(statements.EVENTS_BETWEEN, (base.row, after, until))
        name, until = base.base, min(until, base.base_seq)
    # No generator: one that is left half way would be closed after the connection.
    return chain.from_iterable(reversed(parts.values()))


def _ended(ask: Ask, before: Mapping[Status, float]) -> list[str]:
    found: list[str] = []
    for status, at in before.items():
        found += [run_id for (run_id,) in ask(statements.ENDED, (status, at))]
    return found


def _forks(ask: Ask) -> list[tuple[str, str]]:
    return [(run_id, base) for run_id, base in ask(statements.FORKS, ())]


def _sizes(ask: Ask, run_ids: Sequence[str]) -> dict[str, int]:
    """How many rows each of these runs has; without those that there are not."""
    wanted = list(filter(_is_storable, run_ids))
    sizes: dict[str, int] = {}
    for start in range(0, len(wanted), _ASKED_MAX):
        asked = wanted[start : start + _ASKED_MAX]
        for run_id, rows in ask(statements.sizes(len(asked)), asked):
            sizes[run_id] = rows
    return {run_id: sizes[run_id] for run_id in wanted if run_id in sizes}


def _held_since(ask: Ask, now: float) -> float | None:
    """When the oldest of the runs was created that are driven by somebody; None if none is."""
    since: float | None = next(ask(statements.HELD_SINCE, (*sorted(ACTIVE), now)))[0]
    return since


def _artifact(ask: Ask, sha256: str) -> bytes:
    found = next(ask(statements.ARTIFACT, (sha256,)), None)
    if found is None:
        raise _no_artifact(sha256)
    data = bytes(found[0])
    if _sha256(data) != sha256:
        raise StoreUnusable(f"artifact {sha256} is damaged. Restore the database from a backup.")
    return data


def _runs(ask: Ask, query: RunQuery) -> list[RunRecord]:
    gone: list[str] = []
    if query.free_at is not None:  # whose process is gone is asked once for each owner
        owners = ask(statements.OWNERS, (*sorted(ACTIVE), query.free_at))
        gone = [owner for (owner,) in owners if is_gone(owner)]
    text, bound = statements.listing(query, gone)
    records: list[RunRecord] = []
    limit = min(max(query.limit, 0), _INT_MAX)
    for stored in ask(text, (*bound, limit)):
        try:
            records.append(Run.read(stored).record())
        except JournalConflict:
            continue  # one damaged row must not hide the others; loading it says what is wrong
    return records
