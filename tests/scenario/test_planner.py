"""The ready-made planner: asked turn after turn, until it answers; whatever a model says to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

import flowkit.events as ev
from flowkit import (
    Budget,
    BudgetExceeded,
    Context,
    DeclarationError,
    Ref,
    Reject,
    Rejected,
    StepFailed,
    workflow,
)
from flowkit.chat import ChatMessage, ModelAnswer, ModelRequest, Usage
from flowkit.errors import BadModelAnswer, ContextOverflow
from flowkit.nodes import Fallback, Planner, best_of, tool, verifier
from flowkit.nodes.context import HideResults, KeepLast, RestateGoal, Summarise, force_tool
from flowkit.testing import ScriptedModel, calls, says
from tests.scenario.kit import Log, crashed, journal, memory, note, of, running


class Question(BaseModel):
    text: str


class Report(BaseModel):
    text: str
    sources: list[str] = []


@tool
async def search(ctx: Context, query: str) -> list[str]:
    """Find pages."""
    note(ctx)
    if "bad" in query:
        raise OSError("the index is down")
    return [f"page about {query}"]


@tool(effect="once")
async def send(ctx: Context, text: str) -> str:
    note(ctx)
    return f"sent {text}"


def answer(text: str, **more: Any) -> ChatMessage:
    return calls(("answer", {"text": text, **more}))


def heard(request: ModelRequest) -> list[str]:
    """What the model was told by tools, oldest first."""
    return [each.content or "" for each in request.messages if each.role == "tool"]


def agent(**options: Any) -> Planner[Question, Report]:
    tools = options.pop("tools", [search, send])
    return Planner("Answer.", takes=Question, returns=Report, tools=tools, **options)


def flow_of(node: Planner[Question, Report]) -> Any:
    @workflow
    def flow(question: Ref[Question]) -> Ref[Report]:
        return node(question)

    return flow


plain = flow_of(agent())
WHY = Question(text="why?")


async def test_calls_become_steps_side_by_side_and_their_results_go_back() -> None:
    model = ScriptedModel(
        [
            calls(("search", {"query": "a"}), ("search", {"query": "b"}), reasoning="hm"),
            answer("ok"),
        ]
    )
    log = Log()
    async with running(None, log, model=model) as engine:
        assert await engine.run(plain, WHY, run_id="r") == Report(text="ok")
        events = await journal(engine, "r")
    assert log == ["planner/t1/search-1 0 1", "planner/t1/search-2 0 1"]
    first, second = model.requests
    assert [each["name"] for each in first.tools] == ["search", "send", "recall", "answer"]
    assert [each.role for each in second.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
    ]
    assert second.messages[2].reasoning == "hm"
    assert heard(second) == ['["page about a"]', '["page about b"]']
    planned = of(events, ev.Planned)[0].payload
    assert isinstance(planned, ev.Planned)
    assert [each.how for each in planned.calls] == ["valid", "valid"]


async def test_the_same_messages_are_sent_again_turn_after_turn() -> None:
    script = [calls(("search", {"query": str(n)})) for n in range(5)]
    model = ScriptedModel([*script, answer("ok")])
    async with running(None, Log(), model=model) as engine:
        await engine.run(plain, WHY)
    for before, after in zip(model.requests, model.requests[1:], strict=False):
        for old, new in zip(before.messages, after.messages, strict=False):
            assert old is new, "the client keeps the encoded form of each message"


async def test_failures_refusals_and_unknown_tools_are_told_and_end_nothing() -> None:
    model = ScriptedModel(
        [
            calls(("search", {"query": "bad"}), ("serch", {"query": "x"}), ("search", {"q": 1})),
            "never json",
            answer("ok"),
        ]
    )
    async with running(None, Log(), model=model) as engine:
        assert (await engine.run(plain, WHY, run_id="r")).text == "ok"
    told = heard(model.requests[-1])
    assert told[0] == "error: OSError: the index is down"
    assert "did you mean search" in told[1]
    assert "was not called" in told[2]
    assert "syntax expert" in (model.requests[1].messages[0].content or "")


async def test_a_call_is_corrected_once_and_the_history_shows_what_was_run() -> None:
    broken = calls(("search", '{"query": nonsense here'))
    model = ScriptedModel([broken, '{"query": "mended"}', answer("ok")])
    log = Log()
    async with running(None, log, model=model) as engine:
        await engine.run(plain, WHY, run_id="r")
        events = await journal(engine, "r")
    assert model.requests[-1].messages[2].tool_calls[0].arguments == '{"query":"mended"}'
    planned = of(events, ev.Planned)[0].payload
    assert isinstance(planned, ev.Planned)
    assert planned.calls[0].how == "corrected"
    assert len(log) == 1


async def test_once_never_runs_on_a_repair() -> None:
    model = ScriptedModel([calls(("send", "{'text': 'hi',}")), '{"text": "hi"}', answer("ok")])
    log = Log()
    async with running(None, log, model=model) as engine:
        await engine.run(plain, WHY)
    assert "syntax expert" in (model.requests[1].messages[0].content or "")
    assert log == ["planner/t1/send-1 0 1"]


async def test_text_that_is_no_answer_is_given_back() -> None:
    model = ScriptedModel(["I think so.", answer("ok")])
    async with running(None, Log(), model=model) as engine:
        assert (await engine.run(plain, WHY)).text == "ok"
    assert "no answer" in (model.requests[1].messages[-1].content or "")
    stubborn = ScriptedModel(lambda request, index: "no")
    async with running(None, Log(), model=stubborn) as engine:
        with pytest.raises(StepFailed, match="3 tries"):
            await engine.run(plain, WHY)


async def test_plain_text_answers_where_text_is_wanted() -> None:
    node = Planner("Say.", takes=str, returns=str, tools=[search])

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return node(text)

    async with running(None, Log(), model=ScriptedModel(["hello"])) as engine:
        assert await engine.run(flow, "x") == "hello"


async def test_an_answer_beside_other_calls_waits_for_their_results() -> None:
    both = calls(("search", {"query": "a"}), ("answer", {"text": "early"}))
    model = ScriptedModel([both, answer("late")])
    async with running(None, Log(), model=model) as engine:
        assert (await engine.run(plain, WHY)).text == "late"
    assert "call it alone" in heard(model.requests[1])[1]


async def test_a_rejected_answer_is_one_more_turn_with_the_feedback() -> None:
    @verifier
    async def cites(ctx: Context, report: Report) -> None:
        if not report.sources:
            raise Reject("cite a source")

    node = agent()

    @workflow
    def flow(question: Ref[Question]) -> Ref[Report]:
        return cites(node(question))

    model = ScriptedModel(
        [calls(("search", {"query": "a"})), answer("bare"), answer("good", sources=["a"])]
    )
    store = memory()
    async with running(store, Log(), model=model) as engine:
        assert (await engine.run(flow, WHY, run_id="r")).sources == ["a"]
    assert heard(model.requests[2])[-1] == "error: this answer was not accepted: cite a source"
    replay = ScriptedModel(_by_turn(model))
    for seq in range(2, (await store.load("r")).record.head):
        async with running(await crashed(store, "r", seq), Log(), model=replay) as engine:
            assert (await engine.run(flow, WHY, run_id="r")).sources == ["a"]


def _by_turn(model: ScriptedModel) -> Callable[[ModelRequest, int], ChatMessage]:
    """What was answered to the very same messages; anything else was never asked."""
    script = [calls(("search", {"query": "a"})), answer("bare"), answer("good", sources=["a"])]
    known = {_shown(request): said for request, said in zip(model.requests, script, strict=True)}
    return lambda request, index: known[_shown(request)]


def _shown(request: ModelRequest) -> str:
    return json.dumps([repr(each) for each in request.messages])


async def test_the_last_turn_has_no_tools_and_must_answer() -> None:
    def script(request: ModelRequest, index: int) -> ChatMessage:
        if request.tools:
            return calls(("search", {"query": str(index)}))
        return says('{"text": "what there is"}')

    for budget, options in (
        (Budget(tool_calls_max=3, on_budget="answer"), {}),
        (Budget(), {"turns_max": 4}),
    ):
        model = ScriptedModel(script)
        async with running(None, Log(), model=model) as engine:
            found = await engine.run(flow_of(agent(**options)), WHY, budget=budget)
        assert found.text == "what there is"
        assert model.requests[-1].schema is not None
        assert len(model.requests) == 4


async def test_the_very_same_call_is_noticed_and_refused_in_the_end() -> None:
    same: Sequence[ChatMessage] = [calls(("search", {"query": "a"}))] * 4
    model = ScriptedModel([*same, answer("ok")])
    log = Log()
    async with running(None, log, model=model) as engine:
        await engine.run(plain, WHY)
    told = heard(model.requests[-1])
    assert "1 turns before" in told[1]
    assert told[3].startswith("error: this very call was made 3 times")
    assert len(log) == 3


async def test_upfront_asks_for_a_whole_plan_first_and_comes_back_to_it() -> None:
    @tool
    async def join(ctx: Context, a: list[str], b: list[str]) -> str:
        return " + ".join([*a, *b])

    steps = [
        {"id": "one", "tool": "search", "args": {"query": "a"}},
        {"id": "two", "tool": "search", "args": {"query": "b"}},
        {"id": "both", "tool": "join", "args": {"a": {"$step": "one"}, "b": {"$step": "two"}}},
    ]
    model = ScriptedModel([answer("early"), calls(("plan", {"steps": steps})), answer("ok")])
    async with running(None, Log(), model=model) as engine:
        flow = flow_of(agent(style="upfront", tools=[search, join]))
        assert (await engine.run(flow, WHY)).text == "ok"
    first, second, third = model.requests
    assert [each["name"] for each in first.tools] == ["plan"]
    assert "Plan first" in (second.messages[-1].content or "")
    results = json.loads(heard(third)[0])
    assert results["both"] == "page about a + page about b"
    assert [each["name"] for each in third.tools] == ["plan", "recall", "answer"]


async def test_a_talk_that_is_too_long_is_made_shorter() -> None:
    asked: list[int] = []

    def script(request: ModelRequest, index: int) -> Any:
        asked.append(len(request.messages))
        size = sum(len(each.content or "") for each in request.messages)
        if size > 3000:
            return ContextOverflow("too long")
        return answer("ok") if index > 8 else calls(("look", {"query": f"{index}"}))

    @tool
    async def look(ctx: Context, query: str) -> str:
        return query * 1000

    async with running(None, Log(), model=ScriptedModel(script)) as engine:
        assert (await engine.run(flow_of(agent(tools=[look])), WHY)).text == "ok"


class Small(ScriptedModel):
    """A model with a small window, which counts as the planner's estimate does."""

    context_tokens = 3000


def _long_talk(request: ModelRequest, index: int) -> Any:
    newest = request.messages[-1].content or ""
    if "is about to be taken away" in newest:
        return "a summary of it"
    if sum(len(each.content or "") for each in request.messages) > 5_000:
        return ContextOverflow("too long")
    last = next((e.content or "" for e in reversed(request.messages) if e.role == "tool"), "0")
    n = int(last.split()[0]) + 1
    return answer("ok") if n == 40 else calls(("count", {"n": n}))


async def test_a_talk_that_was_hidden_summarised_and_cut_is_the_same_after_every_crash() -> None:
    @tool
    async def count(ctx: Context, n: int) -> str:
        return f"{n} " + "x" * (500 if n % 3 else 1500) * (3 if n == 25 else 1)

    policies = (HideResults(0.5), Summarise(0.55, keep_turns=2), KeepLast(0.9), RestateGoal(7))
    flow = flow_of(agent(tools=[count], policies=policies))
    store, model = memory(), Small(_long_talk)
    async with running(store, Log(), model=model) as engine:
        assert (await engine.run(flow, WHY, run_id="r")).text == "ok"
    shown = {_shown(request) for request in model.requests}
    assert any("output hidden" in each for each in shown)
    assert any("a summary of it" in each for each in shown)
    assert any("Keep to the goal" in each for each in shown)
    assert "ContextOverflow" in str((await store.load("r")).events)
    for seq in range(2, (await store.load("r")).record.head, 3):
        again = Small(_long_talk)
        async with running(await crashed(store, "r", seq), Log(), model=again) as engine:
            assert (await engine.run(flow, WHY, run_id="r")).text == "ok"
        assert {_shown(request) for request in again.requests} <= shown


async def test_planners_share_the_runs_budget_and_are_tools_of_each_other() -> None:
    helper = Planner("Help.", takes=str, returns=str, tools=[search], name="helper")

    def script(request: ModelRequest, index: int) -> Any:
        if request.messages[0].content == "Help.":
            return "helped" if heard(request) else calls(("search", {"query": "x"}))
        return answer(heard(request)[0]) if heard(request) else calls(("helper", {"task": "do"}))

    async with running(None, Log(), model=ScriptedModel(script)) as engine:
        flow = flow_of(agent(tools=[helper]))
        assert (await engine.run(flow, WHY)).text == "helped"
        with pytest.raises(BudgetExceeded, match="2 of 2 planners' turns"):
            await engine.run(flow, WHY, budget=Budget(turns_max=2))


async def test_scale_makes_eight_samples_and_one_answer_of_them() -> None:
    def script(request: ModelRequest, index: int) -> Any:
        if request.schema is not None:
            assert (request.messages[1].content or "").count("Answer ") == 8
            return '{"text": "merged"}'
        return answer("sample")

    model = ScriptedModel(script)
    async with running(None, Log(), model=model) as engine:
        found = await engine.run(flow_of(agent(scale=True)), WHY, run_id="r")
    assert found.text == "merged"
    assert len(model.requests) == 9


async def test_a_model_without_calls_of_its_own_writes_them_as_json() -> None:
    model = ScriptedModel(
        [
            'I look.\n```json\n{"tool": "search", "parameters": {"query": "a"}, "timeout": 5}\n```',
            '{"tool": "answer", "parameters": {"text": "ok"}}',
        ]
    )
    async with running(None, Log(), model=model) as engine:
        assert (await engine.run(flow_of(agent(calls="json")), WHY)).text == "ok"
    first, second = model.requests
    assert first.tools == ()
    assert '"tool": "NAME"' in (first.messages[0].content or "")
    assert [each.role for each in second.messages] == ["system", "user", "assistant", "user"]
    assert "page about a" in (second.messages[-1].content or "")


# ---- what a reviewer broke


async def test_another_alternative_plans_from_the_beginning_and_so_after_a_crash() -> None:
    first = agent(name="first", tools=[search])
    other = agent(name="other", tools=[search])

    def script(request: ModelRequest, index: int) -> Any:
        names = {each.role for each in request.messages}
        return answer("bad") if "tool" in names else calls(("search", {"query": "a"}))

    @verifier
    async def never_first(ctx: Context, report: Report) -> None:
        if ctx.feedback or report.text == "bad":
            raise Reject("not this one")

    both = Fallback(first, other, on=(Reject,))

    @workflow
    def flow(question: Ref[Question]) -> Ref[Report]:
        return never_first(both(question), attempts=2)

    store, model = memory(), ScriptedModel(script)
    async with running(store, Log(), model=model) as engine:
        with pytest.raises(Rejected):
            await engine.run(flow, WHY, run_id="r")
    shown = [_shown(request) for request in model.requests]
    second = model.requests[2]
    assert [each.role for each in second.messages] == ["system", "user", "user"], (
        "nothing of first's"
    )
    assert "not this one" in (second.messages[-1].content or "")
    for seq in range(2, (await store.load("r")).record.head):
        again = ScriptedModel(script)
        async with running(await crashed(store, "r", seq), Log(), model=again) as engine:
            with pytest.raises(Rejected):
                await engine.run(flow, WHY, run_id="r")
        assert {_shown(request) for request in again.requests} <= set(shown)


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        (Budget(tokens_in_max=10), {}),
        (Budget(tokens_in_max=10, on_budget="answer"), {}),
        (Budget(), {"tokens_max": 10}),
    ],
    ids=["fail", "answer", "share"],
)
async def test_a_turn_that_had_begun_goes_on_as_it_was(budget: Budget, options: Any) -> None:
    def script(request: ModelRequest, index: int) -> Any:
        nudged = request.messages[-1].role == "user" and len(request.messages) > 2
        return answer("good") if nudged else "no answer"

    flow, store = flow_of(agent(**options)), memory()
    async with running(store, Log(), model=ScriptedModel(script)) as engine:
        assert (await engine.run(flow, WHY, run_id="r", budget=budget)).text == "good"
        events = await journal(engine, "r")
    for event in of(events, ev.ModelAnswered):
        again = ScriptedModel(script)
        async with running(await crashed(store, "r", event.seq), Log(), model=again) as engine:
            assert (await engine.run(flow, WHY, run_id="r", budget=budget)).text == "good"
        assert all(request.tools for request in again.requests)


async def test_an_answer_that_cannot_be_used_is_paid_for() -> None:
    spent = ModelAnswer(says("half"), "length", Usage(10, 32_000))

    def script(request: ModelRequest, index: int) -> Any:
        return (
            BadModelAnswer("cut off", answer=spent)
            if index == 0
            else calls(("search", {"query": "a"}))
        )

    async with running(None, Log(), model=ScriptedModel(script)) as engine:
        with pytest.raises(BudgetExceeded, match="of 1000 tokens out"):
            await engine.run(plain, WHY, budget=Budget(tokens_out_max=1000))


async def test_a_share_binds_all_that_is_below_it_and_begins_anew_with_a_retry() -> None:
    helper = Planner("Help.", takes=str, returns=str, tools=[search], name="helper")

    def script(request: ModelRequest, index: int) -> Any:
        if not request.tools:
            return "enough" if request.messages[0].content == "Help." else '{"text": "enough"}'
        if request.messages[0].content == "Help.":
            return calls(("search", {"query": str(index)}))
        return calls(("helper", {"task": "go"}))

    model = ScriptedModel(script)
    async with running(None, Log(), model=model) as engine:
        flow = flow_of(agent(tools=[helper], tokens_max=400))
        assert (await engine.run(flow, WHY)).text == "enough"
    assert len(model.requests) < 12


async def test_more_calls_than_a_turn_may_have_are_refused_one_by_one() -> None:
    many = calls(*[("search", {"query": str(n)}) for n in range(5)])
    model = ScriptedModel([many, answer("ok")])
    log = Log()
    async with running(None, log, model=model) as engine:
        assert (await engine.run(flow_of(agent(steps_max=3)), WHY)).text == "ok"
    assert len(log) == 3
    assert [each.startswith("error: at most 3 calls") for each in heard(model.requests[1])] == [
        False, False, False, True, True
    ]  # fmt: skip


async def test_a_call_that_fails_again_is_told_again_and_ends_nothing() -> None:
    same = [calls(("search", {"query": "bad"}))] * 3
    model = ScriptedModel([*same, answer("ok")])
    async with running(None, Log(), model=model) as engine:
        assert (await engine.run(plain, WHY)).text == "ok"


@pytest.mark.parametrize("said", ['{"text": "x", "n": NaN}', "", " "])
async def test_what_cannot_be_kept_is_no_answer(said: str) -> None:
    class Number(BaseModel):
        text: str
        n: float = 0.0

    node = Planner("Say.", takes=Question, returns=Number, tools=[search])

    @workflow
    def flow(question: Ref[Question]) -> Ref[Number]:
        return node(question)

    model = ScriptedModel([says(said), calls(("answer", {"text": "ok"}))])
    async with running(None, Log(), model=model) as engine:
        assert (await engine.run(flow, WHY)).text == "ok"


async def test_a_last_turn_takes_no_calls_for_an_answer() -> None:
    node = Planner("Say.", takes=str, returns=str, tools=[search], turns_max=1)

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return node(text)

    model = ScriptedModel([calls(("search", {"query": "a"})), "the end"])
    async with running(None, Log(), model=model) as engine:
        assert await engine.run(flow, "x") == "the end"


async def test_an_upfront_plan_is_not_guessed_where_an_effect_happens_once() -> None:
    step = '{"id": "s", "tool": "send", "args": {"text": "hi"}}'
    broken = calls(("plan", f'{{"steps": [{step},], "again": false'))
    whole = calls(("plan", f'{{"steps": [{step}]}}'), ("plan", '{"steps": []}'))
    model = ScriptedModel([broken, whole, answer("ok")])
    log = Log()
    async with running(None, log, model=model) as engine:
        assert (await engine.run(flow_of(agent(style="upfront")), WHY)).text == "ok"
    assert log == ["planner/t1/s 0 1"]
    assert "must not be guessed" in heard(model.requests[1])[0]
    assert "one plan at a time" in heard(model.requests[2])[1]


async def test_a_rejected_sample_is_sampled_or_judged_again_with_the_feedback() -> None:
    @verifier
    async def good(ctx: Context, report: Report) -> None:
        if report.text != "good":
            raise Reject("be good")

    def script(request: ModelRequest, index: int) -> Any:
        if request.schema is not None:
            refused = "be good" in (request.messages[-1].content or "")
            return {"text": "good" if refused else "merged"}
        return answer("sample")

    several = best_of(agent(), 2, merge=True)

    @workflow
    def flow(question: Ref[Question]) -> Ref[Report]:
        return good(several(question), attempts=3)

    async with running(None, Log(), model=ScriptedModel(script)) as engine:
        assert (await engine.run(flow, WHY)).text == "good"


async def test_a_failed_attempt_has_not_shortened_the_talk() -> None:
    def script(request: ModelRequest, index: int) -> Any:
        if len(request.messages) > 8 and index == 4:
            return ContextOverflow("too long")
        if index == 5:
            raise RuntimeError("the model broke")
        return answer("ok") if index > 5 else calls(("search", {"query": str(index)}))

    model = ScriptedModel(script)
    async with running(None, Log(), model=model) as engine:
        policies = (HideResults(0.9),)
        flow = flow_of(agent(retries=1, backoff_s=0, policies=policies))
        assert (await engine.run(flow, WHY)).text == "ok"
    assert _shown(model.requests[-1]) == _shown(model.requests[4]), "the next attempt asks it all"


async def test_a_policy_may_name_the_tool_of_the_next_request() -> None:
    policies = (force_tool("why", "search", choice=True),)
    model = ScriptedModel([answer("ok")])
    async with running(None, Log(), model=model) as engine:
        await engine.run(flow_of(agent(policies=policies)), WHY)
    assert model.requests[0].settings["tool_choice"]["function"]["name"] == "search"


async def test_a_last_turn_may_still_call_answer_and_is_told_what_is_wanted() -> None:
    model = ScriptedModel([answer("ok")])
    async with running(None, Log(), model=model) as engine:
        assert (await engine.run(flow_of(agent(turns_max=1)), WHY)).text == "ok"
    assert "as one JSON value" in (model.requests[0].messages[-1].content or "")


@verifier
async def strict(ctx: Context, text: str) -> None:
    raise Reject("no")


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([strict], "'strict' is a verifier, not a tool"),
        ([search, search], "two tools of one name: 'search'"),
        ([len], "takes nodes, not <built-in function len>"),
    ],
    ids=["verifier", "twice", "function"],
)
def test_what_is_no_tool_is_refused_at_declaration(tools: Any, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        agent(tools=tools)


def test_a_misspelt_option_gets_the_nearest_name() -> None:
    with pytest.raises(DeclarationError, match="did you mean turns_max"):
        agent(max_turns=3)


async def test_a_call_may_shorten_the_tools_own_time_out() -> None:
    @tool(timeout_s=100)
    async def slow(ctx: Context, n: int) -> int:
        await anyio.sleep(50)
        return n

    said = [
        '{"tool": "slow", "parameters": {"n": 1}, "timeout": 5}',
        '{"tool": "slow", "parameters": {"n": 1}, "timeout": 5000}',
        '{"tool": "answer", "parameters": {"text": "ok"}}',
    ]
    model = ScriptedModel(said)
    async with running(None, Log(), model=model) as engine:
        assert (await engine.run(flow_of(agent(calls="json", tools=[slow])), WHY)).text == "ok"
    told = [each.content or "" for each in model.requests[-1].messages if each.role == "user"]
    assert "TimeoutError: no result within 5" in told[1]
    assert told[2].startswith("Result of")
    assert "TimeoutError" not in told[2]
