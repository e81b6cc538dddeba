"""What callers ask of the writer: each operation is applied in a transaction, together with others.

`landed` answers, after a COMMIT that failed, whether the operation is in the database all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from flowkit.errors import JournalConflict
from flowkit.ports import Message, RunRecord
from flowkit.store.ledger import Ledger
from flowkit.store.rules import Batch, Run, check_base, exists

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Operation(Protocol[T_co]):
    """Something to write about the run `run_id` (empty: about none)."""

    @property
    def run_id(self) -> str: ...

    def apply(self, ledger: Ledger) -> T_co:
        """Do it, or raise a `FlowkitError` and have done nothing."""
        ...

    def landed(self, ledger: Ledger) -> bool:
        """Whether its effect is there."""
        ...


@dataclass(frozen=True, slots=True)
class Create:
    record: RunRecord

    @property
    def run_id(self) -> str:
        return self.record.run_id

    def apply(self, ledger: Ledger) -> None:
        if ledger.find(self.record.run_id) is not None:
            raise exists(self.record.run_id)
        if self.record.base is not None:
            check_base(self.record, ledger.head(self.record.base))
        run = Run.of(self.record)
        ledger.create(run)
        if run.owner is not None and run.lease_until is not None:
            ledger.leases.took(run.run_id, run.epoch, run.lease_until - run.created_at)

    def landed(self, ledger: Ledger) -> bool:
        run, record = ledger.find(self.record.run_id), self.record
        wanted = (record.workflow, record.input_hash, record.created_at)
        return (
            run is not None
            and (run.workflow, run.input_hash, run.created_at) == wanted
            and (run.base, run.base_seq) == (record.base, record.base_seq)
        )


@dataclass(slots=True)
class Append:
    run_id: str
    batch: Batch
    expect: int
    epoch: int

    def apply(self, ledger: Ledger) -> Sequence[Message]:
        return ledger.append(ledger.run(self.run_id), self.batch, self.expect, self.epoch)

    def landed(self, ledger: Ledger) -> bool:
        run = ledger.find(self.run_id)
        return run is not None and ledger.holds(run, self.batch)


@dataclass(slots=True)
class Claim:
    run_id: str
    owner: str
    lease_s: float
    token: int | None
    won: int | None = None

    def apply(self, ledger: Ledger) -> int | None:
        run = ledger.run(self.run_id)
        self.won = run.claim(self.owner, self.lease_s, self.token, ledger.now())
        if self.won is not None:
            ledger.drove = True
            ledger.leases.took(self.run_id, self.won, self.lease_s)
            ledger.change(run)
        return self.won

    def landed(self, ledger: Ledger) -> bool:
        run = ledger.find(self.run_id)
        return run is not None and run.epoch == self.won and run.owner in (self.owner, None)


@dataclass(slots=True)
class Renew:
    run_id: str
    epoch: int
    lease_s: float
    until: float | None = None

    def apply(self, ledger: Ledger) -> Sequence[Message] | None:
        run = ledger.run(self.run_id)
        if not run.renew(self.epoch, self.lease_s, ledger.now()):
            ledger.leases.left(self.run_id)
            return None
        self.until = run.lease_until
        self.keep(ledger)
        ledger.change(run)
        return run.messages()

    def landed(self, ledger: Ledger) -> bool:
        run = ledger.find(self.run_id)
        return run is not None and (run.epoch, run.lease_until) == (self.epoch, self.until)

    def keep(self, ledger: Ledger) -> None:
        ledger.leases.took(self.run_id, self.epoch, self.lease_s)


class Keep(Renew):
    """A renewal by the writer's thread, for a loop that is blocked: it gives no more patience."""

    def keep(self, ledger: Ledger) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Release:
    run_id: str
    epoch: int

    def apply(self, ledger: Ledger) -> None:
        run = ledger.run(self.run_id)
        if run.release(self.epoch):
            ledger.leases.left(self.run_id)
            ledger.change(run)

    def landed(self, ledger: Ledger) -> bool:
        run = ledger.find(self.run_id)
        return run is not None and (run.epoch != self.epoch or run.owner is None)


@dataclass(frozen=True, slots=True)
class Post:
    run_id: str
    message: Message

    def apply(self, ledger: Ledger) -> None:
        ledger.post(ledger.run(self.run_id), self.message)

    def landed(self, ledger: Ledger) -> bool:
        run = ledger.find(self.run_id)
        return run is not None and ledger.has_message(run, self.message.id)


@dataclass(frozen=True, slots=True)
class Put:
    sha256: str
    data: bytes

    @property
    def run_id(self) -> str:
        return ""

    def apply(self, ledger: Ledger) -> None:
        ledger.put(self.sha256, self.data)

    def landed(self, ledger: Ledger) -> bool:
        return ledger.has_artifact(self.sha256)


@dataclass(frozen=True, slots=True)
class Delete:
    run_id: str

    def apply(self, ledger: Ledger) -> bool:
        try:
            run = ledger.find(self.run_id)
        except JournalConflict:  # whether it has ended cannot be read
            return False
        if run is None or not run.may_go(ledger.now()) or ledger.has_forks(run):
            return False
        ledger.delete(run)
        return True

    def landed(self, ledger: Ledger) -> bool:
        return ledger.find(self.run_id) is None


@dataclass(frozen=True, slots=True)
class Errand(Generic[T]):
    """What is done outside of transactions, alone in its batch."""

    work: Callable[[], T]

    @property
    def run_id(self) -> str:
        return ""

    def apply(self, ledger: Ledger) -> T:
        return self.work()

    def landed(self, ledger: Ledger) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete artifacts that were not put since; how many, and their bytes."""

    sha256: Sequence[str]
    put_before: float

    @property
    def run_id(self) -> str:
        return ""

    def apply(self, ledger: Ledger) -> tuple[int, int]:
        return ledger.discard(self.sha256, self.put_before)

    def landed(self, ledger: Ledger) -> bool:
        return not any(map(ledger.has_artifact, self.sha256))
