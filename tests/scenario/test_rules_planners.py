"""Rules of planners: turns, findings, replans, repairs, limits, nested plans."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import flowkit.events as ev
from flowkit import Budget, Context, Ref, Replan, Retry, StepFailed, workflow
from flowkit.chat import ChatMessage, ModelAnswer, ModelRequest, OnDelta
from flowkit.errors import BudgetExceeded
from flowkit.nodes import Findings, Plan, Planned, planner, tool
from tests.scenario.kit import (
    Log,
    crashed,
    finished,
    journal,
    kinds,
    memory,
    note,
    of,
    running,
)


@tool
async def look(ctx: Context, text: str) -> str:
    note(ctx)
    return f"seen {text}"


@tool
async def join(ctx: Context, a: str, b: str) -> str:
    note(ctx)
    return f"{a}+{b}"


@tool
async def fail(ctx: Context, text: str) -> str:
    note(ctx)
    raise ConnectionError(f"{text} is down")


@tool
async def number(ctx: Context, text: str) -> int:
    return len(text)


@tool
async def add(ctx: Context, a: int, b: int) -> int:
    return a + b


@tool
async def show(ctx: Context, found: Findings) -> dict[str, str]:
    shown = {key: str(value) for key, value in found.items()}
    return shown | {each.id: f"{each.error}: {each.message}" for each in found.failures}


# ---- planners that only plan


async def test_a_planner_that_only_plans_gives_findings_by_id_and_tool() -> None:
    @planner(tools=[look, join])
    async def plan(ctx: Context, text: str) -> Plan:
        a, b = look.step("a", id="a"), look.step("b", id="b")
        return Plan([a, b, join.step(a, b, id="ab"), join.step(a, "literal", id="al")])

    @tool
    async def typed(ctx: Context, found: Findings) -> list[list[str]]:
        return [list(found.of(look)), list(found.of(join).values()), list(found)]

    @workflow
    def flow(text: Ref[str]) -> Ref[list[list[str]]]:
        return typed(plan(text))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, "x") == [
            ["a", "b"], ["seen a+seen b", "seen a+literal"], ["a", "b", "ab", "al"]
        ]  # fmt: skip
    assert set(log) == {f"plan/t1/{key} 0 1" for key in ("a", "b", "ab", "al")}


async def test_a_planned_steps_failure_is_an_observation_and_the_planner_is_asked_again() -> None:
    seen: list[list[str]] = []

    @planner(tools=[look, fail])
    async def plan(ctx: Context, text: str) -> Plan:
        seen.append([each.id for turn in ctx.turns for each in turn.failures])
        if not ctx.turns:
            return Plan([look.step("a", id="a"), fail.step("b", id="b")])
        return Plan([look.step("c", id="c")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    log = Log()
    async with running(None, log) as engine:
        found = await engine.run(flow, "x", run_id="r")
        record, _ = await engine.state("r")
    assert found == {"a": "seen a", "c": "seen c", "b": "ConnectionError: b is down"}
    assert seen == [[], ["b"]]
    assert record.status == "succeeded"
    assert log.count("plan/t1/a 0 1") == 1


async def test_a_later_success_under_the_same_id_stands_for_an_earlier_failure() -> None:
    @planner(tools=[look, fail])
    async def plan(ctx: Context, text: str) -> Plan:
        tool_ = look if ctx.turns else fail
        return Plan([tool_.step("b", id="b"), look.step("a", id=f"a{len(ctx.turns)}")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    async with running(None, Log()) as engine:
        assert await engine.run(flow, "x") == {"a0": "seen a", "b": "seen b", "a1": "seen a"}


@pytest.mark.parametrize("replans_max", [0, 1, 2])
async def test_it_is_asked_again_only_after_a_failure_and_at_most_replans_max_times(
    replans_max: int,
) -> None:
    asked: list[int] = []

    @planner(tools=[look, fail], replans_max=replans_max)
    async def plan(ctx: Context, text: str) -> Plan:
        turn = len(ctx.turns)
        asked.append(turn)
        return Plan([look.step("a", id=f"a{turn}"), fail.step("b", id=f"b{turn}")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    async with running(None, Log()) as engine:
        found = await engine.run(flow, "x")
    assert asked == list(range(replans_max + 1))
    assert set(found) == {f"{name}{turn}" for name in "ab" for turn in asked}


async def test_it_has_failed_when_no_planned_step_of_any_turn_succeeded() -> None:
    @planner(tools=[fail], replans_max=1)
    async def plan(ctx: Context, text: str) -> Plan:
        return Plan([fail.step("b", id=f"b{len(ctx.turns)}")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    async with running(None, Log()) as engine:
        with pytest.raises(StepFailed, match="b is down") as caught:
            await engine.run(flow, "x")
    assert caught.value.step.startswith("plan")


async def test_an_empty_plan_gives_empty_findings() -> None:
    @planner
    async def plan(ctx: Context, text: str) -> Plan:
        return Plan([])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    async with running(None, Log()) as engine:
        assert await engine.run(flow, "x") == {}


async def test_steps_that_depend_on_a_failed_one_are_blocked_and_the_others_finish() -> None:
    shown: list[tuple[str, str]] = []

    @planner(tools=[look, fail, join], replans_max=1)
    async def plan(ctx: Context, text: str) -> Plan:
        if ctx.turns:
            shown.extend((each.id, each.error) for each in ctx.turns[0].failures)
            return Plan([])
        bad, good = fail.step("b", id="bad"), look.step("a", id="good")
        middle = join.step(bad, good, id="middle")
        return Plan([bad, good, middle, join.step(middle, "x", id="end")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    log = Log()
    async with running(None, log) as engine:
        found = await engine.run(flow, "x")
    assert shown == [("bad", "ConnectionError"), ("middle", "Blocked"), ("end", "Blocked")]
    assert found["good"] == "seen a"
    assert "plan/t1/end 0 1" not in log


async def test_a_long_chain_of_blocked_steps_is_no_deep_recursion() -> None:
    @planner(tools=[look, fail], steps_max=5000, replans_max=0)
    async def plan(ctx: Context, text: str) -> Plan:
        steps: list[Planned[str]] = [fail.step("b", id="s0"), look.step("a", id="good")]
        for index in range(1, 3000):
            steps.append(look.step(steps[0 if index == 1 else -1], id=f"s{index}"))
        return Plan(steps)

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    async with running(None, Log()) as engine:
        found = await engine.run(flow, "x")
    assert found["s2999"].startswith("Blocked")
    assert found["good"] == "seen a"


async def test_planned_steps_have_retries_and_alternatives_of_their_own() -> None:
    @tool(retries=1, backoff_s=0)
    async def flaky(ctx: Context, text: str) -> str:
        note(ctx)
        raise Retry

    @planner(tools=[flaky | look])
    async def plan(ctx: Context, text: str) -> Plan:
        return Plan([(flaky | look).step("a", id="a")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, "x") == {"a": "seen a"}
    assert log == ["plan/t1/a 0 1", "plan/t1/a 0 2", "plan/t1/a 1 1"]


# ---- planners that answer


@planner(tools=[look, fail], turns_max=4)
async def agent(ctx: Context, text: str) -> Plan | str:
    note(ctx)
    if len(ctx.turns) < 3:
        return Plan([look.step(f"{text}{len(ctx.turns)}", id="look")], again=True)
    return ", ".join(str(turn.results["look"]) for turn in ctx.turns)


@workflow
def agent_flow(text: Ref[str]) -> Ref[str]:
    return agent(text)


async def test_a_planner_that_may_answer_is_asked_again_until_it_does() -> None:
    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(agent_flow, "t", run_id="r") == "seen t0, seen t1, seen t2"
        events = await journal(engine, "r")
    assert [line for line in log if "/look" not in line] == [
        f"agent/t{n} 0 1" for n in (1, 2, 3, 4)
    ]
    assert [event.key for event in of(events, ev.Planned)] == ["agent/t1", "agent/t2", "agent/t3"]
    assert [event.key for event in of(events, ev.StepDone)][-1] == "agent/t4"


async def test_the_answer_and_the_steps_it_adds_are_one_event() -> None:
    async with running(None, Log()) as engine:
        await engine.run(agent_flow, "t", run_id="r")
        events = await journal(engine, "r")
    for event in of(events, ev.Planned):
        assert isinstance(event.payload, ev.Planned)
        assert [step.key for step in event.payload.steps] == ["look"]
        assert not [other for other in of(events, ev.StepDone) if other.key == event.key]


async def test_ctx_turns_has_plan_results_failures_and_feedback_of_each_turn() -> None:
    seen: list[Any] = []

    @planner(tools=[look, fail])
    async def plan(ctx: Context, text: str) -> Plan | str:
        if not ctx.turns:
            return Plan([look.step("a", id="a"), fail.step("b", id="b")], again=True)
        turn = ctx.turns[0]
        seen.append((turn.number, [step.id for step in turn.steps], dict(turn.results)))
        seen.append([(each.id, each.tool, each.error, each.message) for each in turn.failures])
        seen.append(f"{turn.results}")  # as it would go into a prompt
        return "done"

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return plan(text)

    async with running(None, Log()) as engine:
        assert await engine.run(flow, "x") == "done"
    assert seen == [
        (1, ["a", "b"], {"a": "seen a"}),
        [("b", "fail", "ConnectionError", "b is down")],
        "{'a': 'seen a'}",
    ]


async def test_the_next_turn_starts_when_every_step_of_this_one_has_ended() -> None:
    @tool
    async def slow(ctx: Context, text: str) -> str:
        await anyio.sleep(100)
        note(ctx)
        return text

    @planner(tools=[look, slow])
    async def plan(ctx: Context, text: str) -> Plan | str:
        note(ctx)
        if not ctx.turns:
            return Plan([look.step("a", id="a"), slow.step("b", id="b")], again=True)
        return str(len(ctx.turns[0].results))

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return plan(text)

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, "x") == "2"
    assert log == ["plan/t1 0 1", "plan/t1/a 0 1", "plan/t1/b 0 1", "plan/t2 0 1"]


async def test_turns_max_ends_a_planner_that_never_answers() -> None:
    @planner(tools=[look], turns_max=3)
    async def endless(ctx: Context, text: str) -> Plan | str:
        note(ctx)
        return Plan([look.step(str(len(ctx.turns)), id="x")], again=True)

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return endless(text)

    log = Log()
    async with running(None, log) as engine:
        with pytest.raises(StepFailed, match="3 turns"):
            await engine.run(flow, "x")
    assert len([line for line in log if line.startswith("endless/t") and "/x" not in line]) == 3


async def test_the_hash_of_a_turn_chains_the_digest_of_the_turn_before() -> None:
    async def hashes(engine: Any, text: str) -> list[str]:
        await engine.run(agent_flow, text, run_id=f"r-{text}")
        planned = [event.payload for event in await journal(engine, f"r-{text}")]
        return [each.input_hash for each in planned if isinstance(each, ev.Planned)]

    async with running(None, Log()) as engine:
        mine, others = await hashes(engine, "t"), await hashes(engine, "u")
    assert len(set(mine)) == len(mine)
    assert not set(mine) & set(others)


# ---- Replan


async def test_replan_lets_the_batchs_running_steps_finish_and_asks_again_with_the_reason() -> None:
    asked: list[tuple[list[str], list[str]]] = []

    @tool
    async def doubtful(ctx: Context, text: str) -> str:
        await anyio.sleep(1)
        raise Replan("the ground has moved")

    @tool
    async def slow(ctx: Context, text: str) -> str:
        await anyio.sleep(10)
        note(ctx)
        return text

    @planner(tools=[doubtful, slow, look])
    async def plan(ctx: Context, text: str) -> Plan | str:
        if not ctx.turns:
            running_ = slow.step("s", id="slow")
            return Plan([doubtful.step("d", id="d"), running_, look.step(running_, id="later")])
        asked.append((list(ctx.turns[0].feedback), list(ctx.turns[0].results)))
        return "done"

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return plan(text)

    log, store = Log(), memory()
    async with running(store, log) as engine:
        assert await engine.run(flow, "x", run_id="r") == "done"
        events = await journal(engine, "r")
    assert log == ["plan/t1/slow 0 1"], "what had not begun does not begin"
    assert asked == [(["the ground has moved"], ["slow"])]
    for head in range(1, len(events)):
        copy, again = await crashed(store, "r", head), Log()
        async with running(copy, again) as engine:
            assert await engine.run(flow, "x", run_id="r") == "done", head
        assert not finished(events[:head]).intersection(again)


async def test_replan_goes_to_a_planner_that_only_plans_and_counts_as_a_replan() -> None:
    asked: list[list[str]] = []

    @tool
    async def doubtful(ctx: Context, text: str) -> str:
        raise Replan("no")

    @planner(tools=[doubtful, look], replans_max=1)
    async def plan(ctx: Context, text: str) -> Plan:
        asked.append([text for turn in ctx.turns for text in turn.feedback])
        turn = len(ctx.turns)
        return Plan([doubtful.step("d", id=f"d{turn}"), look.step("a", id=f"a{turn}")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    async with running(None, Log()) as engine:
        await engine.run(flow, "x")
    assert asked == [[], ["no"]]


async def test_replan_goes_to_the_nearest_enclosing_planner() -> None:
    asked: list[str] = []

    @tool
    async def doubtful(ctx: Context, text: str) -> str:
        raise Replan("no")

    @planner(tools=[doubtful])
    async def child(ctx: Context, text: str) -> Plan | str:
        asked.append(f"child {len(ctx.turns)}")
        return "child is done" if ctx.turns else Plan([doubtful.step("d", id="d")])

    @planner(tools=[child])
    async def parent(ctx: Context, text: str) -> Plan | str:
        asked.append(f"parent {len(ctx.turns)}")
        return ctx.turns[0].results["c"] if ctx.turns else Plan([child.step("x", id="c")])

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return parent(text)

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, "x", run_id="r") == "child is done"
        events = await journal(engine, "r")
    assert asked == ["parent 0", "child 0", "child 1", "parent 1"]
    assert "parent/t1/c/t1/d" in {event.key for event in events}


# ---- bad plans


async def refused(bad: Sequence[Any], *, steps_max: int = 3) -> str:
    """What a planner is told about a plan."""
    told: list[str] = []

    @planner(tools=[look, join, number, add], steps_max=steps_max)
    async def plan(ctx: Context, text: str) -> Plan:
        note(ctx)
        if not ctx.feedback:
            return Plan(bad)
        told.extend(ctx.feedback)
        return Plan([look.step("good", id="good")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, "x", run_id="r") == {"good": "seen good"}
        events = await journal(engine, "r")
    assert "attempt_failed" not in kinds(events), "a repair is no failed attempt"
    assert log.count("plan/t1 0 1") == 2
    return told[0]


async def test_an_unknown_tool_is_fed_back_with_near_names() -> None:
    text = await refused([Planned("a", "lok", look.step("x").inputs)])
    assert "'lok'" in text
    assert "look" in text


async def test_arguments_that_do_not_fit_are_fed_back() -> None:
    assert "takes a, b" in await refused([Planned("a", "join", look.step("x").inputs)])
    n = number.step("x", id="n")
    text = await refused([n, Planned("l", "look", look.step(n).inputs)])  # type: ignore[arg-type]
    assert "takes str" in text
    assert "gives int" in text


async def test_a_reference_to_no_step_of_the_plan_is_fed_back() -> None:
    assert "'gone'" in await refused([look.step(Planned("gone", "look"), id="a")])


async def test_a_cycle_in_a_plan_is_fed_back() -> None:
    a: Planned[str] = Planned("a", "look")
    b: Planned[str] = Planned("b", "look")
    text = await refused([look.step(b, id="a"), look.step(a, id="b")])
    assert "cycle" in text


async def test_too_many_steps_and_duplicate_ids_are_fed_back() -> None:
    assert "at most 3" in await refused([look.step("x", id=f"s{n}") for n in range(4)])
    assert "'x'" in await refused([look.step("1", id="x"), look.step("2", id="x")])


@pytest.mark.parametrize("repairs_max", [0, 2])
async def test_a_bad_plan_is_fed_back_at_most_repairs_max_times_a_turn(repairs_max: int) -> None:
    @planner(tools=[look], repairs_max=repairs_max)
    async def plan(ctx: Context, text: str) -> Plan:
        note(ctx)
        return Plan([Planned("a", "nothing")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    log = Log()
    async with running(None, log) as engine:
        with pytest.raises(StepFailed, match="nothing") as caught:
            await engine.run(flow, "x")
    assert caught.value.error_type == "UnknownTool"
    assert len(log) == repairs_max + 1


async def test_the_same_plan_after_it_failed_is_told_once_and_then_the_step_fails() -> None:
    told: list[str] = []

    @planner(tools=[look, fail], repairs_max=5)
    async def stubborn(ctx: Context, text: str) -> Plan:
        told.extend(ctx.feedback)
        return Plan([look.step("a", id="a"), fail.step("b", id="b")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(stubborn(text))

    async with running(None, Log()) as engine:
        with pytest.raises(StepFailed, match="failed already"):
            await engine.run(flow, "x")
    assert len(told) == 1
    assert "failed already in turn 1" in told[0]


async def test_a_planner_told_of_its_repeated_plan_may_plan_something_else() -> None:
    @planner(tools=[look, fail])
    async def learns(ctx: Context, text: str) -> Plan:
        return Plan([look.step("b", id="b") if ctx.feedback else fail.step("b", id="b")])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(learns(text))

    async with running(None, Log()) as engine:
        assert await engine.run(flow, "x") == {"b": "seen b"}


# ---- a model plans


class Script:
    """A model that says what it is told to, and keeps what it was asked."""

    name = "script"

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[ModelRequest] = []

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        await anyio.sleep(1)
        self.asked.append(request)
        return ModelAnswer(ChatMessage("assistant", self.answers[len(self.asked) - 1]))


@planner(tools=[look, add, number])
async def model_plan(ctx: Context, text: str) -> Plan:
    return await ctx.model.complete(f"Plan {text}", returns=Plan)


@workflow
def model_flow(text: Ref[str]) -> Ref[dict[str, str]]:
    return show(model_plan(text))


async def test_a_model_names_a_result_by_step_and_the_planners_tools_make_the_schema() -> None:
    steps = [
        {"id": "n", "tool": "number", "args": {"text": "four"}},
        {"id": "sum", "tool": "add", "args": {"a": {"$step": "n"}, "b": 3}},
    ]
    model = Script(json.dumps({"steps": steps}))
    async with running(None, Log(), model=model) as engine:
        assert await engine.run(model_flow, "x") == {"n": "4", "sum": "7"}
    schema = json.dumps(model.asked[0].schema)
    for name in ("look", "add", "number", "$step"):
        assert f'"{name}"' in schema


async def test_a_models_bad_plan_goes_back_to_it_with_the_reason() -> None:
    bad = json.dumps({"steps": [{"id": "n", "tool": "numbr", "args": {"text": "four"}}]})
    good = json.dumps({"steps": [{"id": "n", "tool": "number", "args": {"text": "four"}}]})
    model = Script(bad, good)
    async with running(None, Log(), model=model) as engine:
        assert await engine.run(model_flow, "x") == {"n": "4"}
    assert "number" in str(model.asked[1].messages[-1].content)


async def test_planned_refers_to_the_model_answer_it_came_from() -> None:
    model = Script(json.dumps({"steps": [{"id": "n", "tool": "number", "args": {"text": "four"}}]}))
    async with running(None, Log(), model=model) as engine:
        await engine.run(model_flow, "x", run_id="r")
        events = await journal(engine, "r")
    planned = of(events, ev.Planned)[0].payload
    assert isinstance(planned, ev.Planned)
    assert planned.answer == of(events, ev.ModelAnswered)[0].seq


# ---- budgets


async def test_with_on_budget_answer_a_planner_gets_one_last_turn_without_tools() -> None:
    last: list[bool] = []

    @planner(tools=[look])
    async def thinker(ctx: Context, text: str) -> Plan | str:
        last.append(ctx.last_turn)
        if ctx.last_turn:
            return f"after {sum(len(turn.results) for turn in ctx.turns)} looks"
        return Plan([look.step(str(len(ctx.turns)), id="x")], again=True)

    @tool
    async def shout(ctx: Context, text: str) -> str:
        return text.upper()

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return shout(thinker(text))

    async with running(None, Log()) as engine:
        budget = Budget(steps_max=6, on_budget="answer")
        assert await engine.run(flow, "x", budget=budget) == "AFTER 3 LOOKS"
    assert last == [False, False, False, True]


async def test_on_its_last_turn_a_plan_is_refused() -> None:
    @planner(tools=[look], repairs_max=1)
    async def thinker(ctx: Context, text: str) -> Plan | str:
        return Plan([look.step(str(len(ctx.turns)), id="x")], again=True)

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return thinker(text)

    async with running(None, Log()) as engine:
        with pytest.raises(StepFailed, match="budget"):
            await engine.run(flow, "x", budget=Budget(steps_max=6, on_budget="answer"))


async def test_with_on_budget_answer_a_planner_that_only_plans_gives_what_it_has() -> None:
    @planner(tools=[look, fail], steps_max=10)
    async def plan(ctx: Context, text: str) -> Plan:
        return Plan([look.step(str(n), id=f"s{n}") for n in range(10)])

    @workflow
    def flow(text: Ref[str]) -> Ref[dict[str, str]]:
        return show(plan(text))

    async with running(None, Log()) as engine:
        budget = Budget(steps_max=5, parallel_max=2, on_budget="answer")
        found = await engine.run(flow, "x", budget=budget)
    assert [key for key, value in found.items() if value.startswith("seen")] == [
        "s0", "s1", "s2", "s3"
    ]  # fmt: skip
    assert found["s9"].startswith("BudgetExceeded")


async def test_with_on_budget_fail_the_run_ends_with_budget_exceeded() -> None:
    async with running(None, Log()) as engine:
        with pytest.raises(BudgetExceeded, match="5"):
            await engine.run(agent_flow, "x", budget=Budget(steps_max=5))


async def test_a_planner_that_gives_up_is_followed_by_the_next_alternative() -> None:
    @tool
    async def step(ctx: Context, n: int) -> int:
        return n

    @planner(tools=[step], turns_max=2)
    async def endless(ctx: Context, n: int) -> Plan | int:
        return Plan([step.step(n, id="a")], again=True)

    @planner(tools=[step])
    async def brief(ctx: Context, n: int) -> Plan | int:
        return 7 if ctx.turns else Plan([step.step(n, id="b")])

    @tool
    async def plain(ctx: Context, n: int) -> int:
        return -n

    @workflow
    def to_tool(n: Ref[int]) -> Ref[int]:
        return (endless | plain)(n)

    @workflow
    def to_planner(n: Ref[int]) -> Ref[int]:
        return (endless | brief)(n)

    store = memory()
    async with running(store) as engine:
        assert await engine.run(to_tool, 1, run_id="t") == -1
        assert await engine.run(to_planner, 1, run_id="p") == 7
    for run_id, flow, result in (("t", to_tool, -1), ("p", to_planner, 7)):
        last = (await store.load(run_id)).record.head
        for seq in range(2, last + 1):
            async with running(await crashed(store, run_id, seq)) as engine:
                assert await engine.run(flow, 1, run_id=run_id) == result
