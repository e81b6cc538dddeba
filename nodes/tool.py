"""`@tool`: a function that does something. An ordinary `def` runs in a worker thread."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, TypeVarTuple, Unpack, overload

from flowkit.errors import DeclarationError
from flowkit.fits import fits
from flowkit.graph import Kind, check_name
from flowkit.node import AnyNode, Context, signature
from flowkit.nodes.node import Node
from flowkit.nodes.options import TrustOptions, tool_policy, trust_of
from flowkit.policy import Approve, Effect, Policy, When
from flowkit.values import show_type

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class Tool(Node[*Ts, R]):
    """A function as a node. Made by `@tool`."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        policy: Policy,
        version: str,
        depth: int,
        probe: Callable[..., Any] | None = None,
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
        if probe is not None:
            self.probe = Probe(probe, self, depth + 1)

    @property
    def threaded(self) -> Callable[..., Any] | None:
        return self._threaded

    def trusting(self, **trust: Unpack[TrustOptions]) -> Self:
        """This tool with another word on its trust, where the host knows what the tool cannot.

        A `fetch` that reaches the host's own wiki alone: `fetch.trusting(untrusted_output=False)`.
        """
        made = copy.copy(self)
        made.policy = replace(self.policy, trust=trust_of(self.policy.trust, trust))
        made._spec = None
        return made

    async def run(self, ctx: Context, /, *args: *Ts) -> R:
        result: R = await self.function(ctx, *args)
        return result


class Probe(AnyNode):
    """A function that finds out what became of a tool's effect. Made by `@tool(probe=...)`.

    Its inputs are the tool's, and its value is the tool's result, or None. It has the tool's time limit.
    """

    kind: ClassVar[Kind] = "probe"

    def __init__(self, function: Callable[..., Any], tool: AnyNode, depth: int) -> None:
        if not inspect.isroutine(function):
            raise DeclarationError(
                f"tool {tool.name!r}: probe= takes a plain function, not {function!r}."
            )
        what = f"probe {function.__name__!r} of tool {tool.name!r}"
        if tool.policy.effect != "once":
            raise DeclarationError(
                f'{what}: only effect="once" leaves an outcome unknown; anything else is repeated. '
                f'Say effect="once", or drop probe=.'
            )
        takes, gives = signature(function, depth, what)
        if list(takes.values()) != list(tool.takes.values()):
            wanted = ", ".join(show_type(each) for each in tool.takes.values())
            raise DeclarationError(f"{what} must take what the tool takes: ctx, {wanted}.")
        if fits(type(None), tool.gives):
            raise DeclarationError(
                f"{what}: the tool gives {show_type(tool.gives)}, which may be None, and None is a probe's "
                f"word for an effect that did not happen. Let the tool give a receipt, such as an id."
            )
        if not fits(gives, tool.gives | None):
            raise DeclarationError(
                f"{what} gives {show_type(gives)}; it must give the tool's result, or None where the effect "
                f"did not happen: {show_type(tool.gives)} | None."
            )
        policy = Policy(timeout_s=tool.policy.timeout_s)
        super().__init__(check_name(function.__name__, "probe"), tool.takes, tool.gives, policy)
        self._function = function

    @property
    def threaded(self) -> Callable[..., Any] | None:
        return None if inspect.iscoroutinefunction(self._function) else self._function

    async def run(self, ctx: Context, /, *args: Any) -> Any:
        return await self._function(ctx, *args)


class ToolDecorator(Protocol):
    """What `@tool(...)` with options returns."""

    @overload
    def __call__(
        self, function: Callable[[Context, Unpack[Ts]], Awaitable[R]], /
    ) -> Tool[*Ts, R]: ...
    @overload
    def __call__(self, function: Callable[[Context, Unpack[Ts]], R], /) -> Tool[*Ts, R]: ...


class ProbedDecorator(Protocol[*Ts, R]):
    """What `@tool(effect="once", probe=...)` returns: the tool must be what its probe looks for."""

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
    reads_private: bool = False,
    untrusted_output: bool = False,
    external_effect: bool = False,
    approve: Approve | When = "tainted",
) -> ToolDecorator: ...
@overload
def tool(
    *,
    effect: Literal["once"],
    probe: Callable[[Context, Unpack[Ts]], Awaitable[R | None]],
    name: str | None = None,
    timeout_s: float | None = None,
    concurrency: int | None = None,
    version: str = "",
    reads_private: bool = False,
    untrusted_output: bool = False,
    external_effect: bool = False,
    approve: Approve | When = "tainted",
) -> ProbedDecorator[*Ts, R]: ...
@overload
def tool(
    *,
    effect: Literal["once"],
    probe: Callable[[Context, Unpack[Ts]], R | None],
    name: str | None = None,
    timeout_s: float | None = None,
    concurrency: int | None = None,
    version: str = "",
    reads_private: bool = False,
    untrusted_output: bool = False,
    external_effect: bool = False,
    approve: Approve | When = "tainted",
) -> ProbedDecorator[*Ts, R]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "",
    probe: Callable[..., Any] | None = None,
    **policy: Any,
) -> Any:
    """Declare a tool. A tool is taken as safe to repeat, unless `effect="once"` says otherwise.

    Args:
        name: the tool's name; by default the function's.
        retries: more tries after the first; with backoff `backoff_s`, doubling to `backoff_max_s`.
        timeout_s: for one attempt.
        effect: `"pure"`, `"idempotent"` (the default) or `"once"`: not safe to repeat, so a crash
            inside stops the step as outcome unknown until someone decides.
        probe: for `"once"`, a function of the same inputs that finds out what became of the effect: it
            gives the result of an effect that happened, None for one that did not (it is then done,
            with the same `ctx.idempotency_key`), and raises where it cannot tell.
        concurrency: how many may run at once over all runs of an engine.
        reads_private, untrusted_output, external_effect: what a run takes in with the tool, and may do
            by it. A run that has taken in both asks a person before an external effect.
        approve: `"always"` asks a person before every step of it, `"never"` before none; an `Approve`
            says how long, too. A step that is denied fails with `Denied`, and its fallback is next.
        version: change it when the tool means something new; runs in flight then refuse to resume.
    """

    def declare(found: Callable[..., Any]) -> Tool[Any, Any]:
        return Tool(found, name or found.__name__, tool_policy(policy), version, 3, probe)

    if function is None:
        return declare
    plain = tool_policy(policy)
    made: Tool[Any, Any] = Tool(function, name or function.__name__, plain, version, 3, probe)
    return made
