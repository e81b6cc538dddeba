"""What is PostgreSQL's own: several processes in one database, locks, restarts, and its errors."""

from __future__ import annotations

import builtins
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psycopg
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
from flowkit.ports import Message, RunQuery
from flowkit.store import SqlStore, postgres
from flowkit.store.operations import Put
from flowkit.values import Value
from tests.contract.helpers import GENERATION, Clock, done, event, run
from tests.fault.w12 import RESULT, Report
from tests.postgres import Server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(server: Server) -> str:
    return server.fresh()


@pytest.fixture
async def sql(url: str, clock: Clock) -> AsyncIterator[SqlStore]:
    async with SqlStore(url, now=clock) as store:
        yield store


@pytest.fixture
def children() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs that know a store; those that are left are killed."""
    started: list[subprocess.Popen[str]] = []
    program = (
        "import anyio, os, signal, sys, time\nfrom flowkit.errors import *\n"
        "from flowkit.ports import *\nfrom flowkit.store import SqlStore, postgres\n"
        "from tests.contract.helpers import done\n"
    )

    def child(code: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program + code + "\nanyio.run(main)", *arguments],
            stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        started.append(process)
        return process

    yield child
    for process in started:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], line: str = "go") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


@contextmanager
def locked(url: str, run_id: str = "r") -> Generator[Callable[[], object]]:
    """Hold the lock of a run; the function given lets it go."""
    with closing(psycopg.connect(url)) as connection:
        connection.execute("SELECT FROM flowkit_runs WHERE run_id = %s FOR UPDATE", [run_id])
        yield connection.rollback


def raw(store: SqlStore) -> psycopg.Connection[Any]:
    assert store._writer is not None
    assert store._writer._session is not None
    return postgres._raw(store._writer._session.connection)


# ---- the target


async def test_urls(server: Server, url: str) -> None:
    async with SqlStore(url.replace("postgresql:", "postgresql+psycopg:")) as store:
        await store.create(run())
        assert store.name == f"postgresql://flowkit@127.0.0.1:{server.port}/postgres"
    name = url.rpartition("%3D")[2]
    socket = (
        f"postgresql://flowkit@/postgres?host={server.home}&port={server.port}"
        f"&options=-csearch_path%3D{name}"
    )
    async with SqlStore(socket) as store:
        assert [record.run_id for record in await store.runs(RunQuery())] == ["r"]


async def test_a_password_is_never_told(server: Server) -> None:
    store = SqlStore(f"postgresql://me:secret@127.0.0.1:{server.port}/nowhere?sslpassword=secret")
    with pytest.raises(StoreUnusable, match="cannot open the database") as caught:
        await store.open()
    text = str(caught.value)
    assert "secret" not in text + repr(caught.value.__cause__)
    assert "\n" not in text
    assert "postgresql://me@127.0.0.1" in text
    with pytest.raises(StoreUnusable, match="cannot be read") as refused:
        SqlStore("postgresql://me:secret@host:port/db")
    assert "secret" not in str(refused.value) + repr(refused.value.__cause__)


async def test_a_server_that_is_not_there_is_told_in_one_line(server: Server) -> None:
    store = SqlStore("postgresql://me@127.0.0.1:1/db")
    with pytest.raises(StoreUnusable, match="See that the server runs, and host, port") as caught:
        await store.open()
    assert "\n" not in str(caught.value)
    await store.close()


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "psycopg":
            raise ModuleNotFoundError("No module named 'psycopg'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "flowkit.store.postgres", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StoreUnusable, match=r'pip install "flowkit-agents\[postgres\]"'):
        SqlStore("postgresql://me@host/db")


def test_psycopg_is_loaded_only_when_it_is_needed() -> None:
    code = (
        "import sys; from flowkit.store import SqlStore; SqlStore('a.db'); "
        "assert 'psycopg' not in sys.modules; SqlStore('postgresql://me@host/db'); "
        "assert 'psycopg' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


async def test_a_database_of_another_encoding_is_refused(server: Server) -> None:
    server.execute(
        "DROP DATABASE IF EXISTS latin",
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0",
    )
    with pytest.raises(StoreUnusable, match="encoding is LATIN1"):
        await SqlStore(server.url("latin")).open()


@pytest.mark.parametrize(("durability", "level"), [("power", "on"), ("process", "off")])
async def test_the_settings_are_really_made(url: str, durability: Any, level: str) -> None:
    seen: list[dict[str, str]] = []
    asked = "synchronous_commit", "lock_timeout", "idle_in_transaction_session_timeout"
    with_defaults = url + "%20-cdefault_transaction_isolation%3Dserializable"
    async with SqlStore(with_defaults, durability=durability) as store:

        def look(connection: Connection) -> None:
            shown = {
                name: connection.exec_driver_sql(f"SHOW {name}").scalar_one()
                for name in (*asked, "transaction_isolation")
            }
            seen.append(shown)

        listen_to.listen(store._place.engine, "commit", look)
        await store.create(run())
    values = (level, "10s", "5s", "read committed")
    assert seen == [dict(zip((*asked, "transaction_isolation"), values, strict=True))]


async def test_a_newer_schema_is_refused_and_left_alone(server: Server, url: str) -> None:
    async with SqlStore(url) as store:
        await store.create(run())
    server.execute("INSERT INTO flowkit_schema VALUES (99)", url=url)
    with pytest.raises(SchemaTooNew, match=r"newer flowkit \(schema 99"):
        await SqlStore(url).open()


async def test_readers_cannot_write(sql: SqlStore) -> None:
    with pytest.raises(psycopg.Error, match="read-only"):
        sql._place.read(lambda ask: list(ask("DELETE FROM flowkit_runs", ())))


# ---- several processes


@pytest.mark.long
def test_eight_processes_make_the_tables_at_once(
    server: Server, children: Callable[..., subprocess.Popen[str]]
) -> None:
    code = """
async def main():
    print("ready", flush=True)
    for url in sys.argv[2:]:
        sys.stdin.readline()
        async with SqlStore(url) as store:
            await store.create(RunRecord(sys.argv[1], "wf", "h", 1.0))
            print(len((await store.load(sys.argv[1])).events), flush=True)
"""
    urls = [server.fresh() for _ in range(3)]
    started = [children(code, f"run-{number}", *urls) for number in range(8)]
    assert [says(process) for process in started] == ["ready"] * 8
    for url in urls:
        for process in started:
            tell(process)
        assert [says(process) for process in started] == ["0"] * 8
        assert server.execute("SELECT version FROM flowkit_schema", url=url) == [(1,), (2,)]
        assert server.execute("SELECT count(*) FROM flowkit_runs", url=url) == [(8,)]


@pytest.mark.long
def test_of_eight_processes_that_create_a_run_one_does(
    server: Server, url: str, children: Callable[..., subprocess.Popen[str]]
) -> None:
    code = """
async def main():
    async with SqlStore(sys.argv[1]) as store:
        print("ready", flush=True)
        for number in range(10):
            sys.stdin.readline()
            told = []
            async def create(run_id):
                try:
                    await store.create(RunRecord(run_id, sys.argv[2], "h", 1.0))
                    told.append(1)
                except RunConflict:
                    told.append(0)
            async with anyio.create_task_group() as group:
                for name in ("a", "b", f"own-{sys.argv[2]}"):
                    group.start_soon(create, f"{name}-{number}")
            print(sum(told), flush=True)
"""
    started = [children(code, url, str(number)) for number in range(8)]
    assert [says(process) for process in started] == ["ready"] * 8
    for _ in range(10):
        for process in started:
            tell(process)
        assert sum(int(says(process)) for process in started) == 10  # its own each, and a and b
    assert server.execute("SELECT count(*) FROM flowkit_runs", url=url) == [(100,)]


@pytest.mark.long
def test_processes_that_append_to_the_same_runs_lose_nothing(
    server: Server, url: str, children: Callable[..., subprocess.Popen[str]]
) -> None:
    code = """
async def main():
    async with SqlStore(sys.argv[1]) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        written = 0
        async def drive(name):
            nonlocal written
            while (head := (await store.load(name)).record.head) < 40:
                try:
                    await store.append(name, done(head + 1), expect=head, epoch=0)
                    written += 1
                except JournalConflict:
                    pass
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(drive, f"r{number}")
        print(written, flush=True)
"""

    async def make() -> None:
        async with SqlStore(url) as store:
            for number in range(10):
                await store.create(run(f"r{number}"))

    anyio.run(make)
    started = [children(code, url) for _ in range(3)]
    assert [says(process) for process in started] == ["ready"] * 3
    for process in started:
        tell(process)
    assert sum(int(says(process)) for process in started) == 400
    rows = server.execute(
        "SELECT count(*), count(DISTINCT (run, seq)) FROM flowkit_events", url=url
    )
    assert rows == [(400, 400)]


OWNER = """
async def main():
    async with SqlStore(sys.argv[1]) as store:
        epoch = await store.claim("r", "child", 10)
        head = 0
        print(epoch, flush=True)
        while sys.stdin.readline():
            try:
                await store.append("r", done(head + 1), expect=head, epoch=epoch)
                head += 1
                print(head, flush=True)
            except FlowkitError as error:
                print(type(error).__name__, error, flush=True)
"""


async def test_a_process_with_a_stale_epoch_is_refused(
    sql: SqlStore, url: str, children: Callable[..., subprocess.Popen[str]]
) -> None:
    await sql.create(run())
    first = children(OWNER, url)
    assert says(first) == str(GENERATION)
    second = children(OWNER, url)  # under the same name, so that it may claim too
    assert says(second) == str(2 * GENERATION)
    for process, answer in ((first, "LeaseLost"), (second, "1"), (first, "LeaseLost")):
        tell(process)
        assert says(process).split()[0] == answer
    assert len((await sql.load("r")).events) == 1


async def test_a_process_that_was_stopped_and_woken_is_refused(
    sql: SqlStore, url: str, children: Callable[..., subprocess.Popen[str]]
) -> None:
    await sql.create(run())
    zombie = children(OWNER, url)
    epoch = int(says(zombie))
    tell(zombie)
    assert says(zombie) == "1"
    os.kill(zombie.pid, signal.SIGSTOP)
    tell(zombie)
    taken = await sql.claim("r", "me", 10, token=epoch + 1)
    await sql.append("r", done(2), expect=1, epoch=epoch + 1)
    os.kill(zombie.pid, signal.SIGCONT)
    assert says(zombie).startswith("LeaseLost")
    tell(zombie)
    assert says(zombie).startswith("LeaseLost")
    await sql.append("r", done(3), expect=2, epoch=taken or 0)
    assert list((await sql.load("r")).events) == done(1, 3)


STOPPED = """
import threading
from sqlalchemy import event
async def main():
    postgres._IDLE_S = 0.2
    async with SqlStore(sys.argv[1]) as store:
        epoch = await store.claim("r", "child", 10)

        def stop(*args):
            print(epoch, flush=True)
            # This thread, and with it all others: os.kill would let it run on for a moment.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

        if sys.argv[2] == "commit":
            event.listen(store._place.engine, "commit", stop, once=True)
        else:
            write = postgres.PostgresSession.write
            def first(*args):
                postgres.PostgresSession.write = write
                stop()
                write(*args)
            postgres.PostgresSession.write = first
        for seq in (1, 2):
            try:
                await store.append("r", done(seq), expect=seq - 1, epoch=epoch)
                print("appended", flush=True)
            except FlowkitError as error:
                print(type(error).__name__, error, flush=True)
"""


@pytest.mark.parametrize(
    ("moment", "told"),
    [("commit", "StoreUnusable .*commit; nothing was written"), ("write", "LeaseLost")],
)
async def test_a_process_stopped_in_a_transaction_neither_blocks_others_nor_commits(
    sql: SqlStore, url: str, children: Callable[..., subprocess.Popen[str]], moment: str, told: str
) -> None:
    await sql.create(run())
    zombie = children(STOPPED, url, moment)
    epoch = int(says(zombie))
    # It holds the run's lock, until the server ends its transaction.
    await sql.claim("r", "me", 10, token=epoch + 1)
    other = [event(1, key="other")]  # the zombie would take its own events for written
    await sql.append("r", other, expect=0, epoch=epoch + 1)
    os.kill(zombie.pid, signal.SIGCONT)
    assert re.match(told, says(zombie))
    assert says(zombie).startswith("LeaseLost")
    assert list((await sql.load("r")).events) == other


async def test_what_another_process_writes_is_seen(url: str) -> None:
    async with SqlStore(url) as first, SqlStore(url) as second:
        await first.create(run())
        mine = await first.claim("r", "a", 1000) or 0
        await first.append("r", done(1), expect=0, epoch=mine)
        assert await second.claim("r", "b", 1000) is None
        theirs = await second.claim("r", "b", 1000, token=mine + 1) or 0
        with pytest.raises(LeaseLost):
            await first.append("r", done(2), expect=1, epoch=mine)
        assert await first.renew("r", mine, 10) is None
        await first.post("r", Message("m", "cancel"))
        seen = await second.append("r", done(2), expect=1, epoch=theirs)
        assert [message.id for message in seen] == ["m"]
        await second.create(run("s"))
        with pytest.raises(RunConflict):
            await first.create(run("s"))


# ---- one writer


async def together(store: SqlStore, url: str, *calls: Callable[[], Any]) -> list[object]:
    """Make calls that are committed in one transaction; their results or errors, in order."""
    writer = store._writer
    assert writer is not None
    found: dict[int, object] = {}
    go = threading.Event()

    def wait(connection: Connection) -> None:
        go.wait(5)

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

    listen_to.listen(store._place.engine, "commit", wait, once=True, insert=True)
    async with anyio.create_task_group() as group:
        # The writer waits before its COMMIT with one item, and meanwhile all others gather.
        group.start_soon(one, -1, lambda: writer.submit(Put("alone", b"")))
        await anyio.wait_all_tasks_blocked()
        await until(lambda: writer._gathering is None)
        for place, call in enumerate(calls):
            group.start_soon(one, place, call)
            await until(partial(gathered, place + 1))
        go.set()
    return [found[place] for place in range(len(calls))]


async def test_a_refused_item_does_not_fail_its_neighbours(sql: SqlStore, url: str) -> None:
    for name in "abcd":
        await sql.create(run(name))
    too_large = e.Event(1, 1.0, e.StepDone("h"), "k", 0, 2**70)
    found = await together(
        sql,
        url,
        lambda: sql.append("a", done(1), expect=0, epoch=0),
        lambda: sql.append("b", [too_large], expect=0, epoch=0),  # refused by the database
        lambda: sql.append("c", [event(1)], expect=0, epoch=7),
        lambda: sql.append("d", done(2), expect=1, epoch=0),
        lambda: sql.append("x", done(1), expect=0, epoch=0),
        lambda: sql.create(run("a")),
        lambda: sql.create(run("e")),
        lambda: sql.append("a", done(2), expect=1, epoch=0),
        lambda: sql.claim("c", "me", 10),
        lambda: sql.post("d", Message("m" * 9000, "cancel")),  # does not fit into an index
        lambda: sql.post("d", Message("m", "cancel")),
    )
    assert [type(outcome).__name__ for outcome in found] == [
        "tuple", "ValueRefused", "LeaseLost", "JournalConflict", "RunNotFound", "RunConflict",
        "NoneType", "tuple", "int", "NoneType", "NoneType",
    ]  # fmt: skip
    assert len((await sql.load("a")).events) == 2
    assert (await sql.load("c")).record.epoch == GENERATION
    await sql.append("b", done(1), expect=0, epoch=0)


async def test_a_run_made_and_used_in_one_transaction(sql: SqlStore, url: str) -> None:
    found = await together(
        sql,
        url,
        lambda: sql.create(run()),
        lambda: sql.post("r", Message("m", "signal", "go")),
        lambda: sql.append("r", [event(1, e.Signalled("go", message="m"))], expect=0, epoch=0),
        lambda: sql.post("r", Message("m", "signal", "go")),
        lambda: sql.append("r", done(2), expect=1, epoch=0),
        lambda: sql.claim("r", "me", 10),
        lambda: sql.release("r", GENERATION),
    )
    assert found == [None, None, (), None, (), GENERATION, None]


async def test_a_thousand_runs_at_once(sql: SqlStore) -> None:
    commits: list[Connection] = []
    listen_to.listen(sql._place.engine, "commit", commits.append)

    async def drive(name: str) -> None:
        await sql.create(run(name))
        epoch = await sql.claim(name, "me", 10) or 0
        await sql.append(name, done(1, 3), expect=0, epoch=epoch)

    async with anyio.create_task_group() as group:
        for number in range(1000):
            group.start_soon(drive, f"r{number}")
    assert len(commits) < 60
    records = await sql.runs(RunQuery(limit=2000))
    assert [record.head for record in records] == [3] * 1000


async def test_a_row_that_the_database_has_already_is_a_conflict(sql: SqlStore, url: str) -> None:
    await sql.create(run())
    await sql.append("r", done(1), expect=0, epoch=0)
    session = sql._writer._session if sql._writer else None
    assert isinstance(session, postgres.PostgresSession)
    look = session.look

    def forgets(*args: Any) -> Any:  # a wrong reading of the head: the index is the second line
        seen = look(*args)
        return seen._replace(runs=[(*row[:-1], 0) for row in seen.runs])

    session.look = forgets  # type: ignore[method-assign]
    with pytest.raises(JournalConflict, match="duplicate key") as caught:
        await sql.append("r", done(1), expect=0, epoch=0)
    assert "\n" not in str(caught.value)
    del session.look
    await sql.append("r", done(2), expect=1, epoch=0)


# ---- failures


@contextmanager
def failing_commit(store: SqlStore, *, lands: bool) -> Generator[None]:
    """The second COMMIT from now on fails: after it was done, or instead."""
    seen: list[Connection] = []

    def fail(connection: Connection) -> None:
        seen.append(connection)
        if len(seen) == 2:
            if lands:
                postgres._raw(connection).commit()
            raise psycopg.OperationalError("the connection was cut")

    listen_to.listen(store._place.engine, "commit", fail)
    try:
        yield
    finally:
        listen_to.remove(store._place.engine, "commit", fail)


@pytest.mark.parametrize("lands", [True, False])
async def test_a_failed_commit_is_settled_by_looking(sql: SqlStore, url: str, lands: bool) -> None:
    for name in "abcde":
        await sql.create(run(name))
    held = await sql.claim("d", "me", 10) or 0
    await sql.claim("e", "me", 10)
    await sql.append("a", done(1), expect=0, epoch=0)
    with failing_commit(sql, lands=lands):
        found = await together(
            sql,
            url,
            lambda: sql.append("a", done(2), expect=1, epoch=0),
            lambda: sql.create(run("new")),
            lambda: sql.claim("b", "me", 10),
            lambda: sql.post("c", Message("m", "cancel")),
            lambda: sql.renew("d", held, 500),
            lambda: sql.release("e", held),
            lambda: sql.append("d", done(1), expect=0, epoch=held + 1),
        )
    if lands:
        assert found[:-1] == [(), None, GENERATION, None, (), None]
        assert isinstance(found[-1], LeaseLost)
    else:
        assert {type(outcome) for outcome in found} == {StoreUnusable}
        assert all("nothing was written" in str(outcome) for outcome in found)
    assert (await sql.load("a")).record.head == (2 if lands else 1)
    assert bool(await sql.runs(RunQuery(run_id="new"))) == lands


async def test_after_a_failed_commit_the_former_transaction_is_waited_for(
    sql: SqlStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    formers: list[psycopg.Connection[Any]] = []

    def cut(connection: Connection) -> None:
        """We hear no more of the connection; the server is still at its COMMIT."""
        if not formers:
            formers.append(postgres._raw(connection))
            monkeypatch.setattr(formers[0], "close", lambda: None)
            raise psycopg.OperationalError("the connection was cut")

    answers: list[object] = []

    async def create() -> None:
        try:
            answers.append(await sql.create(run("new")))
        except StoreUnusable as error:
            answers.append(error)

    listen_to.listen(sql._place.engine, "commit", cut)
    async with anyio.create_task_group() as group:
        group.start_soon(create)
        with closing(psycopg.connect(url)) as other:
            while not (answers or waits(other)):  # noqa: ASYNC110 (the server sends no event)
                await anyio.sleep(0.005)
        formers[0].commit()
    monkeypatch.undo()
    formers[0].close()
    assert answers == [None]  # seen, although it was committed last


async def test_a_claim_that_is_under_way_is_waited_for(sql: SqlStore, url: str) -> None:
    await sql.create(run())
    answers: list[object] = []

    async def append() -> None:
        try:
            answers.append(await sql.append("r", done(1), expect=0, epoch=0))
        except LeaseLost as error:
            answers.append(error)

    async with anyio.create_task_group() as group:
        with closing(psycopg.connect(url)) as other:
            other.execute("UPDATE flowkit_runs SET owner = 'other', epoch = 7")
            group.start_soon(append)
            while not (answers or waits(other)):  # noqa: ASYNC110 (the server sends no event)
                await anyio.sleep(0.005)
            other.commit()
    assert isinstance(answers[0], LeaseLost)
    assert (await sql.load("r")).record.epoch == 7


def waits(connection: psycopg.Connection[Any]) -> bool:
    found = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    return found != (0,)


async def test_a_lock_that_stays_is_an_error_and_no_end(
    sql: SqlStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_LOCKED_S", 0.05)
    await sql.create(run())
    with locked(url):
        with pytest.raises(StoreUnusable, match="another process holds it locked"):
            await sql.append("r", done(1), expect=0, epoch=0)
        assert (await sql.load("r")).record.head == 0  # readers do not wait for writers
    await sql.append("r", done(1), expect=0, epoch=0)


async def test_a_deadlock_is_tried_again(sql: SqlStore, url: str, server: Server) -> None:
    """Two that create the same runs in another order: the one that is ended begins anew."""
    with closing(psycopg.connect(url)) as other:
        await sql.create(run("z"))
        await sql.put(b"first")
        other.execute("SELECT FROM flowkit_runs WHERE run_id = 'z' FOR UPDATE")
        row = "VALUES (%s, %s, 'wf', 'hash', 1.0, 'pending', 0)"
        names = "id, run_id, workflow, input_hash, created_at, status, epoch"
        other.execute(f"INSERT INTO flowkit_runs ({names}) {row}", [900, "b"])
        other.execute("SET deadlock_timeout = '60s'")
        answers: list[object] = []

        async def work() -> None:
            calls = (lambda: sql.create(run("a")), lambda: sql.create(run("b")))
            answers.extend(await together(sql, url, *calls))

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            while not waits(other):  # noqa: ASYNC110 (the server sends no event)
                await anyio.sleep(0.005)
            # `a` is inserted there and not committed; now each waits for the other.
            await anyio.to_thread.run_sync(
                lambda: other.execute(f"INSERT INTO flowkit_runs ({names}) {row}", [901, "a"])
            )
            other.rollback()
    assert answers == [None, None]


async def test_a_restart_of_the_server_is_survived(server: Server, url: str) -> None:
    async with SqlStore(url) as store:
        await store.create(run())
        await store.append("r", done(1), expect=0, epoch=0)
        async with anyio.create_task_group() as group:
            for _ in range(8):  # every reader has a connection
                group.start_soon(store.load, "r")
        server.stop()
        try:
            for call in (
                partial(store.append, "r", done(2), expect=1, epoch=0),
                partial(store.load, "r"),
            ):
                with pytest.raises(StoreUnusable, match="See that the server runs") as caught:
                    await call()
                assert "\n" not in str(caught.value)
        finally:
            server.start()
        assert len((await store.load("r")).events) == 1
        await store.append("r", done(2), expect=1, epoch=0)
        # Cut while nothing is in flight: nobody notices.
        server.stop()
        server.start()
        await store.append("r", done(3), expect=2, epoch=0)
        for _ in range(6):
            assert len((await store.load("r")).events) == 3


async def test_what_was_in_flight_when_the_server_died_is_told(server: Server, url: str) -> None:
    async with SqlStore(url) as store:
        await store.create(run())

        def die(connection: Connection) -> None:
            server.stop()

        listen_to.listen(store._place.engine, "commit", die, once=True)
        try:
            with pytest.raises(StoreUnusable, match="commit, and it is not known whether it did"):
                await store.append("r", done(1), expect=0, epoch=0)
        finally:
            server.start()
        await store.append("r", done(1), expect=0, epoch=0)


async def test_tables_that_are_gone_are_told(server: Server, sql: SqlStore, url: str) -> None:
    await sql.create(run())
    server.execute("DROP TABLE flowkit_inbox", url=url)
    with pytest.raises(StoreUnusable, match="tables are gone"):
        await sql.append("r", done(1), expect=0, epoch=0)
    with pytest.raises(StoreUnusable, match="tables are gone"):
        await sql.runs(RunQuery(messages=True))


async def test_a_user_without_rights_is_told(server: Server, url: str) -> None:
    async with SqlStore(url) as store:
        await store.create(run())
    with suppress(psycopg.errors.DuplicateObject):
        server.execute("CREATE ROLE guest LOGIN")
    name = url.rpartition("%3D")[2]
    server.execute(
        f"GRANT USAGE ON SCHEMA {name} TO guest",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO guest",
    )
    async with SqlStore(url.replace("flowkit@", "guest@")) as store:
        assert len(await store.runs(RunQuery())) == 1
        with pytest.raises(StoreUnusable, match="this user may not"):
            await store.append("r", done(1), expect=0, epoch=0)


async def test_a_damaged_row_stops_its_own_run_only(
    server: Server, sql: SqlStore, url: str
) -> None:
    for name in ("r", "s", "t"):
        await sql.create(run(name))
    await sql.append("r", done(1, 3), expect=0, epoch=0)
    await sql.post("t", Message("m", "signal", "go", Value.of("1")))
    server.execute(
        "DELETE FROM flowkit_events WHERE seq = 2",
        "UPDATE flowkit_runs SET status = 'done' WHERE run_id = 's'",
        "UPDATE flowkit_inbox SET name = '{'",
        url=url,
    )
    with pytest.raises(JournalConflict, match="event 2 is missing"):
        await sql.load("r")
    for name in ("s", "t"):
        with pytest.raises(JournalConflict, match="damaged"):
            await sql.append(name, done(1), expect=0, epoch=0)
    await sql.append("r", done(4), expect=3, epoch=0)


# ---- the engine on it

ENGINE = """
from pathlib import Path
from flowkit import Engine
from tests.fault.w12 import Ledger, Topic, w12

class Dying(SqlStore):
    left = int(sys.argv[4])
    async def append(self, *args, **kwargs):
        found = await super().append(*args, **kwargs)
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

async def main():
    store = Dying(sys.argv[1])
    async with store, Engine(store, resources=[Ledger(Path(sys.argv[3]))]) as engine:
        report = await engine.run(w12, Topic(text="t"), run_id=sys.argv[2])
        print(report.model_dump_json(), flush=True)
"""


@pytest.mark.long
def test_runs_whose_processes_are_killed_are_resumed_by_others(
    server: Server, url: str, children: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    def attempts(name: str) -> Counter[str]:
        return Counter((tmp_path / name).read_text().splitlines())

    def ended(name: str) -> set[str]:
        rows = server.execute(
            "SELECT key, alternative, attempt FROM flowkit_events e "
            f"JOIN flowkit_runs r ON r.id = e.run WHERE run_id = '{name}' AND kind IN "
            "('step_done', 'planned', 'accepted', 'rejected', 'attempt_failed')",
            url=url,
        )
        return {" ".join(map(str, row)) for row in rows}

    for first in (3, 7, 11):
        deaths = {f"r{at}": at for at in (first, first + 2)}  # two runs at once, in one database
        started = [children(ENGINE, url, n, str(tmp_path / n), str(at)) for n, at in deaths.items()]
        assert [process.wait(60) for process in started] == [-signal.SIGKILL] * 2
        before = {name: (attempts(name), ended(name)) for name in deaths}
        again = [children(ENGINE, url, n, str(tmp_path / n), "0") for n in deaths]
        assert [Report.model_validate_json(says(process)) for process in again] == [RESULT] * 2
        for name, (counted, finished) in before.items():
            assert finished <= ended(name)
            assert [key for key in finished if attempts(name)[key] != counted[key]] == []
