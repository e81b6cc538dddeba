"""Stores to hold to the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from flowkit.store import MemoryStore, SqlStore
from tests.contract.helpers import Clock
from tests.postgres import Server, find_binaries


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One PostgreSQL server for the session."""
    pytest.importorskip("psycopg", reason="no psycopg: PostgreSQL is not tested")
    found = find_binaries()
    if found is None:
        pytest.skip("no PostgreSQL: install the dev group, or Debian's postgresql")
    server = Server(found)
    yield server
    server.close()


@pytest.fixture
async def sql(tmp_path: Path, clock: Clock) -> AsyncIterator[SqlStore]:
    async with SqlStore(tmp_path / "flowkit.db", durability="process", now=clock) as store:
        yield store


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[MemoryStore | SqlStore]:
    if request.param == "memory":
        async with MemoryStore(now=clock) as memory:
            yield memory
        return
    target: str | Path = tmp_path / "runs.x"
    if request.param == "postgres":
        target = request.getfixturevalue("server").fresh()
    async with SqlStore(target, durability="process", now=clock) as sql:
        yield sql
