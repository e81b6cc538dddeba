"""Deleting what is no longer needed: ended runs by their age, then artifacts, then the space.

await gc(store, Retention(succeeded_days=30, failed_days=90), time.time())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, cast

from flowkit.events import Status

_DAY_S = 86_400.0


class Upkeep(Protocol):
    """What a store can delete. All may be done while runs are driven, and again after a crash."""

    async def ended(self, before: Mapping[Status, float]) -> Sequence[str]:
        """Ids of the runs that ended with a status before a Unix time, newest first of each status."""
        ...

    async def forks(self) -> Sequence[tuple[str, str]]:
        """The id of each run that begins with another one's journal, and that one's."""
        ...

    async def delete(self, run_ids: Sequence[str]) -> Sequence[str]:
        """Delete runs for good; those that were deleted.

        Left as they are: a run that has not ended, that somebody holds by a living lease (it is being
        retried), that is damaged, or that is the base of another one.
        """
        ...

    async def sweep(self, without: Sequence[str] | None = None) -> tuple[int, int]:
        """Delete artifacts that nothing refers to; how many, and their bytes.

        Kept is what an event, a message or another kept artifact has the digest of, and what was put
        within the last hour, or since the oldest run that is being driven was created. With `without`
        nothing is deleted: what would be, if these runs were gone.
        """
        ...

    async def vacuum(self) -> tuple[int, int]:
        """Give free space back to the disk; the database's bytes before and after."""
        ...


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days a run is kept after its end, by status; None: for ever."""

    succeeded_days: float | None = None
    failed_days: float | None = None
    cancelled_days: float | None = None
    quarantined_days: float | None = None

    def __post_init__(self) -> None:
        for name, days in self._rules().items():
            if not days >= 0:
                raise ValueError(f"{name}={days!r}: give days from 0 on, or None to keep for ever.")

    def _rules(self) -> dict[str, float]:
        days = {each.name: cast("float | None", getattr(self, each.name)) for each in fields(self)}
        return {name: value for name, value in days.items() if value is not None}

    def before(self, now: float) -> Mapping[Status, float]:
        """Until when (Unix time) a run must have ended to be deleted."""
        return {
            cast(Status, name.removesuffix("_days")): now - days * _DAY_S
            for name, days in self._rules().items()
        }


@dataclass(frozen=True, slots=True)
class Collected:
    """What was deleted, or would be: `runs`, and so many artifacts of so many bytes.

    `kept`: runs that were to go, but that others began as.
    """

    runs: tuple[str, ...]
    kept: tuple[str, ...]
    artifacts: int
    bytes: int


async def gc(
    store: Upkeep, retention: Retention, now: float, *, dry_run: bool = False
) -> Collected:
    """Delete runs whose time is over at `now` (Unix time), then artifacts that nothing refers to."""
    return await collect(store, await store.ended(retention.before(now)), dry_run=dry_run)


async def collect(store: Upkeep, run_ids: Sequence[str], *, dry_run: bool = False) -> Collected:
    """Delete these runs, if they have ended, then artifacts that nothing refers to."""
    left = list(dict.fromkeys(run_ids))
    if dry_run:
        kept = _bases(left, await store.forks())
        going = [run_id for run_id in left if run_id not in kept]
        return _collected(going, kept, await store.sweep(without=going))
    gone: list[str] = []
    while left and (deleted := await store.delete(left)):  # a fork first, then what it began as
        gone += deleted
        left = [run_id for run_id in left if run_id not in set(deleted)]
    bases = {base for _, base in await store.forks()} if left else set[str]()
    return _collected(gone, bases.intersection(left), await store.sweep())


def _bases(going: Sequence[str], forks: Sequence[tuple[str, str]]) -> set[str]:
    """Which of the runs that are to go must stay, since runs that stay began as them."""
    left, kept = set(going), set[str]()
    while more := {base for run_id, base in forks if base in left and run_id not in left}:
        left -= more
        kept |= more
    return kept


def _collected(runs: Sequence[str], kept: set[str], swept: tuple[int, int]) -> Collected:
    return Collected(tuple(runs), tuple(sorted(kept)), *swept)
