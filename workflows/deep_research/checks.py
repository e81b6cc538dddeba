"""What the verifier checks, as plain functions: each gives the list of what is wrong, for the model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from flowkit.nodes.tools.calculate import BadExpression, evaluate
from flowkit.nodes.tools.corpus import Corpus
from flowkit.workflows.deep_research.values import Citation, Claim, Finding

QUOTE_CHARACTERS_MIN = 20
QUOTE_WORDS_MIN = 4
QUOTE_CHARACTERS_MAX = 600
QUOTE_DENSE_MIN = 8
"""Characters of a quote in a script without spaces, where one is about half a word."""

CONSTANTS = frozenset({0.3048, 1.609344, 1.852, 2, 7, 10, 12, 24, 60, 100, 365, 1000})
"""Numbers that a calculation may bring in itself: units, halves and parts of a year or a day."""


def finding_problems(finding: Finding, corpus: Corpus) -> list[str]:
    """Every fault of a finding; empty if each claim is written where it says."""
    if not finding.claims:
        if finding.open_questions:
            return _stray_numbers("the answer", finding.answer, ())
        return [
            "state at least one claim with its citations, or say in open_questions what is missing"
        ]
    found = [
        f"claim {number}: {problem}"
        for number, claim in enumerate(finding.claims, 1)
        for problem in claim_problems(claim, corpus)
    ]
    told = [text for claim in finding.claims for text in (claim.text, *_quotes(claim))]
    found += _stray_numbers("the answer", _MARK.sub("", finding.answer), told)
    for mark in dict.fromkeys(_MARK.findall(finding.answer)):
        if not 1 <= int(mark) <= len(finding.claims):
            found.append(
                f"the answer refers to [{mark}], but there are {len(finding.claims)} claims"
            )
    return found


def claim_problems(claim: Claim, corpus: Corpus) -> list[str]:
    """A claim is cited, its quotes stand where it says, and its numbers are theirs or calculated."""
    if not claim.citations:
        return ["it has no citation; quote the sentence that it rests on, or leave the claim out"]
    found = [problem for each in claim.citations if (problem := citation_problem(each, corpus))]
    quoted = list(numbers(" ".join(_quotes(claim))))
    results: list[str] = []
    for expression in claim.calculations:
        try:
            results.append(repr(evaluate(expression)))
        except BadExpression as error:
            found.append(f"calculation: {error}")
            continue
        strange = [
            number
            for number in numbers(expression)
            if not _is_among(number, quoted) and _forms(number).isdisjoint(CONSTANTS)
        ]
        if strange:
            found.append(
                f"calculation {expression!r} uses {', '.join(strange)}, which no quote of the claim has"
            )
    found += _stray_numbers("it", claim.text, _quotes(claim), results)
    return found


def citation_problem(citation: Citation, corpus: Corpus) -> str:
    """Why a citation does not hold; empty if it does."""
    try:
        document = corpus.document(citation.document)
    except LookupError as error:
        return str(error)
    quote = normal(citation.quote)
    dense = sum(letter.isalnum() for letter in quote)
    if not (
        (len(quote) >= QUOTE_CHARACTERS_MIN and len(quote.split()) >= QUOTE_WORDS_MIN)
        or (dense >= QUOTE_DENSE_MIN and not quote.isascii() and len(quote.split()) <= dense // 4)
    ):
        return f"the quote {quote!r} is too short to say anything: quote the whole sentence"
    if len(quote) > QUOTE_CHARACTERS_MAX:
        return f"a quote of {len(quote)} characters: quote only the sentence that says it"
    if quote in _normal_document(document.text):
        return ""
    near = _nearest(quote, document.lines())
    hint = f"; the nearest line there is {near!r}" if near else ""
    return f"{citation.document} does not say {quote[:200]!r} word for word{hint}"


def _nearest(quote: str, lines: Sequence[str]) -> str:
    words = set(quote.lower().split())
    ranked = sorted(lines, key=lambda line: -len(words & set(line.lower().split())))[:5]
    scored = [(SequenceMatcher(None, quote, normal(line)).ratio(), line) for line in ranked]
    best = max(scored, default=(0.0, ""))
    return normal(best[1])[:300] if best[0] > 0.4 else ""


def _quotes(claim: Claim) -> list[str]:
    return [normal(citation.quote) for citation in claim.citations]


# ---- texts

_TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"'}
    | dict.fromkeys("‐‑‒–—−", "-")
    | dict.fromkeys("\u00ad\u200b\ufeff", None)
)
_LINE_NUMBER = re.compile(r"^\s*\d{1,6}\| ?", re.MULTILINE)


def normal(text: str) -> str:
    """A text with plain quotes, dashes and single spaces, without line numbers and outer dots."""
    text = _LINE_NUMBER.sub("", unicodedata.normalize("NFKC", text)).translate(_TYPOGRAPHY)
    return re.sub(r"^(?:\.{3}\s*)|(?:\s*\.{3})$", "", " ".join(text.split()))


@lru_cache(maxsize=64)
def _normal_document(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).translate(_TYPOGRAPHY)
    return " ".join(plain.split())


# ---- numbers

_MARK = re.compile(r"\[(\d{1,3})\]")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
)  # fmt: skip
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)


def numbers(text: str) -> Iterator[str]:
    """The numbers of a text as they are written in digits."""
    for found in _NUMBER.finditer(unicodedata.normalize("NFKC", text)):
        yield found[0]


def _forms(number: str) -> set[float]:
    """What a written number may mean: with commas for thousands, or with one for the decimals."""
    found: set[float] = set()
    if number.count(".") <= 1:
        found.add(float(number.replace(",", "")))
    if number.count(",") == 1 and not re.search(r",\d{3}$", number):
        found.add(float(number.replace(".", "").replace(",", ".")))
    if number.count(".") > 1:
        found.add(float(number.replace(".", "").replace(",", ".", 1).replace(",", "")))
    return found


def _is_among(number: str, given: Iterable[str]) -> bool:
    forms = _forms(number)
    return any(not forms.isdisjoint(_forms(each)) for each in given)


def _is_rounded(number: str, results: Sequence[str]) -> bool:
    """Whether a number is a result, rounded to the digits that were written."""
    digits = len(re.sub(r",(?=\d{3}(?!\d))", "", number).replace(",", ".").partition(".")[2])
    return any(
        abs(form - abs(float(result))) <= 0.5 * 10.0**-digits + 1e-9
        for form in _forms(number)
        for result in results
    )


def _stray_numbers(
    where: str, text: str, given: Iterable[str], results: Sequence[str] = ()
) -> list[str]:
    known = [number for each in given for number in numbers(each)]
    known += [str(_WORDS.index(word.lower())) for each in given for word in _WORD.findall(each)]
    return [
        f"{where} says {number}, which is in no quote and is no result of its calculations"
        for number in dict.fromkeys(numbers(text))
        if not _is_among(number, known) and not _is_rounded(number, results)
    ]
