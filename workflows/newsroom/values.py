"""The values that flow through the newsroom: plain pydantic models, stored as JSON.

Fields marked `SkipJsonSchema` are not shown to a model and not asked of it: the agents fill them in.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from flowkit import Artifact
from flowkit.nodes.tools.corpus import PageQuery, SearchQuery


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Assignment(_Value):
    """What to write about, how long, and from which material."""

    topic: Annotated[str, Field(min_length=3, max_length=500)] = Field(
        description="What the article is about, as an editor would put it"
    )
    words: int = Field(default=350, ge=80, le=3000, description="About how long it is to be")
    notes: str = Field(
        default="", max_length=200_000, description="Material as a text: notes, an interview"
    )
    folder: str = Field(
        default="", max_length=1000, description="Material as a folder of .txt, .md or .html files"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Assignment:
        if self.notes.strip() and self.folder.strip():
            raise ValueError("give notes or a folder, not both: put the notes into the folder")
        return self


class Brief(_Value):
    """The assignment with its material as it was when the run began, kept with the run.

    `sample`: the material is the invented one that ships with flowkit.
    """

    topic: str
    words: int
    documents: int
    material: Artifact
    sample: bool = False


class Inquiry(_Value):
    """What the researcher is asked. Say what you want to know, not where to look."""

    question: str = Field(min_length=3, max_length=1000)
    material: SkipJsonSchema[Artifact | None] = None


class MaterialSearch(SearchQuery):
    """What to look for in the material."""

    material: SkipJsonSchema[Artifact | None] = None


class MaterialPage(PageQuery):
    """Which document to read, and from where."""

    material: SkipJsonSchema[Artifact | None] = None


class Deed(_Value):
    """One thing that an agent did, for the article's last page."""

    agent: str
    turn: int
    what: str


class Fact(_Value):
    """One statement of the material."""

    statement: str = Field(min_length=3, max_length=600)
    document: str = Field(description="The id of the document that says it")
    quote: str = Field(
        min_length=3, max_length=800, description="Where it says so, copied word for word"
    )


class Notes(_Value):
    """What the researcher found."""

    question: str
    facts: list[Fact] = Field(max_length=40)
    gaps: list[str] = Field(
        default=[], max_length=12, description="What the material does not tell"
    )
    leads: list[str] = Field(
        default=[], max_length=12, description="What else the material has that was not looked into"
    )
    deeds: SkipJsonSchema[list[Deed]] = []


class Paragraph(_Value):
    """One paragraph, and the ids of the documents that it rests on."""

    text: str = Field(min_length=20, max_length=3000)
    sources: list[str] = Field(max_length=12)


class Draft(_Value):
    """The article as the writer hands it in."""

    headline: str = Field(min_length=5, max_length=160)
    standfirst: str = Field(
        min_length=10, max_length=400, description="The news in a sentence or two"
    )
    paragraphs: list[Paragraph] = Field(min_length=1, max_length=60)
    deeds: SkipJsonSchema[list[Deed]] = []
    rejections: SkipJsonSchema[list[str]] = []

    @property
    def texts(self) -> list[str]:
        return [self.standfirst, *(each.text for each in self.paragraphs)]

    @property
    def words(self) -> int:
        return sum(len(text.split()) for text in self.texts)


class Measure(_Value):
    """A text in numbers."""

    words: int
    sentences: int
    longest_sentence: int


class Decision(_Value):
    """What became of one version of the article. `by`: the critic, or the check of its sources."""

    version: int
    by: Literal["critic", "sources"]
    accepted: bool
    text: str = ""


class Share(_Value):
    """What one agent used of one model. `cost_usd` is None where no price is known."""

    agent: str
    model: str
    turns: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None


class Article(_Value):
    """The article, as pages to open and to send, with how it came about. `computed`: by fixed rules,
    no language model had a part in it."""

    headline: str
    standfirst: str
    words: int
    sources: list[str]
    decisions: list[Decision]
    shares: list[Share]
    models: list[str]
    computed: bool
    html: Artifact
    markdown: Artifact
