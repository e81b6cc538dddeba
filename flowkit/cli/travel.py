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
from flowkit.cli.exits import CONFIGURATION, NOT_FOUND, SUCCESS, Problem, say
from flowkit.cli.inputs import check_json, read_json
from flowkit.cli.lineage import listed
from flowkit.cli.looking import on_store
from flowkit.cli.step import unknown_step
from flowkit.cli.table import Column, print_table
from flowkit.cli.targets import Target
from flowkit.cli.text import clean, counted, to_json
from flowkit.engine import Engine
from flowkit.errors import RunConflict, VersionMismatch
from flowkit.fork import ForkPlan, plan_fork
from flowkit.graph import INPUT
from flowkit.ports import Journal, RunQuery, RunRecord
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


def check_free(database: Database, base: RunRecord, new_id: str | None) -> None:
    """`RunConflict` if a run has the id; a fork of this one that was left half made may be made again."""
    if new_id is None:
        return
    found = on_store(database, lambda store: store.runs(RunQuery(run_id=new_id)))
    if found and not (found[0].half_made and found[0].base == base.run_id):
        raise RunConflict(
            f"a run with the id {new_id!r} exists already, and nothing was changed. Take another --run-id, or "
            f"look at that one: flowkit show {new_id}."
        )


def dry_run(record: RunRecord, plan: ForkPlan, wanted: Wanted, *, json: bool) -> int:
    """Tell what the fork would begin with; nothing runs, nothing is written."""
    if json:
        data = {
            "run_id": record.run_id,
            "workflow": record.workflow,
            "shared": list(plan.shared),
            "set": list(wanted.values),
            "again": list(plan.again),
            "effects_again": list(plan.once),
            "changes": list(plan.changes),
        }
        print(to_json(data))
        return SUCCESS
    rows = [[key, "shared", ""] for key in plan.shared]
    rows += [[key, "set", ""] for key in wanted.values]
    why = "its effect is to happen once, and happens again"
    rows += [[key, "done again", why if key in plan.once else ""] for key in plan.again]
    rows += [[key, "done again", why] for key in plan.once if key not in plan.again]
    print_table([Column("STEP"), Column("WHAT"), Column("WHY", wide=True)], rows)
    print()
    for change in plan.changes:
        print(f"the workflow differs: {clean(change)}")
    print(_summary(record.run_id, plan, wanted))
    return SUCCESS


def _summary(run_id: str, plan: ForkPlan, wanted: Wanted) -> str:
    again = f"done again: {listed(plan.again)}" if plan.again else "nothing done is done again"
    given = f"; set: {listed(list(wanted.values))}" if wanted.values else ""
    return f"fork of {run_id}: {counted(len(plan.shared), 'finished step')} shared; {again}{given}."


def tell_plan(run_id: str, plan: ForkPlan, wanted: Wanted, *, quiet: bool) -> None:
    """Say what the fork shares and does again; and in any case which effects happen again."""
    if not quiet:
        say(_summary(run_id, plan, wanted))
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
