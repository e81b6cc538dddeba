"""A question as fixed rules see it: words with weights, names, and what is to be calculated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from types import MappingProxyType

from flowkit.workflows.deep_research.words import STOP, stem, stems_of, words_of


@dataclass(frozen=True, slots=True)
class Group:
    """Words that ask for the same thing, words that go with them, and the units that it has."""

    core: frozenset[str]
    related: frozenset[str]
    units: frozenset[str]


def _group(core: str, related: str = "", units: str = "") -> Group:
    stems = [frozenset(stem(word) for word in words.split()) for words in (core, related)]
    return Group(stems[0], stems[1], frozenset(units.split()))


@cache
def _groups() -> Sequence[Group]:
    return (
        _group("tall taller tallest high higher highest height", "rise stand", "metres feet"),
        _group("heavy heavier heaviest weigh weight", "", "tonnes"),
        _group("long longer longest length", "", "metres kilometres feet"),
        _group("far farther distance away", "", "kilometres metres"),
        _group("cost price expensive paid", "", "dollars pounds francs"),
        _group("step stair", "climb", "steps"),
        _group("block stone", "granite", "blocks stones"),
        _group(
            "built build builder building began begin", "design designed architect engineer finish"
        ),
        _group("lit light lighted lighting", "open began first"),
        _group("old older oldest age"),
        _group("died death killed drowned lost", "", "people men"),
        _group("automated automation automatic unmanned", "keeper"),
        _group("invent invented inventor invention", "patent patented"),
        _group("destroyed fell collapse wreck", "storm fire"),
        _group("高 高度 多高", "", "米"),
        _group("长 长度 多长", "", "米 公里 千米"),
    )


@dataclass(frozen=True)
class Wanted:
    """A question as the rules see it: words with weights, names, and what is to be calculated."""

    question: str

    @cached_property
    def words(self) -> Mapping[str, float]:
        own = {stem(word): 1.0 for word in words_of(self.question)}
        found = dict(own)
        for group in _groups():
            if group.core & own.keys():
                for stems, weight in ((group.core, 0.6), (group.related, 0.3)):
                    for word in stems:
                        found.setdefault(word, weight)
        return found

    @cached_property
    def name_stems(self) -> Sequence[frozenset[str]]:
        """The stems of each name."""
        return [frozenset(stem(part) for part in words_of(name)) for name in self.names]

    @cached_property
    def named(self) -> frozenset[str]:
        """Stems of the names."""
        return frozenset[str]().union(*self.name_stems)

    @cached_property
    def names(self) -> Sequence[str]:
        """What the question writes with capitals within a sentence, longest first kept."""
        found: dict[str, None] = {}
        for match in _NAME.finditer(self.question):
            parts = match[0].split()
            while parts and (parts[0].lower() in STOP or not parts[0][0].isupper()):
                parts = parts[1:]
            if parts:
                found[" ".join(parts)] = None
        return list(found)

    @cached_property
    def calculation(self) -> str:
        """`-` where the question asks for a difference, `+` for a total, else empty."""
        text = self.question.lower()
        if _TOTAL.search(text):
            return "+"
        return "-" if _DIFFERENCE.search(text) else ""

    @cached_property
    def dimension(self) -> Group | None:
        """What the number is of, if the question names something that has units."""
        asked = {stem(word) for word in re.findall(r"\w+", self.question.lower())}
        asked |= {word for word in ("高", "长") if word in self.question}
        return next((each for each in _groups() if each.units and each.core & asked), None)

    @cached_property
    def wants_years(self) -> bool:
        return bool(_YEARS.search(self.question.lower()))

    @cached_property
    def wants_number(self) -> bool:
        return bool(self.calculation or _HOW_MANY.search(self.question.lower()))


_NAME = re.compile(
    r"[^\W\d_a-z][\w'’-]+(?:\s+(?:of\s+|de\s+|du\s+|the\s+)?[^\W\d_a-z][\w'’-]+)*|[^\W\d_a-z][\w'’-]+"
)
_TOTAL = re.compile(
    r"\b(?:in total|altogether|together|combined|the sum of|in all)\b|一共|总共|合计|加起来"
)
_DIFFERENCE = re.compile(
    r"\b(?:difference|how (?:much|many|far|long)\b.*\b(?:than|between))\b"
    r"|相差|之差|(?:高|长|早|晚|重|大|多)(?:出)?多少"
)
_YEARS = re.compile(r"\b(?:years?|older|younger|earlier|later|when)\b|哪年|何时|早|晚|年")
_HOW_MANY = re.compile(
    r"\b(?:how (?:much|many|tall|high|long|far|old|heavy|deep|wide)|when|(?:what|which) year)\b"
    r"|多少|几|多高|多长|哪年|何时"
)


_UNITS: Mapping[str, str] = MappingProxyType(
    {
        "metre": "metres",
        "meter": "metres",
        "meters": "metres",
        "m": "metres",
        "km": "kilometres",
        "kilometre": "kilometres",
        "tonne": "tonnes",
    }
)
YEAR = re.compile(r"(?<![\d.,])(?:1\d|20)\d\d(?![\d.,]\d|\d)")
_MEASURE = re.compile(
    r"(?<![A-Za-z\d.,])(\d+(?:,\d{3})*(?:\.\d+)?)\s?(metres?|meters?|m|kilometres?|km|feet|tonnes?|steps"
    r"|blocks|stones|dollars|pounds|francs|people|men|米|公里|千米|吨|人|级)(?![a-z])"
)


def measured(text: str, dimension: Group | None) -> tuple[str, str, float] | None:
    """A number, its unit and how surely it is one of the dimension: 2 for "35 metres tall"."""
    if dimension is not None and not (
        dimension.core & set(stems_of(text)) or any(word in text for word in dimension.core)
    ):
        return None
    best: tuple[str, str, float] | None = None
    for found in _MEASURE.finditer(text):
        unit = _UNITS.get(found[2], found[2])
        if dimension is not None and unit not in dimension.units:
            continue
        fits = 2.0 if dimension and _is_near(text, found.span(), dimension.core) else 0.0
        if best is None or fits > best[2]:
            best = found[1], unit, fits
    return best


def _is_near(text: str, span: tuple[int, int], words: frozenset[str]) -> bool:
    """Whether one of the words follows a number, as in "35 metres tall"; in Chinese, precedes it."""
    before, after = text[max(0, span[0] - 4) : span[0]], text[span[1] :].split()[:2]
    return any(word in before for word in words if not word.isascii()) or bool(
        words & set(stems_of(" ".join(after)))
    )
