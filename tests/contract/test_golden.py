"""Databases that older code has made, with a run that was killed in the middle: today's code resumes it.

A database of each schema is kept, see golden/workflow.py.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from flowkit import Engine
from flowkit.store import SqlStore, schema
from flowkit.store.upkeep import collect
from tests.contract.golden.workflow import RESULT, RUN, Ran, golden
from tests.contract.test_sqlite import by_hand

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = range(1, len(schema.MIGRATIONS) + 1)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_run_of_every_schema_is_resumed_to_the_right_result(
    version: int, tmp_path: Path
) -> None:
    path = tmp_path / "golden.db"
    path.write_bytes(gzip.decompress((GOLDEN / f"schema{version}.db.gz").read_bytes()))
    assert by_hand(path, "SELECT max(version) FROM flowkit_schema") == [(version,)]
    before = by_hand(path, "SELECT seq, at, kind, key, data, value FROM flowkit_events ORDER BY id")
    ran = Ran()
    async with SqlStore(path) as store:
        assert (await store.sweep())[0] == 0  # both artifacts are referred to
        async with Engine(store, workflows=[golden], resources=[ran]) as engine:
            await engine.signal(RUN, "go-2", "no")
            await engine.signal(RUN, "conclude", "enough")
            assert await engine.resume(RUN) == RESULT
        assert sorted(ran.steps) == ["explore/t3 turn 3", "fetch/2", "join"]
        kept = by_hand(
            path, "SELECT seq, at, kind, key, data, value FROM flowkit_events ORDER BY id"
        )
        assert kept[: len(before)] == before
        assert (await collect(store, [RUN])).runs == (RUN,)
    newest = len(schema.MIGRATIONS)
    assert by_hand(path, "SELECT max(version) FROM flowkit_schema") == [(newest,)]
    assert by_hand(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_database_of_every_schema_is_kept() -> None:
    assert {file.name for file in GOLDEN.glob("*.gz")} == {f"schema{n}.db.gz" for n in VERSIONS}
