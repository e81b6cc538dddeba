"""A slot: one logical step of a run, and where it stands.

A slot's key never changes. What it executes has a key of its own: the round (`write@2`, after a
rejection) or the turn of a planner (`plan/t2`). Statuses:

    pending -> ready -> (running) -> checking -> settled      running is a mark, never stored
                 ^ \\_ retrying _/      |  \\_ a new round: ready again
                 |                      failed · unknown
              expanded: a map or a planner whose own steps run
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from flowkit.events import Error, ModelAnswered, Signalled, ToolAnswered
from flowkit.graph import Call, Step
from flowkit.values import Value, combine, parse

APPROVAL: Final = "approve/"
"""With this the name of a signal begins that answers a question put to a person."""


@dataclass(slots=True, eq=False)
class Wait:
    """A durable wait; `ended` is the signal, or the time-out, that ended it, at `seq`.

    `until` is when it ends by itself; of an approval that was given, until when that holds.
    """

    slot: Slot
    reason: str
    name: str
    n: int
    until: float | None
    ended: Signalled | None = None
    seq: int = 0

    @property
    def label(self) -> str:
        """What is waited for, in words."""
        return "approval" if self.reason == "approval" else f"{self.reason} {self.name}".strip()

    def denial(self) -> str:
        """Why the answer to a question that was put to a person does not agree; empty if it does."""
        if self.ended is None or self.ended.timed_out:
            return "nobody answered in time"
        given = self.ended.value
        said: Any = parse(given.text) if given is not None and given.text else None
        if not isinstance(said, dict):
            return "the answer was neither yes nor no"
        answer = cast("dict[str, Any]", said)
        if answer.get("approved") is True:
            return ""
        return f"{answer.get('by') or 'somebody'} said no. {answer.get('note') or ''}".strip()


@dataclass(slots=True, eq=False)
class TurnState:
    """A planner's turn: its steps, whether it asked to be asked again, and why the next came."""

    number: int
    children: list[Slot]
    again: bool = False
    feedback: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    said: list[ModelAnswered] = field(default_factory=list[ModelAnswered])
    """What the model answered in this turn, failed tries among it."""

    def failures(self) -> list[Slot]:
        return [child for child in self.children if child.status == "failed"]


@dataclass(slots=True)
class Planning:
    """What a planner's slot remembers: its turns, its replans, and the digest of what it has seen."""

    turns: list[TurnState] = field(default_factory=list[TurnState])
    failed: list[TurnState] = field(default_factory=list[TurnState])
    """Turns that ended with a failed step; looked at whenever a new plan comes."""
    replans: int = 0
    before: int = 0
    """Turns before the last `retry`, which gives a planner its turns anew."""
    reason: str = ""
    digest: str = ""
    said: list[ModelAnswered] = field(default_factory=list[ModelAnswered])
    """What the model answered in the turn that is going on, or that gave the value."""
    tokens: int = 0
    """What its own turns and all below them have used, in and out."""
    memo: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the planner's node remembers from turn to turn; never stored."""


Answered = ModelAnswered | ToolAnswered


class Slot:
    """One logical step. Folded in place by `State`, read by everyone else."""

    __slots__ = (
        "alternative", "answered", "attempts", "begun", "calls", "digest", "duration_s", "error", "errors", "exec",
        "feedback", "hash", "intent", "key", "left", "members", "parent", "planning", "readers", "round",
        "round_base", "since", "status", "step", "tries", "turn", "unmet", "value", "verifiers", "waits",
    )  # fmt: skip

    def __init__(self, step: Step, parent: Slot | None = None) -> None:
        self.step = step
        self.key = step.key
        self.parent = parent
        self.exec = step.key
        self.status = "pending"
        self.since = 0
        """Seq of the event that lets its next attempt start."""
        self.round = 1
        self.round_base = 0
        self.turn = 0
        self.alternative = 0
        self.tries = 0
        """Failed tries of this alternative in its present allowance."""
        self.attempts: dict[int, int] = {}
        """Attempts that have ended, by alternative."""
        self.begun: Literal["", "tried", "under way"] = ""
        """Whether this alternative was tried, in this round, since it may start as it is now; an attempt is
        seen to be under way by what it has called or waited for."""
        # Dicts of texts: unlike sets, lists and slots the garbage collector does not visit them, and it
        # took a third of the time of a thousand runs.
        self.unmet: dict[str, None] = {}
        """Keys of the slots that this one waits for."""
        self.readers: dict[str, None] = {}
        """Keys of the slots that wait for this one."""
        self.verifiers: tuple[Slot, ...] = ()
        self.members: list[Slot] | None = None
        self.left = 0
        self.planning: Planning | None = None
        self.value: Value | None = None
        self.digest: str = ""
        self.feedback: tuple[str, ...] = ()
        self.hash = ""
        """Hash of what the present round or turn is given; empty until it is asked for."""
        self.error: Error | None = None
        self.errors: list[tuple[str, Error]] | None = None
        self.duration_s = 0.0
        self.intent = False
        self.calls: dict[tuple[str, int], Answered] | None = None
        self.answered: int | None = None
        """Seq of the model's last answer in this attempt."""
        self.waits: list[Wait] | None = None

    @property
    def node(self) -> str:
        """The name of the alternative that is tried now, or that answered."""
        return self.step.nodes[self.alternative]

    @property
    def attempt(self) -> int:
        """The number of the attempt that is in flight or comes next, 1-based."""
        return self.attempts.get(self.alternative, 0) + 1

    def ended_attempt(self, duration_s: float) -> None:
        self.attempts[self.alternative] = self.attempt
        self.duration_s += duration_s
        self.begun = "tried"
        self.intent = False
        self.calls = None
        self.answered = None

    def ancestors(self) -> Iterator[Slot]:
        above = self.parent
        while above is not None:
            yield above
            above = above.parent

    def planner(self) -> Slot | None:
        """The nearest planner whose plan this step belongs to."""
        return next((each for each in self.ancestors() if each.planning is not None), None)

    def find_digest(self) -> str:
        """Digest of the slot's value; of lists and findings that of their parts."""
        if not self.digest:
            if self.value is not None:
                self.digest = self.value.digest
            elif self.members is not None:
                self.digest = combine([member.find_digest() for member in self.members])
            elif self.planning is not None:
                self.digest = self.planning.digest
        return self.digest

    def is_asked(self) -> bool:
        """Whether a person is asked before an attempt begins; none is under way."""
        return any(wait.reason == "approval" for wait in self.open_waits())

    def open_waits(self) -> list[Wait]:
        return [wait for wait in self.waits or () if wait.ended is None]
