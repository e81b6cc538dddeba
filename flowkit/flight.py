"""An attempt in flight, and the facts that tell how it went."""

from __future__ import annotations

import math
from dataclasses import dataclass

import anyio

import flowkit.events as ev
from flowkit.events import Fact
from flowkit.node import AnyNode
from flowkit.runner import Try, failed
from flowkit.slot import Slot

_SPARES_PROBES = ("cancelled", "failed", "deadline")


@dataclass(slots=True, eq=False)
class Flight:
    """An attempt from its start to its outcome. `stop` says why it was stopped, if it was."""

    slot: Slot
    node: AnyNode
    key: str
    alternative: int
    attempt: int
    last: bool = False
    scope: anyio.CancelScope | None = None
    """The worker's, while it makes this attempt."""
    stop: str = ""
    job: Try | None = None
    outcome: ev.Payload | None = None

    @property
    def asks(self) -> bool:
        """Whether it only asks a probe what became of an effect."""
        return self.node.kind == "probe"

    @property
    def timeout_s(self) -> float | None:
        """The node's, which a planned step may shorten; but not where an effect happens once."""
        own, asked = self.node.policy.timeout_s, self.slot.step.timeout_s
        if asked is None or self.node.policy.effect == "once" or self.asks:
            return own
        return asked if own is None else min(asked, own)

    def cut(self, why: str) -> None:
        """Stop it; one that has not begun will not begin.

        What ends the run leaves a probe its grace period, and a decision concerns nothing else.
        """
        spared = _SPARES_PROBES if self.asks else ("decided",)
        if not self.stop and why not in spared:
            self.stop = why
            if self.scope is not None:
                self.scope.cancel()

    def start_clock(self, left_s: float) -> None:
        """Give it so much time; `math.inf` for no end."""
        if self.scope is not None and left_s < math.inf:
            self.scope.deadline = anyio.current_time() + left_s

    def stop_clock(self) -> float:
        """The time that was left."""
        if self.scope is None or self.scope.deadline == math.inf:
            return math.inf
        left_s = self.scope.deadline - anyio.current_time()
        self.scope.deadline = math.inf
        return left_s

    def facts(self) -> list[Fact]:
        """How it went; nothing if it was stopped, unless an effect was under way."""
        told = self._told()
        return [] if told is None else [self.fact(told)]

    def fact(self, payload: ev.Payload) -> Fact:
        return Fact(payload, self.key, self.alternative, self.attempt)

    def _told(self) -> ev.Payload | None:
        if self.outcome is not None:
            return self.outcome
        if self.stop:
            if not self.slot.intent or self.stop == "lost":
                return None
            return ev.OutcomeUnknown(f"{self.stop} while the effect was under way")
        if self.job is None:
            return None
        if self.node.policy.effect == "once":
            return ev.OutcomeUnknown(f"no outcome within {self.timeout_s} s")
        late = TimeoutError(f"no result within {self.timeout_s} s")
        return failed(self.job, late, self.timeout_s or 0.0)
