"""Rules of one step: tries, backoff, timeouts, alternatives, "once", concurrency."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise

import anyio
import pytest

import flowkit.events as ev
from flowkit import (
    Budget,
    Context,
    DeclarationError,
    Fatal,
    Ref,
    Reject,
    Replan,
    Retry,
    StepFailed,
    workflow,
)
from flowkit.nodes import Fallback, Node, tool
from tests.scenario.kit import (
    BASE,
    Log,
    crashed,
    eventually,
    journal,
    kinds,
    memory,
    note,
    now,
    of,
    running,
)


class Times(list[float]):
    """When attempts began, in virtual seconds since the run's start."""


class Gate(anyio.Event):
    """Opened by a test."""


@tool
async def same(ctx: Context, n: int) -> int:
    note(ctx)
    return n


@tool
async def plus(ctx: Context, a: int, b: int) -> int:
    note(ctx)
    return a + b


# ---- tries and backoff


@tool(retries=4, backoff_s=1, backoff_max_s=5)
async def flaky(ctx: Context, n: int) -> int:
    note(ctx)
    ctx.resource(Times).append(now())
    if ctx.attempt < 5:
        raise ConnectionError("down")
    return n


@workflow
def flaky_flow(n: Ref[int]) -> Ref[int]:
    return flaky(n)


async def test_an_attempt_fails_by_exception_and_is_tried_again_up_to_retries_more_times() -> None:
    log = Log()
    async with running(None, log, Times()) as engine:
        assert await engine.run(flaky_flow, 7, run_id="r") == 7
        events = await journal(engine, "r")
    assert log == [f"flaky 0 {attempt}" for attempt in (1, 2, 3, 4, 5)]
    assert [event.attempt for event in of(events, ev.AttemptFailed)] == [1, 2, 3, 4]


async def test_backoff_doubles_up_to_its_maximum_and_a_random_half_is_left_out() -> None:
    times = Times()
    async with running(None, Log(), times, suspend_after_s=100) as engine:
        await engine.run(flaky_flow, 7, run_id="r")
    waits = [after - before for before, after in pairwise(times)]
    for wait, full in zip(waits, [1, 2, 4, 5], strict=True):
        assert full / 2 - 0.02 <= wait <= full + 0.02
    assert len({round(wait / full, 3) for wait, full in zip(waits, [1, 2, 4, 5], strict=True)}) > 1


async def test_the_jitter_is_drawn_once_and_recorded_so_a_crash_waits_for_the_same_moment() -> None:
    store = memory()
    async with running(store, Log(), Times()) as engine:
        await engine.run(flaky_flow, 7, run_id="r")
        events = await journal(engine, "r")
    first = of(events, ev.AttemptFailed)[0]
    assert isinstance(first.payload, ev.AttemptFailed)
    retry_at = first.payload.retry_at
    assert retry_at is not None
    times = Times()
    copy = await crashed(store, "r", first.seq)
    # Virtual time went on in the first run: what is due, is due at once.
    begun = now()
    async with running(copy, Log(), times) as engine:
        await engine.run(flaky_flow, 7, run_id="r")
        again = await journal(engine, "r")
    assert times[0] == pytest.approx(max(begun, retry_at), abs=1e-3)
    assert again[first.seq - 1] == first


async def test_a_retry_that_is_not_yet_due_is_waited_for_after_a_crash() -> None:
    store, times = memory(), Times()
    async with running(store, Log(), times, grace_s=0) as engine:
        handle = await engine.start(slow_retry_flow, 7, run_id="r")
        await eventually(lambda: len(times) == 1)
        await anyio.sleep(1)
        events = await journal(engine, handle.id)
        failed = of(events, ev.AttemptFailed)[0]
        copy = await crashed(store, "r", failed.seq)
    async with running(copy, Log(), times) as engine:
        assert await engine.run(slow_retry_flow, 7, run_id="r") == 7
    assert times[1] - times[0] == pytest.approx(1000, abs=1)


@tool(retries=1)
async def slow_retry(ctx: Context, n: int) -> int:
    ctx.resource(Times).append(now())
    if ctx.attempt == 1:
        raise Retry(1000)
    return n


@workflow
def slow_retry_flow(n: Ref[int]) -> Ref[int]:
    return slow_retry(n)


async def test_retry_after_s_sets_the_delay_and_counts_as_a_try() -> None:
    times = Times()
    async with running(None, Log(), times) as engine:
        assert await engine.run(slow_retry_flow, 7) == 7
    assert times[1] - times[0] == pytest.approx(1000, abs=0.01)

    @tool(retries=1)
    async def never(ctx: Context, n: int) -> int:
        ctx.resource(Times).append(now())
        raise Retry(2)

    @workflow
    def never_flow(n: Ref[int]) -> Ref[int]:
        return never(n)

    times = Times()
    async with running(None, times) as engine:
        with pytest.raises(StepFailed, match="never"):
            await engine.run(never_flow, 7)
    assert len(times) == 2


async def test_fatal_ends_the_run_without_another_try_or_alternative() -> None:
    log = Log()

    @tool(retries=5)
    async def doomed(ctx: Context, n: int) -> int:
        note(ctx)
        raise Fatal("the account is closed")

    @workflow
    def doomed_flow(n: Ref[int]) -> Ref[int]:
        return (doomed | same)(n)

    async with running(None, log) as engine:
        with pytest.raises(StepFailed, match="the account is closed") as caught:
            await engine.run(doomed_flow, 1)
    assert log == ["doomed 0 1"]
    assert caught.value.step == "doomed"
    assert caught.value.error_type == "Fatal"


async def test_fatal_stops_what_else_is_running() -> None:
    log = Log()

    @tool
    async def doomed(ctx: Context, n: int) -> int:
        await anyio.sleep(1)
        raise Fatal("no")

    @tool
    async def long(ctx: Context, n: int) -> int:
        try:
            await anyio.sleep(1000)
        finally:
            log.append("stopped")
        return n

    @workflow
    def two(n: Ref[int]) -> Ref[int]:
        return plus(doomed(n), long(n))

    async with running(None, log) as engine:
        began = now()
        with pytest.raises(StepFailed, match="no"):
            await engine.run(two, 1)
        assert now() - began < 20
    assert log == ["stopped"]


@pytest.mark.parametrize("error", [Reject("not good"), Replan("other way")])
async def test_reject_and_replan_outside_their_places_are_failures_of_the_step(
    error: Exception,
) -> None:
    @tool
    async def odd(ctx: Context, n: int) -> int:
        raise error

    @workflow
    def odd_flow(n: Ref[int]) -> Ref[int]:
        return odd(n)

    async with running() as engine:
        with pytest.raises(StepFailed) as caught:
            await engine.run(odd_flow, 1)
    assert caught.value.error_type == type(error).__name__


async def test_replan_without_a_planner_fails_the_step_without_another_try() -> None:
    log = Log()

    @tool(retries=3)
    async def odd(ctx: Context, n: int) -> int:
        note(ctx)
        raise Replan("no plan to change")

    @workflow
    def odd_flow(n: Ref[int]) -> Ref[int]:
        return odd(n)

    async with running(None, log) as engine:
        with pytest.raises(StepFailed, match="no plan to change"):
            await engine.run(odd_flow, 1)
    assert log == ["odd 0 1"]


# ---- timeouts


async def test_an_attempt_fails_by_timeout_and_the_next_try_has_its_full_time() -> None:
    times = Times()

    @tool(timeout_s=10, retries=1, backoff_s=0)
    async def slow(ctx: Context, n: int) -> int:
        ctx.resource(Times).append(now())
        await anyio.sleep(60 if ctx.attempt == 1 else 9)
        return n

    @workflow
    def slow_flow(n: Ref[int]) -> Ref[int]:
        return slow(n)

    async with running(None, times) as engine:
        assert await engine.run(slow_flow, 3, run_id="r") == 3
        events = await journal(engine, "r")
    failed = of(events, ev.AttemptFailed)[0].payload
    assert isinstance(failed, ev.AttemptFailed)
    assert failed.error.type == "TimeoutError"
    assert "10" in failed.error.message
    assert times[1] - times[0] == pytest.approx(10, abs=0.1)


async def test_an_attempt_fails_by_a_value_that_does_not_fit_the_declared_type() -> None:
    log = Log()

    @tool(retries=1, backoff_s=0)
    async def wrong(ctx: Context, n: int) -> int:
        note(ctx)
        return n if ctx.attempt == 2 else "many"  # type: ignore[return-value]

    @workflow
    def wrong_flow(n: Ref[int]) -> Ref[int]:
        return wrong(n)

    async with running(None, log) as engine:
        assert await engine.run(wrong_flow, 3, run_id="r") == 3
        failed = of(await journal(engine, "r"), ev.AttemptFailed)[0].payload
    assert isinstance(failed, ev.AttemptFailed)
    assert failed.error.type == "ValidationError"
    assert log == ["wrong 0 1", "wrong 0 2"]


# ---- alternatives


@tool(retries=1, backoff_s=0)
async def first(ctx: Context, n: int) -> int:
    note(ctx)
    raise ConnectionError("first is down")


@tool(retries=2, backoff_s=0)
async def second(ctx: Context, n: int) -> int:
    note(ctx)
    raise ValueError("second is wrong")


@tool
async def third(ctx: Context, n: int) -> int:
    note(ctx)
    return n * 3


async def test_alternatives_are_tried_in_order_each_with_its_own_retries() -> None:
    log = Log()

    @workflow
    def chain(n: Ref[int]) -> Ref[int]:
        return (first | second | third)(n)

    async with running(None, log) as engine:
        assert await engine.run(chain, 2) == 6
    assert log == [
        "first 0 1", "first 0 2", "first 1 1", "first 1 2", "first 1 3", "first 2 1"
    ]  # fmt: skip


async def test_the_step_has_failed_when_the_last_alternative_has_and_the_error_is_its() -> None:
    @workflow
    def chain(n: Ref[int]) -> Ref[int]:
        return (first | second)(n, id="both")

    async with running(None, Log()) as engine:
        with pytest.raises(StepFailed, match="second is wrong") as caught:
            await engine.run(chain, 2)
    assert (caught.value.step, caught.value.error_type) == ("both", "ValueError")


async def test_on_limits_which_errors_move_to_the_next_alternative() -> None:
    log = Log()

    @workflow
    def strict(n: Ref[int]) -> Ref[int]:
        return Fallback(first, second, third, on=(ConnectionError,))(n)

    async with running(None, log) as engine:
        with pytest.raises(StepFailed, match="second is wrong"):
            await engine.run(strict, 2)
    assert log[-1] == "first 1 3"


async def test_a_timeout_moves_on_when_on_names_it() -> None:
    @tool(timeout_s=1)
    async def hangs(ctx: Context, n: int) -> int:
        await anyio.sleep_forever()
        return n

    @workflow
    def timed(n: Ref[int]) -> Ref[int]:
        return Fallback(hangs, third, on=(TimeoutError,))(n)

    async with running(None, Log()) as engine:
        assert await engine.run(timed, 2) == 6


# ---- success


async def test_one_commit_for_each_finished_attempt_and_none_for_a_start() -> None:
    async with running(None, Log(), Times()) as engine:
        await engine.run(flaky_flow, 7, run_id="r")
        events = await journal(engine, "r")
    assert [kind for kind in kinds(events) if kind not in ("claimed", "waiting")] == [
        "run_started", *["attempt_failed"] * 4, "step_done", "run_ended"
    ]  # fmt: skip


async def test_success_is_one_event_with_value_input_hash_and_duration() -> None:
    @tool
    async def takes_time(ctx: Context, n: int) -> int:
        await anyio.sleep(5)
        return n + 1

    @workflow
    def timed(n: Ref[int]) -> Ref[int]:
        return takes_time(n)

    async with running() as engine:
        await engine.run(timed, 1, run_id="a")
        await engine.run(timed, 1, run_id="b")
        await engine.run(timed, 2, run_id="c")
        done = [of(await journal(engine, run), ev.StepDone)[0].payload for run in "abc"]
    a, b, c = (payload for payload in done if isinstance(payload, ev.StepDone))
    assert a.value is not None
    assert a.value.text == "2"
    assert a.duration_s == pytest.approx(5, abs=0.1)
    assert a.input_hash == b.input_hash != c.input_hash


# ---- a declared step's failure


async def test_a_declared_steps_failure_lets_what_runs_finish_and_starts_nothing_new() -> None:
    log = Log()

    @tool
    async def breaks(ctx: Context, n: int) -> int:
        await anyio.sleep(1)
        raise ValueError("broken")

    @tool
    async def long(ctx: Context, n: int) -> int:
        await anyio.sleep(50)
        note(ctx)
        return n

    @workflow
    def two(n: Ref[int]) -> Ref[int]:
        return plus(breaks(n), same(long(n)))

    store = memory()
    async with running(store, log) as engine:
        with pytest.raises(StepFailed, match="broken") as caught:
            await engine.run(two, 1, run_id="r")
        events = await journal(engine, "r")
        record, _ = await engine.state("r")
    assert caught.value.step == "breaks"
    assert record.status == "failed"
    assert [event.key for event in of(events, ev.StepDone)] == ["long"]
    assert log == ["long 0 1"]


# ---- once


@tool(effect="once")
async def pay(ctx: Context, n: int) -> str:
    note(ctx)
    await anyio.sleep(10)
    return f"paid {n} {ctx.idempotency_key}"


@tool
async def thank(ctx: Context, receipt: str, n: int) -> str:
    note(ctx)
    return f"thanks: {receipt} {n}"


@workflow
def shop(n: Ref[int]) -> Ref[str]:
    return thank(pay(n), same(n))


def test_once_with_retries_is_a_declaration_error() -> None:
    with pytest.raises(DeclarationError, match="once"):

        @tool(effect="once", retries=1)
        async def _twice(ctx: Context, n: int) -> int:
            return n


async def test_an_intent_is_committed_before_a_once_effect_and_only_there() -> None:
    async with running(None, Log()) as engine:
        await engine.run(shop, 1, run_id="r")
        events = await journal(engine, "r")
    assert [event.key for event in of(events, ev.Intent)] == ["pay"]
    intent, done = of(events, ev.Intent)[0], of(events, ev.StepDone)
    assert intent.seq < next(event.seq for event in done if event.key == "pay")
    assert isinstance(intent.payload, ev.Intent)
    assert intent.payload.input_hash


async def crash_in_pay(log: Log) -> object:
    store = memory()
    async with running(store, log) as engine:
        await engine.run(shop, 1, run_id="r")
        events = await journal(engine, "r")
    return await crashed(store, "r", of(events, ev.Intent)[0].seq)


async def test_a_crash_inside_a_once_effect_is_outcome_unknown_and_the_run_waits() -> None:
    copy, log = await crash_in_pay(Log()), Log()
    async with running(copy, log) as engine:  # type: ignore[arg-type]
        await engine.start(shop, 1, run_id="r")
        await anyio.sleep(100)
        record, state = await engine.state("r")
        assert record.status == "waiting"
        assert list(state.unknown) == ["pay"]
        assert log == ["same 0 1"], "the rest goes on; what depends on it does not start"
        views = {view.key: view.status for view in state.views()}
        assert views["pay"] == "unknown"
        assert views["thank"] == "pending"


@pytest.mark.parametrize("how", ["done", "repeat", "fail"])
async def test_an_unknown_outcome_is_decided_as_done_repeat_or_fail(how: str) -> None:
    copy, log = await crash_in_pay(Log()), Log()
    async with running(copy, log) as engine:  # type: ignore[arg-type]
        handle = await engine.start(shop, 1, run_id="r")
        await anyio.sleep(100)
        await engine.decide("r", "pay", how, "by hand" if how == "done" else None)
        if how == "fail":
            with pytest.raises(StepFailed) as caught:
                await handle.result()
            assert caught.value.step == "pay"
            assert "pay 0 1" not in log
        elif how == "done":
            assert await handle.result() == "thanks: by hand 1"
            assert "pay 0 1" not in log
        else:
            assert await handle.result() == "thanks: paid 1 r/pay/0 1"
            assert log.count("pay 0 1") == 1
        events = await journal(engine, "r")
    assert len(of(events, ev.OutcomeUnknown)) == 1
    assert len(of(events, ev.Decided)) == 1


async def test_a_second_decision_on_the_same_step_changes_nothing() -> None:
    copy, log = await crash_in_pay(Log()), Log()
    async with running(copy, log) as engine:  # type: ignore[arg-type]
        handle = await engine.start(shop, 1, run_id="r")
        await anyio.sleep(100)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.decide, "r", "pay", "done", "first")
            tasks.start_soon(engine.decide, "r", "pay", "done", "second")
        assert await handle.result() in ("thanks: first 1", "thanks: second 1")
        events = await journal(engine, "r")
    assert log.count("thank 0 1") == 1
    assert len([event for event in of(events, ev.StepDone) if event.key == "thank"]) == 1


async def test_a_once_effects_timeout_is_outcome_unknown_not_a_failure() -> None:
    @tool(effect="once", timeout_s=5)
    async def slow_pay(ctx: Context, n: int) -> int:
        await anyio.sleep(60)
        return n

    @workflow
    def slow_shop(n: Ref[int]) -> Ref[int]:
        return slow_pay(n)

    async with running() as engine:
        handle = await engine.start(slow_shop, 1, run_id="r")
        await anyio.sleep(50)
        record, state = await engine.state("r")
        assert (record.status, list(state.unknown)) == ("waiting", ["slow_pay"])
        await engine.decide("r", "slow_pay", "done", 9)
        assert await handle.result() == 9


async def test_a_once_effects_cancellation_in_flight_is_outcome_unknown() -> None:
    async with running(None, Log()) as engine:
        handle = await engine.start(shop, 1, run_id="r")
        await anyio.sleep(1)
        await handle.cancel()
        await eventually_ended(handle.record)
        events = await journal(engine, "r")
    assert kinds(events)[-3:] == ["cancel_requested", "outcome_unknown", "run_ended"]


async def eventually_ended(record: Callable[[], Awaitable[object]]) -> None:
    with anyio.fail_after(100):
        while getattr(await record(), "status", "") == "running":  # noqa: ASYNC110
            await anyio.sleep(0.1)


# ---- concurrency, order


class Peak:
    """How many were inside at once, at most."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    async def visit(self, seconds: float) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await anyio.sleep(seconds)
        self.inside -= 1


@tool(concurrency=2)
async def narrow(ctx: Context, n: int) -> int:
    await ctx.resource(Peak).visit(1)
    return n


@tool
async def wide(ctx: Context, n: int) -> int:
    await ctx.resource(Peak).visit(1)
    return n


@tool
async def numbers(ctx: Context, n: int) -> list[int]:
    return list(range(n))


@workflow
def narrow_flow(n: Ref[int]) -> Ref[list[int]]:
    return narrow.map(numbers(n))


@workflow
def wide_flow(n: Ref[int]) -> Ref[list[int]]:
    return wide.map(numbers(n))


async def test_concurrency_limits_a_tool_over_all_runs_of_an_engine() -> None:
    peak = Peak()
    async with running(None, peak) as engine:
        handles = [await engine.start(narrow_flow, 5) for _ in range(3)]
        for handle in handles:
            assert await handle.result() == [0, 1, 2, 3, 4]
    assert peak.most == 2


async def test_a_step_waiting_for_its_tools_concurrency_does_not_use_up_its_timeout() -> None:
    @tool(concurrency=1, timeout_s=3)
    async def one(ctx: Context, n: int) -> int:
        await anyio.sleep(2)
        return n

    @workflow
    def queue(n: Ref[int]) -> Ref[list[int]]:
        return one.map(numbers(n))

    async with running() as engine:
        assert await engine.run(queue, 4) == [0, 1, 2, 3]


async def test_parallel_max_limits_the_steps_of_a_run_that_run_at_once() -> None:
    peak = Peak()
    async with running(None, peak) as engine:
        began = now()
        budget = Budget(parallel_max=3)
        assert await engine.run(wide_flow, 9, budget=budget) == list(range(9))
        assert now() - began == pytest.approx(3, abs=0.5)
    assert peak.most == 3


async def test_after_orders_without_data() -> None:
    log = Log()

    @tool
    async def slow(ctx: Context, n: int) -> int:
        await anyio.sleep(20)
        note(ctx)
        return n

    @workflow
    def ordered(n: Ref[int]) -> Ref[int]:
        before = slow(n)
        return same(n, after=before)

    async with running(None, log) as engine:
        assert await engine.run(ordered, 5) == 5
    assert log == ["slow 0 1", "same 0 1"]


async def test_a_literal_is_an_input_like_any_other() -> None:
    @workflow
    def literal(n: Ref[int]) -> Ref[int]:
        return plus(n, 40)

    async with running(None, Log()) as engine:
        assert await engine.run(literal, 2) == 42


class Doubled(Node[int, int], retries=1, backoff_s=0):
    """A node as a class, with its policy in the class line."""

    async def run(self, ctx: Context, n: int, /) -> int:
        note(ctx)
        if ctx.attempt == 1:
            raise ValueError("once more")
        return n * 2


async def test_a_class_node_follows_the_same_rules() -> None:
    log = Log()

    @workflow
    def doubled(n: Ref[int]) -> Ref[int]:
        return Doubled()(n)

    async with running(None, log) as engine:
        assert await engine.run(doubled, 4) == 8
    assert log == ["Doubled 0 1", "Doubled 0 2"]


async def test_an_event_says_when_in_utc() -> None:
    async with running(None, Log()) as engine:
        began = now()
        await engine.run(shop, 1, run_id="r")
        events = await journal(engine, "r")
    assert events[0].at == pytest.approx(began, abs=1)
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert events[-1].at >= BASE
