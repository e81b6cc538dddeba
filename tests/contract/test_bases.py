"""Runs that begin with another run's journal, in every store; and databases of schema 1 that get them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert

from flowkit import events as e
from flowkit.errors import JournalConflict, RunConflict, RunNotFound, StoreUnusable, ValueRefused
from flowkit.events import Event
from flowkit.ports import Message, RunQuery, RunRecord
from flowkit.store import SqlStore, schema
from flowkit.values import Value
from tests.contract.helpers import GENERATION, AnyStore, Clock, done, run
from tests.contract.test_sqlite import by_hand, failing_commit


def fork(run_id: str, base: str, base_seq: int) -> RunRecord:
    return replace(run(run_id), base=base, base_seq=base_seq)


def marked(first: int, count: int, mark: str) -> list[Event]:
    """Events that tell which run they were written to."""
    return [
        replace(each, payload=e.StepDone("h", Value.of(f'"{mark}"'))) for each in done(first, count)
    ]


async def chain(store: AnyStore) -> Sequence[Event]:
    """Four runs: a has 5 events, b 3 of them and 3 of its own, c all 6 and 2, d all 8 and 1."""
    whole: list[Event] = []
    for name, base, base_seq, own in (("a", "", 0, 5), ("b", "a", 3, 3), ("c", "b", 6, 2), ("d", "c", 8, 1)):  # fmt: skip
        await store.create(fork(name, base, base_seq) if base else run(name))
        events = marked(base_seq + 1, own, name)
        await store.append(name, events, expect=base_seq, epoch=0)
        whole = [*whole[:base_seq], *events]
    return whole


async def test_a_new_fork_has_the_head_of_its_beginning(store: AnyStore) -> None:
    await store.create(run("a"))
    await store.append("a", done(1, 5), expect=0, epoch=0)
    await store.create(fork("b", "a", 3))
    journal = await store.load("b")
    assert journal.record == replace(fork("b", "a", 3), head=3)
    assert list(journal.events) == done(1, 3)
    assert [each.head for each in await store.runs(RunQuery(run_id="b"))] == [3]


async def test_a_chain_of_bases_loads_after_every_place(store: AnyStore) -> None:
    whole = await chain(store)
    assert [each.payload.value.text for each in whole if isinstance(each.payload, e.StepDone) and each.payload.value] == [
        '"a"', '"a"', '"a"', '"b"', '"b"', '"b"', '"c"', '"c"', '"d"',
    ]  # fmt: skip
    for after in range(-1, 12):
        journal = await store.load("d", after=after)
        assert list(journal.events) == whole[max(after, 0) :]
        assert journal.record.head == 9
    assert list((await store.load("a")).events) == marked(1, 5, "a")


@pytest.mark.parametrize("base_seq", [1, 2, 3, 4, 7])
async def test_a_fork_may_begin_inside_what_its_base_began_with(
    store: AnyStore, base_seq: int
) -> None:
    whole = await chain(store)
    await store.create(fork("x", "d", base_seq))
    await store.append("x", marked(base_seq + 1, 2, "x"), expect=base_seq, epoch=0)
    wanted = [*whole[:base_seq], *marked(base_seq + 1, 2, "x")]
    for after in range(base_seq + 3):
        assert list((await store.load("x", after=after)).events) == wanted[after:]


async def test_what_is_appended_to_a_base_later_is_not_the_forks(store: AnyStore) -> None:
    await store.create(run("a"))
    await store.append("a", done(1, 2), expect=0, epoch=0)
    await store.create(fork("b", "a", 2))
    await store.append("a", marked(3, 2, "a"), expect=2, epoch=0)
    await store.append("b", marked(3, 1, "b"), expect=2, epoch=0)
    assert list((await store.load("b")).events) == [*done(1, 2), *marked(3, 1, "b")]
    assert (await store.load("a")).record.head == 4


@pytest.mark.parametrize("base_seq", [6, 100, 0, -1])
async def test_a_beginning_that_is_not_there_is_refused(store: AnyStore, base_seq: int) -> None:
    await store.create(run("a"))
    await store.append("a", done(1, 5), expect=0, epoch=0)
    with pytest.raises(JournalConflict, match=f"{base_seq} events of run 'a'.*has 5.*nothing was"):
        await store.create(fork("b", "a", base_seq))
    assert [each.run_id for each in await store.runs(RunQuery())] == ["a"]
    await store.create(fork("b", "a", 5))


async def test_a_base_that_does_not_exist_is_refused(store: AnyStore) -> None:
    await store.create(run("a"))
    for base in ("no", "A", "", "b"):
        with pytest.raises(RunNotFound, match=repr(base)):
            await store.create(fork("b", base, 1))
    with pytest.raises(ValueRefused):
        await store.create(fork("b", "\ud800", 1))
    with pytest.raises(ValueRefused, match="base_seq=3 needs a base"):
        await store.create(replace(run("b"), base_seq=3))
    assert [each.run_id for each in await store.runs(RunQuery())] == ["a"]


async def test_an_id_that_exists_is_refused_whatever_the_base(store: AnyStore) -> None:
    await store.create(run("a"))
    await store.append("a", done(1), expect=0, epoch=0)
    for base in ("a", "no"):
        with pytest.raises(RunConflict):
            await store.create(fork("a", base, 1))
    assert (await store.load("a")).record.base is None


async def test_a_fork_is_driven_as_any_run(store: AnyStore, clock: Clock) -> None:
    await store.create(run("a"))
    ended = Event(3, 1.0, e.RunEnded("failed"))
    await store.append("a", [*done(1, 2), ended], expect=0, epoch=0)
    await store.create(fork("b", "a", 2))
    for expect in (0, 1, 3):
        with pytest.raises(JournalConflict):
            await store.append("b", done(expect + 1), expect=expect, epoch=0)
    assert await store.claim("b", "me", 10) == GENERATION
    await store.post("b", Message("m", "signal", "go"))
    (message,) = await store.append("b", done(3), expect=2, epoch=GENERATION)
    signalled = Event(4, 1.0, e.Signalled("go", message=message.id))
    assert not await store.append("b", [signalled], expect=3, epoch=GENERATION)
    assert not await store.renew("b", GENERATION, 10)
    waits = Event(5, 1.0, e.Waiting("sleep", until=50.0))
    await store.append("b", [waits], expect=4, epoch=GENERATION)
    await store.release("b", GENERATION)
    assert [each.run_id for each in await store.runs(RunQuery(due_at=60.0))] == ["b"]
    (record,) = await store.runs(RunQuery(status=frozenset({"waiting"})))
    assert (record.head, record.base, record.base_seq) == (5, "a", 2)
    assert (await store.load("a")).record.status == "failed"


# ---- databases


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM flowkit_events WHERE seq = 2", "event 2 is missing"),
        ("DELETE FROM flowkit_events WHERE seq = 3", "event 3 is missing"),
        ("DELETE FROM flowkit_events WHERE run = 1", "event 1 is missing"),
        ("UPDATE flowkit_runs SET status = '?' WHERE run_id = 'a'", "row of run 'a' is damaged"),
        ("UPDATE flowkit_runs SET base = 'no' WHERE run_id = 'b'", "event 1 is missing"),
        ("UPDATE flowkit_runs SET base = 'b', base_seq = 3", "is missing"),
        ("UPDATE flowkit_runs SET base_seq = 9 WHERE run_id = 'b'", "damaged"),
    ],
)
@pytest.mark.parametrize("own", [0, 1])
async def test_a_damaged_base_is_told(sql: SqlStore, statement: str, says: str, own: int) -> None:
    await sql.create(run("a"))
    await sql.append("a", done(1, 3), expect=0, epoch=0)
    await sql.create(fork("b", "a", 3))
    await sql.append("b", done(4, own), expect=3, epoch=0)
    by_hand(Path(sql.name), statement)
    with pytest.raises(JournalConflict, match=says):
        await sql.load("b")


@pytest.mark.parametrize("lands", [True, False])
async def test_a_fork_whose_commit_failed_is_settled_by_looking(sql: SqlStore, lands: bool) -> None:
    await sql.create(run("a"))
    await sql.append("a", done(1, 3), expect=0, epoch=0)
    with failing_commit(sql, lands=lands):
        await sql.append("a", done(4), expect=3, epoch=0)
        if lands:
            await sql.create(fork("b", "a", 2))
        else:
            with pytest.raises(StoreUnusable, match="nothing was written"):
                await sql.create(fork("b", "a", 2))
    assert bool(await sql.runs(RunQuery(run_id="b"))) == lands


async def test_after_a_failed_commit_another_fork_is_not_taken_for_this_one(
    sql: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql.create(run("a"))
    await sql.append("a", done(1, 3), expect=0, epoch=0)
    assert sql._writer is not None
    reopen = sql._writer._reopen

    def other() -> Any:
        session = reopen()
        by_hand(
            Path(sql.name),
            "INSERT INTO flowkit_runs (id, run_id, workflow, input_hash, created_at, status, epoch, base,"
            " base_seq) VALUES (9, 'b', 'wf', 'hash', 1.0, 'pending', 0, 'a', 1)",
        )
        return session

    monkeypatch.setattr(sql._writer, "_reopen", other)
    with failing_commit(sql, lands=False):
        await sql.append("a", done(4), expect=3, epoch=0)
        with pytest.raises(StoreUnusable, match="nothing was written"):
            await sql.create(fork("b", "a", 2))


def make_schema_1(url: str) -> None:
    """A database as it was made before, with rows that the code of then wrote."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        def connected(dbapi: sqlite3.Connection, record: object) -> None:
            dbapi.isolation_level = None

        event.listen(engine, "connect", connected)
    with engine.connect() as connection:
        schema.migrate(connection, url, schema.MIGRATIONS[:1])
        with connection.begin():
            columns = "id, run_id, workflow, input_hash, created_at, status, epoch"
            connection.exec_driver_sql(
                f"INSERT INTO flowkit_runs ({columns}) VALUES (1, 'a', 'wf', 'hash', 1.0, 'running', 5)"
            )
            connection.exec_driver_sql(
                "INSERT INTO flowkit_events (run, seq, at, kind, key, alternative, attempt, data, value) "
                "VALUES (1, 1, 13.5, 'step_done', 'a', 0, 1, '{\"input_hash\":\"h\"}', '\"x\"')"
            )
            name = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            artifacts = schema._artifacts(schema.MetaData(), 1)
            connection.execute(insert(artifacts), {"sha256": name, "size": 3, "data": b"abc"})
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_database_of_schema_1_gets_bases_and_keeps_what_it_has(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target = f"sqlite:///{tmp_path / 'old.db'}"
    if kind == "postgres":
        target = request.getfixturevalue("server").fresh()
    make_schema_1(target.replace("postgresql:", "postgresql+psycopg:"))
    for _ in range(2):
        async with SqlStore(target) as store:
            journal = await store.load("a")
            assert list(journal.events) == done(1)
            assert journal.record == RunRecord("a", "wf", "hash", 1.0, "running", epoch=5, head=1)
            name = await store.put(b"abc")
            assert await store.get(name) == b"abc"
            assert await store.sweep() == (0, 0)  # what was there counts as put now
    async with SqlStore(target) as store:
        await store.create(fork("b", "a", 1))
        await store.append("b", done(2), expect=1, epoch=0)
        assert list((await store.load("b")).events) == done(1, 2)


async def test_a_migrated_database_has_the_tables_of_a_fresh_one(tmp_path: Path) -> None:
    make_schema_1(f"sqlite:///{tmp_path / 'old.db'}")
    tables: list[object] = []
    for name in ("old.db", "new.db"):
        async with SqlStore(tmp_path / name):
            pass
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            kinds = connection.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
            columns = [
                connection.execute(f"PRAGMA table_info({table})").fetchall() for (table,) in kinds
            ]
            tables.append((kinds, [[each[:4] for each in table] for table in columns]))
            assert connection.execute("SELECT version FROM flowkit_schema").fetchall() == [
                (1,),
                (2,),
            ]
    assert tables[0] == tables[1]
