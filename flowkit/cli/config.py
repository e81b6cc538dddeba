"""Where the command line finds its database and its targets: options, environment, file, default."""

from __future__ import annotations

import os
import sqlite3
import tomllib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from flowkit.cli.exits import CONFIGURATION, NOT_FOUND, Problem
from flowkit.cli.text import clean

KEYS = ("db", "targets")

_OURS = "flowkit_schema"


@dataclass(frozen=True, slots=True)
class Config:
    """What `flowkit.toml`, or `[tool.flowkit]` in `pyproject.toml`, says; of the current directory only,
    since a target is code to run. `targets`: workflow name -> TARGET, for `resume` and `retry`.
    """

    db: str = ""
    targets: Mapping[str, str] = field(default_factory=dict[str, str])


def read_config(folder: Path | None = None) -> Config:
    """The configuration of a folder, by default the current one; empty if it has none."""
    folder = folder or Path.cwd()
    for name in ("flowkit.toml", "pyproject.toml"):
        path = folder / name
        try:
            whole: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise Problem(f"{name} cannot be read: {error}.", CONFIGURATION) from error
        found: object = whole
        if name == "pyproject.toml":
            tools: object = whole.get("tool")
            found = (
                cast("dict[str, Any]", tools).get("flowkit") if isinstance(tools, dict) else None
            )
        if found is not None:
            return _checked(found, name, folder)
    return Config()


def _checked(found: object, name: str, folder: Path) -> Config:
    if not isinstance(found, dict):
        raise Problem(f"{name}: [tool.flowkit] must be a table.", CONFIGURATION)
    table = cast("dict[str, object]", found)
    unknown = [key for key in table if key not in KEYS]
    if unknown:
        known = ", ".join(KEYS)
        raise Problem(f"{name}: unknown key {unknown[0]!r}; there are {known}.", CONFIGURATION)
    db = table.get("db", "")
    targets = table.get("targets", {})
    if not isinstance(db, str) or not isinstance(targets, dict):
        raise Problem(f"{name}: db is a text and targets is a table.", CONFIGURATION)
    pairs = cast("dict[str, object]", targets)
    wrong = [key for key, value in pairs.items() if not isinstance(value, str)]
    if wrong:
        raise Problem(f"{name}: targets.{wrong[0]} must be a text.", CONFIGURATION)
    if db and "://" not in db:
        db = str(folder / db)
    return Config(db, cast("dict[str, str]", pairs))


@dataclass(frozen=True, slots=True)
class Database:
    """The database to use. `option`: what a command must repeat to use the same one, without a password."""

    target: str
    option: str = ""
    implicit: bool = False

    @property
    def is_server(self) -> bool:
        """Whether it is a server's, not a file."""
        return "://" in self.target and not self.target.startswith("sqlite")

    @property
    def name(self) -> str:
        """What messages call it."""
        return without_password(self.target) if self.is_server else str(self.path)

    @property
    def path(self) -> Path:
        """Its file; `StoreUnusable` or `Problem` for what names none that could be reached."""
        from flowkit.store.sqlite import path_of

        if self.target.strip() in ("", ":memory:"):
            text = (
                f"the database {self.target!r} keeps nothing: --db needs the path of a file, or a "
            )
            raise Problem(f"{text}postgresql:// URL.", CONFIGURATION)
        path = path_of(self.target)
        try:
            self.target.encode()
            path.stat()
        except UnicodeEncodeError as error:
            raise Problem("the database's name is not valid UTF-8.", CONFIGURATION) from error
        except (FileNotFoundError, NotADirectoryError):
            pass  # the store says what that means
        except OSError as error:
            text = f"{clean(path, 200)}: cannot be reached: {error.strerror}."
            raise Problem(text, CONFIGURATION) from error
        return path


def find_database(given: str | None) -> Database:
    """`--db`, then FLOWKIT_DB, then the configuration file, then the user's data directory."""
    if given is not None:
        return Database(given, without_password(given))
    if target := os.environ.get("FLOWKIT_DB", "").strip():
        return Database(target)
    if target := read_config().db:
        return Database(target)
    import platformdirs

    folder = platformdirs.user_data_path("flowkit", appauthor=False)
    return Database(str(folder / "flowkit.db"), implicit=True)


def without_password(target: str) -> str:
    """A database as commands repeat it: passwords belong into ~/.pgpass or PGPASSWORD, not into logs."""
    if "://" not in target or target.startswith("sqlite"):
        return target
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(target)
    except (ArgumentError, ValueError):
        return ""
    query = {name: value for name, value in url.query.items() if name != "password"}
    where = (url.host, url.port, url.database, query)
    return URL.create(url.drivername, url.username, None, *where).render_as_string()


def prepare(database: Database) -> None:
    """Before anything is written: refuse another program's database, and make the default directory.

    That one is private, since prompts are secrets. No other one is ever made.
    """
    has_runs(database)
    if database.implicit:
        folder = database.path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            text = f"{folder}: cannot make the data directory: {error.strerror}. Use --db."
            raise Problem(text, CONFIGURATION) from error


def has_runs(database: Database) -> bool:
    """Whether there is a database of ours; looking makes no file, and no table in anybody else's."""
    if database.is_server:
        from flowkit.store.sql import has_tables

        return has_tables(database.target)
    from flowkit.store.sqlite import check_file

    path = database.path
    if database.implicit and not path.parent.is_dir():
        return False
    check_file(path)
    if not path.exists() or not path.stat().st_size:
        return False
    tables = _tables(path)
    if tables is None or _OURS in tables:
        return True
    if tables:
        text = f"{path}: this is another program's database, there are no runs in it. Use --db."
        raise Problem(text, CONFIGURATION)
    return False  # somebody has begun to make it


def _tables(path: Path) -> set[str] | None:
    """What stands in a database; None where only the store can say what is wrong with it."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as connection:
            connection.execute("PRAGMA query_only=ON")
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error:
        return None


def need_runs(database: Database) -> None:
    """Refuse to look for a run where no database is."""
    if not has_runs(database):
        text = f"there are no runs yet: the database {database.name} does not exist or is empty."
        raise Problem(text, NOT_FOUND)
