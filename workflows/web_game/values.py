"""The values that flow through the game's making: plain pydantic models, stored as JSON.

Fields marked `SkipJsonSchema` are not asked of a model: the steps fill them in.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from flowkit import Artifact

Language = Literal["en", "zh"]
Line = Annotated[str, Field(min_length=1, max_length=300)]

_HAN = re.compile(r"[\u3400-\u9fff]")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GameRequest(_Value):
    """What somebody wants, as vague as it comes."""

    request: Annotated[str, Field(min_length=3, max_length=4000)] = Field(
        description="The game, in a sentence or two"
    )
    language: Literal["", "en", "zh"] = Field(
        default="", description="Of the game and the report; empty: that of the request"
    )

    @property
    def spoken(self) -> Language:
        return self.language or ("zh" if _HAN.search(self.request) else "en")


class Rules(_Value):
    """The rules that every game of this workflow has; the check plays by them."""

    board: int = 15
    in_a_row: int = 5
    energy: int = 100
    energy_max: int = 100
    gain: int = 10
    skip_cost: int = 30
    force_cost: int = 50


RULES = Rules()


class Specification(_Value):
    """What is to be built. The rules are fixed; title, names, look and what was left open are not."""

    title: str = Field(min_length=1, max_length=60, description="Of the game, in its language")
    black: str = Field(min_length=1, max_length=20, description="What the first player is called")
    white: str = Field(min_length=1, max_length=20, description="What the second player is called")
    look: str = Field(min_length=1, max_length=600, description="Colours, mood, materials")
    wishes: list[Line] = Field(
        default=[], max_length=8, description="What the request asks for beyond the rules"
    )
    assumptions: list[Line] = Field(
        default=[], max_length=8, description="What the request left open, and how it was decided"
    )
    language: SkipJsonSchema[Language] = "en"
    author: SkipJsonSchema[str] = ""


class Fault(_Value):
    """One thing that is wrong with a page: what was done, what was expected, and what was seen.

    `where`: "structure", or the width that it was played at. `screenshot` names a picture of the play.
    """

    check: str
    where: Literal["structure", "desktop", "phone"]
    did: str
    expected: str
    seen: str
    screenshot: str = ""

    def __str__(self) -> str:
        shown = f" (screenshot: {self.screenshot})" if self.screenshot else ""
        return (
            f"[{self.where}, {self.check}] {self.did}: expected {self.expected}; "
            f"seen: {self.seen}{shown}"
        )


class Page(_Value):
    """A page as it was made. `embedded`: the one that ships with flowkit, no model wrote it."""

    html: Artifact
    author: str
    embedded: bool = False


class Play(_Value):
    """How a page was tried. `browser` is empty where it was only looked at, and `why_not` says why."""

    browser: str = ""
    sandbox: str = ""
    why_not: str = ""
    passed: list[str] = []
    faults: list[Fault] = []
    screenshots: list[Artifact] = []
    seconds: float = 0.0


class Attempt(_Value):
    """One version of the page, or one answer without a page, and what became of it."""

    number: int
    author: str
    faults: list[str] = []


class Game(_Value):
    """A page with how it was tried, and the versions before it."""

    page: Page
    play: Play
    attempts: list[Attempt] = []


class GameReport(_Value):
    """The game to play and to send, and how it came about.

    `verified`: "browser" (played in a real one) or "structure" (only looked at). `computed`: no language
    model had a part in the page.
    """

    title: str
    language: Language
    models: list[str]
    computed: bool
    embedded: bool
    verified: Literal["browser", "structure"]
    browser: str
    attempts: list[Attempt]
    fallbacks: list[str]
    game: Artifact
    html: Artifact
    markdown: Artifact
    screenshots: list[Artifact]
