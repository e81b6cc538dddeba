"""`fork`: a new run that begins as another one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anyio.abc import TaskGroup

from flowkit.changes import OnChange
from flowkit.cli.config import Database
from flowkit.cli.deploys import advised, ways_of
from flowkit.cli.driving import Begin, command_tail
from flowkit.cli.exits import CONFIGURATION, NOT_FOUND, Problem, say
from flowkit.cli.inputs import check_json, read_json
from flowkit.cli.lineage import listed
from flowkit.cli.step import unknown_step
from flowkit.cli.targets import Target
from flowkit.cli.text import clean, counted
from flowkit.engine import Engine
from flowkit.errors import VersionMismatch
from flowkit.fork import ForkPlan, plan_fork
from flowkit.graph import INPUT
from flowkit.ports import Journal
from flowkit.rewind import Fold
from flowkit.state import State


def check_model(name: str) -> str:
    """What `--model` says; the server is the configured one, so that a resume finds it again."""
    if "://" in name:
        raise Problem(
            "--model takes a model's name. Its server is the configured one: set FLOWKIT_BASE_URL, which a "
            "later resume of the fork must find, too."
        )
    return name.strip()


def read_values(given: Sequence[str], state: State, target: Target) -> dict[str, Any]:
    """What `--set STEP=JSON` says, by step, checked against what the step gives."""
    values: dict[str, Any] = {}
    for text in given:
        step, equals, value = text.partition("=")
        if not (step and equals):
            raise Problem(f"--set takes STEP=JSON or STEP=@FILE, not {clean(text, 60)!r}.")
        if step in values:
            raise Problem(f"--set gives {clean(step, 60)!r} twice.")
        values[step] = _read_value(step, value, state, target)
    return values


def _read_value(step: str, text: str, state: State, target: Target) -> Any:
    check_step(step, state)
    slot = state.by_exec.get(step) or state.slots[step]
    node = target.workflow.nodes.get(slot.node)
    codec = node.codec() if node is not None and node.kind != "verifier" else None
    if codec is None or slot.step.each:
        return read_json(text, f"--set {step}")  # the fork says why it cannot be set
    is_text = codec.schema().get("type") == "string"
    data = read_json(text, f"--set {step}", plain_text=is_text)
    return check_json(codec, data, f"--set {step} does not fit what {slot.node!r} gives")


def check_step(step: str, state: State) -> None:
    """`Problem` for a step that the run does not have."""
    if step == INPUT or (step not in state.by_exec and step not in state.slots):
        raise Problem(unknown_step(state, step), NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a fork is to be."""

    at: Sequence[str]
    values: Mapping[str, Any]
    model: str
    new_id: str | None
    on_change: OnChange


def planned(journal: Journal, wanted: Wanted, target: Target, database: Database) -> ForkPlan:
    """What the fork would begin with; a refusal says what to type."""
    folded = Fold().apply_all(journal.events)
    record = journal.record

    def plan(on_change: OnChange) -> ForkPlan:
        return plan_fork(
            record, folded, target.workflow, wanted.at, wanted.values, wanted.model, on_change
        )

    for step in wanted.at:
        check_step(step, folded.state)
    if record.status == "succeeded" and not (wanted.at or wanted.values):
        raise Problem(
            f"run {record.run_id} has succeeded: say with --at which step is to be done again, or with "
            f"--set which result is to be another. See flowkit show {record.run_id}."
        )
    try:
        return plan(wanted.on_change)
    except VersionMismatch as error:
        go = f"flowkit fork {command_tail(record, database, target.text)} ..."
        why = str(error).partition(". Not resumed, since of ")[2].partition(". Resume it")[0]
        lines = [
            f"run {record.run_id} began with another version of its workflow: {'; '.join(error.diff)}.",
            f"it is not forked: {why}. Do these steps again with --at, or:",
            *advised(ways_of(plan, VersionMismatch), go),
        ]
        raise Problem("\n".join(lines), CONFIGURATION) from error


def tell_plan(run_id: str, plan: ForkPlan, wanted: Wanted, *, quiet: bool) -> None:
    """Say what the fork shares and does again; and in any case which effects happen again."""
    again = f"done again: {listed(plan.again)}" if plan.again else "nothing done is done again"
    given = f"; set: {listed(list(wanted.values))}" if wanted.values else ""
    shared = counted(len(plan.shared), "finished step")
    if not quiet:
        say(f"fork of {run_id}: {shared} shared; {again}{given}.")
    if plan.once:
        say(
            f"warning: these effects, which are to happen once, happen again in the fork: {listed(plan.once)}."
        )


def forking(run_id: str, wanted: Wanted) -> Begin:
    """Make the fork."""

    async def begin(engine: Engine, tasks: TaskGroup) -> str:
        handle = await engine.fork(
            run_id,
            at=wanted.at,
            set=wanted.values,
            model=wanted.model,
            new_id=wanted.new_id,
            on_change=wanted.on_change,
        )
        return handle.id

    return begin
