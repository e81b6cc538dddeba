"""Rules of forks: a new run that shares what was done before a step, and does the rest again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest

import flowkit.events as ev
from flowkit import Budget, Context, Ref, Reject, RunConflict, StepFailed, Workflow, workflow
from flowkit.errors import ResumeError, StoreUnusable
from flowkit.events import Event
from flowkit.nodes import Findings, Plan, planner, tool, verifier
from flowkit.ports import Journal, Message, RunQuery
from flowkit.rewind import Fold
from flowkit.store import MemoryStore
from flowkit.testing import ScriptedModel, says
from tests.scenario.kit import Log, crashed, journal, kinds, memory, note, now, of, running


@tool
async def double(ctx: Context, n: int) -> int:
    note(ctx)
    return n * 2


@tool
async def add(ctx: Context, n: int, m: int) -> int:
    note(ctx)
    return n + m


@tool
async def write(ctx: Context, n: int) -> int:
    note(ctx)
    return n + len(ctx.feedback)


@verifier
async def check(ctx: Context, n: int) -> None:
    note(ctx)
    if n % 2 == 0:
        raise Reject("make it odd")


@planner(tools=[double])
async def plan(ctx: Context, n: int) -> Plan | int:
    note(ctx)
    if len(ctx.turns) < 3:
        return Plan([double.step(len(ctx.turns) + n, id="x"), double.step(n, id="y")], again=True)
    return sum(value for turn in ctx.turns for value in turn.results.values())


@workflow
def whole(n: Ref[int]) -> Ref[int]:
    """A map's sum, a rejected step, and a planner of four turns."""
    found = plan(n)
    checked = check(write(n))
    return add(found, checked)


def ran(log: Log) -> list[str]:
    return sorted(entry.split()[0] for entry in log)


async def forked(log: Log, *at: str, **options: Any) -> tuple[int, list[str], Sequence[ev.Event]]:
    """The result of a fork of a whole run, what ran in it, and its own events."""
    async with running(memory(), log, workflows=[whole]) as engine:
        await engine.run(whole, 2, run_id="r")
        head = (await engine.handle("r").record()).head
        log.clear()
        handle = await engine.fork("r", at=at, **options)
        result = await handle.result()
        return result, ran(log), (await journal(engine, handle.id))[head:]


WHOLE = 2 * (2 + 3 + 4) + 3 * 4 + 3


async def test_a_fork_does_the_named_step_and_what_rests_on_it_again() -> None:
    result, again, _ = await forked(Log(), "add")
    assert (result, again) == (WHOLE, ["add"])
    result, again, _ = await forked(Log(), "write")
    assert (result, again) == (WHOLE, ["add", "check", "check@2", "write", "write@2"])


async def test_a_fork_goes_back_to_a_round_or_a_turn() -> None:
    result, again, _ = await forked(Log(), "write@2")
    assert (result, again) == (WHOLE, ["add", "check@2", "write@2"])
    result, again, _ = await forked(Log(), "plan/t3")
    assert (result, again) == (WHOLE, ["add", "plan/t3", "plan/t3/x", "plan/t3/y", "plan/t4"])


async def test_a_planned_step_is_done_again_without_its_neighbours_and_the_turns_after_it_too() -> (
    None
):
    result, again, _ = await forked(Log(), "plan/t2/x")
    assert result == WHOLE
    assert again == [
        "add",
        "plan/t2/x",
        *(f"plan/t{n}" for n in (3,)),
        "plan/t3/x",
        "plan/t3/y",
        "plan/t4",
    ]


async def test_a_planner_s_name_goes_back_to_its_first_turn() -> None:
    _, again, _ = await forked(Log(), "plan")
    assert "plan/t1" in again
    assert "write" not in again


async def test_every_step_can_be_forked_from_and_gives_the_same_result() -> None:
    async with running(memory(), log := Log(), workflows=[whole]) as engine:
        await engine.run(whole, 2, run_id="r")
        keys = {event.key for event in await journal(engine, "r") if event.key}
        assert len(keys) == 15
        for key in sorted(keys):
            log.clear()
            handle = await engine.fork("r", at=key)
            assert await handle.result() == WHOLE, key
            assert key in ran(log), key
            assert len(ran(log)) == len(set(ran(log))), key


async def test_a_planned_step_is_suggested_by_its_own_name() -> None:
    async with running(memory(), Log(), workflows=[whole]) as engine:
        await engine.run(whole, 2, run_id="r")
        with pytest.raises(ResumeError, match="Did you mean 'plan/t1/x' or 'plan/t2/x'"):
            await engine.fork("r", at="x")


async def test_a_fork_copies_nothing_and_leaves_the_other_run_alone() -> None:
    log = Log()
    async with running(store := memory(), log, workflows=[whole]) as engine:
        await engine.run(whole, 2, run_id="r")
        before = await store.load("r")
        fork = await engine.fork("r", at="add", new_id="f")
        assert await fork.result() == WHOLE
        assert await store.load("r") == before
        record = await fork.record()
        assert (record.base, record.base_seq) == ("r", before.record.head)
        assert [event.kind for event in (await store.load("f")).events[record.base_seq :]] == [
            "rewound", "claimed", "step_done", "run_ended"
        ]  # fmt: skip
        assert len(store._rows["f"]) == 4


async def test_a_set_result_stands_in_place_of_what_the_step_gave() -> None:
    result, again, own = await forked(Log(), set={"write@2": 101})
    assert (result, again) == (WHOLE - 3 + 101, ["add", "check@2"])
    assert [event.payload.how for event in of(own, ev.Decided)] == ["set"]  # type: ignore[union-attr]
    result, again, _ = await forked(Log(), set={"plan/t2/x": 0})
    assert result == WHOLE - 2 * 3
    assert "plan/t2/x" not in again
    assert "plan/t3" in again
    result, again, _ = await forked(Log(), set={"plan/t4": 7})
    assert (result, again) == (10, ["add"])


async def test_a_result_that_does_not_fit_is_refused_and_nothing_is_made() -> None:
    async with running(store := memory(), Log(), workflows=[whole]) as engine:
        await engine.run(whole, 2, run_id="r")
        for bad, says_ in (
            ({"write": "no number"}, "step 'write' cannot be set to that"),
            ({"check": 3}, "verdict"),
            ({"add": 1, "write": 2}, "add"),
            ({"nothing": 1}, "no step 'nothing'"),
            ({"write@3": 1}, "Did you mean 'write"),
            ({"plan/t9": 1}, "no step"),
            ({"$input": 1}, "has not begun"),
        ):
            with pytest.raises((ResumeError, ValueError), match=says_):
                await engine.fork("r", set=bad)
        with pytest.raises(ResumeError, match="succeeded: say with at="):
            await engine.fork("r")
        with pytest.raises(RunConflict):
            await engine.fork("r", at="add", new_id="r")
        with pytest.raises(ResumeError, match="no model named 'other', only none"):
            await engine.fork("r", at="add", model="other")
        assert len(await store.runs(RunQuery())) == 1


async def test_a_fork_of_a_fork_rests_on_both() -> None:
    async with running(store := memory(), log := Log(), workflows=[whole]) as engine:
        await engine.run(whole, 2, run_id="r")
        await (await engine.fork("r", set={"write@2": 101}, new_id="f")).result()
        log.clear()
        second = await engine.fork("f", at="add", new_id="g")
        assert await second.result() == WHOLE - 3 + 101
        assert ran(log) == ["add"]
        assert (await second.record()).base == "f"
        third = await engine.fork("g", at="plan/t4")
        assert await third.result() == WHOLE - 3 + 101
        assert await engine.run(whole, 2, run_id="g") == WHOLE - 3 + 101
        assert len(await store.runs(RunQuery())) == 4


async def test_a_failed_run_s_fork_does_what_has_failed_again() -> None:
    broken = [True]

    @tool
    async def fragile(ctx: Context, n: int) -> int:
        note(ctx)
        if broken[0]:
            raise ValueError("broken")
        return n

    @workflow
    def failing(n: Ref[int]) -> Ref[int]:
        return fragile(double(n))

    async with running(memory(), log := Log(), workflows=[failing]) as engine:
        with pytest.raises(StepFailed):
            await engine.run(failing, 1, run_id="r")
        broken[0] = False
        log.clear()
        assert await (await engine.fork("r")).result() == 2
        assert ran(log) == ["fragile"]
        assert (await engine.handle("r").record()).status == "failed"


async def test_a_fork_of_a_failed_run_s_fork_shares_what_that_one_has_mended() -> None:
    broken = [True]

    @tool(effect="once")
    async def fragile(ctx: Context, n: int) -> int:
        note(ctx)
        if broken[0]:
            raise ValueError("broken")
        return n

    @workflow
    def failing(n: Ref[int]) -> Ref[int]:
        return double(fragile(double(n, id="before")), id="after")

    async with running(memory(), log := Log(), workflows=[failing]) as engine:
        with pytest.raises(StepFailed):
            await engine.run(failing, 1, run_id="r")
        broken[0] = False
        assert await (await engine.fork("r", new_id="f")).result() == 4
        log.clear()
        assert await (await engine.fork("f", at="after", new_id="g")).result() == 4
        assert await (await engine.fork("g", at="after")).result() == 4
        assert ran(log) == ["after", "after"]


async def test_an_approval_of_the_first_run_is_not_found_by_a_fork_after_a_deploy() -> None:
    def asking(version: str) -> Workflow[int, int]:
        @tool
        async def ask(ctx: Context, n: int) -> int:
            return int(await ctx.signal("go", returns=int))

        @tool(version=version)
        async def slow(ctx: Context, n: int) -> int:
            await anyio.sleep(10)
            return n

        @workflow
        def asking(n: Ref[int]) -> Ref[int]:
            return ask(slow(n))

        return asking

    async with running(store := memory(), Log(), workflows=[old := asking("1")]) as engine:
        await engine.start(old, 1, run_id="r")
        await engine.signal("r", "go", 5)
        await anyio.sleep(5)
        fork = await engine.fork("r", new_id="f")
        await anyio.sleep(20)
        assert (await fork.record()).status == "waiting"
    async with running(store, Log(), workflows=[asking("2")], on_change="keep") as engine:
        fork = await engine.take("f")
        await anyio.sleep(20)
        assert (await fork.record()).status == "waiting"
        await fork.signal("go", 7)
        assert await fork.result() == 7


async def test_a_run_that_goes_on_is_forked_as_it_is_now() -> None:
    @tool
    async def slow(ctx: Context, n: int) -> int:
        note(ctx)
        await anyio.sleep(100)
        return n

    @workflow
    def going(n: Ref[int]) -> Ref[int]:
        return slow(double(n))

    async with running(memory(), log := Log(), workflows=[going]) as engine:
        first = await engine.start(going, 1, run_id="r")
        await anyio.sleep(1)
        fork = await engine.fork("r")
        assert [await first.result(), await fork.result()] == [2, 2]
        assert ran(log) == ["double", "slow", "slow"]


async def test_signals_and_a_cancellation_stay_with_their_run() -> None:
    @tool
    async def ask(ctx: Context, n: int) -> int:
        note(ctx)
        return int(await ctx.signal("go", returns=int))

    @workflow
    def asking(n: Ref[int]) -> Ref[int]:
        return double(ask(double(n, id="before")), id="after")

    async with running(memory(), Log(), workflows=[asking]) as engine:
        first = await engine.start(asking, 1, run_id="r")
        await engine.signal("r", "go", 5)
        await engine.signal("r", "go", 6)
        assert await first.result() == 10
        fork = await engine.fork("r", at="ask")
        await anyio.sleep(5)
        assert (await fork.record()).status == "waiting"
        await engine.signal(fork.id, "go", 7)
        assert await fork.result() == 14
        after = await engine.fork("r", at="after")
        assert await after.result() == 10

        cancelled = await engine.start(asking, 1, run_id="c")
        await anyio.sleep(1)
        await cancelled.cancel()
        with pytest.raises(Exception, match="cancelled"):
            await cancelled.result()
        fork = await engine.fork("c")
        await engine.signal(fork.id, "go", 8)
        assert await fork.result() == 16


async def test_a_fork_s_budget_and_deadline_begin_anew() -> None:
    async with running(memory(), Log(), workflows=[whole]) as engine:
        budget = Budget(attempts_max=15)
        assert await engine.run(whole, 2, run_id="r", budget=budget, deadline_s=50) == WHOLE
        _, state = await engine.state("r")
        assert state.attempts_used == 15
        await anyio.sleep(100)
        fork = await engine.fork("r", at="write")
        assert await fork.result() == WHOLE
        _, state = await engine.state(fork.id)
        assert state.attempts_used == 5
        assert state.budget == budget


async def test_a_fork_asks_another_model_first_also_after_a_crash() -> None:
    @tool
    async def ask(ctx: Context, n: int) -> str:
        return await ctx.model.complete(f"say {n}")

    @workflow
    def asking(n: Ref[int]) -> Ref[str]:
        return ask(n)

    def models() -> list[ScriptedModel]:
        return [
            ScriptedModel([says("first")] * 9, name="one"),
            ScriptedModel([says("second")] * 9, name="two"),
        ]

    async with running(store := memory(), workflows=[asking], model=models()) as engine:
        assert await engine.run(asking, 1, run_id="r") == "first"
        fork = await engine.fork("r", at="ask", model="two", new_id="f")
        assert await fork.result() == "second"
        whole_, base = await store.load("f"), await store.load("r")
        head = base.record.head + 2
    copy = await crashed(store, "f", head)
    assert len(whole_.events) > head
    async with running(copy, workflows=[asking], model=models()) as engine:
        assert await engine.resume("f") == "second"
    copy = await crashed(store, "f", head)
    async with running(copy, workflows=[asking], model=models()[0]) as engine:
        with pytest.raises(ResumeError, match="no model named 'two', only one"):
            await engine.resume("f")
        assert (await copy.load("f")).record.owner is None, "somebody else may take it"


async def test_a_base_that_was_replaced_while_it_was_forked_is_told() -> None:
    class Swapped(MemoryStore):
        """Its run `r` is deleted, and its id used anew, as soon as the fork has read it."""

        reads = 0

        async def load(self, run_id: str, *, after: int = 0) -> Journal:
            found = await super().load(run_id, after=after)
            self.reads += run_id == "r"
            later = replace(found.record, created_at=found.record.created_at + 1)
            return replace(found, record=later) if self.reads > 1 and run_id == "r" else found

    store = Swapped(now=now)
    async with running(store, Log()) as engine:
        await engine.run(whole, 1, run_id="r")
        store.reads = 0
        with pytest.raises(RunConflict, match="'r' was deleted while it was forked"):
            await engine.fork("r", at="write", new_id="f")
        assert (await store.load("f")).record.status == "cancelled"


async def test_a_slow_retry_does_not_reopen_what_has_succeeded() -> None:
    tries: list[str] = []

    @tool
    async def shaky(ctx: Context, n: int) -> int:
        tries.append(ctx.step)
        if len(tries) == 1:
            raise ValueError("not yet")
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return shaky(n)

    class Slow(MemoryStore):
        """Between its look at the run and its claim somebody else has retried it."""

        first: Any = None

        async def claim(
            self, run_id: str, owner: str, lease_s: float, token: int | None = None
        ) -> int | None:
            other, self.first = self.first, None
            if other is not None:
                assert await (await other.retry(run_id)).result() == 1
            return await super().claim(run_id, owner, lease_s, token)

    store = Slow(now=now)
    async with running(store) as fast, running(store, workflows=[flow]) as slow:
        with pytest.raises(StepFailed):
            await fast.run(flow, 1, run_id="r")
        store.first = fast
        with pytest.raises(ResumeError, match="'r' is succeeded by now"):
            await slow.retry("r")
        assert (await store.load("r")).record.status == "succeeded"
        assert kinds(await journal(fast, "r"))[-1] == "run_ended"
    assert len(tries) == 2


async def test_a_fork_that_was_only_half_made_is_nobody_s_until_it_is_forked_again() -> None:
    async with running(store := memory(), Log(), workflows=[whole]) as engine:
        await engine.run(whole, 2, run_id="r")
        record = (await store.load("r")).record
        half = replace(
            record, run_id="f", status="cancelled", base="r", base_seq=record.head, epoch=1 << 40,
            owner="dead", lease_until=0.0,
        )  # fmt: skip
        await store.create(half)
    async with running(store, log := Log(), workflows=[whole], recover=True) as engine:
        await anyio.sleep(5)
        assert log == []
        assert (await engine.handle("f").record()).status == "cancelled"
        for asked in (engine.handle("f").result, lambda: engine.run(whole, 2, run_id="f")):
            with pytest.raises(ResumeError, match="not begun"):
                await asked()
        with pytest.raises(RunConflict):
            await engine.fork("r", at="add", new_id="r")
        fork = await engine.fork("r", set={"write@2": 101}, new_id="f")
        assert await fork.result() == WHOLE - 3 + 101
        with pytest.raises(RunConflict):
            await engine.fork("r", at="add", new_id="f")


async def test_a_fork_whose_maker_died_at_once_is_nobody_s() -> None:
    class Dying(MemoryStore):
        async def append(
            self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
        ) -> Sequence[Message]:
            if run_id == "f":
                raise StoreUnusable("the disk is gone")
            return await super().append(run_id, events, expect=expect, epoch=epoch)

    async with running(store := Dying(now=now), Log(), workflows=[whole]) as engine:
        await engine.run(whole, 2, run_id="r")
        with pytest.raises(StoreUnusable):
            await engine.fork("r", at="write", new_id="f")
    async with running(store, log := Log(), workflows=[whole], recover=True) as engine:
        await anyio.sleep(100)
        assert log == []
        assert (await engine.handle("f").record()).status == "cancelled"


async def test_a_fork_that_dies_at_any_event_resumes_to_the_same() -> None:
    async with running(store := memory(), Log(), workflows=[whole]) as engine:
        await engine.run(whole, 2, run_id="r")
        fork = await engine.fork("r", at="plan/t2/x", set={"write": 5}, new_id="f")
        result = await fork.result()
        events = await journal(engine, "f")
        first = (await fork.record()).base_seq
    for head in range(first + 2, len(events)):
        copy = await crashed(store, "f", head)
        async with running(copy, log := Log(), workflows=[whole]) as engine:
            assert await engine.resume("f") == result
            done = {
                e.key
                for e in Fold().apply_all(events[:head]).live
                if isinstance(e.payload, ev.StepDone)
            }
            assert not done.intersection(ran(log))


async def test_a_map_s_item_is_done_again_without_the_others() -> None:
    @tool
    async def numbers(ctx: Context, n: int) -> list[int]:
        return list(range(n))

    @tool
    async def total(ctx: Context, found: list[int]) -> int:
        note(ctx)
        return sum(found)

    @workflow
    def mapped(n: Ref[int]) -> Ref[int]:
        return total(double.map(numbers(n), id="pages"))

    async with running(memory(), log := Log(), workflows=[mapped]) as engine:
        assert await engine.run(mapped, 4, run_id="r") == 12
        log.clear()
        assert await (await engine.fork("r", at="pages/2")).result() == 12
        assert ran(log) == ["pages/2", "total"]
        log.clear()
        assert await (await engine.fork("r", at="pages")).result() == 12
        assert len(log) == 5
        assert await (await engine.fork("r", set={"pages/2": 100})).result() == 108
        with pytest.raises(ResumeError, match="cannot be set"):
            await engine.fork("r", set={"pages": [1]})


async def test_findings_are_made_anew_of_what_a_fork_does_again() -> None:
    @planner(tools=[double])
    async def look(ctx: Context, n: int) -> Plan:
        note(ctx)
        return Plan([double.step(n, id="a"), double.step(n + 1, id="b")])

    @tool
    async def count(ctx: Context, found: Findings) -> int:
        note(ctx)
        return sum(found.of(double).values())

    @workflow
    def looking(n: Ref[int]) -> Ref[int]:
        return count(look(n))

    async with running(memory(), log := Log(), workflows=[looking]) as engine:
        assert await engine.run(looking, 1, run_id="r") == 6
        log.clear()
        assert await (await engine.fork("r", set={"look/t1/a": 50})).result() == 54
        assert ran(log) == ["count"]
