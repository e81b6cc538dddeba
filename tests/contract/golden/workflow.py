"""The workflow of the golden databases. Do not change it: runs of it are stored in them.

Each `schemaN.db.gz` beside it is a database with a run that was killed in the middle, made by the last
code of schema N: for schema 1 commit f63d19e, to which this file and make.py were copied, for schema 2
the commit that added it. `make.py` says how.
"""

from __future__ import annotations

from pydantic import BaseModel

from flowkit import Artifact, Context, Ref, Reject, workflow
from flowkit.nodes import Plan, planner, tool, verifier


class Topic(BaseModel):
    text: str


class Note(BaseModel):
    text: str
    file: Artifact | None = None


class Report(BaseModel):
    text: str
    pages: list[str] = []


class Ran:
    """What the host injects: notes which steps have run in this process."""

    def __init__(self) -> None:
        self.steps: list[str] = []


@tool
async def split(ctx: Context, topic: Topic) -> list[Topic]:
    ctx.resource(Ran).steps.append(ctx.step)
    return [Topic(text=f"{topic.text} {number}") for number in range(3)]


@tool
async def fetch(ctx: Context, topic: Topic) -> Note:
    ctx.resource(Ran).steps.append(ctx.step)
    if topic.text.endswith("0"):
        file = await ctx.artifact(b"a file " * 12_000, name="a.txt")
        return Note(text=topic.text, file=file)
    number = topic.text.rpartition(" ")[2]
    answer = await ctx.signal(f"go-{number}", returns=str)
    return Note(text=f"{topic.text}: {answer}")


@tool
async def measure(ctx: Context, topic: Topic) -> Note:
    ctx.resource(Ran).steps.append(ctx.step)
    return Note(text="long " * 14_000)


@planner(tools=[measure])
async def explore(ctx: Context, topic: Topic) -> Plan | Report:
    ctx.resource(Ran).steps.append(f"{ctx.step} turn {len(ctx.turns) + 1}")
    if len(ctx.turns) < 2:
        return Plan([measure.step(topic, id="long")], again=True)
    last = await ctx.signal("conclude", returns=str)
    sizes = [len(turn.results["long"].text) for turn in ctx.turns]
    return Report(text=f"{sizes} {last}")


@tool
async def write(ctx: Context, topic: Topic) -> Report:
    ctx.resource(Ran).steps.append(ctx.step)
    return Report(text=f"about {topic.text}", pages=list(ctx.feedback))


@verifier
async def is_cited(ctx: Context, report: Report) -> None:
    ctx.resource(Ran).steps.append(ctx.step)
    if not report.pages:
        raise Reject("cite a page")


@tool
async def join(ctx: Context, found: Report, report: Report, notes: list[Note]) -> Report:
    ctx.resource(Ran).steps.append(ctx.step)
    assert notes[0].file is not None
    file = await ctx.read(notes[0].file)
    text = f"{found.text}, {report.text}, {len(file)} bytes"
    return Report(text=text, pages=[*report.pages, *(note.text for note in notes)])


@workflow
def golden(topic: Ref[Topic]) -> Ref[Report]:
    found = explore(topic)
    report = is_cited(write(topic), attempts=2)
    return join(found, report, fetch.map(split(topic)))


RUN = "golden"
TOPIC = Topic(text="gold")
RESULT = Report(
    text="[70000, 70000] enough, about gold, 84000 bytes",
    pages=["cite a page", "gold 0", "gold 1: yes", "gold 2: no"],
)
