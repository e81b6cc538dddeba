"""What a store asks of its database, whichever it is; `sqlite` and `postgres` answer.

A `Place` knows how to connect, and what an error means. A `Session` is its one connection that writes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from flowkit.errors import StoreUnusable
from flowkit.store.statements import Write

T = TypeVar("T")

Durability = Literal["power", "process"]

Blame = Literal["conflict", "value", "moment", "storage"]
"""Who is to blame for an error: a row that does not fit those that are there; a row that cannot be
stored at all; what others did just then, so that the same may work again; or the storage itself."""

Stored: TypeAlias = Sequence[Any]
"""A row of a statement of `statements`."""

Ask: TypeAlias = Callable[[str, Sequence[Any]], Iterator[Stored]]
"""Runs a statement of `statements`: its text, and a value for each `?`."""

READERS = 4


class Seen(NamedTuple):
    """What a transaction found at its beginning.

    `changed`: what was known of runs may be outdated. `runs`: rows of `statements.RUNS_WHERE`.
    `waiting`: rows of `statements.waiting`.
    """

    changed: bool
    runs: Iterable[Stored]
    waiting: Iterable[Stored]


class Session(Protocol):
    """The writer's connection. Every transaction on it begins with `look`."""

    @property
    def connection(self) -> Connection: ...

    def look(self, wanted: AbstractSet[str], known: Container[str]) -> Seen:
        """Keep other writers from these runs until the transaction ends, and look them up.

        Nothing is told of those that are `known`, unless they may have changed.
        """
        ...

    def write(self, what: Write, rows: Sequence[Stored]) -> None: ...

    def next_id(self) -> int:
        """A number for a new row of the runs' table."""
        ...

    def drive(self) -> None:
        """From now on runs are driven from here; again does nothing."""
        ...

    def finish(self) -> None:
        """Leave the database tidy; the connection is closed next."""
        ...


class Place(Protocol):
    """A database. `name` is what messages call it, without a password."""

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> Engine:
        """The engine of the writing connection."""
        ...

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What its driver raises, wrapped by SQLAlchemy or not."""
        ...

    def open(self) -> Session:
        """Connect for the first time and bring the tables up to date."""
        ...

    def reopen(self, *, unsure: bool = False) -> Session:
        """Connect again.

        `unsure`: a COMMIT has failed since. Its transaction has ended before `look` does, and what is
        found of it then is as durable as what was acknowledged.
        """
        ...

    def read(self, work: Callable[[Ask], T]) -> T:
        """Do what only reads, in a transaction that sees one state of the database."""
        ...

    @property
    def vacuum_locks(self) -> bool:
        """Whether nobody can write while it is vacuumed."""
        ...

    def vacuum(self, alone: bool) -> tuple[int, int]:
        """Give free space back, on a connection of its own; the bytes before and after.

        `alone`: no other process drives runs.
        """
        ...

    def close(self) -> None:
        """Close the connections that read; nobody reads now."""
        ...

    def blame(self, error: BaseException) -> Blame: ...

    def explain(self, error: BaseException, doing: str) -> StoreUnusable:
        """The error as one line that names the database and says what to do."""
        ...


def origin(error: BaseException) -> BaseException | None:
    """The driver's own error, which SQLAlchemy may have wrapped."""
    return error.orig if isinstance(error, DBAPIError) else error
