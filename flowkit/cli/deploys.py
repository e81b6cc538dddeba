"""Runs whose code has changed since they began: `resume --dry-run`, `--on-change`, and what a refusal says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import flowkit.events as ev
from flowkit.changes import NOT_AGAIN, Action, OnChange, ResumePlan, plan_resume
from flowkit.cli.config import Database, has_runs
from flowkit.cli.driving import busy, command_tail
from flowkit.cli.exits import CONFIGURATION, SUCCESS, TRY_LATER, Problem, say
from flowkit.cli.looking import is_driven, on_store
from flowkit.cli.table import Column, print_table
from flowkit.cli.targets import Target
from flowkit.cli.text import clean, counted, to_json
from flowkit.errors import RunNotFound
from flowkit.events import FINAL
from flowkit.hosting import misfits
from flowkit.ports import Journal, RunRecord
from flowkit.rewind import Fold
from flowkit.store import SqlStore

POLICIES: Mapping[str, OnChange] = {each: each for each in ("refuse", "rerun", "keep")}

_ADVICE: Mapping[OnChange, str] = {
    "rerun": "do those steps again, and what rests on them",
    "keep": "keep their results, and go on by the new code",
}

_WORDS: Mapping[Action, str] = {
    "reuse": "reuse",
    "run": "run",
    "rerun": "run again",
    "changed": "changed code",
    "blocked": "blocked",
}


def policy_of(text: str) -> OnChange:
    """What `--on-change` says."""
    if text not in POLICIES:
        raise Problem(f"--on-change is one of {', '.join(POLICIES)}, not {clean(text, 40)!r}.")
    return POLICIES[text]


def load_journal(database: Database, run_id: str) -> Journal:
    """A stored run's journal; `RunNotFound` if there is none."""

    async def work(store: SqlStore) -> Journal:
        return await store.load(run_id)

    return on_store(database, work)


def asked_model(database: Database, run_id: str) -> str:
    """The model that a stored run was told to ask, which only forks are; empty for others."""
    return _asked_model(load_journal(database, run_id))


def _asked_model(journal: Journal) -> str:
    for event in reversed(journal.events):
        if isinstance(event.payload, ev.Rewound) and event.payload.model:
            return event.payload.model
    return ""


def check_code(
    database: Database, record: RunRecord, target: Target, on_change: OnChange, command: str
) -> str:
    """Refuse a run whose code has changed, with what to type, before anything is begun.

    `command`: "resume" or "retry". Gives the name of the model that the run was told to ask.
    """
    journal = load_journal(database, record.run_id)
    goes_on = journal.record.status not in FINAL or command == "retry"
    if goes_on and not is_driven(journal.record):
        plans = _plans(database, journal, target)
        plan = plans[on_change]
        if plan.refusal:
            tail = command_tail(record, database, target.text)
            raise refused(plan, _ways(plans), f"flowkit {command} {tail}", f"flowkit resume {tail}")
    return _asked_model(journal)


def check_existing(
    database: Database, run_id: str | None, target: Target, on_change: OnChange
) -> str:
    """As `check_code`, for an id that may be a stored run's; what else does not fit, the engine says."""
    if run_id is None or not has_runs(database):
        return ""
    try:
        record = load_journal(database, run_id).record
    except RunNotFound:
        return ""
    if record.workflow != target.workflow.name:
        return ""
    return check_code(database, record, target, on_change, "resume")


def _plans(database: Database, journal: Journal, target: Target) -> dict[OnChange, ResumePlan]:
    folded, record, flow = Fold().apply_all(journal.events), journal.record, target.workflow
    probed = [name for name, node in flow.nodes.items() if node.probe is not None]

    async def unfit(store: SqlStore) -> dict[OnChange, Sequence[str]]:
        return {each: await misfits(folded, flow, each, store) for each in POLICIES.values()}

    return {
        policy: plan_resume(
            record.run_id, record.status, folded, flow.bound(), policy, probed=probed, misfits=found
        )
        for policy, found in on_store(database, unfit).items()
    }


def _ways(plans: Mapping[OnChange, ResumePlan]) -> dict[OnChange, bool]:
    return {policy: not plan.refusal for policy, plan in plans.items()}


def refused(plan: ResumePlan, ways: Mapping[OnChange, bool], go: str, look: str) -> Problem:
    """What has changed, what is in the way, and the commands that would go on."""
    lines = [
        f"run {plan.run_id} began with another version of its workflow: {'; '.join(plan.changes)}.",
        f"it is not gone on with: {plan.refusal}.",
        *advised(ways, go),
    ]
    if any(step.why == NOT_AGAIN for step in plan.steps):
        lines.append(_instead(look))
    if look:
        lines.append(f"what would be done with each step: {look} --dry-run")
    return Problem("\n".join(lines), CONFIGURATION)


def _instead(look: str) -> str:
    """What is left where an effect stands in the way: to find out, or to have it again and know it."""
    fork = look.replace("resume", "fork", 1)
    return (
        f"when the run goes on with its results kept, a tool's probe= finds out whether it has happened, or you "
        f"decide. To have it happen again, in a new run and under a new idempotency key: {fork} --on-change rerun"
    )


def advised(ways: Mapping[OnChange, bool], go: str) -> list[str]:
    """The commands that would go on; `ways`: which policies are not refused."""
    lines = [f"{text}: {go} --on-change {way}" for way, text in _ADVICE.items() if ways[way]]
    return [*lines, "or go on with the code that it began with, and the same command."]


# ---- resume --dry-run


def dry_run(
    database: Database, record: RunRecord, target: Target, on_change: OnChange, *, json: bool
) -> int:
    """Tell what a resume would do with each step; nothing runs, nothing is written."""
    journal = load_journal(database, record.run_id)
    plans = _plans(database, journal, target)
    plan, driven = plans[on_change], is_driven(journal.record) and record.status not in FINAL
    code = CONFIGURATION if plan.refusal else TRY_LATER if driven else SUCCESS
    ways = _ways(plans)
    if json:
        data: dict[str, Any] = {
            "run_id": plan.run_id,
            "workflow": record.workflow,
            "status": plan.status,
            "driven": driven,
            "on_change": on_change,
            "changes": list(plan.changes),
            "steps": [asdict(step) for step in plan.steps],
            "refusal": plan.refusal or None,
            "would_go_on": ways,
            "exit_code": code,
        }
        print(to_json(data))
        return code
    _print_plan(plan)
    tail = command_tail(record, database, target.text)
    if plan.refusal:
        say(f"it would not be resumed: {plan.refusal}.")
        for line in advised(ways, f"flowkit resume {tail}"):
            say(line)
        if any(step.why == NOT_AGAIN for step in plan.steps):
            say(_instead(f"flowkit resume {tail}"))
    elif driven:
        say(str(busy(record.run_id, record.owner or "", 0.0, database)))
    elif plan.status in ("failed", "quarantined"):
        say(f"a resume gives its stored error; go on with: flowkit retry {tail}")
    return code


def _print_plan(plan: ResumePlan) -> None:
    columns = [Column("STEP"), Column("NODE"), Column("WHAT"), Column("WHY", wide=True)]
    rows = [[each.step, each.node, _WORDS[each.action], each.why] for each in plan.steps]
    print_table(columns, rows)
    print()
    for change in plan.changes:
        print(f"the workflow differs: {clean(change)}")
    found = Counter[Action](each.action for each in plan.steps)
    told = ", ".join(f"{many} {_WORDS[action]}" for action, many in found.items())
    print(f"run {plan.run_id} is {plan.status}: {counted(len(plan.steps), 'step')} ({told}).")


def ways_of(
    attempt: Callable[[OnChange], object], refusal: type[Exception]
) -> dict[OnChange, bool]:
    """Which policies are not refused."""
    found: dict[OnChange, bool] = {}
    for policy in POLICIES.values():
        try:
            attempt(policy)
            found[policy] = True
        except refusal:
            found[policy] = False
    return found
