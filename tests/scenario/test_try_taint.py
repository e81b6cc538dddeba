from __future__ import annotations
from typing import Any
import anyio, pytest
import flowkit.events as ev
from flowkit import Approve, Context, Engine, Ref, StepFailed, workflow
from flowkit.nodes import tool
from tests.scenario.kit import Log, crashed, journal, memory, now, of, running
from tests.scenario.test_rules_approvals import asked, sent, pay, paying, customer, page, mail

async def test_retry_after_signal() -> None:
    log = Log()
    @tool(approve="always")
    async def step(ctx: Context, n: int) -> int:
        await ctx.signal("go")
        sent(ctx, str(n))
        if len(log) == 1: raise ValueError("x")
        return n
    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return step(n)
    async with running(None, log) as engine:
        h = await engine.start(flow, 1, run_id="r")
        await asked(engine, "r"); await engine.approve("r", "step")
        await engine.signal("r", "go")
        with pytest.raises(StepFailed): await h.result()
        await engine.retry("r")
        await anyio.sleep(100)
        assert len(log) == 1
        await asked(engine, "r")

async def test_fork_in_flight_with_calls() -> None:
    log = Log()
    @tool
    async def helper(ctx: Context, n: int) -> int: return n
    @tool(approve="always")
    async def step(ctx: Context, n: int) -> int:
        await ctx.call(helper, n)
        await anyio.sleep(50)
        sent(ctx, f"{ctx.run_id}")
        return n
    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return step(n)
    async with running(None, log) as engine:
        h = await engine.start(flow, 1, run_id="r")
        await asked(engine, "r"); await engine.approve("r", "step")
        await anyio.sleep(10)
        await engine.fork("r", new_id="f")
        await anyio.sleep(200)
        assert list(log) == ["step: r"]
        await asked(engine, "f")

async def test_fork_unknown() -> None:
    store, log = memory(), Log()
    async with running(store, log) as engine:
        await engine.start(paying, 7, run_id="r")
        await asked(engine, "r"); await engine.approve("r", "pay")
        await engine.handle("r").result()
        events = await journal(engine, "r")
    late = await crashed(store, "r", of(events, ev.Intent)[0].seq)
    async with running(late, log, workflows=[paying]) as engine:
        await engine.start(paying, 7, run_id="r")
        await anyio.sleep(10)
        await engine.fork("r", new_id="f")
        await anyio.sleep(10)
        log.clear()
        await engine.decide("f", "pay", "repeat")
        await anyio.sleep(100)
        assert log == []
        await asked(engine, "f")

async def test_room() -> None:
    log = Log()
    @tool(approve=Approve("always", valid_s=60), concurrency=1)
    async def step(ctx: Context, n: int) -> int:
        sent(ctx, f"{ctx.run_id} at {now()}")
        await anyio.sleep(500)
        return n
    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return step(n)
    async with running(None, log) as engine:
        for r in "ab":
            await engine.start(flow, 1, run_id=r)
            await asked(engine, r); await engine.approve(r, "step")
        await anyio.sleep(700)
        assert len(log) == 1, log
        await asked(engine, "b")
        await engine.approve("b", "step")
        await engine.handle("b").result()

async def test_deploy_in_flight() -> None:
    log = Log()
    @tool
    async def helper(ctx: Context, n: int) -> int: return n
    def make(**o: Any):
        @tool(**o)
        async def step(ctx: Context, n: int) -> int:
            await ctx.call(helper, n)
            await anyio.sleep(50)
            sent(ctx, f"{ctx.run_id}")
            return n
        @workflow
        def flow(n: Ref[int]) -> Ref[int]:
            return step(n)
        return flow
    store = memory()
    old, new = make(), make(approve="always")
    async with running(store, log) as engine:
        h = await engine.start(old, 1, run_id="r")
        await h.result()
        events = await journal(engine, "r")
    log.clear()
    late = await crashed(store, "r", of(events, ev.ToolAnswered)[0].seq)
    async with running(late, log, workflows=[new]) as engine:
        await engine.take("r", on_change="keep")
        await anyio.sleep(200)
        assert list(log) == []
        await asked(engine, "r")
