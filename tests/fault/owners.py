"""What the processes of `test_owners` do: drive the 12-step workflow and stop, or block their loop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Literal

import anyio

from flowkit import Context, Engine, Ref, workflow
from flowkit.errors import LeaseLost
from flowkit.events import Event
from flowkit.nodes import tool
from flowkit.ports import Message
from flowkit.store import SqlStore
from tests.fault.w12 import Ledger, Topic, w12

Where = Literal["before", "after", "tool"]
"""Stop before the n-th append, after it, or in the n-th attempt."""


class Stopper:
    """Stops this process once, when its moment has come, and goes on where somebody wakes it."""

    def __init__(self, at: int, where: Where, line: Connection) -> None:
        self._left = at
        self._where = where
        self._line = line
        self.woken = False

    def count(self, where: Where) -> None:
        if where == ("tool" if self._where == "tool" else "before"):
            self._left -= 1
        if where == self._where and self._left == 0:
            self._left = -1
            self._line.send("stopped")
            # This thread, and with it all others: os.kill would let it run on for a moment.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            self.woken = True


class StoppingStore(SqlStore):
    """Counts what becomes of appends after the process was woken."""

    def __init__(self, path: Path, stopper: Stopper) -> None:
        super().__init__(str(path))
        self.stopper = stopper
        self.refused = 0
        self.written = 0

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        self.stopper.count("before")
        late = self.stopper.woken
        try:
            messages = await super().append(run_id, events, expect=expect, epoch=epoch)
        except LeaseLost:
            self.refused += late
            raise
        self.written += late
        self.stopper.count("after")
        return messages


class StoppingLedger(Ledger):
    def __init__(self, path: Path, stopper: Stopper) -> None:
        super().__init__(path)
        self._stopper = stopper

    def write(self, ctx: Context) -> None:
        super().write(ctx)
        self._stopper.count("tool")


async def _stop(folder: Path, at: int, where: Where, lease_s: float, line: Connection) -> None:
    stopper = Stopper(at, where, line)
    ledger: Ledger = StoppingLedger(folder / "ledger", stopper)
    async with (
        StoppingStore(folder / "runs.db", stopper) as store,
        Engine(store, resources=[ledger], lease_s=lease_s, poll_s=0.05, grace_s=0) as engine,
    ):
        report = await engine.run(w12, Topic(text="t"), run_id="r")
    line.send((report.model_dump(), store.refused, store.written))


def stop(folder: Path, at: int, where: Where, lease_s: float, line: Connection) -> None:
    """Drive the run and be stopped on the way; then tell the result and what was refused."""
    anyio.run(_stop, folder, at, where, lease_s, line)


async def _together(folder: Path, line: Connection) -> None:
    async with (
        SqlStore(folder / "runs.db") as store,
        Engine(store, resources=[Ledger(folder / "ledger")], poll_s=0.02) as engine,
    ):
        report = await engine.run(w12, Topic(text="t"), run_id="r")
    line.send(report.model_dump())


def together(folder: Path, barrier: Barrier, line: Connection) -> None:
    """Run at the same moment as another process."""
    barrier.wait(60)
    anyio.run(_together, folder, line)


class Line:
    """A way to the test, as a resource; None for who does not block."""

    def __init__(self, connection: Connection | None) -> None:
        self.connection = connection


@tool
async def first(ctx: Context, text: str) -> str:
    return text.upper()


@tool
async def blocks(ctx: Context, text: str) -> str:
    """Blocks its loop in its first attempt, until the test lets it go."""
    if (line := ctx.resource(Line).connection) is not None:
        line.send("blocked")
        line.recv()
    return f"{text}, read"


@workflow
def blocking(text: Ref[str]) -> Ref[str]:
    return blocks(first(text))


async def _block(folder: Path, lease_s: float, line: Connection) -> None:
    async with (
        SqlStore(folder / "runs.db") as store,
        Engine(store, resources=[Line(line)], lease_s=lease_s, poll_s=0.05) as engine,
    ):
        line.send(await engine.run(blocking, "t", run_id="r"))


def block(folder: Path, lease_s: float, backend: str, line: Connection) -> None:
    """Drive a run whose second step blocks the event loop."""
    anyio.run(_block, folder, lease_s, line, backend=backend)


def pid_is_stopped(pid: int) -> bool:
    """Whether a process is in state T (Linux)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def wake(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)
