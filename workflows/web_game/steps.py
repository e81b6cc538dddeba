"""The steps: specify, write, play, check, hand over; and what stands in where a model cannot."""

from __future__ import annotations

import datetime as dt
import importlib.util
import time
from collections.abc import Sequence

import anyio.to_thread

from flowkit import Context, Reject
from flowkit.chat import ModelRequest
from flowkit.nodes import Plan, Turn, planner, tool, verifier
from flowkit.workflows.web_game import embedded, prompts
from flowkit.workflows.web_game.extract import NoPage, page_of, sealed
from flowkit.workflows.web_game.play.browser import Browser, played
from flowkit.workflows.web_game.play.structure import faults_of
from flowkit.workflows.web_game.values import (
    Attempt,
    Fault,
    Game,
    GameReport,
    GameRequest,
    Page,
    Play,
    Specification,
)

VERSIONS_MAX = 4
"""Pages of a model that may be refused; then the embedded one is handed over."""

ANSWERS_MAX = 3
"""Answers without a page, one after the other."""

FAULTS_MAX = 8
"""Faults that are told at once."""


@tool(timeout_s=600)
async def specify(ctx: Context, request: GameRequest) -> Specification:
    """A typed specification of a vague request, by the model."""
    found: Specification = await ctx.model.complete(prompts.specify(request), returns=Specification)
    return found.model_copy(update={"language": request.spoken, "author": ctx.model.name})


@tool
async def plain_specification(ctx: Context, request: GameRequest) -> Specification:
    """The specification of the embedded game."""
    return embedded.plain(request.spoken)


@tool(timeout_s=500, retries=1)
async def play(ctx: Context, page: Page) -> Play:
    """Look at a page, then play it in a real browser, where there is one."""
    html = (await ctx.read(page.html)).decode()
    faults, began = faults_of(html), time.monotonic()
    browser = _browser(ctx)
    if browser.program is None:
        return Play(why_not=browser.why_not, faults=faults)
    heard, way = await played(browser.program, html)
    if way is None:
        return Play(why_not=f"Chromium did not start ({heard.trouble})", faults=faults)
    pictures = [
        await ctx.artifact(png, name=name, media_type="image/png")
        for name, png in heard.pictures.items()
    ]
    return Play(
        browser=heard.browser,
        sandbox=str(way),
        passed=heard.passed,
        faults=[*faults, *heard.faults],
        screenshots=pictures,
        seconds=round(time.monotonic() - began, 1),
    )


def _browser(ctx: Context) -> Browser:
    try:
        return ctx.resource(Browser)
    except LookupError:
        return Browser.found()


@planner(tools=[play], turns_max=2 * VERSIONS_MAX + 2)
async def writer(ctx: Context, specification: Specification) -> Plan | Game:
    """A page by the model, and how it played; asked again with what a check refused."""
    attempts = attempts_of(ctx.turns)
    last = ctx.turns[-1] if ctx.turns else None
    if last is not None and last.steps:
        if last.failures:
            raise RuntimeError(f"the page could not be tried: {last.failures[0].message}")
        return Game(page=_page(last), play=last.results["play"], attempts=attempts)
    refused = [each for each in attempts if each.faults]
    if last is not None and len(refused) >= VERSIONS_MAX:
        raise RuntimeError(
            f"{len(refused)} versions were refused; the last one: {'; '.join(last.feedback)[:600]}"
        )
    page = await _write(ctx, specification, last)
    return Plan([play.step(page, id="play")], again=True)


async def _write(ctx: Context, specification: Specification, last: Turn | None) -> Page:
    """Ask for a page until an answer holds one."""
    opening = prompts.write(specification)
    messages = opening
    if last is not None:
        said = list(ctx.turns[-2].answers.values()) if len(ctx.turns) > 1 else []
        text = (said[-1].message.content or "") if said else ""
        messages = [*opening, *prompts.mend(text, "\n".join(last.feedback))]
    wrong = ""
    for number in range(ANSWERS_MAX):
        answer = await ctx.model.respond(
            ModelRequest(tuple(messages)), purpose=f"again-{number}" if number else ""
        )
        text = answer.message.content or ""
        try:
            html = sealed(page_of(text))
        except NoPage as problem:
            wrong = str(problem)
            if answer.finish_reason == "length":
                wrong += " It was cut off at the limit of its length."
            messages = [*opening, *prompts.mend(text[:20_000], wrong)]
            continue
        kept = await ctx.artifact(html, name="game.html", media_type="text/html")
        return Page(html=kept, author=answer.model or ctx.model.name)
    raise RuntimeError(f"{ANSWERS_MAX} answers held no page; the last one: {wrong}")


def _page(turn: Turn) -> Page:
    return Page.model_validate_json(turn.steps[0].inputs[0].text or "")


def attempts_of(turns: Sequence[Turn]) -> list[Attempt]:
    """Every answer so far: those without a page, those that were refused, and the last one."""
    found: list[Attempt] = []
    for turn in turns:
        if not turn.steps:
            continue
        author = _page(turn).author
        for answer in turn.answers.values():
            try:
                page_of(answer.message.content or "")
                tried = turn.results.get("play")
                faults = [str(each) for each in tried.faults] if isinstance(tried, Play) else []
            except NoPage as problem:
                faults = [str(problem)]
            found.append(Attempt(number=len(found) + 1, author=author, faults=faults))
    return found


@tool(timeout_s=600)
async def embedded_game(ctx: Context, specification: Specification) -> Game:
    """The game that ships with flowkit, with the specification's title and names, and how it played."""
    html = sealed(embedded.page(specification))
    kept = await ctx.artifact(html, name="game.html", media_type="text/html")
    page = Page(html=kept, author="flowkit", embedded=True)
    return Game(page=page, play=await ctx.call(play, page))


@verifier
async def plays_right(ctx: Context, game: Game) -> None:
    """What was seen in the play is what the rules and the contract say."""
    if game.play.faults:
        raise Reject(feedback_of(game.play.faults))


def feedback_of(faults: Sequence[Fault]) -> str:
    """The faults as a model reads them: a line each."""
    more = [f"and {len(faults) - FAULTS_MAX} more"] if len(faults) > FAULTS_MAX else []
    return "\n".join([*(f"- {each}" for each in faults[:FAULTS_MAX]), *more])


@tool(timeout_s=60)
async def hand_over(
    ctx: Context, request: GameRequest, specification: Specification, game: Game
) -> GameReport:
    """The game with a report of how it came about, as a page and as Markdown."""
    if importlib.util.find_spec("jinja2") is None:
        raise ImportError('the report needs jinja2: pip install "flowkit-agents[workflows]"')
    from flowkit.workflows.web_game.report import Told, render, report_of

    told = Told(
        request=request,
        specification=specification,
        game=game,
        pictures={each.name: await ctx.read(each) for each in game.play.screenshots},
        steps=[step for step in ctx.history() if step.key != ctx.step and "/" not in step.key],
        run_id=ctx.run_id,
        written_at=dt.datetime.now(dt.UTC),
    )
    page = await anyio.to_thread.run_sync(render, told, "report.html.j2")
    text = await anyio.to_thread.run_sync(render, told, "report.md.j2")
    return report_of(
        told,
        html=await ctx.artifact(page, name="report.html", media_type="text/html"),
        markdown=await ctx.artifact(text, name="report.md", media_type="text/markdown"),
    )
