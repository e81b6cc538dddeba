"""What a change of code means for a stored run: which steps are reused, done again, or in the way.

A node's fingerprint (types, tools, instructions, `version=`) is kept in the run. A step is touched only
if its node's has changed since the step was done, or if it rests on one that is. Nothing here runs or
writes: `plan_resume` says what would be, and gives the `Rewound` that makes it so.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

import flowkit.events as ev
from flowkit.events import FINAL, Event
from flowkit.graph import INPUT, Graph
from flowkit.rewind import ENDINGS, Fold, Rewinding, is_changed, rewind
from flowkit.slot import Slot
from flowkit.state import State

OnChange: TypeAlias = Literal["refuse", "rerun", "keep"]
"""What becomes of finished steps whose code has changed: the run is not resumed; they and what rests on
them are done again; they stay as they are."""

ON_CHANGE: Final = ("refuse", "rerun", "keep")
NOT_AGAIN = "its effect has happened, or may have, and must not be repeated"

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
    run_id: str,
    status: ev.Status,
    folded: Fold,
    graph: Graph,
    on_change: OnChange,
    *,
    probed: Container[str] = (),
    misfits: Sequence[str] = (),
) -> ResumePlan:
    """What a resume under this graph does with each step of a run; nothing is changed.

    `probed`: names of nodes with a probe; `misfits`: steps whose stored result has no place in the
    type that it has by now.
    """
    changes = describe_change(folded.state.graph, graph)
    if not changes or status == "succeeded":
        steps = _steps(folded.state, folded.state, {}, status, probed)
        return ResumePlan(run_id, status, changes, tuple(steps))
    adopted = adopt(folded, graph, on_change).unless(misfits)
    marks = _marks(folded, graph, adopted, on_change)
    if misfits:
        marks |= dict.fromkeys(misfits, ("changed", "its result does not fit its type any more"))
    steps = _steps(folded.state, adopted.outcome.state, marks, status, probed)
    return ResumePlan(run_id, status, changes, tuple(steps), adopted.refusal, adopted.rewound)


class Adoption(NamedTuple):
    """What a run becomes under another graph: what is recorded, and what is left of its journal.

    `lost`: done, and not in its place under that graph; `altered`: done by code that has changed since;
    `once`: effects that happen once, and would, or might, happen again.
    """

    rewound: ev.Rewound
    outcome: Rewinding
    lost: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    refusal: str = ""

    def unless(self, misfits: Sequence[str]) -> Adoption:
        """The same, refused if the stored results of some steps do not fit their types any more."""
        if self.refusal or not misfits:
            return self
        return self._replace(
            refusal=f"{listed(misfits)}: done, and its result does not fit its type any more"
        )


def adopt(
    folded: Fold,
    graph: Graph | None,
    on_change: OnChange,
    *,
    at: Sequence[str] = (),
    run: str = "",
    model: str = "",
) -> Adoption:
    """Go on by this graph (None: as before), and do `at` again; in a fork, `run` is what it is one of."""
    place = Event(folded.state.seq + 1, folded.state.at, ev.Rewound())

    def rewound(keys: Sequence[str], graph: Graph | None) -> tuple[ev.Rewound, Rewinding]:
        payload = ev.Rewound(tuple(dict.fromkeys(keys)), graph, run, model)
        return payload, rewind(folded, place, payload)

    now = graph or folded.state.graph
    kept = rewound(at, graph)
    meant = done_in(rewound(at, None)[1].dropped) if at else {}
    lost = tuple(key for key in done_in(kept[1].dropped) if key not in meant)
    altered = tuple(
        key
        for key, event in done_in(kept[1].live, ENDINGS).items()
        if is_changed(node_of(event, folded.state), folded.state, now.nodes)
    )
    rerun = on_change == "rerun"
    chosen = rewound([*at, *altered], graph) if rerun and altered else kept
    once = tuple(_once_in(chosen[1].dropped, folded.state, now))
    back = () if run else tuple(_back_again(folded.state, chosen[1].state))
    refusal = ""
    if back:
        refusal = (
            f"{listed(back)}: its effect happened before the step was taken out of the workflow"
        )
    elif rerun and once and not run:
        refusal = f"{listed(once)}: {NOT_AGAIN}"
    elif lost and not rerun:
        refusal = f"{listed(lost)}: done, and no longer in the same place of the workflow"
    elif altered and on_change == "refuse":
        refusal = f"{listed(altered)}: done by code that has changed since"
    return Adoption(*chosen, lost, altered, once, refusal)


def done_in(
    events: Iterable[Event], kinds: tuple[type, ...] = (*ENDINGS, ev.Intent)
) -> dict[str, Event]:
    """The events that tell that something was done, or may have had its effect, by key."""
    return {event.key: event for event in events if isinstance(event.payload, kinds)}


def node_of(event: Event, state: State) -> str:
    """The node that an event of a step is about."""
    return state.by_exec[event.key].step.nodes[event.alternative]


def _once_in(events: Iterable[Event], state: State, graph: Graph) -> Iterator[str]:
    there = {step.key for step in graph.steps}
    for key, slot in ((key, state.by_exec[key]) for key in done_in(events)):
        nodes = {node_of(each, state) for each in events if each.key == key}
        if any(state.nodes[name].once for name in nodes) and (slot.parent or slot.key in there):
            yield key


def _back_again(state: State, after: State) -> Iterator[str]:
    """Steps that happen once, have happened, were taken out by a deploy, and are there again."""
    for key in state.redone:
        slot = after.by_exec.get(key)
        new = slot is not None and key not in state.by_exec and not _is_done(slot, key)
        if slot is not None and new and any(after.nodes[each].once for each in slot.step.nodes):
            yield key


def listed(keys: Sequence[str]) -> str:
    """`step a`, `steps a, b`, the first five of them."""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{'step' if len(keys) == 1 else 'steps'} {', '.join(keys[:5])}{more}"


Marks: TypeAlias = dict[str, tuple[Action, str]]


def _marks(folded: Fold, graph: Graph, adopted: Adoption, on_change: OnChange) -> Marks:
    """What a change of code says of steps, by key: the action, and why."""
    marks: Marks = {}
    again: Action = "blocked" if adopted.refusal else "rerun"
    if on_change == "rerun":
        for key in done_in(adopted.outcome.dropped):
            why = "it rests on what is done again"
            marks[key] = (again, "its code has changed" if key in adopted.altered else why)
        if adopted.refusal:
            marks |= dict.fromkeys(adopted.once, ("blocked", NOT_AGAIN))
        return marks
    for key in adopted.altered:
        kept: tuple[Action, str] = ("reuse", "its code has changed; its result is kept")
        changed: tuple[Action, str] = ("changed", "done by code that has changed since")
        marks[key] = changed if on_change == "refuse" else kept
    marks |= dict.fromkeys(adopted.lost, ("changed", "no longer in the same place of the workflow"))
    if adopted.refusal:
        behind: tuple[Action, str] = ("blocked", "it rests on a step that is in the way")
        place = Event(folded.state.seq + 1, folded.state.at, ev.Rewound())
        roots = [key for key, (action, _) in marks.items() if action == "changed"]
        without = rewind(folded, place, ev.Rewound(tuple(roots), graph))
        for key in done_in(without.dropped):
            marks.setdefault(key, behind)
        for slot in _behind(folded.state, {folded.state.by_exec[key].key for key in roots}):
            if not _is_done(slot, slot.exec):
                marks.setdefault(slot.exec, behind)
    return marks


def _steps(
    state: State, after: State, marks: Marks, status: ev.Status, probed: Container[str]
) -> Iterator[StepPlan]:
    """The steps of a run, then those that the workflow has new; `after` is what it would become."""
    for key, slot in _executions(state):
        gone, done = slot.key not in after.slots, _is_done(slot, key)
        if gone and slot.parent is None:
            continue  # it has left the workflow
        if key in marks:
            yield StepPlan(key, slot.node, *marks[key])
        elif gone:
            yield StepPlan(key, slot.node, "run", "if it is planned again")
        elif done:
            yield StepPlan(key, slot.node, "reuse")
        elif slot.status == "unknown" or slot.intent:
            asked = slot.node in probed and slot.exec not in state.foreign
            how: Action = "run" if asked else "blocked"
            yield StepPlan(key, slot.node, how, f"its outcome is unknown: {_FINDS_OUT[asked]}")
        elif slot.status == "failed" and slot.planner() is not None:
            yield StepPlan(key, slot.node, "reuse", "failed, which its planner was told")
        elif slot.status == "failed":
            yield StepPlan(key, slot.node, "run", f"failed: {slot.error}; retry does it again")
        elif status not in FINAL or after is not state:
            yield StepPlan(key, slot.node, "run")
    new = (slot for key, slot in after.slots.items() if key not in state.slots)
    yield from (StepPlan(slot.key, slot.node, "run", "new in the workflow") for slot in new)


_FINDS_OUT = ("decide on it", "its probe is asked")


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


def _behind(state: State, roots: set[str]) -> Iterator[Slot]:
    """The slots that rest on some of these, and these."""
    readers: dict[str, list[str]] = {}
    for slot in state.slots.values():
        for key in (*slot.step.reads(), slot.step.checks, slot.parent.key if slot.parent else ""):
            readers.setdefault(key, []).append(slot.key)
    found, todo = set(roots), list(roots)
    while todo:
        for key in readers.get(todo.pop(), ()):
            if key not in found:
                found.add(key)
                todo.append(key)
    yield from (state.slots[key] for key in found)


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
