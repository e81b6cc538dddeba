"""Chat completions as they go over the wire: a request read, an answer written in chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, cast

from flowkit.chat import ChatMessage, Media, ModelAnswer, ModelRequest, ToolCall, Usage
from flowkit.testing.rules import as_object

PIECES_MAX: Final = 12
PIECE_CHARS_MIN: Final = 6
"""Short enough that marks and words are cut in two, few enough that tests are fast."""

_OWN_FIELDS: Final = frozenset(
    {"role", "content", "reasoning_content", "reasoning", "tool_calls", "tool_call_id"}
)
_NOT_SETTINGS: Final = frozenset(
    {"model", "messages", "tools", "stream", "stream_options", "response_format"}
)

Json = dict[str, Any]


def pieces(text: str) -> Iterator[str]:
    """The text as a model streams it."""
    size = max(PIECE_CHARS_MIN, -(-len(text) // PIECES_MAX))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def encoded(value: object) -> bytes:
    """JSON in UTF-8; lone surrogates, which that has not, stay escaped."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


# ---- read ----


class Reader:
    """Reads bodies whose shape has been checked. What a conversation repeats is kept once."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[list[Json], tuple[ChatMessage, ...]]] = {}

    def read(self, body: Json) -> ModelRequest:
        sent: list[Json] = body["messages"]
        first = next((at for at, each in enumerate(sent) if each["role"] == "user"), 0)
        opening = json.dumps(sent[: first + 1])
        old, known = self._last.get(opening, ([], ()))
        pairs = enumerate(zip(old, sent, strict=False))
        same = next((at for at, (a, b) in pairs if a != b), min(len(old), len(sent)))
        sent[:same] = old[:same]
        messages = (*known[:same], *map(_message, sent[same:]))
        self._last[opening] = (sent, messages)
        return _request(body, messages)


def _request(body: Json, messages: Sequence[ChatMessage]) -> ModelRequest:
    schema = as_object(as_object(body.get("response_format")).get("json_schema"))
    return ModelRequest(
        messages=messages,
        tools=tuple(as_object(tool.get("function")) for tool in body.get("tools") or ()),
        schema=schema.get("schema"),
        schema_name=schema.get("name", ""),
        settings={name: value for name, value in body.items() if name not in _NOT_SETTINGS},
    )


def text_of(content: object) -> str | None:
    """The text of a message's content, be it in parts or not."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in cast("list[Json]", content))
    return cast("str | None", content)


def _message(sent: Mapping[str, Any]) -> ChatMessage:
    content: Any = sent.get("content")
    parts = cast("list[Json]", content if isinstance(content, list) else [])
    role: Any = "system" if sent["role"] == "developer" else sent["role"]
    reasoning = sent.get("reasoning_content")
    return ChatMessage(
        role=role,
        content=text_of(sent.get("content")),
        reasoning=sent.get("reasoning") if reasoning is None else reasoning,
        tool_calls=tuple(
            ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in sent.get("tool_calls") or ()
        ),
        tool_call_id=sent.get("tool_call_id"),
        media=tuple(_media(part) for part in parts if part.get("type") in ("image_url", "file")),
        extra={name: value for name, value in sent.items() if name not in _OWN_FIELDS},
    )


def _media(part: Mapping[str, Any]) -> Media:
    kind: Literal["image", "file"] = "file" if part["type"] == "file" else "image"
    held: Json = part.get(part["type"]) or {}
    return Media(kind, held.get("url") or held.get("file_data") or "", held.get("filename") or "")


# ---- written ----


def usage_json(usage: Usage) -> Json:
    """The usage, with the cached tokens in Moonshot's place and in OpenAI's."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def completion(answer: ModelAnswer, *, id: str) -> Json:
    """The answer in one piece."""
    message = answer.message
    said: Json = {"role": "assistant", "content": message.content or ""}
    if message.reasoning is not None:
        said["reasoning_content"] = message.reasoning
    if message.tool_calls:
        said["tool_calls"] = [
            _call(position, call) for position, call in enumerate(message.tool_calls)
        ]
    choice = {"index": 0, "message": said, "finish_reason": answer.finish_reason}
    return {
        **_head(answer, id, "chat.completion"),
        "choices": [choice],
        "usage": usage_json(answer.usage),
    }


def chunks(answer: ModelAnswer, *, id: str, usage_in_choice: bool, usage_asked: bool) -> list[Json]:
    """The answer as a stream: reasoning, then content, then tool calls, then how it ended."""
    head = _head(answer, id, "chat.completion.chunk")
    made = [_chunk(head, delta) for delta in _deltas(answer.message)]
    last = _chunk(head, {}, answer.finish_reason)
    if usage_in_choice:
        last["choices"][0]["usage"] = usage_json(answer.usage)
    made.append(last)
    if usage_asked:
        made.append({**head, "choices": [], "usage": usage_json(answer.usage)})
    return made


def _deltas(message: ChatMessage) -> Iterator[Json]:
    yield {"role": "assistant", "content": ""}
    if message.reasoning is not None:
        for piece in list(pieces(message.reasoning)) or [""]:
            yield {"reasoning_content": piece}
    for piece in pieces(message.content or ""):
        yield {"content": piece}
    for position, call in enumerate(message.tool_calls):
        yield {"tool_calls": [_call(position, call, arguments="")]}
        for piece in pieces(call.arguments):
            yield {"tool_calls": [{"index": position, "function": {"arguments": piece}}]}


def _call(position: int, call: ToolCall, *, arguments: str | None = None) -> Json:
    written = call.arguments if arguments is None else arguments
    return {
        "index": position,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": written},
    }


def _head(answer: ModelAnswer, id: str, kind: str) -> Json:
    return {"id": id, "object": kind, "created": 1_762_300_800, "model": answer.model}


def _chunk(head: Json, delta: Json, finish: str | None = None) -> Json:
    return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def events(frames: Sequence[Json | str]) -> list[bytes]:
    """Server-sent events; a text is sent as it is."""
    return [
        (frame.encode() if isinstance(frame, str) else b"data: " + encoded(frame)) + b"\n\n"
        for frame in frames
    ]
