"""The tables, and how a database gets from one version of them to the next.

A run's events stand in the order in which they came, not by run: appending to the end of one table
is what makes a thousand concurrent runs cheap. A run's head is not stored, it is the last `seq`.
Every table and every index begins with a page of 16 KB, so there are few of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
)
from sqlalchemy import func as sql

from flowkit.errors import SchemaTooNew

Migration: TypeAlias = Callable[[Connection], None]

# SQLite makes a key of its own only from the word INTEGER.
_Key = BigInteger().with_variant(Integer(), "sqlite")

METADATA = MetaData()

SCHEMA = Table(
    "flowkit_schema",
    METADATA,
    Column("version", Integer, primary_key=True, autoincrement=False),
)


def _runs(metadata: MetaData, schema: int) -> Table:
    later: list[Column[Any]] = []
    if schema >= 2:
        later = [Column("base", String), Column("base_seq", BigInteger)]
    return Table(
        "flowkit_runs",
        metadata,
        Column("id", _Key, primary_key=True),
        Column("run_id", String, nullable=False, unique=True),
        Column("workflow", String, nullable=False),
        Column("input_hash", String, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("status", String, nullable=False),
        Column("due_at", Float),
        Column("owner", String),
        Column("epoch", BigInteger, nullable=False),
        Column("lease_until", Float),
        *later,
        Index("flowkit_runs_status", "status", "due_at"),
    )


RUNS = _runs(METADATA, 2)

EVENTS = Table(
    "flowkit_events",
    METADATA,
    Column("id", _Key, primary_key=True),
    Column("run", _Key, ForeignKey(RUNS.c.id), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("key", String, nullable=False),
    Column("alternative", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("data", Text, nullable=False),
    Column("value", Text),
    Index("flowkit_events_seq", "run", "seq", unique=True),
)

# Consumed rows stay, so that a message that is posted again is known. `n` is the order of arrival.
INBOX = Table(
    "flowkit_inbox",
    METADATA,
    Column("run", _Key, ForeignKey(RUNS.c.id), primary_key=True),
    Column("id", String, primary_key=True),
    Column("n", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("name", Text, nullable=False),
    Column("value", Text),
    Column("how", String, nullable=False),
    Column("posted_at", Float, nullable=False),
    Column("consumed", Boolean, nullable=False),
    sqlite_with_rowid=False,
)


def _artifacts(metadata: MetaData, schema: int) -> Table:
    # Behind the data, where a column is added without rewriting them.
    later: list[Column[Any]] = []
    if schema >= 2:
        later = [Column("put_at", Float, nullable=False)]
    return Table(
        "flowkit_artifacts",
        metadata,
        Column("sha256", String(64), primary_key=True),
        Column("size", BigInteger, nullable=False),
        Column("data", LargeBinary, nullable=False),
        *later,
        sqlite_with_rowid=False,
    )


ARTIFACTS = _artifacts(METADATA, 2)


def _create(connection: Connection) -> None:
    """The tables as they were in schema 1; METADATA always shows the newest."""
    first = MetaData()
    _runs(first, 1)
    _artifacts(first, 1)
    for table in (SCHEMA, EVENTS, INBOX):
        table.to_metadata(first)
    first.create_all(connection, checkfirst=False)


def _add_bases(connection: Connection) -> None:
    """A run may begin with another run's journal; and it is known when an artifact was put.

    What is there counts as put now: a run in flight may be about to refer to it. So does what a process
    of an older version puts while it still has the database open.
    """
    for column in ("base VARCHAR", "base_seq BIGINT"):
        connection.exec_driver_sql(f"ALTER TABLE {RUNS.name} ADD COLUMN {column}")
    # Few runs have a base, and to delete a run is to ask for those that begin with it.
    connection.exec_driver_sql(
        f"CREATE INDEX flowkit_runs_base ON {RUNS.name} (base) WHERE base IS NOT NULL"
    )
    put_at = f"put_at FLOAT NOT NULL DEFAULT {time.time():.0f}"
    connection.exec_driver_sql(f"ALTER TABLE {ARTIFACTS.name} ADD COLUMN {put_at}")


# A migration is never changed once it is released.
MIGRATIONS: Sequence[Migration] = (_create, _add_bases)


def version(connection: Connection) -> int:
    """The version of the tables that are there; 0 for none."""
    if not inspect(connection).has_table(SCHEMA.name):
        return 0
    return connection.execute(select(sql.max(SCHEMA.c.version))).scalar() or 0


def check_version(found: int, place: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Refuse tables that a newer flowkit has made; nothing is changed."""
    if found > len(migrations):
        raise SchemaTooNew(
            f"{place} was written by a newer flowkit (schema {found}; this one knows "
            f"{len(migrations)}). Update flowkit, or use another database."
        )


def migrate(
    connection: Connection,
    place: str,
    migrations: Sequence[Migration] = MIGRATIONS,
    *,
    lock: str = "",
) -> None:
    """Bring the tables up to date, each migration in one transaction with its record.

    Another process may be doing the same: what is to be done is looked up under the write lock.
    `lock`: the statement that takes it, where BEGIN alone does not.
    """
    while True:
        with connection.begin():
            if lock:
                connection.exec_driver_sql(lock)
            done = version(connection)
            check_version(done, place, migrations)
            if done == len(migrations):
                return
            migrations[done](connection)
            connection.execute(insert(SCHEMA), {"version": done + 1})


def names(table: Table, *without: str) -> tuple[str, ...]:
    """The names of a table's columns, in order."""
    return tuple(column.name for column in table.columns if column.name not in without)
