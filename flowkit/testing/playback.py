"""Nodes and models that give back what a recording has, in place of what they stand for.

A tool gives its recorded outcome and is not run. Planners and verifiers run for real, on a context that
gives them the recorded answers of models, results of calls, and signals; nothing waits.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.lowlevel

import flowkit.events as ev
from flowkit.asking import CONTEXT_TOKENS, JournaledModel, read_answer
from flowkit.chat import ChatMessage, ModelAnswer, ModelRequest, OnDelta, Usage
from flowkit.dsl import Workflow
from flowkit.errors import Retry
from flowkit.events import Error, Event, StepView
from flowkit.node import AnyNode, Context, ModelHandle
from flowkit.plan import Turn
from flowkit.policy import Policy, Trust
from flowkit.ports import Windowed
from flowkit.testing import words
from flowkit.testing.compare import difference
from flowkit.testing.raising import model_error, raised_as, raised_then, retried_after
from flowkit.testing.recording import Asked, Called, Outcome, Recorded
from flowkit.testing.twin import Attempt, place
from flowkit.values import Artifact, Codec, combine, parse

T = TypeVar("T")

Models = Sequence[tuple[str, int]]
"""Names of models in order of preference, and how long a conversation each takes, in tokens."""

AFTER_ALL_S: Final = 1e9

IN_ORDER_S: Final = 1.0
"""How long an outcome waits for one that was recorded before it and does not come."""


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who asks a model now."""

    place: Attempt
    purpose: str
    handle: ModelHandle


class Playback:
    """A recording while it is given back: what is left of it, and where the replay differed."""

    def __init__(
        self, recorded: Recorded, workflow: Workflow[Any, Any], run: Collection[str]
    ) -> None:
        self.recorded = recorded
        self.run = frozenset(run)
        self.over = anyio.Event()
        """Set where the replay cannot go on, or has come to where the recording stops."""
        self.differences: list[str] = []
        self.now = recorded.record.created_at
        """The time, which is that of what was given back last."""
        self.asked: list[Asked] = []
        self.called: list[Called] = []
        self.asking: ContextVar[_Asking] = ContextVar("asking")
        self.ends = 0
        """How often the run has ended in the replay."""
        self._fallbacks = workflow.fallbacks
        self._used: set[int] = set()
        stand_ins = {name for name, node in workflow.nodes.items() if self.stands_in(node)}
        self._line = deque(
            at
            for at, outcome in recorded.outcomes.items()
            if outcome.node in stand_ins or recorded.was_set(at)
        )
        self._at_turn: set[Attempt] = set()
        self._loose = False
        self._delayed = False
        """Whether a retry was not due yet, or just due, when the run ended."""
        self._moved = anyio.Event()

    def stands_in(self, node: AnyNode) -> bool:
        """Whether a node is not run."""
        return node.kind == "tool" and node.name not in self.run

    async def hold(self, ctx: Context) -> None:
        """Keep back an attempt that had not begun when the run ended: delays are over at once only here."""
        at, ends = place(ctx), self.recorded.end_seqs[self.ends :]
        outcome = self.recorded.outcomes.get(at)
        if ends and (outcome.event.seq > ends[0] if outcome else self.recorded.in_flight(at)):
            await ctx.sleep(AFTER_ALL_S)  # durably, so that the run may end meanwhile

    # ---- differences

    def differ(self, text: str) -> None:
        """Note a difference; from then on nothing waits for its turn."""
        self.differences.append(text)
        self._loose = True
        self._moved.set()

    async def stop(self, text: str) -> NoReturn:
        """Note a difference after which the recording has nothing to give back."""
        self.differ(text)
        self.over.set()
        await anyio.sleep_forever()
        raise AssertionError("unreachable: it sleeps until it is cancelled")

    async def lack(self, at: Attempt, text: str) -> NoReturn:
        """Where the recording has nothing: it just ends there, or the replay does something else."""
        if self.recorded.in_flight(at):
            await anyio.sleep_forever()
        await self.stop(f"{words.where(at)}: {text}")

    def _use(self, event: Event) -> None:
        self._used.add(event.seq)
        self.now = max(self.now, event.at)

    # ---- tools

    async def give(self, ctx: Context, node: AnyNode, args: Sequence[Any]) -> Any:
        """The recorded outcome of an attempt of a tool."""
        at = place(ctx)
        outcome = self.recorded.outcomes.get(at)
        if outcome is None:
            told = words.inputs(list(node.takes), _texts(node, args))
            await self.lack(at, f"tool {node.name} is called with {told}; it was not recorded")
        self.check_inputs(at, node, args)
        await self._wait_turn(at)
        self._use(outcome.event)
        if outcome.error is not None:
            raise self._raised(at, outcome, outcome.error)
        codec, text = node.codec(), outcome.value.text if outcome.value else None
        try:
            return codec.load(text or "null") if codec is not None else None
        except ValueError as error:
            await self.stop(
                f"{words.where(at)}: tool {node.name} gave {words.shown(text or '')}, which does not fit "
                f"its type any more: {error}"
            )

    def check_inputs(self, at: Attempt, node: AnyNode, args: Sequence[Any]) -> None:
        """Note whether a tool is called with other inputs than it was."""
        outcome = self.recorded.outcomes.get(at)
        if outcome is None:
            return
        if outcome.node != node.name:
            self.differ(f"{words.where(at)}: recorded tool {outcome.node}, now {node.name}")
            return
        before, now = _normal(node, outcome), _texts(node, args)
        if before == now:
            return
        names, called = list(node.takes), f"{words.where(at)}: "
        one, two = words.inputs(names, before), words.inputs(names, now)
        if (
            max(map(len, [*before, *now])) > words.SHOWN_MAX
        ):  # the place says more than the beginnings
            pairs = zip(names, before, now, strict=False)
            data = [(name, _data(one), _data(two)) for name, one, two in pairs]
            told = next((told for name, *both in data if (told := _where(name, *both))), two)
            called += f"tool {node.name} is called with other inputs than were recorded: {told}"
        else:
            called += f"the recorded run called tool {node.name} with {one}, now with {two}"
        self.differ(called)

    async def _wait_turn(self, at: Attempt) -> None:
        """Outcomes come in the order in which they were recorded, since that may decide what follows."""
        self._at_turn.add(at)
        self._move()
        while not self._loose and self._line and not self._is_next(at):
            with anyio.move_on_after(IN_ORDER_S) as late:
                await self._moved.wait()
            if late.cancelled_caught:
                self._loose = True
        if at in self._line:
            self._line.remove(at)
        self._pass_time()
        self._move()

    def _pass_time(self) -> None:
        """When nothing more comes before the run's end, it is the time of that end."""
        for seq in self.recorded.end_seqs[self.ends :][:1] if self._delayed else ():
            if all(self.recorded.outcomes[each].event.seq > seq for each in self._line):
                ends = (each.at for each in self.recorded.events if each.seq == seq)
                self.now = max(self.now, *ends)

    def _is_next(self, at: Attempt) -> bool:
        """What ends the run comes when all has begun that was under way then: nothing new starts after it."""
        outcome, ends = self.recorded.outcomes[at], self.recorded.ends[self.ends :]
        if self._line[0] != at or not ends:
            return self._line[0] == at
        if ends[0].step != at[0] or outcome.then not in ("fail", "fatal"):
            return True
        last = self.recorded.end_seqs[self.ends]
        before = (each for each in self._line if self.recorded.outcomes[each].event.seq < last)
        return self._at_turn.issuperset(before)

    def _move(self) -> None:
        """Let those look who wait for their turn."""
        self._moved.set()
        self._moved = anyio.Event()

    def _raised(self, at: Attempt, outcome: Outcome, error: Error) -> BaseException:
        """A recorded error as one that has the same name, the same text, and the same consequence."""
        node, then, (key, alternative, attempt) = outcome.node, outcome.then, at
        if then == "retry" and self.recorded.in_flight((key, alternative, attempt + 1)):
            self._delayed = True
            due = getattr(outcome.event.payload, "retry_at", None)
            return retried_after(error, (due or self.now) - self.now)
        moves = next((on for names, on in self._fallbacks.items() if node in names), (Exception,))
        return raised_then(error, then, last=outcome.last, moves=moves)

    # ---- what nodes ask

    async def answer(self, request: ModelRequest) -> ModelAnswer:
        """The recorded answer to a request: of the very same one, else of the next one in order."""
        asking = self.asking.get()
        at, handle = asking.place, asking.handle
        hash_ = handle.key(request) if isinstance(handle, JournaledModel) else ""
        self.asked.append(Asked(at, hash_, request))
        left = [
            (event, cast(ev.ModelAnswered, event.payload))
            for event in self.recorded.answers.get(at, ())
            if event.seq not in self._used
        ]
        left = [each for each in left if each[1].purpose == asking.purpose]
        if not left:
            await self._fail_as_recorded(at)
            last = request.messages[-1].content if request.messages else ""
            await self.lack(
                at,
                f"the model is asked once more than was recorded"
                f"{f' ({asking.purpose})' if asking.purpose else ''}: {words.shown(last or '')!r}",
            )
        same = [each for each in left if each[1].request == hash_]
        event, answered = (same or left)[0]
        if not same:
            recorded = self.recorded.requests.get((at, answered.request))
            told = "the request to the model differs, too"  # as all do that follow from the first
            if not self.differences:
                told = words.requests(recorded, request)
            self.differ(f"{words.where(at)}: {told}")
        self._use(event)
        if answered.error is not None:
            raise model_error(answered, answered.error)
        return read_answer(answered.value.text or "" if answered.value else "")

    async def _fail_as_recorded(self, at: Attempt) -> None:
        """An attempt that failed while it asked, as by its timeout, fails there again."""
        outcome = self.recorded.outcomes.get(at)
        if outcome is not None and outcome.error is not None:
            raise self._raised(at, outcome, outcome.error)

    async def called_tool(self, at: Attempt, tool: AnyNode, args: Sequence[Any]) -> AnyNode:
        """What stands for a tool in this one call of it inside a node."""
        first = tool.alternatives[0]
        given = _texts(first, args)
        hash_ = combine([first.name, *given])
        named = dict(zip(first.takes, given, strict=False))
        self.called.append(Called(at, hash_, first.name, named))
        left = [
            (event, cast(ev.ToolAnswered, event.payload))
            for event in self.recorded.calls.get(at, ())
            if event.seq not in self._used
        ]
        same = [each for each in left if each[1].request == hash_]
        told = words.inputs(list(named), given)
        if not left:
            await self._fail_as_recorded(at)
            await self.lack(at, f"it calls tool {first.name} with {told}; it was not recorded")
        event, answered = (same or left)[0]
        if not same:
            recorded = self.recorded.arguments.get((at, answered.request), {})
            before = words.inputs(list(recorded), list(recorded.values())) if recorded else ""
            self.differ(
                f"{words.where(at)}: the recorded run called tool {answered.tool}"
                f"{f' with {before}' if before else ''}, now tool {first.name} with {told}"
            )
        self._use(event)

        async def run(ctx: Context, *_: Any) -> Any:
            if answered.error is not None:
                raise raised_as(Exception, answered.error)
            codec = first.codec()
            text = answered.value.text if answered.value else None
            return codec.load(text or "null") if codec is not None else None

        made = AnyNode(first.name, first.takes, first.gives, Policy())
        setattr(made, "run", run)  # noqa: B010  (an instance's own run, in place of its class's)
        return made

    def models_for(self, node: AnyNode, engine: Models) -> Models:
        """Whom a node asks, by the recording's notes, its own code, or what its answers say."""
        if node.name in self.recorded.models:
            return self.recorded.models[node.name]
        if node.models:
            return [
                (each.name, each.context_tokens if isinstance(each, Windowed) else CONTEXT_TOKENS)
                for each in node.models
            ]
        names = dict.fromkeys(
            answered.model
            for found in self.recorded.answers.values()
            for answered in (cast(ev.ModelAnswered, event.payload) for event in found)
        )
        if engine and (not names or any(name in names for name, _ in engine)):
            return engine
        return [(name, CONTEXT_TOKENS) for name in names] or [("recorded", CONTEXT_TOKENS)]


def _data(text: str | None) -> Any:
    return parse(text) if text else None


def _where(name: str, recorded: Any, now: Any) -> str:
    """Where an input differs from what was recorded; empty for nowhere."""
    told = difference(recorded, now)
    return f"{name}: {told}" if told else ""


def _texts(node: AnyNode, args: Sequence[Any]) -> list[str]:
    """A node's inputs as JSON; findings, which have none of their own, are left empty."""
    codecs = node.codecs()
    return [
        (codecs[name].dump(arg).text or "") if name in codecs else ""
        for name, arg in zip(node.takes, args, strict=False)
    ]


def _normal(node: AnyNode, outcome: Outcome) -> list[str]:
    """What a tool was given, as its types write it now; as it stands where they do not take it."""
    codecs = node.codecs()
    found: list[str] = []
    for name, text in zip(node.takes, outcome.inputs, strict=False):
        try:
            codec = codecs.get(name)
            found.append((codec.dump(codec.load(text or "null")).text or "") if codec else "")
        except ValueError:
            found.append(text or "")
    return found


# ---- what stands in


class RecordedModel:
    """A model (`flowkit.ports.Model`) that gives back what the recording has."""

    def __init__(self, playback: Playback, name: str, context_tokens: int) -> None:
        self._playback = playback
        self._name = name
        self.context_tokens = context_tokens

    @property
    def name(self) -> str:
        return self._name

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        await anyio.lowlevel.checkpoint()
        return await self._playback.answer(request)


def stand_in(node: AnyNode, playback: Playback, models: Models) -> AnyNode:
    """A node in its place: a tool that gives its recorded outcome, or the node itself, told what it asks."""
    twin = copy.copy(node)
    # Nobody is asked: what was denied is a recorded failure.
    twin.policy = replace(
        node.policy, timeout_s=None, backoff_s=0.0, concurrency=None, trust=Trust()
    )
    setattr(twin, "_spec", None)  # noqa: B010  (what it has kept of its policy)
    twin.models = [RecordedModel(playback, name, window) for name, window in models]
    function = None if playback.stands_in(node) else node.threaded

    async def run(ctx: Context, *args: Any) -> Any:
        await playback.hold(ctx)
        if playback.stands_in(node) or playback.recorded.was_set(place(ctx)):
            return await playback.give(ctx, node, args)
        if node.kind == "tool":
            playback.check_inputs(place(ctx), node, args)
        try:
            return await node.run(ReplayContext(ctx, playback), *args)
        except Retry as error:  # at once, whenever it asked for
            raise Retry(0.0, str(error)) from error

    def threaded(ctx: Context, *args: Any) -> Any:
        assert function is not None
        anyio.from_thread.run(playback.hold, ctx)
        if playback.recorded.was_set(place(ctx)):
            return anyio.from_thread.run(playback.give, ctx, node, args)
        if node.kind == "tool":
            playback.check_inputs(place(ctx), node, args)
        try:
            return function(ReplayContext(ctx, playback), *args)
        except Retry as error:
            raise Retry(0.0, str(error)) from error

    if function is None:
        setattr(twin, "run", run)  # noqa: B010
    setattr(twin, "_threaded", threaded if function is not None else None)  # noqa: B010
    return twin


class _Handle(ModelHandle):
    """`ctx.model`, which tells who asks."""

    def __init__(self, handle: ModelHandle, playback: Playback, at: Attempt) -> None:
        self._handle = handle
        self._playback = playback
        self._at = at

    @property
    def name(self) -> str:
        return self._handle.name

    @property
    def context_tokens(self) -> int:
        return self._handle.context_tokens

    async def respond(self, request: ModelRequest, *, purpose: str = "") -> ModelAnswer:
        token = self._playback.asking.set(_Asking(self._at, purpose, self._handle))
        try:
            return await self._handle.respond(request, purpose=purpose)
        finally:
            self._playback.asking.reset(token)

    async def complete(
        self, prompt: str | Sequence[ChatMessage], *, returns: Any = str, repairs_max: int = 2,
        tools: Sequence[AnyNode] | None = None, purpose: str = "",
    ) -> Any:  # fmt: skip
        token = self._playback.asking.set(_Asking(self._at, purpose, self._handle))
        try:
            return await self._handle.complete(
                prompt, returns=returns, repairs_max=repairs_max, tools=tools, purpose=purpose
            )
        finally:
            self._playback.asking.reset(token)


class ReplayContext(Context):
    """An attempt's context in a replay: the run's own, but nothing waits and no tool is called."""

    def __init__(self, inner: Context, playback: Playback) -> None:
        self._inner = inner
        self._playback = playback
        self._waits: dict[str, int] = {}
        self.run_id, self.step, self.attempt = inner.run_id, inner.step, inner.attempt
        self.alternative, self.idempotency_key = inner.alternative, inner.idempotency_key
        self.feedback, self.deadline = inner.feedback, inner.deadline
        self.memo, self.last_turn = inner.memo, inner.last_turn

    @property
    def model(self) -> ModelHandle:
        return _Handle(self._inner.model, self._playback, place(self))

    @property
    def turns(self) -> Sequence[Turn]:
        return self._inner.turns

    @property
    def turns_left(self) -> int:
        return self._inner.turns_left

    def history(self) -> Sequence[StepView]:
        return self._inner.history()

    def usage(self) -> Mapping[tuple[str, str], Usage]:
        return self._inner.usage()

    def progress(self, data: Any) -> None:
        self._inner.progress(data)

    async def artifact(
        self, data: bytes | str | Path, *, name: str, media_type: str = "application/octet-stream"
    ) -> Artifact:
        return await self._inner.artifact(data, name=name, media_type=media_type)

    async def read(self, artifact: Artifact) -> bytes:
        return await self._inner.read(artifact)

    def resource(self, kind: type[T]) -> T:
        return self._inner.resource(kind)

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()

    async def signal(self, name: str, *, timeout_s: float | None = None, returns: Any = Any) -> Any:
        codec, at = Codec(returns, f"signal {name}"), place(self)
        while True:
            n = self._waits[name] = self._waits.get(name, 0) + 1
            wait = self._playback.recorded.wait(at, name, n)
            if wait is None:
                text = f"it waits for signal {name!r}, which it did not when it was recorded"
                await self._playback.lack(at, text)
            if wait.ended is None:  # the node gave it up, or the journal stops here
                await anyio.sleep_forever()
                raise AssertionError("unreachable: it sleeps until it is cancelled")
            if wait.ended.timed_out:
                raise TimeoutError(f"no signal {name!r} came within {timeout_s} s")
            given = wait.ended.value
            try:
                return codec.load((given.text or "") if given else "null")
            except ValueError:
                continue  # it was refused then, too

    async def call(self, tool: AnyNode, /, *args: Any) -> Any:
        if tool.name in self._playback.run:
            return await self._inner.call(tool, *args)
        stands = await self._playback.called_tool(place(self), tool, args)
        return await self._inner.call(stands, *args)
