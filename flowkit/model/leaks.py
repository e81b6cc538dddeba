"""What servers leave in the text that belongs elsewhere: thoughts in tags, and raw tool calls.

The raw format is Kimi K2's, of its technical report and chat template, with the variants that
servers were seen to let through:

    <|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:INDEX
    <|tool_call_argument_begin|>{...}<|tool_call_end|><|tool_calls_section_end|>
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Final, Literal

from flowkit.chat import ChatMessage, Delta, ToolCall

RECOVERED_FROM: Final = "_recovered_from"
"""In `ChatMessage.extra`: where leaked tool calls were found, `content` or `reasoning`."""

_CALL: Final = re.compile(
    r"<\|tool_call_begin\|>(?P<id>[^<]*)<\|tool_(?:call_)?arguments?_begin\|>"
    r"(?P<arguments>.*?)"
    r"(?:<\|tool_call_end\|>|(?=<\|tool_call_begin\|>|<\|tool_calls?_section_end\|>)|\Z)",
    re.DOTALL,
)
_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"
_MARKER: Final = re.compile(r"<\|tool_call(?:s?_section)?_(?:begin|end)\|>")


def recovered(message: ChatMessage, names: Collection[str]) -> ChatMessage:
    """The message with the calls that its text holds raw, of tools with these names.

    The same message if there is none. Call it only with what the model itself wrote: a tool's
    result, or a page, may hold such text to be taken for a call.
    """
    for place, text in (("content", message.content), ("reasoning", message.reasoning)):
        if not text or "<|tool_call_begin|>" not in text:
            continue
        calls = tuple(_calls(text, names))
        if calls:
            rest = _MARKER.sub("", _CALL.sub("", text))
            extra = {**message.extra, RECOVERED_FROM: place}
            if place == "content":
                return replace(message, content=rest.strip() or None, tool_calls=calls, extra=extra)
            return replace(message, reasoning=rest, tool_calls=calls, extra=extra)
    return message


def _calls(text: str, names: Collection[str]) -> Iterator[ToolCall]:
    """The whole calls: of known tools, with a JSON object for arguments."""
    taken: set[str] = set()
    for place, found in enumerate(_CALL.finditer(text)):
        name, index = _named(found["id"].strip(), names)
        arguments = found["arguments"].strip()
        if name not in names or not _is_object(arguments):
            continue
        call_id = f"functions.{name}:{index or place}"
        while call_id in taken:
            call_id += "0"
        taken.add(call_id)
        yield ToolCall(call_id, name, arguments)


def _named(call_id: str, names: Collection[str]) -> tuple[str, str]:
    """Name and index in an id: after the first `functions.`, before the last colon.

    A bare number names the tool only where there is but one.
    """
    name, colon, index = call_id.rpartition(":")
    if not colon:
        name, index = (call_id, "") if not call_id.isdigit() else ("", call_id)
    name = name.removeprefix("functions.")
    if not name and len(names) == 1:
        (name,) = names
    return name, index if index.isdigit() else ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


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
