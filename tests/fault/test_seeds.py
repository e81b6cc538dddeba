"""The same script under 20 PYTHONHASHSEEDs: the same journal, whatever the order of a set is."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEEDS = range(20)


def journal(seed: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fault.seeded"],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": str(seed)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.long
def test_the_journal_does_not_depend_on_the_hash_seed() -> None:
    first = journal(0)
    assert first.count("step_done") > 20
    with ThreadPoolExecutor(2) as pool:
        for seed, told in enumerate(pool.map(journal, SEEDS[1:]), SEEDS[1]):
            assert told == first, f"PYTHONHASHSEED={seed}"
