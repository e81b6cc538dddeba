"""`@verifier`: a function that accepts a value, or raises `Reject` with feedback."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, Protocol, TypeVar, TypeVarTuple, Unpack, cast, overload

from flowkit.dsl import After, Ref, place
from flowkit.errors import DeclarationError
from flowkit.graph import Kind, check_name
from flowkit.node import AnyNode, Context, signature
from flowkit.nodes.options import policy_of
from flowkit.policy import Policy

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")
H = TypeVar("H")
Ts = TypeVarTuple("Ts")


class Verifier(AnyNode, Generic[A, *Ts]):
    """A verdict on its first input; the others are evidence. It passes the value on unchanged.

    Made by `@verifier`; a class of one's own has `run`, which returns or raises `Reject`.
    """

    kind: ClassVar[Kind] = "verifier"
    _threaded: Callable[..., Any] | None = None

    def __init__(
        self, function: Callable[..., Any], name: str, policy: Policy, version: str, depth: int
    ) -> None:
        takes, gives = signature(function, depth, f"verifier {name!r}")
        if gives not in (None, type(None)):
            raise DeclarationError(
                f"verifier {name!r} must return None: it accepts by returning, and rejects with "
                f"raise Reject(feedback). To change a value write a tool."
            )
        first = next(iter(takes.values()))
        AnyNode.__init__(self, check_name(name, "verifier"), takes, first, policy, version)
        self.function = function
        self._threaded = None if inspect.iscoroutinefunction(function) else function
        self.description = inspect.getdoc(function) or ""

    @property
    def threaded(self) -> Callable[..., Any] | None:
        return self._threaded

    async def run(self, ctx: Context, /, *args: Any) -> Any:
        return await self.function(ctx, *args)

    @overload
    def __call__(
        self: Verifier[A],
        a: A | Ref[A],
        /,
        *,
        attempts: int = 2,
        id: str | None = None,
        after: After = (),
    ) -> Ref[A]: ...
    @overload
    def __call__(
        self: Verifier[A, B], a: A | Ref[A], b: B | Ref[B], /, *,
        attempts: int = 2, id: str | None = None, after: After = (),
    ) -> Ref[A]: ...  # fmt: skip
    @overload
    def __call__(
        self: Verifier[A, B, C], a: A | Ref[A], b: B | Ref[B], c: C | Ref[C], /, *,
        attempts: int = 2, id: str | None = None, after: After = (),
    ) -> Ref[A]: ...  # fmt: skip
    @overload
    def __call__(
        self: Verifier[A, B, C, D], a: A | Ref[A], b: B | Ref[B], c: C | Ref[C], d: D | Ref[D], /, *,
        attempts: int = 2, id: str | None = None, after: After = (),
    ) -> Ref[A]: ...  # fmt: skip
    @overload
    def __call__(
        self: Verifier[A, B, C, D, E],
        a: A | Ref[A], b: B | Ref[B], c: C | Ref[C], d: D | Ref[D],
        e: E | Ref[E], /, *,
        attempts: int = 2, id: str | None = None, after: After = (),
    ) -> Ref[A]: ...  # fmt: skip
    @overload
    def __call__(
        self: Verifier[A, B, C, D, E, F],
        a: A | Ref[A], b: B | Ref[B], c: C | Ref[C], d: D | Ref[D],
        e: E | Ref[E], f: F | Ref[F], /, *,
        attempts: int = 2, id: str | None = None, after: After = (),
    ) -> Ref[A]: ...  # fmt: skip
    @overload
    def __call__(
        self: Verifier[A, B, C, D, E, F, G],
        a: A | Ref[A], b: B | Ref[B], c: C | Ref[C], d: D | Ref[D],
        e: E | Ref[E], f: F | Ref[F], g: G | Ref[G], /, *,
        attempts: int = 2, id: str | None = None, after: After = (),
    ) -> Ref[A]: ...  # fmt: skip
    @overload
    def __call__(
        self: Verifier[A, B, C, D, E, F, G, H],
        a: A | Ref[A], b: B | Ref[B], c: C | Ref[C], d: D | Ref[D],
        e: E | Ref[E], f: F | Ref[F], g: G | Ref[G], h: H | Ref[H], /, *,
        attempts: int = 2, id: str | None = None, after: After = (),
    ) -> Ref[A]: ...  # fmt: skip
    def __call__(
        self, *args: Any, attempts: int = 2, id: str | None = None, after: After = ()
    ) -> Ref[Any]:
        """Check a value. `attempts` is the total of rounds; then the checked step has failed."""
        if attempts < 1:
            raise DeclarationError(f"{self.name!r}: attempts={attempts}: at least 1.")
        return place(self, args, id=id, after=after, attempts=attempts)


class VerifierDecorator(Protocol):
    """What `@verifier(...)` with options returns."""

    @overload
    def __call__(
        self, function: Callable[[Context, A, Unpack[Ts]], Awaitable[None]], /
    ) -> Verifier[A, *Ts]: ...
    @overload
    def __call__(
        self, function: Callable[[Context, A, Unpack[Ts]], None], /
    ) -> Verifier[A, *Ts]: ...


@overload
def verifier(
    function: Callable[[Context, A, Unpack[Ts]], Awaitable[None]], /
) -> Verifier[A, *Ts]: ...
@overload
def verifier(function: Callable[[Context, A, Unpack[Ts]], None], /) -> Verifier[A, *Ts]: ...
@overload
def verifier(
    *,
    name: str | None = None,
    retries: int = 0,
    timeout_s: float | None = None,
    backoff_s: float = 0.5,
    version: str = "",
) -> VerifierDecorator: ...
def verifier(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "",
    **policy: Any,
) -> Any:
    """Declare a verifier: return to accept, `raise Reject(feedback)` to have the step done again.

    Any other exception is an ordinary failed attempt of the verifier itself.
    """

    def declare(found: Callable[..., Any]) -> Verifier[Any]:
        return Verifier(found, name or found.__name__, policy_of(policy), version, 3)

    if function is None:
        return declare
    return cast(Any, Verifier(function, name or function.__name__, policy_of(policy), version, 3))
