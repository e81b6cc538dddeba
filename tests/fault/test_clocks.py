"""The wall clock jumps at each append of the 12-step workflow; time itself is virtual.

What holds, whatever a clock does: the result is right, no finished step runs again, and the run ends. Due
times are stored by the wall clock, so a clock that goes back by an hour may make a try an hour late.
Alone, an owner never loses its run by its own clock. Beside a process whose clock is right it may: it
wrote a lease that is over for the other. Then the epoch decides, as for every owner that is too slow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

import flowkit.events as ev
from flowkit import Engine
from flowkit.events import Event
from flowkit.ports import Message, World
from flowkit.store import MemoryStore
from tests.fault.short_run import Counting
from tests.fault.w12 import RESULT, Topic, w12
from tests.scenario.kit import backend, finished, now

STUCK_S = 1e6
"""A try may be an hour late. But virtual time also runs on, poll after poll, while a thread is at work."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return backend(request.param)


class Clock:
    """The virtual clock, set wrong from some moment on."""

    def __init__(self) -> None:
        self.change: Callable[[float], float] = float

    def now(self) -> float:
        return self.change(now())


def _back(clock: Clock) -> None:
    clock.change = lambda right: right - 3600


def _ahead(clock: Clock) -> None:
    clock.change = lambda right: right + 86_400


def _frozen(clock: Clock) -> None:
    at = clock.now()
    clock.change = lambda right: at


def _second_twice(clock: Clock) -> None:
    clock.change = lambda right: right - 1


def _to_and_fro(clock: Clock) -> None:
    clock.change = lambda right: right + (1800 if int(right * 1000) % 2 else -1800)


KINDS = (_back, _ahead, _frozen, _second_twice, _to_and_fro)


class Jumping(MemoryStore):
    """A process's view of a shared memory, by its own clock, which jumps at the n-th append."""

    def __init__(self, clock: Clock, at: int = 0, jump: Callable[[Clock], None] = _back) -> None:
        super().__init__(now=clock.now)
        self.clock = clock
        self.appends = 0
        self._at = at
        self._jump = jump

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        self.appends += 1
        if self.appends == self._at:
            self._jump(self.clock)
        return await super().append(run_id, events, expect=expect, epoch=epoch)

    def share(self, other: MemoryStore) -> None:
        self._runs, self._rows = other._runs, other._rows
        self._posted, self._artifacts = other._posted, other._artifacts


def engine(store: Jumping, ledger: Counting, **options: Any) -> Engine:
    return Engine(store, resources=[ledger], world=World(store.clock.now), **options)


async def check(store: MemoryStore, ledger: Counting) -> Sequence[Event]:
    events = (await store.load("r")).events
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    times = [event.at for event in events]
    assert times == sorted(times), "the journal goes back in time"
    assert set(ledger.ran) == finished(events)
    return events


async def appends() -> int:
    store = Jumping(Clock())
    async with engine(store, Counting()) as alone:
        assert await alone.run(w12, Topic(text="t"), run_id="r") == RESULT
    assert store.appends >= 12
    return store.appends


@pytest.mark.long
@pytest.mark.parametrize("jump", KINDS)
async def test_a_clock_that_jumps_at_any_append_changes_nothing(
    jump: Callable[[Clock], None],
) -> None:
    for at in range(1, await appends() + 1):
        store, ledger = Jumping(Clock(), at, jump), Counting()
        with anyio.fail_after(STUCK_S):
            async with engine(store, ledger, poll_s=30.0) as alone:
                assert await alone.run(w12, Topic(text="t"), run_id="r") == RESULT
        events = await check(store, ledger)
        assert set(ledger.ran.values()) == {1}, f"{jump.__name__} at {at}"
        taken = [event.payload.after for event in events if isinstance(event.payload, ev.Claimed)]
        assert "death" not in taken, f"{jump.__name__} at {at}: it lost its own run"


@pytest.mark.long
@pytest.mark.parametrize("jump", KINDS)
async def test_a_clock_that_jumps_beside_a_process_whose_clock_is_right(
    jump: Callable[[Clock], None],
) -> None:
    for at in range(1, await appends() + 1):
        store, ledger = Jumping(Clock(), at, jump), Counting()
        standby = Jumping(Clock())
        standby.share(store)
        with anyio.fail_after(STUCK_S):
            async with (
                engine(standby, ledger, workflows=[w12], recover=True, poll_s=0.01),
                engine(store, ledger, lease_s=3.0) as owner,
            ):
                assert await owner.run(w12, Topic(text="t"), run_id="r") == RESULT
        events = await check(store, ledger)
        claims = [event for event in events if isinstance(event.payload, ev.Claimed)]
        assert max(ledger.ran.values()) <= len(claims), f"{jump.__name__} at {at}"
        ends = [event for event in events if f"{event.kind}" == "run_ended"]
        assert len(ends) == 1
