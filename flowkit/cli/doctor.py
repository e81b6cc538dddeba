"""`flowkit doctor`: is everything here that runs need? No network, unless it is asked for."""

from __future__ import annotations

import importlib.util
import platform
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import anyio

from flowkit.cli.config import Database, has_runs
from flowkit.cli.exits import CONFIGURATION, SUCCESS
from flowkit.cli.table import Column, print_table
from flowkit.cli.text import clean, to_json
from flowkit.errors import FlowkitError

SQLITE_SOUND = (3, 51, 3)
"""Versions before can corrupt a file that one connection writes and another checkpoints."""

_NEEDED = ("anyio", "networkx", "openai", "pydantic", "sqlalchemy", "typer", "rich")
_FOR_WORKFLOWS = ("httpx2", "jinja2", "lxml", "pandas", "plotly")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `fail` makes the command fail."""

    check: str
    status: Literal["ok", "note", "fail"]
    text: str


def diagnose(database: Database, *, check_model: bool, json: bool) -> int:
    """Print what was found; 78 if something hinders runs."""
    findings = [_python(), _sqlite(), *_packages(), *_database(database), _model(check_model)]
    if check_model:
        findings.append(anyio.run(_ask_model))
    if json:
        bad = any(finding.status == "fail" for finding in findings)
        print(to_json({"ok": not bad, "checks": [asdict(finding) for finding in findings]}))
    else:
        columns = [Column("CHECK"), Column("STATUS"), Column("FOUND", wide=True)]
        print_table(columns, [[each.check, each.status, each.text] for each in findings])
    return CONFIGURATION if any(finding.status == "fail" for finding in findings) else SUCCESS


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _sqlite() -> Finding:
    found = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info >= SQLITE_SOUND:
        return Finding("sqlite", "ok", found)
    sound = ".".join(str(part) for part in SQLITE_SOUND)
    return Finding(
        "sqlite",
        "note",
        f"{found}: versions before {sound} have a bug that can corrupt a database when two connections "
        f"write and checkpoint at the same instant. flowkit avoids it by letting one connection "
        f"checkpoint; let no other program write to the file.",
    )


def _packages() -> Iterator[Finding]:
    for names, extra, missing in (
        (_NEEDED, "flowkit-agents[cli]", "fail"),
        (_FOR_WORKFLOWS, "flowkit-agents[workflows]", "note"),
    ):
        absent = [name for name in names if importlib.util.find_spec(name) is None]
        there = ", ".join(f"{name} {_version_of(name)}" for name in names if name not in absent)
        check = "packages" if missing == "fail" else "shipped workflows"
        if not absent:
            yield Finding(check, "ok", there)
        else:
            text = f'missing: {", ".join(absent)}: pip install "{extra}"'
            yield Finding(check, "fail" if missing == "fail" else "note", text)


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(version unknown)"


def _database(database: Database) -> Iterator[Finding]:
    try:
        if database.is_server:
            made = "its tables are there" if has_runs(database) else "made by the first run"
            yield Finding("database", "ok", f"{clean(database.name)} ({made})")
            return
        path = database.path
        if database.implicit and not path.parent.is_dir():
            yield Finding("database", "ok", f"{path} (made by the first run)")
            return
        from flowkit.store.sqlite import check_file

        check_file(path)
    except FlowkitError as error:
        yield Finding("database", "fail", clean(error))
        return
    if not path.exists():
        yield Finding("database", "ok", f"{path} (made by the first run)")
        return
    yield Finding("database", "ok", f"{path}, {path.stat().st_size:,} bytes, writable")
    yield _schema(path)


def _schema(path: Path) -> Finding:
    from flowkit.store.schema import MIGRATIONS

    known = len(MIGRATIONS)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as connection:
            connection.execute("PRAGMA query_only=ON")
            there = connection.execute(
                "SELECT count(*) FROM sqlite_master WHERE name = 'flowkit_schema'"
            ).fetchone()[0]
            query = "SELECT max(version) FROM flowkit_schema"
            found = (connection.execute(query).fetchone()[0] or 0) if there else 0
    except sqlite3.Error as error:
        return Finding("schema", "fail", clean(f"{path}: {error}"))
    if found > known:
        return Finding("schema", "fail", f"{found}, newer than this flowkit's {known}: update it")
    if found < known:
        return Finding("schema", "note", f"{found}; the next run brings it to {known}")
    return Finding("schema", "ok", f"{found}")


def _model(asked: bool) -> Finding:
    from flowkit.model import OpenAIModel

    if not OpenAIModel.configured():
        return Finding(
            "model",
            "note",
            "none configured: shipped workflows answer by fixed rules. Set OPENAI_API_KEY, "
            "MOONSHOT_API_KEY or OPENAI_BASE_URL.",
        )
    try:
        found = repr(OpenAIModel.from_env())
    except FlowkitError as error:
        return Finding("model", "fail", clean(error))

    if asked:
        return Finding("model", "ok", found)
    return Finding("model", "note", f"{found}: configured, not asked; --check-model asks it")


async def _ask_model() -> Finding:
    """One short question, and how it was answered."""
    from flowkit.chat import ChatMessage, ModelRequest
    from flowkit.model import OpenAIModel

    try:
        async with OpenAIModel.from_env() as model:
            question = [ChatMessage("user", content="Answer with the one word: ready")]
            with anyio.fail_after(60):
                answer = await model.respond(ModelRequest(question))
    except FlowkitError as error:
        return Finding("model answers", "fail", clean(error))
    except TimeoutError:
        return Finding("model answers", "fail", "no answer within 60 s")
    said = clean(answer.message.content or "", 60)
    return Finding("model answers", "ok", f"{clean(answer.model)} said {said!r}")
