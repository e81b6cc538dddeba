"""What others want of a run: messages that wait to become events with its next append."""

from __future__ import annotations

from collections.abc import Sequence

from flowkit.events import Fact
from flowkit.ports import Message
from flowkit.state import State


class Inbox:
    """The messages that no event has consumed yet."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._messages: dict[str, Message] = {}

    def __bool__(self) -> bool:
        return bool(self._messages)

    def receive(self, messages: Sequence[Message]) -> bool:
        """Whether one of them is new."""
        before = len(self._messages)
        for message in messages:
            if message.id not in self._state.consumed:
                self._messages.setdefault(message.id, message)
        return len(self._messages) > before

    def take(self) -> list[Fact]:
        """What the messages say; a run that has ended hears nothing."""
        if not self._messages:
            return []
        facts = [fact for each in self._messages.values() if (fact := each.fact()) is not None]
        self._messages = {}
        return [] if self._state.ended is not None else facts
