"""SIGKILL at every append of a planner's 300 turns and 600 steps; a new process goes on each time.

One run goes through all its deaths, so that they share its work: at an append the first process dies
before it, the next one with its rows written but not committed, the next one after the commit, in turn
before and after the run is told of it; then the run goes on to the next append. Each of these processes
is a resume of a killed run, and after each death the file is looked at from outside:

- it is sound, and all that an append acknowledged is there, byte for byte as at the death before;
- a death before the commit has left the claim and nothing else; one after it, the append as well;
- no attempt has run again whose outcome was there, nor was the model asked again what it had answered.

That a death leaves nothing wrong for later is looked at in copies: of every so many deaths one is copied
and resumed to its end without a death. The result and the journal, apart from claims and times, must be
those of the run that was never killed; so must those of the run that went through all of them.

In CI every tenth append is killed at, thrice; in the soak every one.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from tests.fault import journals
from tests.fault.children import run
from tests.fault.long_run import ANSWER, Phase, live

TURNS = int(os.environ.get("FLOWKIT_TURNS", "300"))


@dataclass
class Killed:
    """The run of a folder on its way through its deaths, and what was seen of it."""

    folder: Path
    clean: Path
    deaths: int = 0
    resumed: int = 0
    repeated: list[str] = field(default_factory=list[str])
    events: list[journals.Row] = field(default_factory=list[journals.Row])
    held: dict[str, int] = field(default_factory=dict[str, int])
    """What has ended, and how often it had run when that was seen."""

    def die(self, at: int, phase: Phase) -> bool:
        """Let a process go on and die at its n-th append; False when it has come to the end."""
        code = run(live, self.folder, TURNS, at, phase)
        if code == 0:
            return False
        assert code == -signal.SIGKILL, f"death {self.deaths}, {phase}: exit code {code}"
        self.deaths += 1
        before, self.events = self.events, journals.rows(self.folder)
        new = self.events[len(before) :]
        assert self.events[: len(before)] == before, f"lost or changed at death {self.deaths}"
        if at == 2 and phase in ("before", "inside"):
            assert [row[1] for row in new] == ["claimed"], (phase, new)
        else:
            assert [row[1] for row in new][:1] == ["claimed"] or not before
            assert len(new) > 1, (phase, new)
        self._check()
        return True

    def _check(self) -> None:
        acknowledged = (self.folder / "acknowledged").read_text().split()
        assert max(map(int, acknowledged)) <= len(self.events), "an acknowledged event is lost"
        ran = journals.counted(self.folder)
        self.repeated += [line for line, often in self.held.items() if ran[line] != often]
        answered = sum(row[1] == "model_answered" for row in self.events)
        finished = journals.ended(self.events) | {f"turn {n + 1}" for n in range(answered)}
        for line in finished:
            self.held.setdefault(line, ran[line])

    def resume(self, into: Path) -> None:
        """Let a copy go on to its end."""
        copy = journals.copied(self.folder, into)
        assert run(live, copy, TURNS, 0, "before") == 0
        self.resumed += 1
        self.repeated += compare(copy, self.clean, self.held)


def compare(folder: Path, clean: Path, held: dict[str, int]) -> list[str]:
    """Both runs have come to the same; what ran again although it had ended."""
    assert (folder / "result").read_text() == ANSWER
    found, wanted = journals.rows(folder), journals.rows(clean)
    assert journals.comparable(found) == journals.comparable(wanted)
    ran = journals.counted(folder)
    assert set(ran) == set(journals.counted(clean))
    return [line for line, often in held.items() if ran[line] != often]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody kills."""
    folder = tmp_path_factory.mktemp("clean")
    assert run(live, folder, TURNS, 0, "before") == 0
    assert (folder / "result").read_text() == ANSWER
    events = journals.rows(folder)
    assert sum(row[1] == "step_done" for row in events) == 2 * TURNS + 1
    ran = journals.counted(folder)
    assert set(ran.values()) == {1}
    assert ran.keys() >= {f"turn {n + 1}" for n in range(TURNS + 1)}
    return folder


def phases() -> Iterator[tuple[Phase, Phase, Phase]]:
    """How to die thrice at an append: without it twice, and with it."""
    for n in count():
        yield "before", "inside", "told" if n % 2 else "after"


def kill_at_every(
    stride: int, sample: int, clean: Path, tmp_path: Path, end: float = float("inf")
) -> Killed:
    """Kill the run at every so manieth append; resume a copy of every so manieth death."""
    folder = tmp_path / "killed"
    folder.mkdir()
    killed = Killed(folder, clean)
    began = time.monotonic()
    at: Counter[str] = Counter()
    ended = False
    for three in phases():
        for phase in three:
            # The first append of a process is its claim, unless the run is new.
            ended = not killed.die(stride + 1 if phase == "before" else 2, phase)
            at[phase] += not ended
            if ended or time.monotonic() > end:
                break
            if killed.deaths % sample == 0:
                killed.resume(tmp_path / f"copy{killed.deaths}")
        if ended or time.monotonic() > end:
            break
    if not ended:
        assert run(live, folder, TURNS, 0, "before") == 0
    killed.repeated += compare(folder, clean, killed.held)
    again = sum(often - 1 for often in journals.counted(folder).values())
    took = time.monotonic() - began
    print(
        f"{TURNS} turns, {killed.deaths} kills ({dict(at)}) in {took:.0f} s, "
        f"{killed.deaths / took:.1f} a second, {killed.resumed} copies resumed to the end: 0 lost, "
        f"{len(killed.repeated)} repeated, {again} in flight ran again"
    )
    assert killed.repeated == []
    return killed


@pytest.mark.long
def test_a_kill_at_every_tenth_append_of_300_turns_loses_and_repeats_nothing(
    clean: Path, tmp_path: Path
) -> None:
    killed = kill_at_every(10, 50, clean, tmp_path)
    appends = sum(row[1] in ("model_answered", "planned") for row in killed.events)
    assert killed.deaths >= 3 * (appends // 10), "some appends were passed over"
    assert killed.resumed >= killed.deaths // 50


@pytest.mark.soak
def test_a_kill_at_every_append_of_300_turns_loses_and_repeats_nothing(
    clean: Path, tmp_path: Path
) -> None:
    """Once through the whole run, if FLOWKIT_SOAK_S lets it."""
    end = time.monotonic() + float(os.environ.get("FLOWKIT_SOAK_S", "60"))
    killed = kill_at_every(1, 100, clean, tmp_path, end)
    assert killed.deaths
