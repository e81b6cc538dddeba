"""Deleting runs, artifacts and free space, in every store."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from flowkit import events as e
from flowkit.errors import JournalConflict, RunNotFound, StoreUnusable
from flowkit.events import Event, Status
from flowkit.ports import Message, RunQuery
from flowkit.store import SqlStore, marks
from flowkit.store.upkeep import Collected, Retention, Upkeep, collect, gc
from flowkit.values import Value
from tests.contract.helpers import AnyStore, Clock, done, run
from tests.contract.test_bases import fork
from tests.contract.test_sqlite import ROOT, by_hand, failing_commit, mode

HOUR = 3600.0
DAY = 86_400.0


class KeptStore(AnyStore, Upkeep, Protocol):
    """A store that can be cleared up, as all of ours can."""


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.0)


async def end(
    store: AnyStore, run_id: str, at: float = 1.0, status: Status = "succeeded", value: str = '"x"'
) -> None:
    """A run that ended, with a message in its inbox and one that was consumed."""
    await store.create(run(run_id))
    for name in ("m1", "m2"):
        await store.post(run_id, Message(name, "signal", "go"))
    await finish(store, run_id, 0, at, status, value)


async def finish(
    store: AnyStore, run_id: str, head: int, at: float = 1.0, status: Status = "succeeded",
    value: str = '"x"',
) -> None:  # fmt: skip
    events = [
        Event(head + 1, at, e.StepDone("h", Value.of(value)), "a"),
        Event(head + 2, at, e.Signalled("go", message="m1")),
        Event(head + 3, at, e.RunEnded(status)),
    ]
    await store.append(run_id, events, expect=head, epoch=0)


async def ids(store: AnyStore) -> set[str]:
    return {record.run_id for record in await store.runs(RunQuery())}


# ---- runs


async def test_an_ended_run_is_deleted_with_all_that_is_its_own(store: KeptStore) -> None:
    for name in ("a", "b"):
        await end(store, name)
    assert await store.delete(["a", "no", "\ud800", "a\0"]) == ["a"]
    assert await ids(store) == {"b"}
    for call in (
        store.load("a"),
        store.claim("a", "me", 1),
        store.post("a", Message("m", "cancel")),
        store.append("a", done(4), expect=3, epoch=0),
    ):
        with pytest.raises(RunNotFound):
            await call
    assert len((await store.load("b")).events) == 3
    assert await store.delete(["a"]) == []


async def test_a_deleted_runs_id_may_be_used_anew(store: KeptStore) -> None:
    await end(store, "a")
    await store.delete(["a"])
    await store.create(run("a", workflow="other"))
    assert (await store.load("a")).record == run("a", workflow="other")
    assert not await store.append("a", done(1), expect=0, epoch=0)  # the inbox is a new one
    await store.post("a", Message("m1", "cancel"))
    assert [each.id for each in await store.append("a", done(2), expect=1, epoch=0)] == ["m1"]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "quarantined"])
async def test_every_end_is_one(store: KeptStore, status: Status) -> None:
    await end(store, "a", status=status)
    assert await store.delete(["a"]) == ["a"]


async def test_a_run_that_has_not_ended_is_left(store: KeptStore) -> None:
    await store.create(run("pending"))
    await store.create(run("running"))
    await store.append("running", [Event(1, 1.0, e.Claimed("me", 0))], expect=0, epoch=0)
    await store.create(run("waiting"))
    await store.append("waiting", [Event(1, 1.0, e.Waiting("s"))], expect=0, epoch=0)
    await end(store, "ended")
    assert await store.delete(["pending", "running", "waiting", "ended"]) == ["ended"]
    assert await ids(store) == {"pending", "running", "waiting"}


async def test_a_run_with_a_living_lease_is_left(store: KeptStore, clock: Clock) -> None:
    await end(store, "a", status="failed")
    epoch = await store.claim("a", "someone who retries it", 10)
    assert epoch is not None
    assert await store.delete(["a"]) == []
    clock.now += 11
    assert await store.delete(["a"]) == ["a"]


async def test_a_base_stays_as_long_as_a_fork(store: KeptStore) -> None:
    await end(store, "a")
    await store.create(fork("b", "a", 2))
    await store.create(fork("c", "a", 1))
    assert sorted(await store.forks()) == [("b", "a"), ("c", "a")]
    assert await store.delete(["a"]) == []
    await finish(store, "b", 2)
    assert await store.delete(["a", "b"]) == ["b"]  # in this order, a has a fork still
    await finish(store, "c", 1)
    assert list((await store.load("c")).events)[:1] == list((await store.load("a")).events)[:1]
    assert await store.delete(["c", "a"]) == ["c", "a"]
    assert not await store.forks()


@pytest.mark.long
async def test_more_runs_than_are_asked_for_at_once_are_deleted(store: KeptStore) -> None:
    names = [f"r{number}" for number in range(510)]

    async def short(name: str) -> None:
        await store.create(run(name))
        await store.append(name, [Event(1, 1.0, e.RunEnded("failed"))], expect=0, epoch=0)

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(short, name)
    await store.create(run("open"))
    assert await store.delete(names) == names
    assert await ids(store) == {"open"}


# ---- ages


async def test_ended_tells_whose_last_event_is_old_newest_first(store: KeptStore) -> None:
    for number, (name, at) in enumerate((("old", 10.0), ("new", 20.0), ("older", 5.0))):
        await store.create(replace(run(name), created_at=float(number)))
        await finish(store, name, 0, at)
    await end(store, "bad", 5.0, "failed")
    await store.create(run("open"))
    await store.append("open", done(1), expect=0, epoch=0)
    assert await store.ended({"succeeded": 10.0}) == ["older"]
    assert await store.ended({"succeeded": 11.0}) == ["older", "old"]
    assert await store.ended({"succeeded": 6.0, "failed": 6.0}) == ["older", "bad"]
    assert await store.ended({"pending": 99.0}) == ["open"]
    assert not await store.ended({})


async def test_a_fork_at_its_bases_end_is_as_old_as_itself(store: KeptStore) -> None:
    await end(store, "a", 5.0)
    await store.create(replace(fork("b", "a", 3), status="succeeded", created_at=50.0))
    assert await store.ended({"succeeded": 10.0}) == ["a"]
    assert await store.ended({"succeeded": 60.0}) == ["b", "a"]


# ---- artifacts


async def put_old(store: KeptStore, clock: Clock, data: bytes) -> str:
    """An artifact that was put more than an hour ago."""
    name = await store.put(data)
    clock.now += HOUR + 1
    return name


async def test_what_nothing_refers_to_is_swept(store: KeptStore, clock: Clock) -> None:
    gone = await put_old(store, clock, b"abc")
    kept = await put_old(store, clock, b"abcd")
    await end(store, "a", value=f'{{"sha256":"{kept}"}}')
    assert await store.sweep() == (1, 3)
    assert await store.get(kept) == b"abcd"
    with pytest.raises(StoreUnusable):
        await store.get(gone)
    assert await store.sweep() == (0, 0)
    assert await store.put(b"abc") == gone
    assert await store.get(gone) == b"abc"


async def test_a_reference_may_stand_anywhere(store: KeptStore, clock: Clock) -> None:
    names = [await put_old(store, clock, f"{number}".encode()) for number in range(8)]
    await store.create(run("r"))
    events = [
        Event(1, 1.0, e.StepDone("h", Value(None, names[0], 70_000)), "a"),  # a large value
        Event(2, 1.0, e.StepDone(names[1]), "a"),
        Event(3, 1.0, e.StepFailed(e.Error("E", f"see {names[2]}!")), "a"),
        Event(4, 1.0, e.StepDone("h", Value.of(f'["ab{names[3]}cd"]')), "a"),
    ]
    await store.append("r", events, expect=0, epoch=0)
    await store.post("r", Message("m1", "signal", "go", Value.of(f'"{names[4]}"')))
    await store.post("r", Message("m2", "signal", f"go {names[5]}"))
    await store.post("r", Message("m3", "signal", "go", Value(None, names[6], 70_000)))
    await store.append("r", [Event(5, 1.0, e.Signalled("go", message="m1"))], expect=4, epoch=0)
    assert await store.sweep() == (1, 1)
    for name in names[:7]:
        await store.get(name)


async def test_what_a_kept_artifact_refers_to_is_kept(store: KeptStore, clock: Clock) -> None:
    last = await put_old(store, clock, b"last")
    middle = await put_old(store, clock, f'{{"figure":"{last}"}}'.encode())
    first = await put_old(store, clock, f'["{middle}"]'.encode())
    away = await put_old(store, clock, b"away")
    await put_old(store, clock, f'["{away}"]'.encode())  # refers, but is not referred to
    young_one = await put_old(store, clock, b"of a young one")
    await store.put(f"a table, {young_one}".encode())
    await end(store, "r", value=f'"{first}"')
    count, size = await store.sweep()
    assert (count, size) == (2, len(b"away") + 68)
    for name in (first, middle, last, young_one):
        await store.get(name)
    await store.delete(["r"])
    assert (await store.sweep())[0] == 3


async def test_a_large_artifact_is_looked_through_to_its_end(
    store: KeptStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_STEP", 1000)
    names = [await put_old(store, clock, f"{number}".encode()) for number in range(40)]
    text = "".join(name + "." * (number * 7 % 90 + 30) for number, name in enumerate(names))
    holder = await put_old(store, clock, text.encode())
    await end(store, "r", value=f'"{holder}"')
    assert await store.sweep() == (0, 0)
    await end(store, "s", value=f'"{names[0]}"')
    await store.delete(["r"])
    assert (await store.sweep())[0] == 40


async def test_what_was_just_put_is_kept(store: KeptStore, clock: Clock) -> None:
    """A run puts its artifact a moment before it appends the event that refers to it."""
    name = await store.put(b"abc")
    for _ in range(2):
        clock.now += HOUR - 1
        assert await store.sweep() == (0, 0)
        assert await store.put(b"abc") == name  # again counts anew
    clock.now += HOUR + 1
    assert await store.sweep() == (1, 3)


async def test_what_a_driven_run_has_put_is_kept_however_long_its_step_takes(
    store: KeptStore, clock: Clock
) -> None:
    before = await put_old(store, clock, b"before")
    await store.create(run("r", created_at=clock.now))
    epoch = await store.claim("r", "me", 30) or 0
    name = await store.put(b"abc")
    for _ in range(5):
        clock.now += HOUR
        await store.renew("r", epoch, 30)
        await store.sweep()
    assert await store.get(name) == b"abc"
    with pytest.raises(StoreUnusable):
        await store.get(before)
    await store.release("r", epoch)
    assert await store.sweep() == (1, 3)


async def test_what_would_be_swept_without_some_runs_is_counted(
    store: KeptStore, clock: Clock
) -> None:
    names = [await put_old(store, clock, b"x" * size) for size in (1, 10, 100)]
    await end(store, "a", value=f'"{names[0]}"')
    await end(store, "b", value=f'"{names[1]}"')
    await store.post("b", Message("m", "signal", names[1]))
    assert await store.sweep(without=[]) == (1, 100)
    assert await store.sweep(without=["b", "no"]) == (2, 110)
    assert await store.sweep(without=["a", "b"]) == (3, 111)
    for name in names:
        await store.get(name)


# ---- retention


async def test_runs_go_when_their_time_is_over(store: KeptStore) -> None:
    now = 100 * DAY
    for name, days, status in (
        ("s9", 9, "succeeded"), ("s11", 11, "succeeded"), ("f11", 11, "failed"), ("f31", 31, "failed"),
        ("c99", 99, "cancelled"), ("q99", 99, "quarantined"),
    ):  # fmt: skip
        await end(store, name, now - days * DAY, status)  # type: ignore[arg-type]
    await store.create(run("open"))
    rules = Retention(succeeded_days=10, failed_days=30)
    would = await gc(store, rules, now, dry_run=True)
    assert await ids(store) == {"s9", "s11", "f11", "f31", "c99", "q99", "open"}
    assert would == Collected(("s11", "f31"), (), 0, 0)
    assert await gc(store, rules, now) == would
    assert await ids(store) == {"s9", "f11", "c99", "q99", "open"}
    assert await gc(store, Retention(), now) == Collected((), (), 0, 0)
    await gc(store, Retention(0, 0, 0), now)
    assert await ids(store) == {"q99", "open"}
    await gc(store, Retention(quarantined_days=1), now)
    assert await ids(store) == {"open"}


async def test_what_others_began_as_is_kept_and_told(store: KeptStore, clock: Clock) -> None:
    artifacts = [await put_old(store, clock, b"x" * size) for size in (1, 10, 100)]
    await end(store, "a", 5.0, value=f'"{artifacts[0]}"')
    await end(store, "b", 5.0, value=f'"{artifacts[1]}"')
    for name, base in (("a2", "a"), ("a3", "a2"), ("b2", "b"), ("b3", "b2")):
        await store.create(fork(name, base, 2))
        if name != "b3":
            await finish(store, name, 2, 5.0)
    rules = Retention(succeeded_days=1)
    would = await gc(store, rules, 10 * DAY, dry_run=True)
    found = await gc(store, rules, 10 * DAY)
    assert sorted(found.runs) == sorted(would.runs) == ["a", "a2", "a3"]
    assert found.kept == would.kept == ("b", "b2")
    assert (found.artifacts, found.bytes) == (would.artifacts, would.bytes) == (2, 101)
    assert await ids(store) == {"b", "b2", "b3"}
    assert len((await store.load("b3")).events) == 2


async def test_named_runs_are_collected_once(store: KeptStore) -> None:
    await end(store, "a")
    await store.create(run("open"))
    found = await collect(store, ["a", "a", "open", "no"])
    assert found == Collected(("a",), (), 0, 0)


@pytest.mark.parametrize("days", [-1, float("nan")])
def test_an_age_below_0_is_refused(days: float) -> None:
    with pytest.raises(ValueError, match="failed_days"):
        Retention(failed_days=days)


# ---- SQLite


async def test_a_damaged_run_is_left_and_others_go(sql: SqlStore) -> None:
    for name in ("a", "b"):
        await end(sql, name)
    by_hand(Path(sql.name), "UPDATE flowkit_runs SET epoch = 'x' WHERE run_id = 'a'")
    assert await sql.delete(["a", "b"]) == ["b"]
    with pytest.raises(JournalConflict, match="damaged"):
        await sql.load("a")


@pytest.mark.parametrize("lands", [True, False])
async def test_a_deletion_whose_commit_failed_is_settled_by_looking(
    sql: SqlStore, lands: bool
) -> None:
    await end(sql, "a")
    await sql.create(run("r"))
    with failing_commit(sql, lands=lands):
        await sql.append("r", done(1), expect=0, epoch=0)
        if lands:
            assert await sql.delete(["a"]) == ["a"]
        else:
            with pytest.raises(StoreUnusable, match="nothing was written"):
                await sql.delete(["a"])
    assert await ids(sql) == ({"r"} if lands else {"r", "a"})
    assert await sql.delete(["a"]) == ([] if lands else ["a"])


@pytest.mark.parametrize("lands", [True, False])
async def test_a_sweep_whose_commit_failed_is_settled_by_looking(
    sql: SqlStore, clock: Clock, lands: bool
) -> None:
    name = await put_old(sql, clock, b"abc")
    await sql.create(run("r"))
    with failing_commit(sql, lands=lands):
        await sql.append("r", done(1), expect=0, epoch=0)
        if lands:
            assert await sql.sweep() == (1, 3)
        else:
            with pytest.raises(StoreUnusable, match="nothing was written"):
                await sql.sweep()
            assert await sql.get(name) == b"abc"
    assert await sql.sweep() == ((0, 0) if lands else (1, 3))


async def test_another_process_is_told_by_the_file_what_was_deleted(tmp_path: Path) -> None:
    async with SqlStore(tmp_path / "a.db") as one, SqlStore(tmp_path / "a.db") as other:
        await one.create(run("open"))
        await end(one, "a")
        assert await other.delete(["a"]) == ["a"]
        with pytest.raises(RunNotFound):
            await one.append("a", done(4), expect=3, epoch=0)
        await other.create(run("b"))
        await one.create(run("c"))
        await one.append("c", done(1), expect=0, epoch=0)
        assert not (await other.load("b")).events
        await one.append("open", done(1), expect=0, epoch=0)


async def test_vacuum_gives_the_space_back_and_keeps_the_files_rights(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with SqlStore(path) as store:
        await store.create(run("open"))
        await end(store, "a", value='"' + "x" * 60_000 + '"')
        for number in range(40):
            await store.put(bytes([number]) * 60_000)
        by_hand(path, "UPDATE flowkit_artifacts SET put_at = 0")
        path.chmod(0o640)
        owner = path.stat().st_uid, path.stat().st_ino
        await store.delete(["a"])
        assert await store.sweep() == (40, 2_400_000)
        before, after = await store.vacuum()
        assert before > 2_400_000
        assert after == path.stat().st_size + (tmp_path / "a.db-wal").stat().st_size
        assert after < 250_000
        assert mode(path) == 0o640
        assert (path.stat().st_uid, path.stat().st_ino) == owner
        assert mode(tmp_path / "a.db-wal") & ~0o640 == 0
        await store.append("open", done(1), expect=0, epoch=0)
        assert by_hand(path, "PRAGMA integrity_check") == [("ok",)]
        assert by_hand(path, "PRAGMA page_size") == [(16_384,)]
    assert b"xxxxxxxx" not in path.read_bytes()


async def test_vacuum_leaves_the_log_to_who_drives_runs(tmp_path: Path) -> None:
    """Before 3.51.3 SQLite can corrupt a file that one writes and another checkpoints."""
    path = tmp_path / "a.db"
    async with SqlStore(path) as driver, SqlStore(path) as other:
        await driver.create(run("open"))
        await driver.claim("open", "the driver", 60)
        for number in range(40):
            await driver.put(bytes([number]) * 60_000)
        by_hand(path, "DELETE FROM flowkit_artifacts")
        await driver.append("open", done(1), expect=0, epoch=1 << 40)
        before, _ = await other.vacuum()
        assert path.stat().st_size > 2_000_000
        await driver.append("open", done(2), expect=1, epoch=1 << 40)
        for seq in range(3, 30):  # until the driver's own connection moves the log
            big = Event(seq, 1.0, e.StepDone("h", Value.of('"' + "y" * 40_000 + '"')), "a")
            await driver.append("open", [big], expect=seq - 1, epoch=1 << 40)
        _, after = await driver.vacuum()
        assert after < before


async def test_vacuum_lets_readers_and_writers_here_go_on(tmp_path: Path) -> None:
    async with SqlStore(tmp_path / "a.db") as store:
        await store.create(run("open"))
        for number in range(100):
            await store.put(bytes([number]) * 60_000)
        async with anyio.create_task_group() as group:
            group.start_soon(store.vacuum)
            for seq in range(1, 20):
                await store.append("open", done(seq), expect=seq - 1, epoch=0)
                assert (await store.load("open")).record.head == seq


async def test_a_vacuum_that_finds_the_file_locked_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowkit.store import sqlite
    from tests.contract.test_sqlite import locked

    monkeypatch.setattr(sqlite, "_LOCKED_S", 0.05)
    async with SqlStore(tmp_path / "a.db") as store:
        await store.create(run("r"))
        with locked(Path(store.name)), pytest.raises(StoreUnusable, match=r"vacuum.*locked"):
            await store.vacuum()
        await store.append("r", done(1), expect=0, epoch=0)
        await store.vacuum()
    with pytest.raises(StoreUnusable, match="closed"):
        await store.vacuum()


KILLED = """
import os, sys, anyio, sqlite3
from flowkit.store import SqlStore, sql, writer
from flowkit.store.upkeep import Retention, gc
from tests.contract.helpers import Clock
sql._DELETED_ROWS_MAX, sql._DISCARDED_BYTES_MAX = 20, 1000
path, left = sys.argv[1], int(sys.argv[2])
commit = writer.Writer._commit
def count(self, batch):
    global left
    left -= 1
    if left == 0 and sys.argv[3] == "before":
        self._write(batch)  # all but the COMMIT
        os._exit(9)
    commit(self, batch)
    if left == 0:
        os._exit(9)
writer.Writer._commit = count
async def main():
    async with SqlStore(path, now=Clock(10_000_000.0)) as store:
        await gc(store, Retention(succeeded_days=1), 10_000_000.0)
        await store.vacuum()
anyio.run(main)
"""


@pytest.mark.long
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_anywhere_leaves_the_database_sound_and_the_rest_to_do(
    tmp_path: Path, when: str
) -> None:
    anyio.run(kill_and_go_on, tmp_path, when)


async def kill_and_go_on(tmp_path: Path, when: str) -> None:
    path, clock = tmp_path / "a.db", Clock(1_000.0)
    async with SqlStore(path, now=clock, durability="process") as store:
        kept = await store.put(b"kept")
        for number in range(20):
            name = await store.put(f"{number}".encode() * 100)
            await end(store, f"r{number}", value=f'"{name}"')
        await store.create(run("open"))
        await store.append("open", [Event(1, 1.0, e.StepDone(kept), "a")], expect=0, epoch=0)
    left, killed = 1, True
    while killed:
        command = [sys.executable, "-c", KILLED, str(path), str(left), when]
        finished = await anyio.run_process(command, cwd=ROOT, check=False, stderr=None)
        killed = finished.returncode == 9
        assert killed or finished.returncode == 0
        assert by_hand(path, "PRAGMA integrity_check") == [("ok",)]
        assert not by_hand(path, "PRAGMA foreign_key_check")
        async with SqlStore(path, now=clock) as store:
            there = await ids(store)
            assert "open" in there
            for name in there - {"open"}:  # whole, or not there
                (ended, *_) = (await store.load(name)).events
                assert isinstance(ended.payload, e.StepDone)
                assert ended.payload.value is not None
                await store.get(str(ended.payload.value.text).strip('"'))
        # Each round goes on where the one before was killed, one commit later.
        left += 1 if when == "before" else 0
    assert left > 2 or when == "after"
    async with SqlStore(path, now=clock) as store:
        assert await ids(store) == {"open"}
        assert await store.get(kept) == b"kept"
    assert by_hand(path, "SELECT count(*) FROM flowkit_artifacts") == [(1,)]
    assert by_hand(path, "SELECT count(*) FROM flowkit_events") == [(1,)]


# ---- PostgreSQL


async def test_on_postgres_a_fork_and_the_deletion_of_its_base_exclude_each_other(
    server: Any, clock: Clock
) -> None:
    url = server.fresh()
    async with SqlStore(url, now=clock) as one, SqlStore(url, now=clock) as other:
        for number in range(20):
            base, child = f"a{number}", f"b{number}"
            await end(one, base)
            outcomes: dict[str, object] = {}

            async def begin(base: str, child: str, outcomes: dict[str, object]) -> None:
                try:
                    outcomes["made"] = await one.create(fork(child, base, 2)) is None
                except RunNotFound:
                    outcomes["made"] = False

            async def drop(base: str, outcomes: dict[str, object]) -> None:
                outcomes["gone"] = await other.delete([base]) == [base]

            async with anyio.create_task_group() as group:
                group.start_soon(begin, base, child, outcomes)
                group.start_soon(drop, base, outcomes)
            assert outcomes["made"] != outcomes["gone"]
            if outcomes["made"]:
                assert len((await one.load(child)).events) == 2


async def test_on_postgres_an_artifact_that_is_put_again_meanwhile_is_kept(
    server: Any, clock: Clock
) -> None:
    url = server.fresh()
    async with SqlStore(url, now=clock) as one, SqlStore(url, now=clock) as other:
        for number in range(20):
            data = f"{number}".encode()
            name = await put_old(one, clock, data)
            async with anyio.create_task_group() as group:
                group.start_soon(one.put, data)
                group.start_soon(other.sweep)
            assert await one.get(name) == data


async def test_on_postgres_vacuum_runs_outside_of_a_transaction(server: Any) -> None:
    url = server.fresh()
    async with SqlStore(url) as store:
        await store.create(run("open"))
        for _ in range(40):
            await store.put(os.urandom(60_000))
        server.execute("DELETE FROM flowkit_artifacts", url=url)
        before, after = await store.vacuum()
        assert before > 2_000_000
        assert after < before / 2  # what is at the end of a table is given back
        await store.append("open", done(1), expect=0, epoch=0)
