"""What can be told of a page from its text, without a browser: necessary, and far from enough."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from flowkit.workflows.web_game.values import Fault

HOOKS = (
    "data-cell", "data-stone", "data-energy", "data-points", "data-fill", "data-skill", "data-action",
    "data-status", "data-turn", "data-winner",
)  # fmt: skip

_FORBIDDEN = (
    ("dialog", "no dialog: tell it in [data-status]", r"\b(?:alert|confirm|prompt)\s*\("),
    ("storage", "nothing is stored", r"\b(?:localStorage|sessionStorage|indexedDB)\b|document\.cookie"),
    (
        "network", "no request, everything is inside the page",
        (
            r"\b(?:fetch|importScripts|import)\s*\(|sendBeacon|@import\b|url\(\s*[\"']?(?:https?:)?//"
            r"|\b(?:XMLHttpRequest|WebSocket|EventSource|RTCPeerConnection)\b"
        ),
    ),
    ("code", "no code made of texts", r"\beval\s*\(|\bnew\s+Function\s*\("),
)  # fmt: skip
_LOADS = {"src", "href", "srcset", "action", "formaction", "poster", "data", "background", "ping"}
_CAMEL = re.compile(r"\.dataset\.(\w+)")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.viewport = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {name: value or "" for name, value in attrs}
        self.viewport |= tag == "meta" and given.get("name", "").lower() == "viewport"
        for name in _LOADS & given.keys():
            value = given[name].strip()
            if value and not value.startswith(("#", "data:")):
                self.loads.append(f"<{tag} {name}={value[:120]!r}>")


def faults_of(html: str) -> list[Fault]:
    """What is wrong with a page's text, all of it."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    found: list[Fault] = []

    def wrong(check: str, expected: str, seen: str) -> None:
        found.append(
            Fault(
                check=check,
                where="structure",
                did="read the page's text",
                expected=expected,
                seen=seen,
            )
        )

    hooks = html + " ".join(f"data-{name.lower()}" for name in _CAMEL.findall(html))
    if missing := [name for name in HOOKS if name not in hooks]:
        wrong(
            "contract", "the attributes of the contract", f"not in the text: {', '.join(missing)}"
        )
    if not reader.viewport:
        wrong("phone", '<meta name="viewport" ...>', "there is none")
    for load in reader.loads[:3]:
        wrong("network", "no request, everything is inside the page", load)
    if odd := sorted({"iframe", "object", "embed", "base", "form"} & set(reader.tags)):
        wrong("network", "none of iframe, object, embed, base, form", ", ".join(odd))
    if "script" not in reader.tags:
        wrong("contract", "a <script> in the page", "there is none")
    for check, expected, pattern in _FORBIDDEN:
        if hit := re.search(pattern, html):
            line = html.count("\n", 0, hit.start()) + 1
            wrong(check, expected, f"{hit[0]!r} in line {line}")
    return found
