"""What models said and used in a run, as `flowkit show` prints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowkit.cli.follow import answer_in
from flowkit.cli.table import Column, print_table
from flowkit.cli.text import clean_lines
from flowkit.events import Event
from flowkit.ports import Artifacts
from flowkit.state import State
from flowkit.view.talk import (
    Said,
    Used,
    call_counts,
    said_data,
    said_lines,
    talk_of,
    usage_of,
    used_data,
)


@dataclass(frozen=True, slots=True)
class Talk:
    """What models said in a run, in order, and the counts of it."""

    said: Sequence[Said]
    used: Sequence[Used]
    counts: dict[str, int]

    @classmethod
    async def read(cls, events: Sequence[Event], state: State, artifacts: Artifacts) -> Talk:
        """Of a run's events; answers that are too large for an event are among the artifacts."""
        answers = {
            event.seq: answer
            for event in events
            if (answer := await answer_in(event, artifacts)) is not None
        }
        said = talk_of(events, state, answers)
        return cls(said, usage_of(said), call_counts(events))

    def data(self) -> dict[str, Any]:
        """What `show --json` has of it."""
        return {"usage": [used_data(each) for each in self.used], "calls": self.counts}

    def of(self, key: str, state: State) -> list[Said]:
        """What was said in one turn or round, or, for a step's own key, in all of them."""
        slot = state.slots.get(key)
        if slot is None:
            return [said for said in self.said if said.step == key]
        return [said for said in self.said if state.by_exec.get(said.step) is slot]


def print_usage(talk: Talk) -> None:
    """A row for each agent and model, and how the calls went; nothing where no model was asked."""
    if not talk.used:
        return
    print()
    columns = [
        Column("AGENT"), Column("MODEL"), Column("TURNS", right=True), Column("CALLS", right=True),
        Column("TOKENS IN", right=True), Column("CACHED", right=True), Column("OUT", right=True),
        Column("REASONING", right=True), Column("COST", right=True), Column("FAILED TRIES", right=True),
    ]  # fmt: skip
    print_table(columns, [_row(each) for each in talk.used])
    counts = ", ".join(f"{many:,} {how}" for how, many in talk.counts.items())
    print(f"calls of tools: {counts}")
    print()


def _row(used: Used) -> list[str]:
    usage = used.usage
    numbers = (
        used.turns, used.calls, usage.input_tokens, usage.cached_tokens, usage.output_tokens,
        usage.reasoning_tokens,
    )  # fmt: skip
    cost = "-" if usage.cost_usd is None else f"${usage.cost_usd:,.4f}"
    return [
        used.agent,
        used.model,
        *(f"{each:,}" for each in numbers),
        cost,
        f"{used.failed_tries:,}",
    ]


def print_conversation(said: Sequence[Said], state: State, *, reasoning: bool) -> None:
    """What was said in a step, each text cleaned for the terminal."""
    if said:
        print("conversation:")
    for each in said:
        for line in said_lines(each, state, reasoning=reasoning):
            for part in clean_lines(line):
                print(f"  {part}")


def conversation_data(said: Sequence[Said], state: State) -> list[dict[str, Any]]:
    return [said_data(each, state) for each in said]
