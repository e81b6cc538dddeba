"""A research, whole: offline and with a model that errs, on shipped documents and on a folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx2
import pytest

import flowkit.events as ev
from flowkit import Budget, Engine, StepFailed
from flowkit.chat import ChatMessage, ModelAnswer, ModelRequest, OnDelta, ToolCall
from flowkit.events import Event
from flowkit.model import OfflineModel, OpenAIModel
from flowkit.nodes.tools import Corpus
from flowkit.ports import Model
from flowkit.store import MemoryStore, SqlStore
from flowkit.workflows.deep_research import (
    EXAMPLE,
    OFFLINE_RULES,
    Question,
    ResearchReport,
    deep_research,
)
from flowkit.workflows.deep_research.library import load
from flowkit.workflows.deep_research.offline import next_message
from flowkit.workflows.deep_research.planning import REPEATS_MAX
from flowkit.workflows.deep_research.steps import researcher
from tests.scenario.cli_program import Cli
from tests.scenario.kit import crashed, of
from tests.unit.test_stock_web import Loopback, send

pytest.importorskip("jinja2")

OFFLINE = OfflineModel(OFFLINE_RULES)
HEIGHTS = Question(question="How tall is the Zebra Tower, and who built it?")


class Scripted:
    """A model that changes what the rules would say; `change` gets the message and its number."""

    name = "scripted-1"

    def __init__(self, change: Callable[[ChatMessage, int], ChatMessage]) -> None:
        self._change = change
        self.requests: list[ModelRequest] = []

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        self.requests.append(request)
        message = self._change(next_message(request), len(self.requests))
        return ModelAnswer(message, finish_reason="tool_calls", model=self.name)


@asynccontextmanager
async def engine(
    store: MemoryStore | SqlStore, model: Model | None = OFFLINE
) -> AsyncGenerator[Engine]:
    async with Engine(store, workflows=[deep_research], model=model) as running:
        yield running


async def read(store: MemoryStore | SqlStore, report: ResearchReport) -> tuple[str, str]:
    """The report's Markdown without escapes, and its HTML."""
    text = (await store.get(report.markdown.sha256)).decode()
    return text.replace("\\", ""), (await store.get(report.html.sha256)).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "zoo"
    made.mkdir()
    (made / "zebra.md").write_text(
        "# Zebra Tower\n\nThe tower is 31 metres tall.\nAnna Muster built it in 1905.\n", "utf-8"
    )
    (made / "lion.txt").write_text("The lion house has 12 rooms and no tower at all.", "utf-8")
    (made / "broken.md").write_bytes(b"# Zebra Tower\n\xff\xfe")
    return made


# ---- offline


async def test_the_example_runs_offline_and_tells_all(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "runs.db")
    started = time.monotonic()
    async with engine(store) as running:
        report = await running.run(deep_research, EXAMPLE)
        text, html = await read(store, report)
    assert time.monotonic() - started < 30
    assert report.answer.startswith(
        "The difference between Cape Hatteras and Bell Rock is 25.5 metres (60.5 - 35). [1]"
    )
    assert "Building began in August 1807 and was finished in 1810." in report.answer
    assert report.computed
    assert report.model == "flowkit-offline"
    assert (report.failures, report.replans, report.calculations) == (1, 1, 1)
    assert report.searches >= 3
    assert report.pages_read >= 3
    assert "cape-hatteras.md says 60.5 metres, brick-towers.md says 59" in report.open_questions[0]
    assert {source.id for source in report.sources} >= {"cape-hatteras.md", "bell-rock.md"}
    for told in (text, html):
        assert "No language model was used." in told
        assert "The tower is 35 metres tall." in told
        assert "the archive that holds this survey does not answer" in told
        assert "replanned" in told
        assert "cites_what_it_says" in told
    assert "[^1]: “The tower is 60.5 metres tall" in text
    assert "<script" not in html
    assert "http" not in html.replace("HTTP 503", "")
    assert 'href="#note-1"' in html
    assert 'id="note-1"' in html


async def test_other_questions_get_other_answers() -> None:
    found: dict[str, ResearchReport] = {}
    async with engine(MemoryStore()) as running:
        for question in (
            "How tall are the Lanterna of Genoa and Jeddah Light together?",
            "How many years passed between the first lighting of Smeaton's tower and of Bell Rock?",
            "What happened to the keepers of the Flannan Isles?",
            "What is the capital of Mongolia?",
        ):
            found[question] = await running.run(deep_research, Question(question=question))
    total, years, keepers, unknown = found.values()
    assert "is 209 metres (76 + 133)" in total.answer
    assert "is 52 years (1811 - 1759)" in years.answer
    assert "James Ducat, Thomas Marshall and Donald McArthur, were gone." in keepers.answer
    assert keepers.calculations == 0
    assert "Nothing was found" in unknown.answer
    assert unknown.claims == []
    assert unknown.open_questions


async def test_a_folder_of_ones_own(folder: Path) -> None:
    store = MemoryStore()
    question = HEIGHTS.model_copy(update={"corpus": str(folder)})
    async with engine(store) as running:
        report = await running.run(deep_research, question)
        text, _ = await read(store, report)
    assert "The tower is 31 metres tall." in report.answer
    assert "Anna Muster built it in 1905." in report.answer
    assert {source.id for source in report.sources} == {"zebra.md"}
    assert "(zoo)" in text


async def test_what_documents_say_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    nasty = (
        "The Zebra Tower <script>alert(1)</script> is **31** metres tall | [x](http://x.example)."
    )
    (tmp_path / "zebra.txt").write_text(nasty, "utf-8")
    store = MemoryStore()
    async with engine(store) as running:
        report = await running.run(
            deep_research, HEIGHTS.model_copy(update={"corpus": str(tmp_path)})
        )
        _, html = await read(store, report)
        raw = (await store.get(report.markdown.sha256)).decode()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert (
        r"\<script\>alert(1)\</script\> is \*\*31\*\* metres tall \| \[x\](http://x.example)" in raw
    )


async def test_a_chinese_folder(tmp_path: Path) -> None:
    (tmp_path / "武汉.md").write_text(
        "# 武汉长江大桥\n\n武汉长江大桥于1957年10月15日建成通车。\n大桥全长1670米。\n", "utf-8"
    )
    question = Question(question="武汉长江大桥是哪年建成的？", corpus=str(tmp_path))
    async with engine(MemoryStore()) as running:
        report = await running.run(deep_research, question)
    assert "1957年10月15日" in report.answer
    assert report.claims[0].citations[0].document == "武汉.md"


async def test_a_folder_that_is_none_fails_the_run(tmp_path: Path) -> None:
    async with engine(MemoryStore()) as running:
        with pytest.raises(StepFailed, match="is no folder"):
            await running.run(deep_research, Question(question="What?", corpus=str(tmp_path / "x")))


async def test_the_run_keeps_the_documents_that_it_began_with(folder: Path) -> None:
    """The folder changes under the run; what it cites is what it read."""
    question = HEIGHTS.model_copy(update={"corpus": str(folder)})

    def change(message: ChatMessage, number: int) -> ChatMessage:
        (folder / "zebra.md").write_text("# Zebra Tower\n\nIt was torn down yesterday.\n", "utf-8")
        return message

    async with engine(MemoryStore(), Scripted(change)) as running:
        report = await running.run(deep_research, question)
    assert "The tower is 31 metres tall." in report.answer


def test_what_ships_is_what_its_readme_says() -> None:
    name, data = load("")
    corpus = Corpus.from_json(data)
    assert name == "lighthouses"
    assert len(corpus) == 37
    assert [each.id for each in corpus if each.unavailable] == ["hatteras-survey.md"]
    assert all(each.title != each.id.removesuffix(".md") for each in corpus)
    for each in corpus:
        words = len(each.text.split())
        assert each.unavailable or 150 <= words <= 400, f"{each.id} has {words} words"


# ---- after a crash


async def test_a_crash_anywhere_loses_nothing_and_repeats_nothing() -> None:
    store = MemoryStore()
    async with engine(store) as running:
        whole = await running.run(deep_research, EXAMPLE, run_id="monday")
    events = (await store.load("monday")).events
    asked = len(of(events, ev.ModelAnswered))
    for head in range(2, len(events), 4):
        again = await crashed(store, "monday", head)
        async with engine(again) as running:
            report = await running.resume("monday")
        assert isinstance(report, ResearchReport)
        same = {"html", "markdown"}
        assert report.model_dump(exclude=same) == whole.model_dump(exclude=same), f"after {head}"
        resumed = (await again.load("monday")).events
        assert len(of(resumed, ev.ModelAnswered)) == asked
        assert _done(resumed) == _done(events)


def _done(events: Sequence[Event]) -> list[str]:
    return sorted(event.key for event in of(events, ev.StepDone))


# ---- a model that errs


def with_answer(message: ChatMessage, change: Callable[[dict[str, Any]], None]) -> ChatMessage:
    """The message with another answer, if it is one."""
    if not message.tool_calls or message.tool_calls[0].name != "answer":
        return message
    data = json.loads(message.tool_calls[0].arguments)
    change(data)
    call = replace(message.tool_calls[0], arguments=json.dumps(data))
    return replace(message, tool_calls=[call])


def misquote(data: dict[str, Any]) -> None:
    data["claims"][0]["citations"][0]["quote"] = "The tower is 99 metres tall, everybody knows."


async def test_a_rejected_citation_comes_back_as_a_turn() -> None:
    wrong: list[int] = []

    def change(message: ChatMessage, number: int) -> ChatMessage:
        if message.tool_calls[0].name == "answer" and not wrong:
            wrong.append(number)
            return with_answer(message, misquote)
        return message

    model = Scripted(change)
    store = MemoryStore()
    async with engine(store, model) as running:
        report = await running.run(deep_research, EXAMPLE)
        text, _ = await read(store, report)
    told = model.requests[wrong[0]].messages[-1]
    assert "this answer was not accepted" in (told.content or "")
    assert "claim 1" in (told.content or "")
    assert "word for word" in (told.content or "")
    assert "99" not in report.answer
    assert not report.computed
    assert report.turns == wrong[0] + 1
    assert report.replans == 2, "after the source that failed, and after the rejection"
    assert "written by the language model scripted-1" in text
    assert "| verify | the answer | failed: claim 1" in text


async def test_a_model_that_keeps_inventing_is_stood_in_for() -> None:
    model = Scripted(lambda message, number: with_answer(message, misquote))
    store = MemoryStore()
    async with engine(store, model) as running:
        report = await running.run(deep_research, EXAMPLE)
        text, _ = await read(store, report)
    assert sum(_answers(request) for request in model.requests) == 3, "three rounds, then no more"
    assert "25.5 metres" in report.answer
    assert report.computed
    assert "No language model wrote this answer. The researcher failed" in text
    assert "the answer was rejected 3 times" in text


def _answers(request: ModelRequest) -> bool:
    return next_message(request).tool_calls[0].name == "answer"


async def test_without_any_model_the_answer_is_extracted() -> None:
    store = MemoryStore()
    async with engine(store, None) as running:
        report = await running.run(deep_research, EXAMPLE)
        text, _ = await read(store, report)
    assert "is 25.5 metres (60.5 - 35). [1]" in report.answer
    assert (report.turns, report.calculations, report.failures) == (0, 1, 1)
    assert "the engine has none" in text


async def test_a_last_turn_answers_with_what_there_is() -> None:
    async with engine(MemoryStore()) as running:
        handle = await running.start(
            deep_research, EXAMPLE, budget=Budget(turns_max=3, on_budget="answer")
        )
        report = await handle.result()
    assert report.turns <= 4
    assert report.claims
    assert report.computed


async def test_the_library_is_the_runs_and_never_the_models() -> None:
    """A model is not shown the field, and a call that fills it does not run."""
    call = ToolCall("c1", "corpus_search", '{"query": "bell rock", "snapshot": {"sha256": "0"}}')

    class Prying(Scripted):
        async def respond(
            self, request: ModelRequest, *, on_delta: OnDelta | None = None
        ) -> ModelAnswer:
            if request.schema_name == "corpus_search":  # it is asked what it meant
                self.requests.append(request)
                return ModelAnswer(ChatMessage("assistant", '{"query": "bell rock"}'))
            return await super().respond(request, on_delta=on_delta)

    model = Prying(
        lambda message, number: (
            ChatMessage("assistant", tool_calls=[call]) if number == 1 else message
        )
    )
    async with engine(MemoryStore(), model) as running:
        report = await running.run(deep_research, EXAMPLE)
    assert "Additional properties" in (model.requests[1].messages[-1].content or "")
    assert "Bell Rock" in report.answer
    assert report.model == "scripted-1"
    assert "snapshot" not in json.dumps(model.requests[0].tools)
    assert "making" not in json.dumps(model.requests[0].tools)


async def test_the_very_same_call_is_made_three_times_at_most() -> None:
    def change(message: ChatMessage, number: int) -> ChatMessage:
        if number > REPEATS_MAX + 1:
            return message
        call = ToolCall(f"c{number}", "corpus_search", '{"query": "bell rock"}')
        return ChatMessage("assistant", tool_calls=[call])

    model = Scripted(change)
    store = MemoryStore()
    async with engine(store, model) as running:
        report = await running.run(deep_research, EXAMPLE, run_id="again")
    told = model.requests[REPEATS_MAX + 1].messages[-1].content or ""
    assert "this very call was made 3 times" in told
    payloads = [event.payload for event in (await store.load("again")).events]
    plans = [each for each in payloads if isinstance(each, ev.Planned)]
    assert [len(plan.steps) for plan in plans[: REPEATS_MAX + 1]] == [1, 1, 1, 0]
    assert report.failures >= 1


def chat_completions(handler: BaseHTTPRequestHandler) -> None:
    """An OpenAI-compatible server whose model goes on by the rules."""
    asked = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
    messages = [
        ChatMessage(
            told["role"],
            told.get("content"),
            tool_calls=[
                ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
                for call in told.get("tool_calls", ())
            ],
            tool_call_id=told.get("tool_call_id"),
        )
        for told in asked["messages"]
    ]
    message = next_message(ModelRequest(messages, tools=asked["tools"]))
    calls = [
        {
            "index": index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for index, call in enumerate(message.tool_calls)
    ]
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "local-7b-instruct",
        "choices": [
            {
                "index": 0,
                "delta": {"role": "assistant", "tool_calls": calls},
                "finish_reason": "tool_calls",
            }
        ],
    }
    send(handler, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", "text/event-stream")


@pytest.fixture
def web() -> Iterator[Loopback]:
    with Loopback() as server:
        yield server


async def test_the_language_model_of_the_environment_does_the_research(web: Loopback) -> None:
    web.routes["/v1/chat/completions"] = chat_completions
    environ = {"OPENAI_BASE_URL": web.url + "/v1", "FLOWKIT_MODEL": "local-7b"}
    store = MemoryStore()
    async with httpx2.AsyncClient(timeout=5.0, trust_env=False) as client:
        model = OpenAIModel.from_env(environ, http_client=client)
        async with engine(store, model) as running:
            report = await running.run(deep_research, EXAMPLE)
            text, _ = await read(store, report)
    assert report.model == "local-7b"
    assert not report.computed
    assert "25.5 metres" in report.answer
    assert "The answer was written by the language model local-7b" in text
    assert len(web.asked) == report.turns


# ---- as a product


def test_three_hundred_turns_are_allowed() -> None:
    assert researcher.limits.turns_max == 300


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli.made(tmp_path)


def test_the_command_runs_the_example(cli: Cli) -> None:
    done = cli("run", "deep_research", "--example", "--out", "made")
    assert done.code == 0, done.err
    assert done.json["model"] == "flowkit-offline"
    assert done.json["failures"] == 1
    assert {path.name for path in (cli.folder / "made").iterdir()} == {"report.html", "report.md"}
    assert "offline stand-in" in done.err


def test_the_command_takes_a_question_and_a_folder(cli: Cli, folder: Path) -> None:
    done = cli(
        "run", "deep_research", "--input", f"question={HEIGHTS.question}", "--input", f"corpus={folder}"
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "The tower is 31 metres tall." in done.json["answer"]


def test_declaring_it_needs_none_of_its_libraries() -> None:
    program = (
        "import sys; import flowkit.workflows.deep_research\n"
        "heavy = {'pandas', 'plotly', 'lxml', 'jinja2', 'httpx2', 'openai', 'sqlalchemy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout.strip() == "[]"
