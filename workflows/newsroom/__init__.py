"""Newsroom: from an assignment and its material to an article with sources and verdicts.

    open_desk       the material as it is when the run begins
    researcher      answers a question from the material, checked by quotes_stand
    writer          writes; may ask the researcher again; checked by sources_stand and the critic
    critic          a judge with a rubric; what it rejects goes back to the writer
    print_article   article.html and article.md, with who did what

Run it: `flowkit run newsroom --example --out article/`, or
`flowkit run newsroom --input topic="..." --input folder=FOLDER`.
"""

from __future__ import annotations

from flowkit.workflows.newsroom.offline import OFFLINE_RULES
from flowkit.workflows.newsroom.values import Article, Assignment, Draft, Notes
from flowkit.workflows.newsroom.workflow import newsroom, staffed

EXAMPLE = Assignment(topic="The Saltgate footbridge in Harnby and when it opens again", words=300)
"""An assignment on the material that ships with flowkit; it needs no network."""

VOLATILE = ("html.sha256", "html.size", "markdown.sha256", "markdown.size")
"""Fields of the result that two runs do not share: the pages tell when they were written, and how long it took."""

__all__ = [
    "EXAMPLE",
    "OFFLINE_RULES",
    "VOLATILE",
    "Article",
    "Assignment",
    "Draft",
    "Notes",
    "newsroom",
    "staffed",
]
