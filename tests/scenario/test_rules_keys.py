"""Rules of keys: a step's key is its path, whatever the order in which things happen."""

from __future__ import annotations

import anyio
import pytest

import flowkit.events as ev
from flowkit import Context, DeclarationError, Ref, Reject, workflow
from flowkit.errors import DuplicateStep
from flowkit.nodes import Findings, Plan, planner, tool, verifier
from tests.scenario.kit import Log, crashed, finished, journal, memory, note, of, running


@tool
async def one(ctx: Context, n: int) -> int:
    note(ctx)
    return n + 1


@tool
async def add(ctx: Context, a: int, b: int) -> int:
    note(ctx)
    return a + b


@tool
async def numbers(ctx: Context, n: int) -> list[int]:
    note(ctx)
    return list(range(n))


@tool
async def total(ctx: Context, found: list[int]) -> int:
    note(ctx)
    return sum(found)


async def keys_of(flow: object, value: object) -> list[str]:
    async with running(None, Log()) as engine:
        await engine.run(flow, value, run_id="r")  # type: ignore[arg-type]
        events = await journal(engine, "r")
    return [event.key for event in events if event.key]


async def test_a_declared_steps_key_is_its_nodes_name_or_its_id() -> None:
    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return one(one(n), id="again")

    assert await keys_of(flow, 1) == ["one", "again"]


def test_a_second_placement_without_an_id_is_a_declaration_error() -> None:
    with pytest.raises(DuplicateStep, match="id="):

        @workflow
        def _flow(n: Ref[int]) -> Ref[int]:
            return one(one(n))

    assert issubclass(DuplicateStep, DeclarationError)


async def test_a_planned_steps_key_is_planner_turn_and_its_id() -> None:
    @planner(tools=[one])
    async def plan(ctx: Context, n: int) -> Plan | int:
        if len(ctx.turns) < 2:
            return Plan([one.step(n, id="search-1")], again=True)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return plan(n)

    assert await keys_of(flow, 1) == [
        "plan/t1", "plan/t1/search-1", "plan/t2", "plan/t2/search-1", "plan/t3"
    ]  # fmt: skip


async def test_a_map_items_key_is_the_maps_and_its_index() -> None:
    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return total(one.map(numbers(n), id="pages"))

    assert await keys_of(flow, 3) == ["numbers", "pages/0", "pages/1", "pages/2", "total"]


async def test_a_sub_workflows_step_has_its_prefix_however_deep() -> None:
    @workflow
    def inner(n: Ref[int]) -> Ref[int]:
        return one(n)

    @workflow
    def middle(n: Ref[int]) -> Ref[int]:
        return add(inner(n), inner(n, id="other"))

    @workflow
    def outer(n: Ref[int]) -> Ref[int]:
        return middle(one(n), id="triage")

    assert set(await keys_of(outer, 1)) == {
        "one", "triage/inner/one", "triage/other/one", "triage/add"
    }  # fmt: skip


async def test_a_sub_workflow_shares_the_journal_and_takes_literals_and_after() -> None:
    log = Log()

    @tool
    async def slow(ctx: Context, n: int) -> int:
        await anyio.sleep(10)
        note(ctx)
        return n

    @workflow
    def inner(n: Ref[int]) -> Ref[int]:
        return one(n)

    @workflow
    def outer(n: Ref[int]) -> Ref[int]:
        return inner(40, after=slow(n))

    async with running(None, log) as engine:
        assert await engine.run(outer, 1, run_id="r") == 41
        assert len(await engine.runs()) == 1
    assert log == ["slow 0 1", "inner/one 0 1"]


async def test_a_sub_workflow_maps_its_input() -> None:
    @workflow
    def inner(found: Ref[list[int]]) -> Ref[int]:
        return total(one.map(found))

    @workflow
    def outer(n: Ref[int]) -> Ref[int]:
        return inner(numbers(n))

    async with running(None, Log()) as engine:
        assert await engine.run(outer, 3) == 6


async def test_rounds_are_steps_of_their_own_and_alternative_and_attempt_are_fields() -> None:
    @tool(retries=1, backoff_s=0)
    async def bad(ctx: Context, n: int) -> int:
        raise ConnectionError("down")

    @verifier
    async def big(ctx: Context, n: int) -> None:
        if not ctx.step.endswith("@3"):
            raise Reject("bigger")

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return big((bad | one)(n, id="write"), attempts=3)

    async with running(None, Log()) as engine:
        await engine.run(flow, 1, run_id="r")
        events = await journal(engine, "r")
    done = [(event.key, event.alternative, event.attempt) for event in of(events, ev.StepDone)]
    failed = [
        (event.key, event.alternative, event.attempt) for event in of(events, ev.AttemptFailed)
    ]
    assert done == [("write", 1, 1), ("write@2", 1, 1), ("write@3", 1, 1)]
    assert failed == [("write", 0, 1), ("write", 0, 2)]


async def test_the_idempotency_key_is_run_key_and_alternative_and_the_same_after_a_crash() -> None:
    keys: list[str] = []

    @tool(retries=1, backoff_s=0)
    async def bad(ctx: Context, n: int) -> int:
        keys.append(ctx.idempotency_key)
        raise ConnectionError("down")

    @tool
    async def good(ctx: Context, n: int) -> int:
        keys.append(ctx.idempotency_key)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return (bad | good)(n, id="write")

    store = memory()
    async with running(store) as engine:
        await engine.run(flow, 1, run_id="r")
    assert keys == ["r/write/0", "r/write/0", "r/write/1"]
    async with running(await crashed(store, "r", 2)) as engine:
        await engine.run(flow, 1, run_id="r")
    assert keys[3:] == keys[:3]


# ---- maps


async def test_a_map_over_an_empty_list_gives_an_empty_list() -> None:
    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return total(one.map(numbers(n)))

    @workflow
    def bare(n: Ref[int]) -> Ref[list[int]]:
        return one.map(numbers(n))

    async with running(None, Log()) as engine:
        assert await engine.run(flow, 0) == 0
        assert await engine.run(bare, 0, run_id="r") == []
        assert await engine.resume("r") == []


async def test_results_of_a_map_are_in_the_order_of_the_items_not_of_their_end() -> None:
    @tool
    async def slower_first(ctx: Context, n: int) -> int:
        await anyio.sleep(10 - n)
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        return slower_first.map(numbers(n))

    async with running(None, Log()) as engine:
        assert await engine.run(flow, 5) == [0, 1, 2, 3, 4]


async def test_a_map_of_a_fallback_tries_the_alternatives_item_by_item() -> None:
    @tool
    async def even(ctx: Context, n: int) -> int:
        note(ctx)
        if n % 2:
            raise ValueError("odd")
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        return (even | one).map(numbers(n), id="m")

    log = Log()
    async with running(None, log) as engine:
        assert await engine.run(flow, 3) == [0, 2, 2]
    assert sorted(log[1:]) == ["m/0 0 1", "m/1 0 1", "m/1 1 1", "m/2 0 1"]


async def test_a_maps_item_failure_fails_the_run_and_names_the_item() -> None:
    from flowkit import StepFailed

    @tool
    async def picky(ctx: Context, n: int) -> int:
        if n == 2:
            raise ValueError("two")
        return n

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return total(picky.map(numbers(n)))

    async with running(None, Log()) as engine:
        with pytest.raises(StepFailed, match="two") as caught:
            await engine.run(flow, 4)
    assert caught.value.step == "picky/2"


async def test_a_map_over_a_map_and_over_the_workflows_input() -> None:
    @workflow
    def flow(found: Ref[list[int]]) -> Ref[list[int]]:
        return one.map(one.map(found, id="first"), id="second")

    store = memory()
    async with running(store, Log()) as engine:
        assert await engine.run(flow, [1, 2, 3], run_id="r") == [3, 4, 5]
        events = await journal(engine, "r")
    for head in range(len(events)):
        log = Log()
        async with running(await crashed(store, "r", head), log) as engine:
            assert await engine.run(flow, [1, 2, 3], run_id="r") == [3, 4, 5]
        assert not finished(events[:head]).intersection(log)


async def test_a_planner_can_be_a_tool_of_another_planner() -> None:
    @planner(tools=[one])
    async def child(ctx: Context, n: int) -> Plan | int:
        if not ctx.turns:
            return Plan([one.step(n, id="s")])
        result: int = ctx.turns[0].results["s"]
        return result

    @planner(tools=[child])
    async def parent(ctx: Context, n: int) -> Plan:
        a = child.step(n, id="a")
        return Plan([a, child.step(a, id="b")])

    @tool
    async def last(ctx: Context, found: Findings) -> int:
        return found.of(child)["b"]

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return last(parent(n))

    assert await keys_of(flow, 1) == [
        "parent/t1",
        "parent/t1/a/t1", "parent/t1/a/t1/s", "parent/t1/a/t2",
        "parent/t1/b/t1", "parent/t1/b/t1/s", "parent/t1/b/t2",
        "last",
    ]  # fmt: skip
