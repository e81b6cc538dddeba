"""What users write, as the type checkers see it. `test_typing.py` runs them on it, and imports it.

Nothing here is run but the declarations: every line must pass under pyright strict, mypy strict and
ty, and every `@workflow` must pass flowkit's own checks at import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, assert_type

from pydantic import BaseModel

from flowkit import (
    Artifact,
    Budget,
    Context,
    Engine,
    Fatal,
    Ref,
    Reject,
    Replan,
    Retry,
    RunHandle,
    Workflow,
    workflow,
)
from flowkit.model import OpenAIModel
from flowkit.nodes import (
    CodePlanner,
    Fallback,
    Findings,
    Judge,
    Node,
    Plan,
    Planned,
    Planner,
    Sampled,
    Subflow,
    Tool,
    Turn,
    Verifier,
    best_of,
    planner,
    tool,
    verifier,
    vote,
)
from flowkit.nodes.tools import python_tool
from flowkit.nodes.tools.python import Code, PythonResult
from flowkit.store import MemoryStore, SqlStore


class Topic(BaseModel):
    text: str


class Page(BaseModel):
    text: str


class Report(BaseModel):
    text: str
    sources: list[str] = []


class Receipt(BaseModel):
    id: str


class Pool:
    """What a host service would inject."""

    def fetch(self, query: str) -> list[str]:
        return [query]


# ---- the sample of docs/design.md ----


@tool(retries=2, timeout_s=10)
async def search(ctx: Context, topic: Topic) -> Page:
    return Page(text=topic.text)


@tool(timeout_s=10)
async def archive(ctx: Context, topic: Topic) -> Page:
    return Page(text=topic.text)


@tool
async def write(ctx: Context, topic: Topic, found: Findings) -> Report:
    return Report(text=" ".join(page.text for page in found.of(search).values()))


@tool
async def write_from_template(ctx: Context, topic: Topic, found: Findings) -> Report:
    return Report(text=f"{topic.text}: {len(found)}")


@tool(effect="once")
async def publish(ctx: Context, report: Report) -> Receipt:
    return Receipt(id=ctx.idempotency_key)


@planner(tools=[search | archive], steps_max=12)
async def plan(ctx: Context, topic: Topic) -> Plan:
    return await ctx.model.complete(f"Plan research on {topic.text}", returns=Plan)


@verifier
async def cites_sources(ctx: Context, report: Report) -> None:
    if not report.sources:
        raise Reject("cite at least one source")


@workflow
def research(topic: Ref[Topic]) -> Ref[Report]:
    found = plan(topic)
    report = (write | write_from_template)(topic, found)
    return cites_sources(report, attempts=2)


async def sample(topic: Topic) -> None:
    async with Engine(
        SqlStore("flowkit.db"), workflows=[research], model=OpenAIModel.from_env()
    ) as engine:
        report = await engine.run(research, Topic(text="DAGs"), run_id="monday")
        assert_type(report, Report)
        await engine.resume("monday")
        handle = await engine.start(research, topic)
        assert_type(handle, RunHandle[Report])
        assert_type(handle.id, str)
        assert_type(await handle.result(), Report)
        async for event in handle.events():
            assert_type(event.seq, int)
        await handle.cancel()
        await handle.signal("go")


# ---- what the decorators make ----

assert_type(search, Tool[Topic, Page])
assert_type(write, Tool[Topic, Findings, Report])
assert_type(search | archive, Fallback[Topic, Page])
assert_type(plan, CodePlanner[Topic, Findings])
assert_type(cites_sources, Verifier[Report])
assert_type(research, Workflow[Topic, Report])


@tool
def read(ctx: Context, page: Page) -> Page:
    """A plain function runs in a worker thread."""
    return page


@tool(name="split-up", concurrency=4, version="2", backoff_s=0.1, backoff_max_s=5)
def split(ctx: Context, page: Page) -> list[Topic]:
    return [Topic(text=page.text)]


@tool(effect="pure")
async def merge(ctx: Context, pages: Sequence[Page], note: str) -> Report:
    return Report(text=note)


async def find_receipt(ctx: Context, report: Report) -> Receipt | None:
    """What became of an effect: its receipt, or None if it did not happen."""
    return None


def look_up(ctx: Context, report: Report, note: str) -> Receipt | None:
    """A plain function runs in a worker thread."""
    return Receipt(id=note)


@tool(effect="once", probe=find_receipt, timeout_s=10)
async def send(ctx: Context, report: Report) -> Receipt:
    return Receipt(id=ctx.idempotency_key)


@tool(effect="once", probe=look_up)
def post(ctx: Context, report: Report, note: str) -> Receipt:
    return Receipt(id=note)


assert_type(send, Tool[Report, Receipt])
assert_type(post, Tool[Report, str, Receipt])
assert_type(read, Tool[Page, Page])
assert_type(split, Tool[Page, list[Topic]])
assert_type(merge, Tool[Sequence[Page], str, Report])


# ---- planners ----


@planner(tools=[search, read, merge])
async def loop(ctx: Context, topic: Topic) -> Plan | Report:
    """Asked again after each plan, until it answers."""
    for turn in ctx.turns:
        assert_type(turn, Turn)
        assert_type(turn.results, Mapping[str, Any])
    if ctx.turns and ctx.last_turn:
        return Report(text="enough")
    first = search.step(topic, id="first")
    assert_type(first, Planned[Page])
    second = read.step(first)
    third = read.step(Page(text="x"), id="third")
    assert_type((search | archive).step(topic), Planned[Page])
    return Plan([first, second, third], again=True)


@planner
async def replanned(ctx: Context, topic: Topic, page: Page) -> Plan:
    """Options may be left out."""
    return Plan()


@planner
async def answers(ctx: Context, topic: Topic) -> Report | Plan:
    """The order of the members does not matter."""
    return Report(text=topic.text)


assert_type(loop, CodePlanner[Topic, Report])
assert_type(replanned, CodePlanner[Topic, Page, Findings])
assert_type(answers, CodePlanner[Topic, Report])


@tool
async def count(ctx: Context, found: Findings) -> int:
    assert_type(found.of(search), Mapping[str, Page])
    assert_type(found.of(search | archive), Mapping[str, Page])
    assert_type(found.of(split), Mapping[str, list[Topic]])
    assert_type(found.of(translate), Mapping[str, Report])
    assert_type([failure.message for failure in found.failures], list[str])
    return len(found)


# ---- class nodes ----


class Translate(Node[Report, Report]):
    """A node as a class."""

    async def run(self, ctx: Context, report: Report, /) -> Report:
        return report


class Join(Node[Report, Report, Report], retries=2, timeout_s=5, effect="pure"):
    """Its policy stands in the class line."""

    def __init__(self, glue: str) -> None:
        super().__init__(name=f"join-{len(glue)}")
        self.glue = glue

    async def run(self, ctx: Context, a: Report, b: Report, /) -> Report:
        return Report(text=self.glue.join([a.text, b.text]))


translate = Translate()
join = Join(" + ")


# ---- verifiers ----


@verifier(retries=1, timeout_s=5)
def is_long(ctx: Context, report: Report) -> None:
    """A plain function here, too."""


@verifier
async def agrees(ctx: Context, report: Report, page: Page) -> None:
    """The second input is evidence."""


@verifier
async def agrees_more(ctx: Context, report: Report, page: Page, topic: Topic, n: int) -> None:
    """Evidence of three kinds."""


assert_type(is_long, Verifier[Report])
assert_type(agrees, Verifier[Report, Page])


# ---- workflows ----


@workflow
def wired(topic: Ref[Topic]) -> Ref[Receipt]:
    page = search(topic)
    assert_type(page, Ref[Page])
    topics = split(page, id="topics")
    assert_type(topics, Ref[list[Topic]])
    pages = search.map(topics, id="pages", after=page)
    assert_type(pages, Ref[list[Page]])
    mapped = (archive | search).map(topics)
    assert_type(mapped, Ref[list[Page]])
    first = merge(pages, "a literal in place of a ref")
    second = merge(mapped, "another", id="merge-2", after=[page, topics])
    one = agrees(first, page)
    assert_type(one, Ref[Report])
    two = agrees_more(is_long(second), page, topic, count(plan(topic)), attempts=3)
    both = translate(join(one, two))
    assert_type(both, Ref[Report])
    return publish(both)


@workflow
def outer(topic: Ref[Topic]) -> Ref[Report]:
    report = research(topic, id="inner")
    assert_type(report, Ref[Report])
    return join(report, loop(topic), after=report)


# ---- what fits without being the same ----


class Cited(Report):
    """A report of a narrower kind."""


@tool
async def cite(ctx: Context, topic: Topic) -> Cited:
    return Cited(text=topic.text)


@tool
async def either(ctx: Context, report: Report | None, weight: float) -> list[Cited]:
    return []


@tool
async def pick(ctx: Context, reports: Sequence[Report]) -> Cited:
    return Cited(text="")


@workflow
def fitting(topic: Ref[Topic]) -> Ref[Report]:
    cited = cite(topic)
    several = either(cited, count(plan(topic)))
    translated = translate.map(several, id="each")
    assert_type(translated, Ref[list[Report]])
    picked = pick(several, after=translated)
    assert_type(cites_sources(picked, attempts=1), Ref[Report])
    return picked


# ---- what a node may ask of its context ----


@tool
async def asks(ctx: Context, topic: Topic) -> Receipt:
    assert_type(await ctx.model.complete("Say something"), str)
    assert_type(await ctx.model.complete("Report", returns=Report), Report)
    assert_type(await ctx.model.complete("Numbers", returns=list[int], repairs_max=1), list[int])
    assert_type(ctx.resource(Pool), Pool)
    assert_type(ctx.resource(Pool).fetch("x"), list[str])
    assert_type(await ctx.artifact(b"...", name="a.bin"), Artifact)
    assert_type(ctx.feedback, tuple[str, ...])
    assert_type(ctx.attempt, int)
    assert_type(ctx.deadline, float | None)
    await ctx.sleep(1)
    await ctx.signal("approved", timeout_s=60, returns=bool)
    await ctx.call(search, topic)
    ctx.progress({"half": True})
    if topic.text == "again":
        raise Retry(after_s=2)
    if topic.text == "other":
        raise Replan("there is no such page")
    if topic.text == "never":
        raise Fatal("no key")
    return Receipt(id=ctx.run_id)


async def runs(engine: Engine, topic: Topic) -> None:
    assert_type(await engine.run(wired, topic), Receipt)
    assert_type(await engine.run(outer, topic, budget=Budget(steps_max=9), deadline_s=60), Report)
    async with Engine(MemoryStore(), resources=[Pool()], recover=True) as other:
        assert_type(other, Engine)


# ---- 1 to 8 inputs ----


@tool
async def one_in(ctx: Context, a: int) -> str:
    return ""


@tool
async def two_in(ctx: Context, a: int, b: str) -> str:
    return ""


@tool
async def three_in(ctx: Context, a: int, b: str, c: bytes) -> str:
    return ""


@tool
async def four_in(ctx: Context, a: int, b: str, c: bytes, d: bool) -> str:
    return ""


@tool
async def five_in(ctx: Context, a: int, b: str, c: bytes, d: bool, e: float) -> str:
    return ""


@tool
async def six_in(ctx: Context, a: int, b: str, c: bytes, d: bool, e: float, f: Topic) -> str:
    return ""


@tool
async def seven_in(
    ctx: Context, a: int, b: str, c: bytes, d: bool, e: float, f: Topic, g: Page
) -> str:
    return ""


@tool
async def eight_in(
    ctx: Context, a: int, b: str, c: bytes, d: bool, e: float, f: Topic, g: Page, h: Report
) -> str:
    return ""


assert_type(eight_in, Tool[int, str, bytes, bool, float, Topic, Page, Report, str])


@verifier
async def judged(
    ctx: Context, a: str, b: str, c: bytes, d: bool, e: float, f: Topic, g: Page, h: Report
) -> None:
    """One value, and as much evidence as a node takes."""


@workflow
def arities(n: Ref[int]) -> Ref[str]:
    first = one_in(n)
    assert_type(first, Ref[str])
    second = two_in(n, first)
    third = three_in(n, second, b"")
    fourth = four_in(n, third, b"", True)
    fifth = five_in(n, fourth, b"", True, 0.5)
    sixth = six_in(n, fifth, b"", True, 0.5, Topic(text=""))
    seventh = seven_in(n, sixth, b"", True, 0.5, Topic(text=""), Page(text=""))
    eighth = eight_in(
        n, seventh, b"", True, 0.5, Topic(text=""), Page(text=""), Report(text=""), id="last"
    )
    assert_type(eighth, Ref[str])
    return judged(
        eighth, first, b"", True, 0.5, Topic(text=""), Page(text=""), Report(text=""), attempts=1
    )


@planner(tools=[one_in, two_in, eight_in])
async def plan_arities(ctx: Context, n: int) -> Plan:
    first = one_in.step(1)
    second = two_in.step(n, first)
    third = three_in.step(1, second, b"")
    fourth = four_in.step(1, third, b"", True)
    fifth = five_in.step(1, fourth, b"", True, 0.5)
    sixth = six_in.step(1, fifth, b"", True, 0.5, Topic(text=""))
    seventh = seven_in.step(1, sixth, b"", True, 0.5, Topic(text=""), Page(text=""))
    eighth = eight_in.step(
        1, seventh, b"", True, 0.5, Topic(text=""), Page(text=""), Report(text=""), id="last"
    )
    assert_type(eighth, Planned[str])
    return Plan([first, second, eighth])


investigate = Planner(
    "Answer the question. Cite every source.",
    takes=Topic,
    returns=Report,
    tools=[one_in, plan_arities, arities],
    turns_max=300,
)
assert_type(investigate, Planner[Topic, Report])
compare = Planner("Compare.", takes=(Page, Page), returns=str, name="compare", style="upfront")
assert_type(compare, Planner[Page, Page, str])
assert_type(best_of(investigate, 4, merge=True), Sampled[Topic, Report])
assert_type(vote(compare), Sampled[Page, Page, str])
assert_type(Judge("Is it clear?", checks=Report), Judge[Report])
against = Judge("Does it answer?", checks=Report, evidence=Topic, accept_at=0.8, name="against")
assert_type(against, Judge[Report, Topic])
assert_type(Subflow(arities), Subflow[int, str])
assert_type(python_tool(), Tool[Code, PythonResult])


@workflow
def investigated(topic: Ref[Topic]) -> Ref[Report]:
    report = best_of(investigate, 3)(topic)
    assert_type(report, Ref[Report])
    return against(report, topic, attempts=3)
