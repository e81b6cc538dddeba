"""Which tools are chosen: relevance, weighed by what is known of each tool, and balanced.

    gate   = relevance · (1 - SUCCESS · (1 - success) - LATENCY · (1 - latency))
    score  = gate + relevance · bias          the best k are chosen

A mixture of experts is balanced without an auxiliary loss by a bias that is added for the choice
alone, raised for an expert that was chosen too rarely and lowered for one chosen too often (Wang et
al., Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts, arXiv:2408.15664, as used by
DeepSeek-V3). Here the experts are tools, and an error counts by its size (the paper's `u·e`, not
`u·sign(e)`): so the biases of those who contend for a place sum up to zero, and follow from two counts.

No weight and no bias lets a tool pass one that is clearly more relevant: see `CLEARLY`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from random import Random
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict

SUCCESS: Final = 0.2
"""What a tool that always fails loses of its relevance."""

LATENCY: Final = 0.1
"""What a tool that takes for ever loses of its relevance."""

BIAS_MAX: Final = 0.05
"""What balance may add or take, as a share of relevance: less than a bad record takes."""

BIAS_STEP: Final = 0.01
"""Bias for each time that a tool was chosen less often than its share."""

HALF_S: Final = 10.0
"""Mean seconds of a call at which a tool has half of what latency gives."""

CLEARLY: Final = (1 - SUCCESS - LATENCY - BIAS_MAX) / (1 + BIAS_MAX)
"""A tool with less than this share of another's relevance is never chosen before it."""

CONTENDERS_MAX: Final = 64


@dataclass
class Record:
    """What is known of a tool. `share`: how often it should have been chosen when it contended."""

    successes: int = 0
    failures: int = 0
    seconds: float = 0.0
    chosen: int = 0
    share: float = 0.0

    def add(self, other: Record) -> None:
        self.successes += other.successes
        self.failures += other.failures
        self.seconds += other.seconds
        self.chosen += other.chosen
        self.share += other.share

    def success(self, chance: Random | None) -> float:
        """A draw of the success rate's posterior, Beta(1 + successes, 1 + failures); or its mean.

        Drawn, a tool that is new, of which nothing is known, has its turn (Thompson's sampling).
        """
        alpha, beta = 1 + self.successes, 1 + self.failures
        return chance.betavariate(alpha, beta) if chance else alpha / (alpha + beta)

    @property
    def latency(self) -> float:
        """1 for a tool that answers at once, or was never called; halved at `HALF_S`."""
        calls = self.successes + self.failures
        return HALF_S / (HALF_S + self.seconds / calls) if calls else 1.0

    @property
    def bias(self) -> float:
        return min(max(BIAS_STEP * (self.share - self.chosen), -BIAS_MAX), BIAS_MAX)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Chosen(_Value):
    """A tool that a router chose, and why.

    `score` is `relevance` (1: the best of all) weighed by `success` (a draw of its posterior after so
    many `successes` and `failures`) and `latency` (from 0, slow, to 1), with `bias` for balance. A
    `shared` tool is always there, whatever its score.
    """

    tool: str
    description: str = ""
    score: float = 0.0
    relevance: float = 0.0
    success: float = 0.0
    latency: float = 0.0
    bias: float = 0.0
    successes: int = 0
    failures: int = 0
    shared: bool = False


class ToolChoice(_Value):
    """What a router chose: the shared tools, then others, best first.

    `contenders`: tools so near to the last place that the bias could decide, chosen or not.
    `fitting` of `tools_total` tools fitted the task at all.
    """

    tools: tuple[Chosen, ...]
    contenders: tuple[str, ...] = ()
    fitting: int = 0
    tools_total: int = 0

    def told(self) -> str:
        """The choice as a model reads it."""
        found = [each for each in self.tools if not each.shared]
        if not found:
            return (
                f"None of {self.tools_total} tools fits. Try other words: what the tool does, what it "
                f"works on, in the language of the tools' descriptions."
            )
        lines = "\n".join(f"{each.tool}: {each.description}" for each in found)
        return f"These can be called from now on:\n{lines}"


def choose(
    relevance: Mapping[str, float],
    places: int,
    record_of: Callable[[str], Record],
    chance: Random | None,
) -> tuple[list[Chosen], list[str]]:
    """The best tools for so many places, and who contended for the last of them.

    `relevance` has the tools in order, best first; `chance` is None to take posteriors by their mean.
    """
    ranked = list(relevance.items())
    if not ranked or places < 1:
        return [], []
    last = ranked[min(places, len(ranked)) - 1][1]
    scored = [
        _Scored.of(name, fit, record_of(name), chance)
        for name, fit in ranked
        if fit >= last * CLEARLY
    ]
    scored.sort(key=_SCORE, reverse=True)  # stable: of equals the one that was named first
    return [each.chosen() for each in scored[:places]], _contenders(scored, places)


class _Scored(NamedTuple):
    """A tool with its gate and its score, before it is chosen."""

    name: str
    fit: float
    gate: float
    score: float
    success: float
    record: Record

    @classmethod
    def of(cls, name: str, fit: float, record: Record, chance: Random | None) -> _Scored:
        success = record.success(chance)
        gate = fit * (1 - SUCCESS * (1 - success) - LATENCY * (1 - record.latency))
        return cls(name, fit, gate, gate + fit * record.bias, success, record)

    def chosen(self) -> Chosen:
        return Chosen(
            tool=self.name,
            score=round(self.score, 4),
            relevance=round(self.fit, 4),
            success=round(self.success, 4),
            latency=round(self.record.latency, 4),
            bias=round(self.record.bias, 4),
            successes=self.record.successes,
            failures=self.record.failures,
        )


_SCORE: Final = attrgetter("score")


def _contenders(scored: Sequence[_Scored], places: int) -> list[str]:
    """Those whom some bias would bring in, or put out; they share the places that are left."""
    if len(scored) <= places:
        return []
    gates = sorted(((each.gate, each.fit) for each in scored), reverse=True)
    (inside, weight), (outside, other) = gates[places - 1], gates[places]
    floor, ceiling = inside - BIAS_MAX * weight, outside + BIAS_MAX * other
    found = [
        each.name
        for each in scored
        if each.gate + BIAS_MAX * each.fit >= floor and each.gate - BIAS_MAX * each.fit <= ceiling
    ]
    return found[:CONTENDERS_MAX]
