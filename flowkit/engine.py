"""The engine: starts runs, resumes them, follows them, and gives them back to the store.

An engine is entered once, by the host's lifespan. It drives each of its runs with a `Driver`, keeps
their leases, brings them their messages, and takes up those that wait when their time comes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast, runtime_checkable

import anyio

import flowkit.events as ev
from flowkit.approval import Approval, Question, open_questions
from flowkit.changes import ON_CHANGE, OnChange, ResumePlan, plan_resume
from flowkit.dsl import Workflow
from flowkit.errors import (
    DeclarationError,
    FlowkitError,
    ResumeError,
    RunBusy,
    RunConflict,
)
from flowkit.events import Event, Fact
from flowkit.fork import fork
from flowkit.graph import check_name
from flowkit.handle import RunHandle, Watched
from flowkit.hosting import FIRST_EPOCH, REOPENED, Hosting, check_output
from flowkit.kit import Kit
from flowkit.owner import this_owner
from flowkit.policy import ASK_AGAIN, Budget, Policy, check_number
from flowkit.ports import (
    Artifacts,
    Journal,
    Message,
    Model,
    RunQuery,
    RunRecord,
    Store,
    World,
    models_of,
)
from flowkit.reading import Reading
from flowkit.rewind import Fold, fold
from flowkit.state import State
from flowkit.values import Codec

A = TypeVar("A")
R = TypeVar("R")


class Engine:
    """Runs workflows on a store.

    Args:
        store: where journals are kept; `SqlStore("runs.db")` or `MemoryStore()`. An engine closes a
            store that it had to open.
        workflows: those that may be resumed; `run` and `start` add their own.
        model: what `ctx.model` asks, or several in order of preference; may be None.
        model_policy: how often a model is asked again after an error that may pass.
        artifacts: where large values and files are kept; by default the store, if it can.
        on_change: what becomes of a stored run whose finished steps were done by code that has changed:
            "refuse" it, do them and what rests on them again ("rerun"), or "keep" their results.
        recover: take up every run whose lease is free, now and while the engine lives.
        resources: what nodes get by `ctx.resource(Type)`.
        lease_s: how long a dead owner's run stays taken, if its death cannot be seen.
        poll_s: how often waiting runs and messages from other processes are looked for.
        suspend_after_s: how long a waiting run keeps its memory.
        grace_s: how long attempts in flight may go on when the engine is left.
        threads_max: worker threads for plain `def` nodes.
    """

    def __init__(  # noqa: PLR0913  (an engine's settings, all but the store by name)
        self,
        store: Store,
        *,
        workflows: Sequence[Workflow[Any, Any]] = (),
        model: Model | Sequence[Model] | None = None,
        model_policy: Policy = ASK_AGAIN,
        artifacts: Artifacts | None = None,
        recover: bool = False,
        on_change: OnChange = "refuse",
        resources: Sequence[object] = (),
        lease_s: float = 30.0,
        poll_s: float = 0.5,
        suspend_after_s: float = 1.0,
        grace_s: float = 5.0,
        threads_max: int = 40,
        world: World | None = None,
    ) -> None:
        for name, value in (("lease_s", lease_s), ("poll_s", poll_s)):
            check_number(f"Engine: {name}", value, above=0)
        for name, value in (("suspend_after_s", suspend_after_s), ("grace_s", grace_s)):
            check_number(f"Engine: {name}", value)
        check_number("Engine: threads_max", threads_max, least=1, whole=True)
        self.store = store
        self.poll_s = poll_s
        self._artifacts = artifacts or _artifacts_of(store)
        self._models = models_of(model)
        self._model_policy = model_policy
        self._recover = recover
        self._on_change: OnChange = _checked(on_change) or "refuse"
        self._resources = resources
        self._lease_s = lease_s
        self._suspend_after_s = suspend_after_s
        self._grace_s = grace_s
        self._threads_max = threads_max
        self._world = world or World()
        self._workflows = workflows
        self._hosting: Hosting | None = None
        self._stack = AsyncExitStack()
        for each in workflows:
            each.codec()

    # ---- life

    async def __aenter__(self) -> Self:
        if self._hosting is not None:
            raise FlowkitError("this engine was entered before; make a new one.")
        kit = Kit(
            self.store, self._artifacts, self._models, self._model_policy, self._world, self._resources,
            anyio.CapacityLimiter(self._threads_max), self._suspend_after_s, self._grace_s,
        )  # fmt: skip
        self._hosting = Hosting(
            kit, this_owner(), lease_s=self._lease_s, poll_s=self.poll_s, recover=self._recover,
            on_change=self._on_change,
        )  # fmt: skip
        for each in self._workflows:
            self._hosting.register(each)
        if isinstance(self.store, Openable) and not self.store.is_open:
            await self.store.open()
            self._stack.push_async_callback(self.store.close)
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        try:
            await self._hosting.begin(self._tasks)
        except BaseException:
            self._tasks.cancel_scope.cancel()
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        hosting = self._entered()
        hosting.leaving = True
        try:
            with anyio.move_on_after(0 if error is not None else self._grace_s + 1):
                await hosting.drain()
        finally:
            self._tasks.cancel_scope.cancel()
            await self._stack.aclose()

    def _entered(self) -> Hosting:
        if self._hosting is None:
            raise FlowkitError("enter the engine first: async with Engine(...) as engine.")
        return self._hosting

    # ---- runs

    async def run(
        self,
        workflow: Workflow[A, R],
        value: A,
        *,
        run_id: str | None = None,
        budget: Budget | None = None,
        deadline_s: float | None = None,
    ) -> R:
        """Start the run, resume it, or return its stored result, whichever is true; and wait.

        Raises:
            RunConflict: the id exists with another workflow or input; nothing was changed.
            VersionMismatch: the workflow has changed since the run began; nothing was run.
            StepFailed, Rejected, ...: how the run ended, now or before.
        """
        handle = await self.start(
            workflow, value, run_id=run_id, budget=budget, deadline_s=deadline_s
        )
        return await handle.result()

    async def start(
        self,
        workflow: Workflow[A, R],
        value: A,
        *,
        run_id: str | None = None,
        budget: Budget | None = None,
        deadline_s: float | None = None,
    ) -> RunHandle[R]:
        """As `run`, but return at once with a handle. The run is durable when this returns."""
        hosting = self._entered()
        if not isinstance(cast(object, workflow), Workflow):
            raise DeclarationError(
                f"{getattr(workflow, 'name', workflow)!r} is a {type(workflow).__name__}, not a workflow: "
                f"decorate a function with @workflow."
            )
        hosting.register(workflow)
        codec = workflow.codec()
        stored = codec.dump(codec.check(value))
        now = self._world.now()
        run_id = check_name(run_id, "run id") if run_id is not None else self._world.new_id()
        record = RunRecord(
            run_id, workflow.name, workflow.input_hash(stored.text or ""), now,
            owner=hosting.owner, epoch=FIRST_EPOCH, lease_until=now + self._lease_s,
        )  # fmt: skip
        if deadline_s is not None:
            check_number("deadline_s", deadline_s, above=0)
            if deadline_s == math.inf:
                raise DeclarationError("deadline_s=inf: None is for a run without a deadline.")
        if not isinstance(cast(object, budget), Budget | None):
            raise DeclarationError(f"budget={budget!r}: a Budget, such as Budget(steps_max=100).")
        deadline = now + deadline_s if deadline_s is not None else None
        begin = ev.RunStarted(workflow.name, workflow.bound(), stored, budget or Budget(), deadline)
        if run_id in hosting.drivers:
            handle = RunHandle[R](self, run_id)  # before we wait: the driver may fail meanwhile
            await self._check_same(record)
            return handle
        try:
            async with hosting.taken(run_id):
                await self.store.create(record)
                driver = hosting.driver_for(run_id, workflow, State(), FIRST_EPOCH)
                claimed = Fact(ev.Claimed(hosting.owner, FIRST_EPOCH))
                await hosting.launch(driver, [Fact(begin), claimed])
            return RunHandle(self, run_id)
        except RunConflict:
            pass  # it exists
        await self._start_existing(record, begin)
        return RunHandle(self, run_id)

    async def resume(self, run_id: str, *, on_change: OnChange | None = None) -> Any:
        """Go on with a stored run and wait for its result; a finished run gives its stored result.

        Raises:
            RunNotFound, RunBusy (driven elsewhere), VersionMismatch, or how the run ended.
        """
        return await (await self.take(run_id, on_change=on_change)).result()

    async def plan_resume(self, run_id: str, *, on_change: OnChange | None = None) -> ResumePlan:
        """What `resume` would do with each step under the code as it is; nothing runs or is written."""
        hosting = self._entered()
        journal = await self.store.load(run_id)
        workflow = hosting.workflow(journal.record)
        folded, chosen = Fold().apply_all(journal.events), _checked(on_change) or self._on_change
        return plan_resume(
            run_id,
            journal.record.status,
            folded,
            workflow.bound(),
            chosen,
            probed=[name for name, node in workflow.nodes.items() if node.probe is not None],
            misfits=await hosting.misfits(folded, workflow, chosen),
        )

    async def fork(
        self,
        run_id: str,
        *,
        at: str | Sequence[str] = (),
        set: Mapping[str, Any] | None = None,
        model: str = "",
        new_id: str | None = None,
        on_change: OnChange | None = None,
    ) -> RunHandle[Any]:
        """A new run that begins as this one is now, and does some steps again; nothing is copied.

        Args:
            at: steps (with their round or turn, as in `write@2` or `plan/t5`) that are done again, and
                with them all that rests on them. Without any, only what has failed is.
            set: results, by step, that stand in place of what the steps gave.
            model: the name of the engine's model that the new run asks first.
            new_id: the new run's id.

        Effects of steps that are done again happen again, under idempotency keys of the new run.
        Signals that no finished step has used, a cancellation and the budget used so far stay behind.

        Raises:
            RunNotFound, RunConflict (`new_id` exists), VersionMismatch; ResumeError for a step that the
            run does not have or has not begun, and for a result that cannot be set; ValueRefused for one
            that does not fit.
        """
        hosting = self._entered()
        new = check_name(new_id, "run id") if new_id is not None else self._world.new_id()
        steps = (at,) if isinstance(at, str) else tuple(at)
        await fork(hosting, run_id, new, steps, set or {}, model, _checked(on_change))
        return RunHandle[Any](self, new)

    async def take(self, run_id: str, *, on_change: OnChange | None = None) -> RunHandle[Any]:
        """As `resume`, but return at once with a handle."""
        hosting = self._entered()
        if run_id not in hosting.drivers:
            journal = await self.store.load(run_id)
            if journal.record.status not in ev.FINAL and not hosting.is_mine(run_id):
                await hosting.take(journal, on_change=_checked(on_change))
        return RunHandle[Any](self, run_id)

    async def retry(self, run_id: str, *, on_change: OnChange | None = None) -> RunHandle[Any]:
        """Reopen the failed steps of a failed or quarantined run; its budget counts anew."""
        hosting = self._entered()
        journal = await self.store.load(run_id)
        if journal.record.status not in REOPENED:
            raise ResumeError(
                f"run {run_id!r} is {journal.record.status}; only failed and quarantined runs are retried."
            )
        await hosting.wait_gone(run_id)
        await hosting.take(journal, Fact(ev.Decided("retry")), on_change=_checked(on_change))
        return RunHandle[Any](self, run_id)

    def handle(self, run_id: str) -> RunHandle[Any]:
        """A handle on any stored run, whoever drives it."""
        return RunHandle[Any](self, run_id)

    async def cancel(self, run_id: str, reason: str = "") -> None:
        """Ask for a run's end. Recorded first; then whoever drives the run stops it."""
        await self._post(run_id, Message(self._world.new_id(), "cancel", reason))

    async def signal(self, run_id: str, name: str, value: Any = None) -> None:
        """Give a run a signal, kept until a node waits for it."""
        stored = Codec(Any, f"signal {name}").dump(value)
        await self._post(run_id, Message(self._world.new_id(), "signal", name, stored))

    async def questions(self, run_id: str) -> Sequence[Question]:
        """What the run asks persons before it goes on, in the order of asking."""
        _, state = await self.state(run_id)
        reading = Reading(state, {}, Codec(Any, "input"), self._artifacts)
        return [
            replace(asked, inputs=await reading.input_texts(state.by_exec[asked.step]))
            for asked in open_questions(state)
        ]

    async def approve(
        self, run_id: str, step: str, *, approved: bool = True, by: str = "", note: str = ""
    ) -> None:
        """Answer the question of a step: it may begin with just these inputs, once; or it may not.

        `by` and `note` are kept in the journal; a denied step fails with the note. Raises `ResumeError`
        where the step asks nothing.
        """
        _, state = await self.state(run_id)
        asked = open_questions(state)
        found = next((each for each in asked if each.step == step), None)
        if found is None:
            steps = ", ".join(repr(each.step) for each in asked) or "none"
            raise ResumeError(
                f"step {step!r} of run {run_id!r} asks for no approval; steps that do: {steps}."
            )
        stored = Codec(Approval, "approval").dump(Approval(approved, by, note))
        await self._post(run_id, Message(self._world.new_id(), "signal", found.name, stored))

    async def decide(self, run_id: str, step: str, how: str, value: Any = None) -> None:
        """Decide on a step whose outcome is unknown: "done" with its value, "repeat", or "fail"."""
        if how not in ("done", "repeat", "fail"):
            raise ResumeError(f'decide "done", "repeat" or "fail", not {how!r}.')
        record, state = await self.state(run_id)
        if step not in state.unknown:
            raise ResumeError(
                f"step {step!r} of run {run_id!r} has no unknown outcome to decide on."
            )
        stored = None
        if how == "done":
            workflow = self._entered().workflow(record)
            codec = workflow.nodes[state.unknown[step].node].codec()
            stored = codec.dump(codec.check(value)) if codec else None
        await self._post(run_id, Message(self._world.new_id(), "decide", step, stored, how))

    async def runs(self, query: RunQuery | None = None) -> Sequence[RunRecord]:
        """Stored runs, newest first."""
        return await self.store.runs(query or RunQuery())

    async def state(self, run_id: str) -> tuple[RunRecord, State]:
        """A run's row and its folded state, for looking at."""
        journal = await self.store.load(run_id)
        return journal.record, fold(journal)

    async def _post(self, run_id: str, message: Message) -> None:
        """Looking and posting need no entered engine; only driving does."""
        found = await self.store.runs(RunQuery(run_id=run_id))
        if found and found[0].status in ev.FINAL:
            raise ResumeError(
                f"run {run_id!r} is {found[0].status} already: nothing to {message.kind}."
            )
        if self._hosting is None:
            await self.store.post(run_id, message)
        else:
            await self._hosting.post(run_id, message)

    # ---- what handles ask

    def refusal(self, run_id: str) -> FlowkitError | None:
        return self._hosting.refused.get(run_id) if self._hosting is not None else None

    def left(self) -> bool:
        return self._hosting is not None and self._hosting.leaving

    def watched(self, run_id: str) -> Watched | None:
        return self._hosting.watching.get(run_id) if self._hosting is not None else None

    async def load(self, run_id: str, after: int = 0) -> tuple[RunRecord, Sequence[Event]]:
        journal = await self.store.load(run_id, after=after)
        return journal.record, journal.events

    async def value(self, run_id: str) -> Any:
        """The result of a run that has succeeded."""
        record, state = await self.state(run_id)
        if record.half_made:
            raise ResumeError(
                f"run {run_id!r} is a fork of {record.base!r} that was not begun, since its process died: "
                f"fork {record.base!r} again, with this id or another one."
            )
        if state.ended is not None and (error := ev.error_of(state.ended)) is not None:
            raise error
        hosting = self._entered()
        workflow = hosting.workflow(record)
        check_output(state, workflow)
        return await hosting.driver_for(run_id, workflow, state, 0).result()

    async def _check_same(self, record: RunRecord) -> Journal:
        journal = await self.store.load(record.run_id)
        stored = journal.record
        if (stored.workflow, stored.input_hash) != (record.workflow, record.input_hash):
            other = "workflow" if stored.workflow != record.workflow else "input"
            raise RunConflict(
                f"run {record.run_id!r} exists with another {other} (workflow {stored.workflow!r}). "
                f"Take another run id, or give the same input to resume it. Nothing was changed."
            )
        return journal

    async def _start_existing(self, record: RunRecord, begin: ev.RunStarted) -> None:
        """`run` with an id that exists: resume it, or follow whoever drives it."""
        while True:
            journal = await self._check_same(record)
            if journal.record.status in ev.FINAL:
                return
            try:
                await self._entered().take(journal, begin=begin)
                return
            except RunBusy:
                if journal.events:
                    return  # the handle follows it
            # Nobody can take up a run whose input is not stored, if who began it has died: only we.
            await anyio.sleep(self.poll_s)


@runtime_checkable
class Openable(Protocol):
    """A store that holds something open. The engine closes what it has opened itself."""

    @property
    def is_open(self) -> bool: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...


def _checked(on_change: OnChange | None) -> OnChange | None:
    """The word itself; any other would be taken for the most lenient one."""
    if on_change not in (None, *ON_CHANGE):
        raise DeclarationError(f'on_change={on_change!r}: use "refuse", "rerun" or "keep".')
    return on_change


def _artifacts_of(store: Store) -> Artifacts:
    if not hasattr(store, "append"):
        raise FlowkitError(
            f"{store!r} is no store: Engine(SqlStore(path or URL), ...), or Engine(MemoryStore(), ...)."
        )
    if not (hasattr(store, "put") and hasattr(store, "get")):
        raise FlowkitError(
            "this store keeps no artifacts: Engine(..., artifacts=...) names one that does."
        )
    return cast(Artifacts, store)
