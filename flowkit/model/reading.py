"""Puts a streamed answer together, and decides whether it is one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from flowkit.chat import ChatMessage, ModelAnswer, ToolCall, Usage
from flowkit.errors import BadModelAnswer, ContentFiltered, ModelUnavailable
from flowkit.model.access import Access
from flowkit.model.profile import Profile
from flowkit.model.wire import REASONING_FIELD, whole

ANSWER_CHARS_MAX: Final = 16_000_000
"""Characters of one answer with its arguments and reasoning, and bytes of one event.

No model writes a tenth of it.
"""

FINISH_REASON: Final = "_finish_reason"
"""In `ChatMessage.extra`: the server's own finish reason, where the answer's is another."""

_BROKEN_OFF: Final = frozenset({"abort", "error", "insufficient_system_resource"})
"""Finish reasons of servers that stopped in the middle."""


def error_in(chunk: Mapping[str, Any]) -> object:
    """The error that came in place of a chunk, or in it; None if none did."""
    choices = _items(chunk.get("choices"))
    if said := chunk.get("error") or (_get(choices[0], "error") if choices else None):
        return said
    is_error = chunk.get("object") == "error" or ("choices" not in chunk and chunk.get("message"))
    return chunk if is_error else None


@dataclass(slots=True)
class _Call:
    """A tool call that is still arriving."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])


class Assembly:
    """One answer while it arrives. Chunks, and a whole completion, are fed alike."""

    def __init__(self, profile: Profile) -> None:
        self._fields = profile.reasoning_fields
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._reasoning_field = ""
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._chars = 0
        self._id = ""
        self.finish_reason: str | None = None
        self.model = ""
        self.usage = Usage()

    @property
    def chars(self) -> int:
        """How many characters have come."""
        return self._chars

    def feed(self, chunk: Mapping[str, Any]) -> str:
        """Take a chunk; give the visible text in it."""
        self._id = self._id or _text(_get(chunk, "id"))
        self.model = _text(_get(chunk, "model")) or self.model
        self._count(_get(chunk, "usage"))
        choices = _items(_get(chunk, "choices"))
        if not choices:
            return ""
        choice = choices[0]
        self._count(_get(choice, "usage"))
        # Some servers repeat the reason with the usage, some send "" until the end.
        self.finish_reason = _text(_get(choice, "finish_reason")) or self.finish_reason
        delta = _get(choice, "delta") or _get(choice, "message")
        if delta is None:
            return ""
        self._think(delta)
        if refusal := _text(_get(delta, "refusal")):
            self._refusal.append(refusal)
            self._chars += len(refusal)
        for position, part in enumerate(_items(_get(delta, "tool_calls"))):
            self._call(part, position)
        text = _get(delta, "content")
        if not isinstance(text, str):
            return ""
        self._content.append(text)
        self._chars += len(text)
        return text

    def message(self) -> ChatMessage:
        """What came so far, as a message."""
        calls = tuple(
            ToolCall(
                id=call.id or f"{self._id or 'call'}-{position}",
                name=call.name,
                arguments=whole("".join(call.arguments)),
            )
            for position, call in enumerate(self._calls)
        )
        return ChatMessage(
            role="assistant",
            content=whole("".join(self._content)) if self._content else None,
            reasoning=whole("".join(self._reasoning)) if self._reasoning_field else None,
            tool_calls=calls,
            extra={REASONING_FIELD: self._reasoning_field} if self._reasoning_field else {},
        )

    @property
    def refusal(self) -> str:
        """The model's own words for not answering, in OpenAI's field for it."""
        return "".join(self._refusal)

    def _think(self, delta: object) -> None:
        said = [(name, _get(delta, name)) for name in self._fields]
        texts = [(name, text) for name, text in said if isinstance(text, str)]
        if not texts:
            return
        name, text = next((pair for pair in texts if pair[1]), texts[0])
        # An empty text before the first real one does not decide the name.
        if text or not self._reasoning_field:
            self._reasoning_field = name
        self._reasoning.append(text)
        self._chars += len(text)

    def _call(self, part: object, position: int) -> None:
        """Take a piece of a tool call: told apart by index, else by id, else the last one's."""
        function = _get(part, "function")
        call_id, name = _text(_get(part, "id")), _text(_get(function, "name"))
        index = _get(part, "index")
        known: _Call | None
        if isinstance(index, int):
            known = self._by_index.get(index)
        elif call_id:
            known = next((call for call in self._calls if call.id == call_id), None)
        else:
            known = self._calls[-1] if self._calls and position == 0 and not name else None
        # Some servers give every call the index 0: another id, with a name, is another call.
        if known is None or (name and call_id and known.id and call_id != known.id):
            known = _Call()
            self._calls.append(known)
            if isinstance(index, int):
                self._by_index[index] = known
        known.id = known.id or call_id
        known.name = known.name or name
        arguments = _get(function, "arguments")
        if isinstance(arguments, Mapping):
            arguments = json.dumps(arguments)
        if isinstance(arguments, str):
            known.arguments.append(arguments)
            self._chars += len(arguments)

    def _count(self, usage: object) -> None:
        if usage is not None:
            self.usage = Usage(
                input_tokens=_tokens(_get(usage, "prompt_tokens")) or self.usage.input_tokens,
                output_tokens=_tokens(_get(usage, "completion_tokens")) or self.usage.output_tokens,
            )


def conclude(got: Assembly, access: Access) -> ModelAnswer:
    """The answer, if it is whole and there is something in it."""
    message, reason = got.message(), got.finish_reason
    where = access.where
    if reason is None or reason in _BROKEN_OFF:
        raise ModelUnavailable(
            f"The answer of {where} broke off after {got.chars} characters"
            f"{f' ({reason})' if reason else ', before its end was told'}. Try again."
        )
    if reason == "content_filter" or (got.refusal and not message.content):
        said = f': "{access.redact(got.refusal)[:400]}"' if got.refusal else ""
        raise ContentFiltered(
            f"The answer of {where} was withheld{said}. Change the prompt, or let a fallback "
            "answer."
        )
    finish = "tool_calls" if message.tool_calls else "length" if reason == "length" else "stop"
    if finish != reason:
        message = replace(message, extra={**message.extra, FINISH_REASON: reason})
    answer = ModelAnswer(message, finish, got.usage, got.model or access.name)
    if problem := _problem(message, reason):
        raise BadModelAnswer(f"The answer of {where} {problem}", answer=answer)
    return answer


def _problem(message: ChatMessage, reason: str) -> str:
    """Why a whole answer cannot be used; "" if it can."""
    if reason == "length":
        return (
            "was cut off at its token limit, so it is not whole. Raise max_tokens (reasoning "
            "counts towards it), or ask for less."
        )
    if any(not call.name for call in message.tool_calls):
        return "calls a tool without naming it. Try again."
    if reason == "tool_calls" and not message.tool_calls:
        return (
            "says that it calls tools, but has no calls. Try again; if it is always so, switch on "
            "the server's tool-call parser."
        )
    if not message.tool_calls and not (message.content or "").strip():
        only = " but reasoning" if message.reasoning else ""
        return f"has nothing in it{only}. Try again, or raise max_tokens."
    return ""


def _get(thing: object, name: str) -> Any:
    """A field of what should be an object; None if it is not there."""
    return cast("Mapping[str, Any]", thing).get(name) if isinstance(thing, Mapping) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _items(value: object) -> Sequence[object]:
    return cast("list[object]", value) if isinstance(value, list) else ()


def _tokens(value: object) -> int:
    return max(value, 0) if isinstance(value, int) else 0
