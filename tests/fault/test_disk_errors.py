"""A disk that is full or fails, at every write and every flush of a run: nothing lost, nothing done twice.

The storage is real, and so is the run; the errors come from a small library that is laid under SQLite.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fault.disk.shim import build, lines


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return build(tmp_path)


def check(done: dict[str, Any]) -> None:
    """One scenario: what its user saw, and what became of the run."""
    met, ended = done["met"], done["ended"]
    told = json.dumps(done)
    assert (met["code"], ended["code"]) == (0, 0), (
        f"hung, crashed, or raised what is no answer: {told}"
    )
    assert done["right"], told
    assert (done["lost"], done["repeated"]) == ([], []), told
    assert (done["sound"], done["gaps"]) == ("ok", False), told
    assert done["announced"] == 1 or (done["announced"] == 0 and done["unknown"]), told
    if "error" in met:
        assert met["error"] == "StoreUnusable", told
        assert "runs.db: cannot " in met["says"], told
        assert "\n" not in met["says"], told
        assert any(word in met["says"] for word in ("resume the run", "choose another")), told
    if "error" in met and done["after"] == "goes on":
        assert met["result"], f"the same process did not go on: {told}"


def play(
    library: Path, shown: pytest.CaptureFixture[str], *arguments: object
) -> list[dict[str, Any]]:
    count: Counter[str] = Counter()
    found: list[dict[str, Any]] = []
    for line in lines(library, "errors", *arguments):
        done = json.loads(line)
        check(done)
        found.append(done)
        count[done["after"] if "error" in done["met"] else "not noticed"] += 1
    with shown.disabled():  # stderr, for a worker of xdist has no stdout
        print(f"\nerrors {arguments}: {len(found)} {dict(count)}", file=sys.stderr, flush=True)
    return found


@pytest.mark.long
@pytest.mark.parametrize("mode", ["once", "stays"])
@pytest.mark.parametrize("shard", range(2))
def test_every_write_may_fail(
    library: Path, mode: str, shard: int, capfd: pytest.CaptureFixture[str]
) -> None:
    found = play(library, capfd, "writes", mode, shard, 2, 1)
    assert len(found) >= 100
    assert {done["nth"] for done in found} >= set(range(1, found[0]["of"], 1 + (shard > 0)))
    noticed = sum("error" in done["met"] for done in found)
    assert noticed >= len(found) * 0.7, "the faults do not reach the run"
    assert any(done["after"] == "dies" and "error" in done["met"] for done in found)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["once", "stays"])
def test_every_flush_may_fail(library: Path, mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    found = play(library, capfd, "flushes", mode, 0, 1, 1)
    assert {done["nth"] for done in found} == set(range(1, found[0]["of"] + 1))
    assert len(found) >= 50


@pytest.mark.long
def test_a_run_goes_on_when_there_is_room_again(
    library: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = play(library, capfd, "space")
    assert {done["what"] for done in found if "error" in done["met"]} == {"size", "pages"}


def test_what_was_not_flushed_is_not_acknowledged(library: Path) -> None:
    """A log whose flush failed is read again by the next connection, as if it were on the disk."""
    found = [json.loads(line) for line in lines(library, "errors", "flushless")]
    assert len(found) == 12
    for done in found:
        assert done["code"] == 0, done
        assert done["left"][: len(done["kept"])] == done["kept"], done
        assert done["stays"] or len(done["kept"]) >= 4, done
        assert not done["stays"] or len(done["kept"]) < done["first"], done
