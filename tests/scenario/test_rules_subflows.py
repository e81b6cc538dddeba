"""Rules of plans whose steps are more than tools: workflows, planners, maps and verifiers."""

from __future__ import annotations

import pytest

from flowkit import Budget, Context, Ref, Reject, workflow
from flowkit.nodes import Plan, Subflow, planner, tool, verifier
from tests.scenario.kit import Log, crashed, memory, note, running


@tool
async def words(ctx: Context, text: str) -> list[str]:
    note(ctx)
    return text.split()


@tool
async def upper(ctx: Context, word: str) -> str:
    note(ctx)
    if word == "bad":
        raise ValueError("a bad word")
    return word.upper() + ("!" if ctx.feedback else "")


@tool
async def broken(ctx: Context, parts: list[str]) -> str:
    note(ctx)
    raise OSError("broken")


@tool
async def join(ctx: Context, parts: list[str]) -> str:
    note(ctx)
    return " ".join(parts) + ("!" if ctx.feedback else "")


@verifier
async def loud(ctx: Context, text: str) -> None:
    note(ctx)
    if not text.endswith("!"):
        raise Reject("be loud")


@workflow
def shouting(text: Ref[str]) -> Ref[str]:
    """Shout a text."""
    return loud((broken | join)(upper.map(words(text))))


shout = Subflow(shouting)


@planner(tools=[shout])
async def host(ctx: Context, text: str) -> Plan | str:
    if not ctx.turns:
        return Plan([shout.step(part, id=f"s{n}") for n, part in enumerate(text.split("/"))])
    turn = ctx.turns[-1]
    failed = [f"{each.id} {each.error}: {each.message}" for each in turn.failures]
    return "; ".join([*turn.results.values(), *failed])


@workflow
def hosted(text: Ref[str]) -> Ref[str]:
    return host(text)


async def test_a_workflow_is_a_tool_with_its_map_its_fallback_and_its_verifier() -> None:
    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(hosted, "a b/c") == "A B!; C!"
    assert "host/t1/s0/t1/upper/1 0 1" in log
    assert "host/t1/s0/t1/broken@2 1 1" in log, "done again by the alternative that answered"


async def test_a_workflow_that_fails_is_an_observation_for_its_planner() -> None:
    async with running(None, Log()) as engine:
        found = await engine.run(hosted, "a/bad x")
    assert found.startswith("A!; s1 StepFailed: workflow 'shouting' failed at upper: ValueError")


async def test_a_workflow_as_a_tool_resumes_from_every_event() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(hosted, "a b/c", run_id="r")
    for seq in range(1, (await store.load("r")).record.head + 1):
        async with running(await crashed(store, "r", seq), Log()) as engine:
            assert await engine.run(hosted, "a b/c", run_id="r") == "A B!; C!"


async def test_rounds_used_up_inside_a_workflow_fail_the_tool_alone() -> None:
    @verifier
    async def never(ctx: Context, text: str) -> None:
        raise Reject("no")

    @workflow
    def refused(text: Ref[str]) -> Ref[str]:
        return never(join(words(text)))

    refusing = Subflow(refused)

    @planner(tools=[refusing, shout])
    async def both(ctx: Context, text: str) -> Plan | str:
        if not ctx.turns:
            return Plan([refusing.step(text, id="no"), shout.step(text, id="yes")])
        return f"{dict(ctx.turns[0].results)} {ctx.turns[0].failures[0].message}"

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return both(text)

    async with running(None, Log()) as engine:
        assert (await engine.run(flow, "a")).startswith(
            "{'yes': 'A!'} workflow 'refused' failed at"
        )


async def test_a_verifier_in_a_plan_that_breaks_fails_what_it_checks() -> None:
    @verifier
    async def breaks(ctx: Context, text: str) -> None:
        raise RuntimeError("the verifier broke")

    @workflow
    def checked(text: Ref[str]) -> Ref[str]:
        return breaks(join(words(text)))

    checking = Subflow(checked)

    @planner(tools=[checking])
    async def asks(ctx: Context, text: str) -> Plan | str:
        if not ctx.turns:
            return Plan([checking.step(text, id="x")])
        return ctx.turns[0].failures[0].message

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return asks(text)

    async with running(None, Log()) as engine:
        assert "the verifier broke" in await engine.run(flow, "a")


async def test_a_planner_is_a_tool_of_another() -> None:
    @planner(tools=[upper])
    async def inner(ctx: Context, text: str) -> Plan | str:
        if not ctx.turns:
            return Plan([upper.step(text, id="u")])
        return ctx.turns[0].results["u"]

    @planner(tools=[inner])
    async def outer(ctx: Context, text: str) -> Plan | str:
        if not ctx.turns:
            return Plan([inner.step(text, id="a"), inner.step("b", id="b")])
        return " ".join(ctx.turns[0].results.values())

    @workflow
    def flow(text: Ref[str]) -> Ref[str]:
        return outer(text)

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, "a") == "A B"
        budget = Budget(turns_max=3)
        with pytest.raises(Exception, match="3 of 3 planners' turns"):
            await engine.run(flow, "a", budget=budget)
        with pytest.raises(Exception, match="1 of 1 tool calls"):
            await engine.run(flow, "a", budget=Budget(tool_calls_max=1))
    assert "outer/t1/a/t1/u 0 1" in log
