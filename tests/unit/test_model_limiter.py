"""How much is asked of a model at a time."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowkit.model.limiter import LOWERED_S, Limiter, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_tokens_come_back_evenly() -> None:
    bucket = TokenBucket(600, 0.0)
    assert bucket.take(500, 0.0) == 0
    assert bucket.take(150, 0.0) == pytest.approx(5), "50 are missing, 10 come in a second"
    assert bucket.take(100, 0.0) == pytest.approx(15), "who comes later waits longer"
    bucket.give_back(150, 5.0)  # cancelled, or fewer were used
    assert bucket.take(0, 5.0) == 0
    bucket.give_back(-60, 5.0)  # more were used than was thought
    assert bucket.take(0, 5.0) == pytest.approx(1)
    assert bucket.take(600, 10_000.0) == 0, "no more than a minute's are kept"
    assert bucket.take(1, 10_000.0) > 0


async def test_so_many_run_side_by_side_and_fewer_after_a_refusal() -> None:
    clock, most, running = Clock(), 0, 0
    limiter = Limiter(4, None, clock)

    async def one() -> None:
        nonlocal most, running
        async with limiter.slot(0):
            running += 1
            most = max(most, running)
            for _ in range(3):
                await checkpoint()
            running -= 1

    async def many() -> int:
        nonlocal most
        most = 0
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(one)
        return most

    assert await many() == 4
    async with limiter.slot(0) as refused, limiter.slot(0) as as_well:
        clock.now += 1
        limiter.lower(refused)
        limiter.lower(as_well)
    assert await many() == 2, "two refusals of one moment are one"
    clock.now += LOWERED_S
    assert await many() == 4


async def test_a_cancelled_wait_takes_nothing() -> None:
    limiter = Limiter(1, 60)
    async with limiter.slot(60):
        pass

    async def wait() -> None:
        async with limiter.slot(60):
            raise AssertionError("the bucket is empty")

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert limiter._bucket is not None
    assert limiter._bucket.take(0, anyio.current_time()) == 0
    with anyio.fail_after(5):
        async with limiter.slot(0):
            pass
