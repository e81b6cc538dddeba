"""`fetch` and `read_page`: two tools that read the public web, through the engine's `Web`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from flowkit.node import Context
from flowkit.nodes.tool import tool
from flowkit.nodes.tools.corpus import Corpus, Page, PageQuery, piece_of
from flowkit.nodes.tools.documents import Document
from flowkit.nodes.tools.web.apart import document_apart
from flowkit.nodes.tools.web.browser import Browser, needs_scripts
from flowkit.nodes.tools.web.client import Answer, Unreachable, Web
from flowkit.nodes.tools.web.reading import CUT, text_of

TEXT_CHARACTERS: Final = 8_000
"""What `fetch` gives at most."""

_EMPTY: Final = "The page has next to no text, also after its JavaScript was run."


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
    document, note = await _read(web_of(ctx), _browser(ctx), page.id)
    if CUT in document.text[-60:]:
        note = f"The page is longer: only its beginning was read. {note}".strip()
    return piece_of(document, page.from_line).model_copy(update={"note": note})


async def _read(web: Web, browser: Browser | None, url: str) -> tuple[Document, str]:
    """A page, made by its scripts where that is needed and can be; and a note where it cannot."""
    render = browser.render if browser is not None else "never"
    why = ""
    if browser is not None and render == "always":
        try:
            return await document_apart(_good(await browser.get(url, web))), ""
        except Unreachable as error:
            why = str(error)
    answer = _good(await web.get(url, accept="text/html, application/pdf, */*;q=0.5"))
    plain = await document_apart(answer)
    if browser is not None and render == "auto" and needs_scripts(answer, plain.text):
        try:
            made = await document_apart(_good(await browser.get(answer.url, web)))
        except Unreachable as error:
            why = str(error)
        else:
            return (made, "") if len(made.text) > len(plain.text) else (plain, _EMPTY)
    elif not why and needs_scripts(answer, plain.text):
        why = "its JavaScript is not run here."
    return (
        plain,
        f"This page seems to be made by JavaScript, and was read without: {why}" if why else "",
    )


def _good(answer: Answer) -> Answer:
    if answer.status >= 400:
        raise Unreachable(f"{answer.url} answers HTTP {answer.status}. Take another source.")
    return answer


def _browser(ctx: Context) -> Browser | None:
    try:
        return ctx.resource(Browser)
    except LookupError:
        return None


def web_of(ctx: Context) -> Web:
    """The engine's way to the web; a plain one if it has none."""
    try:
        return ctx.resource(Web)
    except LookupError:
        return Web()
