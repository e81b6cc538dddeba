"""The sample of the design, as its readers see it, with small models and tools filled in."""

import sys

import anyio
from pydantic import BaseModel

from flowkit import Context, Engine, Ref, Reject, workflow
from flowkit.model import OpenAIModel
from flowkit.nodes import Findings, Judge, Plan, Planner, planner, tool, verifier
from flowkit.store import SqlStore


class Topic(BaseModel):
    text: str


class Page(BaseModel):
    url: str


class Report(BaseModel):
    sources: list[str]


class Question(BaseModel):
    text: str


class Receipt(BaseModel):
    key: str


@tool(retries=2, timeout_s=10, backoff_s=0.01)
async def search(ctx: Context, topic: Topic) -> Page:
    raise ConnectionError("no network here")


@tool(timeout_s=10)
async def archive(ctx: Context, topic: Topic) -> Page:
    return Page(url=f"archive:{topic.text}")


@tool(effect="once")  # not safe to repeat: a crash inside it stops for a decision
async def publish(ctx: Context, report: Report) -> Receipt:
    return Receipt(key=ctx.idempotency_key)


@planner(tools=[search | archive], steps_max=12)
async def plan(ctx: Context, topic: Topic) -> Plan:  # a planner in code; ctx.model is journaled
    return await ctx.model.complete(f"Plan research on {topic.text}", returns=Plan)


@tool
async def write(ctx: Context, topic: Topic, found: Findings) -> Report:
    raise RuntimeError("the writer is ill")


@tool
async def write_from_template(ctx: Context, topic: Topic, found: Findings) -> Report:
    return Report(sources=[page.url for page in found.of(search).values()] if ctx.feedback else [])


investigate = Planner(  # the same as a ready-made, asked again after every batch
    "Answer the question. Cite every source.",
    takes=Question,
    returns=Report,
    tools=[search | archive],
    turns_max=300,
)


@verifier
async def cites_sources(ctx: Context, report: Report) -> None:
    if not report.sources:
        raise Reject("cite at least one source")


@workflow
def research(topic: Ref[Topic]) -> Ref[Report]:
    found = plan(topic)  # grows the graph while it runs
    report = (write | write_from_template)(topic, found)
    return cites_sources(report, attempts=2)  # rejected: done again, with the feedback


@workflow
def investigation(question: Ref[Question]) -> Ref[Report]:
    judged = Judge("Every claim has a source.", checks=Report)
    return judged(cites_sources(investigate(question)))


async def main(path: str) -> None:
    topic = Topic(text="cranes")
    async with Engine(SqlStore(path), workflows=[research], model=OpenAIModel.from_env()) as engine:
        report = await engine.run(research, Topic(text="DAGs"), run_id="monday")
        print(report.sources)
        # in a new process, after a crash; entering the engine with recover=True resumes all of them
        report = await engine.resume("monday")
        print(report.sources)
        handle = await engine.start(
            research, topic
        )  # .id, .events(), .result(), .cancel(), .signal()
        print((await handle.result()).sources)
        print([event.kind async for event in handle.events()][-1])


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
