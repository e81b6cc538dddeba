"""The runs that one engine drives: taken, kept, woken, given back.

    stored run -- take --> Driver -- waits --> parked -- message, due time --> take
                             | ends, is lost, or the engine is left

Each driven run has a lease that is renewed; each parked one costs its id. What breaks one run is told
to those who watch it, and leaves the others alone.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup

import flowkit.events as ev
from flowkit.changes import OnChange, adopt, describe_change, done_in, node_of
from flowkit.drive import Driver, Ended
from flowkit.dsl import Workflow
from flowkit.errors import (
    DeclarationError,
    FlowkitError,
    JournalConflict,
    LeaseLost,
    ResumeError,
    RunBusy,
    RunConflict,
    RunNotFound,
    StoreError,
    VersionMismatch,
)
from flowkit.events import Fact
from flowkit.handle import Watched
from flowkit.kit import Kit
from flowkit.ports import Artifacts, Journal, Message, RunQuery, RunRecord
from flowkit.rewind import Fold, graph_of, in_place
from flowkit.runner import guarded
from flowkit.state import CLAIMS_MAX, State
from flowkit.values import Value

FIRST_EPOCH = 1 << 40
"""A run's first epoch; the lower 40 bits belong to a distributed engine's own token."""

OPEN: frozenset[ev.Status] = frozenset({"pending", "running", "waiting"})

REOPENED = ("failed", "quarantined")
"""What a `retry` reopens."""

log = logging.getLogger("flowkit")


class Hosting:
    """Runs in memory, by id: those that are driven, being taken, and parked."""

    def __init__(
        self,
        kit: Kit,
        owner: str,
        *,
        lease_s: float,
        poll_s: float,
        recover: bool,
        on_change: OnChange,
    ) -> None:
        self.kit = kit
        self.store = kit.store
        self.owner = owner
        self.lease_s = lease_s
        self.poll_s = poll_s
        self.workflows: dict[str, Workflow[Any, Any]] = {}
        self.drivers: dict[str, Driver] = {}
        self.watching: dict[str, Watched] = {}
        self._taking: set[str] = set()
        self.leaving = False
        self._recover = recover
        self.on_change: OnChange = on_change
        self._parked: set[str] = set()
        self.refused: dict[str, FlowkitError] = {}
        """Runs that cannot be driven by this engine, and why; told to those who wait for them."""
        self._driver_left = anyio.Event()
        self._tasks: TaskGroup | None = None

    # ---- life

    async def begin(self, tasks: TaskGroup) -> None:
        """Work in this task group from now on."""
        self._tasks = tasks
        if self._recover:
            await self._recover_free()
        tasks.start_soon(self._keep_leases)
        tasks.start_soon(self._poll)

    async def drain(self) -> None:
        """Start nothing more; return when every run has let go."""
        for driver in list(self.drivers.values()):
            driver.drain()
        while self.drivers:
            await self._wait_left()

    async def wait_gone(self, run_id: str) -> None:
        """Until a run that has ended has cleaned up."""
        while run_id in self.drivers:
            await self._wait_left()

    async def _wait_left(self) -> None:
        if self._driver_left.is_set():
            self._driver_left = anyio.Event()
        await self._driver_left.wait()

    # ---- taking runs

    def register(self, workflow: Workflow[Any, Any]) -> None:
        known = self.workflows.setdefault(workflow.name, workflow)
        if known is not workflow:
            raise DeclarationError(
                f"two workflows are named {workflow.name!r}: a stored run finds its workflow by name. Rename one."
            )

    def workflow(self, record: RunRecord) -> Workflow[Any, Any]:
        try:
            return self.workflows[record.workflow]
        except KeyError:
            raise ResumeError(
                f"run {record.run_id!r} belongs to workflow {record.workflow!r}, which this engine does not "
                f"know: Engine(..., workflows=[{record.workflow}])."
            ) from None

    async def take(
        self,
        journal: Journal,
        *facts: Fact,
        begin: ev.RunStarted | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        """Claim a stored run and drive it. Looks before it claims, so that a refusal changes nothing."""
        record = journal.record
        workflow = self.workflow(record)
        graph = graph_of(journal.events)
        changed = graph is not None and bool(describe_change(graph, workflow.bound()))
        if changed:
            await self.adopted(record, Fold().apply_all(journal.events), workflow, on_change)
        if not journal.events and begin is None:
            raise ResumeError(
                f"run {record.run_id!r} ended before its input was stored: start it again with its input."
            )
        if self.is_mine(record.run_id):  # the store gives a run to its owner as often as it asks
            raise _busy(record)
        async with self.taken(record.run_id):
            await self._claim(journal, workflow, facts, begin, on_change, changed)

    @asynccontextmanager
    async def taken(self, run_id: str) -> AsyncGenerator[None]:
        """While a run is being taken, nobody else here takes it."""
        first = run_id not in self._taking
        self._taking.add(run_id)
        try:
            yield
        finally:
            if first:
                self._taking.discard(run_id)

    def is_mine(self, run_id: str) -> bool:
        return run_id in self.drivers or run_id in self._taking

    async def _claim(
        self,
        journal: Journal,
        workflow: Workflow[Any, Any],
        facts: Sequence[Fact],
        begin: ev.RunStarted | None,
        on_change: OnChange | None,
        changed: bool,
    ) -> None:
        record, run_id = journal.record, journal.record.run_id
        epoch = await self.store.claim(run_id, self.owner, self.lease_s)
        if epoch is None:
            raise _busy(record)
        tail = await self.store.load(run_id, after=record.head)
        status = tail.record.status
        if status in ev.FINAL and (not facts or status not in REOPENED):
            await self.store.release(run_id, epoch)
            if facts:
                raise ResumeError(f"run {run_id!r} is {status} by now: somebody was faster.")
            return  # it ended between the look and the claim
        folded = Fold().apply_all([*journal.events, *tail.events])
        after = "start" if not folded.live else "death" if record.owner else "release"
        first: list[Fact] = []
        if begin is not None and not folded.live:
            first.append(Fact(begin))
        first.append(Fact(ev.Claimed(self.owner, epoch, cast(Any, after))))
        adopted: ev.Rewound | None = None
        try:
            self.check_model(folded.state.model)
            if changed or graph_of(tail.events) is not None:
                adopted = await self.adopted(record, folded, workflow, on_change)
        except ResumeError:
            await self.store.release(run_id, epoch)
            raise
        if adopted is not None:
            await self.record(folded, run_id, epoch, [*first, Fact(adopted)])
            first = []
        driver = self.driver_for(run_id, workflow, folded.state, epoch)
        await self.launch(driver, [*first, *facts])

    async def adopted(
        self,
        record: RunRecord,
        folded: Fold,
        workflow: Workflow[Any, Any],
        on_change: OnChange | None,
    ) -> ev.Rewound | None:
        """What to record if the workflow has changed since the run began; raises what refuses it."""
        if not folded.live or not describe_change(folded.state.graph, workflow.bound()):
            return None
        graph = workflow.bound()
        chosen = on_change or self.on_change
        adopted = adopt(folded, graph, chosen).unless(await self.misfits(folded, workflow, chosen))
        if adopted.refusal:
            raise mismatch(record, describe_change(folded.state.graph, graph), adopted.refusal)
        return adopted.rewound

    def check_model(self, name: str) -> None:
        """Refuse to ask another model first than the one that a fork was given."""
        names = [each.name for each in self.kit.models]
        if name and name not in names:
            raise ResumeError(
                f"this engine has no model named {name!r}, only {', '.join(names) or 'none'}: "
                f"Engine(..., model=[...]) takes several."
            )

    async def misfits(
        self, folded: Fold, workflow: Workflow[Any, Any], on_change: OnChange
    ) -> Sequence[str]:
        """As `misfits`, of this engine's artifacts."""
        return await misfits(folded, workflow, on_change, self.kit.artifacts)

    async def begin_fork(
        self, record: RunRecord, new_id: str, folded: Fold, facts: Sequence[Fact]
    ) -> None:
        """Make a run that begins as this one is, with these facts, and drive it.

        Until they are written its status is "cancelled": nobody takes up a fork that is half made, but
        who asks for the same fork again makes the rest of it.
        """
        now = self.kit.world.now()
        new = RunRecord(
            new_id, record.workflow, record.input_hash, now, "cancelled", owner=self.owner,
            epoch=FIRST_EPOCH, lease_until=now + self.lease_s, base=record.run_id,
            base_seq=folded.state.seq,
        )  # fmt: skip
        async with self.taken(new_id):
            epoch = await self._create(new)
            base = (await self.store.load(record.run_id, after=folded.state.seq)).record
            if base.created_at != record.created_at:  # from now on it cannot be deleted
                raise RunConflict(
                    f"run {record.run_id!r} was deleted while it was forked, and its id used anew; {new_id!r} "
                    f"is left unbegun. Fork again, under another id."
                )
            claimed = Fact(ev.Claimed(self.owner, epoch))
            await self.record(folded, new_id, epoch, [*facts, claimed])
            driver = self.driver_for(new_id, self.workflow(record), folded.state, epoch)
            await self.launch(driver, ())

    async def _create(self, new: RunRecord) -> int:
        """Make a fork's row, or take the one that was left half made; the epoch."""
        try:
            await self.store.create(new)
            return new.epoch
        except RunConflict:
            left = (await self.store.load(new.run_id, after=new.base_seq)).record
            if not left.half_made or (left.base, left.base_seq) != (new.base, new.base_seq):
                raise
        epoch = await self.store.claim(new.run_id, self.owner, self.lease_s)
        if epoch is None:
            raise _busy(left)
        return epoch

    async def record(self, folded: Fold, run_id: str, epoch: int, facts: Sequence[Fact]) -> None:
        """Append to a claimed run before it is driven, since that changes what is driven."""
        events = in_place(facts, folded.state, self.kit.world.now())
        await self.store.append(run_id, events, expect=folded.state.seq, epoch=epoch)
        folded.apply_all(events)

    def driver_for(
        self, run_id: str, workflow: Workflow[Any, Any], state: State, epoch: int
    ) -> Driver:
        watched = self.watching.get(run_id) if not epoch else self.watch(run_id)
        return Driver(self.kit, run_id, workflow, state, epoch, watched)

    def watch(self, run_id: str) -> Watched:
        return self.watching.setdefault(run_id, Watched())

    async def launch(self, driver: Driver, facts: Sequence[Fact]) -> None:
        """Drive a run in the background; returns when its first facts are on disk."""
        self._parked.discard(driver.run_id)
        self.refused.pop(driver.run_id, None)
        self.drivers[driver.run_id] = driver
        driver.add(facts)
        self._need_tasks().start_soon(self._drive, driver)
        await driver.wait_begun()

    # ---- driving them

    async def _drive(self, driver: Driver) -> None:
        run_id = driver.run_id
        watched = self.watch(run_id)
        ended: Ended = "released"
        try:
            outcome = await guarded(driver.drive())
            if isinstance(outcome, Exception):
                watched.error = outcome
                log.error("run %s stopped: %s", run_id, outcome, extra={"run_id": run_id})
            else:
                ended = outcome
        finally:
            self.drivers.pop(run_id, None)
            driver.begun.set()  # now, so that who tries again does not find this one still there
            self._driver_left.set()
            if ended == "waiting":
                self._parked.add(run_id)
            else:
                self.watching.pop(run_id, None)
            if ended != "ended":
                watched.left = ended != "waiting"
            if ended in ("waiting", "released") or (self.leaving and ended != "ended"):
                with anyio.move_on_after(self.kit.grace_s, shield=True):
                    await self._release(driver)
            watched.notify()

    async def _release(self, driver: Driver) -> None:
        try:
            await self.store.release(driver.run_id, driver.epoch)
        except StoreError as error:
            log.warning("run %s keeps its lease: %s", driver.run_id, error)

    def _need_tasks(self) -> TaskGroup:
        if self._tasks is None:
            raise FlowkitError("enter the engine first: async with Engine(...) as engine.")
        return self._tasks

    # ---- leases, messages, waiting runs

    async def _keep_leases(self) -> None:
        while True:
            await anyio.sleep(self.lease_s / 3)
            for driver in list(self.drivers.values()):
                problem = await guarded(self._renew(driver))
                if isinstance(problem, Exception):  # the fence holds, whatever becomes of the lease
                    log.warning("run %s: its lease is not renewed: %s", driver.run_id, problem)

    async def _renew(self, driver: Driver) -> None:
        messages = await self.store.renew(driver.run_id, driver.epoch, self.lease_s)
        if messages is None:
            if self.drivers.get(driver.run_id) is driver:
                driver.lose()
        else:
            driver.receive(messages)

    async def post(self, run_id: str, message: Message) -> None:
        await self.store.post(run_id, message)
        driver = self.drivers.get(run_id)
        if driver is not None:
            await self._renew(driver)
        elif run_id in self._parked:
            await self._wake(run_id)

    async def _poll(self) -> None:
        while True:
            await anyio.sleep(self.poll_s)
            problem = await guarded(self._look())
            if isinstance(problem, Exception):  # the next look may go better
                log.warning("waiting runs are not looked for: %s", problem)

    async def _look(self) -> None:
        """Bring messages to their runs, and take up those whose time has come."""
        now = self.kit.world.now()
        for record in await self.store.runs(RunQuery(status=OPEN, messages=True, limit=1000)):
            driver = self.drivers.get(record.run_id)
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
            status=frozenset({"pending", "running"}), free_at=self.kit.world.now(), limit=1000
        )
        for record in await self.store.runs(query):
            if record.run_id not in self.drivers and record.head:
                await self._wake(record.run_id)

    async def _wake(self, run_id: str) -> None:
        """Take up a run if it can be; a refusal that stays is logged once and told to who waits."""
        if self.leaving or run_id in self.drivers or run_id in self.refused:
            return
        problem = await guarded(self._take_open(run_id))
        if problem is None or isinstance(problem, RunBusy | LeaseLost | RunNotFound):
            return
        if isinstance(problem, StoreError) and not isinstance(problem, JournalConflict):
            raise problem  # no run's fault
        if self.is_mine(run_id):
            return  # it has begun here since the look
        if not isinstance(problem, FlowkitError):  # a bug; the other runs go on
            problem = ResumeError(f"run {run_id!r} cannot be taken up: {problem!r}")
        self.refused[run_id] = problem
        log.warning("run %s is not resumed: %s", run_id, problem, extra={"run_id": run_id})

    async def _take_open(self, run_id: str) -> None:
        journal = await self.store.load(run_id)
        if journal.record.status in OPEN and not self._must_wait(journal):
            await self.take(journal)

    def _must_wait(self, journal: Journal) -> bool:
        """Of runs whose process has died again and again, one at a time: so it shows whose fault it is."""
        last = journal.events[1 - CLAIMS_MAX :]
        return all(type(event.payload) is ev.Claimed for event in last) and any(
            driver.state.claims >= CLAIMS_MAX for driver in self.drivers.values()
        )


async def misfits(
    folded: Fold, workflow: Workflow[Any, Any], on_change: OnChange, artifacts: Artifacts
) -> Sequence[str]:
    """With "keep": finished steps whose stored result cannot be read by the type it has by now."""
    if on_change != "keep" or not describe_change(folded.state.graph, workflow.bound()):
        return ()
    adopted = adopt(folded, workflow.bound(), on_change)
    found: list[str] = []
    for key, event in done_in(adopted.outcome.live, (ev.StepDone,)).items():
        node = workflow.nodes.get(node_of(event, folded.state))
        codec = node.codec() if node is not None and key in adopted.altered else None
        value: Value | None = getattr(event.payload, "value", None)
        if codec is not None and value is not None:
            kept = value.text or (await artifacts.get(value.digest)).decode()
            if not codec.fits(kept):
                found.append(key)
    return found


def mismatch(record: RunRecord, changes: Sequence[str], refusal: str) -> VersionMismatch:
    return VersionMismatch(
        f"run {record.run_id!r} began with another version of workflow {record.workflow!r}: "
        f"{'; '.join(changes)}. Not resumed, since of {refusal}. Resume it with the code that "
        f'it began with, or say on_change="rerun" or "keep"; plan_resume tells what each would do.',
        diff=tuple(changes),
    )


def _busy(record: RunRecord) -> RunBusy:
    return RunBusy(
        f"run {record.run_id!r} is driven by {record.owner or 'somebody else'}; wait for it, or post to it.",
        owner=record.owner or "", until=record.lease_until or 0.0,
    )  # fmt: skip


def check_output(state: State, workflow: Workflow[Any, Any]) -> None:
    """Refuse to read a stored result by other types than those it was stored by."""
    slot, now = state.slots[state.graph.output], workflow.bound().nodes
    for name in slot.step.nodes:
        if name not in now or now[name].fingerprint != state.nodes[name].fingerprint:
            line = f"node {name}: {'gone' if name not in now else 'changed'}"
            raise VersionMismatch(
                f"the stored result was made by another version of workflow {workflow.name!r} ({line}). "
                f"Read it with the code that made it, or start a new run.",
                diff=(line,),
            )
