"""A run as the fold of its events. `apply` is the only thing that changes it.

The fold is incremental: the cost of an event does not depend on how long the run is. What follows
from an event without anybody's choice (a map's items, a new round, the end of a turn) is derived
here, the same on every fold; what must be recorded is `owed`, and `decide` hands it out.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flowkit.events as ev
from flowkit.chat import Usage
from flowkit.errors import JournalConflict
from flowkit.events import Error, Event, Fact, StepView
from flowkit.graph import INPUT, Graph, Source, Step
from flowkit.policy import Budget
from flowkit.slot import Planning, Slot, TurnState
from flowkit.values import combine, digest
from flowkit.waits import Waits

_BEGUN = {"begun": "its effect is under way, or was when its process died"}
_DIED = "the process ended while the effect was under way"
_BASE_S = (
    "the run that this is a fork of had begun its effect; whether it happened is that run's to know"
)

CLAIMS_MAX = 3
"""Claims without any other event before the next claim quarantines the run."""


class State(Waits):
    """Where a run stands. Owned by one driver; everybody else only reads."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph((), "")
        self.workflow = ""
        self.budget = Budget()
        self.limited = False
        """Whether the budget limits more than what runs at once; most have nothing else to check."""
        self.started_at = 0.0
        self.deadline: float | None = None
        self.consumed: set[str] = set()
        self.cancelling = False
        self.ended: ev.RunEnded | None = None
        self.claims = 0
        self.suspended = False
        """The run's memory was freed while nothing but durable waits was going on."""
        self.steps_used = 0
        self.attempts_used = 0
        self.turns_used = 0
        self.tool_calls_used = 0
        self.usage = Usage()
        self.spent: dict[tuple[str, str], Usage] = {}
        """Usage by node and model."""
        self.model = ""
        """Name of the model that is asked first; empty for the engine's order."""
        self.taint: dict[str, str] = {}
        """What the run has taken in, "private" and "untrusted", and the step that it came from first."""
        self.redone: dict[str, int] = {}
        """What was done before the run was rewound, and the seq of that: its effects are new ones."""

    # ---- what readers ask

    def input_hash(self, slot: Slot) -> str:
        """Hash of what a step's present round or turn is given: inputs, feedback, turns before."""
        if not slot.hash:
            parts = [self._digest_of(source) for source in slot.step.inputs]
            parts += [digest(text) for text in slot.feedback]
            if slot.planning is not None:
                parts.append(slot.planning.digest)
            slot.hash = combine(parts)
        return slot.hash

    def views(self) -> list[StepView]:
        """Every step as it stands, in the order in which it came into the run."""
        return [self._view(slot) for key, slot in self.slots.items() if key != INPUT]

    def _view(self, slot: Slot) -> StepView:
        status = "running" if slot.exec in self.running else slot.status
        if slot.exec in self.parked:
            status = "waiting"
        elif slot.intent and status == "ready":
            status = "begun"
        waits = ", ".join(wait.label for wait in slot.open_waits())
        return StepView(
            key=slot.exec if slot.planning is None else slot.key,
            node=slot.node,
            kind=self.nodes[slot.node].kind,
            status="done" if status in ("settled", "accepted") else status,
            attempts=sum(slot.attempts.values()),
            errors=tuple(f"{node}: {error}" for node, error in slot.errors or ()),
            duration_s=slot.duration_s,
            feedback=slot.feedback,
            detail=waits or (str(slot.error) if slot.error else "") or _BEGUN.get(status, ""),
        )

    def _digest_of(self, source: Source) -> str:
        whole = (
            digest(source.text)
            if source.text is not None
            else self.slots[source.step].find_digest()
        )
        return whole if source.item is None else f"{whole}[{source.item}]"

    # ---- marks: set by the runner, never stored

    def mark_started(self, slot: Slot) -> None:
        self.ready.pop(slot.exec, None)
        self.forget_due(slot)
        self.unpark(slot)  # begun anew, it is at work until it is at its wait again
        self.running[slot.exec] = slot

    def unmark(self, slot: Slot) -> None:
        """An attempt was stopped without an outcome: it is as if it had not begun."""
        if self.running.pop(slot.exec, None) is None or slot.exec in self.parked:
            return
        if slot.status == "retrying":
            insort(self.due, (self.at, slot.exec))
        elif slot.status in ("ready", "unknown"):  # else somebody decided while its probe was asked
            self.ready[slot.exec] = slot

    # ---- the fold

    def apply(self, event: Event) -> None:
        """Fold one event; `JournalConflict` when it cannot follow what came before."""
        if event.seq != self.seq + 1:
            raise JournalConflict(f"event {event.seq} cannot follow event {self.seq}")
        self.refold(event)

    def refold(self, event: Event) -> None:
        """Fold one event of those that are left of a journal."""
        self.seq = event.seq
        self.at = event.at
        kind = type(event.payload)
        self._HANDLERS[kind](self, event, event.payload)
        if kind is not ev.Claimed and kind is not ev.Rewound:
            self.claims = 0
            self.suspended = kind is ev.Waiting and not event.key

    def _slot(self, event: Event) -> Slot:
        try:
            return self.by_exec[event.key]
        except KeyError:
            raise JournalConflict(
                f"event {event.seq} ({event.kind}) is about {event.key!r}, which is no step of the run"
            ) from None

    def _ending(self, event: Event, hash_: str | None, duration_s: float) -> Slot:
        """The slot whose attempt an event ends, with its inputs checked."""
        slot = self._slot(event)
        if hash_ is not None and hash_ != (found := self.input_hash(slot)):
            raise JournalConflict(
                f"event {event.seq}: {event.key!r} was done with other inputs (hash {hash_}) than the "
                f"journal gives it now ({found}). The journal is damaged; nothing was run."
            )
        slot.alternative = event.alternative
        slot.ended_attempt(duration_s)
        self.attempts_used += 1
        self._take_in(event.key, self.nodes[slot.node].trust.marks)
        if hash_ is not None:
            self._used(slot)
        self.leave(slot)
        return slot

    def _take_in(self, key: str, marks: Sequence[str]) -> None:
        for mark in marks:
            self.taint.setdefault(mark, key)

    def _used(self, slot: Slot) -> None:
        """Count a step that has ended against the budgets."""
        self.steps_used += 1
        if self.nodes[slot.node].kind == "planner":
            self.turns_used += 1
        elif slot.planner() is not None:
            self.tool_calls_used += 1

    def _run_started(self, event: Event, p: ev.RunStarted) -> None:
        self.workflow, self.graph, self.nodes = p.workflow, p.graph, p.graph.nodes
        self.budget, self.deadline, self.started_at = p.budget, p.deadline, event.at
        self.limited = p.budget.limits()
        entry = self.slots[INPUT] = Slot(Step(INPUT, ()))
        entry.value, entry.status = p.value, "settled"
        self.slots.update((step.key, Slot(step)) for step in p.graph.steps)
        for step in p.graph.steps:
            self.link(self.slots[step.key])
        for step in p.graph.steps:
            if not self.slots[step.key].unmet:
                self.make_ready(self.slots[step.key])

    def _claimed(self, event: Event, p: ev.Claimed) -> None:
        self.running.clear()
        if not self.suspended:  # attempts were in memory: who knows what they did beside waiting
            for slot in list(self.parked.values()):
                if not slot.is_asked():  # no attempt of it has begun
                    self.unpark(slot)
                    self.offer(slot)
        if p.after == "release":
            self.claims = max(self.claims - 1, 0)
        if p.after == "death" and self.claims >= CLAIMS_MAX and self.ended is None:
            suspects = ", ".join(list(self.ready)[:5]) or "no step was ready"
            message = f"the process died {self.claims} times in a row here; suspects: {suspects}"
            self.owed.append(Fact(ev.RunEnded("quarantined", Error("RunQuarantined", message))))
        self.claims += 1
        self.ask_probes()
        for slot in [slot for slot in self.ready.values() if slot.intent]:
            self.owe(slot, ev.OutcomeUnknown(_BASE_S if slot.exec in self.foreign else _DIED))

    def _intent(self, event: Event, p: ev.Intent) -> None:
        self._slot(event).intent = True
        self.foreign.discard(event.key)

    def _answered(self, event: Event, p: ev.ModelAnswered | ev.ToolAnswered) -> None:
        slot = self._slot(event)
        if slot.calls is None:
            slot.calls = {}
        slot.calls[p.request, p.n] = p
        slot.begun = "under way"
        if isinstance(p, ev.ModelAnswered):
            self._model_answered(slot, event.seq, p)
        else:
            self._take_in(event.key, p.marks)

    def _model_answered(self, slot: Slot, seq: int, p: ev.ModelAnswered) -> None:
        if p.error is None and not p.purpose:
            slot.answered = seq
        if slot.planning is not None:
            slot.planning.said.append(p)
        self.usage += p.usage
        spent = self.spent.get((slot.node, p.model), Usage())
        self.spent[slot.node, p.model] = spent + p.usage
        for each in (slot, *slot.ancestors()):
            if each.planning is not None:
                each.planning.tokens += p.usage.input_tokens + p.usage.output_tokens

    def _attempt_failed(self, event: Event, p: ev.AttemptFailed) -> None:
        slot = self._ending(event, None, p.duration_s)
        self.owed = [fact for fact in self.owed if fact.key != event.key]
        if slot.planning is not None:
            slot.planning.said = []
        if slot.errors is None:
            slot.errors = []
        slot.errors.append((slot.node, p.error))
        slot.tries += 1
        match p.then:
            case "retry":
                slot.status = "retrying"
                slot.since = event.seq
                insort(self.due, (p.retry_at or event.at, slot.exec))
            case "next":
                slot.alternative += 1
                slot.tries, slot.begun = 0, ""
                self.other_planner(slot)
                self.make_ready(slot)
            case "replan":
                planner = slot.planner()
                if planner is not None and planner.planning is not None:
                    planner.planning.reason = p.error.message
                    self.replanning[planner.key] = planner
                self.fail(slot, p.error)
            case "fail" | "fatal":
                self.fatal = self.fatal or p.then == "fatal"
                self.owe(slot, ev.StepFailed(p.error))

    def _step_done(self, event: Event, p: ev.StepDone) -> None:
        slot = self._ending(event, p.input_hash, p.duration_s)
        slot.value = p.value
        self.produced(slot)

    def _step_failed(self, event: Event, p: ev.StepFailed) -> None:
        slot = self._slot(event)
        self.owed = [fact for fact in self.owed if fact.key != event.key]
        self.leave(slot)
        if p.error.type != ev.DROPPED:
            self._used(slot)
        self.fail(slot, p.error)

    def _planned(self, event: Event, p: ev.Planned) -> None:
        slot = self._ending(event, p.input_hash, p.duration_s)
        slot.status = "expanded"
        slot.left = sum(not step.checks for step in p.steps)  # a verifier ends with what it checks
        slot.tries = 0
        planning = slot.planning = slot.planning or Planning()
        turn = TurnState(slot.turn, [], p.again, calls=p.calls, said=planning.said)
        planning.said = []
        planning.turns.append(turn)
        turn.children += [Slot(_grafted(step, event.key), slot) for step in p.steps]
        self.slots.update((child.key, child) for child in turn.children)
        for child in turn.children:
            self.link(child)
        for child in turn.children:
            if not child.unmet:
                self.make_ready(child)
        if not p.steps:
            self.turn_over(slot)

    def _accepted(self, event: Event, p: ev.Accepted) -> None:
        verifier = self._ending(event, p.input_hash, p.duration_s)
        verifier.status = "accepted"
        for key in verifier.readers:
            follower = self.slots[key]
            if follower.step.checks == verifier.step.checks:
                follower.unmet.pop(verifier.key, None)
                if not follower.unmet and follower.status == "pending":
                    self.make_ready(follower)
        self.conclude(self.slots[verifier.step.checks])

    def _rejected(self, event: Event, p: ev.Rejected) -> None:
        verifier = self._ending(event, p.input_hash, p.duration_s)
        verifier.status = "rejected"
        verifier.feedback = (p.feedback,)
        self.conclude(self.slots[verifier.step.checks])

    # ---- waits, decisions, the end

    def _waiting(self, event: Event, p: ev.Waiting) -> None:
        if event.key:
            self.begin_wait(self._slot(event), p, event.seq)
        else:
            self.suspended = True

    def _signalled(self, event: Event, p: ev.Signalled) -> None:
        self._consume(p.message)
        self.end_wait(self._slot(event) if p.timed_out else None, p, event.seq)

    def _outcome_unknown(self, event: Event, p: ev.OutcomeUnknown) -> None:
        self.owed = [fact for fact in self.owed if fact.key != event.key]
        self.doubt(self._slot(event), p.reason)

    def _decided(self, event: Event, p: ev.Decided) -> None:
        self._consume(p.message)
        if p.how == "retry":
            self.reopen_failed(event)
            return
        held = self.ready if p.how == "set" else self.unknown
        slot = held.pop(event.key, None)
        if slot is None:
            return  # decided already; the message is used up all the same
        self.ready.pop(event.key, None)  # its probe need not be asked
        slot.error = None
        match p.how:
            case "done" | "set":
                slot.ended_attempt(0.0)
                self._take_in(event.key, self.nodes[slot.node].trust.marks)
                slot.value = p.value
                self.produced(slot)
            case "repeat":
                slot.tries = 0 if p.message else slot.tries + 1
                slot.begun = "" if p.message else "tried"
                self.make_ready(slot)
            case "fail":
                self.owe(slot, ev.StepFailed(Error("OutcomeUnknown", "decided to have failed")))

    def reopen_failed(self, event: Event) -> None:
        """Do again what has failed; budget and deadline begin anew."""
        span = self.deadline - self.started_at if self.deadline is not None else None
        self.started_at = event.at
        self.deadline = event.at + span if span is not None else None
        cause = self.failure[0] if self.failure else ""
        self.ended, self.failure, self.fatal = None, None, False
        self.owed = [fact for fact in self.owed if type(fact.payload) is ev.OutcomeUnknown]
        self.steps_used = self.attempts_used = self.turns_used = self.tool_calls_used = 0
        self.usage = Usage()
        for slot in list(self.slots.values()):
            if slot.status == "failed" and (slot.planner() is None or slot.exec == cause):
                self.revive(slot)

    def _forked(self, event: Event, p: ev.Rewound) -> None:
        self.signals.clear()  # an approval is given to one run
        begun = (slot for slot in self.by_exec.values() if slot.intent or slot.status == "unknown")
        self.foreign |= {slot.exec for slot in begun}
        self.reopen_failed(event)

    def _cancel_requested(self, event: Event, p: ev.CancelRequested) -> None:
        self._consume(p.message)
        self.cancelling = True

    def _run_ended(self, event: Event, p: ev.RunEnded) -> None:
        self.ended = p
        self.owed = []

    def _consume(self, message: str) -> None:
        if message:
            self.consumed.add(message)

    _HANDLERS: ClassVar[Mapping[type, Callable[[Any, Event, Any], None]]] = {
        ev.RunStarted: _run_started,
        ev.Claimed: _claimed,
        ev.Intent: _intent,
        ev.ModelAnswered: _answered,
        ev.ToolAnswered: _answered,
        ev.AttemptFailed: _attempt_failed,
        ev.StepDone: _step_done,
        ev.StepFailed: _step_failed,
        ev.Planned: _planned,
        ev.Accepted: _accepted,
        ev.Rejected: _rejected,
        ev.OutcomeUnknown: _outcome_unknown,
        ev.Decided: _decided,
        ev.Waiting: _waiting,
        ev.Signalled: _signalled,
        ev.CancelRequested: _cancel_requested,
        ev.RunEnded: _run_ended,
        ev.Rewound: _forked,
    }


def _grafted(step: Step, turn: str) -> Step:
    """A planned step under its full key; ids in a plan are relative to their turn."""
    inputs = [
        Source(f"{turn}/{source.step}", source.text, source.item) if source.step else source
        for source in step.inputs
    ]
    return Step(  # `replace` takes 3 µs longer, a tenth of what folding a turn takes
        f"{turn}/{step.key}",
        step.nodes,
        tuple(inputs),
        tuple([f"{turn}/{key}" for key in step.after]),
        step.each,
        f"{turn}/{step.checks}" if step.checks else "",
        step.attempts,
        step.reject_moves,
        step.failure_moves,
        step.timeout_s,
    )
