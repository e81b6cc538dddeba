"""A run that kills its process each time: it is set aside after three deaths, and the others end."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

import flowkit.events as ev
from flowkit import Context, Engine, Ref, workflow
from flowkit.nodes import tool
from flowkit.ports import RunQuery
from flowkit.store import MemoryStore, SqlStore
from tests.fault import journals
from tests.fault.children import run
from tests.fault.poison import HEALTHY, serve
from tests.scenario.kit import backend, memory, running

LIVES = 10
"""Many more than it may take."""


def until_it_lives(folder: Path, others: int, place: int) -> int:
    """Start the service again and again, as a supervisor does; how often it died."""
    for deaths in range(LIVES):
        code = run(serve, folder, others, place)
        if code == 0:
            return deaths
        assert code == -signal.SIGKILL
    raise AssertionError(f"it died {LIVES} times: start-up loops")


async def statuses(folder: Path) -> dict[str, str]:
    async with SqlStore(folder / "runs.db") as store:
        engine = Engine(store)
        found = {record.run_id: record.status for record in await engine.runs(RunQuery(limit=100))}
        _, state = await engine.state("poison")
    if found["poison"] == "quarantined":
        assert state.ended is not None
        assert state.ended.error is not None
        assert state.ended.error.type == "RunQuarantined"
        assert "drink" in state.ended.error.message, "the suspect is named"
    return dict(found)


@pytest.mark.parametrize(
    ("others", "place"),
    [(0, 0), (HEALTHY, 0), (HEALTHY, HEALTHY // 2), (HEALTHY, HEALTHY)],
    ids=["alone", "first", "in the middle", "last"],
)
@pytest.mark.long
def test_a_run_that_kills_its_process_is_quarantined_and_the_others_end(
    others: int, place: int, tmp_path: Path
) -> None:
    deaths = until_it_lives(tmp_path, others, place)
    # In its first life it got on before it died: three more are three without any progress.
    assert deaths == 1 + 3
    found = anyio.run(statuses, tmp_path)
    assert found.pop("poison") == "quarantined"
    assert found == {f"well{n}": "succeeded" for n in range(others)}
    ran = journals.counted(tmp_path)
    assert ran["poison/prepare 0 1"] == 1
    assert ran["poison/drink 0 1"] == deaths
    assert max(ran.values()) <= deaths, "more often than there were lives"
    (tmp_path / "cure").touch()
    assert run(serve, tmp_path, others, place, True) == 0
    assert anyio.run(statuses, tmp_path)["poison"] == "succeeded"
    assert journals.counted(tmp_path)["poison/prepare 0 1"] == 1, "what had ended ran again"


# ---- several that have died, in virtual time


@tool
async def slow(ctx: Context, n: int) -> int:
    await anyio.sleep(100)
    return n + 1


@workflow
def slowly(n: Ref[int]) -> Ref[int]:
    return slow(n)


async def died_with(store: MemoryStore, names: Sequence[str]) -> MemoryStore:
    """The store, after a process has taken these runs and died before any of them got on."""
    left = memory()
    async with running(store) as engine:
        for name in names:
            await engine.start(slowly, 1, run_id=name)
        for name in names:
            record, events = await engine.load(name)
            await left.create(replace(record, owner="dead", lease_until=0.0, head=0))
            await left.append(name, events, expect=0, epoch=record.epoch)
    return left


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return backend(request.param)


async def test_runs_that_have_died_twice_are_recovered_one_at_a_time() -> None:
    names = ("a", "b", "c")
    store = await died_with(await died_with(memory(), names), names)
    async with running(store, workflows=[slowly], recover=True) as engine:
        for at in range(3):
            await anyio.sleep(50)
            driven = [
                name for name in names if (await engine.handle(name).record()).owner != "dead"
            ]
            ended = [name for name in names if (await store.load(name)).record.status in ev.FINAL]
            assert (len(driven), len(ended)) == (at + 1, at), (driven, ended)
            await anyio.sleep(60)
        assert [await engine.handle(name).result() for name in names] == [2, 2, 2]


async def test_runs_that_have_died_once_are_recovered_together() -> None:
    store = await died_with(memory(), "ab")
    async with running(store, workflows=[slowly], recover=True) as engine:
        await anyio.sleep(50)
        owners = {(await engine.handle(name).record()).owner for name in "ab"}
        assert "dead" not in owners
