"""What outlives a simulated process, and the process: a world with a ledger, and one life in it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio

import flowkit.events as ev
from flowkit import Context, Engine
from flowkit.events import Event
from flowkit.store import MemoryStore
from tests.scenario.kit import BASE

ENDS = (ev.StepDone, ev.Planned, ev.Accepted, ev.Rejected, ev.AttemptFailed)
"""What ends an attempt."""

Attempt = tuple[str, int, int]
Outcome = tuple[str, object]
"""How a run ended, or the name of its error, and its result, or the error's text."""


class Violation(AssertionError):
    """A promise that was broken."""


class Died(BaseException):
    """This process is dead: nothing that it does reaches anybody any more."""


@dataclass
class World:
    """What is outside every process: the disk, the clock, the ledger of effects, and what was seen."""

    chance: random.Random
    ahead_s: float = 0.0
    """How far the wall clock has been moved."""
    broken: bool = True
    over: bool = False
    outcome: Outcome | None = None
    cancelled: bool = False
    """Somebody has asked for the run's end."""
    cancelling: bool = False
    """What they asked is in the inbox, and not yet in the journal."""
    unheard: int = 0
    """Appends from then on, up to the one that has it."""
    given_up: set[str] = field(default_factory=set[str])
    """Steps that somebody has decided to have failed."""
    denied: set[str] = field(default_factory=set[str])
    """Steps that somebody has said no to, if only among others."""
    faults: Counter[str] = field(default_factory=Counter[str])
    finished: set[Attempt] = field(default_factory=set[Attempt])
    """Attempts whose outcome is on disk."""
    effects: Counter[str] = field(default_factory=Counter[str])
    values: dict[str, str] = field(default_factory=dict[str, str])
    """What an effect gave, by step."""
    given: dict[tuple[str, int], object] = field(default_factory=dict[tuple[str, int], object])
    keys: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    begun: Counter[Attempt] = field(default_factory=Counter[Attempt])
    asked: Counter[str] = field(default_factory=Counter[str])
    """How often a probe was asked, by step."""
    living: list[Process] = field(default_factory=list["Process"])
    acknowledged: dict[int, Event] = field(default_factory=dict[int, Event])
    violations: list[str] = field(default_factory=list[str])
    zombies: int = 0

    def __post_init__(self) -> None:
        self.store = MemoryStore(now=self.now)

    def now(self) -> float:
        return BASE + anyio.current_time() + self.ahead_s

    def accuse(self, text: str) -> None:
        self.violations.append(text)

    def recorded(self, events: Any) -> None:
        """Events that are on disk now."""
        if self.cancelling:
            self.unheard += 1
            self.cancelling = all(type(each.payload) is not ev.CancelRequested for each in events)
        for event in events:
            if isinstance(event.payload, ENDS):
                self.finished.add((event.key, event.alternative, event.attempt))


@dataclass(eq=False)
class Process:
    """One life of a program: an engine, until somebody kills it."""

    world: World
    name: str
    dead: bool = False
    epoch: int = 0
    """Of its last claim; it is a zombie when the run has another one."""
    engine: Engine | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def kill(self) -> None:
        self.dead = True
        self.scope.cancel()

    def check(self) -> None:
        if self.dead:
            raise Died

    def drives(self) -> bool:
        """Whether attempts of it may still be under way."""
        hosting = self.engine._hosting if self.engine is not None else None
        return hosting is not None and bool(hosting.drivers)

    def is_owner(self, run_id: str) -> bool:
        run = self.world.store._runs.get(run_id)
        return run is not None and run.epoch == self.epoch

    def is_over(self, run_id: str) -> bool:
        """Whether the run's end is on disk, so that nothing of it may happen any more."""
        run = self.world.store._runs.get(run_id)
        return run is not None and run.status in ev.FINAL

    def is_haunted(self, run_id: str) -> bool:
        """Whether attempts of a process that has lost the run may still be under way."""
        return any(each.drives() and not each.is_owner(run_id) for each in self.world.living)

    def ask(self, ctx: Context, given: tuple[object, ...]) -> None:
        """A probe's first word: it must be given what the effect was given, and its key."""
        place = (ctx.step, ctx.alternative)
        if self.dead or not self.is_owner(ctx.run_id):
            return
        self.world.asked[ctx.step] += 1
        known = (self.world.given.get(place), self.world.keys.get(place))
        if known != (None, None) and known != ((given, ctx.feedback), ctx.idempotency_key):
            self.world.accuse(f"the probe of {place} was given {given}, its effect {known}")

    def begin(self, ctx: Context, given: tuple[object, ...], *, inside: bool = False) -> None:
        """A node's first word: it must not have ended, and must be given what it was given before."""
        if self.dead:
            return
        world, place = self.world, (ctx.step, ctx.alternative)
        if not self.is_owner(ctx.run_id):
            world.zombies += 1
            return
        if self.is_over(ctx.run_id):
            world.accuse(f"{place} began after the run's end")
        if inside:
            return
        attempt = (*place, ctx.attempt)
        world.begun[attempt] += 1
        if attempt in world.finished:
            world.accuse(f"{attempt} ran again, though its outcome was on disk")
        seen = (given, ctx.feedback)
        if world.given.setdefault(place, seen) != seen:
            world.accuse(f"{place} was given {seen}, before that {world.given[place]}")
        key = ctx.idempotency_key
        if world.keys.setdefault(place, key) != key:
            world.accuse(f"{place} has the idempotency key {key}, before that {world.keys[place]}")

    def effect(self, ctx: Context, value: str) -> None:
        """Something happens outside that cannot be taken back."""
        if self.dead:
            return
        if self.is_owner(ctx.run_id) and self.is_over(ctx.run_id):
            self.world.accuse(f"effect {ctx.idempotency_key} happened after the run's end")
        self.world.effects[ctx.idempotency_key] += 1
        self.world.values[ctx.step] = value
