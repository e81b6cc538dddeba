"""What the writer knows of runs, and what its transaction will write.

Operations change `Run`s in memory; `flush` writes all changes with one statement each. Whether what is
known stays valid from one transaction to the next is the session's to say. After a rollback everything
is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy import func as sql

from flowkit.errors import JournalConflict
from flowkit.ports import Message
from flowkit.store import statements
from flowkit.store.leases import Leases
from flowkit.store.place import Session, Stored
from flowkit.store.rules import Batch, Run, message_texts, not_found, read_message
from flowkit.store.schema import ARTIFACTS, EVENTS, INBOX, RUNS, names

_KNOWN_MAX = 20_000

# SQLite writes an artifact anew to change when it was put.
_FRESH_S = 60.0


class Ledger:
    """The runs that are known, and the rows that wait to be written.

    `drove` tells whether this store drives runs, or has only posted to them.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.leases = Leases()
        self.drove = False
        self._session: Session
        self._runs: dict[str, Run] = {}
        self._damaged: dict[str, JournalConflict] = {}
        self._created: list[Run] = []
        self._changed: dict[int, Run] = {}
        self._events: list[tuple[Any, ...]] = []

    def open(self, session: Session) -> None:
        """Work on this connection from now on."""
        self.forget()
        self._session = session
        self.connection = session.connection

    def forget(self) -> None:
        """Know nothing any more, and write nothing that waits."""
        self._runs.clear()
        self._damaged.clear()
        self._created.clear()
        self._changed.clear()
        self._events.clear()

    def begin(self, run_ids: Iterable[str]) -> None:
        """Bring what is known about these runs up to date, at the beginning of a transaction."""
        if len(self._runs) > _KNOWN_MAX:
            self._runs.clear()
        wanted = {run_id for run_id in run_ids if run_id}
        changed, runs, waiting = self._session.look(wanted, self._runs)
        if changed:
            self._runs.clear()
            self._damaged.clear()
        if runs:
            self._read(runs, waiting)

    def _read(self, runs: Iterable[Stored], waiting: Iterable[Stored]) -> None:
        rows: dict[int, Run] = {}
        for stored in runs:
            try:
                run = Run.read(stored)
                self._runs[run.run_id] = rows[run.row] = run
            except JournalConflict as error:
                self._damaged[str(stored[1])] = error
        for row, *columns in waiting:
            if row not in rows:
                continue
            try:
                message = read_message(*columns)
                rows[row].waiting[message.id] = message
            except JournalConflict as error:
                # The run alone is refused; its neighbours in the batch go on.
                self._damaged[rows[row].run_id] = error

    def find(self, run_id: str) -> Run | None:
        """The run, if there is one; raises `JournalConflict` if what is stored is damaged."""
        if run_id in self._damaged:
            raise self._damaged[run_id]
        return self._runs.get(run_id)

    def run(self, run_id: str) -> Run:
        """The run; raises `RunNotFound` if there is none."""
        found = self.find(run_id)
        if found is None:
            raise not_found(run_id)
        return found

    def head(self, run_id: str) -> int | None:
        """The last seq of a run that is not deleted before this transaction ends; None for no run."""
        self.flush()  # it may still wait to be written
        last = select(sql.max(EVENTS.c.seq)).where(EVENTS.c.run == RUNS.c.id).scalar_subquery()
        asked = select(sql.coalesce(last, RUNS.c.base_seq, 0)).where(RUNS.c.run_id == run_id)
        return self.connection.execute(asked.with_for_update(read=True)).scalar()

    def create(self, run: Run) -> None:
        run.row = self._session.next_id()
        self._runs[run.run_id] = run
        self._created.append(run)

    def change(self, run: Run) -> None:
        """Write the run's row with the next flush."""
        self._changed[run.row] = run

    def append(self, run: Run, batch: Batch, expect: int, epoch: int) -> Sequence[Message]:
        """Take the events over; the messages that wait still."""
        self.drove = True
        if run.append(batch, expect, epoch):
            self._changed[run.row] = run
            if run.owner is None:
                self.leases.left(run.run_id)
        self._events.extend((run.row, *row) for row in batch.rows)
        if batch.consumed:
            self.connection.execute(
                update(INBOX)
                .where(INBOX.c.run == run.row, INBOX.c.id.in_(batch.consumed))
                .values(consumed=True)
            )
        return run.messages()

    def holds(self, run: Run, batch: Batch) -> bool:
        """Whether the journal holds exactly these events."""
        if not batch.rows:
            return True
        first, last = batch.rows[0][0], batch.rows[-1][0]
        found = self.connection.execute(
            select(*(EVENTS.c[name] for name in statements.EVENT_NAMES))
            .where(EVENTS.c.run == run.row, EVENTS.c.seq.between(first, last))
            .order_by(EVENTS.c.seq)
        )
        return [tuple(row) for row in found] == list(batch.rows)

    def has_message(self, run: Run, id: str) -> bool:
        """Whether a message with this id was ever posted to the run."""
        there = select(INBOX.c.n).where(INBOX.c.run == run.row, INBOX.c.id == id)
        return self.connection.execute(there).first() is not None

    def post(self, run: Run, message: Message) -> None:
        if message.id in run.waiting or self.has_message(run, message.id):
            return
        name, value = message_texts(message)
        self.flush()  # the run itself may still wait to be written
        last = select(sql.max(INBOX.c.n)).where(INBOX.c.run == run.row)
        n = (self.connection.execute(last).scalar() or 0) + 1
        self.connection.execute(
            insert(INBOX).values(
                run=run.row, id=message.id, n=n, kind=message.kind, name=name, value=value,
                how=message.how, posted_at=self.now(), consumed=False,
            )
        )  # fmt: skip
        run.waiting[message.id] = message

    def has_forks(self, run: Run) -> bool:
        """Whether another run begins with this one's journal."""
        self.flush()  # it may still wait to be written
        there = select(RUNS.c.id).where(RUNS.c.base == run.run_id).limit(1)
        return self.connection.execute(there).first() is not None

    def delete(self, run: Run) -> None:
        """Delete the run and all that is its own."""
        self.flush()
        for table in (EVENTS, INBOX):
            self.connection.execute(delete(table).where(table.c.run == run.row))
        self.connection.execute(delete(RUNS).where(RUNS.c.id == run.row))
        self._runs.pop(run.run_id, None)

    def has_artifact(self, sha256: str) -> bool:
        return self._put_at(sha256) is not None

    def _put_at(self, sha256: str) -> float | None:
        # Locked where rows are: it must not be discarded before this transaction ends.
        put = select(ARTIFACTS.c.put_at).where(ARTIFACTS.c.sha256 == sha256)
        return self.connection.execute(put.with_for_update()).scalar()

    def put(self, sha256: str, data: bytes) -> None:
        now, before = self.now(), self._put_at(sha256)
        if before is None:
            row = {"sha256": sha256, "size": len(data), "data": data, "put_at": now}
            self.connection.execute(insert(ARTIFACTS), row)
        elif before < now - _FRESH_S:
            same = ARTIFACTS.c.sha256 == sha256
            self.connection.execute(update(ARTIFACTS).where(same).values(put_at=now))

    def discard(self, sha256: Sequence[str], put_before: float) -> tuple[int, int]:
        """Delete these artifacts, but those that were put since; how many, and their bytes."""
        old = (ARTIFACTS.c.sha256.in_(sha256), ARTIFACTS.c.put_at < put_before)
        asked = select(ARTIFACTS.c.sha256, ARTIFACTS.c.size).where(*old).with_for_update()
        found = [(name, size) for name, size in self.connection.execute(asked)]
        names = [name for name, _ in found]
        self.connection.execute(delete(ARTIFACTS).where(ARTIFACTS.c.sha256.in_(names)))
        return len(found), sum(size for _, size in found)

    def flush(self) -> None:
        """Write what waits: new runs, changed runs, events. Not yet a commit."""
        if self._created:
            rows = [tuple(_columns(run)) for run in self._created]
            self._session.write(statements.INSERT_RUN, rows)
            for run in self._created:
                self._changed.pop(run.row, None)
            self._created.clear()
        if self._changed:
            changes = [
                (run.status, run.due_at, run.owner, run.epoch, run.lease_until, run.row)
                for run in self._changed.values()
            ]
            self._session.write(statements.UPDATE_RUN, changes)
            self._changed.clear()
        if self._events:
            self._session.write(statements.INSERT_EVENT, self._events)
            self._events.clear()


def _columns(run: Run) -> Iterable[object]:
    yield run.row
    for name in names(RUNS)[1:]:
        yield getattr(run, name)
