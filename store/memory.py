"""The reference implementation: journals in memory, gone with the process. For tests and trials."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from anyio.lowlevel import cancel_shielded_checkpoint

from flowkit.errors import StoreUnusable
from flowkit.events import Event, Status
from flowkit.ports import Journal, Message, RunQuery, RunRecord
from flowkit.store.marks import Marks, swept_before
from flowkit.store.rules import (
    Batch,
    Row,
    Run,
    check_base,
    exists,
    message_texts,
    not_found,
    read_events,
    read_message,
)


class MemoryStore:
    """Keeps journals and artifacts in memory, by the same rules as a database.

    Events are stored as text and read back, so that what cannot be stored is refused here too.
    `now` is the clock that leases are measured by.
    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._runs: dict[str, Run] = {}
        self._rows: dict[str, list[Row]] = {}
        self._posted: dict[str, dict[str, Message]] = {}
        self._artifacts: dict[str, tuple[bytes, float]] = {}  # with when they were put

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Nothing to close: the journals live as long as the object."""

    async def create(self, run: RunRecord) -> None:
        await cancel_shielded_checkpoint()
        new = Run.of(run)
        if new.run_id in self._runs:
            raise exists(new.run_id)
        if run.base is not None:
            check_base(run, self._runs[run.base].head if run.base in self._runs else None)
        self._runs[new.run_id] = new
        self._rows[new.run_id] = []
        self._posted[new.run_id] = {}

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        await cancel_shielded_checkpoint()
        batch = Batch.of(events)
        run = self._run(run_id)
        run.append(batch, expect, epoch)
        self._rows[run_id].extend(batch.rows)
        return run.messages()

    async def load(self, run_id: str, *, after: int = 0) -> Journal:
        await cancel_shielded_checkpoint()
        run, start = self._run(run_id), max(after, 0)
        return Journal(run.record(), read_events(run_id, self._journal(run)[start:], start))

    def _journal(self, run: Run) -> list[Row]:
        """All rows, from those of the run that it began as."""
        base = self._journal(self._run(run.base)) if run.base is not None else []
        return [*base[: run.base_seq], *self._rows[run.run_id]]

    async def claim(
        self, run_id: str, owner: str, lease_s: float, token: int | None = None
    ) -> int | None:
        await cancel_shielded_checkpoint()
        return self._run(run_id).claim(owner, lease_s, token, self._now())

    async def renew(self, run_id: str, epoch: int, lease_s: float) -> Sequence[Message] | None:
        await cancel_shielded_checkpoint()
        run = self._run(run_id)
        return run.messages() if run.renew(epoch, lease_s, self._now()) else None

    async def release(self, run_id: str, epoch: int) -> None:
        await cancel_shielded_checkpoint()
        self._run(run_id).release(epoch)

    async def post(self, run_id: str, message: Message) -> None:
        await cancel_shielded_checkpoint()
        name, value = message_texts(message)
        run = self._run(run_id)
        if message.id not in self._posted[run_id]:
            self._posted[run_id][message.id] = run.waiting[message.id] = read_message(
                message.id, message.kind, name, value, message.how
            )

    async def runs(self, query: RunQuery) -> Sequence[RunRecord]:
        await cancel_shielded_checkpoint()
        found = [run for run in reversed(self._runs.values()) if run.matches(query)]
        found.sort(key=lambda run: run.created_at, reverse=True)
        return [run.record() for run in found[: max(query.limit, 0)]]

    async def put(self, data: bytes) -> str:
        """Store the bytes; their SHA-256 as hex."""
        await cancel_shielded_checkpoint()
        sha256 = hashlib.sha256(data).hexdigest()
        self._artifacts[sha256] = bytes(data), self._now()
        return sha256

    async def get(self, sha256: str) -> bytes:
        """The bytes; `StoreUnusable` if they are not there."""
        await cancel_shielded_checkpoint()
        try:
            return self._artifacts[sha256][0]
        except KeyError:
            raise StoreUnusable(f"artifact {sha256[:80]!r} is not in this store") from None

    async def ended(self, before: Mapping[Status, float]) -> Sequence[str]:
        await cancel_shielded_checkpoint()
        found: list[str] = []
        for status, at in before.items():
            runs = [run for run in reversed(self._runs.values()) if run.status == status]
            runs.sort(key=lambda run: run.created_at, reverse=True)
            found += [run.run_id for run in runs if self._last_at(run) < at]
        return found

    def _last_at(self, run: Run) -> float:
        rows = self._rows[run.run_id]
        return rows[-1][1] if rows else run.created_at

    async def forks(self) -> Sequence[tuple[str, str]]:
        await cancel_shielded_checkpoint()
        return [(run.run_id, run.base) for run in self._runs.values() if run.base is not None]

    async def delete(self, run_ids: Sequence[str]) -> Sequence[str]:
        await cancel_shielded_checkpoint()
        deleted: list[str] = []
        for run_id in run_ids:
            run = self._runs.get(run_id)
            if run is None or not run.may_go(self._now()):
                continue
            if any(other.base == run_id for other in self._runs.values()):
                continue
            for kept in (self._runs, self._rows, self._posted):
                del kept[run_id]
            deleted.append(run_id)
        return deleted

    async def sweep(self, without: Sequence[str] | None = None) -> tuple[int, int]:
        await cancel_shielded_checkpoint()
        now = self._now()
        held = [run.created_at for run in self._runs.values() if run.is_held(now)]
        before = swept_before(now, min(held, default=None))
        marks = Marks(name for name, (_, put_at) in self._artifacts.items() if put_at < before)
        for name, (_, put_at) in self._artifacts.items():
            if put_at >= before:
                marks.keep(name)
        for run_id in self._runs:
            if run_id not in (without or ()):
                for row in self._rows[run_id]:
                    marks.look(*row[-2:])
                for message in self._posted[run_id].values():
                    marks.look(*message_texts(message))
        while marks.todo:
            marks.look(self._artifacts[marks.todo.pop()][0])
        size = sum(len(self._artifacts[name][0]) for name in marks.old)
        if without is None:
            for name in marks.old:
                del self._artifacts[name]
        return len(marks.old), size

    async def vacuum(self) -> tuple[int, int]:
        """Nothing of it is on a disk."""
        await cancel_shielded_checkpoint()
        return 0, 0

    def _run(self, run_id: str) -> Run:
        try:
            return self._runs[run_id]
        except KeyError:
            raise not_found(run_id) from None
