"""Rules of effects that must happen once: their intent, the outcome that is not known, and who finds it out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest

import flowkit.events as ev
from flowkit import (
    Budget,
    BudgetExceeded,
    Context,
    DeadlineExceeded,
    DeclarationError,
    Fatal,
    Ref,
    Reject,
    RunCancelled,
    StepFailed,
    workflow,
)
from flowkit.dsl import Workflow
from flowkit.errors import FlowkitError, OutcomeUnknown, ResumeError, StoreUnusable
from flowkit.events import Event
from flowkit.nodes import Judge, Plan, Subflow, planner, tool, verifier
from flowkit.ports import Message
from flowkit.store import MemoryStore
from flowkit.testing import ScriptedModel
from tests.scenario.kit import Log, crashed, eventually, journal, kinds, memory, now, of, running


class Bank:
    """The world outside: what happened there, and what it says of that."""

    def __init__(self, says: str = "the truth", hangs: int = 0) -> None:
        self.says = says
        self.hangs = hangs
        """How many effects hang after they have happened, or before if `idle`."""
        self.idle = False
        self.store: MemoryStore | None = None
        self.effects: list[str] = []
        self.keys: list[str] = []
        """The idempotency key of each attempt, and of each question."""
        self.asked = 0
        self.intents: list[bool] = []
        self.inside = anyio.Event()

    async def charge(self, ctx: Context, n: int) -> str:
        self.keys.append(ctx.idempotency_key)
        if self.store is not None:
            last = (await self.store.load(ctx.run_id)).events[-1]
            self.intents.append((last.kind, last.key) == ("intent", ctx.step))
        hang, self.hangs = self.hangs > 0, self.hangs - 1
        if not (hang and self.idle):
            self.effects.append(ctx.idempotency_key)
        if hang:
            self.inside.set()
            await anyio.sleep_forever()
        return f"receipt {n}"

    async def look(self, ctx: Context, n: int) -> Any:
        self.asked += 1
        self.keys.append(ctx.idempotency_key)
        await anyio.sleep(1)
        match self.says:
            case "the truth":
                return f"found {n}" if ctx.idempotency_key in self.effects else None
            case "value":
                return f"found {n}"
            case "none":
                return None
            case "raises":
                raise ConnectionError("the bank is away")
            case "fatal":
                raise Fatal("no such bank")
            case "wrong type":
                return {"receipt": n}
            case _:
                self.inside.set()
                await anyio.sleep_forever()


async def find(ctx: Context, n: int) -> str | None:
    found: str | None = await ctx.resource(Bank).look(ctx, n)
    return found


@tool(effect="once", probe=find, timeout_s=10)
async def pay(ctx: Context, n: int) -> str:
    return await ctx.resource(Bank).charge(ctx, n)


@tool(effect="once")
async def blind(ctx: Context, n: int) -> str:
    return await ctx.resource(Bank).charge(ctx, n)


@tool(effect="once", probe=find)
async def patient(ctx: Context, n: int) -> str:
    return await ctx.resource(Bank).charge(ctx, n)


@tool
async def thank(ctx: Context, receipt: str) -> str:
    return f"thanks for {receipt}"


@workflow
def shop(n: Ref[int]) -> Ref[str]:
    return thank(pay(n))


@workflow
def blind_shop(n: Ref[int]) -> Ref[str]:
    return thank(blind(n))


@workflow
def patient_shop(n: Ref[int]) -> Ref[str]:
    return thank(patient(n))


KEY = "r/pay/0"


def told(events: Sequence[Event], key: str = "pay") -> list[str]:
    """What the journal says of a step: kinds of events, and how it was decided."""
    return [
        f"{event.kind} {event.payload.how}" if isinstance(event.payload, ev.Decided) else event.kind
        for event in events
        if event.key == key
    ]


async def killed(flow: Workflow[int, str], *kind: type[Any]) -> MemoryStore:
    """A store as a kill leaves it, right after the last event of a kind (by default the intent)."""
    store = memory()
    async with running(store, Bank(), Log()) as engine:
        await engine.run(flow, 1, run_id="r")
        events = await journal(engine, "r")
    return await crashed(store, "r", of(events, *(kind or (ev.Intent,)))[-1].seq)


async def statuses(engine: Any, run_id: str = "r") -> dict[str, str]:
    _, state = await engine.state(run_id)
    return {view.key: view.status for view in state.views()}


async def why(engine: Any, step: str = "pay") -> str:
    _, state = await engine.state("r")
    return str(state.unknown[step].error)


# ---- the intent


async def test_the_intent_is_on_disk_before_the_effect_begins_each_time_that_it_begins() -> None:
    store, bank = memory(), Bank("none", hangs=1)
    bank.store = store
    async with running(store, bank) as engine:
        assert await engine.run(shop, 1, run_id="r") == "thanks for receipt 1"
    assert bank.intents == [True, True]


class Dying(MemoryStore):
    """Breaks at the append that has an event of this kind, before its commit or after it."""

    def __init__(self, kind: str, *, kept: bool) -> None:
        super().__init__(now=now)
        self.kind = kind
        self.kept = kept

    async def append(self, run_id: str, events: Sequence[Event], **rest: Any) -> Sequence[Message]:
        strikes = any(event.kind == self.kind and event.key for event in events)
        if strikes and not self.kept:
            self.kind = ""
            raise StoreUnusable("the disk is gone")
        found = await super().append(run_id, events, **rest)
        if strikes:
            self.kind = ""
            raise StoreUnusable("the answer is lost")
        return found


@pytest.mark.parametrize("kept", [False, True], ids=["lost", "kept"])
@pytest.mark.parametrize("kind", ["intent", "step_done", "outcome_unknown", "decided"])
async def test_a_death_inside_a_commit_leads_to_one_effect(kind: str, *, kept: bool) -> None:
    store = Dying(kind, kept=kept)
    bank = Bank(hangs=kind in ("outcome_unknown", "decided"))
    bank.idle = kind == "decided"
    for _ in range(2):
        async with running(store, bank, lease_s=5) as engine:
            try:
                assert (await engine.run(shop, 1, run_id="r")).startswith("thanks for")
                break
            except StoreUnusable:
                await anyio.sleep(10)
    else:
        pytest.fail("it never ended")
    assert bank.effects == [KEY]
    assert set(bank.keys) == {KEY}


@pytest.mark.parametrize("flow", [shop, blind_shop], ids=["with a probe", "without"])
async def test_there_are_never_two_effects_without_a_recorded_decision(
    flow: Workflow[int, str],
) -> None:
    """Killed after every event, with the effect that was under way, if one was, done and not done."""
    store, step = memory(), flow.graph.steps[0].key
    async with running(store, Bank()) as engine:
        await engine.run(flow, 1, run_id="r")
        events = await journal(engine, "r")
    for head in range(len(events) + 1):
        before = told(events[:head], step)
        for happened in {"step_done" in before, "intent" in before}:
            bank = Bank()
            bank.effects = [f"r/{step}/0"] * happened
            copy = await crashed(store, "r", head)
            async with running(copy, bank) as engine:
                handle = await engine.start(flow, 1, run_id="r")
                if before == ["intent"] and flow is blind_shop:
                    await eventually_waiting(engine)
                    assert len(bank.effects) == happened, "it is not begun on a guess"
                    how = "done" if happened else "repeat"
                    await engine.decide("r", step, how, "by hand" if happened else None)
                assert (await handle.result()).startswith("thanks for")
                after = told(await journal(engine, "r"), step)
            assert len(bank.effects) == 1, (head, happened)
            if after.count("intent") > 1:
                assert after[:4] == ["intent", "outcome_unknown", "decided repeat", "intent"]


async def eventually_waiting(engine: Any, run_id: str = "r") -> None:
    with anyio.fail_after(1000):
        while (await engine.handle(run_id).record()).status != "waiting":  # noqa: ASYNC110
            await anyio.sleep(0.5)


# ---- what a probe says, and when it is asked


CAUSES = ["kill", "timeout", "leave"]


async def in_doubt(cause: str, bank: Bank) -> MemoryStore:
    """A store whose run is to be taken up with an effect of unknown outcome, or is about to have one."""
    if cause == "kill":
        return await killed(shop)
    bank.hangs = 1
    store = memory()
    if cause == "leave":
        async with running(store, bank, grace_s=1) as engine:
            await engine.start(shop, 1, run_id="r")
            await bank.inside.wait()
        assert told((await store.load("r")).events) == ["intent", "outcome_unknown"]
        assert bank.asked == 0, "an engine that is left begins nothing"
    return store


@pytest.mark.parametrize("cause", CAUSES)
async def test_a_probes_value_is_the_steps_result_and_the_effect_is_not_repeated(
    cause: str,
) -> None:
    bank = Bank("value")
    store = await in_doubt(cause, bank)
    async with running(store, bank) as engine:
        assert await engine.run(shop, 1, run_id="r") == "thanks for found 1"
        events = await journal(engine, "r")
    assert told(events) == ["intent", "outcome_unknown", "decided done"]
    assert bank.asked == 1
    assert len(bank.effects) == (cause != "kill"), "what is seen here was done before the probe"


@pytest.mark.parametrize("cause", CAUSES)
async def test_a_probes_none_means_that_it_did_not_happen_and_it_is_done_with_the_same_key(
    cause: str,
) -> None:
    bank = Bank("none")
    bank.idle = True
    store = await in_doubt(cause, bank)
    async with running(store, bank) as engine:
        assert await engine.run(shop, 1, run_id="r") == "thanks for receipt 1"
        events = await journal(engine, "r")
    assert told(events) == ["intent", "outcome_unknown", "decided repeat", "intent", "step_done"]
    assert bank.effects == [KEY]
    assert set(bank.keys) == {KEY}
    assert [event.attempt for event in of(events, ev.Intent)] == [1, 1], "no attempt is used up"


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("raises", "probe find: ConnectionError: the bank is away"),
        ("fatal", "probe find: Fatal: no such bank"),
        ("hangs", "probe find: TimeoutError: no result within 10 s"),
        ("wrong type", "probe find: ValidationError"),
    ],
)
async def test_a_probe_that_cannot_tell_leaves_it_unknown_with_the_reason_until_the_next_take_up(
    cause: str, says: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    bank = Bank(says)
    store = await in_doubt(cause, bank)
    with caplog.at_level(logging.WARNING, "flowkit"):
        async with running(store, bank) as engine:
            await engine.start(shop, 1, run_id="r")
            await eventually_waiting(engine)
            assert reason in await why(engine)
            assert (await statuses(engine)) == {"pay": "unknown", "thank": "pending"}
            assert bank.asked == 1
            events = await journal(engine, "r")
    assert told(events) == ["intent", "outcome_unknown", "outcome_unknown"]
    warned = [each for each in caplog.messages if "waits for a decision" in each]
    assert len(warned) == 1, "it is told when nobody is left to ask"
    assert reason in warned[-1]
    bank.says = "value"
    async with running(store, bank) as engine:
        assert await engine.run(shop, 1, run_id="r") == "thanks for found 1"
    assert bank.asked == 2


@pytest.mark.parametrize(
    ("says", "tail", "status"),
    [
        ("value", ["decided done"], "done"),
        ("none", ["decided repeat"], "ready"),
        ("raises", ["outcome_unknown"], "unknown"),
        ("wrong type", ["outcome_unknown"], "unknown"),
        ("hangs", ["outcome_unknown"], "unknown"),
    ],
)
@pytest.mark.parametrize("end", ["cancel", "deadline", "fatal"])
async def test_a_run_that_ends_asks_what_became_of_its_effect_and_begins_nothing(
    end: str, says: str, tail: list[str], status: str
) -> None:
    @tool
    async def other(ctx: Context, n: int) -> str:
        await ctx.resource(Bank).inside.wait()
        if end == "fatal":
            raise Fatal("over")
        return "other"

    @tool
    async def both(ctx: Context, one: str, two: str) -> str:
        return one + two

    @workflow
    def pair(n: Ref[int]) -> Ref[str]:
        return both(patient(n), other(n))

    bank = Bank(says, hangs=1)
    async with running(None, bank) as engine:
        limit = 20 if end == "deadline" else None
        handle = await engine.start(pair, 1, run_id="r", deadline_s=limit)
        await bank.inside.wait()
        began = now()
        if end == "cancel":
            await handle.cancel()
        with pytest.raises((RunCancelled, DeadlineExceeded, StepFailed)):
            await handle.result()
        assert now() - began < 40, "a probe has no longer than the grace period"
        events = await journal(engine, "r")
        assert told(events, "patient") == ["intent", "outcome_unknown", *tail]
        assert kinds(events)[-1] == "run_ended"
        assert (await statuses(engine))["patient"] == status
        assert bank.asked == 1
    assert len(bank.effects) == 1


async def test_what_a_probe_says_after_the_end_of_the_run_is_not_recorded() -> None:
    async def stubborn(ctx: Context, n: int) -> str | None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(7)
        return "too late"

    @tool(effect="once", probe=stubborn)
    async def act(ctx: Context, n: int) -> str:
        return await ctx.resource(Bank).charge(ctx, n)

    @workflow
    def acting(n: Ref[int]) -> Ref[str]:
        return thank(act(n))

    bank = Bank(hangs=1)
    async with running(None, bank, grace_s=5) as engine:
        handle = await engine.start(acting, 1, run_id="r")
        await bank.inside.wait()
        await handle.cancel()
        with pytest.raises(RunCancelled):
            await handle.result()
    async with running(engine.store) as later:  # type: ignore[arg-type]
        assert kinds(await journal(later, "r"))[-2:] == ["outcome_unknown", "run_ended"]
        assert (await later.handle("r").record()).status == "cancelled"


async def test_a_failed_run_asks_before_it_ends_and_a_retry_asks_again() -> None:
    @tool
    async def breaks(ctx: Context, n: int) -> str:
        await ctx.resource(Bank).inside.wait()
        if ctx.resource(Bank).says == "raises":
            raise ValueError("broken")
        return "mended"

    @tool
    async def both(ctx: Context, one: str, two: str) -> str:
        return f"{one}, {two}"

    @workflow
    def pair(n: Ref[int]) -> Ref[str]:
        return both(pay(n), breaks(n))

    bank = Bank("raises", hangs=1)
    async with running(None, bank) as engine:
        with pytest.raises(StepFailed, match="broken"):
            await engine.run(pair, 1, run_id="r")
        assert told(await journal(engine, "r")) == ["intent", "outcome_unknown", "outcome_unknown"]
        bank.says = "value"
        assert await (await engine.retry("r")).result() == "found 1, mended"
    assert bank.asked == 2


async def test_a_probe_that_is_killed_is_asked_again() -> None:
    store, bank = await killed(shop), Bank("hangs")
    async with running(store, bank) as engine:
        await engine.start(shop, 1, run_id="r")
        await bank.inside.wait()
        events = await journal(engine, "r")
        copy = await crashed(store, "r", events[-1].seq)
    bank.says = "value"
    async with running(copy, bank) as engine:
        assert await engine.run(shop, 1, run_id="r") == "thanks for found 1"
    assert bank.asked == 2


async def test_a_probes_word_alone_begins_an_effect_again_twice_and_then_somebody_decides() -> None:
    """Else a tool that always times out, or kills its process, would be begun for ever."""
    bank = Bank("none", hangs=100)
    bank.idle = True
    async with running(None, bank) as engine:
        handle = await engine.start(shop, 1, run_id="r")
        await eventually_waiting(engine)
        assert told(await journal(engine, "r")).count("intent") == 3
        assert "begun 3 times, and never happened" in await why(engine)
        bank.hangs = 1
        await engine.decide("r", "pay", "repeat")  # from here on the probe's word counts anew
        assert await handle.result() == "thanks for receipt 1"
    assert bank.effects == [KEY]


async def test_deaths_in_an_effect_that_a_probe_has_begun_again_come_to_an_end_too() -> None:
    store, bank = await killed(shop), Bank("none")
    bank.idle, bank.hangs = True, 100
    for _ in range(2):
        bank.inside = anyio.Event()
        async with running(store, bank) as engine:
            await engine.start(shop, 1, run_id="r")
            await bank.inside.wait()
            head = (await store.load("r")).events[-1].seq
            store = await crashed(store, "r", head)
    async with running(store, bank) as engine:
        await engine.start(shop, 1, run_id="r")
        await eventually_waiting(engine)
        assert "begun 3 times" in await why(engine)


async def test_a_probe_is_asked_though_the_budget_is_used_up_and_one_at_a_time_may_run() -> None:
    budget = Budget(wall_s_max=5, parallel_max=1)
    bank = Bank("value", hangs=1)
    async with running(None, bank) as engine:
        with pytest.raises(BudgetExceeded):
            await engine.run(shop, 1, run_id="r", budget=budget)
        assert told(await journal(engine, "r")) == ["intent", "outcome_unknown", "decided done"]


async def test_a_planned_steps_shorter_time_limit_does_not_hold_for_its_probe() -> None:
    async def slowly(ctx: Context, n: int) -> str | None:
        await anyio.sleep(5)
        return f"found {n}"

    @tool(effect="once", probe=slowly, timeout_s=10)
    async def act(ctx: Context, n: int) -> str:
        return await ctx.resource(Bank).charge(ctx, n)

    @planner(tools=[act])
    async def hurried(ctx: Context, n: int) -> Plan | str:
        if not ctx.turns:
            return Plan([replace(act.step(n, id="buy"), timeout_s=1)], again=True)
        return str(ctx.turns[0].results["buy"])

    @workflow
    def planned(n: Ref[int]) -> Ref[str]:
        return hurried(n)

    async with running(None, Bank(hangs=1)) as engine:
        assert await engine.run(planned, 1) == "found 1"


async def test_what_an_effect_gave_and_cannot_be_stored_is_unknown_and_never_tried_elsewhere() -> (
    None
):
    effects: list[str] = []

    @tool(effect="once")
    async def garbled(ctx: Context, n: int) -> str:
        effects.append("garbled")
        return n  # type: ignore[return-value]

    @tool(effect="once")
    async def other(ctx: Context, n: int) -> str:
        effects.append("other")
        return "other"

    @workflow
    def either(n: Ref[int]) -> Ref[str]:
        return thank((garbled | other)(n))

    async with running() as engine:
        handle = await engine.start(either, 1, run_id="r")
        await eventually_waiting(engine)
        assert "it has happened, but what it gave cannot be stored" in await why(engine, "garbled")
        await engine.decide("r", "garbled", "done", "by hand")
        assert await handle.result() == "thanks for by hand"
    assert effects == ["garbled"]


async def test_a_plain_function_as_a_probe_runs_in_a_worker_thread() -> None:
    import threading

    threads: list[bool] = []

    def look(ctx: Context, n: int) -> str | None:
        threads.append(threading.current_thread() is threading.main_thread())
        return f"found {n}"

    @tool(effect="once", probe=look)
    async def act(ctx: Context, n: int) -> str:
        return await ctx.resource(Bank).charge(ctx, n)

    @workflow
    def acting(n: Ref[int]) -> Ref[str]:
        return thank(act(n))

    copy = await killed(acting)
    async with running(copy, Bank()) as engine:
        assert await engine.run(acting, 1, run_id="r") == "thanks for found 1"
    assert threads == [False]


async def test_a_probe_asks_the_world_and_not_the_journal() -> None:
    """Recorded calls would give it what was true before the effect."""
    seen: list[str] = []

    @tool
    async def status(ctx: Context, n: int) -> str:
        return "not paid"

    async def look(ctx: Context, n: int) -> str | None:
        for use in (
            lambda: ctx.call(status, n),
            lambda: ctx.model.complete("was it paid?"),
            lambda: ctx.sleep(1),
            lambda: ctx.signal("paid"),
        ):
            with pytest.raises(FlowkitError) as caught:
                await use()
            seen.append(str(caught.value))
        await ctx.call(status, n)
        return None

    @tool(effect="once", probe=look)
    async def act(ctx: Context, n: int) -> str:
        await ctx.call(status, n)
        return await ctx.resource(Bank).charge(ctx, n)

    @workflow
    def acting(n: Ref[int]) -> Ref[str]:
        return thank(act(n))

    copy = await killed(acting, ev.ToolAnswered)
    async with running(copy, Bank(), model=ScriptedModel(["yes"])) as engine:
        await engine.start(acting, 1, run_id="r")
        await eventually_waiting(engine)
        assert "a probe asks the world, not the journal" in await why(engine, "act")
    assert len(seen) == 4
    assert all("ctx.resource" in each for each in seen)


# ---- a person and a probe


@pytest.mark.parametrize("how", ["done", "repeat", "fail"])
async def test_a_decision_that_comes_while_the_probe_is_asked_wins_and_the_probe_is_stopped(
    how: str,
) -> None:
    copy, bank = await killed(patient_shop), Bank("hangs")
    async with running(copy, bank) as engine:
        handle = await engine.start(patient_shop, 1, run_id="r")
        await bank.inside.wait()
        await engine.decide("r", "patient", how, "by hand" if how == "done" else None)
        if how == "fail":
            with pytest.raises(StepFailed, match="decided to have failed"):
                await handle.result()
        else:
            given = "by hand" if how == "done" else "receipt 1"
            assert await handle.result() == f"thanks for {given}"
        decided = [each for each in told(await journal(engine, "r"), "patient") if "dec" in each]
    assert decided == [f"decided {how}"]
    assert bank.effects == ["r/patient/0"] * (how == "repeat")
    assert bank.asked == 1


async def test_a_decision_that_waits_when_the_run_is_taken_up_comes_before_the_probe() -> None:
    copy, bank = await killed(shop), Bank("value")
    bank.says = "raises"
    async with running(copy, bank) as engine:
        await engine.start(shop, 1, run_id="r")
        await eventually_waiting(engine)
    message = Message("m", "decide", "pay", None, "repeat")
    await copy.post("r", message)
    async with running(copy, bank) as engine:
        assert await engine.run(shop, 1, run_id="r") == "thanks for receipt 1"
    assert bank.asked == 1


async def test_a_decision_after_the_probes_answer_changes_nothing() -> None:
    copy, bank = await killed(shop), Bank("value")
    async with running(copy, bank) as engine:
        handle = await engine.start(shop, 1, run_id="r")
        async for event in handle.events():
            if isinstance(event.payload, ev.Decided):
                await copy.post("r", Message("m", "decide", "pay", None, "repeat"))
        assert await handle.result() == "thanks for found 1"
        with pytest.raises(ResumeError, match="'pay' of run 'r' has no unknown outcome"):
            await engine.decide("r", "pay", "repeat")
    assert bank.effects == []


async def test_a_second_decision_does_not_stop_the_effect_that_the_first_one_began() -> None:
    begun = anyio.Event()

    @tool(effect="once", timeout_s=10)
    async def act(ctx: Context, n: int) -> str:
        if not begun.is_set():
            begun.set()
            await anyio.sleep(20)
        bank.inside.set()
        await anyio.sleep(5)
        return "done"

    @workflow
    def acting(n: Ref[int]) -> Ref[str]:
        return act(n)

    bank = Bank()
    async with running(None, bank) as engine:
        handle = await engine.start(acting, 1, run_id="r")
        await eventually_waiting(engine)
        await engine.decide("r", "act", "repeat")
        await bank.inside.wait()
        await engine.store.post("r", Message("again", "decide", "act", None, "repeat"))
        await engine.signal("r", "look")
        assert await handle.result() == "done"
        events = await journal(engine, "r")
    assert told(events, "act")[-4:] == ["decided repeat", "intent", "decided repeat", "step_done"]


# ---- the key


async def test_the_idempotency_key_is_one_for_attempts_crashes_decisions_and_probes() -> None:
    copy, bank = await killed(blind_shop), Bank(hangs=1)
    async with running(copy, bank) as engine:
        handle = await engine.start(blind_shop, 1, run_id="r")
        await eventually_waiting(engine)
        await engine.decide("r", "blind", "repeat")
        await bank.inside.wait()
        head = (await copy.load("r")).events[-1].seq
        again = await crashed(copy, "r", head)
        await handle.cancel()
    async with running(again, bank) as engine:
        handle = await engine.start(blind_shop, 1, run_id="r")
        await eventually_waiting(engine)
        await engine.decide("r", "blind", "repeat")
        await handle.result()
    assert bank.keys == ["r/blind/0"] * 2


async def test_the_idempotency_key_is_the_same_for_each_try_and_new_in_each_round_and_item() -> (
    None
):
    keys: list[str] = []

    @tool(retries=1, backoff_s=0)
    async def draft(ctx: Context, n: int) -> str:
        keys.append(ctx.idempotency_key)
        if ctx.attempt == 1:
            raise ConnectionError("once more")
        return f"{n}{ctx.feedback}"

    @verifier
    async def strict(ctx: Context, text: str) -> None:
        if "louder" not in text:
            raise Reject("louder")

    @tool
    async def numbers(ctx: Context, text: str) -> list[int]:
        return [1, 2]

    @workflow
    def drafting(n: Ref[int]) -> Ref[list[str]]:
        return draft.map(numbers(strict(draft(n, id="first"))))

    async with running() as engine:
        await engine.run(drafting, 1, run_id="r")
    assert Counter(keys) == {
        "r/first/0": 2, "r/first@2/0": 2, "r/draft/0/0": 2, "r/draft/1/0": 2
    }  # fmt: skip


# ---- decisions


@tool
async def two(ctx: Context, n: int) -> list[int]:
    return [n, n + 1]


@tool
async def join(ctx: Context, one: list[str], two: str, three: str, four: str) -> str:
    return ", ".join([*one, two, three, four])


@planner(tools=[blind])
async def plan(ctx: Context, n: int) -> Plan | str:
    if not ctx.turns:
        return Plan([blind.step(n, id="buy")], again=True)
    return str(ctx.turns[0].results["buy"])


@workflow
def inner(n: Ref[int]) -> Ref[str]:
    return thank(blind(n))


@planner(tools=[Subflow(inner)])
async def delegate(ctx: Context, n: int) -> Plan | str:
    if not ctx.turns:
        return Plan([Subflow(inner).step(n, id="sub")], again=True)
    return str(ctx.turns[0].results["sub"])


@workflow
def everywhere(n: Ref[int]) -> Ref[str]:
    return join(blind.map(two(n)), plan(n), inner(n), delegate(n))


async def test_each_unknown_step_is_decided_on_by_itself_wherever_it_stands() -> None:
    bank = Bank(hangs=100)
    store = memory()
    async with running(store, bank, grace_s=1) as engine:
        await engine.start(everywhere, 1, run_id="r")
        await eventually(lambda: len(bank.keys) == 5)
    async with running(store, bank) as engine:
        handle = await engine.start(everywhere, 1, run_id="r")
        await eventually_waiting(engine)
        _, state = await engine.state("r")
        steps = sorted(state.unknown)
        assert steps == [
            "blind/0", "blind/1", "delegate/t1/sub/t1/blind", "inner/blind", "plan/t1/buy"
        ]  # fmt: skip
        bank.hangs = 0
        await engine.decide("r", "blind/1", "repeat")
        for step in steps:
            if step != "blind/1":
                await engine.decide("r", step, "done", step.upper())
        assert await handle.result() == (
            "BLIND/0, receipt 2, PLAN/T1/BUY, thanks for INNER/BLIND, "
            "thanks for DELEGATE/T1/SUB/T1/BLIND"
        )


async def test_a_planned_step_that_is_decided_to_have_failed_is_told_to_its_planner() -> None:
    told_: list[str] = []

    @planner(tools=[blind])
    async def asking(ctx: Context, n: int) -> Plan | str:
        if not ctx.turns:
            return Plan([blind.step(n, id="buy")], again=True)
        told_.extend(each.message for each in ctx.turns[0].failures)
        return "without"

    @workflow
    def planned(n: Ref[int]) -> Ref[str]:
        return asking(n)

    bank = Bank(hangs=1)
    store = memory()
    async with running(store, bank, grace_s=1) as engine:
        await engine.start(planned, 1, run_id="r")
        await bank.inside.wait()
    async with running(store, bank) as engine:
        handle = await engine.start(planned, 1, run_id="r")
        await eventually_waiting(engine)
        await engine.decide("r", "asking/t1/buy", "fail")
        assert await handle.result() == "without"
    assert told_ == ["decided to have failed"]


async def test_a_wrong_decision_is_refused_and_changes_nothing() -> None:
    copy = await killed(blind_shop)
    async with running(copy, Bank()) as engine:
        handle = await engine.start(blind_shop, 1, run_id="r")
        await eventually_waiting(engine)
        before = await journal(engine, "r")
        for step, how, value, error, text in (
            ("blind", "maybe", None, ResumeError, 'decide "done", "repeat" or "fail"'),
            ("thank", "repeat", None, ResumeError, "'thank' of run 'r' has no unknown outcome"),
            ("nope", "repeat", None, ResumeError, "'nope' of run 'r' has no unknown outcome"),
            ("blind", "done", {"a": 1}, ValueError, "valid string"),
            ("blind", "done", None, ValueError, "valid string"),
        ):
            with pytest.raises(error, match=text):
                await engine.decide("r", step, how, value)
        await anyio.sleep(5)
        assert await journal(engine, "r") == before
        await engine.decide("r", "blind", "done", "right")
        assert await handle.result() == "thanks for right"
        with pytest.raises(ResumeError):
            await engine.decide("r", "blind", "repeat")


# ---- what is refused


async def test_a_tool_that_happens_once_is_not_called_inside_a_node_not_even_as_an_alternative() -> (
    None
):
    @tool
    async def fails(ctx: Context, n: int) -> str:
        raise ConnectionError("down")

    @tool
    async def calls(ctx: Context, n: int) -> str:
        return str(await ctx.call(fails | blind, n))

    @workflow
    def calling(n: Ref[int]) -> Ref[str]:
        return calls(n)

    bank = Bank()
    async with running(None, bank) as engine:
        with pytest.raises(StepFailed, match=r"'blind' has effect=\"once\": make it a step"):
            await engine.run(calling, 1)
    assert bank.effects == []


def test_a_probe_is_checked_where_it_is_declared() -> None:
    async def other(ctx: Context, text: str) -> str | None:
        return text

    async def gives_int(ctx: Context, n: int) -> int | None:
        return n

    async def bare(ctx: Context, n: int) -> str | None:
        return None

    async def any_of(ctx: Context, n: int) -> Any:
        return None

    async def act(ctx: Context, n: int) -> str:
        return "done"

    async def nothing(ctx: Context, n: int) -> None:
        return None

    loose: Any = tool
    wrong: tuple[tuple[dict[str, Any], Any, str], ...] = (
        ({"probe": bare}, act, 'only effect="once" leaves an outcome unknown'),
        ({"probe": bare, "effect": "pure"}, act, 'only effect="once"'),
        ({"probe": other, "effect": "once"}, act, "must take what the tool takes: ctx, int"),
        ({"probe": gives_int, "effect": "once"}, act, r"str \| None"),
        ({"probe": bare, "effect": "once"}, nothing, "which may be None"),
        ({"probe": blind, "effect": "once"}, act, "probe= takes a plain function"),
        ({"probe": len, "effect": "once"}, act, "must take ctx: Context first"),
        ({"probe": bare, "effect": "once", "retries": 1}, act, "retries"),
    )
    for options, function, text in wrong:
        with pytest.raises(DeclarationError, match=text):
            loose(**options)(function)
    assert loose(effect="once", probe=any_of)(act).probe is not None


def test_only_a_tool_happens_once_and_a_judge_does_not_look_with_one() -> None:
    async def act(ctx: Context, n: int) -> str:
        return "done"

    for declare in (verifier, planner):
        loose: Any = declare
        with pytest.raises(DeclarationError, match="there is no option 'effect'"):
            loose(effect="once", **({"tools": []} if declare is planner else {}))(act)
    with pytest.raises(DeclarationError, match="'blind' has effect=\"once\"; a judge only looks"):
        Judge("good?", checks=str, tools=[tool(act) | blind])


def test_a_probe_is_no_part_of_a_tools_fingerprint_so_it_may_come_with_a_deploy() -> None:
    async def act(ctx: Context, n: int) -> str:
        return "done"

    seeing = tool(effect="once", probe=find)(act)
    assert seeing.spec().fingerprint == tool(effect="once")(act).spec().fingerprint


async def test_a_probe_that_comes_with_a_deploy_is_asked_for_runs_that_wait() -> None:
    @tool(name="blind", effect="once", probe=find)
    async def seeing(ctx: Context, n: int) -> str:
        return await ctx.resource(Bank).charge(ctx, n)

    def blind_shop(n: Ref[int]) -> Ref[str]:
        return thank(seeing(n))

    store = await killed(globals()["blind_shop"])
    async with running(store, Bank()) as engine:
        await engine.start(globals()["blind_shop"], 1, run_id="r")
        await eventually_waiting(engine)
    bank = Bank("value")
    async with running(store, bank) as engine:
        assert await engine.run(workflow(blind_shop), 1, run_id="r") == "thanks for found 1"


@pytest.mark.parametrize("how", ["resume", "deploy"])
async def test_a_probe_that_could_not_tell_is_asked_again_whoever_takes_the_run_up(
    how: str,
) -> None:
    @tool(version="2")
    async def thank(ctx: Context, receipt: str) -> str:
        return f"thanks for {receipt}"

    def patient_shop(n: Ref[int]) -> Ref[str]:
        return thank(patient(n))

    old: Any = globals()["patient_shop"]
    store, away = await killed(old), Bank("raises")
    async with running(store, away, workflows=[old]) as engine:
        await engine.take("r")
        await eventually_waiting(engine)
    assert away.asked == 1
    flow = workflow(patient_shop) if how == "deploy" else old
    async with running(store, bank := Bank("value"), workflows=[flow]) as engine:
        handle = await engine.take("r")
        assert await handle.result() == "thanks for found 1"
    assert (bank.asked, bank.effects) == (1, [])


@pytest.mark.parametrize(("flow", "step"), [("shop", "pay"), ("patient_shop", "patient")])
@pytest.mark.parametrize("known", [False, True])
async def test_a_fork_leaves_the_effect_of_its_base_to_a_person(
    flow: str, step: str, *, known: bool
) -> None:
    """Its probe would look for an effect of the fork's, find none, and pay a second time."""
    old: Any = globals()[flow]
    store, bank = await killed(old), Bank("the truth")
    bank.effects.append(f"r/{step}/0")
    if known:  # the base's own probe could not tell
        async with running(store, Bank("raises"), workflows=[old]) as engine:
            await engine.take("r")
            await eventually_waiting(engine)
    async with running(store, bank, workflows=[old]) as engine:
        fork = await engine.fork("r", new_id="f")
        await eventually_waiting(engine, "f")
        assert (bank.asked, bank.effects) == (0, [f"r/{step}/0"])
        if not known:
            _, state = await engine.state("f")
            assert "the run that this is a fork of had begun" in str(state.unknown[step].error)
        await engine.decide("f", step, "repeat")
        assert await fork.result() == "thanks for receipt 1"
        assert bank.effects == [f"r/{step}/0", f"f/{step}/0"]
        assert await (await engine.take("r")).result() == "thanks for found 1"
        assert bank.effects == [f"r/{step}/0", f"f/{step}/0"]


async def test_a_fork_s_own_effect_is_asked_for_as_any_other() -> None:
    store, bank = await killed(globals()["shop"]), Bank("the truth", hangs=1)
    async with running(store, bank, workflows=[globals()["shop"]]) as engine:
        await engine.fork("r", new_id="f")
        await eventually_waiting(engine, "f")
        await engine.decide("f", "pay", "repeat")
        await bank.inside.wait()
        events = await journal(engine, "f")
    copy = await crashed(store, "f", of(events, ev.Intent)[-1].seq)
    async with running(copy, bank, workflows=[globals()["shop"]]) as engine:
        assert await engine.resume("f") == "thanks for found 1"
    assert bank.effects == ["f/pay/0"]


async def test_a_begun_effect_is_shown_and_planned_for_as_what_it_is() -> None:
    for flow, action, why in (
        ("shop", "run", "its outcome is unknown: its probe is asked"),
        ("blind_shop", "blocked", "its outcome is unknown: decide on it"),
    ):
        store = await killed(globals()[flow])
        async with running(store, Bank(), workflows=[globals()[flow]]) as engine:
            step = "pay" if flow == "shop" else "blind"
            assert (await statuses(engine))[step] == "begun"
            plan = await engine.plan_resume("r")
        (told,) = [each for each in plan.steps if each.step == step]
        assert (told.action, told.why) == (action, why)


async def test_a_node_that_cannot_tell_says_so_and_its_probe_or_a_person_finds_out() -> None:
    @tool(effect="once")
    async def send(ctx: Context, n: int) -> str:
        raise OutcomeUnknown("the line broke after the request was sent")

    @tool(retries=1, backoff_s=0)
    async def repeatable(ctx: Context, n: int) -> str:
        if ctx.attempt == 1:
            raise OutcomeUnknown("no answer")
        return "done"

    async def look(ctx: Context, n: int) -> str | None:
        return "found"

    @tool(effect="once", probe=look)
    async def probed(ctx: Context, n: int) -> str:
        raise OutcomeUnknown("no answer")

    @tool
    async def three(ctx: Context, a: str, b: str, c: str) -> str:
        return f"{a} {b} {c}"

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return three(send(n), repeatable(n), probed(n))

    async with running(None, Log()) as engine:
        handle = await engine.start(flow, 1, run_id="r")
        await eventually_waiting(engine)
        assert "the line broke after the request was sent" in await why(engine, "send")
        await engine.decide("r", "send", "done", "sent")
        assert await handle.result() == "sent done found"
