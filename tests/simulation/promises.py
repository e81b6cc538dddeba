"""What must hold after a scenario, seen from nothing but the journal and the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import flowkit.events as ev
from flowkit.engine import fold
from flowkit.errors import JournalConflict
from flowkit.events import Event
from flowkit.ports import Journal
from flowkit.state import CLAIMS_MAX, State
from flowkit.store.rules import read_events
from flowkit.values import digest
from tests.scenario.kit import row_after
from tests.simulation.guarded import NO
from tests.simulation.process import ENDS, Attempt, Outcome, World
from tests.simulation.programs import Program

RUN = "r"


@dataclass(frozen=True)
class Peace:
    """A program's run without faults; `attempts` and `free` are those without a limit, too."""

    outcome: Outcome
    free: Outcome
    attempts: Mapping[Attempt, tuple[object, ...]]
    took_s: float


def attempts(events: Sequence[Event]) -> Mapping[Attempt, tuple[object, ...]]:
    """What each attempt came to, without times and order."""
    found: dict[Attempt, tuple[object, ...]] = {}
    for event in events:
        if isinstance(event.payload, ENDS):
            value = getattr(event.payload, "value", None)
            hash_ = getattr(event.payload, "input_hash", "")
            attempt = (event.key, event.alternative, event.attempt)
            found[attempt] = (event.kind, hash_, value and value.digest)
    return found


def journal_of(world: World) -> tuple[State, Sequence[Event]] | None:
    """What is on disk; None for a run that cannot be folded, or is not there."""
    run = world.store._runs.get(RUN)
    if run is None or world.outcome is None:
        world.accuse("there is no run, or it has no outcome")
        return None
    events = read_events(RUN, world.store._rows[RUN], 0)
    try:
        return fold(Journal(run.record(), events)), events
    except JournalConflict as error:
        world.accuse(f"the journal does not fold: {error}")
        return None


def check(world: World, made: Program, before: Peace | None) -> Sequence[Event]:
    """Look for broken promises."""
    found = journal_of(world)
    if found is None:
        return ()
    state, events = found
    record = world.store._runs[RUN].record()
    if record.head != len(events) or record.status != row_after(events) or state.ended is None:
        world.accuse(f"the row says {record.status}, head {record.head}; the journal {len(events)}")
    claims = [event.payload.epoch for event in events if isinstance(event.payload, ev.Claimed)]
    if (
        record.owner is not None and record.epoch <= claims[-1]
    ):  # else it took an ended run, and left
        world.accuse(f"left behind: owner {record.owner}")
    for seq, event in world.acknowledged.items():
        if seq > len(events) or events[seq - 1] != event:
            world.accuse(f"event {seq} was shown to a client, and is lost")
    for key, times in world.effects.items():
        if times > 1:
            world.accuse(f"effect {key} happened {times} times")
    _check_values(world, events)
    _check_end(world, state, events)
    if before is not None:
        _check_same(world, made, before, events)
    return events


def _check_values(world: World, events: Sequence[Event]) -> None:
    ended: Counter[Attempt] = Counter()
    epochs = [event.payload.epoch for event in events if isinstance(event.payload, ev.Claimed)]
    if epochs != sorted(set(epochs)):
        world.accuse(f"the epochs do not grow: {epochs}")
    for event in events:
        value = getattr(event.payload, "value", None)
        if value is not None and value.text is not None and value.digest != digest(value.text):
            world.accuse(f"event {event.seq}: the digest is not its value's")
        if isinstance(event.payload, ENDS):
            ended[event.key, event.alternative, event.attempt] += 1
    for attempt, times in ended.items():
        if times > 1:
            world.accuse(f"attempt {attempt} has {times} outcomes")


def _check_end(world: World, state: State, events: Sequence[Event]) -> None:
    """Nothing stands after an end, unless somebody tried the run again; and a client was told that end."""
    over = asked = False
    for event in events:
        if over and not isinstance(event.payload, ev.Claimed | ev.Decided):
            world.accuse(f"event {event.seq} ({event.kind} {event.key}) stands after the run's end")
        if isinstance(event.payload, ev.RunEnded):
            over = True
        elif isinstance(event.payload, ev.Decided) and event.payload.how == "retry":
            over = False
        elif isinstance(event.payload, ev.CancelRequested):
            asked = True
    error = ev.error_of(state.ended) if state.ended is not None else None
    if error is not None and world.outcome != (told := (type(error).__name__, str(error))):
        world.accuse(f"a client was told {world.outcome}, the journal says {told}")
    if asked and not isinstance(error, ev.fault.RunCancelled):
        world.accuse(f"it was asked to cancel, and came to {world.outcome}")
    if isinstance(error, ev.fault.DeadlineExceeded) and events[-1].at < (state.deadline or 0):
        world.accuse(f"its deadline had not come at {events[-1].at}")


def _check_same(world: World, made: Program, before: Peace, events: Sequence[Event]) -> None:
    """It came to what it comes to without faults, or to what somebody asked for."""
    wanted = {before.outcome}
    if made.traits.fate == "deadline":
        # A clock that goes back gives more time, one that goes ahead less.
        wanted |= {before.free, ("DeadlineExceeded", "the run's deadline has passed")}
    if made.traits.fate == "budget" and "once" in made.traits.kinds:
        wanted.add(before.free)  # an effect of which somebody says that it is done was no attempt
    if world.cancelled:
        wanted.add(("RunCancelled", "the run was cancelled"))
    for step in world.given_up:
        text = f"step {step!r} failed: OutcomeUnknown: decided to have failed"
        wanted.add(("StepFailed", text))
    for step in world.denied:
        wanted.add(("StepFailed", f"step {step!r} failed: Denied: {NO}"))
    claims = sum(isinstance(event.payload, ev.Claimed) for event in events)
    left = claims > CLAIMS_MAX and world.outcome and world.outcome[0] == "RunQuarantined"
    if world.outcome not in wanted and not left:
        world.accuse(f"it came to {world.outcome}, without faults to {before.outcome}")
    if made.traits.loose or made.traits.fragile or "once" in made.traits.kinds or world.denied:
        return
    now, then = attempts(events), before.attempts
    other = {each: now[each] for each in now if each in then and now[each] != then[each]}
    if (
        before.free[0] == "succeeded"
    ):  # else what ran beside the step that failed may have gone further
        other |= {each: now[each] for each in now if each not in then}
    missing = then.keys() - now.keys() if world.outcome and world.outcome[0] == "succeeded" else ()
    if other or missing:
        world.accuse(
            f"only with faults: {list(other.items())[:3]}; only without: {list(missing)[:3]}"
        )
