"""What is told of a talk with a model: who was asked, what it used, what became of each call."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

import flowkit.events as ev
import flowkit.rewind
from flowkit import Context, Ref, Reject, StepFailed, workflow
from flowkit.asking import read_answer
from flowkit.chat import ChatMessage, ModelRequest
from flowkit.cli.follow import View, describe
from flowkit.cli.talking import Talk
from flowkit.cli.tree import render
from flowkit.errors import ModelUnavailable, QuotaExhausted
from flowkit.events import Event
from flowkit.nodes import Judge, Planner, tool, verifier
from flowkit.ports import Journal
from flowkit.store import MemoryStore
from flowkit.testing import ScriptedModel, calls, says
from flowkit.view.talk import (
    Said,
    Speech,
    call_counts,
    fold,
    place,
    said_data,
    said_lines,
    talk_of,
    usage_of,
)
from tests.scenario.kit import Log, memory, running


class Question(BaseModel):
    text: str


class Report(BaseModel):
    text: str


@tool
async def search(ctx: Context, query: str) -> list[str]:
    """Find pages."""
    if "bad" in query:
        raise OSError("the index is down")
    return [f"page about {query}"]


THOUGHT = "First I think about it. " * 20


def answers(journal: Journal) -> dict[int, Any]:
    return {
        event.seq: read_answer(event.payload.value.text or "")
        for event in journal.events
        if isinstance(event.payload, ev.ModelAnswered) and event.payload.value is not None
    }


async def told(store: MemoryStore, run_id: str) -> tuple[list[Said], Any]:
    journal = await store.load(run_id)
    state = flowkit.rewind.fold(journal)
    return talk_of(journal.events, state, answers(journal)), state


def flow_of(node: Any, judge: Any = None) -> Any:
    @workflow
    def flow(question: Ref[Question]) -> Ref[Report]:
        found = node(question)
        return judge(found) if judge is not None else found

    return flow


def agent(**options: Any) -> Planner[Question, Report]:
    tools = options.pop("tools", [search])
    return Planner("Answer.", takes=Question, returns=Report, tools=tools, **options)


WHY = Question(text="why?")


async def test_each_call_is_told_with_what_became_of_it() -> None:
    turns = [
        calls(
            ("search", {"query": "a"}),
            ("search", "{'query': 'b',}"),
            ("search", '{"query": nonsense here'),
            ("serch", {"query": "x"}),
            ("search", {"query": "bad"}),
            reasoning=THOUGHT,
        ),
        '{"query": "mended"}',
        "That is all.",
        calls(("answer", {"text": "ok"})),
    ]
    store = memory()
    async with running(store, Log(), model=ScriptedModel(turns)) as engine:
        await engine.run(flow_of(agent()), WHY, run_id="r")
    talk, state = await told(store, "r")
    assert [(said.step, said.agent, said.purpose) for said in talk] == [
        ("planner/t1", "planner", ""),
        ("planner/t1", "planner", "correction"),
        ("planner/t2", "planner", ""),
        ("planner/t2", "planner", ""),
    ]
    assert [call.how for call in talk[0].calls] == [
        "valid", "repaired", "corrected", "refused", "valid",
    ]  # fmt: skip
    assert [call.how for call in talk[3].calls] == ["answer"]
    assert call_counts((await store.load("r")).events) == {
        "valid": 2, "repaired": 1, "corrected": 1, "refused": 1,
    }  # fmt: skip
    lines = said_lines(talk[0], state)
    assert lines[0].startswith("planner/t1 scripted · 0.0 s · ")
    assert "tokens in, " in lines[0]
    assert lines[1].startswith("  thinking: First I think about it. First")
    assert lines[1].endswith(" words more)")
    assert '    valid: planner/t1/search-1 done: ["page about a"]' in lines
    assert '  calls search {"query": nonsense here' in lines
    assert '    corrected: planner/t1/search-3 done: ["page about mended"]' in lines
    assert any("refused: there is no tool 'serch'; did you mean search" in line for line in lines)
    assert any("search-4 failed: OSError: the index is down" in line for line in lines)
    whole = said_lines(talk[0], state, reasoning=True)
    assert f"    {THOUGHT.strip()}" in whole
    data = said_data(talk[0], state)
    assert data["reasoning"] == THOUGHT
    assert data["calls"][3]["how"] == "refused"


async def test_usage_is_told_by_agent_and_model() -> None:
    helper = Planner(
        "Help.",
        takes=str,
        returns=str,
        name="helper",
        model=ScriptedModel(["helped"], name="small"),
    )
    script = [calls(("helper", {"task": "do"})), calls(("answer", {"text": "ok"}))]
    store = memory()
    async with running(store, Log(), model=ScriptedModel(script, name="big")) as engine:
        await engine.run(flow_of(agent(tools=[helper])), WHY, run_id="r")
    talk, state = await told(store, "r")
    used = usage_of(talk)
    assert [(each.agent, each.model, each.turns, each.calls) for each in used] == [
        ("planner", "big", 2, 1),
        ("helper", "small", 1, 0),
    ]
    for each in used:
        assert each.usage == state.spent[each.agent, each.model]
    assert place("planner/t1/helper-1/t1", "helper") == "planner/t1/helper-1/t1"
    assert place("planner/t1/ask/t1", "helper") == "planner/t1/ask/t1 (helper)"


async def test_failed_tries_are_told_with_what_followed() -> None:
    first = ScriptedModel([ModelUnavailable("busy"), QuotaExhausted("paid out")], name="first")
    second = ScriptedModel([calls(("answer", {"text": "ok"}))], name="second")
    store = memory()
    async with running(store, Log(), model=[first, second]) as engine:
        await engine.run(flow_of(agent()), WHY, run_id="r")
    talk, state = await told(store, "r")
    assert talk[0].error == "ModelUnavailable: busy"
    assert talk[0].follows.startswith("asked again after ")
    assert talk[1].follows == "second was asked instead"
    assert said_lines(talk[1], state)[1] == "  then: second was asked instead"
    assert [(each.model, each.failed_tries) for each in usage_of(talk)] == [
        ("first", 2),
        ("second", 0),
    ]
    alone = ScriptedModel([QuotaExhausted("paid out")])
    async with running(store, Log(), model=alone) as engine:
        with pytest.raises(StepFailed):
            await engine.run(flow_of(agent()), WHY, run_id="alone")
    talk, _ = await told(store, "alone")
    assert talk[0].follows == "the attempt failed, and the step with it"


async def test_answers_that_were_given_back_and_what_a_judge_looked_up() -> None:
    @verifier
    async def long_enough(ctx: Context, report: Report) -> None:
        if len(report.text) < 5:
            raise Reject("longer")

    def script(request: ModelRequest, index: int) -> Any:
        asked = sum(message.role == "assistant" for message in request.messages)
        if "You judge" in (request.messages[0].content or ""):
            if request.schema is not None:
                return {"score": 1.0, "feedback": ""}
            return says("seen") if asked else calls(("search", {"query": "facts"}))
        made: list[ChatMessage] = [
            calls(("answer", {"txt": 1})),
            calls(("answer", {"text": "no"})),
            calls(("answer", {"text": "long enough"})),
        ]
        if "syntax expert" in (request.messages[0].content or ""):
            return "no idea"
        refused = any("longer" in (message.content or "") for message in request.messages)
        return made[2 if refused else asked]

    judge = Judge("Is it good?", checks=Report, tools=[search], name="judge")

    def judged(found: Ref[Report]) -> Ref[Report]:
        return judge(long_enough(found))

    flow = flow_of(agent(), judged)
    store = memory()
    async with running(store, Log(), model=ScriptedModel(script)) as engine:
        await engine.run(flow, WHY, run_id="r")
    talk, state = await told(store, "r")
    hows = [(said.agent, call.name, call.how) for said in talk for call in said.calls]
    assert hows == [
        ("planner", "answer", "returned"),
        ("planner", "answer", "answer"),
        ("planner", "answer", "answer"),
        ("judge", "search", "inside"),
    ]
    looked = next(said for said in talk if said.purpose == "look")
    assert '    looked up: ["page about facts"]' in said_lines(looked, state)


async def test_a_turn_that_goes_on_is_told_as_such() -> None:
    store = memory()
    async with running(store, Log(), model=ScriptedModel([calls(("search", {"query": "a"}))])) as e:
        with pytest.raises(StepFailed):
            await e.run(flow_of(agent()), WHY, run_id="r")
    journal = await store.load("r")
    seq = next(e.seq for e in journal.events if isinstance(e.payload, ev.ModelAnswered))
    half = Journal(journal.record, journal.events[:seq])
    state = flowkit.rewind.fold(half)
    talk = talk_of(half.events, state, answers(half))
    assert said_lines(talk[0], state)[-1] == "    the turn has not ended"
    unread = talk_of(half.events, state, {})
    assert said_lines(unread[0], state)[-1] == "  (its answer cannot be read)"


async def test_an_answer_that_is_too_large_for_an_event_is_read_all_the_same() -> None:
    said = calls(("answer", {"text": "ok"}), reasoning="deep " * 30_000)
    store = memory()
    async with running(store, Log(), model=ScriptedModel([said])) as engine:
        await engine.run(flow_of(agent()), WHY, run_id="r")
    journal = await store.load("r")
    state = flowkit.rewind.fold(journal)
    talk = await Talk.read(journal.events, state, store)
    assert talk.of("planner", state)[0].message == talk.said[0].message
    assert (talk.said[0].message or says("")).reasoning == "deep " * 30_000
    assert "29,980 words more" in said_lines(talk.said[0], state)[1]


def test_a_long_text_is_folded_to_its_first_words() -> None:
    assert fold("short  and\nplain") == "short and plain"
    assert fold("word " * 50, 20) == "word word word word … (46 words more)"
    assert fold("x" * 150, 100) == "x" * 100 + " … (50 characters more)"


def test_what_streams_is_one_line_that_moves_on() -> None:
    speech = Speech()
    assert not speech.add({"judge": "critic"})
    assert not speech.add("text")
    assert speech.line() == ""
    for piece in ("Let me ", "think\n", "about it"):
        assert speech.add({"reasoning": piece})
    assert speech.line() == "thinking: Let me think about it"
    assert speech.add({"delta": "word " * 100})
    assert speech.line(9) == "says: …word word"
    speech.add({"delta": "x" * 10_000})
    assert len(speech.text) <= 2_000


async def test_a_line_for_each_answer_and_a_live_line_for_what_streams() -> None:
    said = calls(("search", {"query": "a"}), ("search", {"query": "b"}), reasoning=THOUGHT)
    model = ScriptedModel([said, calls(("answer", {"text": "ok"}))], name="kimi")
    view = View("r", "flow")
    lines: list[str] = []
    screens: list[str] = []
    async with running(None, Log(), model=model) as engine:
        handle = await engine.start(flow_of(agent()), WHY, run_id="r")
        async for event in handle.events(live=True):
            view.feed(event)
            found = answers(Journal(await handle.record(), [event]))
            if isinstance(event.payload, ev.ModelAnswered):
                lines.append(describe(event, view.state, found[event.seq]))
            screens.append(_screen(view))
    assert lines[0].startswith(
        "planner/t1 kimi: 2 calls (search, search) · thinking: First I think"
    )
    assert lines[0].endswith("words more)")
    assert lines[1] == "planner/t2 kimi: 1 call (answer)"
    streaming = [text for text in screens if "thinking: " in text]
    assert streaming
    assert all(text.count("thinking: ") == 1 for text in streaming)
    assert "    | " in streaming[-1]
    assert "thinking" not in screens[-1]
    assert any("turn 2" in text for text in screens)


def _screen(view: View) -> str:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=100)
    with console.capture() as shown:
        console.print(render(view, 1.0, 30, 100, reasoning=True))
    return shown.get()


async def test_what_a_model_says_does_not_reach_a_terminal_as_commands() -> None:
    evil = "\x1b]0;title\x07\x1b[2Jcleared \x9b31m\u202e reversed"
    model = ScriptedModel(
        [
            calls(("serch", {"query": evil}), text=evil, reasoning=evil),
            calls(("answer", {"text": "x"})),
        ]
    )
    view = View("r", "flow")
    seen: list[str] = []
    async with running(None, Log(), model=model) as engine:
        handle = await engine.start(flow_of(agent()), WHY, run_id="r")
        events: list[Event] = []
        async for event in handle.events(live=True):
            view.feed(event)
            events.append(event)
            seen.append(_screen(view))
    assert not {"\x07", "\x9b", "\u202e"} & set("".join(seen))
    assert "]0;title" not in "".join(seen)
