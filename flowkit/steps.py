"""How the steps of a run move: what follows from an outcome without anybody's choice.

A map's items, a new round after a rejection, a planner's next turn, a failure and what it blocks are
derived here, the same on every fold. What must be recorded first is `owed`; `decide` hands it out.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import flowkit.events as ev
from flowkit.events import Error, Fact
from flowkit.graph import NodeSpec, Source, Step
from flowkit.slot import Planning, Slot, TurnState, Wait
from flowkit.values import Value, combine


class Steps:
    """The slots of a run, and the lists of those that somebody must look at."""

    def __init__(self) -> None:
        self.seq: int = 0
        self.slots: dict[str, Slot] = {}
        self.by_exec: dict[str, Slot] = {}
        """Slots by what they execute: the key with its round or turn."""
        self.nodes: Mapping[str, NodeSpec] = {}
        self.ready: dict[str, Slot] = {}
        self.running: dict[str, Slot] = {}
        """Marks of the runner: attempts in flight in this process."""
        self.parked: dict[str, Slot] = {}
        """Slots whose attempt waits durably, in memory or not."""
        self.due: list[tuple[float, str]] = []
        """Times (Unix) at which a parked or retrying slot may go on, in order."""
        self.probed: Container[str] = ()
        """Names of nodes with a probe. The runner's too: they come from the code, never from a journal."""
        self.foreign: set[str] = set()
        """Steps whose effect was begun by the run that this is a fork of, under a key of that run."""
        self.owed: list[Fact] = []
        self.unknown: dict[str, Slot] = {}
        self.waits: dict[str, list[Wait]] = {}
        """Open waits for signals, by the signal's name, oldest first."""
        self.replanning: dict[str, Slot] = {}
        """Planners that a step of theirs has asked to plan anew; their turn has not ended yet."""
        self.failure: tuple[str, Error] | None = None
        self.fatal = False

    # ---- steps: from pending to settled or failed

    def link(self, slot: Slot) -> None:
        for key in slot.step.reads():
            source = self.slots[key]
            if source.status != "settled" and key not in slot.unmet:
                slot.unmet[key] = None
                source.readers[slot.key] = None
        if slot.step.checks:
            self.slots[slot.step.checks].verifiers += (slot,)

    def make_ready(self, slot: Slot) -> None:
        if slot.step.each:
            self.expand(slot)
            return
        if self.nodes[slot.node].kind == "planner":
            if slot.planning is None:
                slot.planning = Planning()
            slot.turn = slot.turn or 1
            slot.exec = f"{slot.key}/t{slot.turn}"
        else:
            slot.exec = slot.key if slot.round == 1 else f"{slot.key}@{slot.round}"
        slot.status = "ready"
        slot.hash = ""
        self.by_exec[slot.exec] = slot
        self.offer(slot)

    def offer(self, slot: Slot) -> None:
        """It may start, by what the present event says."""
        slot.since = self.seq
        self.ready[slot.exec] = slot

    def ask_probes(self) -> None:
        """What is unknown may start: its probe may know by now."""
        for slot in [each for each in self.unknown.values() if self.can_ask(each)]:
            self.offer(slot)

    def can_ask(self, slot: Slot) -> bool:
        """Whether a probe can find out; it looks for this run's effect, not for that of its base."""
        return slot.node in self.probed and slot.exec not in self.foreign

    def doubt(self, slot: Slot, reason: str) -> None:
        """Its outcome is unknown: a probe may find out, else somebody decides."""
        if not (slot.intent or slot.status == "unknown"):
            return  # somebody decided while its probe was asked
        self.leave(slot)
        if slot.intent and self.can_ask(slot):  # else it is the probe that could not tell
            self.offer(slot)
        slot.status, slot.intent = "unknown", False
        slot.error = Error("OutcomeUnknown", reason)
        self.unknown[slot.exec] = slot

    def expand(self, slot: Slot) -> None:
        slot.exec = slot.key if slot.round == 1 else f"{slot.key}@{slot.round}"
        self.by_exec[slot.exec] = slot
        first, *rest = slot.step.inputs
        try:
            size = self.count(first)
        except ValueError as error:
            self.owe(slot, ev.StepFailed(Error("ValueError", str(error))))
            return
        before = slot.members or []
        slot.status, slot.members, slot.left = "expanded", [], size
        for index in range(size):
            item = Source(first.step, first.text, index)
            step = Step(f"{slot.exec}/{index}", slot.step.nodes, (item, *rest))
            child = Slot(step, slot)
            child.feedback = slot.feedback
            if index < len(
                before
            ):  # a new round: at the alternative that had answered, or the next
                moved = before[index].alternative + slot.step.reject_moves
                child.alternative = min(moved, len(step.nodes) - 1)
            self.slots[step.key] = child
            slot.members.append(child)
            self.make_ready(child)
        if not size:
            self.produced(slot)

    def count(self, source: Source) -> int:
        """How many items an input has; raises `ValueError` if it is no list."""
        if source.text is not None:
            return Value.of(source.text).count()
        slot = self.slots[source.step]
        if slot.members is not None:
            return len(slot.members)
        if slot.value is None:
            raise ValueError(f"{slot.key} has no list")
        return slot.value.count()

    def produced(self, slot: Slot) -> None:
        slot.digest = ""
        if not slot.verifiers:
            self.settle(slot)
            return
        slot.status = "checking"
        for verifier in slot.verifiers:
            verifier.unmet.pop(slot.key, None)
            if not verifier.unmet and verifier.status == "pending":
                self.make_ready(verifier)

    def settle(self, slot: Slot) -> None:
        slot.status = "settled"
        for settled in (slot, *slot.verifiers):
            for key in settled.readers:
                reader = self.slots[key]
                reader.unmet.pop(settled.key, None)
                if not reader.unmet and reader.status == "pending":
                    self.make_ready(reader)
        if slot.parent is not None:
            self.child_ended(slot.parent)

    def fail(self, slot: Slot, error: Error) -> None:
        slot.status, slot.error = "failed", error
        if slot.planner() is None or self.fatal:
            self.failure = self.failure or (slot.exec, error)
            if slot.parent is not None:
                slot.parent.left -= 1
            return
        failed = [slot]
        for each in failed:  # grows; a plan may be a chain of thousands, too deep for recursion
            for key in each.readers:
                reader = self.slots[key]
                if reader.status == "pending":
                    reader.status = "failed"
                    reader.error = Error("Blocked", f"its input {each.key!r} has failed")
                    failed.append(reader)
            subject = self.slots.get(each.step.checks)
            if subject is not None and subject.status == "checking":
                subject.status = "failed"
                subject.error = Error(
                    "StepFailed", f"its verifier {each.key!r} failed: {each.error}"
                )
                failed.append(subject)
        for each in failed:
            if each.parent is not None and not each.step.checks:
                self.child_ended(each.parent)

    def child_ended(self, parent: Slot) -> None:
        parent.left -= 1
        if parent.left or parent.status != "expanded":
            return
        if parent.step.each:
            failed = [each for each in parent.members or () if each.status == "failed"]
            if not failed:
                self.produced(parent)
            elif parent.planner() is not None:  # else the run has failed with its first item
                self.fail(parent, failed[0].error or Error("StepFailed", "an item has failed"))
        else:
            self.turn_over(parent)

    def leave(self, slot: Slot) -> None:
        self.ready.pop(slot.exec, None)
        self.running.pop(slot.exec, None)
        self.unknown.pop(slot.exec, None)
        self.unpark(slot)
        self.forget_due(slot)
        for wait in slot.open_waits():
            if wait in (waiting := self.waits.get(wait.name, [])):
                waiting.remove(wait)
        if slot.waits:
            # A signal that came is given to the next attempt too; what ran out is waited for anew.
            slot.waits = [
                wait
                for wait in slot.waits
                if wait.reason != "sleep" and wait.ended and not wait.ended.timed_out
            ]

    def forget_due(self, slot: Slot) -> None:
        if self.due:
            self.due = [item for item in self.due if item[1] != slot.exec]

    def unpark(self, slot: Slot) -> None:
        self.parked.pop(slot.exec, None)

    def owe(self, slot: Slot, payload: ev.Payload) -> None:
        self.owed.append(
            Fact(payload, slot.exec, slot.alternative, slot.attempts.get(slot.alternative, 0))
        )

    # ---- planners: turn after turn

    def turn_over(self, slot: Slot) -> None:
        planning = slot.planning
        if planning is None:
            return
        turn, spec = planning.turns[-1], self.nodes[slot.node]
        failed = turn.failures()
        if failed and turn not in planning.failed[-1:]:
            planning.failed.append(turn)
        parts = [planning.digest, planning.reason]
        parts += [child.find_digest() or str(child.error) for child in turn.children]
        planning.digest = combine(parts)
        if planning.reason:
            turn.feedback = (planning.reason,)
        replan = bool(planning.reason or failed)
        planning.reason = ""
        self.replanning.pop(slot.key, None)
        if turn.again or spec.answers:
            self.next_turn(slot, turn.feedback)
        elif replan and planning.replans < spec.replans_max:
            planning.replans += 1
            self.next_turn(slot, turn.feedback)
        elif failed and not any(
            child.status == "settled" for each in planning.turns for child in each.children
        ):
            error = Error(
                "StepFailed", f"no planned step succeeded; the last error: {failed[-1].error}"
            )
            self.give_up(slot, error)
        else:
            slot.value = None
            self.produced(slot)

    def give_up(self, slot: Slot, error: Error) -> None:
        """A planner found nothing in its turns: the next alternative, or the step has failed."""
        last = slot.alternative + 1 == len(slot.step.nodes)
        moves = slot.step.failure_moves and not last
        self.owe(slot, ev.AttemptFailed(error, "next") if moves else ev.StepFailed(error))

    def next_turn(self, slot: Slot, feedback: tuple[str, ...]) -> None:
        limit = self.nodes[slot.node].turns_max
        before = slot.planning.before if slot.planning else 0
        if limit and slot.turn - before >= limit:
            error = Error("StepFailed", f"the planner used up its {limit} turns without an answer")
            self.give_up(slot, error)
            return
        slot.turn += 1
        slot.feedback = feedback
        self.anew(slot)

    def other_planner(self, slot: Slot) -> None:
        """Another alternative plans from the beginning: the talk before was not its own."""
        if slot.planning is not None:
            slot.turn += bool(slot.planning.turns or slot.planning.said)
            slot.planning = Planning(before=slot.turn - 1)

    def anew(self, slot: Slot) -> None:
        """A new round or turn: a step of its own, with attempts counted from one."""
        slot.attempts, slot.begun = {}, ""
        slot.tries = 0
        slot.value = None
        slot.waits = None
        self.make_ready(slot)

    # ---- verification: round after round

    def conclude(self, subject: Slot) -> None:
        """When every verifier that can has judged this round: settle it, or open the next."""
        if subject.status == "failed":
            return  # another verifier of it has failed
        rejecting = [verifier for verifier in subject.verifiers if verifier.status == "rejected"]
        behind = {verifier.key for verifier in rejecting}
        for verifier in subject.verifiers:  # declared in order, so one pass follows a chain
            if verifier.status in ("accepted", "rejected"):
                continue
            if not behind.intersection(verifier.unmet):
                return
            behind.add(verifier.key)
        if rejecting:
            self.reopen(subject, rejecting)
        else:
            self.settle(subject)

    def reopen(self, subject: Slot, rejecting: list[Slot]) -> None:
        feedback = tuple(text for verifier in rejecting for text in verifier.feedback)
        strict = min(rejecting, key=lambda verifier: verifier.step.attempts)
        subject.feedback = feedback
        round_, allowed = subject.round - subject.round_base, strict.step.attempts
        if round_ >= allowed:
            text = (
                f"rejected in round {round_}, and {strict.key!r} allows {allowed} rounds in all; the last "
                f"feedback: {'; '.join(feedback)}"
            )
            self.owe(subject, ev.StepFailed(Error("Rejected", text)))
            return
        self.next_round(subject)

    def next_round(self, subject: Slot) -> None:
        subject.round += 1
        for verifier in subject.verifiers:
            verifier.round = subject.round
            verifier.status = "pending"
            verifier.unmet[subject.key] = None
            verifier.unmet.update(
                (other.key, None) for other in subject.verifiers if verifier.key in other.readers
            )
            verifier.attempts, verifier.tries, verifier.feedback = {}, 0, ()
        moves = subject.step.reject_moves and subject.alternative + 1 < len(subject.step.nodes)
        subject.alternative += moves
        if moves:
            self.other_planner(subject)
        planning = subject.planning
        if planning is not None and self.nodes[subject.node].kind == "planner":
            if moves:
                self.anew(subject)
                return
            if not (planning.turns and planning.turns[-1].number == subject.turn):
                planning.turns.append(TurnState(subject.turn, [], said=planning.said))
                planning.said = []
            planning.turns[-1].feedback += subject.feedback
            planning.digest = combine([planning.digest, *subject.feedback])
            self.next_turn(subject, subject.feedback)
        else:
            self.anew(subject)

    # ---- retry: what has failed begins anew

    def revive(self, slot: Slot) -> None:
        error, slot.error, slot.tries, slot.begun = slot.error, None, 0, ""
        slot.waits = [wait for wait in slot.waits or () if wait.reason != "approval"]
        if slot.parent is not None:
            slot.parent.left += 1
        if slot.planning is not None:
            slot.planning.before, slot.planning.tokens = slot.turn, 0
        if error is not None and error.type == "Rejected" and slot.verifiers:
            slot.round_base = slot.round
            self.next_round(slot)
            return
        if slot.alternative:
            slot.alternative = 0
            self.other_planner(slot)
        planning = slot.planning
        if planning is not None and planning.turns and planning.turns[-1].number == slot.turn:
            planning.replans = 0
            self.next_turn(slot, planning.turns[-1].feedback)
        else:
            self.make_ready(slot)
