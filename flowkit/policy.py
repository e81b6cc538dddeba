"""Values that say how much a node may do, and a run may use."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from flowkit.errors import DeclarationError

Effect = Literal["pure", "idempotent", "once"]
When = Literal["tainted", "always", "never"]


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float = 0,
    whole: bool = False,
    hint: str = "",
) -> None:
    """Refuse what is no number, none in the range, or (`whole`) no integer, with a `DeclarationError`."""
    wanted = f"at least {least:g}" if above is None else f"above {above:g}"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        wanted = f"{'a whole number' if whole else 'a number'}, {wanted}"
    elif value > above if above is not None else value >= least:  # neither is true of NaN
        return
    raise DeclarationError(f"{name}={value!r}: {wanted}{hint}.")


@dataclass(frozen=True, slots=True)
class Approve:
    """When a person must agree before a step begins.

    "tainted": where the step has an external effect, and the run holds private data and has taken in
    untrusted output. "never" is the host's word that nobody need be asked. No answer within
    `timeout_s` is a no. `valid_s`: so long a yes holds; what has not begun by then is asked again.
    `question` is what the person reads beside the tool and its inputs.
    """

    when: When = "tainted"
    timeout_s: float | None = None
    valid_s: float = 3600.0
    question: str = ""

    def __post_init__(self) -> None:
        if self.when not in ("tainted", "always", "never"):
            raise DeclarationError(f'approve={self.when!r}: use "tainted", "always" or "never".')
        if self.timeout_s is not None:
            check_number("Approve: timeout_s", self.timeout_s, above=0)
        check_number("Approve: valid_s", self.valid_s, above=0)


@dataclass(frozen=True, slots=True)
class Trust:
    """What a tool means for the safety of a run that a stranger's text may try to steer.

    `reads_private`: it gives what is not for everybody. `untrusted_output`: what it gives, an error
    too, may have been written by anybody. `external_effect`: by it something can leave, or be done,
    outside. Who has all three can be made to give away what is private (the "lethal trifecta", Simon
    Willison, June 2025), so a run that has taken in the first two asks a person before the third.
    """

    reads_private: bool = False
    untrusted_output: bool = False
    external_effect: bool = False
    approve: Approve = field(default_factory=Approve)

    @property
    def marks(self) -> tuple[str, ...]:
        """What a run takes in with the tool's output."""
        given = (("private", self.reads_private), ("untrusted", self.untrusted_output))
        return tuple(mark for mark, is_so in given if is_so)

    @property
    def may_ask(self) -> bool:
        """Whether a person may have to be asked before a step of it begins."""
        when = self.approve.when
        return when == "always" or (when == "tainted" and self.external_effect)


@dataclass(frozen=True, slots=True)
class Policy:
    """How one node is tried.

    `retries` more tries after the first; the wait before try n+1 is `backoff_s * 2**(n-1)`, at most
    `backoff_max_s`, of which a random half is left out (so that many runs do not come back at once).
    `timeout_s` holds for one attempt. `concurrency` limits a node over all runs of an engine.
    """

    retries: int = 0
    timeout_s: float | None = None
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    effect: Effect = "idempotent"
    concurrency: int | None = None
    trust: Trust = field(default_factory=Trust)

    def __post_init__(self) -> None:
        if self.effect not in ("pure", "idempotent", "once"):
            raise DeclarationError(f'effect={self.effect!r}: use "pure", "idempotent" or "once".')
        if self.effect == "once" and self.retries:
            raise DeclarationError(
                'effect="once" with retries: what must happen once is not tried again. '
                "Drop retries=, or make the tool idempotent with ctx.idempotency_key."
            )
        for name, value, least in (
            ("retries", self.retries, 0),
            ("backoff_s", self.backoff_s, 0.0),
            ("backoff_max_s", self.backoff_max_s, 0.0),
            ("concurrency", self.concurrency, 1),
        ):
            if value is not None:
                check_number(name, value, least=least, whole=not name.endswith("_s"))
        if self.timeout_s is not None:
            check_number("timeout_s", self.timeout_s, above=0, hint=", or None for no limit")

    def delay_s(self, tried: int, draw: float) -> float:
        """Seconds to wait after the `tried`-th try (1-based); `draw` is a random number in [0, 1)."""
        full = min(self.backoff_s * 2.0 ** min(tried - 1, 64), self.backoff_max_s)
        return full * (0.5 + draw / 2)


ASK_AGAIN = Policy(retries=5, backoff_s=1.0, backoff_max_s=60.0)
"""How often a model that failed for a moment is asked again. `Retry-After` comes before the backoff."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a planner may plan: steps in one plan, turns, replans after failures, repairs of a bad plan.

    `tokens_max`: tokens, in and out, that it and all below it may use before its last turn; None for
    no limit but the run's.
    """

    steps_max: int = 100
    turns_max: int = 300
    replans_max: int = 2
    repairs_max: int = 2
    tokens_max: int | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("steps_max", 1),
            ("turns_max", 1),
            ("replans_max", 0),
            ("repairs_max", 0),
            ("tokens_max", 1),
        ):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, least=least, whole=True)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may use, counted from its events, so that a resume does not begin anew.

    `turns_max` counts planners' turns, `tool_calls_max` planned steps that have begun. Tokens and cost
    are the sum over all models, as far as they tell; what is in flight may go beyond. `wall_s_max`
    counts from the run's start and goes on while nothing runs. `parallel_max` is the number of steps
    that run at once. With `on_budget="answer"` planners get one last turn, without
    tools, and the declared steps go on; with `"fail"` the run fails.
    """

    steps_max: int | None = None
    attempts_max: int | None = None
    turns_max: int | None = None
    tool_calls_max: int | None = None
    tokens_in_max: int | None = None
    tokens_out_max: int | None = None
    cost_usd_max: float | None = None
    wall_s_max: float | None = None
    parallel_max: int = 100
    on_budget: Literal["fail", "answer"] = "fail"

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name != "on_budget" and value is not None:
                whole = each.name not in ("cost_usd_max", "wall_s_max")
                check_number(f"Budget: {each.name}", value, above=0, whole=whole)
        if self.on_budget not in ("fail", "answer"):
            raise DeclarationError(f'Budget(on_budget={self.on_budget!r}): use "fail" or "answer".')

    def limits(self) -> bool:
        """Whether anything but `parallel_max` is limited."""
        kept = ("parallel_max", "on_budget")
        return any(
            getattr(self, each.name) is not None for each in fields(self) if each.name not in kept
        )
