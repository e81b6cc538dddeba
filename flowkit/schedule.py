"""What to do next: `decide` looks at a state and a time, and answers with commands.

It is pure: it changes nothing, reads no clock and draws no chance. It is incremental: its cost grows
with what is ready now, never with the length of the run. The driver folds the facts, asks again until
there are none, appends them, and starts only what rests on events that are on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import flowkit.events as ev
from flowkit.approval import questions
from flowkit.events import Error, Fact
from flowkit.slot import Slot
from flowkit.state import State


@dataclass(frozen=True, slots=True)
class Start:
    """Begin an attempt of this slot. `last`: a planner's last turn, since the budget is used up."""

    slot: Slot
    last: bool = False


@dataclass(frozen=True, slots=True)
class Commands:
    """`facts` to append first; else `starts`; `stop` the running attempts, and why; look again at `due`.

    `idle`: nothing runs or can start; only a signal, a decision or the due time brings the run on.
    """

    facts: Sequence[Fact] = ()
    starts: Sequence[Start] = ()
    stop: Literal["", "cancelled", "failed", "deadline"] = ""
    due: float | None = None
    idle: bool = False


def decide(state: State, now: float) -> Commands:
    """The commands for a state at a time (Unix time)."""
    if state.ended is not None:
        return Commands()
    if state.owed:
        return Commands(facts=tuple(state.owed))
    output = state.slots.get(state.graph.output)
    if output is not None and output.status == "settled" and not state.cancelling:
        return Commands(facts=(Fact(ev.RunEnded("succeeded", step=output.key)),))
    ending = _ending(state, now)
    if ending is not None:
        return ending
    over = [
        Fact(ev.Signalled(wait.name, wait.n, timed_out=True), slot.exec)
        for slot in _due(state, now)
        for wait in slot.open_waits()
        if wait.reason != "sleep" and wait.until is not None and wait.until <= now
    ]
    facts = over or _dropped(state) or list(questions(state, _may_start(state, now), now))
    return Commands(facts=tuple(facts)) if facts else _starts(state, now)


def _dropped(state: State) -> list[Fact]:
    """Steps that do not begin any more, since a step of their plan has asked for another plan.

    What runs is a mark that no fold knows, so what does not run is told by events.
    """
    return [
        Fact(ev.StepFailed(Error(ev.DROPPED, planner.planning.reason)), child.exec)
        for planner in state.replanning.values()
        if planner.planning is not None
        for child in planner.planning.turns[-1].children
        if child.status in ("ready", "retrying") and child.exec not in state.running
    ]


def _ending(state: State, now: float) -> Commands | None:
    """The way to the run's end: stop what runs, ask what became of it, then say how it ended."""
    why: Literal["cancelled", "failed", "deadline"]
    if state.cancelling:
        why = "cancelled"
        end = ev.RunEnded("cancelled", Error("RunCancelled", "the run was cancelled"))
    elif state.deadline is not None and now >= state.deadline:
        why = "deadline"
        end = ev.RunEnded("failed", Error("DeadlineExceeded", "the run's deadline has passed"))
    elif state.failure is not None:
        step, error = state.failure
        if _awake(state) and not state.fatal:
            return Commands(due=state.deadline)
        why, end = "failed", ev.RunEnded("failed", error, step)
    else:
        return None
    asked = [Start(slot) for slot in state.ready.values() if slot.status == "unknown"]
    if state.running or asked:
        return Commands(starts=asked, stop=why)
    return Commands(facts=(Fact(end),))


def _due(state: State, now: float) -> Iterator[Slot]:
    seen: set[str] = set()  # an attempt may have several waits
    for at, key in state.due:
        if at > now:
            return
        if key not in seen:
            seen.add(key)
            yield state.by_exec[key]


def _may_start(state: State, now: float) -> Iterator[Slot]:
    for slot in _due(state, now):
        if slot.exec in state.running:
            continue
        if slot.status == "retrying" or (
            slot.exec in state.parked
            and all(wait.until is not None and wait.until <= now for wait in slot.open_waits())
        ):
            yield slot
    yield from state.ready.values()


def _starts(state: State, now: float) -> Commands:
    room = max(state.budget.parallel_max - _awake(state), 0)
    waiting = list(islice(_may_start(state, now), room))
    begun: list[Slot] = []
    if state.limited:  # in flight when the process died: what they have journaled was paid for
        begun = [slot for slot in waiting if slot.calls or slot.status == "unknown"]
        waiting = [*begun, *(slot for slot in waiting if slot not in begun)]
    left = len(begun) + _budget_left(state, now, begun, waiting[len(begun) :])
    if left > 0 or not waiting:
        first = waiting[:left]
        return _commands(state, now, [Start(slot, _is_last(state, slot)) for slot in first])
    if state.budget.on_budget == "answer":
        return _last_words(state, now, waiting)
    if _awake(state):
        return _commands(state, now, [])
    # What still runs waits durably, for what could start nothing any more.
    error = Error("BudgetExceeded", _used(state, now))
    return Commands(facts=(Fact(ev.RunEnded("failed", error)),))


def _last_words(state: State, now: float, waiting: Sequence[Slot]) -> Commands:
    """Planned steps are refused, planners answer with what there is, declared steps go on."""
    error = Error("BudgetExceeded", _used(state, now))
    over = _room(state, now, len(state.running)) == 0 or _no_more_calls(state)
    refused = [slot for slot in waiting if over and _is_tool_call(state, slot)]
    if refused:
        return Commands(facts=tuple(Fact(ev.StepFailed(error), slot.exec) for slot in refused))
    return _commands(state, now, [Start(slot, slot.planning is not None) for slot in waiting])


def _is_last(state: State, slot: Slot) -> bool:
    """Whether a planner may only answer now: its share of the tokens, or all tool calls, are used."""
    if slot.planning is None or not _is_turn(state, slot):
        return False
    if slot.calls:  # it had begun when its process died, and goes on as it was
        return slot.planning.said[-1].last_turn if slot.planning.said else False
    for each in (slot, *slot.ancestors()):
        share = state.nodes[each.node].tokens_max
        if share and each.planning is not None and each.planning.tokens >= share:
            return True
    return state.budget.on_budget == "answer" and _no_more_calls(state)


def _awake(state: State) -> int:
    """Attempts in flight that are not in a durable wait."""
    if not state.parked:
        return len(state.running)
    return sum(key not in state.parked for key in state.running)


def _commands(state: State, now: float, starts: Sequence[Start]) -> Commands:
    times = [at for at, _ in state.due if at > now][:1]
    if state.deadline is not None:
        times.append(state.deadline)
    awake = len(starts) > 0 or _awake(state) > 0
    if not (awake or times or state.parked or state.unknown):
        error = Error("Stuck", "no step can go on, though the run has no result: a bug in flowkit")
        return Commands(facts=(Fact(ev.RunEnded("failed", error)),))
    return Commands(starts=tuple(starts), due=min(times, default=None), idle=not awake)


def _budget_left(state: State, now: float, begun: Sequence[Slot], waiting: Sequence[Slot]) -> int:
    """How many of those that wait may start beside those that had begun, in their order."""
    if not state.limited:
        return state.budget.parallel_max
    flying = (*state.running.values(), *begun)
    left = _room(state, now, len(flying))
    for most, used, is_one in (
        (state.budget.turns_max, state.turns_used, _is_turn),
        (state.budget.tool_calls_max, state.tool_calls_used, _is_tool_call),
    ):
        if most is not None:
            room = most - used - sum(is_one(state, slot) for slot in flying)
            needing = [index for index, slot in enumerate(waiting) if is_one(state, slot)]
            if max(room, 0) < len(needing):
                left = min(left, needing[max(room, 0)])
    return left


def _room(state: State, now: float, flying: int) -> int:
    """How many more attempts may start beside so many, of whatever kind."""
    budget = state.budget
    if any(used >= most for used, most in _sums(state, now)):
        return 0
    left = budget.parallel_max
    if budget.steps_max is not None:
        left = min(left, budget.steps_max - state.steps_used - flying)
    if budget.attempts_max is not None:
        left = min(left, budget.attempts_max - state.attempts_used - flying)
    return max(left, 0)


def _is_turn(state: State, slot: Slot) -> bool:
    return state.nodes[slot.node].kind == "planner"


def _is_tool_call(state: State, slot: Slot) -> bool:
    return not _is_turn(state, slot) and slot.planner() is not None


def _no_more_calls(state: State) -> bool:
    """Whether no planned step may begin any more."""
    most = state.budget.tool_calls_max
    return most is not None and state.tool_calls_used >= most


def _sums(state: State, now: float) -> Iterator[tuple[float, float]]:
    """What is used and what may be, of all that is counted as a sum."""
    budget, usage = state.budget, state.usage
    for used, most in (
        (usage.input_tokens, budget.tokens_in_max),
        (usage.output_tokens, budget.tokens_out_max),
        (usage.cost_usd, budget.cost_usd_max),
        (now - state.started_at, budget.wall_s_max),
    ):
        if used is not None and most is not None:
            yield used, most


def _used(state: State, now: float) -> str:
    budget, usage, flying = state.budget, state.usage, state.running.values()
    turns = sum(_is_turn(state, slot) for slot in flying)
    calls = sum(_is_tool_call(state, slot) for slot in flying)
    parts = [
        (state.steps_used + len(flying), budget.steps_max, "steps"),
        (state.attempts_used + len(flying), budget.attempts_max, "attempts"),
        (state.turns_used + turns, budget.turns_max, "planners' turns"),
        (state.tool_calls_used + calls, budget.tool_calls_max, "tool calls"),
        (usage.input_tokens, budget.tokens_in_max, "tokens in"),
        (usage.output_tokens, budget.tokens_out_max, "tokens out"),
        (usage.cost_usd or 0.0, budget.cost_usd_max, "US dollars"),
        (now - state.started_at, budget.wall_s_max, "s"),
    ]
    shown = [f"{used:.6g} of {most:g} {what}" for used, most, what in parts if most is not None]
    return f"the run used up its budget: {', '.join(shown)}"
