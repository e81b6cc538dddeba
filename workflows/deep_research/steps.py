"""The steps of a research: thin nodes over the plain functions beside them."""

from __future__ import annotations

import datetime as dt
import importlib.util
from functools import partial

import anyio.to_thread

from flowkit import Artifact, Context, Reject
from flowkit.nodes import tool, verifier
from flowkit.nodes.tools import calculate
from flowkit.nodes.tools.corpus import Corpus, Hits, Page, Unavailable
from flowkit.workflows.deep_research import checks, library
from flowkit.workflows.deep_research.extract import Reading, Sum, compose
from flowkit.workflows.deep_research.planning import INSTRUCTIONS, Researcher
from flowkit.workflows.deep_research.values import (
    Deed,
    Finding,
    Library,
    LibraryPage,
    LibrarySearch,
    Making,
    Question,
    ResearchReport,
    Task,
)
from flowkit.workflows.deep_research.wanted import Wanted
from flowkit.workflows.deep_research.words import words_of

FAULTS_MAX = 12
"""Faults that are told at once."""

READS_MAX = 6
"""Documents that are read where no model chooses them."""


@tool(timeout_s=120)
async def open_library(ctx: Context, question: Question) -> Task:
    """The documents as they are now, kept with the run."""
    name, data = await anyio.to_thread.run_sync(library.load, question.corpus)
    snapshot = await ctx.artifact(data, name="documents.json", media_type="application/json")
    corpus = await library.opened(ctx, snapshot)
    kept = Library(name=name, documents=len(corpus), snapshot=snapshot)
    return Task(question=question.question, language=question.language, library=kept)


@tool(timeout_s=60)
async def corpus_search(ctx: Context, search: LibrarySearch) -> Hits:
    """Search the library. Gives ids, titles and snippets, best first; read a document before you rely
    on it."""
    corpus = await _library(ctx, search.snapshot)
    return await anyio.to_thread.run_sync(corpus.search, search.query, search.limit)


@tool(timeout_s=60)
async def read_page(ctx: Context, page: LibraryPage) -> Page:
    """Read a document, or the next piece of it. Lines come with numbers, which are no part of the
    text."""
    corpus = await _library(ctx, page.snapshot)
    return await anyio.to_thread.run_sync(corpus.read, page.id, page.from_line)


async def _library(ctx: Context, snapshot: Artifact | None) -> Corpus:
    if snapshot is None:
        raise LookupError("the step names no library; the researcher gives one to its tools.")
    return await library.opened(ctx, snapshot)


researcher = Researcher(
    INSTRUCTIONS,
    takes=Task,
    returns=Finding,
    tools=[corpus_search, read_page, calculate],
    name="researcher",
    turns_max=300,
)
"""Asked again after every batch of calls, up to 300 times."""


@tool(timeout_s=120)
async def extractive(ctx: Context, task: Task) -> Finding:
    """Sentences that share most with the question, found and cited without a language model."""
    corpus = await library.opened(ctx, task.library.snapshot)
    return await anyio.to_thread.run_sync(extract, corpus, task.question)


def extract(corpus: Corpus, question: str) -> Finding:
    """What the offline stand-in does in many turns, in one go."""
    wanted = Wanted(question)
    reading = Reading(wanted)
    query = " ".join(words_of(question)) or question
    hits = corpus.search(query[:500], READS_MAX + 4)
    deeds = [Deed(turn=1, kind="search", what=query, outcome=f"{len(hits.hits)} hits")]
    failures: list[str] = []
    for hit in hits.hits:
        if len(deeds) - len(failures) > READS_MAX:
            break
        try:
            page = corpus.read(hit.id)
        except Unavailable as error:
            failures.append(str(error))
            told = f"Unavailable: {error}"
            deeds.append(Deed(turn=1, kind="read", what=hit.id, outcome=told, failed=True))
            continue
        reading.add(hit.id, hit.title, [line.partition("| ")[2] for line in page.text.splitlines()])
        told = f"{hit.title}, lines {page.from_line} to {page.to_line} of {page.lines}"
        deeds.append(Deed(turn=1, kind="read", what=hit.id, outcome=told))
    total = reading.total()
    sums: list[Sum] = [total] if total is not None else []
    deeds += [
        Deed(turn=1, kind="calculate", what=each.expression, outcome=each.says) for each in sums
    ]
    finding = compose(reading, sums, failures)
    making = Making(model="none", computed=True, turns=0, deeds=deeds)
    return finding.model_copy(update={"making": making})


@verifier(timeout_s=60)
async def cites_what_it_says(ctx: Context, finding: Finding, task: Task) -> None:
    """Each quote stands word for word in its document; each number in a quote or a calculation."""
    corpus = await library.opened(ctx, task.library.snapshot)
    faults = await anyio.to_thread.run_sync(checks.finding_problems, finding, corpus)
    if faults:
        more = f"; and {len(faults) - FAULTS_MAX} more" if len(faults) > FAULTS_MAX else ""
        raise Reject("; ".join(faults[:FAULTS_MAX]) + more)


@tool(timeout_s=60)
async def report(ctx: Context, task: Task, finding: Finding) -> ResearchReport:
    """The report as an HTML page and as Markdown."""
    if importlib.util.find_spec("jinja2") is None:
        raise ImportError('the report needs jinja2: pip install "flowkit-agents[workflows]"')
    from flowkit.workflows.deep_research.report import Material, numbers, render, sources

    corpus = await library.opened(ctx, task.library.snapshot)
    material = Material(
        task=task,
        finding=finding,
        titles={each.id: each.title for each in corpus},
        steps=[step for step in ctx.history() if step.key != ctx.step and "/" not in step.key],
        run_id=ctx.run_id,
        written_at=dt.datetime.now(dt.UTC),
    )
    page = await anyio.to_thread.run_sync(partial(render, material, "report.html.j2"))
    text = await anyio.to_thread.run_sync(partial(render, material, "report.md.j2"))
    told = numbers(material)
    making = material.making
    return ResearchReport(
        question=task.question,
        answer=finding.answer,
        claims=finding.claims,
        open_questions=finding.open_questions,
        sources=sources(material),
        model=making.model,
        computed=making.computed,
        turns=making.turns,
        searches=told["searches"],
        pages_read=told["pages_read"],
        calculations=told["calculations"],
        failures=told["failures"],
        replans=told["replans"],
        html=await ctx.artifact(page, name="report.html", media_type="text/html"),
        markdown=await ctx.artifact(text, name="report.md", media_type="text/markdown"),
    )
