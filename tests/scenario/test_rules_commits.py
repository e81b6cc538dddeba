"""Rules of one append at a time: what waits for the disk, and what does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import flowkit.events as ev
from flowkit import Budget, BudgetExceeded, Context, Ref, StepFailed, Workflow, workflow
from flowkit.events import Event
from flowkit.nodes import tool
from flowkit.ports import Message
from flowkit.store import MemoryStore
from tests.scenario.kit import Log, finished, journal, note, now, running


class SlowDisk(MemoryStore):
    """Each append of an outcome or a signal takes a second; tells when it is there."""

    def __init__(self, log: Log) -> None:
        super().__init__(now=now)
        self._log = log

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        keys = [
            event.key for event in events if type(event.payload) in (ev.StepDone, ev.AttemptFailed)
        ]
        keys += [event.payload.name for event in events if isinstance(event.payload, ev.Signalled)]
        if keys:
            with anyio.CancelScope(shield=True):  # as the contract has it
                await anyio.sleep(1)
        found = await super().append(run_id, events, expect=expect, epoch=epoch)
        self._log += [f"{key} is on disk" for key in keys]
        return found


@tool
async def items(ctx: Context, n: int) -> list[int]:
    return list(range(n))


@tool
async def touch(ctx: Context, n: int) -> int:
    ctx.resource(Log).append(ctx.step)
    return n


@tool
async def total(ctx: Context, numbers: list[int]) -> int:
    ctx.resource(Log).append(ctx.step)
    return sum(numbers)


@workflow
def mapped(n: Ref[int]) -> Ref[int]:
    return total(touch.map(items(n)))


async def run(flow: Workflow[int, Any], n: int, **budget: Any) -> tuple[Any, Log]:
    log = Log()
    async with running(SlowDisk(log), log) as engine:
        return await engine.run(flow, n, run_id="r", budget=Budget(**budget)), log


async def test_what_follows_from_an_outcome_starts_when_it_is_on_disk() -> None:
    found, log = await run(mapped, 3)
    assert found == 3
    for index in range(3):
        assert log.index("items is on disk") < log.index(f"touch/{index}")
        assert log.index(f"touch/{index} is on disk") < log.index("total")


async def test_what_was_ready_before_starts_while_an_outcome_is_written() -> None:
    _, log = await run(mapped, 3, parallel_max=1)
    assert log.index("touch/1") < log.index("touch/0 is on disk"), "its place was free"
    assert [line for line in log if "disk" not in line] == [
        "touch/0",
        "touch/1",
        "touch/2",
        "total",
    ]


@pytest.mark.parametrize("parallel", [1, 2, 3])
async def test_no_more_attempts_are_in_flight_than_are_allowed(parallel: int) -> None:
    flying, most = 0, 0

    @tool
    async def fly(ctx: Context, n: int) -> int:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await anyio.sleep(0.3 + 0.1 * (n % 3))
        flying -= 1
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        return fly.map(items(n))

    found, _ = await run(flow, 12, parallel_max=parallel)
    assert found == list(range(12))
    assert most == parallel


async def test_a_budget_of_attempts_is_exact_while_outcomes_are_written() -> None:
    log = Log()
    async with running(SlowDisk(log), log) as engine:
        budget = Budget(attempts_max=5, parallel_max=2)
        handle = await engine.start(mapped, 9, run_id="r", budget=budget)
        with pytest.raises(Exception, match="5 attempts"):
            await handle.result()
    assert len([line for line in log if "disk" not in line]) == 4, "items, and four more"


async def test_a_budget_of_steps_counts_what_is_in_flight() -> None:
    @tool
    async def last(ctx: Context, n: int) -> int:
        note(ctx)
        await anyio.sleep(n)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        return last.map(items(n))

    async with running(None, log := Log()) as engine:
        with pytest.raises(BudgetExceeded, match="4 of 4 steps"):
            await engine.run(flow, 9, budget=Budget(steps_max=4))
    assert log == [f"last/{n} 0 1" for n in range(3)], "items, and three more"


async def test_nothing_starts_beside_a_failure_that_is_being_written() -> None:
    @tool
    async def bad(ctx: Context, n: int) -> int:
        note(ctx)
        raise ValueError("no")

    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        return bad.map(items(n))

    log = Log()
    async with running(SlowDisk(log), log) as engine:
        with pytest.raises(StepFailed):
            await engine.run(flow, 5, run_id="r", budget=Budget(parallel_max=1))
    assert [line for line in log if "disk" not in line] == ["bad/0 0 1"]


async def test_an_outcome_is_written_though_its_worker_has_gone_on_with_a_long_step() -> None:
    @tool
    async def take(ctx: Context, n: int) -> int:
        note(ctx)
        await anyio.sleep(0 if n < 3 else 100)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        return take.map(items(n))

    log = Log()
    async with running(SlowDisk(log), log) as engine:
        await engine.start(flow, 6, run_id="r", budget=Budget(parallel_max=2))
        await anyio.sleep(20)
        stored = finished(await journal(engine, "r"))
        assert {f"take/{n} 0 1" for n in range(3)} <= stored
        await engine.cancel("r")


async def test_outcomes_in_hand_are_written_when_the_engine_is_left() -> None:
    log = Log()
    store = SlowDisk(log)
    async with running(store, log) as engine:
        handle = await engine.start(mapped, 4, run_id="r", budget=Budget(parallel_max=2))
        await anyio.sleep(1.5)
    begun = {line for line in log if line.startswith("touch/") and "disk" not in line}
    stored = finished((await store.load("r")).events)
    assert begun
    assert {f"{key} 0 1" for key in begun} <= stored
    assert handle.id == "r"


async def test_an_outcome_is_written_though_the_engine_is_left_while_others_write() -> None:
    @tool
    async def work(ctx: Context, n: int) -> int:
        await anyio.sleep(n)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return touch(work(n))

    store = SlowDisk(log := Log())
    with anyio.CancelScope() as scope:
        async with running(store, log) as engine:
            handle = await engine.start(flow, 10, run_id="r")
            await anyio.sleep(9.5)
            await handle.signal("early")  # nobody's outcome, and on its way until 10.5
            await anyio.sleep(0.8)
            scope.cancel()
            await anyio.sleep(1)
    assert finished((await store.load("r")).events) == {"work 0 1"}


async def test_a_node_goes_on_with_a_signal_when_it_is_on_disk() -> None:
    @tool
    async def hear(ctx: Context, seconds: list[float]) -> int:
        await ctx.signal(ctx.step)
        ctx.resource(Log).append(f"{ctx.step} is heard")
        return 0

    @tool
    async def work(ctx: Context, seconds: float) -> int:
        await anyio.sleep(seconds)
        return 0

    @tool
    async def both(ctx: Context, one: int, two: int, worked: list[int]) -> int:
        return 0

    @workflow
    def flow(seconds: Ref[list[float]]) -> Ref[int]:
        return both(hear(seconds, id="one"), hear(seconds, id="two"), work.map(seconds))

    log = Log()
    async with running(SlowDisk(log), log) as engine:
        handle = await engine.start(flow, [10, 10.5, 11.5], run_id="r")
        await anyio.sleep(10.3)
        await handle.signal("one")  # with the second outcome, from 11 to 12
        await anyio.sleep(1)
        await handle.signal("two")  # with the third one, from 12: who waits is woken for the first
        await handle.result()
    for name in ("one", "two"):
        assert log.index(f"{name} is on disk") < log.index(f"{name} is heard")


async def test_an_attempt_that_is_stopped_while_it_writes_for_others_breaks_nothing() -> None:
    class SlowArtifacts(MemoryStore):
        async def put(self, data: bytes) -> str:
            await anyio.sleep(5)  # until now nothing is written, so that it may be cancelled
            return await super().put(data)

    @tool
    async def large(ctx: Context, n: int) -> str:
        return "x" * 100_000

    @tool(timeout_s=2, retries=1)
    async def ask(ctx: Context, n: int) -> int:
        if ctx.attempt == 1:
            await ctx.call(large, n)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return ask(n)

    async with running(SlowArtifacts(now=now)) as engine:
        assert await engine.run(flow, 7) == 7
