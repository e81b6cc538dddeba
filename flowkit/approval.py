"""Asking a person before a step begins: what is asked, when, and what an answer holds for.

A question is a durable wait of a step that is ready. Its name has the step with round or turn, a hash of the
tool and its inputs, and the place in the journal where it was put, so an answer fits one question of one
run and no other. An answer that comes when nothing is asked is dropped.

The rule is that of `Trust`: what a run has taken in is a fold over its journal, so a resume, a new turn and
a planner below another know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import flowkit.events as ev
from flowkit.events import Fact
from flowkit.policy import Trust
from flowkit.slot import APPROVAL, Slot, Wait
from flowkit.state import State
from flowkit.values import combine


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's answer, as a signal carries it."""

    approved: bool
    by: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is asked. `step` has round or turn; `until` is Unix time.

    `inputs`: the JSON of what the tool would be given, in its order.
    """

    name: str
    step: str
    tool: str
    why: str
    until: float | None = None
    inputs: tuple[str, ...] = ()


def why(trust: Trust, state: State) -> str:
    """Why somebody must be asked before a step of such a tool begins; empty where nobody need be."""
    if trust.approve.when == "always":
        return trust.approve.question or "it is always asked for"
    if not trust.may_ask:
        return ""
    private = state.taint.get("private", "it" if trust.reads_private else "")
    untrusted = state.taint.get("untrusted", "")
    if not (private and untrusted):
        return ""
    return (
        f"it has an effect outside, private data came with {private}, and {untrusted} took in what anybody "
        f"may have written"
    )


def questions(state: State, starting: Iterable[Slot], now: float) -> Iterator[Fact]:
    """What must be asked before any of these steps may begin an attempt at a time (Unix time)."""
    for slot in starting:
        trust = state.nodes[slot.node].trust
        if trust.may_ask and not _begun(slot, trust) and why(trust, state):
            bound = combine([slot.node, state.input_hash(slot)])[:16]
            start = f"{APPROVAL}{slot.exec}/{bound}/"
            if not any(_holds(wait, start, now) for wait in slot.waits or ()):
                limit = trust.approve.timeout_s
                until = None if limit is None else now + limit
                asked = ev.Waiting("approval", f"{start}{state.seq}", 1, until)
                yield Fact(asked, slot.exec, slot.alternative, slot.attempt)


def _holds(wait: Wait, start: str, now: float) -> bool:
    """Whether a wait is an approval of just this, that was given and is not too old."""
    fits = wait.reason == "approval" and wait.name.startswith(start) and wait.ended is not None
    return fits and not wait.denial() and wait.until is not None and now <= wait.until


def _begun(slot: Slot, trust: Trust) -> bool:
    """Whether the step has begun as it is now, so that nothing is left to agree to.

    An attempt is under way, and only waits or was interrupted; or an effect's outcome is asked for; or
    it is tried again, with inputs that are older than what its own failure brought into the run.
    """
    again = slot.begun == "tried" and trust.approve.when != "always"
    return again or slot.begun == "under way" or slot.status == "unknown"


def open_questions(state: State) -> list[Question]:
    """What persons are asked just now, in the order of asking."""
    found = [
        Question(
            wait.name, slot.exec, slot.node, why(state.nodes[slot.node].trust, state), wait.until
        )
        for slot in state.parked.values()
        for wait in slot.open_waits()
        if wait.reason == "approval"
    ]
    return found if state.ended is None else []
