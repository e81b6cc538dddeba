"""A planner of hundreds of turns with two tools in each, in a process that dies at an append of its choice.

The model is scripted: it reads from the request which turn is asked for, so that it says the same to
whoever asks again. Each request and each attempt is a line in a ledger outside the journal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import anyio
from sqlalchemy import event

from flowkit import Context, Engine, Ref, Workflow, workflow
from flowkit.chat import ChatMessage, ModelRequest
from flowkit.events import Event
from flowkit.nodes import Planner, tool
from flowkit.ports import Message
from flowkit.store import SqlStore
from flowkit.testing import ScriptedModel, calls, says
from tests.fault.children import die

Phase = Literal["before", "inside", "told", "after"]
"""Where in an append to die: before it, with its rows written and not committed, when they are
committed and nobody has been told, or when the run has been told."""

ANSWER: Final = "all pages are alike"


class Ledger:
    """Appends a line for each attempt and each request; O_APPEND writes of one line are whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: str) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)

    def note(self, ctx: Context) -> None:
        self.write(f"{ctx.step} {ctx.alternative} {ctx.attempt}")


@tool
async def look(ctx: Context, page: int) -> str:
    """Read a page."""
    ctx.resource(Ledger).note(ctx)
    return f"page {page}: as the others"


@tool
def add(ctx: Context, one: int, other: int) -> int:
    """Add two numbers, in a thread."""
    ctx.resource(Ledger).note(ctx)
    return one + other


def flow(turns: int) -> Workflow[str, str]:
    """The planner, with a turn more than it needs."""
    asked = Planner(
        "Read the pages, then answer.",
        takes=str, returns=str, tools=[look, add], turns_max=turns + 2, name="asked",
    )  # fmt: skip

    @workflow
    def read_all(question: Ref[str]) -> Ref[str]:
        return asked(question)

    return read_all


def model(turns: int, ledger: Ledger) -> ScriptedModel:
    """Two calls in each turn, then the answer."""

    def rule(request: ModelRequest, index: int) -> ChatMessage:
        turn = 1 + sum(message.role == "assistant" for message in request.messages)
        ledger.write(f"turn {turn}")
        if turn > turns:
            return says(ANSWER)
        return calls(("look", {"page": turn}), ("add", {"one": turn, "other": turn}))

    return ScriptedModel(rule)


class DyingStore(SqlStore):
    """Kills its own process at its n-th append; never, for 0."""

    def __init__(self, folder: Path, at: int, phase: Phase) -> None:
        super().__init__(str(folder / "runs.db"))
        self._acknowledged = Ledger(folder / "acknowledged")
        self._left = at
        self._phase = phase

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        self._left -= 1
        if self._left == 0:
            self._arm()
        messages = await super().append(run_id, events, expect=expect, epoch=epoch)
        self._acknowledged.write(str(events[-1].seq))
        if self._left == 0:
            die()
        return messages

    def _arm(self) -> None:
        if self._phase == "before":
            die()
        elif self._phase == "inside":
            event.listen(self._place.engine, "commit", _die_of)
        elif self._phase == "told":
            writer = self._writer
            assert writer is not None
            commit: Callable[..., None] = writer._commit

            def committed(batch: Sequence[object]) -> None:
                commit(batch)
                die()

            setattr(writer, "_commit", committed)  # noqa: B010  (the writer's thread looks it up anew)


def _die_of(connection: object) -> None:
    die()


async def _run(folder: Path, turns: int, at: int, phase: Phase) -> str:
    ledger = Ledger(folder / "ledger")
    async with (
        DyingStore(folder, at, phase) as store,
        Engine(store, model=model(turns, ledger), resources=[ledger]) as engine,
    ):
        return await engine.run(flow(turns), "What is there?", run_id="r")


def live(folder: Path, turns: int, at: int, phase: Phase) -> None:
    """Begin the run of this folder or go on with it; die at the n-th append, or store the result."""
    result = anyio.run(_run, folder, turns, at, phase)
    (folder / "result").write_text(result)
