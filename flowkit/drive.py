"""Driving one run: claim, fold, decide, do, append, until it ends or waits.

Attempts run in worker tasks. A worker hands in its outcome and rests: it leads the append if nobody
does, or takes over an attempt that may start. What follows from an outcome starts when the append has
returned; what was ready before it may start while it is under way.
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
from flowkit.approval import questions
from flowkit.commits import Commits
from flowkit.context import StepContext
from flowkit.dsl import Workflow
from flowkit.errors import LeaseLost
from flowkit.events import Event, Fact
from flowkit.flight import Flight
from flowkit.kit import Audience, Kit
from flowkit.node import AnyNode, Context
from flowkit.ports import Message
from flowkit.reading import Reading, is_large
from flowkit.runner import ThreadMark, Try, answer, attempt, thread_ended
from flowkit.schedule import Commands, Start, decide
from flowkit.shield import wait_shielded
from flowkit.slot import Slot, Wait
from flowkit.state import State

log = logging.getLogger("flowkit")

AFTER_THE_END = (ev.Claimed, ev.Decided)  # of the whole run; what a probe found comes too late

Ended = Literal["ended", "waiting", "released", "lost"]


class Driver(Commits):
    """One run in memory. Made for a claim, dropped when the run ends, waits, or is lost."""

    def __init__(
        self,
        kit: Kit,
        run_id: str,
        workflow: Workflow[Any, Any],
        state: State,
        epoch: int,
        audience: Audience | None,
    ) -> None:
        super().__init__()
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
        self._resting = 0
        self._leads = 0
        self._queue: deque[Flight] = deque()
        self._flights: dict[str, Flight] = {}
        self._threads: dict[str, ThreadMark] = {}
        self._inbox: dict[str, Message] = {}
        self._commands = Commands()
        self._wake = anyio.Event()
        self._signalled: anyio.Event | None = None
        self._durable = state.seq
        self._reached = 0.0
        self.begun = anyio.Event()
        """The first facts are on disk, or this driver is gone without them; who hosts it says the latter."""
        self._tasks: TaskGroup | None = None
        state.probed = {name for name, node in self.nodes.items() if node.probe is not None}
        state.ask_probes()  # of a fork, or after a deploy, the claim is folded already
        self._draining = False
        self._unloading = False
        self._unloaded = False

    # ---- the run's life

    async def drive(self) -> Ended:
        """Append the first facts (the claim), then go on until the run ends, waits or is lost."""
        ended: Ended = "lost"
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                await self.commit(())
                self.begun.set()
                ended = await self._attend()
            except LeaseLost:
                pass  # the new owner goes on; nothing of ours is written any more
            finally:
                self._stop_all("released")
                tasks.cancel_scope.cancel()
        self._audience = None  # it holds on to the result: without the cycle both go at once
        return ended

    async def _attend(self) -> Ended:
        """Wait for what comes from outside: time, messages, the end."""
        while True:
            if self.broken is not None:
                raise self.broken
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
            with anyio.move_on_after(max(due - self.world.now(), 0.0)) as nap:
                await self._wake.wait()
            if nap.cancelled_caught:
                self._reached = (
                    due  # whatever a clock says that has stopped, or gone back meanwhile
                )
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
        if self.leading:  # what is being appended may bring the run on: look again after it
            self._wake.set()
        held = self._wake.is_set() or self._inbox or self.pending
        if not lull.cancelled_caught or not self._commands.idle or held:
            return False
        self._unloading = True
        # A clock that was set has passed it; who sleeps, sleeps on.
        if due is None and self.state.due:
            due = self.state.due[0][0]
        await self.commit([Fact(ev.Waiting(self._reason(), until=due))])
        if not (self.state.suspended and self._commands.idle) or self._inbox or self.pending:
            self._unloading = False  # what came with that append brings the run on
            self._wake.set()
            return False
        self._unloaded = True  # what comes from now on stays in the store, and wakes the run
        self._stop_all("waiting")
        await self._settle_flights()
        return True

    def _reason(self) -> str:
        """What the run waits for, in words."""
        reasons = [f"a decision on {key}" for key in self.state.unknown]
        for slot in self.state.parked.values():
            reasons += [f"{wait.label} at {slot.exec}" for wait in slot.open_waits()]
        return ", ".join(" ".join(reason.split()) for reason in reasons) or "the next try"

    async def _drain(self) -> Ended:
        """Start nothing; let attempts end within the grace period, then stop them.

        A durable wait is not waited for: it goes on where the run is taken up.
        """
        self._stop_parked("released")
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
        unknown = ev.OutcomeUnknown("nothing was known of the effect when the run had to end")
        facts = [each.fact(unknown) for each in given_up if each.slot.intent or each.asks]
        await self.commit(facts)

    async def wait_begun(self) -> None:
        """Until the first facts are on disk; raises what hindered them."""
        await self.begun.wait()
        ended = self.state.ended is not None and self._durable == self.state.seq  # on disk
        if self.broken is not None and not ended:
            raise self.broken

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
        self.broken = self.broken or LeaseLost(f"run {self.run_id!r} is driven by somebody else")
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
        if not await self.committed(facts) and self.broken is not None:
            raise self.broken

    async def append(self, facts: Sequence[Fact]) -> Commands:
        """One transaction: the facts and what follows from them; what to do now that it is on disk."""
        facts = [*facts, *self._from_inbox()]
        facts = [await self.values.shrink(fact) if is_large(fact) else fact for fact in facts]
        first = self.state.seq
        events, commands = self._fold(facts)
        if events:
            self._start_early(commands.starts, first)
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
        if type(event.payload) is ev.Signalled and self._signalled is not None:
            self._signalled.set()
            self._signalled = None
        elif isinstance(event.payload, ev.OutcomeUnknown) and event.key not in self.state.ready:
            log.warning(
                "run %s: the outcome of step %s is unknown (%s); it waits for a decision: "
                "engine.decide(run_id, step, how), or flowkit resume --repeat, --fail, --assume-done",
                self.run_id,
                event.key,
                event.payload.reason,
                extra={"run_id": self.run_id, "step": event.key},
            )

    def _fold(self, facts: Sequence[Fact]) -> tuple[list[Event], Commands]:
        """Fold the facts and whatever follows from them; what to do after the commit."""
        events: list[Event] = []
        now = max(self.world.now(), self.state.at, self._reached)
        due: Sequence[Fact] = facts
        while True:
            for fact in due:
                late = fact.key or type(fact.payload) not in AFTER_THE_END
                if late and self.state.ended is not None:
                    continue  # an attempt that was given up has ended after all
                if type(fact.payload) is ev.Decided and (asked := self._flights.get(fact.key)):
                    asked.cut("decided")
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
        if not self._inbox or self._unloaded:
            return []
        facts = [fact for each in self._inbox.values() if (fact := each.fact()) is not None]
        self._inbox = {}
        return [] if self.state.ended is not None else facts

    def _start_early(self, starts: Sequence[Start], durable: int) -> None:
        """Start what was ready before the append that is under way.

        It reads nothing that is not on disk; only its place in `parallel_max` was taken until now.
        With the claim come messages that waited for an owner, so nothing starts before it.
        """
        if self._draining or self._unloading or not self.begun.is_set():
            return
        early = [each for each in starts if each.slot.since <= durable and not each.last]
        self._start(early, self._resting - self._leads)

    def obey(self, commands: Commands | Exception) -> None:
        """Start what may start, now that what it follows from is on disk."""
        if isinstance(commands, Exception):
            self._stop_all("lost")
            self._wake.set()
            return
        before, self._commands = self._commands, commands
        woken = before.due != commands.due or before.idle != commands.idle
        if commands.stop:
            self._stop_all(commands.stop)
        elif self.state.failure is not None or self.state.ended is not None:
            self._stop_parked("failed")  # else others may wait for their room, or all for a signal
        # Messages that came with the append are folded first: a cancel comes before any new start.
        held = self._draining or self._unloading or self._inbox
        self._start(() if held else commands.starts, self._resting)
        if woken or commands.stop or self._inbox or self.state.ended is not None:
            self._wake.set()

    def _start(self, starts: Sequence[Start], resting: int) -> None:
        """Begin attempts; workers that rest take them over, new ones the rest, and one leads."""
        for start in starts:
            if start.slot.exec not in self.state.running:  # else it was started early
                self._begin(start)
        wanted = len(self._queue) + (self.news and not self.leading)
        for _ in range(wanted - resting):
            if self._tasks is not None:
                self._resting += 1
                self._tasks.start_soon(self._work)
        if starts:
            self.call_all()

    def _begin(self, start: Start) -> None:
        slot = start.slot
        self.state.mark_started(slot)
        node = self.nodes[slot.node]
        asked = node.probe if slot.status == "unknown" else None
        place = (asked or node, slot.exec, slot.alternative, slot.attempt)
        self._flights[slot.exec] = flight = Flight(slot, *place, start.last)
        self._queue.append(flight)

    def _stop_all(self, why: str) -> None:
        for flight in self._flights.values():
            flight.cut(why)

    def _stop_parked(self, why: str) -> None:
        for key in self._flights.keys() & self.state.parked.keys():
            self._flights[key].cut(why)

    # ---- attempts

    async def _work(self) -> None:
        """A worker: make an attempt, hand in its outcome, go on with the next one.

        It goes on in one cancel scope until that is cancelled: a scope for each attempt would cost 8 µs a
        step. It is cancelled only during an attempt, never during a commit: a flight that has ended
        cannot be stopped, and leaves no deadline behind.
        """
        task = anyio.get_current_task().id
        while True:
            flight: Flight | None = None
            with anyio.CancelScope() as scope:
                while (flight := await self._next()) is not None:
                    flight.scope = scope
                    await self._fly(flight, task)
                    if scope.cancel_called:
                        break
                    self._hand_in(flight)
            if flight is None:
                return
            self._hand_in(flight)

    def _hand_in(self, flight: Flight) -> None:
        """Its outcome joins the next append, and its worker rests."""
        self.add(flight.facts())
        self._resting += 1
        flight.job = None  # free what the attempt needed: the worker may rest for long

    async def _next(self) -> Flight | None:
        """The next attempt for a worker that rests, or None; outcomes that wait are committed first.

        It does not wait for its own outcome's commit if there is something else that may start. But
        somebody leads as long as there is news: a worker does so before it takes an attempt.
        """
        while self.broken is None:
            if self.news and not self.leading:
                self._leads = 1
                await self.lead()
                self._leads = 0
            elif self._queue:
                self._resting -= 1
                return self._queue.popleft()
            elif self.leading:
                await wait_shielded(self.next_call())  # an outcome that exists is recorded
            else:
                break
        self._resting -= 1
        return None

    async def _fly(self, flight: Flight, task: int) -> None:
        """Make one attempt, unless it was stopped before."""
        try:
            if flight.node.policy.concurrency and not flight.stop:
                async with self.kit.room(flight.node):
                    if not self._asks_first(flight):
                        await self._attempt(flight, task)
            elif not flight.stop:
                await self._attempt(flight, task)
        finally:
            if flight.timeout_s is not None:
                flight.stop_clock()
            self._flights.pop(flight.key, None)
            if flight.stop:
                self.state.unmark(flight.slot)
            elif flight.asks:  # what it found may come too late to be folded
                self.state.running.pop(flight.key, None)
            if flight.stop or self._draining:
                self._wake.set()

    def _asks_first(self, flight: Flight) -> bool:
        """Give it back, if a person must be asked by now: by the time when there was room for it, an
        approval may have grown old, or the run have taken in what asks for one."""
        asks = any(questions(self.state, [flight.slot], self.world.now()))
        flight.stop = flight.stop or ("asked" if asks else "")
        return bool(flight.stop)

    async def _attempt(self, flight: Flight, task: int) -> None:
        node, slot = flight.node, flight.slot
        hash_ = self.state.input_hash(slot)
        context = StepContext(self, slot, node, task, last_turn=flight.last)
        if node.policy.effect == "once" and not await self.committed(
            [flight.fact(ev.Intent(hash_))]
        ):
            return  # the intent could not be recorded, so it must not begin
        if self._audience is not None and self._audience.readers:
            self.publish(flight.fact(ev.Started(node.name)))
        mark = ThreadMark()
        if node.threaded is not None or flight.asks:  # a thread may still be at the effect
            mark = self._threads.setdefault(f"{flight.key}/{flight.alternative}", mark)
        moves_on = self._fallbacks.get(slot.step.nodes, (Exception,))
        flight.job = job = Try(
            node, slot, context, self.values.arguments, hash_, self.world, self.kit.threads,
            ThreadMark() if flight.asks else mark, moves_on,
        )  # fmt: skip
        if mark.running:
            await thread_ended(mark)
        if flight.timeout_s is not None:
            flight.start_clock(flight.timeout_s)
        flight.outcome = await attempt(job)

    # ---- what contexts ask

    async def call(self, node: AnyNode, ctx: Context, args: Sequence[Any]) -> ev.ToolAnswered:
        """Call a tool inside another node: its retries and alternatives, in memory."""
        return await answer(node, ctx, args, self.kit.threads, self.world, self.kit.room)

    @contextmanager
    def untimed(self, slot: Slot) -> Generator[None, None, None]:
        """Stop the clock of an attempt's timeout: a durable wait, unloaded or not, does not use it up."""
        flight = self._flights.get(slot.exec)
        left = flight.stop_clock() if flight is not None else math.inf
        try:
            yield
        finally:
            if flight is not None and self._flights.get(slot.exec) is flight:
                flight.start_clock(left)  # else the scope is another attempt's

    async def wait_signal(self, wait: Wait) -> None:
        while wait.ended is None or wait.seq > self._durable:
            self._signalled = self._signalled or anyio.Event()
            await self._signalled.wait()

    def publish(self, fact: Fact) -> None:
        if self._audience is not None and self._audience.readers:
            self._audience.publish(
                [Event(0, self.world.now(), fact.payload, fact.key, fact.alternative, fact.attempt)]
            )
