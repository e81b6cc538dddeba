"""All that is PostgreSQL's own: connections, locks, time-outs, and what its errors mean.

Several processes may write at once. A transaction locks the rows of its runs, in one order, and reads
them anew under the lock; so nothing is known from one transaction to the next. Each statement must see
what was committed before it (READ COMMITTED): the head of a run is read after its row was locked.

Settings are made within each transaction, for that transaction: a pooler between us and the server
may give every transaction another connection.

psycopg's pipelines (`executemany` is one) are not used: after each it sends a Flush, upon which the
server stops to count how long the transaction is idle, and a process that is stopped then would hold
its locks for ever. So many rows are written as one statement with an array for each column.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from functools import cache, cached_property
from typing import Any, TypeVar, cast

import psycopg
from psycopg import IsolationLevel, errors
from sqlalchemy import URL, Connection, Engine, Float, NullPool, QueuePool, create_engine, event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from flowkit.errors import StoreUnusable
from flowkit.store import schema, statements
from flowkit.store.place import READERS, Ask, Blame, Durability, Seen, Stored, origin
from flowkit.store.schema import INBOX, RUNS
from flowkit.store.statements import Write

T = TypeVar("T")

# A process that is stopped in the midst of a transaction holds its locks. The server ends such a
# transaction, before those who wait for the locks give up; the process is refused when it wakes.
_IDLE_S = 5.0
_LOCKED_S = 10.0

_CONNECT: Mapping[str, str | int] = {
    "application_name": "flowkit",
    "client_encoding": "UTF8",
    "connect_timeout": 10,
    # A server that is cut off without a word is given up after half a minute, not after hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}

_IDS_AT_ONCE = 64

_DIALECT: Any = cast("Any", PGDialect_psycopg)()  # SQLAlchemy gives it no types

# In the space of two numbers, apart from the writers' keys: "flow", "kit".
_MIGRATING = f"SELECT pg_advisory_xact_lock({0x666C6F77}, {0x6B6974})"

# What the server has been told to do beyond "on" (wait for a standby to apply it) stays.
_BEGIN = """
BEGIN ISOLATION LEVEL READ COMMITTED;
SELECT set_config('lock_timeout', '{locked_ms}', true),
    set_config('idle_in_transaction_session_timeout', '{idle_ms}', true),
    set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'remote_apply' THEN 'remote_apply' ELSE '{commit}' END, true),
    pg_advisory_xact_lock({key})
"""

_LOCK: Any = f"SELECT id FROM {RUNS.name} WHERE run_id = ANY(%s) ORDER BY id FOR UPDATE"
_FOUND: Any = f"{statements.RUNS_WHERE} run_id = ANY(%s)"
_WAITING: Any = (
    f"SELECT run, {INBOX.name}.id, kind, name, value, how FROM {INBOX.name} "
    f"JOIN {RUNS.name} ON {RUNS.name}.id = run WHERE run_id = ANY(%s) AND NOT consumed ORDER BY n"
)
_IDS: Any = (
    f"SELECT nextval(pg_get_serial_sequence('{RUNS.name}', 'id')) FROM generate_series(1, %s)"
)

_TABLES = [table.name for table in schema.METADATA.sorted_tables]
_THERE = "SELECT to_regclass('flowkit_schema') IS NOT NULL"

_BYTES: Any = (
    f"SELECT sum(pg_total_relation_size(name::regclass))::bigint "
    f"FROM unnest(ARRAY{_TABLES}) AS name"
)
_VACUUM: Any = f"VACUUM (SKIP_LOCKED) {', '.join(_TABLES)}"

_MOMENTS = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.IdleInTransactionSessionTimeout,
)
"""What ends a transaction because of others. Nothing of it is left."""

_MEANINGS: Mapping[type[psycopg.Error], str] = {
    errors.DiskFull: "the server's disk is full. Make room and resume the run",
    errors.LockNotAvailable: "another process holds it locked for more than 10 s. End that process",
    errors.InsufficientPrivilege: "this user may not. Give it all rights on the tables flowkit_*, "
    "and CREATE on their schema to make them",
    errors.ReadOnlySqlTransaction: "the server is a standby, or read-only. Name the one that is "
    "written to, or add ?target_session_attrs=read-write to the URL",
    errors.UndefinedTable: "its tables are gone. Restore a backup, or make a new SqlStore to begin "
    "with empty ones",
}


class PostgresSession:
    """The connection that writes. Nothing stays known from one transaction to the next."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._dbapi = _raw(connection)
        self._ids: list[int] = []

    def look(self, wanted: AbstractSet[str], known: Container[str]) -> Seen:
        if not wanted:
            return Seen(True, (), ())
        asked = (list(wanted),)
        locked = {row for (row,) in self._dbapi.execute(_LOCK, asked)}
        found = self._dbapi.execute(_FOUND, asked)
        waiting = self._dbapi.execute(_WAITING, asked)
        # A run that was created just after the locking is not there yet.
        return Seen(True, [row for row in found if row[0] in locked], waiting.fetchall())

    def write(self, what: Write, rows: Sequence[Stored]) -> None:
        text, kinds = _bulk(what)
        columns = zip(*rows, strict=True)
        self._dbapi.execute(
            text, [list(map(kind, values)) for kind, values in zip(kinds, columns, strict=True)]
        )

    def next_id(self) -> int:
        if not self._ids:
            found = self._dbapi.execute(_IDS, (_IDS_AT_ONCE,)).fetchall()
            self._ids = [number for (number,) in reversed(found)]
        return self._ids.pop()

    def drive(self) -> None:
        pass

    def finish(self) -> None:
        pass


class Postgres:
    """The place of a store in a PostgreSQL database."""

    failures = (SQLAlchemyError, psycopg.Error)
    vacuum_locks = False

    def __init__(self, url: URL, durability: Durability) -> None:
        if url.drivername not in ("postgresql", "postgresql+psycopg"):
            raise StoreUnusable(
                f"SqlStore speaks to PostgreSQL with psycopg, not as {url.drivername!r} says. Write "
                f"postgresql://user@host/database."
            )
        self.name = URL.create(
            "postgresql", url.username, None, url.host, url.port, url.database
        ).render_as_string()
        self._durability: Durability = durability
        # Each transaction of this writer holds this lock. So after a COMMIT that failed, the next
        # one waits until the server is through with it, and sees what became of it.
        self._key = secrets.randbits(63)
        # SQLAlchemy's reading of the URL: several hosts, a socket's folder, libpq's options.
        self._arguments: dict[str, Any] = {**_CONNECT, **_DIALECT.create_connect_args(url)[1]}

    @cached_property
    def _engine(self) -> Engine:
        # Reading of types that we do not have would cost a query for each connection.
        engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(**self._arguments, autocommit=True),
            poolclass=NullPool,
            use_native_hstore=False,
        )
        event.listen(engine, "begin", self._begin)
        return engine

    @property
    def engine(self) -> Engine:
        return self._engine

    def _begin(self, connection: Connection) -> None:
        """BEGIN and all that belongs to it, in one message; such a one cannot be prepared."""
        text = _BEGIN.format(
            locked_ms=round(_LOCKED_S * 1000),
            idle_ms=round(_IDLE_S * 1000),
            commit="on" if self._durability == "power" else "off",
            key=self._key,
        )
        _raw(connection).execute(text.encode(), prepare=False)

    @cached_property
    def readers(self) -> QueuePool:
        def connect() -> Any:
            dbapi = psycopg.connect(**self._arguments)
            dbapi.isolation_level = IsolationLevel.REPEATABLE_READ
            dbapi.read_only = True
            return dbapi

        return QueuePool(connect, pool_size=READERS, max_overflow=0)

    def open(self) -> PostgresSession:
        try:
            connection = self.engine.connect()
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except self.failures as error:
            raise self.explain(error, "open the database") from error
        return PostgresSession(connection)

    def _prepare(self, connection: Connection) -> None:
        encoding = _raw(connection).info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise StoreUnusable(
                f"{self.name}: its encoding is {encoding}, which cannot keep every text. Create a "
                f"database with ENCODING 'UTF8'."
            )
        schema.migrate(connection, self.name, lock=_MIGRATING)

    def has_tables(self) -> bool:
        """Whether the tables are there; nothing is made."""
        try:
            return self.read(lambda ask: bool(next(ask(_THERE, ()))[0]))
        except self.failures as error:
            raise self.explain(error, "look into the database") from error
        finally:
            self.close()

    def reopen(self, *, unsure: bool = False) -> PostgresSession:
        return PostgresSession(self.engine.connect())

    def read(self, work: Callable[[Ask], T]) -> T:
        # A connection that was cut shows it only when it is used: each in the pool may be such a one.
        for _ in range(READERS):
            with closing(self.readers.connect()) as lent:
                dbapi = cast("psycopg.Connection[Stored]", lent.dbapi_connection)
                try:
                    return work(_ask(dbapi))
                except psycopg.OperationalError:
                    if not dbapi.closed:
                        raise
                    lent.invalidate()
        with closing(self.readers.connect()) as lent:
            return work(_ask(cast("psycopg.Connection[Stored]", lent.dbapi_connection)))

    def vacuum(self, alone: bool) -> tuple[int, int]:
        with self.engine.connect() as connection:
            dbapi = _raw(connection)
            before = dbapi.execute(_BYTES).fetchall()
            dbapi.execute(_VACUUM)
            after = dbapi.execute(_BYTES).fetchall()
        return before[0][0], after[0][0]

    def close(self) -> None:
        self.readers.dispose()

    def blame(self, error: BaseException) -> Blame:
        found = origin(error)
        if isinstance(found, psycopg.IntegrityError | IntegrityError):
            return "conflict"
        if isinstance(found, psycopg.DataError | errors.ProgramLimitExceeded):
            return "value"
        if isinstance(found, _MOMENTS) or _is_cut(found):
            return "moment"
        return "storage"

    def explain(self, error: BaseException, doing: str) -> StoreUnusable:
        found = origin(error)
        meaning = next((text for kind, text in _MEANINGS.items() if isinstance(found, kind)), "")
        if not meaning:
            said = " ".join(str(found).split())
            meaning = f"{said}. See that the server runs, and what its log says"
            if isinstance(found, psycopg.Error) and found.pgconn is not None:
                meaning = f"{said}. See that the server runs, and host, port, user, password and "
                meaning += "database in the URL"
        unusable = StoreUnusable(f"{self.name}: cannot {doing}: {meaning}.")
        unusable.__cause__ = error  # raised in another thread than where it was made
        return unusable


def _raw(connection: Connection) -> psycopg.Connection[Stored]:
    """The driver's connection."""
    return cast("psycopg.Connection[Stored]", connection.connection.driver_connection)


def _ask(dbapi: psycopg.Connection[Stored]) -> Ask:
    def ask(text: str, parameters: Sequence[Any]) -> Iterator[Stored]:
        return iter(dbapi.execute(_text(text), parameters))

    return ask


def _text(text: str) -> Any:
    """A statement of `statements` as psycopg wants it; they hold neither `%`, nor a `?` in quotes."""
    return text.replace("?", "%s")


@cache
def _bulk(what: Write) -> tuple[Any, Sequence[Callable[[Any], Any]]]:
    """The statement that writes any number of rows, and what makes each column's values alike: an
    array holds values of one type only."""
    columns = [what.table.c[name] for name in what.columns]
    arrays = ", ".join(f"%s::{column.type.compile(_DIALECT)}[]" for column in columns)
    listed = ", ".join(what.columns)
    if what.by_id:
        changes = ", ".join(f"{name} = new.{name}" for name in what.columns[:-1])
        text = f"UPDATE {what.table.name} AS old SET {changes} FROM unnest({arrays}) "
        text += f"AS new ({listed}) WHERE old.id = new.id"
    else:
        text = f"INSERT INTO {what.table.name} ({listed}) SELECT * FROM unnest({arrays})"
    return text, [_number if isinstance(column.type, Float) else _same for column in columns]


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _same(value: T) -> T:
    return value


def _is_cut(error: BaseException | None) -> bool:
    """Whether a connection that once was there is no more; the server undoes what it did on it."""
    return (
        isinstance(error, psycopg.OperationalError)
        and error.sqlstate is None
        and error.pgconn is None
    )
