"""Waiting for what comes in any case."""

from __future__ import annotations

import math

import anyio


async def wait_shielded(event: anyio.Event) -> None:
    """Wait for an event, cancelled or not; the cancellation is felt at the next await.

    As under `CancelScope(shield=True)`, which is entered only when it is needed: to enter and leave
    one costs 8 µs, and a step waits twice.
    """
    try:
        await event.wait()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await event.wait()
        if anyio.current_effective_deadline() > -math.inf:
            raise  # asyncio's own cancellation comes once; that of a scope comes again
