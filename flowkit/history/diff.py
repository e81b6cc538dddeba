"""Two runs side by side: where they came to the same, and the first step where they did not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os.path import commonprefix
from typing import Literal, TypeAlias

import flowkit.events as ev
from flowkit.chat import Usage
from flowkit.events import Event
from flowkit.graph import INPUT, Step
from flowkit.rewind import ENDINGS, Fold
from flowkit.values import Value

How: TypeAlias = Literal["shared", "same", "different", "first only", "second only"]
"""One event of both, since one run was forked from the other; equal outcomes; unequal ones; or done by
one run alone."""

SHOWN_MAX = 300
"""Characters of an outcome that are shown."""


@dataclass(frozen=True, slots=True)
class StepDiff:
    """One step, with its round or turn, in both runs; the outcomes as texts of at most 300 characters."""

    step: str
    how: How
    first: str = ""
    second: str = ""


@dataclass(frozen=True, slots=True)
class RunDiff:
    """All steps in the order of the first run, then those of the second alone.

    `facts`: what differs beside the steps (workflow, input, status), with both sides.
    """

    steps: tuple[StepDiff, ...]
    facts: tuple[StepDiff, ...]
    usage: tuple[Usage, Usage]

    @property
    def differences(self) -> list[StepDiff]:
        """What differs, in order; the first is where the runs part."""
        return [each for each in (*self.facts, *self.steps) if each.how not in ("shared", "same")]


def diff(first: Fold, second: Fold) -> RunDiff:
    """Compare two folded runs by what their steps came to; times, ids and attempts do not count."""
    one, other = _outcomes(first), _outcomes(second)
    steps = [_compared(key, one.get(key), other.get(key)) for key in dict.fromkeys([*one, *other])]
    usage = (first.state.usage, second.state.usage)
    return RunDiff(tuple(steps), tuple(_facts(first, second)), usage)


def _outcomes(folded: Fold) -> Mapping[str, Event]:
    """The event that tells what each step came to, by key."""
    kinds = (*ENDINGS, ev.StepFailed)
    return {
        event.key: event
        for event in folded.live
        if isinstance(event.payload, kinds)
        or (isinstance(event.payload, ev.Decided) and event.payload.how in ("done", "set"))
    }


def _compared(key: str, one: Event | None, other: Event | None) -> StepDiff:
    if one is None or other is None:
        how: How = "second only" if one is None else "first only"
        return StepDiff(key, how, _cut(_text(one)), _cut(_text(other)))
    if one == other:
        return StepDiff(key, "shared")
    if _essence(one.payload) == _essence(other.payload):
        return StepDiff(key, "same")
    return StepDiff(key, "different", *_apart(_text(one), _text(other)))


def _essence(payload: ev.Payload) -> object:
    """What of an outcome counts: not how long it took, nor what it was made from."""
    match payload:
        case ev.StepDone(value=value) | ev.Decided(value=value):
            return value and value.digest
        case ev.Planned(steps=steps, again=again, calls=calls):
            return steps, again, [(call.how, call.note) for call in calls]
        case ev.Rejected(feedback=feedback):
            return ev.Rejected, feedback
        case ev.StepFailed(error=error):
            return ev.StepFailed, error.type, error.message
        case _:
            return type(payload)


def _apart(one: str, other: str) -> tuple[str, str]:
    """Both texts from a little before the place where they part."""
    same = len(commonprefix([one, other]))  # noqa: RUF071  (texts, not paths)
    start = max(same - 40, 0) if same > 80 else 0
    first, second = (_cut(f"…{text[start:]}" if start else text) for text in (one, other))
    return first, second


def _text(event: Event | None) -> str:
    match event.payload if event is not None else None:
        case ev.StepDone(value=value) | ev.Decided(value=value):
            return _whole(value)
        case ev.Planned(steps=steps):
            return "planned " + (", ".join(_planned(step) for step in steps) or "nothing")
        case ev.Accepted():
            return "accepted"
        case ev.Rejected(feedback=feedback):
            return f"rejected: {feedback}"
        case ev.StepFailed(error=error):
            return f"failed: {error}"
        case _:
            return ""


def _planned(step: Step) -> str:
    given = ", ".join(source.text or source.step for source in step.inputs)
    return f"{step.key} = {step.nodes[0]}({given})"


def _whole(value: Value | None) -> str:
    if value is None:
        return "nothing"
    return value.text if value.text is not None else f"{value.size:,} bytes, {value.digest}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"


def _facts(first: Fold, second: Fold) -> Iterator[StepDiff]:
    for what, one, other in (
        ("workflow", first.state.workflow, second.state.workflow),
        ("input", _input(first), _input(second)),
        ("end", _end(first), _end(second)),
    ):
        if one != other:
            yield StepDiff(what, "different", one, other)


def _input(folded: Fold) -> str:
    slot = folded.state.slots.get(INPUT)
    return _cut(_whole(slot.value if slot is not None else None))


def _end(folded: Fold) -> str:
    ended = folded.state.ended
    if ended is None:
        return "not ended"
    return _cut(f"{ended.status}: {ended.error}" if ended.error else ended.status)
