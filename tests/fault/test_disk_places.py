"""Places that cannot hold a database, processes that hold it, and many that come at once."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from flowkit import Context, Engine
from flowkit.errors import StoreUnusable
from flowkit.store import SqlStore, sqlite
from tests.fault.disk.crowd import EIGHT, EVENTS
from tests.fault.disk.flow import POSTED, Lines, bring_to_end
from tests.fault.disk.shim import ROOT


def said(name: str, *arguments: object) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", f"tests.fault.disk.{name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


# ---- places


def test_a_place_that_cannot_be_written_is_refused_at_once_and_named() -> None:
    found = said("places")
    assert len(found) == 13
    for place in found:
        assert place["code"] == 0, place
        assert place["said"].startswith("StoreUnusable: "), place
        assert place["path"] in place["said"], place
        assert "\n" not in place["said"], place
        assert place["seconds"] < 1, place


# ---- locks

HOLDER = """
import sqlite3, sys
connection = None
for line in sys.stdin:
    if connection is None:
        connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
    for statement in line.strip().split(";"):
        if statement == "CLOSE":
            connection = connection.close()
        else:
            connection.execute(statement)
    print("done", flush=True)
"""


class Holder:
    """Another process with the database open; it does what it is told, and says when it has."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", HOLDER, str(path)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def do(self, *statements: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(";".join(statements), file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def holder(path: Path) -> Iterator[Holder]:
    held = Holder(path)
    with held.process:
        yield held
        held.process.kill()


ALONE = ("PRAGMA journal_mode=WAL", "PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE")
LET_GO = ("COMMIT", "CLOSE")  # no connection leaves that mode otherwise


async def test_a_lock_that_is_let_go_is_waited_for(
    path: Path, tmp_path: Path, holder: Holder
) -> None:
    holder.do(*ALONE)
    ledger = Lines(tmp_path / "ledger")
    results: list[str] = []

    async def run() -> None:
        async with SqlStore(path) as store, Engine(store, resources=[ledger]) as engine:
            results.append(await bring_to_end(engine))

    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            assert (results, ledger.read()) == ([], []), "something began without its record"
            holder.do(*LET_GO)
    assert results == [POSTED]


@pytest.mark.parametrize("before", [True, False])
async def test_a_lock_that_stays_is_told_and_nothing_begins(
    path: Path, tmp_path: Path, holder: Holder, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.setattr(sqlite, "_LOCKED_S", 0.2)
    ledger = Lines(tmp_path / "ledger")
    if before:
        holder.do(*ALONE)
        with pytest.raises(StoreUnusable, match=r"runs\.db: .*locked.*Close that process"):
            await SqlStore(path).open()
        holder.do(*LET_GO)
    async with SqlStore(path) as store, Engine(store, resources=[ledger]) as engine:
        holder.do("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnusable, match=r"runs\.db: .*locked.*Close that process"):
            await bring_to_end(engine)
        assert ledger.read() == [], "something began without its record"
        holder.do(*LET_GO)
        assert await bring_to_end(engine) == POSTED


class Locking(Lines):
    """Has the file locked when a step has begun, so that its outcome cannot be recorded."""

    holder: Holder
    step = "w12/publish"

    def write(self, ctx: Context) -> None:
        super().write(ctx)
        if ctx.step == self.step:
            self.step = ""
            self.holder.do("BEGIN IMMEDIATE")


async def test_what_must_not_be_repeated_does_not_begin_while_its_record_cannot_be_written(
    path: Path, tmp_path: Path, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_LOCKED_S", 0.2)
    ledger = Locking(tmp_path / "ledger")
    ledger.holder = holder
    async with SqlStore(path) as store, Engine(store, resources=[ledger]) as engine:
        with pytest.raises(StoreUnusable, match="locked"):
            await bring_to_end(engine)
        assert ledger.announced() == 0
        holder.do("COMMIT")
        assert await bring_to_end(engine) == POSTED
        assert ledger.announced() == 1


async def test_a_reader_that_stays_does_not_hinder_a_run(path: Path, tmp_path: Path) -> None:
    """Its view of the file keeps the log from being emptied, and nothing more."""
    ledger = Lines(tmp_path / "ledger")
    async with SqlStore(path) as store, Engine(store, resources=[ledger]) as engine:
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM flowkit_runs").fetchall()
        assert await bring_to_end(engine) == POSTED
        assert reader.execute("SELECT count(*) FROM flowkit_runs").fetchall() == [(0,)]
        reader.close()


# ---- many at once


def check_append(rounds: list[dict[str, Any]]) -> None:
    for found in rounds:
        assert found["found"] == ["done"] * EIGHT, "\n".join(found["found"])
        assert found["rows"] == [EVENTS] * EIGHT, found
        assert (found["sound"], found["gaps"]) == ("ok", False), found


def check_same(rounds: list[dict[str, Any]]) -> None:
    for found in rounds:
        assert set(found["found"]) <= {POSTED, "RunBusy"}, "\n".join(found["found"])
        assert POSTED in found["found"]
        assert (found["sound"], found["runs"]) == ("ok", 1), found
        assert (found["claimed"], found["most"]) == (1, 1), f"more than one has driven: {found}"


def test_two_rounds_of_eight_processes_that_open_a_fresh_file() -> None:
    check_append(said("crowd", "append", 2))


@pytest.mark.long
def test_eight_processes_open_a_fresh_file_at_once() -> None:
    rounds = said("crowd", "append", 20)
    check_append(rounds)
    assert len(rounds) == 20


@pytest.mark.long
def test_eight_processes_start_the_same_run_at_once() -> None:
    rounds = said("crowd", "same", 12)
    check_same(rounds)
    assert len(rounds) == 12
