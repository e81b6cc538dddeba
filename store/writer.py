"""The one thread that writes. What waits when it looks is committed together (group commit).

    callers -> queue -> [ BEGIN, look and lock, apply each, COMMIT ] -> one wake-up for all of them

Nobody is woken before the COMMIT has returned. An operation that is refused fails alone. What failed
before the COMMIT because of others (a deadlock, a connection that was cut) is done again. If COMMIT
itself fails, nobody knows whether it happened: the connection is dropped, another one is opened,
and the database is asked.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

import anyio
from anyio.lowlevel import current_token
from sqlalchemy import Connection, RootTransaction

from flowkit.errors import FlowkitError, JournalConflict, StoreError, StoreUnusable, ValueRefused
from flowkit.shield import wait_shielded
from flowkit.store.ledger import Ledger
from flowkit.store.operations import Errand, Keep, Operation
from flowkit.store.place import Place, Session, origin

T = TypeVar("T")

BATCH_MAX = 512

_TRIES = 3

_Soon: TypeAlias = Callable[[Callable[[], object]], object]


class _Item:
    """An operation on its way, and what became of it."""

    __slots__ = ("error", "operation", "result")

    def __init__(self, operation: Operation[Any]) -> None:
        self.operation = operation
        self.result: Any = None
        self.error: FlowkitError | None = None

    def apply(self, ledger: Ledger) -> None:
        self.error = None
        try:
            self.result = self.operation.apply(ledger)
        except FlowkitError as error:
            self.error = error

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


class _Batch:
    """What is committed together. Its callers wait for one event, set by one call into their loop.

    An event for each caller would cost a fifth of all that a thousand concurrent runs do.
    """

    __slots__ = ("done", "items", "sent", "soon")

    def __init__(self) -> None:
        self.items: list[_Item] = []
        self.sent = False
        self.done = anyio.Event()
        self.soon = _soon()

    def wake(self) -> None:
        try:
            self.soon(self.done.set)
        except RuntimeError:
            pass  # the loop is gone, and all who waited in it


class Writer:
    """Owns the writing connection. `start` once, then `submit` from any task, then `stop`."""

    def __init__(self, place: Place, ledger: Ledger) -> None:
        self._place = place
        self._ledger = ledger
        self._session: Session | None = None
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._gathering: _Batch | None = None
        self._gate = threading.Lock()
        self._crowded = False
        self._unsure = False
        self._loop: _Soon | None = None
        self._ended = False
        self._thread = threading.Thread(
            target=self._main, name=f"flowkit-writer-{place.name}", daemon=True
        )

    def start(self, session: Session) -> None:
        """Take over an open connection and begin to write."""
        self._take(session)
        self._thread.start()

    @property
    def drove(self) -> bool:
        """Whether runs are driven from here."""
        return self._ledger.drove

    async def submit(self, operation: Operation[T]) -> T:
        """Have an operation committed; its result, or its error.

        A caller that is cancelled meanwhile still waits, so that it knows what was written.
        """
        item = _Item(operation)
        await wait_shielded(self._enqueue(item).done)
        return cast(T, item.outcome())

    async def submit_all(self, operations: Sequence[Operation[T]]) -> list[T]:
        """Have operations committed together; their results, or the first error."""
        items = list(map(_Item, operations))
        await wait_shielded(self._enqueue(*items).done)
        return [cast(T, item.outcome()) for item in items]

    async def alone(self, errand: Errand[T]) -> T:
        """Do something between two transactions: nothing is written from here meanwhile."""
        batch = _Batch()
        batch.items.append(item := _Item(errand))
        with self._gate:
            if self._ended:
                raise closed(self._place.name)
            self._send(batch)
        await wait_shielded(batch.done)
        return cast(T, item.outcome())

    def _enqueue(self, *items: _Item) -> _Batch:
        with self._gate:
            if self._ended:
                raise closed(self._place.name)
            batch = self._gathering or self._gather()
            batch.items.extend(items)
            if len(batch.items) >= BATCH_MAX:
                self._gathering = None
                self._send(batch)
            return batch

    def _gather(self) -> _Batch:
        """A new batch. Where several tasks write at once, it goes when all that can run now have run.

        Their results could be seen only then anyway; and a thousand runs are committed in large
        batches, not in as many as there is time for (measured: 28 commits instead of 464 to 1,075,
        and a fifth less CPU).
        """
        self._gathering = batch = _Batch()
        if self._crowded:
            batch.soon(partial(self._send_gathered, batch))
        else:
            self._send(batch)
        return batch

    def _send_gathered(self, batch: _Batch) -> None:
        with self._gate:
            self._send(batch)

    def _send(self, batch: _Batch) -> None:
        if not batch.sent:
            batch.sent = True
            self._queue.put(batch)

    def stop(self) -> None:
        """Commit what waits, close the connection, end the thread. Blocks."""
        with self._gate:
            self._ended = True
            if self._gathering is not None:
                self._send(self._gathering)
            self._queue.put(None)
        self._thread.join()

    def _main(self) -> None:
        batch: _Batch | None = None
        try:
            while batch := self._next():
                if isinstance(batch.items[0].operation, Errand):
                    batch.items[0].apply(self._ledger)
                else:
                    self._commit(batch.items)
                batch.wake()
                if self._ledger.drove and self._session:
                    self._session.drive()
        finally:
            # With a batch left only if this code is wrong; nobody may wait for ever even then.
            self._abandon(batch)
            self._close()

    def _next(self) -> _Batch | None:
        """Wait for a batch and stop adding to it; None at the end."""
        batch = self._wait()
        if batch is not None:
            self._ledger.leases.heard()
            self._loop = batch.soon
        with self._gate:
            if self._gathering is batch:
                self._gathering = None
        self._crowded = batch is not None and len(batch.items) > 1
        return batch

    def _wait(self) -> _Batch | None:
        while True:
            try:
                return self._queue.get(timeout=self._ledger.leases.pause_s)
            except queue.Empty:
                self._keep_leases()

    def _keep_leases(self) -> None:
        """Nothing came from the loop for a while: renew for it, if it is blocked."""
        assert self._loop is not None, "a lease is held, so something has come from a loop"
        overdue = self._ledger.leases.overdue(self._loop)
        if overdue:
            self._commit([_Item(Keep(each.run_id, each.epoch, each.lease_s)) for each in overdue])

    def _commit(self, batch: Sequence[_Item]) -> None:
        """Write a batch in one transaction; afterwards every item has its result or its error."""
        try:
            transaction = self._write(batch)
        except self._place.failures as error:
            self._drop()
            for item in batch:
                item.error = self._place.explain(error, "write; nothing was written")
            return
        try:
            transaction.commit()
        except self._place.failures as error:
            self._drop()
            self._unsure = True
            self._ask(batch, error)

    def _write(self, batch: Sequence[_Item]) -> RootTransaction:
        """The transaction that only waits for its COMMIT, after a few tries if others are in the way."""
        for _ in range(_TRIES - 1):
            try:
                return self._try(batch)
            except self._place.failures as error:
                if self._place.blame(error) != "moment":
                    raise
                self._drop()
        return self._try(batch)

    def _try(self, batch: Sequence[_Item]) -> RootTransaction:
        connection = (self._session or self._reopen()).connection
        transaction = connection.begin()
        try:
            self._apply(batch)
        except self._place.failures as error:
            if self._place.blame(error) not in ("conflict", "value"):
                raise
            transaction.rollback()
            transaction = connection.begin()
            self._apply_each(connection, batch)
        return transaction

    def _apply(self, batch: Sequence[_Item]) -> None:
        self._ledger.begin(item.operation.run_id for item in batch)
        for item in batch:
            item.apply(self._ledger)
        self._ledger.flush()

    def _apply_each(self, connection: Connection, batch: Sequence[_Item]) -> None:
        """The same with a savepoint for each item, to find the one that the database refuses."""
        self._ledger.forget()
        self._ledger.begin(item.operation.run_id for item in batch)
        for item in batch:
            # Twice: what another process has written in between is seen the second time.
            if self._refused(connection, item):
                item.error = self._refused(connection, item)

    def _refused(self, connection: Connection, item: _Item) -> FlowkitError | None:
        """Apply one item; why the database refuses it, if it does."""
        self._ledger.begin([item.operation.run_id])
        savepoint = connection.begin_nested()
        try:
            item.apply(self._ledger)
            self._ledger.flush()
            savepoint.commit()
        except self._place.failures as error:
            blame = self._place.blame(error)
            if blame not in ("conflict", "value"):
                raise
            savepoint.rollback()
            self._ledger.forget()
            return _refusal(blame == "conflict", error)
        return item.error

    def _ask(self, batch: Sequence[_Item], error: BaseException) -> None:
        """Find out what a COMMIT that failed has written: each item is answered accordingly."""
        try:
            # Under the write lock: what is seen now cannot change while it is looked at.
            with self._reopen().connection.begin():
                self._ledger.begin(item.operation.run_id for item in batch)
                landed = [not item.error and item.operation.landed(self._ledger) for item in batch]
        except self._place.failures:
            self._drop()
            for item in batch:
                item.error = self._place.explain(
                    error, "commit, and it is not known whether it did"
                )
            return
        for item, there in zip(batch, landed, strict=True):
            # A refusal may rest on a neighbour that was not written either.
            if not there and not (item.error and any(landed)):
                item.error = self._place.explain(error, "commit; nothing was written")

    def _take(self, session: Session) -> Session:
        self._session = session
        self._ledger.open(session)
        return session

    def _reopen(self) -> Session:
        session = self._place.reopen(unsure=self._unsure)
        self._unsure = False
        return self._take(session)

    def _drop(self) -> None:
        self._ledger.forget()
        session, self._session = self._session, None
        if session is not None:
            session.connection.invalidate()
            session.connection.close()

    def _abandon(self, batch: _Batch | None) -> None:
        with self._gate:
            self._ended = True
        waiting = [batch, self._gathering]
        while not self._queue.empty():
            waiting.append(self._queue.get_nowait())
        for left in filter(None, waiting):
            for item in left.items:
                item.error = StoreUnusable(
                    f"{self._place.name}: the writer has died, see the log. What was in flight may be "
                    f"written or not: open the store again and load the journal."
                )
            left.wake()

    def _close(self) -> None:
        session = self._session
        if session is None:
            return
        try:
            session.finish()
            session.connection.close()
        except self._place.failures:
            # All that was acknowledged is safe already; a log that is left is read by the next open.
            self._drop()


def closed(name: str) -> StoreUnusable:
    return StoreUnusable(f"{name}: the store is closed. Make a new SqlStore to use it again.")


def _refusal(conflict: bool, error: BaseException) -> StoreError | ValueRefused:
    if conflict:
        found = str(origin(error)).partition("\n")[0]
        return JournalConflict(f"the database refused the rows: {found}. Nothing was written.")
    return ValueRefused(f"a value cannot be stored: {error}. Nothing was written.")


def _soon() -> _Soon:
    """How another thread calls into the caller's event loop: asyncio's way, or trio's."""
    token: Any = current_token()
    native = getattr(token, "native_token", token)  # anyio before 4.11 gave the loop itself
    soon: _Soon = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
    return soon
