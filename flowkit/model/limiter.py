"""How much is asked of a model at a time: requests side by side, and tokens in a minute."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

LOWERED_S: Final = 60.0
"""Seconds without a refusal after which a lowered limit is doubled again."""


class TokenBucket:
    """Tokens of a minute, which come back evenly. Who must wait owes them, and is not overtaken."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.most = float(per_minute)
        self._left = self.most
        self._at = now

    def take(self, tokens: float, now: float) -> float:
        """Take tokens, and say how many seconds to wait until they are there."""
        self._refill(now)
        self._left -= tokens
        return max(0.0, -self._left * 60 / self.most)

    def give_back(self, tokens: float, now: float) -> None:
        """Put back what was taken and not used; a negative number takes what was used beyond."""
        self._refill(now)
        self._left = min(self.most, self._left + tokens)

    def _refill(self, now: float) -> None:
        came = max(0.0, now - self._at) * self.most / 60
        self._left, self._at = min(self.most, self._left + came), now


@dataclass(slots=True)
class Slot:
    """A request under way. `used`: the tokens that it took, an estimate until they are known."""

    began: float
    used: float


class Limiter:
    """Lets so many requests run side by side; half as many for a while after each refusal.

    Of one event loop. `now` is the loop's own clock.
    """

    def __init__(
        self,
        concurrency: int,
        tokens_per_minute: int | None,
        now: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._most = concurrency
        self._now = now
        self._capacity = anyio.CapacityLimiter(concurrency)
        self._bucket = TokenBucket(tokens_per_minute, now()) if tokens_per_minute else None
        self._changed_at = -math.inf

    @property
    def concurrency(self) -> int:
        """How many may run side by side now."""
        return int(self._capacity.total_tokens)

    def lower(self, refused: Slot) -> None:
        """Let half as many run. Requests that began before the last lowering do not count again."""
        if refused.began >= self._changed_at:
            self._capacity.total_tokens = max(1, self.concurrency // 2)
            self._changed_at = self._now()

    @asynccontextmanager
    async def slot(self, tokens: float) -> AsyncGenerator[Slot]:
        """Wait for a place, and for so many tokens."""
        self._recover()
        borrower = object()  # not the task: who listens to an answer may ask another model
        await self._capacity.acquire_on_behalf_of(borrower)
        slot = Slot(self._now(), 0.0)
        try:
            if self._bucket:
                tokens = min(tokens, self._bucket.most)
                await anyio.sleep(self._bucket.take(tokens, self._now()))
            slot.began, slot.used = self._now(), tokens
            yield slot
        finally:
            if self._bucket:
                self._bucket.give_back(tokens - slot.used, self._now())
            self._capacity.release_on_behalf_of(borrower)
            self._recover()

    def _recover(self) -> None:
        if self.concurrency < self._most and self._now() >= self._changed_at + LOWERED_S:
            self._capacity.total_tokens = min(self._most, self.concurrency * 2)
            self._changed_at = self._now()
