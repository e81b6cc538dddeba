"""Replay a recorded run under the present code: a journal is a test.

The ordinary engine drives the workflow on a store in memory. What the world gave then (models, tools,
signals, time) is given back from the recording, so what differs is the workflow's own doing: prompts,
plans, verdicts, inputs of tools, wiring.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import anyio

import flowkit.events as ev
from flowkit.changes import describe_change
from flowkit.dsl import Workflow
from flowkit.engine import Engine
from flowkit.errors import DeclarationError, FlowkitError
from flowkit.events import Event
from flowkit.handle import RunHandle
from flowkit.node import AnyNode
from flowkit.policy import Policy
from flowkit.ports import Message, World
from flowkit.store.memory import MemoryStore
from flowkit.testing import words
from flowkit.testing.compare import difference
from flowkit.testing.playback import Models, Playback, stand_in
from flowkit.testing.recording import Outcome, Recorded, Recording, notes_of, recorded
from flowkit.values import parse

A = TypeVar("A")
R = TypeVar("R")

TIMEOUT_S = 60.0

_AT_ONCE = Policy(retries=1_000_000, backoff_s=0.0)
"""A model is asked again as often as the recording says so."""


@dataclass(frozen=True, slots=True)
class Replay(Generic[R]):
    """How a replay went. `differences` from the recording, in the order in which they came.

    `result` is None where it came to none; `failure` says how it ended then. `changed`: nodes of other
    types, tools, instructions or versions than were recorded, which is no difference by itself.
    """

    workflow: str
    run_id: str
    result: R | None
    failure: str
    differences: Sequence[str]
    changed: Sequence[str]

    @property
    def difference(self) -> str:
        """The first difference, in words; empty for none. Others may only follow from it."""
        return self.differences[0] if self.differences else ""

    def assert_same(self) -> None:
        """Raise `AssertionError` that names the first difference."""
        if self.differences:
            told = [f"{self.workflow} does not do what run {self.run_id} did: {self.difference}"]
            if self.changed:
                told.append(f"changed since it was recorded: {'; '.join(self.changed)}")
            told.append("If that is meant, record it anew: run it, and export that run.")
            raise AssertionError("\n".join(told))


async def replay(
    workflow: Workflow[A, R],
    recording: Recording,
    *,
    run: Collection[AnyNode | str] = (),
    resources: Sequence[object] = (),
    ignore: Sequence[str] = (),
    timeout_s: float = TIMEOUT_S,
) -> Replay[R]:
    """Drive a workflow with what a recorded run was given, and tell where it does something else.

    No model is asked and no tool is run, nothing waits, and time is that of the recording. Planners and
    verifiers run for real. Answers of models are found by the request, else in order within the attempt.

    Args:
        run: tools that run for real, such as one that asks a model by a prompt that is under test.
        resources: what those get by `ctx.resource(Type)`.
        ignore: paths in what steps give that may differ, such as `"written_at"` or `"pages.*.sha256"`.
        timeout_s: within which the replay must have ended.

    Raises:
        DeclarationError: `run` names what is no tool of the workflow, or the run is another workflow's.
    """
    return (await _replayed(workflow, recording, run, resources, ignore, timeout_s, ()))[0]


async def requests_of(
    workflow: Workflow[A, R],
    recording: Recording,
    *,
    run: Collection[AnyNode | str] = (),
    models: Models = (),
    resources: Sequence[object] = (),
) -> tuple[Replay[R], list[Mapping[str, Any]]]:
    """A replay, and the notes with which a recording can tell its requests in words.

    A journal has only hashes of requests; the code that made them makes them again. Those that come out
    otherwise are left out.
    """
    made, playback = await _replayed(workflow, recording, run, resources, (), TIMEOUT_S, models)
    known = {
        (at, cast(ev.ModelAnswered, event.payload).request)
        for at, found in playback.recorded.answers.items()
        for event in found
    }
    known |= {
        (at, cast(ev.ToolAnswered, event.payload).request)
        for at, found in playback.recorded.calls.items()
        for event in found
    }
    asked = [each for each in playback.asked if (each.place, each.hash) in known]
    called = [each for each in playback.called if (each.place, each.hash) in known]
    nodes = {outcome.node for outcome in playback.recorded.outcomes.values()}
    names = {
        name: playback.models_for(node, models)
        for name, node in workflow.nodes.items()
        if name in nodes
    }
    return made, list(notes_of(names, asked, called))


async def _replayed(
    workflow: Workflow[A, R],
    recording: Recording,
    run: Collection[AnyNode | str],
    resources: Sequence[object],
    ignore: Sequence[str],
    timeout_s: float,
    models: Models,
) -> tuple[Replay[R], Playback]:
    if recording.record.workflow != workflow.name:
        raise DeclarationError(
            f"the recording is of workflow {recording.record.workflow!r}, not of {workflow.name!r}."
        )
    told = recorded(recording, workflow.codec())
    playback = Playback(told, workflow, _names(workflow, run))
    lines = describe_change(told.begun.graph, workflow.bound())
    changed = [line for line in lines if line.startswith("node ")]
    wired = [line for line in lines if line not in changed]
    result: R | None = None
    failure = "it did not begin"
    if wired:
        playback.differ(f"the declared steps differ: {'; '.join(wired)}")
    else:
        player = _Player(workflow, recording, playback, resources, ignore)
        result, failure = await player.play(timeout_s, models)
    run_id = recording.record.run_id
    made = Replay(workflow.name, run_id, result, failure, tuple(playback.differences), changed)
    return made, playback


def _names(workflow: Workflow[Any, Any], run: Collection[AnyNode | str]) -> set[str]:
    names = {each if isinstance(each, str) else each.name for each in run}
    tools = [name for name, node in workflow.nodes.items() if node.kind == "tool"]
    unknown = sorted(names.difference(tools))
    if unknown:
        raise DeclarationError(
            f"run={unknown[0]!r} is no tool of workflow {workflow.name!r}; there are "
            f"{', '.join(sorted(tools)) or 'none'}. Planners and verifiers run in any case."
        )
    return names


class _Player:
    """Drives the replay."""

    def __init__(
        self,
        workflow: Workflow[Any, Any],
        recording: Recording,
        playback: Playback,
        resources: Sequence[object],
        ignore: Sequence[str],
    ) -> None:
        self._workflow = workflow
        self._recording = recording
        self._playback = playback
        self._recorded = playback.recorded
        self._resources = resources
        self._compared = _Compared(playback, ignore)

    async def play(self, timeout_s: float, models: Models) -> tuple[Any, str]:
        """The result, or how the replay ended without one."""
        twin = copy.copy(self._workflow)
        twin.nodes = {
            name: stand_in(node, self._playback, self._playback.models_for(node, models))
            for name, node in self._workflow.nodes.items()
        }
        setattr(twin, "_bound", None)  # noqa: B010  (its graph, with what its nodes were)
        ended: tuple[Any, str] = (None, "the recording stops before the run's end")
        with anyio.move_on_after(timeout_s) as late:
            for raw in self._recording.artifacts.values():
                await self._compared.put(raw)
            world = World(now=lambda: self._playback.now)
            async with (
                Engine(
                    self._compared, model_policy=_AT_ONCE, resources=self._resources, world=world,
                    grace_s=0.05, suspend_after_s=3600.0,
                ) as engine,
                anyio.create_task_group() as tasks,
            ):  # fmt: skip
                tasks.start_soon(self._stop_when_over, tasks.cancel_scope)
                ended = await self._follow(engine, twin)
                tasks.cancel_scope.cancel()
        if late.cancelled_caught:
            ended = (None, f"no end within {timeout_s:g} s")
        self._tell_missing(ended[1])
        if late.cancelled_caught and not self._playback.differences:
            self._playback.differ(f"the recorded run ended, the replay does not: {ended[1]}")
        return ended

    async def _stop_when_over(self, scope: anyio.CancelScope) -> None:
        await self._playback.over.wait()
        scope.cancel()

    async def _follow(self, engine: Engine, twin: Workflow[Any, Any]) -> tuple[Any, str]:
        record, begun = self._recorded.record, self._recorded.begun
        text = begun.value.text if begun.value is not None else None
        try:
            value = twin.codec().load(text or "null")
        except ValueError as error:
            self._playback.differ(f"the recorded input does not fit its type any more: {error}")
            return None, "it did not begin"
        left = None
        if begun.deadline is not None and not self._recorded.late:
            began = min(record.created_at, self._recorded.events[0].at)  # a fork's row is younger
            left = begun.deadline - began
        handle: RunHandle[Any] = await engine.start(
            twin, value, run_id=record.run_id, budget=begun.budget, deadline_s=left
        )
        failure = ""
        ends = len(self._recorded.ends) + self._recorded.cut  # each but the last was retried
        for again in range(max(ends, 1)):
            if again:
                handle = await engine.retry(record.run_id)
            try:
                return await handle.result(), ""
            except FlowkitError as error:
                failure = str(error)
        return None, failure

    def _tell_missing(self, failure: str) -> None:
        """Note what the recorded run did and the replay has not come to."""
        outcomes, done = self._recorded.outcomes, self._compared.done
        missing = [at for at in outcomes if at not in done]
        if missing and not self._playback.differences:
            at = missing[0]
            told = words.outcome(outcomes[at].event.payload)
            self._playback.differ(
                f"{words.where(at)}: the recorded run came to it ({told}), the replay does not"
                f"{f' ({failure})' if failure else ''}"
            )


class _Compared(MemoryStore):
    """Keeps the replay's journal, and compares each event with the recording as it comes."""

    def __init__(self, playback: Playback, ignore: Sequence[str]) -> None:
        super().__init__(now=lambda: playback.now)
        self._playback = playback
        self._recorded: Recorded = playback.recorded
        self._ignore = ignore
        self.done: set[tuple[str, int, int]] = set()
        self._failures = {key: list(found) for key, found in self._recorded.failures.items()}
        self._ends = list(self._recorded.ends)

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        kept = await super().append(run_id, events, expect=expect, epoch=epoch)
        for event in events:
            told = await self._compare(event)
            if told:
                self._playback.differ(told)
        if self._recorded.cut and len(self.done) == len(self._recorded.outcomes):
            self._playback.over.set()
        return kept

    async def _compare(self, event: Event) -> str:
        p, at = event.payload, (event.key, event.alternative, event.attempt)
        match p:
            case ev.StepDone() | ev.Planned() | ev.Accepted() | ev.Rejected() | ev.AttemptFailed():
                told = await self._outcome(at, p)
                return f"{words.where(at)}: {told}" if told else ""
            case ev.StepFailed(error=error):
                found = self._failures.get(event.key)
                if not found:
                    return f"{words.where(at)}: it fails ({words.shown(str(error))}); it did not when recorded"
                told = words.errors(found.pop(0), error)
                return f"{words.where(at)}: it fails with another error: {told}" if told else ""
            case ev.RunEnded():
                return self._end(p)
            case _:
                return ""

    async def _outcome(self, at: tuple[str, int, int], now: ev.Payload) -> str:
        outcome = self._recorded.outcomes.get(at)
        if outcome is None:
            if self._recorded.in_flight(at):
                return ""  # the recording stops while it was at it
            return f"it {words.outcome(now)}; the recorded run has no such attempt"
        self.done.add(at)
        before = outcome.event.payload
        match before, now:
            case ((ev.StepDone() | ev.Decided()), ev.StepDone()):
                return await self._value(outcome, now)
            case ev.Planned(), ev.Planned():
                return words.steps(before, now)
            case ev.Accepted(), ev.Accepted():
                return ""
            case ev.Rejected(feedback=one), ev.Rejected(feedback=two):
                return (
                    f"it rejects with another feedback: {words.texts(one, two)}"
                    if one != two
                    else ""
                )
            case _, ev.AttemptFailed() if outcome.error is not None:
                told = words.errors(outcome.error, now.error)
                if told:
                    return f"it fails with another error: {told}"
                if outcome.then != now.then:
                    return f"it fails as recorded, but then comes {now.then}, not {outcome.then}"
                return ""
            case _:
                return f"recorded: it {words.outcome(before)}; now it {words.outcome(now)}"

    async def _value(self, outcome: Outcome, now: ev.StepDone) -> str:
        text = await self._text(now)
        before = outcome.value.text if outcome.value is not None else None
        if before == text:
            return ""
        one, two = parse(before or "null"), parse(text or "null")
        if not difference(one, two, self._ignore):
            return ""
        if len(before or "") <= words.SHOWN_MAX and len(text or "") <= words.SHOWN_MAX:
            return f"it gives another value: {words.values(before, text)}"
        return f"it gives another value than was recorded: {difference(one, two, self._ignore)}"

    async def _text(self, now: ev.StepDone) -> str | None:
        if now.value is None or now.value.text is not None:
            return now.value.text if now.value is not None else None
        return (await self.get(now.value.digest)).decode()

    def _end(self, now: ev.RunEnded) -> str:
        self._playback.ends += 1
        if not self._ends:
            return f"the run ends ({words.end(now)}), which the recorded one did not"
        before = self._ends.pop(0)
        same = (before.status, before.step) == (now.status, now.step)
        told = words.errors(before.error, now.error) if before.error and now.error else ""
        if same and not told:
            return ""
        return f"the run ends otherwise: recorded {words.end(before)}, now {words.end(now)}"
