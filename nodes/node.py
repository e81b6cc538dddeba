"""`Node`: what can be called with refs, planned as a step, mapped, and given alternatives with `|`.

The overloads type a node by its number of inputs, 1 to 8. `Fallback` stands here too, since `|` makes
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar, TypeVarTuple, cast, overload

from flowkit.dsl import After, Ref, place
from flowkit.errors import DeclarationError
from flowkit.graph import Kind, Source, check_name
from flowkit.node import AnyNode, Context, signature
from flowkit.plan import Planned, is_planned
from flowkit.policy import Approve, Effect, Policy, Trust, When

Ts = TypeVarTuple("Ts")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")
H = TypeVar("H")


class Node(AnyNode, Generic[*Ts, R]):
    """A node of the user's own, as a class: `class Translate(Node[Report, Report])` with `run`.

    Its policy stands in the class line: `class Translate(Node[Report, Report], retries=2)`. An
    instance is the node; `name=` tells two of one class apart.
    """

    kind: ClassVar[Kind] = "tool"
    _types: ClassVar[tuple[dict[str, Any], Any] | None] = None
    _policy: ClassVar[Policy] = Policy()
    _version: ClassVar[str] = ""

    def __init_subclass__(  # noqa: PLR0913  (a node's policy, all by name)
        cls,
        *,
        retries: int = 0,
        timeout_s: float | None = None,
        backoff_s: float = 0.5,
        effect: Effect = "idempotent",
        concurrency: int | None = None,
        version: str = "",
        reads_private: bool = False,
        untrusted_output: bool = False,
        external_effect: bool = False,
        approve: Approve | When = "tainted",
    ) -> None:
        super().__init_subclass__()
        if "run" in cls.__dict__ and cls.__module__.split(".")[:2] != ["flowkit", "nodes"]:
            cls._types = signature(cls.run, 2, f"{cls.__name__}.run")
        asks = approve if isinstance(approve, Approve) else Approve(approve)
        trust = Trust(reads_private, untrusted_output, external_effect, asks)
        cls._policy = Policy(
            retries, timeout_s, backoff_s, effect=effect, concurrency=concurrency, trust=trust
        )
        cls._version = version

    def __init__(self, *, name: str | None = None) -> None:
        if self._types is None:
            raise DeclarationError(
                f"{type(self).__name__} has no run(): write async def run(self, ctx: Context, ...)."
            )
        takes, gives = self._types
        label = check_name(name or type(self).__name__, "node")
        super().__init__(label, takes, gives, self._policy, self._version)
        self.description = type(self).__doc__ or ""

    async def run(self, ctx: Context, /, *args: *Ts) -> R:
        """What the node does with its inputs; what it returns is stored before anybody sees it."""
        raise NotImplementedError(f"{self.name} has no run()")

    @overload
    def __call__(
        self: Node[A, R], a: A | Ref[A], /, *, id: str | None = None, after: After = ()
    ) -> Ref[R]: ...
    @overload
    def __call__(
        self: Node[A, B, R],
        a: A | Ref[A],
        b: B | Ref[B],
        /,
        *,
        id: str | None = None,
        after: After = (),
    ) -> Ref[R]: ...
    @overload
    def __call__(
        self: Node[A, B, C, R],
        a: A | Ref[A],
        b: B | Ref[B],
        c: C | Ref[C],
        /,
        *,
        id: str | None = None,
        after: After = (),
    ) -> Ref[R]: ...
    @overload
    def __call__(
        self: Node[A, B, C, D, R],
        a: A | Ref[A],
        b: B | Ref[B],
        c: C | Ref[C],
        d: D | Ref[D],
        /,
        *,
        id: str | None = None,
        after: After = (),
    ) -> Ref[R]: ...
    @overload
    def __call__(
        self: Node[A, B, C, D, E, R],
        a: A | Ref[A],
        b: B | Ref[B],
        c: C | Ref[C],
        d: D | Ref[D],
        e: E | Ref[E],
        /,
        *,
        id: str | None = None,
        after: After = (),
    ) -> Ref[R]: ...
    @overload
    def __call__(
        self: Node[A, B, C, D, E, F, R],
        a: A | Ref[A],
        b: B | Ref[B],
        c: C | Ref[C],
        d: D | Ref[D],
        e: E | Ref[E],
        f: F | Ref[F],
        /,
        *,
        id: str | None = None,
        after: After = (),
    ) -> Ref[R]: ...
    @overload
    def __call__(
        self: Node[A, B, C, D, E, F, G, R],
        a: A | Ref[A],
        b: B | Ref[B],
        c: C | Ref[C],
        d: D | Ref[D],
        e: E | Ref[E],
        f: F | Ref[F],
        g: G | Ref[G],
        /,
        *,
        id: str | None = None,
        after: After = (),
    ) -> Ref[R]: ...
    @overload
    def __call__(
        self: Node[A, B, C, D, E, F, G, H, R],
        a: A | Ref[A],
        b: B | Ref[B],
        c: C | Ref[C],
        d: D | Ref[D],
        e: E | Ref[E],
        f: F | Ref[F],
        g: G | Ref[G],
        h: H | Ref[H],
        /,
        *,
        id: str | None = None,
        after: After = (),
    ) -> Ref[R]: ...
    def __call__(self, *args: Any, id: str | None = None, after: After = ()) -> Ref[Any]:
        return place(self, args, id=id, after=after)

    @overload
    def step(self: Node[A, R], a: A | Planned[A], /, *, id: str | None = None) -> Planned[R]: ...
    @overload
    def step(
        self: Node[A, B, R], a: A | Planned[A], b: B | Planned[B], /, *, id: str | None = None
    ) -> Planned[R]: ...
    @overload
    def step(
        self: Node[A, B, C, R],
        a: A | Planned[A],
        b: B | Planned[B],
        c: C | Planned[C],
        /,
        *,
        id: str | None = None,
    ) -> Planned[R]: ...
    @overload
    def step(
        self: Node[A, B, C, D, R],
        a: A | Planned[A],
        b: B | Planned[B],
        c: C | Planned[C],
        d: D | Planned[D],
        /,
        *,
        id: str | None = None,
    ) -> Planned[R]: ...
    @overload
    def step(
        self: Node[A, B, C, D, E, R],
        a: A | Planned[A],
        b: B | Planned[B],
        c: C | Planned[C],
        d: D | Planned[D],
        e: E | Planned[E],
        /,
        *,
        id: str | None = None,
    ) -> Planned[R]: ...
    @overload
    def step(
        self: Node[A, B, C, D, E, F, R],
        a: A | Planned[A],
        b: B | Planned[B],
        c: C | Planned[C],
        d: D | Planned[D],
        e: E | Planned[E],
        f: F | Planned[F],
        /,
        *,
        id: str | None = None,
    ) -> Planned[R]: ...
    @overload
    def step(
        self: Node[A, B, C, D, E, F, G, R],
        a: A | Planned[A],
        b: B | Planned[B],
        c: C | Planned[C],
        d: D | Planned[D],
        e: E | Planned[E],
        f: F | Planned[F],
        g: G | Planned[G],
        /,
        *,
        id: str | None = None,
    ) -> Planned[R]: ...
    @overload
    def step(
        self: Node[A, B, C, D, E, F, G, H, R],
        a: A | Planned[A],
        b: B | Planned[B],
        c: C | Planned[C],
        d: D | Planned[D],
        e: E | Planned[E],
        f: F | Planned[F],
        g: G | Planned[G],
        h: H | Planned[H],
        /,
        *,
        id: str | None = None,
    ) -> Planned[R]: ...
    def step(self, *args: Any, id: str | None = None) -> Planned[Any]:
        """A step for a plan: its inputs are values or other planned steps."""
        first = self.alternatives[0]
        if len(args) != len(first.takes):
            raise DeclarationError(
                f"{self.name!r} takes {len(first.takes)} inputs, got {len(args)}."
            )
        sources = [
            _planned_source(first, name, arg) for name, arg in zip(first.takes, args, strict=True)
        ]
        return Planned(check_name(id or self.name, "step id"), self.name, tuple(sources))

    def map(
        self: Node[A, R], refs: Ref[Sequence[A]], /, *, id: str | None = None, after: After = ()
    ) -> Ref[list[R]]:
        """One step for each item of a list; the results in the same order."""
        return cast("Ref[list[R]]", place(self, [refs], id=id, after=after, each=True))

    def __or__(self, other: Node[*Ts, R], /) -> Fallback[*Ts, R]:
        return Fallback(self, other)

    def _gives(self) -> R:
        raise NotImplementedError("only for type checkers")


class Fallback(Node[*Ts, R]):
    """Alternatives in order: when one has failed with its retries, the next is tried.

    `on` limits which errors move on; by default every error does but `Fatal` and cancellation.
    With `Reject` among them a rejected round goes to the next alternative, too.
    """

    def __init__(
        self,
        first: Node[*Ts, R],
        *others: Node[*Ts, R],
        on: tuple[type[BaseException], ...] = (Exception,),
    ) -> None:
        nodes = [node for each in (first, *others) for node in each.alternatives]
        head = nodes[0]
        AnyNode.__init__(self, head.name, head.takes, head.gives, head.policy)
        self._nodes = tuple(nodes)
        self._on = on
        self.description = head.description
        for node in nodes[1:]:
            _check_alike(head, node)

    @property
    def alternatives(self) -> Sequence[AnyNode]:
        return self._nodes

    @property
    def tools(self) -> Sequence[AnyNode]:
        return [tool for node in self._nodes for tool in node.tools]

    @property
    def moves_on(self) -> tuple[type[BaseException], ...]:
        return self._on


def _check_alike(head: AnyNode, node: AnyNode) -> None:
    if list(head.takes.values()) != list(node.takes.values()) or head.gives != node.gives:
        raise DeclarationError(
            f"{head.name!r} | {node.name!r}: alternatives must take and return the same types."
        )
    if (head.kind == "verifier") != (node.kind == "verifier"):
        raise DeclarationError(
            f"{head.name!r} | {node.name!r}: a verifier gives a verdict, the other a value. "
            f"Verifiers can only stand in for verifiers."
        )
    if head.name == node.name:
        raise DeclarationError(f"{head.name!r} | {node.name!r}: the same node twice; use retries=.")


def _planned_source(node: AnyNode, name: str, arg: Any) -> Source:
    if is_planned(arg):
        return Source(arg.id)
    codec = node.codecs().get(name)
    if codec is None:
        raise DeclarationError(f"{node.name!r}: {name!r} takes Findings, which no plan can give.")
    return Source(text=codec.dump(codec.check(arg)).text)
