"""What the simulation has found, each as the smallest run that shows it."""

from __future__ import annotations

from typing import Any

import pytest

from flowkit import Context, Ref, workflow
from flowkit.engine import FIRST_EPOCH
from flowkit.nodes import tool
from flowkit.ports import Message, RunRecord
from flowkit.store import MemoryStore
from flowkit.values import Codec
from tests.scenario.kit import backend, eventually, memory, now, running


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return backend(request.param)


@tool
async def answer(ctx: Context, text: str) -> str:
    return f"answer to {text}"


@workflow
def plain(text: Ref[str]) -> Ref[str]:
    return answer(text)


@tool
async def nap(ctx: Context, text: str) -> str:
    await ctx.sleep(30)
    return f"slept on {text}"


@workflow
def sleepy(text: Ref[str]) -> Ref[str]:
    return nap(text)


async def created_only() -> MemoryStore:
    """A store as a crash between a run's row and its first event leaves it, seen from elsewhere."""
    store = memory()
    hash_ = plain.input_hash(plain.codec().dump("x").text or "")
    await store.create(
        RunRecord("r", "plain", hash_, now(), owner="the dead", epoch=FIRST_EPOCH, lease_until=now() + 30)
    )  # fmt: skip
    return store


async def test_a_run_whose_creator_died_before_its_first_event_is_begun_by_who_asks_for_it() -> (
    None
):
    """Seed 163: `run` followed the dead owner for ever, for only who has the input can begin it."""
    async with running(await created_only(), recover=True) as engine:
        assert await engine.run(plain, "x", run_id="r") == "answer to x"


async def test_a_run_that_was_refused_once_is_still_taken_up_when_its_time_comes() -> None:
    """Seed 176: a message for a run without events made the engine refuse to wake it for good."""
    store = memory()
    hash_ = sleepy.input_hash(sleepy.codec().dump("x").text or "")
    await store.create(RunRecord("r", "sleepy", hash_, now()))
    await store.post("r", Message("m", "signal", "nothing", Codec(Any, "m").dump(1)))
    async with running(store, recover=True, workflows=[sleepy]) as engine:
        await eventually(lambda: engine.refusal("r") is not None)
        assert await engine.run(sleepy, "x", run_id="r") == "slept on x"
