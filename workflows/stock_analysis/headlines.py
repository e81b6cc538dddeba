"""Headlines from an RSS or Atom feed, as plain text. Whoever writes a feed is not trusted."""

from __future__ import annotations

import datetime as dt
import html
import unicodedata
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowkit.workflows.stock_analysis.values import Headline, Headlines
from flowkit.workflows.stock_analysis.web import SourceError

if TYPE_CHECKING:
    from lxml.etree import _Element  # pyright: ignore[reportPrivateUsage]

FEED_TYPES = (
    "application/rss+xml",
    "application/atom+xml",
    "application/rdf+xml",
    "application/xml",
    "text/xml",
)
TITLE_MAX = 200
URL_MAX = 1000


def parse_feed(data: bytes, items_max: int) -> list[Headline]:
    """The newest items, in the feed's order. Entities, DTDs and the network stay untouched.

    Raises:
        SourceError: it is not a feed.
    """
    import lxml.etree

    parser = lxml.etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    try:
        root = lxml.etree.fromstring(data, parser)
    except (lxml.etree.LxmlError, ValueError) as problem:
        raise SourceError(f"feed: cannot be read as XML ({str(problem)[:120]})") from problem
    if _name(root) not in ("rss", "RDF", "feed"):
        raise SourceError(f"feed: <{_name(root)}> is neither RSS nor Atom")
    found: list[Headline] = []
    for item in root.iter("{*}item", "{*}entry"):
        title = plain(_text(item, "title"))
        if title and len(found) < items_max:
            found.append(Headline(title=title, url=_link(item), published=_published(item)))
    return found


def relevant(news: Headlines, last_day: dt.date) -> Headlines:
    """What may bear on prices that end on a day: not older than 30 days, not newer than 3.

    Undated items are kept, unless everything dated was out of that time.
    """
    first, last = last_day - dt.timedelta(days=30), last_day + dt.timedelta(days=3)
    kept = [item for item in news.items if item.published and first <= item.published <= last]
    undated = [item for item in news.items if item.published is None]
    dated = len(news.items) - len(undated)
    if dated and not kept:
        undated = []
    left_out = len(news.items) - len(kept) - len(undated)
    if not left_out:
        return news
    note = f"{left_out} of {len(news.items)} headlines are not from {first} to {last}: left out"
    items = [item for item in news.items if item in kept or item in undated]
    return Headlines(source=news.source, items=items, note=note)


def plain(text: str) -> str:
    """One line of text without control or direction-changing characters."""
    text = html.unescape(text)
    kept = (" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    line = " ".join("".join(kept).split())
    return line if len(line) <= TITLE_MAX else line[: TITLE_MAX - 1].rstrip() + "…"


def _name(element: _Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _children(item: _Element, names: Sequence[str]) -> list[_Element]:
    """The child elements of these names, in any namespace; comments are none."""
    return list(item.iterchildren(*(f"{{*}}{name}" for name in names)))


def _text(item: _Element, *names: str) -> str:
    for child in _children(item, names):
        text = "".join(str(part) for part in child.itertext())
        if text.strip():
            return text.strip()
    return ""


def _link(item: _Element) -> str:
    """The item's address, if it is one that a reader may be sent to."""
    for child in _children(item, ("link",)):
        if child.get("rel", "alternate") != "alternate":
            continue
        url = (child.get("href") or child.text or "").strip()
        try:
            parts = urlsplit(url)
        except ValueError:
            continue
        printable = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme in ("http", "https") and parts.hostname and printable:
            return url if len(url) <= URL_MAX else ""
    return ""


def _published(item: _Element) -> dt.date | None:
    text = _text(item, "pubDate", "published", "updated", "date")
    try:
        return dt.datetime.fromisoformat(text).date()
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(text).date()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
