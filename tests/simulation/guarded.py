"""Steps that a person must be asked for, the persons, and a ledger's own rule: nothing without a yes.

A third of the programs ends with such a step, because it always asks, or since the run has taken in private
data and a stranger's text by then. It is drawn apart from the rest, which stays what it is without.
"""

from __future__ import annotations

import random
from typing import Any

import anyio

import flowkit.events as ev
from flowkit import Approve, Context, Ref, workflow
from flowkit.approval import Approval, Question, open_questions
from flowkit.engine import fold
from flowkit.nodes import Plan, planner, tool
from flowkit.ports import Message
from flowkit.store.rules import read_events
from flowkit.values import Codec, parse
from tests.simulation.process import Process, World
from tests.simulation.programs import Maker, Text, extra_work, rounds, short

SHAPES = ("plain", "fallback", "map", "inner", "verified", "planned")


def guard(maker: Maker, text: Text, output: Text) -> Text:
    """The end of a program, perhaps with a step that asks."""
    own = random.Random(f"guard {maker.seed}")
    if own.random() >= 1 / 3:
        return output
    kept, maker.chance = maker.chance, own
    shape, always = own.choice(SHAPES), own.random() < 0.5
    if not always:
        maker.traits.kinds.add("tainted")
        output = _source(maker, "page", untrusted_output=True)(
            _source(maker, "customer", reads_private=True)(output)
        )
    made = _placed(maker, shape, always, output)
    maker.chance = kept
    maker.traits.kinds.add(f"guarded {shape}")
    return made


def _source(maker: Maker, kind: str, **trust: Any) -> Any:
    name = maker.name(kind)

    async def act(ctx: Context, text: str) -> str:
        ctx.resource(Process).begin(ctx, (text,))
        return short(name, text)

    declare: Any = tool
    made: Any = declare(name=name, **trust)(act)
    return made


def _effect(maker: Maker, always: bool, *, fails: int, once: bool = True) -> Any:
    """A tool with an effect outside, which may wait, call or ask a model before it."""
    name, nap = maker.name("guarded"), maker.pick(0, 1, 4)
    extra = maker.pick("", "sleep", "timeout", "call", "model")
    helper = maker.tool("helper", inner=True) if extra == "call" else None
    once = once and not fails and extra in ("", "call") and maker.pick(True, False)

    if once:
        maker.traits.kinds.add("once")

    async def act(ctx: Context, text: str) -> str:
        process = ctx.resource(Process)
        process.begin(ctx, (text,))
        judge(process, ctx)
        await anyio.sleep(nap)
        if ctx.attempt <= fails:
            raise ConnectionError("down")
        said = await extra_work(ctx, extra, name, helper, text)
        value = short(name, text, said) + "!" * (rounds(ctx) - 1)
        if once:
            process.effect(ctx, value)
        return value

    asks: Any = Approve("always", valid_s=10**6) if always else Approve(valid_s=10**6)
    declare: Any = tool
    made: Any = declare(
        name=name, effect="once" if once else "pure", retries=min(fails, 1), backoff_s=0.5, external_effect=True,
        approve=asks, concurrency=maker.pick(None, 1),
    )  # fmt: skip
    return made(act)


def _placed(maker: Maker, shape: str, always: bool, a: Text) -> Text:
    # An effect is done in one round only, and one given up by persons would be a planner's observation.
    once = shape not in ("verified", "planned")
    step = _effect(maker, always, fails=maker.pick(0, 0, 1), once=once)
    match shape:
        case "fallback":
            return (_effect(maker, always, fails=9) | step)(a)
        case "map":
            return _mapped(maker, step, a)
        case "inner":
            name = maker.name("inner")

            def inner(text: Ref[str]) -> Ref[str]:
                return step(text)

            inner.__name__ = name
            return workflow(inner)(a)
        case "verified":
            return maker.verifier()(step(a), attempts=4)
        case "planned":
            return _planned(maker, step, a)
        case _:
            return step(a)


def _mapped(maker: Maker, step: Any, a: Text) -> Text:
    split, join = maker.name("split"), maker.name("join")

    async def cut(ctx: Context, text: str) -> list[str]:
        ctx.resource(Process).begin(ctx, (text,))
        return [f"{short(text)}{index}" for index in range(3)]

    async def joined(ctx: Context, texts: list[str]) -> str:
        ctx.resource(Process).begin(ctx, tuple(texts))
        return short(join, *texts)

    return tool(name=join)(joined)(step.map(tool(name=split)(cut)(a)))


def _planned(maker: Maker, step: Any, a: Text) -> Text:
    name = maker.name("planner")

    async def ask(ctx: Context, text: str) -> Plan | str:
        ctx.resource(Process).begin(ctx, (text,))
        if not ctx.turns:
            return Plan([step.step(text, id="effect")], again=True)
        return short(name, *ctx.turns[-1].results.values())

    return planner(name=name, tools=[step])(ask)(a)


# ---- the persons


async def answer(world: World, run_id: str, chance: random.Random, denies: bool) -> None:
    """Look for questions and answer them: late, twice, two of them at once, and some for nobody."""
    number = 0
    old: list[str] = []
    while True:
        await anyio.sleep(chance.choice((0.5, 2, 9, 20)))
        run = world.store._runs.get(run_id)
        if run is None:
            continue
        for question in open_questions(fold(await world.store.load(run_id))):
            ahead = f"{question.name.rpartition('/')[0]}/{chance.randrange(200)}"
            names = [question.name, *chance.choices([*old, ahead], k=chance.choice((0, 0, 1)))]
            chance.shuffle(names)
            old.append(question.name)
            no = denies and can_deny(question)
            if no:
                world.denied.add(question.step)
            for name in names:
                for says in chance.sample((True, False), 2) if no else (True, True):
                    number += 1
                    said = _answer(f"answer-{run_id}-{number}", name, says)
                    await world.store.post(run_id, said)


def can_deny(question: Question) -> bool:
    """Whether a no ends the run with that step: it is no planner's observation, nor a part of others."""
    return "/" not in question.step


NO = "eve said no. Not today."


def _answer(id: str, name: str, says: bool) -> Message:
    value = Approval(True, "ann") if says else Approval(False, "eve", "Not today.")
    return Message(id, "signal", name, Codec(Approval, "approval").dump(value))


def judge(process: Process, ctx: Context) -> None:
    """Accuse an attempt that nobody has allowed, by what is on disk of this run alone."""
    if process.dead or not process.is_owner(ctx.run_id):
        return
    rows = process.world.store._rows[ctx.run_id]
    asked: dict[str, tuple[str, int]] = {}
    allowed: dict[tuple[str, int], bool] = {}
    for event in read_events(ctx.run_id, rows, rows[0][0] - 1):
        match event.payload:
            case ev.Waiting(reason="approval", name=name):
                asked[name] = (event.key, event.alternative)
            case ev.Signalled(name=name, value=value) if name in asked:
                said: Any = parse(value.text) if value is not None and value.text else {}
                allowed[asked.pop(name)] = said.get("approved") is True
            case ev.Decided(how="retry"):
                allowed.clear()
            case _:
                pass
    if not allowed.get((ctx.step, ctx.alternative)):
        process.world.accuse(f"{ctx.step}/{ctx.alternative} began, and nobody had said yes")
