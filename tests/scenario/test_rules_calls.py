"""Rules of calls inside a node: journaled as they return, keyed by the request, given back after a crash."""

from __future__ import annotations

import anyio
import pytest

import flowkit.events as ev
from flowkit import Context, Fatal, FlowkitError, Ref, Reject, StepFailed, workflow
from flowkit.chat import ChatMessage, ModelAnswer, ModelRequest, OnDelta
from flowkit.nodes import Fallback, tool, verifier
from tests.scenario.kit import (
    Log,
    crashed,
    journal,
    memory,
    note,
    of,
    running,
)


class Calls(list[str]):
    """What was really called."""


@tool
async def ask(ctx: Context, text: str) -> str:
    ctx.resource(Calls).append(text)
    await anyio.sleep(1)
    return f"{text} #{len(ctx.resource(Calls))}"


class Parrot:
    """A model that repeats, and counts."""

    name = "parrot"

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        await anyio.sleep(1)
        text = str(request.messages[-1].content)
        self.asked.append(text)
        return ModelAnswer(ChatMessage("assistant", f"{text} #{len(self.asked)}"))


@tool
async def talks(ctx: Context, text: str) -> list[str]:
    note(ctx)
    return [
        await ctx.call(ask, f"{text} 1"),
        await ctx.model.complete(f"{text} 2"),
        await ctx.call(ask, f"{text} 1"),
        await ctx.model.complete(f"{text} 3"),
    ]


@workflow
def talking(text: Ref[str]) -> Ref[list[str]]:
    return talks(text)


async def test_calls_and_model_answers_are_journaled_as_they_return() -> None:
    async with running(None, Log(), Calls(), model=Parrot()) as engine:
        await engine.run(talking, "hi", run_id="r")
        events = await journal(engine, "r")
    asked = [event for event in events if isinstance(event.payload, ev.ToolAnswered)]
    said = of(events, ev.ModelAnswered)
    assert [event.kind for event in events[2:6]] == [
        "tool_answered", "model_answered", "tool_answered", "model_answered"
    ]  # fmt: skip
    assert {(event.key, event.attempt) for event in [*asked, *said]} == {("talks", 1)}
    first, second = (event.payload for event in asked)
    assert isinstance(first, ev.ToolAnswered)
    assert isinstance(second, ev.ToolAnswered)
    assert first.request == second.request
    assert (first.n, second.n) == (1, 2), "a counter among identical requests"


async def test_after_a_crash_recorded_answers_are_given_back_and_the_rest_is_asked() -> None:
    store = memory()
    async with running(store, Log(), Calls(), model=Parrot()) as engine:
        result = await engine.run(talking, "hi", run_id="r")
        events = await journal(engine, "r")
    assert result == ["hi 1 #1", "hi 2 #1", "hi 1 #2", "hi 3 #2"]
    for head in range(2, 7):
        log, calls, model = Log(), Calls(), Parrot()
        copy = await crashed(store, "r", head)
        async with running(copy, log, calls, model=model) as engine:
            again = await engine.run(talking, "hi", run_id="r")
        recorded = head - 2
        assert again[:recorded] == result[:recorded]
        assert len(calls) + len(model.asked) == 4 - recorded
        assert log == ["talks 0 1"], "a crash does not use up an attempt"
    assert len(events) == 8


async def test_a_failed_attempts_answers_are_not_given_to_the_next_attempt() -> None:
    @tool(retries=1, backoff_s=0)
    async def shaky(ctx: Context, text: str) -> str:
        answer: str = await ctx.call(ask, text)
        if ctx.attempt == 1:
            raise ConnectionError("afterwards")
        return answer

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return shaky(text)

    calls = Calls()
    async with running(None, calls) as engine:
        assert await engine.run(flow, "hi") == "hi #2"
    assert calls == ["hi", "hi"]


async def test_a_rejected_rounds_answers_are_not_reused() -> None:
    @tool
    async def writes(ctx: Context, text: str) -> str:
        answer: str = await ctx.call(ask, text)
        return answer

    @verifier
    async def second(ctx: Context, text: str) -> None:
        if text.endswith("#1"):
            raise Reject("again")

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return second(writes(text))

    async with running(None, Calls()) as engine:
        assert await engine.run(flow, "hi") == "hi #2"


async def test_parallel_calls_are_told_apart_by_their_request_not_by_their_order() -> None:
    @tool
    async def delayed(ctx: Context, delay: int) -> int:
        ctx.resource(Calls).append(str(delay))
        await anyio.sleep(delay)
        return delay * 10

    @tool
    async def fans(ctx: Context, delays: list[int]) -> list[int]:
        found: dict[int, int] = {}

        async def one(delay: int) -> None:
            found[delay] = await ctx.call(delayed, delay)

        order = delays if not ctx.resource(Flag).reverse else reversed(delays)
        async with anyio.create_task_group() as tasks:
            for delay in order:
                tasks.start_soon(one, delay)
        return [found[delay] for delay in delays]

    @workflow
    def flow(delays: Ref[list[int]]) -> Ref[list[int]]:
        return fans(delays)

    store = memory()
    async with running(store, Calls(), Flag()) as engine:
        assert await engine.run(flow, [3, 1, 2], run_id="r") == [30, 10, 20]
    for head, left in ((3, ["2", "3"]), (4, ["3"]), (5, [])):
        calls = Calls()
        async with running(await crashed(store, "r", head), calls, Flag(reverse=True)) as engine:
            assert await engine.run(flow, [3, 1, 2], run_id="r") == [30, 10, 20]
        assert sorted(calls) == left


class Flag:
    def __init__(self, *, reverse: bool = False) -> None:
        self.reverse = reverse


async def test_a_call_uses_the_tools_retries_and_alternatives() -> None:
    @tool(retries=1, backoff_s=0)
    async def down(ctx: Context, text: str) -> str:
        ctx.resource(Calls).append("down")
        raise ConnectionError("down")

    @tool
    async def calls_it(ctx: Context, text: str) -> str:
        answer: str = await ctx.call(down | ask, text)
        return answer

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return calls_it(text)

    calls = Calls()
    async with running(None, calls) as engine:
        assert await engine.run(flow, "hi") == "hi #3"
    assert calls == ["down", "down", "hi"]


async def test_a_call_moves_to_the_next_alternative_for_the_errors_of_on_only() -> None:
    @tool
    async def wrong(ctx: Context, text: str) -> str:
        raise ValueError("wrong")

    @tool
    async def calls_it(ctx: Context, text: str) -> str:
        answer: str = await ctx.call(Fallback(wrong, ask, on=(ConnectionError,)), text)
        return answer

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return calls_it(text)

    async with running(None, Calls()) as engine:
        with pytest.raises(StepFailed, match="wrong"):
            await engine.run(flow, "hi")


async def test_a_failed_call_raises_in_the_node_which_may_go_on() -> None:
    @tool
    async def down(ctx: Context, text: str) -> str:
        raise ConnectionError("down")

    @tool
    async def copes(ctx: Context, text: str) -> str:
        try:
            await ctx.call(down, text)
        except FlowkitError as error:
            return f"coped with {error}"
        return "?"

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return copes(text)

    async with running() as engine:
        assert "down" in await engine.run(flow, "hi")


async def test_fatal_in_a_called_tool_ends_the_run() -> None:
    @tool
    async def doomed(ctx: Context, text: str) -> str:
        raise Fatal("the end")

    @tool(retries=3)
    async def calls_it(ctx: Context, text: str) -> str:
        note(ctx)
        answer: str = await ctx.call(doomed, text)
        return answer

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return calls_it(text)

    log = Log()
    async with running(None, log) as engine:
        with pytest.raises(StepFailed, match="the end"):
            await engine.run(flow, "hi")
    assert log == ["calls_it 0 1"]


async def test_a_once_tool_cannot_be_called_inside_a_node() -> None:
    @tool(effect="once")
    async def pay(ctx: Context, text: str) -> str:
        return text

    @tool
    async def calls_it(ctx: Context, text: str) -> str:
        answer: str = await ctx.call(pay, text)
        return answer

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return calls_it(text)

    async with running() as engine:
        with pytest.raises(StepFailed, match="once"):
            await engine.run(flow, "hi")


async def test_each_call_has_an_idempotency_key_of_its_own_the_same_on_a_repeat() -> None:
    keys: list[str] = []

    @tool
    async def keyed(ctx: Context, text: str) -> str:
        keys.append(ctx.idempotency_key)
        return text

    @tool
    async def calls_it(ctx: Context, text: str) -> str:
        keys.append(ctx.idempotency_key)
        await ctx.call(keyed, "a")
        await ctx.call(keyed, "b")
        await ctx.call(keyed, "a")
        return text

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return calls_it(text)

    store = memory()
    async with running(store) as engine:
        await engine.run(flow, "hi", run_id="r")
    assert len(set(keys)) == 4
    first = list(keys)
    del keys[:]
    async with running(await crashed(store, "r", 2)) as engine:
        await engine.run(flow, "hi", run_id="r")
    assert keys == first


async def test_a_called_tools_concurrency_counts_too() -> None:
    inside: list[int] = [0, 0]

    @tool(concurrency=2)
    async def narrow(ctx: Context, n: int) -> int:
        inside[0] += 1
        inside[1] = max(inside)
        await anyio.sleep(1)
        inside[0] -= 1
        return n

    @tool
    async def fans(ctx: Context, n: int) -> int:
        async with anyio.create_task_group() as tasks:
            for index in range(n):
                tasks.start_soon(ctx.call, narrow, index)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return fans(n)

    async with running() as engine:
        assert await engine.run(flow, 6) == 6
    assert inside[1] == 2


async def test_a_node_that_asks_a_model_says_so_when_the_engine_has_none() -> None:
    async with running(None, Log(), Calls()) as engine:
        with pytest.raises(StepFailed, match="model="):
            await engine.run(talking, "hi")


async def test_what_a_call_gives_is_what_was_stored_not_what_was_returned() -> None:
    @tool
    async def gives(ctx: Context, n: int) -> list[int]:
        return [n]

    @tool
    async def calls_it(ctx: Context, n: int) -> list[list[int]]:
        first = await ctx.call(gives, n)
        first.append(99)
        return [first, await ctx.call(gives, n)]

    @workflow
    def flow(n: Ref[int]) -> Ref[list[list[int]]]:
        return calls_it(n)

    async with running() as engine:
        assert await engine.run(flow, 1) == [[1, 99], [1]]
