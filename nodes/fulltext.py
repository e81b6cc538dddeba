"""Text as SQLite's full-text index takes it: scripts that are written without spaces, and queries."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

TERMS_MAX: Final = 48

_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]+"
)
"""Runs of scripts that put no spaces between words, and of Korean, which joins endings to them:
Thai, Lao, Burmese, Khmer, kana, Han, Hangul."""


def indexed(text: str) -> str:
    """The text as the index sees it: in those scripts every pair of neighbours is a word.

    The last character of a run stands alone, so that a single one is found as a prefix everywhere.
    """
    text = unicodedata.normalize("NFKC", text).replace("\0", " ")
    return _UNSPACED.sub(lambda run: f" {' '.join(_pairs(run[0]))} {run[0][-1]} ", text)


def _pairs(run: str) -> list[str]:
    return [run[place : place + 2] for place in range(len(run) - 1)]


def terms_of(query: str, limit: int = TERMS_MAX) -> list[str]:
    """The first of a query's words as FTS5 strings, each once. Quotes cannot stand in a word."""
    text = unicodedata.normalize("NFKC", query).replace("\0", " ")
    found: dict[str, None] = {}
    for word in _words(text):
        for part in re.split(f"({_UNSPACED.pattern})", word):
            if not _UNSPACED.fullmatch(part):
                if part and (set(part) - {"_"}):
                    found[f'"{part.lower()}"'] = None
            elif len(part) == 1:
                found[f'"{part}"*'] = None
            else:
                found.update((f'"{pair}"', None) for pair in _pairs(part))
    return list(found)[:limit]


def _words(text: str) -> list[str]:
    """Runs of letters, digits and the marks on them."""
    kept = "".join(letter if unicodedata.category(letter)[0] in "LNM" else " " for letter in text)
    return kept.split()
