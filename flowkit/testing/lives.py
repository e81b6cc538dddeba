"""Stores of processes that die: what each has on disk when it does, and what the next one finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio

import flowkit.events as ev
from flowkit.errors import LeaseLost
from flowkit.events import Event
from flowkit.ports import Message, RunRecord
from flowkit.store.memory import MemoryStore
from flowkit.testing.twin import Attempt

ENDS: Final = (ev.StepDone, ev.Planned, ev.Accepted, ev.Rejected, ev.AttemptFailed)


class Recording(MemoryStore):
    """Remembers after which events an append ended."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[int] = [0]

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        kept = await super().append(run_id, events, expect=expect, epoch=epoch)
        self.heads.append(events[-1].seq)
        return kept


class Dying(MemoryStore):
    """Its process dies at the append that has the outcome of one attempt, which is never stored."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self._attempt = attempt
        self.died = anyio.Event()

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        if self.died.is_set() or self._attempt in ended(events):
            self.died.set()
            raise LeaseLost("the harness has killed this process")
        return await super().append(run_id, events, expect=expect, epoch=epoch)


async def until_dead(store: Dying, scope: anyio.CancelScope) -> None:
    await store.died.wait()
    scope.cancel()


async def left_of(record: RunRecord, events: Sequence[Event]) -> MemoryStore:
    """A store as a crash leaves it that had these events on disk: with a lease that has run out."""
    epochs = [each.payload.epoch for each in events if isinstance(each.payload, ev.Claimed)]
    store = MemoryStore()
    row = RunRecord(
        record.run_id, record.workflow, record.input_hash, record.created_at,
        owner="the process that died", epoch=epochs[-1] if epochs else 1 << 40, lease_until=0.0,
    )  # fmt: skip
    await store.create(row)
    if events:
        await store.append(record.run_id, events, expect=0, epoch=row.epoch)
    return store


def ended(events: Sequence[Event]) -> frozenset[Attempt]:
    """The attempts whose outcome the journal has."""
    return frozenset(
        (event.key, event.alternative, event.attempt)
        for event in events
        if isinstance(event.payload, ENDS)
    )
