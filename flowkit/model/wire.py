"""A `ModelRequest` as the bytes of a chat completion's body."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, cast

from flowkit.chat import ChatMessage, ModelRequest
from flowkit.errors import BadModelRequest
from flowkit.model.encode import encoded
from flowkit.model.profile import Profile, ToolChoice
from flowkit.model.toolset import tools_json
from flowkit.model.transcript import Transcript, Transcripts, message_json

Way = Literal["response_format", "tool", "prompt"]
"""How a model is told the schema of the wanted answer: `tool` is a call that it is forced to make."""

_RESERVED: Final = frozenset({"model", "messages", "tools", "response_format", "stream", "n"})
_TOOLS_KEPT: Final = 64
"""Sets of tools whose JSON is kept."""


class Wire:
    """Writes requests to one model under one profile. What it wrote before it does not write again."""

    def __init__(self, model: str, profile: Profile) -> None:
        self._model = model
        self.profile = profile
        self._transcripts = Transcripts(profile)
        self._tools: dict[str, bytes] = {}

    def filling(self) -> Wire:
        """The same, with an empty reasoning where an answer had none."""
        return Wire(self._model, replace(self.profile, fill_reasoning=""))

    def body(self, request: ModelRequest, way: Way | None) -> bytes:
        """The whole body. `BadModelRequest` for what no server, or not this one, takes."""
        fields: dict[str, Any] = {"model": self._model, **_settings(request, self.profile)}
        tools = self._tools_of(request.tools)
        if way == "tool":
            tools = encoded(tools_json([forced_tool(request)], self.profile))
            fields["tool_choice"] = _forced(request, self.profile)
        elif way == "response_format":
            schema = {"name": answer_name(request), "schema": request.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        if fields.get("tool_choice") == "none" and "none" not in self.profile.tool_choice:
            tools = b""
        if not tools:
            fields.pop("tool_choice", None)
        head = encoded(fields)[:-1] + (b',"tools":' + tools if tools else b"")
        said = self._transcripts.of(request.messages)
        first, rest = self._first(said, request, way)
        # One join, since it copies the whole conversation.
        return b"".join((head, b',"messages":[', first, *rest, b"]}"))

    def _first(
        self, said: Transcript, request: ModelRequest, way: Way | None
    ) -> tuple[bytes, Sequence[bytes]]:
        """The first message, without its comma, and the rest.

        A schema in the prompt is added to the system message; it is the same in every turn, so
        that servers find the beginning of the conversation in their cache.
        """
        if way != "prompt":
            return said.parts[0][1:] if said.parts else b"", said.parts[1:]
        text = (
            "Answer with one JSON value and nothing else: no prose, no code fence. "
            f"It must fit this JSON schema:\n{json.dumps(request.schema, ensure_ascii=False)}"
        )
        system, rest = ChatMessage("system", content=text), said.parts
        if said.messages and said.messages[0].role == "system":
            given = said.messages[0]
            system = replace(given, content=f"{given.content or ''}\n\n{text}".lstrip())
            rest = said.parts[1:]
        return encoded(message_json(system, self.profile, {})), rest

    def _tools_of(self, tools: Sequence[Mapping[str, Any]]) -> bytes:
        """The tools' JSON; b"" for none. Kept by what the tools say, since their dicts may change."""
        if not tools:
            return b""
        try:
            key = json.dumps(list(tools), ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            return encoded(tools_json(tools, self.profile))
        known = self._tools.get(key)
        if known is None:
            if len(self._tools) >= _TOOLS_KEPT:
                self._tools.clear()
            known = self._tools[key] = encoded(tools_json(tools, self.profile))
        return known


def ways(request: ModelRequest, profile: Profile) -> Sequence[Way]:
    """The ways to ask for the schema of a request, the best first; none where there is no schema.

    A call is forced only where there is nothing else to call, and only for an object, which
    arguments always are.
    """
    if request.schema is None:
        return ()
    forced = bool(profile.tool_choice & {"named", "required"})
    forced = forced and not request.tools and request.schema.get("type") == "object"
    possible: tuple[tuple[Way, bool], ...] = (
        ("response_format", profile.json_schema),
        ("tool", forced),
        ("prompt", True),
    )
    return [way for way, is_possible in possible if is_possible]


def digest(schema: Mapping[str, Any] | None) -> str:
    """What a schema is remembered by."""
    return hashlib.sha256(encoded(schema)).hexdigest()


def answer_name(request: ModelRequest) -> str:
    """The schema's name, as servers take it."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", request.schema_name)[:64] or "answer"
    # The strictest servers want three characters, and a letter first.
    return name if re.match(r"[A-Za-z_].{2}", name) else f"as_{name}"[:64]


def forced_tool(request: ModelRequest) -> Mapping[str, Any]:
    """The tool whose arguments are the wanted answer."""
    function = {
        "name": answer_name(request),
        "description": "Give the answer with this call.",
        "parameters": request.schema,
    }
    return {"type": "function", "function": function}


def _forced(request: ModelRequest, profile: Profile) -> object:
    if "named" not in profile.tool_choice:
        return "required"
    return {"type": "function", "function": {"name": answer_name(request)}}


def _settings(request: ModelRequest, profile: Profile) -> dict[str, Any]:
    """The settings to send: the profile's, then the request's, without what the profile drops."""
    merged = {**profile.defaults, **request.settings}
    if isinstance(extra := merged.pop("extra_body", None), Mapping):
        merged.update(cast("Mapping[str, Any]", extra))
    if reserved := sorted(_RESERVED & merged.keys()):
        raise BadModelRequest(
            f"The settings hold {', '.join(reserved)}, which flowkit sets itself: leave it out."
        )
    made: dict[str, Any] = {"stream": profile.stream}
    if profile.stream and profile.usage_in_stream:
        made["stream_options"] = {"include_usage": True}
    for name, value in merged.items():
        if value is None or name in profile.drops:
            continue
        if name == "tool_choice" and _mode(value) not in (*profile.tool_choice, "none"):
            continue
        limit = name in ("max_tokens", "max_completion_tokens")
        made[profile.max_tokens_param if limit else name] = value
    return made


def _mode(tool_choice: object) -> ToolChoice:
    if isinstance(tool_choice, str):
        return cast("ToolChoice", tool_choice)
    return "named"
