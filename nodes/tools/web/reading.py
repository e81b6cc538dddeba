"""What a page says: its main text as Markdown, a PDF's text, JSON and plain text as they are."""

from __future__ import annotations

import codecs
import io
import json
import re
from html import unescape
from typing import Final

from flowkit.nodes.tools.documents import Document
from flowkit.nodes.tools.web.client import Answer, Refused

PDF_PAGES_MAX: Final = 200
CUT: Final = "\n\n[cut after"
"""With this the last line of a text begins that is not whole."""
_NO_CHARSETS: Final = frozenset(
    {"punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined", "utf-7"}
)
"""Python calls them encodings of text; no page is written in one, and some take quadratic time."""
_META: Final = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([A-Za-z0-9_-]{2,40})", re.IGNORECASE)
_TITLE: Final = re.compile(r"<title[^>]{0,200}>([^<]{1,500})", re.IGNORECASE)


def document_of(answer: Answer) -> Document:
    """The answer as a text to read; raises `Refused` for what holds none."""
    kind = answer.media_type
    if kind == "application/pdf" or answer.body.startswith(b"%PDF-"):
        title, text = _pdf(answer.body)
    elif kind in ("text/html", "application/xhtml+xml", ""):
        title, text = _html(text_of(answer), answer.url)
    elif kind == "application/json" or kind.endswith("+json"):
        title, text = "", _json(text_of(answer))
    elif kind.startswith("text/") or kind.endswith("xml"):
        title, text = "", text_of(answer)
    else:
        raise Refused(f"{answer.url} is {kind[:60]}, which holds no text to read.")
    if answer.cut:
        text += f"{CUT} {len(answer.body):,} bytes]"
    return Document(id=answer.url[:300], title=title or answer.url, text=text)


def text_of(answer: Answer) -> str:
    """The body as text, by what the server, the page, or else UTF-8 says."""
    declared = _META.search(answer.body[:2_000])
    for name in (answer.charset, declared[1].decode("ascii") if declared else "", "utf-8"):
        try:
            if codecs.lookup(name).name not in _NO_CHARSETS:
                return answer.body.decode(name, "replace").lstrip("\ufeff")
        except (LookupError, ValueError):
            continue
    return answer.body.decode("utf-8", "replace")


def _html(source: str, url: str) -> tuple[str, str]:
    try:
        import trafilatura
    except ImportError as error:
        raise Refused(
            'reading web pages needs trafilatura: pip install "flowkit-agents[web]"'
        ) from error
    if not source.strip():
        return "", ""
    found = _TITLE.search(source)
    title = " ".join(unescape(found[1]).split()) if found else ""
    text: str | None = trafilatura.extract(
        source, url=url, output_format="markdown", include_tables=True, include_links=False,
        favor_recall=True, deduplicate=False,
    )  # fmt: skip
    return title, text or _plain(source)


def _plain(source: str) -> str:
    """All text of a page that has no main part."""
    from lxml import etree

    parser = etree.HTMLParser(encoding="utf-8", no_network=True)
    tree = etree.fromstring(source.encode("utf-8", "replace") or b" ", parser)
    if tree is None:  # of a page without any text
        return ""
    etree.strip_elements(tree, "script", "style", "noscript", "template", with_tail=False)
    lines = [" ".join(str(text).split()) for text in tree.itertext()]
    return "\n".join(line for line in lines if line)


def _json(text: str) -> str:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=1)
    except (ValueError, RecursionError):
        return text


def _pdf(data: bytes) -> tuple[str, str]:
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise Refused('reading PDF needs pypdf: pip install "flowkit-agents[web]"') from error
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        pages = [page.extract_text() for page in reader.pages[:PDF_PAGES_MAX]]
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except (PyPdfError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise Refused(f"the PDF cannot be read: {error}.") from error
    text = "\n\n".join(f"[page {number}]\n{page}" for number, page in enumerate(pages, 1))
    if not any(page.strip() for page in pages):
        raise Refused("the PDF holds no text, only pictures.")
    return title, text
