"""SIGKILL while a fork is made, on both databases: it is whole, or nobody's until it is asked for again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import Server, find_binaries

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def deaths(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("forks")
    target, server = str(folder / "runs.db"), None
    if request.param == "postgres":
        pytest.importorskip("psycopg", reason="no psycopg: PostgreSQL is not tested")
        found = find_binaries()
        if found is None:
            pytest.skip("no PostgreSQL: install the dev group, or Debian's postgresql")
        server = Server(found)
        target = str(server.fresh())
    command = [sys.executable, "-m", "tests.fault.kill_forks", target, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if server is not None:
        server.close()
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_fork_that_was_killed_comes_to_its_end(deaths: list[dict[str, Any]]) -> None:
    first, *died = deaths
    assert first["first"] == 100_001
    assert len(died) == 5
    for death in died:
        assert death["died"] == -9, death
        assert death["result"] == 70_001, death
        assert death["base"] == first["base"], "the other run is as it was"


def test_before_its_first_append_it_is_nobody_s_and_says_so(deaths: list[dict[str, Any]]) -> None:
    for death in deaths[1:]:
        early = death["phase"] in ("created", "before 1")
        assert death["half_made"] == early, death
        assert ("not begun" in death["refused"]) == early, death
        if early:
            assert death["status"] == "cancelled"
        else:
            assert death["kinds"][:3] == ["rewound", "decided", "claimed"]


def test_what_is_set_is_never_done_and_no_finished_step_runs_again(
    deaths: list[dict[str, Any]],
) -> None:
    for death in deaths[1:]:
        again = (
            2 if death["phase"] == "before 2" else 1
        )  # in flight: it had run, and was not recorded
        assert sorted(death["ran"]) == sorted(["size"] * again + ["more"]), death
