"""Tool calls as Kimi K2 leaks them: as text in the content or the reasoning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from flowkit.chat import ChatMessage, ToolCall


@dataclass(frozen=True, slots=True)
class Leak:
    """One way to write leaked calls. Each of them has been reported of a real server.

    `id` has the places `{name}` and `{number}`. `one_section`: all calls stand in one. `spaced`:
    on lines of their own, with arguments over several. `broken`: a call that is cut off comes
    before the others.
    """

    begin: str = "<|tool_calls_section_begin|>"
    end: str = "<|tool_calls_section_end|>"
    argument: str = "<|tool_call_argument_begin|>"
    id: str = "functions.{name}:{number}"
    one_section: bool = True
    spaced: bool = False
    broken: bool = False

    def text(self, calls: Sequence[ToolCall]) -> str:
        """The calls as text."""
        written = [self._call(position, call) for position, call in enumerate(calls)]
        if self.broken:
            written.insert(0, self._call(len(calls), replace(calls[0], arguments='{"cut": ')))
        line = "\n" if self.spaced else ""
        if self.one_section:
            return line.join((self.begin, *written, self.end))
        return "".join(f"{self.begin}{call}{self.end}" for call in written)

    def _call(self, position: int, call: ToolCall) -> str:
        number = call.id.rpartition(":")[2]
        name = self.id.format(name=call.name, number=number if number.isdigit() else position)
        arguments = call.arguments
        if self.spaced:
            try:
                arguments = f"\n{json.dumps(json.loads(arguments), indent=2)}\n"
            except ValueError:
                pass  # what is no JSON has no lines to break
        return f"<|tool_call_begin|>{name}{self.argument}{arguments}<|tool_call_end|>"


LEAKS: Final[Mapping[str, Leak]] = MappingProxyType(
    {
        "plain": Leak(),
        "singular": Leak(begin="<|tool_call_section_begin|>", end="<|tool_call_section_end|>"),
        "arguments": Leak(argument="<|tool_arguments_begin|>"),
        "no_prefix": Leak(id="{name}:{number}"),
        "counter": Leak(id="{number}"),
        "no_end": Leak(end=""),
        "sections": Leak(one_section=False),
        "spaced": Leak(spaced=True),
        "broken": Leak(broken=True),
    }
)
Variant = Literal[
    "plain",
    "singular",
    "arguments",
    "no_prefix",
    "counter",
    "no_end",
    "sections",
    "spaced",
    "broken",
]


def leaked(
    message: ChatMessage, where: Literal["content", "reasoning"], variant: Variant
) -> ChatMessage:
    """The message with its calls as text; itself, if it has none."""
    if not message.tool_calls:
        return message
    text = LEAKS[variant].text(message.tool_calls)
    bare = replace(message, tool_calls=())
    if where == "reasoning":
        return replace(bare, reasoning=(message.reasoning or "") + text)
    return replace(bare, content=(message.content or "") + text)
