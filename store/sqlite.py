"""All that is SQLite's own: the file, the pragmas, transactions, and what its errors mean.

The writer begins every transaction with BEGIN IMMEDIATE (a plain BEGIN that reads first and writes
later is refused at once when somebody else has written); the readers cannot write. The db file itself is never opened here while SQLite may have it open:
closing such a file would drop SQLite's locks (sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Container, Generator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    SQLAlchemyError,
)

from flowkit.errors import StoreUnusable
from flowkit.store import schema, statements
from flowkit.store.place import READERS, Ask, Blame, Durability, Seen, Stored, origin

T = TypeVar("T")

FAILURES = (SQLAlchemyError, sqlite3.Error)
"""What the storage raises; sqlite3's own errors come from the statements that go past SQLAlchemy."""

CONFLICT = (IntegrityError, sqlite3.IntegrityError)
"""What a row is refused with that does not fit those that are there."""

BAD_ITEM = (
    *CONFLICT, DataError, InterfaceError, ProgrammingError, OverflowError, UnicodeError,
    sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
)  # fmt: skip
"""What a single row can be refused with, while its neighbours are fine."""

_LOCKED_S = 10.0
_CLOSE_LOCKED_MS = 500
_PAGE_BYTES = 16 * 1024
_READER_CACHE_KB = 512
_ASKED_MAX = 500

# 4 MB, as SQLite has it with pages of its own size. The next process reads and proves what a killed
# one leaves in the log before anything else; 16 MB of it took 2 ms, and made no step faster.
_CHECKPOINT_PAGES = 256

_MEANINGS = {
    sqlite3.SQLITE_FULL: "the disk is full. Make room and resume the run",
    sqlite3.SQLITE_BUSY: "another process has it locked for more than 10 s. Close that process",
    sqlite3.SQLITE_LOCKED: "another connection has it locked. Close that connection",
    sqlite3.SQLITE_READONLY: "it is read-only. Give this user the right to write the file and its "
    "directory",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database. Give the path of another file; "
    "nothing was changed",
    sqlite3.SQLITE_CORRUPT: "it is damaged. Keep the file for evidence and restore a backup",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened. Check the path and the rights of its directory",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write. Check the disk and resume the run",
    sqlite3.SQLITE_PERM: "this user may not open it. Check the rights of the file",
}


def path_of(target: str) -> Path:
    """The file that a path or a URL names; raises `StoreUnusable` for any other database."""
    if "://" not in target:
        path = target
    else:
        try:
            url = make_url(target)
        except (ArgumentError, ValueError):  # whose text may hold the URL, and with it a password
            raise StoreUnusable(
                "the store's URL cannot be read. Write sqlite:///path or postgresql://user@host/db"
            ) from None
        if url.get_backend_name() != "sqlite":
            raise StoreUnusable(
                f"{url.get_backend_name()!r} names no file. Give a path, or sqlite:///path."
            )
        if url.query:
            raise StoreUnusable(
                "options in the URL of a file are not supported. Write sqlite:///path"
            )
        path = url.database or ""
    if not path or path == ":memory:" or "\0" in path:
        raise StoreUnusable(
            f"SqlStore needs the path of a file, not {path!r}. Use MemoryStore() to keep nothing."
        )
    return Path(path).absolute()


def check_file(path: Path) -> None:
    """Refuse what cannot be a database of ours; changes nothing and opens nothing."""
    folder = path.parent
    if not folder.is_dir():
        raise StoreUnusable(f"{path}: its directory does not exist. Create {folder} first.")
    _check_strangers(path, folder.stat())
    try:
        found = path.stat()
    except FileNotFoundError:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreUnusable(
                f"{path}: this user may not write to {folder}. Change its rights, or choose "
                f"another directory."
            ) from None
        return
    if stat.S_ISDIR(found.st_mode):
        raise StoreUnusable(f"{path} is a directory. Give the path of a file in it.")
    if not stat.S_ISREG(found.st_mode):
        raise StoreUnusable(f"{path} is not an ordinary file. Give the path of one.")
    # SQLite keeps its -wal and -shm beside the file, so the directory must be writable too.
    for place, mode in ((path, os.R_OK | os.W_OK), (folder, os.W_OK | os.X_OK)):
        if not os.access(place, mode):
            raise StoreUnusable(f"{path}: this user may not write to {place}. Change its rights.")


def _check_strangers(path: Path, folder: os.stat_result) -> None:
    """In a directory that everybody may write to, a stranger may have laid the file out for us."""
    if not folder.st_mode & stat.S_IWOTH:
        return
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
        raise StoreUnusable(
            f"{path} is a link, or another user's file, in a directory that everybody may write "
            f"to. Use a directory of your own."
        )


def create_file(path: Path) -> None:
    """Make an empty file that only its owner may read, unless there is one."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        return
    if hasattr(os, "O_DIRECTORY"):  # the new name itself must outlive a power cut
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _address(path: Path) -> str:
    # mode=rw: a file that is gone is an error, not a reason to begin with an empty one.
    return f"file:{quote(str(path))}"


def write_engine(path: Path, durability: Durability) -> Engine:
    """The engine of the one writing connection."""
    query = {"mode": "rw", "uri": "true"}
    url = URL.create("sqlite", database=_address(path), query=query)
    engine = create_engine(url, poolclass=NullPool)
    level = "FULL" if durability == "power" else "NORMAL"
    settings = (
        # Has an effect on an empty file only. Large pages: a row of 2 KB wastes less of them.
        f"page_size={_PAGE_BYTES}",
        f"busy_timeout={round(_LOCKED_S * 1000)}",
        "foreign_keys=ON",
        f"synchronous={level}",
        # On macOS only this reaches the disk; elsewhere it is without effect.
        f"fullfsync={'ON' if durability == 'power' else 'OFF'}",
        # Who only posts to inboxes must not checkpoint: SQLite before 3.51.3 can corrupt a file
        # that one connection writes and another checkpoints at the same instant. See `drive`.
        "wal_autocheckpoint=0",
    )

    def connected(dbapi: sqlite3.Connection, record: object) -> None:
        _set(dbapi, settings)

    def began(connection: Connection) -> None:
        # Past SQLAlchemy: through it, this statement costs as much as the insert (measured).
        raw(connection).execute("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", began)
    return engine


def readers(path: Path) -> QueuePool:
    """Connections that cannot write. A second engine took 0.7 ms of a resume that took 20."""
    settings = (
        f"busy_timeout={round(_LOCKED_S * 1000)}",
        "query_only=ON",
        # A journal is read once, from its begin to its end: 600 events took 1.2 ms with few pages
        # that are used again, and 1.7 with SQLite's 2 MB, all of which must be new memory.
        f"cache_size=-{_READER_CACHE_KB}",
    )
    name = f"{_address(path)}?mode=rw"

    def connect() -> Any:
        dbapi = sqlite3.connect(name, uri=True, check_same_thread=False)
        _set(dbapi, settings)
        return dbapi

    return QueuePool(connect, pool_size=READERS, max_overflow=0)


@contextmanager
def reading(pool: QueuePool) -> Generator[sqlite3.Connection]:
    """A connection that sees one state of the file, until it is given back."""
    with closing(pool.connect()) as lent:  # giving it back ends the transaction
        dbapi = cast(sqlite3.Connection, lent.dbapi_connection)
        dbapi.execute("BEGIN")
        yield dbapi


def _set(dbapi: sqlite3.Connection, settings: Sequence[str]) -> None:
    # The driver's own transactions begin too late: no BEGIN before a SELECT.
    dbapi.isolation_level = None
    for setting in settings:
        dbapi.execute(f"PRAGMA {setting}")


def raw(connection: Connection) -> sqlite3.Connection:
    """The driver's connection; statements on it begin no transaction."""
    return cast(sqlite3.Connection, connection.connection.dbapi_connection)


def prepare(connection: Connection, path: Path) -> None:
    """Make the file ready: refuse a newer schema untouched, switch to WAL, bring tables up to date."""
    found = _peek(raw(connection))
    schema.check_version(found, str(path))
    _switch_to_wal(raw(connection), path)
    if found < len(schema.MIGRATIONS):
        schema.migrate(connection, str(path))


def _peek(dbapi: sqlite3.Connection) -> int:
    """The version of the tables, looked up without a transaction: a lock would write to the file."""
    table = schema.SCHEMA.name
    there = dbapi.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    if there is None:
        return 0
    return int(dbapi.execute(f"SELECT max(version) FROM {table}").fetchone()[0] or 0)


def _switch_to_wal(dbapi: sqlite3.Connection, path: Path) -> None:
    if dbapi.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        return
    mode = None
    ends_at = time.monotonic() + _LOCKED_S
    while mode is None:
        try:
            mode = dbapi.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            # The switch does not wait for locks, whatever busy_timeout says.
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > ends_at:
                raise
            time.sleep(0.005)
    if mode != ("wal",):
        raise StoreUnusable(
            f"{path}: SQLite cannot use its write-ahead log there. Use a local disk; network file "
            f"systems do not work."
        )


class SqliteSession:
    """The connection that writes. What is known of runs stays valid from one transaction to the next
    as long as nobody else has written to the file, which SQLite tells by its data version."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._dbapi = raw(connection)
        self._version = -1
        self._last = 0
        self._drives = False

    def look(self, wanted: AbstractSet[str], known: Container[str]) -> Seen:
        # The whole file is locked since BEGIN IMMEDIATE: the version is read once, under the lock.
        version = int(self._dbapi.execute("PRAGMA data_version").fetchone()[0])
        changed = version != self._version
        if changed:
            self._version = version
            self._last = self._dbapi.execute(statements.LAST_RUN).fetchone()[0] or 0
            known = ()
        missing = [run_id for run_id in wanted if run_id not in known]
        runs: list[Stored] = []
        waiting: list[Stored] = []
        for start in range(0, len(missing), _ASKED_MAX):
            asked = missing[start : start + _ASKED_MAX]
            runs += (found := self._dbapi.execute(statements.runs(len(asked)), asked).fetchall())
            if found:
                ids = [row[0] for row in found]
                waiting += self._dbapi.execute(statements.waiting(len(ids)), ids)
        return Seen(changed, runs, waiting)

    def write(self, what: statements.Write, rows: Sequence[Stored]) -> None:
        """Past SQLAlchemy: 5 µs for one row, not 11."""
        if len(rows) == 1:
            self._dbapi.execute(what.text, rows[0])
        else:
            self._dbapi.executemany(what.text, rows)

    def next_id(self) -> int:
        self._last += 1
        return self._last

    def drive(self) -> None:
        """From now on this connection checkpoints: it is the one that drives runs."""
        if not self._drives:
            self._dbapi.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            self._drives = True

    def finish(self) -> None:
        """Move the log into the database and empty it; gives up soon if others are reading."""
        if self._drives:
            self._dbapi.execute(f"PRAGMA busy_timeout={_CLOSE_LOCKED_MS}")
            self._dbapi.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class SqliteFile:
    """The place of a store in a file."""

    failures = (*FAILURES, OverflowError, UnicodeError)
    vacuum_locks = True

    def __init__(self, path: Path, durability: Durability) -> None:
        self.path = path
        self.name = str(path)
        self._durability: Durability = durability

    @cached_property
    def _engine(self) -> Engine:
        return write_engine(self.path, self._durability)

    @property
    def engine(self) -> Engine:
        return self._engine

    @cached_property
    def readers(self) -> QueuePool:
        return readers(self.path)

    def open(self) -> SqliteSession:
        try:
            check_file(self.path)
            create_file(self.path)
            connection = self.engine.connect()
            try:
                prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
        except FAILURES as error:
            raise self.explain(error, "open the database") from error
        except OSError as error:
            raise StoreUnusable(
                f"{self.path}: cannot open or make the file: {error.strerror}. Mend that, or choose "
                f"another path."
            ) from error
        return SqliteSession(connection)

    def reopen(self, *, unsure: bool = False) -> SqliteSession:
        connection = self.engine.connect()
        if unsure:
            try:
                self._settle(raw(connection))
            except BaseException:
                connection.close()
                raise
        return SqliteSession(connection)

    def _settle(self, dbapi: sqlite3.Connection) -> None:
        """Put on the disk what is seen, and nothing else.

        A flush that failed leaves a whole transaction in the log. A new connection reads it there and
        takes it for committed, though the next power cut may take it back; and while others have the
        file open it is not seen now, and comes back when the last of them dies. So the log is moved into
        the database, which is flushed, and is begun anew. Linux forgets what it could not flush, so to
        flush the log once more would prove nothing.
        """
        if dbapi.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise sqlite3.OperationalError("others that read it keep its log from being flushed")
        try:
            log = os.open(f"{self.path}-wal", os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fsync(log)
        except OSError as error:
            raise sqlite3.OperationalError(f"its log cannot be flushed: {error}") from error
        finally:
            os.close(log)  # SQLite's locks are on the other two files

    def read(self, work: Callable[[Ask], T]) -> T:
        # Plain rows, past SQLAlchemy, which took 1.8 ms for 600 and not 0.7. They are read as they
        # are asked for, so that a long journal is never in memory twice.
        with reading(self.readers) as dbapi:
            return work(dbapi.execute)

    def vacuum(self, alone: bool) -> tuple[int, int]:
        before = self._bytes()
        with self.engine.connect() as connection:
            dbapi = raw(connection)
            dbapi.execute("VACUUM")
            # All of it is in the log now. Who drives runs moves it into the file and cuts that off;
            # see `write_engine` for why nobody else does at the same time.
            if alone:
                dbapi.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before, self._bytes()

    def _bytes(self) -> int:
        """The size of the file, and of its log."""
        log = Path(f"{self.path}-wal")
        return self.path.stat().st_size + (log.stat().st_size if log.exists() else 0)

    def close(self) -> None:
        self.readers.dispose()

    def blame(self, error: BaseException) -> Blame:
        if isinstance(error, CONFLICT):
            return "conflict"
        return "value" if isinstance(error, BAD_ITEM) else "storage"

    def explain(self, error: BaseException, doing: str) -> StoreUnusable:
        found = origin(error)
        meaning = _MEANINGS.get(_code(found))
        if str(found).startswith(
            "Could not decode to UTF-8"
        ):  # the driver's own, with the text in it
            meaning = _MEANINGS[sqlite3.SQLITE_CORRUPT]
        if meaning is None:
            meaning = f"{found}. See the cause, and `flowkit doctor`"
        unusable = StoreUnusable(f"{self.path}: cannot {doing}: {meaning}.")
        unusable.__cause__ = error  # raised in another thread than where it was made
        return unusable


def _code(error: BaseException | None) -> int:
    """SQLite's primary result code; the higher bits only refine it."""
    code: object = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else -1
