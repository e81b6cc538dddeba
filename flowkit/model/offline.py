"""What stands in for a language model where none is configured. It is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import anyio.lowlevel

from flowkit.chat import ChatMessage, Delta, ModelAnswer, ModelRequest, OnDelta
from flowkit.errors import BadModelRequest, NoModel

Rule = Callable[[ModelRequest], str | ChatMessage]
"""Computes an answer from a request, the same for the same request: JSON text, or a whole message
with calls of tools."""

# A line that begins with the fence cannot stand inside JSON, where a new line is written as \n.
_FACTS: Final = re.compile(r"^[ \t]*```json[ \t]*\r?\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


class OfflineModel:
    """Answers by rules: deterministic, without network, without a mind.

    A rule is named after the schema of the wanted answer; where a request has none, after one of the
    tools that it offers, such as a planner's own `answer`; the rule "" is for plain text. So that a shipped workflow runs, and shows
    what it does, before anybody has a key. A request that no rule is for raises `NoModel`.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = dict(rules)

    def __repr__(self) -> str:
        return f"OfflineModel({', '.join(sorted(self._rules))})"

    @property
    def name(self) -> str:
        return "flowkit-offline"

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        await anyio.lowlevel.checkpoint()
        told = self._rule(request)(request)
        message = ChatMessage("assistant", content=told) if isinstance(told, str) else told
        if on_delta is not None:
            await on_delta(Delta(message.content or "", message.reasoning or ""))
        reason = "tool_calls" if message.tool_calls else "stop"
        return ModelAnswer(message, finish_reason=reason, model=self.name)

    def _rule(self, request: ModelRequest) -> Rule:
        tools = [str(tool["name"]) for tool in request.tools]
        for name in [request.schema_name] if request.schema_name else tools or [""]:
            if name in self._rules:
                return self._rules[name]
        wanted = f"for {request.schema_name!r}" if request.schema_name else "for free text"
        if tools and not request.schema_name:
            wanted = f"for the tools {', '.join(tools)}"
        raise NoModel(
            f"No language model is configured, and the offline stand-in has no rule {wanted}."
        )


def facts(request: ModelRequest) -> dict[str, Any]:
    """The last fenced ```json block of the user messages, which must be an object.

    For rules: whoever writes the prompt puts what a rule needs into such a block.
    """
    wanted = f"the request for {request.schema_name!r}"
    for message in reversed(request.messages):
        blocks = _FACTS.findall(message.content or "") if message.role == "user" else []
        if not blocks:
            continue
        try:
            found: object = json.loads(blocks[-1])
        except ValueError as error:
            raise BadModelRequest(
                f"The last ```json block of {wanted} is not JSON: {error}."
            ) from error
        if not isinstance(found, dict):
            raise BadModelRequest(f"The last ```json block of {wanted} is not an object.")
        return cast("dict[str, Any]", found)
    raise BadModelRequest(
        f"There is no ```json block in the user messages of {wanted}: put the facts that its rule "
        "needs into one."
    )
