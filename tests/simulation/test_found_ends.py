"""What the simulation has found of runs that end without a result, each as the smallest that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from flowkit import Context, Ref, workflow
from flowkit.errors import BudgetExceeded, LeaseLost, StepFailed
from flowkit.events import Event
from flowkit.nodes import tool
from flowkit.policy import Budget
from flowkit.ports import Message, RunRecord, World
from flowkit.store import MemoryStore
from tests.scenario.kit import Log, backend, crashed, memory, note, now, running


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return backend(request.param)


@tool
async def quick(ctx: Context, text: str) -> str:
    note(ctx)
    return text


@tool
async def slow(ctx: Context, text: str) -> str:
    note(ctx)
    await anyio.sleep(12)
    return text


@tool(concurrency=1)
async def ask(ctx: Context, text: str) -> str:
    note(ctx)
    return str(await ctx.signal("reply"))


@tool
async def fail(ctx: Context, text: str) -> str:
    await anyio.sleep(1)
    raise ConnectionError("down")


@tool
async def calling(ctx: Context, text: str) -> str:
    note(ctx)
    said = await ctx.call(quick, text)
    await anyio.sleep(5)
    return said


@tool
async def both(ctx: Context, one: str, other: str) -> str:
    return f"{one} and {other}"


@workflow
def asking_twice(text: Ref[str]) -> Ref[str]:
    return both(both(ask(text, id="one"), ask(text, id="two"), id="asked"), fail(text))


async def test_a_failed_run_ends_though_an_attempt_waits_for_the_room_of_one_that_waits() -> None:
    """Seed 50000: the second waited for the first, the first for a signal, and the run for the second."""
    async with running(memory(), Log()) as engine:
        with pytest.raises(StepFailed, match="down"):
            await engine.run(asking_twice, "x")


@workflow
def asking(text: Ref[str]) -> Ref[str]:
    return both(ask(text), slow(quick(text)))


async def test_what_a_used_up_budget_ends_begins_nothing_more() -> None:
    """Seed 301863: what waited was stopped, which made room, and what then began was begun once more."""
    log = Log()
    async with running(memory(), log) as engine:
        with pytest.raises(BudgetExceeded, match="2 of 2 steps"):
            await engine.run(asking, "x", run_id="r", budget=Budget(steps_max=2))
        events = (await engine.store.load("r")).events
    assert sorted(log) == ["ask 0 1", "quick 0 1"]
    assert events[-1].at - events[0].at < 1


@workflow
def called(text: Ref[str]) -> Ref[str]:
    return both(calling(text), quick(text, id="other"))


async def test_what_had_begun_before_a_crash_counts_against_the_budget() -> None:
    """Seed 106199: it went on, as it must, and another step began in the room that it took."""
    store, log, budget = memory(), Log(), Budget(steps_max=1)
    async with running(store, log) as engine:
        with pytest.raises(BudgetExceeded):
            await engine.run(called, "x", run_id="r", budget=budget)
    head = next(e.seq for e in (await store.load("r")).events if e.kind == "tool_answered")
    log.clear()
    async with running(await crashed(store, "r", head), log) as engine:
        with pytest.raises(BudgetExceeded, match="1 of 1 steps"):
            await engine.run(called, "x", run_id="r", budget=budget)
    assert log == ["calling 0 1"]


@workflow
def plain(text: Ref[str]) -> Ref[str]:
    return quick(text)


class Late(MemoryStore):
    """To make a row takes a minute, and then the run is somebody else's."""

    def __init__(self) -> None:
        super().__init__(now=lambda: now() + self.ahead_s)
        self.ahead_s = 0.0

    async def create(self, run: RunRecord) -> None:
        await super().create(run)
        self.ahead_s = 60.0

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        raise LeaseLost("somebody else drives it")


async def test_a_run_that_ends_in_its_first_append_has_not_begun_if_that_was_refused() -> None:
    """Seed 54618: its deadline had passed by then, so it was taken for ended, and waited for for ever."""
    store = Late()
    async with running(store, Log(), world=World(lambda: now() + store.ahead_s)) as engine:
        with pytest.raises(LeaseLost):
            await engine.run(plain, "x", run_id="r", deadline_s=10)
