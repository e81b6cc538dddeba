"""What the agents say by fixed rules, where no language model is configured.

    researcher   searches the question's words, reads the best hits, answers with sentences that share most
                 with the question; what it did not read are leads
    writer       asks about leads while there is too little to fill the article; then puts sentences
                 together, by document; adds what is not known when the critic asks for it
    critic       measures; sends back what does not say what is not known

Each message is computed from the conversation alone. None of it is a language model, and the article
says so in its first lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from flowkit.chat import ChatMessage, ModelRequest, ToolCall
from flowkit.workflows.newsroom.material import sentences

READS_MAX = 3
FACTS_MAX = 8
INQUIRIES_MAX = 2
WORDS_MAX = 40
"""Words of a sentence that is taken."""

_BLOCK = re.compile(r"^```json[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FIRST_PERSON = re.compile(r"\b(?:I|[Ww]e|[Uu]s|[Oo]ur|[Mm]y)\b")
"""What somebody says of himself needs a name beside it, so it is left out."""

_COMMON = frozenset(
    [
        "about",
        "after",
        "again",
        "also",
        "and",
        "are",
        "been",
        "before",
        "but",
        "can",
        "could",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "how",
        "into",
        "its",
        "material",
        "more",
        "not",
        "one",
        "only",
        "other",
        "out",
        "over",
        "said",
        "she",
        "some",
        "tell",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "was",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "will",
        "with",
        "would",
        "you",
    ]
)

Facts = list[dict[str, Any]]


# ---- the conversation


def _given(request: ModelRequest) -> list[dict[str, Any]]:
    """The JSON blocks of the first message of the user: what the agent was given, in order."""
    first = next(each for each in request.messages if each.role == "user")
    return [json.loads(block) for block in _BLOCK.findall(first.content or "")]


def _results(request: ModelRequest, tool: str) -> list[dict[str, Any]]:
    """What calls of a tool gave, oldest first; failures are left out."""
    named = {call.id: call.name for message in request.messages for call in message.tool_calls}
    found: list[dict[str, Any]] = []
    for message in request.messages:
        if message.role == "tool" and named.get(message.tool_call_id or "") == tool:
            try:
                data: object = json.JSONDecoder().raw_decode(message.content or "")[0]
            except ValueError:
                continue
            if isinstance(data, dict):
                found.append(cast("dict[str, Any]", data))
    return found


def _asked(request: ModelRequest, tool: str) -> int:
    calls = [call for message in request.messages for call in message.tool_calls]
    return sum(call.name == tool for call in calls)


def _say(request: ModelRequest, why: str, *calls: tuple[str, Mapping[str, Any]]) -> ChatMessage:
    before = sum(len(message.tool_calls) for message in request.messages)
    made = [
        ToolCall(f"call_{before + number}", name, json.dumps(arguments, ensure_ascii=False))
        for number, (name, arguments) in enumerate(calls, 1)
    ]
    note = f"{why} (Fixed rules, no language model.)"
    return ChatMessage("assistant", reasoning=note, tool_calls=made)


def _answer(request: ModelRequest, why: str, answer: Mapping[str, Any]) -> ChatMessage:
    """The answer by the tool for it, or as text where no tool may be called any more."""
    if request.tools:
        return _say(request, why, ("answer", answer))
    return ChatMessage("assistant", content=json.dumps(answer, ensure_ascii=False))


def _words(text: str) -> list[str]:
    found = re.findall(r"\w{3,}", text.casefold())
    return list(dict.fromkeys(word for word in found if word not in _COMMON))


# ---- the researcher


def research(request: ModelRequest) -> ChatMessage:
    question = str(_given(request)[0]["question"])
    query = " ".join(_words(question)) or question
    searches = _results(request, "search_material")
    if not searches and not _asked(request, "search_material"):
        found = {"query": query[:500], "limit": 8}
        return _say(request, "Nothing was searched yet.", ("search_material", found))
    hits = [hit for search in searches for hit in search["hits"]]
    if hits and not _asked(request, "read_material"):
        reads = [("read_material", {"id": hit["id"]}) for hit in hits[:READS_MAX]]
        return _say(request, "The best hits are read.", *reads)
    pages = _results(request, "read_material")
    read = {page["id"] for page in pages}
    facts = _facts(pages, _words(question))
    answer = {
        "question": question,
        "facts": facts,
        "gaps": _gaps(question, pages),
        "leads": [str(hit["title"]) for hit in hits if hit["id"] not in read],
    }
    return _answer(request, "What was read is told, sentence by sentence.", answer)


def _facts(pages: Sequence[Mapping[str, Any]], words: Sequence[str]) -> Facts:
    """The sentences that share most with the words, in the order in which they were read."""
    scored: list[tuple[int, int, dict[str, Any]]] = []
    for page in pages:
        lines = [line.partition("| ")[2] for line in str(page["text"]).splitlines()]
        for sentence in sentences("\n".join(lines)):
            if len(sentence.split()) > WORDS_MAX or _FIRST_PERSON.search(sentence):
                continue
            said = sentence.casefold()
            shared = sum(word[:6] in said for word in words) + bool(re.search(r"\d", sentence))
            fact = {"statement": sentence, "document": page["id"], "quote": sentence}
            scored.append((shared, len(scored), fact))
    best = sorted(scored, key=lambda each: (-each[0], each[1]))[:FACTS_MAX]
    return [fact for _, _, fact in sorted(best, key=lambda each: each[1])]


def _gaps(question: str, pages: Sequence[Mapping[str, Any]]) -> list[str]:
    said = " ".join(f"{page['title']} {page['text']}" for page in pages).casefold()
    missing = [word for word in _words(question) if word[:6] not in said]
    return [f"The documents that were read do not mention {word!r}." for word in missing[:3]]


# ---- the writer


def write(request: ModelRequest) -> ChatMessage:
    brief, first = _given(request)
    all_notes = [first, *_results(request, "researcher")]
    facts: Facts = []
    for notes in all_notes:
        said = {fact["statement"] for fact in facts}
        facts += [fact for fact in notes["facts"] if fact["statement"] not in said]
    have = sum(len(fact["statement"].split()) for fact in facts)
    if have < brief["words"] and request.tools and not _asked(request, "researcher"):
        asked = [
            ("researcher", {"question": f"What does the material tell about: {lead}"})
            for lead in first["leads"][:INQUIRIES_MAX]
        ]
        if asked:
            why = (
                f"The notes have {have} words, {brief['words']} are asked; the leads may have more."
            )
            return _say(request, why, *asked)
    told = "\n".join(
        message.content or ""
        for message in request.messages[2:]
        if message.role == "user" or (message.content or "").startswith("error: ")
    )
    draft = _draft(brief, facts, first["gaps"] if "not known" in told else None)
    return _answer(request, "The sentences are put together by document.", draft)


def _draft(brief: Mapping[str, Any], facts: Facts, gaps: Sequence[str] | None) -> dict[str, Any]:
    """Sentences up to the wanted length; `gaps` are told at the end, None for no word of them."""
    topic = str(brief["topic"]).strip()
    if not facts:
        text = "The material that was given says nothing about this topic that could be printed."
        empty: dict[str, Any] = {"text": text, "sources": []}
        return {"headline": topic[:160], "standfirst": text, "paragraphs": [empty]}
    lead = next((each for each in facts if re.search(r"\d{4}", each["statement"])), facts[0])
    room = int(brief["words"]) - len(lead["statement"].split())
    by_document: dict[str, list[str]] = {}
    for fact in facts:
        room -= len(fact["statement"].split())
        if fact is lead or (room < 0 and by_document):
            continue
        by_document.setdefault(fact["document"], []).append(fact["statement"])
    paragraphs = [
        {"text": " ".join(said), "sources": [document]} for document, said in by_document.items()
    ] or [{"text": lead["statement"], "sources": [lead["document"]]}]
    if gaps is not None:
        rest = " ".join(gaps) or "Nobody beyond these documents was asked."
        paragraphs.append({"text": f"What is not known: {rest}", "sources": []})
    return {
        "headline": topic[:1].upper() + topic[1:160],
        "standfirst": lead["statement"],
        "paragraphs": paragraphs,
    }


# ---- the critic


def look(request: ModelRequest) -> ChatMessage:
    if _asked(request, "measure"):
        return ChatMessage("assistant", content="It is measured.")
    draft = _given(request)[0]
    texts = [draft["standfirst"], *(part["text"] for part in draft["paragraphs"])]
    return _say(request, "First the measures.", ("measure", {"text": " ".join(texts)}))


def judge(request: ModelRequest) -> str:
    draft = _given(request)[0]
    whole = " ".join(part["text"] for part in draft["paragraphs"]).casefold()
    score, faults = 1.0, list[str]()
    if "not known" not in whole:
        score -= 0.5
        faults.append("say at the end what is not known, and who was not heard")
    longest = max((each["longest_sentence"] for each in _results(request, "measure")), default=0)
    if longest > WORDS_MAX:
        score -= 0.2
        faults.append(f"a sentence has {longest} words: make two of it")
    return json.dumps({"score": score, "feedback": "; ".join(faults)})


OFFLINE_RULES: Mapping[str, Callable[[ModelRequest], str | ChatMessage]] = MappingProxyType(
    {
        "search_material": research,
        "Notes": research,
        "researcher": write,
        "Draft": write,
        "measure": look,
        "Verdict": judge,
    }
)
"""By the wanted answer's schema, or by the first tool that a request offers."""
