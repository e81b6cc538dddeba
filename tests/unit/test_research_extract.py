"""The rules that put sentences together, and the offline stand-in's next step."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.chat import ChatMessage, ModelRequest
from flowkit.nodes.tools import Corpus, Document
from flowkit.workflows.deep_research.checks import finding_problems
from flowkit.workflows.deep_research.extract import Reading
from flowkit.workflows.deep_research.offline import SEARCHES_MAX, next_message
from flowkit.workflows.deep_research.steps import extract
from flowkit.workflows.deep_research.values import Finding
from flowkit.workflows.deep_research.wanted import Wanted
from flowkit.workflows.deep_research.words import sentences_of, stem, words_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("towers", "tower"),
        ("building", "builds"),
        ("Île", "ile"),
        ("stories", "story"),
        ("metres", "metre"),
    ],
)
def test_stems(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_words_and_sentences() -> None:
    assert words_of("How tall is the Île Vierge lighthouse?") == [
        "tall",
        "Île",
        "Vierge",
        "lighthouse",
    ]
    assert words_of("长江大桥") == ["长江", "江大", "大桥"]
    line = "It is 82.5 metres tall. Who built it is not known! Short one."
    assert list(sentences_of(line)) == ["It is 82.5 metres tall.", "Who built it is not known!"]
    assert list(sentences_of("# A heading of some length here")) == []
    assert list(sentences_of("武汉长江大桥于1957年建成。大桥全长1670米，很长。")) == [
        "武汉长江大桥于1957年建成。",
        "大桥全长1670米，很长。",
    ]


def test_what_a_question_wants() -> None:
    wanted = Wanted(
        "How much taller is Cape Hatteras than the Lanterna of Genoa, and when was it built?"
    )
    assert wanted.names == ["Cape Hatteras", "Lanterna of Genoa"]
    assert wanted.calculation == "-"
    assert wanted.wants_years
    assert wanted.dimension is not None
    assert "metres" in wanted.dimension.units
    assert Wanted("How tall are they together?").calculation == "+"
    assert Wanted("Who built Bell Rock?").calculation == ""


def reading(question: str, **pages: str) -> Reading:
    found = Reading(Wanted(question))
    for title, text in pages.items():
        found.add(f"{title}.md", title.replace("_", " "), text.splitlines())
    return found


def test_a_difference_has_numbers_of_one_thing() -> None:
    found = reading(
        "How much taller is Old Light than New Light?",
        Old_Light="It stands 9 metres under water at high tide.\nThe tower is 40 metres tall.",
        New_Light="It lies 18 kilometres from the coast of it.\nThe tower is 55.5 metres tall.",
    ).total()
    assert found is not None
    assert found.expression == "55.5 - 40"
    assert (
        found.says == "The difference between New Light and Old Light is 15.5 metres (55.5 - 40)."
    )


def test_years_are_those_of_what_is_asked() -> None:
    found = reading(
        "How many years lie between the first lighting of Old Light and of New Light?",
        Old_Light="Work began in 1756, and the light was first lit on 16 October 1759.",
        New_Light="An act of 1806 allowed it at last.\nThe light was first lit on 1 February 1811.",
    ).total()
    assert found is not None
    assert found.expression == "1811 - 1759"


def test_documents_that_disagree_are_named() -> None:
    found = reading(
        "How tall is Old Light?",
        Old_Light="The tower is 40 metres tall.",
        Tall_towers="The tower of Old Light is 42 metres tall, they say.",
    )
    (told,) = found.disagreements()
    assert (
        told
        == "The sources differ on Old Light: Old_Light.md says 40 metres, Tall_towers.md says 42 metres."
    )


DOCUMENTS = st.lists(
    st.text(
        alphabet=st.sampled_from(
            "tower metres tall 35 60.5 lit in 1811. Bell Rock was\n灯塔高米。?!"
        ),
        max_size=200,
    ),
    min_size=1,
    max_size=4,
)


@given(DOCUMENTS, st.text(min_size=3, max_size=60))
def test_whatever_is_extracted_passes_the_check(texts: list[str], question: str) -> None:
    corpus = Corpus(
        [Document(id=f"{n}", title="Bell Rock", text=text) for n, text in enumerate(texts)]
    )
    try:
        finding = extract(corpus, question)
    except ValueError as error:
        assert "no word in the query" in str(error)  # noqa: PT017
        return
    assert finding_problems(finding, corpus) == []


# ---- the stand-in


def task(question: str) -> list[ChatMessage]:
    block = json.dumps({"question": question, "language": ""})
    return [ChatMessage("system", "…"), ChatMessage("user", f"Task:\n```json\n{block}\n```")]


def asked(messages: list[ChatMessage], *, tools: bool = True) -> ChatMessage:
    return next_message(ModelRequest(messages, tools=[{"name": "answer"}] if tools else []))


def answered(message: ChatMessage, *results: object) -> list[ChatMessage]:
    texts = [each if isinstance(each, str) else json.dumps(each) for each in results]
    calls = zip(message.tool_calls, texts, strict=True)
    return [message, *(ChatMessage("tool", text, tool_call_id=call.id) for call, text in calls)]


def hits(*ids: str) -> dict[str, Any]:
    return {"query": "q", "hits": [{"id": id, "title": id.title()} for id in ids], "documents": 9}


def page(id: str, text: str, next_line: int | None = None) -> dict[str, Any]:
    return {"id": id, "title": id, "text": f"1| {text}", "next_line": next_line}


def calls(message: ChatMessage) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in message.tool_calls]


def test_it_goes_by_what_the_tools_say() -> None:
    talk = task("How tall is the zebra tower?")
    search = asked(talk)
    assert calls(search) == [("corpus_search", {"query": "tall zebra tower", "limit": 6})]
    talk += answered(search, hits("one", "two"))
    read = asked(talk)
    assert calls(read) == [("read_page", {"id": "one"}), ("read_page", {"id": "two"})]
    assert "no language model" in (read.reasoning or "")

    talk += answered(
        read, page("one", "The zebra tower is 12 metres tall."), "error: Unavailable: gone."
    )
    other = asked(talk)
    assert calls(other) == [("corpus_search", {"query": "Two", "limit": 6})], "another source"
    talk += answered(other, hits("two", "three"))
    third = asked(talk)
    assert calls(third) == [("read_page", {"id": "three"})]
    talk += answered(third, page("three", "Nothing of use here."))
    answer = asked(talk)
    ((name, finding),) = calls(answer)
    assert name == "answer"
    assert finding["claims"][0]["citations"][0]["quote"] == "The zebra tower is 12 metres tall."
    assert "gone." in str(finding["open_questions"])
    assert len({call.id for message in talk for call in message.tool_calls}) == 5, "ids are unique"
    assert asked(talk) == answer, "the same conversation, the same step"


def test_it_reads_on_where_a_page_has_said_nothing() -> None:
    talk = task("How tall is the zebra tower?")
    search = asked(talk)
    talk += answered(search, hits("one"))
    read = asked(talk)
    talk += answered(read, page("one", "A long page about something else.", next_line=9))
    assert calls(asked(talk)) == [("read_page", {"id": "one", "from_line": 9})]


def test_it_drops_what_was_refused() -> None:
    talk = task("How tall is the zebra tower?")
    for results in (
        [hits("one")],
        [page("one", "The zebra tower is 12 metres tall. It is a tall zebra.")],
    ):
        talk += answered(asked(talk), *results)
    first = asked(talk)
    talk += answered(first, "error: this answer was not accepted: claim 1: it is wrong")
    ((_, again),) = calls(asked(talk))
    ((_, before),) = calls(first)
    assert again["claims"] == before["claims"][1:]


def test_without_tools_it_answers_in_json() -> None:
    talk = task("How tall is the zebra tower?")
    talk += answered(asked(talk), hits("one"))
    message = asked(talk, tools=False)
    assert not message.tool_calls
    finding = Finding.model_validate_json(message.content or "")
    assert finding.claims == []
    assert finding.open_questions


def test_it_ends_even_if_every_source_fails() -> None:
    talk = task("How tall is the Zebra Tower or the Lion Tower?")
    for turn in range(60):
        message = asked(talk)
        if calls(message)[0][0] == "answer":
            break
        told = [
            hits(*(f"doc {turn} {n} {place}" for place in range(6)))
            if name == "corpus_search"
            else "error: TimeoutError: too late"
            for n, (name, _) in enumerate(calls(message))
        ]
        talk += answered(message, *told)
    else:
        pytest.fail("it goes on for ever")
    assert turn < 3 * SEARCHES_MAX
