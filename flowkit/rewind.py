"""A journal folded whole, and going back in it.

Nothing is ever taken out of a journal. `Rewound` names steps that are to be done again, and perhaps a
new graph; what came before it is folded once more, without what no longer holds. No table of
dependencies tells what that is, the fold does: an outcome holds if its step is ready for it, with the
same inputs. What rests on a step that is left out never becomes ready, and so is left out as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import flowkit.events as ev
from flowkit.errors import JournalConflict
from flowkit.events import Event, Fact
from flowkit.graph import Graph, NodeSpec
from flowkit.ports import Journal
from flowkit.slot import Slot
from flowkit.state import State

ENDINGS = (ev.StepDone, ev.Planned, ev.Accepted, ev.Rejected)
"""What tells that a step, a turn or a verdict was made, as opposed to tried."""


@dataclass
class Fold:
    """A journal as it is folded: the state, and the events that still hold."""

    state: State = field(default_factory=State)
    live: list[Event] = field(default_factory=list[Event])

    def apply(self, event: Event) -> None:
        """Fold one event; `JournalConflict` when it cannot follow what came before."""
        try:
            if isinstance(event.payload, ev.Rewound):
                self.state, self.live, _ = rewind(self, event, event.payload)
            else:
                self.state.apply(event)
                self.live.append(event)
        except (LookupError, AttributeError) as error:  # a graph that is JSON, but holds nonsense
            raise JournalConflict(f"event {event.seq} is damaged: {error!r}") from error

    def apply_all(self, events: Iterable[Event]) -> Fold:
        for event in events:
            self.apply(event)
        return self


def fold(journal: Journal) -> State:
    """The state of a stored run."""
    return Fold().apply_all(journal.events).state


def graph_of(events: Sequence[Event]) -> Graph | None:
    """The graph that a journal goes on by; None for an empty one."""
    for event in reversed(events):
        if (
            isinstance(event.payload, ev.RunStarted | ev.Rewound)
            and event.payload.graph is not None
        ):
            return event.payload.graph
    return None


class Rewinding(NamedTuple):
    """The state after it, the events that still hold, and those that do not."""

    state: State
    live: list[Event]
    dropped: list[Event]


def rewind(folded: Fold, event: Event, rewound: ev.Rewound) -> Rewinding:
    """Fold what holds of a journal after `rewound`; `event` is its place."""
    before, state = State(), State()
    live: list[Event] = []
    dropped: list[Event] = []
    roots = frozenset(rewound.keys)
    moved = _moved(folded.state.graph, rewound.graph)
    anew = _anew(folded.state, rewound)
    for each in _fewer(folded.live):
        holds = each.key not in roots and not (moved and _is_moved(before, each, moved))
        holds = holds and _holds(before, state, each, rewound, anew)
        if not holds and (rewound.run or each.key not in anew):
            _let_go(before, state, each)
        before.refold(each)
        if not holds:
            dropped.append(each)
            continue
        live.append(_under(each, rewound.graph))
        state.refold(live[-1])
        state.claims = 0
        state.owed = [fact for fact in state.owed if fact.key]
    state.seq, state.at = event.seq, event.at
    state.model = rewound.model or folded.state.model
    for slot in state.by_exec.values():
        if slot.begun and (rewound.run or is_changed(slot.node, folded.state, state.nodes)):
            slot.begun = (
                ""  # an approval was asked of other code, or by the run that this is a fork of
            )
    if rewound.run:
        live.append(replace(event, payload=rewound))  # who rewinds again begins the fork here, too
        state.refold(live[-1])
    else:
        _carry_over(folded.state, state, dropped, event.seq)
    return Rewinding(state, live, dropped)


def _fewer(live: Sequence[Event]) -> Iterator[Event]:
    """The events without all claims but the last: who drove the run before says nothing any more.

    A run that is forked from fork to fork has little else.
    """
    claims = [event.seq for event in live if isinstance(event.payload, ev.Claimed)][-1:]
    for event in live:
        if event.seq in claims or not isinstance(event.payload, ev.Claimed):
            yield event


def _under(event: Event, graph: Graph | None) -> Event:
    """The event; a run's first one with the graph that it goes on by."""
    if graph is None or not isinstance(event.payload, ev.RunStarted):
        return event
    return replace(event, payload=replace(event.payload, graph=graph))


def _moved(old: Graph, new: Graph | None) -> frozenset[str]:
    """Keys of declared steps that are given something else than before, or are gone."""
    if new is None:
        return frozenset()
    now = {step.key: (step.inputs, step.each, step.checks) for step in new.steps}
    return frozenset(
        step.key for step in old.steps if now.get(step.key) != (step.inputs, step.each, step.checks)
    )


def _is_moved(before: State, event: Event, moved: frozenset[str]) -> bool:
    slot = before.by_exec.get(event.key)
    return slot is not None and any(each.key in moved for each in (slot, *slot.ancestors()))


def is_changed(name: str, old: State, now: Mapping[str, NodeSpec]) -> bool:
    """Whether a node of a run is another one now, or gone."""
    return name not in now or now[name].fingerprint != old.nodes[name].fingerprint


def _anew(old: State, rewound: ev.Rewound) -> frozenset[str]:
    """Attempts under way that wait anew: those of changed code, and in a fork those that asked somebody.

    Else new code might never come to the wait that was left open, and an approval would count twice.
    """
    now = old.nodes if rewound.graph is None else rewound.graph.nodes
    return frozenset(
        key
        for key, slot in old.by_exec.items()
        if slot.waits
        and slot.exec == key
        and slot.status in ("ready", "retrying", "failed", "unknown")
        and (
            is_changed(slot.node, old, now)
            or (rewound.run and any(wait.reason != "sleep" for wait in slot.waits))
        )
    )


def _holds(
    before: State, state: State, event: Event, rewound: ev.Rewound, anew: frozenset[str]
) -> bool:
    """Whether an event can follow what is left of its journal. `before` has all that came before it."""
    match event.payload:
        case ev.RunEnded():
            return False
        case ev.CancelRequested():
            return not rewound.run
        case ev.Signalled(timed_out=False, name=name):
            given = before.waits.get(name)
            if not given:
                return True
            taker, mine = given[0].slot.exec, state.waits.get(name, ())
            if taker in anew:
                return not rewound.run  # nobody sends it twice, so it is kept for the new wait
            return any(wait.slot.exec == taker for wait in mine)
        case ev.Waiting() if event.key in anew:
            return False
        case ev.Decided(how="done" | "repeat" | "fail"):
            return event.key in state.unknown
        case ev.Decided(how="set"):
            return event.key in state.ready
        case _ if not event.key:
            return True
        case _:
            slot, was = state.by_exec.get(event.key), before.by_exec.get(event.key)
            if slot is None or slot.exec != event.key or was is None:
                return False
            known = was.step.nodes[event.alternative] in slot.step.nodes[event.alternative :][:1]
            return known and _follows(state, slot, event)


def _follows(state: State, slot: Slot, event: Event) -> bool:
    """Whether a step is where this event of it says that it was."""
    payload = event.payload
    if any(fact.key == event.key and type(fact.payload) is type(payload) for fact in state.owed):
        return True
    if isinstance(payload, ev.Signalled):
        return any(wait.name == payload.name and wait.n == payload.n for wait in slot.open_waits())
    if isinstance(payload, ev.StepFailed):  # given up before it began, since its plan was
        planner = slot.planner()
        asked = planner is not None and planner.key in state.replanning
        return asked and slot.status in ("ready", "retrying")
    if slot.status not in ("ready", "retrying"):
        return False
    if (event.alternative, event.attempt) != (slot.alternative, slot.attempt):
        return False
    hash_: str | None = getattr(payload, "input_hash", None)
    return hash_ is None or hash_ == state.input_hash(slot)


def _let_go(before: State, state: State, event: Event) -> None:
    """A signal that came early, and was taken by a wait that does not hold, is used up all the same."""
    if isinstance(event.payload, ev.Waiting):
        early = before.signals.get(event.payload.name)
        kept = state.signals.get(event.payload.name)
        if early and kept and early[0] in kept:
            kept.remove(early[0])


def _carry_over(old: State, state: State, dropped: Sequence[Event], seq: int) -> None:
    """What the run has used stays used, and what it has done before has had its effects."""
    state.steps_used, state.attempts_used = old.steps_used, old.attempts_used
    state.turns_used, state.tool_calls_used = old.turns_used, old.tool_calls_used
    state.usage, state.spent = old.usage, old.spent
    state.consumed, state.cancelling = old.consumed, old.cancelling
    state.started_at, state.deadline = old.started_at, old.deadline
    tried = (*ENDINGS, ev.Intent, ev.AttemptFailed)
    again = {event.key: seq for event in dropped if isinstance(event.payload, tried)}
    again |= dict.fromkeys(_overtaken(old, state), seq)
    state.redone = {**old.redone, **again}
    state.taint = {**state.taint, **old.taint}


def _overtaken(old: State, state: State) -> Iterator[str]:
    """Attempts that may have been under way, with other inputs than the same step is given now."""
    for key, slot in old.by_exec.items():
        if slot.exec == key and slot.status in ("ready", "retrying"):
            now = state.by_exec.get(key)
            if now is None or now.exec != key or state.input_hash(now) != old.input_hash(slot):
                yield key


def in_place(facts: Sequence[Fact], state: State, at: float) -> list[Event]:
    """Facts in their places after a state, at a time."""
    return [
        Event(
            state.seq + n, max(at, state.at), fact.payload, fact.key, fact.alternative, fact.attempt
        )
        for n, fact in enumerate(facts, 1)
    ]
