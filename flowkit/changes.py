"""What a change of code means for a stored run: which steps are reused, done again, or in the way.

A node's fingerprint (types, tools, instructions, `version=`) is kept in the run. A step is touched only
if its node's has changed since the step was done, or if it rests on one that is. Nothing here runs or
writes: `plan_resume` says what would be, and gives the `Rewound` that makes it so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import flowkit.events as ev
from flowkit.events import FINAL, Event
from flowkit.graph import INPUT, Graph
from flowkit.rewind import ENDINGS, Fold, Rewinding, rewind
from flowkit.slot import Slot
from flowkit.state import State

OnChange: TypeAlias = Literal["refuse", "rerun", "keep"]
"""What becomes of finished steps whose code has changed: the run is not resumed; they and what rests on
them are done again; they stay as they are."""

Action: TypeAlias = Literal["reuse", "run", "rerun", "changed", "blocked"]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What a resume does with one step, by its key with round or turn.

    "reuse": its stored result stands. "run": it has not been done yet. "rerun": it was, and is done
    again. "changed": it was done by other code, and that is in the way. "blocked": it rests on such a
    step, or waits for a decision.
    """

    step: str
    node: str
    action: Action
    why: str = ""


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """What resuming a run would do. `refusal` is empty, or says why it would not.

    `changes`: how the workflow differs from the run's, one line each.
    """

    run_id: str
    status: ev.Status
    changes: tuple[str, ...]
    steps: tuple[StepPlan, ...]
    refusal: str = ""
    rewound: ev.Rewound | None = None
    """What is recorded before anything runs; None if the run goes on as it is."""


def plan_resume(
    run_id: str, status: ev.Status, folded: Fold, graph: Graph, on_change: OnChange
) -> ResumePlan:
    """What a resume under this graph does with each step of a run; nothing is changed."""
    changes = describe_change(folded.state.graph, graph)
    if not changes or status == "succeeded":
        return ResumePlan(run_id, status, changes, tuple(_plain(folded.state, status)))
    made = _made(folded)
    altered = {key: name for key, name in made.items() if _altered(folded.state, graph, name)}
    place = Event(folded.state.seq + 1, folded.state.at, ev.Rewound())
    again = ev.Rewound(tuple(altered), graph)
    redone = rewind(folded, place, again)
    kept = redone if on_change == "rerun" else rewind(folded, place, ev.Rewound((), graph))
    lost = _lost(kept)
    refusal = ""
    if on_change == "rerun":
        once = [key for key in lost if _would_repeat(folded.state, graph, key)]
        if once:
            refusal = f"{_listed(once)}: its effect has happened and must not be repeated"
    elif lost:
        refusal = f"{_listed(lost)}: done, and no longer in the same place of the workflow"
    elif altered and on_change == "refuse":
        refusal = f"{_listed(list(altered))}: done by code that has changed since"
    steps = _steps(folded, redone, altered, kept, on_change, bool(refusal))
    rewound = again if on_change == "rerun" else ev.Rewound((), graph)
    return ResumePlan(run_id, status, changes, tuple(steps), refusal, rewound)


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{'step' if len(keys) == 1 else 'steps'} {', '.join(keys[:5])}{more}"


def _made(folded: Fold) -> dict[str, str]:
    """The node that made each step, turn and verdict, by key."""
    slots = folded.state.by_exec
    return {
        event.key: slots[event.key].step.nodes[event.alternative]
        for event in folded.live
        if isinstance(event.payload, ENDINGS)
    }


def _altered(state: State, graph: Graph, name: str) -> bool:
    now = graph.nodes.get(name)
    return now is None or now.fingerprint != state.nodes[name].fingerprint


def _lost(outcome: Rewinding) -> list[str]:
    """What was done, or may have had its effect, and would not be reused."""
    kinds = (*ENDINGS, ev.Intent)
    return list(dict.fromkeys(e.key for e in outcome.dropped if isinstance(e.payload, kinds)))


def _would_repeat(state: State, graph: Graph, key: str) -> bool:
    """Whether a step with an effect that happens once would be done again, or might be planned again."""
    slot = state.by_exec[key]
    gone = slot.parent is None and all(step.key != slot.key for step in graph.steps)
    return state.nodes[slot.node].once and not gone


def _plain(state: State, status: ev.Status) -> Iterator[StepPlan]:
    """The steps of a run whose code has not changed."""
    for key, slot in _executions(state):
        if _is_done(slot, key):
            yield StepPlan(key, slot.node, "reuse")
        elif slot.status == "unknown":
            yield StepPlan(key, slot.node, "blocked", "its outcome is unknown: decide on it")
        elif slot.status == "failed" and slot.planner() is not None:
            yield StepPlan(key, slot.node, "reuse", "failed, which its planner was told")
        elif slot.status == "failed":
            yield StepPlan(key, slot.node, "run", f"failed: {slot.error}; retry does it again")
        elif status not in FINAL:
            yield StepPlan(key, slot.node, "run")


def _executions(state: State) -> Iterator[tuple[str, Slot]]:
    """Every step with its rounds and turns: those that were, those that are, those to come."""
    seen: set[str] = set()
    for key, slot in state.by_exec.items():
        seen.add(slot.key)
        yield key, slot
    yield from ((key, slot) for key, slot in state.slots.items() if key not in seen | {INPUT})


def _is_done(slot: Slot, key: str) -> bool:
    """A round or turn is done when the next one has come, or its outcome stands."""
    if key not in (slot.exec, slot.key):
        return True
    over = slot.status in ("settled", "checking", "accepted", "rejected")
    return over or (slot.status == "expanded" and slot.planning is not None)


def _steps(
    folded: Fold, redone: Rewinding, altered: dict[str, str], kept: Rewinding, on_change: OnChange,
    refused: bool,
) -> Iterator[StepPlan]:  # fmt: skip
    gone = {event.key for event in redone.dropped if isinstance(event.payload, ENDINGS)}
    roots = {folded.state.by_exec[key].key for key in gone}
    behind = _behind(redone.state, roots)
    for key, slot in _executions(folded.state):
        done, name = _is_done(slot, key), slot.node
        if key in altered and on_change == "keep":
            yield StepPlan(key, name, "reuse", "its code has changed; its result is kept")
        elif key in altered and (on_change == "refuse" or refused):
            yield StepPlan(key, name, "changed", "done by code that has changed since")
        elif key in gone and on_change != "keep":
            why = (
                "its code has changed"
                if key in altered
                else "it rests on a step that is done again"
            )
            yield StepPlan(key, name, "blocked" if refused else "rerun", why)
        elif done or (slot.status == "failed" and slot.planner() is not None):
            yield StepPlan(key, name, "reuse")
        elif refused and slot.key in behind:
            yield StepPlan(key, name, "blocked", "it rests on a step whose code has changed")
        else:
            yield StepPlan(key, name, "run")
    new = [slot for key, slot in kept.state.slots.items() if key not in folded.state.slots]
    yield from (StepPlan(slot.key, slot.node, "run", "new in the workflow") for slot in new)


def _behind(state: State, roots: set[str]) -> set[str]:
    """Keys of the slots that rest on some of these."""
    readers: dict[str, list[str]] = {}
    for slot in state.slots.values():
        above = [slot.parent.key] if slot.parent is not None else []
        for key in (*slot.step.reads(), slot.step.checks):
            readers.setdefault(key, []).append(slot.key)
        for key in above:
            readers.setdefault(slot.key, []).append(key)
    found, todo = set(roots), list(roots)
    while todo:
        for key in readers.get(todo.pop(), ()):
            if key not in found:
                found.add(key)
                todo.append(key)
    return found


def describe_change(stored: Graph, present: Graph) -> tuple[str, ...]:
    """What differs between the graph of a run and the code's, one line each; empty for none."""
    lines: list[str] = []
    for name, spec in stored.nodes.items():
        now = present.nodes.get(name)
        if now is None:
            lines.append(f"node {name}: gone")
        elif now.fingerprint != spec.fingerprint:
            lines.append(f"node {name}: its types, tools, instructions or version changed")
    lines += [f"node {name}: new" for name in present.nodes if name not in stored.nodes]
    before = {step.key: step for step in stored.steps}
    after = {step.key: step for step in present.steps}
    lines += [f"step {key}: gone" for key in before if key not in after]
    lines += [f"step {key}: new" for key in after if key not in before]
    lines += [
        f"step {key}: its inputs or alternatives changed"
        for key, step in before.items()
        if key in after and after[key] != step
    ]
    if stored.output != present.output:
        lines.append(f"output: {stored.output} became {present.output}")
    return tuple(lines)
