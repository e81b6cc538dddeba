"""What servers leave in the text that belongs elsewhere: thoughts in tags, and raw tool calls.

The raw format is Kimi K2's, of its technical report and chat template, with the variants that
servers were seen to let through:

    <|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:INDEX
    <|tool_call_argument_begin|>{...}<|tool_call_end|><|tool_calls_section_end|>
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from itertools import count
from typing import Final, Literal

from flowkit.chat import ChatMessage, Delta, ToolCall

RECOVERED_FROM: Final = "_recovered_from"
"""In `ChatMessage.extra`: where leaked tool calls were found, `content` or `reasoning`."""

_CALL: Final = re.compile(
    r"<\|tool_call_begin\|>(?P<call>.*?)"
    r"(?:<\|tool_call_end\|>|(?=<\|tool_call_begin\|>|<\|tool_calls?_section_end\|>)|\Z)",
    re.DOTALL,
)
_ARGUMENTS: Final = re.compile(r"<\|tool_(?:call_)?arguments?_begin\|>|(?=\{)")
"""Where a call's id ends; without the marker, at the first brace."""

_MARKER: Final = re.compile(
    r"<\|tool_(?:calls?_section_begin|calls?_section_end|call_begin|call_end"
    r"|(?:call_)?arguments?_begin)\|>"
)
_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"


def recovered(message: ChatMessage, names: Collection[str]) -> ChatMessage:
    """The message with the calls that its text holds raw, and without their markers.

    Every call is given as it was written, of an unknown tool or with broken arguments too: whoever
    enforces calls can then tell the model what is wrong. `names`, the request's tools, only name the
    tool of a call that has but a counter. The same message if there is nothing raw in it. Call it
    only with what the model itself wrote, where the server gave no calls: a tool's result, or a
    page, may hold such text to be taken for a call.
    """
    for place, text in (("content", message.content), ("reasoning", message.reasoning)):
        if text and (calls := _calls(text, names)):
            extra = {**message.extra, RECOVERED_FROM: place}
            return _unmarked(replace(message, tool_calls=calls, extra=extra))
    return _unmarked(message)


def _unmarked(message: ChatMessage) -> ChatMessage:
    """The message without raw calls and their markers; itself, if it has none."""
    content, reasoning = message.content, message.reasoning
    if content and _MARKER.search(content):
        content = _without(content).strip() or None
    if reasoning and _MARKER.search(reasoning):
        reasoning = _without(reasoning)
    if (content, reasoning) == (message.content, message.reasoning):
        return message
    return replace(message, content=content, reasoning=reasoning)


def _without(text: str) -> str:
    return _MARKER.sub("", _CALL.sub("", text))


def _calls(text: str, names: Collection[str]) -> tuple[ToolCall, ...]:
    """The calls in their order, as they were written, with ids that are told apart."""
    calls: list[ToolCall] = []
    taken: set[str] = set()
    free = count()
    for found in _CALL.finditer(text):
        call_id, *rest = _ARGUMENTS.split(found["call"], maxsplit=1)
        arguments = rest[0].strip() if rest else ""
        if not (call_id.strip() or arguments):
            continue
        name, index = _named(call_id.strip(), names)
        own = f"functions.{name}:{index or len(calls)}"
        while own in taken:
            own = f"functions.{name}:{next(free)}"
        taken.add(own)
        calls.append(ToolCall(own, name, arguments or "{}"))
    return tuple(calls)


def _named(call_id: str, names: Collection[str]) -> tuple[str, str]:
    """Name and index in an id: after the first `functions.`, before the last colon.

    A bare number names the tool only where there is but one; else it stands for the name.
    """
    name, colon, index = call_id.rpartition(":")
    if not colon:
        name, index = call_id, call_id
    name = name.removeprefix("functions.")
    if (not name or name.isdigit()) and len(names) == 1:
        (name,) = names
    return name or index, index if index.isdigit() else ""


class ThinkSplitter:
    """Tells thoughts in `<think>` from what follows, in text that comes in any pieces.

    Thoughts stand at the beginning, and empty lines after them are no text. What may still become
    a tag is held back.
    """

    def __init__(self) -> None:
        self._held = ""
        self._in: Literal["beginning", "thoughts", "gap", "text"] = "beginning"

    def feed(self, text: str) -> Delta:
        """What is now known of the text so far and was not given before."""
        self._held += text
        thought = ""
        if self._in == "beginning":
            begin = self._held.lstrip()
            if _OPEN.startswith(begin):
                return Delta()
            is_thought = begin.startswith(_OPEN)
            self._in = "thoughts" if is_thought else "text"
            self._held = begin.removeprefix(_OPEN) if is_thought else self._held
        if self._in == "thoughts":
            thought, tag, rest = self._held.partition(_CLOSE)
            if not tag:
                given = len(thought) - _beginning_of(_CLOSE, thought)
                self._held = thought[given:]
                return Delta(reasoning=thought[:given])
            self._held, self._in = rest, "gap"
        if self._in == "gap":
            self._held = self._held.lstrip("\n")
            self._in = "text" if self._held else "gap"
        text, self._held = self._held, ""
        return Delta(text, thought)

    def end(self) -> Delta:
        """What was held back."""
        held, self._held = self._held, ""
        return Delta(reasoning=held) if self._in == "thoughts" else Delta(held)


def _beginning_of(tag: str, text: str) -> int:
    """How many characters at the end of the text may be the beginning of the tag."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)
