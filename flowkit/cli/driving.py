"""Commands that drive a run in this process: `run`, `resume`, `retry`. The engine does the work."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup

from flowkit.changes import OnChange
from flowkit.cli import exits
from flowkit.cli.config import Database, prepare
from flowkit.cli.exits import Problem, complain, say
from flowkit.cli.follow import Ended, Follower, Show, View
from flowkit.cli.lineage import Lineage, lineage
from flowkit.cli.results import Folder, artifacts_in, failure, run_data, waits_for
from flowkit.cli.targets import Target, known_target
from flowkit.cli.text import clean, local, to_json
from flowkit.cli.tree import show_for
from flowkit.engine import Engine
from flowkit.errors import RunBusy
from flowkit.events import FINAL
from flowkit.handle import RunHandle
from flowkit.policy import Budget
from flowkit.ports import Model, RunRecord
from flowkit.rewind import fold
from flowkit.state import State
from flowkit.store import SqlStore

SUSPEND_AFTER_S = 0.3
GRACE_S = 5.0

_OWNER_SLASHES = 5  # host, boot, pid namespace, pid, start, a random part

_STOPS = [signal.SIGINT, signal.SIGTERM]


@dataclass(frozen=True, slots=True)
class Options:
    """What every driving command is told."""

    database: Database
    out: Folder | None = None
    json: bool = False
    quiet: bool = False
    reasoning: bool = False
    on_change: OnChange = "refuse"
    model: str = ""
    """Name of the model to ask, where a fork has named one; else the configured one."""


@dataclass
class Outcome:
    """How it went: the run as it is stored now, and what happened to this process meanwhile."""

    record: RunRecord
    state: State
    data: dict[str, Any]
    ended: Ended | None = None
    signum: int = 0
    forked: Lineage | None = None
    followed: bool = False
    """Whether another process drives the run, and went on when this one was stopped."""
    files: dict[str, Path] = field(default_factory=dict[str, Path])


Begin = Callable[[Engine, TaskGroup], Awaitable[str]]
"""Starts or takes up a run on an entered engine; gives its id."""


def model_for(target: Target, name: str = "") -> Model:
    """The configured model, or the stand-in that answers by the workflow's own rules.

    `name`: the model that a fork or a command asks for, in place of the configured one; `NoModel` if
    none is.
    """
    from flowkit.model import LocalModel, OfflineModel, OpenAIModel

    offline = OfflineModel(target.rules)
    if LocalModel.configured(name=name):
        return LocalModel.from_env(name=name)
    if name == offline.name or not (name or OpenAIModel.configured()):
        return offline
    return OpenAIModel.from_env(name=name)


def asked_model(forked: str, given: str) -> str:
    """The model to ask: a fork's own, else the one that the command names."""
    if forked and given and forked != given:
        raise Problem(
            f"this run was forked to ask {forked!r}, and goes on so: leave --model out, or fork it again."
        )
    return forked or given


def note_model(target: Target, model: Model, show: Show) -> None:
    """Say once when no language model is asked, though the workflow would ask one."""
    from flowkit.model import OfflineModel

    if isinstance(model, OfflineModel) and target.rules:
        show.note(
            "no language model is configured: the offline stand-in answers by fixed rules. "
            "Set OPENAI_API_KEY, MOONSHOT_API_KEY or OPENAI_BASE_URL to ask a real one, or --model local."
        )


def drive(target: Target, options: Options, begin: Begin) -> int:
    """Drive a run until it ends, waits, or somebody stops us; tell how it went; the exit code."""
    show = show_for(quiet=options.quiet, reasoning=options.reasoning)
    model = model_for(target, options.model)
    prepare(options.database)
    # What nodes print is no data; the result alone goes to stdout.
    with contextlib.redirect_stdout(sys.stderr):
        note_model(target, model, show)
        outcome = anyio.run(_session, target, options, begin, model, show)
    return report(outcome, target, options)


async def _session(
    target: Target, options: Options, begin: Begin, model: Model, show: Show
) -> Outcome:
    async with SqlStore(options.database.target) as store:
        outcome = await drive_on(store, target, begin, model, show, options.on_change)
        outcome.data = await run_data(outcome.record, outcome.state, store, outcome.forked)
        if options.out is not None and outcome.record.status == "succeeded":
            found = artifacts_in(outcome.data["result"])
            if found:
                outcome.files = await options.out.of(outcome.record.run_id).save(found, store)
        return outcome


async def drive_on(
    store: SqlStore,
    target: Target,
    begin: Begin,
    model: Model,
    show: Show,
    on_change: OnChange = "refuse",
) -> Outcome:
    """Drive a run on an open store. The first signal stops softly, the second at once."""
    stop = Stop(show)
    follower: Follower | None = None
    ended: Ended | None = None
    run_id = ""
    since = time.time()
    async with anyio.create_task_group() as tasks:
        await tasks.start(stop.listen)
        async with (
            entered(target.resources) as resources,
            engine_for(store, target, model, on_change, resources) as engine,
        ):
            with stop.scope:
                async with anyio.create_task_group() as inner:
                    run_id = await begin(engine, inner)
                    stop.run_id, stop.engine = run_id, engine
                    record = await engine.handle(run_id).record()
                    show.note(f"run {run_id} of {record.workflow}")
                    elsewhere = engine.watched(run_id) is None
                    follower = Follower(
                        View(run_id, record.workflow), show, store, elsewhere=elsewhere, since=since
                    )
                    ended = await follower.follow(engine.handle(run_id).events(live=True), record)
                    inner.cancel_scope.cancel()
        tasks.cancel_scope.cancel()
    await _close(model)
    if not run_id:
        raise Problem("stopped before the run began.", 128 + stop.signum)
    journal = await store.load(run_id)
    if journal.record.status in FINAL:
        ended, stop.signum = "ended", 0
    forked = lineage(journal.record, journal.events)
    return Outcome(journal.record, fold(journal), {}, ended, stop.signum, forked, stop.followed)


@contextlib.asynccontextmanager
async def entered(resources: Sequence[object]) -> AsyncGenerator[Sequence[object]]:
    """The resources; those that are async context managers are entered, and left at the end."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(cast("AbstractAsyncContextManager[object]", each))
            if isinstance(each, AbstractAsyncContextManager)
            else each
            for each in resources
        ]


def engine_for(
    store: SqlStore,
    target: Target,
    model: Model,
    on_change: OnChange,
    resources: Sequence[object] = (),
) -> Engine:
    """An engine for one run of one workflow."""
    return Engine(
        store,
        workflows=[target.workflow],
        model=model,
        on_change=on_change,
        resources=resources,
        suspend_after_s=SUSPEND_AFTER_S,
        grace_s=GRACE_S,
    )


async def _close(model: Model) -> None:
    close = getattr(model, "aclose", None)
    if close is not None:
        await close()


class Stop:
    """What SIGINT and SIGTERM do: the first leaves the engine softly, the second ends the process."""

    def __init__(self, show: Show) -> None:
        self.scope = anyio.CancelScope()
        self.signum = 0
        self.run_id = ""
        self.engine: Engine | None = None
        self.followed = False
        """Whether the run was another process's when the signal came."""
        self._show = show

    async def listen(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*_STOPS) as signals:
            task_status.started()
            async for signum in signals:
                if self.signum:
                    self._at_once(signum)
                self.signum = int(signum)
                self.followed = self.engine is not None and not self.engine.watched(self.run_id)
                if self.followed:
                    self.scope.cancel()
                    continue
                self._show.note(
                    f"stopping: steps in flight get {GRACE_S:.0f} s to end, no new ones start; once more "
                    f"to stop at once."
                )
                self.scope.cancel()

    def _at_once(self, signum: int) -> None:
        self._show.stop()
        if self.run_id and not self.followed:
            say(f"stopped. What was finished is kept: flowkit resume {self.run_id}")
        os._exit(128 + signum)


# ---- ways to begin


def starting(
    target: Target,
    value: Any,
    run_id: str | None,
    deadline_s: float | None,
    budget: Budget | None = None,
) -> Begin:
    """Start the run, take it up, or follow it, whichever is true."""

    async def begin(engine: Engine, tasks: TaskGroup) -> str:
        handle: RunHandle[Any] = await engine.start(
            target.workflow, value, run_id=run_id, budget=budget, deadline_s=deadline_s
        )
        return handle.id

    return begin


def resuming(
    run_id: str, database: Database, decision: tuple[str, str, Any] | None = None
) -> Begin:
    """Take up a stored run; `decision`: step, how and value, for an unknown outcome."""

    async def begin(engine: Engine, tasks: TaskGroup) -> str:
        if decision is not None:
            await engine.decide(run_id, *decision)
        try:
            return (await engine.take(run_id)).id
        except RunBusy as error:
            raise busy(run_id, error.owner, error.until, database) from None

    return begin


def retrying(run_id: str, database: Database) -> Begin:
    """Reopen the failed steps of a failed run."""

    async def begin(engine: Engine, tasks: TaskGroup) -> str:
        try:
            await engine.retry(run_id)
        except RunBusy as error:
            raise busy(run_id, error.owner, error.until, database) from None
        return run_id

    return begin


def busy(run_id: str, owner: str, until: float, database: Database) -> RunBusy:
    """The refusal of a run that another process drives: which one, and how to follow it."""
    host, *_, pid, _, _ = owner.split("/") if owner.count("/") == _OWNER_SLASHES else [owner] * 4
    who = owner if pid == owner else f"process {pid} on {host}"
    text = f"run {run_id!r} is driven by {who}. Follow it: flowkit watch {run_id}{_db(database)}"
    return RunBusy(text, owner=owner, until=until)


# ---- telling how it went


def report(outcome: Outcome, target: Target, options: Options) -> int:
    """Result on stdout, the rest on stderr; the exit code."""
    code, record = _code(outcome), outcome.record
    outcome.data["exit_code"] = code
    outcome.data["files"] = {name: str(path) for name, path in outcome.files.items()}
    if options.json:
        print(to_json(outcome.data))
    elif record.status == "succeeded":
        print(to_json(outcome.data["result"], indent=2))
    for name, path in outcome.files.items():
        print(f"{clean(name)}: {clean(path)}", file=sys.stderr)
    error = failure(outcome.state)
    if error is not None:
        complain(error)
    if outcome.signum and outcome.followed:
        watch = f"flowkit watch {record.run_id}{_db(options.database)}"
        say(
            f"no longer followed; the process that drives the run goes on. Follow it again: {watch}"
        )
        return code
    for line in advice(record, outcome.state, options.database, target.text, outcome.signum):
        say(line)
    if options.out is not None and len(outcome.files) < len(artifacts_in(outcome.data["result"])):
        return code or exits.FAILED
    return code


def _code(outcome: Outcome) -> int:
    if outcome.signum:
        return 128 + outcome.signum
    if outcome.record.status not in FINAL:
        return exits.WAITING
    error = failure(outcome.state)
    return exits.code_of(error) if error is not None else exits.SUCCESS


def advice(
    record: RunRecord, state: State, database: Database, target: str = "", signum: int = 0
) -> list[str]:
    """What the run waits for, and the commands that bring it on."""
    tail = command_tail(record, database, target)
    if record.status in ("failed", "quarantined"):
        return [f"finished steps are kept; {_again(state)}: flowkit retry {tail}"]
    if record.status in FINAL:
        return []
    resume = resume_command(record, database, target)
    if signum:
        return [f"stopped; what was finished is kept. Go on with: {resume}"]
    lines: list[str] = []
    db = _db(database)
    for wait in waits_for(state):
        name = shlex.quote(wait["name"])
        if wait["what"] == "decision":
            lines.append(f"the outcome of step {wait['step']!r} is unknown: {wait['why']}.")
            lines.append(
                f"find out, then decide: {resume} --step {name} with --repeat, --fail or "
                f"--assume-done JSON"
            )
        elif wait["what"] == "signal":
            lines.append(f"step {wait['step']!r} waits for signal {wait['name']!r}.")
            lines.append(f"give it: flowkit signal {record.run_id} {name} JSON{db}")
        elif wait["what"] == "approval":
            step = shlex.quote(wait["step"])
            lines.append(f"step {wait['step']!r} asks a person first: {wait['why']}.")
            lines.append(f"look: flowkit approve {record.run_id} {step}{db}")
            lines.append("then say yes with --yes, or no with --deny and --note TEXT")
        else:
            lines.append(f"step {wait['step']!r} waits until a time.")
    if record.due_at is not None:
        lines.append(f"the run is due at {local(record.due_at)}.")
    if lines and record.due_at is None and all(w["what"] == "decision" for w in waits_for(state)):
        return lines  # who decides goes on by the same command
    return [*lines, f"then go on with: {resume}" if lines else f"go on with: {resume}"]


def _again(state: State) -> str:
    """What a retry does for a run that ended like this one."""
    error = state.ended.error.type if state.ended and state.ended.error else ""
    if error == "DeadlineExceeded":
        return "a retry goes on with the others and counts the deadline anew"
    if error == "BudgetExceeded":
        return "a retry goes on with the others and counts the budget anew"
    if error == "RunQuarantined":
        return "when the cause of the crashes is mended, go on"
    return "when the cause is mended, try the failed ones again"


def resume_command(record: RunRecord, database: Database, target: str = "") -> str:
    """The command that takes a stored run up again."""
    return f"flowkit resume {command_tail(record, database, target)}"


def command_tail(record: RunRecord, database: Database, target: str) -> str:
    """Run id, target and database, as far as a command must name them."""
    known = known_target(record.workflow)
    shown = (
        "" if known and (not target or target == known) else f" {shlex.quote(target or 'TARGET')}"
    )
    return f"{record.run_id}{shown}{_db(database)}"


def _db(database: Database) -> str:
    return f" --db {shlex.quote(database.option)}" if database.option else ""


def check_decision(
    step: str | None, assume_done: str | None, flags: Sequence[tuple[str, bool]]
) -> str:
    """Which of the ways to decide was chosen; empty for none; `Problem` for more than one."""
    chosen = [how for how, given in flags if given]
    if assume_done is not None:
        chosen.append("done")
    if len(chosen) > 1:
        raise Problem("decide one way: --assume-done, --repeat or --fail.")
    if step is not None and not chosen:
        raise Problem("--step goes with --assume-done, --repeat or --fail.")
    return chosen[0] if chosen else ""
