"""Forking: a new run that begins with another one's journal and does some of its steps again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import flowkit.events as ev
from flowkit.changes import OnChange, adopt, describe_change, done_in, listed
from flowkit.dsl import Workflow
from flowkit.errors import ResumeError, ValueRefused
from flowkit.events import Fact
from flowkit.hosting import Hosting, mismatch
from flowkit.ports import RunRecord
from flowkit.reading import Reading
from flowkit.rewind import ENDINGS, Fold
from flowkit.runner import describe
from flowkit.slot import Slot
from flowkit.state import State


@dataclass(frozen=True, slots=True)
class ForkPlan:
    """What a fork begins with: the steps that it shares, and those that were done and are done again.

    Keys have round or turn. `once`: those of `again` whose effect should happen once, and happens
    again; `values`: those that are given a result; `changes`: how the workflow differs by now.
    """

    rewound: ev.Rewound
    state: State
    shared: tuple[str, ...]
    again: tuple[str, ...]
    once: tuple[str, ...]
    values: tuple[Fact, ...]
    changes: tuple[str, ...]


def plan_fork(
    record: RunRecord,
    folded: Fold,
    workflow: Workflow[Any, Any],
    at: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    model: str = "",
    on_change: OnChange = "refuse",
) -> ForkPlan:
    """What `Engine.fork` would make of a run; raises what it would. Nothing is read or written."""
    if not folded.live:
        raise ResumeError(f"run {record.run_id!r} has no events yet: there is nothing to fork.")
    if record.status == "succeeded" and not (at or values):
        raise ResumeError(
            f"run {record.run_id!r} has succeeded: say with at= which step is to be done again, or with "
            f"set= which result is to be another."
        )
    steps = [key for name in (*at, *(values or ())) for key in executions(folded.state, name)]
    changes = describe_change(folded.state.graph, workflow.bound())
    graph = workflow.bound() if changes else None
    adopted = adopt(folded, graph, on_change, at=steps, run=record.run_id, model=model)
    if adopted.refusal:
        raise mismatch(record, changes, adopted.refusal)
    outcome = adopted.outcome
    given = tuple(_set(outcome.state, workflow, values or {}))
    keys = {fact.key for fact in given}
    return ForkPlan(
        adopted.rewound,
        outcome.state,
        tuple(done_in(outcome.live, ENDINGS)),
        tuple(key for key in done_in(outcome.dropped) if key not in keys),
        tuple(key for key in adopted.once if key not in keys),
        given,
        changes,
    )


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
    hosting.check_model(model)
    folded = Fold().apply_all(journal.events)
    chosen = on_change or hosting.on_change
    plan = plan_fork(journal.record, folded, workflow, at, values, model, chosen)
    misfits = [key for key in await hosting.misfits(folded, workflow, chosen) if key in plan.shared]
    if misfits:
        refusal = f"{listed(misfits)}: done, and its result does not fit its type any more"
        raise mismatch(journal.record, plan.changes, refusal)
    reading = Reading(plan.state, workflow.nodes, workflow.codec(), hosting.kit.artifacts)
    given = [await reading.shrink(fact) for fact in plan.values]
    await hosting.begin_fork(journal.record, new_id, folded, [Fact(plan.rewound), *given])


def executions(state: State, name: str) -> Sequence[str]:
    """The keys, with round or turn, that a step's name stands for: a map is all its items."""
    slot = state.by_exec.get(name) or state.slots.get(name)
    if slot is None:
        names = {**state.by_exec, **state.slots}
        near = [key for key in names if key.endswith(f"/{name}")][:3]
        near = near or get_close_matches(name, names, n=3, cutoff=0.5)
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
