"""What the scenario tests share: virtual time on both event loops, a log of attempts, crashed stores."""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import trio.testing

import flowkit.events as ev
from flowkit import Context, Engine
from flowkit.events import Event, status_after
from flowkit.ports import RunRecord, World
from flowkit.store import MemoryStore

BASE = 1_800_000_000.0
"""Unix time at which the virtual clocks of the tests begin."""

FOREVER_S = 20_000.0
"""Virtual seconds after which a run counts as stuck."""


class _Jumping(selectors.DefaultSelector):
    """A selector that never waits: it moves the clock to the next timer instead."""

    ahead = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout:
            self.ahead += timeout
        elif not found and timeout is None:
            return super().select(None)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio with a clock that jumps when nothing can run, like trio's MockClock."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return 1000.0 + self._jumping.ahead


def backend(name: str) -> tuple[str, dict[str, Any]]:
    """An event loop with virtual time, as anyio's pytest plugin takes it."""
    if name == "trio":
        return name, {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return name, {"loop_factory": VirtualLoop}


def now() -> float:
    """Unix time by the running loop's clock."""
    return BASE + anyio.current_time()


def world(seed: int = 0) -> World:
    """A world by the virtual clock, with seeded chance."""
    numbers = itertools.count(1)
    return World(now, random.Random(seed).random, lambda: f"id-{seed}-{next(numbers)}")


class Log(list[str]):
    """What ran: a resource that tools write to, outside every journal."""


def note(ctx: Context) -> None:
    """Log this attempt as "key alternative attempt"."""
    ctx.resource(Log).append(f"{ctx.step} {ctx.alternative} {ctx.attempt}")


def memory() -> MemoryStore:
    """A store whose leases go by the virtual clock."""
    return MemoryStore(now=now)


_seeds = itertools.count(100)


@asynccontextmanager
async def running(
    store: MemoryStore | None = None, *resources: object, **options: Any
) -> AsyncGenerator[Engine, None]:
    """An entered engine in virtual time; a run that gets stuck is a `TimeoutError`, not a hang."""
    options.setdefault("world", world(next(_seeds)))
    with anyio.fail_after(FOREVER_S):
        engine = Engine(store or memory(), resources=resources, **options)
        async with engine:
            yield engine


async def journal(engine: Engine, run_id: str) -> Sequence[Event]:
    """A run's stored events."""
    return (await engine.store.load(run_id)).events


def kinds(events: Sequence[Event]) -> list[str]:
    return [event.kind for event in events]


def of(events: Sequence[Event], payload: type[Any]) -> list[Event]:
    """The events of one kind."""
    return [event for event in events if type(event.payload) is payload]


ENDS = (ev.StepDone, ev.Planned, ev.Accepted, ev.Rejected, ev.AttemptFailed)
"""What ends an attempt."""


def finished(events: Sequence[Event]) -> set[str]:
    """Attempts that the journal has the outcome of, as `note` writes them."""
    return {
        f"{event.key} {event.alternative} {event.attempt}"
        for event in events
        if isinstance(event.payload, ENDS)
    }


async def crashed(
    source: MemoryStore, run_id: str, head: int, *, owner: str = "the dead process"
) -> MemoryStore:
    """A new store as a crash right after event `head` leaves it: a prefix, and a lease that ran out."""
    whole = await source.load(run_id)
    events = list(whole.events[:head])
    epochs = [event.payload.epoch for event in events if isinstance(event.payload, ev.Claimed)]
    first = whole.record
    record = RunRecord(
        run_id, first.workflow, first.input_hash, first.created_at,
        owner=owner, epoch=epochs[-1] if epochs else 1 << 40, lease_until=0.0,
    )  # fmt: skip
    store = memory()
    store._artifacts.update(source._artifacts)
    await store.create(record)
    if events:
        await store.append(run_id, events, expect=0, epoch=record.epoch)
    return store


def row_after(events: Sequence[Event]) -> str:
    """The status that a run's row must have after these events."""
    status = "pending"
    for event in events:
        change = status_after(event)
        status = change[0] if change else status
    return status


async def eventually(condition: Callable[[], bool], *, limit_s: float = 1000.0) -> None:
    """Let (virtual) time pass until something is true."""
    with anyio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110  (the condition is whatever a test asks)
            await anyio.sleep(0.01)
