"""SIGKILL at every append of a 12-step workflow: every resume is right, no finished step runs twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault.w12 import RESULT

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def deaths() -> list[dict[str, object]]:
    command = [sys.executable, "-m", "tests.fault.kill_everywhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kill_at_every_append_gives_the_result_of_the_run_that_was_not_killed(
    deaths: list[dict[str, object]],
) -> None:
    died = [death for death in deaths if "end" not in death]
    assert len(died) >= 30, "the run had fewer appends than it must have; is the hook still there?"
    for death in died:
        assert death["died"] == -9
        assert death["code"] == 0, death
        assert death["result"] == RESULT.model_dump(), death


def test_no_finished_step_ran_again_after_a_kill(deaths: list[dict[str, object]]) -> None:
    for death in deaths:
        assert death.get("repeated", []) == [], death


def test_nothing_that_was_recorded_is_lost_and_the_database_is_sound(
    deaths: list[dict[str, object]],
) -> None:
    for death in deaths:
        assert death.get("lost", []) == [], death
        assert death.get("integrity", "ok") == "ok", death


def test_an_attempt_runs_at_most_twice_however_it_is_killed(
    deaths: list[dict[str, object]],
) -> None:
    repeats = [death.get("most", 1) for death in deaths]
    assert max(int(str(repeat)) for repeat in repeats) == 2, "no kill hit an attempt in flight"
