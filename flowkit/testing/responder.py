"""What the strict server does with a request, up to the bytes it sends: no socket here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Final, Literal

from flowkit.chat import ModelAnswer, ModelRequest
from flowkit.errors import ModelError
from flowkit.testing.conversation import Memory, check_length, check_messages, check_shape
from flowkit.testing.faults import Fault, FaultPlan, FaultPlayer, fault_of
from flowkit.testing.leaks import leaked
from flowkit.testing.rules import Rules, Violation, check_parameters
from flowkit.testing.script import Player, Reply, Script, ScriptOver, answer_of, tokens_of
from flowkit.testing.tools import check_tools
from flowkit.testing.wire import Json, Reader, chunks, completion, encoded, events

_MALFORMED: Final = 'data: {"id": "chatcmpl-'


@dataclass(frozen=True, slots=True)
class Served:
    """What to send. Without `parts` the connection is closed at once.

    `cut`: how the transfer ends after the parts, if not as it should. `pause_at`: the part before
    which to be silent, for `pause_s` seconds.
    """

    parts: Sequence[bytes] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    stream: bool = False
    cut: Literal["", "end", "close", "reset"] = ""
    pause_at: int = 0
    pause_s: float = 0.0


def error_json(error_type: str, message: str) -> Json:
    """An error in Moonshot's form, which has no `code`."""
    return {"error": {"message": message, "type": error_type}}


class Responder:
    """Takes requests from any number of threads: checks them, and answers by the script."""

    def __init__(self, script: Script, rules: Rules, faults: FaultPlan) -> None:
        self.rules = rules
        self.requests: list[ModelRequest] = []
        self.bodies: list[Json] = []
        self.violations: list[Violation] = []
        self.faulted: list[Fault] = []
        self._script = Player(script)
        self._faults = FaultPlayer(faults)
        self._memory = Memory()
        self._reader = Reader()
        self._kept: dict[str, Reply] = {}
        self._lock = Lock()

    def complete(self, raw: bytes) -> Served:
        """Answer a request for a chat completion."""
        body, found = _read(raw)
        if found:
            return self._refuse(found)
        digest = hashlib.sha256(raw).hexdigest()
        with self._lock:
            request = self._reader.read(body)
            self.requests.append(request)
            self.bodies.append(body)
            found = self._check(body, request)
            fault = None if found else self._faults.fault(request, digest)
            if fault is not None:
                self.faulted.append(fault)
        if found:
            return self._refuse(found)
        if fault is not None and fault.kind in ("http", "dropped"):
            return _in_place_of_an_answer(fault)
        reply = self._reply(request, digest)
        if fault is not None:
            # Whoever does not get it, or cannot use it, asks again and must get the same.
            self._kept[digest] = reply
        if isinstance(reply, ScriptOver):
            return self._refuse([Violation("script", str(reply))])
        if isinstance(reply, BaseException):
            return _in_place_of_an_answer(fault_of(reply))
        answer = self._remembered(answer_of(reply, request, body["model"]), body, fault)
        return _serve(answer, body, self.rules, fault, id=f"chatcmpl-{digest[:24]}")

    def count(self, raw: bytes) -> Served:
        """Answer a request for the number of tokens."""
        body, found = _read(raw)
        if not found:
            return _whole({"data": {"total_tokens": tokens_of(Reader().read(body))}})
        return self._refuse(found)

    def fail(self, rule: str, message: str) -> None:
        """Record what no client was told."""
        with self._lock:
            self.violations.append(Violation(rule, message))

    def _check(self, body: Json, request: ModelRequest) -> list[Violation]:
        return [
            *check_parameters(body, self.rules),
            *check_tools(body, self.rules),
            *check_messages(body, self.rules, self._memory),
            *check_length(request, self.rules),
        ]

    def _refuse(self, found: Sequence[Violation]) -> Served:
        with self._lock:
            self.violations.extend(found)
        return _whole(error_json("invalid_request_error", found[0].message), status=400)

    def _reply(self, request: ModelRequest, digest: str) -> Reply:
        kept = self._kept.pop(digest, None)
        if kept is not None:
            return kept
        try:
            return self._script.reply(request)
        except ModelError as error:
            return error

    def _remembered(self, answer: ModelAnswer, body: Json, fault: Fault | None) -> ModelAnswer:
        """The answer as the rules have it: who thinks always says so, if only with an empty text."""
        message = answer.message
        reasoning = (message.reasoning or "") if self.rules.thinks(body) else None
        message = replace(message, reasoning=reasoning)
        with self._lock:
            self._memory.add(message, mended=fault is not None and fault.kind == "leaked")
        return replace(answer, message=message)


def _read(raw: bytes) -> tuple[Json, list[Violation]]:
    try:
        body: Any = json.loads(raw)
    except ValueError:
        return {}, [Violation("shape", "the body is not JSON")]
    return body, list(check_shape(body))


def _whole(body: Json, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Served:
    return Served((encoded(body),), status, headers or {})


def _in_place_of_an_answer(fault: Fault) -> Served:
    if fault.kind == "dropped":
        return Served()
    said = error_json(fault.error_type, fault.message)
    return _whole(said, status=fault.status, headers=fault.headers)


# ---- an answer, and what may go wrong with it ----


def _serve(
    answer: ModelAnswer, body: Json, rules: Rules, fault: Fault | None, *, id: str
) -> Served:
    if fault is not None:
        answer = _altered(answer, fault)
    options: Json = body.get("stream_options") or {}
    if body.get("stream"):
        frames = chunks(
            answer,
            id=id,
            usage_in_choice=rules.kimi,
            usage_asked=bool(options.get("include_usage")),
        )
        return _timed(events(_broken_stream(frames, fault)), fault, stream=True)
    whole = completion(answer, id=id)
    return _timed([_broken_body(whole, fault)], fault, stream=False)


def _altered(answer: ModelAnswer, fault: Fault) -> ModelAnswer:
    """The answer with another message in it."""
    message = answer.message
    if fault.kind == "leaked" and message.tool_calls:
        message = leaked(message, fault.where, fault.variant)
    elif fault.kind == "reasoning_only":
        message = replace(message, content=None, tool_calls=(), reasoning=message.reasoning or "Hm")
    else:
        return answer
    return replace(answer, message=message, finish_reason="stop")


def _broken_stream(frames: list[Json], fault: Fault | None) -> list[Json | str]:
    """The chunks with the fault among them, and the end, if it comes to that."""
    broken: list[Json | str] = [*frames, "data: [DONE]"]
    if fault is None:
        return broken
    at = _place(fault, len(frames))
    if fault.kind == "error_chunk":
        return [*broken[:at], error_json(fault.error_type, fault.message)]
    if fault.kind == "malformed":
        broken[at] = _MALFORMED
    elif fault.kind == "no_choices":
        return [*({**frame, "choices": []} for frame in frames), "data: [DONE]"]
    elif fault.kind == "odd_chunks":
        broken.insert(1, ": PROCESSING")
        broken.insert(0, {**frames[0], "choices": []})
    elif fault.kind == "index_zero":
        return [*_index_zero(frames), "data: [DONE]"]
    elif fault.kind == "finish":
        return [*_finished(frames, fault.reasons), "data: [DONE]"]
    return broken


def _broken_body(whole: Json, fault: Fault | None) -> bytes:
    """A completion that is not streamed, with the same faults as far as it can have them."""
    choice: Json = whole["choices"][0]
    if fault is None:
        return encoded(whole)
    if fault.kind == "error_chunk":
        whole = error_json(fault.error_type, fault.message)
    elif fault.kind == "no_choices":
        whole["choices"] = []
    elif fault.kind == "finish":
        choice["finish_reason"] = fault.reasons[0]
    elif fault.kind == "index_zero":
        for call in choice["message"].get("tool_calls", ()):
            call["index"] = 0
    text = encoded(whole)
    return text[: len(text) // 2] if fault.kind == "malformed" else text


def _index_zero(frames: Sequence[Json]) -> list[Json]:
    """Each call in one chunk, since nothing would tell its pieces from another's."""
    made: dict[int, Json] = {}
    others: list[Json] = []
    for frame in frames:
        delta: Json = frame["choices"][0]["delta"] if frame["choices"] else {}
        for part in delta.get("tool_calls", ()):
            if "id" in part:
                made[part["index"]] = {**part, "index": 0, "function": {**part["function"]}}
            else:
                made[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        if "tool_calls" not in delta:
            others.append(frame)
    if not made:
        return others
    head = {**others[0]}
    whole = [
        {**head, "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}
        for call in made.values()
    ]
    ends = [at for at, frame in enumerate(others) if _finish(frame) is not None]
    return [*others[: ends[0]], *whole, *others[ends[0] :]]


def _finished(frames: Sequence[Json], reasons: Sequence[str | None]) -> list[Json]:
    made: list[Json] = []
    for frame in frames:
        if _finish(frame) is None:
            made.append(frame)
            continue
        choice: Json = frame["choices"][0]
        made += [{**frame, "choices": [{**choice, "finish_reason": r}]} for r in reasons]
    return made


def _finish(frame: Json) -> str | None:
    return frame["choices"][0]["finish_reason"] if frame["choices"] else None


def _timed(parts: Sequence[bytes], fault: Fault | None, *, stream: bool) -> Served:
    if fault is None:
        return Served(parts, stream=stream)
    at = _place(fault, len(parts))  # at the latest before [DONE], which alone proves the end
    if fault.kind == "cut":
        if not stream:
            parts = [parts[0][: len(parts[0]) // 2]]
        return Served(parts[:at] if stream else parts, stream=stream, cut=fault.how)
    if fault.kind == "slow":
        return Served(parts, stream=stream, pause_at=at, pause_s=fault.pause_s)
    return Served(parts, stream=stream)


def _place(fault: Fault, count: int) -> int:
    """Where among so many chunks the fault is."""
    return count // 2 if fault.after is None else min(fault.after, count - 1)
