"""Plans become steps: a plan is checked before it is grafted.

A plan that cannot be run raises a `PlanError` whose text is written for the planner that made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import GenericAlias
from typing import Any, cast

from flowkit.dsl import failure_moves, item_type
from flowkit.errors import BadArguments, PlanError, PlanTooLarge, Reject
from flowkit.fits import fits
from flowkit.graph import INPUT, Source, Step, check_name
from flowkit.node import AnyNode
from flowkit.plan import Plan, Planned
from flowkit.planning import find_tool
from flowkit.slot import Slot, TurnState
from flowkit.values import combine, show_type


def graft(planner: AnyNode, plan: Plan, slot: Slot) -> tuple[Step, ...]:
    """The steps of a plan, with ids relative to the turn; raises `PlanError`."""
    if len(plan.steps) > planner.limits.steps_max:
        raise PlanTooLarge(
            f"the plan has {len(plan.steps)} steps; plan at most {planner.limits.steps_max}."
        )
    tools = {tool.name: tool for tool in planner.tools}
    by_id: dict[str, Planned[Any]] = {}
    for planned in plan.steps:
        if not isinstance(cast(object, planned), Planned):
            raise PlanError(f"a plan holds steps made by tool.step(...), not {planned!r}.")
        try:
            check_name(planned.id, "step id")
        except ValueError as error:
            raise PlanError(str(error)) from error
        if planned.id in by_id:
            raise PlanError(f"two steps have the id {planned.id!r}; give each its own.")
        by_id[planned.id] = planned
    steps = tuple(_graft_one(planned, tools, by_id) for planned in plan.steps)
    _check_order(steps)
    _check_new(steps, slot)
    return steps


def _graft_one(
    planned: Planned[Any], tools: Mapping[str, AnyNode], by_id: Mapping[str, Planned[Any]]
) -> Step:
    tool = find_tool(planned.tool, tools)
    first = tool.alternatives[0]
    if len(planned.inputs) != len(first.takes):
        raise BadArguments(
            f"step {planned.id!r}: {tool.name} takes {', '.join(first.takes)}, "
            f"but was given {len(planned.inputs)} arguments."
        )
    for place, (source, (name, hint)) in enumerate(
        zip(planned.inputs, first.takes.items(), strict=True)
    ):
        if not source.step:
            continue
        other = by_id.get(source.step)
        if other is None:
            raise BadArguments(
                f"step {planned.id!r}: {name} refers to {source.step!r}, which is no step of this plan. "
                f"Steps: {', '.join(by_id)}."
            )
        given = _gives(other, by_id, tools)
        given = item_type(given, planned.id) if planned.each and place == 0 else given
        if not fits(given, hint):
            raise BadArguments(
                f"step {planned.id!r}: {name} takes {show_type(hint)}, but step {other.id!r} "
                f"gives {show_type(given)}."
            )
    missing = [key for key in (*planned.after, planned.checks) if key and key not in by_id]
    if missing:
        raise BadArguments(
            f"step {planned.id!r} names {missing[0]!r}, which is no step of this plan."
        )
    names = tuple(node.name for node in tool.alternatives)
    return Step(
        planned.id,
        names,
        planned.inputs,
        planned.after,
        each=planned.each,
        checks=planned.checks,
        attempts=planned.attempts,
        reject_moves=len(names) > 1 and Reject in tool.moves_on,
        failure_moves=failure_moves(tool),
    )


def _gives(
    planned: Planned[Any], by_id: Mapping[str, Planned[Any]], tools: Mapping[str, AnyNode]
) -> Any:
    """The type of what a planned step gives; a verifier passes on what it checks."""
    if planned.checks in by_id:
        return _gives(by_id[planned.checks], by_id, tools)
    gives: Any = find_tool(planned.tool, tools).alternatives[0].gives
    return GenericAlias(list, (gives,)) if planned.each else gives


def _check_order(steps: Sequence[Step]) -> None:
    """Kahn's algorithm: take away steps whose inputs are taken away, until none is left."""
    waits = {step.key: set(step.reads()) for step in steps}
    readers: dict[str, list[str]] = {step.key: [] for step in steps}
    for key, reads in waits.items():
        for source in reads:
            readers[source].append(key)
    free = [key for key, reads in waits.items() if not reads]
    while free:
        done = free.pop()
        del waits[done]
        for reader in readers[done]:
            if reader in waits:
                waits[reader].discard(done)
                if not waits[reader]:
                    free.append(reader)
    if waits:
        raise PlanError(f"the steps {', '.join(waits)} wait for each other; break the cycle.")


def _plan_digest(steps: Sequence[Step]) -> str:
    parts = [
        (step.key, *step.nodes, *(f"{s.step}={s.text}" for s in step.inputs)) for step in steps
    ]
    return combine([repr(part) for part in sorted(parts)])


def _as_planned(turn: TurnState) -> list[Step]:
    """A turn's steps with ids relative to the turn, as they were planned."""
    steps: list[Step] = []
    for child in turn.children:
        prefix = child.key.rpartition("/")[0] + "/"
        inputs = tuple(
            Source(source.step.removeprefix(prefix), source.text) for source in child.step.inputs
        )
        steps.append(Step(child.key.removeprefix(prefix), child.step.nodes, inputs))
    return steps


class RepeatedPlan(PlanError):
    """The same plan was proposed again after it failed; told once, then the step fails."""


def _check_new(steps: Sequence[Step], slot: Slot) -> None:
    failed = slot.planning.failed if slot.planning else []
    if not steps or not failed:
        return
    mine = _plan_digest(steps)
    for turn in failed:
        if _plan_digest(_as_planned(turn)) == mine:
            reasons = "; ".join(f"{child.key}: {child.error}" for child in turn.failures()[:5])
            raise RepeatedPlan(
                f"this plan has failed already in turn {turn.number} ({reasons}). Plan something else."
            )


assert INPUT.startswith("$")  # no planned step can name the workflow's input
