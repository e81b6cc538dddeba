"""A model in memory that says what a script says."""

from __future__ import annotations

from dataclasses import replace

import anyio.lowlevel

from flowkit.chat import Delta, ModelAnswer, ModelRequest, OnDelta
from flowkit.testing.script import Player, Script, answer_of
from flowkit.testing.wire import pieces


class ScriptedModel:
    """A model (`flowkit.ports.Model`) without a server: says what its script says.

    `requests` holds what it was asked, in order. Raises the exceptions that the script has for
    replies, and `ScriptOver` where it has none.
    """

    def __init__(self, script: Script, *, name: str = "scripted") -> None:
        self._player = Player(script)
        self._name = name
        self.requests: list[ModelRequest] = []

    def __repr__(self) -> str:
        return f"ScriptedModel({self._name!r}, asked={len(self.requests)})"

    @property
    def name(self) -> str:
        return self._name

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        await anyio.lowlevel.checkpoint()
        # The asker may go on adding to its list of messages.
        request = replace(request, messages=tuple(request.messages))
        self.requests.append(request)
        reply = self._player.reply(request)
        if isinstance(reply, BaseException):
            raise reply
        answer = answer_of(reply, request, self._name)
        if on_delta is not None:
            for piece in pieces(answer.message.reasoning or ""):
                await on_delta(Delta(reasoning=piece))
            for piece in pieces(answer.message.content or ""):
                await on_delta(Delta(text=piece))
        return answer
