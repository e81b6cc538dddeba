"""The workflow that the fault tests kill: fan-out, retry, fallback, rejection, and a planner asked thrice.

Every attempt of every step appends one line to a ledger, a file outside the journal, so that a test can
count what really ran. No step looks at anything but its inputs and the attempt number, so the result is
one and the same however often the run is killed.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel

from flowkit import Context, Ref, Reject, workflow
from flowkit.nodes import Plan, planner, tool, verifier


class Topic(BaseModel):
    text: str


class Note(BaseModel):
    text: str


class Report(BaseModel):
    text: str
    sources: list[str] = []


class Ledger:
    """Appends the attempts of one process; O_APPEND writes of one line are whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, ctx: Context) -> None:
        line = f"{ctx.step} {ctx.alternative} {ctx.attempt}\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, line.encode())
        os.close(handle)


@tool
async def split(ctx: Context, topic: Topic) -> list[Topic]:
    ctx.resource(Ledger).write(ctx)
    return [Topic(text=f"{topic.text}{index}") for index in range(3)]


@tool(retries=1, backoff_s=0.001)
async def fetch(ctx: Context, topic: Topic) -> Note:
    ctx.resource(Ledger).write(ctx)
    if ctx.attempt == 1:
        raise ConnectionError("the first try fails")
    return Note(text=f"page {topic.text}")


@tool
def primary(ctx: Context, topic: Topic) -> Note:
    ctx.resource(Ledger).write(ctx)
    raise ConnectionError("down")


@tool
async def backup(ctx: Context, topic: Topic) -> Note:
    ctx.resource(Ledger).write(ctx)
    return Note(text=f"backup {topic.text}")


@tool
async def look(ctx: Context, topic: Topic) -> Note:
    ctx.resource(Ledger).write(ctx)
    return Note(text=f"seen {topic.text}")


@planner(tools=[look, primary | backup])
async def explore(ctx: Context, topic: Topic) -> Plan | Report:
    ctx.resource(Ledger).write(ctx)
    if len(ctx.turns) < 2:
        turn = len(ctx.turns) + 1
        first = look.step(Topic(text=f"{topic.text}-{turn}"), id="first")
        return Plan([first, (primary | backup).step(Topic(text="x"), id="second")], again=True)
    seen = [note.text for turn in ctx.turns for note in turn.results.values()]
    return Report(text=", ".join(seen))


@tool
async def write(ctx: Context, notes: list[Note], other: Note, report: Report) -> Report:
    ctx.resource(Ledger).write(ctx)
    texts = [*(note.text for note in notes), other.text, report.text]
    return Report(text="; ".join(texts), sources=list(ctx.feedback))


@verifier
async def has_sources(ctx: Context, report: Report) -> None:
    ctx.resource(Ledger).write(ctx)
    if not report.sources:
        raise Reject("name a source")


@tool
async def publish(ctx: Context, report: Report) -> Report:
    ctx.resource(Ledger).write(ctx)
    return Report(text=f"published: {report.text}", sources=report.sources)


@workflow
def w12(topic: Ref[Topic]) -> Ref[Report]:
    notes = fetch.map(split(topic))
    other = (primary | backup)(topic)
    checked = has_sources(write(notes, other, explore(topic)))
    return publish(checked)


RESULT = Report(
    text=("published: page t0; page t1; page t2; backup t; seen t-1, backup x, seen t-2, backup x"),
    sources=["name a source"],
)
