"""What models said in a run, as people read it: who was asked, what it used, what became of each call.

Read from the journal alone, so that a terminal and a page show the same. Texts are as the models wrote
them, cut but not escaped: whoever shows them does that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import flowkit.events as ev
from flowkit.chat import ChatMessage, ModelAnswer, ToolCall, Usage
from flowkit.events import Event
from flowkit.slot import Slot
from flowkit.state import State

FOLDED = 100
"""Characters of a long text that are shown while it is folded."""

TAIL_MAX = 2_000
"""Characters that are kept of an answer while it streams."""

How = Literal["valid", "repaired", "corrected", "refused", "answer", "inside", "returned", "open"]
"""What became of a call: as `graph.Call` has it; or it gave the step's answer; or it was looked up
inside its node; or it went back to the model with what was wrong; or its turn has not ended."""

COUNTED: Sequence[How] = ("valid", "repaired", "corrected", "refused")

_ENDS = (ev.Planned, ev.StepDone, ev.AttemptFailed, ev.Accepted, ev.Rejected, ev.StepFailed)
_TOLD = (ev.ModelAnswered, ev.ToolAnswered, *_ENDS)


@dataclass(frozen=True, slots=True)
class CallView:
    """A call of a tool. `step` is the key of the planned step that it became."""

    name: str
    arguments: str
    how: How
    step: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of a model, or one try that failed (`error`, and what followed). `agent`: the node."""

    seq: int
    at: float
    step: str
    agent: str
    model: str
    purpose: str
    attempt: int
    duration_s: float
    usage: Usage
    message: ChatMessage | None = None
    calls: tuple[CallView, ...] = ()
    error: str = ""
    follows: str = ""


@dataclass(slots=True)
class Used:
    """What one agent used of one model. `turns`: the turns, rounds or steps in which it was asked."""

    agent: str
    model: str
    turns: int = 0
    answers: int = 0
    failed_tries: int = 0
    calls: int = 0
    usage: Usage = field(default_factory=Usage)


# ---- from the journal


def talk_of(
    events: Sequence[Event], state: State, answers: Mapping[int, ModelAnswer]
) -> list[Said]:
    """All that models said, in the journal's order; `answers` are the recorded ones by seq."""
    steps: dict[str, list[Event]] = {}
    for event in events:
        if isinstance(event.payload, _TOLD):
            steps.setdefault(event.key, []).append(event)
    found = [
        _said(mine, index, state, answers.get(event.seq))
        for mine in steps.values()
        for index, event in enumerate(mine)
        if isinstance(event.payload, ev.ModelAnswered)
    ]
    return sorted(found, key=lambda said: said.seq)


def _said(mine: Sequence[Event], index: int, state: State, answer: ModelAnswer | None) -> Said:
    event = mine[index]
    told = cast("ev.ModelAnswered", event.payload)
    agent = agent_of(event, state)
    message = answer.message if answer is not None else None
    return Said(
        event.seq, event.at, event.key, agent, told.model, told.purpose, event.attempt,
        told.duration_s, told.usage,
        message=message,
        calls=tuple(_calls(mine, index, state, message)) if message is not None else (),
        error=str(told.error) if told.error is not None else "",
        follows=_follows(mine, index) if told.error is not None else "",
    )  # fmt: skip


def agent_of(event: Event, state: State) -> str:
    """The node that an event of a step is about; empty for the run's own."""
    slot = state.by_exec.get(event.key)
    return slot.step.nodes[event.alternative] if slot is not None else ""


def _follows(mine: Sequence[Event], index: int) -> str:
    """What came after a try that failed."""
    failed = cast("ev.ModelAnswered", mine[index].payload)
    if failed.retry_at is not None:
        return f"asked again after {max(failed.retry_at - mine[index].at, 0.0):.1f} s"
    after = mine[index + 1].payload if index + 1 < len(mine) else None
    match after:
        case ev.ModelAnswered(model=model, request=request) if request == failed.request:
            return f"{model} was asked instead"
        case ev.ModelAnswered():
            return "something else was asked"
        case ev.AttemptFailed(then=then):
            ends = {"retry": "tried again", "next": "the next alternative was tried"}
            return f"the attempt failed, {ends.get(then, 'and the step with it')}"
        case _:
            return "no other was asked"


def _calls(
    mine: Sequence[Event], index: int, state: State, message: ChatMessage
) -> Iterator[CallView]:
    """A message's calls and what became of each: what the turn's end says, or what came right after."""
    event, later = mine[index], mine[index + 1 :]
    slot = state.by_exec.get(event.key)
    planner = slot is not None and slot.planning is not None
    end = next((each for each in later if isinstance(each.payload, _ENDS)), None)
    if end is not None and isinstance(end.payload, ev.Planned) and end.payload.answer == event.seq:
        for call, became in zip(message.tool_calls, end.payload.calls, strict=False):
            key = f"{event.key}/{became.step}" if became.step else ""
            yield CallView(call.name, call.arguments, became.how, key, became.note)
        return
    if not planner:
        yield from _looked_up(message.tool_calls, later)
        return
    last = not any(isinstance(each.payload, ev.ModelAnswered) for each in later)
    how: How = "returned"
    if end is None and last:
        how = "open"
    elif end is not None and isinstance(end.payload, ev.StepDone) and _is_last(later):
        how = "answer"
    for call in message.tool_calls:
        yield CallView(call.name, call.arguments, how)


def _is_last(later: Sequence[Event]) -> bool:
    """Whether nothing more was said in the node's own line of talk."""
    return all(
        each.payload.error is not None or each.payload.purpose
        for each in later
        if isinstance(each.payload, ev.ModelAnswered)
    )


def _looked_up(calls: Sequence[ToolCall], later: Sequence[Event]) -> Iterator[CallView]:
    """Calls that a node made inside itself: each with the next result of its tool, if there is one."""
    results: list[ev.ToolAnswered] = []
    for each in later:
        if not isinstance(each.payload, ev.ToolAnswered):
            break
        results.append(each.payload)
    for call in calls:
        result = next((each for each in results if each.tool == call.name), None)
        note = ""
        if result is not None:
            results.remove(result)
            text = result.value.text if result.value is not None else ""
            note = f"error: {result.error}" if result.error else fold(text or "")
        yield CallView(call.name, call.arguments, "inside", note=note)


def usage_of(talk: Sequence[Said]) -> list[Used]:
    """Usage by agent and model, in the order in which they were first asked."""
    found: dict[tuple[str, str], Used] = {}
    turns: dict[tuple[str, str], set[str]] = {}
    for said in talk:
        key = (said.agent, said.model)
        used = found.setdefault(key, Used(*key))
        turns.setdefault(key, set()).add(said.step)
        used.turns = len(turns[key])
        used.answers += not said.error
        used.failed_tries += bool(said.error)
        used.calls += sum(call.how != "answer" for call in said.calls)
        used.usage += said.usage
    return list(found.values())


def call_counts(events: Sequence[Event]) -> dict[str, int]:
    """How the calls of planners' turns went: valid at once, repaired, corrected, refused."""
    counts = dict.fromkeys(map(str, COUNTED), 0)
    for event in events:
        for call in event.payload.calls if isinstance(event.payload, ev.Planned) else ():
            counts[call.how] += 1
    return counts


# ---- as data


def used_data(used: Used) -> dict[str, Any]:
    """Usage as JSON data, flat, with stable keys."""
    told = asdict(used)
    return {**{key: told[key] for key in told if key != "usage"}, **told["usage"]}


def said_data(said: Said, state: State) -> dict[str, Any]:
    """An answer or a failed try as JSON data with stable keys, whole."""
    message = said.message
    return {
        "seq": said.seq,
        "step": said.step,
        "agent": said.agent,
        "model": said.model,
        "purpose": said.purpose,
        "attempt": said.attempt,
        "duration_s": round(said.duration_s, 6),
        "reasoning": message.reasoning if message is not None else None,
        "content": message.content if message is not None else None,
        "calls": [{**asdict(call), "outcome": outcome(call, state)} for call in said.calls],
        "usage": asdict(said.usage),
        "error": said.error or None,
        "follows": said.follows or None,
    }


# ---- as text


def fold(text: str, chars: int = FOLDED) -> str:
    """A text in one line: its beginning, and how many words more there are."""
    words = text.split()
    line = " ".join(words)
    if len(line) <= chars:
        return line
    cut = line[:chars]
    head = cut.rpartition(" ")[0] or cut
    more = len(words) - len(head.split())
    rest = f"{more:,} words" if more else f"{len(line) - len(head):,} characters"
    return f"{head} … ({rest} more)"


def headline(told: ev.ModelAnswered, answer: ModelAnswer | None, at: float) -> str:
    """An answer in one line: the model, what it called or said, and the beginning of its reasoning."""
    who = f"{told.model} ({told.purpose})" if told.purpose else told.model
    if told.error is not None:
        why = _first_sentence(told.error.message) or told.error.type
        if told.retry_at:
            return f"{who}: asked again in {max(told.retry_at - at, 0.0):.1f} s: {why}"
        return f"{who}: {told.error.type}: {why}"
    if answer is None:
        return f"{who}: answered"
    message, parts = answer.message, list[str]()
    if message.tool_calls:
        names = ", ".join(call.name for call in message.tool_calls)
        many = "call" if len(message.tool_calls) == 1 else "calls"
        parts.append(f"{len(message.tool_calls)} {many} ({names})")
    if message.content:
        parts.append(f"says: {fold(message.content)}")
    if message.reasoning:
        parts.append(f"thinking: {fold(message.reasoning)}")
    return f"{who}: {' · '.join(parts) or 'said nothing'}"


def _first_sentence(text: str) -> str:
    """What went wrong, without the advice behind it, which stands once at the run's end."""
    sentence = re.split(r"[.!?](?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
    return fold(sentence)


def said_lines(said: Said, state: State, *, reasoning: bool = False) -> list[str]:
    """An answer with its calls, or a failed try, in lines; reasoning in one line unless it is asked for."""
    who = f"{said.model} ({said.purpose})" if said.purpose else said.model
    head = f"{place(said.step, said.agent)} {who}"
    if said.error:
        return [f"{head} failed: {said.error}", f"  then: {said.follows}"]
    lines = [f"{head} · {said.duration_s:.1f} s{_tokens(said.usage)}"]
    message = said.message
    if message is None:
        return [*lines, "  (its answer cannot be read)"]
    if message.reasoning and reasoning:
        lines += ["  thinking:", *_indented(message.reasoning)]
    elif message.reasoning:
        lines.append(f"  thinking: {fold(message.reasoning)}")
    if message.content:
        lines += ["  says:", *_indented(message.content)]
    for call in said.calls:
        lines.append(f"  calls {call.name} {fold(call.arguments, 200)}")
        lines.append(f"    {outcome(call, state)}")
    return lines


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.strip().splitlines()]


def _tokens(usage: Usage) -> str:
    if not (usage.input_tokens or usage.output_tokens):
        return ""
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    thought = f" ({usage.reasoning_tokens:,} thinking)" if usage.reasoning_tokens else ""
    return f" · {usage.input_tokens:,} tokens in{cached}, {usage.output_tokens:,} out{thought}"


def place(step: str, agent: str) -> str:
    """A step's key, with the agent where the key does not name it."""
    named = any(part.startswith(agent) for part in step.split("/")[-2:])
    return step if named or not agent else f"{step} ({agent})"


def outcome(call: CallView, state: State) -> str:
    """What became of a call, in a line."""
    match call.how:
        case "answer":
            return "its answer"
        case "returned":
            return "given back to the model: nothing ran"
        case "open":
            return "the turn has not ended"
        case "inside":
            return f"looked up: {call.note}" if call.note else "no result is recorded"
        case "refused":
            return f"refused: {call.note}"
        case _:
            slot = state.slots.get(call.step)
            return f"{call.how}: {_ended(slot) if slot is not None else call.note or 'planned'}"


def _ended(slot: Slot) -> str:
    """How a planned step stands, and the beginning of what it gave."""
    if slot.status == "failed":
        return f"{slot.key} failed: {slot.error}"
    if slot.status != "settled":
        return f"{slot.key} is {slot.status}"
    value = slot.value
    if value is None:
        return f"{slot.key} done"
    shown = fold(value.text) if value.text is not None else f"{value.size:,} bytes"
    return f"{slot.key} done: {shown}"


# ---- while it streams


@dataclass(slots=True)
class Speech:
    """The end of what a model is just saying, of its reasoning and of its text."""

    thinking: str = ""
    text: str = ""

    def add(self, data: object) -> bool:
        """Take in the data of a `Progress` event; whether it was a piece of an answer."""
        if not isinstance(data, dict):
            return False
        told = cast("dict[str, Any]", data)
        if not told or not set(told) <= {"delta", "reasoning"}:
            return False
        self.thinking = f"{self.thinking}{told.get('reasoning', '')}"[-TAIL_MAX:]
        self.text = f"{self.text}{told.get('delta', '')}"[-TAIL_MAX:]
        return True

    def line(self, chars: int = FOLDED) -> str:
        """The last words of it, with what they are."""
        said, what = (self.text, "says") if self.text else (self.thinking, "thinking")
        tail = " ".join(said.split())
        if not tail:
            return ""
        return f"{what}: …{tail[-chars:]}" if len(tail) > chars else f"{what}: {tail}"
