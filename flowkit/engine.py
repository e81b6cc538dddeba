"""The engine: starts runs, resumes them, follows them, and gives them back to the store.

An engine is entered once, by the host's lifespan. It drives each of its runs with a `Driver`, keeps
their leases, brings them their messages, and takes up those that wait when their time comes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast, runtime_checkable

import anyio
from anyio.abc import TaskGroup

import flowkit.events as ev
from flowkit.drive import Driver, Ended, Kit
from flowkit.dsl import Workflow, describe_change
from flowkit.errors import (
    DeclarationError,
    FlowkitError,
    LeaseLost,
    ResumeError,
    RunBusy,
    RunConflict,
    RunNotFound,
    StoreError,
    VersionMismatch,
)
from flowkit.events import Event, Fact
from flowkit.graph import check_name
from flowkit.handle import RunHandle, Watched
from flowkit.owner import this_owner
from flowkit.policy import Budget
from flowkit.ports import Artifacts, Journal, Message, Model, RunQuery, RunRecord, Store, World
from flowkit.runner import guarded
from flowkit.state import State
from flowkit.values import Codec

A = TypeVar("A")
R = TypeVar("R")

FIRST_EPOCH = 1 << 40
"""A run's first epoch; the lower 40 bits belong to a distributed engine's own token."""

log = logging.getLogger("flowkit")


class Engine:
    """Runs workflows on a store.

    Args:
        store: where journals are kept; `SqlStore("runs.db")` or `MemoryStore()`. An engine closes a
            store that it had to open.
        workflows: those that may be resumed; `run` and `start` add their own.
        model: what `ctx.model` asks; may be None.
        artifacts: where large values and files are kept; by default the store, if it can.
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
        model: Model | None = None,
        artifacts: Artifacts | None = None,
        recover: bool = False,
        resources: Sequence[object] = (),
        lease_s: float = 30.0,
        poll_s: float = 0.5,
        suspend_after_s: float = 1.0,
        grace_s: float = 5.0,
        threads_max: int = 40,
        world: World | None = None,
    ) -> None:
        self.store = store
        self.poll_s = poll_s
        self._artifacts = artifacts or _artifacts_of(store)
        self._model = model
        self._recover = recover
        self._resources = resources
        self._lease_s = lease_s
        self._suspend_after_s = suspend_after_s
        self._grace_s = grace_s
        self._threads_max = threads_max
        self._world = world or World()
        self._owner = this_owner()
        self._workflows: dict[str, Workflow[Any, Any]] = {}
        self._drivers: dict[str, Driver] = {}
        self._watched: dict[str, Watched] = {}
        self._parked: set[str] = set()
        self._refused: set[str] = set()
        self._kit: Kit | None = None
        self._tasks: TaskGroup | None = None
        self._stack = AsyncExitStack()
        self._leaving = False
        self._driver_left = anyio.Event()
        for each in workflows:
            self._register(each)

    # ---- life

    async def __aenter__(self) -> Self:
        if self._kit is not None:
            raise FlowkitError("this engine was entered before; make a new one.")
        self._kit = Kit(
            self.store, self._artifacts, self._model, self._world, self._resources,
            anyio.CapacityLimiter(self._threads_max), self._suspend_after_s, self._grace_s,
        )  # fmt: skip
        if isinstance(self.store, Openable) and not self.store.is_open:
            await self.store.open()
            self._stack.push_async_callback(self.store.close)
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        try:
            if self._recover:
                await self._recover_free()
            self._tasks.start_soon(self._keep_leases)
            self._tasks.start_soon(self._poll)
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
        self._leaving = True
        tasks = self._need_tasks()
        try:
            with anyio.move_on_after(0 if error is not None else self._grace_s + 1):
                for driver in list(self._drivers.values()):
                    driver.drain()
                while self._drivers:
                    self._driver_left = anyio.Event()
                    await self._driver_left.wait()
        finally:
            tasks.cancel_scope.cancel()
            await self._stack.aclose()

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
        self._register(workflow)
        codec = workflow.codec()
        stored = codec.dump(codec.check(value))
        now = self._world.now()
        run_id = check_name(run_id, "run id") if run_id is not None else self._world.new_id()
        record = RunRecord(
            run_id, workflow.name, workflow.input_hash(stored.text or ""), now,
            owner=self._owner, epoch=FIRST_EPOCH, lease_until=now + self._lease_s,
        )  # fmt: skip
        deadline = now + deadline_s if deadline_s is not None else None
        begin = ev.RunStarted(workflow.name, workflow.bound(), stored, budget or Budget(), deadline)
        handle = RunHandle[R](self, run_id)
        if run_id in self._drivers:
            await self._check_same(record)
            return handle
        try:
            await self.store.create(record)
        except RunConflict:
            await self._start_existing(record, begin)
            return handle
        driver = self._driver(run_id, workflow, State(), FIRST_EPOCH)
        claimed = Fact(ev.Claimed(self._owner, FIRST_EPOCH))
        await self._launch(driver, [Fact(begin), claimed])
        return handle

    async def resume(self, run_id: str) -> Any:
        """Go on with a stored run and wait for its result; a finished run gives its stored result.

        Raises:
            RunNotFound, RunBusy (driven elsewhere), VersionMismatch, or how the run ended.
        """
        if run_id not in self._drivers:
            journal = await self.store.load(run_id)
            if journal.record.status not in ev.FINAL:
                await self._take(journal)
        return await RunHandle[Any](self, run_id).result()

    async def retry(self, run_id: str) -> RunHandle[Any]:
        """Reopen the failed steps of a failed or quarantined run; its budget counts anew."""
        journal = await self.store.load(run_id)
        if journal.record.status not in ("failed", "quarantined"):
            raise ResumeError(
                f"run {run_id!r} is {journal.record.status}; only failed and quarantined runs are retried."
            )
        await self._take(journal, Fact(ev.Decided("retry")))
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

    async def decide(self, run_id: str, step: str, how: str, value: Any = None) -> None:
        """Decide on a step whose outcome is unknown: "done" with its value, "repeat", or "fail"."""
        record, state = await self.state(run_id)
        if step not in state.unknown:
            raise ResumeError(
                f"step {step!r} of run {run_id!r} has no unknown outcome to decide on."
            )
        stored = None
        if how == "done":
            workflow = self._workflow(record)
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

    # ---- what handles ask

    def left(self) -> bool:
        return self._leaving

    def watched(self, run_id: str) -> Watched | None:
        return self._watched.get(run_id)

    async def load(self, run_id: str, after: int = 0) -> tuple[RunRecord, Sequence[Event]]:
        journal = await self.store.load(run_id, after=after)
        return journal.record, journal.events

    async def value(self, run_id: str) -> Any:
        """The result of a run that has succeeded."""
        record, state = await self.state(run_id)
        if state.ended is not None and (error := ev.error_of(state.ended)) is not None:
            raise error
        return await self._driver(run_id, self._workflow(record), state, 0).result()

    # ---- taking runs

    def _register(self, workflow: Workflow[Any, Any]) -> None:
        known = self._workflows.setdefault(workflow.name, workflow)
        if known is not workflow:
            raise DeclarationError(
                f"two workflows are named {workflow.name!r}: a stored run finds its workflow by name. Rename one."
            )

    def _workflow(self, record: RunRecord) -> Workflow[Any, Any]:
        try:
            return self._workflows[record.workflow]
        except KeyError:
            raise ResumeError(
                f"run {record.run_id!r} belongs to workflow {record.workflow!r}, which this engine does not "
                f"know: Engine(..., workflows=[{record.workflow}])."
            ) from None

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
        journal = await self._check_same(record)
        if journal.record.status in ev.FINAL:
            return
        try:
            await self._take(journal, begin=begin)
        except RunBusy:
            return  # the handle follows it

    async def _take(
        self, journal: Journal, *facts: Fact, begin: ev.RunStarted | None = None
    ) -> None:
        """Claim a stored run and drive it. Looks before it claims, so that a refusal changes nothing."""
        record = journal.record
        workflow = self._workflow(record)
        _check_version(record, journal, workflow)
        if not journal.events and begin is None:
            raise ResumeError(
                f"run {record.run_id!r} ended before its input was stored: start it again with its input."
            )
        epoch = await self.store.claim(record.run_id, self._owner, self._lease_s)
        if epoch is None:
            raise RunBusy(
                f"run {record.run_id!r} is driven by {record.owner}; wait for it, or post to it.",
                owner=record.owner or "", until=record.lease_until or 0.0,
            )  # fmt: skip
        tail = await self.store.load(record.run_id, after=record.head)
        journal = Journal(record, [*journal.events, *tail.events])
        after = "start" if not journal.events else "death" if record.owner else "release"
        first: list[Fact] = []
        if begin is not None and not journal.events:
            first.append(Fact(begin))
        first.append(Fact(ev.Claimed(self._owner, epoch, cast(Any, after))))
        driver = self._driver(record.run_id, workflow, fold(journal), epoch)
        await self._launch(driver, [*first, *facts])

    def _driver(
        self, run_id: str, workflow: Workflow[Any, Any], state: State, epoch: int
    ) -> Driver:
        if self._kit is None:
            raise FlowkitError("enter the engine first: async with Engine(...) as engine.")
        watched = self._watched.get(run_id) if not epoch else self._watch(run_id)
        publish = watched.publish if watched is not None else _nobody
        return Driver(self._kit, run_id, workflow, state, epoch, publish)

    def _watch(self, run_id: str) -> Watched:
        return self._watched.setdefault(run_id, Watched())

    async def _launch(self, driver: Driver, facts: Sequence[Fact]) -> None:
        """Drive a run in the background; returns when its first facts are on disk."""
        self._parked.discard(driver.run_id)
        self._drivers[driver.run_id] = driver
        self._need_tasks().start_soon(self._drive, driver, facts)
        await driver.wait_begun()

    async def _drive(self, driver: Driver, facts: Sequence[Fact]) -> None:
        run_id = driver.run_id
        watched = self._watch(run_id)
        ended: Ended = "released"
        try:
            outcome = await guarded(lambda: driver.drive(facts))
            if isinstance(outcome, Exception):
                watched.error = outcome
                log.error("run %s stopped: %s", run_id, outcome, extra={"run_id": run_id})
            else:
                ended = outcome
        finally:
            self._drivers.pop(run_id, None)
            self._driver_left.set()
            if ended == "waiting":
                self._parked.add(run_id)
            else:
                self._watched.pop(run_id, None)
            if ended == "ended":
                watched.ended, watched.value = driver.state.ended, driver.result
            else:
                watched.left = ended != "waiting"
            if ended in ("waiting", "released") or (self._leaving and ended != "ended"):
                with anyio.move_on_after(self._grace_s, shield=True):
                    await self._release(driver)
            watched.notify()

    async def _release(self, driver: Driver) -> None:
        try:
            await self.store.release(driver.run_id, driver.epoch)
        except StoreError as error:
            log.warning("run %s keeps its lease: %s", driver.run_id, error)

    # ---- leases, messages, waiting runs

    async def _keep_leases(self) -> None:
        while True:
            await anyio.sleep(self._lease_s / 3)
            try:
                for driver in list(self._drivers.values()):
                    await self._renew(driver)
            except StoreError as error:  # the fence holds, whatever becomes of the lease
                log.warning("leases are not renewed: %s", error)

    async def _renew(self, driver: Driver) -> None:
        messages = await self.store.renew(driver.run_id, driver.epoch, self._lease_s)
        if messages is None:
            if self._drivers.get(driver.run_id) is driver:
                driver.lose()
        else:
            driver.receive(messages)

    async def _post(self, run_id: str, message: Message) -> None:
        await self.store.post(run_id, message)
        driver = self._drivers.get(run_id)
        if driver is not None:
            await self._renew(driver)
        elif run_id in self._parked:
            await self._wake(run_id)

    async def _poll(self) -> None:
        while True:
            await anyio.sleep(self.poll_s)
            try:
                await self._look()
            except StoreError as error:
                log.warning("waiting runs are not looked for: %s", error)

    async def _look(self) -> None:
        """Bring messages to their runs, and take up those whose time has come."""
        now = self._world.now()
        for record in await self.store.runs(RunQuery(messages=True, limit=1000)):
            driver = self._drivers.get(record.run_id)
            if driver is not None:
                await self._renew(driver)
            elif record.run_id in self._parked or self._recover:
                await self._wake(record.run_id)
        for record in await self.store.runs(RunQuery(due_at=now, limit=1000)):
            if record.run_id in self._parked or self._recover:
                await self._wake(record.run_id)
        if self._recover:
            await self._recover_free()

    async def _recover_free(self) -> None:
        """Take up runs that nobody drives: begun, and not waiting for what has not come."""
        query = RunQuery(
            status=frozenset({"pending", "running"}), free_at=self._world.now(), limit=1000
        )
        for record in await self.store.runs(query):
            if record.run_id not in self._drivers and record.head:
                await self._wake(record.run_id)

    async def _wake(self, run_id: str) -> None:
        """Take up a run if it can be; a refusal is logged once, never raised here."""
        if self._leaving or run_id in self._drivers or run_id in self._refused:
            return
        try:
            await self._take(await self.store.load(run_id))
        except (RunBusy, LeaseLost, RunNotFound):
            return
        except FlowkitError as error:
            self._refused.add(run_id)
            log.warning("run %s is not resumed: %s", run_id, error, extra={"run_id": run_id})

    def _need_tasks(self) -> TaskGroup:
        if self._tasks is None:
            raise FlowkitError("enter the engine first: async with Engine(...) as engine.")
        return self._tasks


@runtime_checkable
class Openable(Protocol):
    """A store that holds something open. The engine closes what it has opened itself."""

    @property
    def is_open(self) -> bool: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...


def fold(journal: Journal) -> State:
    """The state of a stored run."""
    state = State()
    for event in journal.events:
        state.apply(event)
    return state


def _nobody(events: Sequence[Event]) -> None:
    """Nobody watches."""


def _check_version(record: RunRecord, journal: Journal, workflow: Workflow[Any, Any]) -> None:
    """Refuse a run whose workflow has changed, before anything is claimed or run."""
    if not journal.events or not isinstance(begun := journal.events[0].payload, ev.RunStarted):
        return
    diff = describe_change(begun.graph, workflow.bound())
    if diff:
        raise VersionMismatch(
            f"run {record.run_id!r} began with another version of workflow {record.workflow!r}: "
            f"{'; '.join(diff)}. Resume it with the code that it began with, or start a new run.",
            diff=diff,
        )


def _artifacts_of(store: Store) -> Artifacts:
    if not (hasattr(store, "put") and hasattr(store, "get")):
        raise FlowkitError(
            "this store keeps no artifacts: Engine(..., artifacts=...) names one that does."
        )
    return cast(Artifacts, store)
