"""Cancelled at every await: the k-th time that a task of the engine gives way, for every k.

Tasks are counted from outside, by a task factory under asyncio and by an instrument under trio, and what
is cancelled is the client that waits for the result, or the whole engine. Afterwards a new engine goes on
with the run: the result is right, no finished step runs again, and neither has left a task, a thread or
a file open.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
import trio
import trio.abc

from flowkit import Engine
from flowkit.errors import RunNotFound
from flowkit.store import MemoryStore, SqlStore
from tests.fault.short_run import Counting
from tests.fault.w12 import RESULT, Topic, w12
from tests.scenario.kit import finished

What = Literal["client", "task", "engine"]
"""The client's scope, its task (as asyncio cancels), or the whole engine."""

Store = MemoryStore | SqlStore


class Steps(trio.abc.Instrument):
    """Counts the times that any task gives way, and calls `strike` once, at the k-th."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0
        self.strike: Callable[[], object] | None = None

    def count(self) -> None:
        if self.strike is None:
            return
        self.seen += 1
        if self.seen == self.at:
            self.strike()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count()

    # ---- the same for asyncio

    def factory(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(self._counted(coro), loop=loop, **options)

    async def _counted(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return await _Counted(coro, self.count)


class _Counted:
    """Awaits a coroutine and tells each time that it gives way."""

    def __init__(self, coro: Coroutine[Any, Any, Any], tell: Callable[[], None]) -> None:
        self._coro = coro
        self._tell = tell

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[Any], Any] = self._coro.send
        given: Any = None
        while True:
            try:
                wanted = step(given)
            except StopIteration as end:
                return end.value
            self._tell()
            try:
                given = yield wanted
                step = self._coro.send
            except BaseException as error:  # noqa: BLE001  (it is the coroutine's)
                step, given = self._coro.throw, error


@asynccontextmanager
async def counted(steps: Steps, backend: str) -> AsyncGenerator[None]:
    """Count from now on what tasks do that are started here."""
    if backend == "trio":
        trio.lowlevel.add_instrument(steps)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(steps)
    else:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(steps.factory)
        try:
            yield
        finally:
            loop.set_task_factory(None)


async def interrupted(
    store: Store, ledger: Counting, what: What, steps: Steps, backend: str
) -> None:
    """An engine, and a client in a task of its own; one of them is cancelled at the k-th step."""
    whole, client = anyio.CancelScope(), anyio.CancelScope()

    async def ask(engine: Engine) -> None:
        if what == "task":
            task = asyncio.current_task()
            assert task is not None
            steps.strike = task.cancel
        with client:
            await engine.run(w12, Topic(text="t"), run_id="r")

    async with counted(steps, backend):
        with whole:
            async with (
                # A client that is cancelled in the moment of creation leaves a row that nobody drives,
                # which its engine takes up at once when asked again, and others when the lease is over.
                Engine(store, resources=[ledger], grace_s=1, lease_s=0.5) as engine,
                anyio.create_task_group() as tasks,
            ):
                steps.strike = (whole if what == "engine" else client).cancel
                tasks.start_soon(ask, engine)
        steps.strike = None


async def scenario(store: Store, what: What, at: int, backend: str) -> bool:
    """One cancellation and one resume; False if there were not so many steps."""
    ledger, steps = Counting(), Steps(at)
    before = {task.id for task in anyio.get_running_tasks()}
    with anyio.fail_after(30):
        await interrupted(store, ledger, what, steps, backend)
    assert {task.id for task in anyio.get_running_tasks()} == before, "tasks were left"
    try:
        held = finished((await store.load("r")).events)
    except RunNotFound:
        held = set[str]()
    ran = ledger.ran.copy()
    with anyio.fail_after(30):
        async with Engine(store, resources=[ledger], poll_s=0.05) as engine:
            assert await engine.run(w12, Topic(text="t"), run_id="r") == RESULT
    assert {task.id for task in anyio.get_running_tasks()} == before, "tasks were left"
    assert [line for line in held if ledger.ran[line] != ran[line]] == [], "ended, and ran again"
    assert max(ledger.ran.values()) <= 2
    assert set(ledger.ran) == finished((await store.load("r")).events)
    return steps.seen >= at


MISSES = 5
"""Runs with fewer steps, one after another, before it counts as the end: threads make their number vary."""


async def in_memory(what: What, backend: str, first: int) -> int:
    """At every step from the first one on; how many there were."""
    at, missed = first, 0
    while missed < MISSES:
        missed = 0 if await scenario(MemoryStore(), what, at, backend) else missed + 1
        at += 1
    return at - 1 - MISSES


async def in_a_file(what: What, backend: str, folder: Path, stride: int, first: int = 1) -> int:
    """The same in a database, at every so manieth step."""
    at = first
    while True:
        async with SqlStore(folder / f"{at}.db") as store:
            if not await scenario(store, what, at, backend):
                return at
        at += stride


def in_a_loop(work: Callable[..., Coroutine[Any, Any, int]], *args: Any, backend: str) -> int:
    """Run it in a loop of its own; when that is over, no thread and no file is left."""
    before, files = set(threading.enumerate()), open_files()
    found = anyio.run(work, *args, backend=backend)
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("Trio thread"):  # which wait for more work, for 10 s
            thread.join(2)
            assert not thread.is_alive(), thread
    assert open_files() == files
    return found


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0


CASES: list[tuple[What, str]] = [
    ("client", "asyncio"), ("client", "trio"), ("task", "asyncio"), ("engine", "asyncio"),
    ("engine", "trio"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "backend"), CASES)
def test_cancelled_at_every_await_loses_and_leaves_nothing(what: What, backend: str) -> None:
    in_a_loop(in_memory, what, backend, 10**9, backend=backend)  # what stays is made once
    steps = in_a_loop(in_memory, what, backend, 1, backend=backend)
    print(f"{what} under {backend}: cancelled at each of {steps} steps")
    assert steps > 40


@pytest.mark.long
@pytest.mark.parametrize(("what", "backend"), CASES)
def test_cancelled_with_a_database_open(what: What, backend: str, tmp_path: Path) -> None:
    in_a_loop(in_a_file, what, backend, tmp_path, 1, 10**9, backend=backend)
    steps = in_a_loop(in_a_file, what, backend, tmp_path, 2, backend=backend)
    print(f"{what} under {backend}: in a database, at every second of {steps} steps")
    assert steps > 60
