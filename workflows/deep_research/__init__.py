"""Deep research: from a question to an answer of which each sentence is cited, and checked.

    library     the documents as they are when the run begins
    research    researcher (searches, reads, calculates, up to 300 turns) | extractive,
                checked by cites_what_it_says: each quote against the document that it names
    report      report.html and report.md, with footnotes and all that was done

Run it: `flowkit run deep_research --example --out report/`, or
`flowkit run deep_research --input question="..." --input corpus=FOLDER`.
"""

from __future__ import annotations

from flowkit.workflows.deep_research.offline import OFFLINE_RULES
from flowkit.workflows.deep_research.values import (
    Citation,
    Claim,
    Finding,
    Question,
    ResearchReport,
)
from flowkit.workflows.deep_research.workflow import deep_research

EXAMPLE = Question(
    question=(
        "How much taller is the Cape Hatteras lighthouse than the Bell Rock lighthouse, "
        "and when was each of them built?"
    )
)
"""A question on the documents that ship with flowkit."""

VOLATILE = ("html.sha256", "html.size", "markdown.sha256", "markdown.size")
"""Fields of the result that two runs do not share: the pages tell when they were written, and how long it took."""

__all__ = [
    "EXAMPLE",
    "OFFLINE_RULES",
    "VOLATILE",
    "Citation",
    "Claim",
    "Finding",
    "Question",
    "ResearchReport",
    "deep_research",
]
