"""Rules of verification: verdicts, rounds, feedback, and what nobody sees before it is accepted."""

from __future__ import annotations

import anyio
import pytest

import flowkit.events as ev
from flowkit import Context, DeclarationError, Ref, Reject, StepFailed, workflow
from flowkit.errors import CycleFound, Rejected
from flowkit.nodes import Fallback, Findings, Plan, planner, tool, verifier
from tests.scenario.kit import (
    Log,
    journal,
    note,
    now,
    of,
    running,
)


@tool
async def write(ctx: Context, n: int) -> str:
    """A text that knows the feedback of the round before."""
    note(ctx)
    return f"{n}" + "".join(f"+{text}" for text in ctx.feedback)


@tool
async def read(ctx: Context, text: str) -> str:
    note(ctx)
    return f"<{text}>"


@tool
async def same(ctx: Context, n: int) -> int:
    note(ctx)
    return n


@verifier
async def has_plus(ctx: Context, text: str) -> None:
    note(ctx)
    if "+" not in text:
        raise Reject("plus")


@verifier
async def never(ctx: Context, text: str) -> None:
    note(ctx)
    raise Reject(f"no{ctx.step.removeprefix('never')}")


async def test_an_accepting_verifier_passes_the_value_on_unchanged() -> None:
    @verifier
    async def fine(ctx: Context, text: str) -> None:
        note(ctx)

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return read(fine(write(n)))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 1) == "<1>"
    assert log == ["write 0 1", "fine 0 1", "read 0 1"]


async def test_a_rejection_opens_the_next_round_with_its_feedback() -> None:
    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return has_plus(write(n))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 1, run_id="r") == "1+plus"
        events = await journal(engine, "r")
    assert log == ["write 0 1", "has_plus 0 1", "write@2 0 1", "has_plus@2 0 1"]
    assert [event.key for event in of(events, ev.Rejected)] == ["has_plus"]
    assert [event.key for event in of(events, ev.Accepted)] == ["has_plus@2"]


async def test_rounds_used_up_fail_the_step_that_made_the_value_with_rejected() -> None:
    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return never(write(n), attempts=3)

    log = Log()
    async with running(None, log) as engine:
        with pytest.raises(Rejected, match="no@3") as caught:
            await engine.run(flow, 1)
    assert caught.value.step == "write@3"
    assert log.count("write@2 0 1") == log.count("write@3 0 1") == 1
    assert len(log) == 6


async def test_attempts_is_the_total_of_rounds_and_two_by_default() -> None:
    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return never(write(n))

    @workflow
    def once(n: Ref[int]) -> Ref[str]:
        return never(write(n), attempts=1)

    for wf, rounds in ((flow, 2), (once, 1)):
        log = Log()
        async with running(None, log) as engine:
            with pytest.raises(Rejected):
                await engine.run(wf, 1)
        assert len([line for line in log if line.startswith("write")]) == rounds


async def test_any_other_exception_is_a_failed_attempt_of_the_verifier() -> None:
    @verifier(retries=1, backoff_s=0)
    async def shaky(ctx: Context, text: str) -> None:
        note(ctx)
        if ctx.attempt == 1:
            raise ConnectionError("away")

    @verifier
    async def broken(ctx: Context, text: str) -> None:
        raise ConnectionError("gone")

    @workflow
    def recovers(n: Ref[int]) -> Ref[str]:
        return shaky(write(n))

    @workflow
    def fails(n: Ref[int]) -> Ref[str]:
        return broken(write(n))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(recovers, 1) == "1"
        assert log == ["write 0 1", "shaky 0 1", "shaky 0 2"]
        with pytest.raises(StepFailed, match="gone") as caught:
            await engine.run(fails, 1)
    assert caught.value.step == "broken"


async def test_a_value_under_verification_is_seen_by_nobody_else_until_it_is_accepted() -> None:
    seen: list[str] = []

    @tool
    async def spy(ctx: Context, text: str) -> str:
        seen.append(f"{text} at {ctx.resource(Began).passed():.0f}")
        return text

    @verifier
    async def slow(ctx: Context, text: str) -> None:
        await anyio.sleep(10)
        if "+" not in text:
            raise Reject("plus")

    @tool
    async def both(ctx: Context, a: str, b: str) -> str:
        return f"{a} {b}"

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        text = write(n)
        return both(spy(text), slow(text))  # spy reads the unverified ref, and waits all the same

    async with running(None, Log(), Began()) as engine:
        assert await engine.run(flow, 1) == "1+plus 1+plus"
    assert seen == ["1+plus at 20"]


class Began:
    def __init__(self) -> None:
        self.at = now()

    def passed(self) -> float:
        return now() - self.at


async def test_further_inputs_are_evidence_and_are_waited_for() -> None:
    @tool
    async def evidence(ctx: Context, n: int) -> int:
        await anyio.sleep(30)
        return n + 1

    @verifier
    async def at_least(ctx: Context, text: str, least: int) -> None:
        note(ctx)
        if int(text.partition("+")[0]) < least and "+" not in text:
            raise Reject(f"at least {least}")

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return at_least(write(n), evidence(n))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 1) == "1+at least 2"
    assert log == ["write 0 1", "at_least 0 1", "write@2 0 1", "at_least@2 0 1"]


def test_a_cycle_made_by_waiting_for_verifiers_is_a_declaration_error() -> None:
    @verifier
    async def against(ctx: Context, text: str, other: str) -> None: ...

    with pytest.raises(CycleFound):

        @workflow
        def _flow(n: Ref[int]) -> Ref[str]:
            text = write(n)
            return against(text, read(text))  # read waits for against, which waits for read


async def test_a_chain_of_verifiers_goes_back_to_the_step_that_is_no_verifier() -> None:
    @verifier
    async def long_enough(ctx: Context, text: str) -> None:
        note(ctx)
        if text.count("+") < 1 or "long" not in text:
            raise Reject("long")

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return long_enough(has_plus(write(n), attempts=4), attempts=4)

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 1) == "1+long"
    assert log == [
        "write 0 1", "has_plus 0 1",
        "write@2 0 1", "has_plus@2 0 1", "long_enough@2 0 1",
        "write@3 0 1", "has_plus@3 0 1", "long_enough@3 0 1",
    ]  # fmt: skip


async def test_parallel_verifiers_rejections_of_a_round_are_merged_in_order_of_declaration() -> (
    None
):
    @verifier
    async def slow_one(ctx: Context, text: str) -> None:
        await anyio.sleep(10)
        if "+" not in text:
            raise Reject("slow")

    @verifier
    async def quick_one(ctx: Context, text: str) -> None:
        if "+" not in text:
            raise Reject("quick")

    @tool
    async def pair(ctx: Context, a: str, b: str) -> tuple[str, str]:
        return a, b

    @workflow
    def flow(n: Ref[int]) -> Ref[tuple[str, str]]:
        text = write(n)
        return pair(slow_one(text), quick_one(text))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 1) == ("1+slow+quick", "1+slow+quick")
    assert log == ["write 0 1", "write@2 0 1"], "one round for both rejections"


async def test_a_rejected_round_begins_at_the_alternative_that_had_answered() -> None:
    @tool
    async def dead(ctx: Context, n: int) -> str:
        note(ctx)
        raise ConnectionError("down")

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return has_plus((dead | write)(n, id="text"))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 1) == "1+plus"
    assert log == ["text 0 1", "text 1 1", "has_plus 0 1", "text@2 1 1", "has_plus@2 0 1"]


async def test_with_reject_in_on_a_rejected_round_goes_to_the_next_alternative() -> None:
    @tool
    async def stubborn(ctx: Context, n: int) -> str:
        note(ctx)
        return "never good"

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return has_plus(Fallback(stubborn, write, on=(Reject, Exception))(n, id="text"))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 1) == "1+plus"
    assert log == ["text 0 1", "has_plus 0 1", "text@2 1 1", "has_plus@2 0 1"]


async def test_the_idempotency_key_is_the_same_for_every_attempt_and_new_in_each_round() -> None:
    keys: list[str] = []

    @tool(retries=1, backoff_s=0)
    async def keyed(ctx: Context, n: int) -> str:
        keys.append(ctx.idempotency_key)
        if ctx.attempt == 1:
            raise ConnectionError("again")
        return "".join(f"+{text}" for text in ctx.feedback)

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return has_plus(keyed(n))

    async with running(None, Log()) as engine:
        await engine.run(flow, 1, run_id="r")
    assert keys == ["r/keyed/0"] * 2 + ["r/keyed@2/0"] * 2


# ---- what was checked is a planner, a map, a sub-workflow


async def test_a_rejected_planner_gets_one_more_turn_with_the_feedback_and_keeps_what_it_found() -> (
    None
):
    turns: list[tuple[int, list[str], list[list[str]], tuple[str, ...]]] = []

    @planner(tools=[same])
    async def think(ctx: Context, n: int) -> Plan | str:
        turns.append(
            (
                len(ctx.turns),
                [str(value) for turn in ctx.turns for value in turn.results.values()],
                [list(turn.feedback) for turn in ctx.turns],
                ctx.feedback,
            )
        )
        if not ctx.turns:
            return Plan([same.step(n, id="one")], again=True)
        return "answer" + "".join(f"+{text}" for text in ctx.feedback)

    @workflow
    def flow(n: Ref[int]) -> Ref[str]:
        return has_plus(think(n))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 5) == "answer+plus"
    assert log.count("think/t1/one 0 1") == 1
    assert [found for _, found, _, _ in turns] == [[], ["5"], ["5"]]
    assert turns[-1][3] == ("plus",)
    assert turns[-1][2][-1] == ["plus"], "the rejected turn's feedback stands in ctx.turns"


async def test_a_rejected_planner_that_only_plans_is_asked_for_one_more_plan() -> None:
    shown: list[list[int]] = []

    @planner(tools=[same])
    async def gather(ctx: Context, n: int) -> Plan:
        shown.append([turn.number for turn in ctx.turns])
        return Plan([same.step(len(ctx.turns), id=f"s{len(ctx.turns)}")])

    @verifier
    async def two(ctx: Context, found: Findings) -> None:
        if len(found) < 2:
            raise Reject("more")

    @tool
    async def count(ctx: Context, found: Findings) -> list[int]:
        return list(found.of(same).values())

    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        return count(two(gather(n)))

    async with running(None, Log()) as engine:
        assert await engine.run(flow, 5) == [0, 1]
    assert shown == [[], [1]], "a turn stands once in ctx.turns"


async def test_a_rejected_map_is_done_again_item_by_item_in_its_next_round() -> None:
    @tool
    async def some(ctx: Context, n: int) -> list[int]:
        return list(range(n))

    @tool
    async def item(ctx: Context, n: int) -> str:
        note(ctx)
        return f"{n}{ctx.step.partition('@')[2][:1]}"

    @verifier
    async def second_time(ctx: Context, texts: list[str]) -> None:
        if texts[0] == "0":
            raise Reject("again")

    @workflow
    def flow(n: Ref[int]) -> Ref[list[str]]:
        return second_time(item.map(some(n), id="items"))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 2) == ["02", "12"]
    assert log == ["items/0 0 1", "items/1 0 1", "items@2/0 0 1", "items@2/1 0 1"]


async def test_a_maps_items_get_the_feedback_of_the_rejected_round() -> None:
    @tool
    async def some(ctx: Context, n: int) -> list[int]:
        return list(range(n))

    @verifier
    async def all_plus(ctx: Context, texts: list[str]) -> None:
        if not all("+" in text for text in texts):
            raise Reject("plus")

    @workflow
    def flow(n: Ref[int]) -> Ref[list[str]]:
        return all_plus(write.map(some(n)))

    async with running(None, Log()) as engine:
        assert await engine.run(flow, 2) == ["0+plus", "1+plus"]


async def test_a_rejected_map_moves_its_items_to_the_next_alternative_with_reject_in_on() -> None:
    @tool
    async def some(ctx: Context, n: int) -> list[int]:
        return list(range(n))

    @tool
    async def stubborn(ctx: Context, n: int) -> str:
        note(ctx)
        return "never good"

    @verifier
    async def all_plus(ctx: Context, texts: list[str]) -> None:
        if not all("+" in text for text in texts):
            raise Reject("plus")

    @workflow
    def flow(n: Ref[int]) -> Ref[list[str]]:
        return all_plus(Fallback(stubborn, write, on=(Reject, Exception)).map(some(n), id="m"))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 2) == ["0+plus", "1+plus"]
    assert log == ["m/0 0 1", "m/1 0 1", "m@2/0 1 1", "m@2/1 1 1"]


async def test_a_rejected_sub_workflows_output_is_done_again_by_the_step_that_made_it() -> None:
    @workflow
    def inner(n: Ref[int]) -> Ref[str]:
        return write(same(n))

    @workflow
    def outer(n: Ref[int]) -> Ref[str]:
        return has_plus(inner(n, id="sub"))

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(outer, 1) == "1+plus"
    assert log == [
        "sub/same 0 1", "sub/write 0 1", "has_plus 0 1", "sub/write@2 0 1", "has_plus@2 0 1"
    ]  # fmt: skip


async def test_a_verified_output_of_a_sub_workflow_can_be_verified_again_outside() -> None:
    @verifier
    async def twice(ctx: Context, text: str) -> None:
        note(ctx)
        if text == "1+plus":
            raise Reject("more")

    @workflow
    def inner(n: Ref[int]) -> Ref[str]:
        return has_plus(write(n), attempts=5)

    @workflow
    def outer(n: Ref[int]) -> Ref[str]:
        return twice(inner(n), attempts=5)

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(outer, 1) == "1+more"
    assert "twice 0 1" not in log, "the chain stopped at the inner verifier in round 1"


def test_verifying_the_workflows_input_is_a_declaration_error() -> None:
    with pytest.raises(DeclarationError, match="input"):

        @workflow
        def _flow(text: Ref[str]) -> Ref[str]:
            return read(has_plus(text))


def test_verifying_a_once_step_with_attempts_above_one_is_a_declaration_error() -> None:
    @tool(effect="once")
    async def pay(ctx: Context, n: int) -> str:
        return "paid"

    with pytest.raises(DeclarationError, match="once"):

        @workflow
        def _flow(n: Ref[int]) -> Ref[str]:
            return has_plus(pay(n))

    @workflow
    def fine(n: Ref[int]) -> Ref[str]:
        return has_plus(pay(n), attempts=1)

    assert fine.graph.output == "pay"
