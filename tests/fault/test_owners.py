"""Two processes and one run: at the same moment, with one of them stopped, and with a blocked loop.

Leases are short and time is real. Nobody waits for a time to pass: a test waits for what a process says,
for the state of a process, or for what stands in the file.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args
from unittest.mock import ANY

import anyio
import pytest

from flowkit import Engine
from flowkit.store import SqlStore
from flowkit.store.leases import PATIENCE, Leases
from tests.fault import journals
from tests.fault.children import child, context, pipe
from tests.fault.owners import (
    Line,
    Where,
    block,
    blocking,
    pid_is_stopped,
    stop,
    together,
    wake,
)
from tests.fault.w12 import RESULT, Ledger, w12

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def anyio_backend() -> str:
    """The children choose their own loops."""
    return "asyncio"


def told(line: Connection) -> Any:
    assert line.poll(30), "the process says nothing"
    return line.recv()


def claims(folder: Path) -> int:
    return sum(row[1] == "claimed" for row in journals.rows(folder))


# ---- at the same moment


@pytest.mark.long
@pytest.mark.parametrize("round_", range(10))
def test_of_two_processes_that_run_one_id_at_once_one_drives_and_both_get_the_result(
    round_: int, tmp_path: Path
) -> None:
    barrier = context().Barrier(2)
    (ours, theirs), (our_other, their_other) = pipe(), pipe()
    with (
        child(together, tmp_path, barrier, theirs),
        child(together, tmp_path, barrier, their_other),
    ):
        assert told(ours) == told(our_other) == RESULT.model_dump()
    assert claims(tmp_path) == 1
    assert set(journals.counted(tmp_path).values()) == {1}


# ---- stopped past its lease, and woken


def is_locked(folder: Path) -> bool:
    """Whether somebody is in the middle of a transaction: then nobody else can write to the file."""
    with closing(sqlite3.connect(folder / "runs.db", timeout=0, isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        other.execute("ROLLBACK")
        return False


async def stopped_and_woken(folder: Path, at: int, where: Where) -> int | None:
    """One round; how many appends of the woken process were refused.

    None if it was stopped in the middle of a transaction. SQLite has one writer: its run, and all
    others in the file, wait until it is woken or killed, and then it goes on.
    """
    lease_s = 0.4
    ours, theirs = pipe()
    with child(stop, folder, at, where, lease_s, theirs) as zombie:
        assert told(ours) == "stopped", "it came to its end before"
        assert zombie.pid is not None
        with anyio.fail_after(10):
            while not pid_is_stopped(zombie.pid):  # noqa: ASYNC110  (another process's state)
                await anyio.sleep(0.001)
        if is_locked(folder):
            wake(zombie.pid)
            assert told(ours) == (RESULT.model_dump(), 0, ANY)
            assert claims(folder) == 1
            return None
        finished, ran = journals.ended(journals.rows(folder)), journals.counted(folder)
        async with Engine(
            SqlStore(folder / "runs.db"), workflows=[w12], recover=True, poll_s=0.05,
            resources=[Ledger(folder / "ledger")],
        ) as engine:  # fmt: skip
            with anyio.fail_after(30):
                assert await engine.handle("r").result() == RESULT
        events, taken = journals.rows(folder), journals.counted(folder)
        wake(zombie.pid)
        result, refused, written = told(ours)
        zombie.join(30)
        assert zombie.exitcode == 0
    assert result == RESULT.model_dump(), "the woken process gives another result"
    assert written == 0
    assert journals.rows(folder) == events, "the woken process has written"
    assert claims(folder) == 2
    again = [line for line in finished if taken[line] != ran[line]]
    assert again == [], "what had ended when it was stopped ran again"
    # What the zombie had begun it may go on with, once: the world outside is not fenced.
    late = journals.counted(folder) - taken
    assert set(late.values()) <= {1}
    assert len(late) <= 6, late
    return int(refused)


ROUNDS: list[tuple[int, Where]] = [
    *((at, "before") for at in range(2, 12, 2)),
    *((at, "after") for at in range(1, 12, 3)),
    *((at, "tool") for at in range(1, 18, 3)),
]


@pytest.mark.long
@pytest.mark.parametrize(("at", "where"), ROUNDS)
async def test_a_process_that_is_stopped_past_its_lease_is_refused_when_it_is_woken(
    at: int, where: Where, tmp_path: Path
) -> None:
    refused = await stopped_and_woken(tmp_path, at, where)
    assert refused or refused is None or where != "before", "its next append was not refused"


@pytest.mark.soak
async def test_processes_that_are_stopped_and_woken_until_the_time_is_over(tmp_path: Path) -> None:
    end = time.monotonic() + float(os.environ.get("FLOWKIT_SOAK_S", "60"))
    lots = random.SystemRandom()
    refused: Counter[str] = Counter()
    rounds = 0
    while time.monotonic() < end:
        folder = tmp_path / str(rounds)
        folder.mkdir()
        where: Where = lots.choice(get_args(Where))
        found = await stopped_and_woken(folder, lots.randrange(1, 12), where)
        refused[where if found is not None else "locked"] += found or 0
        rounds += 1
    print(f"{rounds} rounds, appends refused: {dict(refused)}")
    assert refused.total()


# ---- a blocked loop


async def lease_until(store: SqlStore) -> float:
    until = (await store.load("r")).record.lease_until
    assert until is not None
    return until


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_a_blocked_loop_keeps_its_runs(backend: str, tmp_path: Path) -> None:
    lease_s = 0.6
    ours, theirs = pipe()
    async with SqlStore(tmp_path / "runs.db") as store:
        with child(block, tmp_path, lease_s, backend, theirs) as owner:
            assert told(ours) == "blocked"
            first = await lease_until(store)
            with anyio.fail_after(30):
                while await lease_until(store) < first + 2 * lease_s:
                    assert await store.claim("r", "a thief", 1) is None
                    await anyio.sleep(0.02)
            ours.send("go")
            assert told(ours) == "T, read"
            owner.join(30)
    assert claims(tmp_path) == 1


@pytest.mark.long
async def test_a_loop_that_stays_blocked_loses_its_runs_and_is_fenced(tmp_path: Path) -> None:
    lease_s = 0.3
    ours, theirs = pipe()
    with child(block, tmp_path, lease_s, "asyncio", theirs) as owner:
        assert told(ours) == "blocked"
        async with SqlStore(tmp_path / "runs.db") as store:
            first = last = await lease_until(store)
            async with Engine(
                store, workflows=[blocking], recover=True, poll_s=0.05, resources=[Line(None)]
            ) as engine:
                with anyio.fail_after(30):
                    while claims(tmp_path) < 2:
                        record = (await store.load("r")).record
                        if record.epoch == 1 << 40 and record.lease_until is not None:
                            last = record.lease_until
                        await anyio.sleep(0.02)
                assert await engine.handle("r").result() == "T, read"
        assert 3 * lease_s < last - first <= (PATIENCE + 1) * lease_s
        events = journals.rows(tmp_path)
        ours.send("go")
        assert told(ours) == "T, read"
        owner.join(30)
    assert journals.rows(tmp_path) == events


def test_only_a_loop_that_does_not_answer_is_renewed_for() -> None:
    leases = Leases()
    assert leases.pause_s is None
    leases.took("r", 1, 6.0)
    assert leases.pause_s == 1.0
    asked: list[Any] = []
    assert leases.overdue(asked.append) == (), "it is asked first"
    assert [lease.run_id for lease in leases.overdue(asked.append)] == ["r"]
    assert [lease.run_id for lease in leases.overdue(asked.append)] == ["r"]
    asked.pop()()
    assert asked == [], "it is asked once"
    for _ in range(3):  # a loop that lives renews by itself, or has a reason not to
        assert leases.overdue(lambda answer: answer()) == ()
    leases.left("r")
    assert leases.pause_s is None


def test_a_loop_that_is_gone_holds_nothing() -> None:
    leases = Leases()
    leases.took("r", 1, 6.0)

    def gone(answer: object) -> None:
        raise RuntimeError("the loop is closed")

    assert leases.overdue(gone) == ()
    assert leases.pause_s is None
