"""What a planner answers: steps to graft, and what became of them.

`tool.step(...)` makes a `Planned`, typed by what the tool returns; a `Plan` holds them in order.
`Findings` is what a planner that only plans gives to its readers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol, TypeGuard, TypeVar, cast

from flowkit.chat import ModelAnswer
from flowkit.graph import Call, Source

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)  # no slots: Planned[T](...) cannot be called with them on Python 3.11
class Planned(Generic[R_co]):
    """A step that a plan adds: the tool's name, and its inputs as literals or other steps' ids.

    `after`, `each`, `checks` and `attempts` mean what they mean in a declared step; they name other
    steps of the same plan. `timeout_s` can only shorten the tool's own.
    """

    id: str
    tool: str
    inputs: tuple[Source, ...] = ()
    after: tuple[str, ...] = ()
    each: bool = False
    checks: str = ""
    attempts: int = 2
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A planner's answer: do these steps. `again=True`: then ask me again, with what they gave.

    `calls` tells which call of the model each step answers, and which calls were refused.
    """

    steps: Sequence[Planned[Any]] = ()
    again: bool = False
    calls: Sequence[Call] = ()


def is_planned(value: object) -> TypeGuard[Planned[Any]]:
    """Whether an argument of `tool.step` is another planned step, not a literal."""
    return isinstance(value, Planned)


class _Typed(Protocol[R_co]):
    """A node, as far as `Findings.of` looks at it."""

    @property
    def name(self) -> str: ...
    def _gives(self) -> R_co: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A planned step that failed: an observation for its planner."""

    id: str
    tool: str
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Findings(Mapping[str, Any]):
    """Results of planned steps by id, in the order of planning; `failures` stand beside them."""

    results: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tools: Mapping[str, str] = field(default_factory=dict[str, str])
    failures: Sequence[Failure] = ()

    def of(self, tool: _Typed[R_co]) -> Mapping[str, R_co]:
        """The results of one tool, by id."""
        found = {key: self.results[key] for key, name in self.tools.items() if name == tool.name}
        return cast("Mapping[str, R_co]", found)

    def __getitem__(self, key: str) -> Any:
        return self.results[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


def _no_answers() -> Mapping[str, ModelAnswer]:
    return {}


@dataclass(frozen=True)  # no slots: `answers` is kept once it was asked for
class Turn:
    """One turn of a planner, when its steps have ended: what was planned and what came of it.

    `results` by step id, made anew whenever one is looked at; `texts` are the same as they are
    stored, in JSON. `calls`: the model's calls, where a model planned. `overflows`: how often it said
    that the talk was too long for it.
    """

    number: int
    steps: Sequence[Planned[Any]]
    results: Mapping[str, Any]
    failures: Sequence[Failure] = ()
    feedback: Sequence[str] = ()
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    calls: Sequence[Call] = ()
    overflows: int = 0
    read_answers: Callable[[], Mapping[str, ModelAnswer]] = field(
        default=_no_answers, repr=False, compare=False
    )

    @cached_property
    def answers(self) -> Mapping[str, ModelAnswer]:
        """What the model said in this turn, by purpose; "" is the planner's own line of talk."""
        return self.read_answers()
