"""`@planner`: a planner written in code. It returns the steps to take, or its result."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from types import UnionType
from typing import (
    Any,
    ClassVar,
    Protocol,
    TypeVar,
    TypeVarTuple,
    Union,
    Unpack,
    get_args,
    get_origin,
    overload,
)

from flowkit.errors import DeclarationError
from flowkit.graph import Kind, check_name
from flowkit.node import AnyNode, Context, signature
from flowkit.nodes.node import Node
from flowkit.nodes.options import check_tools, policy_of
from flowkit.plan import Findings, Plan
from flowkit.policy import Limits, Policy
from flowkit.values import compact

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class CodePlanner(Node[*Ts, R]):
    """A planner in code. Made by `@planner`."""

    kind: ClassVar[Kind] = "planner"

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        tools: Sequence[AnyNode],
        limits: Limits,
        policy: Policy,
        version: str,
        depth: int,
    ) -> None:
        takes, gives = signature(function, depth, f"planner {name!r}")
        answer = _answer_type(gives, name)
        AnyNode.__init__(
            self,
            check_name(name, "planner"),
            takes,
            Findings if answer is None else answer,
            policy,
            version,
        )
        self.answers = answer is not None
        self.limits = limits
        self.function = function
        self._threaded = None if inspect.iscoroutinefunction(function) else function
        self.description = inspect.getdoc(function) or ""
        self._tools = tuple(tools)
        check_tools(name, self._tools)

    @property
    def tools(self) -> Sequence[AnyNode]:
        return self._tools

    def fingerprinted(self) -> Sequence[str]:
        return (compact(self.answers),)

    @property
    def threaded(self) -> Callable[..., Any] | None:
        return self._threaded

    async def run(self, ctx: Context, /, *args: *Ts) -> R:
        answer: R = await self.function(ctx, *args)  # or a Plan, which the runner grafts
        return answer


def _answer_type(gives: Any, name: str) -> Any | None:
    """The type that the planner may end with, beside plans; None if it only plans."""
    if gives is Plan:
        return None
    members = get_args(gives) if get_origin(gives) in (Union, UnionType) else ()
    if Plan not in members:
        raise DeclarationError(
            f"planner {name!r} must return Plan, or Plan | its result; a function without a plan is a tool."
        )
    rest = [member for member in members if member is not Plan]
    return Union[tuple(rest)]  # noqa: UP007


class PlannerDecorator(Protocol):
    """What `@planner(...)` with options returns."""

    @overload
    def __call__(
        self, function: Callable[[Context, Unpack[Ts]], Awaitable[Plan]], /
    ) -> CodePlanner[*Ts, Findings]: ...
    @overload
    def __call__(
        self, function: Callable[[Context, Unpack[Ts]], Awaitable[Plan | R]], /
    ) -> CodePlanner[*Ts, R]: ...


@overload
def planner(
    function: Callable[[Context, Unpack[Ts]], Awaitable[Plan]], /
) -> CodePlanner[*Ts, Findings]: ...
@overload
def planner(
    function: Callable[[Context, Unpack[Ts]], Awaitable[Plan | R]], /
) -> CodePlanner[*Ts, R]: ...
@overload
def planner(
    *,
    tools: Sequence[AnyNode] = (),
    name: str | None = None,
    steps_max: int = 100,
    turns_max: int = 300,
    replans_max: int = 2,
    repairs_max: int = 2,
    retries: int = 0,
    timeout_s: float | None = None,
    backoff_s: float = 0.5,
    version: str = "",
) -> PlannerDecorator: ...
def planner(
    function: Callable[..., Any] | None = None,
    /,
    *,
    tools: Sequence[AnyNode] = (),
    name: str | None = None,
    version: str = "",
    steps_max: int = 100,
    turns_max: int = 300,
    replans_max: int = 2,
    repairs_max: int = 2,
    **policy: Any,
) -> Any:
    """Declare a planner in code: it returns a `Plan`, or `Plan | R` to end with a result.

    A planner that only plans gives `Findings` and is asked again after a failure, `replans_max` times.
    One that may answer is asked again after each plan, with `ctx.turns`, until it does.

    Args:
        tools: what the plans may use; `a | b` is one tool, named after its first.
        steps_max: steps in one plan. turns_max: turns in all.
        repairs_max: how often a bad plan is given back in one turn, with the reason in `ctx.feedback`.
    """
    limits = Limits(steps_max, turns_max, replans_max, repairs_max)

    def declare(found: Callable[..., Any], depth: int = 3) -> CodePlanner[Any, Any]:
        label = name or found.__name__
        return CodePlanner(found, label, tools, limits, policy_of(policy), version, depth)

    return declare if function is None else declare(function, 4)
