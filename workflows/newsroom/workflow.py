"""The workflow: who hands what to whom."""

from __future__ import annotations

from flowkit import Ref, Workflow, workflow
from flowkit.ports import Model
from flowkit.workflows.newsroom.agents import agents_model, critic_of, researcher_of, writer_of
from flowkit.workflows.newsroom.steps import (
    first_question,
    open_desk,
    print_article,
    quotes_stand,
    sources_stand,
)
from flowkit.workflows.newsroom.values import Article, Assignment

VERSIONS_MAX = 4
"""Versions of an article before the run fails with the critic's last word; `flowkit retry` goes on."""


def staffed(
    *, researcher: Model | None = None, writer: Model | None = None, critic: Model | None = None
) -> Workflow[Assignment, Article]:
    """The newsroom with a model of its own for each agent; None is the engine's."""
    research = researcher_of(researcher)
    write, judge = writer_of(writer, research), critic_of(critic)

    @workflow
    def newsroom(assignment: Ref[Assignment]) -> Ref[Article]:
        """Write an article: a researcher, a writer who may ask it, a critic who may send it back."""
        brief = open_desk(assignment)
        notes = quotes_stand(research(first_question(brief)), brief, attempts=3)
        draft = write(brief, notes)
        checked = judge(
            sources_stand(draft, brief, attempts=VERSIONS_MAX), brief, attempts=VERSIONS_MAX
        )
        return print_article(brief, notes, checked)

    return newsroom


newsroom = staffed(
    researcher=agents_model("researcher"),
    writer=agents_model("writer"),
    critic=agents_model("critic"),
)
