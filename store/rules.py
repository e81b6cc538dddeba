"""The rules of the store contract, without storage: what may be appended, claimed, listed.

`Run` is a run's row as a store works on it. Every store asks the same methods, so that they cannot
come to differ; a store adds only where the rows are kept and when they are safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, get_args, get_type_hints

from flowkit.errors import JournalConflict, LeaseLost, RunConflict, RunNotFound, ValueRefused
from flowkit.events import FINAL, Event, Status, status_after
from flowkit.owner import is_gone
from flowkit.ports import Message, RunQuery, RunRecord
from flowkit.store.encoding import decode, encode
from flowkit.values import Value, compact, parse

Row: TypeAlias = tuple[int, float, str, str, int, int, str, str | None]
"""An event as it is stored: seq, at, kind, key, alternative, attempt, data, value."""

ACTIVE: frozenset[Status] = frozenset({"pending", "running", "waiting"})

_GENERATION = 40
"""An embedded claim counts in steps of 2**40; an engine's tokens fill the bits below."""

_KINDS = frozenset(get_args(get_type_hints(Message)["kind"]))

_INT_MAX = 2**63 - 1


def not_found(run_id: str) -> RunNotFound:
    return RunNotFound(
        f"no run has the id {run_id!r} in this store. List the runs to see their ids, "
        f"and check that this is the right database."
    )


def exists(run_id: str) -> RunConflict:
    return RunConflict(
        f"a run with the id {run_id!r} exists already and nothing was changed. "
        f"Resume it, or choose another run_id."
    )


def check_base(record: RunRecord, head: int | None) -> None:
    """Refuse a beginning that is not there; `head` is the base's last seq, None for no such run."""
    if head is None:
        raise not_found(record.base or "")
    if not 0 < record.base_seq <= head:
        raise JournalConflict(
            f"run {record.run_id!r} cannot begin with {record.base_seq} events of run {record.base!r}, "
            f"which has {head}; nothing was written."
        )


def check_texts(what: str, *texts: str | None) -> None:
    """Refuse what not every database keeps: U+0000, and half characters (lone surrogates)."""
    for text in texts:
        if text is None or (text.isascii() and "\0" not in text):
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueRefused(
                f"{what}: {text[:80]!r} holds half a character ({error.reason}), which cannot be "
                f"stored. Write JSON escapes, as flowkit.values.compact does."
            ) from error
        if "\0" in text:
            raise ValueRefused(
                f"{what}: {text[:80]!r} holds U+0000, which cannot be stored. Leave it out, or write "
                f"JSON escapes."
            )


@dataclass(slots=True)
class Batch:
    """Events made ready to be stored, and what they make of their run's row. Nobody changes it."""

    rows: Sequence[Row]
    change: tuple[Status, float | None] | None
    consumed: Sequence[str]

    @classmethod
    def of(cls, events: Sequence[Event]) -> Batch:
        rows: list[Row] = []
        change: tuple[Status, float | None] | None = None
        consumed: list[str] = []
        for event in events:
            rows.append(_event_row(event))
            change = status_after(event) or change
            message: str = getattr(event.payload, "message", "")
            if message:
                consumed.append(message)
        return cls(rows, change, consumed)


def _event_row(event: Event) -> Row:
    kind, key = event.kind, event.key
    try:
        data, value = encode(event.payload)
    except ValueError as error:
        raise ValueRefused(f"event {event.seq} ({kind}) cannot be stored: {error}") from error
    ascii = key.isascii() and data.isascii() and (value is None or value.isascii())
    if not ascii or "\0" in key:  # JSON, as in the other two, escapes it
        check_texts(f"event {event.seq} ({kind})", key, data, value)
    if not math.isfinite(event.at):
        raise ValueRefused(f"event {event.seq} ({kind}): {event.at} is no time")
    return event.seq, event.at, kind, key, event.alternative, event.attempt, data, value


def read_events(
    run_id: str, rows: Iterable[Sequence[Any]], after: int, head: int = 0
) -> list[Event]:
    """The events of stored rows; raises `JournalConflict` where one is missing or unreadable."""
    events: list[Event] = []
    for place, row in enumerate(rows, after + 1):
        seq, at, kind, key, alternative, attempt, data, value = row
        if seq != place:
            raise _missing(run_id, place)
        try:
            payload = decode(kind, data, value)
        except (ValueError, TypeError, RecursionError) as error:
            raise JournalConflict(
                f"event {seq} ({kind}) of run {run_id!r} cannot be read: {error}. It is damaged, or "
                f"was written by a newer flowkit: resume the run with that version."
            ) from error
        events.append(Event(seq, at, payload, key, alternative, attempt))
    if after + len(events) < head:  # the end of what it began with
        raise _missing(run_id, after + len(events) + 1)
    return events


def _missing(run_id: str, place: int) -> JournalConflict:
    return JournalConflict(
        f"the journal of run {run_id!r} is damaged: event {place} is missing. "
        f"Restore the database from a backup; do not repair it by hand."
    )


def message_texts(message: Message) -> tuple[str, str | None]:
    """A message's name and value as JSON texts: a name may be any text that a person wrote."""
    value = message.value
    check_texts(f"message {message.id!r}", message.id, message.how)
    if value is None:
        return compact(message.name), None
    whole = {"text": value.text, "digest": value.digest, "size": value.size, "items": value.items}
    return compact(message.name), compact(whole)


def read_message(id: str, kind: Any, name: str, value: str | None, how: str) -> Message:
    """The message of a stored row; raises `JournalConflict` if it is damaged."""
    try:
        if kind not in _KINDS:
            raise ValueError(f"unknown kind {kind!r}")
        return Message(id, kind, parse(name), Value(**parse(value)) if value else None, how)
    except (ValueError, TypeError, RecursionError) as error:
        raise JournalConflict(
            f"message {id!r} in an inbox cannot be read: {error}. It is damaged: delete its row "
            f"from flowkit_inbox and send it again."
        ) from error


@dataclass(slots=True)
class Run:
    """A run's row. The methods change it, or raise and leave it as it was."""

    run_id: str
    workflow: str
    input_hash: str
    created_at: float
    status: Status
    due_at: float | None
    owner: str | None
    epoch: int
    lease_until: float | None
    base: str | None = None
    base_seq: int = 0
    head: int = 0
    row: int = 0
    waiting: dict[str, Message] = field(default_factory=dict[str, Message])

    @classmethod
    def of(cls, record: RunRecord) -> Run:
        texts = (record.run_id, record.workflow, record.input_hash, record.owner, record.base)
        check_texts("run", *texts)
        if record.base is None and record.base_seq:
            raise ValueRefused(
                f"run {record.run_id!r}: base_seq={record.base_seq} needs a base, the run that it is of"
            )
        return cls(
            record.run_id, record.workflow, record.input_hash, record.created_at, record.status,
            record.due_at, record.owner, record.epoch, record.lease_until, record.base,
            record.base_seq, record.base_seq,
        )  # fmt: skip

    @classmethod
    def read(cls, stored: Sequence[Any]) -> Run:
        """The run of a stored row and its head; raises `JournalConflict` if it is damaged."""
        (
            row, run_id, workflow, input_hash, created_at, status, due_at, owner, epoch, until,
            base, base_seq, head
        ) = stored  # fmt: skip
        texts = (run_id, workflow, input_hash, owner or "", base or "")
        numbers = (created_at, due_at or 0, until or 0, epoch, base_seq or 0, head)
        if (
            status not in ACTIVE | FINAL
            or not all(isinstance(text, str) for text in texts)
            or not all(isinstance(number, int | float) for number in numbers)
            or head < (base_seq or 0)
        ):
            raise JournalConflict(
                f"the row of run {run_id!r} is damaged. Restore the database from a backup."
            )
        return cls(
            run_id, workflow, input_hash, created_at, status, due_at, owner, epoch, until, base,
            base_seq or 0, head, row,
        )  # fmt: skip

    def record(self) -> RunRecord:
        return RunRecord(
            self.run_id, self.workflow, self.input_hash, self.created_at, self.status,
            self.due_at, self.owner, self.epoch, self.lease_until, self.head, self.base,
            self.base_seq,
        )  # fmt: skip

    def messages(self) -> tuple[Message, ...]:
        """The messages that no event has consumed, in the order they came."""
        return tuple(self.waiting.values())

    def append(self, batch: Batch, expect: int, epoch: int) -> bool:
        """Take the events over; whether the row has changed apart from its head."""
        if epoch != self.epoch:
            raise LeaseLost(
                f"run {self.run_id!r} is driven by somebody else (epoch {self.epoch}, not {epoch}); "
                f"nothing was written. Stop driving it here."
            )
        seqs = [row[0] for row in batch.rows]
        if expect != self.head or seqs != list(range(expect + 1, expect + 1 + len(seqs))):
            raise JournalConflict(
                f"run {self.run_id!r}: its last event is {self.head}, but events {seqs[:3]} were "
                f"appended after {expect}; nothing was written. Load the journal again."
            )
        self.head += len(seqs)
        for message in batch.consumed:
            self.waiting.pop(message, None)
        return batch.change is not None and self._move(*batch.change)

    def _move(self, status: Status, due_at: float | None) -> bool:
        lease = (None, None) if status in FINAL else (self.owner, self.lease_until)
        before = (self.status, self.due_at, self.owner, self.lease_until)
        self.status, self.due_at = status, due_at
        self.owner, self.lease_until = lease
        return before != (status, due_at, *lease)

    def claim(self, owner: str, lease_s: float, token: int | None, now: float) -> int | None:
        """Give the run to an owner: the new epoch, or None if it may not have it."""
        check_texts("owner", owner)
        if token is None:
            if not (self.owner == owner or self.is_free(now)):
                return None
            token = ((self.epoch >> _GENERATION) + 1) << _GENERATION
        elif token <= self.epoch:
            return None
        if token > _INT_MAX:
            raise ValueRefused(f"epoch {token} is above 2**63 - 1; use a smaller token")
        self.owner, self.epoch, self.lease_until = owner, token, now + lease_s
        return token

    def is_free(self, now: float) -> bool:
        """Whether no living lease holds the run."""
        if self.owner is None or self.lease_until is None or self.lease_until < now:
            return True
        return is_gone(self.owner)

    def is_held(self, now: float) -> bool:
        """Whether somebody drives the run, as far as its lease tells."""
        return self.status in ACTIVE and self.lease_until is not None and self.lease_until >= now

    def may_go(self, now: float) -> bool:
        """Whether the run may be deleted, as far as it is up to itself."""
        return self.status in FINAL and self.is_free(now)

    def renew(self, epoch: int, lease_s: float, now: float) -> bool:
        """Extend the lease; whether it was still held."""
        if epoch != self.epoch or self.owner is None:
            return False
        self.lease_until = now + lease_s
        return True

    def release(self, epoch: int) -> bool:
        """Give the run up; whether it was held at this epoch."""
        if epoch != self.epoch or self.owner is None:
            return False
        self.owner = self.lease_until = None
        return True

    def matches(self, query: RunQuery) -> bool:
        """Whether the run is one of those asked for; the limit is not looked at."""
        due = self.due_at if self.status == "waiting" else None
        return (
            (query.run_id is None or self.run_id == query.run_id)
            and (query.prefix is None or self.run_id.startswith(query.prefix))
            and (query.status is None or self.status in query.status)
            and (query.workflow is None or self.workflow == query.workflow)
            and (query.since is None or self.created_at >= query.since)
            and (query.due_at is None or (due is not None and due <= query.due_at))
            and (not query.messages or bool(self.waiting))
            and (query.free_at is None or (self.status in ACTIVE and self.is_free(query.free_at)))
        )
