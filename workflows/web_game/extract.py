"""One page out of a model's answer, sealed: a page that is opened anywhere reaches no network."""

from __future__ import annotations

import re

BYTES_MAX = 400_000

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)
"""Of the page, by whatever way it is opened: what is inside it works, and nothing else is loaded."""

_OPENS = re.compile(r"^[ \t]{0,3}(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*$")
_HEAD = re.compile(r"<head(?:\s[^>]*)?>", re.IGNORECASE)
_TYPE = re.compile(r"^\s*(?:<!--.*?-->\s*)*<!doctype html[^>]*>", re.IGNORECASE | re.DOTALL)
_START = re.compile(r"\s*(?:<!--.*?-->\s*)*<!doctype html", re.IGNORECASE | re.DOTALL)


class NoPage(ValueError):
    """An answer holds no page that could be tried; the message tells the model what to do."""


def page_of(answer: str) -> str:
    """The HTML of the answer's one fenced block; `NoPage` for none, several, or one that is cut off."""
    blocks, cut = _blocks(answer)
    pages = [text for name, text in blocks if name in ("html", "htm") or _START.match(text)]
    if cut is not None:
        raise NoPage(
            f"the answer breaks off inside its code block, after {len(cut)} characters: write a shorter page, "
            "in one ```html block that is closed by ```."
        )
    if not pages:
        what = f"{len(blocks)} code blocks, none of them HTML" if blocks else "no code block"
        raise NoPage(f"the answer holds {what}: give the whole page in one ```html block.")
    if len(pages) > 1:
        raise NoPage(
            f"the answer holds {len(pages)} HTML blocks: give the whole page in one, with its CSS and script "
            "inside it."
        )
    return _checked(pages[0])


def _blocks(answer: str) -> tuple[list[tuple[str, str]], str | None]:
    """The fenced blocks with their names, and the one that is not closed, if any.

    A fence is closed by a line that is a fence of at least its length and nothing else, so that a shorter one
    inside a template literal of the page does not end it.
    """
    blocks: list[tuple[str, str]] = []
    fence, name, lines = "", "", list[str]()
    for line in answer.splitlines():
        if not fence:
            found = _OPENS.match(line)
            if found:
                fence, name, lines = found[1], found[2].lower(), []
        elif (bare := line.strip()) and set(bare) == {fence[0]} and len(bare) >= len(fence):
            blocks.append((name, "\n".join(lines) + "\n"))
            fence = ""
        else:
            lines.append(line)
    return blocks, "\n".join(lines) if fence else None


def _checked(html: str) -> str:
    size = len(html.encode("utf-8", "replace"))
    if size > BYTES_MAX:
        raise NoPage(f"the page has {size} bytes, {BYTES_MAX} are the limit: write a shorter one.")
    if not _START.match(html) or not _HEAD.search(html):
        raise NoPage("the block is no whole page: it begins with <!DOCTYPE html> and has a <head>.")
    if "</html>" not in html.lower():
        raise NoPage("the page is cut off: it has no </html>. Write a shorter page, and all of it.")
    return html


def sealed(html: str) -> str:
    """The page with a content security policy before anything else in it.

    It stands right after the document type, where every parser begins the head with it: before a text that
    looks like a head, as in a comment, it cannot be put by mistake.
    """
    tag = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    return _TYPE.sub(lambda found: f"{found[0]}\n{tag}", html, count=1)
