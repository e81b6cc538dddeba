"""Decisions on stored runs: an unknown outcome, and a run's end."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import anyio

from flowkit.cli.config import Database
from flowkit.cli.driving import busy, drive_on, model_for, resuming
from flowkit.cli.exits import SUCCESS, Problem, say
from flowkit.cli.follow import Silent
from flowkit.cli.inputs import check_json, read_json
from flowkit.cli.looking import find_run, is_driven, leave_message, on_store, print_posted
from flowkit.cli.targets import Target, known_target, target_of_run
from flowkit.cli.text import to_json
from flowkit.engine import Engine
from flowkit.events import FINAL
from flowkit.ports import RunRecord
from flowkit.state import State
from flowkit.store import SqlStore


def find_decision(
    database: Database,
    record: RunRecord,
    target: Target,
    how: str,
    step: str | None,
    assume_done: str | None,
) -> tuple[str, str, Any] | None:
    """Step, how and value of what was decided, checked before anything is written."""
    if not how:
        return None
    if assume_done is not None and assume_done.lstrip()[:1] in ("{", "["):
        read_json(assume_done, "--assume-done")  # whatever the step gives, this is meant as JSON
    refuse_driven(record, database)
    key, node = on_store(database, lambda store: _unknown(store, record.run_id, step))
    value: Any = None
    codec = target.workflow.nodes[node].codec() if node in target.workflow.nodes else None
    if assume_done is not None and codec is not None:
        data = read_json(
            assume_done, "--assume-done", plain_text=codec.schema().get("type") == "string"
        )
        value = check_json(codec, data, f"--assume-done does not fit what {node!r} gives")
    return key, how, value


def refuse_driven(record: RunRecord, database: Database) -> None:
    """`RunBusy`, before anything is written, while somebody else drives the run."""
    if is_driven(record):
        raise busy(record.run_id, record.owner or "", record.lease_until or 0.0, database)


async def _unknown(store: SqlStore, run_id: str, step: str | None) -> tuple[str, str]:
    """The step of unknown outcome that is meant, and its node."""
    record, state = await Engine(store).state(run_id)
    known: State = state
    keys = list(known.unknown)
    if record.status in FINAL:
        reopened = record.status in ("failed", "quarantined")
        how = f" Reopen it first: flowkit retry {run_id}." if reopened else ""
        raise Problem(f"nothing to decide: run {run_id} has ended, it is {record.status}.{how}")
    if not keys:
        raise Problem(
            f"nothing to decide: no step of run {run_id} has an unknown outcome. Take it up without "
            f"--repeat, --fail and --assume-done."
        )
    if step is None and len(keys) == 1:
        step = keys[0]
    if step not in known.unknown:
        listed = ", ".join(repr(key) for key in keys) or "none"
        wanted = "say --step KEY" if step is None else f"{step!r} is not one of them"
        raise Problem(f"steps of unknown outcome: {listed}; {wanted}.")
    return step, known.unknown[step].node


def cancel_run(database: Database, ref: str, target: str | None, reason: str, *, json: bool) -> int:
    """Record the wish; if nobody drives the run, and its code can be found, carry it out here."""
    record = on_store(database, lambda store: find_run(store, ref))
    if record.status == "cancelled":
        say(f"run {record.run_id} is cancelled already.")
        return SUCCESS
    loaded: Target | None = None
    if target is not None or (not is_driven(record) and known_target(record.workflow)):
        loaded = target_of_run(record.workflow, target)
    record = leave_message(
        database, record.run_id, lambda engine, run_id: engine.cancel(run_id, reason), "cancel"
    )
    if loaded is None or is_driven(record):
        print_posted(record, json=json, database=database, target=target or "")
        return SUCCESS
    with contextlib.redirect_stdout(sys.stderr):
        status = anyio.run(_end_here, database, loaded, record.run_id)
    if json:
        print(to_json({"run_id": record.run_id, "posted": True, "driven": False, "status": status}))
    else:
        say(f"run {record.run_id} is {status}.")
    return SUCCESS


async def _end_here(database: Database, target: Target, run_id: str) -> str:
    async with SqlStore(database.target) as store:
        begin = resuming(run_id, database)
        outcome = await drive_on(store, target, begin, model_for(target), Silent(), "keep")
        return outcome.record.status
