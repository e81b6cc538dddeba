"""How a long talk is kept within the model's window: a chain of small values, applied in order.

Instructions and goal stay for ever. Old results are hidden first, in bulk, since each change of what
was sent breaks the server's prefix cache; then old turns are summarised; then they are dropped. The
talk is a fold over turns, so that a resumed run finds the same messages again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowkit.chat import ChatMessage

CHARS_A_TOKEN = 4
"""An estimate for what was added since the server last counted."""


@dataclass(frozen=True)
class Said:
    """What one turn adds: the model's message, the results by call id, feedback; tokens it was asked with."""

    message: ChatMessage | None
    results: Sequence[tuple[str, str]] = ()
    feedback: Sequence[str] = ()
    input_tokens: int = 0


class ContextPolicy:
    """A rule of what to do as a talk grows."""


@dataclass(frozen=True)
class HideResults(ContextPolicy):
    at: float = 0.6
    keep_turns: int = 3


@dataclass(frozen=True)
class Summarise(ContextPolicy):
    at: float = 0.8
    keep_turns: int = 4


@dataclass(frozen=True)
class KeepLast(ContextPolicy):
    at: float = 0.9
    turns: int = 20


@dataclass(frozen=True)
class RestateGoal(ContextPolicy):
    every: int = 20


DEFAULT: Sequence[ContextPolicy] = (HideResults(), Summarise(), KeepLast(), RestateGoal())


class Conversation:
    def __init__(
        self, instructions: str, goal: str, policies: Sequence[ContextPolicy], window_tokens: int
    ) -> None:
        self._head = (ChatMessage("system", instructions), ChatMessage("user", goal))
        self._messages: list[ChatMessage] = []
        self.policies = policies
        self.window = window_tokens

    def copy(self) -> Conversation:
        made = copy.copy(self)
        made._messages = list(self._messages)
        return made

    def add(self, said: Said) -> None:
        if said.message is not None:
            self._messages.append(said.message)
        self._messages += [ChatMessage("tool", text, tool_call_id=id) for id, text in said.results]
        self._messages += [ChatMessage("user", text) for text in said.feedback]

    def request_messages(self) -> tuple[ChatMessage, ...]:
        return (*self._head, *self._messages)

    def wants_summary(self) -> tuple[ChatMessage, ...] | None:
        return None

    def summarise(self, text: str) -> None: ...

    def settings(self) -> Mapping[str, Any]:
        return {}

    def shrink(self) -> bool:
        return False

    def recall(self, id: str) -> str | None:
        return None
