"""`fork`, `diff`, and `resume --dry-run`: going back in a run, and looking ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from anyio.abc import TaskGroup

import flowkit.events as ev
from flowkit.changes import OnChange, ResumePlan
from flowkit.cli.config import Database
from flowkit.cli.driving import Begin, engine_for
from flowkit.cli.exits import CONFIGURATION, FAILED, SUCCESS, Problem, say
from flowkit.cli.inputs import read_json
from flowkit.cli.looking import find_run, on_store
from flowkit.cli.table import Column, print_table
from flowkit.cli.targets import Target
from flowkit.cli.text import clean, counted, to_json
from flowkit.engine import Engine
from flowkit.events import Event
from flowkit.fork import executions
from flowkit.history.diff import RunDiff, diff
from flowkit.model import OfflineModel
from flowkit.ports import RunRecord
from flowkit.rewind import ENDINGS, Fold, rewind
from flowkit.store import SqlStore

POLICIES: Mapping[str, OnChange] = {each: each for each in ("refuse", "rerun", "keep")}

SHOWN_MAX = 60


def policy_of(text: str | None) -> OnChange | None:
    """What `--on-change` says."""
    if text is None:
        return None
    if text not in POLICIES:
        raise Problem(f"--on-change is one of {', '.join(POLICIES)}, not {clean(text, 40)!r}.")
    return POLICIES[text]


# ---- fork


def values_of(given: Sequence[str]) -> dict[str, Any]:
    """What `--set STEP=JSON` says, by step."""
    values: dict[str, Any] = {}
    for text in given:
        step, equals, value = text.partition("=")
        if not (step and equals):
            raise Problem(f"--set takes STEP=JSON or STEP=@FILE, not {clean(text, 60)!r}.")
        values[step] = read_json(value, f"--set {clean(step, 60)}", plain_text=True)
    return values


def forking(
    record: RunRecord, at: Sequence[str], values: Mapping[str, Any], model: str,
    new_id: str | None, on_change: OnChange | None,
) -> Begin:  # fmt: skip
    """Make a fork, and say before it begins what it shares and what it does again."""

    async def begin(engine: Engine, tasks: TaskGroup) -> str:
        journal = await engine.store.load(record.run_id)
        folded = Fold().apply_all(journal.events)
        keys = [key for name in (*at, *values) for key in executions(folded.state, name)]
        again = _again(folded, keys, values)
        handle = await engine.fork(
            record.run_id, at=at, set=values, model=model, new_id=new_id, on_change=on_change
        )
        shared = len(_done(folded.live)) - len(again)
        told = f"; done again: {_listed(again)}" if again else ""
        say(f"forked from {record.run_id}: {counted(shared, 'step')} shared{told}.")
        once = [key for key in again if folded.state.nodes[folded.state.by_exec[key].node].once]
        if once:
            say(f"effects that were to happen once happen again in the fork: {_listed(once)}.")
        return handle.id

    return begin


def _again(folded: Fold, keys: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    rewound = ev.Rewound(tuple(keys), None, "fork")
    place = Event(folded.state.seq + 1, folded.state.at, rewound)
    dropped = rewind(folded, place, rewound).dropped
    return [key for key in _done(dropped) if key not in values]


def _done(events: Sequence[Event]) -> list[str]:
    return list(dict.fromkeys(e.key for e in events if isinstance(e.payload, ENDINGS)))


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    return ", ".join(clean(key) for key in keys[:8]) + more


# ---- resume --dry-run


def dry_run(
    database: Database, record: RunRecord, target: Target, on_change: OnChange | None, *, json: bool
) -> int:
    """Tell what a resume would do with each step; nothing runs, nothing is written."""

    async def work(store: SqlStore) -> ResumePlan:
        async with engine_for(store, target, OfflineModel({})) as engine:
            return await engine.plan_resume(record.run_id, on_change=on_change)

    plan = on_store(database, work)
    if json:
        data = asdict(plan)
        del data["rewound"]
        print(to_json(data | {"would_resume": not plan.refusal}))
    else:
        _print_plan(plan)
    return CONFIGURATION if plan.refusal else SUCCESS


_WORDS = {
    "reuse": "reuse", "run": "run", "rerun": "run again", "changed": "changed code",
    "blocked": "blocked",
}  # fmt: skip


def _print_plan(plan: ResumePlan) -> None:
    columns = [Column("STEP"), Column("NODE"), Column("WHAT"), Column("WHY", wide=True)]
    rows = [[each.step, each.node, _WORDS[each.action], each.why] for each in plan.steps]
    print_table(columns, rows)
    for change in plan.changes:
        say(f"the workflow differs: {change}")
    if plan.refusal:
        say(f"it would not be resumed: {plan.refusal}.")
        say(
            "resume it with --on-change rerun or --on-change keep, or with the code that it began with."
        )
        return
    counts = {word: sum(step.action == word for step in plan.steps) for word in _WORDS}
    told = ", ".join(f"{count} {_WORDS[word]}" for word, count in counts.items() if count)
    say(f"run {plan.run_id} is {plan.status}; a resume would do: {told or 'nothing'}.")


# ---- diff


def diff_runs(database: Database, first: str, second: str, *, every: bool, json: bool) -> int:
    """Print where two runs came to something else; exit code 1 if they did anywhere."""

    async def work(store: SqlStore) -> tuple[str, str, RunDiff]:
        records = [await find_run(store, ref) for ref in (first, second)]
        folds = [Fold().apply_all((await store.load(record.run_id)).events) for record in records]
        return records[0].run_id, records[1].run_id, diff(*folds)

    one, other, found = on_store(database, work)
    if json:
        print(to_json({"runs": [one, other], "same": not found.differences, **_data(found)}))
    else:
        _print_diff(one, other, found, every)
    return FAILED if found.differences else SUCCESS


def _data(found: RunDiff) -> dict[str, Any]:
    return {
        "first": asdict(found.differences[0]) if found.differences else None,
        "facts": [asdict(each) for each in found.facts],
        "steps": [asdict(each) for each in found.steps],
        "usage": [asdict(each) for each in found.usage],
    }


def _print_diff(one: str, other: str, found: RunDiff, every: bool) -> None:
    columns = [Column("STEP"), Column("HOW"), Column(one, wide=True), Column(other, wide=True)]
    shown = [*found.facts, *found.steps] if every else found.differences
    rows = [
        [each.step, each.how, clean(each.first, SHOWN_MAX), clean(each.second, SHOWN_MAX)]
        for each in shown
    ]
    if rows:
        print_table(columns, rows)
    counts = {how: sum(each.how == how for each in found.steps) for how in ("shared", "same")}
    alike = counts["shared"] + counts["same"]
    say(
        f"{counted(len(found.steps), 'step')}: {alike} came to the same "
        f"({counts['shared']} shared), {len(found.steps) - alike} did not."
    )
    if found.differences:
        part = found.differences[0]
        say(f"they part at {part.step}: {part.first or 'nothing'} | {part.second or 'nothing'}")
    tokens = [usage.input_tokens + usage.output_tokens for usage in found.usage]
    if any(tokens):
        say(f"tokens: {tokens[0]:,} | {tokens[1]:,}")
