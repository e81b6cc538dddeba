"""Databases that are broken, or copied at a bad moment: refused by name, or read rightly; never a crash."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fault.disk.shim import build, lines
from tests.fault.test_disk_power import RUNS, record

BLIND = ("flip_page", "garbage", "flip_header")
"""Damage within pages: SQLite keeps no checksums of them, so a text may come out changed."""


def check(case: dict[str, Any]) -> str:
    """One case; in a word, what it came to."""
    told = json.dumps(case)
    assert case["code"] == 0, f"crashed, hung, or raised what is no answer: {told}"
    runs = {f"r{number}": str(case.get(f"r{number}", "")) for number in range(RUNS)}
    said = [case.get("refused", ""), case.get("result", ""), *runs.values()]
    for text in said:
        if text.startswith("StoreUnusable"):
            assert "runs.db: cannot " in text, told
            assert "\n" not in text, told
    how, last = case["how"], f"r{RUNS - 1}"
    if how in ("row", "hash_"):
        assert runs.pop(last).startswith("JournalConflict"), told
        assert case["result"].startswith("JournalConflict"), told
        assert set(runs.values()) == {"same"}, told
    elif how in ("other", "zeros"):
        assert case["refused"].startswith("StoreUnusable"), told
    elif how == "flip_shared":
        assert set(runs.values()) == {"same"}, told
        assert case["result"] == "right", told
    elif how not in BLIND:
        assert "other" not in runs.values(), told
        assert not case.get("result", "").startswith(("other", "repeated")), told
    if "refused" in case:
        return "refused"
    for run_id in case["others"]:
        assert not runs.get(run_id, "").startswith("StoreUnusable"), f"{run_id} is readable: {told}"
    return "changed" if "other" in runs.values() else "read"


def play(library: Path, folder: Path, *arguments: int) -> dict[str, Counter[str]]:
    count: dict[str, Counter[str]] = {}
    for line in lines(library, "damage", folder, *arguments):
        case = json.loads(line)
        count.setdefault(case["how"], Counter())[check(case)] += 1
    return count


@pytest.mark.long
def test_a_broken_database_is_read_rightly_or_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    library = build(tmp_path)
    count = play(library, record(library, tmp_path / "power", "power"), 1, 320, 0, 1)
    with capfd.disabled():  # stderr, for a worker of xdist has no stdout
        told = {how: dict(found) for how, found in sorted(count.items())}
        print(f"\ndamage: {told}", file=sys.stderr, flush=True)
    assert sum(found.total() for found in count.values()) == 320
    assert count["copy"].total() >= 60
    assert sum(found["refused"] for found in count.values()) >= 20
    assert count["flip_page"]["read"] + count["garbage"]["read"] >= 20


@pytest.mark.soak
def test_broken_databases_until_the_time_is_over(tmp_path: Path) -> None:
    library = build(tmp_path)
    folder = record(library, tmp_path / "power", "power")
    end = time.monotonic() + float(os.environ.get("FLOWKIT_SOAK_S", "60"))
    seed, cases = random.SystemRandom().randrange(10**6), 0
    total: Counter[str] = Counter()
    while time.monotonic() < end:
        for found in play(library, folder, seed, 100, 0, 1).values():
            total += found
        seed, cases = seed + 1, cases + 100
    print(f"damage up to seed {seed}: {cases} cases {dict(total)}, 0 violations")
    assert cases
