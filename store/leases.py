"""Leases that the writer's thread keeps while the event loop is blocked.

An engine renews the leases of its runs from a task on its loop. Code in an `async def` that computes
for a minute, or sleeps with `time.sleep`, stops that task, and another process would take the runs.
So the writer remembers what was claimed, and when nothing has come from the loop for a while, it asks
the loop for a sign of life; where none comes, it renews.

Not for ever: a loop that is blocked for good must not keep its runs. After `PATIENCE` lease lengths
without a word from the loop about a run, its lease runs out, and the fence decides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PATIENCE = 10
"""Lease lengths for which a blocked loop keeps its runs."""

_LOOKS = 6
"""In a lease length. The loop renews after a third; two looks later there is a third left."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What is held, and until when (`time.monotonic`) it is renewed for the loop."""

    run_id: str
    epoch: int
    lease_s: float
    until: float


class Leases:
    """The leases of one store. Only the writer's thread uses it, but for the sign of life."""

    def __init__(self) -> None:
        self._held: dict[str, Lease] = {}
        self._shortest = math.inf
        self._asked = False
        self._alive = False

    @property
    def pause_s(self) -> float | None:
        """How long to wait for the loop before `overdue`; None while nothing is held."""
        return min(self._shortest / _LOOKS, 3600.0) if self._held else None

    def took(self, run_id: str, epoch: int, lease_s: float) -> None:
        """The loop has claimed or renewed a run."""
        if not lease_s > 0:
            return
        self._shortest = min(self._shortest, lease_s) if self._held else lease_s
        until = time.monotonic() + PATIENCE * lease_s
        self._held[run_id] = Lease(run_id, epoch, lease_s, until)

    def left(self, run_id: str) -> None:
        """The run has ended, was released, or is somebody else's."""
        self._held.pop(run_id, None)

    def heard(self) -> None:
        """The loop has written something: it lives."""
        self._asked = False

    def overdue(self, soon: Callable[[Callable[[], object]], object]) -> Sequence[Lease]:
        """The leases to renew, since the loop has not answered; `soon` calls into it."""
        now = time.monotonic()
        self._held = {key: lease for key, lease in self._held.items() if lease.until > now}
        if self._asked and not self._alive:
            return tuple(self._held.values())
        self._asked, self._alive = True, False
        try:
            soon(self._answer)
        except RuntimeError:
            self._held.clear()  # the loop is gone, and nobody drives these runs
        return ()

    def _answer(self) -> None:
        self._alive = True
