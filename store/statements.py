"""The statements that every run needs, as text that SQLite and PostgreSQL both understand.

SQLAlchemy compiles a statement of its own when it is first used, 0.3 to 3 ms each: a quarter of the
time in which a process took up a stored run. What is asked rarely, or built from filters, stays with
it. The columns come from the tables; `?` marks a parameter, to be written as the driver wants it.
"""

from __future__ import annotations

from collections.abc import Iterable

from flowkit.store.schema import EVENTS, INBOX, RUNS, names

EVENT_NAMES = names(EVENTS, "id", "run")
"""What is stored of an event itself, in the order of `rules.Row`."""

CHANGING = ("status", "due_at", "owner", "epoch", "lease_until")
"""What changes in a run's row."""


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(columns)


def _marks(count: int) -> str:
    return _listed("?" * count)


_HEAD = f"(SELECT max(seq) FROM {EVENTS.name} WHERE run = {RUNS.name}.id)"
_RUN = f"SELECT {_listed(names(RUNS))}, {_HEAD} FROM {RUNS.name} WHERE run_id"

RUN = f"{_RUN} = ?"
"""A run's row and its head."""

LAST_RUN = f"SELECT max(id) FROM {RUNS.name}"

EVENTS_AFTER = (
    f"SELECT {_listed(EVENT_NAMES)} FROM {EVENTS.name} WHERE run = ? AND seq > ? ORDER BY seq"
)

INSERT_RUN = f"INSERT INTO {RUNS.name} ({_listed(names(RUNS))}) VALUES ({_marks(len(names(RUNS)))})"

UPDATE_RUN = (
    f"UPDATE {RUNS.name} SET {_listed(f'{column} = ?' for column in CHANGING)} WHERE id = ?"
)

INSERT_EVENT = (
    f"INSERT INTO {EVENTS.name} (run, {_listed(EVENT_NAMES)}) "
    f"VALUES ({_marks(1 + len(EVENT_NAMES))})"
)


def runs(count: int) -> str:
    """The rows and heads of so many runs."""
    return f"{_RUN} IN ({_marks(count)})"


def waiting(count: int) -> str:
    """The messages that wait for so many runs, in the order they came."""
    return (
        f"SELECT run, id, kind, name, value, how FROM {INBOX.name} "
        f"WHERE run IN ({_marks(count)}) AND NOT consumed ORDER BY n"
    )
