"""SIGKILL at every append of the 12-step workflow, and once more at every append of the recovery.

The first death of a pair is shared by all second ones: its folder is copied for each. The first append of a
recovery is its claim. CI takes a share of the second deaths, the soak all; three deaths at random
appends are in `test_soak`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from itertools import count
from pathlib import Path

import pytest

from tests.fault import journals
from tests.fault.children import run
from tests.fault.short_run import live
from tests.fault.w12 import RESULT

PHASES = ("before", "after")


def repeated(held: set[str], before: Path, after: Path) -> list[str]:
    """What ran between two looks, although it had ended at the first."""
    ran, now = journals.counted(before), journals.counted(after)
    return [line for line in held if now[line] != ran[line]]


def check_pair(first: Path, into: Path, at: int, phase: str) -> bool:
    """One second death, then a recovery to the end; False when the recovery has no such append."""
    held = journals.rows(first) if (first / "runs.db").exists() else []
    copy = journals.copied(first, into / "second")
    code = run(live, copy, at, phase)
    if code == 0:
        return False
    assert code == -signal.SIGKILL
    second = journals.rows(copy)
    assert second[: len(held)] == held, "lost or changed"
    assert repeated(journals.ended(held), first, copy) == []
    last = journals.copied(copy, into / "third")
    assert run(live, last, 0, "after") == 0
    third = journals.rows(last)
    assert third[: len(second)] == second, "lost or changed"
    assert repeated(journals.ended(second), copy, last) == []
    assert json.loads((last / "result").read_text()) == RESULT.model_dump()
    return True


def check_pairs(tmp_path: Path, stride: int, end: float = float("inf")) -> int:
    """Every first death; of the second ones, every so manieth, another one each time. How many pairs."""
    pairs = begun = 0
    for at in count(1):
        for phase in PHASES:
            first = tmp_path / f"{at}-{phase}"
            first.mkdir()
            if run(live, first, at, phase) == 0:
                assert at > 12, "the run had fewer appends than it must have"
                return pairs
            for number in count():
                second, again = 1 + number // 2, PHASES[number % 2]
                if (number + begun) % stride:
                    if second > 30:
                        break
                    continue
                into = first / f"{second}-{again}"
                into.mkdir()
                if time.monotonic() > end:
                    return pairs
                if not check_pair(first, into, second, again):
                    break
                pairs += 1
            begun += 1
    raise AssertionError("unreachable")


@pytest.mark.long
def test_a_second_kill_in_the_recovery_loses_and_repeats_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    pairs = check_pairs(tmp_path, 8)
    print(f"{pairs} pairs of kills in {time.monotonic() - began:.0f} s, 0 lost, 0 repeated")
    assert pairs >= 60


@pytest.mark.soak
def test_every_pair_of_kills(tmp_path: Path) -> None:
    end = time.monotonic() + float(os.environ.get("FLOWKIT_SOAK_S", "60"))
    print(f"{check_pairs(tmp_path, 1, end)} pairs of kills, 0 lost, 0 repeated")
