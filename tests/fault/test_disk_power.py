"""Power cuts: what may be left of a recorded run at any moment opens, and holds all that was acknowledged.

That the images can show a loss is shown as well: with `durability="process"` they lose acknowledged steps,
and where SQLite flushes nothing, they are corrupt.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fault.disk.images import POLICIES
from tests.fault.disk.shim import build, lines, program

RUNS = 8
"""So many that the log is moved into the database in their midst, and begun anew."""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return build(tmp_path)


def record(library: Path, folder: Path, setting: str, runs: int = RUNS) -> Path:
    folder.mkdir()
    assert not list(lines(library, "power", "record", folder, setting, runs))
    return folder


def opened(
    library: Path, folder: Path, shown: pytest.CaptureFixture[str], *arguments: int
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Every image as it was found, and the counts."""
    begun = time.monotonic()
    found = [json.loads(line) for line in lines(library, "power", "open", folder, *arguments)]
    count = Counter(
        images=len(found),
        resumed=sum("right" in image for image in found),
        acknowledged=sum(image["acknowledged"] for image in found),
        losing=sum(image["lost"] > 0 for image in found),
        lost_steps=sum(image["steps"] for image in found),
        corrupt=sum(image["sound"] != "ok" or bool(image["wrong"]) for image in found),
    )
    count.update(policy for image in found for policy in image["used"])
    with shown.disabled():  # stderr, for a worker of xdist has no stdout
        rate = len(found) / (time.monotonic() - begun)
        told = f"\npower {folder.name}: {rate:.0f} images/s {dict(count)}"
        print(told, file=sys.stderr, flush=True)
    return found, count


@pytest.mark.long
@pytest.mark.parametrize("shard", range(2))
def test_a_power_cut_takes_back_nothing_that_was_acknowledged(
    library: Path, tmp_path: Path, shard: int, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = record(library, tmp_path / "power", "power")
    found, count = opened(library, folder, capfd, 1, 1600, 16, shard, 2)
    for image in found:
        assert (image["lost"], image["wrong"], image["sound"]) == (0, [], "ok"), image
        if "right" in image:
            assert (image["right"], image["repeated"]) == (True, []), image
            assert image["effects"] <= 1, image
    assert count["images"] == 800
    assert count["resumed"] == 16
    assert all(count[policy] >= 50 for policy in POLICIES), "not all kinds of loss were tried"


@pytest.mark.long
def test_with_durability_process_a_power_cut_takes_steps_but_leaves_the_database_sound(
    library: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = record(library, tmp_path / "process", "process")
    found, count = opened(library, folder, capfd, 2, 400, 10, 0, 1)
    assert [image for image in found if image["sound"] != "ok" or image["wrong"]] == []
    assert count["losing"] >= 100, "these images must lose steps, or they would not show a loss"
    assert count["lost_steps"] >= 1000
    assert all(image.get("repeated", []) == [] for image in found)


@pytest.mark.long
def test_where_nothing_is_flushed_the_images_are_corrupt(
    library: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = record(library, tmp_path / "off", "off")
    _, count = opened(library, folder, capfd, 3, 200, 0, 0, 1)
    assert count["corrupt"] >= 5, "these images must be corrupt, or they would not show it"


def test_a_run_survives_a_power_cut_at_some_moments(
    library: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = record(library, tmp_path / "power", "power", 1)
    found, count = opened(library, folder, capfd, 4, 30, 2, 0, 1)
    assert [image for image in found if image["lost"] or image["wrong"]] == []
    assert (count["corrupt"], count["resumed"]) == (0, 2)
    assert all(image.get("right", True) for image in found)


@pytest.mark.soak
def test_every_moment_and_every_kind_of_loss_until_the_time_is_over(
    library: Path, tmp_path: Path
) -> None:
    seconds = int(os.environ.get("FLOWKIT_SOAK_S", "60"))
    seed = random.SystemRandom().randrange(10**6)
    folder = record(library, tmp_path / "power", "power")
    running = [
        program(library, "power", "every", folder, seed, seconds, shard, 2) for shard in range(2)
    ]
    count: Counter[str] = Counter()
    wrong: list[str] = []
    for each in running:
        *told, last = _said(each)
        wrong += told
        count.update(json.loads(last))
    print(f"power cuts, seed {seed}: {dict(count)}, {count['images'] / seconds:.0f} images/s")
    assert wrong == []
    assert count["images"]


def _said(running: subprocess.Popen[str]) -> list[str]:
    said = running.communicate()[0].splitlines()
    assert running.returncode == 0
    return said
