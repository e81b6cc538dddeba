"""Two runs side by side: what each step gave, where they part, what each has used.

A pure function of two folded journals. Values are compared by their digests, so a large one need not be
read; whoever shows the difference reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import flowkit.events as ev
from flowkit.chat import Usage
from flowkit.events import Error, Event
from flowkit.graph import INPUT, Call, NodeSpec, Step
from flowkit.rewind import Fold
from flowkit.values import Value

How: TypeAlias = Literal["shared", "same", "different", "only in the first", "only in the second"]
"""How a step stands in two runs: one event in both (a fork's), the same result, another, none."""

Part: TypeAlias = Literal[
    "status", "result", "plan", "verdict", "error", "inputs", "node", "code", "answers"
]
"""What of a step differs. The last four tell why: what it was given, which alternative answered, that
this node's code has changed, what models said. Alone they make no other result."""

WHY: frozenset[Part] = frozenset({"inputs", "node", "code", "answers"})


@dataclass(frozen=True, slots=True)
class Run:
    """A run to lay beside another: its id, and its journal, folded and whole."""

    run_id: str
    folded: Fold
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step, a round or a turn came to in one run.

    `status`: "done", "planned", "accepted", "rejected", "failed", or "open". `feedback`: a rejection's.
    `failed`: the attempts that failed, as texts. `answers`: what models answered in the last attempt, in
    order. `set`: a fork was given the value; `decided`: a person or a probe said it, of an outcome that
    was unknown. `inputs`, `code`: hash of what it was given, fingerprint of
    its node.
    """

    status: str
    node: str
    seq: int = 0
    value: Value | None = None
    plan: tuple[Step, ...] = ()
    calls: tuple[Call, ...] = ()
    again: bool = False
    feedback: str = ""
    error: Error | None = None
    failed: tuple[str, ...] = ()
    answers: tuple[Value, ...] = ()
    usage: Usage = field(default_factory=Usage)
    set: bool = False
    decided: bool = False
    inputs: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class StepDiff:
    """One step, round or turn in both runs; `parts`: what differs, for `different` and for `same`."""

    step: str
    how: How
    first: Outcome | None
    second: Outcome | None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Total:
    """One run as a whole. `usage`: all that it rests on; `own`: what of it the other run does not share."""

    run_id: str
    workflow: str
    status: str
    error: Error | None
    usage: Usage
    own: Usage
    answers: int


@dataclass(frozen=True, slots=True)
class RunDiff:
    """Two runs. `shared`: how many events they have in common, one being the other's fork.

    `run_parts`: what differs of the runs as wholes: "workflow", "input", "status".
    """

    first: Total
    second: Total
    shared: int
    steps: tuple[StepDiff, ...]
    run_parts: tuple[str, ...]

    @property
    def parted(self) -> StepDiff | None:
        """The first step on the way that differs."""
        return next((step for step in self.steps if step.how not in ("shared", "same")), None)

    @property
    def same(self) -> bool:
        """Whether both runs did the same and ended alike."""
        return self.parted is None and not self.run_parts


def diff(first: Run, second: Run) -> RunDiff:
    """Lay two runs side by side, step by step, in the order in which the first one came to them."""
    shared = _shared(first, second)
    one, two = _outcomes(first.folded), _outcomes(second.folded)
    keys = dict.fromkeys([*one, *two])
    steps = tuple(_step(key, one.get(key), two.get(key), shared) for key in keys)
    seqs = [{event.seq for event in run.folded.live} for run in (first, second)]
    common = {seq for seq in seqs[0] & seqs[1] if seq <= shared}
    totals = _total(first, shared, common), _total(second, shared, common)
    entries = [run.folded.state.slots[INPUT].value for run in (first, second)]
    pairs = {
        "workflow": [total.workflow for total in totals],
        "input": [entry.digest if entry is not None else "" for entry in entries],
        "status": [total.status for total in totals],
    }
    return RunDiff(*totals, shared, steps, tuple(name for name, (a, b) in pairs.items() if a != b))


def writers(run: Run) -> Iterator[str]:
    """The run that each event was written by: before a fork's first event, those that it began as."""
    forks = [
        (event.seq, event.payload.run)
        for event in run.events
        if isinstance(event.payload, ev.Rewound) and event.payload.run
    ]
    for event in run.events:
        yield next((base for seq, base in forks if event.seq < seq), run.run_id)


def _shared(first: Run, second: Run) -> int:
    """How many events the two have in common, from the first on."""
    count = 0
    for one, two in zip(writers(first), writers(second), strict=False):
        if one != two:
            break
        count += 1
    return count


def _step(key: str, one: Outcome | None, two: Outcome | None, shared: int) -> StepDiff:
    if two is None:
        return StepDiff(key, "only in the first", one, None)
    if one is None:
        return StepDiff(key, "only in the second", None, two)
    if one.seq == two.seq and 0 < one.seq <= shared:
        return StepDiff(key, "shared", one, two)
    parts = tuple(_parts(one, two))
    how: How = "same" if WHY.issuperset(parts) else "different"
    return StepDiff(key, how, one, two, parts)


def _parts(one: Outcome, two: Outcome) -> Iterator[Part]:
    if one.status != two.status:
        yield "status"
    if _digest(one.value) != _digest(two.value):
        yield "result"
    if (one.plan, one.again) != (two.plan, two.again):
        yield "plan"
    if one.feedback != two.feedback:
        yield "verdict"
    if str(one.error or "") != str(two.error or ""):
        yield "error"
    if one.inputs != two.inputs and one.inputs and two.inputs:
        yield "inputs"
    if one.node != two.node:
        yield "node"
    elif one.code != two.code:
        yield "code"
    if [each.digest for each in one.answers] != [each.digest for each in two.answers]:
        yield "answers"


def _digest(value: Value | None) -> str:
    return value.digest if value is not None else ""


# ---- one run


def _outcomes(folded: Fold) -> Mapping[str, Outcome]:
    """What became of each step, round and turn of which the journal tells, in the run's own order."""
    state = folded.state
    told: dict[str, list[Event]] = {key: [] for key in state.by_exec}
    for event in folded.live:
        if event.key in told and not isinstance(event.payload, ev.Waiting | ev.Signalled):
            told[event.key].append(event)
    return {
        key: _outcome(events, state.by_exec[key].step.nodes, state.nodes)
        for key, events in told.items()
        if events
    }


def _outcome(
    events: Sequence[Event], nodes: Sequence[str], specs: Mapping[str, NodeSpec]
) -> Outcome:
    last = events[-1]
    node = nodes[min(last.alternative, len(nodes) - 1)]
    failed = [event.payload for event in events if isinstance(event.payload, ev.AttemptFailed)]
    return Outcome(
        _status(last.payload),
        node,
        seq=last.seq,
        value=last.payload.value if isinstance(last.payload, ev.StepDone | ev.Decided) else None,
        plan=last.payload.steps if isinstance(last.payload, ev.Planned) else (),
        calls=last.payload.calls if isinstance(last.payload, ev.Planned) else (),
        again=isinstance(last.payload, ev.Planned) and last.payload.again,
        feedback=last.payload.feedback if isinstance(last.payload, ev.Rejected) else "",
        error=last.payload.error if isinstance(last.payload, ev.StepFailed) else None,
        failed=tuple(str(each.error) for each in failed),
        answers=tuple(_answers(events)),
        usage=usage_of(events),
        set=isinstance(last.payload, ev.Decided) and last.payload.how == "set",
        decided=isinstance(last.payload, ev.Decided) and last.payload.how != "set",
        inputs=getattr(last.payload, "input_hash", ""),
        code=specs[node].fingerprint,
    )


def _status(payload: ev.Payload) -> str:
    match payload:
        case ev.StepDone() | ev.Decided(how="done" | "set"):
            return "done"
        case ev.Planned():
            return "planned"
        case ev.Accepted():
            return "accepted"
        case ev.Rejected():
            return "rejected"
        case ev.StepFailed() | ev.AttemptFailed(then="fail" | "fatal"):
            return "failed"
        case ev.OutcomeUnknown():
            return "unknown"
        case _:
            return "open"


def _answers(events: Sequence[Event]) -> Iterator[Value]:
    """What models answered in the attempt that ended last."""
    place = (events[-1].alternative, events[-1].attempt)
    for event in events:
        mine = (event.alternative, event.attempt) == place
        if mine and isinstance(event.payload, ev.ModelAnswered) and event.payload.value is not None:
            yield event.payload.value


def usage_of(events: Iterable[Event]) -> Usage:
    """What models used in these events."""
    total = Usage()
    for event in events:
        if isinstance(event.payload, ev.ModelAnswered):
            total += event.payload.usage
    return total


def _total(run: Run, shared: int, common: AbstractSet[int]) -> Total:
    """`usage` counts what still holds, and what the run itself did in vain."""
    state = run.folded.state
    kept = [event for event in run.folded.live if event.seq <= shared]
    rests_on = [*kept, *(event for event in run.events if event.seq > shared)]
    asked = [event for event in rests_on if isinstance(event.payload, ev.ModelAnswered)]
    own = [event for event in asked if event.seq not in common]
    ended = state.ended
    return Total(
        run.run_id, state.workflow, ended.status if ended is not None else "open",
        ended.error if ended is not None else None, usage_of(asked), usage_of(own), len(asked),
    )  # fmt: skip
