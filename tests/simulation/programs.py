"""Random workflows, each a function of its seed: every kind of node, and what goes wrong in them by themselves.

A step's value is a digest of what it was given, so that a wrong input anywhere changes the result. What a
step does depends on its inputs and the number of its attempt alone; what chance decides (whether a signal
comes before its time is over) never enters a value.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from flowkit import Context, Ref, Reject, Replan, Retry, workflow
from flowkit.dsl import Workflow
from flowkit.nodes import AnyNode, Findings, Plan, Planner, planner, tool, verifier
from flowkit.policy import Budget
from tests.simulation.process import Process

Text = Ref[str]


@dataclass
class Traits:
    """What of a program a check must know."""

    kinds: set[str] = field(default_factory=set[str])
    signals: list[str] = field(default_factory=list[str])
    budget: Budget | None = None
    fragile: bool = False
    """A step fails until the world is mended, and the run is tried again."""
    loose: bool = False
    """Which steps run depends on the schedule, though the result does not."""
    fate: str = ""
    """Why it ends without a result, if it does."""
    deadline_s: float | None = None


@dataclass(frozen=True)
class Program:
    seed: int
    workflow: Workflow[str, str]
    traits: Traits

    def __str__(self) -> str:
        return f"program {self.seed}: {len(self.workflow.graph.steps)} steps, {sorted(self.traits.kinds)}"


def short(*parts: object) -> str:
    """A digest of what a step was given."""
    return hashlib.sha256("\0".join(str(part) for part in parts).encode()).hexdigest()[:10]


def rounds(ctx: Context) -> int:
    """Which round of its step this is."""
    _, _, number = ctx.step.rpartition("@")
    return int(number) if number.isdigit() else 1


class Maker:
    """Draws nodes, and places them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.traits = Traits()
        self.made: list[Text] = []
        self.count = 0
        self.large = self.chance.random() < 0.1
        """Values too large for the journal, or attempts with a time limit: both would meet in one."""

    def name(self, kind: str) -> str:
        self.count += 1
        self.traits.kinds.add(kind)
        return f"{kind}{self.count}"

    def pick(self, *choices: Any) -> Any:
        return self.chance.choice(choices)

    # ---- tools

    def tool(self, kind: str = "tool", *, inner: Any = None) -> Any:
        """A tool of one text that may fail at first, take time, wait, ask the model or call another."""
        name = self.name(kind)
        fails, nap, extra = self.pick(0, 0, 0, 1, 2), self.pick(0, 0, 0.3, 2, 9), ""
        error: Any = self.pick(ConnectionError, lambda: Retry(4), SystemExit, ValueError)
        if inner is None and not fails and kind in ("tool", "planned", "draft"):
            extra = self.pick("", "", "", "sleep", "signal", "timeout", "call", "model", "late")
        if extra == "signal" and kind != "tool":
            extra = "timeout"
        if extra == "signal":
            self.traits.signals.append(name)
        late = extra == "late" and not self.large
        helper = self.tool("helper", inner=True) if extra == "call" else None
        size = 70_000 if self.large and self.chance.random() < 0.3 else 0
        if extra:
            self.traits.kinds.add(extra)

        async def act(ctx: Context, text: str) -> str:
            process = ctx.resource(Process)
            process.begin(ctx, (text,), inside=inner is not None)
            if nap:
                await anyio.sleep(nap)
            if inner is None and ctx.attempt <= fails:
                raise error()
            if late and ctx.attempt == 1:
                await anyio.sleep(60)
            said = await extra_work(ctx, extra, name, helper, text)
            return short(name, text, said) + "!" * (rounds(ctx) - 1) + "." * size

        retries = max(fails, 1 if late else 0)
        limit = self.pick(None, 1, 2) if inner is None else None
        declare = tool(
            name=name, retries=retries, backoff_s=0.5, timeout_s=15 if late else None,
            concurrency=limit, effect=self.pick("idempotent", "pure"),
        )  # fmt: skip
        return declare(act)

    def failing(self, kind: str = "broken") -> Any:
        """A tool that always fails."""
        name, nap = self.name(kind), self.pick(0, 1)

        async def act(ctx: Context, text: str) -> str:
            ctx.resource(Process).begin(ctx, (text,))
            await anyio.sleep(nap)
            raise ConnectionError("down")

        return tool(name=name, retries=self.pick(0, 1), backoff_s=1)(act)

    def once(self) -> Any:
        """An effect that must not happen twice; one that gets stuck is stopped by its time limit."""
        name, before, after = self.name("once"), self.pick(0, 1, 5), self.pick(0, 1, 5)
        own = random.Random(
            f"{self.seed} {name}"
        )  # drawn apart: the rest of a seed stays what it was
        stuck = own.choice(("", "", "before", "after"))
        probe = self.probe(name, own) if own.random() < 0.7 else None
        if probe is not None:
            self.traits.kinds.add("probe")

        async def act(ctx: Context, text: str) -> str:
            process = ctx.resource(Process)
            process.begin(ctx, (text,))
            first = process.world.begun[ctx.step, ctx.alternative, ctx.attempt] == 1
            await anyio.sleep(60 if first and stuck == "before" else before)
            value = short(name, text)
            process.effect(ctx, value)
            await anyio.sleep(60 if first and stuck == "after" else after)
            return value

        declare: Any = tool
        return declare(name=name, effect="once", timeout_s=20 if stuck else None, probe=probe)(act)

    def probe(self, name: str, own: random.Random) -> Any:
        """Looks for what an effect left in the world. At first it may not be able to tell."""
        blind, nap, hangs = own.choice((0, 0, 1, 3)), own.choice((0, 1, 6)), own.random() < 0.3

        async def look(ctx: Context, text: str) -> str | None:
            process = ctx.resource(Process)
            process.ask(ctx, (text,))
            await anyio.sleep(nap)
            if process.world.asked[ctx.step] <= blind:
                await anyio.sleep(90 if hangs else 0)
                raise ConnectionError("the books are closed")
            if process.is_haunted(ctx.run_id):
                raise ConnectionError("somebody may still be at it")
            happened = process.world.effects[ctx.idempotency_key] > 0
            return process.world.values[ctx.step] if happened else None

        look.__name__ = f"look-{name}"
        return look

    def fragile(self) -> Any:
        name = self.name("fragile")
        self.traits.fragile = True

        async def act(ctx: Context, text: str) -> str:
            process = ctx.resource(Process)
            process.begin(ctx, (text,))
            if process.world.broken:
                raise ConnectionError("broken until somebody mends it")
            return short(name, text)

        return tool(name=name)(act)

    # ---- what is placed

    def place_tool(self, a: Text) -> Text:
        return self.tool()(a)

    def place_once(self, a: Text) -> Text:
        return self.once()(a)

    def place_fallback(self, a: Text) -> Text:
        return (self.failing() | self.tool("spare"))(a)

    def place_map(self, a: Text) -> Text:
        size, name = self.pick(0, 1, 3, 5), self.name("split")

        async def split(ctx: Context, text: str) -> list[str]:
            ctx.resource(Process).begin(ctx, (text,))
            return [f"{short(text)}{index}" for index in range(size)]

        joined = self.name("join")

        async def join(ctx: Context, texts: list[str]) -> str:
            ctx.resource(Process).begin(ctx, tuple(texts))
            return short(joined, *texts)

        items: Any = self.tool("item")
        if self.chance.random() < 0.3:
            items = self.failing() | items
        made = tool(name=name)(split)(a)
        return tool(name=joined)(join)(items.map(made))

    def place_verified(self, a: Text) -> Text:
        made = self.tool("draft")(a)
        checks = self.pick(1, 1, 2)
        for _ in range(checks):
            made = self.verifier()(made, attempts=4)
        return made

    def verifier(self) -> Any:
        """Rejects the first rounds; it may fail first."""
        name, wanted, fails = self.name("check"), self.pick(0, 1, 2), self.pick(0, 0, 1)
        nap = self.pick(0, 2)

        async def check(ctx: Context, text: str) -> None:
            ctx.resource(Process).begin(ctx, (text,))
            await anyio.sleep(nap)
            if ctx.attempt <= fails:
                raise ConnectionError("the judge was away")
            if text.count("!") < wanted:
                raise Reject(f"{name} wants it louder")

        return verifier(name=name, retries=fails)(check)

    def place_subflow(self, a: Text) -> Text:
        first, second = self.tool(), self.pick(self.tool, self.once)()
        name = self.name("inner")

        def inner(text: Ref[str]) -> Ref[str]:
            return second(first(text))

        inner.__name__ = name
        return workflow(inner)(a)

    def place_planner(self, a: Text) -> Text:
        """A planner in code, asked several times; steps may fail, or want another plan."""
        name, turns = self.name("planner"), self.pick(1, 2, 3)
        good, bad = self.tool("planned"), self.failing() | self.tool("spare")
        worst = self.failing("hopeless")
        doubts, fails = self.chance.random() < 0.2, self.chance.random() < 0.3
        self.traits.loose = self.traits.loose or doubts

        async def doubt(ctx: Context, text: str) -> str:
            ctx.resource(Process).begin(ctx, (text,))
            raise Replan("this does not hold")

        doubter = tool(name=self.name("doubt"))(doubt)

        async def ask(ctx: Context, text: str) -> Plan | str:
            ctx.resource(Process).begin(ctx, (text,))
            turn = len(ctx.turns) + 1
            if turn > turns:
                seen = [] if doubts else [f"{t.number}{dict(t.results)}" for t in ctx.turns]
                told = [] if doubts else [f"{f.id}{f.error}" for t in ctx.turns for f in t.failures]
                return short(name, text, *seen, *told, len(ctx.feedback)) + "!" * len(ctx.feedback)
            one = good.step(f"{text}{turn}", id="one")
            steps: list[Any] = [one, bad.step(one, id="two"), good.step(f"{turn}", id="three")]
            if fails:
                steps.append(worst.step(f"{turn}", id="four"))
            if doubts and turn == 1:
                steps.append(doubter.step(one, id="doubt"))
            return Plan(steps, again=True)

        asked = planner(name=name, tools=[good, bad, worst, doubter])(ask)(a)
        if self.chance.random() < 0.3:
            asked = self.place_check_once(asked)
        return asked

    def place_check_once(self, a: Text) -> Text:
        name = self.name("check")

        async def check(ctx: Context, text: str) -> None:
            ctx.resource(Process).begin(ctx, (text,))
            if "!" not in text:
                raise Reject("once more")

        return verifier(name=name)(check)(a, attempts=3)

    def place_gather(self, a: Text) -> Text:
        """A planner that only plans, asked again after failures."""
        name, good, worst = self.name("gather"), self.tool("planned"), self.failing("hopeless")
        failing = self.pick(0, 1, 2)

        async def gather(ctx: Context, text: str) -> Plan:
            ctx.resource(Process).begin(ctx, (text,))
            turn = len(ctx.turns) + 1
            steps: list[Any] = [good.step(f"{text}{turn}", id=f"g{turn}")]
            if turn <= failing:
                steps.append(worst.step(text, id=f"h{turn}"))
            return Plan(steps)

        total = self.name("total")

        async def sum_up(ctx: Context, found: Findings) -> str:
            ctx.resource(Process).begin(ctx, tuple(found.of(good).values()))
            return short(total, *found.items(), *(each.id for each in found.failures))

        made = planner(name=name, tools=[good, worst], replans_max=2)(gather)(a)
        return tool(name=total)(sum_up)(made)

    def place_agent(self, a: Text) -> Text:
        """The ready-made planner: the model calls tools for some turns, then answers."""
        name, good, turns = self.name("agent"), self.tool("called"), self.pick(1, 2, 4)
        bad = self.failing("hopeless")
        made: Planner[str, str] = Planner(
            f"agent {turns} {good.name} {bad.name}", name=name, takes=str, returns=str,
            tools=[good, bad],
        )  # fmt: skip
        return made(a)

    def place_fragile(self, a: Text) -> Text:
        return a if self.traits.fragile else self.fragile()(a)

    def join(self, a: Text, b: Text) -> Text:
        name = self.name("both")

        async def both(ctx: Context, one: str, other: str) -> str:
            ctx.resource(Process).begin(ctx, (one, other))
            return short(name, one, other)

        return tool(name=name)(both)(a, b)

    def body(self, text: Text) -> Text:
        kinds: Sequence[tuple[Callable[[Text], Text], float]] = (
            (self.place_tool, 6), (self.place_once, 1.5), (self.place_fallback, 2), (self.place_map, 2),
            (self.place_verified, 2), (self.place_subflow, 1.5), (self.place_planner, 1.5),
            (self.place_gather, 1), (self.place_agent, 1.5), (self.place_fragile, 0.3),
        )  # fmt: skip
        makers, weights = [kind for kind, _ in kinds], [weight for _, weight in kinds]
        made, loose = self.made, list[Text]()
        for _ in range(self.chance.choice((1, 2, 3, 4, 6))):
            source = self.chance.choice([text, *made])
            step = self.chance.choices(makers, weights)[0](source)
            if step is source:
                continue
            loose = [each for each in loose if each is not source]
            made.append(step)
            loose.append(step)
        loose = loose or [self.place_tool(text)]
        output = loose[0]
        for other in loose[1:]:
            output = self.join(output, other)
        return output


async def extra_work(ctx: Context, extra: str, name: str, helper: AnyNode | None, text: str) -> str:
    """What a tool does beside reckoning."""
    match extra:
        case "sleep":
            await ctx.sleep(30)
        case "signal":
            return str(await ctx.signal(name, returns=str))
        case "timeout":
            try:
                await ctx.signal(f"never-{name}", timeout_s=20)
            except TimeoutError:
                return "late"
        case "call":
            assert helper is not None
            first = await ctx.call(helper, text)
            return f"{first}{await ctx.call(helper, text)}"
        case "model":
            return await ctx.model.complete(f"say something about {text[:20]}")
        case _:
            pass
    return ""


def program(seed: int, close: Callable[[Maker, Text, Text], Text] | None = None) -> Program:
    """The workflow of a seed; `close` adds to its input and its output what comes last."""
    maker = Maker(seed)

    def random_flow(text: Ref[str]) -> Ref[str]:
        output = maker.body(text)
        return output if close is None else close(maker, text, output)

    made = workflow(random_flow)
    if maker.chance.random() < 0.3:
        maker.traits.budget = Budget(parallel_max=maker.chance.choice((1, 2, 3)))
    return Program(seed, made, maker.traits)
