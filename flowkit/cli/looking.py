"""Commands that look at runs, or leave them a message: `ls`, `show`, `watch`, `signal`, `cancel`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

import anyio

import flowkit.events as ev
from flowkit.cli import exits
from flowkit.cli.config import Database, has_runs, need_runs
from flowkit.cli.driving import advice, resume_command
from flowkit.cli.exits import NOT_FOUND, Problem, code_of, complain, say
from flowkit.cli.follow import Follower, View, answer_in, describe
from flowkit.cli.lineage import Lineage, lineage, lineage_lines
from flowkit.cli.results import failure, raw_input, run_data
from flowkit.cli.step import event_data, print_step, step_data, view_data
from flowkit.cli.table import Column, print_table
from flowkit.cli.talking import Talk, conversation_data, print_conversation, print_usage
from flowkit.cli.text import clean, counted, local, parse_since, rfc3339, span, to_json
from flowkit.cli.tree import show_for
from flowkit.engine import Engine
from flowkit.events import FINAL, Event, StepView
from flowkit.owner import is_gone
from flowkit.ports import Journal, RunQuery, RunRecord
from flowkit.rewind import Fold
from flowkit.state import State
from flowkit.store import SqlStore

T = TypeVar("T")

_LISTED_MAX = 10
_ENDING_MIN = 4  # ids begin with their time, so the end tells runs of one minute apart
_SEARCHED_MAX = 100_000


def on_store(database: Database, work: Callable[[SqlStore], Awaitable[T]]) -> T:
    """Do something with a database that must be there."""
    need_runs(database)

    async def run() -> T:
        async with SqlStore(database.target) as store:
            return await work(store)

    return anyio.run(run)


async def find_run(store: SqlStore, ref: str) -> RunRecord:
    """The run that an id, a unique beginning or end of one, or `@last` names."""
    if ref == "@last":
        newest = await store.runs(RunQuery(limit=1))
        if not newest:
            raise Problem("there are no runs yet.", NOT_FOUND)
        return newest[0]
    if not ref:
        raise Problem("give a run's id, a unique beginning of it, or @last.")
    exact = await store.runs(RunQuery(run_id=ref, limit=1))
    found = exact or await store.runs(RunQuery(prefix=ref, limit=_LISTED_MAX + 1))
    where = "begin"
    if not found and len(ref) >= _ENDING_MIN:
        where = "end"
        runs = await store.runs(RunQuery(limit=_SEARCHED_MAX))
        found = [each for each in runs if each.run_id.endswith(ref)]
    if not found:
        raise Problem(
            f"no run's id begins with {clean(ref, 80)!r}, or ends so (from {_ENDING_MIN} characters on): "
            f"see flowkit ls.",
            NOT_FOUND,
        )
    if len(found) > 1:
        more = ["…"] if len(found) > _LISTED_MAX else []
        names = [f"  {each.run_id}  {each.workflow}" for each in found[:_LISTED_MAX]]
        raise Problem("\n".join([f"several runs {where} with {ref!r}:", *names, *more]))
    return found[0]


def is_driven(record: RunRecord) -> bool:
    """Whether somebody holds the run, as far as can be told from here."""
    alive = record.lease_until is not None and record.lease_until >= time.time()
    return alive and record.owner is not None and not is_gone(record.owner)


def status_of(record: RunRecord) -> str:
    """The run's status, and whether it goes on by itself."""
    left = record.status in ("pending", "running") and not is_driven(record)
    return f"{record.status} (nobody drives it)" if left else record.status


# ---- ls


def list_runs(
    database: Database, status: Sequence[str], workflow: str | None, since: str | None, limit: int
) -> list[RunRecord]:
    """Stored runs, newest first; none where there is no database yet."""
    at = None
    if since is not None:
        try:
            at = parse_since(since, time.time())
        except (ValueError, OverflowError) as error:
            raise Problem(f"--since {since!r}: write 90m, 2h, 3d, or a date.") from error
        if at < 0:
            raise Problem(f"--since {since!r} lies before 1970: leave it out to list all.")
    statuses: Any = frozenset(status) if status else None
    query = RunQuery(status=statuses, workflow=workflow, since=at, limit=limit)
    if not has_runs(database):
        say(f"there are no runs yet: the database {database.name} does not exist or is empty.")
        return []

    async def work(store: SqlStore) -> list[RunRecord]:
        return list(await store.runs(query))

    return on_store(database, work)


def record_data(record: RunRecord) -> dict[str, Any]:
    """A run's row as JSON data: what `ls --json` prints, one line each."""
    return {
        "run_id": record.run_id,
        "workflow": record.workflow,
        "status": record.status,
        "created_at": rfc3339(record.created_at),
        "due_at": rfc3339(record.due_at),
        "driven": is_driven(record),
        "events": record.head,
        "base": record.base,
    }


def print_runs(records: Sequence[RunRecord]) -> None:
    columns = [Column("RUN"), Column("WORKFLOW"), Column("STATUS", status=True), Column("CREATED")]
    rows = [
        [record.run_id, record.workflow, status_of(record), local(record.created_at)]
        for record in records
    ]
    if any(record.base for record in records):
        columns.append(Column("FORK OF"))
        rows = [[*row, record.base or ""] for row, record in zip(rows, records, strict=True)]
    print_table(columns, rows)


# ---- show


async def load_run(store: SqlStore, ref: str) -> tuple[Journal, Fold]:
    record = await find_run(store, ref)
    journal = await store.load(record.run_id)
    return journal, Fold().apply_all(journal.events)


def own_events(journal: Journal, folded: Fold) -> list[Event]:
    """All that a run has done, and of what it was forked from only what it shares."""
    shared = {event.seq for event in folded.live}
    forks = [
        event.seq - 1
        for event in journal.events
        if isinstance(event.payload, ev.Rewound) and event.payload.run
    ]
    first = max([journal.record.base_seq, *forks])  # an imported fork has no base
    return [event for event in journal.events if event.seq > first or event.seq in shared]


def show_run(
    database: Database, ref: str, *, step: str | None, events: bool, json: bool, reasoning: bool
) -> int:
    """Print a run, one of its steps, or its events."""

    async def work(store: SqlStore) -> int:
        journal, folded = await load_run(store, ref)
        state, forked = folded.state, lineage(journal.record, journal.events)
        talk = await Talk.read(own_events(journal, folded), state, store)
        if step is not None:
            data = await step_data(store, folded, step)
            said = talk.of(step, state)
            if json:
                print(to_json({**data, "conversation": conversation_data(said, state)}))
            else:
                print_step(data)
                print_conversation(said, state, reasoning=reasoning)
        elif json:
            whole = await run_data(journal.record, state, store, forked)
            whole |= {
                "driven": is_driven(journal.record),
                "messages_wait": await _messages_wait(store, journal.record),
                "input": await raw_input(state, store),
                "attempts": sum(view.attempts for view in state.views()),
                "steps": [view_data(view) for view in state.views()],
                **talk.data(),
            }
            if events:
                whole["events"] = [await event_data(store, event) for event in journal.events]
            print(to_json(whole))
        else:
            inbox = await _messages_wait(store, journal.record)
            print_run(journal.record, state, database, talk, forked, inbox=inbox)
            if events:
                await print_events(journal.events, store)
        return 0

    return on_store(database, work)


async def _messages_wait(store: SqlStore, record: RunRecord) -> bool:
    """Whether somebody has said something to the run that nobody has taken over yet."""
    if record.status in FINAL:
        return False
    return bool(await store.runs(RunQuery(run_id=record.run_id, messages=True, limit=1)))


def print_run(
    record: RunRecord,
    state: State,
    database: Database,
    talk: Talk,
    forked: Lineage | None,
    *,
    inbox: bool = False,
) -> None:
    """Header, final error, steps, what models used, and what to do next."""
    views = state.views()
    done = sum(view.status == "done" for view in views)
    tries = sum(view.attempts for view in views)
    over = record.status in FINAL
    until = state.at if over else time.time()
    lines = [
        ("run", record.run_id),
        ("workflow", record.workflow),
        ("status", status_of(record)),
        ("started", local(record.created_at)),
        ("ended" if over else "last event", local(state.at or None)),
        ("took" if over else "age", span(until - record.created_at)),
        ("steps", f"{done} of {len(views)} done, {counted(tries, 'attempt')}"),
    ]
    if forked is not None:
        lines[2:2] = lineage_lines(forked)
    if inbox:
        text = "a signal, a cancellation or a decision, recorded; whoever goes on with the run takes it"
        lines.append(("inbox", text))
    error = failure(state)
    if error is not None:
        lines.append(("error", str(error)))
    for name, text in lines:
        print(f"{name + ':':<12}{clean(text, 2000)}")
    print()
    print_steps(views)
    print_usage(talk)
    hints = (
        [] if is_driven(record) and record.status != "waiting" else advice(record, state, database)
    )
    for line in hints:
        print(clean(line))


def print_steps(views: Sequence[StepView]) -> None:
    columns = [
        Column("STEP"), Column("NODE"), Column("STATUS", status=True), Column("TRIES", right=True),
        Column("TIME", right=True), Column("NOTES", wide=True),
    ]  # fmt: skip
    rows = [
        [
            view.key,
            view.node,
            view.status,
            str(view.attempts or "-"),
            span(view.duration_s) if view.attempts else "-",
            _notes(view),
        ]
        for view in views
    ]
    print_table(columns, rows)


def _notes(view: StepView) -> str:
    notes = [
        text + (f" (×{times})" if (times := len(list(same))) > 1 else "")
        for text, same in groupby(view.errors)
    ]
    notes += [f"feedback: {text}" for text in view.feedback]
    if view.detail and not any(view.detail in note for note in notes):
        notes.append(view.detail)
    return clean("; ".join(notes), 1000)


async def print_events(events: Sequence[Event], store: SqlStore) -> None:
    columns = [
        Column("SEQ", right=True), Column("AT"), Column("KIND"), Column("STEP"), Column("WHAT", wide=True)
    ]  # fmt: skip
    folded = Fold()
    rows: list[list[str]] = []
    for event in events:
        folded.apply(event)
        what = describe(event, folded.state, await answer_in(event, store))
        rows.append([str(event.seq), local(event.at), event.kind, event.key or "-", what])
    print()
    print_table(columns, rows)


# ---- watch, signal, cancel


def watch_run(
    database: Database, ref: str, *, json: bool, quiet: bool, reasoning: bool = False
) -> int:
    """Follow a run to its end, whoever drives it; the exit code is the run's."""

    async def work(store: SqlStore) -> int:
        record = await find_run(store, ref)
        engine = Engine(store, poll_s=0.2)
        if json:
            async for event in engine.handle(record.run_id).events():
                print(to_json(await event_data(store, event)), flush=True)
        else:
            driven = is_driven(record)
            view = View(record.run_id, record.workflow, driven=driven)
            show = show_for(quiet=quiet, reasoning=reasoning)
            if record.status not in FINAL and not driven:
                show.note(f"run {record.run_id} is in no process's hands now.")
                show.note(f"go on with: {resume_command(record, database)}")
            await Follower(view, show, store, leaves_waiting=False).follow(
                engine.handle(record.run_id).events(), record
            )
        _, state = await engine.state(record.run_id)
        error = failure(state)
        if error is None:
            return exits.SUCCESS
        return code_of(error) if json else complain(error)

    return on_store(database, work)


def leave_message(
    database: Database, ref: str, post: Callable[[Engine, str], Awaitable[None]], what: str
) -> RunRecord:
    """Post to a run that has not ended; its row as it was just before."""

    async def work(store: SqlStore) -> RunRecord:
        record = await find_run(store, ref)
        if record.status in FINAL:
            raise Problem(f"run {record.run_id} is {record.status} already: nothing to {what}.")
        await post(Engine(store), record.run_id)
        return record

    return on_store(database, work)


def signals_of(database: Database, ref: str) -> list[str]:
    """The names of the signals that a run's steps wait for, as far as its journal tells."""

    async def work(store: SqlStore) -> list[str]:
        _, folded = await load_run(store, ref)
        waits = [wait for slot in folded.state.by_exec.values() for wait in slot.open_waits()]
        return sorted({wait.name for wait in waits if wait.reason == "signal"})

    return on_store(database, work)


def print_posted(record: RunRecord, *, json: bool, database: Database, target: str = "") -> None:
    """Tell who will take the message over."""
    driven = is_driven(record)
    if json:
        print(to_json({"run_id": record.run_id, "posted": True, "driven": driven}))
    elif driven:
        say(f"recorded; whoever drives run {record.run_id} takes it over within a second.")
    else:
        say(
            f"recorded. A process that waits for this run, or recovers all runs, takes it up within a "
            f"second. If there is none: {resume_command(record, database, target)}"
        )
