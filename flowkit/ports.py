"""What the engine needs from outside: a store, a place for artifacts, a model, and the world.

The engine sees these protocols only. One contract suite (tests/contract) holds every store to them.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from flowkit.chat import ModelAnswer, ModelRequest, OnDelta
from flowkit.errors import DeclarationError
from flowkit.events import CancelRequested, Decided, Event, Fact, Signalled, Status
from flowkit.values import Value


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run's row. `due_at` and `lease_until` are Unix time; `head` is the last event's seq.

    `base`: the run whose journal, up to `base_seq`, is the beginning of this one; nothing of it is
    copied, and it cannot be deleted before this run.
    """

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
    base: str | None = None
    base_seq: int = 0

    @property
    def half_made(self) -> bool:
        """A fork whose process died before the fork's first event: nobody's, until it is forked again."""
        return self.base is not None and self.head == self.base_seq


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

    def fact(self) -> Fact | None:
        """What the run's owner records of it; None for a decision of a kind that is not known."""
        match self.kind, self.how:
            case "signal", _:
                return Fact(Signalled(self.name, value=self.value, message=self.id))
            case "cancel", _:
                return Fact(CancelRequested(self.name, self.id))
            case "decide", ("done" | "repeat" | "fail") as how:
                return Fact(Decided(how, self.value, self.id), self.name)
            case _:
                return None


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


class Model(Protocol):
    """A language model, or what stands in for one."""

    @property
    def name(self) -> str: ...

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Ask once; `ModelError` says what went wrong, and what may help. Retries are the run's."""
        ...


@runtime_checkable
class Windowed(Protocol):
    """A model that tells how long a conversation may be."""

    @property
    def context_tokens(self) -> int: ...


def models_of(model: Model | Sequence[Model] | None) -> Sequence[Model]:
    """Models in order of preference."""
    if model is None:
        return ()
    if isinstance(model, str):
        raise DeclarationError(f"model={model!r}: give a model, such as OpenAIModel({model!r}).")
    models = tuple(model) if isinstance(model, Sequence) else (model,)
    for each in models:
        if not hasattr(each, "respond"):
            raise DeclarationError(f"model={each!r}: this is no model; OpenAIModel(...) makes one.")
    return models


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
