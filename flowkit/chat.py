"""A conversation with a language model, as flowkit keeps it: messages, a request, an answer.

What servers write differently is the model client's business; here stands what is meant.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's call of a tool, with the arguments as the raw text that it wrote."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or a file beside a message's text. `url` is `https:`, or `data:` with base64."""

    kind: Literal["image", "file"]
    url: str
    name: str = ""

    @classmethod
    def of(cls, data: bytes, media_type: str, *, name: str = "") -> Media:
        """Bytes as a `data:` URL; what is no `image/...` is a file."""
        kind: Literal["image", "file"] = "image" if media_type.startswith("image/") else "file"
        return cls(kind, f"data:{media_type};base64,{base64.b64encode(data).decode()}", name)


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation. `reasoning=""` and `None` are different things."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    reasoning: str | None = None
    reasoning_details: Sequence[Any] | None = None
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str | None = None
    media: Sequence[Media] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What a model is asked. `schema` is the JSON schema of the wanted answer, `schema_name` its name.

    `tools` are JSON objects with `name`, `description` and `parameters` (a JSON schema). `deadline`
    is Unix time. `settings` are the model's own, such as `temperature` and `max_tokens`.
    """

    messages: Sequence[ChatMessage]
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Mapping[str, Any] | None = None
    schema_name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What answers used. `cached_tokens` are among the input, `reasoning_tokens` among the output.

    `cost_usd` is None where no price is known.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = None

    def __add__(self, other: Usage) -> Usage:
        known = [each.cost_usd for each in (self, other) if each.cost_usd is not None]
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            sum(known) if known else None,
        )


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a model answered; `model` is the name that the server gave."""

    message: ChatMessage
    finish_reason: str = "stop"
    usage: Usage = Usage()
    model: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer as it arrives: of its visible text, or of its reasoning."""

    text: str = ""
    reasoning: str = ""


OnDelta = Callable[[Delta], Awaitable[None]]
