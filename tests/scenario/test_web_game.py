"""The game's making, whole: refused and mended, bad answers each turn, a crash at any moment, no browser."""

from __future__ import annotations

import re
from typing import Any

import pytest

import flowkit.events as ev
from flowkit.chat import ModelRequest
from flowkit.model import OfflineModel
from flowkit.store import MemoryStore
from flowkit.testing import ScriptedModel
from flowkit.workflows import shipped
from flowkit.workflows.web_game import (
    EXAMPLE,
    OFFLINE_RULES,
    Browser,
    GameReport,
    GameRequest,
    embedded,
    web_game,
)
from tests.scenario.kit import crashed, journal, memory, of, running

NO_BROWSER = Browser(None, "this test has none")
GOOD = embedded.page(embedded.plain("en"))
DIALOG = GOOD.replace("begin();", 'begin();\nalert("go");')

SPEC = {
    "title": "Sabre Gomoku", "black": "Ink", "white": "Snow", "look": "Ink on snow",
    "wishes": ["a calm look"], "assumptions": ["Two people play at one screen."],
}  # fmt: skip


def block(page: str) -> str:
    return f"Here is the game.\n\n```html\n{page}```\n"


def mends(bad: str, *, good: str = GOOD) -> Any:
    """Says something bad, until it is told what was wrong."""

    def script(request: ModelRequest, index: int) -> Any:
        if request.schema_name == "Specification":
            return SPEC
        return block(good) if len(request.messages) > 2 else bad

    return script


def never(bad: str) -> Any:
    def script(request: ModelRequest, index: int) -> Any:
        return SPEC if request.schema_name else bad

    return script


async def made(model: Any, store: MemoryStore | None = None) -> tuple[GameReport, str]:
    store = store or memory()
    async with running(store, NO_BROWSER, model=model) as engine:
        report = await engine.run(web_game, EXAMPLE, run_id="r")
        return report, await text_of(store, report)


async def text_of(store: MemoryStore, report: GameReport) -> str:
    text = (await store.get(report.markdown.sha256)).decode().replace("\\", "")
    return re.sub(r"Made \S+ \S+ UTC", "Made", text)


async def test_a_refused_page_goes_back_with_what_was_wrong_and_the_mended_one_is_taken() -> None:
    model, store = ScriptedModel(mends(block(DIALOG)), name="eloquent"), memory()
    report, text = await made(model, store)
    told = model.requests[-1].messages
    assert [each.role for each in told] == ["system", "user", "assistant", "user"]
    assert DIALOG in (told[2].content or "")
    assert "[structure, dialog]" in (told[3].content or "")
    assert "'alert(' in line" in (told[3].content or "")
    assert [bool(each.faults) for each in report.attempts] == [True, False]
    assert (report.models, report.computed, report.embedded) == (["eloquent"], False, False)
    page = (await store.get(report.game.sha256)).decode()
    assert "alert(" not in page
    assert "Content-Security-Policy" in page
    assert report.title == "Sabre Gomoku"
    assert "Written by a language model: eloquent." in text
    assert "| 1 | eloquent | sent back" in text
    assert "Two people play at one screen." in text


async def test_without_a_browser_the_result_says_that_nobody_played() -> None:
    report, text = await made(ScriptedModel(mends(block(GOOD))))
    assert (report.verified, report.browser, report.screenshots) == ("structure", "", [])
    assert report.fallbacks == ["play: only the page's text was checked. this test has none."]
    assert "Not played: this test has none. Only its text was checked." in text


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("I am sorry.", "no code block"),
        (block(GOOD) + block(GOOD), "2 HTML blocks"),
        (block(GOOD)[:5000], "breaks off inside its code block"),
        ("", "no code block"),
    ],
)
async def test_an_answer_without_one_page_is_asked_for_again(bad: str, told: str) -> None:
    model = ScriptedModel(mends(bad))
    report, _ = await made(model)
    assert told in (model.requests[-1].messages[-1].content or "")
    assert [told in " ".join(each.faults) for each in report.attempts] == [True, False]
    assert not report.embedded


async def test_a_model_that_never_gives_a_page_has_the_embedded_game_handed_over_and_said() -> None:
    model, store = ScriptedModel(never("I am sorry.")), memory()
    report, text = await made(model, store)
    assert sum(each.schema is None for each in model.requests) == 3
    assert (report.embedded, report.computed) == (True, True)
    assert report.models == ["scripted"], "it wrote the specification"
    assert "3 answers held no page; the last one: the answer holds no code block" in text
    assert "this is the game that ships with flowkit" in text
    page = (await store.get(report.game.sha256)).decode()
    assert "<title>Sabre Gomoku</title>" in page
    assert '"black": "Ink"' in page


async def test_a_model_whose_pages_never_pass_is_asked_four_times() -> None:
    model = ScriptedModel(never(block(DIALOG)))
    report, text = await made(model)
    assert sum(each.schema is None for each in model.requests) == 4
    assert report.embedded
    assert "4 versions were refused; the last one: - [structure, dialog]" in text


async def test_a_specification_that_is_none_is_replaced_and_said() -> None:
    def script(request: ModelRequest, index: int) -> Any:
        return '{"title": ""}' if request.schema_name else block(GOOD)

    report, _ = await made(ScriptedModel(script))
    assert not report.embedded
    assert report.fallbacks[0].startswith("specification: plain_specification. specify: BadAnswer")
    assert report.title == "Gomoku with skills"


async def test_without_any_model_both_stand_ins_answer() -> None:
    report, text = await made(None)
    assert report.embedded
    assert report.models == []
    assert "plain_specification" in report.fallbacks[0]
    assert "embedded_game" in report.fallbacks[1]
    assert "the engine has none" in text


async def test_a_crash_at_any_event_resumes_to_the_same_report_without_asking_twice() -> None:
    script, store = mends(block(DIALOG)), memory()
    report, text = await made(ScriptedModel(script), store)
    stored = await store.load("r")
    answers = len([each for each in stored.events if isinstance(each.payload, ev.ModelAnswered)])
    assert answers == 3
    for seq in range(2, stored.record.head):
        model, after = ScriptedModel(script), await crashed(store, "r", seq)
        async with running(after, NO_BROWSER, model=model) as engine:
            found = await engine.run(web_game, EXAMPLE, run_id="r")
        events = stored.events[:seq]
        known = len([each for each in events if isinstance(each.payload, ev.ModelAnswered)])
        assert len(model.requests) + known == answers, f"after event {seq}"
        assert await text_of(after, found) == text
        same = {"markdown", "html"}
        assert found.model_dump(exclude=same) == report.model_dump(exclude=same)


async def test_the_page_is_played_in_a_step_of_its_own() -> None:
    store = memory()
    async with running(store, NO_BROWSER, model=ScriptedModel(mends(block(DIALOG)))) as engine:
        await engine.run(web_game, EXAMPLE, run_id="r")
        events = await journal(engine, "r")
    done = [event.key for event in of(events, ev.StepDone)]
    assert [key for key in done if key.endswith("/play")] == ["game/t1/play", "game/t3/play"]
    assert [event.key for event in of(events, ev.Rejected)] == ["plays_right"]


@pytest.mark.parametrize(
    ("request_", "title", "says"),
    [
        ("a calm game", "Gomoku with skills", "No language model was used."),
        ("做一个带技能的五子棋", "技能五子棋", "没有使用语言模型"),
    ],
)
async def test_offline_in_both_languages(request_: str, title: str, says: str) -> None:
    store = memory()
    async with running(store, NO_BROWSER, model=OfflineModel(OFFLINE_RULES)) as engine:
        report = await engine.run(web_game, GameRequest(request=request_))
    assert report.title == title
    assert report.computed
    assert not report.embedded
    html = (await store.get(report.html.sha256)).decode()
    assert says in html
    assert says in await text_of(store, report)


async def test_hostile_texts_of_a_specification_are_texts() -> None:
    evil = {**SPEC, "title": "<img src=x>", "look": "</p><script>1</script>"}

    def script(request: ModelRequest, index: int) -> Any:
        return evil if request.schema_name else block(GOOD)

    store = memory()
    async with running(store, NO_BROWSER, model=ScriptedModel(script)) as engine:
        report = await engine.run(web_game, EXAMPLE)
    html = (await store.get(report.html.sha256)).decode()
    assert "<img src=x>" not in html
    assert "<script>" not in html


def test_shipped() -> None:
    assert shipped()["web_game"] == "flowkit.workflows.web_game:web_game"
