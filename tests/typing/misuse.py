"""What users get wrong. `test_typing.py` runs the type checkers on it; nothing here is executed.

A comment names who must report its line, and on no other line may anything be reported. pyright is
the authority; where another is silent, it cannot know.
"""
# ruff: noqa: B007, F841, RUF059 (nothing here is used)

from __future__ import annotations

from api import (
    Join,
    Page,
    Pool,
    Receipt,
    Report,
    Topic,
    agrees,
    archive,
    arities,
    cites_sources,
    eight_in,
    find_receipt,
    join,
    loop,
    merge,
    one_in,
    plan,
    publish,
    read,
    research,
    search,
    split,
    translate,
    two_in,
    write,
)

from flowkit import Budget, Context, Engine, Ref, workflow
from flowkit.nodes import (
    Findings,
    Judge,
    Node,
    Plan,
    Planned,
    Planner,
    planner,
    tool,
    verifier,
    vote,
)
from flowkit.store import MemoryStore

# ---- inputs of a step ----


def inputs(topic: Ref[Topic], page: Ref[Page], report: Ref[Report], n: Ref[int]) -> None:
    search(page)  # pyright mypy ty
    search(Page(text="a literal of the wrong type"))  # pyright mypy ty
    write(topic, page)  # pyright mypy ty
    write(topic)  # pyright mypy ty
    search()  # pyright mypy ty
    search(topic, page)  # pyright mypy ty
    one_in(n, n)  # pyright mypy ty
    two_in(n)  # pyright mypy ty
    eight_in(n)  # pyright mypy ty
    search(topic=topic)  # pyright mypy ty
    search(topic, id=3)  # pyright mypy ty
    search(topic, after="page")  # pyright mypy ty
    search(topic, retries=2)  # pyright mypy ty
    translate(page)  # pyright mypy ty
    join(report)  # pyright mypy ty
    loop(page)  # pyright mypy ty
    plan(topic, topic)  # pyright mypy ty
    search(search)  # pyright mypy ty
    publish(search(topic))  # pyright mypy ty


# ---- the ref that a step gives ----


def results(topic: Ref[Topic], pages: Ref[list[Page]]) -> None:
    wrong: Ref[Report] = search(topic)  # pyright mypy ty
    alone: Page = search(topic)  # pyright mypy ty
    loose: Ref[Page] = search.map(split(search(topic)))  # pyright mypy ty
    found: Ref[Plan] = plan(topic)  # pyright mypy ty
    checked: Ref[Page] = cites_sources(write(topic, plan(topic)))  # pyright mypy ty
    merge(search(topic), "")  # pyright mypy ty
    merge(pages, 7)  # pyright mypy ty
    inner: Ref[Page] = research(topic)  # pyright mypy ty


# ---- a | b ----


def alternatives() -> None:
    search | read  # pyright mypy ty
    search | write  # pyright mypy ty
    search | split  # pyright mypy ty
    search | publish  # pyright mypy ty
    search | cites_sources  # pyright mypy ty
    search | "archive"  # pyright mypy ty


# ---- probes ----


@tool(effect="once", probe=find_receipt)  # pyright mypy ty
async def takes_else(ctx: Context, page: Page) -> Receipt:
    return Receipt(id="")


@tool(effect="once", probe=find_receipt)  # pyright mypy ty
async def gives_else(ctx: Context, report: Report) -> Page:
    return Page(text="")


@tool(effect="once", probe=find_receipt)  # pyright mypy ty
async def takes_more(ctx: Context, report: Report, page: Page) -> Receipt:
    return Receipt(id="")


tool(probe=find_receipt)  # pyright mypy ty
tool(effect="pure", probe=find_receipt)  # pyright mypy ty
tool(effect="once", probe="find_receipt")  # pyright mypy ty
tool(effect="once", probe=find_receipt, retries=1)  # pyright mypy ty


# ---- map ----


def maps(topic: Ref[Topic], pages: Ref[list[Page]], topics: Ref[list[Topic]]) -> None:
    search.map(topic)  # pyright mypy ty
    search.map(pages)  # pyright mypy ty
    search.map([topic])  # pyright mypy ty
    two_in.map(topics)  # pyright mypy ty
    (search | archive).map(pages)  # pyright mypy ty


# ---- plans ----


def planned(topic: Ref[Topic], page: Ref[Page]) -> None:
    search.step(Page(text=""))  # pyright mypy ty
    search.step(search.step(Topic(text="")))  # pyright mypy ty
    search.step()  # pyright mypy ty
    search.step(Topic(text=""), Topic(text=""))  # pyright mypy ty
    search.step(topic)  # pyright mypy ty
    (search | archive).step(Page(text=""))  # pyright mypy ty
    two_in.step(1)  # pyright mypy ty
    eight_in.step(1)  # pyright mypy ty
    search.step(Topic(text=""), id=1)  # pyright mypy ty
    one: Planned[Report] = search.step(Topic(text=""))  # pyright mypy ty
    Plan([search])  # pyright mypy ty
    Plan([search.step(Topic(text=""))], once=True)  # pyright mypy ty
    cites_sources.step(Report(text=""))  # pyright mypy ty


@planner(tools=["search"])  # pyright mypy ty
async def plans_names(ctx: Context, topic: Topic) -> Plan:
    return Plan()


@planner(turns=3)  # pyright mypy ty
async def no_such_option(ctx: Context, topic: Topic) -> Plan:
    return Plan()


@planner  # pyright mypy ty
def plans_without_await(ctx: Context, topic: Topic) -> Plan:
    return Plan()


@planner
async def answers_wrong(ctx: Context, topic: Topic) -> Plan | Report:
    return Page(text="")  # pyright mypy ty


@planner
async def only_plans(ctx: Context, topic: Topic) -> Plan:
    return Report(text="")  # pyright mypy ty


def planners(topic: Ref[Topic]) -> None:
    publish(plan(topic))  # pyright mypy ty
    write(topic, loop(topic))  # pyright mypy ty


# ---- declarations ----


@tool(effect="twice")  # pyright mypy ty
async def no_such_effect(ctx: Context, topic: Topic) -> Page:
    return Page(text="")


@tool(retries="two")  # pyright mypy ty
async def retries_in_words(ctx: Context, topic: Topic) -> Page:
    return Page(text="")


@tool  # pyright mypy ty
async def without_context(topic: Topic) -> Page:
    return Page(text="")


@verifier  # pyright mypy ty
async def says_yes(ctx: Context, report: Report) -> bool:
    return True


class Reversed(Node[Report, Page]):
    async def run(self, ctx: Context, page: Page, /) -> Report:  # pyright mypy ty
        return Report(text=page.text)


class Unlike(Node[Report, Page]):
    async def run(self, ctx: Context, report: Report, /) -> Report:  # pyright mypy ty
        return report


class Wide(Node[Report, Report]):
    async def run(self, ctx: Context, a: Report, b: Report, /) -> Report:  # pyright mypy ty
        return a


class Blocking(Node[Report, Report]):
    def run(self, ctx: Context, report: Report, /) -> Report:  # pyright mypy ty
        return report


class NoOption(Node[Report, Report], retry=1):  # pyright mypy ty
    async def run(self, ctx: Context, report: Report, /) -> Report:
        return report


Join()  # pyright mypy ty


# ---- verifiers ----


def verified(page: Ref[Page], report: Ref[Report]) -> None:
    cites_sources(page)  # pyright mypy ty
    cites_sources(report, page)  # pyright mypy ty
    cites_sources(report, attempts="two")  # pyright mypy ty
    agrees(report)  # pyright mypy ty
    agrees(report, report)  # pyright mypy ty
    agrees(page, page)  # pyright mypy ty
    cites_sources | cites_sources  # pyright mypy ty


# ---- workflows ----


@workflow
def returns_another(topic: Ref[Topic]) -> Ref[Report]:
    return search(topic)  # pyright mypy ty


@workflow  # pyright mypy ty
def takes_two(topic: Ref[Topic], page: Ref[Page]) -> Ref[Page]:
    return read(page)


@workflow  # pyright mypy ty
def takes_none() -> Ref[Page]:
    raise NotImplementedError


@workflow  # pyright mypy ty
def takes_a_value(topic: Topic) -> Ref[Page]:
    raise NotImplementedError


@workflow  # pyright mypy ty
def gives_a_value(topic: Ref[Topic]) -> Page:
    return Page(text="")


def inlined(page: Ref[Page], topic: Ref[Topic]) -> None:
    research(page)  # pyright mypy ty
    research(topic, topic)  # pyright mypy ty
    research()  # pyright mypy ty


# ---- the engine ----


async def engines(engine: Engine, topic: Topic, page: Page) -> None:
    await engine.run(research, page)  # pyright mypy ty
    await engine.run(research)  # pyright mypy ty
    await engine.run(search, topic)  # pyright mypy ty
    await engine.start(research, "topic")  # pyright mypy ty
    result: Page = await engine.run(research, topic)  # pyright mypy ty
    handle = await engine.start(research, topic)
    other: Receipt = await handle.result()  # pyright mypy ty
    await engine.run(research, topic, budget=10)  # pyright mypy ty
    number: int = await engine.run(arities, 1)  # pyright mypy ty
    Engine()  # pyright mypy ty
    Engine("runs.db")  # pyright mypy ty
    Engine(MemoryStore(), workflows=[search])  # pyright mypy ty
    Budget(steps="many")  # pyright mypy ty


# ---- the context ----


async def contexts(ctx: Context, found: Findings) -> None:
    page: Page = await ctx.model.complete("", returns=Report)  # pyright mypy ty
    number: int = await ctx.model.complete("")  # pyright mypy ty
    pool: Page = ctx.resource(Pool)  # pyright mypy ty
    ctx.resource("Pool")  # pyright mypy ty
    pages: dict[str, Report] = found.of(search)  # pyright mypy ty
    found.of(search)["x"].sources  # pyright mypy ty
    found.of("search")  # pyright mypy ty
    await ctx.artifact(b"")  # pyright mypy ty
    await ctx.call("search", page)  # pyright mypy ty
    search(ctx, Topic(text=""))  # pyright mypy ty


# ---- a ref has no value: mypy takes what follows `if ref:` for unreachable, so it stands last ----


def reads_a_field(page: Ref[Page]) -> None:
    page.text  # pyright mypy ty
    page["text"]  # pyright mypy ty
    page + page  # pyright mypy ty
    len(page)  # pyright mypy ty


def iterates(pages: Ref[list[Page]]) -> None:
    for page in pages:  # pyright mypy ty
        pass


def unpacks(pages: Ref[list[Page]]) -> None:
    first, second = pages  # pyright mypy ty


def listed(pages: Ref[list[Page]], topics: Ref[list[Topic]]) -> None:
    [read(page) for page in pages]  # pyright mypy ty


def asks_if(page: Ref[Page]) -> None:
    if page:  # pyright
        read(page)  # mypy


def asks_while(page: Ref[Page]) -> None:
    while page:  # pyright
        read(page)  # mypy


def asks_not(page: Ref[Page]) -> None:
    other = not page  # pyright


def asks_and(page: Ref[Page]) -> None:
    other = page and read(page)  # mypy


def asks_either(page: Ref[Page]) -> None:
    other = read(page) if page else page  # pyright mypy


def judges_another_type(topic: Ref[Topic]) -> None:
    Judge("Is it clear?", checks=Page)(topic)  # pyright mypy ty


def gives_a_planner_another_type(page: Ref[Page]) -> None:
    Planner("Answer.", takes=Topic, returns=Page)(page)  # pyright mypy ty


def votes_on_a_ref(topic: Ref[Topic]) -> None:
    vote(topic)  # pyright mypy ty


def misspells_an_option() -> None:
    Judge("Is it clear?", checks=Page, retrys=1)  # pyright mypy
    Planner("Answer.", takes=Topic, returns=Page, turns_maxx=3)  # pyright mypy
