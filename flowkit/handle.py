"""A run as its caller sees it: its events, its result, and what can be said to it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import anyio

from flowkit.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    FlowkitError,
    Rejected,
    RunCancelled,
    RunQuarantined,
    StepFailed,
)
from flowkit.events import FINAL, Event, RunEnded
from flowkit.ports import RunRecord

R = TypeVar("R")

BACKLOG_MAX = 1000
"""Events that wait for one slow reader; beyond, it reads the journal again."""


class Watched:
    """What an engine tells about one run to those who watch it."""

    def __init__(self) -> None:
        self.changed = anyio.Event()
        self.readers: list[deque[Event]] = []
        self.status = ""
        self.error: BaseException | None = None

    def publish(self, events: Sequence[Event]) -> None:
        for reader in self.readers:
            reader.extend(events)
        self.notify()

    def notify(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class Host(Protocol):
    """What a handle asks of its engine."""

    poll_s: float

    def watched(self, run_id: str) -> Watched | None: ...
    async def load(self, run_id: str, after: int = 0) -> tuple[RunRecord, Sequence[Event]]: ...
    async def value(self, run_id: str) -> Any: ...
    async def cancel(self, run_id: str, reason: str = "") -> None: ...
    async def signal(self, run_id: str, name: str, value: Any = None) -> None: ...


class RunHandle(Generic[R]):
    """A started run. Dropping the handle, or cancelling who awaits it, leaves the run alone."""

    def __init__(self, host: Host, run_id: str) -> None:
        self._host = host
        self.id = run_id

    async def record(self) -> RunRecord:
        """The run's row as it is stored now."""
        return (await self._host.load(self.id, 2**62))[0]

    async def result(self) -> R:
        """Wait for the run's end, through all its waiting; its value, or the error that it ended with.

        Raises:
            StepFailed, Rejected, BudgetExceeded, DeadlineExceeded, RunCancelled, RunQuarantined.
        """
        async for event in self.events():
            if isinstance(event.payload, RunEnded):
                error = error_of(event.payload)
                if error is not None:
                    raise error
        return cast(R, await self._host.value(self.id))

    async def events(self, after: int = 0, *, live: bool = False) -> AsyncIterator[Event]:
        """The run's events after a sequence number, in order, until the run ends.

        With `live` also starts and progress (seq 0), as far as this process drives the run.
        """
        mine: deque[Event] = deque(maxlen=BACKLOG_MAX)
        watched = self._host.watched(self.id)
        if watched is not None:
            watched.readers.append(mine)
        try:
            async for event in self._follow(after, mine, live):
                yield event
        finally:
            if watched is not None:
                watched.readers.remove(mine)

    async def _follow(self, after: int, mine: deque[Event], live: bool) -> AsyncIterator[Event]:
        read = True
        while True:
            watched = self._host.watched(self.id)
            changed = watched.changed if watched is not None else None
            if watched is not None and watched.error is not None:
                raise watched.error
            if read:
                record, events = await self._host.load(self.id, after)
                for event in events:
                    after = event.seq
                    yield event
                if record.status in FINAL and after >= record.head:
                    return
                read = False
            ended = False
            while mine:
                event = mine.popleft()
                if event.seq == 0 and live:
                    yield event
                elif event.seq == after + 1:
                    after = event.seq
                    ended = isinstance(event.payload, RunEnded)
                    yield event
                elif event.seq > after:
                    read = True
            if ended:
                return
            if not read:
                read = await self._pause(changed, bool(mine))

    async def _pause(self, changed: anyio.Event | None, more: bool) -> bool:
        """Wait for news; True when the journal must be read since nobody here tells of the run."""
        if more:
            return False
        if changed is None:
            await anyio.sleep(self._host.poll_s)
            return True
        with anyio.move_on_after(self._host.poll_s * 5) as late:
            await changed.wait()
        return late.cancelled_caught

    async def cancel(self, reason: str = "") -> None:
        """Ask for the run's end; durable, and carried out by whoever drives it."""
        await self._host.cancel(self.id, reason)

    async def signal(self, name: str, value: Any = None) -> None:
        """Give the run a signal; durable, and kept until a node waits for it."""
        await self._host.signal(self.id, name, value)


def error_of(ended: RunEnded) -> FlowkitError | None:
    """The exception that a run's end stands for; None if it succeeded."""
    if ended.status == "succeeded":
        return None
    kind = ended.error.type if ended.error else ""
    message = ended.error.message if ended.error else ended.status
    if ended.step:
        text = f"step {ended.step!r} failed: {ended.error}"
        failed = Rejected if kind == "Rejected" else StepFailed
        return failed(text, step=ended.step, error_type=kind)
    others: dict[str, type[FlowkitError]] = {
        "BudgetExceeded": BudgetExceeded,
        "DeadlineExceeded": DeadlineExceeded,
        "RunCancelled": RunCancelled,
        "RunQuarantined": RunQuarantined,
    }
    return others.get(kind, StepFailed)(message)
