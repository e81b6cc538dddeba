"""Stores to hold to the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowkit.store import MemoryStore, SqlStore
from tests.contract.helpers import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sql(tmp_path: Path, clock: Clock) -> AsyncIterator[SqlStore]:
    async with SqlStore(tmp_path / "flowkit.db", durability="process", now=clock) as store:
        yield store


@pytest.fixture(params=["memory", "sql"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[MemoryStore | SqlStore]:
    if request.param == "memory":
        async with MemoryStore(now=clock) as memory:
            yield memory
    else:
        async with SqlStore(tmp_path / "runs.x", durability="process", now=clock) as sql:
            yield sql
