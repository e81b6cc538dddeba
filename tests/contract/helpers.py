"""What the store tests share: events of every kind, and a clock that they set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flowkit import events as e
from flowkit.graph import Graph, NodeSpec, Source, Step
from flowkit.policy import Budget
from flowkit.ports import Artifacts, RunRecord, Store
from flowkit.values import Value

GENERATION = 2**40


class AnyStore(Store, Artifacts, Protocol):
    """A store that keeps artifacts too, as all of ours do."""


@dataclass
class Clock:
    """A clock that stands still until it is set."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def run(run_id: str = "r", created_at: float = 1.0, workflow: str = "wf") -> RunRecord:
    return RunRecord(run_id, workflow, "hash", created_at)


def event(seq: int, payload: e.Payload | None = None, key: str = "a") -> e.Event:
    return e.Event(seq, 12.5 + seq, payload or e.StepDone("h", Value.of('"x"')), key, 0, 1)


def done(first: int, count: int = 1) -> list[e.Event]:
    return [event(seq) for seq in range(first, first + count)]


_ERROR = e.Error("ValueError", "ümlaut, \N{SNOWMAN} and \x00", "file.py:3")
_STEP = Step("plan/t1/a", ("search", "archive"), (Source("$input"), Source(text='"x"')), ("b",))
_GRAPH = Graph((_STEP,), "a", {"search": NodeSpec("search", "tool", "f1", once=True)})
_BIG = Value(None, "d" * 64, 70_000, 12)

EVERY_KIND: tuple[e.Payload, ...] = (
    e.RunStarted("wf", _GRAPH, Value.of('{"a":1}'), Budget(steps_max=3), 99.5),
    e.Claimed("owner", GENERATION, "death"),
    e.Intent("h"),
    e.ModelAnswered("r", 2, "m", Value.of('"\N{SNOWMAN}"'), None, 0.25),
    e.ModelAnswered("r", 2, "m", None, _ERROR),
    e.ToolAnswered("r", 0, "t", _BIG),
    e.AttemptFailed(_ERROR, "retry", 12.75, 0.5),
    e.StepDone("h", Value.of('["\\ud800","\\u0000",1e308,-0.0]'), 0.125),
    e.StepDone("h", _BIG),
    e.StepDone("h"),
    e.StepFailed(_ERROR),
    e.Planned("h", (_STEP,), True, 4, 0.5),
    e.Accepted("h", 0.5),
    e.Rejected("h", "do better \N{SNOWMAN}"),
    e.OutcomeUnknown("crash"),
    e.Decided("done", Value.of("1"), "m1"),
    e.Decided("set", _BIG),
    e.Waiting("sleep", "s", 1, 88.5),
    e.Signalled("go", 1, Value.of('{"ok":true}'), "m2", True),
    e.CancelRequested("enough", "m3"),
    e.RunEnded("failed", _ERROR, "a"),
    e.Rewound(("a@2", "plan/t1/x"), _GRAPH, "base", "m"),
    e.Rewound(),
)
