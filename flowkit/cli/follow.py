"""Following a run: its events folded as they come, and shown to whoever watches."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import anyio

import flowkit.events as ev
from flowkit.asking import read_answer
from flowkit.chat import ModelAnswer
from flowkit.cli.text import clean, clean_lines, counted, span
from flowkit.errors import FlowkitError
from flowkit.events import Event
from flowkit.ports import Artifacts, RunRecord
from flowkit.rewind import Fold
from flowkit.slot import APPROVAL
from flowkit.state import State
from flowkit.view.talk import Speech, agent_of, headline, place

SOON_S = 5.0
"""A due time nearer than this is waited for; a later one is somebody else's business."""

TICK_S = 0.1

Ended = Literal["ended", "waiting"]


@dataclass
class View:
    """A run as the command line sees it. `driven`: somebody drives it, so what is ready is going on."""

    run_id: str
    workflow: str
    folded: Fold = field(default_factory=Fold)
    progress: dict[str, str] = field(default_factory=dict[str, str])
    speech: dict[str, Speech] = field(default_factory=dict[str, Speech])
    """What models are just saying, by what is running: a step, a round, or a planner's turn."""
    began: dict[str, float] = field(default_factory=dict[str, float])
    driven: bool = True
    replayed: int = 0

    @property
    def state(self) -> State:
        return self.folded.state

    def feed(self, event: Event) -> None:
        """Fold an event; live ones (seq 0) only mark what goes on."""
        payload = event.payload
        if event.seq:
            self.folded.apply(event)
            if event.key not in self.state.running:
                self.progress.pop(event.key, None)
            self.speech.pop(event.key, None)
            return
        slot = self.state.by_exec.get(event.key)
        if isinstance(payload, ev.Started):
            self.began[event.key] = time.monotonic()
            if slot is not None and slot.exec in self.state.ready:
                self.state.mark_started(slot)
        elif isinstance(payload, ev.Progress):
            self._tell(event.key, payload.data)

    def _tell(self, key: str, data: Any) -> None:
        speech = self.speech.get(key) or Speech()
        if speech.add(data):
            self.speech[key] = speech
        else:
            self.progress[key] = str(data)[-400:]


class Show(Protocol):
    """How a run is shown while it goes. `answer`: what a model said, for the event that it did."""

    def start(self, view: View) -> None: ...
    def event(self, event: Event, view: View, answer: ModelAnswer | None) -> None: ...
    def tick(self) -> None: ...
    def note(self, text: str) -> None: ...
    def stop(self) -> None: ...


class Silent:
    """Nothing but what must be said."""

    def start(self, view: View) -> None:
        pass

    def event(self, event: Event, view: View, answer: ModelAnswer | None) -> None:
        pass

    def tick(self) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def stop(self) -> None:
        pass


class Lines(Silent):
    """A line for each thing that happens, for logs and pipes. `reasoning`: below an answer, its own."""

    def __init__(self, *, reasoning: bool = False) -> None:
        self._reasoning = reasoning

    def event(self, event: Event, view: View, answer: ModelAnswer | None) -> None:
        for line in told(event, view.state, answer, reasoning=self._reasoning):
            print(line, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(clean(text), file=sys.stderr, flush=True)


LINE_MAX = 320


def told(
    event: Event, state: State, answer: ModelAnswer | None = None, *, reasoning: bool = False
) -> list[str]:
    """An event as lines for a terminal, with its time; reasoning in one line unless it is asked for."""
    line = describe(event, state, answer)
    if isinstance(event.payload, ev.AttemptFailed) and event.payload.then in ("fail", "fatal"):
        return []  # the step's failure is told next, with the same error
    if not line:
        return []
    stamp = time.strftime("%H:%M:%S", time.localtime(event.at))
    lines = [f"{stamp} {clean(line, LINE_MAX)}"]
    if reasoning and answer is not None and answer.message.reasoning:
        thought = clean_lines(answer.message.reasoning.strip())
        lines += [f"         | {each}" for each in thought]
    return lines


def describe(event: Event, state: State, answer: ModelAnswer | None = None) -> str:
    """An event as a line for people; empty for what is no news."""
    payload, slot = event.payload, state.by_exec.get(event.key)
    node = slot.step.nodes[event.alternative] if slot is not None else ""
    key = event.key if node in ("", event.key) else f"{event.key} ({node})"
    match payload:
        case ev.StepDone(duration_s=took):
            return f"{key} done in {span(took)}"
        case ev.Accepted(duration_s=took):
            return f"{key} accepted in {span(took)}"
        case ev.Planned(steps=steps, duration_s=took):
            return f"{key} planned {counted(len(steps), 'step')} in {span(took)}"
        case ev.Rejected(feedback=feedback):
            return f"{key} rejected: {feedback}"
        case ev.ModelAnswered():
            who = place(event.key, agent_of(event, state))
            return f"{who} {headline(payload, answer, event.at)}"
        case ev.AttemptFailed(error=error, then=then):
            follows = {"retry": ", trying again", "next": ", trying the next alternative"}
            return f"{key} attempt {event.attempt} failed: {error}{follows.get(then, '')}"
        case ev.StepFailed(error=error):
            return f"{key} failed: {error}"
        case _:
            return _describe_run(event, key)


def _describe_run(event: Event, key: str) -> str:
    match event.payload:
        case ev.OutcomeUnknown(reason=reason):
            return f"{key} has an unknown outcome: {reason}"
        case ev.Decided(how="set"):
            return f"{key}: its result was set"
        case ev.Decided(how=how, message=message):
            probe = ", by its probe" if event.key and not message else ""
            return f"{key or 'the run'}: decided: {how}{probe}"
        case ev.Waiting() | ev.Signalled() as wait:
            return _describe_wait(wait, key) if event.key or isinstance(wait, ev.Signalled) else ""
        case ev.Claimed(after="death"):
            return "taken up again: whoever drove the run before has died"
        case ev.Claimed(after="release"):
            return "taken up again"
        case ev.CancelRequested():
            return "asked to cancel"
        case ev.Rewound(run=run, keys=keys):
            # What a fork sets is not done again, but the run goes back to it all the same.
            told = f"forked from {run}" if run else "goes on by the workflow as it is now"
            if keys:
                told += "; goes back to: " if run else "; to be done again: "
            return f"{told}{', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        case ev.RunEnded(status=status):
            return f"run {status}"
        case _:
            return ""


def _describe_wait(wait: ev.Waiting | ev.Signalled, key: str) -> str:
    asked = wait.name.startswith(APPROVAL)
    if isinstance(wait, ev.Waiting):
        if asked:
            return f"{key} asks a person before it begins"
        return f"{key} waits for {wait.reason} {wait.name}".rstrip()
    if asked:
        step = wait.name.removeprefix(APPROVAL).rsplit("/", 2)[0]
        return f"{step}: {'nobody answered in time' if wait.timed_out else 'a person has answered'}"
    return f"signal {wait.name} {'did not come in time' if wait.timed_out else 'came'}"


async def answer_in(event: Event, artifacts: Artifacts) -> ModelAnswer | None:
    """What a model said, if the event is an answer of one and can be read."""
    payload = event.payload
    if not isinstance(payload, ev.ModelAnswered) or payload.value is None:
        return None
    try:
        text = payload.value.text
        return read_answer(text or (await artifacts.get(payload.value.digest)).decode())
    except (ValueError, FlowkitError):  # a damaged journal is looked at, too
        return None


@dataclass
class Follower:
    """Reads a run's events to its end, or to where it waits for somebody.

    `since`: events before this time (Unix) are history: folded, not shown, and not stopped at; unless
    the run is driven `elsewhere` and waits already. `artifacts` has the answers that are too large for
    an event.
    """

    view: View
    show: Show
    artifacts: Artifacts
    leaves_waiting: bool = True
    elsewhere: bool = False
    since: float = 0.0
    now: Any = time.time

    async def follow(self, events: AsyncIterator[Event], record: RunRecord) -> Ended:
        """Show the run until it ends or waits; `record` is its row as it was just now."""
        self.show.start(self.view)
        try:
            ended: Ended = "ended"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tick)
                ended = await self._read(events, record)
                tasks.cancel_scope.cancel()
            return ended
        finally:
            self.show.stop()

    async def _read(self, events: AsyncIterator[Event], record: RunRecord) -> Ended:
        waits = self.elsewhere and record.status == "waiting"
        async for event in events:
            self.view.feed(event)
            fresh = not event.seq or event.at >= self.since
            if fresh:
                self.show.event(event, self.view, await answer_in(event, self.artifacts))
            else:
                self.view.replayed += 1
            if event.key or not self.leaves_waiting or not isinstance(event.payload, ev.Waiting):
                continue
            if (fresh or (waits and event.seq == record.head)) and self._is_far(event.payload):
                return "waiting"
        return "ended"

    def _is_far(self, waiting: ev.Waiting) -> bool:
        return waiting.until is None or waiting.until > self.now() + SOON_S

    async def _tick(self) -> None:
        while True:
            self.show.tick()
            await anyio.sleep(TICK_S)
