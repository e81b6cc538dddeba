"""Driving one run: claim, fold, decide, do, append, until it ends or waits.

Attempts run in worker tasks. A worker that has an outcome commits it: it joins what waits, and one of
those who wait leads: folds the facts, asks `decide` for what follows, appends all of it in one
transaction, and only then hands out what may start. One append is in flight at a time; what finishes
meanwhile goes into the next. A worker goes on with the next attempt in the same task.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup

import flowkit.events as ev
from flowkit.context import StepContext
from flowkit.dsl import Workflow
from flowkit.errors import LeaseLost
from flowkit.events import Event, Fact
from flowkit.flight import Flight
from flowkit.kit import Audience, Kit
from flowkit.node import AnyNode, Context
from flowkit.ports import Message
from flowkit.reading import Reading, is_large
from flowkit.runner import ThreadMark, Try, answer, attempt, guarded, thread_ended
from flowkit.schedule import Commands, Start, decide
from flowkit.shield import wait_shielded
from flowkit.slot import Slot, Wait
from flowkit.state import State

log = logging.getLogger("flowkit")

Ended = Literal["ended", "waiting", "released", "lost"]


class Driver:
    """One run in memory. Made for a claim, dropped when the run ends, waits, or is lost."""

    def __init__(
        self,
        kit: Kit,
        run_id: str,
        workflow: Workflow[Any, Any],
        state: State,
        epoch: int,
        audience: Audience | None,
        facts: Sequence[Fact] = (),
    ) -> None:
        self.kit = kit
        self.run_id = run_id
        self.nodes: Mapping[str, AnyNode] = workflow.nodes
        self.state = state
        self.epoch = epoch
        self.world = kit.world
        self.artifacts = kit.artifacts
        self.models = kit.models
        self.model_policy = kit.model_policy
        self.resources = kit.resources
        self.values = Reading(state, self.nodes, workflow.codec(), kit.artifacts)
        self._fallbacks = workflow.fallbacks
        self._audience = audience
        self._pending = [*facts]
        self._begun = 0
        self._done = 0
        self._leading = False
        self._turn: anyio.Event | None = None
        self._workers = 0
        self._queue: deque[Flight] = deque()
        self._flights: dict[str, Flight] = {}
        self._threads: dict[str, ThreadMark] = {}
        self._inbox: dict[str, Message] = {}
        self._commands = Commands()
        self._wake = anyio.Event()
        self._signalled: anyio.Event | None = None
        self._durable = 0
        self._beginning: anyio.Event | None = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._broken: Exception | None = None
        self._draining = False
        self._unloading = False

    # ---- the run's life

    async def drive(self) -> Ended:
        """Append the first facts (the claim), then go on until the run ends, waits or is lost."""
        ended: Ended = "lost"
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                await self.commit(())
                self._has_begun()
                ended = await self._attend()
            except LeaseLost:
                pass  # the new owner goes on; nothing of ours is written any more
            finally:
                self._has_begun()
                self._stop_all("released")
                tasks.cancel_scope.cancel()
        return ended

    async def _attend(self) -> Ended:
        """Wait for what comes from outside: time, messages, the end."""
        while True:
            if self._broken is not None:
                raise self._broken
            if self.state.ended is not None:
                await self._settle_flights()
                return "ended"
            if self._draining:
                return await self._drain()
            if self._commands.stop:
                await self._force_stop()
            if self._commands.idle and await self._idle():
                return "waiting"
            await self._sleep(self._commands.due)
            await self.commit(())

    async def _sleep(self, due: float | None) -> None:
        """Until somebody wakes the run, or its due time (Unix time) comes."""
        if due is None:  # as most of the time, which saves a scope and five objects for each run
            await self._wake.wait()
        else:
            with anyio.move_on_after(max(due - self.world.now(), 0.0)):
                await self._wake.wait()
        self._wake = anyio.Event()

    async def _idle(self) -> bool:
        """Free the run's memory, when nothing comes within `suspend_after_s`; True when it is done."""
        due = self._commands.due
        soon = self.world.now() + self.kit.suspend_after_s
        threads = any(mark.running for mark in self._threads.values())  # not to be forgotten
        if threads or (due is not None and due <= soon):
            return False
        with anyio.move_on_after(self.kit.suspend_after_s) as lull:
            await self._wake.wait()
        if not lull.cancelled_caught or not self._commands.idle or self._inbox or self._pending:
            return False
        self._unloading = True
        await self.commit([Fact(ev.Waiting(self._reason(), until=due))])
        if self.state.ended is not None or not self._commands.idle:
            self._unloading = False  # what came with that append brings the run on
            self._wake.set()
            return False
        self._stop_all("waiting")
        await self._settle_flights()
        return True

    def _reason(self) -> str:
        """What the run waits for, in words."""
        reasons = [f"a decision on {key}" for key in self.state.unknown]
        for slot in self.state.parked.values():
            reasons += [f"{wait.reason} {wait.name} at {slot.exec}" for wait in slot.open_waits()]
        return ", ".join(" ".join(reason.split()) for reason in reasons) or "the next try"

    async def _drain(self) -> Ended:
        """Start nothing; let attempts end within the grace period, then stop them.

        A durable wait is not waited for: it goes on where the run is taken up.
        """
        for key, flight in self._flights.items():
            if key in self.state.parked:
                flight.cut("released")
        with anyio.move_on_after(self.kit.grace_s):
            while self._flights and self.state.ended is None:
                await self._wake.wait()
                self._wake = anyio.Event()
        if self.state.ended is not None:
            return "ended"
        self._stop_all("released")
        await self._settle_flights()
        return "released"

    async def _settle_flights(self) -> None:
        """Let stopped attempts clean up, for a bounded time."""
        with anyio.move_on_after(self.kit.grace_s, shield=True):
            while self._flights:
                await self._wake.wait()
                self._wake = anyio.Event()

    async def _force_stop(self) -> None:
        """Attempts that do not end within the grace period after a stop are given up."""
        await self._settle_flights()
        given_up = list(self._flights.values())
        for flight in given_up:
            self.state.unmark(flight.slot)
        text = "it did not stop while the effect was under way"
        unknown = [flight.slot for flight in given_up if flight.slot.intent]
        await self.commit(
            [Fact(ev.OutcomeUnknown(text), slot.exec, slot.alternative) for slot in unknown]
        )

    def _has_begun(self) -> None:
        if self._beginning is not None:
            self._beginning.set()
            self._beginning = None

    async def wait_begun(self) -> None:
        """Until the first facts are on disk; raises what hindered them."""
        if self._beginning is not None:
            await self._beginning.wait()
        if self._broken is not None and self.state.ended is None:
            raise self._broken

    async def result(self) -> Any:
        """The run's result, or the error that it ended with."""
        if self.state.ended is not None and (error := ev.error_of(self.state.ended)) is not None:
            raise error
        slot = self.state.slots[self.state.graph.output]
        await self.values.fetch([slot])
        return self.values.load(slot)

    def drain(self) -> None:
        """Start no new steps; `drive` returns when what is in flight has ended."""
        self._draining = True
        self._wake.set()

    def lose(self) -> None:
        """Somebody else drives the run: stop everything, write nothing more."""
        self._broken = self._broken or LeaseLost(f"run {self.run_id!r} is driven by somebody else")
        self._stop_all("lost")
        self._wake.set()

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages from the run's inbox; each becomes an event with the next append."""
        for message in messages:
            if message.id not in self.state.consumed and message.id not in self._inbox:
                self._inbox[message.id] = message
                self._wake.set()

    # ---- commit: many tasks, one append at a time

    async def commit(self, facts: Sequence[Fact]) -> None:
        """Return when the facts are on disk and folded; raises what broke the run."""
        if not await self._committed(facts) and self._broken is not None:
            raise self._broken

    async def _committed(self, facts: Sequence[Fact], worker: int = 0) -> bool:
        """Whether the facts are on disk and folded; if not, the run is broken and can only be dropped."""
        self._pending += facts
        self._workers += worker
        mine = self._begun + 1
        while self._done < mine and self._broken is None:
            if self._leading:
                self._turn = self._turn or anyio.Event()
                # An outcome that exists is recorded; other waits end with who waits.
                await (wait_shielded(self._turn) if worker else self._turn.wait())
            elif worker:
                await self._lead()
            else:
                with anyio.CancelScope(shield=True):  # an attempt leads for the others, too
                    await self._lead()
        return self._broken is None

    async def _lead(self) -> None:
        """Fold and append what waits, as one transaction; then start what follows."""
        self._leading = True
        self._begun += 1
        facts, self._pending = self._pending, []
        workers, self._workers = self._workers, 0
        appended: Commands | Exception | None = None
        try:
            appended = await guarded(self._append([*facts, *self._from_inbox()]))
        finally:
            self._done = self._begun
            self._leading = False
            turn, self._turn = self._turn, None
            if turn is not None:
                turn.set()
            if not isinstance(appended, Commands):
                if appended is None:
                    appended = LeaseLost(f"run {self.run_id!r} was dropped")
                self._broken = appended
                self._stop_all("lost")
                self._wake.set()
        if isinstance(appended, Commands):
            self._obey(appended, workers)

    async def _append(self, facts: Sequence[Fact]) -> Commands:
        """One transaction: the facts and what follows from them; what to do now that it is on disk."""
        if any(is_large(fact) for fact in facts):
            facts = [await self.values.shrink(fact) for fact in facts]
        first = self.state.seq
        events, commands = self._fold(facts)
        if events:
            self.receive(
                await self.kit.store.append(self.run_id, events, expect=first, epoch=self.epoch)
            )
            self._durable = events[-1].seq
            if self._audience is not None:
                if self.state.ended is not None:
                    self._audience.end(self.state.ended, self.result)
                if self._audience.readers:
                    self._audience.publish(events)
            for event in events:
                self._tell(event)
        return commands

    def _tell(self, event: Event) -> None:
        kind = type(event.payload)
        if kind is ev.Signalled and self._signalled is not None:
            self._signalled.set()
            self._signalled = None
        elif kind is ev.OutcomeUnknown:
            log.warning(
                "run %s: the outcome of step %s is unknown; it waits for a decision: "
                "engine.decide(run_id, step, how), or flowkit resume --repeat, --fail, --assume-done",
                self.run_id,
                event.key,
                extra={"run_id": self.run_id, "step": event.key},
            )

    def _fold(self, facts: Sequence[Fact]) -> tuple[list[Event], Commands]:
        """Fold the facts and whatever follows from them; what to do after the commit."""
        events: list[Event] = []
        now = max(self.world.now(), self.state.at)
        due: Sequence[Fact] = facts
        while True:
            for fact in due:
                if self.state.ended is not None and not isinstance(
                    fact.payload, ev.Claimed | ev.Decided
                ):
                    continue  # an attempt that was given up has ended after all
                event = Event(
                    self.state.seq + 1, now, fact.payload, fact.key, fact.alternative, fact.attempt
                )
                self.state.apply(event)
                events.append(event)
            commands = decide(self.state, now)
            if not commands.facts:
                return events, commands
            due = commands.facts

    def _from_inbox(self) -> list[Fact]:
        if not self._inbox:
            return []
        facts = [fact for each in self._inbox.values() if (fact := each.fact()) is not None]
        self._inbox = {}
        return [] if self.state.ended is not None else facts

    def _obey(self, commands: Commands, workers: int) -> None:
        """Start what may start: waiting workers take it over, new tasks the rest."""
        woken = (commands.due, commands.idle) != (
            self._commands.due,
            self._commands.idle,
        ) or self.state.ended is not None
        self._commands = commands
        if commands.stop:
            self._stop_all(commands.stop)
        # Messages that came with the append are folded first: a cancel comes before any new start.
        if not (self._draining or self._unloading or self._inbox):
            for start in commands.starts:
                self._begin(start)
        for _ in range(len(self._queue) - workers):
            if self._tasks is not None:
                self._tasks.start_soon(self._work)
        if woken or self._inbox:
            self._wake.set()

    def _begin(self, start: Start) -> None:
        slot = start.slot
        self.state.mark_started(slot)
        node = self.nodes[slot.node]
        flight = Flight(slot, node, slot.exec, slot.alternative, slot.attempt, start.last)
        self._flights[slot.exec] = flight
        self._queue.append(flight)

    def _stop_all(self, why: str) -> None:
        for flight in self._flights.values():
            flight.cut(why)

    # ---- attempts

    async def _work(self) -> None:
        """A worker: make an attempt, commit its outcome, go on with the next one."""
        task = anyio.get_current_task().id
        while self._queue:
            cut = await self._work_in_scope(task)
            if cut is None or not await self._committed(cut.facts(), 1):
                return

    async def _work_in_scope(self, task: int) -> Flight | None:
        """Go on in one cancel scope, until it is cancelled: the flight that it was cancelled in.

        A scope for each attempt would cost 8 µs a step. It is cancelled only during an attempt, never
        during a commit: a flight that has ended cannot be stopped, and leaves no deadline behind.
        """
        flight: Flight | None = None
        with anyio.CancelScope() as scope:
            while self._queue:
                flight = self._queue.popleft()
                flight.scope = scope
                await self._fly(flight, task)
                if scope.cancel_called:
                    return flight
                facts, flight = flight.facts(), None  # what the attempt needed is free
                if not await self._committed(facts, 1):
                    return None
            return None
        return flight

    async def _fly(self, flight: Flight, task: int) -> None:
        """Make one attempt, unless it was stopped before."""
        try:
            if flight.stop:
                pass
            elif flight.node.policy.concurrency:
                async with self.kit.room(flight.node):
                    await self._attempt(flight, task)
            else:
                await self._attempt(flight, task)
        finally:
            if flight.scope is not None and flight.node.policy.timeout_s is not None:
                flight.scope.deadline = math.inf
            self._flights.pop(flight.key, None)
            if flight.stop:
                self.state.unmark(flight.slot)
            if flight.stop or self._draining:
                self._wake.set()

    async def _attempt(self, flight: Flight, task: int) -> None:
        node, slot = flight.node, flight.slot
        hash_ = self.state.input_hash(slot)
        context = StepContext(self, slot, node, task, last_turn=flight.last)
        if node.policy.effect == "once" and not await self._committed(
            [flight.fact(ev.Intent(hash_))]
        ):
            return  # the intent could not be recorded, so it must not begin
        if self._audience is not None and self._audience.readers:
            self.publish(flight.fact(ev.Started(node.name)))
        mark = ThreadMark()
        if node.threaded is not None:
            mark = self._threads.setdefault(f"{flight.key}/{flight.alternative}", mark)
        moves_on = self._fallbacks.get(slot.step.nodes, (Exception,))
        flight.job = job = Try(
            node, slot, context, self.values.arguments, hash_, self.world, self.kit.threads, mark, moves_on
        )  # fmt: skip
        if mark.running:
            await thread_ended(mark)
        if node.policy.timeout_s is not None and flight.scope is not None:
            flight.scope.deadline = anyio.current_time() + node.policy.timeout_s
        flight.outcome = await attempt(job)

    # ---- what contexts ask

    async def call(self, node: AnyNode, ctx: Context, args: Sequence[Any]) -> ev.ToolAnswered:
        """Call a tool inside another node: its retries and alternatives, in memory."""
        return await answer(node, ctx, args, self.kit.threads, self.world, self.kit.room)

    @contextmanager
    def untimed(self, slot: Slot) -> Generator[None, None, None]:
        """Stop the clock of an attempt's timeout: a durable wait, unloaded or not, does not use it up."""
        flight = self._flights.get(slot.exec)
        scope = flight.scope if flight is not None else None
        if scope is None or scope.deadline == math.inf:
            yield
            return
        left = scope.deadline - anyio.current_time()
        scope.deadline = math.inf
        try:
            yield
        finally:
            if self._flights.get(slot.exec) is flight:  # else the scope is another attempt's
                scope.deadline = anyio.current_time() + left

    async def wait_signal(self, wait: Wait) -> None:
        while wait.ended is None or wait.seq > self._durable:
            self._signalled = self._signalled or anyio.Event()
            await self._signalled.wait()

    def publish(self, fact: Fact) -> None:
        if self._audience is not None and self._audience.readers:
            self._audience.publish(
                [Event(0, self.world.now(), fact.payload, fact.key, fact.alternative, fact.attempt)]
            )
