"""`fetch` and `read_page`: two tools that read the public web, through the engine's `Web`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from flowkit.node import Context
from flowkit.nodes.tool import tool
from flowkit.nodes.tools.corpus import Corpus, Page, PageQuery, piece_of
from flowkit.nodes.tools.web.client import Unreachable, Web
from flowkit.nodes.tools.web.reading import document_of, text_of

TEXT_CHARACTERS: Final = 8_000
"""What `fetch` gives at most."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FetchQuery(_Value):
    """Which address to fetch."""

    url: Annotated[str, Field(min_length=1, max_length=4_000)] = Field(
        description="An address that begins with http:// or https://"
    )


class Fetched(_Value):
    """An answer as it came: `text` is its beginning, `cut` tells whether there was more."""

    url: str
    status: int
    media_type: str
    text: str
    cut: bool = False


@tool(timeout_s=60, untrusted_output=True, external_effect=True)  # an address can carry data out
async def fetch(ctx: Context, query: FetchQuery) -> Fetched:
    """Fetch an address and give the answer's raw text: for JSON, feeds and plain files. To read a
    web page, use read_page."""
    answer = await web_of(ctx).get(query.url)
    text = text_of(answer)
    return Fetched(
        url=answer.url, status=answer.status, media_type=answer.media_type,
        text=text[:TEXT_CHARACTERS], cut=answer.cut or len(text) > TEXT_CHARACTERS,
    )  # fmt: skip


@tool(timeout_s=60, untrusted_output=True, external_effect=True)  # an address can carry data out
async def read_page(ctx: Context, page: PageQuery) -> Page:
    """Read a document by its id, or a web page or PDF by its address, or the next piece of it. Lines
    come with numbers, which are no part of the text."""
    if not page.id.startswith(("http://", "https://")):
        return ctx.resource(Corpus).read(page.id, page.from_line)
    answer = await web_of(ctx).get(page.id, accept="text/html, application/pdf, */*;q=0.5")
    if answer.status >= 400:
        raise Unreachable(f"{answer.url} answers HTTP {answer.status}. Take another source.")
    return piece_of(document_of(answer), page.from_line)


def web_of(ctx: Context) -> Web:
    """The engine's way to the web; a plain one if it has none."""
    try:
        return ctx.resource(Web)
    except LookupError:
        return Web()
