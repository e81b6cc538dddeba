"""A run that was exported, as a replay looks at it: what each attempt was given, asked, and gave.

Everything is read from the journal, by the fold that the engine itself makes. What the journal has no
words of, since it keeps their hash alone, stands in the notes of a recording: the requests to models.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import pydantic_core
from pydantic import TypeAdapter

import flowkit.events as ev
from flowkit.chat import ChatMessage, ModelRequest
from flowkit.events import Error, Event
from flowkit.graph import Source
from flowkit.history.file import BadRunFile, RunFile, check_run, write_run
from flowkit.ports import Artifacts, RunRecord, Store
from flowkit.reading import Reading
from flowkit.rewind import Fold
from flowkit.slot import Slot, Wait
from flowkit.state import State
from flowkit.store.memory import MemoryStore
from flowkit.testing.twin import Attempt
from flowkit.values import Codec, Value, compact, digest, parse

_ENDS: Final = (ev.StepDone, ev.Planned, ev.Accepted, ev.Rejected, ev.AttemptFailed)
_PART: Final = re.compile(r"(/t\d+|@\d+)$")


class Journals(Store, Artifacts, Protocol):
    """A store that keeps artifacts as well, as `MemoryStore` and `SqlStore` do."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A run's journal with all that it refers to. `artifacts`: the bytes by SHA-256."""

    file: RunFile
    artifacts: Mapping[str, bytes]

    @property
    def record(self) -> RunRecord:
        return self.file.record

    @classmethod
    def read(cls, path: Path | str) -> Recording:
        """The recording in a file that `flowkit export` wrote; `BadRunFile` if it is damaged."""
        with Path(path).open("rb") as source:
            try:
                return cls._read(source)
            except BadRunFile as error:
                raise BadRunFile(f"{path}: {error}") from error

    @classmethod
    async def of(cls, store: Journals, run_id: str) -> Recording:
        """The recording of a run as it is stored now."""
        whole = io.BytesIO()
        await write_run(store, store, run_id, whole.write)
        whole.seek(0)
        return cls._read(whole)

    @classmethod
    def _read(cls, source: BinaryIO) -> Recording:
        file = check_run(source)
        source.seek(0)
        lines = (pydantic_core.from_json(line) for line in source)
        kept = {
            line["artifact"]: base64.b64decode(line["base64"])
            for line in lines
            if "artifact" in line
        }
        return cls(file, kept)


# ---- what a model was asked


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was recorded in words. Its messages are those of `before`, up to `same`, and more."""

    before: Request | None
    same: int
    added: Sequence[str]
    tools: str
    schema: str
    schema_name: str
    settings: Mapping[str, Any]

    def messages(self) -> list[str]:
        """Each message as JSON."""
        chain: list[Request] = []
        each: Request | None = self
        while each is not None:
            chain.append(each)
            each = each.before if each.same else None
        found: list[str] = []
        for request in reversed(chain):
            found[request.same :] = request.added
        return found


def texts_of(
    request: ModelRequest, known: dict[int, tuple[ChatMessage, str]] | None = None
) -> list[str]:
    """Each message of a request as JSON; `known` keeps them by the message's id."""
    kept = known if known is not None else {}
    for each in request.messages:
        if id(each) not in kept:
            data = _message().dump_python(each, mode="json", exclude_defaults=True)
            kept[id(each)] = (each, compact(data))
    return [kept[id(each)][1] for each in request.messages]


@cache
def _message() -> TypeAdapter[ChatMessage]:
    return TypeAdapter(ChatMessage)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request in a replay, and where it belongs."""

    place: Attempt
    hash: str
    request: ModelRequest


@dataclass(frozen=True, slots=True)
class Called:
    """One call of a tool inside a node, with its arguments as JSON texts by name."""

    place: Attempt
    hash: str
    tool: str
    arguments: Mapping[str, str]


def notes_of(
    models: Mapping[str, Sequence[tuple[str, int]]],
    asked: Iterable[Asked],
    called: Iterable[Called],
) -> Iterator[Mapping[str, Any]]:
    """The notes that keep requests in words; each message, list of tools and schema once."""
    yield {"models": {node: [list(each) for each in found] for node, found in models.items()}}
    kept: set[str] = set()
    before: dict[str, list[str]] = {}
    known: dict[int, tuple[ChatMessage, str]] = {}
    """A long talk has the same messages in each request, and each is written once."""

    def part(text: str) -> Iterator[Mapping[str, Any]]:
        key = digest(text)
        if key not in kept:
            kept.add(key)
            yield {"part": key, "text": text}

    for each in asked:
        texts, talk = texts_of(each.request, known), _talk(each.place)
        tools, schema = compact(each.request.tools), compact(each.request.schema)
        for text in (*texts, tools, schema):
            yield from part(text)
        last = before.get(talk, [])
        pairs = enumerate(zip(last, texts, strict=False))
        same = next((n for n, (one, two) in pairs if one != two), min(len(last), len(texts)))
        before[talk] = texts
        yield {
            "asked": {
                "place": each.place,
                "request": each.hash,
                "same": same,
                "messages": [digest(text) for text in texts[same:]],
                "tools": digest(tools),
                "schema": digest(schema),
                "schema_name": each.request.schema_name,
                "settings": compact(each.request.settings),
            }
        }
    for call in called:
        told = {"place": call.place, "request": call.hash, "tool": call.tool}
        yield {"called": {**told, "arguments": dict(call.arguments)}}


def _talk(place: Attempt) -> str:
    """The line of talk that a request goes on with: that of all turns or rounds of a step."""
    return _PART.sub("", place[0])


# ---- what the journal tells


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, at `event`. `inputs`: the JSON texts it was given, None where none is kept.

    `value`: what it gave, also where somebody decided so. `last`: no alternative was left.
    """

    event: Event
    node: str
    inputs: Sequence[str | None]
    value: Value | None
    error: Error | None
    then: str
    last: bool


@dataclass(slots=True)
class Recorded:
    """What a run did, by attempt. Made by `recorded`."""

    record: RunRecord
    events: Sequence[Event]
    begun: ev.RunStarted
    state: State
    outcomes: dict[Attempt, Outcome] = field(default_factory=dict[Attempt, Outcome])
    answers: dict[Attempt, list[Event]] = field(default_factory=dict[Attempt, list[Event]])
    calls: dict[Attempt, list[Event]] = field(default_factory=dict[Attempt, list[Event]])
    waits: dict[tuple[str, str, int], list[Wait]] = field(
        default_factory=dict[tuple[str, str, int], "list[Wait]"]
    )
    failures: dict[str, list[Error]] = field(default_factory=dict[str, "list[Error]"])
    ends: list[ev.RunEnded] = field(default_factory=list[ev.RunEnded])
    """How it ended by its own steps; each but the last was followed by a `retry`."""
    end_seqs: list[int] = field(default_factory=list[int])
    late: bool = False
    """Whether its deadline has ended it, at least once."""
    requests: dict[tuple[Attempt, str], Request] = field(
        default_factory=dict[tuple[Attempt, str], Request]
    )
    arguments: dict[tuple[Attempt, str], Mapping[str, str]] = field(
        default_factory=dict[tuple[Attempt, str], Mapping[str, str]]
    )
    models: dict[str, list[tuple[str, int]]] = field(
        default_factory=dict[str, "list[tuple[str, int]]"]
    )

    def was_set(self, place: Attempt) -> bool:
        """Whether its result was set, in place of what its node would give."""
        outcome = self.outcomes.get(place)
        payload = outcome.event.payload if outcome is not None else None
        return isinstance(payload, ev.Decided) and payload.how == "set"

    @property
    def cut(self) -> bool:
        """Whether the run did not come to an end by its own steps, so that the journal just stops."""
        return self.state.ended is None or not _is_own(self.state.ended)

    def in_flight(self, place: Attempt) -> bool:
        """Whether an attempt was under way, or about to begin, when the journal stopped."""
        slot = self.state.by_exec.get(place[0])
        return (
            slot is not None
            and place not in self.outcomes
            and slot.exec == place[0]
            and (slot.alternative, slot.attempt) == place[1:]
            and (self.state.ended is None or self.state.ended.status != "succeeded")
        )

    def wait(self, place: Attempt, name: str, n: int) -> Wait | None:
        """A wait for a signal in this attempt, or one that an earlier attempt of the step has left."""
        found = self.waits.get((place[0], name, n))
        return found[min(place[2], len(found)) - 1] if found else None


def recorded(recording: Recording, codec: Codec) -> Recorded:
    """Fold what holds of a recording; `codec` is that of the workflow's input.

    A replay knows no going back: of a fork, and of a run that went on after a deploy, it does what led to
    where the run stands, by the graph that it stands by.
    """
    events = [_inlined(event, recording.artifacts) for event in _holding(recording.file.events)]
    begun = events[0].payload
    assert isinstance(begun, ev.RunStarted)
    state = State()
    made = Recorded(recording.record, events, begun, state)
    inputs = _Inputs(state, Reading(state, {}, codec, MemoryStore()))
    for event in events:
        outcome = _outcome(event, state, inputs.of)
        if outcome is not None:
            place = (event.key, outcome.event.alternative, outcome.event.attempt)
            made.outcomes[place] = outcome
        state.refold(event)
        _keep(made, event)
    _read_notes(made, recording.file.notes)
    return made


def _holding(events: Sequence[Event]) -> list[Event]:
    """The events that still hold, and the failures that a fork has begun with, as a retry would."""
    live = Fold().apply_all(events).live
    holds, causes, lost = {event.seq for event in live}, dict[str, int](), False
    ends: list[Event] = []
    for event in events:
        p = event.payload
        if isinstance(p, ev.RunEnded) and event.seq not in holds and p.status == "failed":
            again = causes.get(p.step) in holds if p.step else not lost
            ends += [event] if again and _is_own(p) else []
        elif isinstance(p, ev.StepFailed):
            causes[event.key] = event.seq
        lost = lost or (isinstance(p, _ENDS) and event.seq not in holds)
    return sorted([*live, *ends], key=attrgetter("seq"))


def _inlined(event: Event, artifacts: Mapping[str, bytes]) -> Event:
    """An event with its value at hand, however large."""
    value: Value | None = getattr(event.payload, "value", None)
    if value is None or value.text is not None:
        return event
    whole = Value(artifacts[value.digest].decode(), value.digest, value.size, value.items)
    payload: Any = event.payload
    return replace(event, payload=replace(payload, value=whole))


def _outcome(
    event: Event, state: State, inputs: Callable[[Slot], Sequence[str | None]]
) -> Outcome | None:
    p = event.payload
    decided = _decided_on(event, state)
    if isinstance(p, _ENDS):
        slot = state.by_exec[event.key]
        error = p.error if isinstance(p, ev.AttemptFailed) else None
        then = p.then if isinstance(p, ev.AttemptFailed) else ""
        value = p.value if isinstance(p, ev.StepDone) else None
    elif decided is not None and isinstance(p, ev.Decided):
        slot = decided
        event = replace(event, alternative=slot.alternative, attempt=slot.attempt)
        value, then = p.value, "fail" if p.how == "fail" else ""
        error = Error("OutcomeUnknown", "decided to have failed") if then else None
    else:
        return None
    nodes = slot.step.nodes
    last = event.alternative + 1 == len(nodes)
    return Outcome(event, nodes[event.alternative], inputs(slot), value, error, then, last)


def _decided_on(event: Event, state: State) -> Slot | None:
    """The step that somebody gave its outcome by this event."""
    if not isinstance(event.payload, ev.Decided):
        return None
    held = {"done": state.unknown, "fail": state.unknown, "set": state.ready}
    return held.get(event.payload.how, {}).get(event.key)


def _keep(made: Recorded, event: Event) -> None:
    place = (event.key, event.alternative, event.attempt)
    match event.payload:
        case ev.ModelAnswered():
            made.answers.setdefault(place, []).append(event)
        case ev.ToolAnswered():
            made.calls.setdefault(place, []).append(event)
        case ev.StepFailed(error=error):
            made.failures.setdefault(event.key, []).append(error)
        case ev.RunEnded() if _is_own(event.payload):
            made.ends.append(event.payload)
            made.end_seqs.append(event.seq)
        case ev.RunEnded(error=error):
            made.late = made.late or (error is not None and error.type == "DeadlineExceeded")
        case ev.Waiting(reason="signal", name=name, n=n) if event.key:
            found = made.waits.setdefault((event.key, name, n), [])
            for wait in made.state.by_exec[event.key].waits or ():
                if (wait.reason, wait.name, wait.n) == ("signal", name, n) and wait not in found:
                    found.append(wait)
        case _:
            pass


def _is_own(end: ev.RunEnded) -> bool:
    """Whether a run ended by what its steps did, not by somebody's word, the clock, or a crash."""
    late = end.error is not None and end.error.type == "DeadlineExceeded"
    return end.status in ("succeeded", "failed") and not late


class _Inputs:
    """What attempts are given, as the state has it at that time."""

    def __init__(self, state: State, reading: Reading) -> None:
        self._state = state
        self._reading = reading
        self._items: dict[str, tuple[str, list[str]]] = {}

    def of(self, slot: Slot) -> list[str | None]:
        return [self._text(source) for source in slot.step.inputs]

    def _text(self, source: Source) -> str | None:
        if source.text is not None:
            return source.text if source.item is None else self._split("", source.text)[source.item]
        slot = self._state.slots[source.step]
        if source.item is not None and slot.members is not None:
            return self._reading.text(slot.members[source.item])
        text = self._reading.text(slot)
        return text if source.item is None else self._split(slot.key, text)[source.item]

    def _split(self, key: str, text: str) -> list[str]:
        known = self._items.get(key)
        if known is None or known[0] != text:
            known = self._items[key] = (text, [compact(item) for item in parse(text)])
        return known[1]


def _read_notes(made: Recorded, notes: Sequence[Mapping[str, Any]]) -> None:
    """Requests in words, as `notes_of` wrote them; a note that is none of these is left alone."""
    parts: dict[str, str] = {}
    before: dict[str, Request] = {}
    for note in notes:
        if "models" in note:
            for node, found in note["models"].items():
                made.models[node] = [(str(name), int(window)) for name, window in found]
        elif "part" in note:
            parts[note["part"]] = note["text"]
        elif "asked" in note:
            asked = note["asked"]
            place = (asked["place"][0], asked["place"][1], asked["place"][2])
            added = [parts[each] for each in asked["messages"]]
            request = Request(
                before.get(_talk(place)), asked["same"], added, parts[asked["tools"]],
                parts[asked["schema"]], asked["schema_name"], parse(asked["settings"]),
            )  # fmt: skip
            made.requests.setdefault((place, asked["request"]), request)
            before[_talk(place)] = request
        elif "called" in note:
            called = note["called"]
            place = (called["place"][0], called["place"][1], called["place"][2])
            made.arguments[place, called["request"]] = called["arguments"]
