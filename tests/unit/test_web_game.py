"""Parts of the game's making: a page out of an answer, its seal, what its text tells, the specification."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowkit.chat import ChatMessage, ModelRequest
from flowkit.errors import NoModel
from flowkit.model import OfflineModel
from flowkit.workflows.web_game import (
    OFFLINE_RULES,
    Browser,
    GameRequest,
    Specification,
    embedded,
    prompts,
)
from flowkit.workflows.web_game.extract import NoPage, page_of, sealed
from flowkit.workflows.web_game.play.browser import NOBODY, ways
from flowkit.workflows.web_game.play.structure import HOOKS, faults_of
from flowkit.workflows.web_game.values import RULES, Rules

PAGE = "<!DOCTYPE html>\n<html><head><title>x</title></head><body></body></html>\n"


def fenced(text: str, name: str = "html", fence: str = "```") -> str:
    return f"{fence}{name}\n{text}{fence}"


# ---- one page out of an answer


@pytest.mark.parametrize(
    "answer",
    [
        fenced(PAGE),
        f"Here it is:\n\n{fenced(PAGE)}\n\nHave fun!",
        fenced(PAGE, name="HTML"),
        fenced(PAGE, name=""),
        fenced(PAGE, fence="~~~~"),
        fenced("npm run x\n", name="sh") + "\n" + fenced(PAGE),
        fenced(PAGE).replace("\n", "\r\n"),
    ],
)
def test_the_one_page_of_an_answer_is_taken(answer: str) -> None:
    assert page_of(answer).splitlines() == PAGE.splitlines()


def test_a_shorter_fence_inside_the_page_does_not_end_it() -> None:
    page = PAGE.replace("<body>", "<body>\n<pre>\n```\nx\n```\n</pre>")
    assert page_of(fenced(page, fence="````")) == page


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("", "no code block"),
        ("I cannot do that.", "no code block"),
        (PAGE, "no code block"),
        (fenced("x = 1\n", name="python"), "none of them HTML"),
        (f"{fenced(PAGE)}\n{fenced(PAGE)}", "2 HTML blocks"),
        (f"```html\n{PAGE[:40]}", "breaks off inside its code block, after 40 characters"),
        (f"{fenced(PAGE)}\n```html\n{PAGE[:40]}", "breaks off inside"),
        (fenced("<div>a board</div>\n"), "no whole page"),
        (fenced(PAGE.replace("</html>", "")), "it has no </html>"),
        (fenced(PAGE.replace("x", "x" * 400_001)), "400000 are the limit"),
    ],
)
def test_an_answer_without_one_whole_page_says_what_to_do(answer: str, says: str) -> None:
    with pytest.raises(NoPage, match=re.escape(says)):
        page_of(answer)


@pytest.mark.parametrize("before", ["", "<!-- <head> -->\n", "<!-- <!doctype html> -->"])
def test_a_sealed_page_begins_with_a_policy_that_loads_nothing(before: str) -> None:
    page = sealed(f"{before}<!doctype html>\n<!-- <head> --><html><head></head></html>")
    rest = page.removeprefix(before).removeprefix("<!doctype html>").lstrip()
    assert rest.startswith('<meta http-equiv="Content-Security-Policy" content="default-src')
    assert page.count("Content-Security-Policy") == 1


# ---- what the text tells


def whole(**changes: str) -> str:
    """The embedded page, with pieces replaced."""
    page = embedded.page(embedded.plain("en"))
    for old, new in changes.items():
        page = page.replace(old, new)
    return page


def test_the_embedded_page_has_no_fault_in_its_text() -> None:
    for language in ("en", "zh"):
        assert faults_of(sealed(embedded.page(embedded.plain(language)))) == []


@pytest.mark.parametrize(
    ("piece", "check", "seen"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "network", "cdn.example/x.js"),
        ('<link rel="stylesheet" href="style.css">', "network", "style.css"),
        ("<style>@import 'x.css';</style>", "network", "@import"),
        ("<script>fetch('/x')</script>", "network", "fetch("),
        ("<script>alert('you win')</script>", "dialog", "alert("),
        ("<script>localStorage.x = 1</script>", "storage", "localStorage"),
        ("<script>eval('1')</script>", "code", "eval("),
        ('<iframe srcdoc="x"></iframe>', "network", "iframe"),
    ],
)
def test_what_a_page_must_not_have_is_named_with_its_line(
    piece: str, check: str, seen: str
) -> None:
    page = whole().replace("</main>", f"</main>\n{piece}")
    (fault,) = faults_of(page)
    assert (fault.check, fault.where) == (check, "structure")
    assert seen in fault.seen


def test_a_page_without_the_contract_is_told_which_attributes_are_missing() -> None:
    faults = {fault.check: fault.seen for fault in faults_of(PAGE)}
    assert all(hook in faults["contract"] or "none" in faults["contract"] for hook in HOOKS)
    assert faults["phone"] == "there is none"
    camel = whole().replace("data-winner", "data-loser").replace("dataset.winner", "dataset.loser")
    assert "data-winner" in faults_of(camel)[0].seen


# ---- specification, prompts, embedded game


def test_language_is_the_one_asked_for_or_that_of_the_request() -> None:
    assert GameRequest(request="五子棋，带技能").spoken == "zh"
    assert GameRequest(request="five in a row").spoken == "en"
    assert GameRequest(request="五子棋，带技能", language="en").spoken == "en"


def test_a_model_is_not_asked_for_what_the_steps_fill_in() -> None:
    asked = Specification.model_json_schema()["properties"]
    assert {"title", "black", "white", "look", "wishes", "assumptions"} == set(asked)


def test_the_figures_that_the_checks_play_by_are_told_to_the_writer() -> None:
    assert Rules(board=15, in_a_row=5, energy=100, energy_max=100, gain=10, skip_cost=30, force_cost=50) == RULES  # fmt: skip
    told = prompts.write(embedded.plain("zh"))[0].content or ""
    for words in ("15 x 15", "Skip, 30 energy", "placement, 50 energy", "gains 10", "above 100"):
        assert words in told
    assert all(hook in told for hook in HOOKS)
    assert "Simplified Chinese" in (prompts.write(embedded.plain("zh"))[1].content or "")


def test_a_specification_cannot_break_out_of_the_embedded_page() -> None:
    evil = "</script><b>x"
    spec = embedded.plain("en").model_copy(update={"title": evil, "black": evil})
    page = embedded.page(spec)
    assert evil not in page
    assert "&lt;/script&gt;" in page


async def test_the_offline_stand_in_answers_plain_text_by_the_rule_without_a_name() -> None:
    model = OfflineModel(OFFLINE_RULES)
    spec = embedded.plain("zh")
    answer = await model.respond(ModelRequest(tuple(prompts.write(spec))))
    assert page_of(answer.message.content or "") == embedded.page(spec)
    request = prompts.specify(GameRequest(request="做一个五子棋"))
    asked = ModelRequest(tuple(request), schema={}, schema_name="Specification")
    said = (await model.respond(asked)).message.content or ""
    assert Specification.model_validate_json(said).title == "技能五子棋"


async def test_the_rule_without_a_name_answers_no_request_that_has_one() -> None:
    model = OfflineModel({"": lambda request: "text"})
    asked = ModelRequest((ChatMessage("user", "x"),), schema={}, schema_name="Verdict")
    with pytest.raises(NoModel, match="Verdict"):
        await model.respond(asked)


# ---- who plays


def test_a_browser_is_named_or_refused_in_the_environment(tmp_path: Path) -> None:
    none = Browser.found({"FLOWKIT_CHROMIUM": "none"})
    assert none == Browser(None, "FLOWKIT_CHROMIUM is none")
    pytest.importorskip("playwright")
    named = tmp_path / "chrome"
    assert "there is no" in Browser.found({"FLOWKIT_CHROMIUM": str(named)}).why_not
    named.touch()
    assert Browser.found({"FLOWKIT_CHROMIUM": str(named)}) == Browser(named)


@pytest.mark.parametrize(("uid", "first"), [(0, NOBODY), (1000, None)])
def test_root_is_never_first_and_the_sandbox_always_is(
    monkeypatch: pytest.MonkeyPatch, uid: int, first: int | None
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    best, *rest = ways()
    assert (best.uid, best.sandbox) == (first, True)
    assert not any(way.sandbox for way in rest if way.uid is None)
    assert ("as root" in str(rest[-1])) is (uid == 0)
