"""A planner's 300 turns over HTTP, with faults on and SIGKILL at 50 random moments: nothing can be told from it.

FLOWKIT_TURNS and FLOWKIT_KILLS change the numbers, FLOWKIT_SEED the moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock, Timer
from typing import Any, Literal

import pytest

from flowkit.chat import ModelRequest
from flowkit.testing import Rules, strict_server
from tests.fault.kill_everywhere import finished
from tests.fault.turns import REPORT, faults, script, turn_of

ROOT = Path(__file__).parents[2]
TURNS = int(os.environ.get("FLOWKIT_TURNS", "300"))
KILLS = int(os.environ.get("FLOWKIT_KILLS", "50"))
SEED = int(os.environ.get("FLOWKIT_SEED", "7"))


# ---- when to kill ----


@dataclass(frozen=True)
class Moment:
    """So long after the server is asked for this turn, a tool of it runs, or the process has begun."""

    what: Literal["asked", "ran", "begun"]
    turn: int
    delay_s: float


def moments(seed: int) -> Sequence[Moment]:
    """Moments all over the run; after some of them one more, early in the recovery."""
    lots = random.Random(seed)
    recoveries = KILLS // 6
    made: list[Moment] = []
    for turn in sorted(lots.sample(range(2, TURNS - 8), KILLS - recoveries)):
        what: Literal["asked", "ran"] = lots.choice(("asked", "ran"))
        # Some at once, for what is in flight; some a little later, for what follows.
        made.append(Moment(what, turn, lots.choice((0.0, 0.003, 0.03)) * lots.random()))
    for at in sorted(lots.sample(range(1, len(made)), recoveries), reverse=True):
        made.insert(at, Moment("begun", 0, lots.uniform(0, 0.15)))
    return made


@dataclass
class Killer:
    """Kills the process of a run when its moment has come; told by the server's threads and by its own."""

    pid: int = 0
    moment: Moment | None = None
    turn: int = 0
    """The newest turn that was seen."""
    lock: Lock = field(default_factory=Lock)
    timers: list[Timer] = field(default_factory=list[Timer])

    def begun(self, pid: int, moment: Moment | None) -> None:
        """A process has begun. It gets a turn further than those before: else that turn would seem deadly."""
        with self.lock:
            self.pid, self.moment = pid, moment
            if moment is not None and moment.what != "begun":
                self.moment = replace(moment, turn=max(moment.turn, self.turn + 1))
        self.saw("begun")

    def saw(self, what: str, turn: int = 0) -> None:
        with self.lock:
            self.turn, wanted = max(turn, self.turn), self.moment
            if wanted is None or not self.pid or what != wanted.what or turn < wanted.turn:
                return
            self.moment = None
            timer = Timer(wanted.delay_s, self._kill, [self.pid])
            self.timers.append(timer)
            timer.start()

    def over(self) -> None:
        with self.lock:
            self.pid, self.moment = 0, None
            timers, self.timers = self.timers, []
        for timer in timers:
            timer.cancel()
            timer.join()

    def _kill(self, pid: int) -> None:
        with self.lock, suppress(ProcessLookupError):
            if pid == self.pid:
                os.kill(pid, signal.SIGKILL)


# ---- a run in processes ----


@dataclass
class Ran:
    """What came of a run: of its processes, of its journal, and what the server was asked."""

    exits: list[int] = field(default_factory=list[int])
    result: object = None
    ledger: Counter[str] = field(default_factory=Counter[str])
    repeated: list[str] = field(default_factory=list[str])
    events: Sequence[tuple[Any, ...]] = ()
    bodies: Sequence[dict[str, Any]] = ()
    violations: Sequence[object] = ()
    overflows: int = 0
    faulted: int = 0


@contextmanager
def children(folder: Path, window: int) -> Generator[Callable[[str], Iterator[dict[str, Any]]]]:
    """Starts a process that goes on with the run at a server, and gives what it tells."""
    command = [sys.executable, "-m", "tests.fault.kill_turns"]
    with (
        (folder / "stderr").open("w") as told,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, text=True
        ) as program,
    ):
        assert program.stdin is not None
        assert program.stdout is not None
        into, out = program.stdin, program.stdout
        lots = random.Random(SEED)

        def child(base_url: str) -> Iterator[dict[str, Any]]:
            backend = lots.choice(("asyncio", "trio"))
            asked = {"path": str(folder / "runs.db"), "base_url": base_url, "turns": TURNS}
            into.write(json.dumps({**asked, "window": window, "backend": backend}) + "\n")
            into.flush()
            for line in out:
                said = json.loads(line)
                yield said
                if "exit" in said:
                    return

        yield child
        into.close()


def perform(folder: Path, window: int, times: Sequence[Moment] = (), lots: Any = ()) -> Ran:
    """Run to the end, in as many processes as there are moments, and one more."""
    ran, killer, said = Ran(), Killer(), script(TURNS)

    def heard(request: ModelRequest, index: int) -> object:
        killer.saw("asked", turn_of(request))
        return said(request, index)

    held: dict[str, int] = {}
    # The server's window is smaller than its client believes, so that some requests are too long.
    rules = replace(Rules.named("kimi-k2-thinking"), context_tokens=window * 77 // 100)
    with (
        strict_server(heard, rules=rules, faults=lots) as server,
        children(folder, window) as child,
    ):
        for moment in (*times, None):
            live(child(server.base_url), killer, moment, ran)
            for key in finished(folder):
                held.setdefault(key, ran.ledger[key])
            if ran.exits[-1] != -signal.SIGKILL:
                break
        ran.repeated = [key for key, often in held.items() if ran.ledger[key] != often]
        ran.repeated += asked_again(folder)
        ran.bodies = server.bodies
        ran.violations = [each for each in server.violations if each.rule != "context"]
        ran.overflows = len(server.violations) - len(ran.violations)
        ran.faulted = len(server.faulted)
    ran.events = events_of(folder)
    return ran


def live(lines: Iterator[dict[str, Any]], killer: Killer, moment: Moment | None, ran: Ran) -> None:
    """One process, from its start to its death or its end."""
    for said in lines:
        if "pid" in said:
            killer.begun(said["pid"], moment)
        elif "ran" in said:
            ran.ledger[said["ran"]] += 1
            turn = said["ran"].partition("/t")[2].partition("/")[0]
            killer.saw("ran", int(turn or 0))
        elif "result" in said:
            ran.result = said["result"]
        else:
            killer.over()
            ran.exits.append(said["exit"])


UNLIKE = frozenset({"duration_s", "retry_at", "answer", "where"})
"""Times, and places in the journal, which counts the claims too."""


def events_of(folder: Path) -> Sequence[tuple[Any, ...]]:
    """The journal without claims and answers, and without times; steps side by side in one order."""
    kinds = "'run_started', 'claimed', 'model_answered'"
    with sqlite3.connect(folder / "runs.db") as connection:
        (state,) = connection.execute("PRAGMA integrity_check").fetchone()
        rows = connection.execute(
            f"SELECT kind, key, alternative, attempt, data, value FROM flowkit_events "
            f"WHERE kind NOT IN ({kinds})"
        ).fetchall()
    connection.close()
    assert state == "ok"
    data = [json.dumps(json.loads(row[4], object_pairs_hook=alike)) for row in rows]
    return sorted((*row[:4], text, row[5] or "") for row, text in zip(rows, data, strict=True))


def asked_again(folder: Path) -> list[str]:
    """Requests of one attempt that were made although their answer, or their failure, was on disk."""
    with sqlite3.connect(folder / "runs.db") as connection:
        rows = connection.execute(
            "SELECT key, alternative, attempt, data FROM flowkit_events WHERE kind = 'model_answered'"
        ).fetchall()
    connection.close()
    known = Counter(
        (*row[:3], json.loads(row[3])["request"], json.loads(row[3])["n"]) for row in rows
    )
    return [str(key) for key, often in known.items() if often > 1]


def alike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if name not in UNLIKE}


# ---- what must hold ----


def distinct(bodies: Sequence[dict[str, Any]]) -> list[str]:
    """The requests as the server read them, each once."""
    return sorted({json.dumps(body) for body in bodies})


def check(folder: Path, window: int, clean: Ran, seed: int) -> Ran:
    """A run with faults, killed again and again, is the run without."""
    began = time.monotonic()
    killed = perform(folder, window, moments(seed), faults(seed))
    took = time.monotonic() - began
    deaths = killed.exits.count(-signal.SIGKILL)
    told = (
        f"FLOWKIT_SEED={seed} FLOWKIT_TURNS={TURNS} FLOWKIT_KILLS={KILLS}: {deaths} deaths, exits "
        f"{killed.exits}, {killed.faulted} faults\n{(folder / 'stderr').read_text()[-3000:]}"
    )
    assert killed.result == REPORT, told
    assert killed.violations == [], told
    assert killed.repeated == [], told
    assert set(killed.exits) == {0, -signal.SIGKILL}, told
    assert deaths == KILLS, told
    assert killed.bodies[-1] == clean.bodies[-1], told
    asked = distinct(killed.bodies)
    assert asked == distinct(clean.bodies), told
    # A death has one request in flight at most.
    assert len(killed.bodies) - len(asked) <= killed.faulted + deaths, told
    assert killed.events == clean.events, told
    assert set(killed.ledger) == set(clean.ledger), told
    again = sum(killed.ledger.values()) - len(killed.ledger)
    print(
        f"{TURNS} turns, {len(killed.bodies)} requests, {killed.faulted} faults, {deaths} deaths, "
        f"{len(killed.ledger)} attempts of which {again} in flight were repeated, {took:.0f} s"
    )
    return killed


# ---- a window that holds it all, and one in which results are hidden, turns summarised and left out ----

WIDE, NARROW = 262_144, 6_000


@pytest.fixture(scope="module", params=[WIDE, NARROW], ids=["wide", "narrow"])
def window(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def clean(window: int, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The run without faults and without deaths."""
    ran = perform(tmp_path_factory.mktemp("clean"), window)
    assert (ran.result, ran.exits, ran.violations) == (REPORT, [0], [])
    assert set(ran.ledger.values()) == {1}
    sent = json.dumps(ran.bodies)
    for mark in ("output hidden", "in short:", "are left out"):
        assert (mark in sent) == (window == NARROW), mark
    assert (ran.overflows > 0) == (window == NARROW)
    return ran


@pytest.mark.long
def test_300_turns_with_faults_and_50_deaths_are_the_run_without(
    window: int, clean: Ran, tmp_path: Path
) -> None:
    killed = check(tmp_path, window, clean, SEED)
    assert killed.faulted > TURNS / 5


@pytest.mark.soak
def test_turns_that_are_killed_until_the_time_is_over(
    window: int, clean: Ran, tmp_path: Path
) -> None:
    end = time.monotonic() + float(os.environ.get("FLOWKIT_SOAK_S", "60")) / 2
    seed = random.SystemRandom().randrange(10**9)
    while time.monotonic() < end:
        folder = tmp_path / str(seed)
        folder.mkdir()
        check(folder, window, clean, seed)
        seed += 1
