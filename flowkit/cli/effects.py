"""A ledger of effects outside the journal: every execution of every step is a line in a file.

It proves what the journal promises: a step that had finished is not run again. The line is written
before the step's own code, so that no execution can escape it.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flowkit.events as ev
from flowkit.chat import ModelAnswer, ModelRequest, OnDelta
from flowkit.events import Event
from flowkit.node import AnyNode, Context
from flowkit.ports import Model

MODEL = "model"


@dataclass(frozen=True, slots=True)
class Effect:
    """One execution: the step's key with its round, alternative, attempt, and the process."""

    step: str
    alternative: int
    attempt: int
    pid: int


class EffectLedger:
    """Appends one line for each execution; such a write is whole even if the process is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, step: str, alternative: int = 0, attempt: int = 0) -> None:
        line = json.dumps([step, alternative, attempt, os.getpid()]) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def read(self) -> list[Effect]:
        if not self.path.exists():
            return []
        return [Effect(*json.loads(line)) for line in self.path.read_text().splitlines()]


# ---- what the journal and the ledger say together

Attempt = tuple[str, int, int]
"""Key with its round or turn, alternative, attempt."""

FINISHED, IN_FLIGHT, NOT_BEGUN = "finished", "in flight", "not begun"


def ended_attempts(events: Sequence[Event]) -> frozenset[Attempt]:
    """The attempts whose outcome the journal holds."""
    ends = (ev.StepDone, ev.Planned, ev.Accepted, ev.Rejected, ev.AttemptFailed)
    return frozenset(
        (event.key, event.alternative, event.attempt)
        for event in events
        if isinstance(event.payload, ends)
    )


@dataclass(frozen=True, slots=True)
class Count:
    """How often a step ran in the process that was killed, and after it."""

    step: str
    state: str
    before: int
    after: int
    verdict: str
    wrong: bool


def count(effects: Sequence[Effect], killed: int, ended: AbstractSet[Attempt]) -> list[Count]:
    """Judge each step: what had ended ran once; what was in flight may run once more; nothing else."""
    runs: dict[str, dict[Attempt, list[bool]]] = {}
    for each in effects:
        attempt = (each.step, each.alternative, each.attempt)
        runs.setdefault(each.step, {}).setdefault(attempt, []).append(each.pid == killed)
    return [_count(step, attempts, ended) for step, attempts in runs.items()]


def _count(step: str, attempts: Mapping[Attempt, list[bool]], ended: AbstractSet[Attempt]) -> Count:
    before = sum(sum(times) for times in attempts.values())
    after = sum(len(times) for times in attempts.values()) - before
    flying = [attempt for attempt, times in attempts.items() if any(times) and attempt not in ended]
    wrong = any(
        len(times) != 1 if attempt not in flying else sorted(times) not in ([True], [False, True])
        for attempt, times in attempts.items()
    )
    state = IN_FLIGHT if flying else FINISHED if before else NOT_BEGUN
    verdict = "once" if len(attempts) == 1 else f"once for each of {len(attempts)} attempts"
    if flying and after:
        verdict = "again: its outcome was not yet on disk"
    return Count(step, state, before, after, "WRONG: too often" if wrong else verdict, wrong)


# ---- writing the ledger

Hold = Callable[[Context], Awaitable[None]]


def with_ledger(workflow: Any, ledger: EffectLedger, hold: Hold | None = None) -> Any:
    """The same workflow, every node of which writes to the ledger; `hold` is called after each.

    Types, graph and fingerprints stay, so that a run of the one can be resumed with the other.
    """
    twin = copy.copy(workflow)
    twin.nodes = {name: _with_ledger(node, ledger, hold) for name, node in workflow.nodes.items()}
    return twin


def _with_ledger(node: AnyNode, ledger: EffectLedger, hold: Hold | None) -> AnyNode:
    twin = copy.copy(node)
    function = node.threaded

    async def run(ctx: Context, *args: Any) -> Any:
        ledger.write(ctx.step, ctx.alternative, ctx.attempt)
        result = await node.run(ctx, *args)
        if hold is not None:
            await hold(ctx)
        return result

    def threaded(ctx: Context, *args: Any) -> Any:
        assert function is not None
        ledger.write(ctx.step, ctx.alternative, ctx.attempt)
        return function(ctx, *args)

    if function is None:
        setattr(twin, "run", run)  # noqa: B010  (an instance's own run, in place of its class's)
    else:
        setattr(twin, "function", threaded)  # noqa: B010
    return twin


class CountedModel:
    """A model whose every request is a line in the ledger."""

    def __init__(self, model: Model, ledger: EffectLedger) -> None:
        self._model = model
        self._ledger = ledger

    @property
    def name(self) -> str:
        return self._model.name

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        self._ledger.write(MODEL)
        return await self._model.respond(request, on_delta=on_delta)

    async def aclose(self) -> None:
        close = getattr(self._model, "aclose", None)
        if close is not None:
            await close()
