"""How durable waits of a run begin and end: signals, sleeps, and questions that persons are asked."""

from __future__ import annotations

from bisect import insort
from collections import deque

import flowkit.events as ev
from flowkit.events import Error, Fact
from flowkit.slot import APPROVAL, Slot, Wait
from flowkit.steps import Steps


class Waits(Steps):
    """The waits of a run's steps, and the signals that nobody has waited for yet."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0
        self.signals: dict[str, deque[ev.Signalled]] = {}

    def begin_wait(self, slot: Slot, p: ev.Waiting, seq: int) -> None:
        """A step waits from now on, or is at its open wait again."""
        if slot.status == "retrying":  # it has begun, so its time to be tried again is over
            slot.status = "ready"
            self.forget_due(slot)
        if p.reason != "approval":
            slot.begun = "under way"
        if slot.waits is None:
            slot.waits = []
        for known in slot.open_waits():
            if (known.reason, known.name, known.n) == (p.reason, p.name, p.n):
                self.ready.pop(slot.exec, None)  # begun anew after a crash, and there again
                self.park(slot)
                return
        wait = Wait(slot, p.reason, p.name, p.n, p.until)
        slot.waits.append(wait)
        buffered = self.signals.get(p.name) if p.reason == "signal" else None
        if buffered:
            wait.ended, wait.seq = buffered.popleft(), seq
            return
        if p.reason != "sleep":
            self.waits.setdefault(p.name, []).append(wait)
        self.ready.pop(slot.exec, None)
        self.parked[slot.exec] = slot
        if p.until is not None:
            insort(self.due, (p.until, slot.exec))

    def end_wait(self, slot: Slot | None, p: ev.Signalled, seq: int) -> None:
        """A signal came for whoever waits longest, or the wait of `slot` ran out of time."""
        if slot is not None:
            waits = [wait for wait in slot.open_waits() if (wait.name, wait.n) == (p.name, p.n)]
        else:
            waits = self.waits.get(p.name, [])
        if not waits:
            if not p.timed_out and not p.name.startswith(APPROVAL):  # an answer to no question
                self.signals.setdefault(p.name, deque()).append(p)
            return
        wait = waits[0]
        wait.ended, wait.seq = p, seq
        if wait in (waiting := self.waits.get(p.name, [])):
            waiting.remove(wait)
        if wait.reason == "approval":
            self._judged(wait)
        else:
            self._wake(wait.slot)

    def _judged(self, wait: Wait) -> None:
        """A person has agreed, or not."""
        slot = wait.slot
        if denied := wait.denial():
            self.unpark(slot)
            moves = slot.alternative + 1 < len(slot.step.nodes)
            said_no = ev.AttemptFailed(Error("Denied", denied), "next" if moves else "fail")
            self.owed.append(Fact(said_no, slot.exec, slot.alternative, slot.attempt))
            return
        wait.until = self.at + self.nodes[slot.node].trust.approve.valid_s
        self._wake(slot)

    def park(self, slot: Slot) -> None:
        """An attempt that was begun anew is at its open wait again."""
        self.parked[slot.exec] = slot
        self.forget_due(slot)
        for wait in slot.open_waits():
            if wait.until is not None:
                insort(self.due, (wait.until, slot.exec))

    def abandon(self, wait: Wait) -> None:
        """A wait was cancelled by the node itself; its attempt goes on with other work."""
        if wait in (waiting := self.waits.get(wait.name, [])):
            waiting.remove(wait)
        wait.ended = ev.Signalled(wait.name, wait.n, timed_out=True)
        self._wake(wait.slot)

    def slept(self, wait: Wait) -> None:
        """A sleep ended in memory; after a crash its time alone tells that."""
        wait.ended = ev.Signalled("")
        self._wake(wait.slot)

    def _wake(self, slot: Slot) -> None:
        """A wait is over: the attempt goes on, or, torn down, begins anew."""
        if slot.open_waits():
            return
        self.unpark(slot)
        if slot.exec not in self.running and slot.status == "ready":
            self.offer(slot)
