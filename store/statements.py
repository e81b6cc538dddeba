"""The statements that every run needs, as text that SQLite and PostgreSQL both understand.

SQLAlchemy compiles a statement of its own when it is first used, 0.3 to 3 ms each: a quarter of the
time in which a process took up a stored run. What is asked rarely, or built from filters, stays with
it. The columns come from the tables; `?` marks a parameter, to be written as the driver wants it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from flowkit.ports import RunQuery
from flowkit.store.rules import ACTIVE
from flowkit.store.schema import ARTIFACTS, EVENTS, INBOX, RUNS, names

EVENT_NAMES = names(EVENTS, "id", "run")
"""What is stored of an event itself, in the order of `rules.Row`."""

CHANGING = ("status", "due_at", "owner", "epoch", "lease_until")
"""What changes in a run's row."""


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(columns)


def _marks(count: int) -> str:
    return _listed("?" * count)


_HEAD = (
    f"coalesce((SELECT max(seq) FROM {EVENTS.name} WHERE run = {RUNS.name}.id), "
    f"{RUNS.name}.base_seq, 0)"
)
RUNS_WHERE = f"SELECT {_listed(names(RUNS))}, {_HEAD} FROM {RUNS.name} WHERE"
"""Rows and heads of runs, to be followed by a condition."""

RUN = f"{RUNS_WHERE} run_id = ?"
"""A run's row and its head."""

LAST_RUN = f"SELECT max(id) FROM {RUNS.name}"

EVENTS_AFTER = (
    f"SELECT {_listed(EVENT_NAMES)} FROM {EVENTS.name} WHERE run = ? AND seq > ? ORDER BY seq"
)

EVENTS_BETWEEN = (
    f"SELECT {_listed(EVENT_NAMES)} FROM {EVENTS.name} "
    f"WHERE run = ? AND seq > ? AND seq <= ? ORDER BY seq"
)

EVENTS_FROM = f"SELECT id, run, data, value FROM {EVENTS.name} WHERE id > ? ORDER BY id LIMIT ?"
"""Events of all runs in the order they came, from one on."""

MESSAGES_FROM = (
    f"SELECT run, id, name, value FROM {INBOX.name} WHERE (run, id) > (?, ?) "
    f"ORDER BY run, id LIMIT ?"
)

ARTIFACTS_FROM = (
    f"SELECT sha256, size, put_at FROM {ARTIFACTS.name} WHERE sha256 > ? ORDER BY sha256 LIMIT ?"
)

FORKS = f"SELECT run_id, base FROM {RUNS.name} WHERE base IS NOT NULL"

ENDED = (
    f"SELECT run_id FROM {RUNS.name} WHERE status = ? AND coalesce((SELECT at FROM {EVENTS.name} "
    f"WHERE run = {RUNS.name}.id ORDER BY seq DESC LIMIT 1), created_at) < ? "
    f"ORDER BY created_at DESC, id DESC"
)
"""The runs of a status whose last event was before a time, newest first."""

ARTIFACT = f"SELECT data FROM {ARTIFACTS.name} WHERE sha256 = ?"


@dataclass(frozen=True, slots=True)
class Write:
    """What is written for many rows alike: a value for each of the columns of a table.

    `text`: the statement for one row. `by_id`: the rows are there, and the last column tells which.
    """

    text: str
    table: Table
    columns: tuple[str, ...]
    by_id: bool = False


def _insert(table: Table, columns: tuple[str, ...]) -> Write:
    text = f"INSERT INTO {table.name} ({_listed(columns)}) VALUES ({_marks(len(columns))})"
    return Write(text, table, columns)


INSERT_RUN = _insert(RUNS, names(RUNS))

UPDATE_RUN = Write(
    f"UPDATE {RUNS.name} SET {_listed(f'{column} = ?' for column in CHANGING)} WHERE id = ?",
    RUNS,
    (*CHANGING, "id"),
    by_id=True,
)

INSERT_EVENT = _insert(EVENTS, ("run", *EVENT_NAMES))


def runs(count: int) -> str:
    """The rows and heads of so many runs."""
    return f"{RUNS_WHERE} run_id IN ({_marks(count)})"


def sizes(count: int) -> str:
    """The ids of so many runs, each with the number of rows that are its own."""
    own = f"(SELECT count(*) FROM {EVENTS.name} WHERE run = {RUNS.name}.id)"
    return f"SELECT run_id, {own} + 1 FROM {RUNS.name} WHERE run_id IN ({_marks(count)})"


def ids(count: int) -> str:
    """The numbers of so many runs."""
    return f"SELECT id FROM {RUNS.name} WHERE run_id IN ({_marks(count)})"


def waiting(count: int) -> str:
    """The messages that wait for so many runs, in the order they came."""
    return (
        f"SELECT run, id, kind, name, value, how FROM {INBOX.name} "
        f"WHERE run IN ({_marks(count)}) AND NOT consumed ORDER BY n"
    )


OWNERS = (
    f"SELECT DISTINCT owner FROM {RUNS.name} "
    f"WHERE status IN ({_marks(len(ACTIVE))}) AND lease_until >= ? AND owner IS NOT NULL"
)
"""Who holds a run that has not ended."""

HELD_SINCE = (
    f"SELECT min(created_at) FROM {RUNS.name} "
    f"WHERE status IN ({_marks(len(ACTIVE))}) AND lease_until >= ?"
)
"""When the oldest run that somebody holds was created."""


def listing(query: RunQuery, gone: Collection[str]) -> tuple[str, list[Any]]:
    """The runs asked for, newest first, with what is bound; `gone` owners hold nothing."""
    texts: list[str] = []
    bound: list[Any] = []

    def add(text: str, *values: Any) -> None:
        texts.append(text)
        bound.extend(values)

    if query.run_id is not None:
        add("run_id = ?", query.run_id)
    if query.prefix is not None:
        # Not LIKE: it has wildcards, and takes a for A.
        add("substr(run_id, 1, ?) = ?", len(query.prefix), query.prefix)
    if query.status is not None:
        add(_among("status", query.status), *sorted(query.status))
    if query.workflow is not None:
        add("workflow = ?", query.workflow)
    if query.since is not None:
        add("created_at >= ?", query.since)
    if query.due_at is not None:
        add("status = 'waiting' AND due_at <= ?", query.due_at)
    if query.messages:
        add(f"EXISTS (SELECT 1 FROM {INBOX.name} WHERE run = {RUNS.name}.id AND NOT consumed)")
    if query.free_at is not None:
        add(_among("status", ACTIVE), *sorted(ACTIVE))
        lapsed = "owner IS NULL OR lease_until IS NULL OR lease_until < ?"
        add(f"({lapsed} OR {_among('owner', gone)})", query.free_at, *gone)
    where = " AND ".join(texts) or "1 = 1"
    return f"{RUNS_WHERE} {where} ORDER BY created_at DESC, id DESC LIMIT ?", bound


def _among(column: str, values: Collection[str]) -> str:
    return f"{column} IN ({_marks(len(values))})" if values else "1 = 0"
