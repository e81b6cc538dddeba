"""A `ModelRequest` as the body of a chat completion."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, cast

from flowkit.chat import ChatMessage, ModelRequest
from flowkit.errors import BadModelRequest
from flowkit.model.profile import SAMPLING, Profile

REASONING_FIELD: Final = "_reasoning_field"
"""In `ChatMessage.extra`: the name under which the server gave the reasoning.

Keys of `extra` that begin with an underscore are notes of flowkit's and are never sent; others
are sent as they are (such as Moonshot's `partial`).
"""

_RESERVED: Final = frozenset({"model", "messages", "tools", "response_format", "stream", "n"})


def body(request: ModelRequest, profile: Profile, *, schema_in_prompt: bool) -> dict[str, Any]:
    """Everything of the request but the model's name and `stream`."""
    messages = [_message(message, profile) for message in request.messages]
    made: dict[str, Any] = {"messages": messages, **_settings(request, profile)}
    if request.tools:
        made["tools"] = [_tool(tool) for tool in request.tools]
    if profile.usage_in_stream:
        made.setdefault("stream_options", {"include_usage": True})
    if request.schema is not None and schema_in_prompt:
        _ask_in_prompt(messages, request.schema)
    elif request.schema is not None:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", request.schema_name)[:64] or "answer"
        schema = {"name": name, "schema": request.schema}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    return cast("dict[str, Any]", _sendable(made))


def whole(text: str) -> str:
    """The text with its surrogate pairs joined, and U+FFFD for lone ones: UTF-8 has neither.

    A server that writes JSON in ASCII may send the two halves of a pair in two chunks.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _message(message: ChatMessage, profile: Profile) -> dict[str, Any]:
    made: dict[str, Any] = {k: v for k, v in message.extra.items() if not k.startswith("_")}
    made["role"] = message.role
    # Beside tool calls an empty text must be null: some servers refuse an empty text part.
    made["content"] = message.content or (None if message.tool_calls else "")
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    name = message.extra.get(REASONING_FIELD)
    if (
        profile.reasoning_back
        and message.reasoning is not None
        and name in profile.reasoning_fields
    ):
        made[name] = message.reasoning
    return made


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool as OpenAI has it, made of a bare function if need be."""
    return tool if "type" in tool else {"type": "function", "function": tool}


def _settings(request: ModelRequest, profile: Profile) -> dict[str, Any]:
    """The settings to send: the profile's, then the request's."""
    merged = {**profile.defaults, **request.settings}
    extra = merged.pop("extra_body", None)
    if isinstance(extra, Mapping):
        merged.update(cast("Mapping[str, Any]", extra))
    if reserved := sorted(_RESERVED & merged.keys()):
        raise BadModelRequest(
            f"The settings hold {', '.join(reserved)}, which flowkit sets itself: leave it out."
        )
    made: dict[str, Any] = {}
    for name, value in merged.items():
        if value is None or (name in SAMPLING and name not in profile.sampling):
            continue
        if name == "tool_choice" and not request.tools:
            continue
        limit = name in ("max_tokens", "max_completion_tokens")
        made[profile.max_tokens_param if limit else name] = value
    return made


def _ask_in_prompt(messages: list[dict[str, Any]], schema: Mapping[str, Any]) -> None:
    """Add the schema to the system message; it is the same in every turn, so prefixes stay."""
    text = (
        "Answer with one JSON value and nothing else: no prose, no code fence. "
        f"It must fit this JSON schema:\n{json.dumps(schema, ensure_ascii=False)}"
    )
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] = f"{messages[0]['content']}\n\n{text}"
    else:
        messages.insert(0, {"role": "system", "content": text})


def _sendable(value: object) -> object:
    """The value as plain lists and dicts that JSON and UTF-8 can hold."""
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value).items()
        return {str(_sendable(name)): _sendable(item) for name, item in pairs}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_sendable(item) for item in cast("Sequence[object]", value)]
    if value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return value
    raise BadModelRequest(
        f"The request holds {value!r:.100}, which JSON cannot: pass numbers, texts, lists, dicts."
    )
