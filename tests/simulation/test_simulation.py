"""Scenarios of the simulation: a share with each change, ten thousand in `make ci-long`, more in `make soak`."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from flowkit import Context
from tests.simulation.__main__ import Tally
from tests.simulation.faults import KINDS
from tests.simulation.process import Process
from tests.simulation.rewinds import rewind
from tests.simulation.scenario import PER_PROGRAM, Violation, peace, simulate

SHARE = 10
"""Parts of the tests that run with each change, so that workers share them."""


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What an engine says of broken stores is not read here."""
    with caplog.at_level("CRITICAL", logger="flowkit"):
        yield


@pytest.mark.parametrize("part", range(SHARE))
def test_a_run_among_faults_comes_to_what_it_comes_to_in_peace(part: int) -> None:
    for seed in range(part * 30, (part + 1) * 30):
        simulate(seed)


def test_what_is_forked_or_deployed_in_the_middle_comes_to_the_same() -> None:
    hows = Counter(going_back.how for seed in range(240) if (going_back := rewind(seed)))
    assert min(hows[how] for how in ("fork", "rerun", "keep")) > 10


def test_a_seed_is_the_same_scenario_again() -> None:
    for seed in (3, 4, 77, 78):
        assert simulate(seed) == simulate(seed)


def test_every_kind_of_node_and_wait_is_drawn() -> None:
    kinds = {kind for seed in range(120) for kind in peace(seed)[0].traits.kinds}
    assert kinds >= {
        "tool", "once", "probe", "spare", "split", "check", "inner", "planner", "gather", "agent", "doubt",
        "fragile", "sleep", "signal", "timeout", "call", "model", "late",
    }  # fmt: skip


def test_what_is_broken_is_found_and_the_seed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An effect that happens twice is a violation, and says how to see it again."""
    effect = Process.effect

    def twice(self: Process, ctx: Context, value: str) -> None:
        effect(self, ctx, value)
        effect(self, ctx, value)

    seed = next(
        number * PER_PROGRAM for number in range(60) if "once" in peace(number)[0].traits.kinds
    )
    monkeypatch.setattr(Process, "effect", twice)
    with pytest.raises(Violation, match=f"happened 2 times(.|\n)*--seed {seed}"):
        simulate(seed)


def play_until(
    tally: Tally, first: int, count: int, end: float, shown: pytest.CaptureFixture[str]
) -> None:
    for seed in range(first, first + count):
        tally.play(seed)
        if time.monotonic() > end:
            break
    with shown.disabled():  # stderr, for a worker of xdist has no stdout
        told = f"\nseeds {first} to {first + tally.scenarios - 1}\n{tally}"
        print(told, file=sys.stderr, flush=True)
    assert not tally.violations, tally.violations[0]


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_scenarios(part: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Time-boxed: at least 10,000 in its four parts, on two cores."""
    tally = Tally()
    play_until(tally, 1_000_000 + part * 10_000, 2600, time.monotonic() + 500, capfd)
    assert tally.scenarios == 2600, f"only {tally.scenarios} within the time"
    assert not [kind for kind in KINDS if not tally.faults[kind]], "some faults never struck"


@pytest.mark.long
def test_two_thousand_forks_and_deploys() -> None:
    hows = Counter(going_back.how for seed in range(10_000, 12_000) if (going_back := rewind(seed)))
    assert hows.total() > 1900, "too many were refused"


@pytest.mark.soak
def test_scenarios_until_the_time_is_over(capfd: pytest.CaptureFixture[str]) -> None:
    first = random.SystemRandom().randrange(10**9)
    end = time.monotonic() + float(os.environ.get("FLOWKIT_SOAK_S", "60"))
    play_until(Tally(), first, 10**9, end, capfd)
