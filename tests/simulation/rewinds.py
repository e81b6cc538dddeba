"""Random workflows that are forked at random steps, or deployed anew in the middle.

A step's value depends on its inputs alone, so whatever is done again comes to the same result; and what is
said to be reused must not run.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio

import flowkit.events as ev
from flowkit import Engine
from flowkit.approval import open_questions
from flowkit.changes import OnChange
from flowkit.errors import ResumeError, StepFailed, VersionMismatch
from flowkit.ports import Message
from flowkit.ports import World as Chances
from flowkit.store import MemoryStore
from flowkit.values import Codec
from tests.scenario.kit import VirtualLoop, crashed
from tests.simulation.faults import Link, Lots, Oracle
from tests.simulation.guarded import guard
from tests.simulation.process import Process, Violation, World
from tests.simulation.programs import Program, program
from tests.simulation.scenario import RUN, STUCK_S, Scenario

CALM = 0
"""Faults that strike: none; what is done again is the disturbance here."""


@dataclass(frozen=True)
class Rewound:
    """What a scenario came to: how it went back, where, and how many attempts ran."""

    seed: int
    how: str
    where: str
    ran: int


def rewind(seed: int) -> Rewound | None:
    """Play the scenario of a seed; None where a "once" effect forbids it. Raises `Violation`."""
    return anyio.run(
        _rewind, seed, backend="asyncio", backend_options={"loop_factory": VirtualLoop}
    )


async def _rewind(seed: int) -> Rewound | None:
    chance = random.Random(seed)
    made = program(seed // 4, guard)
    world, _ = await Scenario(made, random.Random(seed // 4), _calm(), seed).play()
    if world.violations or world.outcome is None or world.outcome[0] != "succeeded":
        raise Violation(f"seed {seed}: {made}, in peace: {world.outcome}, {world.violations}")
    events = (await world.store.load(RUN)).events
    if chance.random() < 0.5:
        return await _fork(seed, chance, made, world, events)
    return await _deploy(seed, chance, made, world, events)


async def _fork(
    seed: int, chance: random.Random, made: Program, before: World, events: Any
) -> Rewound:
    """Do a random step again, in a fork of the run or of its fork."""
    where = chance.choice(sorted({event.key for event in events if event.key}))
    world, result = await _forked(chance, made, before.store, where, RUN, "f")
    if chance.random() < 0.3:
        world, result = await _forked(chance, made, before.store, where, "f", "g")
    ran = {key for key, _, _ in world.begun}
    if where not in ran | _agents(made) and not made.traits.loose:
        raise Violation(f"seed {seed}, fork at {where}: it did not run")
    if wrong := {_declared(key) for key in ran} - _behind(made, _declared(where)):
        raise Violation(
            f"seed {seed}, fork at {where}: {sorted(wrong)} ran, which do not rest on it"
        )
    return _judged(seed, f"fork at {where}", made, before, world, result)


async def _forked(
    chance: random.Random, made: Program, store: MemoryStore, where: str, run: str, new: str
) -> tuple[World, str]:
    """What a fork came to, and the ledger of what ran in it."""
    world = _world(chance, store)
    async with _engine(world, made) as engine:
        await engine.fork(run, at=where, new_id=new)
        result = await _result(engine, new, made)
    return world, result


async def _deploy(
    seed: int, chance: random.Random, made: Program, before: World, events: Any
) -> Rewound | None:
    """Change the code of a random node at a random moment, and resume."""
    on_change: OnChange = chance.choice(("rerun", "rerun", "keep"))
    head = chance.randrange(2, len(events))
    name = chance.choice(sorted(made.workflow.nodes))
    again = program(seed // 4, guard)
    again.workflow.nodes[name].version = "2"
    store = await crashed(before.store, RUN, head)
    world = _world(chance, store)
    async with _engine(world, again, on_change) as engine:
        plan = await engine.plan_resume(RUN)
        if plan.refusal:
            try:
                await engine.resume(RUN)
            except VersionMismatch:
                return None
            raise Violation(f"seed {seed}: {plan.refusal}, but it was resumed")
        await engine.take(RUN)
        result = await _result(engine, RUN, again)
    own = (await store.load(RUN)).events
    how = f"{on_change} of {name} after {head} events"
    reused = {step.step for step in plan.steps if step.action == "reuse"}
    rerun = {step.step for step in plan.steps if step.action == "rerun"}
    ran = {key for key, _, _ in world.begun}
    if wrong := reused & ran:
        raise Violation(f"seed {seed}, {how}: {sorted(wrong)} ran, though said to be reused")
    missed = {key for key in rerun if key in _steps(own)} - ran - _agents(made)
    if missed and not made.traits.loose:
        raise Violation(f"seed {seed}, {how}: {sorted(missed)} did not run again")
    return _judged(seed, how, made, before, world, result)


def _declared(key: str) -> str:
    """The declared step that a round, a turn, an item or a planned step belongs to."""
    parts = [part.partition("@")[0] for part in key.split("/")]
    return "/".join(parts[:2] if parts[0].startswith("inner") else parts[:1])


def _behind(made: Program, where: str) -> set[str]:
    """Declared steps that may rest on one, by a walk of their graph: its own verdicts, and readers."""
    found, todo = {where}, [where]
    while todo:
        key = todo.pop()
        for step in made.workflow.graph.steps:
            judges = step.key == key and step.checks  # a verdict opens rounds of what it judges
            for other in (judges, step.key if key in (*step.reads(), step.checks) else ""):
                if other and other not in found:
                    found.add(other)
                    todo.append(other)
    return found


def _agents(made: Program) -> set[str]:
    """Steps whose nodes tell nobody that they run: those of the ready-made planner."""
    return {f"{name}/t{n}" for name in made.workflow.nodes for n in range(1, 9) if "agent" in name}


def _steps(events: Any) -> set[str]:
    return {event.key for event in events if isinstance(event.payload, ev.StepDone)}


def _judged(
    seed: int, how: str, made: Program, before: World, world: World, result: str
) -> Rewound:
    if world.violations:
        raise Violation(f"seed {seed}, {how}: {world.violations[:5]}")
    if ("succeeded", result) != before.outcome:
        raise Violation(f"seed {seed}, {made}, {how}: came to {result}, not {before.outcome}")
    return Rewound(seed, how.split()[0], how, len(world.begun))


def _world(chance: random.Random, store: MemoryStore) -> World:
    world = World(chance, broken=False)
    world.store = store
    return world


def _calm() -> Lots:
    return Lots(random.Random(0), {}, CALM)


@asynccontextmanager
async def _engine(
    world: World, made: Program, on_change: OnChange = "refuse"
) -> AsyncGenerator[Engine, None]:
    process = Process(world, "p")
    numbers = iter(range(10**9))
    chances = Chances(world.now, world.chance.random, lambda: f"id-{next(numbers)}")
    link = Link(process, _calm())
    with anyio.fail_after(STUCK_S):
        async with Engine(
            link, workflows=[made.workflow], model=Oracle(_calm()), world=chances, resources=[process],
            on_change=on_change, poll_s=8.0, suspend_after_s=3.0,
        ) as engine:  # fmt: skip
            yield engine


async def _result(engine: Engine, run_id: str, made: Program) -> str:
    """The run's result; signals and decisions come again, as those that were given stay behind."""

    async def post() -> None:
        for n in range(1000):
            await anyio.sleep(7)
            _, state = await engine.state(run_id)
            for step in list(state.unknown):
                with suppress(ResumeError):  # its probe was faster
                    await engine.decide(run_id, step, "repeat")
            for question in open_questions(state):
                await engine.approve(run_id, question.step)
            for name in made.traits.signals:
                if state.waits.get(name):
                    value = Codec(Any, "signal").dump(f"word for {name}")
                    await engine.store.post(
                        run_id, Message(f"again-{n}-{name}", "signal", name, value)
                    )

    result = ""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post)
        try:
            result = await engine.handle(run_id).result()
        except StepFailed:  # before the world was mended
            result = await (await engine.retry(run_id)).result()
        tasks.cancel_scope.cancel()
    return result
