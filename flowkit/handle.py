"""A run as its caller sees it: its events, its result, and what can be said to it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar, cast

import anyio

from flowkit.errors import FlowkitError, ResumeError
from flowkit.events import FINAL, Event, RunEnded
from flowkit.ports import RunRecord

R = TypeVar("R")

BACKLOG_MAX = 1000
"""Events that wait for one slow reader; beyond, it reads the journal again."""


class Watched:
    """What an engine tells about one run to those who watch it."""

    def __init__(self) -> None:
        self.readers: list[deque[Event]] = []
        self.ended: RunEnded | None = None
        self.value: Callable[[], Awaitable[Any]] | None = None
        """Gives the result, or raises the error, of a run that ended here."""
        self.error: Exception | None = None
        """What broke the driving of the run; the run itself goes on when it is resumed."""
        self.left = False
        """This engine drives the run no more, though it has not ended."""
        self._changed: anyio.Event | None = None

    def publish(self, events: Sequence[Event]) -> None:
        for reader in self.readers:
            reader.extend(events)
        if self.readers:
            self.notify()

    def end(self, ended: RunEnded, value: Callable[[], Awaitable[Any]]) -> None:
        """The run's end is on disk; what still cleans up is not waited for."""
        self.ended, self.value = ended, value
        self.notify()

    def notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait_changed(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()


class Host(Protocol):
    """What a handle asks of its engine."""

    poll_s: float

    def left(self) -> bool: ...
    def refusal(self, run_id: str) -> FlowkitError | None: ...
    def watched(self, run_id: str) -> Watched | None: ...
    async def load(self, run_id: str, after: int = 0) -> tuple[RunRecord, Sequence[Event]]: ...
    async def value(self, run_id: str) -> Any: ...
    async def cancel(self, run_id: str, reason: str = "") -> None: ...
    async def signal(self, run_id: str, name: str, value: Any = None) -> None: ...


class RunHandle(Generic[R]):
    """A started run. Dropping the handle, or cancelling who awaits it, leaves the run alone."""

    def __init__(self, host: Host, run_id: str) -> None:
        self._host = host
        self._watched = host.watched(run_id)
        self.id = run_id

    async def record(self) -> RunRecord:
        """The run's row as it is stored now."""
        return (await self._host.load(self.id, 2**62))[0]

    async def result(self) -> R:
        """Wait for the run's end, through all its waiting; its value, or the error that it ended with.

        Raises:
            StepFailed, Rejected, BudgetExceeded, DeadlineExceeded, RunCancelled, RunQuarantined.
        """
        watched = self._watched or self._host.watched(self.id)
        while watched is not None and watched.ended is None and not watched.left:
            if watched.error is not None:
                raise watched.error
            with anyio.move_on_after(self._host.poll_s * 5) as late:
                await watched.wait_changed()
            if late.cancelled_caught and (await self.record()).status in FINAL:
                break  # it waited, and another process has brought it to its end
        if watched is not None and watched.error is not None:
            raise watched.error
        if watched is not None and watched.value is not None:
            return cast(R, await watched.value())
        while (await self.record()).status not in FINAL:
            self._check_host()
            await anyio.sleep(self._host.poll_s)
        return cast(R, await self._host.value(self.id))

    def _check_host(self) -> None:
        """Nobody here brings the run on: raise why, if that is known."""
        refusal = self._host.refusal(self.id)
        if refusal is not None:
            raise refusal
        if self._host.left():
            raise ResumeError(
                f"the engine was left before run {self.id!r} ended; its finished steps are kept: "
                f"resume it with engine.resume({self.id!r})."
            )

    async def events(self, after: int = 0, *, live: bool = False) -> AsyncGenerator[Event, None]:
        """The run's events after a sequence number, in order, until the run ends.

        With `live` also starts and progress (seq 0), as far as this process drives the run. Who leaves
        the loop early closes it: `async with aclosing(handle.events()) as events`.
        """
        mine: deque[Event] = deque(maxlen=BACKLOG_MAX)
        watched = self._watched or self._host.watched(self.id)
        if watched is not None:
            watched.readers.append(mine)
        try:
            async with aclosing(self._follow(watched, after, mine, live)) as events:
                async for event in events:
                    yield event
        finally:
            if watched is not None:
                watched.readers.remove(mine)

    async def _follow(
        self, watched: Watched | None, after: int, mine: deque[Event], live: bool
    ) -> AsyncGenerator[Event, None]:
        read = True
        while True:
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
            if not read and not mine:
                read = await self._pause(watched)

    async def _pause(self, watched: Watched | None) -> bool:
        """Wait for news; True when the journal must be read since nobody here tells of the run."""
        if watched is None or watched.left:
            self._check_host()
            await anyio.sleep(self._host.poll_s)
            return True
        with anyio.move_on_after(self._host.poll_s * 5) as late:
            await watched.wait_changed()
        return late.cancelled_caught or watched.left

    async def cancel(self, reason: str = "") -> None:
        """Ask for the run's end; durable, and carried out by whoever drives it."""
        await self._host.cancel(self.id, reason)

    async def signal(self, name: str, value: Any = None) -> None:
        """Give the run a signal; durable, and kept until a node waits for it."""
        await self._host.signal(self.id, name, value)
