"""`@tool`: a function that does something. An ordinary `def` runs in a worker thread."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, TypeVarTuple, Unpack, overload

from flowkit.errors import DeclarationError
from flowkit.graph import check_name
from flowkit.node import AnyNode, Context, signature
from flowkit.nodes.node import Node
from flowkit.nodes.options import policy_of
from flowkit.policy import Effect, Policy

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class Tool(Node[*Ts, R]):
    """A function as a node. Made by `@tool`."""

    def __init__(
        self, function: Callable[..., Any], name: str, policy: Policy, version: str, depth: int
    ) -> None:
        takes, gives = signature(function, depth, f"tool {name!r}")
        AnyNode.__init__(self, check_name(name, "tool"), takes, gives, policy, version)
        self.function = function
        self._threaded = None if inspect.iscoroutinefunction(function) else function
        self.description = inspect.getdoc(function) or ""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise DeclarationError(
                f"tool {name!r} yields; return a list, or tell with ctx.progress."
            )

    @property
    def threaded(self) -> Callable[..., Any] | None:
        return self._threaded

    async def run(self, ctx: Context, /, *args: *Ts) -> R:
        result: R = await self.function(ctx, *args)
        return result


class ToolDecorator(Protocol):
    """What `@tool(...)` with options returns."""

    @overload
    def __call__(
        self, function: Callable[[Context, Unpack[Ts]], Awaitable[R]], /
    ) -> Tool[*Ts, R]: ...
    @overload
    def __call__(self, function: Callable[[Context, Unpack[Ts]], R], /) -> Tool[*Ts, R]: ...


@overload
def tool(function: Callable[[Context, Unpack[Ts]], Awaitable[R]], /) -> Tool[*Ts, R]: ...
@overload
def tool(function: Callable[[Context, Unpack[Ts]], R], /) -> Tool[*Ts, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    retries: int = 0,
    timeout_s: float | None = None,
    backoff_s: float = 0.5,
    backoff_max_s: float = 30.0,
    effect: Effect = "idempotent",
    concurrency: int | None = None,
    version: str = "",
) -> ToolDecorator: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "",
    **policy: Any,
) -> Any:
    """Declare a tool. A tool is taken as safe to repeat, unless `effect="once"` says otherwise.

    Args:
        name: the tool's name; by default the function's.
        retries: more tries after the first; with backoff `backoff_s`, doubling to `backoff_max_s`.
        timeout_s: for one attempt.
        effect: `"pure"`, `"idempotent"` (the default) or `"once"`: not safe to repeat, so a crash
            inside stops the step as outcome unknown until someone decides.
        concurrency: how many may run at once over all runs of an engine.
        version: change it when the tool means something new; runs in flight then refuse to resume.
    """

    def declare(found: Callable[..., Any]) -> Tool[Any, Any]:
        return Tool(found, name or found.__name__, policy_of(policy), version, 3)

    if function is None:
        return declare
    made: Tool[Any, Any] = Tool(function, name or function.__name__, policy_of(policy), version, 3)
    return made
