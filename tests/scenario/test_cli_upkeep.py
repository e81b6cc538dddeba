"""`flowkit gc` and `flowkit vacuum`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from flowkit import events as e
from flowkit.events import Event
from flowkit.ports import RunQuery, RunRecord
from flowkit.store import SqlStore
from flowkit.values import Value

DAY = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Runs that ended 1 and 40 days ago, two that have not, and a fork of an old one."""
    path = tmp_path / "a.db"
    anyio.run(fill, path)
    return path


async def fill(path: Path) -> None:
    now = time.time()
    async with SqlStore(path, now=lambda: now - 50 * DAY) as store:
        file = await store.put(b"x" * 1000)
        row = RunRecord("", "wf", "h", now - 41 * DAY)
        for name, days in (("old", 40), ("fresh", 1), ("base", 40)):
            value = Value.of(json.dumps(file if name == "old" else name))
            events = [
                Event(1, row.created_at, e.StepDone("h", value), "a"),
                Event(
                    2, now - days * DAY, e.RunEnded("failed" if name == "fresh" else "succeeded")
                ),
            ]
            await store.create(replace(row, run_id=name))
            await store.append(name, events, expect=0, epoch=0)
        await store.create(replace(row, run_id="open"))
        await store.create(replace(row, run_id="fork", base="base", base_seq=1))


def ids(path: Path) -> set[str]:
    async def look() -> set[str]:
        async with SqlStore(path) as store:
            return {each.run_id for each in await store.runs(RunQuery())}

    return anyio.run(look)


def flowkit(path: Path, *args: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "flowkit", *args, "--db", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent)
    return done.returncode, done.stdout, done.stderr


def test_old_runs_go_and_what_only_they_refer_to(path: Path) -> None:
    code, out, _ = flowkit(path, "gc", "--older-than", "30d", "--dry-run")
    assert (code, out.splitlines()) == (0, [
        "  old", "would delete 1 run and 1 artifact of 1,000 bytes.",
        "kept, since others were forked from them: base",
    ])  # fmt: skip
    assert len(ids(path)) == 5
    code, out, _ = flowkit(path, "gc", "--older-than", "30d", "--vacuum", "--json")
    found = json.loads(out)
    vacuumed = found.pop("vacuum")
    assert code == 0
    assert found == {
        "dry_run": False,
        "runs": ["old"],
        "kept": ["base"],
        "artifacts": 1,
        "bytes": 1000,
    }
    assert vacuumed["after"] <= vacuumed["before"]
    assert ids(path) == {"fresh", "base", "open", "fork"}


def test_a_status_narrows_it(path: Path) -> None:
    assert (
        "deleted 0 runs"
        in flowkit(path, "gc", "--older-than", "30d", "--status", "failed,cancelled")[1]
    )
    assert "deleted 1 run " in flowkit(path, "gc", "--older-than", "1h", "--status", "failed")[1]
    assert "fresh" not in ids(path)


def test_a_run_is_deleted_by_name(path: Path) -> None:
    assert flowkit(path, "gc", "--run", "old", "--run", "fre")[0] == 0
    assert ids(path) == {"base", "open", "fork"}


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "say which runs: --older-than 30d, or --run RUN"),
        (["--older-than", "1d", "--run", "old"], 2, "--older-than or --run, one of the two"),
        (["--older-than", "99999999999d"], 2, "lies before 1970"),
        (["--run", "old", "--status", "failed"], 2, "--status goes with --older-than"),
        (["--older-than", "1d", "--dry-run", "--vacuum"], 2, "leave out --vacuum"),
        (["--older-than", "30"], 2, "write 12h, 30d, 8w, or a date"),
        (["--older-than", "9999-01-01"], 2, "lies in the future"),
        (
            ["--older-than", "1d", "--status", "running"],
            2,
            "cancelled, failed, quarantined, succeeded",
        ),
        (["--run", "no"], 4, "no run's id begins with 'no'"),
        (["--run", "old", "--run", "open"], 2, "run open is pending: only ended runs are deleted"),
        (["--run", "base"], 2, "run fork was forked from it"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_deleted(
    path: Path, args: list[str], code: int, says: str
) -> None:
    found, out, err = flowkit(path, "gc", *args)
    assert (found, out) == (code, "")
    assert says in err
    assert len(ids(path)) == 5


def test_vacuum_tells_the_bytes_before_and_after(path: Path) -> None:
    code, out, _ = flowkit(path, "vacuum", "--json")
    assert code == 0
    assert set(json.loads(out)) == {"before", "after"}
    assert flowkit(path, "vacuum")[1].startswith("the database had ")
    assert flowkit(path.parent / "none.db", "vacuum")[0] == 4
    assert not (path.parent / "none.db").exists()
