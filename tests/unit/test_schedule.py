"""`decide`: pure, and its answers for the states that matter."""

from __future__ import annotations

from typing import Any

import pytest

import flowkit.events as ev
from flowkit.events import Error, Event, Payload
from flowkit.graph import INPUT, Graph, NodeSpec, Source, Step
from flowkit.policy import Budget
from flowkit.schedule import decide
from flowkit.state import State
from flowkit.values import Value

NOW = 1_800_000_000.0

NODES = {"tool": NodeSpec("tool", "tool"), "once": NodeSpec("once", "tool", once=True)}


class Run:
    """A state that is told what happens."""

    def __init__(self, *steps: Step, **started: Any) -> None:
        self.state = State()
        graph = Graph(steps, steps[-1].key, NODES)
        self.tell(ev.RunStarted("flow", graph, Value.of("1"), **started))
        self.tell(ev.Claimed("me", 1))

    def tell(self, payload: Payload, key: str = "", attempt: int = 0) -> None:
        self.state.apply(Event(self.state.seq + 1, NOW, payload, key, 0, attempt))

    def done(self, key: str) -> None:
        hash_ = self.state.input_hash(self.state.slots[key])
        self.tell(ev.StepDone(hash_, Value.of("1")), key, 1)

    def starts(self, now: float = NOW) -> list[str]:
        return [start.slot.exec for start in decide(self.state, now).starts]

    def begin(self, *keys: str) -> None:
        for key in keys:
            self.state.mark_started(self.state.slots[key])

    def ends(self, now: float = NOW) -> list[ev.RunEnded]:
        payloads = [fact.payload for fact in decide(self.state, now).facts]
        return [payload for payload in payloads if isinstance(payload, ev.RunEnded)]


def tool(key: str, *reads: str, node: str = "tool") -> Step:
    return Step(key, (node,), tuple(Source(read) for read in reads or (INPUT,)))


def test_what_is_ready_is_started_in_order_and_not_twice() -> None:
    run = Run(tool("a"), tool("b"), tool("c", "a", "b"))
    assert run.starts() == ["a", "b"]
    run.begin("a", "b")
    assert run.starts() == []
    run.done("a")
    run.done("b")
    assert run.starts() == ["c"]


def test_the_run_has_succeeded_when_its_output_is_settled() -> None:
    run = Run(tool("a"))
    run.done("a")
    assert run.ends() == [ev.RunEnded("succeeded", step="a")]


def test_nothing_is_decided_after_the_end() -> None:
    run = Run(tool("a"))
    run.tell(ev.RunEnded("failed", Error("X", "x")))
    commands = decide(run.state, NOW)
    assert (*commands.facts, *commands.starts, commands.stop, commands.idle) == ("", False)


@pytest.mark.parametrize(("room", "expected"), [(1, ["a"]), (2, ["a", "b"]), (9, ["a", "b", "c"])])
def test_parallel_max_is_room_for_what_runs(room: int, expected: list[str]) -> None:
    steps = [tool("a"), tool("b"), tool("c"), tool("d", "a", "b", "c")]
    assert Run(*steps, budget=Budget(parallel_max=room)).starts() == expected


def test_a_failed_run_starts_nothing_and_ends_when_nothing_runs() -> None:
    run = Run(tool("a"), tool("b"), tool("c", "b"), tool("d", "a", "c"))
    run.begin("a", "b")
    run.tell(ev.AttemptFailed(Error("ValueError", "bad"), "fail"), "a", 1)
    (owed,) = decide(run.state, NOW).facts
    assert isinstance(owed.payload, ev.StepFailed)
    run.tell(owed.payload, "a", 1)
    commands = decide(run.state, NOW)
    assert (*commands.facts, *commands.starts, commands.stop) == ("",)
    run.done("b")
    assert run.ends() == [ev.RunEnded("failed", Error("ValueError", "bad"), "a")]


def test_fatal_stops_what_runs() -> None:
    run = Run(tool("a"), tool("b"), tool("d", "a", "b"))
    run.begin("a", "b")
    run.tell(ev.AttemptFailed(Error("Fatal", "no"), "fatal"), "a", 1)
    run.tell(ev.StepFailed(Error("Fatal", "no")), "a", 1)
    assert decide(run.state, NOW).stop == "failed"


def test_a_retry_is_started_when_it_is_due_and_not_before() -> None:
    run = Run(tool("a"))
    run.begin("a")
    run.tell(ev.AttemptFailed(Error("X", "x"), "retry", NOW + 5), "a", 1)
    commands = decide(run.state, NOW)
    assert (commands.starts, commands.due, commands.idle) == ((), NOW + 5, True)
    assert run.starts(NOW + 5) == ["a"]


def test_cancel_stops_first_and_ends_then() -> None:
    run = Run(tool("a"))
    run.begin("a")
    run.tell(ev.CancelRequested())
    assert decide(run.state, NOW).stop == "cancelled"
    run.state.unmark(run.state.slots["a"])
    assert [end.status for end in run.ends()] == ["cancelled"]


def test_a_passed_deadline_stops_and_then_fails_the_run() -> None:
    run = Run(tool("a"), deadline=NOW + 10)
    run.begin("a")
    assert decide(run.state, NOW + 9).due == NOW + 10
    assert decide(run.state, NOW + 10).stop == "deadline"
    run.state.unmark(run.state.slots["a"])
    (end,) = run.ends(NOW + 10)
    assert end.error is not None
    assert end.error.type == "DeadlineExceeded"


def test_a_used_up_budget_waits_for_what_runs_and_then_fails_the_run() -> None:
    run = Run(tool("a"), tool("b"), tool("c", "a", "b"), budget=Budget(steps_max=2))
    assert run.starts() == ["a", "b"]
    run.begin("a", "b")
    run.done("a")
    assert not run.ends()
    run.done("b")
    (end,) = run.ends()
    assert end.error is not None
    assert end.error.type == "BudgetExceeded"


def test_a_wait_that_ran_out_is_told_by_an_event() -> None:
    run = Run(tool("a"))
    run.begin("a")
    run.tell(ev.Waiting("signal", "go", 1, NOW + 5), "a", 1)
    assert decide(run.state, NOW).due == NOW + 5
    (fact,) = decide(run.state, NOW + 5).facts
    assert fact.payload == ev.Signalled("go", 1, timed_out=True)


def test_a_run_that_only_waits_is_idle() -> None:
    run = Run(tool("a"))
    run.begin("a")
    assert not decide(run.state, NOW).idle
    run.tell(ev.Waiting("signal", "go", 1), "a", 1)
    assert decide(run.state, NOW).idle


def test_an_intent_without_an_outcome_is_unknown_after_the_next_claim() -> None:
    run = Run(tool("a", node="once"))
    run.tell(ev.Intent("h"), "a", 1)
    run.tell(ev.Claimed("you", 2, "death"))
    (fact,) = decide(run.state, NOW).facts
    assert isinstance(fact.payload, ev.OutcomeUnknown)
    run.tell(fact.payload, "a", 1)
    commands = decide(run.state, NOW)
    assert commands.idle
    assert not commands.starts


def test_a_probe_is_started_for_what_is_unknown_once_for_each_claim_and_before_the_end() -> None:
    run = Run(tool("a", node="once"))
    run.state.probed = {"once"}
    run.tell(ev.Intent("h"), "a", 1)
    run.tell(ev.OutcomeUnknown("a time-out"), "a", 1)
    assert run.starts() == ["a"]
    run.tell(ev.OutcomeUnknown("the probe failed"), "a", 1)
    assert run.starts() == []
    assert decide(run.state, NOW).idle
    run.tell(ev.Claimed("you", 2, "release"))
    assert run.starts() == ["a"]
    run.tell(ev.CancelRequested())
    commands = decide(run.state, NOW)
    assert (run.starts(), commands.stop, commands.facts) == (["a"], "cancelled", ())
    run.tell(ev.OutcomeUnknown("the probe failed"), "a", 1)
    assert [end.status for end in run.ends()] == ["cancelled"]


@pytest.mark.parametrize("late", [ev.OutcomeUnknown("the probe failed"), ev.Decided("done")])
def test_what_a_probe_says_after_a_persons_decision_changes_nothing(late: Payload) -> None:
    run = Run(tool("a", node="once"))
    run.state.probed = {"once"}
    run.tell(ev.Intent("h"), "a", 1)
    run.tell(ev.OutcomeUnknown("a time-out"), "a", 1)
    run.begin("a")
    run.tell(ev.Decided("repeat", message="m"), "a")
    run.tell(late, "a", 1)
    assert not run.state.unknown
    run.state.unmark(run.state.slots["a"])
    assert run.starts() == ["a"]
    assert run.state.slots["a"].status == "ready"


def test_the_fourth_claim_in_a_row_after_deaths_quarantines() -> None:
    run = Run(tool("a"))
    for claim in (2, 3):
        run.tell(ev.Claimed("you", claim, "death"))
        assert not run.ends()
    run.tell(ev.Claimed("you", 4, "death"))
    (end,) = run.ends()
    assert end.status == "quarantined"
    assert end.error is not None
    assert "a" in end.error.message


def test_an_attempt_with_two_waits_that_ran_out_is_begun_once_after_its_memory_was_freed() -> None:
    run = Run(tool("a"))
    run.tell(ev.Waiting("sleep", "", 1, NOW + 5), "a", 1)
    run.tell(ev.Waiting("sleep", "", 2, NOW + 6), "a", 1)
    run.tell(ev.Waiting("sleep at a", until=NOW + 6))
    run.tell(ev.Claimed("you", 2, "release"))
    assert run.starts(NOW + 5) == []
    assert run.starts(NOW + 6) == ["a"]


def test_an_attempt_that_waited_in_memory_at_a_crash_is_begun_anew_at_once() -> None:
    run = Run(tool("a"))
    run.tell(ev.Waiting("signal", "go", 1), "a", 1)
    run.tell(ev.Claimed("you", 2, "death"))
    assert run.starts(NOW) == ["a"]
