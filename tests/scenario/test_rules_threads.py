"""Rules of plain `def` nodes: they run in threads, in real time, and never block the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import anyio
import anyio.to_thread
import pytest

import flowkit.events as ev
from flowkit import Context, Engine, Ref, Reject, RunHandle, StepFailed, workflow
from flowkit.nodes import tool, verifier
from flowkit.store import MemoryStore

REAL_TIME = True
"""Threads know no virtual clock."""

LIMIT_S = 20


class Gates:
    """What the threads of one test wait for and tell; nothing here waits for a time to pass."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()
        self.log: list[str] = []


async def wait(what: Callable[..., bool]) -> None:
    with anyio.fail_after(LIMIT_S):
        while not await anyio.to_thread.run_sync(
            lambda: what(timeout=0.05), abandon_on_cancel=True
        ):
            pass


async def one_failed(handle: RunHandle[int]) -> None:
    """Until an attempt of the run has failed."""
    with anyio.fail_after(LIMIT_S):
        async with aclosing(handle.events()) as events:
            async for event in events:
                if isinstance(event.payload, ev.AttemptFailed):
                    return


@tool
def blocks(ctx: Context, n: int) -> int:
    gates = ctx.resource(Gates)
    gates.begun.release()
    assert gates.open.wait(LIMIT_S)
    return n + 1


@tool
async def quick(ctx: Context, n: int) -> int:
    ctx.resource(Gates).log.append("quick")
    return n


@tool
async def add(ctx: Context, a: int, b: int) -> int:
    return a + b


async def test_a_plain_def_tool_runs_in_a_thread_and_never_blocks_the_loop() -> None:
    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return add(blocks(n), quick(n))

    gates = Gates()
    async with Engine(MemoryStore(), resources=[gates]) as engine:
        handle = await engine.start(flow, 1)
        await wait(gates.begun.acquire)
        assert gates.log == ["quick"], "the loop went on while the thread was blocked"
        gates.open.set()
        with anyio.fail_after(LIMIT_S):
            assert await handle.result() == 3


async def test_a_timed_out_thread_is_not_retried_before_it_has_ended() -> None:
    @tool(retries=1, backoff_s=0, timeout_s=0.1)
    def slow(ctx: Context, n: int) -> int:
        gates = ctx.resource(Gates)
        gates.log.append(f"in {ctx.attempt}")
        gates.begun.release()
        if ctx.attempt == 1:
            assert gates.open.wait(LIMIT_S)
        gates.log.append(f"out {ctx.attempt}")
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return slow(n)

    gates = Gates()
    async with Engine(MemoryStore(), resources=[gates]) as engine:
        handle = await engine.start(flow, 1, run_id="r")
        await wait(gates.begun.acquire)
        await one_failed(handle)
        try:
            for _ in range(6):  # longer than the second attempt may take; it must not have begun
                await anyio.sleep(0.05)
            assert gates.log == ["in 1"]
        finally:
            gates.open.set()
        with anyio.fail_after(LIMIT_S):
            assert await handle.result() == 1, "waiting for the thread uses up no attempt"
    assert gates.log == ["in 1", "out 1", "in 2", "out 2"]


async def test_an_attempt_that_times_out_before_its_thread_began_is_retried() -> None:
    @tool(retries=20, backoff_s=0.01, timeout_s=0.1)
    def waits_for_a_thread(ctx: Context, n: int) -> int:
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return add(blocks(n), waits_for_a_thread(n))

    gates = Gates()
    async with Engine(MemoryStore(), resources=[gates], threads_max=1) as engine:
        handle = await engine.start(flow, 1, run_id="r")
        await wait(gates.begun.acquire)
        await one_failed(handle)
        gates.open.set()
        with anyio.fail_after(LIMIT_S):
            assert await handle.result() == 3


async def test_plain_def_verifiers_follow_the_same_rules() -> None:
    @tool
    def text(ctx: Context, n: int) -> str:
        return f"{n}{''.join(ctx.feedback)}"

    @verifier
    def good(ctx: Context, text: str) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if "!" not in text:
            raise Reject("!")

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return good(text(n))

    async with Engine(MemoryStore(), resources=[Gates()]) as engine:
        with anyio.fail_after(LIMIT_S):
            assert await engine.run(flow, 1) == "1!"


async def test_progress_may_be_told_from_a_thread() -> None:
    @tool
    def tells(ctx: Context, n: int) -> int:
        gates = ctx.resource(Gates)
        assert gates.open.wait(LIMIT_S)
        ctx.progress("half")
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return tells(n)

    gates = Gates()
    seen: list[object] = []
    async with Engine(MemoryStore(), resources=[gates]) as engine:
        handle = await engine.start(flow, 1)

        async def follow() -> None:
            async for event in handle.events(live=True):
                if event.seq == 1:
                    gates.open.set()
                if isinstance(event.payload, ev.Progress):
                    seen.append(event.payload.data)

        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                assert await handle.result() == 1
    assert seen == ["half"]


async def test_a_thread_that_raises_fails_the_attempt() -> None:
    @tool
    def raises(ctx: Context, n: int) -> int:
        raise ValueError("from a thread")

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return raises(n)

    async with Engine(MemoryStore()) as engine:
        with anyio.fail_after(LIMIT_S), pytest.raises(StepFailed, match="from a thread"):
            await engine.run(flow, 1)


async def test_a_run_whose_timed_out_thread_goes_on_keeps_its_memory_and_does_not_overlap() -> None:
    """Suspended, it would forget the thread, and try again beside it."""

    @tool(retries=1, timeout_s=0.1, backoff_s=1.5)
    def stuck(ctx: Context, n: int) -> int:
        gates = ctx.resource(Gates)
        gates.log.append("begun")
        gates.begun.release()
        assert gates.open.wait(LIMIT_S)
        gates.log.append("ended")
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return stuck(n)

    gates = Gates()
    async with Engine(MemoryStore(), resources=[gates], suspend_after_s=0.05) as engine:
        handle = await engine.start(flow, 1)
        await wait(gates.begun.acquire)
        await one_failed(handle)
        await anyio.sleep(2.0)  # past the time of the second try
        assert gates.log == ["begun"]
        gates.open.set()
        assert await handle.result() == 1
    assert gates.log == ["begun", "ended", "begun", "ended"]


@pytest.mark.parametrize("threaded", [True, False], ids=["def", "async def"])
async def test_a_probe_is_not_asked_before_the_thread_of_the_timed_out_effect_has_ended(
    threaded: bool,
) -> None:
    """Else it would say that nothing happened, and the effect would happen after that."""

    def look(ctx: Context, n: int) -> int | None:
        log = ctx.resource(Gates).log
        log.append("asked")
        return n if "paid" in log else None

    async def look_async(ctx: Context, n: int) -> int | None:
        return look(ctx, n)

    declare: Any = tool
    probe = look if threaded else look_async

    @declare(effect="once", timeout_s=0.1, probe=probe)
    def pay(ctx: Context, n: int) -> int:
        gates = ctx.resource(Gates)
        gates.begun.release()
        assert gates.open.wait(LIMIT_S)
        gates.log.append("paid")
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        made: Ref[int] = pay(n)
        return made

    gates = Gates()
    async with Engine(MemoryStore(), resources=[gates]) as engine:
        handle = await engine.start(flow, 1, run_id="r")
        await wait(gates.begun.acquire)
        with anyio.fail_after(LIMIT_S):
            async with aclosing(handle.events()) as events:
                async for event in events:
                    if isinstance(event.payload, ev.OutcomeUnknown):
                        break
        for _ in range(6):  # longer than a probe needs; it must not have begun
            await anyio.sleep(0.05)
        assert gates.log == []
        gates.open.set()
        with anyio.fail_after(LIMIT_S):
            assert await handle.result() == 1
    assert gates.log == ["paid", "asked"]


async def test_a_probe_that_hangs_in_its_thread_does_not_hold_back_a_decided_repeat() -> None:
    def look(ctx: Context, n: int) -> int | None:
        gates = ctx.resource(Gates)
        gates.begun.release()
        assert gates.open.wait(LIMIT_S)
        return None

    @tool(effect="once", probe=look)
    def pay(ctx: Context, n: int) -> int:
        gates = ctx.resource(Gates)
        gates.log.append("begun")
        if len(gates.log) == 1:
            return "no number"  # type: ignore[return-value]
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return pay(n)

    gates = Gates()
    async with Engine(MemoryStore(), resources=[gates]) as engine:
        handle = await engine.start(flow, 1, run_id="r")
        await wait(gates.begun.acquire)
        await engine.decide("r", "pay", "repeat")
        with anyio.fail_after(LIMIT_S):
            assert await handle.result() == 1
        gates.open.set()
    assert gates.log == ["begun", "begun"]
