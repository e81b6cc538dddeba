"""Deaths at random appends, again and again in one run, until the time is over (`make soak`).

A share of it, with a fixed seed, runs in CI: a run that is killed up to three times before it ends.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fault.w12 import RESULT

ROOT = Path(__file__).parents[2]


def deaths(seed: int, count: int) -> list[dict[str, object]]:
    """`count` runs in a program of their own, each killed up to three times."""
    command = [sys.executable, "-m", "tests.fault.kill_everywhere", str(seed), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: list[dict[str, object]], seed: int) -> None:
    for run in found:
        told = f"python -m tests.fault.kill_everywhere {seed} {len(found)}: {run}"
        assert run["result"] == RESULT.model_dump(), told
        assert (run["repeated"], run["lost"], run["integrity"]) == ([], [], "ok"), told


@pytest.mark.long
def test_a_run_that_is_killed_again_while_it_recovers_loses_and_repeats_nothing() -> None:
    found = deaths(seed=7, count=60)
    check(found, 7)
    assert max(int(str(run["deaths"])) for run in found) == 3, "no run died three times"


@pytest.mark.soak
def test_deaths_at_random_until_the_time_is_over() -> None:
    end = time.monotonic() + float(os.environ.get("FLOWKIT_SOAK_S", "60"))
    seed = random.SystemRandom().randrange(10**9)
    runs = 0
    while time.monotonic() < end:
        check(deaths(seed, 100), seed)
        runs, seed = runs + 100, seed + 1
    print(f"{runs} runs, up to three deaths each, 0 violations")
    assert runs
