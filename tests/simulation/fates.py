"""Why a run ends without a result: steps that fail for good, verdicts that never come, limits that are too low.

Half the programs have a fate. It is drawn apart from the rest, which stays what it is without.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import anyio

from flowkit import Context, Fatal, Ref, Reject, Replan, workflow
from flowkit.events import Event
from flowkit.nodes import Findings, Plan, planner, tool, verifier
from flowkit.policy import Budget
from flowkit.state import State
from tests.simulation.guarded import guard
from tests.simulation.process import Process
from tests.simulation.programs import Maker, Program, Text, program, short

LIMITS: Final = ("budget", "deadline")
"""Fates that are set when it is known what the run takes without them."""


def fated(seed: int) -> Program:
    """The program of a seed, and perhaps why it ends without a result."""
    own = random.Random(f"fate {seed}")
    fate = own.choice((*DOOMS, *LIMITS, *LIMITS)) if own.random() < 0.5 else ""

    def close(maker: Maker, text: Text, output: Text) -> Text:
        output = guard(maker, text, output)
        if fate not in DOOMS or maker.traits.fragile:
            return output
        chance, maker.chance = maker.chance, own
        doomed = DOOMS[fate](maker, own.choice([text, *maker.made]))
        maker.chance = chance
        return maker.join(output, doomed)

    made = program(seed, close)
    # Who mends a fragile run tries it again, whatever it has failed of; a loose one may take less.
    if not made.traits.fragile and not (fate in LIMITS and made.traits.loose):
        made.traits.fate = fate
    return made


def limited(made: Program, state: State, events: Sequence[Event]) -> Program:
    """The same, with less than it took without limits."""
    own, traits = random.Random(f"limit {made.seed}"), made.traits
    if traits.fate == "deadline":
        took = max(event.at for event in events) - events[0].at
        return replace(made, traits=replace(traits, deadline_s=0.1 + took * own.random()))
    used = {
        "steps_max": state.steps_used, "attempts_max": state.attempts_used,
        "turns_max": state.turns_used, "tool_calls_max": state.tool_calls_used,
    }  # fmt: skip
    limits = [name for name in used if used[name] > 1]
    if not limits:
        return replace(made, traits=replace(traits, fate=""))
    name = own.choice(limits)
    limit: dict[str, Any] = {name: own.randrange(1, used[name])}
    budget = replace(traits.budget or Budget(), **limit)
    return replace(made, traits=replace(traits, budget=budget))


# ---- steps that fail for good


def _fails(maker: Maker, a: Text) -> Text:
    """All alternatives are tried, and none helps."""
    one = maker.failing("hopeless")
    return (one | maker.failing("hopeless"))(a) if maker.chance.random() < 0.4 else one(a)


def _fatal(maker: Maker, a: Text) -> Text:
    """What runs beside it is stopped at once, effects too."""
    name, nap = maker.name("fatal"), maker.pick(0, 1, 4)

    async def act(ctx: Context, text: str) -> str:
        ctx.resource(Process).begin(ctx, (text,))
        await anyio.sleep(nap)
        raise Fatal("nothing can help")

    return (tool(name=name, retries=2)(act) | maker.tool("spare"))(a)


def _exits(maker: Maker, a: Text) -> Text:
    name = maker.name("exits")

    async def act(ctx: Context, text: str) -> str:
        ctx.resource(Process).begin(ctx, (text,))
        raise SystemExit(3)

    return tool(name=name)(act)(a)


def _late(maker: Maker, a: Text) -> Text:
    name, own = maker.name("stuck"), maker.pick(0, 1)

    async def act(ctx: Context, text: str) -> str:
        ctx.resource(Process).begin(ctx, (text,))
        await anyio.sleep(1000)
        return text

    return tool(name=name, timeout_s=5, retries=own, backoff_s=0.5)(act)(a)


def _never(maker: Maker, a: Text) -> Text:
    """A verifier that accepts nothing."""
    name, attempts = maker.name("strict"), maker.pick(1, 2, 3)

    async def check(ctx: Context, text: str) -> None:
        ctx.resource(Process).begin(ctx, (text,))
        raise Reject("not good enough")

    return verifier(name=name)(check)(maker.tool("draft")(a), attempts=attempts)


def _inner(maker: Maker, a: Text) -> Text:
    first, second = maker.tool(), maker.failing("hopeless")
    name = maker.name("inner")

    def inner(text: Ref[str]) -> Ref[str]:
        return second(first(text))

    inner.__name__ = name
    return workflow(inner)(a)


def _planned(maker: Maker, a: Text) -> Text:
    """A planner whose plans fail, or do not hold, oftener than it may plan anew."""
    name, worst, most = maker.name("gather"), maker.failing("hopeless"), maker.pick(0, 1)
    doubts = maker.chance.random() < 0.3
    maker.traits.loose = maker.traits.loose or doubts

    async def doubt(ctx: Context, text: str) -> str:
        ctx.resource(Process).begin(ctx, (text,))
        raise Replan("this does not hold")

    doubter = tool(name=maker.name("doubt"))(doubt)

    async def gather(ctx: Context, text: str) -> Plan:
        ctx.resource(Process).begin(ctx, (text,))
        turn = len(ctx.turns) + 1
        second = doubter if doubts else worst
        return Plan([worst.step(f"{text}{turn}", id="one"), second.step(f"{turn}", id="two")])

    async def sum_up(ctx: Context, found: Findings) -> str:
        return short(*found.items())

    made = planner(name=name, tools=[worst, doubter], replans_max=most)(gather)(a)
    return tool(name=maker.name("total"))(sum_up)(made)


def _asks_on(maker: Maker, a: Text) -> Text:
    """A planner that never answers, until its turns are used up."""
    name, good = maker.name("endless"), maker.tool("planned")

    async def ask(ctx: Context, text: str) -> Plan | str:
        ctx.resource(Process).begin(ctx, (text,))
        turn = len(ctx.turns) + 1
        return Plan([good.step(f"{text}{turn}", id=f"s{turn}")], again=True)

    return planner(name=name, tools=[good], turns_max=maker.pick(1, 3))(ask)(a)


DOOMS: Final[Mapping[str, Callable[[Maker, Text], Text]]] = {
    "fails": _fails, "fatal": _fatal, "exits": _exits, "late": _late, "never": _never, "inner": _inner,
    "planned": _planned, "endless": _asks_on,
}  # fmt: skip
