"""`Context` as a run gives it to a node: a window on the run, through which everything is journaled."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, overload

import anyio

import flowkit.events as ev
from flowkit.approval import why
from flowkit.asking import Asking, JournaledModel, read_answer
from flowkit.chat import Delta, ModelAnswer, Usage
from flowkit.errors import ContextOverflow, FlowkitError
from flowkit.events import Fact, StepView
from flowkit.node import AnyNode, Context
from flowkit.plan import Failure, Findings, Planned, Turn
from flowkit.policy import Policy
from flowkit.ports import Artifacts, Model, World
from flowkit.slot import Slot, TurnState, Wait
from flowkit.state import State
from flowkit.values import Artifact, Codec, Value, combine

T = TypeVar("T")

log = logging.getLogger("flowkit")

_OVERFLOW = ContextOverflow.__name__


class Values(Protocol):
    """Reads the values of a run."""

    def load(self, slot: Slot) -> Any: ...
    def text(self, slot: Slot) -> str: ...
    async def inline(self, value: Value) -> Value: ...


class Run(Protocol):
    """What a context needs of the run that it belongs to."""

    run_id: str
    state: State
    world: World
    artifacts: Artifacts
    models: Sequence[Model]
    model_policy: Policy
    nodes: Mapping[str, AnyNode]
    resources: Sequence[object]

    @property
    def values(self) -> Values: ...

    async def commit(self, facts: Sequence[Fact]) -> None: ...
    async def call(self, node: AnyNode, ctx: Context, args: Sequence[Any]) -> ev.ToolAnswered: ...
    async def wait_signal(self, wait: Wait) -> None: ...
    def untimed(self, slot: Slot) -> AbstractContextManager[None]: ...
    def publish(self, fact: Fact) -> None: ...


@dataclass(frozen=True)
class Turns(Sequence[Turn]):
    """A planner's turns, each built when it is looked at."""

    slot: Slot
    values: Values

    def __len__(self) -> int:
        return len(self.slot.planning.turns) if self.slot.planning else 0

    @overload
    def __getitem__(self, index: int) -> Turn: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Turn]: ...
    def __getitem__(self, index: int | slice) -> Turn | Sequence[Turn]:
        turns = self.slot.planning.turns if self.slot.planning else []
        if isinstance(index, slice):
            return [self._turn(turn) for turn in turns[index]]
        return self._turn(turns[index])

    def _turn(self, turn: TurnState) -> Turn:
        done = {step_id(child): child for child in turn.children if child.status == "settled"}
        overflows = [
            each
            for each in turn.said
            if each.error and each.error.type == _OVERFLOW and each.purpose in ("", "summary")
        ]
        return Turn(
            turn.number,
            [
                Planned(step_id(child), child.step.nodes[0], child.step.inputs)
                for child in turn.children
            ],
            _Read(done, self.values.load),
            failures(turn),
            turn.feedback,
            _Read(done, self.values.text),
            turn.calls,
            len(overflows),
            lambda: answers(turn),
        )


@dataclass(frozen=True, repr=False)
class _Read(Mapping[str, Any]):
    """Values of slots by step id, each made when it is looked at."""

    slots: Mapping[str, Slot]
    read: Callable[[Slot], Any]

    def __getitem__(self, key: str) -> Any:
        return self.read(self.slots[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)

    def __repr__(self) -> str:  # it may go into a prompt, and must be the same after a resume
        return repr(dict(self))


def answers(turn: TurnState) -> Mapping[str, ModelAnswer]:
    """What the model said in a turn, by purpose; the last of each."""
    said = [each for each in turn.said if each.error is None]
    return {each.purpose: read_answer(each.value.text or "") for each in said if each.value}


def step_id(slot: Slot) -> str:
    """The id that a planned step has in its plan."""
    return slot.key.rpartition("/")[2]


def failures(turn: TurnState) -> tuple[Failure, ...]:
    return tuple(
        Failure(step_id(child), child.step.nodes[0], child.error.type, child.error.message)
        for child in turn.failures()
        if child.error is not None
    )


def findings(slot: Slot, load: Callable[[Slot], Any]) -> Findings:
    """What a planner found, over all its turns; a later success stands for an earlier failure."""
    results: dict[str, Any] = {}
    tools: dict[str, str] = {}
    failed: dict[str, Failure] = {}
    for turn in slot.planning.turns if slot.planning else ():
        for failure in failures(turn):
            failed[failure.id] = failure
        for child in turn.children:
            if child.status == "settled":
                key = step_id(child)
                results[key], tools[key] = load(child), child.step.nodes[0]
                failed.pop(key, None)
    return Findings(results, tools, tuple(failed.values()))


class StepContext(Context):
    """One attempt's context."""

    def __init__(
        self, run: Run, slot: Slot, node: AnyNode, task: int, *, last_turn: bool = False
    ) -> None:
        self._run = run
        self._slot = slot
        self._node = node
        self._calls: dict[str, int] = {}
        self._waits: dict[str, int] = {}
        self._thread = threading.get_ident()
        self._task = task
        self.run_id = run.run_id
        self.step = slot.exec
        self.attempt = slot.attempt
        self.alternative = slot.alternative
        self.idempotency_key = f"{run.run_id}/{slot.exec}/{slot.alternative}"
        if (since := run.state.redone.get(slot.exec)) is not None:
            self.idempotency_key += f"/{since}"
        self.feedback = slot.feedback
        self.deadline = run.state.deadline
        self.last_turn = last_turn
        self.memo = slot.planning.memo if slot.planning is not None else {}
        self._model: JournaledModel | None = None

    def _models(self) -> Sequence[Model]:
        """Whom to ask, in order: a fork may have put another one first."""
        models, first = self._node.models or self._run.models, self._run.state.model
        return sorted(models, key=lambda model: model.name != first) if first else models

    @property
    def model(self) -> JournaledModel:
        if self._model is None:
            self._model = JournaledModel(
                Asking(
                    models=self._models(),
                    policy=self._run.model_policy,
                    tools=() if self.last_turn else self._node.tools,
                    world=self._run.world,
                    remember=self._remember_model,
                    on_delta=self._on_delta,
                    digests=self.memo.setdefault("digests", {}),
                    last_turn=self.last_turn,
                )
            )
        return self._model

    @property
    def turns(self) -> Sequence[Turn]:
        return Turns(self._slot, self._run.values)

    @property
    def turns_left(self) -> int:
        planning = self._slot.planning
        return (
            self._node.limits.turns_max - self._slot.turn + planning.before + 1 if planning else 0
        )

    def history(self) -> Sequence[StepView]:
        return self._run.state.views()

    def usage(self) -> Mapping[tuple[str, str], Usage]:
        return dict(self._run.state.spent)

    def progress(self, data: Any) -> None:
        fact = self._fact(ev.Progress(data))
        if threading.get_ident() == self._thread:
            self._run.publish(fact)
        else:
            import anyio.from_thread  # who tells from a thread has loaded it anyway

            anyio.from_thread.run_sync(self._run.publish, fact)

    def _on_delta(self, piece: Delta) -> None:
        said = {"delta": piece.text, "reasoning": piece.reasoning}
        self._run.publish(
            self._fact(ev.Progress({name: text for name, text in said.items() if text}))
        )

    async def artifact(
        self, data: bytes | str | Path, *, name: str, media_type: str = "application/octet-stream"
    ) -> Artifact:
        if isinstance(data, Path):
            data = await anyio.Path(data).read_bytes()
        raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
        return Artifact(await self._run.artifacts.put(raw), name, media_type, len(raw))

    async def read(self, artifact: Artifact) -> bytes:
        return await self._run.artifacts.get(artifact.sha256)

    def resource(self, kind: type[T]) -> T:
        for given in self._run.resources:
            if isinstance(given, kind):
                return given
        raise LookupError(
            f"the engine was given no {kind.__name__}: Engine(..., resources=[...]) injects what tools need."
        )

    async def sleep(self, seconds: float) -> None:
        wait = await self._wait("sleep", "", seconds)
        left = (wait.until or 0.0) - self._run.world.now()
        if wait.ended is None:
            with self._waits_for(wait):
                await anyio.sleep(max(left, 0.0))
                self._run.state.slept(wait)

    async def signal(self, name: str, *, timeout_s: float | None = None, returns: Any = Any) -> Any:
        codec = Codec(returns, f"signal {name}")
        until = None if timeout_s is None else self._run.world.now() + timeout_s
        while True:
            left = None if until is None else until - self._run.world.now()
            wait = await self._wait("signal", name, left)
            until = until if wait.until is None else wait.until
            with self._waits_for(wait):
                await self._run.wait_signal(wait)
            if wait.ended is None or wait.ended.timed_out:
                raise TimeoutError(f"no signal {name!r} came within {timeout_s} s")
            given = wait.ended.value
            try:
                return codec.load(
                    (await self._run.values.inline(given)).text or "" if given else "null"
                )
            except ValueError as error:  # no answer to the question that was asked: wait for one
                self.progress({"signal": name, "refused": str(error)})
                log.warning("run %s: signal %s is refused: %s", self.run_id, name, error)

    @contextmanager
    def _waits_for(self, wait: Wait) -> Generator[None]:
        """While an attempt waits: its clock stands still, and a wait that it gives up is told."""
        try:
            with self._run.untimed(self._slot):
                yield
        finally:
            if wait.ended is None:
                self._run.state.abandon(wait)

    async def _wait(self, reason: str, name: str, seconds: float | None) -> Wait:
        self._refuse_in_probe(f"ctx.{reason}")
        if self._node.policy.effect == "once":
            raise FlowkitError(
                f'{self._node.name!r} has effect="once" and cannot wait durably, since it would be begun '
                f"anew. Put the wait into a step of its own, before it."
            )
        if self._node.threaded is None and anyio.get_current_task().id != self._task:
            raise FlowkitError(
                f"{self._node.name!r} waits durably in a task beside its own, where nobody can tell what "
                f"else it does. Await ctx.{reason} in the node itself, or make it a step of its own."
            )
        n = self._waits[f"{reason} {name}"] = self._waits.get(f"{reason} {name}", 0) + 1
        known = self._find_wait(reason, name, n)
        if known is not None:
            if known.ended is None:
                await self._run.commit([self._fact(ev.Waiting(reason, name, n, known.until))])
            return known
        until = None if seconds is None else self._run.world.now() + seconds
        await self._run.commit([self._fact(ev.Waiting(reason, name, n, until))])
        made = self._find_wait(reason, name, n)
        if made is None:
            raise FlowkitError(f"the run ended while {self.step!r} began to wait")
        return made

    def _find_wait(self, reason: str, name: str, n: int) -> Wait | None:
        for wait in self._slot.waits or ():
            if (wait.reason, wait.name, wait.n) == (reason, name, n):
                return wait
        return None

    async def call(self, tool: AnyNode, /, *args: Any) -> Any:
        first = tool.alternatives[0]
        for each in tool.alternatives:
            if reason := why(each.policy.trust, self._run.state):
                raise FlowkitError(
                    f"{each.name!r} needs a person's approval, since {reason}: make it a step of its own, so "
                    f"that somebody can be asked before it begins."
                )
            if each.policy.effect == "once":
                raise FlowkitError(
                    f'{each.name!r} has effect="once": make it a step of its own, so that a crash inside '
                    f"it can be told."
                )
        codecs = list(first.codecs().items())
        if len(args) != len(codecs):
            raise TypeError(f"{first.name!r} takes {len(codecs)} inputs, got {len(args)}")
        texts = [codec.dump(arg).text or "" for (_, codec), arg in zip(codecs, args, strict=True)]
        request = combine([first.name, *texts])

        async def make(n: int) -> ev.ToolAnswered:
            inner = copy.copy(self)  # two calls are two effects, so each has a key of its own
            inner.idempotency_key = f"{self.idempotency_key}/{first.name}-{request}-{n}"
            made = await self._run.call(tool, inner, args)
            marks = {mark for each in tool.alternatives for mark in each.policy.trust.marks}
            return replace(made, request=request, n=n, marks=tuple(sorted(marks)))

        answered = cast(ev.ToolAnswered, await self._remember(request, make))
        if answered.error is not None:
            raise FlowkitError(f"{answered.tool!r} failed: {answered.error}")
        codec = first.codec()
        if answered.value is None or answered.value.text is None or codec is None:
            return None
        return codec.load(answered.value.text)

    async def _remember_model(
        self, request: str, make: Callable[[int], Awaitable[ev.ModelAnswered]]
    ) -> ev.ModelAnswered:
        return cast(ev.ModelAnswered, await self._remember(request, make))

    async def _remember(
        self, request: str, make: Callable[[int], Awaitable[ev.ModelAnswered | ev.ToolAnswered]]
    ) -> ev.ModelAnswered | ev.ToolAnswered:
        """What the journal has of this call in this attempt; else make it and journal it."""
        self._refuse_in_probe("ctx.model and ctx.call")
        n = self._calls[request] = self._calls.get(request, 0) + 1
        known = (self._slot.calls or {}).get((request, n))
        if known is not None:
            return (
                replace(known, value=await self._run.values.inline(known.value))
                if known.value
                else known
            )
        made = await make(n)
        await self._run.commit([self._fact(made)])
        return made

    def _refuse_in_probe(self, what: str) -> None:
        """A probe is asked anew, and looks anew: the journal must neither answer it nor keep it."""
        if self._node.kind == "probe":
            why = "a probe asks the world, not the journal: by a client of ctx.resource(...)"
            raise FlowkitError(f"{self._node.name!r} uses {what}, but {why}.")

    def _fact(self, payload: ev.Payload) -> Fact:
        return Fact(payload, self.step, self.alternative, self.attempt)
