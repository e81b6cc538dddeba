"""The next step of a research by fixed rules, where no language model is configured.

    nothing searched      search the question's words, and each name in it
    a reading failed      search by the title of what could not be read
    a search has ended    read the best of its hits
    a page goes on        read on, if it has said nothing so far
    a sum is asked for    calculate it, once both numbers were read
    else                  answer with sentences that were read, each cited

A step is computed from the conversation alone: what the tools said decides what comes next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

from flowkit.chat import ChatMessage, ModelRequest, ToolCall
from flowkit.workflows.deep_research.extract import Reading, Sum, compose
from flowkit.workflows.deep_research.values import Finding
from flowkit.workflows.deep_research.wanted import Wanted
from flowkit.workflows.deep_research.words import words_of

READS_AT_ONCE = 4
READS_MAX = 9
SEARCHES_MAX = 8
HITS = 6


@dataclass
class Seen:
    """What a conversation has brought so far."""

    wanted: Wanted
    reading: Reading
    queries: list[str] = field(default_factory=list[str])
    hits: list[list[tuple[str, str]]] = field(default_factory=list[list[tuple[str, str]]])
    latest: list[list[tuple[str, str]]] = field(default_factory=list[list[tuple[str, str]]])
    read: dict[str, int | None] = field(default_factory=dict[str, int | None])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    calculated: list[str] = field(default_factory=list[str])
    refused: str = ""
    calls: int = 0

    def titles(self) -> Mapping[str, str]:
        return {id: title for hits in self.hits for id, title in hits}


Calls = Sequence[tuple[str, Mapping[str, Any]]]


def next_message(request: ModelRequest) -> ChatMessage:
    """The stand-in's next message: calls of tools, or the answer. It is no language model."""
    seen = look(request)
    if not request.tools:
        return ChatMessage("assistant", _finding(seen).model_dump_json(exclude={"making"}))
    for why, calls in (
        ("Rule 1: nothing was searched yet.", _first_searches(seen)),
        ("Rule 2: a source failed, so another one is looked for.", _other_searches(seen)),
        ("Rule 3: the best hits of the search.", _readings(seen)),
        ("Rule 4: the page goes on and has said nothing so far.", _read_on(seen)),
        ("Rule 5: the question asks for a sum, and both numbers were read.", _sums(seen)),
    ):
        if calls:
            return _said(seen, why, calls)
    answer = _finding(seen).model_dump(mode="json", exclude={"making"})
    return _said(seen, "Rule 6: what was read is put together.", [("answer", answer)])


def _said(seen: Seen, why: str, calls: Calls) -> ChatMessage:
    made = [
        ToolCall(f"call_{seen.calls + number}", name, json.dumps(arguments, ensure_ascii=False))
        for number, (name, arguments) in enumerate(calls, 1)
    ]
    note = f"{why} (Fixed rules, no language model.)"
    return ChatMessage("assistant", reasoning=note, tool_calls=made)


# ---- what was said so far


def look(request: ModelRequest) -> Seen:
    """Read a conversation: the task, the calls, and what came of each."""
    from flowkit.model.offline import facts

    wanted = Wanted(str(facts(request)["question"]))
    seen = Seen(wanted, Reading(wanted))
    open_calls: dict[str, ToolCall] = {}
    for message in request.messages:
        if message.role == "assistant":
            seen.calls += len(message.tool_calls)
            open_calls = {call.id: call for call in message.tool_calls}
            seen.latest = []
        elif message.role == "tool" and message.tool_call_id in open_calls:
            call = open_calls[message.tool_call_id]
            _take(seen, call.name, _object(call.arguments), message.content or "")
    return seen


def _take(seen: Seen, tool: str, asked: Mapping[str, Any], told: str) -> None:
    if tool == "corpus_search":
        seen.queries.append(str(asked.get("query", "")))
    result = _object(told)
    if not result:
        if tool == "read_page":
            seen.failed[str(asked.get("id", ""))] = told.removeprefix("error: ").splitlines()[0]
        elif tool == "calculate":
            seen.calculated.append(str(asked.get("expression", "")))
        elif tool == "answer":
            seen.refused = told
        return
    if tool == "corpus_search":
        seen.latest.append([(str(hit["id"]), str(hit["title"])) for hit in result["hits"]])
        seen.hits.append(seen.latest[-1])
    elif tool == "read_page":
        lines = [line.partition("| ")[2] for line in str(result["text"]).splitlines()]
        seen.reading.add(str(result["id"]), str(result["title"]), lines)
        seen.read[str(result["id"])] = result["next_line"]
    elif tool == "calculate":
        seen.calculated.append(str(result["expression"]))


def _object(text: str) -> dict[str, Any]:
    """The JSON object that a text begins with; empty if it begins with none."""
    try:
        found: object = json.JSONDecoder().raw_decode(text.lstrip())[0]
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


# ---- the rules


def _first_searches(seen: Seen) -> Calls:
    if seen.queries:
        return []
    whole = " ".join(words_of(seen.wanted.question)) or seen.wanted.question
    queries = [whole, *seen.wanted.names[:3]] if len(seen.wanted.names) > 1 else [whole]
    return [_search(query) for query in dict.fromkeys(queries)]


def _other_searches(seen: Seen) -> Calls:
    """For a source that failed: its title, without the words that only a source has."""
    if len(seen.queries) >= SEARCHES_MAX:
        return []
    queries = [" ".join(words_of(seen.titles().get(id, id))) for id in seen.failed]
    return [_search(query) for query in queries if query and query not in seen.queries]


def _search(query: str) -> tuple[str, Mapping[str, Any]]:
    return "corpus_search", {"query": query[:500], "limit": HITS}


def _readings(seen: Seen) -> Calls:
    """After a search: its best hits, of several searches in turn."""
    done = seen.read.keys() | seen.failed.keys()
    ranked: dict[str, None] = {}
    for rank in range(HITS):
        ranked |= {hits[rank][0]: None for hits in seen.latest if rank < len(hits)}
    fresh = [id for id in ranked if id not in done]
    room = max(min(READS_AT_ONCE, READS_MAX - len(done)), 0)
    return [("read_page", {"id": id}) for id in fresh[:room]]


def _read_on(seen: Seen) -> Calls:
    told = {each.document for each in seen.reading.best()}
    going_on = [(id, line) for id, line in seen.read.items() if line is not None and id not in told]
    return [
        ("read_page", {"id": id, "from_line": line}) for id, line in going_on[:2] if line < 2000
    ]


def _sums(seen: Seen) -> Calls:
    total = seen.reading.total()
    if total is None or total.expression in seen.calculated:
        return []
    return [("calculate", {"expression": total.expression})]


def _finding(seen: Seen) -> Finding:
    total = seen.reading.total()
    sums: list[Sum] = [total] if total is not None else []
    finding = compose(seen.reading, sums, list(seen.failed.values()))
    if not seen.refused:
        return finding
    kept = [
        claim
        for number, claim in enumerate(finding.claims, 1)
        if f"claim {number}:" not in seen.refused
    ]
    answer = " ".join(f"{claim.text} [{number}]" for number, claim in enumerate(kept, 1))
    note = "A claim was left out, since the check of its citations refused it."
    return finding.model_copy(
        update={
            "claims": kept,
            "answer": answer or "Nothing was found that stands up to the check.",
            "open_questions": [*finding.open_questions, note],
        }
    )


OFFLINE_RULES: Mapping[str, Callable[[ModelRequest], ChatMessage]] = MappingProxyType(
    {"answer": next_message, "Finding": next_message}
)
"""How the offline stand-in goes on, asked with tools or, in its last turn, without."""
