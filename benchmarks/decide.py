"""decide: the fold and the decision, pure and without a loop: does a long run cost more per event?

A planner's run of turns is played by hand: what `decide` starts is marked as started, and answered
with the event that ends it. Each sample is the µs per event over the next turns of a state that
already has so many steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import flowkit.events as ev
from benchmarks import flows
from benchmarks.report import Figure, Row, at_most, in_turns, median, ratio
from flowkit.events import Event
from flowkit.graph import Source, Step
from flowkit.schedule import decide
from flowkit.state import State
from flowkit.values import Value

SHORT = 100
SAMPLE = 100


def rows(n: int | None, repeats: int) -> Iterator[Row]:
    yield measure(n or 10_000, repeats)


def measure(n: int, repeats: int) -> Row:
    long, short = Played(n), Played(min(SHORT, n))
    mine, base = in_turns(
        repeats, partial(long.us_an_event, n), partial(short.us_an_event, min(SHORT, n))
    )
    return Row(
        "decide",
        n,
        {
            "us_an_event_over_100_steps": at_most(ratio(mine, base), 1.2),
            "us_an_event": Figure(median(mine)),
            "us_an_event_at_100_steps": Figure(median(base)),
        },
        {"sampled_events": SAMPLE},
    )


class Played:
    """Runs that are played to `steps` steps."""

    def __init__(self, steps: int) -> None:
        self._flow = flows.chain(1_000_000)
        self._steps = steps

    def us_an_event(self, steps: int) -> float:
        """µs per event of the next few turns. The state is made anew, so that it stays as long."""
        state = State()
        begin = ev.RunStarted(self._flow.name, self._flow.bound(), Value.of('{"text":"go"}'))
        state.apply(Event(1, 1.0, begin))
        state.apply(Event(2, 1.0, ev.Claimed("bench", 1)))
        while len(state.slots) < steps:
            play(state)
        before, began = state.seq, time.perf_counter()
        while state.seq < before + SAMPLE:
            play(state)
        return (time.perf_counter() - began) / (state.seq - before) * 1e6


_TEXT = '{"text":"next"}'
_VALUE = Value.of('{"text":"found"}')


def play(state: State) -> None:
    """One round: decide, start what may start, end each attempt with its event."""
    commands = decide(state, 1.0)
    for fact in commands.facts:
        state.apply(Event(state.seq + 1, 1.0, fact.payload, fact.key))
    for start in commands.starts:
        slot = start.slot
        state.mark_started(slot)
        given = state.input_hash(slot)
        payload: ev.Payload
        if slot.planning is not None:
            step = Step("act", ("act",), (Source(text=_TEXT),))
            payload = ev.Planned(given, (step,), again=True)
        else:
            payload = ev.StepDone(given, _VALUE)
        state.apply(Event(state.seq + 1, 1.0, payload, slot.exec, slot.alternative, slot.attempt))
