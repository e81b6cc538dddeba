"""Rules of runs: what `run` does with an id, cancel, retry, budgets, deadlines, leases, quarantine."""

from __future__ import annotations

from typing import Any, cast

import anyio
import pytest

import flowkit.events as ev
from flowkit import (
    Budget,
    Context,
    Engine,
    Fatal,
    Ref,
    RunConflict,
    StepFailed,
    VersionMismatch,
    Workflow,
    workflow,
)
from flowkit.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    DeclarationError,
    FlowkitError,
    ResumeError,
    RunBusy,
    RunCancelled,
    RunNotFound,
    RunQuarantined,
)
from flowkit.nodes import Findings, Node, Plan, planner, tool
from flowkit.ports import Message, RunQuery, RunRecord
from flowkit.store import MemoryStore
from tests.scenario.kit import (
    Log,
    crashed,
    eventually,
    finished,
    journal,
    kinds,
    memory,
    note,
    now,
    of,
    running,
)


class Switch:
    """What a test may turn while runs go on."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken


@tool
async def one(ctx: Context, n: int) -> int:
    note(ctx)
    return n + 1


@tool
async def slow(ctx: Context, n: int) -> int:
    note(ctx)
    await anyio.sleep(100)
    return n + 1


@tool
async def shaky(ctx: Context, n: int) -> int:
    note(ctx)
    if ctx.resource(Switch).broken:
        raise ConnectionError("broken")
    return n * 2


@tool
async def add(ctx: Context, a: int, b: int) -> int:
    note(ctx)
    return a + b


@workflow
def quick(n: Ref[int]) -> Ref[int]:
    return one(n)


@workflow
def long(n: Ref[int]) -> Ref[int]:
    return one(slow(n))


@workflow
def fragile(n: Ref[int]) -> Ref[int]:
    return add(shaky(one(n)), slow(n))


# ---- run()


async def test_run_of_an_unknown_id_creates_and_drives_it() -> None:
    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(quick, 1, run_id="r") == 2
        record, _ = await engine.state("r")
    assert (record.status, record.workflow) == ("succeeded", "quick")
    assert log == ["one 0 1"]


async def test_run_of_a_finished_id_returns_the_stored_result_and_runs_nothing() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(quick, 1, run_id="r")
    log = Log()
    async with running(store, log) as engine:
        assert await engine.run(quick, 1, run_id="r") == 2
        assert await engine.resume("r") == 2
        head = (await engine.state("r"))[0].head
    assert log == []
    assert head == 4


@pytest.mark.parametrize("other", ["input", "workflow"])
async def test_run_with_another_input_or_workflow_is_a_conflict_and_changes_nothing(
    other: str,
) -> None:
    store, log = memory(), Log()
    async with running(store, log) as engine:
        await engine.run(quick, 1, run_id="r")
        before = await store.load("r")
        workflow_, value = (quick, 2) if other == "input" else (long, 1)
        with pytest.raises(RunConflict, match=other):
            await engine.run(workflow_, value, run_id="r")
        assert await store.load("r") == before
    assert log == ["one 0 1"]


async def test_run_of_a_failed_id_raises_its_stored_error() -> None:
    store = memory()
    async with running(store, Log(), Switch(broken=True)) as engine:
        with pytest.raises(StepFailed) as first:
            await engine.run(fragile, 1, run_id="r")
    log = Log()
    async with running(store, log, Switch()) as engine:
        with pytest.raises(StepFailed) as second:
            await engine.run(fragile, 1, run_id="r")
    assert str(second.value) == str(first.value)
    assert (second.value.step, second.value.error_type) == ("shaky", "ConnectionError")
    assert log == []


async def test_run_of_a_cancelled_id_raises_run_cancelled() -> None:
    async with running(None, Log()) as engine:
        handle = await engine.start(long, 1, run_id="r")
        await handle.cancel()
        with pytest.raises(RunCancelled):
            await handle.result()
        with pytest.raises(RunCancelled):
            await engine.run(long, 1, run_id="r")


async def test_run_of_an_id_that_is_alive_elsewhere_follows_it() -> None:
    store, mine, theirs = memory(), Log(), Log()
    async with running(store, theirs) as other, running(store, mine) as engine:
        handle = await other.start(long, 1, run_id="r")
        assert await engine.run(long, 1, run_id="r") == 3
        assert await handle.result() == 3
    assert mine == []
    assert theirs == ["slow 0 1", "one 0 1"]


async def test_two_calls_of_run_with_one_id_in_one_engine_drive_it_once() -> None:
    results: list[int] = []
    log = Log()
    async with running(None, log) as engine:

        async def call() -> None:
            results.append(await engine.run(long, 1, run_id="r"))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(call)
        events = await journal(engine, "r")
    assert results == [3] * 5
    assert log == ["slow 0 1", "one 0 1"]
    assert kinds(events).count("claimed") == 1


async def test_two_resumes_of_a_crashed_run_in_one_engine_drive_it_once() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(long, 1, run_id="r")
    log, results = Log(), list[int]()
    copy = await crashed(store, "r", 2)
    async with running(copy, log, workflows=[long]) as engine:

        async def call() -> None:
            results.append(await engine.resume("r"))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(call)
    assert results == [3] * 3
    assert log == ["slow 0 1", "one 0 1"]


async def test_resume_of_an_unknown_id_is_run_not_found() -> None:
    async with running() as engine:
        for call in (engine.resume, engine.cancel, engine.retry):
            with pytest.raises(RunNotFound):
                await call("nobody")


async def test_resume_of_a_run_that_is_alive_elsewhere_is_run_busy() -> None:
    store = memory()
    async with running(store, Log()) as other, running(store, Log(), workflows=[long]) as engine:
        handle = await other.start(long, 1, run_id="r")
        with pytest.raises(RunBusy) as caught:
            await engine.resume("r")
        assert caught.value.owner
        assert caught.value.until > now()
        assert await handle.result() == 3


# ---- cancel


async def test_cancelling_who_awaits_run_detaches_it_and_the_run_goes_on() -> None:
    log = Log()
    async with running(None, log) as engine:
        with anyio.move_on_after(10) as scope:
            await engine.run(long, 1, run_id="r")
        assert scope.cancelled_caught
        assert (await engine.state("r"))[0].status == "running"
        assert await engine.handle("r").result() == 3
    assert log == ["slow 0 1", "one 0 1"]


async def test_cancel_is_recorded_first_and_then_running_attempts_are_cancelled() -> None:
    cleaned: list[str] = []

    @tool
    async def tidy(ctx: Context, n: int) -> int:
        try:
            await anyio.sleep(1000)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
                cleaned.append("up")
        return n

    @workflow
    def tidy_flow(n: Ref[int]) -> Ref[int]:
        return one(tidy(n))

    async with running(None, Log()) as engine:
        handle = await engine.start(tidy_flow, 1, run_id="r")
        await anyio.sleep(5)
        began = now()
        await handle.cancel("enough")
        with pytest.raises(RunCancelled):
            await handle.result()
        assert now() - began < 10
        events = await journal(engine, "r")
    assert cleaned == ["up"]
    assert kinds(events)[-2:] == ["cancel_requested", "run_ended"]


async def test_clean_up_after_a_cancel_is_bounded() -> None:
    @tool
    async def stuck(ctx: Context, n: int) -> int:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(500)
        return n

    @workflow
    def stuck_flow(n: Ref[int]) -> Ref[int]:
        return one(stuck(n))

    async with running(None, Log(), grace_s=3) as engine:
        handle = await engine.start(stuck_flow, 1, run_id="r")
        await anyio.sleep(5)
        await handle.cancel()
        await anyio.sleep(10)
        assert (await handle.record()).status == "cancelled"
        with pytest.raises(RunCancelled):
            await handle.result()
        await anyio.sleep(600)
        events = await journal(engine, "r")
    assert kinds(events)[-1] == "run_ended", "nothing is recorded after the end"


async def test_a_run_is_cancelled_from_another_engine() -> None:
    store = memory()
    async with running(store, Log()) as owner, running(store) as other:
        handle = await owner.start(long, 1, run_id="r")
        await anyio.sleep(5)
        await other.cancel("r", "from outside")
        with pytest.raises(RunCancelled):
            await handle.result()
        request = of(await journal(owner, "r"), ev.CancelRequested)[0].payload
    assert isinstance(request, ev.CancelRequested)
    assert request.reason == "from outside"


async def test_a_cancel_survives_the_owners_crash() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.start(long, 1, run_id="r")
        await anyio.sleep(5)
        copy = await crashed(store, "r", 2)
    log = Log()
    async with running(copy) as other:
        await other.cancel("r")
    async with running(copy, log) as engine:
        with pytest.raises(RunCancelled):
            await engine.run(long, 1, run_id="r")
    assert "one 0 1" not in log


async def test_a_cancel_or_a_signal_to_an_ended_run_changes_nothing() -> None:
    store = memory()
    async with running(store, Log(), recover=True, workflows=[quick]) as engine:
        assert await engine.run(quick, 1, run_id="r") == 2
        before = await store.load("r")
        await store.post("r", Message("1", "cancel"))  # posted while the run ended
        await store.post("r", Message("2", "signal", "late"))
        await anyio.sleep(100)
        assert await store.load("r") == before
        assert await engine.run(quick, 1, run_id="r") == 2


# ---- retry


async def test_retry_reopens_exactly_the_failed_steps() -> None:
    store, switch, log = memory(), Switch(broken=True), Log()
    async with running(store, log, switch) as engine:
        with pytest.raises(StepFailed):
            await engine.run(fragile, 1, run_id="r")
        assert sorted(log) == ["one 0 1", "shaky 0 1", "slow 0 1"]
        switch.broken = False
        del log[:]
        handle = await engine.retry("r")
        assert await handle.result() == 6
    assert log == ["shaky 0 2", "add 0 1"]


async def test_retry_works_in_a_new_process_and_again_after_another_failure() -> None:
    store = memory()
    async with running(store, Log(), Switch(broken=True)) as engine:
        with pytest.raises(StepFailed):
            await engine.run(fragile, 1, run_id="r")
    async with running(store, Log(), Switch(broken=True), workflows=[fragile]) as engine:
        with pytest.raises(StepFailed):
            await (await engine.retry("r")).result()
    log = Log()
    async with running(store, log, Switch(), workflows=[fragile]) as engine:
        assert await (await engine.retry("r")).result() == 6
        assert await engine.run(fragile, 1, run_id="r") == 6
    assert log == ["shaky 0 3", "add 0 1"]


async def test_retry_of_a_map_reopens_the_failed_items_only() -> None:
    @tool
    async def numbers(ctx: Context, n: int) -> list[int]:
        return list(range(n))

    @tool
    async def item(ctx: Context, n: int) -> int:
        note(ctx)
        await anyio.sleep(n)
        if n == 1 and ctx.resource(Switch).broken:
            raise ConnectionError("broken")
        return n

    @tool
    async def total(ctx: Context, found: list[int]) -> int:
        return sum(found)

    @workflow
    def mapped(n: Ref[int]) -> Ref[int]:
        return total(item.map(numbers(n)))

    switch, log = Switch(broken=True), Log()
    async with running(None, log, switch) as engine:
        with pytest.raises(StepFailed) as caught:
            await engine.run(mapped, 4, run_id="r")
        assert caught.value.step == "item/1"
        switch.broken = False
        del log[:]
        assert await (await engine.retry("r")).result() == 6
    assert log == ["item/1 0 2"]


async def test_retry_of_a_rejected_step_gives_it_new_rounds() -> None:
    from flowkit import Reject
    from flowkit.nodes import verifier

    @verifier
    async def strict(ctx: Context, n: int) -> None:
        note(ctx)
        if ctx.resource(Switch).broken:
            raise Reject("no")

    @workflow
    def checked(n: Ref[int]) -> Ref[int]:
        return strict(one(n))

    switch, log = Switch(broken=True), Log()
    async with running(None, log, switch) as engine:
        with pytest.raises(StepFailed):
            await engine.run(checked, 1, run_id="r")
        switch.broken = False
        del log[:]
        assert await (await engine.retry("r")).result() == 2
    assert log == ["one@3 0 1", "strict@3 0 1"]


async def test_retry_after_fatal_in_a_planned_step_reopens_that_step() -> None:
    @tool
    async def doomed(ctx: Context, n: int) -> int:
        note(ctx)
        if ctx.resource(Switch).broken:
            raise Fatal("no")
        return n

    @planner(tools=[doomed, one])
    async def plan(ctx: Context, n: int) -> Plan:
        return Plan([one.step(n, id="one"), doomed.step(n, id="doomed")])

    @tool
    async def count(ctx: Context, found: Findings) -> int:
        return len(found)

    @workflow
    def planned(n: Ref[int]) -> Ref[int]:
        return count(plan(n))

    switch, log = Switch(broken=True), Log()
    async with running(None, log, switch) as engine:
        with pytest.raises(StepFailed, match="no"):
            await engine.run(planned, 1, run_id="r")
        switch.broken = False
        done = finished(await journal(engine, "r"))
        del log[:]
        assert await (await engine.retry("r")).result() == 2
    assert "plan/t1/doomed 0 2" in log
    assert not done.intersection(log)


@pytest.mark.parametrize("status", ["succeeded", "cancelled", "running"])
async def test_only_failed_and_quarantined_runs_are_retried(status: str) -> None:
    async with running(None, Log()) as engine:
        handle = await engine.start(long, 1, run_id="r")
        if status == "cancelled":
            await handle.cancel()
            with pytest.raises(RunCancelled):
                await handle.result()
        elif status == "succeeded":
            await handle.result()
        with pytest.raises(ResumeError, match=status):
            await engine.retry("r")


# ---- budgets and deadlines


async def test_the_steps_budget_is_checked_before_each_start() -> None:
    log = Log()

    @workflow
    def chain(n: Ref[int]) -> Ref[int]:
        return one(one(one(one(n, id="a"), id="b"), id="c"), id="d")

    async with running(None, log) as engine:
        with pytest.raises(BudgetExceeded, match="2 steps"):
            await engine.run(chain, 1, run_id="r", budget=Budget(steps_max=2))
        assert (await engine.state("r"))[0].status == "failed"
    assert log == ["a 0 1", "b 0 1"]


async def test_the_attempts_budget_counts_failed_ones() -> None:
    log = Log()

    @tool(retries=10, backoff_s=0)
    async def flaky(ctx: Context, n: int) -> int:
        note(ctx)
        raise ConnectionError("down")

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return flaky(n)

    async with running(None, log) as engine:
        with pytest.raises(BudgetExceeded):
            await engine.run(flow, 1, budget=Budget(attempts_max=3))
    assert len(log) == 3


async def test_the_wall_budget_ends_a_run_before_its_next_step() -> None:
    log = Log()
    async with running(None, log) as engine:
        with pytest.raises(BudgetExceeded):
            await engine.run(long, 1, budget=Budget(wall_s_max=50))
    assert log == ["slow 0 1"], "overshoot is what was in flight"


async def test_budgets_are_folded_so_a_crash_does_not_begin_them_anew() -> None:
    @workflow
    def chain(n: Ref[int]) -> Ref[int]:
        return one(one(one(one(n, id="a"), id="b"), id="c"), id="d")

    store = memory()
    async with running(store, Log()) as engine:
        with pytest.raises(BudgetExceeded):
            await engine.run(chain, 1, run_id="r", budget=Budget(steps_max=2))
        events = await journal(engine, "r")
    head = of(events, ev.StepDone)[0].seq
    log = Log()
    async with running(await crashed(store, "r", head), log) as engine:
        with pytest.raises(BudgetExceeded):
            await engine.run(chain, 1, run_id="r")
    assert log == ["b 0 1"]


async def test_the_deadline_stops_what_runs_and_fails_the_run() -> None:
    async with running(None, Log()) as engine:
        began = now()
        with pytest.raises(DeadlineExceeded):
            await engine.run(long, 1, run_id="r", deadline_s=30)
        assert now() - began == pytest.approx(30, abs=1)
        assert (await engine.state("r"))[0].status == "failed"


async def test_the_deadline_is_absolute_so_downtime_counts() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.start(long, 1, run_id="r", deadline_s=150)
        await anyio.sleep(10)
        copy = await crashed(store, "r", 2)
    await anyio.sleep(130)
    log = Log()
    async with running(copy, log) as engine:
        began = now()
        with pytest.raises(DeadlineExceeded):
            await engine.run(long, 1, run_id="r")
        assert now() - began < 15


async def test_ctx_deadline_is_the_runs() -> None:
    seen: list[float | None] = []

    @tool
    async def look(ctx: Context, n: int) -> int:
        seen.append(ctx.deadline)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return look(n)

    async with running() as engine:
        began = now()
        await engine.run(flow, 1, deadline_s=60)
        await engine.run(flow, 1)
    assert seen[0] == pytest.approx(began + 60, abs=0.1)
    assert seen[1] is None


# ---- leases, recovery, quarantine


async def test_recovery_takes_up_a_dead_owners_runs_and_never_a_living_ones() -> None:
    store, log = memory(), Log()
    async with running(store, Log()) as engine:
        await engine.run(long, 1, run_id="dead")
    copy = await crashed(store, "dead", 2)
    async with running(copy, Log()) as owner:
        alive = await owner.start(long, 1, run_id="alive")
        async with running(copy, log, workflows=[long], recover=True) as engine:
            assert await engine.handle("dead").result() == 3
        assert await alive.result() == 3
    assert log == ["slow 0 1", "one 0 1"]


async def test_leaving_the_engine_lets_attempts_end_and_releases_the_run() -> None:
    store, log = memory(), Log()

    @tool
    async def short(ctx: Context, n: int) -> int:
        await anyio.sleep(2)
        note(ctx)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return slow(short(n))

    async with running(store, log, grace_s=5) as engine:
        await engine.start(flow, 1, run_id="r")
        await anyio.sleep(1)
    record = (await store.load("r")).record
    assert (record.status, record.owner) == ("running", None)
    assert log == ["short 0 1"], "what ran has ended, and nothing new began"
    async with running(store, log) as engine:
        assert await engine.run(flow, 1, run_id="r") == 2
    assert log == ["short 0 1", "slow 0 1"]


async def died(store: MemoryStore, times: int) -> MemoryStore:
    """The run, taken and lost with its process that many more times."""
    for _ in range(times):
        async with running(store, Log()) as engine:
            await engine.start(long, 1, run_id="r")
            head = (await engine.state("r"))[0].head
            store = await crashed(store, "r", head)
    return store


async def test_a_run_claimed_three_times_without_progress_is_quarantined_with_suspects() -> None:
    store = await died(memory(), 3)
    log = Log()
    async with running(store, log) as engine:
        with pytest.raises(RunQuarantined, match="slow"):
            await engine.run(long, 1, run_id="r")
        assert (await engine.state("r"))[0].status == "quarantined"
    assert log == []


async def test_two_deaths_without_progress_do_not_quarantine() -> None:
    store = await died(memory(), 2)
    async with running(store, Log()) as engine:
        assert await engine.run(long, 1, run_id="r") == 3


async def test_cleanly_released_claims_do_not_count_towards_quarantine() -> None:
    store = memory()
    for _ in range(6):
        async with running(store, Log(), grace_s=0) as engine:
            await engine.start(long, 1, run_id="r")
    async with running(store, Log()) as engine:
        assert await engine.run(long, 1, run_id="r") == 3


async def test_any_event_between_two_claims_begins_the_count_anew() -> None:
    store = await died(memory(), 2)
    async with running(store, Log()) as engine:
        await engine.start(long, 1, run_id="r")
        await anyio.sleep(101)
        events = await journal(engine, "r")
        store = await crashed(store, "r", of(events, ev.StepDone)[0].seq)
    store = await died(store, 1)
    async with running(store, Log()) as engine:
        assert await engine.run(long, 1, run_id="r") == 3


async def test_a_quarantined_run_is_retried() -> None:
    store = await died(memory(), 3)
    async with running(store, Log()) as engine:
        with pytest.raises(RunQuarantined):
            await engine.run(long, 1, run_id="r")
        assert await (await engine.retry("r")).result() == 3


# ---- versions


async def _step(ctx: Context, n: int) -> int:
    await anyio.sleep(100)
    return n


async def _exact(ctx: Context, n: int) -> bool:
    await anyio.sleep(100)
    return bool(n)


def version_of(*, exact: bool = False, **options: Any) -> Workflow[int, int]:
    """The same workflow with a tool that differs."""
    declare: Any = tool  # with options like these no checker can tell which overload it is
    step: Node[int, int] = declare(name="step", **options)(_exact if exact else _step)

    @tool
    async def last(ctx: Context, n: int) -> int:
        return n

    @workflow
    def versioned(n: Ref[int]) -> Ref[int]:
        return last(step(n))

    return versioned


async def begun() -> MemoryStore:
    store = memory()
    async with running(store) as engine:
        await engine.run(version_of(), 1, run_id="r")
    return await crashed(store, "r", 3)


async def test_a_changed_node_is_a_version_mismatch_before_any_effect() -> None:
    for changed in (version_of(version="2"), version_of(exact=True), version_of(effect="pure")):
        store = await begun()
        before = await store.load("r")
        async with running(store) as engine:
            with pytest.raises(VersionMismatch, match="step") as caught:
                await engine.run(changed, 1, run_id="r")
        assert any("node step" in line for line in caught.value.diff)
        assert await store.load("r") == before


async def test_changed_tools_of_a_planner_are_a_version_mismatch() -> None:
    def planning(tools: Any) -> Workflow[int, int]:
        @planner(tools=tools)
        async def plan(ctx: Context, n: int) -> Plan:
            return Plan([one.step(n)])

        @tool
        async def count(ctx: Context, found: Findings) -> int:
            return len(found)

        @workflow
        def planned(n: Ref[int]) -> Ref[int]:
            return count(plan(n))

        return planned

    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(planning([one]), 1, run_id="r")
    copy = await crashed(store, "r", 3)
    async with running(copy, Log()) as engine:
        with pytest.raises(VersionMismatch, match="plan"):
            await engine.run(planning([one, slow]), 1, run_id="r")
    async with running(copy, Log()) as engine:
        assert await engine.run(planning([one]), 1, run_id="r") == 1


async def test_changed_retries_or_timeouts_are_no_version_mismatch() -> None:
    store = await begun()
    async with running(store) as engine:
        changed = version_of(retries=3, timeout_s=500, backoff_s=9, concurrency=2)
        assert await engine.run(changed, 1, run_id="r") == 1


async def test_another_step_is_a_version_mismatch() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(long, 1, run_id="r")
        copy = await crashed(store, "r", 3)
    long_again = another_long()
    async with running(copy, Log()) as engine:
        with pytest.raises(VersionMismatch, match="step before: new"):
            await engine.run(long_again, 1, run_id="r")


def another_long() -> Workflow[int, int]:
    @workflow
    def long(n: Ref[int]) -> Ref[int]:
        return one(slow(one(n, id="before")))

    return long


# ---- events


async def test_events_come_from_any_seq_in_order_and_end_with_the_run() -> None:
    async with running(None, Log()) as engine:
        handle = await engine.start(long, 1, run_id="r")
        followed = [event.seq async for event in handle.events()]
        events = await journal(engine, "r")
        assert followed == [event.seq for event in events] == list(range(1, len(events) + 1))
        for after in range(len(events) + 1):
            rest = [event async for event in handle.events(after)]
            assert rest == list(events[after:])


async def test_live_events_tell_starts_and_progress_without_a_seq() -> None:
    @tool
    async def tells(ctx: Context, n: int) -> int:
        await anyio.sleep(1)
        ctx.progress({"half": True})
        await anyio.sleep(1)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return tells(n)

    async with running() as engine:
        handle = await engine.start(flow, 1, run_id="r")
        seen = [event async for event in handle.events(live=True)]
        stored = await journal(engine, "r")
    live = [event for event in seen if event.seq == 0]
    assert [event for event in seen if event.seq] == list(stored)
    assert [event.kind for event in live if event.kind != "started"] == ["progress"]
    assert isinstance(live[-1].payload, ev.Progress)
    assert live[-1].payload.data == {"half": True}
    assert not {"started", "progress"} & set(kinds(stored))


async def test_events_are_followed_from_another_engine() -> None:
    store = memory()
    async with running(store, Log()) as owner, running(store) as other:
        await owner.start(long, 1, run_id="r")
        followed = [event async for event in other.handle("r").events()]
        assert followed == list(await journal(owner, "r"))


async def test_a_slow_reader_misses_nothing() -> None:
    @tool
    async def numbers(ctx: Context, n: int) -> list[int]:
        return list(range(n))

    @workflow
    def many(n: Ref[int]) -> Ref[list[int]]:
        return one.map(numbers(n))

    async with running(None, Log()) as engine:
        handle = await engine.start(many, 1500, run_id="r")
        reader = handle.events()
        first = await anext(reader)
        await handle.result()
        rest = [event.seq async for event in reader]
        head = (await engine.state("r"))[0].head
    assert [first.seq, *rest] == list(range(1, head + 1))


async def test_runs_are_listed_by_status() -> None:
    async with running(None, Log(), Switch(broken=True)) as engine:
        await engine.run(quick, 1, run_id="good")
        with pytest.raises(StepFailed):
            await engine.run(fragile, 1, run_id="bad")
        await engine.start(long, 1, run_id="busy")
        for status, run_id in (("succeeded", "good"), ("failed", "bad"), ("running", "busy")):
            query = RunQuery(status=frozenset({status}))  # type: ignore[arg-type]
            assert [record.run_id for record in await engine.runs(query)] == [run_id]


async def test_runs_of_two_engines_on_one_store_do_not_disturb_each_other() -> None:
    store, log = memory(), Log()
    async with running(store, log) as a, running(store, log) as b:
        handles = [
            await engine.start(long, n, run_id=f"{name}{n}")
            for n in range(5)
            for name, engine in (("a", a), ("b", b))
        ]
        assert [await handle.result() for handle in handles] == [
            n + 2 for n in range(5) for _ in "ab"
        ]
    assert len(log) == 20


async def test_an_engine_whose_lease_was_taken_writes_nothing_more() -> None:
    store, mine = memory(), Log()
    async with running(store, mine) as engine:
        await engine.start(long, 1, run_id="r")
        await anyio.sleep(1)
        store._runs["r"].lease_until = 0.0  # as if this process had slept past its lease
        async with running(store, Log()) as thief:
            assert await thief.run(long, 1, run_id="r") == 3
        assert await engine.handle("r").result() == 3
        events = await journal(engine, "r")
    assert kinds(events).count("step_done") == 2
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def test_the_epoch_grows_with_each_claim() -> None:
    store = await died(memory(), 2)
    async with running(store, Log()) as engine:
        await engine.run(long, 1, run_id="r")
        claims = of(await journal(engine, "r"), ev.Claimed)
    epochs = [claim.payload.epoch for claim in claims if isinstance(claim.payload, ev.Claimed)]
    assert epochs == [n << 40 for n in range(1, len(epochs) + 1)]


async def test_an_engine_can_be_entered_once_only() -> None:
    engine = Engine(memory())
    async with engine:
        pass
    with pytest.raises(Exception, match="entered before"):
        async with engine:
            pass


async def test_a_bug_of_one_run_leaves_the_others_alone() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        good = await engine.start(long, 1, run_id="good")
        bad = await engine.start(long, 1, run_id="bad")
        await eventually(lambda: True)
        store._rows["bad"].clear()
        store._runs["bad"].head = 0
        with pytest.raises(Exception, match="bad"):
            await bad.result()
        assert await good.result() == 3


async def test_who_waits_for_a_run_that_cannot_be_taken_up_is_told_why() -> None:
    def version(number: str) -> Workflow[int, int]:
        @tool(version=number)
        async def begin(ctx: Context, n: int) -> int:
            return n

        @tool
        async def work(ctx: Context, n: int) -> int:
            return int(await ctx.signal("go", returns=int))

        @workflow
        def working(n: Ref[int]) -> Ref[int]:
            return work(begin(n))

        return working

    store = memory()
    async with running(store, suspend_after_s=1) as engine:
        await engine.start(version("1"), 1, run_id="r")
        await anyio.sleep(10)
    async with running(store, workflows=[version("2")], recover=True) as engine:
        await engine.signal("r", "go", 2)
        with pytest.raises(VersionMismatch, match="version changed"):
            await engine.handle("r").result()


async def test_what_is_no_workflow_is_refused_in_words() -> None:
    @tool
    async def lonely(ctx: Context, n: int) -> int:
        return n

    async with running() as engine:
        with pytest.raises(DeclarationError, match=r"'lonely' is a Tool, not a workflow"):
            await engine.run(cast(Any, lonely), 1)


async def test_an_error_that_cannot_be_shown_and_a_panic_are_recorded_like_any_other() -> None:
    class Unshowable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Panic(BaseException):
        """As an extension module raises it."""

    @tool
    async def unshowable(ctx: Context, n: int) -> int:
        raise Unshowable

    @tool
    async def panics(ctx: Context, n: int) -> int:
        raise Panic("panicked")

    @tool
    async def saves(ctx: Context, n: int) -> int:
        return n

    @workflow
    def saved(n: Ref[int]) -> Ref[int]:
        return (unshowable | panics | saves)(n)

    async with running() as engine:
        with pytest.raises(StepFailed, match="panicked"):  # no Exception: it moves on to nothing
            await engine.run(saved, 1, run_id="r")
        assert [
            error for view in (await engine.state("r"))[1].views() for error in view.errors
        ] == [
            "unshowable: Unshowable: an error whose text cannot be made",
            "panics: Panic: panicked",
        ]


async def test_nothing_can_be_said_to_a_run_that_has_ended() -> None:
    @tool
    async def one(ctx: Context, n: int) -> int:
        return n

    @workflow
    def single(n: Ref[int]) -> Ref[int]:
        return one(n)

    async with running() as engine:
        await engine.run(single, 1, run_id="r")
        with pytest.raises(ResumeError, match="succeeded already"):
            await engine.cancel("r")
        with pytest.raises(ResumeError, match="succeeded already"):
            await engine.signal("r", "go")


async def test_a_stored_result_of_changed_types_is_a_version_mismatch() -> None:
    def giving(hint: Any) -> Workflow[int, Any]:
        async def one(ctx: Context, n: int) -> Any:
            return n

        one.__annotations__["return"] = hint
        node = tool(one)

        @workflow
        def single(n: Ref[int]) -> Ref[Any]:
            return node(n)

        return single

    store = memory()
    async with running(store) as engine:
        assert await engine.run(giving(int), 1, run_id="r") == 1
    async with running(store) as engine:
        with pytest.raises(VersionMismatch, match="node one: changed"):
            await engine.run(giving(list[str]), 1, run_id="r")


async def test_a_cancel_that_waited_for_an_owner_comes_before_any_new_start() -> None:
    @tool
    async def effect(ctx: Context, n: int) -> int:
        ctx.resource(Log).append(ctx.step)
        return n

    @workflow
    def single(n: Ref[int]) -> Ref[int]:
        return effect(n)

    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(single, 1, run_id="r")
    copy, log = await crashed(store, "r", 2), Log()  # begun and claimed; nothing has run
    await copy.post("r", Message("1", "cancel"))
    async with running(copy, log) as engine:
        with pytest.raises(RunCancelled):
            await engine.run(single, 1, run_id="r")
    assert log == [], "a step began after the cancel was recorded"


async def test_a_run_that_cannot_be_folded_does_not_stop_the_engine_that_recovers_others() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(quick, 1, run_id="good")
    good = await store.load("good")
    assert isinstance(good.events[0].payload, ev.RunStarted)
    copy = await crashed(store, "good", 2)
    bad = RunRecord("bad", "quick", "h", 1.0, owner="dead", epoch=1 << 40, lease_until=0.0)
    await copy.create(bad)
    step = good.events[0].payload.graph.steps[0].key
    wrong = ev.Event(3, 1.0, ev.Accepted("h"), step)
    await copy.append("bad", [*good.events[:2], wrong], expect=0, epoch=bad.epoch)
    async with running(copy, Log(), workflows=[quick], recover=True) as engine:
        assert await engine.resume("good") is not None
        with pytest.raises(FlowkitError):
            await engine.handle("bad").result()


@pytest.mark.parametrize(
    "options",
    [
        {"lease_s": 0}, {"lease_s": -1}, {"lease_s": [1]}, {"poll_s": float("nan")}, {"poll_s": 0},
        {"grace_s": -1}, {"suspend_after_s": "1"}, {"threads_max": 0}, {"threads_max": 1.5},
    ],
)  # fmt: skip
def test_an_engine_s_bad_settings_are_refused_in_words(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(DeclarationError, match=f"Engine: {name}="):
        Engine(memory(), **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"budget": {"steps_max": 1}}, "a Budget, such as"),
        ({"deadline_s": [1]}, "deadline_s="),
        ({"deadline_s": 0}, "deadline_s=0: above 0"),
        ({"deadline_s": float("inf")}, "None is for a run without a deadline"),
        ({"run_id": 5}, "run id 5 is not a name"),
    ],
)
async def test_a_run_s_bad_settings_are_refused_and_leave_nothing(
    options: dict[str, Any], told: str
) -> None:
    async with running(None, Log()) as engine:
        with pytest.raises(DeclarationError, match=told):
            await engine.start(quick, 1, **options)
        assert await engine.runs() == []


async def test_what_is_no_store_is_refused_with_how_to_make_one() -> None:
    with pytest.raises(FlowkitError, match=r"'runs\.db' is no store: Engine\(SqlStore\("):
        Engine(cast(Any, "runs.db"))
