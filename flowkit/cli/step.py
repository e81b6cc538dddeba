"""`show --step`: a step as a whole, or only one of its rounds or turns."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import flowkit.events as ev
from flowkit.cli.exits import NOT_FOUND, Problem
from flowkit.cli.results import raw_slot, raw_value
from flowkit.cli.text import clean, rfc3339, to_json
from flowkit.events import Event, StepView
from flowkit.graph import INPUT
from flowkit.rewind import Fold
from flowkit.slot import Slot
from flowkit.state import State
from flowkit.store import SqlStore
from flowkit.store.encoding import encode

_LISTED_MAX = 20

_STATUS: dict[type[Any], str] = {
    ev.StepDone: "done",
    ev.Planned: "planned",
    ev.Accepted: "accepted",
    ev.Rejected: "rejected",
    ev.AttemptFailed: "retrying",
    ev.StepFailed: "failed",
    ev.OutcomeUnknown: "unknown",
    ev.Decided: "done",
    ev.Waiting: "waiting",
}


def view_data(view: StepView) -> dict[str, Any]:
    """A step as JSON data with stable keys."""
    return {
        "step": view.key,
        "node": view.node,
        "kind": view.kind,
        "status": view.status,
        "attempts": view.attempts,
        "duration_s": round(view.duration_s, 6),
        "errors": list(view.errors),
        "feedback": list(view.feedback),
        "detail": view.detail,
    }


async def step_data(store: SqlStore, folded: Fold, key: str) -> dict[str, Any]:
    """Everything that holds of a step, or of the one round or turn that a key names.

    How it stands, what it gave, what happened to it. A step's own key means all its rounds and turns.
    """
    state = folded.state
    slot = state.slots.get(key) or state.by_exec.get(key)
    if slot is None or slot.key == INPUT:
        raise Problem(unknown_step(state, key), NOT_FOUND)
    view = next(each for each in state.views() if each.key in (slot.exec, slot.key))
    if key == slot.key:
        keys = {each for each, other in state.by_exec.items() if other is slot}
        happened = [event for event in folded.live if event.key in keys | {key}]
        value = await raw_slot(slot, store) if slot.status == "settled" else None
        data = view_data(view)
    else:
        happened = [event for event in folded.live if event.key == key]
        value = await _given(happened, store)
        told = _told_before(folded.live, slot, key)
        if slot.planning is not None and key == slot.exec:
            told = list(slot.feedback)
        data = {**view_data(view), **_part(happened, slot, key), "step": key}
        data["feedback"] = [*told, *data["feedback"]]
        if key == slot.exec and view.status not in ("done", "expanded"):
            data["status"], data["detail"] = view.status, view.detail
    events = [await event_data(store, event) for event in happened]
    return {**data, "value": value, "events": events}


def _part(happened: Sequence[Event], slot: Slot, key: str) -> dict[str, Any]:
    """One round or turn, from its own events alone."""
    ends = [each for each in happened if type(each.payload) in _STATUS and not _is_open(each)]
    tries = {(each.alternative, each.attempt) for each in ends if _took(each) is not None}
    nodes = slot.step.nodes
    return {
        "node": nodes[ends[-1].alternative] if ends else slot.node,
        "status": _STATUS[type(ends[-1].payload)] if ends else "pending",
        "attempts": len(tries),
        "duration_s": round(sum(_took(each) or 0.0 for each in ends), 6),
        "errors": [
            f"{nodes[each.alternative]}: {each.payload.error}"
            for each in ends
            if isinstance(each.payload, ev.AttemptFailed)
        ],
        "feedback": [
            each.payload.feedback for each in ends if isinstance(each.payload, ev.Rejected)
        ],
        "detail": "",
    }


def _is_open(event: Event) -> bool:
    """Whether it was decided to go on, not what the outcome is."""
    return isinstance(event.payload, ev.Decided) and event.payload.how not in ("done", "set")


def _took(event: Event) -> float | None:
    """How long the attempt took that an event ends; None if it ends none."""
    took: float | None = getattr(event.payload, "duration_s", None)
    return took


def _told_before(events: Sequence[Event], slot: Slot, key: str) -> list[str]:
    """What its verifiers said of the round or turn before, which is why this one came."""
    verifiers = {each.key for each in slot.verifiers}
    told: list[str] = []
    for event in events:
        if event.key == key:
            break
        if event.key.partition("@")[0] in verifiers and isinstance(event.payload, ev.Rejected):
            told.append(event.payload.feedback)
        elif told and _is_round_of(event.key, slot):
            told = []
    return told


def _is_round_of(key: str, slot: Slot) -> bool:
    return key == slot.key or key.startswith((f"{slot.key}@", f"{slot.key}/t"))


async def _given(happened: Sequence[Event], store: SqlStore) -> Any:
    """The value that a round or turn gave; None if it gave none."""
    for event in reversed(happened):
        payload = event.payload
        if isinstance(payload, ev.StepDone | ev.Decided) and payload.value is not None:
            return await raw_value(payload.value, store)
    return None


def unknown_step(state: State, key: str) -> str:
    """That there is no such step, the names that come near, and how rounds and turns are named."""
    own = [view.key for view in state.views()]
    names = list(dict.fromkeys([*(each for each in state.slots if each != INPUT), *state.by_exec]))
    inner = [name for name in names if name.endswith(f"/{key}")]  # a planned step, by its own name
    near = inner[:3] or difflib.get_close_matches(key, names, n=3)
    if near:
        listed = f"Did you mean {', '.join(near)}?"
    else:
        more = f", … ({len(own) - _LISTED_MAX} more)" if len(own) > _LISTED_MAX else ""
        listed = f"Its steps: {', '.join(own[:_LISTED_MAX])}{more}."
    parts = [
        f"{slot.key} has turns {slot.key}/t1 to t{slot.turn}"
        for slot in state.slots.values()
        if slot.turn and key.startswith(f"{slot.key}/")
    ]
    parts += [
        f"{slot.key} has rounds up to {slot.key}@{slot.round}"
        for slot in state.slots.values()
        if slot.round > 1 and key.startswith(f"{slot.key}@")
    ]
    hint = "; ".join(parts) or "a planner's turn is KEY/t2, a round after a rejection KEY@2"
    return f"the run has no step {key!r}. {listed} ({hint})"


async def event_data(store: SqlStore, event: Event) -> dict[str, Any]:
    """An event as JSON data; large values are named by their hash."""
    from flowkit.values import parse

    own, _ = encode(event.payload)
    value = getattr(event.payload, "value", None)
    data: dict[str, Any] = parse(own)
    data.pop("graph", None)
    if value is not None and value.text is not None:
        data["value"] = await raw_value(value, store)
    return {
        "seq": event.seq,
        "at": rfc3339(event.at),
        "kind": event.kind,
        "step": event.key or None,
        "alternative": event.alternative,
        "attempt": event.attempt,
        "data": data,
    }


def print_step(data: dict[str, Any]) -> None:
    """A step, a round or a turn for people; what is empty is left out of a part."""
    for name in ("step", "node", "kind", "status", "attempts", "duration_s", "detail"):
        print(f"{name + ':':<12}{clean(data[name], 4000)}")
    for name in ("errors", "feedback"):
        for text in data[name]:
            print(f"{name + ':':<12}{clean(text, 4000)}")
    if data["status"] != "planned":
        print("value:")
        print(to_json(data["value"], indent=2))
