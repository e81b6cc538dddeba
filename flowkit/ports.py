"""What the engine needs from outside: a store, a place for artifacts, a model, and the world.

The engine sees these protocols only. One contract suite (tests/contract) holds every store to them.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from flowkit.events import Event, Status
from flowkit.values import Value


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run's row. `due_at` and `lease_until` are Unix time; `head` is the last event's seq."""

    run_id: str
    workflow: str
    input_hash: str
    created_at: float
    status: Status = "pending"
    due_at: float | None = None
    owner: str | None = None
    epoch: int = 0
    lease_until: float | None = None
    head: int = 0


@dataclass(frozen=True, slots=True)
class Journal:
    """A run's row and its events after the asked one, in order."""

    record: RunRecord
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody who does not drive a run wants of it. The same id is delivered once.

    `name`: the signal's name, the key of the step to decide on, or the reason to cancel.
    """

    id: str
    kind: Literal["signal", "cancel", "decide"]
    name: str = ""
    value: Value | None = None
    how: str = ""


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs to list: all conditions must hold. Newest first, at most `limit`.

    `free_at`: not ended, and no living lease at this Unix time (or the owner's process is gone).
    `due_at`: waiting with a due time that has come. `messages`: with messages in the inbox.
    """

    run_id: str | None = None
    prefix: str | None = None
    status: frozenset[Status] | None = None
    workflow: str | None = None
    since: float | None = None
    free_at: float | None = None
    due_at: float | None = None
    messages: bool = False
    limit: int = 100


class Store(Protocol):
    """Keeps journals. Every method may be called from any task of one event loop.

    Errors: `RunNotFound` for an unknown id, `RunConflict` from `create` for an id that exists,
    `LeaseLost` from `append` for an epoch that is not the run's, `JournalConflict` for another
    `expect` than the last seq, `StoreUnusable` when the storage itself fails.

    What writes to a run is not interrupted: a caller that is cancelled meanwhile still gets the answer,
    and so knows what was written. The engine counts on it and spares a shield around each append.
    """

    async def create(self, run: RunRecord) -> None: ...

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        """Commit the events, all or none; give back messages that no event has consumed yet."""
        ...

    async def load(self, run_id: str, *, after: int = 0) -> Journal: ...

    async def claim(
        self, run_id: str, owner: str, lease_s: float, token: int | None = None
    ) -> int | None:
        """Take the run: the new epoch, or None while another owner's lease lives.

        Without a token the epoch is the next multiple of 2**40; with one the claim wins only over a
        smaller epoch, whatever the lease says.
        """
        ...

    async def renew(self, run_id: str, epoch: int, lease_s: float) -> Sequence[Message] | None:
        """Keep the run: the waiting messages, or None when the lease is lost."""
        ...

    async def release(self, run_id: str, epoch: int) -> None: ...

    async def post(self, run_id: str, message: Message) -> None: ...

    async def runs(self, query: RunQuery) -> Sequence[RunRecord]: ...


class Artifacts(Protocol):
    """Keeps bytes once by content."""

    async def put(self, data: bytes) -> str:
        """Store the bytes durably; their SHA-256 as hex."""
        ...

    async def get(self, sha256: str) -> bytes:
        """The bytes; `StoreUnusable` if they are not there."""
        ...


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's call of a tool, with the arguments as the raw text that it wrote."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation. `reasoning=""` and `None` are different things."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    reasoning: str | None = None
    reasoning_details: Sequence[Any] | None = None
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What a model is asked. `schema` is the JSON schema of the wanted answer, `schema_name` its name."""

    messages: Sequence[ChatMessage]
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Mapping[str, Any] | None = None
    schema_name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a model answered; `model` is the name that the server gave."""

    message: ChatMessage
    finish_reason: str = "stop"
    usage: Usage = Usage()
    model: str = ""


OnDelta = Callable[[str], Awaitable[None]]


class Model(Protocol):
    """A language model, or what stands in for one."""

    @property
    def name(self) -> str: ...

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer: ...


def _new_id() -> str:
    """A UUIDv7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, then random bits."""
    stamp = int(time.time() * 1000).to_bytes(6, "big")
    tail = bytearray(os.urandom(10))
    tail[0] = 0x70 | (tail[0] & 0x0F)
    tail[2] = 0x80 | (tail[2] & 0x3F)
    text = (stamp + bytes(tail)).hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class World:
    """What is not reproducible: the wall clock (Unix time), chance, new ids. Tests give their own."""

    now: Callable[[], float] = time.time
    draw: Callable[[], float] = random.random
    new_id: Callable[[], str] = _new_id
