"""The steps around the agents: opening the desk, checking sources, printing the article."""

from __future__ import annotations

import datetime as dt
import importlib.util
from functools import partial

import anyio.to_thread

from flowkit import Context, Reject
from flowkit.nodes import tool, verifier
from flowkit.workflows.newsroom import checks, material
from flowkit.workflows.newsroom.values import Article, Assignment, Brief, Draft, Inquiry, Notes

FAULTS_MAX = 8
"""Faults that are told at once."""


@tool(timeout_s=120)
async def open_desk(ctx: Context, assignment: Assignment) -> Brief:
    """The material as it is now, kept with the run."""
    data = await anyio.to_thread.run_sync(material.load, assignment)
    kept = await ctx.artifact(data, name="material.json", media_type="application/json")
    corpus = await material.opened(ctx, kept)
    return Brief(
        topic=assignment.topic,
        words=assignment.words,
        documents=len(corpus),
        material=kept,
        sample=not (assignment.folder.strip() or assignment.notes.strip()),
    )


@tool
async def first_question(ctx: Context, brief: Brief) -> Inquiry:
    """What the researcher is asked before anything is written."""
    return Inquiry(
        question=f"What does the material tell about: {brief.topic}", material=brief.material
    )


@verifier(timeout_s=60)
async def quotes_stand(ctx: Context, notes: Notes, brief: Brief) -> None:
    """Each fact's quote stands word for word in its document."""
    corpus = await material.opened(ctx, brief.material)
    _reject(checks.note_faults(notes, corpus))


@verifier(timeout_s=60)
async def sources_stand(ctx: Context, draft: Draft, brief: Brief) -> None:
    """Each paragraph's numbers and quotations stand in the documents that it names."""
    corpus = await material.opened(ctx, brief.material)
    _reject(checks.draft_faults(draft, corpus, brief.words))


def _reject(faults: list[str]) -> None:
    if faults:
        more = f"; and {len(faults) - FAULTS_MAX} more" if len(faults) > FAULTS_MAX else ""
        raise Reject(f"sources: {'; '.join(faults[:FAULTS_MAX])}{more}")


@tool(timeout_s=120)
async def print_article(ctx: Context, brief: Brief, notes: Notes, draft: Draft) -> Article:
    """The article as a page and as Markdown, with its sources and how it came about."""
    if importlib.util.find_spec("jinja2") is None:
        raise ImportError('the article needs jinja2: pip install "flowkit-agents[workflows]"')
    from flowkit.workflows.newsroom.report import Material, article_of, render

    corpus = await material.opened(ctx, brief.material)
    told = Material(
        brief=brief,
        notes=notes,
        draft=draft,
        titles={each.id: each.title for each in corpus},
        usage=ctx.usage(),
        steps=[step for step in ctx.history() if step.key != ctx.step and "/" not in step.key],
        run_id=ctx.run_id,
        written_at=dt.datetime.now(dt.UTC),
    )
    page = await anyio.to_thread.run_sync(partial(render, told, "article.html.j2"))
    text = await anyio.to_thread.run_sync(partial(render, told, "article.md.j2"))
    return article_of(
        told,
        html=await ctx.artifact(page, name="article.html", media_type="text/html"),
        markdown=await ctx.artifact(text, name="article.md", media_type="text/markdown"),
    )
