"""A conversation as JSON, made once: the next turn encodes only what is new in it.

A conversation is a fold over its messages: what a message is sent as depends on those before it
(which calls are open, how many there were). A `Transcript` is that fold up to some message, and
`Transcripts` finds the one that a request continues, by the identity of its messages.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from re import ASCII
from re import compile as pattern
from threading import Lock
from typing import Any, Final

from flowkit.chat import ChatMessage, Media
from flowkit.errors import BadModelRequest
from flowkit.model.encode import encoded
from flowkit.model.profile import Profile

REASONING_FIELD: Final = "_reasoning_field"
"""In `ChatMessage.extra`: the name under which the server gave the reasoning.

Keys of `extra` that begin with an underscore are notes of flowkit's and are never sent; others
are sent as they are (such as Moonshot's `partial`).
"""

CACHE_BYTES_MAX: Final = 128 * 1024 * 1024
"""Of JSON, in the transcripts that one model keeps: about half of it is memory.

Of a conversation two are kept, this turn's and the last one's (for a turn that is taken back), and
what they share is counted in each.
"""

_MESSAGE_BYTES: Final = 64
"""What a message of a transcript takes beside its JSON, about."""

_K2_ID: Final = pattern(r"functions\.[\w.-]+:\d+", ASCII)


@dataclass(frozen=True, slots=True)
class Transcript:
    """Messages, and each of them as JSON. `calls`: how many tool calls came so far.

    `open`: the ids of the calls that no message has answered yet, and what they are sent as.
    """

    messages: tuple[ChatMessage, ...] = ()
    parts: tuple[bytes, ...] = ()
    size: int = 0
    calls: int = 0
    open: Mapping[str, str] = field(default_factory=dict[str, str])

    def extended(self, messages: Sequence[ChatMessage], profile: Profile) -> Transcript:
        """With these messages after its own. `BadModelRequest` if they cannot follow."""
        parts: list[bytes] = []
        calls, waiting = self.calls, dict(self.open)
        for place, message in enumerate(messages, len(self.messages)):
            if message.role == "tool":
                ids = {message.tool_call_id or "": _answered(message, waiting, place)}
            else:
                all_answered(waiting, place)
                ids = waiting = _ids(message, calls, profile, place)
                calls += len(waiting)
            parts.append(b"," + encoded(message_json(message, profile, ids)))
        return Transcript(
            (*self.messages, *messages),
            (*self.parts, *parts),
            self.size + sum(map(len, parts)) + _MESSAGE_BYTES * len(parts),
            calls,
            waiting,
        )


_Key = tuple[int, ...]


def _key(messages: Sequence[ChatMessage]) -> _Key:
    """How many messages, and the last one's identity; () for none."""
    return (len(messages), id(messages[-1])) if messages else ()


class Transcripts:
    """The latest transcripts of a model, under one profile; the oldest go when there are too many.

    Safe to use from several threads, since a model may be used from several event loops.
    """

    def __init__(self, profile: Profile, *, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._profile = profile
        self._bytes_max = bytes_max
        self._size = 0
        self._lock = Lock()
        # By last message and length. The transcripts keep their messages alive, so that no other
        # object gets the id of one.
        self._by_end: OrderedDict[_Key, Transcript] = OrderedDict()
        self._before: dict[_Key, _Key] = {}

    @property
    def size(self) -> int:
        return self._size

    def of(self, messages: Sequence[ChatMessage]) -> Transcript:
        """The transcript of these messages, of which no call is open."""
        messages = tuple(messages)
        with self._lock:
            known = self._beginning(messages)
        made = known
        if new := messages[len(known.messages) :]:
            made = known.extended(new, self._profile)
        all_answered(made.open, len(messages))
        if messages:
            with self._lock:
                self._keep(made, known)
        return made

    def _beginning(self, messages: tuple[ChatMessage, ...]) -> Transcript:
        """The longest known transcript that the messages begin with, looked for from the end."""
        for end in range(len(messages), 0, -1):
            found = self._by_end.get((end, id(messages[end - 1])))
            if found is not None and all(map(is_, found.messages, messages)):
                return found
        return Transcript()

    def _keep(self, made: Transcript, known: Transcript) -> None:
        key, before = _key(made.messages), _key(known.messages)
        self._drop(key)
        self._by_end[key] = made
        self._size += made.size
        if key != before:
            self._drop(self._before.pop(before, None))
            self._before[key] = before
        while self._size > self._bytes_max:
            oldest = next(iter(self._by_end))
            self._before.pop(oldest, None)
            self._drop(oldest)

    def _drop(self, key: _Key | None) -> None:
        old = self._by_end.pop(key, None) if key else None
        self._size -= old.size if old else 0


def message_json(message: ChatMessage, profile: Profile, ids: Mapping[str, str]) -> dict[str, Any]:
    """A message as the profile has it; `ids` are what the ids of its calls are sent as."""
    made: dict[str, Any] = {k: v for k, v in message.extra.items() if not k.startswith("_")}
    made["role"] = message.role
    # Beside tool calls an empty text must be null: some servers refuse an empty text part.
    made["content"] = message.content or (None if message.tool_calls else "")
    if message.media:
        text = [{"type": "text", "text": message.content}] if message.content else []
        made["content"] = [*text, *map(_media, message.media)]
    if message.tool_call_id is not None:
        made["tool_call_id"] = ids.get(message.tool_call_id, message.tool_call_id)
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": ids[call.id],
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.role == "assistant":
        made.update(_reasoning(message, profile))
    return made


def all_answered(waiting: Mapping[str, str], place: int) -> None:
    """Refuse open calls where the next message is none of a tool, as every server does."""
    if waiting:
        raise BadModelRequest(
            f"The tool calls {', '.join(map(repr, waiting))} are not answered before message "
            f"{place}. Every call needs one tool message with its id, right after the message "
            "that made it: add what is missing."
        )


def _answered(message: ChatMessage, waiting: dict[str, str], place: int) -> str:
    """What the id of the call that a tool message answers is sent as."""
    sent = waiting.pop(message.tool_call_id or "", None)
    if sent is None:
        raise BadModelRequest(
            f"Message {place} answers the tool call {message.tool_call_id!r}, which is not open: "
            "a tool message stands right after the message that made the call, and each call is "
            "answered once."
        )
    return sent


def _ids(message: ChatMessage, before: int, profile: Profile, place: int) -> dict[str, str]:
    """What the ids of a message's calls are sent as; `before` calls came earlier."""
    ids: dict[str, str] = {}
    for number, call in enumerate(message.tool_calls, before):
        kept = not profile.rewrite_tool_call_ids or _K2_ID.fullmatch(call.id)
        ids[call.id] = call.id if kept else f"functions.{call.name}:{number}"
    if len(ids) != len(message.tool_calls):
        raise BadModelRequest(
            f"Two tool calls of message {place} have the same id: give each its own, since tool "
            "messages are told apart by it."
        )
    return ids


def _reasoning(message: ChatMessage, profile: Profile) -> dict[str, Any]:
    """The reasoning of an assistant's message, under the names that the profile sends it."""
    names = profile.reasoning_back
    if names is None:
        read_as = message.extra.get(REASONING_FIELD)
        known = read_as if read_as in profile.reasoning_fields else None
        if known is None and profile.fill_reasoning is not None:
            known = profile.reasoning_fields[0]
        names = ("reasoning_details", *((known,) if known else ()))
    if message.reasoning_details is not None and "reasoning_details" in names:
        return {"reasoning_details": message.reasoning_details}
    text = profile.fill_reasoning if message.reasoning is None else message.reasoning
    return {} if text is None else {n: text for n in names if n != "reasoning_details"}


def _media(media: Media) -> dict[str, Any]:
    is_data = media.url.startswith("data:") and ";base64," in media.url[:200]
    if not (is_data or media.url.startswith("https://")):
        raise BadModelRequest(
            f"A {media.kind} has the URL {media.url[:60]!r}: give an https: URL, or a data: URL "
            "with base64 (Media.of makes one of bytes)."
        )
    if media.kind == "image":
        return {"type": "image_url", "image_url": {"url": media.url}}
    return {"type": "file", "file": {"filename": media.name or "file", "file_data": media.url}}
