"""Plans become steps: a plan is checked before it is grafted.

A plan that cannot be run raises a `PlanError` whose text is written for the planner that made it.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowkit.errors import PlanError
from flowkit.graph import INPUT, Source, Step
from flowkit.node import AnyNode
from flowkit.plan import Plan
from flowkit.planning import steps_of
from flowkit.slot import Slot, TurnState
from flowkit.values import combine


def graft(planner: AnyNode, plan: Plan, slot: Slot) -> tuple[Step, ...]:
    """The steps of a plan, with ids relative to the turn; raises `PlanError`."""
    steps = steps_of(plan, planner.tools, planner.limits.steps_max)
    if not any(call.step for call in plan.calls):  # single calls are told one by one
        _check_new(steps, slot)
    return steps


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
