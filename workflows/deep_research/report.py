"""The report: one set of data, written as an HTML page that stands alone, and as Markdown.

What came from outside (documents, model text, error messages) is escaped: by Jinja's autoescape in
HTML, by the `md` filter in Markdown.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flowkit.events import StepView
from flowkit.workflows.deep_research.values import Claim, Finding, Making, Source, Task
from flowkit.workflows.pages import environment, md, took


@dataclass(frozen=True)
class Material:
    """All that a report tells. `titles`: of the library's documents, by id."""

    task: Task
    finding: Finding
    titles: Mapping[str, str]
    steps: Sequence[StepView]
    run_id: str
    written_at: dt.datetime

    @property
    def making(self) -> Making:
        return self.finding.making or Making(model="unknown", computed=False, turns=0, deeds=[])

    @cached_property
    def notes(self) -> list[Note]:
        """A footnote for each passage, in the order in which the claims cite them."""
        found: dict[tuple[str, str], Note] = {}
        for claim in self.finding.claims:
            for each in claim.citations:
                key = each.document, each.quote
                title = self.titles.get(each.document, each.document)
                found.setdefault(key, Note(len(found) + 1, *key, title))
        return list(found.values())

    @property
    def stood_in(self) -> str:
        """Why sentences were taken without the model; empty if the researcher answered."""
        for step in self.steps:
            if step.key == "research" and step.node == "extractive":
                return step.errors[-1] if step.errors else "the researcher gave no answer"
        return ""


@dataclass(frozen=True, slots=True)
class Note:
    """One cited passage."""

    number: int
    document: str
    quote: str
    title: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the answer: plain text, or with `claim` a mark that refers to a claim."""

    text: str
    claim: int = 0


def render(material: Material, template: str) -> str:
    """The report by one of the two templates."""
    found = environment("flowkit.workflows.deep_research").get_template(template)
    text = found.render(**_told(material))
    return text if template.endswith("html.j2") else re.sub(r"\n{3,}", "\n\n", text)


def sources(material: Material) -> list[Source]:
    """The cited documents, with how often."""
    found: dict[str, Source] = {}
    for note in material.notes:
        quotes = found[note.document].quotes + 1 if note.document in found else 1
        found[note.document] = Source(id=note.document, title=note.title, quotes=quotes)
    return list(found.values())


def numbers(material: Material) -> dict[str, int]:
    """What was done, counted. A replan is a turn that follows a failure or a rejection."""
    deeds = material.making.deeds
    failed = {deed.turn for deed in deeds if deed.failed}
    return {
        "turns": material.making.turns,
        "searches": sum(deed.kind == "search" for deed in deeds),
        "pages_read": sum(deed.kind == "read" and not deed.failed for deed in deeds),
        "calculations": sum(deed.kind == "calculate" and not deed.failed for deed in deeds),
        "failures": sum(deed.failed and deed.kind != "verify" for deed in deeds),
        "rejections": sum(deed.kind == "verify" for deed in deeds),
        "replans": sum(turn < material.making.turns for turn in failed),
    }


def author(material: Material) -> str:
    """Who answered, in a sentence for the first lines."""
    if material.stood_in:
        return (
            "No language model wrote this answer. The researcher failed, so the sentences that share "
            f"most with the question were taken from the documents ({material.stood_in})."
        )
    if material.making.computed:
        return (
            "No language model was used. The answer was put together by fixed rules, from sentences of "
            f"the documents ({material.making.model}); set OPENAI_API_KEY to have a language model do "
            "the research."
        )
    return (
        f"The answer was written by the language model {material.making.model}. Each quote was checked "
        "word for word against the document that it names; what follows from it was not."
    )


def _told(material: Material) -> dict[str, Any]:
    finding = material.finding
    deeds = material.making.deeds
    return {
        "question": material.task.question,
        "library": material.task.library,
        "author": author(material),
        "answer": pieces(finding.answer, len(finding.claims)),
        "claims": [_claim(material, claim) for claim in finding.claims],
        "open_questions": finding.open_questions,
        "notes": material.notes,
        "sources": sources(material),
        "numbers": numbers(material),
        "deeds": deeds,
        "replanned": {
            deed.turn + 1 for deed in deeds if deed.failed and deed.turn < material.making.turns
        },
        "steps": [(step, took(step.duration_s), _failures(step)) for step in material.steps],
        "run_id": material.run_id,
        "written_at": material.written_at.strftime("%Y-%m-%d %H:%M UTC"),
        "md_answer": " ".join(
            f"[{piece.claim}](#claim-{piece.claim})" if piece.claim else md(piece.text)
            for piece in pieces(finding.answer, len(finding.claims))
        ),
    }


def _claim(material: Material, claim: Claim) -> tuple[Claim, list[int]]:
    places = {(note.document, note.quote): note.number for note in material.notes}
    cited = [places[each.document, each.quote] for each in claim.citations]
    return claim, list(dict.fromkeys(cited))


def pieces(answer: str, claims: int) -> list[Piece]:
    """The answer in pieces, with its [n] that name a claim apart."""
    found: list[Piece] = []
    for text in re.split(r"(\[\d{1,3}\])", answer):
        number = int(text[1:-1]) if re.fullmatch(r"\[\d{1,3}\]", text) else 0
        if 1 <= number <= claims:
            found.append(Piece(text, number))
        elif text.strip():
            found.append(Piece(text.strip("\n")))
    return found


def _failures(step: StepView) -> list[str]:
    told = [*step.errors, *(f"rejected before: {text}" for text in step.feedback)]
    short = (" ".join(text.split()) for text in told)
    return [f"{text[:300]}{'…' if len(text) > 300 else ''}" for text in dict.fromkeys(short)]
