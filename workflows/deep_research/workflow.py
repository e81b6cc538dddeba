"""The workflow: a library, a researcher or what stands in for it, the check of citations, a report."""

from __future__ import annotations

from flowkit import Ref, workflow
from flowkit.workflows.deep_research.planning import ROUNDS_MAX
from flowkit.workflows.deep_research.steps import (
    cites_what_it_says,
    extractive,
    open_library,
    report,
    researcher,
)
from flowkit.workflows.deep_research.values import Question, ResearchReport


@workflow
def deep_research(question: Ref[Question]) -> Ref[ResearchReport]:
    """Answer a question from documents: search, read, calculate, cite, check each citation, report."""
    task = open_library(question, id="library")
    found = (researcher | extractive)(task, id="research")
    finding = cites_what_it_says(found, task, attempts=ROUNDS_MAX + 1)
    return report(task, finding)
