"""What has ended stays ended: whoever looks at it afterwards, and whatever still comes for it."""

from __future__ import annotations

import random
from typing import Any

import anyio

from flowkit import Engine
from flowkit.errors import ResumeError, RunError
from flowkit.ports import Message, Model
from flowkit.ports import World as Chances
from flowkit.values import Codec
from tests.simulation.faults import Link, Lots
from tests.simulation.process import Outcome, Process, World
from tests.simulation.programs import Program
from tests.simulation.promises import RUN

LOOKS_S = 70.0
"""Longer than a lease, and several times as long as an engine's look for work."""


async def look_again(world: World, made: Program, model: Model) -> None:
    """Another life, in which people post to the run, and ask for its result and for its end again."""
    rows, begun, effects = list(world.store._rows[RUN]), world.begun.copy(), world.effects.copy()
    value = Codec(Any, "late").dump("too late")
    for message in (
        Message("late-signal", "signal", "nothing", value), Message("late-cancel", "cancel", "now"),
        *(Message(f"late-{step}", "decide", step, None, "repeat") for step in {k for k, _, _ in begun}),
    ):  # fmt: skip
        await world.store.post(RUN, message)
    process = Process(world, "later")
    world.living.append(process)
    chances = Chances(world.now, random.Random(0).random, lambda: "later")
    link = Link(process, Lots(random.Random(0), {}, 0))
    async with Engine(
        link, workflows=[made.workflow], model=model, recover=True, world=chances, resources=[process],
        poll_s=8.0, suspend_after_s=3.0,
    ) as engine:  # fmt: skip
        await anyio.sleep(LOOKS_S)
        found = await _asked(engine, made)
        if found[0] in ("succeeded", "RunCancelled"):
            try:
                await engine.retry(RUN)
                world.accuse(f"it came to {found}, and was tried again")
            except ResumeError:
                pass
    world.living.remove(process)
    if found != world.outcome:
        world.accuse(f"it had come to {world.outcome}, and then to {found}")
    if list(world.store._rows[RUN]) != rows:
        world.accuse(f"after its end its journal grew from {len(rows)} events")
    if (world.begun, world.effects) != (begun, effects):
        world.accuse(f"after its end these ran: {world.begun - begun}, {world.effects - effects}")


async def _asked(engine: Engine, made: Program) -> Outcome:
    traits = made.traits
    try:
        value = await engine.run(
            made.workflow, "t", run_id=RUN, budget=traits.budget, deadline_s=traits.deadline_s
        )
    except RunError as error:
        return type(error).__name__, str(error)
    return "succeeded", value
