"""A planner with hundreds of tools: its model is shown a few, finds others, and so after every crash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

import flowkit.events as ev
from flowkit import Budget, Context, DeclarationError, Ref, workflow
from flowkit.chat import ChatMessage, ModelRequest
from flowkit.nodes import AnyNode, Planner, Router, ToolChoice, ToolRecords, tool
from flowkit.nodes.context import KeepLast
from flowkit.nodes.gating import SUCCESS
from flowkit.nodes.node import Node
from flowkit.testing import ScriptedModel, calls, says
from tests.scenario.kit import Log, crashed, journal, memory, note, of, running


class Question(BaseModel):
    text: str


class Report(BaseModel):
    text: str


def numbered(n: int) -> Node[int, str]:
    @tool(name=f"part_{n}")
    async def part(ctx: Context, amount: int) -> str:
        return f"{amount} of {n}"

    part.description = f"Order spare part number {n} from the warehouse."
    return part


@tool
async def forecast(ctx: Context, city: str) -> str:
    """The weather of the next days in a city.

    From the station that is nearest.
    """
    note(ctx)
    return f"sun in {city}"


@tool
async def send_mail(ctx: Context, text: str) -> str:
    """Send an e-mail to a person."""
    note(ctx)
    return "sent"


@tool
async def handbook(ctx: Context, words: str) -> str:
    """Look something up in the handbook."""
    return "nothing"


MANY: Sequence[AnyNode] = [*(numbered(n) for n in range(298)), forecast, send_mail]
WHY = Question(text="How will the weather be in Paris?")
FIND = "clerk_find_tools"
PARTS = "order a spare part"


def agent(**options: Any) -> Planner[Question, Report]:
    options = {"tools": MANY, "router": Router(k=8, shared=[handbook]), "name": "clerk", **options}
    return Planner("Help.", takes=Question, returns=Report, **options)


def flow_of(node: Planner[Question, Report]) -> Any:
    @workflow
    def flow(question: Ref[Question]) -> Ref[Report]:
        return node(question)

    return flow


def names(request: ModelRequest) -> list[str]:
    return [each["name"] for each in request.tools]


def heard(request: ModelRequest) -> list[str]:
    return [each.content or "" for each in request.messages if each.role == "tool"]


def answer(text: str = "ok") -> ChatMessage:
    return calls(("answer", {"text": text}))


def script(request: ModelRequest, index: int) -> Any:
    """Looks at the weather, finds tools twice, writes, answers: by what was heard, not by the index."""
    talk = [
        calls(("forecast", {"city": "Paris"})),
        calls((FIND, {"query": PARTS})),
        calls((FIND, {"query": "send an e-mail"})),
        calls(("send_mail", {"text": "sun"})),
        answer(),
    ]
    return talk[len(heard(request))]


routed = flow_of(agent())


async def test_of_300_tools_the_model_sees_k_and_finds_others_when_it_needs_them() -> None:
    model, log = ScriptedModel(script), Log()
    async with running(None, log, model=model) as engine:
        assert (await engine.run(routed, WHY, run_id="r")).text == "ok"
        events = await journal(engine, "r")
    assert log == ["clerk/t2/forecast-1 0 1", "clerk/t5/send_mail-1 0 1"]
    first, _, parts, mail, _ = [names(request) for request in model.requests]
    assert first == ["recall", "answer", "handbook", FIND, "forecast"], "none but the weather fits"
    assert parts[:5] == first
    assert len(parts) == 5 + 7, "k - 1 shared"
    assert all(name.startswith("part_") for name in parts[5:])
    assert mail == [*parts, "send_mail"]
    told = heard(model.requests[-1])
    assert told[1].startswith("These can be called from now on:\npart_")
    assert "send_mail: Send an e-mail to a person." in told[2]
    assert "score" not in told[1]
    planned = [each.payload for each in of(events, ev.Planned)]
    assert isinstance(planned[0], ev.Planned)
    assert planned[0].answer is None, "the first choice asks no model"


async def test_the_choice_and_its_reasons_are_in_the_journal() -> None:
    async with running(None, Log(), model=ScriptedModel(script)) as engine:
        await engine.run(routed, WHY, run_id="r")
        events = await journal(engine, "r")
    done = next(each.payload for each in events if each.key == "clerk/t1/find_tools")
    assert isinstance(done, ev.StepDone)
    assert done.value is not None
    choice = ToolChoice.model_validate_json(done.value.text or "")
    shared, best = choice.tools
    assert (shared.tool, shared.shared) == ("handbook", True)
    assert (best.tool, best.relevance, best.success, best.latency) == ("forecast", 1.0, 0.5, 1.0)
    assert best.score == pytest.approx(1 - SUCCESS / 2)
    assert best.description == "The weather of the next days in a city."
    assert (choice.fitting, choice.tools_total) == (1, 301)


@pytest.mark.parametrize("style", ["native", "json"])
async def test_after_every_crash_the_same_requests_are_sent(style: str) -> None:
    def scripted(request: ModelRequest, index: int) -> Any:
        if style == "native":
            return script(request, index)
        said = sum(each.role == "assistant" for each in request.messages)
        parts = '{"tool": "clerk_find_tools", "parameters": {"query": "order a spare part"}}'
        weather = '{"tool": "forecast", "parameters": {"city": "Paris"}}'
        return says([weather, parts, '{"tool": "answer", "parameters": {"text": "ok"}}'][said])

    flow = flow_of(agent(calls=style))
    store, model = memory(), ScriptedModel(scripted)
    async with running(store, Log(), ToolRecords(store), model=model) as engine:
        await engine.run(flow, WHY, run_id="r")
    sent = [(each.messages, each.tools) for each in model.requests]
    if style == "json":
        systems = [messages[0].content or "" for messages, _ in sent]
        assert ["part_" in system for system in systems] == [False, False, True]
        assert all("forecast" in system for system in systems)
    head = (await store.load("r")).record.head
    choices = {
        str(each.payload) for each in (await store.load("r")).events if "find_tools" in each.key
    }
    for seq in range(2, head):
        again = ScriptedModel(scripted)
        cut = await crashed(store, "r", seq)
        async with running(cut, Log(), ToolRecords(cut), model=again) as engine:
            assert (await engine.run(flow, WHY, run_id="r")).text == "ok"
            after = await journal(engine, "r")
        assert [(each.messages, each.tools) for each in again.requests] == sent[
            len(sent) - len(again.requests) :
        ]
        assert {_untimed(each) for each in after if "find_tools" in each.key} == {
            _untimed(each) for each in (await store.load("r")).events if "find_tools" in each.key
        }
    assert choices


def _untimed(event: ev.Event) -> str:
    assert isinstance(event.payload, ev.StepDone)
    return f"{event.key} {event.payload.value}"


async def test_a_tool_that_was_not_shown_may_be_called_and_is_shown_from_then_on() -> None:
    model = ScriptedModel(
        [calls(("part_7", {"amount": 2}), ("part_8", {"amount": "x"})), "never json", answer()]
    )
    async with running(None, Log(), model=model) as engine:
        await engine.run(routed, WHY)
    first, *_, last = model.requests
    assert "part_7" not in names(first)
    assert heard(last)[0] == "2 of 7"
    assert "part_8 was not called" in heard(last)[1]
    assert names(last) == [*names(first), "part_7", "part_8"], "with its schema, to be called right"


async def test_nothing_that_fits_is_told_in_words_to_act_on() -> None:
    model = ScriptedModel([calls((FIND, {"query": "xylophone"}), (FIND, {"query": ""})), answer()])
    async with running(None, Log(), model=model) as engine:
        await engine.run(routed, Question(text="???"))
    first, last = model.requests
    assert names(first) == ["recall", "answer", "handbook", FIND]
    assert names(last) == names(first)
    assert all(text.startswith("None of 301 tools fits. Try other words") for text in heard(last))


async def test_a_whole_plan_is_made_of_what_is_shown_and_what_is_found() -> None:
    plan = {"steps": [{"id": "w", "tool": "forecast", "args": {"city": "Paris"}}]}
    more = {"steps": [{"id": "more", "tool": FIND, "args": {"query": "send an e-mail"}}]}
    model = ScriptedModel([calls(("plan", plan)), calls(("plan", more)), answer()])
    async with running(None, Log(), model=model) as engine:
        await engine.run(flow_of(agent(style="upfront")), WHY)
    first, second, third = model.requests
    assert names(first) == ["plan"], "the first turn is for the plan alone"
    assert names(second) == ["plan", "recall", "answer"]
    assert '"const":"forecast"' in _text(first)
    assert '"part_' not in _text(first)
    assert '"send_mail"' not in _text(second)
    assert '"send_mail"' in _text(third)
    assert "send_mail: Send an e-mail" in heard(third)[1]


def _text(request: ModelRequest) -> str:
    from flowkit.values import compact

    return compact([*request.tools])


async def test_with_k_tools_or_fewer_there_is_no_router() -> None:
    few = [forecast, send_mail]
    model = ScriptedModel([answer()])
    plain = agent(tools=few, router=None)
    node = agent(tools=few, router=Router(k=2))
    assert node.spec() == plain.spec()
    async with running(None, Log(), model=model) as engine:
        await engine.run(flow_of(node), WHY)
    assert names(model.requests[0]) == ["forecast", "send_mail", "recall", "answer"]


async def test_the_choice_is_no_turn_of_the_model() -> None:
    model = ScriptedModel([calls(("forecast", {"city": "Paris"})), '{"text": "ok"}'])
    async with running(None, Log(), model=model) as engine:
        await engine.run(flow_of(agent(turns_max=2)), WHY)
    assert [bool(request.tools) for request in model.requests] == [True, False]
    model = ScriptedModel(['{"text": "ok"}'])
    async with running(None, Log(), model=model) as engine:
        await engine.run(routed, WHY, budget=Budget(steps_max=1, on_budget="answer"))
    assert [names(request) for request in model.requests] == [[]]


def test_the_fingerprint_counts_the_routers_settings() -> None:
    prints = {
        agent(router=each).spec().fingerprint
        for each in (None, Router(k=8), Router(k=9), Router(k=9, shared=[forecast]))
    }
    assert len(prints) == 4
    assert agent().spec() == agent().spec()


def test_a_router_that_chooses_nothing_and_a_name_that_is_taken_are_refused() -> None:
    with pytest.raises(DeclarationError, match="raise k=, or share fewer"):
        Router(k=1, shared=[forecast])

    @tool(name=FIND)
    async def mine(ctx: Context, words: str) -> str:
        return words

    with pytest.raises(DeclarationError, match="two tools of one name"):
        agent(tools=[*MANY, mine])


async def test_two_routed_planners_live_in_one_workflow() -> None:
    one, two = agent(name="one"), agent(name="two", tools=[*MANY, agent(name="three")])

    @workflow
    def flow(question: Ref[Question]) -> Ref[Report]:
        return two(question, after=one(question))

    async with running(None, Log(), model=ScriptedModel([answer(), answer()])) as engine:
        assert (await engine.run(flow, WHY)).text == "ok"


class Meanings:
    """An embedder that knows two things: weather, and all the rest."""

    name = "meanings"

    def __init__(self, *, broken: bool = False) -> None:
        self.asked: list[int] = []
        self.broken = broken

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        self.asked.append(len(texts))
        if self.broken:
            raise ConnectionError("no embeddings today")
        wet = ("weather", "umbrella")
        return [[2.0, 0.1] if any(each in text for each in wet) else [0.1, 1.0] for text in texts]


async def test_embeddings_find_what_shares_no_word_and_those_of_tools_are_made_once() -> None:
    meanings = Meanings()
    flow = flow_of(agent(router=Router(k=8, shared=[handbook], embedder=meanings)))
    model = ScriptedModel([answer(), answer()])
    async with running(None, Log(), model=model) as engine:
        await engine.run(flow, Question(text="Do I need an umbrella?"))
        await engine.run(flow, Question(text="Do I need an umbrella now?"))
    assert names(model.requests[0])[4:] == ["forecast"]
    assert meanings.asked == [128, 128, 44, 1, 1]


async def test_without_embeddings_the_words_decide() -> None:
    flow = flow_of(agent(router=Router(k=8, shared=[handbook], embedder=Meanings(broken=True))))
    model = ScriptedModel([answer()])
    async with running(None, Log(), model=model) as engine:
        await engine.run(flow, WHY, run_id="r")
        failed = of(await journal(engine, "r"), ev.AttemptFailed)
    assert names(model.requests[0])[4:] == ["forecast"]
    assert [each.payload.then for each in failed if isinstance(each.payload, ev.AttemptFailed)] == [
        "retry",
        "retry",
        "next",
    ]


async def test_what_was_found_stays_shown_when_old_turns_are_left_out() -> None:
    steps = [
        calls((FIND, {"query": PARTS})),
        *[calls(("forecast", {"city": str(n)})) for n in range(9)],
    ]
    model = ScriptedModel([*steps, answer()])
    node = agent(policies=[KeepLast(0.0001, turns=2)])
    async with running(None, Log(), model=model) as engine:
        await engine.run(flow_of(node), WHY)
    assert not any(text.startswith("These can be called") for text in heard(model.requests[-1]))
    assert names(model.requests[-1]) == names(model.requests[1]) != names(model.requests[0])


async def test_trajectories_side_by_side_have_a_choice_each() -> None:
    model = ScriptedModel(lambda request, index: answer() if request.tools else '{"text": "all"}')
    async with running(None, Log(), model=model) as engine:
        result = await engine.run(flow_of(agent(scale=True)), WHY, run_id="r")
        events = await journal(engine, "r")
    assert result.text == "all"
    chosen = [each.key for each in of(events, ev.StepDone) if each.key.endswith("/find_tools")]
    assert len(set(chosen)) == 8
