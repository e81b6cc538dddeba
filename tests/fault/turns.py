"""The talk that the fault tests kill: a ready-made planner, hundreds of turns, and all that goes wrong in them.

The script is a function of the request: it reads from the history which turn is asked for, so that it says
the same to whoever asks again, in whatever process. Every attempt of a tool or a verifier appends a line to
a ledger outside the journal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio
from pydantic import BaseModel

from flowkit import Context, Engine, Ref, Reject, Workflow, workflow
from flowkit.chat import ChatMessage, ModelRequest, ToolCall
from flowkit.model import OpenAIModel, Profile
from flowkit.nodes import Planner, tool, verifier
from flowkit.policy import Policy
from flowkit.store import SqlStore
from flowkit.testing import TRANSIENT, Fault, Faults

TASK: Final = "What stands on all these pages?"
QUICK: Final = Policy(retries=8, backoff_s=0.01, backoff_max_s=0.05)
WORDS: Final = "what stands on a page, as a tool would tell it; " * 8


class Page(BaseModel):
    number: int
    words: list[str] = []


class Report(BaseModel):
    text: str
    sources: list[str] = []


class Ledger:
    """Told of each attempt that ran, as "key alternative attempt"."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell

    def write(self, ctx: Context) -> None:
        self._tell(f"{ctx.step} {ctx.alternative} {ctx.attempt}")


# ---- the workflow ----


@tool
async def look(ctx: Context, page: Page) -> str:
    """Read a page."""
    ctx.resource(Ledger).write(ctx)
    return f"page {page.number} ({', '.join(page.words)}): {WORDS}"


@tool
def add(ctx: Context, one: int, other: int) -> int:
    """Add two numbers, in a thread."""
    ctx.resource(Ledger).write(ctx)
    return one + other


@tool(retries=1, backoff_s=0.001)
async def weigh(ctx: Context, thing: str) -> float:
    """Weigh a thing. The first try fails, and lead breaks the scales."""
    ctx.resource(Ledger).write(ctx)
    if ctx.attempt == 1 or "lead" in thing:
        raise OSError(f"the scales cannot bear {thing}")
    return 1.5


@verifier
async def cites(ctx: Context, report: Report) -> None:
    ctx.resource(Ledger).write(ctx)
    if not report.sources:
        raise Reject("name your sources")


def flow(turns: int) -> Workflow[str, Report]:
    """The planner, asked at most so many turns, and the verifier of its answer."""
    asked = Planner(
        "Read the pages, then answer. Name your sources.",
        takes=str, returns=Report, tools=[look, add, weigh], turns_max=turns,
    )  # fmt: skip

    @workflow
    def read_all(question: Ref[str]) -> Ref[Report]:
        return cites(asked(question))

    return read_all


async def run(path: Path, base_url: str, turns: int, window: int, ledger: Ledger) -> Report:
    """Begin the run in this file, or go on with it, to its end; `window` in tokens."""
    profile = replace(Profile.named("kimi-k2-thinking"), context_tokens=window)
    model = OpenAIModel("kimi-k2-thinking", base_url=base_url, profile=profile, environ={})
    async with (
        model,
        SqlStore(path) as store,
        Engine(store, model=model, model_policy=QUICK, resources=[ledger]) as engine,
    ):
        with anyio.fail_after(300):
            return await engine.run(flow(turns), TASK, run_id="r")


# ---- what the model says ----


def script(turns: int) -> Callable[[ModelRequest, int], object]:
    """The model of a talk that ends at its last turn."""

    def rule(request: ModelRequest, index: int) -> object:
        if is_correction(request):
            return _corrected(request)
        turn, again = place(request)
        if is_summary(request):
            return ChatMessage("assistant", f"pages up to {turn - 1} are alike", "in short")
        if not request.tools:
            return ChatMessage("assistant", json.dumps(REPORT), f"turn {turn}: the last")
        if turn == turns * 4 // 5:
            return _says(turn, ("answer", {"text": "no sources"}))
        return _SAID[turn % len(_SAID)](turn, again)

    return rule


REPORT: Final = {"text": "all pages are alike", "sources": ["page 1"]}


def place(request: ModelRequest) -> tuple[int, bool]:
    """The turn that a request asks for, and whether it is asked once more, after a word of the planner."""
    text = request.messages[-1].content or ""
    said = next((each for each in reversed(request.messages) if each.role == "assistant"), None)
    done = 0
    if said is not None:
        known = re.match(r"turn (\d+)", said.reasoning or "")
        done = int(known[1]) if known else int(said.tool_calls[0].id.rpartition(":")[2]) // 10
    if text.startswith("This is no answer") or "answer was not called" in text:
        return done, True
    return done + 1, False


def is_correction(request: ModelRequest) -> bool:
    return "syntax expert" in (request.messages[0].content or "")


def is_summary(request: ModelRequest) -> bool:
    return "is about to be taken away" in (request.messages[-1].content or "")


def turn_of(request: ModelRequest) -> int:
    """The turn that a request belongs to."""
    if is_correction(request):
        return int(re.findall(r'number"?: (\d+)', request.messages[-1].content or "")[0])
    return place(request)[0]


def _corrected(request: ModelRequest) -> str:
    """Arguments mended when asked for; those of a page without words are hopeless."""
    if "words" not in (request.messages[-1].content or "").partition("written:\n")[2]:
        return "I cannot tell what was meant."
    return f'```json\n{{"number": {turn_of(request)}, "words": ["corrected"]}}\n```'


def _says(turn: int, *wanted: tuple[str, object], text: str | None = None) -> ChatMessage:
    """A message with its turn in the reasoning, and in the ids of its calls."""
    made = tuple(
        ToolCall(
            f"functions.{name}:{turn * 10 + n}",
            name,
            given if isinstance(given, str) else json.dumps(given),
        )
        for n, (name, given) in enumerate(wanted)
    )
    return ChatMessage("assistant", text, f"turn {turn}: think of it", tool_calls=made)


def _page(turn: int, *words: str) -> tuple[str, object]:
    return "look", {"number": turn, "words": list(words)}


def _one(turn: int, again: bool) -> ChatMessage:
    return _says(turn, _page(turn, "plain"))


def _aloud(turn: int, again: bool) -> ChatMessage:
    return _says(turn, _page(turn, "ünïcode", "\N{PILE OF POO}"), text="I look at the next page.")


def _side_by_side(turn: int, again: bool) -> ChatMessage:
    return _says(turn, _page(turn, "a"), ("add", {"one": turn, "other": 1}), _page(turn, "b"))


def _repaired(turn: int, again: bool) -> ChatMessage:
    return _says(turn, ("look", f'{{"number": {turn}, "words": ["repaired",]}}'), _page(turn))


def _broken(turn: int, again: bool) -> ChatMessage:
    return _says(turn, ("look", f'{{"number": {turn}, "words": ["bro'), _page(turn, "whole"))


def _hopeless(turn: int, again: bool) -> ChatMessage:
    return _says(turn, ("look", f'{{"number": {turn}, '))


def _unknown(turn: int, again: bool) -> ChatMessage:
    return _says(turn, ("lock", {"number": turn}), ("add", {"one": turn, "other": 2}))


def _failing(turn: int, again: bool) -> ChatMessage:
    return _says(turn, ("weigh", {"thing": f"lead {turn}"}), ("weigh", {"thing": f"air {turn}"}))


def _failed_again(turn: int, again: bool) -> ChatMessage:
    """The same call that fails, alone; where it has failed before, it is refused."""
    return _says(turn, ("weigh", {"thing": "lead"}))


def _no_answer(turn: int, again: bool) -> ChatMessage:
    return _one(turn, again) if again else _says(turn, text="I think I know it all.")


def _bad_answer(turn: int, again: bool) -> ChatMessage:
    answer = "answer", f'{{"text": "early", number: {turn}'
    return _one(turn, again) if again else _says(turn, answer)


def _early_answer(turn: int, again: bool) -> ChatMessage:
    return _says(turn, _page(turn), ("answer", {"text": "early", "sources": ["none"]}))


def _same(turn: int, again: bool) -> ChatMessage:
    return _says(turn, _page(0, "the same"))


def _recall(turn: int, again: bool) -> ChatMessage:
    return _says(turn, ("recall", {"id": f"functions.look:{turn * 10 - 160}"}), _page(turn))


def _thoughtless(turn: int, again: bool) -> ChatMessage:
    """Reasoning that is there and empty, which must go back as it came."""
    return ChatMessage("assistant", None, "", tool_calls=_one(turn, again).tool_calls)


_SAID: Final = (
    _one, _aloud, _side_by_side, _repaired, _one, _broken, _side_by_side, _hopeless, _unknown, _failing,
    _side_by_side, _failed_again, _aloud, _no_answer, _early_answer, _side_by_side, _same, _recall,
    _thoughtless, _bad_answer,
)  # fmt: skip

# ---- what the server does wrong ----

VARIANTS: Final = ("plain", "singular", "arguments", "no_prefix", "no_end", "sections")
HARMLESS: Final = ("index_zero", "odd_chunks", "finish_stop", "finish_twice")


def faults(seed: int, rate: float = 0.15) -> Callable[[ModelRequest, int], Fault | None]:
    """Faults by lot that change nothing of what is said, and calls that leak, in the same turns always."""
    lots = Faults(rate, (*TRANSIENT, *HARMLESS), seed=seed)

    def rule(request: ModelRequest, nth: int) -> Fault | None:
        turn = turn_of(request)
        kind: Any = _SAID[turn % len(_SAID)]
        if request.tools and turn % 3 == 0 and kind in (_one, _aloud, _side_by_side):
            where: Any = "reasoning" if turn % 2 else "content"
            variant: Any = VARIANTS[turn % len(VARIANTS)]
            return Fault.leaked(where, variant=variant)
        asked = f"{turn} {len(request.messages)} {request.messages[-1].content}"
        return lots.draw(asked, nth)

    return rule
