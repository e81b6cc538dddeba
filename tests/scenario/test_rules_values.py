"""Rules of values: what is stored, what is refused and where, and that readers share nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import flowkit.events as ev
from flowkit import Artifact, Context, Ref, StepFailed, workflow
from flowkit.nodes import Node, Plan, planner, tool
from flowkit.store import MemoryStore
from flowkit.values import DEPTH_MAX, INLINE_MAX
from tests.scenario.kit import Log, crashed, journal, kinds, memory, note, of, running


class Row(BaseModel):
    name: str
    price: float = 0.0
    extra: dict[str, Any] = {}


class Table(BaseModel):
    rows: list[Row]
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


async def refusal(result: object, gives: Any = Any) -> str:
    """The message of the failed attempt of a tool that returns this."""

    class Gives(Node[int, Any]):
        async def run(self, ctx: Context, n: int, /) -> Any:
            return result

    node = Gives(name="gives")
    node.gives = gives

    @workflow
    def flow(n: Ref[int]) -> Ref[Any]:
        return node(n)

    async with running() as engine:
        with pytest.raises(StepFailed) as caught:
            await engine.run(flow, 1, run_id="r")
        events = await journal(engine, "r")
    assert "step_done" not in kinds(events), "refused before anything counts as done"
    return str(caught.value)


async def kept(result: Any, gives: Any) -> Any:
    """What comes back of a tool's result, after a crash and from another store object."""

    class Gives(Node[int, Any]):
        async def run(self, ctx: Context, n: int, /) -> Any:
            return result

    node = Gives(name="gives")
    node.gives = gives

    @tool
    async def passes(ctx: Context, value: Any) -> bool:
        return True

    @workflow
    def flow(n: Ref[int]) -> Ref[Any]:
        return node(n)

    store = memory()
    async with running(store) as engine:
        first = await engine.run(flow, 1, run_id="r")
    async with running(store, workflows=[flow]) as engine:
        assert await engine.resume("r") == first
    return first


async def test_nan_is_refused_with_its_path() -> None:
    table = Table(rows=[Row(name="a"), Row(name="b", price=float("nan"))])
    assert "gives.rows[1].price" in await refusal(table, Table)
    assert "gives.x[0]" in await refusal({"x": [float("inf")]})


async def test_what_cannot_be_serialised_is_refused_with_its_path() -> None:
    table = Table(rows=[Row(name="a", extra={"deep": [1, object()]})])
    text = await refusal(table, Table)
    assert "gives.rows[0].extra.deep[1]" in text
    assert "ctx.artifact" in text


async def test_too_deep_nesting_is_refused_and_what_is_allowed_comes_back() -> None:
    def nested(depth: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(depth - 1):
            value = [value]
        return value

    assert "deep" in await refusal(nested(1000))
    assert await kept(nested(DEPTH_MAX - 10), Any) == nested(DEPTH_MAX - 10)


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "nul \x00 in it", "😀", '"\\', "NaN", ""])
async def test_any_text_comes_back_the_same(text: str) -> None:
    assert await kept(text, str) == text
    assert await kept({"k": [text]}, dict[str, list[str]]) == {"k": [text]}


async def test_typed_values_come_back_typed() -> None:
    table = Table(rows=[Row(name="a", price=0.1 + 0.2)])
    found = await kept(table, Table)
    assert isinstance(found, Table)
    assert found == table
    assert await kept((1, "a"), tuple[int, str]) == (1, "a")
    assert await kept(2**80, int) == 2**80
    assert await kept(None, type(None)) is None


async def test_a_bad_input_is_refused_before_the_run_exists() -> None:
    @tool
    async def reads(ctx: Context, table: Table) -> int:
        return len(table.rows)

    @workflow
    def flow(table: Ref[Table]) -> Ref[int]:
        return reads(table)

    async with running() as engine:
        bad = Table(rows=[Row(name="a", price=float("nan"))])
        with pytest.raises(ValueError, match=r"rows\[0\]\.price"):
            await engine.run(flow, bad, run_id="r")
        assert await engine.runs() == []


# ---- large values


BIG = "x" * (INLINE_MAX + 1)


@tool
async def big(ctx: Context, n: int) -> str:
    note(ctx)
    return BIG * n


@tool
async def length(ctx: Context, text: str) -> int:
    note(ctx)
    return len(text)


@workflow
def large(n: Ref[int]) -> Ref[int]:
    return length(big(n))


async def test_a_large_value_is_stored_once_by_its_hash() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        assert await engine.run(large, 2, run_id="a") == 2 * len(BIG)
        assert await engine.run(large, 2, run_id="b") == 2 * len(BIG)
        events = await journal(engine, "a")
    done = of(events, ev.StepDone)[0].payload
    assert isinstance(done, ev.StepDone)
    assert done.value is not None
    assert done.value.text is None
    assert done.value.size == 2 * len(BIG) + 2
    assert list(store._artifacts) == [done.value.digest]


async def test_a_large_value_is_read_after_a_crash() -> None:
    store = memory()
    async with running(store, Log()) as engine:
        await engine.run(large, 1, run_id="r")
        events = await journal(engine, "r")
    log = Log()
    copy = await crashed(store, "r", of(events, ev.StepDone)[0].seq)
    async with running(copy, log) as engine:
        assert await engine.run(large, 1, run_id="r") == len(BIG)
    assert log == ["length 0 1"]


async def test_large_inputs_results_literals_and_map_items_work() -> None:
    @tool
    async def parts(ctx: Context, text: str) -> list[str]:
        return [text, text + "!"]

    @tool
    async def same(ctx: Context, text: str) -> str:
        return text

    @workflow
    def flow(text: Ref[str]) -> Ref[list[str]]:
        return same.map(parts(text))

    async with running() as engine:
        assert await engine.run(flow, BIG, run_id="r") == [BIG, BIG + "!"]
        assert await engine.run(flow, BIG, run_id="r") == [BIG, BIG + "!"]


async def test_a_planner_sees_its_large_results_after_a_crash() -> None:
    @planner(tools=[big])
    async def plan(ctx: Context, n: int) -> Plan | int:
        if len(ctx.turns) < 2:
            return Plan([big.step(n, id="b")])
        return sum(len(turn.results["b"]) for turn in ctx.turns)

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return plan(n)

    store = memory()
    async with running(store, Log()) as engine:
        assert await engine.run(flow, 1, run_id="r") == 2 * len(BIG)
        events = await journal(engine, "r")
    for head in range(3, len(events)):
        async with running(await crashed(store, "r", head), Log()) as engine:
            assert await engine.run(flow, 1, run_id="r") == 2 * len(BIG), head


async def test_a_large_answer_of_a_call_is_given_back_after_a_crash() -> None:
    @tool
    async def calls(ctx: Context, n: int) -> int:
        first = await ctx.call(big, n)
        return len(first) + len(await ctx.call(big, n + 1))

    @workflow
    def flow(n: Ref[int]) -> Ref[int]:
        return calls(n)

    store = memory()
    async with running(store, Log()) as engine:
        assert await engine.run(flow, 1, run_id="r") == 3 * len(BIG)
        events = await journal(engine, "r")
    log = Log()
    copy = await crashed(store, "r", of(events, ev.ToolAnswered)[0].seq)
    async with running(copy, log) as engine:
        assert await engine.run(flow, 1, run_id="r") == 3 * len(BIG)
    assert len(log) == 1


# ---- artifacts


async def test_an_artifact_is_a_value_with_hash_type_and_size_and_its_name_is_data(
    tmp_path: Path,
) -> None:
    path = tmp_path / "chart.svg"
    path.write_bytes(b"<svg/>")

    @tool
    async def makes(ctx: Context, n: int) -> list[Artifact]:
        return [
            await ctx.artifact(b"\x00\xff", name="../../etc/passwd", media_type="image/png"),
            await ctx.artifact("text", name="t"),
            await ctx.artifact(path, name="chart.svg"),
        ]

    @tool
    async def reads(ctx: Context, found: list[Artifact]) -> list[str]:
        return [(await ctx.read(each)).hex() for each in found]

    @workflow
    def flow(n: Ref[int]) -> Ref[list[str]]:
        return reads(makes(n))

    @workflow
    def only(n: Ref[int]) -> Ref[list[Artifact]]:
        return makes(n)

    async with running() as engine:
        assert await engine.run(flow, 1) == ["00ff", b"text".hex(), b"<svg/>".hex()]
        first = (await engine.run(only, 1))[0]
    assert (first.name, first.media_type, first.size) == ("../../etc/passwd", "image/png", 2)
    assert len(first.sha256) == 64


# ---- readers share nothing


@tool
async def makes_list(ctx: Context, n: int) -> list[int]:
    return [n]


@tool
async def spoils(ctx: Context, found: list[int]) -> int:
    found.append(99)
    return len(found)


@tool
async def after_all(ctx: Context, found: list[int], a: int, b: int) -> list[int]:
    return [*found, a, b]


async def test_mutable_inputs_are_not_shared_between_readers() -> None:
    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        found = makes_list(n)
        a = spoils(found, id="a")
        return after_all(found, a, spoils(found, id="b", after=a))

    async with running() as engine:
        assert await engine.run(flow, 1) == [1, 2, 2]


async def test_a_retry_gets_its_inputs_unspoilt() -> None:
    @tool(retries=1, backoff_s=0)
    async def spoils_and_fails(ctx: Context, found: list[int]) -> list[int]:
        found.append(99)
        if ctx.attempt == 1:
            raise ConnectionError("again")
        return found

    @workflow
    def flow(n: Ref[int]) -> Ref[list[int]]:
        return spoils_and_fails(makes_list(n))

    async with running() as engine:
        assert await engine.run(flow, 1) == [1, 99]


async def test_readers_get_what_was_stored_not_what_was_returned() -> None:
    class Rounded(BaseModel):
        model_config = {"extra": "ignore"}
        n: int

    class More(Rounded):
        secret: str = "not declared"

    @tool
    async def makes(ctx: Context, n: int) -> Rounded:
        return More(n=n)

    @tool
    async def reads(ctx: Context, found: Rounded) -> list[str]:
        return [type(found).__name__, *found.model_dump()]

    @workflow
    def flow(n: Ref[int]) -> Ref[list[str]]:
        return reads(makes(n))

    store = MemoryStore()
    async with running(store) as engine:
        live = await engine.run(flow, 1, run_id="r")
        events = await journal(engine, "r")
    copy = await crashed(store, "r", of(events, ev.StepDone)[0].seq)
    async with running(copy) as engine:
        assert await engine.run(flow, 1, run_id="r") == live == ["Rounded", "n"]
