"""A crash at every event: the result is that of the uncrashed run, and nothing finished runs again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import anyio
import pytest
from pydantic import BaseModel

import flowkit.events as ev
from flowkit import Context, Ref, Reject, Replan, Retry, workflow
from flowkit.engine import fold
from flowkit.events import Event
from flowkit.nodes import Findings, Plan, planner, tool, verifier
from flowkit.ports import Journal
from flowkit.store import MemoryStore
from tests.scenario.kit import (
    ENDS,
    Log,
    crashed,
    finished,
    journal,
    memory,
    note,
    row_after,
    running,
)


class Report(BaseModel):
    text: str
    sources: tuple[str, ...] = ()


@tool
async def split(ctx: Context, topic: str) -> list[str]:
    note(ctx)
    return [f"{topic}{index}" for index in range(3)]


@tool(retries=2, backoff_s=3)
async def fetch(ctx: Context, topic: str) -> str:
    note(ctx)
    if topic.endswith("1") and ctx.attempt == 1:
        raise Retry(7)
    if ctx.attempt <= 1:
        raise ConnectionError("the first try fails")
    return f"page {topic}"


@tool(retries=1, backoff_s=1)
async def primary(ctx: Context, topic: str) -> str:
    note(ctx)
    raise ConnectionError("down")


@tool
async def backup(ctx: Context, topic: str) -> str:
    note(ctx)
    await anyio.sleep(1)
    return f"backup {topic}"


@tool
async def look(ctx: Context, topic: str) -> str:
    note(ctx)
    return f"seen {topic}"


@tool
async def doubt(ctx: Context, text: str) -> str:
    note(ctx)
    if ctx.step.startswith("explore/t2/"):
        raise Replan("the second plan does not hold")
    return f"surely {text}"


@planner(tools=[look, doubt, primary | backup])
async def explore(ctx: Context, topic: str) -> Plan | Report:
    note(ctx)
    turn = len(ctx.turns) + 1
    if turn == 1:
        seen = look.step(topic, id="seen")
        steps = [seen, (primary | backup).step("x", id="other"), doubt.step(seen, id="sure")]
        return Plan(steps, again=True)
    if turn == 2:
        return Plan([doubt.step("again", id="sure")])
    results = [text for each in ctx.turns for text in each.results.values()]
    said = [text for each in ctx.turns for text in each.feedback]
    return Report(text=", ".join([*results, *said]))


@planner(tools=[look, primary], replans_max=1)
async def gather(ctx: Context, topic: str) -> Plan:
    note(ctx)
    number = len(ctx.turns) + 1
    return Plan(
        [look.step(f"{topic}-{number}", id=f"look{number}"), primary.step(topic, id=f"p{number}")]
    )


@tool
async def ask(ctx: Context, topic: str) -> str:
    note(ctx)
    first = await ctx.call(look, f"{topic} for the first time")
    await ctx.sleep(30)
    return f"{first}, {await ctx.call(look, f'{topic} later')}"


@tool
async def write(ctx: Context, notes: list[str], found: Findings, report: Report) -> Report:
    note(ctx)
    words = [*notes, *found.of(look).values(), *(each.id for each in found.failures), report.text]
    return Report(text="; ".join(words), sources=ctx.feedback)


@verifier
async def has_sources(ctx: Context, report: Report) -> None:
    note(ctx)
    if not report.sources:
        raise Reject("name a source")


@verifier(retries=1, backoff_s=1)
async def is_long(ctx: Context, report: Report, topic: str) -> None:
    note(ctx)
    if ctx.attempt == 1:
        raise ConnectionError("the judge was away")
    if report.sources == ("name a source",):
        raise Reject(f"say more of {topic}")


@tool
async def publish(ctx: Context, report: Report, asked: str, other: str) -> str:
    note(ctx)
    return f"{report.text} | {' '.join(report.sources)} | {asked} | {other}"


@workflow
def inner(topic: Ref[str]) -> Ref[str]:
    return (primary | backup)(topic, id="try")


@workflow
def rich(topic: Ref[str]) -> Ref[str]:
    notes = fetch.map(split(topic))
    report = write(notes, gather(topic), explore(topic))
    checked = is_long(has_sources(report, attempts=3), topic, attempts=3)
    return publish(checked, ask(topic), inner(topic))


RESULT = (
    "page t0; page t1; page t2; seen t-1; seen t-2; p1; p2; "
    "seen t, backup x, surely seen t, the second plan does not hold"
)


async def whole_run() -> tuple[MemoryStore, Sequence[Event], str]:
    store = memory()
    async with running(store, Log()) as engine:
        result = await engine.run(rich, "t", run_id="r")
        return store, await journal(engine, "r"), result


def outcomes(events: Sequence[Event]) -> set[tuple[object, ...]]:
    """What the attempts came to, without times and without the order in which they ended."""
    found: set[tuple[object, ...]] = set()
    for event in events:
        if isinstance(event.payload, ENDS):
            value = getattr(event.payload, "value", None)
            found.add(
                (
                    event.kind, event.key, event.alternative, event.attempt,
                    getattr(event.payload, "input_hash", ""), value.digest if value else "",
                )
            )  # fmt: skip
    return found


async def test_the_rich_workflow_gives_the_expected_result_without_a_crash() -> None:
    _, events, result = await whole_run()
    assert result == (
        f"{RESULT} | say more of t | seen t for the first time, seen t later | backup t"
    )
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert isinstance(events[-1].payload, ev.RunEnded)


async def test_a_crash_after_every_event_gives_the_same_result_and_repeats_no_finished_step() -> (
    None
):
    store, events, result = await whole_run()
    assert len(events) > 45, "the workflow has become poorer than this test needs"
    expected = outcomes(events)
    for head in range(len(events) + 1):
        copy, log = await crashed(store, "r", head), Log()
        async with running(copy, log) as engine:
            assert await engine.run(rich, "t", run_id="r") == result, head
            resumed = await journal(engine, "r")
        done = finished(events[:head])
        assert not done.intersection(log), f"after event {head} these ran again"
        assert list(resumed[:head]) == list(events[:head])
        assert outcomes(resumed) == expected, head
        twice = {line for line in log if log.count(line) > 1}
        assert twice <= {"ask 0 1"}, f"after event {head} these ran twice in one process"


async def test_a_crash_after_every_event_leaves_a_row_that_says_how_it_stands() -> None:
    store, events, _ = await whole_run()
    for head in range(1, len(events) + 1):
        copy = await crashed(store, "r", head)
        record = (await copy.load("r")).record
        assert record.status == row_after(events[:head])
        assert record.head == head


async def test_a_run_that_is_killed_at_every_second_event_still_ends_right() -> None:
    """Not one crash but many: each new process gets a few events further."""
    store, events, result = await whole_run()
    head, current = 2, store
    for _ in range(200):
        current = await crashed(current, "r", head)
        log = Log()
        async with running(current, log) as engine:
            assert await engine.run(rich, "t", run_id="r") == result
            resumed = await journal(engine, "r")
        assert not finished(resumed[:head]).intersection(log)
        if head >= len(resumed) - 1:
            break
        head += 4  # the claim, and something that it did
    else:
        pytest.fail("the run never came to its end")
    assert outcomes(resumed) == outcomes(events)


async def test_every_prefix_folds_to_a_state_that_the_next_event_fits_on() -> None:
    store, events, _ = await whole_run()
    record = (await store.load("r")).record
    for head in range(len(events)):
        state = fold(Journal(record, events[:head]))
        assert state.seq == head
        state.apply(events[head])


@tool
async def first_half(ctx: Context, n: int) -> int:
    note(ctx)
    await anyio.sleep(ctx.resource(random.Random).random())
    return n + 1


@tool
async def second_half(ctx: Context, n: int) -> int:
    note(ctx)
    await anyio.sleep(ctx.resource(random.Random).random())
    return n * 10


@tool
async def collect(
    ctx: Context, a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int
) -> list[int]:
    note(ctx)
    return [a, b, c, d, e, f, g, h]


@workflow
def branches(n: Ref[int]) -> Ref[list[int]]:
    ends = [
        second_half(first_half(n, id=f"first{index}"), id=f"second{index}") for index in range(8)
    ]
    a, b, c, d, e, f, g, h = ends
    return collect(a, b, c, d, e, f, g, h)


@tool
async def own(ctx: Context, n: int) -> int:
    note(ctx)
    await anyio.sleep(ctx.resource(random.Random).random())
    return n


@planner(tools=[own, second_half])
async def eight(ctx: Context, n: int) -> Plan:
    note(ctx)
    steps = [own.step(n + index, id=f"own{index}") for index in range(8)]
    return Plan([*steps, *(second_half.step(s, id=f"then{i}") for i, s in enumerate(steps))])


@tool
async def total(ctx: Context, found: Findings) -> list[int]:
    note(ctx)
    return list(found.of(second_half).values())


@workflow
def planned_branches(n: Ref[int]) -> Ref[list[int]]:
    return total(eight(n))


async def test_parallel_branches_are_right_in_200_schedules_with_a_crash_at_a_random_event() -> (
    None
):
    for seed in range(100):
        chance = random.Random(seed)
        for wf, right in (
            (branches, [40] * 8),
            (planned_branches, [(3 + index) * 10 for index in range(8)]),
        ):
            store = memory()
            async with running(store, Log(), chance) as engine:
                assert await engine.run(wf, 3, run_id="r") == right
                events = await journal(engine, "r")
            head = chance.randrange(len(events))
            log, copy = Log(), await crashed(store, "r", head)
            async with running(copy, log, chance) as engine:
                assert await engine.run(wf, 3, run_id="r") == right, (seed, head)
            assert not finished(events[:head]).intersection(log)
