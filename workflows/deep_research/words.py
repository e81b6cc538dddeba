"""Words, stems and sentences of a text, for those who count them. English, and what is written densely."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

SENTENCE_CHARACTERS_MAX = 500

_STOP_WORDS = """
a about after all also an and any are as at be been before between both but by can could did do does each
for from had has have how i if in into is it its me more most much many of on one or other our out over so
some such than that the their them then there these they this those to under up was we were what when
where which while who whom whose why will with would year years long far tell explain describe give please
list name
der die das und ist wie was wer wo wann warum ein eine einer den dem des mit von im in zu auf wie viel viele
le la les un une des du et est que qui quand où comment combien pourquoi dans sur
"""
STOP = frozenset(_STOP_WORDS.split())
_DENSE_STOP = frozenset("的了是在和与及或有为何时什么多少哪个几怎样如何吗呢请问一")

_ENDS = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-ZÀ-ÞА-Я\d])|(?<=[。！？])")
_DENSE = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+")


def sentences_of(line: str) -> Iterator[str]:
    """The sentences of a line that can be quoted: no headings, no scraps."""
    line = " ".join(line.split())
    if line.startswith(("#", "|", "```", "- [")):
        return
    for text in _ENDS.split(line):
        text = text.strip()
        if len(text) > SENTENCE_CHARACTERS_MAX:
            continue
        letters = sum(letter.isalnum() for letter in text) if _DENSE.search(text) else 0
        dense = letters >= 8 and len(text.split()) <= letters // 4
        if dense or (len(text) >= 20 and len(text.split()) >= 4):
            yield text


def words_of(text: str) -> list[str]:
    """The words of a text that say something, in order, each once; of Han and kana, pairs."""
    found: dict[str, None] = {}
    for word in re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", unicodedata.normalize("NFKC", text)):
        runs = _DENSE.findall(word)
        if runs:
            for run in runs:
                pairs = [run[place : place + 2] for place in range(len(run) - 1)] or [run]
                found |= {pair: None for pair in pairs if not set(pair) & _DENSE_STOP}
        elif word.lower() not in STOP and (len(word) > 1 or word.isdigit()):
            found[word] = None
    return list(found)


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """A word without accents and common English endings."""
    plain = unicodedata.normalize("NFKD", word.lower())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = plain.removesuffix("'s").removesuffix("’s")
    for ending, kept in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if plain.endswith(ending) and len(plain) - len(ending) >= 4:
            return plain.removesuffix(ending) + kept
    return plain.removesuffix("e") if len(plain) > 4 else plain


@lru_cache(maxsize=4096)
def stems_of(text: str) -> tuple[str, ...]:
    """The stems of a text's words."""
    return tuple(stem(word) for word in words_of(text))
