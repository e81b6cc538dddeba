"""The values that flow through a research: plain pydantic models, stored as JSON.

Fields marked `SkipJsonSchema` are not shown to the model and not asked of it: the planner fills them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from flowkit import Artifact
from flowkit.nodes.tools.corpus import PageQuery, SearchQuery


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(_Value):
    """What to find out, and where to look."""

    question: Annotated[str, Field(min_length=3, max_length=2000)]
    language: str = Field(
        default="",
        max_length=40,
        description="Language of the answer, such as German; that of the question if left out",
    )
    corpus: str = Field(
        default="",
        max_length=1000,
        description="A folder of .txt, .md or .html files; the documents that ship if left out",
    )


class Library(_Value):
    """The documents of a run as they were when it began, kept with the run."""

    name: str
    documents: int
    snapshot: Artifact


class Task(_Value):
    """The question with its library."""

    question: str
    language: str
    library: Library


class LibrarySearch(SearchQuery):
    """What to look for in the documents."""

    snapshot: SkipJsonSchema[Artifact | None] = None


class LibraryPage(PageQuery):
    """Which document to read, and from where."""

    snapshot: SkipJsonSchema[Artifact | None] = None


class Citation(_Value):
    """Where a claim is written."""

    document: str = Field(description="The id of a document that was read")
    quote: str = Field(
        description="A sentence of it, copied word for word, without the line's number"
    )


class Claim(_Value):
    """One statement of the answer with what supports it."""

    text: str = Field(min_length=3, max_length=1200)
    citations: list[Citation] = Field(max_length=12)
    calculations: list[str] = Field(
        default=[],
        max_length=12,
        description="Expressions, as given to calculate, whose results stand in the text",
    )


class Deed(_Value):
    """One thing that was done on the way, as the report tells it."""

    turn: int
    kind: Literal["search", "read", "calculate", "verify", "other"]
    what: str
    outcome: str
    failed: bool = False


class Making(_Value):
    """How a finding was made. `computed`: by fixed rules, no language model was asked."""

    model: str
    computed: bool
    turns: int
    deeds: list[Deed]


class Finding(_Value):
    """The answer, claim by claim, each with the text that supports it."""

    answer: str = Field(
        min_length=3,
        max_length=6000,
        description="The answer in whole sentences; [n] after each names the claim that supports it",
    )
    claims: list[Claim] = Field(max_length=40)
    open_questions: list[str] = Field(
        default=[],
        max_length=20,
        description="What the documents do not answer, and where they disagree",
    )
    making: SkipJsonSchema[Making | None] = None


class Source(_Value):
    """A document that the answer rests on."""

    id: str
    title: str
    quotes: int


class ResearchReport(_Value):
    """The report, as pages to open and to send, with its main parts beside it."""

    question: str
    answer: str
    claims: list[Claim]
    open_questions: list[str]
    sources: list[Source]
    model: str
    computed: bool
    turns: int
    searches: int
    pages_read: int
    calculations: int
    failures: int
    replans: int
    html: Artifact
    markdown: Artifact
