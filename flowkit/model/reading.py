"""Puts an answer together, streamed or whole, and decides whether it is one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from flowkit.chat import ChatMessage, Delta, ModelAnswer, ToolCall, Usage
from flowkit.errors import BadModelAnswer, ContentFiltered, ModelUnavailable
from flowkit.model.access import Access
from flowkit.model.calling import written
from flowkit.model.details import Details
from flowkit.model.encode import whole
from flowkit.model.leaks import ThinkSplitter, recovered
from flowkit.model.profile import Profile
from flowkit.model.transcript import REASONING_FIELD
from flowkit.model.usage import usage_of

ANSWER_CHARS_MAX: Final = 16_000_000
"""Characters of one answer with its arguments and reasoning, and bytes of one event.

No model writes a tenth of it.
"""

FINISH_REASON: Final = "_finish_reason"
"""In `ChatMessage.extra`: the server's own finish reason, where the answer's is another."""

_BROKEN_OFF: Final = frozenset({"abort", "error", "insufficient_system_resource"})
"""Finish reasons of servers that stopped in the middle."""

_CUT: Final = frozenset({"length", "max_tokens", "model_context_window_exceeded"})
"""Finish reasons of answers that reached a limit of tokens."""


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
        self._splitter = ThinkSplitter() if profile.think_tags else None
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._details = Details()
        self._refusal: list[str] = []
        self._reasoning_field = ""
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._id = ""
        self.chars = 0
        """How many characters have come."""
        self.finish_reason: str | None = None
        self.model = ""
        self.usage = Usage()

    def feed(self, chunk: Mapping[str, Any]) -> Delta | None:
        """Take a chunk; give the visible text and the reasoning in it, if there is any."""
        self._id = self._id or _text(chunk.get("id"))
        self.model = _text(chunk.get("model")) or self.model
        self.usage = usage_of(chunk.get("usage") or _get(chunk.get("x_groq"), "usage"), self.usage)
        choices = _items(chunk.get("choices"))
        if not choices:
            return None
        choice = choices[0]
        self.usage = usage_of(_get(choice, "usage"), self.usage)
        # Some servers repeat the reason with the usage, some send "" until the end.
        self.finish_reason = _text(_get(choice, "finish_reason")) or self.finish_reason
        delta = _get(choice, "delta") or _get(choice, "message")
        if delta is None:
            return None
        if refusal := _text(_get(delta, "refusal")):
            self._refusal.append(refusal)
            self.chars += len(refusal)
        for position, part in enumerate(_items(_get(delta, "tool_calls"))):
            self._call(part, position)
        thought = self._think(delta)
        text = _content(_get(delta, "content"))
        split = self._splitter.feed(text) if self._splitter and text else Delta(text)
        return self._take(Delta(split.text, thought + split.reasoning), inline=split.reasoning)

    def end(self) -> Delta | None:
        """What was held back until the end was there."""
        held = self._splitter.end() if self._splitter else Delta()
        return self._take(held, inline=held.reasoning)

    def message(self) -> ChatMessage:
        """What came so far, as a message."""
        calls: list[ToolCall] = []
        for position, call in enumerate(self._calls):
            call_id = call.id or f"{self._id or 'call'}-{position}"
            if any(call_id == other.id for other in calls):
                call_id = f"{call_id}-{position}"
            calls.append(ToolCall(call_id, call.name, whole("".join(call.arguments)) or "{}"))
        return ChatMessage(
            role="assistant",
            content=whole("".join(self._content)) or None,
            reasoning=whole("".join(self._reasoning)) if self._reasoning_field else None,
            reasoning_details=self._details.made(),
            tool_calls=tuple(calls),
            extra={REASONING_FIELD: self._reasoning_field} if self._reasoning_field else {},
        )

    @property
    def refusal(self) -> str:
        """The model's own words for not answering, in OpenAI's field for it."""
        return "".join(self._refusal)

    def _take(self, delta: Delta, *, inline: str) -> Delta | None:
        """Keep the pieces; `inline` is the reasoning that stood in the content."""
        if not (delta.text or delta.reasoning):
            return None
        if delta.text:
            self._content.append(delta.text)
        if delta.reasoning:
            self._reasoning.append(delta.reasoning)
        if inline and not self._reasoning_field:
            self._reasoning_field = self._fields[0]
        self.chars += len(delta.text) + len(delta.reasoning)
        return delta

    def _think(self, delta: object) -> str:
        """The reasoning in a delta: of the first field that had any, since others are copies."""
        self.chars += self._details.add(_items(_get(delta, "reasoning_details")))
        said = [(name, _get(delta, name)) for name in self._fields]
        texts = {name: text for name, text in said if isinstance(text, str)}
        if not texts:
            return ""
        # An empty text before the first real one does not decide the name.
        if not (self._reasoning_field and self._reasoning):
            self._reasoning_field = next(
                (n for n, text in texts.items() if text), next(iter(texts))
            )
        return texts.get(self._reasoning_field, "")

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
            self.chars += len(call_id) + len(name)
            if isinstance(index, int):
                self._by_index[index] = known
        known.id = known.id or call_id
        known.name = known.name or name
        arguments = _get(function, "arguments")
        if isinstance(arguments, Mapping):
            arguments = json.dumps(arguments)
        if isinstance(arguments, str):
            known.arguments.append(arguments)
            self.chars += len(arguments)


def conclude(
    got: Assembly, access: Access, profile: Profile, *, tools: frozenset[str], forced: str = ""
) -> ModelAnswer:
    """The answer, if it is whole and there is something in it.

    `tools` are the names that were offered; `forced` is the tool whose call is the answer itself.
    """
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
    is_cut = reason in _CUT
    if profile.recover_tool_calls and not message.tool_calls and not is_cut:
        message = recovered(message, tools)
    if profile.tool_mode == "auto" and not message.tool_calls and not is_cut:
        message = written(message, tools)
    no_calls = reason == "tool_calls" and not message.tool_calls
    if forced and not is_cut:
        message = _unwrapped(message, forced)
    finish = "length" if is_cut else "tool_calls" if message.tool_calls else "stop"
    if finish != reason:
        message = replace(message, extra={**message.extra, FINISH_REASON: reason})
    answer = ModelAnswer(message, finish, got.usage, got.model or access.name)
    if problem := _problem(message, finish, no_calls=no_calls):
        raise BadModelAnswer(f"The answer of {where} {problem}", answer=answer)
    return answer


def _unwrapped(message: ChatMessage, forced: str) -> ChatMessage:
    """The message with the arguments of the forced call as its content."""
    for call in message.tool_calls:
        if call.name == forced:
            return replace(message, content=call.arguments, tool_calls=())
    return message


def _problem(message: ChatMessage, finish: str, *, no_calls: bool) -> str:
    """Why a whole answer cannot be used; "" if it can. `no_calls`: it promised some."""
    if finish == "length":
        return (
            "was cut off at its token limit, so it is not whole. Raise max_tokens (reasoning "
            "counts towards it), or ask for less."
        )
    if any(not call.name for call in message.tool_calls):
        return "calls a tool without naming it. Try again."
    if no_calls:
        return (
            "says that it calls tools, but has no calls. Try again; if it is always so, switch on "
            "the server's tool-call parser."
        )
    if message.tool_calls or (message.content or "").strip():
        return ""
    only = " but reasoning" if message.reasoning else ""
    return f"has nothing in it{only}. Try again, or raise max_tokens."


def _get(thing: object, name: str) -> Any:
    """A field of what should be an object; None if it is not there."""
    return cast("Mapping[str, Any]", thing).get(name) if isinstance(thing, Mapping) else None


def _content(value: object) -> str:
    """The text of a content: a text, or a list of parts."""
    if isinstance(value, str):
        return value
    return "".join(_text(_get(part, "text")) for part in _items(value))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _items(value: object) -> Sequence[object]:
    return cast("list[object]", value) if isinstance(value, list) else ()
