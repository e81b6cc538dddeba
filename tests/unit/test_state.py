"""The fold: whatever happens to a random small graph, the journal alone gives the live state again."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowkit.events as ev
from flowkit.errors import JournalConflict
from flowkit.events import Error, Event, Fact, Payload
from flowkit.graph import INPUT, Graph, NodeSpec, Source, Step
from flowkit.policy import Budget
from flowkit.schedule import Commands, decide
from flowkit.slot import Slot
from flowkit.state import State, _grafted
from flowkit.values import Value

NOW = 1_800_000_000.0

NODES = {
    "tool": NodeSpec("tool", "tool"),
    "other": NodeSpec("other", "tool"),
    "once": NodeSpec("once", "tool", once=True),
    "check": NodeSpec("check", "verifier"),
    "plan": NodeSpec("plan", "planner", turns_max=4, replans_max=1),
    "agent": NodeSpec("agent", "planner", answers=True, turns_max=4),
}


def seen(state: State, flying: Collection[str] = ()) -> dict[str, Any]:
    """What anybody can tell of a state, without the attempts in flight, which no fold knows."""
    slots = {
        slot.key: (
            slot.exec, slot.status, slot.round, slot.turn, slot.alternative, slot.tries,
            dict(slot.attempts), slot.value, slot.feedback, slot.error, sorted(slot.unmet),
            slot.left, slot.intent, slot.attempt,
            [member.key for member in slot.members or ()],
            [(turn.number, turn.feedback, turn.again) for turn in slot.planning.turns]
            if slot.planning
            else None,
        )
        for slot in state.slots.values()
    }  # fmt: skip
    return {
        "slots": slots,
        "ready": sorted(key for key in state.ready if key not in flying),
        "parked": sorted(state.parked),
        "owed": list(state.owed),
        "unknown": sorted(state.unknown),
        "failure": state.failure,
        "ended": state.ended,
        "used": (state.steps_used, state.attempts_used, state.claims),
        "signals": {name: list(kept) for name, kept in state.signals.items() if kept},
        "due": sorted(key for _, key in state.due if key not in flying),
        "cancelling": state.cancelling,
        "seq": state.seq,
    }


PROBED = frozenset({"once"})


def fold(events: Sequence[Event]) -> State:
    state = State()
    state.probed = PROBED
    for event in events:
        state.apply(event)
    return state


def assert_folds(life: Life) -> None:
    """The journal alone gives the live state, and what was in flight can be begun again."""
    live, folded = life.state, fold(life.events)
    assert seen(folded, live.running) == seen(live, live.running)
    again = {*folded.ready, *folded.parked, *(key for _, key in folded.due)}
    assert set(live.running) <= again or live.ended is not None


class Life:
    """A run without an engine: it draws what its attempts come to, and does what `decide` says."""

    def __init__(self, graph: Graph, draw: Any, budget: Budget) -> None:
        self.state = State()
        self.state.probed = PROBED
        self.events: list[Event] = []
        self.draw = draw
        self.now = NOW
        self.asked = 0
        self.commands = Commands()
        start = ev.RunStarted("flow", graph, Value.of("[1,2]"), budget)
        self.append([Fact(start), Fact(ev.Claimed("me", 1))])

    def append(self, facts: Sequence[Fact]) -> None:
        due = facts
        while True:
            for fact in due:
                event = Event(
                    self.state.seq + 1, self.now, fact.payload, fact.key, fact.alternative,
                    fact.attempt,
                )  # fmt: skip
                self.state.apply(event)
                self.events.append(event)
            before = copy.deepcopy(seen(self.state))
            self.commands = decide(self.state, self.now)
            assert seen(self.state) == before, "decide has changed something"
            if not self.commands.facts:
                break
            due = self.commands.facts
        for start in self.commands.starts:
            self.state.mark_started(start.slot)
            if self.state.nodes[start.slot.node].once and start.slot.status != "unknown":
                self.append([self.fact(start.slot, ev.Intent("h"))])

    def fact(self, slot: Slot, payload: Payload) -> Fact:
        return Fact(payload, slot.exec, slot.alternative, slot.attempt)

    def step(self) -> bool:
        """One thing happens; False when nothing can."""
        flying = [slot for key, slot in self.state.running.items() if key not in self.state.parked]
        if self.state.ended is not None:
            return False
        stopped = [slot for slot in self.state.running.values() if slot.status != "unknown"]
        if self.commands.stop and stopped:  # a probe goes on, until the grace period is over
            for slot in stopped:
                self.state.unmark(slot)
            self.append([])
            return True
        if flying and self.state.unknown and self.draw(st.booleans()):
            return self.decide()  # a person, perhaps while a probe is asked
        if flying:
            slot = self.draw(st.sampled_from(sorted(flying, key=lambda each: each.exec)))
            asks = slot.status == "unknown"
            if asks:
                self.state.running.pop(slot.exec)
            self.append([self.fact(slot, self.found() if asks else self.outcome(slot))])
            return True
        if self.state.unknown:
            return self.decide()
        if self.state.parked and self.draw(st.booleans()):
            self.append([Fact(ev.Signalled("go", value=Value.of("1")))])
            return True
        if self.commands.due is not None:
            self.now = max(self.now, self.commands.due)
            self.append([])
            return True
        if self.state.parked:
            self.append([Fact(ev.Signalled("go", value=Value.of("1")))])
            return True
        return False

    def decide(self) -> bool:
        key = min(self.state.unknown)
        how = self.draw(st.sampled_from(["done", "repeat", "fail"]))
        self.append([Fact(ev.Decided(how, Value.of("[3]"), "m"), key)])
        slot = self.state.by_exec[key]
        if key in self.state.running:  # the driver stops the probe, and its mark goes
            self.state.unmark(slot)
            self.append([])
        return True

    def found(self) -> Payload:
        """What a probe finds out."""
        self.asked += 1
        how = self.draw(st.sampled_from(["done", "repeat", ""] if self.asked < 40 else [""]))
        value = Value.of("[4]") if how == "done" else None
        return ev.Decided(how, value) if how else ev.OutcomeUnknown("the probe failed")

    def outcome(self, slot: Slot) -> Payload:
        kind = self.state.nodes[slot.node].kind
        hash_ = self.state.input_hash(slot)
        choices = ["done"] * 4 + ["retry", "next", "fail", "replan", "fatal", "wait"]
        choice = self.draw(st.sampled_from(choices))
        self.asked += 1
        if self.state.nodes[slot.node].once and choice in ("retry", "next", "wait"):
            return ev.OutcomeUnknown("timed out")
        if choice == "wait" and self.asked < 40:
            until = self.draw(st.sampled_from([None, self.now + 5]))
            return ev.Waiting("signal", "go", len(slot.waits or ()) + 1, until)
        error = Error("ValueError", choice)
        if choice == "retry" and slot.tries < 1:
            return ev.AttemptFailed(error, "retry", self.now + 2)
        if choice == "next" and slot.alternative + 1 < len(slot.step.nodes):
            return ev.AttemptFailed(error, "next")
        if choice == "replan" and slot.planner() is not None:
            return ev.AttemptFailed(error, "replan")
        if choice == "fatal" and self.asked % 3 == 0:
            return ev.AttemptFailed(error, "fatal")
        if choice == "fail":
            return ev.AttemptFailed(error, "fail")
        if kind == "verifier":
            accepts = self.draw(st.booleans())
            return ev.Accepted(hash_) if accepts else ev.Rejected(hash_, f"no {self.asked}")
        if kind == "planner" and (slot.node == "plan" or self.draw(st.booleans())):
            return ev.Planned(hash_, self.plan(), self.draw(st.booleans()))
        return ev.StepDone(hash_, Value.of(self.draw(st.sampled_from(["[]", "[1,2]", "[3]"]))))

    def plan(self) -> tuple[Step, ...]:
        size = self.draw(st.integers(0, 3))
        steps: list[Step] = []
        for index in range(size):
            before = st.sets(st.integers(0, max(index - 1, 0)), max_size=2)
            reads: set[int] = self.draw(before) if index else set()
            sources = tuple(Source(f"s{number}") for number in sorted(reads)) or (Source(text="1"),)
            nodes = self.draw(st.sampled_from([("tool",), ("tool", "other"), ("agent",)]))
            steps.append(Step(f"s{index}", nodes, sources))
        return tuple(steps)


@st.composite
def graphs(draw: Any) -> Graph:
    """Two to five steps, each reading some before it; maps, fallbacks, planners, verifiers."""
    steps: list[Step] = []
    for index in range(draw(st.integers(1, 4))):
        before = [INPUT, *(step.key for step in steps if not step.checks)]
        reads = draw(st.lists(st.sampled_from(before), min_size=1, max_size=2, unique=True))
        nodes = draw(
            st.sampled_from([("tool",), ("tool", "other"), ("once",), ("plan",), ("agent",)])
        )
        each = nodes[0] in ("tool",) and draw(st.booleans())
        key = f"n{index}"
        sources = tuple(Source(read) for read in reads)
        if each and any(step.key == reads[0] and step.nodes[0] == "plan" for step in steps):
            each = False  # findings are no list
        moves = len(nodes) > 1 and draw(st.booleans())
        steps.append(Step(key, nodes, sources, each=each, reject_moves=moves))
        if nodes != ("once",):
            for number in range(draw(st.integers(0, 2))):
                chained = (f"v{index}-{number - 1}",) if number and draw(st.booleans()) else ()
                steps.append(
                    Step(f"v{index}-{number}", ("check",), (Source(key),), chained, checks=key)
                )
    subjects = [step.key for step in steps if not step.checks]
    last = Step("last", ("tool",), tuple(Source(key) for key in subjects))
    return Graph((*steps, last), "last", NODES)


BUDGETS = st.sampled_from(
    [
        Budget(),
        Budget(parallel_max=1),
        Budget(steps_max=6, on_budget="answer"),
        Budget(attempts_max=5),
    ]
)


@settings(max_examples=150)
@given(st.data(), graphs(), BUDGETS)
def test_folding_the_journal_gives_the_live_state_after_every_append(
    data: st.DataObject, graph: Graph, budget: Budget
) -> None:
    life = Life(graph, data.draw, budget)
    for _ in range(60):
        assert_folds(life)
        if not life.step():
            break
    assert_folds(life)


@settings(max_examples=100)
@given(st.data(), graphs(), BUDGETS)
def test_a_run_never_gets_stuck_whatever_its_attempts_come_to(
    data: st.DataObject, graph: Graph, budget: Budget
) -> None:
    life = Life(graph, data.draw, budget)
    for _ in range(400):
        if not life.step():
            break
    ended = life.state.ended
    if ended is not None and ended.error is not None:
        assert ended.error.type != "Stuck"
    assert ended is not None or life.state.running or life.commands.starts


@settings(max_examples=100)
@given(st.data(), graphs())
def test_a_crash_at_any_event_leads_to_an_end_and_decide_starts_nothing_twice(
    data: st.DataObject, graph: Graph
) -> None:
    life = Life(graph, data.draw, Budget())
    for _ in range(data.draw(st.integers(0, 30))):
        if not life.step():
            break
    again = Life(graph, data.draw, Budget())
    again.events = list(life.events)
    again.state = fold(life.events)
    again.now = life.now
    again.append([Fact(ev.Claimed("you", 2, "death"))])
    for _ in range(400):
        starts = [start.slot.exec for start in again.commands.starts]
        assert len(starts) == len(set(starts))
        if not again.step():
            break
    ended = again.state.ended
    assert ended is not None
    assert ended.error is None or ended.error.type != "Stuck"


@settings(max_examples=100)
@given(st.data(), graphs())
def test_retry_of_a_failed_run_reopens_it_and_keeps_what_is_settled(
    data: st.DataObject, graph: Graph
) -> None:
    life = Life(graph, data.draw, Budget())
    for _ in range(400):
        if not life.step():
            break
    ended = life.state.ended
    if ended is None or ended.status != "failed":
        return
    settled = {
        key: slot.value for key, slot in life.state.slots.items() if slot.status == "settled"
    }
    life.append([Fact(ev.Claimed("me", 2, "release")), Fact(ev.Decided("retry"))])
    assert life.state.ended is None or life.state.ended.status == "succeeded"
    assert {key: life.state.slots[key].value for key in settled} == settled
    assert_folds(life)


# ---- by hand


def begun(*steps: Step, output: str = "") -> State:
    state = State()
    graph = Graph(steps, output or steps[-1].key, NODES)
    state.apply(Event(1, NOW, ev.RunStarted("flow", graph, Value.of("1"))))
    return state


def test_an_event_that_does_not_follow_the_last_one_is_refused() -> None:
    state = begun(Step("a", ("tool",), (Source(INPUT),)))
    with pytest.raises(JournalConflict, match="event 5 cannot follow event 1"):
        state.apply(Event(5, NOW, ev.Claimed("me", 1)))


def test_an_event_about_an_unknown_step_is_refused() -> None:
    state = begun(Step("a", ("tool",), (Source(INPUT),)))
    with pytest.raises(JournalConflict, match="'b'"):
        state.apply(Event(2, NOW, ev.StepDone("h", Value.of("1")), "b", 0, 1))


def test_a_step_done_with_other_inputs_is_refused_with_both_hashes() -> None:
    state = begun(Step("a", ("tool",), (Source(INPUT),)))
    with pytest.raises(JournalConflict, match="hash other"):
        state.apply(Event(2, NOW, ev.StepDone("other", Value.of("1")), "a", 0, 1))


def test_a_slots_input_hash_changes_with_its_inputs_and_with_feedback() -> None:
    state = begun(
        Step("a", ("tool",), (Source(INPUT),)),
        Step("b", ("tool",), (Source(text="1"),)),
        Step("c", ("tool",), (Source(text="2"),)),
        Step("v", ("check",), (Source("a"),), checks="a"),
        output="a",
    )
    a, b, c, v = (state.slots[key] for key in "abcv")
    before = state.input_hash(a)
    assert before == state.input_hash(b), "a literal and a step of the same value"
    assert before != state.input_hash(c)
    state.apply(Event(2, NOW, ev.StepDone(before, Value.of("1")), "a", 0, 1))
    state.apply(Event(3, NOW, ev.Rejected(state.input_hash(v), "again"), "v", 0, 1))
    assert a.exec == "a@2"
    assert state.input_hash(a) != before


def test_ready_are_the_steps_whose_inputs_are_settled() -> None:
    state = begun(
        Step("a", ("tool",), (Source(INPUT),)),
        Step("b", ("tool",), (Source("a"),)),
        Step("c", ("tool",), (Source(INPUT),), after=("b",)),
    )
    assert list(state.ready) == ["a"]
    hash_ = state.input_hash(state.slots["a"])
    state.apply(Event(2, NOW, ev.StepDone(hash_, Value.of("1")), "a", 0, 1))
    assert list(state.ready) == ["b"]


def test_a_planned_step_keeps_all_that_its_plan_says_of_it() -> None:
    planned = Step(
        "s", ("tool", "other"), (Source("a"), Source(text="1")), ("b",), each=True, checks="c",
        attempts=5, reject_moves=True, failure_moves=True, timeout_s=7.0,
    )  # fmt: skip
    for each in fields(Step):
        assert each.default is MISSING or getattr(planned, each.name) != each.default, each.name
    under = (Source("p/t1/a"), Source(text="1"))
    found = _grafted(planned, "p/t1")
    assert found == replace(planned, key="p/t1/s", inputs=under, after=("p/t1/b",), checks="p/t1/c")
