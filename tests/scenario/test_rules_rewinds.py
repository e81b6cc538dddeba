"""Rules of going back, for a workflow that has everything: at every event, from every step, by every node.

The workflow gives the same result whichever of its steps are done again, so that only what ran differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import flowkit.events as ev
from flowkit import Context, Ref, Reject, VersionMismatch, Workflow, workflow
from flowkit.changes import OnChange, plan_resume
from flowkit.errors import RunQuarantined
from flowkit.events import Event
from flowkit.fork import plan_fork
from flowkit.nodes import Plan, Subflow, planner, tool, verifier
from flowkit.ports import RunQuery
from flowkit.rewind import ENDINGS, Fold, rewind
from tests.scenario.kit import Log, crashed, journal, memory, note, running

NODES = (
    "numbers", "double", "total", "down", "backup", "write", "cites", "long_enough", "inner", "outer",
    "small", "join",
)  # fmt: skip


def everything(changed: str = "") -> Workflow[int, int]:  # noqa: C901  (many small nodes)
    """Maps, a fallback whose first fails, a chain of verifiers with evidence, planners in planners."""

    def version(name: str) -> str:
        return "2" if name == changed else "1"

    @tool(version=version("numbers"))
    async def numbers(ctx: Context, n: int) -> list[int]:
        note(ctx)
        return list(range(n + 1))

    @tool(version=version("double"))
    async def double(ctx: Context, n: int) -> int:
        note(ctx)
        return n * 2

    @tool(version=version("total"))
    async def total(ctx: Context, found: list[int]) -> int:
        note(ctx)
        return sum(found)

    @tool(version=version("down"))
    async def down(ctx: Context, n: int) -> int:
        note(ctx)
        raise ConnectionError("down")

    @tool(version=version("backup"))
    async def backup(ctx: Context, n: int) -> int:
        note(ctx)
        return n + 1

    @tool(version=version("write"))
    async def write(ctx: Context, n: int, m: int) -> int:
        note(ctx)
        return n + m + len(ctx.feedback)

    @verifier(version=version("cites"))
    async def cites(ctx: Context, found: int, evidence: int) -> None:
        note(ctx)
        if not ctx.step.endswith("@2"):
            raise Reject("cite")

    @verifier(version=version("long_enough"))
    async def long_enough(ctx: Context, found: int) -> None:
        note(ctx)

    @planner(tools=[double], version=version("inner"))
    async def inner(ctx: Context, n: int) -> Plan | int:
        note(ctx)
        if not ctx.turns:
            return Plan([double.step(n, id="x")], again=True)
        return int(ctx.turns[0].results["x"])

    @tool(version=version("small"))
    async def small(ctx: Context, n: int) -> int:
        note(ctx)
        return n + 10

    @workflow
    def sub(n: Ref[int]) -> Ref[int]:
        return double(small(n))

    nested = Subflow(sub)

    @planner(tools=[inner, down | backup, numbers, double, total, nested], version=version("outer"))
    async def outer(ctx: Context, n: int) -> Plan | int:
        note(ctx)
        if not ctx.turns:
            first = inner.step(n, id="in")
            return Plan([first, (down | backup).step(first, id="either")], again=True)
        if len(ctx.turns) == 1:
            return Plan([nested.step(n, id="sub"), double.step(n, id="d")], again=True)
        return sum(int(value) for turn in ctx.turns for value in turn.results.values())

    @tool(version=version("join"))
    async def join(ctx: Context, a: int, b: int, c: int) -> int:
        note(ctx)
        return a + b + c

    @workflow
    def everything(n: Ref[int]) -> Ref[int]:
        found = total(double.map(double.map(numbers(n), id="once"), id="again"))
        either = (down | backup)(n)
        checked = long_enough(cites(write(either, found), found))
        return join(checked, outer(n), sub(either))

    return everything


def place(events: Sequence[Event]) -> Event:
    return Event(events[-1].seq + 1, events[-1].at, ev.Rewound())


async def whole() -> tuple[Any, Any]:
    async with running(store := memory(), Log()) as engine:
        result = await engine.run(everything(), 2, run_id="r")
    return store, result


def ran(log: Log) -> set[str]:
    """The keys of what ran, each once."""
    keys = [entry.rsplit(" ", 1)[0] for entry in log]
    assert len(keys) == len(set(keys)), keys
    return {key.partition(" ")[0] for key in keys}


UNSEEN = {"outer/t2/sub/t1", "outer/t2/sub/t2"}
"""The sub-workflow's own planner, which writes no log."""


async def test_going_back_for_nothing_changes_nothing_at_any_event() -> None:
    store, _ = await whole()
    events = (await store.load("r")).events
    folded = Fold()
    for event in events:
        folded.apply(event)
        back = rewind(folded, place([event]), ev.Rewound())
        assert all(isinstance(each.payload, ev.RunEnded) for each in back.dropped)
        assert back.state.views() == folded.state.views()
        assert list(back.state.ready) == list(folded.state.ready)
        assert back.state.owed == folded.state.owed


@pytest.mark.parametrize("part", range(4))
async def test_a_fork_from_every_step_does_what_its_plan_says_and_nothing_else(part: int) -> None:
    store, result = await whole()
    flow, events = everything(), (await store.load("r")).events
    keys = list(dict.fromkeys(event.key for event in events if event.key))
    assert len(keys) == 29
    for key in keys[part::4]:
        async with running(store, log := Log(), workflows=[flow]) as engine:
            journal_ = await store.load("r")
            plan = plan_fork(journal_.record, Fold().apply_all(events), flow, [key])
            handle = await engine.fork("r", at=key)
            assert await handle.result() == result, key
            assert ran(log) == {*plan.again, key} - UNSEEN, key
            assert not ran(log).intersection(plan.shared), key


@pytest.mark.parametrize("part", range(6))
async def test_every_deploy_at_every_event_does_what_its_plan_says(part: int) -> None:
    store, result = await whole()
    events = (await store.load("r")).events
    for name in NODES[part * 2 : part * 2 + 2]:
        flow = everything(name)
        for head in range(2, len(events) - 1):
            plan = plan_resume(
                "r", "running", Fold().apply_all(events[:head]), flow.bound(), "rerun"
            )
            assert plan.refusal == ""
            said = {step.step: step.action for step in plan.steps}
            copy = await crashed(store, "r", head)
            async with running(copy, log := Log(), workflows=[flow], on_change="rerun") as engine:
                assert await engine.resume("r") == result, (name, head)
                after = await journal(engine, "r")
            again = [key for key, action in said.items() if action == "rerun"]
            kept = [key for key, action in said.items() if action == "reuse"]
            assert set(again) - UNSEEN <= ran(log), (name, head, said)
            assert not set(kept).intersection(ran(log)), (name, head)
            assert Fold().apply_all(after).state.ended is not None


async def test_refused_or_kept_the_plan_is_what_happens() -> None:
    store, result = await whole()
    events = (await store.load("r")).events
    for name in NODES:
        flow = everything(name)
        for head in range(3, len(events) - 1, 5):
            folded = Fold().apply_all(events[:head])
            made = {
                folded.state.by_exec[e.key].step.nodes[e.alternative]
                for e in folded.live
                if isinstance(e.payload, ENDINGS)
            }
            plan = plan_resume("r", "running", folded, flow.bound(), "refuse")
            touched = any(folded.state.nodes[n] != flow.bound().nodes[n] for n in made)
            assert bool(plan.refusal) == touched, (name, head)
            keep = plan_resume("r", "running", folded, flow.bound(), "keep")
            assert keep.refusal == ""
            copy = await crashed(store, "r", head)
            async with running(copy, log := Log(), workflows=[flow], on_change="keep") as engine:
                assert await engine.resume("r") == result, (name, head)
            kept = {step.step for step in keep.steps if step.action == "reuse"}
            assert not kept.intersection(ran(log)), (name, head)


# ---- what is under way when a run goes back


def asking(version: str = "1", name: str = "go") -> Workflow[int, int]:
    @tool(version=version)
    async def ask(ctx: Context, n: int) -> int:
        note(ctx)
        value = int(await ctx.signal(name, returns=int))
        await ctx.sleep(50)
        return n + value

    @workflow
    def asking(n: Ref[int]) -> Ref[int]:
        return ask(n)

    return asking


async def test_an_approval_that_no_finished_step_has_used_stays_with_its_run() -> None:
    flow = asking()
    async with running(memory(), Log(), workflows=[flow]) as engine:
        for early in (True, False):
            run = await engine.start(flow, 1, run_id=f"r-{early}")
            if not early:
                await anyio.sleep(10)
            await engine.signal(run.id, "go", 5)
            await anyio.sleep(10)
            fork = await engine.fork(run.id)
            assert await run.result() == 6
            await anyio.sleep(100)
            assert (await fork.record()).status == "waiting"
            await engine.signal(fork.id, "go", 7)
            assert await fork.result() == 8


@pytest.mark.parametrize("on_change", ["refuse", "rerun", "keep"])
async def test_changed_code_that_waits_for_something_else_is_not_held_by_the_old_wait(
    on_change: OnChange,
) -> None:
    store = memory()
    async with running(store, Log()) as engine:
        run = await engine.start(asking(), 1, run_id="r")
        await anyio.sleep(10)
        assert (await run.record()).status == "waiting"
    flow = asking("2", "yes")
    async with running(store, Log(), workflows=[flow], on_change=on_change) as engine:
        run = await engine.take("r")
        await anyio.sleep(100)
        assert (await run.record()).status == "waiting"
        await run.signal("yes", 4)
        assert await run.result() == 5


async def test_an_approval_that_came_is_given_to_the_changed_code_of_its_step() -> None:
    for early in (True, False):
        store, old = memory(), asking()
        async with running(store, Log(), workflows=[old]) as engine:
            run = await engine.start(old, 1, run_id="r")
            if not early:
                await anyio.sleep(10)
            await run.signal("go", 5)
            await anyio.sleep(10)
        flow = asking("2")
        async with running(store, log := Log(), workflows=[flow]) as engine:
            assert await engine.resume("r") == 6
            assert log == ["ask 0 1", "ask 0 1"]


async def test_an_effect_under_way_with_inputs_that_are_made_anew_has_a_new_key() -> None:
    def keyed(version: str) -> Workflow[int, str]:
        @tool(version=version)
        async def amount(ctx: Context, n: int) -> int:
            return n * int(version)

        @tool
        async def pay(ctx: Context, n: int) -> str:
            ctx.resource(Log).append(f"{n} {ctx.idempotency_key}")
            if version == "1":
                await anyio.sleep(1000)
            return ctx.idempotency_key

        @workflow
        def keyed(n: Ref[int]) -> Ref[str]:
            return pay(amount(n))

        return keyed

    for on_change in ("rerun", "keep"):
        store, log, old = memory(), Log(), keyed("1")
        async with running(store, log, workflows=[old], grace_s=0.1) as engine:
            await engine.start(old, 1, run_id="r")
            await anyio.sleep(10)
        async with running(store, log, workflows=[keyed("2")], on_change=on_change) as engine:
            await engine.resume("r")
        (first, before), (second, after) = (line.split() for line in log)
        assert (first == second) == (before == after) == (on_change == "keep")


# ---- forks of runs whose code has changed


def two_steps(version: str = "1") -> Workflow[int, int]:
    @tool(version=version)
    async def make(ctx: Context, n: int) -> int:
        note(ctx)
        return n * int(version)

    @tool
    async def tell(ctx: Context, n: int) -> int:
        note(ctx)
        return n + 1

    @workflow
    def two_steps(n: Ref[int]) -> Ref[int]:
        return tell(make(n))

    return two_steps


async def test_a_fork_at_a_changed_step_needs_no_leave_and_goes_on_by_the_new_code() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(two_steps(), 10, run_id="r")
    async with running(store, log := Log(), workflows=[two_steps("2")]) as engine:
        fork = await engine.fork("r", at="make", new_id="f")
        assert await fork.result() == 21
        assert ran(log) == {"make", "tell"}
        head = len(await journal(engine, "f"))
        assert (await engine.plan_resume("f")).changes == ()
    copy = await crashed(store, "f", head - 2)
    async with running(copy, log := Log(), workflows=[two_steps("2")]) as engine:
        assert await engine.resume("f") == 21
        assert ran(log) == {"tell"}


async def test_a_fork_that_would_share_what_other_code_has_done_says_so() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(two_steps(), 10, run_id="r")
    async with running(store, log := Log(), workflows=[two_steps("2")]) as engine:
        with pytest.raises(VersionMismatch, match="step make: done by code that has changed"):
            await engine.fork("r", at="tell")
        assert len(await store.runs(RunQuery())) == 1
        kept = await engine.fork("r", at="tell", on_change="keep")
        assert await kept.result() == 11
        assert ran(log) == {"tell"}
        log.clear()
        again = await engine.fork("r", at="tell", on_change="rerun")
        assert await again.result() == 21
        assert ran(log) == {"make", "tell"}


async def test_an_effect_that_happened_in_another_alternative_is_not_done_again_by_a_deploy() -> (
    None
):
    def paying(version: str) -> Workflow[int, int]:
        @tool(version=version)
        async def amount(ctx: Context, n: int) -> int:
            return n

        @tool(effect="once")
        async def card(ctx: Context, n: int) -> int:
            note(ctx)
            raise ConnectionError("was it charged?")

        @tool
        async def voucher(ctx: Context, n: int) -> int:
            note(ctx)
            return n

        @tool
        async def tell(ctx: Context, n: int) -> int:
            return n

        @workflow
        def paying(n: Ref[int]) -> Ref[int]:
            return tell((card | voucher)(amount(n)))

        return paying

    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(paying("1"), 1, run_id="r")
        head = len(await journal(engine, "r")) - 2
    copy = await crashed(store, "r", head)
    async with running(copy, Log(), workflows=[paying("2")], on_change="rerun") as engine:
        with pytest.raises(VersionMismatch, match="step card: its effect has happened"):
            await engine.resume("r")
    async with running(store, log := Log(), workflows=[paying("1")]) as engine:
        flow, stored = paying("1"), await store.load("r")
        plan = plan_fork(stored.record, Fold().apply_all(stored.events), flow, ["amount"])
        assert plan.once == ("card",)
        await (await engine.fork("r", at="amount")).result()
        assert log == ["card 0 1", "card 1 1"], "a fork does it, and says so before"


# ---- runs that did not end well, and runs that go back twice


async def test_a_quarantined_run_s_fork_goes_on_where_it_stood() -> None:
    flow, store = two_steps(), memory()
    async with running(store, Log()) as engine:
        await engine.run(flow, 10, run_id="r")
    stored = await store.load("r")
    copy = await crashed(store, "r", 3)
    for seq in (4, 5, 6):
        epoch = await copy.claim("r", f"dead-{seq}", -1.0)
        assert epoch is not None
        claimed = Event(seq, stored.events[2].at, ev.Claimed("dead", epoch, "death"))
        await copy.append("r", [claimed], expect=seq - 1, epoch=epoch)
    async with running(copy, log := Log(), workflows=[flow]) as engine:
        with pytest.raises(RunQuarantined):
            await engine.resume("r")
        assert await (await engine.fork("r")).result() == 11
        assert await (await engine.fork("r", at="make")).result() == 11
        assert sorted(log) == ["make 0 1", "tell 0 1", "tell 0 1"]
        assert (await engine.handle("r").record()).status == "quarantined"


def once() -> Workflow[int, int]:
    @tool(effect="once")
    async def pay(ctx: Context, n: int) -> int:
        note(ctx)
        return n

    @tool
    async def tell(ctx: Context, n: int) -> int:
        note(ctx)
        return n + 1

    @workflow
    def once(n: Ref[int]) -> Ref[int]:
        return tell(pay(n))

    return once


async def test_a_fork_of_a_run_with_an_unknown_outcome_asks_too_unless_it_does_the_step_again() -> (
    None
):
    flow, store = once(), memory()
    async with running(store, Log()) as engine:
        await engine.run(flow, 1, run_id="r")
        head = next(e.seq for e in await journal(engine, "r") if e.kind == "intent")
    copy = await crashed(store, "r", head)
    async with running(copy, log := Log(), workflows=[flow]) as engine:
        first = await engine.take("r")
        await anyio.sleep(10)
        fork = await engine.fork("r", new_id="f")
        given = await engine.fork("r", set={"pay": 7})
        again = await engine.fork("r", at="pay")
        assert [await given.result(), await again.result()] == [8, 2]
        await anyio.sleep(10)
        assert [(await each.record()).status for each in (first, fork)] == ["waiting", "waiting"]
        await engine.decide("f", "pay", "done", 5)
        assert await fork.result() == 6
        assert sorted(log) == ["pay 0 1", "tell 0 1", "tell 0 1", "tell 0 1"]
        await engine.decide("r", "pay", "repeat")
        assert await first.result() == 2


async def test_recovery_tells_once_of_a_changed_run_and_takes_up_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    old, store = two_steps(), memory()
    async with running(store, Log()) as engine:
        await engine.run(old, 10, run_id="r")
    copy = await crashed(store, "r", 3)
    waits = asking()
    async with running(copy, Log(), workflows=[waits]) as engine:
        await engine.start(waits, 1, run_id="other")
        await anyio.sleep(10)
    new = two_steps("2")
    async with running(copy, log := Log(), workflows=[new, waits], recover=True) as engine:
        await engine.signal("other", "go", 5)
        assert await engine.handle("other").result() == 6
        await anyio.sleep(100)
        told = [each.message for each in caplog.records if "run r is not resumed" in each.message]
        assert len(told) == 1
        with pytest.raises(VersionMismatch):
            await engine.handle("r").result()
        assert await engine.resume("r", on_change="rerun") == 21
        assert sorted(log) == ["ask 0 1", "ask 0 1", "make 0 1", "tell 0 1"]


async def test_a_run_goes_back_as_often_as_its_code_changes() -> None:
    def versions(one: str, two: str) -> Workflow[int, str]:
        @tool(version=one)
        async def first(ctx: Context, n: int) -> str:
            note(ctx)
            return f"{one}:{ctx.idempotency_key}"

        @tool(version=two)
        async def second(ctx: Context, text: str) -> str:
            note(ctx)
            return f"{text} {two}:{ctx.idempotency_key}"

        @tool
        async def last(ctx: Context, text: str) -> str:
            note(ctx)
            if two != "3":
                await anyio.sleep(1000)
            return text

        @workflow
        def versions(n: Ref[int]) -> Ref[str]:
            return last(second(first(n)))

        return versions

    store, logs, result = memory(), list[set[str]](), ""
    for pair in (("1", "1"), ("1", "2"), ("2", "2"), ("2", "3")):
        flow, log = versions(*pair), Log()
        async with running(store, log, workflows=[flow], on_change="rerun", grace_s=0.1) as engine:
            run = await engine.start(flow, 1, run_id="r")
            await anyio.sleep(10)
            logs.append({entry.split()[0] for entry in log})
            if pair == ("2", "3"):
                result = await run.result()
    assert logs == [
        {"first", "second", "last"}, {"second", "last"}, {"first", "second", "last"},
        {"second", "last"},
    ]  # fmt: skip
    first, second = result.split()
    events = (await store.load("r")).events
    seqs = [event.seq for event in events if isinstance(event.payload, ev.Rewound)]
    assert len(seqs) == 3
    assert first == f"2:r/first/0/{seqs[1]}"
    assert second == f"3:r/second/0/{seqs[2]}"
    for head in range(seqs[0], len(events)):
        assert Fold().apply_all(events[:head]).state.seq == head
    flow = versions("2", "3")
    async with running(store, log := Log(), workflows=[flow]) as engine:
        fork = await engine.fork("r", at="second")
        assert await fork.result() == f"{first} 3:{fork.id}/second/0"
        assert ran(log) == {"second", "last"}
