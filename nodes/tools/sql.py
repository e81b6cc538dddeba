"""`sql`: a planner asks a database that the host gives to the engine, and can change nothing in it.

    engine = Engine(store, resources=[SqliteDatabase("sales.db")])
    Planner(..., tools=[describe_tables, sql])

An SQLite file is opened read-only, and an authorizer refuses all but reading. Another database comes as
a `Database` of the host's own, whose user should have no other rights than to read.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from flowkit.node import Context
from flowkit.nodes.tool import tool

ROWS_MAX: Final = 200
CELL_CHARACTERS: Final = 500
RESULT_CHARACTERS: Final = 100_000
"""All cells of an answer together: it stands in the journal, and a model reads it."""
COLUMNS_MAX: Final = 100
VALUE_BYTES: Final = 1_000_000
"""Of any value on the way to an answer: `hex(zeroblob(400000000))` would take 2 GB of the host's memory."""
QUERY_S: Final = 10.0
_STEPS: Final = 10_000  # of SQLite's virtual machine between two looks at the clock

Cell: TypeAlias = str | int | float | None

_READING: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
_FUNCTIONS: Final = frozenset(
    {"load_extension", "readfile", "writefile", "fts3_tokenizer", "edit",
     # SQLite holds these to no limit before they are done.
     "json_group_array", "json_group_object", "jsonb_group_array", "jsonb_group_object"}
)  # fmt: skip


class QueryRefused(ValueError):
    """The query was not made, or not to its end; the text says why, for whoever wrote it."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SqlQuery(_Value):
    """One SELECT."""

    query: Annotated[str, Field(min_length=1, max_length=20_000)] = Field(
        description="One SELECT statement, in the database's dialect; parameters as ?"
    )
    parameters: list[Cell] = Field(default=[], max_length=100)


class Rows(_Value):
    """What a query gave: at most 200 rows, and 100,000 characters in cells of at most 500; `note` tells
    of more."""

    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""


class Table(_Value):
    name: str
    columns: list[str]


class Tables(_Value):
    tables: list[Table]


class NoInput(_Value):
    """Nothing to say."""


class Database:
    """What `sql` asks: subclass it for a database of your own. Called in a worker thread."""

    def query(self, text: str, parameters: Sequence[Any], rows_max: int = ROWS_MAX) -> Rows:
        """Answer one SELECT; raises `QueryRefused`."""
        raise NotImplementedError(f"{type(self).__name__} answers no query")

    def tables(self) -> Sequence[Table]:
        """The tables with their columns; raises `QueryRefused`."""
        raise NotImplementedError(f"{type(self).__name__} lists no tables")


class SqliteDatabase(Database):
    """An SQLite file, asked read-only, each query within `timeout_s`.

    Raises:
        ValueError: there is no such file.
    """

    def __init__(self, path: Path | str, *, timeout_s: float = QUERY_S) -> None:
        self.path = Path(path)
        self.timeout_s = timeout_s
        if not self.path.is_file():
            raise ValueError(f"{self.path} is no file.")

    def _connect(self) -> sqlite3.Connection:
        place = f"file:{quote(str(self.path.resolve()))}?mode=ro"
        connection = sqlite3.connect(place, uri=True, timeout=self.timeout_s)
        connection.text_factory = _text
        return connection

    def query(self, text: str, parameters: Sequence[Any], rows_max: int = ROWS_MAX) -> Rows:
        with closing(self._connect()) as connection:
            until = time.monotonic() + self.timeout_s
            connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES)
            try:
                connection.execute("SELECT 1 FROM sqlite_master").fetchall()  # tables may be wider
                connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, COLUMNS_MAX)
                connection.set_authorizer(_authorize)
                cursor = connection.execute(text, tuple(parameters))
                rows, note = _fitting(cursor, rows_max)
            except (
                sqlite3.Error,
                sqlite3.Warning,
                ArithmeticError,
                ValueError,
                MemoryError,
            ) as error:
                raise QueryRefused(self._why(error)) from error
            if cursor.description is None:
                raise QueryRefused("only a SELECT is answered: nothing here can be changed.")
            columns = [str(column[0])[:CELL_CHARACTERS] for column in cursor.description]
        return Rows(columns=columns, rows=rows, note=note)

    def _why(self, error: Exception) -> str:
        text = str(error)
        if "interrupted" in text:
            return f"the query took longer than {self.timeout_s:g} s: ask for less, by an indexed column."
        if "not authorized" in text or "readonly" in text:
            return f"only a SELECT of the tables is answered: nothing here can be changed ({text})."
        if "too big" in text:
            return (
                f"a value of more than {VALUE_BYTES:,} bytes is not read: select others, or sum up."
            )
        return f"the database refuses the query: {text}."

    def tables(self) -> Sequence[Table]:
        with closing(self._connect()) as connection:
            listed = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
            try:
                names = [str(row[0]) for row in connection.execute(listed)]
                shown = "SELECT name, type FROM pragma_table_info(?)"
                return [
                    Table(
                        name=name,
                        columns=[
                            f"{column} {kind}".strip()
                            for column, kind in connection.execute(shown, (name,))
                        ],
                    )
                    for name in names
                    if not name.startswith("sqlite_")
                ]
            except sqlite3.Error as error:
                raise QueryRefused(f"{self.path.name} cannot be read: {error}.") from error


def _fitting(rows: Iterable[Sequence[object]], rows_max: int) -> tuple[list[list[Cell]], str]:
    """The first rows, and what is to be said of the rest."""
    found: list[list[Cell]] = []
    size = cut = 0
    for row in rows:
        if len(found) == rows_max:
            return found, f"more than {rows_max} rows: ask for fewer, or sum them up."
        cells = [_cell(cell) for cell in row]
        size += sum(len(str(cell)) for cell in cells)
        if size > RESULT_CHARACTERS:
            return found, (
                f"more than {RESULT_CHARACTERS:,} characters, so only {len(found)} rows: ask for fewer "
                f"columns, or parts of them."
            )
        found.append(cells)
        cut += sum(isinstance(each, str) and len(each) > CELL_CHARACTERS for each in row)
    return found, f"cells cut to {CELL_CHARACTERS} characters: {cut}, which end in …" if cut else ""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


def _cell(cell: object) -> Cell:
    if cell is None or isinstance(cell, int | float):
        # What JSON cannot say becomes a text.
        exact = cell is None or (abs(cell) < 2**53 if isinstance(cell, int) else cell - cell == 0)
        return cell if exact else str(cell)
    if isinstance(cell, bytes):
        return f"[{len(cell):,} bytes]"
    text = str(cell)
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"


@tool(timeout_s=60, reads_private=True)
def sql(ctx: Context, query: SqlQuery) -> Rows:
    """Ask the database with one SELECT. Nothing can be changed. At most 200 rows come back: count, sum
    and group in the query."""
    return _database(ctx).query(query.query, query.parameters, ROWS_MAX)


@tool(timeout_s=60, reads_private=True)
def describe_tables(ctx: Context, query: NoInput) -> Tables:
    """List the database's tables with their columns."""
    return Tables(tables=list(_database(ctx).tables()))


def _database(ctx: Context) -> Database:
    return ctx.resource(Database)
