"""Rules of asking a model: every try is journaled, what follows is recorded, usage is folded."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

import flowkit.events as ev
from flowkit import Budget, BudgetExceeded, Context, FlowkitError, Ref, StepFailed, workflow
from flowkit.chat import ChatMessage, Delta, ModelAnswer, ModelRequest, OnDelta, Usage
from flowkit.errors import ContextOverflow, ModelNotFound, ModelUnavailable, RateLimited
from flowkit.nodes import Plan, planner, tool
from flowkit.policy import Policy
from tests.scenario.kit import crashed, journal, memory, of, running

Said = str | Exception


class Speaker:
    """A model that says one thing after the other, the last one again and again."""

    def __init__(self, *says: Said, name: str = "speaker") -> None:
        self.name = name
        self.says = list(says)
        self.asked: list[ModelRequest] = []

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        self.asked.append(request)
        await anyio.sleep(0.1)
        said = self.says[min(len(self.asked), len(self.says)) - 1]
        if isinstance(said, Exception):
            raise said
        if on_delta is not None:
            await on_delta(Delta(reasoning="hm"))
            await on_delta(Delta(text=said))
        return ModelAnswer(ChatMessage("assistant", said, reasoning="hm"), usage=Usage(10, 2))


@tool
async def ask(ctx: Context, text: str) -> str:
    return await ctx.model.complete(text)


@workflow
def asking(text: Ref[str]) -> Ref[str]:
    return ask(text)


def answered(events: Sequence[ev.Event]) -> list[ev.ModelAnswered]:
    return [each.payload for each in events if isinstance(each.payload, ev.ModelAnswered)]


async def test_an_error_that_may_pass_is_tried_again_and_every_try_is_an_event() -> None:
    model = Speaker(ModelUnavailable("busy"), RateLimited("slow", retry_after_s=30), "yes")
    async with running(model=model) as engine:
        assert await engine.run(asking, "?", run_id="r") == "yes"
        events = await journal(engine, "r")
    tries = answered(events)
    assert [each.error.type if each.error else "" for each in tries] == [
        "ModelUnavailable",
        "RateLimited",
        "",
    ]
    assert [each.n for each in tries] == [1, 2, 3]
    times = [event.at for event in of(events, ev.ModelAnswered)]
    assert 0.5 <= times[1] - times[0] <= 1.2, "backoff of a second, a random half of it left out"
    assert times[2] - times[1] == pytest.approx(30.1), "Retry-After comes before the backoff"
    assert tries[2].usage == Usage(10, 2)


async def test_tries_are_counted_on_after_a_crash() -> None:
    policy = Policy(retries=2, backoff_s=1)
    store = memory()
    with pytest.raises(StepFailed, match="busy"):
        async with running(
            store, model=Speaker(ModelUnavailable("busy")), model_policy=policy
        ) as e:
            await e.run(asking, "?", run_id="r")
    events = (await store.load("r")).events
    tries = [event.seq for event in of(events, ev.ModelAnswered)]
    assert len(tries) == 3
    for done, seq in enumerate(tries, 1):
        model = Speaker(ModelUnavailable("busy"))
        async with running(await crashed(store, "r", seq), model=model, model_policy=policy) as e:
            with pytest.raises(StepFailed, match="busy"):
                await e.run(asking, "?", run_id="r")
        assert len(model.asked) == 3 - done


async def test_what_no_try_helps_against_goes_to_the_next_model() -> None:
    retired, other = Speaker(ModelNotFound("retired"), name="old"), Speaker("yes", name="new")
    async with running(model=[retired, other]) as engine:
        assert await engine.run(asking, "?", run_id="r") == "yes"
        tries = answered(await journal(engine, "r"))
    assert [(each.model, bool(each.error), each.retry_at) for each in tries] == [
        ("old", True, None),
        ("new", False, None),
    ]


async def test_a_model_whose_tries_are_used_up_is_followed_by_the_next() -> None:
    busy, other = Speaker(ModelUnavailable("busy")), Speaker("yes")
    async with running(model=[busy, other], model_policy=Policy(retries=1)) as engine:
        assert await engine.run(asking, "?") == "yes"
    assert (len(busy.asked), len(other.asked)) == (2, 1)


async def test_a_talk_that_is_too_long_is_neither_tried_again_nor_given_to_another() -> None:
    full, other = Speaker(ContextOverflow("too long")), Speaker("yes")
    async with running(model=[full, other]) as engine:
        with pytest.raises(StepFailed, match="too long"):
            await engine.run(asking, "?")
    assert (len(full.asked), len(other.asked)) == (1, 0)


async def test_a_node_may_have_models_of_its_own() -> None:
    own, general = Speaker("mine"), Speaker("ours")

    @tool
    async def particular(ctx: Context, text: str) -> str:
        return await ctx.model.complete(text)

    particular.models = (own,)

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return particular(ask(text))

    async with running(model=general) as engine:
        assert await engine.run(flow, "?") == "mine"
    assert own.asked[0].messages[0].content == "ours"


async def test_reasoning_is_kept_and_told_while_it_comes() -> None:
    pieces: list[object] = []
    async with running(model=Speaker("yes")) as engine:
        handle = await engine.start(asking, "?", run_id="r")
        async for event in handle.events(live=True):
            if isinstance(event.payload, ev.Progress):
                pieces.append(event.payload.data)
        stored = answered(await journal(engine, "r"))[0].value
    assert pieces == [{"reasoning": "hm"}, {"delta": "yes"}]
    assert stored is not None
    assert '"reasoning":"hm"' in (stored.text or "")


@planner(tools=[ask])
async def chatty(ctx: Context, text: str) -> Plan | str:
    if len(ctx.turns) == 5:
        return "enough"
    said = await ctx.model.complete(f"{text} {len(ctx.turns)}")
    return Plan([ask.step(said, id="a")], again=True)


@workflow
def chat(text: Ref[str]) -> Ref[str]:
    return chatty(text)


@pytest.mark.parametrize(
    ("budget", "match"),
    [
        (Budget(tokens_in_max=30), "30 of 30 tokens in"),
        (Budget(tokens_out_max=5), "6 of 5 tokens out"),
        (Budget(turns_max=2), "2 of 2 planners' turns"),
        (Budget(tool_calls_max=2), "2 of 2 tool calls"),
    ],
    ids=["in", "out", "turns", "calls"],
)
async def test_what_is_used_counts_over_a_crash(budget: Budget, match: str) -> None:
    store = memory()
    async with running(store, model=Speaker("yes")) as engine:
        with pytest.raises(BudgetExceeded, match=match):
            await engine.run(chat, "?", run_id="r", budget=budget)
    head = (await store.load("r")).record.head
    for seq in range(2, head):
        async with running(await crashed(store, "r", seq), model=Speaker("yes")) as engine:
            with pytest.raises(BudgetExceeded, match=match):
                await engine.run(chat, "?", run_id="r")


async def test_a_planner_that_used_its_share_of_tokens_gets_a_last_turn() -> None:
    last: list[bool] = []

    @planner(tools=[ask])
    async def frugal(ctx: Context, text: str) -> Plan | str:
        last.append(ctx.last_turn)
        return "done" if ctx.last_turn else Plan([ask.step(text, id="a")])

    frugal.limits = type(frugal.limits)(tokens_max=20)

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return frugal(text)

    async with running(model=Speaker("yes")) as engine:
        assert await engine.run(flow, "?") == "done"
    assert last == [False, False, True], "12 tokens a call: the share of 20 is used up after two"


async def test_turns_show_what_the_model_said() -> None:
    said: list[str | None] = []

    @planner(tools=[ask])
    async def looks(ctx: Context, text: str) -> Plan | str:
        if ctx.turns:
            said.append(ctx.turns[0].answers[""].message.content)
            said.append(ctx.turns[0].answers["aside"].message.content)
            return ctx.turns[0].texts["a"]
        await ctx.model.complete("beside", purpose="aside")
        return Plan([ask.step(await ctx.model.complete(text), id="a")])

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return looks(text)

    store = memory()
    async with running(store, model=Speaker("one", "two", "three")) as engine:
        assert await engine.run(flow, "?", run_id="r") == '"three"'
    assert said == ["two", "one"]
    for seq in range(3, (await store.load("r")).record.head):
        async with running(await crashed(store, "r", seq), model=Speaker("x")) as engine:
            await engine.run(flow, "?", run_id="r")


async def test_no_model_is_an_error_that_says_what_to_do() -> None:
    async with running() as engine:
        with pytest.raises(FlowkitError, match="model="):
            await engine.run(asking, "?")
