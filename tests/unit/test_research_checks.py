"""The check of citations: what it accepts, and what it says of each fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.nodes.tools import Corpus, Document
from flowkit.workflows.deep_research.checks import (
    citation_problem,
    claim_problems,
    finding_problems,
    normal,
    numbers,
)
from flowkit.workflows.deep_research.values import Citation, Claim, Finding

TOWER = "The tower is 60.5 metres tall, measured from the ground."
BELL = "Bell Rock – “the old one” – has 2,835 blocks and eleven windows."
CORPUS = Corpus(
    [
        Document(
            id="a.md", title="A", text=f"First line.\n{TOWER}\nIt stands\non the coast of it."
        ),
        Document(id="b.md", title="B", text=f"{BELL} It is 35 metres tall."),
        Document(id="zh.md", title="C", text="武汉长江大桥全长1670米。"),
        Document(id="gone.md", title="G", text="x", unavailable="no answer."),
    ]
)


def cite(document: str, quote: str) -> Citation:
    return Citation(document=document, quote=quote)


A = cite("a.md", TOWER)
B = cite("b.md", "It is 35 metres tall.")


@pytest.mark.parametrize(
    ("document", "quote"),
    [
        ("a.md", TOWER),
        ("a.md", f"  {TOWER.replace(' ', '  ')}\n"),
        ("a.md", "It stands on the coast of it."),  # over the end of a line
        ("a.md", "3| It stands\n4| on the coast of it."),  # with the numbers that read_page shows
        ("a.md", "... tower is 60.5 metres tall, measured from ..."),
        ("b.md", 'Bell Rock - "the old one" - has 2,835 blocks'),
        ("zh.md", "武汉长江大桥全长1670米"),
    ],
)
def test_what_stands_there_is_accepted(document: str, quote: str) -> None:
    assert citation_problem(cite(document, quote), CORPUS) == ""


@pytest.mark.parametrize(
    ("document", "quote", "fault"),
    [
        (
            "a.md",
            "The tower is 61.5 metres tall, measured from the ground.",
            "nearest line there is",
        ),
        ("a.md", "Nothing of the kind was ever written there at all.", "does not say"),
        ("a.md", "the tower is 60.5 metres tall", "does not say"),
        ("b.md", TOWER, "b.md does not say"),
        ("a.md", "The tower is", "too short"),
        ("a.md", "", "too short"),
        ("a.md", "60.5", "too short"),
        ("zh.md", "大桥全长", "too short"),
        ("a.md", TOWER * 20, "quote only the sentence"),
        ("A.md", TOWER, "did you mean"),
        ("../a.md", TOWER, "no document has the id"),
        ("gone.md", TOWER, "cannot be read"),
    ],
)
def test_what_does_not_is_told(document: str, quote: str, fault: str) -> None:
    assert fault in citation_problem(cite(document, quote), CORPUS)


@pytest.mark.parametrize(
    ("text", "calculations"),
    [
        ("It is 60.5 metres tall.", []),
        ("It is 60,5 metres tall.", []),  # a decimal comma, as German has it
        ("The difference is 25.5 (60.5 - 35).", ["60.5 - 35"]),
        ("The difference is about 26 metres.", ["60.5 - 35"]),
        ("That is 198.5 feet.", ["60.5 / 0.3048"]),
        ("No number at all.", []),
    ],
)
def test_numbers_that_are_quoted_or_calculated(text: str, calculations: list[str]) -> None:
    claim = Claim(text=text, citations=[A, B], calculations=calculations)
    assert claim_problems(claim, CORPUS) == []


@pytest.mark.parametrize(
    ("text", "calculations", "fault"),
    [
        ("It is 61 metres tall.", [], "it says 61, which is in no quote"),
        ("It is 605 metres tall.", [], "it says 605"),
        ("The difference is 26.5.", ["60.5 - 35"], "it says 26.5"),
        ("The difference is 20.5.", ["60.5 - 40"], "uses 40, which no quote of the claim has"),
        ("The difference is 20.5.", ["60.5 - x"], "calculation: 'x' is not known"),
    ],
)
def test_numbers_from_nowhere(text: str, calculations: list[str], fault: str) -> None:
    claim = Claim(text=text, citations=[A, B], calculations=calculations)
    assert fault in "; ".join(claim_problems(claim, CORPUS))


def test_numbers_in_words_and_with_commas() -> None:
    claim = Claim(text="It has 2835 blocks and 11 windows.", citations=[cite("b.md", BELL)])
    assert claim_problems(claim, CORPUS) == []


def test_a_claim_without_a_citation() -> None:
    assert "it has no citation" in claim_problems(Claim(text="So it is.", citations=[]), CORPUS)[0]


@pytest.mark.parametrize(
    ("answer", "claims", "open_questions", "fault"),
    [
        ("It is 60.5 metres tall [1].", 1, [], ""),
        ("It is tall [2].", 1, [], "refers to [2], but there are 1 claims"),
        ("It is 77 metres tall [1].", 1, [], "the answer says 77"),
        ("Nothing.", 0, [], "state at least one claim"),
        ("Nothing.", 0, ["All of it."], ""),
        ("About 77, I think.", 0, ["All of it."], "the answer says 77"),
    ],
)
def test_a_whole_finding(answer: str, claims: int, open_questions: list[str], fault: str) -> None:
    claim = Claim(text="It is 60.5 metres tall.", citations=[A])
    finding = Finding(answer=answer, claims=[claim] * claims, open_questions=open_questions)
    found = finding_problems(finding, CORPUS)
    assert bool(found) == bool(fault)
    assert fault in "; ".join(found)


def test_every_fault_is_told_with_its_claim() -> None:
    bad = Claim(text="It has 7 doors.", citations=[cite("a.md", "It has seven doors, they say.")])
    good = Claim(text="It is 60.5 metres tall.", citations=[A])
    found = finding_problems(Finding(answer="So.", claims=[good, bad]), CORPUS)
    assert [each.partition(":")[0] for each in found] == ["claim 2"]


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_claim_is_judged(text: str, quote: str) -> None:
    claim = Claim(text=f"abc{text}", citations=[cite("a.md", quote)], calculations=[text[:20]])
    assert all(isinstance(each, str) for each in claim_problems(claim, CORPUS))


@given(st.text(max_size=100))
def test_a_normal_text_stays_as_it_is(text: str) -> None:
    assert normal(normal(text)).split() == normal(normal(normal(text))).split()
    assert list(numbers(text)) == list(numbers(text))
