"""What a node is to the engine: a name, types, a policy, and `run`. And what a node sees: `Context`."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints, overload

from flowkit.errors import DeclarationError
from flowkit.graph import Kind, NodeSpec
from flowkit.plan import Findings, Turn
from flowkit.policy import Limits, Policy, Trust
from flowkit.values import Artifact, Codec, combine, compact

if TYPE_CHECKING:
    from flowkit.chat import ChatMessage, ModelAnswer, ModelRequest, Usage
    from flowkit.events import StepView
    from flowkit.ports import Model

T = TypeVar("T")


class ModelHandle(ABC):
    """The run's model, as a node sees it: every answer is journaled before it is returned."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def context_tokens(self) -> int:
        """The window of the model, the smallest if there are several."""

    @abstractmethod
    async def respond(self, request: ModelRequest, *, purpose: str = "") -> ModelAnswer:
        """Ask as the protocol has it; tried again, and then of the next model, where that may help.

        Raises the `ModelError` of the last try. `purpose` names what is asked beside the node's own
        line of talk.
        """

    @overload
    async def complete(self, prompt: str | Sequence[ChatMessage], *, purpose: str = "") -> str: ...
    @overload
    async def complete(
        self, prompt: str | Sequence[ChatMessage], *, returns: type[T], repairs_max: int = 2,
        tools: Sequence[AnyNode] | None = None, purpose: str = "",
    ) -> T: ...  # fmt: skip
    @abstractmethod
    async def complete(
        self, prompt: str | Sequence[ChatMessage], *, returns: Any = str, repairs_max: int = 2,
        tools: Sequence[AnyNode] | None = None, purpose: str = "",
    ) -> Any:  # fmt: skip
        """Ask for an answer of a type; a bad one goes back with the error, `repairs_max` times.

        `returns=Plan` gives a plan of these tools, by default the planner's. Raises `BadAnswer` (a
        `ValueError`) when the repairs are used up, or the `ModelError` of the last try.
        """


class Context(ABC):
    """What a node knows of its place in a run, and may ask of the engine.

    `idempotency_key` is the same on every repeat of the step: pass it to whatever has effects.
    `feedback`: why verifiers rejected the rounds before, or why a plan was refused.
    `deadline` is the run's, in Unix time. `turns`: a planner's turns so far. `memo`: what a planner
    remembers from turn to turn, in memory only; after a crash it is empty, and `turns` has it all.
    """

    run_id: str
    step: str
    attempt: int
    alternative: int
    idempotency_key: str
    feedback: tuple[str, ...]
    deadline: float | None
    memo: dict[str, Any]
    last_turn: bool
    """A planner's last turn, since the budget is used up: answer, plan nothing."""

    @property
    @abstractmethod
    def model(self) -> ModelHandle: ...

    @property
    @abstractmethod
    def turns(self) -> Sequence[Turn]: ...

    @property
    @abstractmethod
    def turns_left(self) -> int:
        """A planner's turns that are left, this one among them; 0 for what is no planner."""

    @abstractmethod
    def history(self) -> Sequence[StepView]:
        """Every step of the run as it stands now, in the order in which it came into the run."""

    @abstractmethod
    def usage(self) -> Mapping[tuple[str, str], Usage]:
        """What models have been used for in the run so far, by node and model, failed tries included."""

    @abstractmethod
    def progress(self, data: Any) -> None:
        """Tell whoever watches; nothing is stored. May be called from a thread."""

    @abstractmethod
    async def artifact(
        self, data: bytes | str | Path, *, name: str, media_type: str = "application/octet-stream"
    ) -> Artifact:
        """Keep bytes, a text, or a file's content, once by its hash."""

    @abstractmethod
    async def read(self, artifact: Artifact) -> bytes:
        """The bytes of an artifact."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait durably: after a crash, what is left of it.

        The node may be torn down in the meantime and begun anew, with its journaled calls answered
        from the journal; so keep effects before a wait idempotent.
        """

    @abstractmethod
    async def signal(self, name: str, *, timeout_s: float | None = None, returns: Any = Any) -> Any:
        """Wait durably for a signal and give its value; `TimeoutError` when the time is over.

        A value that is no `returns` is refused, with a warning in the log, and the wait goes on.
        """

    @abstractmethod
    async def call(self, tool: AnyNode, /, *args: Any) -> Any:
        """Call a tool inside this node; its result is journaled as it returns."""

    @abstractmethod
    def resource(self, kind: type[T]) -> T:
        """What the host gave to the engine under this type; `LookupError` if nothing."""


class AnyNode:
    """Any node, whatever its types. Nodes are declared with the decorators, or as `Node` classes.

    `source` is what its fingerprint counts beside the types: instructions, tools, `version=`.
    """

    kind: ClassVar[Kind] = "tool"

    def __init__(
        self, name: str, takes: Mapping[str, Any], gives: Any, policy: Policy, version: str = ""
    ) -> None:
        self.name = name
        self.takes = takes
        self.gives = gives
        self.policy = policy
        self.version = version
        self.limits = Limits()
        self.answers = False
        self.probe: AnyNode | None = None
        """Who is asked what became of an effect of unknown outcome."""
        self.models: Sequence[Model] = ()
        """Whom `ctx.model` asks, in order of preference; empty for the engine's."""
        self.description = ""
        self._codecs: dict[str, Codec] | None = None
        self._gives_codec: Codec | None = None
        self._spec: NodeSpec | None = None

    async def run(self, ctx: Context, /, *args: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    @property
    def alternatives(self) -> Sequence[AnyNode]:
        """The nodes that may stand for this one, in order."""
        return (self,)

    @property
    def tools(self) -> Sequence[AnyNode]:
        """What a planner may plan with."""
        return ()

    @property
    def moves_on(self) -> tuple[type[BaseException], ...]:
        """Errors that move a step from one alternative to the next."""
        return (Exception,)

    def codecs(self) -> dict[str, Codec]:
        """One codec for each input, by parameter name, in order."""
        if self._codecs is None:
            self._codecs = {
                name: Codec(hint, f"{self.name}.{name}")
                for name, hint in self.takes.items()
                if not gives_findings(hint)
            }
        return self._codecs

    def codec(self) -> Codec | None:
        """The codec of the output; None for `Findings`, which are rebuilt from their steps."""
        if gives_findings(self.gives):
            return None
        if self._gives_codec is None:
            self._gives_codec = Codec(self.gives, self.name)
        return self._gives_codec

    def spec(self) -> NodeSpec:
        """What the journal keeps of the node; its fingerprint ignores comments, names and layout."""
        if self._spec is None:
            output = self.codec()
            counted = [
                self.kind,
                self.version,
                compact({name: codec.schema() for name, codec in self.codecs().items()}),
                compact(output.schema()) if output else "Findings",
                self.policy.effect,
                *([repr(self.policy.trust)] if self.policy.trust != Trust() else []),
                *(each.spec().fingerprint for tool in self.tools for each in tool.alternatives),
                *self.fingerprinted(),
            ]
            self._spec = NodeSpec(
                self.name,
                self.kind,
                combine(counted),
                answers=self.answers,
                turns_max=self.limits.turns_max if self.kind == "planner" else 0,
                replans_max=self.limits.replans_max if self.kind == "planner" else 0,
                tokens_max=self.limits.tokens_max or 0,
                once=self.policy.effect == "once",
                trust=self.policy.trust,
            )
        return self._spec

    @property
    def threaded(self) -> Callable[..., Any] | None:
        """The plain function that runs in a worker thread instead of `run`, if the node is one."""
        return None

    def fingerprinted(self) -> Sequence[str]:
        """Texts of the node that decide what it does, such as a planner's instructions."""
        return ()


def gives_findings(hint: Any) -> bool:
    return hint is Findings


def signature(
    function: Callable[..., Any], depth: int, what: str, *, context: bool = True
) -> tuple[dict[str, Any], Any]:
    """Types of a node's function: its inputs by name, without `ctx`, and its result.

    `depth` counts the frames from here to the declaration, whose local names are looked up too.
    `context=False` for a function that takes no `ctx`.

    Raises:
        DeclarationError: no `ctx` first, a parameter without annotation, a default, or `*args`.
    """
    frame = sys._getframe(depth)  # pyright: ignore[reportPrivateUsage]
    try:
        hints = get_type_hints(function, localns=dict(frame.f_locals), include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{what}: {error}. Its annotations must name types that exist where it is declared."
        ) from error
    parameters = list(inspect.signature(function).parameters.values())
    parameters = [parameter for parameter in parameters if parameter.name != "self"]
    if context:
        if not parameters or parameters[0].name not in ("ctx", "_ctx", "_"):
            raise DeclarationError(f"{what} must take ctx: Context first.")
        parameters = parameters[1:]
    takes: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind not in _POSITIONAL:
            raise DeclarationError(
                f"{what}: {parameter.name!r} must be an ordinary positional parameter. "
                f"Options of a node stand at its decorator."
            )
        if parameter.default is not inspect.Parameter.empty:
            raise DeclarationError(
                f"{what}: {parameter.name!r} has a default, but every input of a step is given. "
                f"Drop the default, or set the option at the decorator."
            )
        if parameter.name not in hints:
            raise DeclarationError(f"{what}: annotate {parameter.name!r} with its type.")
        takes[parameter.name] = hints[parameter.name]
    if context and not 1 <= len(takes) <= 8:
        raise DeclarationError(f"{what} takes {len(takes)} inputs; a node takes 1 to 8 after ctx.")
    if "return" not in hints:
        raise DeclarationError(f"{what}: annotate what it returns.")
    return takes, hints["return"]


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
