"""A journal is a test: the same code does the same, other code is told where it does something else."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

import flowkit.events as ev
from flowkit import (
    Budget,
    Context,
    Engine,
    Fatal,
    Ref,
    Reject,
    Replan,
    Retry,
    Workflow,
    workflow,
)
from flowkit.changes import OnChange
from flowkit.chat import ChatMessage, ModelRequest
from flowkit.errors import DeclarationError, FlowkitError, ModelUnavailable
from flowkit.history.file import write_run
from flowkit.nodes import Fallback, Findings, Plan, Planner, planner, tool, verifier
from flowkit.policy import Policy
from flowkit.ports import RunRecord
from flowkit.store import MemoryStore
from flowkit.testing import Recording, Replay, ScriptedModel, by_turn, calls, replay, says
from flowkit.testing.replay import requests_of
from tests.scenario.kit import eventually

QUICK = Policy(retries=3, backoff_s=0.001)


class Topic(BaseModel):
    text: str


class Report(BaseModel):
    text: str


class Ran(list[str]):
    """What ran for real."""


class Flaky(Exception):
    """A fault of a tool that has a class of its own."""


@dataclass
class Code:
    """What a deploy may change."""

    prompt: str = "Plan research on"
    instructions: str = "Answer the question."
    query: str = "{} birds"
    ids: tuple[str, ...] = ("one", "two")
    words_min: int = 3
    look_for: str = "word"
    retries: int = 1
    extra: bool = False
    answer: str = "{}"
    tool_answer: str = "{}"
    sleeps_s: float = 3600.0
    waits: tuple[str, ...] = ("approval",)


# ---- a workflow with most of what there is


def made(code: Code) -> Workflow[Topic, Report]:  # noqa: C901  (a closure for each node)
    @tool(retries=code.retries, backoff_s=0.001)
    async def search(ctx: Context, query: str) -> str:
        ctx.resource(Ran).append(f"search {query}")
        if ctx.attempt == 1 and "one" in query:
            raise ConnectionError("the line is cut")
        return code.tool_answer.format(f"found {query}")

    @tool
    async def primary(ctx: Context, topic: Topic) -> str:
        ctx.resource(Ran).append("primary")
        raise Flaky("not today")

    @tool
    async def second(ctx: Context, topic: Topic) -> str:
        ctx.resource(Ran).append("second")
        return f"archive of {topic.text}"

    @planner(tools=[search])
    async def plan(ctx: Context, topic: Topic, start: str) -> Plan:
        await ctx.sleep(code.sleeps_s)
        said = await ctx.model.complete(f"{code.prompt} {topic.text} from {start}")
        return Plan([search.step(code.query.format(said + each), id=each) for each in code.ids])

    @tool
    async def count(ctx: Context, text: str, word: str) -> int:
        ctx.resource(Ran).append("count")
        return text.count(word)

    @tool
    async def write(ctx: Context, topic: Topic, found: Findings) -> Report:
        ctx.resource(Ran).append(f"write {ctx.feedback}")
        more = " word word word" if ctx.feedback else ""
        return Report(text=code.answer.format("; ".join(found.values())) + more)

    @verifier
    async def is_long(ctx: Context, report: Report) -> None:
        if await ctx.call(count, report.text, code.look_for) < code.words_min:
            raise Reject("write more words")

    @tool
    async def ask(ctx: Context, report: Report) -> Report:
        ctx.resource(Ran).append("ask")
        told = await ctx.signal("approval")
        return Report(text=f"{report.text} ({told})")

    @verifier
    async def is_signed(ctx: Context, report: Report) -> None:
        for name in code.waits:
            if await ctx.signal(f"{name}-of-the-other", returns=bool) is not True:
                raise Reject("not signed")
        with pytest.raises(TimeoutError, match=r"no signal 'late' came within 0\.01 s"):
            await ctx.signal("late", timeout_s=0.01)

    @workflow
    def whole(topic: Ref[Topic]) -> Ref[Report]:
        start = Fallback(primary, second, on=(Flaky,))(topic)
        report = is_long(write(topic, plan(topic, start)), attempts=3)
        asked = is_signed(ask(report))
        return ask(asked, id="again") if code.extra else asked

    return whole


def answers(request: ModelRequest, index: int) -> object:
    if index == 0:
        return ModelUnavailable("overloaded")
    return says("cranes ")


async def record(
    flow: Workflow[Any, Any],
    value: Any,
    model: ScriptedModel | None = None,
    *,
    drive: Callable[[Engine], Any] | None = None,
    world: Any = None,
    budget: Budget | None = None,
) -> tuple[MemoryStore, Ran]:
    """Run a workflow for real."""
    store, ran = MemoryStore(), Ran()
    async with Engine(
        store,
        model=model,
        resources=[ran],
        model_policy=QUICK,
        poll_s=0.02,
        world=world,
        grace_s=0.1,
    ) as engine:
        handle = await engine.start(flow, value, run_id="r", budget=budget)
        if drive is not None:
            await drive(engine)
        else:
            try:
                await handle.result()
            except FlowkitError:
                pass
    return store, ran


async def with_words(store: MemoryStore, flow: Workflow[Any, Any], **options: Any) -> Recording:
    """A recording with its requests in words, as `flowkit export --as-test` makes it."""
    replayed, notes = await requests_of(flow, await Recording.of(store, "r"), **options)
    assert not replayed.differences
    file = io.BytesIO()
    await write_run(store, store, "r", file.write, notes=notes)
    file.seek(0)
    return Recording._read(file)


async def sign(engine: Engine) -> None:
    await engine.signal("r", "approval", "yes")
    await engine.signal("r", "approval-of-the-other", "nonsense")
    await engine.signal("r", "approval-of-the-other", True)
    await engine.handle("r").result()


async def whole_run(code: Code | None = None) -> tuple[Recording, Ran]:
    flow = made(Code(sleeps_s=0.001) if code is None else code)
    store, ran = await record(flow, Topic(text="storks"), ScriptedModel(answers), drive=sign)
    return await with_words(store, flow), ran


@dataclass
class Once:
    """The recording is made once for each event loop."""

    kept: dict[str, tuple[Recording, Ran]] = field(default_factory=dict[str, tuple[Recording, Ran]])


@pytest.fixture(scope="module")
def once() -> Once:
    return Once()


@pytest.fixture
async def recording(once: Once) -> Recording:
    if not once.kept:
        once.kept["it"] = await whole_run()
    return once.kept["it"][0]


async def test_the_same_code_does_the_same_and_nothing_outside_is_touched(
    recording: Recording,
) -> None:
    ran = Ran()
    with anyio.fail_after(20):  # an hour's sleep and all delays are over at once
        replayed = await replay(made(Code()), recording, resources=[ran])
    replayed.assert_same()
    assert (replayed.difference, replayed.failure) == ("", "")
    assert replayed.result == Report(
        text="found cranes one birds; found cranes two birds word word word (yes)"
    )
    assert not ran


FIRST: dict[str, tuple[Mapping[str, Any], str]] = {
    "prompt": (
        {"prompt": "Plan a book on"},
        (
            "turn 1 of plan: the request to the model differs in message 1 (user): recorded 'Plan research on "
            "storks from archive of storks', now 'Plan a book on storks from archive of storks'"
        ),
    ),
    "arguments": (
        {"query": "{} nests"},
        (
            'turn 1 of plan: the steps planned differ: recorded one: search("cranes one birds"), now one: '
            'search("cranes one nests")'
        ),
    ),
    "plan": (
        {"ids": ("one", "two", "three")},
        (
            "turn 1 of plan: the steps planned differ: 2 recorded, 3 now; now also three: "
            'search("cranes three birds")'
        ),
    ),
    "smaller plan": (
        {"ids": ("one",)},
        (
            "turn 1 of plan: the steps planned differ: 2 recorded, 1 now; not any more two: "
            'search("cranes two birds")'
        ),
    ),
    "verdict": (
        {"words_min": 0},
        "step is_long: recorded: it rejected (write more words); now it accepted",
    ),
    "call": (
        {"look_for": "bird"},
        (
            'step is_long: the recorded run called tool count with text="found cranes one birds; found cranes '
            'two birds", word="word", now tool count with text="found cranes one birds; found cranes two '
            'birds", word="bird"'
        ),
    ),
    "retries": (
        {"retries": 0},
        "step plan/t1/one: it fails as recorded, but then comes fail, not retry",
    ),
    "wiring": ({"extra": True}, "the declared steps differ: step again: new; output: "),
    "signal": (
        {"waits": ("approval", "consent")},
        "step is_signed: it waits for signal 'consent-of-the-other', which it did not when it was recorded",
    ),
}


@pytest.mark.parametrize("what", FIRST)
async def test_the_first_difference_is_told(what: str, recording: Recording) -> None:
    change, told = FIRST[what]
    with anyio.fail_after(20):
        replayed = await replay(made(Code(**change)), recording)
    assert replayed.difference.startswith(told), replayed.differences
    with pytest.raises(AssertionError, match="whole does not do what run r did: "):
        replayed.assert_same()


async def test_a_tool_that_runs_for_real_is_compared(recording: Recording) -> None:
    ran = Ran()
    replayed = await replay(made(Code()), recording, run={"search"}, resources=[ran])
    replayed.assert_same()
    assert sorted(ran) == ["search cranes one birds"] * 2 + ["search cranes two birds"]
    changed = made(Code(answer="Birds: {}"))
    replayed = await replay(changed, recording, run={changed.nodes["write"]}, resources=[Ran()])
    assert replayed.difference == (
        'step write: it gives another value: recorded {"text":"found cranes one birds; found cranes two '
        'birds"}, now {"text":"Birds: found cranes one birds; found cranes two birds"}'
    )
    other = made(Code(tool_answer="{}!"))
    replayed = await replay(other, recording, run={"search"}, resources=[Ran()])
    assert "recorded 'found cranes" in replayed.difference
    ignored = await replay(changed, recording, run={"write"}, resources=[Ran()], ignore=["text"])
    assert "step is_long: the recorded run called tool count" in ignored.difference


async def test_what_is_no_tool_cannot_be_run(recording: Recording) -> None:
    with pytest.raises(DeclarationError, match="'plan' is no tool of workflow 'whole'; there are"):
        await replay(made(Code()), recording, run={"plan"})

    @tool
    async def other(ctx: Context, topic: Topic) -> Report:
        return Report(text="")

    @workflow
    def another(topic: Ref[Topic]) -> Ref[Report]:
        return other(topic)

    with pytest.raises(DeclarationError, match="of workflow 'whole', not of 'another'"):
        await replay(another, recording)


async def test_without_its_words_a_changed_request_is_told_by_its_place() -> None:
    flow = made(Code(sleeps_s=0.001))
    store, _ = await record(flow, Topic(text="storks"), ScriptedModel(answers), drive=sign)
    bare = await Recording.of(store, "r")
    (await replay(flow, bare)).assert_same()
    replayed = await replay(made(Code(prompt="Think of")), bare)
    assert replayed.difference.startswith("turn 1 of plan: the request to the model differs; the")


# ---- a ready-made planner


class Question(BaseModel):
    text: str


def talking(instructions: str = "Answer.", *, gives: str = "page {}") -> Workflow[Any, Any]:
    @tool
    async def read(ctx: Context, page: int) -> str:
        """Read a page."""
        return gives.format(page)

    agent = Planner(instructions, takes=Question, returns=Report, tools=[read], name="agent")

    @workflow
    def talk(question: Ref[Question]) -> Ref[Report]:
        return agent(question)

    return talk


SCRIPT = by_turn(
    [
        calls(("read", {"page": 1}), ("read", {"page": 2})),
        says("neither a call nor JSON"),
        calls(("read", {"page": "x"}), ("read", "{broken")),
        calls(("answer", {"text": "done"})),
    ]
)


def corrected(request: ModelRequest, index: int) -> object:
    last = request.messages[-1].content or ""
    return SCRIPT(request, index) if "argument" not in last else says('{"page": 3}')


async def test_a_talk_is_replayed_and_a_changed_prompt_is_its_first_difference() -> None:
    store, _ = await record(talking(), Question(text="?"), ScriptedModel(corrected))
    recording = await with_words(store, talking())
    (await replay(talking(), recording)).assert_same()
    replayed = await replay(talking("Reply."), recording)
    assert replayed.difference == (
        "turn 1 of agent: the request to the model differs in message 1 (system): recorded 'Answer.', "
        "now 'Reply.'"
    )
    assert list(replayed.changed) == [
        "node agent: its types, tools, instructions or version changed"
    ]
    assert replayed.result == Report(text="done")
    real = await replay(talking(gives="leaf {}"), recording, run={"read"})
    assert "it gives another value: recorded 'page 1', now 'leaf 1'" in real.difference


async def test_a_tool_that_is_offered_now_is_a_difference() -> None:
    store, _ = await record(talking(), Question(text="?"), ScriptedModel(corrected))
    recording = await with_words(store, talking())

    @tool
    async def read(ctx: Context, page: int) -> str:
        """Read one page."""
        return ""

    agent = Planner("Answer.", takes=Question, returns=Report, tools=[read], name="agent")

    @workflow
    def talk(question: Ref[Question]) -> Ref[Report]:
        return agent(question)

    replayed = await replay(talk, recording)
    assert replayed.difference == (
        "turn 1 of agent: the request to the model differs in its tool read: description is 'Read one "
        "page.', not 'Read a page.'"
    )


# ---- runs that end otherwise


def failing(error: BaseException | None) -> Workflow[Any, Any]:
    @tool
    async def risky(ctx: Context, topic: Topic) -> Report:
        if error is not None:
            raise error
        return Report(text="well")

    @tool
    async def slow(ctx: Context, report: Report) -> Report:
        return report

    @workflow
    def fragile(topic: Ref[Topic]) -> Ref[Report]:
        return slow(risky(topic))

    return fragile


@pytest.mark.parametrize(
    "error", [ValueError("no"), Fatal("never"), Flaky("mine"), Retry(9.0, "later")], ids=repr
)
async def test_a_failed_run_fails_again(error: BaseException) -> None:
    store, _ = await record(failing(error), Topic(text="x"))
    replayed = await replay(failing(RuntimeError("not run")), await Recording.of(store, "r"))
    replayed.assert_same()
    assert replayed.result is None
    assert str(error) in replayed.failure


@pytest.mark.parametrize("retried", [False, True])
@pytest.mark.parametrize("how", ["budget", "failure", "limit"])
async def test_what_had_not_begun_when_a_run_ended_does_not_begin_before(
    how: str, retried: bool
) -> None:
    """A retry that was not due yet, and a step that had to wait for its neighbours."""

    @tool(retries=1, backoff_s=0.3 if retried or how == "budget" else 3600)
    async def flaky(ctx: Context, n: int) -> int:
        if ctx.attempt == 1:
            raise ConnectionError("flaky")
        return n

    @tool
    def ok(ctx: Context, n: int) -> int:
        if how == "failure" and len(ran) == 0:
            ran.append("failed")
            raise ValueError("broken")
        return n

    @tool(concurrency=1)
    async def narrow(ctx: Context, n: int) -> int:
        if how == "limit" and len(ran) == 0:
            ran.append("failed")
            raise ValueError("broken")
        return n

    @tool
    async def numbers(ctx: Context, n: int) -> list[int]:
        return [1, 2, 3]

    @tool
    async def add(ctx: Context, one: int, two: int, three: list[int]) -> int:
        return one + two + sum(three)

    @workflow
    def held(n: Ref[int]) -> Ref[int]:
        return add(flaky(n), ok(ok(n, id="before")), narrow.map(numbers(n)))

    async def drive(engine: Engine) -> None:
        with suppress(FlowkitError):
            await engine.handle("r").result()
        if retried:
            await (await engine.retry("r")).result()

    ran: list[str] = []
    budget = Budget(steps_max=6) if how == "budget" else None
    store, _ = await record(held, 1, drive=drive, budget=budget)
    replayed = await replay(held, await Recording.of(store, "r"), timeout_s=20)
    replayed.assert_same()
    assert replayed.result == (8 if retried else None)
    assert retried == (replayed.failure == "")


async def test_what_was_under_way_when_a_step_failed_ends_in_the_replay_too() -> None:
    began, failed = anyio.Event(), anyio.Event()

    @tool
    async def fails(ctx: Context, n: int) -> int:
        await began.wait()
        failed.set()
        raise ValueError("broken")

    @tool
    async def late(ctx: Context, n: int) -> int:
        began.set()
        await failed.wait()
        await anyio.sleep(0.05)
        return n

    @tool
    async def before(ctx: Context, n: int) -> int:
        return n

    @verifier
    async def judged(ctx: Context, n: int) -> None:
        await anyio.sleep(0.05)  # in the replay, too

    @tool
    async def add(ctx: Context, one: int, two: int) -> int:
        return one + two

    @workflow
    def held(n: Ref[int]) -> Ref[int]:
        return add(fails(n), late(judged(before(n))))

    store, _ = await record(held, 1)
    (await replay(held, await Recording.of(store, "r"))).assert_same()


async def test_a_run_that_was_retried_comes_to_its_result() -> None:
    store, _ = await record(failing(ValueError("no")), Topic(text="x"))
    async with Engine(store, workflows=[failing(None)]) as engine:
        await (await engine.retry("r")).result()
    replayed = await replay(failing(None), await Recording.of(store, "r"))
    replayed.assert_same()
    assert replayed.result == Report(text="well")


def stepwise(*, shared: Ran, wait: bool = True) -> Workflow[Any, Any]:
    @tool
    async def first(ctx: Context, topic: Topic) -> Report:
        return Report(text=topic.text)

    @tool
    async def hold(ctx: Context, report: Report) -> Report:
        shared.append("hold")
        if wait:
            await ctx.signal("never")
        return report

    @workflow
    def steps(topic: Ref[Topic]) -> Ref[Report]:
        return hold(first(topic))

    return steps


@pytest.mark.parametrize("end", ["waits", "cancelled"])
async def test_a_run_without_an_end_is_replayed_as_far_as_it_went(end: str) -> None:
    ran = Ran()

    async def drive(engine: Engine) -> None:
        await eventually(lambda: "hold" in ran)
        if end == "cancelled":
            await engine.cancel("r")
            with pytest.raises(FlowkitError):
                await engine.handle("r").result()

    store, _ = await record(stepwise(shared=ran), Topic(text="x"), drive=drive)
    recording = await Recording.of(store, "r")
    replayed = await replay(stepwise(shared=ran), recording)
    replayed.assert_same()
    assert replayed.failure == "the recording stops before the run's end"
    assert list(ran) == ["hold"]


@pytest.mark.parametrize("how", ["done", "fail"])
async def test_a_decided_outcome_is_given_back(how: str) -> None:
    @tool(effect="once")
    async def publish(ctx: Context, topic: Topic) -> Report:
        return Report(text="published")

    @tool
    async def pin_up(ctx: Context, topic: Topic) -> Report:
        return Report(text="on the board")

    @workflow
    def publishing(topic: Ref[Topic]) -> Ref[Report]:
        return (publish | pin_up)(topic)

    store, _ = await record(publishing, Topic(text="x"))
    whole = await store.load("r")
    row = RunRecord(
        "r", "publishing", whole.record.input_hash, whole.record.created_at, epoch=1 << 40
    )
    assert isinstance(whole.events[2].payload, ev.Intent)
    cut = MemoryStore()
    await cut.create(row)
    await cut.append("r", whole.events[:3], expect=0, epoch=1 << 40)
    async with Engine(cut, workflows=[publishing], poll_s=0.02) as engine:
        handle = await engine.take("r")
        async with aclosing(handle.events()) as seen:
            async for event in seen:
                if isinstance(event.payload, ev.OutcomeUnknown):
                    break
        await engine.decide("r", "publish", how, Report(text="by hand"))
        with suppress(FlowkitError):
            await handle.result()
    replayed = await replay(publishing, await Recording.of(cut, "r"))
    replayed.assert_same()
    if how == "done":
        assert replayed.result == Report(text="by hand")
    else:
        assert "decided to have failed" in replayed.failure  # and no other alternative was tried


async def test_replans_maps_and_budgets_are_replayed() -> None:
    tried = Ran()

    @tool
    async def fetch(ctx: Context, n: int) -> int:
        if n == 2 and not tried:
            tried.append("x")
            raise Replan("two is no good")
        return n * 10

    @planner(tools=[fetch], replans_max=3)
    async def choose(ctx: Context, numbers: list[int]) -> Plan | list[int]:
        if ctx.turns and not ctx.turns[-1].failures:
            return [*ctx.turns[-1].results.values()]
        added = len(ctx.turns)
        return Plan([fetch.step(n + added * 100, id=f"n{n}") for n in numbers], again=True)

    @tool
    async def add(ctx: Context, n: int) -> int:
        return n + 1

    @tool
    async def total(ctx: Context, numbers: list[int]) -> int:
        return sum(numbers)

    @workflow
    def numbers(given: Ref[list[int]]) -> Ref[int]:
        return total(add.map(choose(given)))

    store, _ = await record(numbers, [1, 2, 3], budget=Budget(steps_max=50))
    replayed = await replay(numbers, await Recording.of(store, "r"))
    replayed.assert_same()
    assert replayed.result == 3063
    store, _ = await record(numbers, [1, 2, 3], budget=Budget(steps_max=5, parallel_max=1))
    replayed = await replay(numbers, await Recording.of(store, "r"))
    replayed.assert_same()
    assert "budget" in replayed.failure


def parted(version: str, broken: bool = False) -> Workflow[int, int]:
    """Steps of every kind that a fork can set, one of them in a worker thread."""

    @tool(retries=1, backoff_s=0.001)
    def first(ctx: Context, n: int) -> int:
        if broken:
            raise Flaky("not yet")
        return n + 1

    @tool(version=version)
    async def second(ctx: Context, n: int) -> int:
        return n * int(version)

    @planner(tools=[second])
    async def plan(ctx: Context, n: int) -> Plan | int:
        if ctx.turns:
            return sum(turn.results["x"] for turn in ctx.turns)
        return Plan([second.step(n, id="x")], again=True)

    @tool
    async def third(ctx: Context, n: int, m: int) -> int:
        return n + m + int(await ctx.signal("go"))

    @workflow
    def parted(n: Ref[int]) -> Ref[int]:
        return third(plan(first(n)), second(n, id="aside"))

    return parted


GONE_BACK: dict[str, tuple[Mapping[str, Any], bool, int]] = {
    "at a step": ({"at": "third"}, False, 6),
    "at a turn": ({"at": "plan/t2"}, False, 6),
    "a step is set": ({"set": {"aside": 100}}, False, 104),
    "a step in a thread is set": ({"set": {"first": 100}}, False, 202),
    "a planner's answer is set": ({"set": {"plan/t2": 100}}, False, 102),
    "what has failed": ({}, True, 6),
    "what has failed is set": ({"set": {"first": 100}}, True, 202),
}


@pytest.mark.parametrize("what", GONE_BACK)
async def test_a_fork_is_replayed(what: str) -> None:
    options, broken, result = GONE_BACK[what]
    store, flow = MemoryStore(), parted("2")
    async with Engine(store, grace_s=0.1) as engine:
        handle = await engine.start(parted("2", broken), 1, run_id="base", deadline_s=3600)
        await handle.signal("go", 0)
        with suppress(FlowkitError):
            await handle.result()
    async with Engine(store, workflows=[flow], grace_s=0.1) as engine:
        fork = await engine.fork("base", **options, new_id="f")
        await fork.signal("go", 0)
        assert await fork.result() == result
        again = await engine.fork("f", at="third", new_id="r")
        await again.signal("go", 1)
        assert await again.result() == result + 1
    for name, gave in (("f", result), ("r", result + 1)):
        for run in [()] if broken else [(), ("first",)]:
            replayed = await replay(flow, await Recording.of(store, name), run=run)
            replayed.assert_same()
            assert replayed.result == gave


@pytest.mark.parametrize("policy", ["rerun", "keep"])
async def test_a_run_that_went_on_after_a_deploy_is_replayed_by_the_code_it_ended_with(
    policy: OnChange,
) -> None:
    store = MemoryStore()
    old, new = parted("2"), parted("5")
    async with Engine(store, workflows=[old], suspend_after_s=0.05) as engine:
        handle = await engine.start(old, 1, run_id="r")
        while (await handle.record()).status != "waiting":  # noqa: ASYNC110  (put to rest in a second)
            await anyio.sleep(0.02)
    async with Engine(store, workflows=[new], grace_s=0.1) as engine:
        await engine.signal("r", "go", 0)
        result = await engine.resume("r", on_change=policy)
        assert result == {"rerun": 15, "keep": 6}[policy]
    replayed = await replay(new, await Recording.of(store, "r"))
    replayed.assert_same()
    assert replayed.result == result


async def test_a_value_that_no_longer_fits_is_told() -> None:
    store, _ = await record(failing(None), Topic(text="x"))
    recording = await Recording.of(store, "r")

    class Stricter(BaseModel):
        text: int

    @tool
    async def risky(ctx: Context, topic: Topic) -> Stricter:
        return Stricter(text=1)

    @tool
    async def slow(ctx: Context, report: Stricter) -> Stricter:
        return report

    @workflow
    def fragile(topic: Ref[Topic]) -> Ref[Stricter]:
        return slow(risky(topic))

    replayed: Replay[Any] = await replay(fragile, recording)
    assert replayed.difference.startswith(
        'step risky: tool risky gave {"text":"well"}, which does not fit its type any more: '
    )


async def test_a_model_asked_side_by_side_is_answered_by_the_request() -> None:
    """The order in which requests come is another one; what each is answered is not."""

    def flow(order: int) -> Workflow[Any, Any]:
        @tool
        async def nothing(ctx: Context, topic: Topic) -> Report:
            return Report(text="")

        @planner(tools=[nothing])
        async def ask(ctx: Context, topic: Topic) -> Plan | Report:
            found: dict[int, str] = {}

            async def one(n: int) -> None:
                found[n] = await ctx.model.complete([ChatMessage("user", f"number {n}")])

            async with anyio.create_task_group() as tasks:
                for n in list(range(8))[::order]:
                    tasks.start_soon(one, n)
            return Report(text=", ".join(found[n] for n in range(8)))

        @workflow
        def many(topic: Ref[Topic]) -> Ref[Report]:
            return ask(topic)

        return many

    def script(request: ModelRequest, index: int) -> object:
        return says(f"answer to {request.messages[0].content}")

    store, _ = await record(flow(1), Topic(text="x"), ScriptedModel(script))
    replayed = await replay(flow(-1), await Recording.of(store, "r"))
    replayed.assert_same()
    assert replayed.result is not None
    assert "answer to number 7" in replayed.result.text


async def test_a_replay_that_never_ends_is_cut_off() -> None:
    store, _ = await record(failing(None), Topic(text="x"))
    recording = await Recording.of(store, "r")

    @tool
    async def risky(ctx: Context, topic: Topic) -> Report:
        await anyio.sleep_forever()
        raise AssertionError

    @tool
    async def slow(ctx: Context, report: Report) -> Report:
        return report

    @workflow
    def fragile(topic: Ref[Topic]) -> Ref[Report]:
        return slow(risky(topic))

    replayed: Replay[Any] = await replay(fragile, recording, run={"risky"}, timeout_s=0.05)
    assert replayed.difference == (
        'step risky: the recorded run came to it (gave {"text":"well"}), the replay does not (no end within '
        "0.05 s)"
    )


async def test_outcomes_come_in_their_recorded_order() -> None:
    """Of two steps that fail side by side, the first one's error is the run's."""
    second_failed = anyio.Event()

    @tool
    async def a(ctx: Context, topic: Topic) -> Report:
        await second_failed.wait()
        raise ValueError("a")

    @tool
    async def b(ctx: Context, topic: Topic) -> Report:
        second_failed.set()
        raise ValueError("b")

    @tool
    async def both(ctx: Context, one: Report, two: Report) -> Report:
        return one

    @workflow
    def pair(topic: Ref[Topic]) -> Ref[Report]:
        return both(a(topic), b(topic))

    store, _ = await record(pair, Topic(text="x"))
    replayed = await replay(pair, await Recording.of(store, "r"))
    replayed.assert_same()
    assert replayed.failure == "step 'b' failed: ValueError: b"


async def test_a_deadline_that_has_ended_a_run_is_no_difference() -> None:
    @tool
    async def quick(ctx: Context, topic: Topic) -> Report:
        return Report(text="x")

    @tool
    async def slow(ctx: Context, report: Report) -> Report:
        await anyio.sleep_forever()
        return report

    @workflow
    def late(topic: Ref[Topic]) -> Ref[Report]:
        return slow(quick(topic))

    store = MemoryStore()
    async with Engine(store, grace_s=0.05) as engine:
        with pytest.raises(FlowkitError, match="deadline"):
            await engine.run(late, Topic(text="x"), run_id="r", deadline_s=0.05)
    replayed = await replay(late, await Recording.of(store, "r"))
    replayed.assert_same()
    assert replayed.failure == "the recording stops before the run's end"


@pytest.mark.parametrize("said", [True, False, None])
async def test_what_a_person_said_before_a_step_is_given_back(said: bool | None) -> None:
    """Agreed, denied, or still asked when it was recorded; nobody is asked again."""

    @tool(approve="always", effect="once")
    async def pay(ctx: Context, text: str) -> str:
        return f"paid {text}"

    @workflow
    def paying(text: Ref[str]) -> Ref[str]:
        return pay(text)

    async def answer(engine: Engine) -> None:
        while not await engine.questions("r"):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        if said is not None:
            await engine.approve("r", "pay", approved=said, by="ann", note="Hm.")
            with suppress(FlowkitError):
                await engine.handle("r").result()

    store, _ = await record(paying, "it", drive=answer)
    with anyio.fail_after(20):
        replayed = await replay(paying, await Recording.of(store, "r"))
    replayed.assert_same()
    if said is False:
        assert "ann said no. Hm." in replayed.failure
