"""What the runs of one engine share: where things are kept, whom they ask, and the room there is."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence, Sized
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

import flowkit.events as ev
from flowkit.events import Event
from flowkit.node import AnyNode
from flowkit.policy import Policy
from flowkit.ports import Artifacts, Model, Store, World


@dataclass
class Kit:
    """What the runs of one engine share."""

    store: Store
    artifacts: Artifacts
    models: Sequence[Model]
    model_policy: Policy
    world: World
    resources: Sequence[object]
    threads: anyio.CapacityLimiter
    suspend_after_s: float
    grace_s: float
    limiters: dict[str, anyio.CapacityLimiter] = field(
        default_factory=dict[str, anyio.CapacityLimiter]
    )

    @asynccontextmanager
    async def room(self, node: AnyNode) -> AsyncGenerator[None, None]:
        """Room for one more attempt of a node, by its `concurrency`."""
        if node.name not in self.limiters:
            self.limiters[node.name] = anyio.CapacityLimiter(node.policy.concurrency or math.inf)
        limiter, borrower = self.limiters[node.name], object()
        await limiter.acquire_on_behalf_of(borrower)
        try:
            yield
        finally:
            limiter.release_on_behalf_of(borrower)


class Audience(Protocol):
    """Those who watch a run."""

    @property
    def readers(self) -> Sized: ...
    def publish(self, events: Sequence[Event], /) -> None: ...
    def end(self, ended: ev.RunEnded, value: Callable[[], Awaitable[Any]], /) -> None: ...
