"""One scenario: a random workflow, run once in peace and once among faults, and what must hold after it."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import anyio
import trio.testing

import flowkit.events as ev
from flowkit import Engine
from flowkit.dsl import Workflow
from flowkit.engine import fold
from flowkit.errors import (
    JournalConflict,
    ResumeError,
    RunCancelled,
    RunError,
    RunQuarantined,
    StoreError,
)
from flowkit.events import Event
from flowkit.ports import Message
from flowkit.ports import World as Chances
from flowkit.values import Codec
from tests.scenario.kit import VirtualLoop
from tests.simulation.after import look_again
from tests.simulation.fates import LIMITS, fated, limited
from tests.simulation.faults import Link, Lots, Oracle
from tests.simulation.guarded import answer
from tests.simulation.process import Died, Outcome, Process, Violation, World
from tests.simulation.programs import Program
from tests.simulation.promises import RUN, Peace, attempts, check, journal_of

PER_PROGRAM = 16
"""Scenarios that share one program, and its run in peace."""

HEARD_AFTER = 2
"""Appends until a cancellation is in the journal: one brings it along, the next one has it."""

STUCK_S = 6000.0
"""Virtual seconds in which every run must have ended."""

LEASE_S = 30.0
LIVES_MAX = 40


@dataclass(frozen=True)
class Report:
    """What one scenario came to."""

    seed: int
    faults: Counter[str]
    outcome: Outcome
    events: int
    lives: int
    zombies: int
    digest: str
    """Of the whole journal: two replays of a seed have the same."""


def simulate(seed: int) -> Report:
    """Play the scenario of a seed; raises `Violation` that says what was broken."""
    made, before = peace(seed // PER_PROGRAM)
    chance = random.Random(seed)
    backend = "trio" if seed % 2 else "asyncio"
    lots = Lots.of(chance)
    people = People.of(random.Random(f"people {seed}"), before)
    world, lives = play(Scenario(made, chance, lots, seed, people), backend)
    events = check(world, made, before)
    if world.unheard > HEARD_AFTER + lots.counts.total():
        world.accuse(f"it went on for {world.unheard} appends after somebody had cancelled it")
    if world.violations:
        told = "\n  ".join(world.violations[:8])
        raise Violation(
            f"seed {seed} ({backend}), {made}, faults {dict(lots.counts)}:\n  {told}\n"
            f"replay it: python -m tests.simulation --seed {seed}"
        )
    assert world.outcome is not None
    facts = [
        replace(event, payload=ev.CancelRequested(""))
        if type(event.payload) is ev.Claimed
        else event  # a pid
        for event in events
    ]
    told = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return Report(seed, lots.counts, world.outcome, len(events), lives, world.zombies, told)


@cache
def peace(seed: int) -> tuple[Program, Peace]:
    """A program, and its run without faults."""
    made = fated(seed)
    world, events = _calmly_played(made)
    free, found = world.outcome, journal_of(world)
    if made.traits.fate in LIMITS and found is not None:
        made = limited(made, *found)
        world, _ = _calmly_played(made)
    assert free is not None
    assert world.outcome is not None
    took_s = events[-1].at - events[0].at
    return made, Peace(world.outcome, free, attempts(events), took_s)


def _calmly_played(made: Program) -> tuple[World, Sequence[Event]]:
    calm = Scenario(made, random.Random(made.seed), Lots(random.Random(0), {}, 0), made.seed)
    world, _ = play(calm, "asyncio")
    events = check(world, made, None)
    if world.violations or world.outcome is None:
        told = "\n  ".join(world.violations)
        raise Violation(f"{made}, without any fault (seed {made.seed * PER_PROGRAM}):\n  {told}")
    return world, events


def play(scenario: Scenario, backend: str) -> tuple[World, int]:
    """Run the scenario on an event loop with virtual time and seeded schedules."""
    if backend == "trio":
        from trio._core import _run

        setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010  (final, for types)
        _run._r.seed(scenario.seed)
        options: dict[str, Any] = {"clock": trio.testing.MockClock(autojump_threshold=0)}
    else:
        options = {"loop_factory": VirtualLoop}
    return anyio.run(scenario.play, backend=backend, backend_options=options)


@dataclass(frozen=True)
class People:
    """What people make of a run, apart from what it waits for: drawn apart, so the rest of a seed stays."""

    cancel_s: float | None = None
    """When somebody cancels it."""
    give_up: bool = False
    """They decide that an effect has failed, and leave a quarantined run alone."""
    denies: bool = False
    """Two of them answer questions, and do not agree."""
    look_again: bool = False
    """They come back when it has ended."""

    @classmethod
    def of(cls, chance: random.Random, before: Peace) -> People:
        cancels = chance.random() < 0.15
        at = chance.random() * (before.took_s * 1.3 + 1)
        give_up, look_again = chance.random() < 0.25, chance.random() < 0.3
        return cls(at if cancels else None, give_up, chance.random() < 0.2, look_again)


class Scenario:
    """Processes that live and die in a world, until the run has ended."""

    def __init__(
        self, made: Program, chance: random.Random, lots: Lots, seed: int,
        people: People | None = None,
    ) -> None:  # fmt: skip
        self.made = made
        self.people = people or People()
        self.workflow: Workflow[str, str] = made.workflow
        self.chance = chance
        self.lots = lots
        self.seed = seed
        self.lives = 0
        self.standby = lots.left > 0 and chance.random() < 0.3

    async def play(self) -> tuple[World, int]:
        self.world = world = World(self.chance)
        self.oracle = Oracle(self.lots)
        self.living = world.living
        before = {task.id for task in anyio.get_running_tasks()}
        try:
            with anyio.fail_after(STUCK_S):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._post_signals)
                    tasks.start_soon(self._decide_unknown)
                    tasks.start_soon(self._cancel)
                    answers = random.Random(f"answers {self.seed}")
                    tasks.start_soon(answer, world, RUN, answers, self.people.denies)
                    async with anyio.create_task_group() as programs:
                        programs.start_soon(self._keep_alive, "a")
                        if self.standby:
                            programs.start_soon(self._keep_alive, "b")
                    tasks.cancel_scope.cancel()
                if world.outcome is not None and self.people.look_again:
                    await look_again(world, self.made, self.oracle)
        except TimeoutError:
            world.accuse(f"the run did not end within {STUCK_S} s after {self.lives} lives")
        if left := {task.id for task in anyio.get_running_tasks()} - before:
            world.accuse(f"{len(left)} tasks were left")
        return world, self.lives

    async def _keep_alive(self, name: str) -> None:
        """Start the program again whenever it dies, as a supervisor does."""
        while not self.world.over:
            self.lives += 1
            process = Process(self.world, f"{name}{self.lives}")
            self.living.append(process)
            try:
                await self._live(process)
            except BaseException as error:
                if not _is_death(process, error):
                    raise
            finally:
                self.living.remove(process)
            if not self.world.over:
                await anyio.sleep(self.chance.choice((0, 0, 1, 20, 45)))

    async def _live(self, process: Process) -> None:
        """One life: an engine, and a client that wants the result."""
        numbers = iter(range(10**9))
        draws = random.Random(self.chance.random())
        chances = Chances(
            self.world.now, draws.random, lambda: f"id-{process.name}-{next(numbers)}"
        )
        link = Link(process, self.lots)
        with process.scope:
            try:
                async with Engine(
                    link, workflows=[self.workflow], model=self.oracle, recover=True, world=chances,
                    resources=[process], lease_s=LEASE_S, poll_s=8.0, suspend_after_s=3.0,
                ) as engine:  # fmt: skip
                    process.engine = engine
                    async with anyio.create_task_group() as tasks:
                        if self.lots.draw("death at a time"):
                            tasks.start_soon(self._kill_later, process)
                        tasks.start_soon(self._watch, engine, process)
                        await self._want(engine, process)
                        tasks.cancel_scope.cancel()
                    hosting = engine._hosting
                if not process.dead and hosting is not None:
                    self._check_empty(hosting)
            except* StoreError:
                pass  # it could not even begin: the supervisor starts it again

    def _check_empty(self, hosting: Any) -> None:
        rooms = [room for room in hosting.kit.limiters.values() if room.borrowed_tokens]
        if hosting.drivers or hosting._taking or rooms or hosting.kit.threads.borrowed_tokens:
            self.world.accuse(
                f"an engine was left with {hosting.drivers}, {hosting._taking}, {rooms}"
            )

    async def _kill_later(self, process: Process) -> None:
        await anyio.sleep(self.chance.choice((0.0, 0.4, 2, 6, 15, 31)) * self.chance.random())
        process.kill()

    async def _want(self, engine: Engine, process: Process) -> None:
        """Ask for the result until there is one."""
        world = self.world
        while not world.over:
            try:
                value = await engine.run(
                    self.workflow, "t", run_id=RUN, budget=self.made.traits.budget,
                    deadline_s=self.made.traits.deadline_s,
                )  # fmt: skip
                self._end("succeeded", value)
            except RunError as error:
                await self._ended(engine, error)
            except JournalConflict as error:
                world.accuse(f"{process.name}: {error}")
                self._end("JournalConflict", None)
            except (StoreError, ResumeError):
                await anyio.sleep(4)

    async def _ended(self, engine: Engine, error: RunError) -> None:
        quarantined = isinstance(error, RunQuarantined)
        if isinstance(error, RunCancelled) or (quarantined and self.people.give_up):
            self._end(type(error).__name__, str(error))
        elif quarantined:
            self.world.faults["quarantined"] += 1
            await _calmly(engine.retry)
        elif self.world.broken and self.made.traits.fragile:
            self.world.broken = False
            await _calmly(engine.retry)
        elif self.made.traits.fragile and "broken until" in str(error):
            await _calmly(engine.retry)
        else:
            self._end(type(error).__name__, str(error))

    def _end(self, how: str, value: object) -> None:
        outcome = (how, value)
        if self.world.outcome not in (None, outcome):
            self.world.accuse(f"two clients were told {self.world.outcome} and {outcome}")
        self.world.outcome = outcome
        self.world.over = True

    async def _watch(self, engine: Engine, process: Process) -> None:
        """What a client was shown must be in the journal for ever."""
        after = 0
        while True:
            try:
                async for event in engine.handle(RUN).events(after):
                    after = event.seq
                    known = self.world.acknowledged.setdefault(event.seq, event)
                    if known != event:
                        self.world.accuse(f"event {event.seq} was {known}, and then {event}")
                return
            except (StoreError, ResumeError):
                await anyio.sleep(10)

    # ---- the world outside

    async def _post_signals(self) -> None:
        idle = [f"idle{number}" for number in range(self.chance.choice((0, 2, 4)))]
        for name in [*idle, *self.made.traits.signals]:
            await anyio.sleep(self.chance.choice((0, 0, 1, 10, 40)))
            value = Codec(Any, "signal").dump(f"word for {name}")
            await self._post(Message(f"signal-{name}", "signal", name, value))

    async def _post(self, message: Message) -> None:
        while RUN not in self.world.store._runs:  # noqa: ASYNC110  (it is no process of ours)
            await anyio.sleep(1)
        for _ in range(self.chance.choice((1, 1, 2))):  # the same message twice is once
            await self.world.store.post(RUN, message)

    async def _cancel(self) -> None:
        if self.people.cancel_s is not None:
            await anyio.sleep(self.people.cancel_s)
            self.world.cancelled = True
            await self._post(Message("cancel", "cancel", "that is enough"))
            self.world.cancelling = True

    async def _decide_unknown(self) -> None:
        """Look what became of an effect, and decide: only when no process may still be at it."""
        decided: Counter[str] = Counter()
        while True:
            await anyio.sleep(15)
            run = self.world.store._runs.get(RUN)
            if run is None or run.status != "waiting":
                continue
            state = fold(await self.world.store.load(RUN))
            for step, slot in list(state.unknown.items()):
                if any(each.is_haunted(RUN) for each in self.living):
                    continue  # a zombie may still be at it
                key = f"{RUN}/{slot.exec}/{slot.alternative}"
                happened = bool(self.world.effects[key])
                how = "done" if happened else "repeat"
                if self.people.give_up and not self.made.traits.fragile:  # that is tried again
                    how = "fail"
                    self.world.given_up.add(slot.exec)
                value = Codec(str, "done").dump(self.world.values[step]) if happened else None
                decided[step] += 1
                await self.world.store.post(
                    RUN,
                    Message(
                        f"decide-{step}-{state.seq}", "decide", step, value,
                        how,
                    ),
                )  # fmt: skip


def _is_death(process: Process, error: BaseException) -> bool:
    """Whether a process ended since it was killed, with whatever its nodes raised at that moment."""
    if not process.dead:
        return False
    if not isinstance(error, BaseExceptionGroup):
        return isinstance(error, Died | SystemExit)
    group = cast("BaseExceptionGroup[BaseException]", error)
    return group.split((Died, SystemExit))[1] is None


async def _calmly(retry: Callable[[str], Any]) -> None:
    try:
        await retry(RUN)
    except (StoreError, ResumeError):
        await anyio.sleep(2)


__all__ = ["PER_PROGRAM", "RUN", "People", "Report", "Violation", "peace", "simulate"]
