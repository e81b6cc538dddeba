"""A finding made of sentences, by counting words: what answers where no language model does.

It understands nothing. It takes from pages that were read the sentences that share most with the
question, cites each, and subtracts or adds numbers where the question asks for that.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flowkit.nodes.tools.calculate import evaluate
from flowkit.workflows.deep_research.values import Citation, Claim, Finding
from flowkit.workflows.deep_research.wanted import YEAR, Wanted, measured
from flowkit.workflows.deep_research.words import sentences_of, stem, stems_of, words_of

SENTENCES_MAX = 6


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence that was read, with where it stands."""

    document: str
    title: str
    text: str
    place: int


@dataclass(frozen=True, slots=True)
class Sum:
    """A calculation that the question asks for, and the sentences that its numbers come from."""

    expression: str
    says: str
    sentences: tuple[Sentence, ...]


@dataclass
class Reading:
    """What was read so far: sentences with the weight of each word among them."""

    wanted: Wanted
    sentences: list[Sentence] = field(default_factory=list[Sentence])

    def add(self, document: str, title: str, lines: Iterable[str]) -> None:
        """Take up a piece of a page; a sentence that was read before is not taken twice."""
        known = {(each.document, each.text) for each in self.sentences}
        for line in lines:
            for text in sentences_of(line):
                if (document, text) not in known:
                    self.sentences.append(Sentence(document, title, text, len(self.sentences)))

    def best(self, count: int = SENTENCES_MAX) -> list[Sentence]:
        """The sentences that share most with the question, a word counting less each time it is met."""
        rarity = self._rarity()
        stems = [set(stems_of(each.text)) for each in self.sentences]
        titles = [set(stems_of(each.title)) for each in self.sentences]
        spent: Counter[tuple[str, str]] = Counter()
        asked = {word for word, weight in self.wanted.words.items() if weight == 1.0}
        covered: set[str] = set()
        picked: list[int] = []
        first = 0.0
        while len(picked) < count:
            scored = [
                (self._score(index, stems, titles, rarity, spent), -index)
                for index in range(len(self.sentences))
                if index not in picked
            ]
            score, minus = max(scored, default=(0.0, 0))
            index = -minus
            if score <= 0.0 or (score < 0.5 * first and not (stems[index] & asked) - covered):
                break
            first = first or score
            picked.append(index)
            each = self.sentences[index]
            covered |= stems[index] | titles[index]
            spent.update((each.document, word) for word in stems[index] & self.wanted.words.keys())
        return [self.sentences[index] for index in picked]

    def _rarity(self) -> Mapping[str, float]:
        counts = Counter(
            word
            for each in self.sentences
            for word in {*stems_of(each.text), *stems_of(each.title)}
        )
        whole = len(self.sentences) + 1
        return {word: math.log(1 + whole / count) for word, count in counts.items()}

    def _score(
        self,
        index: int,
        stems: Sequence[set[str]],
        titles: Sequence[set[str]],
        rarity: Mapping[str, float],
        spent: Mapping[tuple[str, str], int],
    ) -> float:
        """Words of the sentence that the question has; those of the title help, but do not suffice."""
        words, own, title = self.wanted.words, stems[index], titles[index]
        document = self.sentences[index].document
        gain = sum(
            words[word] * rarity[word] * 0.4 ** spent.get((document, word), 0)
            for word in own & words.keys()
        )
        if not gain:
            return 0.0
        about = sum(words.get(word, 0) * rarity[word] for word in title & words.keys() - own)
        names = self.wanted.name_stems
        lacks_name = bool(names) and not any(name <= own or name <= title for name in names)
        gain += 0.8 * about + self._figures(self.sentences[index].text)
        return gain * (0.3 if lacks_name else 1.0)

    def _figures(self, text: str) -> float:
        """What a sentence gains by a year or a measure, where one is asked for."""
        wanted = self.wanted
        gain = 2.0 if wanted.wants_years and YEAR.search(text) else 0.0
        found = measured(text, wanted.dimension) if wanted.dimension else None
        return gain + (1.0 + found[2] if found and wanted.wants_number else 0.0)

    # ---- numbers

    def total(self) -> Sum | None:
        """The calculation that the question asks for, if its names have numbers of one unit."""
        sign = self.wanted.calculation
        if not sign or len(self.wanted.names) < 2:
            return None
        found: list[tuple[str, Measure]] = []
        for name in self.wanted.names:
            measures = self.measures(name)
            if measures:
                found.append((name, measures[0]))
        for (one, left), (other, right) in itertools.combinations(found, 2):
            if left.unit == right.unit and left.sentence != right.sentence:
                return _summed(sign, (one, left), (other, right))
        return None

    def measures(self, name: str) -> list[Measure]:
        """What is asked of a name, in numbers; where the title and the sentence tell of it, first."""
        parts = {stem(part) for part in words_of(name)}
        scored: list[tuple[float, int, Measure]] = []
        for each in self.sentences:
            own, title = set(stems_of(each.text)), set(stems_of(each.title))
            if not (parts <= own or parts <= title):
                continue
            measure = self._measure(each)
            if measure is not None:
                about = measure.fits + 1.5 * (parts <= title) + (parts <= own)
                scored.append((-about, each.place, measure))
        return [measure for _, _, measure in sorted(scored, key=lambda item: item[:2])]

    def _measure(self, sentence: Sentence) -> Measure | None:
        wanted = self.wanted
        if wanted.dimension is not None or not wanted.wants_years:
            found = measured(sentence.text, wanted.dimension)
            return Measure(sentence, *found) if found else None
        best: Measure | None = None
        start = 0
        for year in YEAR.finditer(sentence.text):  # the words before a year say what it is of
            stems = set(stems_of(sentence.text[start : year.start()]))
            fits = sum(wanted.words[word] for word in (wanted.words.keys() - wanted.named) & stems)
            if fits and (best is None or fits > best.fits):
                best = Measure(sentence, year[0], "years", fits)
            start = year.end()
        return best

    def disagreements(self) -> list[str]:
        """Where two documents give different numbers for what is asked of one name."""
        found: list[str] = []
        for name in self.wanted.names if self.wanted.wants_number else ():
            for left, right in itertools.combinations(self.measures(name), 2):
                alike = left.unit == right.unit != "years" and left.number != right.number
                if alike and left.sentence.document != right.sentence.document:
                    found.append(
                        f"The sources differ on {name}: {left.sentence.document} says {left.number} "
                        f"{left.unit}, {right.sentence.document} says {right.number} {right.unit}."
                    )
                    break
        return found


@dataclass(frozen=True, slots=True)
class Measure:
    """A number in a sentence, with its unit; `fits`: how surely it is what is asked for."""

    sentence: Sentence
    number: str
    unit: str
    fits: float = 0.0


def _summed(sign: str, one: tuple[str, Measure], other: tuple[str, Measure]) -> Sum:
    values = [float(measure.number.replace(",", "")) for _, measure in (one, other)]
    if sign == "-" and values[0] < values[1]:
        one, other = other, one
    left, right = one[1].number.replace(",", ""), other[1].number.replace(",", "")
    expression = f"{left} {sign} {right}"
    what = "The difference between" if sign == "-" else "The total of"
    unit = one[1].unit
    shown = f"{evaluate(expression)}"
    says = f"{what} {one[0]} and {other[0]} is {shown} {unit} ({expression})."
    return Sum(expression, says, (one[1].sentence, other[1].sentence))


def compose(reading: Reading, sums: Sequence[Sum], failures: Sequence[str]) -> Finding:
    """A finding of what was read: each claim a sentence, word for word, with its place."""
    picked = list(dict.fromkeys([*(each for sum_ in sums for each in sum_.sentences)]))
    picked += [each for each in reading.best() if each not in picked]
    picked = picked[: SENTENCES_MAX + len(sums)]
    claims = [
        Claim(text=sum_.says, citations=_cited(sum_.sentences), calculations=[sum_.expression])
        for sum_ in sums
    ]
    claims += [Claim(text=_told(each), citations=_cited([each])) for each in picked]
    missing = [
        "A source could not be read: "
        + re.sub(r"^\w+: | Search for another source\.$", "", failure)
        for failure in failures
    ]
    if not claims:
        names = ", ".join(words_of(reading.wanted.question)[:8])
        return Finding(
            answer="Nothing was found in the documents that answers the question.",
            claims=[],
            open_questions=[f"No sentence that was read has these words: {names}.", *missing],
        )
    answer = " ".join(f"{claim.text} [{number}]" for number, claim in enumerate(claims, 1))
    return Finding(
        answer=answer, claims=claims, open_questions=[*reading.disagreements(), *missing]
    )


def _cited(sentences: Sequence[Sentence]) -> list[Citation]:
    return [Citation(document=each.document, quote=each.text) for each in sentences]


def _told(sentence: Sentence) -> str:
    """The sentence, after the title that says what it is about, unless it says so itself."""
    title = sentence.title
    if any(letter.isdigit() for letter in title) or set(stems_of(title)) <= set(
        stems_of(sentence.text)
    ):
        return sentence.text
    return f"{title}: {sentence.text}"


# ---- words
