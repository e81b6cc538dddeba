"""The workflows that are measured, and how one is run on a fresh file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel

from flowkit import Context, Engine, Ref, Workflow, workflow
from flowkit.nodes import Plan, planner, tool
from flowkit.store import SqlStore

TEXT_BYTES = 2048

MESSAGE = "What to do next, as a model would put it. ".ljust(TEXT_BYTES, "m")
RESULT = "What the tool has found. ".ljust(TEXT_BYTES, "r")


class Message(BaseModel):
    """What a model step says, and what a tool step gives: 2 KB of text."""

    text: str


class Count(BaseModel):
    n: int


def chain(turns: int, told: Callable[[str], object] | None = None) -> Workflow[Message, Message]:
    """Turns of one model step of 2 KB (a plan that carries it) and one tool step of 2 KB.

    `told` is called with each step's key as it executes.
    """
    tell = told or _nobody

    @tool
    async def act(ctx: Context, message: Message) -> Message:
        tell(ctx.step)
        return Message(text=RESULT)

    @planner(tools=[act], turns_max=turns + 1)
    async def plan(ctx: Context, start: Message) -> Plan | Message:
        tell(ctx.step)
        if len(ctx.turns) == turns:
            return Message(text="done")
        return Plan([act.step(Message(text=MESSAGE))], again=True)

    @workflow
    def chained(start: Ref[Message]) -> Ref[Message]:
        return plan(start)

    return chained


def fanout(text: str) -> Workflow[Count, list[Message]]:
    """A list of n items, and a trivial tool mapped over it, each of whose results is this text."""

    @tool
    async def items(ctx: Context, count: Count) -> list[Count]:
        return [Count(n=number) for number in range(count.n)]

    @tool
    async def look_up(ctx: Context, item: Count) -> Message:
        return Message(text=text)

    @workflow
    def fanned(count: Ref[Count]) -> Ref[list[Message]]:
        return look_up.map(items(count))

    return fanned


class Letter(BaseModel):
    n: int
    text: str


def line(steps: int) -> Workflow[Letter, Letter]:
    """So many steps, one after the other; each passes its text on, and counts."""

    @tool
    async def add(ctx: Context, letter: Letter) -> Letter:
        return Letter(n=letter.n + 1, text=letter.text)

    @workflow
    def lined(letter: Ref[Letter]) -> Ref[Letter]:
        for number in range(1, steps + 1):
            letter = add(letter, id=f"add-{number}")
        return letter

    return lined


def lattice(steps: int) -> Workflow[Count, Count]:
    """So many declared steps; each reads two before it, so that nothing is without use."""

    @tool
    async def first(ctx: Context, count: Count) -> Count:
        return count

    @tool
    async def join(ctx: Context, one: Count, other: Count) -> Count:
        return Count(n=one.n + other.n)

    @workflow
    def latticed(count: Ref[Count]) -> Ref[Count]:
        before, last = count, first(count)
        for number in range(1, steps):
            before, last = last, join(last, before, id=f"join-{number}")
        return last

    return latticed


Waiting: TypeAlias = Workflow[Count, Count]


def waiting() -> Waiting:
    """A run that waits for a signal."""

    @tool
    async def ask(ctx: Context, count: Count) -> Count:
        await ctx.signal("answer")
        return count

    @workflow
    def asked(count: Ref[Count]) -> Ref[Count]:
        return ask(count)

    return asked


def _nobody(step: str) -> None:
    """Nobody is told."""


async def timed_run(path: Path, flow: Workflow[Any, Any], value: BaseModel) -> float:
    """Seconds that a run takes in an engine and a file that are open."""
    async with SqlStore(path) as store, Engine(store, workflows=[flow]) as engine:
        began = time.perf_counter()
        await engine.run(flow, value, run_id="measured")
        return time.perf_counter() - began
