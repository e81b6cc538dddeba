"""Scenarios of the simulation: a share with each change, ten thousand in `make ci-long`, more in `make soak`."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

import pytest

import flowkit.events as ev
from flowkit import Context, schedule
from flowkit.drive import Driver
from flowkit.errors import StepFailed
from flowkit.events import Fact
from flowkit.ports import Message
from flowkit.schedule import Commands
from flowkit.slot import Wait
from flowkit.state import State
from tests.simulation.__main__ import Tally
from tests.simulation.fates import DOOMS, LIMITS, fated
from tests.simulation.faults import KINDS
from tests.simulation.guarded import SHAPES
from tests.simulation.process import Process
from tests.simulation.rewinds import rewind
from tests.simulation.scenario import PER_PROGRAM, People, Violation, peace, simulate

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
    hows = Counter(going_back.how for seed in range(160) if (going_back := rewind(seed)))
    assert min(hows[how] for how in ("fork", "rerun", "keep")) > 10


def test_a_seed_is_the_same_scenario_again() -> None:
    for seed in (3, 4, 77, 78):
        assert simulate(seed) == simulate(seed)


def test_every_kind_of_node_and_wait_is_drawn() -> None:
    kinds = {kind for seed in range(120) for kind in peace(seed)[0].traits.kinds}
    assert kinds >= {
        "tool", "once", "probe", "spare", "split", "check", "inner", "planner", "gather", "agent", "doubt",
        "fragile", "sleep", "signal", "timeout", "call", "model", "late", "tainted",
        *(f"guarded {shape}" for shape in SHAPES),
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


ENDS = {
    "succeeded", "StepFailed", "Rejected", "BudgetExceeded", "DeadlineExceeded", "RunCancelled",
}  # fmt: skip
"""How runs end; a few are left in quarantine, too."""


def test_runs_end_in_every_way() -> None:
    programs = {fated(number).traits.fate: number for number in range(160)}
    assert programs.keys() >= {"", *DOOMS, *LIMITS}
    seeds = [number * PER_PROGRAM + more for number in programs.values() for more in (2, 3)]
    seeds += [seed for seed in range(200) if (at := people(seed).cancel_s) and at < 3]
    assert {simulate(seed).outcome[0] for seed in seeds} >= ENDS


def people(seed: int) -> People:
    return People.of(random.Random(f"people {seed}"), peace(seed // PER_PROGRAM)[1])


def _nothing_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = schedule._ending
    over = ev.RunEnded("cancelled", ev.Error("RunCancelled", "the run was cancelled"))

    def at_once(state: State, now: float) -> Commands | None:
        return Commands(facts=(Fact(over),)) if state.cancelling else ending(state, now)

    monkeypatch.setattr(schedule, "_ending", at_once)


def _nobody_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    fact = Message.fact

    def deaf(self: Message) -> Fact | None:
        return None if self.kind == "cancel" else fact(self)

    monkeypatch.setattr(Message, "fact", deaf)


def _ended_runs_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("engine", "hosting"):
        monkeypatch.setattr(f"flowkit.{module}.REOPENED", ev.FINAL)


def _other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def result(self: Driver) -> None:
        raise StepFailed("something went wrong")

    monkeypatch.setattr(Driver, "result", result)


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (_nothing_is_stopped, "happened after the run's end"),
        (_nobody_hears, "appends after somebody had cancelled it"),
        (_ended_runs_go_on, "and was tried again"),
        (_other_words, "a client was told"),
    ],
)
def test_a_broken_end_is_found(
    monkeypatch: pytest.MonkeyPatch, breaks: Callable[[pytest.MonkeyPatch], None], told: str
) -> None:
    seeds = [
        seed
        for seed in range(1600)
        if (people(seed).cancel_s and "once" in peace(seed // PER_PROGRAM)[0].traits.kinds)
        or peace(seed // PER_PROGRAM)[1].outcome[0] == "Rejected"
    ]
    breaks(monkeypatch)
    for seed in seeds:
        try:
            simulate(seed)
        except Violation as violation:
            if told in str(violation):
                return
    pytest.fail(f"none of {len(seeds)} scenarios has found it")


def _nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> Iterator[Fact]:
        return iter(())

    for module in ("schedule", "drive"):
        monkeypatch.setattr(f"flowkit.{module}.questions", none)


def _a_no_is_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    def denial(self: Wait) -> str:
        return ""

    monkeypatch.setattr(Wait, "denial", denial)


@pytest.mark.parametrize("breaks", [_nobody_is_asked, _a_no_is_a_yes])
def test_a_step_that_begins_without_a_yes_is_found(
    monkeypatch: pytest.MonkeyPatch, breaks: Callable[[pytest.MonkeyPatch], None]
) -> None:
    seeds = [
        seed
        for seed in range(600)
        if any("guarded" in kind for kind in peace(seed // PER_PROGRAM)[0].traits.kinds)
        and people(seed).denies
    ]
    breaks(monkeypatch)
    with pytest.raises(Violation, match="began, and nobody had said yes"):
        deque(map(simulate, seeds), maxlen=0)


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
    assert not [how for how in ENDS if tally.ends[how] < 20], "some ends hardly came"


@pytest.mark.long
def test_two_thousand_forks_and_deploys() -> None:
    hows = Counter(going_back.how for seed in range(10_000, 12_000) if (going_back := rewind(seed)))
    assert hows.total() > 1900, "too many were refused"


@pytest.mark.soak
def test_scenarios_until_the_time_is_over(capfd: pytest.CaptureFixture[str]) -> None:
    first = random.SystemRandom().randrange(10**9)
    end = time.monotonic() + float(os.environ.get("FLOWKIT_SOAK_S", "60"))
    play_until(Tally(), first, 10**9, end, capfd)
