"""What a model says in a test: replies, and the scripts that choose them.

A script is a list of replies, given in the order of the requests, or a function of the request.
Only a function survives a crash, a retry or requests side by side: the order of requests is then
another one, and a list hands out the wrong replies. `by_turn` and `by_text` make such functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any, Final, cast

from pydantic_core import to_json

from flowkit.chat import ChatMessage, ModelAnswer, ModelRequest, ToolCall, Usage
from flowkit.errors import ModelError

Reply = object
"""A text; a `ChatMessage` or a `ModelAnswer`; an exception, to be raised; any other value, such as
a pydantic one, becomes JSON text."""

Rule = Callable[[ModelRequest, int], Reply]
"""Chooses the reply to a request. The number counts the script's requests from 0: a rule that looks
at it is no better than a list. A reply that is a rule itself is asked in turn."""

Script = Sequence[Reply] | Rule

CHARS_PER_TOKEN: Final = 4
"""An estimate, as good as any that needs no tokenizer."""


class ScriptOver(ModelError):
    """The script has no reply for a request."""

    elsewhere = False


def says(text: str, *, reasoning: str | None = None) -> ChatMessage:
    """A message with a text."""
    return ChatMessage("assistant", content=text, reasoning=reasoning)


def calls(
    *wanted: tuple[str, object], text: str | None = None, reasoning: str | None = None
) -> ChatMessage:
    """A message that calls tools: `calls(("search", {"q": 1}), ("read", "{not JSON"))`.

    Arguments that are a text are sent as they are. The ids come when the reply is given:
    `functions.search:0`, counted through the conversation, as Kimi K2 writes them.
    """
    made = tuple(
        ToolCall("", name, given if isinstance(given, str) else to_json(given).decode())
        for name, given in wanted
    )
    return ChatMessage("assistant", content=text, reasoning=reasoning, tool_calls=made)


def by_turn(replies: Sequence[Reply]) -> Rule:
    """The reply of a turn is told by how many of the model's messages are in the request."""

    def rule(request: ModelRequest, index: int) -> Reply:
        turn = sum(message.role == "assistant" for message in request.messages)
        if turn < len(replies):
            return replies[turn]
        raise ScriptOver(
            f"The script has {len(replies)} turns, and the request already holds {turn} messages "
            f"of the model; it ends with {_shown(request)}. Add a turn, or see why nobody stopped."
        )

    return rule


def by_text(replies: Mapping[str, Reply]) -> Rule:
    """The reply whose text stands in the newest message that holds any of the texts.

    Of several in one message, the first of the mapping.
    """

    def rule(request: ModelRequest, index: int) -> Reply:
        for message in reversed(request.messages):
            for text, reply in replies.items():
                if text in (message.content or ""):
                    return reply
        raise ScriptOver(
            f"None of {', '.join(map(repr, replies))} stands in the request, which ends with "
            f"{_shown(request)}. Add a text that does."
        )

    return rule


class Player:
    """Gives the replies of a script, to any number of threads."""

    def __init__(self, script: Script) -> None:
        if isinstance(script, str):
            raise TypeError(
                f"a script is a list of replies, or a function of the request, not {script!r:.80}"
            )
        self._script = script
        self._index = 0
        self._lock = Lock()

    def reply(self, request: ModelRequest) -> Reply:
        """The reply to this request, or the exception that stands for it."""
        with self._lock:
            index, self._index = self._index, self._index + 1
        if callable(self._script):
            chosen = self._script(request, index)
        elif index < len(self._script):
            chosen = self._script[index]
        else:
            raise ScriptOver(
                f"The script is over: it has {len(self._script)} replies, and this is request "
                f"{index + 1}, which ends with {_shown(request)}. Add a reply, or see who asks "
                "again."
            )
        while callable(chosen) and not isinstance(chosen, type):
            chosen = cast("Rule", chosen)(request, index)
        return chosen


def answer_of(reply: Reply, request: ModelRequest, model: str) -> ModelAnswer:
    """The reply as an answer to the request, whole: with ids, usage and a model's name."""
    if isinstance(reply, ModelAnswer):
        answer = reply
    elif isinstance(reply, ChatMessage):
        answer = ModelAnswer(reply)
    else:
        answer = ModelAnswer(says(reply if isinstance(reply, str) else to_json(reply).decode()))
    message = answer.message
    if message.role != "assistant":
        raise TypeError(f"a model answers as assistant; the script has a {message.role!r} message")
    message = replace(message, tool_calls=_with_ids(message.tool_calls, request))
    finish = answer.finish_reason
    if message.tool_calls and not isinstance(reply, ModelAnswer):
        finish = "tool_calls"
    usage = answer.usage
    if usage == Usage():
        usage = Usage(
            tokens_of(request), tokens_of(message), reasoning_tokens=_tokens(message.reasoning)
        )
    return ModelAnswer(message, finish, usage, answer.model or model)


def tokens_of(said: ModelRequest | ChatMessage) -> int:
    """About how many tokens a request or a message has."""
    if isinstance(said, ModelRequest):
        tools = _tokens(json.dumps(list(said.tools), default=str)) if said.tools else 0
        return tools + sum(tokens_of(message) for message in said.messages)
    arguments = sum(_tokens(call.name + call.arguments) for call in said.tool_calls)
    return _tokens(said.content) + _tokens(said.reasoning) + arguments


def _tokens(text: str | None) -> int:
    return -(-len(text or "") // CHARS_PER_TOKEN)


def _with_ids(wanted: Sequence[ToolCall], request: ModelRequest) -> tuple[ToolCall, ...]:
    before = sum(len(message.tool_calls) for message in request.messages)
    return tuple(
        call if call.id else replace(call, id=f"functions.{call.name}:{before + position}")
        for position, call in enumerate(wanted)
    )


def _shown(request: ModelRequest) -> str:
    if not request.messages:
        return "no message"
    last: Any = request.messages[-1]
    return f"{last.role}: {last.content!r:.120}"
