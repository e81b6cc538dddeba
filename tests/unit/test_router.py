"""The pure parts of the router: relevance by words, the gate and its balance, what the store tells."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import flowkit.events as ev
from flowkit import Context, Engine, Ref, workflow
from flowkit.errors import BadModelAnswer
from flowkit.nodes import AnyNode, ToolChoice, ToolRecords, tool
from flowkit.nodes.gating import BIAS_MAX, BIAS_STEP, CLEARLY, Chosen, Record, choose
from flowkit.nodes.records import read_events
from flowkit.nodes.relevance import VectorIndex, WordIndex, words_of
from flowkit.store import MemoryStore

# ---- the gate


shares = st.floats(0.001, 1.0)
records = st.builds(
    Record,
    successes=st.integers(0, 1000),
    failures=st.integers(0, 1000),
    seconds=st.floats(0, 1e6),
    chosen=st.integers(0, 1000),
    share=st.floats(0, 1000),
)


@given(
    st.lists(st.tuples(shares, records), min_size=1, max_size=40),
    st.integers(1, 10),
    st.integers(0, 9),
)
def test_a_clearly_more_relevant_tool_is_never_displaced(
    tools: list[tuple[float, Record]], places: int, seed: int
) -> None:
    tools.sort(key=lambda each: -each[0])
    relevance = {str(n): fit for n, (fit, _) in enumerate(tools)}
    chosen, contenders = choose(relevance, places, lambda name: tools[int(name)][1], Random(seed))
    assert len(chosen) == min(places, len(tools))
    assert [each.score for each in chosen] == sorted((each.score for each in chosen), reverse=True)
    taken = {each.tool for each in chosen}
    for left in relevance.keys() - taken:
        for won in taken:
            assert relevance[won] >= relevance[left] * CLEARLY * 0.999
    assert set(contenders) <= relevance.keys()
    assert (
        not contenders
        or 0 < len(taken & set(contenders)) < len(contenders)
        or len(contenders) == 64
    )


def route(
    relevance: dict[str, float], known: dict[str, Record], places: int, times: int, seed: int = 1
) -> dict[str, int]:
    """So many choices, each learnt from; how often each tool was chosen."""
    found = dict.fromkeys(relevance, 0)
    records = ToolRecords(MemoryStore())
    records._total.update(known)
    for n in range(times):
        chosen, contenders = choose(relevance, places, records.record, Random(f"{seed} {n}"))
        records.learn("run", ToolChoice(tools=tuple(chosen), contenders=tuple(contenders)))
        for each in chosen:
            found[each.tool] += 1
    return found


def deviation(counts: list[int]) -> float:
    return statistics.pstdev(counts) / statistics.mean(counts)


@settings(max_examples=10, deadline=None)
@given(tools=st.integers(2, 24), places=st.integers(1, 8), seed=st.integers(0, 99))
def test_equally_relevant_tools_are_chosen_equally_often(
    tools: int, places: int, seed: int
) -> None:
    relevance = {f"tool {n}": 1.0 for n in range(tools)}
    times = 200 * max(tools // places, 1)
    found = route(relevance, {}, places, times, seed)
    assert deviation([*found.values()]) <= 0.05


def test_balance_reaches_its_goal_beside_tools_that_are_more_and_less_relevant() -> None:
    relevance = {"sure": 1.0, **{f"like {n}": 0.5 for n in range(12)}, "never": 0.2}
    found = route(relevance, {}, 5, 600)
    assert (found.pop("sure"), found.pop("never")) == (600, 0)
    assert deviation([*found.values()]) <= 0.05


def test_more_than_64_equals_all_have_their_turn() -> None:
    found = route({f"tool {n}": 1.0 for n in range(100)}, {}, 7, 1500)
    assert deviation([*found.values()]) <= 0.05


def test_chance_alone_would_not_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Record, "bias", 0.0)
    found = route({f"tool {n}": 1.0 for n in range(20)}, {}, 2, 2000)
    assert deviation([*found.values()]) > 0.05


def test_success_and_speed_decide_among_equals_and_balance_does_not_save_what_fails() -> None:
    relevance: dict[str, float] = {"fails": 1.0, "slow": 1.0, "good": 1.0, "new": 1.0}
    known = {
        "fails": Record(successes=1, failures=99),
        "slow": Record(successes=100, seconds=100 * 600.0),
        "good": Record(successes=100, seconds=10.0),
    }
    chosen, _ = choose(relevance, 4, lambda name: known.get(name, Record()), None)
    assert (chosen[0].tool, chosen[-1].tool) == ("good", "fails")
    found = route(relevance, known, 2, 400)
    assert found["fails"] < 20
    assert found["new"] > 40, "what nobody knows is tried"


def test_the_draw_is_repeated_with_its_seed_and_the_bias_is_bounded() -> None:
    relevance = {f"tool {n}": 1.0 for n in range(20)}
    first, again, other = (
        choose(relevance, 8, lambda _: Record(), Random(seed)) for seed in ("a", "a", "b")
    )
    assert first == again != other
    assert Record(share=10**6).bias == BIAS_MAX
    assert Record(chosen=10**6).bias == -BIAS_MAX
    assert Record(share=2.5, chosen=2).bias == pytest.approx(BIAS_STEP / 2)


def test_no_places_and_no_fit_choose_nothing() -> None:
    assert choose({}, 8, lambda _: Record(), None) == ([], [])
    assert choose({"a": 1.0}, 0, lambda _: Record(), None) == ([], [])
    told = ToolChoice(tools=(Chosen(tool="always", shared=True),), tools_total=9).told()
    assert told.startswith("None of 9 tools fits.")


# ---- relevance


class Where(BaseModel):
    place: str
    unit: Literal["celsius", "fahrenheit"]


def of(name: str, text: str) -> AnyNode:
    @tool(name=name)
    async def made(ctx: Context, given: str) -> str:
        return given

    made.description = text
    return made


@tool(name="getCurrentTemperature")
async def temperature(ctx: Context, where: Where) -> float:
    """How warm it is."""
    return 20.0


TOOLS = [
    temperature,
    of("send_SMSMessage", "Deliver a text to a phone."),
    of("translate", "把文字翻译成法语。"),
    of("list_invoices", "Unpaid bills of a customer."),
]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("current temperatures", "getCurrentTemperature"),
        ("in FAHRENHEIT please", "getCurrentTemperature"),
        ("Which place?", "getCurrentTemperature"),
        ("an sms", "send_SMSMessage"),
        ("请翻译这段文字", "translate"),
        ("the customer's invoice", "list_invoices"),
        ('customer" OR name:x* NEAR(', "list_invoices"),
    ],
)
async def test_words_are_found_in_names_descriptions_and_parameters(query: str, best: str) -> None:
    scores = await WordIndex(TOOLS).scores(query)
    assert max(scores, key=scores.__getitem__) == best
    assert scores[best] == 1.0
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


@pytest.mark.parametrize("query", ["", "?!", "what is it", '"', "\0", "xylophone"])
async def test_a_query_that_tells_nothing_finds_nothing(query: str) -> None:
    assert await WordIndex(TOOLS).scores(query) == {}


@given(st.text(max_size=300))
def test_any_text_is_a_query(text: str) -> None:
    import anyio

    index = WordIndex(TOOLS)
    scores = anyio.run(index.scores, text)
    assert all(0 <= score <= 1 for score in scores.values())


def test_identifiers_are_taken_apart() -> None:
    assert (
        words_of("getHTTPStatus send_SMSMessage a.b-c") == "get HTTP Status send SMS Message a b c"
    )


class Vectors:
    name = "vectors"

    def __init__(self, made: Callable[[str], list[float]]) -> None:
        self._made = made

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self._made(text) for text in texts]


async def test_embeddings_are_compared_by_direction_and_spread_from_0_to_1() -> None:
    index = VectorIndex(TOOLS, Vectors(lambda text: [9.0, 1.0] if "SMS" in text else [1.0, 1.0]))
    assert await index.scores("an SMS") == {"send_SMSMessage": 1.0}
    other = await index.scores("anything else")
    assert {*other.values()} == {1.0}
    assert "send_SMSMessage" not in other


async def test_vectors_that_cannot_be_compared_are_an_error_that_says_so() -> None:
    lengths = iter([2, 2, 2, 2, 3])
    with pytest.raises(BadModelAnswer, match="several lengths"):
        await VectorIndex(TOOLS, Vectors(lambda _: [1.0] * next(lengths))).scores("x")


# ---- what the store tells


@tool(retries=1, backoff_s=0.0)
async def flaky(ctx: Context, n: int) -> int:
    if n < 0 or ctx.attempt == 1:
        raise OSError("not today")
    return n


@tool
async def spare(ctx: Context, n: int) -> int:
    return n


@tool
async def numbers(ctx: Context, n: int) -> list[int]:
    return [await ctx.call(spare, each) for each in range(n)]


@workflow
def several(n: Ref[int]) -> Ref[list[int]]:
    return (flaky | spare).map(numbers(n))


@workflow
def failing(n: Ref[int]) -> Ref[int]:
    return flaky(n)


async def test_attempts_of_all_ended_runs_are_counted_by_tool() -> None:
    store = MemoryStore()
    records = ToolRecords(store)
    async with Engine(store) as engine:
        await engine.run(several, 3)
        await records.refresh()
        found = records.record("flaky")
        assert (found.successes, found.failures) == (3, 3)
        found = records.record("spare")
        assert (found.successes, found.failures) == (3, 0)
        with pytest.raises(Exception, match="not today"):
            await engine.run(failing, -1)
        await records.refresh()
        assert records.record("flaky").failures == 5
        assert records.record("never heard of") == Record()


async def test_a_forks_own_events_count_and_its_origins_do_not() -> None:
    store = MemoryStore()
    async with Engine(store, workflows=[several]) as engine:
        await engine.run(several, 2, run_id="one")
        fork = await engine.fork("one", at="flaky/0", new_id="two")
        await fork.result()
        whole = (await store.load("two")).record
        events = (await store.load("two")).events
    assert whole.base_seq > 0
    found = read_events(events, after=whole.base_seq)
    assert "numbers" not in found
    assert (found["flaky"].successes, found["flaky"].failures) == (1, 1)


class Counting(MemoryStore):
    """Counts what is read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []

    async def load(self, run_id: str, *, after: int = 0) -> Any:
        self.loads.append(run_id)
        return await super().load(run_id, after=after)


async def test_each_run_is_read_once_and_only_the_newest_count() -> None:
    store = Counting()
    async with Engine(store) as engine:
        for n in range(4):
            await engine.run(several, 1, run_id=f"run-{n}")
        records = ToolRecords(store, runs_max=3)
        store.loads.clear()
        await records.refresh()
        await records.refresh()
        assert sorted(store.loads) == ["run-1", "run-2", "run-3"]
        assert records.record("flaky").successes == 3
        few = ToolRecords(store, events_max=1)
        await few.refresh()
        assert few.record("flaky").successes == 1, "one run at least"
    with pytest.raises(ValueError, match="must be 1 or more"):
        ToolRecords(store, runs_max=0)


def test_a_choice_counts_once_for_those_who_contended() -> None:
    choice = ToolChoice(
        tools=(Chosen(tool="a"), Chosen(tool="b"), Chosen(tool="s", shared=True)),
        contenders=("b", "c", "d", "e"),
    )
    records = ToolRecords(MemoryStore())
    records.learn("r", choice)
    assert records.record("b") == Record(chosen=1, share=0.25)
    assert records.record("c") == Record(share=0.25)
    assert records.record("a") == records.record("s") == Record()


async def test_what_is_no_choice_of_a_router_is_passed_over() -> None:
    @tool(name="my_find_tools")
    async def mine(ctx: Context, n: int) -> dict[str, int]:
        return {"tools": n}

    @workflow
    def flow(n: Ref[int]) -> Ref[dict[str, int]]:
        return mine(n)

    store = MemoryStore()
    async with Engine(store) as engine:
        await engine.run(flow, 1, run_id="r")
    found = read_events((await store.load("r")).events)
    assert found["my_find_tools"].successes == 1
    assert not any(
        isinstance(each.payload, ev.AttemptFailed) for each in (await store.load("r")).events
    )
