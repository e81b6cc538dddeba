"""The facts of a run. A run's journal is the ordered list of its events; nothing else is kept.

An `Event` has its place (`seq`, gapless from 1), its time, and where it belongs: the key of the
step with its round or turn, the alternative and the attempt. What happened is the payload; the
payload's class is the event's kind. Live events (`Started`, `Progress`) have seq 0: they are shown,
never stored, and nothing depends on them.

    RunStarted Claimed                                   a run begins; an owner takes it
    Intent                                               a "once" effect is about to happen
    ModelAnswered ToolAnswered                           a call inside a node has returned
    AttemptFailed StepDone StepFailed Planned            how a step goes
    Accepted Rejected                                    a verifier's verdict
    OutcomeUnknown Decided                               a crash hit a "once" effect; what was decided
    Waiting Signalled                                    a durable wait, and what ended it
    CancelRequested RunEnded                             the end
    Rewound                                              some steps are to be done again
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeAlias

import flowkit.errors as fault
from flowkit.chat import Usage
from flowkit.graph import Call, Graph, Step
from flowkit.policy import Budget
from flowkit.values import Value

Status = Literal["pending", "running", "waiting", "succeeded", "failed", "cancelled", "quarantined"]

FINAL: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled", "quarantined"})


DROPPED = "Dropped"
"""Type of the error of a planned step that was given up before it began, since its plan was."""


@dataclass(frozen=True, slots=True)
class Error:
    """An error as it is stored: class name, message, and the last line of the user's code."""

    type: str
    message: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


@dataclass(frozen=True, slots=True)
class RunStarted:
    """`value` is the input; `deadline` is Unix time. The graph carries the nodes' fingerprints."""

    workflow: str
    graph: Graph
    value: Value | None = None
    budget: Budget = field(default_factory=Budget)
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """`after`: a run's first claim, a clean release, or the death of the owner before."""

    owner: str
    epoch: int
    after: Literal["start", "release", "death"] = "start"


@dataclass(frozen=True, slots=True)
class Intent:
    input_hash: str


@dataclass(frozen=True, slots=True)
class ModelAnswered:
    """One answer, or one try that failed (`error`). `n` counts identical requests of one attempt.

    `last_turn`: the planner was in its last turn, so after a crash it is in it again. `retry_at`
    (Unix time): when the same model is asked again after an error. `purpose` is empty for
    what a node asks in its own line of talk, and names what is asked beside it, such as "summary".
    """

    request: str
    n: int
    model: str
    value: Value | None = None
    error: Error | None = None
    duration_s: float = 0.0
    retry_at: float | None = None
    usage: Usage = field(default_factory=Usage)
    purpose: str = ""
    last_turn: bool = False


@dataclass(frozen=True, slots=True)
class ToolAnswered:
    """What a tool gave inside a node. `marks`: what the run takes in with it, as `Trust` has it."""

    request: str
    n: int
    tool: str
    value: Value | None = None
    error: Error | None = None
    duration_s: float = 0.0
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """`then` is what follows: the same alternative at `retry_at` (Unix time), the next one, or an end."""

    error: Error
    then: Literal["retry", "next", "fail", "replan", "fatal"]
    retry_at: float | None = None
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StepDone:
    input_hash: str
    value: Value | None = None
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StepFailed:
    error: Error


@dataclass(frozen=True, slots=True)
class Planned:
    """A planner's answer and the steps that it adds. `answer`: seq of the ModelAnswered behind it.

    `calls`: the model's calls of tools, in its order, and what became of each.
    """

    input_hash: str
    steps: tuple[Step, ...] = ()
    again: bool = False
    answer: int | None = None
    duration_s: float = 0.0
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    input_hash: str
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Rejected:
    input_hash: str
    feedback: str = ""
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    reason: str


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision on an unknown outcome; with an empty key, `retry` of an ended run.

    `message` is that of the inbox; on an unknown outcome it is empty where the tool's probe decided.

    "set" gives a value to a step that a fork would else do again.
    """

    how: Literal["done", "repeat", "fail", "retry", "set"]
    value: Value | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """With a key: one durable wait, of an attempt ("signal", "sleep") or before it ("approval").

    Without: the run waits, and its memory is freed.
    """

    reason: str
    name: str = ""
    n: int = 0
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal came in (key empty), or the wait at `key` ran out of time."""

    name: str
    n: int = 0
    value: Value | None = None
    message: str = ""
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class CancelRequested:
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class RunEnded:
    status: Status
    error: Error | None = None
    step: str = ""


@dataclass(frozen=True, slots=True)
class Rewound:
    """From here on the run is as if these steps, and all that rests on them, had not been done.

    `keys` are with round or turn. `graph`: the workflow's as it is from now on, if it has
    changed. `run`: the one that this run was forked from, at this event. `model`: the name of the model
    that is asked first from now on.
    """

    keys: tuple[str, ...] = ()
    graph: Graph | None = None
    run: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """Live: an attempt has begun."""

    node: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Live: what a node told by `ctx.progress`."""

    data: Any


Payload: TypeAlias = (
    RunStarted | Claimed | Intent | ModelAnswered | ToolAnswered | AttemptFailed | StepDone
    | StepFailed | Planned | Accepted | Rejected | OutcomeUnknown | Decided | Waiting | Signalled
    | CancelRequested | RunEnded | Rewound | Started | Progress
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fact:
    """What happened and where, before it has its place in the journal."""

    payload: Payload
    key: str = ""
    alternative: int = 0
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One fact. `at` is Unix time (UTC); `key` is empty for facts of the whole run."""

    seq: int
    at: float
    payload: Payload
    key: str = ""
    alternative: int = 0
    attempt: int = 0

    @property
    def kind(self) -> str:
        """The stored name of the payload's class."""
        return kind_of(type(self.payload))

    def __post_init__(self) -> None:
        if self.seq < 0:
            raise ValueError(f"seq {self.seq} is below 0")


@dataclass(frozen=True, slots=True)
class StepView:
    """One step of a run as it stands, for reports and for who looks at a run.

    `node` is the alternative that answered, or is tried now; `errors` are the failed attempts, oldest
    first, as "node: ErrorType: message"; `duration_s` is the sum over all attempts.
    """

    key: str
    node: str
    kind: str
    status: str
    attempts: int = 0
    errors: tuple[str, ...] = ()
    duration_s: float = 0.0
    feedback: tuple[str, ...] = ()
    detail: str = ""


def kind_of(payload: type[Any]) -> str:
    """The stored name of a kind of event: `attempt_failed` for `AttemptFailed`."""
    return _kind_of(payload.__name__)


@cache
def _kind_of(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def status_after(event: Event) -> tuple[Status, float | None] | None:
    """What an event makes of its run's row: status and due time, or None for no change."""
    match event.payload:
        case StepDone():  # as most of the time
            return None
        case RunStarted():
            return "pending", None
        case RunEnded(status=status):
            return status, None
        case Waiting(until=until) if not event.key:
            return "waiting", until
        case Claimed() | Decided() | Signalled() | CancelRequested():
            return "running", None
        case _:
            return None


def error_of(ended: RunEnded) -> fault.FlowkitError | None:
    """The exception that a run's end stands for; None if it succeeded."""
    if ended.status == "succeeded":
        return None
    kind = ended.error.type if ended.error else ""
    message = ended.error.message if ended.error else ended.status
    if ended.step:
        text = f"step {ended.step!r} failed: {ended.error}"
        failed = fault.Rejected if kind == "Rejected" else fault.StepFailed
        return failed(text, step=ended.step, error_type=kind)
    others: dict[str, type[fault.FlowkitError]] = {
        "BudgetExceeded": fault.BudgetExceeded,
        "DeadlineExceeded": fault.DeadlineExceeded,
        "RunCancelled": fault.RunCancelled,
        "RunQuarantined": fault.RunQuarantined,
    }
    return others.get(kind, fault.StepFailed)(message)
