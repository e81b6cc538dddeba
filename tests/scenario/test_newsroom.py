"""The newsroom, whole: three agents, a rejection, a question to the researcher, a crash at any moment."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import flowkit.events as ev
from flowkit import Engine, Rejected, StepFailed
from flowkit.chat import ChatMessage, ModelRequest, Usage
from flowkit.cli.talking import Talk
from flowkit.errors import NoModel
from flowkit.model import OfflineModel
from flowkit.nodes.tools.corpus import Corpus
from flowkit.nodes.tools.documents import Document
from flowkit.rewind import fold
from flowkit.store import MemoryStore
from flowkit.testing import ScriptedModel, calls, says
from flowkit.workflows import shipped
from flowkit.workflows.newsroom import (
    EXAMPLE,
    OFFLINE_RULES,
    Article,
    Assignment,
    Draft,
    Notes,
    newsroom,
    staffed,
)
from flowkit.workflows.newsroom.agents import agents_model
from flowkit.workflows.newsroom.checks import draft_faults, note_faults
from tests.scenario.cli_program import Cli
from tests.scenario.kit import crashed, journal, memory, of, running

OFFLINE = OfflineModel(OFFLINE_RULES)

TEXT = (
    "The mill at Dene was opened again on 3 May 2021. It grinds two tonnes a week. "
    "The miller is called Ada Thorn. The roof was paid for by 40 neighbours."
)
MILL = Assignment(topic="The mill at Dene", words=80, notes=TEXT)


async def text_of(store: MemoryStore, article: Article) -> str:
    """The article's Markdown without escapes, and without when it was written."""
    text = (await store.get(article.markdown.sha256)).decode().replace("\\", "")
    return re.sub(r"Written \S+ \S+ UTC", "Written", text)


# ---- three agents, each with a model of its own


def fact(statement: str) -> dict[str, str]:
    return {"statement": statement, "document": "notes", "quote": statement}


ADA = "The miller is called Ada Thorn."
OPENED = "The mill at Dene was opened again on 3 May 2021."


def researcher(request: ModelRequest, index: int) -> ChatMessage:
    """Reads, then tells what it is asked for."""
    heard = [message for message in request.messages if message.role == "tool"]
    if not heard:
        return calls(("read_material", {"id": "notes"}), reasoning="I read first.")
    asked = request.messages[1].content or ""
    said = ADA if "Who is the miller" in asked else OPENED
    return calls(("answer", {"question": "?", "facts": [fact(said)], "leads": ["the miller"]}))


LONG = (
    "The mill at Dene works again, two years after its wheel had stopped, and flour is sold there. "
)


def draft(*more: str) -> dict[str, Any]:
    texts = [OPENED, LONG * 3, *more]
    return {
        "headline": "The mill at Dene works again",
        "standfirst": "The mill was opened again.",
        "paragraphs": [{"text": text, "sources": ["notes"]} for text in texts],
    }


def writer(request: ModelRequest, index: int) -> ChatMessage:
    """Asks who the miller is, hands in a version, and names her once it is told to."""
    heard = [message.content or "" for message in request.messages if message.role == "tool"]
    if not heard:
        return calls(("researcher", {"question": "Who is the miller?"}))
    told = " ".join(heard[1:])
    return calls(("answer", draft(ADA) if "name the miller" in told else draft()))


def critic(request: ModelRequest, index: int) -> Any:
    shown = request.messages[1].content or ""
    if request.schema is None:
        read = sum(message.role == "tool" for message in request.messages)
        return says("I have read it.") if read else calls(("read_material", {"id": "notes"}))
    fine = "Ada Thorn" in shown.partition("evidence:")[0]
    return {"score": 0.9 if fine else 0.3, "feedback": "" if fine else "name the miller"}


def asks_nothing(request: ModelRequest, index: int) -> ChatMessage:
    return calls(("answer", draft(ADA)))


class Desk:
    """A newsroom of scripted models."""

    def __init__(
        self, write: Any = writer, judge: Any = critic, research: Any = researcher
    ) -> None:
        self.researcher = ScriptedModel(research, name="small")
        self.writer = ScriptedModel(write, name="eloquent")
        self.critic = ScriptedModel(judge, name="strict")
        self.workflow = staffed(researcher=self.researcher, writer=self.writer, critic=self.critic)


async def test_the_critics_rejection_is_a_new_turn_of_the_writer_with_the_feedback() -> None:
    desk, store = Desk(), memory()
    async with running(store) as engine:
        article = await engine.run(desk.workflow, MILL, run_id="r")
        events = await journal(engine, "r")
    rejected = next(event for event in events if isinstance(event.payload, ev.Rejected))
    assert rejected.key == "critic"
    turns = [
        event.key
        for event in events
        if isinstance(event.payload, ev.ModelAnswered) and event.key.startswith("writer/t")
        and "researcher" not in event.key
    ]  # fmt: skip
    assert turns == ["writer/t1", "writer/t2", "writer/t3"]
    third = next(event for event in events if event.key == "writer/t3")
    assert third.seq > rejected.seq
    assert "name the miller" in (desk.writer.requests[-1].messages[-1].content or "")
    assert [(each.version, each.by, each.accepted) for each in article.decisions] == [
        (1, "critic", False),
        (2, "sources", True),
        (2, "critic", True),
    ]
    text = await text_of(store, article)
    assert ADA in text
    assert "| 1 | the critic | sent back | name the miller (score 0.30" in text


async def test_the_writers_question_goes_to_the_researcher_as_a_planned_step() -> None:
    desk = Desk()
    async with running() as engine:
        await engine.run(desk.workflow, MILL, run_id="r")
        events = await journal(engine, "r")
    planned = next(
        event.payload
        for event in events
        if event.key == "writer/t1" and isinstance(event.payload, ev.Planned)
    )
    assert [step.nodes for step in planned.steps] == [("researcher",)]
    done = [event.key for event in of(events, ev.StepDone)]
    assert "writer/t1/researcher-1/t1/read_material-1" in done
    assert "writer/t1/researcher-1/t2" in done
    goals = [request.messages[1].content or "" for request in desk.researcher.requests]
    assert sum("Who is the miller?" in goal for goal in goals) == 2
    assert ADA in (desk.writer.requests[1].messages[-1].content or "")


async def test_no_model_is_shown_the_material_or_may_choose_it() -> None:
    desk = Desk()
    async with running() as engine:
        await engine.run(desk.workflow, MILL, run_id="r")
    for model in (desk.researcher, desk.writer, desk.critic):
        for request in model.requests:
            assert "material" not in json.dumps(
                [list(tool["parameters"].get("properties", {})) for tool in request.tools]
            )
    assert TEXT.split(". ")[1] in (desk.critic.requests[1].messages[-1].content or "")


async def test_usage_and_events_name_the_agents() -> None:
    desk, store = Desk(), memory()
    async with running(store) as engine:
        article = await engine.run(desk.workflow, MILL, run_id="r")
    stored = await store.load("r")
    state = fold(stored)
    talk = await Talk.read(stored.events, state, store)
    assert [(each.agent, each.model) for each in talk.used] == [
        ("researcher", "small"),
        ("writer", "eloquent"),
        ("critic", "strict"),
    ]
    assert [each.turns for each in talk.used] == [4, 3, 2]
    shares = {each.agent: each for each in article.shares}
    for used in talk.used:
        share = shares[used.agent]
        assert share.turns == used.turns
        assert (share.input_tokens, share.output_tokens) == (
            used.usage.input_tokens,
            used.usage.output_tokens,
        )
        assert share.input_tokens > 0
    assert sum((each.usage for each in talk.used), Usage()) == state.usage
    assert article.computed is False
    assert "invented" not in await text_of(store, article)
    assert "researcher: small; writer: eloquent; critic: strict" in await text_of(store, article)


async def test_what_no_source_says_goes_back_before_the_critic_sees_it() -> None:
    def inventing(request: ModelRequest, index: int) -> ChatMessage:
        told = " ".join(each.content or "" for each in request.messages[2:])
        more = ADA if "is in none of its sources" in told else f"{ADA} She is 57 years old."
        return calls(("answer", draft(more)))

    desk, store = Desk(write=inventing), memory()
    async with running(store) as engine:
        article = await engine.run(desk.workflow, MILL, run_id="r")
    assert article.decisions[0].by == "sources"
    assert "57 is in none of its sources" in article.decisions[0].text
    assert len([each for each in desk.critic.requests if each.schema is not None]) == 1
    assert "57" not in (await text_of(store, article)).partition("## What became")[0]


async def test_a_quote_that_is_in_no_document_goes_back_to_the_researcher() -> None:
    def sloppy(request: ModelRequest, index: int) -> ChatMessage:
        told = " ".join(each.content or "" for each in request.messages[2:])
        said = OPENED if "word for word" in told else "The mill at Dene burnt down."
        return calls(("answer", {"question": "?", "facts": [fact(said)]}))

    desk = Desk(write=asks_nothing, research=sloppy)
    async with running() as engine:
        article = await engine.run(desk.workflow, MILL, run_id="r")
    assert article.headline == "The mill at Dene works again"
    assert len(desk.researcher.requests) == 2


async def test_a_critic_who_is_never_pleased_fails_the_run() -> None:
    def never(request: ModelRequest, index: int) -> Any:
        return {"score": 0.1, "feedback": "dull"} if request.schema else "I have read it."

    async with running() as engine:
        with pytest.raises(
            Rejected,
            match="rejected in round 4, and 'critic' allows 4 rounds in all; the last feedback: dull",
        ):
            await engine.run(Desk(judge=never).workflow, MILL)


async def test_the_very_same_call_is_refused_in_the_end() -> None:
    def stubborn(request: ModelRequest, index: int) -> ChatMessage:
        heard = [each for each in request.messages if each.role == "tool"]
        if len(heard) < 4:
            return calls(("read_material", {"id": "notes"}))
        assert "was made 3 times" in (heard[3].content or "")
        return calls(("answer", {"question": "?", "facts": [fact(ADA), fact(OPENED)]}))

    desk = Desk(write=asks_nothing, research=stubborn)
    async with running() as engine:
        await engine.run(desk.workflow, MILL)


# ---- a crash


async def test_a_crash_at_any_event_resumes_to_the_same_article() -> None:
    desk, store = Desk(), memory()
    async with running(store) as engine:
        article = await engine.run(desk.workflow, MILL, run_id="r")
    told = await text_of(store, article)
    answers = sum(len(each.requests) for each in (desk.researcher, desk.writer, desk.critic))
    head = (await store.load("r")).record.head
    for seq in range(2, head, 3):
        again, after = Desk(), await crashed(store, "r", seq)
        async with running(after) as engine:
            found = await engine.run(again.workflow, MILL, run_id="r")
        asked = sum(len(each.requests) for each in (again.researcher, again.writer, again.critic))
        events = (await store.load("r")).events[:seq]
        known = len([event for event in events if isinstance(event.payload, ev.ModelAnswered)])
        assert asked + known == answers, "no answer is asked for twice"
        assert await text_of(after, found) == told, f"after event {seq}"
        same = {"markdown", "html"}
        assert found.model_dump(exclude=same) == article.model_dump(exclude=same)


# ---- without a model


async def test_example_runs_offline_and_says_so() -> None:
    store = MemoryStore()
    began = time.monotonic()
    async with Engine(store, workflows=[newsroom], model=OFFLINE) as engine:
        article = await engine.run(newsroom, EXAMPLE)
    assert time.monotonic() - began < 20
    text = await text_of(store, article)
    html = (await store.get(article.html.sha256)).decode()
    lines = text.splitlines()
    assert lines[0] == "# The Saltgate footbridge in Harnby and when it opens again"
    assert lines[2].startswith("**No language model was used.")
    assert lines[2].endswith("The documents are invented: they ship with flowkit as an example.**")
    assert "No language model was used." in html.partition("<section>")[0]
    assert article.computed
    assert article.models == ["flowkit-offline"]
    assert 180 <= article.words <= 420
    assert len(article.sources) >= 3
    assert "The footbridge is to open again on 1 March 2025." in text
    assert "What is not known:" in text
    assert "asked the researcher: What does the material tell about:" in text
    assert "| 1 | the critic | sent back |" in text
    assert [each.agent for each in article.shares] == ["researcher", "writer", "critic"]
    assert article.html.name == "article.html"
    assert article.markdown.name == "article.md"


async def test_material_is_a_text_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mill.md").write_text(f"# The mill <b>&\n\n{TEXT}")
    (tmp_path / "roof.txt").write_text(
        "The roof of the mill was laid in 1990 by Dene's carpenters."
    )
    store = MemoryStore()
    async with Engine(store, workflows=[newsroom], model=OFFLINE) as engine:
        from_text = await engine.run(newsroom, MILL.model_copy(update={"words": 80}))
        assignment = Assignment(topic="The mill at Dene", words=80, folder=str(tmp_path))
        article = await engine.run(newsroom, assignment)
        assert from_text.sources == ["notes"]
        assert set(article.sources) == {"mill.md", "roof.txt"}
        html = (await store.get(article.html.sha256)).decode()
        assert "The mill &lt;b&gt;&amp;" in html
        with pytest.raises(StepFailed, match="is no folder"):
            await engine.run(
                newsroom, Assignment(topic="The mill", folder=str(tmp_path / "nothing"))
            )
    with pytest.raises(ValueError, match="notes or a folder, not both"):
        Assignment(topic="The mill", notes="x", folder="y")


def test_the_command_runs_the_example_and_shows_the_agents(tmp_path: Path) -> None:
    cli = Cli.made(tmp_path)
    done = cli("run", "newsroom", "--example", "--run-id", "n")
    assert done.code == 0, done.err
    assert "no language model is configured" in done.err
    assert "writer/t1 flowkit-offline: 2 calls (researcher, researcher) · thinking:" in done.err
    (folder,) = (tmp_path / "flowkit-out").iterdir()
    text = (folder / "article.md").read_text()
    assert "**No language model was used." in text
    assert (folder / "article.html").exists()
    usage = cli("show", "n", "--json").json["usage"]
    assert [each["agent"] for each in usage] == ["researcher", "writer", "critic"]
    again = cli("run", "newsroom", "--example", "--run-id", "n")
    assert again.json == done.json


# ---- parts


CORPUS = Corpus([Document(id="notes", title="Notes", text=f"{TEXT} “It is loud,” she says.")])


def test_quotes_must_stand_in_their_document_word_for_word() -> None:
    good = Notes.model_validate({"question": "?", "facts": [fact(OPENED), fact("“it is  loud”")]})
    assert note_faults(good.model_copy(update={"facts": good.facts[:1]}), CORPUS) == []
    wrong = [fact("The mill is blue."), {**fact(OPENED), "document": "elsewhere"}]
    faults = note_faults(Notes.model_validate({"question": "?", "facts": wrong}), CORPUS)
    assert "notes does not say 'The mill is blue.' word for word" in faults
    assert "there is no document 'elsewhere'" in faults


def test_drafts_have_the_numbers_and_quotations_of_their_sources_and_the_length_at_most() -> None:
    def faults(*paragraphs: tuple[str, list[str]], words: int = 30) -> list[str]:
        parts = [{"text": text, "sources": sources} for text, sources in paragraphs]
        data = {"headline": "The mill", "standfirst": "It works again.", "paragraphs": parts}
        return draft_faults(Draft.model_validate(data), CORPUS, words)

    fine = (
        'The mill was opened on 3 May 2021. "It is loud," the miller says of it, and that is so. '
    )
    assert faults((fine, ["notes"])) == []
    assert faults((f"{fine} It cost 900 pounds.", ["notes"])) == [
        "paragraph 1: 900 is in none of its sources"
    ]
    assert "quoted from none" in faults(('She said: "It is very quiet here."' + fine, ["notes"]))[0]
    assert "no document 'diary'" in faults((fine, ["diary"]))[0]
    assert "no paragraph names a source" in faults((LONG + "It goes on and on.", []))
    assert "10 are asked, up to 14 would do" in faults((fine, ["notes"]), words=10)[0]


def test_each_agents_model_may_be_named_in_the_environment() -> None:
    environ = {"FLOWKIT_MODEL_WRITER": "kimi-k3", "MOONSHOT_API_KEY": "a-key"}
    named = agents_model("writer", environ)
    assert named is not None
    assert named.name == "kimi-k3"
    assert agents_model("critic", environ) is None
    with pytest.raises(NoModel):
        agents_model("writer", {"FLOWKIT_MODEL_WRITER": "kimi-k3"})


def test_shipped_and_declared_without_its_libraries() -> None:
    assert shipped()["newsroom"] == "flowkit.workflows.newsroom:newsroom"
    program = (
        "import sys; import flowkit.workflows.newsroom\n"
        "heavy = {'jinja2', 'openai', 'sqlalchemy', 'pandas', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout.strip() == "[]"
