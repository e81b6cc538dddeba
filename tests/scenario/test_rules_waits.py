"""Rules of durable waits: signals and sleeps, in memory, unloaded, and after a crash."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

import flowkit.events as ev
from flowkit import Context, Engine, Ref, StepFailed, workflow
from flowkit.errors import RunCancelled
from flowkit.nodes import tool
from tests.scenario.kit import (
    Log,
    crashed,
    finished,
    journal,
    kinds,
    memory,
    note,
    now,
    of,
    running,
)


class Verdict(BaseModel):
    ok: bool
    why: str = ""


@tool
async def approve(ctx: Context, n: int) -> str:
    note(ctx)
    verdict = await ctx.signal("verdict", returns=Verdict)
    assert isinstance(verdict, Verdict)
    return f"{verdict.ok}: {verdict.why}"


@tool
async def after(ctx: Context, text: str) -> str:
    note(ctx)
    return f"<{text}>"


@workflow
def approval(n: Ref[int]) -> Ref[str]:
    return after(approve(n))


@tool
async def nap(ctx: Context, n: int) -> str:
    note(ctx)
    await ctx.sleep(1000)
    return f"slept {n}"


@workflow
def napping(n: Ref[int]) -> Ref[str]:
    return after(nap(n))


@tool
async def patient(ctx: Context, n: int) -> str:
    note(ctx)
    try:
        return str(await ctx.signal("go", timeout_s=500))
    except TimeoutError:
        return "nobody came"


@workflow
def patience(n: Ref[int]) -> Ref[str]:
    return patient(n)


def in_memory(engine: Engine) -> list[str]:
    """The runs that an engine holds in memory."""
    hosting = engine._hosting
    assert hosting is not None
    return list(hosting.drivers)


# ---- signals


async def test_a_signal_that_comes_before_the_wait_is_kept_for_it() -> None:
    @tool
    async def late(ctx: Context, n: int) -> int:
        await anyio.sleep(50)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return approve(late(n))

    async with running(None, Log()) as engine:
        handle = await engine.start(flow, 1, run_id="r")
        await handle.signal("verdict", {"ok": True, "why": "early"})
        assert await handle.result() == "True: early"
        events = await journal(engine, "r")
    assert of(events, ev.Signalled)[0].seq < of(events, ev.Waiting)[0].seq


async def test_a_signal_ends_the_wait_in_memory_without_a_second_beginning() -> None:
    log = Log()
    async with running(None, log, suspend_after_s=10_000) as engine:
        handle = await engine.start(approval, 1)
        await anyio.sleep(100)
        await handle.signal("verdict", {"ok": True, "why": "fine"})
        assert await handle.result() == "<True: fine>"
    assert log == ["approve 0 1", "after 0 1"]


async def test_a_waiting_run_is_unloaded_and_woken_by_its_signal() -> None:
    log = Log()
    async with running(None, log, suspend_after_s=5) as engine:
        handle = await engine.start(approval, 1, run_id="r")
        await anyio.sleep(100)
        assert not in_memory(engine), "a waiting run holds no memory beyond its row"
        record, state = await engine.state("r")
        assert (record.status, record.owner, record.due_at) == ("waiting", None, None)
        assert [view.status for view in state.views()] == ["waiting", "pending"]
        assert "verdict" in state.views()[0].detail
        await handle.signal("verdict", {"ok": False, "why": "no"})
        assert await handle.result() == "<False: no>"
        events = await journal(engine, "r")
    assert log == ["approve 0 1", "approve 0 1", "after 0 1"], "begun anew, the same attempt"
    assert "attempt_failed" not in kinds(events)


async def test_a_signal_from_another_engine_wakes_the_run() -> None:
    store = memory()
    async with running(store, Log(), suspend_after_s=5) as owner, running(store) as other:
        handle = await owner.start(approval, 1, run_id="r")
        await anyio.sleep(100)
        await other.signal("r", "verdict", {"ok": True, "why": "from afar"})
        assert await handle.result() == "<True: from afar>"
        assert await other.handle("r").record() == await handle.record()


async def test_a_signal_to_a_run_that_another_engine_has_in_memory_reaches_it() -> None:
    store = memory()
    async with running(store, Log(), suspend_after_s=10_000) as owner, running(store) as other:
        handle = await owner.start(approval, 1, run_id="r")
        await anyio.sleep(10)
        await other.signal("r", "verdict", {"ok": True, "why": "x"})
        assert await handle.result() == "<True: x>"


async def test_a_signal_that_does_not_fit_is_refused_and_the_wait_goes_on() -> None:
    log = Log()
    async with running(None, log, suspend_after_s=5) as engine:
        handle = await engine.start(approval, 1, run_id="r")
        await handle.signal("verdict", "maybe")
        await anyio.sleep(100)
        assert (await handle.record()).status == "waiting"
        await handle.signal("verdict", {"ok": True, "why": "now it fits"})
        assert await handle.result() == "<True: now it fits>"


async def test_a_refused_signal_does_not_prolong_the_time_out() -> None:
    @tool
    async def impatient(ctx: Context, n: int) -> str:
        try:
            return str(await ctx.signal("n", timeout_s=100, returns=int))
        except TimeoutError:
            return "gave up"

    @workflow
    def asking(n: Ref[int]) -> Ref[str]:
        return impatient(n)

    async with running(suspend_after_s=5) as engine:
        began = now()
        handle = await engine.start(asking, 1)
        await anyio.sleep(60)
        await handle.signal("n", "none")
        assert await handle.result() == "gave up"
        assert now() - began == pytest.approx(100, abs=2)


async def test_signals_of_one_name_are_given_out_in_order_and_once_each() -> None:
    @tool
    async def three(ctx: Context, n: int) -> list[int]:
        return [await ctx.signal("n", returns=int) for _ in range(3)]

    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        return three(n)

    for suspend_after_s in (1, 10_000):
        async with running(suspend_after_s=suspend_after_s) as engine:
            handle = await engine.start(flow, 1)
            for n in (1, 2, 3):
                await anyio.sleep(20)
                await handle.signal("n", n)
            assert await handle.result() == [1, 2, 3]


async def test_two_steps_that_wait_for_one_name_get_one_signal_each() -> None:
    @tool
    async def take(ctx: Context, n: int) -> int:
        await anyio.sleep(n)
        value: int = await ctx.signal("n", returns=int)
        return value

    @tool
    async def pair(ctx: Context, a: int, b: int) -> list[int]:
        return [a, b]

    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        return pair(take(n, id="first"), take(2, id="second", after=n))

    async with running(suspend_after_s=3) as engine:
        handle = await engine.start(flow, 1)
        await anyio.sleep(30)
        await handle.signal("n", 10)
        await anyio.sleep(30)
        await handle.signal("n", 20)
        assert await handle.result() == [10, 20]


async def test_a_wait_with_a_time_out_ends_with_timeout_error_when_nothing_comes() -> None:
    for suspend_after_s in (1, 10_000):
        async with running(None, Log(), suspend_after_s=suspend_after_s) as engine:
            began = now()
            assert await engine.run(patience, 1) == "nobody came"
            assert now() - began == pytest.approx(500, abs=2)


async def test_a_wait_with_a_time_out_gets_a_signal_that_comes_in_time() -> None:
    for suspend_after_s in (1, 10_000):
        async with running(None, Log(), suspend_after_s=suspend_after_s) as engine:
            handle = await engine.start(patience, 1)
            await anyio.sleep(400)
            await handle.signal("go", "in time")
            assert await handle.result() == "in time"


async def test_a_timed_out_wait_waits_anew_in_the_next_attempt() -> None:
    @tool(retries=1, backoff_s=0)
    async def twice(ctx: Context, n: int) -> str:
        note(ctx)
        return str(await ctx.signal("go", timeout_s=100))

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return twice(n)

    log = Log()
    async with running(None, log, suspend_after_s=10_000) as engine:
        handle = await engine.start(flow, 1)
        await anyio.sleep(150)
        assert log == ["twice 0 1", "twice 0 2"]
        await handle.signal("go", "at last")
        assert await handle.result() == "at last"


async def test_a_signal_that_an_attempt_had_is_given_to_the_next_attempt_too() -> None:
    @tool(retries=1, backoff_s=0)
    async def shaky(ctx: Context, n: int) -> str:
        text: str = await ctx.signal("go", returns=str)
        if ctx.attempt == 1:
            raise ConnectionError("afterwards")
        return text

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return shaky(n)

    async with running() as engine:
        handle = await engine.start(flow, 1)
        await handle.signal("go", "once")
        assert await handle.result() == "once"


async def test_a_large_signal_is_delivered_whole() -> None:
    @tool
    async def size(ctx: Context, n: int) -> int:
        return len(await ctx.signal("big", returns=str))

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return size(n)

    for suspend_after_s in (1, 10_000):
        async with running(suspend_after_s=suspend_after_s) as engine:
            handle = await engine.start(flow, 1)
            await anyio.sleep(50)
            await handle.signal("big", "x" * 200_000)
            assert await handle.result() == 200_000


# ---- sleeps


async def test_a_sleep_is_durable_over_unload_and_resume() -> None:
    log = Log()
    async with running(None, log, suspend_after_s=5) as engine:
        began = now()
        handle = await engine.start(napping, 1, run_id="r")
        await anyio.sleep(100)
        record = await handle.record()
        assert (record.status, record.owner) == ("waiting", None)
        assert record.due_at == pytest.approx(began + 1000, abs=0.1)
        assert not in_memory(engine)
        assert await handle.result() == "<slept 1>"
        assert now() - began == pytest.approx(1000, abs=2)
    assert log == ["nap 0 1", "nap 0 1", "after 0 1"]


async def test_after_a_crash_only_what_is_left_of_a_sleep_is_slept() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        began = now()
        await engine.start(napping, 1, run_id="r")
        await anyio.sleep(1)
        slept = of(await journal(engine, "r"), ev.Waiting)[0]
        copy = await crashed(store, "r", slept.seq)
    await anyio.sleep(600)
    async with running(copy, Log()) as engine:
        assert await engine.run(napping, 1, run_id="r") == "<slept 1>"
        assert now() - began == pytest.approx(1000, abs=2)


async def test_a_waiting_run_is_taken_up_by_a_recovering_engine_when_it_is_due() -> None:
    store = memory()
    async with running(store, Log(), suspend_after_s=5) as engine:
        began = now()
        await engine.start(napping, 1, run_id="r")
        await anyio.sleep(50)
    assert (await store.load("r")).record.status == "waiting"
    async with running(store, Log(), workflows=[napping], recover=True) as engine:
        assert await engine.handle("r").result() == "<slept 1>"
        assert now() - began == pytest.approx(1000, abs=2)


async def test_sleeps_and_signals_in_one_node_are_told_apart_by_their_number() -> None:
    @tool
    async def dance(ctx: Context, n: int) -> list[Any]:
        note(ctx)
        await ctx.sleep(100)
        first = await ctx.signal("a", returns=int)
        await ctx.sleep(200)
        second = await ctx.signal("a", returns=int)
        return [first, second]

    @workflow
    def flow(n: Ref[int]) -> Ref[list[Any]]:
        return dance(n)

    store = memory()
    async with running(store, Log(), suspend_after_s=5) as engine:
        handle = await engine.start(flow, 1, run_id="r")
        await anyio.sleep(150)
        await handle.signal("a", 1)
        await anyio.sleep(50)
        await handle.signal("a", 2)
        assert await handle.result() == [1, 2]
        events = await journal(engine, "r")
    for head in range(2, len(events)):
        copy, log = await crashed(store, "r", head), Log()
        came = len(of(events[:head], ev.Signalled))
        async with running(copy, log) as engine:
            handle = await engine.start(flow, 1, run_id="r")
            for n in (1, 2)[came:]:
                await engine.signal("r", "a", n)
            assert await handle.result() == [1, 2], head
        assert not finished(events[:head]).intersection(log)


async def test_what_a_node_did_before_its_wait_comes_from_the_journal_when_it_begins_anew() -> None:
    asked: list[int] = []

    @tool
    async def ask(ctx: Context, n: int) -> int:
        asked.append(n)
        return n + 1

    @tool
    async def works(ctx: Context, n: int) -> int:
        note(ctx)
        found = await ctx.call(ask, n)
        await ctx.sleep(500)
        return found + await ctx.call(ask, 10)

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return works(n)

    log = Log()
    async with running(None, log, suspend_after_s=5) as engine:
        assert await engine.run(flow, 1) == 13
    assert log == ["works 0 1", "works 0 1"]
    assert asked == [1, 10]


async def test_a_waiting_run_is_cancelled() -> None:
    for suspend_after_s in (1, 10_000):
        async with running(None, Log(), suspend_after_s=suspend_after_s) as engine:
            handle = await engine.start(approval, 1)
            await anyio.sleep(50)
            await handle.cancel()
            with pytest.raises(RunCancelled):
                await handle.result()


async def test_the_rest_goes_on_while_a_step_waits() -> None:
    @tool
    async def work(ctx: Context, n: int) -> str:
        note(ctx)
        await anyio.sleep(50)
        return f"worked {n}"

    @tool
    async def both(ctx: Context, a: str, b: str) -> str:
        return f"{a}, {b}"

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return both(patient(n), after(work(n)))

    log = Log()
    async with running(None, log, suspend_after_s=5) as engine:
        handle = await engine.start(flow, 1)
        await anyio.sleep(100)
        assert log == ["patient 0 1", "work 0 1", "after 0 1"]
        await handle.signal("go", "gone")
        assert await handle.result() == "gone, <worked 1>"


async def test_a_step_in_a_durable_wait_takes_no_room_of_parallel_max() -> None:
    from flowkit import Budget

    @tool
    async def work(ctx: Context, n: int) -> str:
        return f"worked {n}"

    @tool
    async def both(ctx: Context, a: str, b: str) -> str:
        return f"{a}, {b}"

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return both(patient(n), work(n))

    async with running(None, Log(), suspend_after_s=10_000) as engine:
        handle = await engine.start(flow, 1, run_id="r", budget=Budget(parallel_max=1))
        await anyio.sleep(50)
        assert [event.key for event in of(await journal(engine, "r"), ev.StepDone)] == ["work"]
        await handle.signal("go", "gone")
        assert await handle.result() == "gone, worked 1"


async def test_once_tools_cannot_wait_durably() -> None:
    @tool(effect="once")
    async def pay(ctx: Context, n: int) -> int:
        await ctx.sleep(10)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return pay(n)

    async with running() as engine:
        with pytest.raises(StepFailed, match="once"):
            await engine.run(flow, 1)


async def test_a_durable_wait_does_not_use_up_the_attempts_timeout() -> None:
    @tool(timeout_s=50)
    async def ask(ctx: Context, n: int) -> str:
        return str(await ctx.signal("go"))

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return ask(n)

    for suspend_after_s in (1, 10_000):
        async with running(suspend_after_s=suspend_after_s) as engine:
            handle = await engine.start(flow, 1)
            await anyio.sleep(1000)
            await handle.signal("go", "late")
            assert await handle.result() == "late"


async def test_a_failed_run_with_a_waiting_step_ends() -> None:
    @tool
    async def breaks(ctx: Context, n: int) -> str:
        await anyio.sleep(20)
        raise ConnectionError("broken")

    @tool
    async def both(ctx: Context, a: str, b: str) -> str:
        return f"{a}, {b}"

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return both(approve(n), breaks(n))

    for suspend_after_s in (1, 10_000):
        async with running(None, Log(), suspend_after_s=suspend_after_s) as engine:
            with pytest.raises(StepFailed, match="broken"):
                await engine.run(flow, 1)


async def test_after_retry_the_waiting_step_still_waits_for_its_signal() -> None:
    @tool
    async def breaks(ctx: Context, n: int) -> str:
        await anyio.sleep(20)
        if ctx.attempt == 1:
            raise ConnectionError("broken")
        return "mended"

    @tool
    async def both(ctx: Context, a: str, b: str) -> str:
        return f"{a}, {b}"

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return both(approve(n), breaks(n))

    async with running(None, Log()) as engine:
        with pytest.raises(StepFailed, match="broken"):
            await engine.run(flow, 1, run_id="r")
        handle = await engine.retry("r")
        await anyio.sleep(100)
        await handle.signal("verdict", {"ok": True})
        assert await handle.result() == "True: , mended"


async def test_a_later_attempt_that_waits_is_not_begun_again_before_its_signal() -> None:
    @tool(retries=1, backoff_s=0.1)
    async def second(ctx: Context, n: int) -> str:
        note(ctx)
        if ctx.attempt == 1:
            raise ConnectionError("down")
        return str(await ctx.signal("go"))

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return second(n)

    store = memory()
    async with running(store, Log()) as engine:
        handle = await engine.start(flow, 1, run_id="r")
        await anyio.sleep(100)
        waiting = of(await journal(engine, "r"), ev.Waiting)[0]
        await handle.cancel()
    log = Log()
    async with running(await crashed(store, "r", waiting.seq), log) as engine:
        handle = await engine.start(flow, 1, run_id="r")
        await anyio.sleep(100)
        assert log == ["second 0 2"], "in flight at the crash, so begun again, once"
        await handle.signal("go", "on")
        assert await handle.result() == "on"
    assert set(log) == {"second 0 2"}


async def test_a_wait_that_the_node_gives_up_does_not_stop_its_other_work() -> None:
    @tool
    async def patient(ctx: Context, n: int) -> str:
        note(ctx)
        with anyio.move_on_after(10):
            return str(await ctx.signal("go"))
        await anyio.sleep(100)
        return "did it alone"

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return patient(n)

    store, log = memory(), Log()
    async with running(store, log, suspend_after_s=20) as engine:
        assert await engine.run(flow, 1, run_id="r") == "did it alone"
    assert log == ["patient 0 1"]
    waiting = of((await store.load("r")).events, ev.Waiting)[0]
    copy = await crashed(store, "r", waiting.seq)
    async with running(copy, Log(), suspend_after_s=20) as engine:
        assert await engine.run(flow, 1, run_id="r") == "did it alone"


async def test_a_durable_wait_in_a_task_beside_the_node_is_refused_in_words() -> None:
    @tool
    async def both(ctx: Context, n: int) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ctx.signal, "go")
        return "never"

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return both(n)

    async with running() as engine:
        with pytest.raises(StepFailed):
            await engine.run(flow, 1, run_id="r")


@pytest.mark.xfail(
    reason="flowkit/context.py: an attempt that is at its recorded wait again tells nobody",
    strict=True,
)
async def test_a_run_that_died_in_a_wait_is_suspended_again() -> None:
    """The wait is recorded already, so no event of its own says that nothing runs any more."""
    store = memory()
    async with running(store, Log(), suspend_after_s=10_000) as engine:
        handle = await engine.start(approval, 1, run_id="r")
        head = 0
        async with aclosing(handle.events()) as events:
            async for event in events:
                head = event.seq
                if isinstance(event.payload, ev.Waiting):
                    break
    copy = await crashed(store, "r", head)
    async with running(copy, Log(), suspend_after_s=5, workflows=[approval]) as engine:
        await engine.take("r")
        await anyio.sleep(60)
        assert in_memory(engine) == []
        assert (await engine.handle("r").record()).status == "waiting"
