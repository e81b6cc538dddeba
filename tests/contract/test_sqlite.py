"""What is SQLite's own: files, locks, transactions, and failures of the storage."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection
from sqlalchemy import event as listen_to

from flowkit import events as e
from flowkit.errors import (
    FlowkitError,
    JournalConflict,
    LeaseLost,
    RunConflict,
    SchemaTooNew,
    StoreUnusable,
)
from flowkit.owner import this_owner
from flowkit.ports import Message, RunQuery
from flowkit.store import SqlStore, sqlite
from flowkit.store.operations import Put
from flowkit.store.place import Session
from flowkit.store.sqlite import SqliteFile
from flowkit.values import Value
from tests.contract.helpers import GENERATION, done, event, run

ROOT = Path(__file__).parents[2]


def raw(store: SqlStore) -> sqlite3.Connection:
    assert store._writer is not None
    assert store._writer._session is not None
    return sqlite.raw(store._writer._session.connection)


def pragma(store: SqlStore, name: str) -> object:
    return raw(store).execute(f"PRAGMA {name}").fetchone()[0]


def by_hand(path: Path, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements past the store; the rows of the last one."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        return rows


def files(folder: Path) -> dict[Path, bytes]:
    """All that is in a folder, with the contents of files."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    program = "import anyio, sys\nfrom flowkit.ports import *\nfrom flowkit.store import SqlStore\n"
    return subprocess.Popen(
        [sys.executable, "-c", program + code, *arguments],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


@contextmanager
def locked(path: Path) -> Generator[Callable[[], object]]:
    """Hold the write lock; the function given lets it go."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection.rollback


# ---- the file


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_only_the_owner_may_read_what_is_made(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with SqlStore(tmp_path / "any.suffix") as store:
            await store.create(run())
            modes = {path.name: mode(path) for path in files(tmp_path)}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["any.suffix", "any.suffix-wal", "any.suffix-shm"], 0o600)


async def test_a_file_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch()
    path.chmod(0o640)
    async with SqlStore(path) as store:
        await store.create(run())
    assert mode(path) == 0o640


async def test_paths_and_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = "a?b#c%20d e&mode=ro ü.db"
    for target in ("plain", odd, f"sqlite:///{tmp_path}/url.db", "sqlite+pysqlite:///relative.db"):
        async with SqlStore(target) as store:
            await store.create(run())
    assert {path.name for path in files(tmp_path)} == {"plain", odd, "url.db", "relative.db"}


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("", "path of a file"),
        (":memory:", "MemoryStore"),
        ("sqlite://", "path of a file"),
        ("sqlite:///:memory:", "MemoryStore"),
        ("a\0b", "path of a file"),
        ("sqlite:///a.db?mode=ro", "options"),
        ("mysql://me:secret@host/db", "'mysql', only SQLite and PostgreSQL"),
        ("postgresql+asyncpg://me:secret@host/db", "with psycopg"),
        ("://", "cannot be read"),
    ],
)
def test_targets_that_are_no_file_are_refused_at_once(target: str, says: str) -> None:
    with pytest.raises(StoreUnusable, match=says) as caught:
        SqlStore(target)
    assert "secret" not in str(caught.value)


def test_an_unknown_durability_is_refused() -> None:
    with pytest.raises(ValueError, match="durability"):
        SqlStore("a.db", durability="none")  # type: ignore[arg-type]


def _missing(folder: Path) -> Path:
    return folder / "no" / "a.db"


def _directory(folder: Path) -> Path:
    return folder


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "a.db")
    return folder / "a.db"


def _text(folder: Path) -> Path:
    (folder / "a.db").write_text("not a database " * 100, encoding="ascii")
    return folder / "a.db"


def _short(folder: Path) -> Path:
    (folder / "a.db").write_text("hello", encoding="ascii")
    return folder / "a.db"


def _torn(folder: Path) -> Path:
    by_hand(folder / "a.db", "CREATE TABLE t (x)", "INSERT INTO t VALUES (zeroblob(9999))")
    data = bytearray((folder / "a.db").read_bytes())
    data[100:4096] = b"\xff" * 3996
    (folder / "a.db").write_bytes(data)
    return folder / "a.db"


def _link(folder: Path) -> Path:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o1777)
    (folder / "open" / "a.db").symlink_to(folder / "target")
    return folder / "open" / "a.db"


def _dangling(folder: Path) -> Path:
    (folder / "a.db").symlink_to(folder / "nowhere")
    return folder / "a.db"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_missing, "its directory does not exist. Create"),
        (_directory, "is a directory"),
        (_fifo, "not an ordinary file"),
        (_text, "not an SQLite database"),
        (_short, "not an SQLite database"),
        (_torn, "damaged"),
        (_link, "directory of your own"),
        (_dangling, "cannot"),
    ],
)
async def test_bad_places_are_refused_in_one_line_and_left_alone(
    tmp_path: Path, make: Callable[[Path], Path], says: str
) -> None:
    path = make(tmp_path)
    before = files(tmp_path)
    store = SqlStore(path)
    for _ in range(2):
        with pytest.raises(StoreUnusable, match=says) as caught:
            await store.create(run())
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, sqlite.FAILURES)
    await store.close()
    assert files(tmp_path) == before


@pytest.mark.parametrize("exists", [True, False])
async def test_what_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    path = tmp_path / "a.db"
    if exists:
        path.touch(0o400)

    # Root may do everything, so the answer is given by hand.
    def access(place: object, wanted: int) -> bool:
        return not wanted & os.W_OK

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(StoreUnusable, match="may not write"):
        await SqlStore(path).open()
    assert path.exists() == exists


async def test_a_store_that_was_refused_opens_once_the_place_is_right(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "later" / "a.db")
    with pytest.raises(StoreUnusable):
        await store.open()
    (tmp_path / "later").mkdir()
    await store.create(run())
    await store.close()


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with SqlStore(path) as store:
        await store.create(run())
    by_hand(path, "INSERT INTO flowkit_schema VALUES (99)")
    before = path.read_bytes()
    with pytest.raises(SchemaTooNew, match=r"a\.db.*newer flowkit \(schema 99"):
        await SqlStore(path).open()
    assert path.read_bytes() == before


async def test_another_applications_file_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    by_hand(path, "CREATE TABLE users (name)", "INSERT INTO users VALUES ('me')")
    async with SqlStore(path) as store:
        await store.create(run())
        assert by_hand(path, "SELECT name FROM users") == [("me",)]
    tables = by_hand(path, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    assert [name for (name,) in tables] == [
        "flowkit_artifacts", "flowkit_events", "flowkit_inbox", "flowkit_runs", "flowkit_schema",
        "users",
    ]  # fmt: skip
    assert by_hand(path, "SELECT version FROM flowkit_schema") == [(1,), (2,)]


async def test_a_file_deleted_under_the_store_is_not_made_anew(tmp_path: Path) -> None:
    async with SqlStore(tmp_path / "a.db") as store:
        await store.create(run())
        for path in files(tmp_path):
            path.unlink()
        assert store._writer is not None
        store._writer._drop()
        with pytest.raises(StoreUnusable, match="cannot be opened"):
            await store.create(run("s"))
        assert files(tmp_path) == {}


@pytest.mark.parametrize(("durability", "level"), [("power", 2), ("process", 1)])
async def test_the_pragmas_are_really_set(tmp_path: Path, durability: Any, level: int) -> None:
    async with SqlStore(tmp_path / "a.db", durability=durability) as store:
        assert pragma(store, "journal_mode") == "wal"
        assert pragma(store, "synchronous") == level
        assert pragma(store, "fullfsync") == level - 1
        assert pragma(store, "busy_timeout") == 10_000
        assert pragma(store, "foreign_keys") == 1
        assert pragma(store, "page_size") == 16_384
        assert raw(store).isolation_level is None
        assert isinstance(store._place, SqliteFile)
        with sqlite.reading(store._place.readers) as reader:
            assert reader.execute("PRAGMA query_only").fetchone() == (1,)
            with pytest.raises(sqlite.FAILURES, match="readonly"):
                reader.execute("DELETE FROM flowkit_runs")


async def test_who_only_posts_never_checkpoints(tmp_path: Path) -> None:
    async with SqlStore(tmp_path / "a.db") as store:
        await store.create(run())
        await store.post("r", Message("m", "cancel"))
        await store.runs(RunQuery())
        assert pragma(store, "wal_autocheckpoint") == 0
        epoch = await store.claim("r", "me", 10) or 0
        await store.append("r", done(1), expect=0, epoch=epoch)
        await store.append("r", done(2), expect=1, epoch=epoch)
        assert pragma(store, "wal_autocheckpoint") == 256


async def test_a_journal_costs_little_more_than_what_is_in_it(tmp_path: Path) -> None:
    value = Value.of('"' + "x" * 2046 + '"')
    async with SqlStore(tmp_path / "a.db", durability="process") as store:
        await store.create(run())
        epoch = await store.claim("r", this_owner(), 10) or 0
        for seq in range(1, 601):
            step = e.Event(
                seq, time.time(), e.StepDone("0" * 32, value, 0.012345), f"plan/t{seq}/s"
            )
            await store.append("r", [step], expect=seq - 1, epoch=epoch)
        assert (tmp_path / "a.db-wal").stat().st_size < 40 * 2**20
    assert [path.name for path in files(tmp_path)] == ["a.db"]
    assert (tmp_path / "a.db").stat().st_size <= 1.3 * 600 * 2048


async def test_the_log_is_emptied_on_close_though_others_have_the_file_open(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as other:
        async with SqlStore(path) as store:
            await store.create(run())
            await store.claim("r", "me", 10)
            other.execute("SELECT * FROM flowkit_runs").fetchall()
            other.rollback()
        assert (tmp_path / "a.db-wal").stat().st_size == 0


# ---- several processes


def test_eight_processes_open_a_fresh_file_at_once(tmp_path: Path) -> None:
    code = """
async def main():
    for number in range(5):
        sys.stdin.readline()
        async with SqlStore(f"{sys.argv[1]}/{number}.db") as store:
            await store.create(RunRecord(sys.argv[2], "wf", "h", 1.0))
            print(len((await store.load(sys.argv[2])).events), flush=True)
print("ready", flush=True)
anyio.run(main)
"""
    children = [child(code, str(tmp_path), f"run-{number}") for number in range(8)]
    try:
        for process in children:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for number in range(5):
            for process in children:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in children:
                assert process.stdout is not None
                assert process.stdout.readline() == "0\n"
            path = tmp_path / f"{number}.db"
            assert by_hand(path, "SELECT version FROM flowkit_schema") == [(1,), (2,)]
            assert by_hand(path, "SELECT count(*) FROM flowkit_runs") == [(8,)]
            assert by_hand(path, "PRAGMA integrity_check") == [("ok",)]
            assert by_hand(path, "PRAGMA page_size") == [(16_384,)]
    finally:
        for process in children:
            process.communicate()
    assert [process.returncode for process in children] == [0] * 8


async def test_another_process_posts_and_the_owner_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    code = """
async def main():
    async with SqlStore(sys.argv[1]) as store:
        for number in range(20):
            await store.post("r", Message(f"m{number}", "signal", "go"))
anyio.run(main)
"""
    async with SqlStore(path) as store:
        await store.create(run())
        epoch = await store.claim("r", "me", 1000) or 0
        seen = await store.append("r", done(1), expect=0, epoch=epoch)
        with child(code, str(path)) as process:
            seq = 1
            while len(seen) < 20:
                assert process.poll() in (None, 0)
                seen = await store.append("r", done(seq + 1), expect=seq, epoch=epoch)
                seq += 1
                await anyio.sleep(0.005)
        assert process.returncode == 0
        assert [message.id for message in seen] == [f"m{number}" for number in range(20)]
        assert len((await store.load("r")).events) == seq
    assert by_hand(path, "PRAGMA integrity_check") == [("ok",)]


async def test_what_another_store_writes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with SqlStore(path) as first, SqlStore(path) as second:
        await first.create(run())
        mine = await first.claim("r", "a", 1000) or 0
        await first.append("r", done(1), expect=0, epoch=mine)
        assert await second.claim("r", "b", 1000) is None
        theirs = await second.claim("r", "b", 1000, token=mine + 1) or 0
        with pytest.raises(LeaseLost):
            await first.append("r", done(2), expect=1, epoch=mine)
        assert await first.renew("r", mine, 10) is None
        await second.append("r", done(2), expect=1, epoch=theirs)
        assert await first.claim("r", "a", 1000, token=2 * GENERATION) == 2 * GENERATION
        with pytest.raises(JournalConflict):
            await first.append("r", done(2), expect=1, epoch=2 * GENERATION)
        await first.append("r", done(3), expect=2, epoch=2 * GENERATION)
        await second.create(run("s"))
        with pytest.raises(RunConflict):
            await first.create(run("s"))
        await first.create(run("t"))
        assert len((await second.load("r")).events) == 3


# ---- group commit


async def test_many_appends_share_few_commits(sql: SqlStore) -> None:
    for number in range(200):
        await sql.create(run(f"r{number}"))
    statements: list[str] = []
    raw(sql).set_trace_callback(statements.append)
    with locked(Path(sql.name)) as unlock:
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(partial(sql.append, f"r{number}", done(1), expect=0, epoch=0))
            await anyio.sleep(0.05)
            unlock()
    raw(sql).set_trace_callback(None)
    assert statements.count("COMMIT") <= 2
    assert set(map(str.upper, filter(lambda text: text.startswith("BEGIN"), statements))) == {
        "BEGIN IMMEDIATE"
    }
    assert sum(text.startswith("INSERT INTO flowkit_events") for text in statements) == 200
    assert not any(text.startswith("UPDATE") for text in statements)


async def test_an_append_alone_is_four_statements(sql: SqlStore) -> None:
    await sql.create(run())
    epoch = await sql.claim("r", "me", 10) or 0
    await sql.append("r", done(1), expect=0, epoch=epoch)
    statements: list[str] = []
    raw(sql).set_trace_callback(statements.append)
    await sql.append("r", done(2, 3), expect=1, epoch=epoch)
    raw(sql).set_trace_callback(None)
    assert [text.split()[0] for text in statements] == [
        "BEGIN", "PRAGMA", "INSERT", "INSERT", "INSERT", "COMMIT"
    ]  # fmt: skip


async def together(store: SqlStore, *calls: Callable[[], Any]) -> list[object]:
    """Make calls that are committed in one transaction; their results or errors, in order."""
    writer = store._writer
    assert writer is not None
    found: dict[int, object] = {}

    async def one(place: int, call: Callable[[], Any]) -> None:
        try:
            found[place] = await call()
        except FlowkitError as error:
            found[place] = error

    async def until(reached: Callable[[], bool]) -> None:
        with anyio.fail_after(5):
            while not reached():  # noqa: ASYNC110 (what the other thread does is no event)
                await anyio.sleep(0.001)

    def gathered(count: int) -> bool:
        return writer._gathering is not None and len(writer._gathering.items) == count

    with locked(Path(store.name)) as unlock:
        async with anyio.create_task_group() as group:
            # The writer waits for the lock with one item, and meanwhile all others gather.
            group.start_soon(one, -1, lambda: writer.submit(Put("alone", b"")))
            await anyio.wait_all_tasks_blocked()
            await until(lambda: writer._gathering is None)
            for place, call in enumerate(calls):
                group.start_soon(one, place, call)
                await until(partial(gathered, place + 1))
            unlock()
    return [found[place] for place in range(len(calls))]


async def test_a_refused_item_does_not_fail_its_neighbours(sql: SqlStore) -> None:
    for name in "abcd":
        await sql.create(run(name))
    bad = event(1, e.StepDone("h"))
    too_large = e.Event(1, 1.0, e.StepDone("h"), "k", 0, 2**70)
    found = await together(
        sql,
        lambda: sql.append("a", done(1), expect=0, epoch=0),
        lambda: sql.append("b", [too_large], expect=0, epoch=0),  # refused by the database
        lambda: sql.append("c", [bad], expect=0, epoch=7),
        lambda: sql.append("d", done(2), expect=1, epoch=0),
        lambda: sql.append("x", done(1), expect=0, epoch=0),
        lambda: sql.create(run("a")),
        lambda: sql.create(run("e")),
        lambda: sql.append("a", done(2), expect=1, epoch=0),
        lambda: sql.claim("c", "me", 10),
        lambda: sql.post("d", Message("m", "cancel")),
    )
    kinds = [type(outcome).__name__ for outcome in found]
    assert kinds == [
        "tuple", "ValueRefused", "LeaseLost", "JournalConflict", "RunNotFound", "RunConflict",
        "NoneType", "tuple", "int", "NoneType",
    ]  # fmt: skip
    assert len((await sql.load("a")).events) == 2
    assert (await sql.load("b")).record.head == 0
    assert (await sql.load("c")).record.epoch == GENERATION
    await sql.append("b", done(1), expect=0, epoch=0)
    assert len(await sql.append("d", done(1), expect=0, epoch=0)) == 1
    assert len((await sql.load("e")).events) == 0


async def test_a_row_that_the_database_has_already_is_a_conflict(sql: SqlStore) -> None:
    await sql.create(run())
    await sql.create(run("s"))
    await sql.append("r", done(1), expect=0, epoch=0)
    assert sql._writer is not None
    sql._writer._ledger.run("r").head = 0  # a wrong memory: the index is the second line
    with pytest.raises(JournalConflict):
        await sql.append("r", done(1), expect=0, epoch=0)
    await sql.append("r", done(2), expect=1, epoch=0)


async def test_a_run_made_and_used_in_one_transaction(sql: SqlStore) -> None:
    found = await together(
        sql,
        lambda: sql.create(run()),
        lambda: sql.post("r", Message("m", "signal", "go")),
        lambda: sql.append("r", [event(1, e.Signalled("go", message="m"))], expect=0, epoch=0),
        lambda: sql.post("r", Message("m", "signal", "go")),
        lambda: sql.append("r", done(2), expect=1, epoch=0),
        lambda: sql.claim("r", "me", 10),
        lambda: sql.release("r", GENERATION),
    )
    assert found == [None, None, (), None, (), GENERATION, None]
    record = (await sql.load("r")).record
    assert (record.head, record.epoch, record.owner) == (2, GENERATION, None)


# ---- cancellation and closing


async def test_a_cancelled_caller_neither_hangs_nor_loses(sql: SqlStore) -> None:
    await sql.create(run())
    acknowledged = 0
    for seq in range(1, 101):
        with anyio.move_on_after(0.0001 * (seq % 5)):
            await sql.append("r", done(seq), expect=seq - 1, epoch=0)
            acknowledged = seq
        assert acknowledged == seq
    assert len((await sql.load("r")).events) == 100


async def test_close_commits_what_waits(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "a.db")
    await store.create(run())
    kept: list[int] = []

    async def write(number: int) -> None:
        await store.create(run(f"r{number}"))
        kept.append(number)

    with locked(Path(store.name)) as unlock:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(write, number)
            await anyio.sleep(0.03)
            group.start_soon(store.close)
            group.start_soon(store.close)
            await anyio.sleep(0.03)
            assert kept == []
            unlock()
    assert len(kept) == 20
    with pytest.raises(StoreUnusable, match="closed"):
        await store.create(run("late"))
    with pytest.raises(StoreUnusable, match="closed"):
        await store.load("r1")
    await store.close()
    async with SqlStore(tmp_path / "a.db") as again:
        assert len(await again.runs(RunQuery())) == 21


async def test_close_waits_for_reads_and_leaves_no_log(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "a.db")
    await store.create(run())
    await store.append("r", done(1, 2000), expect=0, epoch=0)
    told: list[str] = []

    async def read() -> None:
        try:
            told.append(str(len((await store.load("r")).events)))
        except StoreUnusable as error:
            told.append(str(error).partition("the store is ")[2])

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        await store.close()
    assert len(told) == 12
    assert {text.partition(".")[0] for text in told} <= {"2000", "closed"}
    assert [path.name for path in files(tmp_path)] == ["a.db"]


async def test_a_store_that_was_never_used_closes_and_leaves_nothing(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "a.db")
    await store.close()
    await store.close()
    assert files(tmp_path) == {}


async def test_the_first_uses_may_come_at_once(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "a.db")
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(store.create, run(f"r{number}"))
    assert len(await store.runs(RunQuery())) == 20
    await store.close()


# ---- failures of the storage


async def test_a_lock_that_stays_is_an_error_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_LOCKED_S", 0.05)
    async with SqlStore(tmp_path / "a.db") as store:
        await store.create(run())
        with locked(Path(store.name)):
            with pytest.raises(StoreUnusable, match=r"a\.db.*locked"):
                await store.append("r", done(1), expect=0, epoch=0)
            assert (await store.load("r")).record.head == 0  # readers do not wait for writers
        await store.append("r", done(1), expect=0, epoch=0)


async def test_a_full_disk_is_an_error_and_no_end(sql: SqlStore) -> None:
    await sql.create(run())
    pages = pragma(sql, "page_count")
    raw(sql).execute(f"PRAGMA max_page_count={pages}")
    big = event(1, e.StepDone("h", Value.of('"' + "x" * 60_000 + '"')))
    with pytest.raises(StoreUnusable, match="disk is full") as caught:
        await sql.append("r", [big], expect=0, epoch=0)
    assert "\n" not in str(caught.value)
    await sql.append("r", [big], expect=0, epoch=0)  # a new connection has room again
    assert len((await sql.load("r")).events) == 1


@contextmanager
def failing_commit(store: SqlStore, *, lands: bool) -> Generator[None]:
    """The second COMMIT from now on raises: after it was done, or instead."""
    assert store._writer is not None
    engine = store._place.engine
    seen: list[Connection] = []

    def fail(connection: Connection) -> None:
        seen.append(connection)
        if len(seen) == 2:
            if lands:
                sqlite.raw(connection).commit()
            raise sqlite3.OperationalError("disk I/O error")

    listen_to.listen(engine, "commit", fail)
    try:
        yield
    finally:
        listen_to.remove(engine, "commit", fail)


@pytest.mark.parametrize("lands", [True, False])
async def test_a_failed_commit_is_settled_by_looking(sql: SqlStore, lands: bool) -> None:
    for name in "abcde":
        await sql.create(run(name))
    held = await sql.claim("d", "me", 10) or 0
    await sql.claim("e", "me", 10)
    await sql.append("a", done(1), expect=0, epoch=0)
    with failing_commit(sql, lands=lands):
        found = await together(
            sql,
            lambda: sql.append("a", done(2), expect=1, epoch=0),
            lambda: sql.create(run("new")),
            lambda: sql.claim("b", "me", 10),
            lambda: sql.post("c", Message("m", "cancel")),
            lambda: sql.renew("d", held, 500),
            lambda: sql.release("e", held),
            lambda: sql.put(b"artifact"),
            lambda: sql.append("d", done(1), expect=0, epoch=held + 1),
        )
    if lands:
        assert found[:-2] == [(), None, GENERATION, None, (), None]
        assert isinstance(found[-1], LeaseLost)
    else:
        assert {type(outcome) for outcome in found} == {StoreUnusable}
        assert all("nothing was written" in str(outcome) for outcome in found)
    heads = [(await sql.load(name)).record.head for name in "abcd"]
    assert heads == ([2, 0, 0, 0] if lands else [1, 0, 0, 0])
    assert (await sql.load("b")).record.epoch == (GENERATION if lands else 0)
    assert ((await sql.load("e")).record.owner is None) == lands
    assert bool(await sql.runs(RunQuery(messages=True))) == lands
    assert bool(await sql.runs(RunQuery(run_id="new"))) == lands
    await sql.append("a", done(heads[0] + 1), expect=heads[0], epoch=0)


async def test_after_a_failed_commit_somebody_elses_events_are_not_taken_for_ours(
    sql: SqlStore,
) -> None:
    await sql.create(run())
    reopen = sql._place.reopen

    def later(*, unsure: bool = False) -> Session:
        """Meanwhile another process claims the run and goes on."""
        theirs = "'step_failed', 'a', 0, 1, '{}'"
        by_hand(
            Path(sql.name),
            "UPDATE flowkit_runs SET epoch = 7",
            "INSERT INTO flowkit_events (run, seq, at, kind, key, alternative, attempt, data) "
            f"SELECT id, 1, 13.5, {theirs} FROM flowkit_runs",
        )
        return reopen(unsure=unsure)

    with failing_commit(sql, lands=False), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql._place, "reopen", later)
        await sql.put(b"the first commit")
        with pytest.raises(StoreUnusable, match="nothing was written"):
            await sql.append("r", done(1), expect=0, epoch=0)


async def test_an_outcome_that_nobody_can_look_up_is_told_so(
    sql: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql.create(run())
    assert sql._writer is not None

    def fail() -> Connection:
        raise sqlite3.OperationalError("unable to open database file")

    with failing_commit(sql, lands=True):
        await sql.append("r", done(1), expect=0, epoch=0)
        with monkeypatch.context() as patch:
            patch.setattr(sql._writer, "_reopen", fail)
            with pytest.raises(StoreUnusable, match="not known"):
                await sql.append("r", done(2), expect=1, epoch=0)
            with pytest.raises(StoreUnusable, match="nothing was written"):
                await sql.append("r", done(2), expect=1, epoch=0)
    with pytest.raises(JournalConflict):
        await sql.append("r", done(2), expect=1, epoch=0)
    await sql.append("r", done(3), expect=2, epoch=0)


async def test_nobody_is_woken_before_the_commit(sql: SqlStore) -> None:
    await sql.create(run())
    assert sql._writer is not None
    engine = sql._place.engine
    early: list[bool] = []
    answered = threading.Event()

    def slow(connection: Connection) -> None:
        early.append(answered.wait(0.5))  # a loop on a busy machine takes its time to be woken

    listen_to.listen(engine, "commit", slow)
    await sql.append("r", done(1), expect=0, epoch=0)
    answered.set()
    listen_to.remove(engine, "commit", slow)
    assert early == [False]


class _Broken:
    run_id = ""

    def apply(self, ledger: object) -> None:
        raise ZeroDivisionError

    def landed(self, ledger: object) -> bool:
        raise NotImplementedError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_even_if_the_writer_dies_nobody_waits_for_ever(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "a.db")
    await store.create(run())
    assert store._writer is not None
    with pytest.raises(StoreUnusable, match="died"):
        await store._writer.submit(_Broken())
    with pytest.raises(StoreUnusable, match="closed"):
        await store.create(run("s"))
    await store.close()
    async with SqlStore(tmp_path / "a.db") as again:
        assert len(await again.runs(RunQuery())) == 1


# ---- damaged rows

DAMAGE = [
    "UPDATE flowkit_events SET data = '{' WHERE seq = 2",
    "UPDATE flowkit_events SET data = x'ff' WHERE seq = 2",
    "UPDATE flowkit_events SET kind = '__import__' WHERE seq = 2",
    "UPDATE flowkit_events SET kind = 'intent' WHERE seq = 2",
    "UPDATE flowkit_events SET kind = 7 WHERE seq = 2",
    "UPDATE flowkit_events SET value = 7.5 WHERE seq = 2",
    "DELETE FROM flowkit_events WHERE seq = 2",
    "UPDATE flowkit_runs SET status = 'done' WHERE run_id = 'r'",
    "UPDATE flowkit_runs SET epoch = 'x' WHERE run_id = 'r'",
    "UPDATE flowkit_runs SET created_at = x'00' WHERE run_id = 'r'",
]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_journal_is_told_and_others_go_on(sql: SqlStore, damage: str) -> None:
    for name in ("r", "s"):
        await sql.create(run(name))
    await sql.append("r", done(1, 3), expect=0, epoch=0)
    by_hand(Path(sql.name), damage)
    if damage.endswith("7.5 WHERE seq = 2"):
        assert len((await sql.load("r")).events) == 3  # text again, by the column's affinity
    else:
        with pytest.raises(JournalConflict, match="'r'"):
            await sql.load("r")
    assert "s" in [record.run_id for record in await sql.runs(RunQuery())]
    await sql.append("s", done(1), expect=0, epoch=0)
    if "flowkit_runs" in damage:
        for call in (sql.claim("r", "me", 1), sql.append("r", done(4), expect=3, epoch=0)):
            with pytest.raises(JournalConflict, match="damaged"):
                await call


@pytest.mark.parametrize("change", ["value = '{'", "value = '[1]'", "kind = 'exec'", "name = '{'"])
async def test_a_damaged_message_stops_its_own_run_only(sql: SqlStore, change: str) -> None:
    for name in ("r", "s"):
        await sql.create(run(name))
    await sql.post("r", Message("m", "signal", "go", Value.of("1")))
    by_hand(Path(sql.name), f"UPDATE flowkit_inbox SET {change}")
    with pytest.raises(JournalConflict, match="'m'"):
        await sql.append("r", done(1), expect=0, epoch=0)
    await sql.append("s", done(1), expect=0, epoch=0)
    by_hand(Path(sql.name), "DELETE FROM flowkit_inbox")
    await sql.append("r", done(1), expect=0, epoch=0)


async def test_a_damaged_artifact_is_told(sql: SqlStore) -> None:
    name = await sql.put(b"abc")
    by_hand(Path(sql.name), "UPDATE flowkit_artifacts SET data = x'00'")
    with pytest.raises(StoreUnusable, match="damaged"):
        await sql.get(name)


def test_sqlalchemy_is_loaded_only_when_it_is_needed() -> None:
    code = (
        "import sys, flowkit.store as s; s.MemoryStore; assert 'sqlalchemy' not in sys.modules; "
        "s.SqlStore; assert 'sqlalchemy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
