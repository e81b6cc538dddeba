"""Waiting that goes on although it is cancelled: as a shielded scope does it, without one."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from flowkit.shield import wait_shielded


async def test_a_cancelled_wait_goes_on_and_the_cancellation_is_felt_after_it() -> None:
    event, told = anyio.Event(), list[str]()

    async def wait() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await wait_shielded(event)
            told.append("waited")
            await anyio.sleep(0.001)
            told.append("never")

    scopes: list[anyio.CancelScope] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()
        await anyio.wait_all_tasks_blocked()
        assert told == []
        event.set()
    assert told == ["waited"]
    assert scopes[0].cancelled_caught


async def test_a_wait_in_a_scope_that_was_cancelled_before_goes_on_too() -> None:
    event = anyio.Event()
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            scope.cancel()
            tasks.start_soon(_set_soon, event)
            await wait_shielded(event)
            assert event.is_set()


async def _set_soon(event: anyio.Event) -> None:
    await anyio.sleep(0.01)
    event.set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_cancellation_of_asyncio_itself_is_not_lost() -> None:
    event = anyio.Event()
    task = asyncio.create_task(wait_shielded(event))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    event.set()
    with pytest.raises(asyncio.CancelledError):
        await task
