"""Rules of deploys in flight: a changed node touches only what was done by it, and what rests on that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import flowkit.events as ev
from flowkit import Context, Engine, Ref, Reject, VersionMismatch, Workflow, workflow
from flowkit.changes import Action, OnChange, ResumePlan
from flowkit.errors import DeclarationError, FlowkitError
from flowkit.nodes import Findings, Plan, planner, tool, verifier
from flowkit.store import MemoryStore
from tests.scenario.kit import Log, crashed, journal, memory, note, of, running


def diamond(*, a: str = "1", b: str = "1", c: str = "1", d: str = "1") -> Workflow[int, int]:
    """`join(left(root), right(root))`, each with a version; a new one gives another value."""

    @tool(version=a)
    async def root(ctx: Context, n: int) -> int:
        note(ctx)
        return n + int(a)

    @tool(version=b)
    async def left(ctx: Context, n: int) -> int:
        note(ctx)
        return n * 10 * int(b)

    @tool(version=c)
    async def right(ctx: Context, n: int) -> int:
        note(ctx)
        return n * 100 * int(c)

    @tool(version=d)
    async def join(ctx: Context, one: int, two: int) -> int:
        note(ctx)
        return one + two

    @workflow
    def diamond(n: Ref[int]) -> Ref[int]:
        base = root(n)
        return join(left(base), right(base))

    return diamond


async def stopped(flow: Workflow[Any, Any], head: int, value: Any = 1) -> MemoryStore:
    """A store in which a process died right after event `head` of a run."""
    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(flow, value, run_id="r")
    return await crashed(store, "r", head)


async def resumed(
    store: MemoryStore, flow: Workflow[Any, Any], on_change: OnChange
) -> tuple[Any, Sequence[str], ResumePlan]:
    """The result, the steps that ran, and the plan that said so before."""
    log = Log()
    async with running(store, log, workflows=[flow], on_change=on_change) as engine:
        before = await store.load("r")
        plan = await engine.plan_resume("r")
        assert await store.load("r") == before, "a plan must not write"
        result = await engine.resume("r")
        again = await engine.plan_resume("r")
        assert again.changes == () or again.status == "succeeded"
    return result, sorted(entry.split()[0] for entry in log), plan


def actions(plan: ResumePlan) -> dict[str, Action]:
    return {step.step: step.action for step in plan.steps}


ALL_BUT_JOIN = 5
"""Events until root, left and right are done: two of the start, three steps."""


async def test_a_changed_step_that_has_not_been_done_is_done_by_the_new_code() -> None:
    for on_change in ("refuse", "rerun", "keep"):
        store = await stopped(diamond(), ALL_BUT_JOIN)
        result, ran, plan = await resumed(store, diamond(d="2"), on_change)
        assert (result, ran) == (220, ["join"])
        assert actions(plan) == {"root": "reuse", "left": "reuse", "right": "reuse", "join": "run"}
        assert plan.changes == ("node join: its types, tools, instructions or version changed",)


async def test_refused_it_says_what_is_in_the_way_and_changes_nothing() -> None:
    store = await stopped(diamond(), ALL_BUT_JOIN)
    before = await store.load("r")
    flow = diamond(b="2")
    async with running(store, Log(), workflows=[flow]) as engine:
        plan = await engine.plan_resume("r")
        assert actions(plan) == {
            "root": "reuse", "left": "changed", "right": "reuse", "join": "blocked"
        }  # fmt: skip
        assert "step left" in plan.refusal
        with pytest.raises(VersionMismatch, match=r'step left: .* on_change="rerun" or "keep"'):
            await engine.resume("r")
    assert await store.load("r") == before


async def test_rerun_does_the_changed_step_and_what_rests_on_it_again() -> None:
    store = await stopped(diamond(), ALL_BUT_JOIN)
    result, ran, plan = await resumed(store, diamond(b="2"), "rerun")
    assert (result, ran) == (2 * 20 + 200, ["join", "left"])
    assert actions(plan) == {"root": "reuse", "left": "rerun", "right": "reuse", "join": "run"}


async def test_rerun_from_the_root_does_everything_again() -> None:
    store = await stopped(diamond(), ALL_BUT_JOIN)
    result, ran, plan = await resumed(store, diamond(a="2"), "rerun")
    assert (result, ran) == (3 * 10 + 3 * 100, ["join", "left", "right", "root"])
    assert actions(plan) == {"root": "rerun", "left": "rerun", "right": "rerun", "join": "run"}


async def test_kept_results_stand_and_the_rest_is_done_by_the_new_code() -> None:
    store = await stopped(diamond(), 4)
    result, ran, plan = await resumed(store, diamond(a="2"), "keep")
    done = [step.step for step in plan.steps if step.action == "reuse"]
    assert result == 220
    assert "root" in done
    assert "root" not in ran


async def test_what_was_adopted_is_compared_with_the_next_time() -> None:
    store = await stopped(diamond(), ALL_BUT_JOIN)
    flow = diamond(b="2")
    async with running(store, Log(), workflows=[flow]) as engine:
        await engine.resume("r", on_change="rerun")
        events = await journal(engine, "r")
    (rewound,) = of(events, ev.Rewound)
    for head in range(rewound.seq, len(events)):
        copy = await crashed(store, "r", head)
        result, ran, _ = await resumed(copy, flow, "refuse")
        assert result == 240
        assert "root" not in ran
        assert "right" not in ran


async def test_a_step_that_is_done_again_has_a_new_idempotency_key() -> None:
    def keyed(version: str) -> Workflow[int, str]:
        @tool(version=version)
        async def work(ctx: Context, n: int) -> str:
            return ctx.idempotency_key

        @tool
        async def last(ctx: Context, key: str) -> str:
            return key

        @workflow
        def keyed(n: Ref[int]) -> Ref[str]:
            return last(work(n))

        return keyed

    store = await stopped(keyed("1"), 3)
    first = (await store.load("r")).events[2].payload
    assert isinstance(first, ev.StepDone)
    assert first.value is not None
    copy = await crashed(store, "r", 3)
    again, _, _ = await resumed(store, keyed("2"), "rerun")
    kept, _, _ = await resumed(copy, keyed("2"), "keep")
    assert first.value.text == f'"{kept}"'
    assert again != kept
    assert again.startswith(kept)


async def test_an_effect_that_happens_once_is_not_done_again_by_a_deploy() -> None:
    def paying(version: str) -> Workflow[int, int]:
        @tool(version=version)
        async def amount(ctx: Context, n: int) -> int:
            return n

        @tool(effect="once")
        async def pay(ctx: Context, n: int) -> int:
            note(ctx)
            return n

        @tool
        async def tell(ctx: Context, n: int) -> int:
            return n

        @workflow
        def paying(n: Ref[int]) -> Ref[int]:
            return tell(pay(amount(n)))

        return paying

    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(paying("1"), 1, run_id="r")
        (paid,) = [event for event in await journal(engine, "r") if event.kind == "intent"]
    for head in (paid.seq, paid.seq + 1):
        copy = await crashed(store, "r", head)
        before = await copy.load("r")
        flow = paying("2")
        async with running(copy, Log(), workflows=[flow], on_change="rerun") as engine:
            with pytest.raises(VersionMismatch, match="step pay: its effect has happened"):
                await engine.resume("r")
            assert actions(await engine.plan_resume("r"))["pay"] in ("blocked", "run")
        assert await copy.load("r") == before


def checked(version: str, *, strict: bool = True) -> Workflow[int, int]:
    @tool
    async def write(ctx: Context, n: int) -> int:
        note(ctx)
        return n + len(ctx.feedback)

    @verifier(version=version)
    async def check(ctx: Context, n: int) -> None:
        note(ctx)
        if strict and n < 2:
            raise Reject("more")

    @tool
    async def last(ctx: Context, n: int) -> int:
        note(ctx)
        return n

    @workflow
    def checked(n: Ref[int]) -> Ref[int]:
        return last(check(write(n)))

    return checked


async def test_a_changed_verifier_judges_again_from_the_first_round() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(checked("1"), 1, run_id="r")
        head = len(await journal(engine, "r")) - 2
    copy = await crashed(store, "r", head)
    result, ran, plan = await resumed(copy, checked("2", strict=False), "rerun")
    assert (result, ran) == (1, ["check", "last"])
    assert actions(plan)["write"] == "reuse"
    assert actions(plan)["check"] == "rerun"


async def test_what_was_done_with_the_feedback_of_a_verifier_that_is_gone_is_done_again() -> None:
    def judged(*, twice: bool) -> Workflow[int, int]:
        @tool
        async def write(ctx: Context, n: int) -> int:
            ctx.resource(Log).append(f"{ctx.step} {'; '.join(ctx.feedback)}")
            return n + len(ctx.feedback)

        @verifier
        async def short(ctx: Context, n: int) -> None:
            if n < 2:
                raise Reject("shorter")

        @verifier
        async def kind(ctx: Context, n: int) -> None:
            if n < 2:
                raise Reject("kinder")

        @tool
        async def last(ctx: Context, n: int, m: int) -> int:
            return n

        @workflow
        def judged(n: Ref[int]) -> Ref[int]:
            text = write(n)
            return last(short(text), kind(text) if twice else text)

        return judged

    store, log = memory(), Log()
    async with running(store, log) as engine:
        assert await engine.run(judged(twice=True), 1, run_id="r") == 3
        (second,) = [e for e in await journal(engine, "r") if e.key == "write@2"]
    assert log[1] == "write@2 shorter; kinder"
    copy, flow = await crashed(store, "r", second.seq), judged(twice=False)
    async with running(copy, log := Log(), workflows=[flow]) as engine:
        with pytest.raises(VersionMismatch, match="write@2"):
            await engine.resume("r", on_change="keep")
        await engine.resume("r", on_change="rerun")
    assert log == ["write@2 shorter"]


async def test_a_signal_that_a_step_had_is_not_given_to_it_when_it_is_done_again() -> None:
    def asking(version: str) -> Workflow[int, str]:
        @tool
        async def before(ctx: Context, n: int) -> int:
            await anyio.sleep(n)
            return n

        @tool(version=version)
        async def approval(ctx: Context, n: int) -> str:
            return await ctx.signal("approve", returns=str)

        @workflow
        def asking(n: Ref[int]) -> Ref[str]:
            return approval(before(n))

        return asking

    store = memory()
    async with running(store, Log()) as engine:
        handle = await engine.start(asking("1"), 10, run_id="r")
        await handle.signal("approve", "by Ann")  # before anybody waits for it
        assert await handle.result() == "by Ann"
        (done,) = [e for e in of(await journal(engine, "r"), ev.StepDone) if e.key == "approval"]
    flow = asking("2")
    copy = await crashed(store, "r", done.seq)
    async with running(copy, Log(), workflows=[flow], on_change="rerun") as engine:
        resumed = await engine.start(flow, 10, run_id="r")
        await anyio.sleep(100)
        await resumed.signal("approve", "by Bob")
        assert await resumed.result() == "by Bob"


def planned(tool_version: str = "1", planner_version: str = "1") -> Workflow[int, int]:
    @tool(version=tool_version)
    async def look(ctx: Context, n: int) -> int:
        note(ctx)
        return n

    @planner(tools=[look], version=planner_version)
    async def plan(ctx: Context, n: int) -> Plan:
        note(ctx)
        return Plan([look.step(n, id="one"), look.step(n + 1, id="two")])

    @tool
    async def count(ctx: Context, found: Findings) -> int:
        note(ctx)
        return sum(found.of(look).values())

    @workflow
    def planned(n: Ref[int]) -> Ref[int]:
        return count(plan(n))

    return planned


async def test_a_planner_is_asked_again_when_a_tool_of_its_plan_has_changed() -> None:
    store = await stopped(planned(), 5)
    copy = await crashed(store, "r", 5)
    result, ran, plan = await resumed(store, planned(tool_version="2"), "rerun")
    assert (result, ran) == (3, ["count", "plan/t1", "plan/t1/one", "plan/t1/two"])
    assert actions(plan)["plan/t1"] == "rerun"
    result, ran, plan = await resumed(copy, planned(tool_version="2"), "keep")
    assert (result, ran) == (3, ["count"])


def wired(shape: str) -> Workflow[int, int]:
    @tool
    async def first(ctx: Context, n: int) -> int:
        note(ctx)
        return n + 1

    @tool
    async def second(ctx: Context, n: int) -> int:
        note(ctx)
        return n * 2

    @tool
    async def third(ctx: Context, n: int) -> int:
        note(ctx)
        return n * 3

    @workflow
    def wired(n: Ref[int]) -> Ref[int]:
        if shape == "longer":
            return third(first(second(n)))
        if shape == "shorter":
            return third(first(n))
        if shape == "ends":
            return second(first(n))
        return third(second(first(n)))

    return wired


async def test_a_step_that_is_given_something_else_is_done_again_with_all_behind_it() -> None:
    store = await stopped(wired("old"), 4)
    copy = await crashed(store, "r", 4)
    result, ran, _ = await resumed(store, wired("longer"), "rerun")
    assert (result, ran) == (9, ["first", "second", "third"])
    flow = wired("longer")
    async with running(copy, Log(), workflows=[flow]) as engine:
        for on_change in ("refuse", "keep"):
            with pytest.raises(VersionMismatch, match="no longer in the same place"):
                await engine.resume("r", on_change=on_change)


async def test_a_step_that_is_gone_leaves_the_others_alone() -> None:
    store = await stopped(wired("old"), 4)
    result, ran, plan = await resumed(store, wired("shorter"), "rerun")
    assert (result, ran) == (6, ["third"])
    assert "step second: gone" in plan.changes


async def test_a_run_whose_new_output_is_done_already_ends_with_it() -> None:
    store = await stopped(wired("old"), 4)
    result, ran, _ = await resumed(store, wired("ends"), "rerun")
    assert (result, ran) == (4, [])


async def test_a_failed_run_is_retried_by_mended_code() -> None:
    def mended(works: bool) -> Workflow[int, int]:
        @tool
        async def before(ctx: Context, n: int) -> int:
            note(ctx)
            return n

        @tool(version=str(works))
        async def work(ctx: Context, n: int) -> int:
            note(ctx)
            if not works:
                raise ValueError("a bug")
            return n

        @workflow
        def mended(n: Ref[int]) -> Ref[int]:
            return work(before(n))

        return mended

    store, log = memory(), Log()
    async with running(store, log) as engine:
        with pytest.raises(Exception, match="a bug"):
            await engine.run(mended(False), 1, run_id="r")
    flow = mended(True)
    async with running(store, log, workflows=[flow]) as engine:
        plan = await engine.plan_resume("r")
        assert (plan.refusal, actions(plan)) == ("", {"before": "reuse", "work": "run"})
        assert await (await engine.retry("r")).result() == 1
    assert [entry.split()[0] for entry in log] == ["before", "work", "work"]


async def test_a_wait_that_was_over_before_the_deploy_is_over_after_it() -> None:
    def waiting(version: str) -> Workflow[int, int]:
        @tool
        async def ask(ctx: Context, n: int) -> int:
            try:
                return int(await ctx.signal("never", timeout_s=20))
            except TimeoutError:
                return n

        @tool(version=version)
        async def last(ctx: Context, n: int) -> int:
            return n

        @workflow
        def waiting(n: Ref[int]) -> Ref[int]:
            return last(ask(n))

        return waiting

    store = memory()
    async with running(store) as engine:
        assert await engine.run(waiting("1"), 7, run_id="r") == 7
        (over,) = of(await journal(engine, "r"), ev.Signalled)
    copy = await crashed(store, "r", over.seq)
    async with running(copy, workflows=[waiting("2")]) as engine:
        assert await engine.resume("r") == 7


def rolling(release: int) -> Workflow[int, int]:
    """Release 2 has taken out what release 1 pays."""

    @tool
    async def amount(ctx: Context, n: int) -> int:
        return n

    @tool(effect="once")
    async def pay(ctx: Context, n: int) -> int:
        note(ctx)
        return n

    @tool
    async def wait(ctx: Context, n: int) -> int:
        await ctx.signal("go")
        return n

    @workflow
    def rolling(n: Ref[int]) -> Ref[int]:
        return wait(pay(amount(n)) if release == 1 else amount(n))

    return rolling


async def test_an_effect_that_was_taken_out_by_a_deploy_does_not_happen_again_with_the_next() -> (
    None
):
    store, log = memory(), Log()
    async with running(store, log) as engine:
        await engine.start(rolling(1), 1, run_id="r")
        await anyio.sleep(50)
    async with running(store, log, workflows=[rolling(2)]) as engine:
        await engine.take("r", on_change="rerun")
        await anyio.sleep(50)
    for on_change in ("refuse", "rerun", "keep"):
        async with running(store, log, workflows=[rolling(1)], on_change=on_change) as engine:
            assert "before the step was taken out" in (await engine.plan_resume("r")).refusal
            with pytest.raises(VersionMismatch, match="step pay: its effect happened before"):
                await engine.take("r")
    assert log == ["pay 0 1"]
    async with running(store, log, workflows=[rolling(2)]) as engine:
        handle = await engine.take("r")
        await handle.signal("go")
        assert await handle.result() == 1


def typed(kind: Any, version: str) -> Workflow[int, int]:
    async def price(ctx: Context, n: int) -> Any:
        return kind(n)

    async def after(ctx: Context, given: Any) -> int:
        return int(given)

    price.__annotations__["return"] = after.__annotations__["given"] = kind
    priced, told = tool(version=version)(price), tool(after)

    @workflow
    def typed(n: Ref[int]) -> Ref[int]:
        return told(priced(n))

    return typed


async def test_a_result_that_does_not_fit_its_type_any_more_is_not_kept() -> None:
    store = await stopped(typed(float, "1"), 3, value=1)
    whole = await store.load("r")
    flow = typed(list, "1")
    async with running(store, Log(), workflows=[flow], on_change="keep") as engine:
        plan = await engine.plan_resume("r")
        assert actions(plan)["price"] == "changed"
        with pytest.raises(VersionMismatch, match="price: done, and its result does not fit"):
            await engine.resume("r")
        with pytest.raises(VersionMismatch, match="price: done, and its result does not fit"):
            await engine.fork("r", on_change="keep", new_id="f")
    assert await store.load("r") == whole
    async with running(store, Log(), workflows=[typed(int, "2")], on_change="keep") as engine:
        assert await engine.resume("r") == 1


@pytest.mark.parametrize("word", ["Keep", "maybe", ""])
async def test_a_word_that_is_no_policy_is_refused(word: Any) -> None:
    with pytest.raises(DeclarationError, match='use "refuse", "rerun" or "keep"'):
        Engine(memory(), on_change=word)
    store = await stopped(diamond(), ALL_BUT_JOIN)
    async with running(store, Log(), workflows=[diamond(a="2")]) as engine:
        for ask in (engine.resume, engine.take, engine.plan_resume, engine.fork, engine.retry):
            with pytest.raises(FlowkitError):
                await ask("r", on_change=word)
