"""Forking: a new run that begins with another one's journal and does some of its steps again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import flowkit.events as ev
from flowkit.changes import OnChange
from flowkit.dsl import Workflow
from flowkit.errors import ResumeError, ValueRefused
from flowkit.events import Event, Fact
from flowkit.hosting import Hosting
from flowkit.ports import Journal
from flowkit.reading import Reading
from flowkit.rewind import Fold, rewind
from flowkit.runner import describe
from flowkit.slot import Slot
from flowkit.state import State


async def fork(
    hosting: Hosting,
    run_id: str,
    new_id: str,
    at: Sequence[str],
    values: Mapping[str, Any],
    model: str,
    on_change: OnChange | None,
) -> None:
    """Make the new run and drive it; see `Engine.fork`."""
    journal = await hosting.store.load(run_id)
    workflow = hosting.workflow(journal.record)
    folded = Fold().apply_all(journal.events)
    _check(hosting, journal, at, values, model)
    steps = [key for name in (*at, *values) for key in executions(folded.state, name)]
    adopted = hosting.adopted(journal.record, folded, workflow, on_change)
    if adopted is not None:
        steps += adopted.keys
    graph = adopted.graph if adopted is not None else None
    rewound = ev.Rewound(tuple(dict.fromkeys(steps)), graph, run_id, model)
    place = Event(folded.state.seq + 1, folded.state.at, rewound)
    state = rewind(folded, place, rewound).state
    facts = [Fact(rewound), *_set(state, workflow, values)]
    reading = Reading(state, workflow.nodes, workflow.codec(), hosting.kit.artifacts)
    facts = [await reading.shrink(fact) for fact in facts]
    await hosting.begin_fork(journal.record, new_id, folded, facts)


def _check(
    hosting: Hosting, journal: Journal, at: Sequence[str], values: Mapping[str, Any], model: str
) -> None:
    record = journal.record
    if not journal.events:
        raise ResumeError(f"run {record.run_id!r} has no events yet: there is nothing to fork.")
    if record.status == "succeeded" and not (at or values):
        raise ResumeError(
            f"run {record.run_id!r} has succeeded: say with at= which step is to be done again, or with "
            f"set= which result is to be another."
        )
    names = [each.name for each in hosting.kit.models]
    if model and model not in names:
        raise ResumeError(
            f"this engine has no model named {model!r}, only {', '.join(names) or 'none'}: "
            f"Engine(..., model=[...]) takes several."
        )


def executions(state: State, name: str) -> Sequence[str]:
    """The keys, with round or turn, that a step's name stands for: a map is all its items."""
    slot = state.by_exec.get(name) or state.slots.get(name)
    if slot is None:
        near = get_close_matches(name, {*state.by_exec, *state.slots}, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(repr(each) for each in near)}?" if near else ""
        raise ResumeError(f"the run has no step {name!r}.{hint}")
    if name in state.by_exec and not slot.step.each:
        return (name,)
    found = tuple(_parts(state, slot, name))
    if not found:
        raise ResumeError(f"step {name!r} has not begun: there is nothing to go back to.")
    return found


def _parts(state: State, slot: Slot, name: str) -> Iterator[str]:
    """A planner's first turn, or a map's items."""
    for key, each in state.by_exec.items():
        if slot.step.each and each.parent is slot and key.startswith(f"{name}/"):
            yield key
        elif each is slot and not slot.step.each:
            yield key
            return


def _set(state: State, workflow: Workflow[Any, Any], values: Mapping[str, Any]) -> Iterator[Fact]:
    """Results that stand in place of what steps would give."""
    for name, value in values.items():
        slot = state.ready.get(name) or state.ready.get(f"{name}/t1")
        if slot is None:
            raise ResumeError(
                f"step {name!r} cannot be set: it is no single step, or rests on one that is done again."
            )
        node = workflow.nodes[slot.node]
        codec = node.codec()
        if codec is None or node.kind == "verifier":
            what = "a verdict" if codec is not None else "what a planner finds"
            raise ResumeError(f"step {name!r} cannot be set: {what} is not a value of its own.")
        try:
            stored = codec.dump(codec.check(value))
        except ValueError as error:
            raise ValueRefused(
                f"step {name!r} cannot be set to that: {describe(error).message}"
            ) from error
        yield Fact(ev.Decided("set", stored), slot.exec, slot.alternative)
