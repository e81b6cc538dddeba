"""Fetching one page with care: http(s) only, bounded in size, of an expected type, on its own host.

The addresses come from the query's author, not from a model. What comes back is not trusted: a
redirect stays on its host and never goes from https to http, and a body is cut off at `bytes_max`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from flowkit.node import Context
from flowkit.workflows.stock_analysis.values import StockQuery

if TYPE_CHECKING:
    import httpx2

USER_AGENT = "Mozilla/5.0 (compatible; flowkit stock_analysis)"
"""Yahoo answers 429 to clients that name no browser at all."""

REDIRECTS_MAX = 3


class SourceError(Exception):
    """A source gave no usable answer; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a server sent. `media_type` is without parameters, in lower case."""

    url: str
    media_type: str
    data: bytes
    charset: str

    def text(self) -> str:
        try:
            text = self.data.decode(self.charset or "utf-8", "replace")
        except (LookupError, UnicodeError):
            text = self.data.decode("utf-8", "replace")
        return text.removeprefix("\ufeff")


def fill(template: str, query: StockQuery, first: dt.date, last: dt.date) -> str:
    """An address from its template; the ticker is quoted, nothing else is interpreted."""
    values = {
        "{ticker}": quote(query.ticker, safe=""),
        "{ticker_lower}": quote(query.ticker.lower(), safe=""),
        "{from_unix}": str(_unix(first)),
        "{to_unix}": str(_unix(last + dt.timedelta(days=1))),
        "{from_date}": first.isoformat(),
        "{to_date}": last.isoformat(),
    }
    for name, value in values.items():
        template = template.replace(name, value)
    return template


def _unix(day: dt.date) -> int:
    return int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp())


@asynccontextmanager
async def http_client(ctx: Context) -> AsyncGenerator[httpx2.AsyncClient]:
    """The host's client if it gave one to the engine, else one for this call."""
    import httpx2

    try:
        given: httpx2.AsyncClient | None = ctx.resource(httpx2.AsyncClient)
    except LookupError:
        given = None
    if given is not None:
        yield given
        return
    timeout = httpx2.Timeout(7.0, connect=3.0)
    async with httpx2.AsyncClient(timeout=timeout) as client:
        yield client


async def fetch(
    client: httpx2.AsyncClient, url: str, *, accepts: Sequence[str], bytes_max: int = 4_000_000
) -> Body:
    """GET a page. `accepts` are media types; the answer must have one of them.

    Raises:
        SourceError: anything but a 200 of an accepted type within the size.
    """
    for _ in range(REDIRECTS_MAX + 1):
        body, moved_to = await _get(client, url, accepts, bytes_max)
        if body is not None:
            return body
        url = _checked_redirect(url, moved_to)
    raise SourceError(f"{_host(url)}: more than {REDIRECTS_MAX} redirects")


async def _get(
    client: httpx2.AsyncClient, url: str, accepts: Sequence[str], bytes_max: int
) -> tuple[Body | None, str]:
    """The body, or where the server says it has moved."""
    import httpx2

    headers = {"User-Agent": USER_AGENT, "Accept": ", ".join((*accepts, "*/*;q=0.1"))}
    host = _host(url)
    try:
        async with client.stream("GET", url, headers=headers, follow_redirects=False) as answer:
            if answer.is_redirect:
                return None, answer.headers.get("location", "")
            media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            if answer.status_code != 200:
                start = await _read(answer, 2_000, cut=True)
                raise SourceError(f"{host}: HTTP {answer.status_code}{_reason(start, media_type)}")
            if media_type not in accepts:
                raise SourceError(
                    f"{host}: answered {media_type or 'without a content type'}, "
                    f"not {' or '.join(accepts)}"
                )
            data = await _read(answer, bytes_max)
            return Body(url, media_type, data, answer.charset_encoding or ""), ""
    except httpx2.TimeoutException as error:
        raise SourceError(f"{host}: no answer in time ({type(error).__name__})") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise SourceError(f"{host}: {type(error).__name__}: {error}") from error


async def _read(answer: httpx2.Response, bytes_max: int, *, cut: bool = False) -> bytes:
    announced = answer.headers.get("content-length", "")
    if not cut and announced.isdigit() and int(announced) > bytes_max:
        raise SourceError(f"{answer.url.host}: {announced} bytes, more than {bytes_max}")
    parts: list[bytes] = []
    size = 0
    async for part in answer.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            if cut:
                break
            raise SourceError(f"{answer.url.host}: more than {bytes_max} bytes")
    return b"".join(parts)[:bytes_max]


def _reason(start: bytes, media_type: str) -> str:
    """A short plain body says why; a page of HTML does not."""
    text = " ".join(start.decode("utf-8", "replace").split())
    plain = media_type in ("text/plain", "application/json") and text
    return f": {text[:160]}" if plain else ""


def _checked_redirect(url: str, location: str) -> str:
    target = urljoin(url, location)
    here, there = urlsplit(url), urlsplit(target)
    same_host = there.hostname is not None and there.hostname == here.hostname
    downgrade = here.scheme == "https" and there.scheme != "https"
    if there.scheme not in ("http", "https") or not same_host or downgrade:
        shown = f"{there.scheme}://{there.hostname or '?'}"
        raise SourceError(f"{_host(url)}: redirects to {shown}, which is not followed")
    return target


def _host(url: str) -> str:
    return urlsplit(url).hostname or "?"
