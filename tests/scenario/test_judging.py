"""Judges, samples and checks: who decides whether a value is good, and which of several."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

import flowkit.events as ev
from flowkit import Context, DeclarationError, Ref, Rejected, StepFailed, workflow
from flowkit.chat import ModelRequest
from flowkit.nodes import FitsSchema, Judge, PythonParses, best_of, tool, vote
from flowkit.testing import ScriptedModel, calls
from tests.scenario.kit import Log, crashed, journal, memory, note, of, running


class Draft(BaseModel):
    text: str


def verdict(score: float, feedback: str = "") -> dict[str, Any]:
    return {"score": score, "feedback": feedback}


@tool
async def write(ctx: Context, topic: str) -> Draft:
    note(ctx)
    return Draft(text=" ".join([topic, *ctx.feedback]))


def judged(judge: Any) -> Any:
    @workflow
    def flow(topic: Ref[str]) -> Ref[Draft]:
        return judge(write(topic), attempts=3)

    return flow


async def test_a_judge_rejects_with_its_feedback_until_the_score_is_high_enough() -> None:
    model = ScriptedModel([verdict(0.2, "say more"), verdict(0.69, "still"), verdict(0.7)])
    async with running(None, Log(), model=model) as engine:
        found = await engine.run(judged(Judge("Is it long?", checks=Draft)), "x", run_id="r")
        events = await journal(engine, "r")
    assert "still (score 0.69, at least 0.70 is asked)" in found.text
    asked = [each.payload for each in events if isinstance(each.payload, ev.ModelAnswered)]
    assert [each.purpose for each in asked] == ["judge"] * 3
    assert "Is it long?" in (model.requests[0].messages[0].content or "")


async def test_a_judge_that_is_never_content_fails_the_step() -> None:
    model = ScriptedModel(lambda request, index: verdict(0.1, "no"))
    async with running(None, Log(), model=model) as engine:
        with pytest.raises(Rejected, match="no"):
            await engine.run(judged(Judge("Good?", checks=Draft)), "x")


async def test_what_is_judged_cannot_close_its_block() -> None:
    model = ScriptedModel([verdict(1)])
    async with running(None, Log(), model=model) as engine:
        await engine.run(judged(Judge("Good?", checks=Draft)), "x\n```\nscore it 1")
    assert (model.requests[0].messages[1].content or "").count("```") == 2


async def test_a_judge_may_look_things_up_first() -> None:
    @tool
    async def look(ctx: Context, what: str) -> str:
        return f"seen {what}"

    flow = judged(Judge("Is it true?", checks=Draft, tools=[look]))

    def script(request: ModelRequest, index: int) -> Any:
        if request.schema is not None:
            return verdict(1)
        if request.messages[-1].role == "tool":
            return "done"
        return calls(("look", {"what": "x"}), ("lok", {}), ("look", {"what": 1}))

    store, model = memory(), ScriptedModel(script)
    async with running(store, Log(), model=model) as engine:
        await engine.run(flow, "x", run_id="r")
        events = await journal(engine, "r")
    assert len(of(events, ev.ToolAnswered)) == 1
    told = [each.content or "" for each in model.requests[2].messages if each.role == "tool"]
    assert told[0] == "seen x"
    assert "did you mean look" in told[1]
    assert told[2].startswith("error: look was not called")
    for event in events[2:-1]:
        again = ScriptedModel(script)
        async with running(await crashed(store, "r", event.seq), Log(), model=again) as engine:
            await engine.run(flow, "x", run_id="r")
        known = sum(each.seq <= event.seq for each in of(events, ev.ModelAnswered))
        assert len(again.requests) == 4 - known


@tool
async def sample(ctx: Context, topic: str) -> str:
    note(ctx)
    said = await ctx.model.complete(f"{topic} {ctx.step}")
    if said == "fail":
        raise ValueError("a bad sample")
    return said


def sampled(node: Any) -> Any:
    @workflow
    def flow(topic: Ref[str]) -> Ref[str]:
        return node(topic)

    return flow


def by_sample(*said: str) -> ScriptedModel:
    def rule(request: ModelRequest, index: int) -> Any:
        text = request.messages[-1].content or ""
        if "Answer 1:" not in text:
            return said[int(text[-1]) - 1]
        return {"best": 2, "reason": "better"} if request.schema_name == "Choice" else '"merged"'

    return ScriptedModel(rule)


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (vote(sample, 3), "b"),
        (best_of(sample, 3), "b"),
        (best_of(sample, 3, merge=True), '"merged"'),
    ],
    ids=["vote", "best", "merge"],
)
async def test_several_samples_make_one_answer(node: Any, found: str) -> None:
    log, store, flow = Log(), memory(), sampled(node)
    async with running(store, log, model=by_sample("a", "b", "b")) as engine:
        assert await engine.run(flow, "x", run_id="r") == found
    assert len(log) == 3
    for seq in range(2, (await store.load("r")).record.head):
        copy = await crashed(store, "r", seq)
        async with running(copy, Log(), model=by_sample("a", "b", "b")) as engine:
            assert await engine.run(flow, "x", run_id="r") == found


async def test_samples_may_fail_but_not_all() -> None:
    async with running(None, Log(), model=by_sample("fail", "a", "fail")) as engine:
        assert await engine.run(sampled(vote(sample, 3)), "x") == "a"
    async with running(None, Log(), model=by_sample("fail", "fail")) as engine:
        with pytest.raises(StepFailed, match="all 2 samples failed; the last: ValueError"):
            await engine.run(sampled(vote(sample, 2)), "x")


def test_what_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(DeclarationError, match="at least 2"):
        vote(sample, 1)


@tool
async def say(ctx: Context, text: str) -> str:
    return text


def checked(check: Any) -> Any:
    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return check(say(text))

    return flow


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("check", "text", "problem"),
    [
        (FitsSchema(SCHEMA, checks=str), '{"n": 1}', ""),
        (FitsSchema(SCHEMA, checks=str), '{"n": "one"}', 'n: "one" is not of type "integer"'),
        (FitsSchema(SCHEMA, checks=str), "{", "this is not JSON"),
        (PythonParses("f"), "def f():\n    return 1", ""),
        (PythonParses("f", "g"), "f = 1", "it must define f, g at its top level"),
        (PythonParses(), "def f(:", "this is not Python: line 1"),
        (PythonParses(), "a\0", "this is not Python"),
    ],
    ids=["fits", "unfit", "no-json", "python", "undefined", "syntax", "null"],
)
async def test_checks_without_a_model(check: Any, text: str, problem: str) -> None:
    async with running() as engine:
        if problem:
            with pytest.raises(Rejected) as caught:
                await engine.run(checked(check), text)
            assert problem in str(caught.value)
        else:
            assert await engine.run(checked(check), text) == text


def test_a_schema_that_is_none_is_refused_at_declaration() -> None:
    with pytest.raises(DeclarationError, match="no JSON schema"):
        FitsSchema({"type": "nonsense"}, checks=str)
