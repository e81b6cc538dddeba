"""How a workflow is declared: `@workflow`, `Ref`, and nodes that are called with refs.

A function under `@workflow` is called once, at import, with a `Ref` for its input. Every node called
with a ref places a step in the same draft and gives the ref of what the step will return. The draft
becomes a frozen `Graph`, checked before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import GenericAlias
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NoReturn,
    TypeGuard,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

from flowkit.errors import (
    DeclarationError,
    DuplicateStep,
    Reject,
    StepFailed,
    TypeMismatch,
    UnknownInput,
)
from flowkit.fits import fits
from flowkit.graph import INPUT, Graph, NodeSpec, Source, Step, check, check_name
from flowkit.node import AnyNode, signature
from flowkit.values import Codec, combine, show_type

T_co = TypeVar("T_co", covariant=True)
A = TypeVar("A")
R = TypeVar("R")


class Draft:
    """A graph in the making: what the refs of one `@workflow` call share."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: dict[str, Step] = {}
        self.nodes: dict[str, AnyNode] = {}
        self.gives: dict[str, Any] = {}
        self.fallbacks: dict[tuple[str, ...], tuple[type[BaseException], ...]] = {}
        self.prefixes: set[str] = set()
        self.declared = False
        self.fitted: dict[tuple[int, int], tuple[Any, Any]] = {}

    def place(self, step: Step, gives: Any) -> None:
        self.check_free(step.key)
        self.steps[step.key] = step
        self.gives[step.key] = gives

    def place_prefix(self, prefix: str) -> None:
        """Keep a sub-workflow's prefix: below a step of that key stand its own items and turns."""
        self.check_free(prefix)
        self.prefixes.add(prefix)

    def check_free(self, key: str) -> None:
        if key in self.steps or key in self.prefixes:
            raise DuplicateStep(
                f"workflow {self.name!r} has two steps {key!r}: pass id= to tell them apart."
            )

    def use(self, node: AnyNode) -> str:
        """Register a node under its name; two nodes of one name are refused."""
        known = self.nodes.setdefault(node.name, node)
        if known is not node:
            raise DeclarationError(
                f"workflow {self.name!r} uses two different nodes named {node.name!r}: rename one "
                f"(a class node takes name=)."
            )
        for tool in node.tools:
            self.use_all(tool)
        return node.name

    def use_all(self, node: AnyNode) -> tuple[str, ...]:
        """Register a node's alternatives, and which errors move from one to the next."""
        names = tuple(self.use(alternative) for alternative in node.alternatives)
        if len(names) > 1:
            self.use_fallback(names, node.moves_on)
        return names

    def use_fallback(self, names: tuple[str, ...], on: tuple[type[BaseException], ...]) -> None:
        if self.fallbacks.setdefault(names, on) != on:
            raise DeclarationError(
                f"workflow {self.name!r} uses {' | '.join(names)} with two different on=: make it one."
            )

    def fit(self, given: Any, wanted: Any, where: Callable[[], str]) -> None:
        pair = (id(given), id(wanted))
        if pair in self.fitted:
            return
        if not fits(given, wanted):
            raise TypeMismatch(
                f"{where()} takes {show_type(wanted)}, but is given {show_type(given)}. "
                f"Put a tool between them that converts, or change one of the annotations."
            )
        self.fitted[pair] = (given, wanted)  # kept alive, so that no other type gets their ids


class Ref(Generic[T_co]):
    """What a step will return, before it exists. Pass it to nodes; it has no value to look at."""

    __slots__ = ("draft", "hint", "key", "verifiers")

    def __init__(self, draft: Draft, key: str, hint: Any, verifiers: tuple[str, ...] = ()) -> None:
        self.draft = draft
        self.key = key
        self.hint = hint
        self.verifiers = verifiers

    def __bool__(self) -> NoReturn:
        raise DeclarationError(
            f"{self.key!r} has no value while the workflow is declared, so it cannot be tested. "
            f"Branch inside a node, or in a @planner that returns the steps to take."
        )

    def __eq__(self, other: object) -> bool:
        if is_ref(other):
            return self is other
        raise DeclarationError(
            f"{self.key!r} has no value while the workflow is declared, so it cannot be compared. "
            f"Compare inside a node, or in a @planner that returns the steps to take."
        )

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<ref of {self.key!r}: {show_type(self.hint)}>"

    def __str__(self) -> NoReturn:
        raise DeclarationError(
            f"{self.key!r} has no text while the workflow is declared. Make the text inside a node."
        )

    if not TYPE_CHECKING:  # a checker reports what a Ref does not have; at import these say why

        def __iter__(self):
            raise DeclarationError(
                f"{self.key!r} has no items while the workflow is declared. "
                f"Use tool.map(ref), or a @planner that returns a step for each item."
            )

        def __getitem__(self, index):
            return self.__iter__()

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            raise DeclarationError(
                f"{self.key!r} has no value while the workflow is declared, so .{name} cannot be read. "
                f"Read it inside a node."
            )


AnyRef = Ref[Any]


def is_ref(value: object) -> TypeGuard[AnyRef]:
    """Whether an argument of a call is a ref, not a literal."""
    return isinstance(value, Ref)


After = AnyRef | Sequence[AnyRef]


def place(
    node: AnyNode,
    args: Sequence[Any],
    *,
    id: str | None,
    after: After,
    each: bool = False,
    attempts: int = 2,
) -> AnyRef:
    """Put a node into the draft of its refs; the ref of the new step."""
    behind = _behind(after, node.name)
    draft = _draft_of(node.name, [*args, *behind])
    if draft is None:
        raise DeclarationError(
            f"{node.name!r} is given literals only. Inside @workflow pass it a Ref, or order it with "
            f"after=the workflow's input. Outside, use engine.run, or ctx.call in a node."
        )
    first = node.alternatives[0]
    key = check_name(first.name if id is None else id, "step id")
    if len(args) != len(first.takes):
        raise DeclarationError(f"{node.name!r} takes {len(first.takes)} inputs, got {len(args)}.")
    sources = tuple(
        _source(draft, node, key, name, hint, arg, each and index == 0)
        for index, ((name, hint), arg) in enumerate(zip(first.takes.items(), args, strict=True))
    )
    subject = _subject(key, args[0]) if first.kind == "verifier" else None
    step = Step(
        key,
        draft.use_all(node),
        sources,
        (*(ref.key for ref in behind), *(subject.verifiers[-1:] if subject is not None else ())),
        each=each,
        checks=subject.key if subject is not None else "",
        attempts=attempts,
        reject_moves=len(node.alternatives) > 1 and Reject in node.moves_on,
        failure_moves=failure_moves(node),
    )
    if subject is not None:
        draft.place(step, subject.hint)
        return Ref(draft, subject.key, subject.hint, (*subject.verifiers, key))
    gives: Any = GenericAlias(list, (first.gives,)) if each else first.gives
    draft.place(step, gives)
    return Ref(draft, key, gives)


def _behind(after: After, name: str) -> list[AnyRef]:
    behind: list[object] = [after] if isinstance(after, Ref) else list(after)
    if not all(is_ref(each) for each in behind):
        raise DeclarationError(f"{name!r}: after= takes the Refs of steps, not {behind!r}.")
    return cast("list[AnyRef]", behind)


def _subject(key: str, checked: Any) -> AnyRef:
    if not is_ref(checked):
        raise DeclarationError(f"verifier {key!r} checks a literal; give it what a step returned.")
    return checked


def _draft_of(name: str, args: Sequence[Any]) -> Draft | None:
    """The draft that the refs among the arguments share; None if there is no ref."""
    drafts = {id(arg.draft): arg.draft for arg in args if is_ref(arg)}
    if len(drafts) > 1:
        raise UnknownInput(
            f"{name!r} is given steps of two different workflows; pass it what the workflow's input, "
            f"or a step of the same @workflow function, gave."
        )
    draft = next(iter(drafts.values()), None)
    if draft is not None and draft.declared:
        raise DeclarationError(
            f"{name!r} is given a Ref of workflow {draft.name!r}, which is declared already. "
            f"A Ref cannot leave its @workflow function; call the node inside it."
        )
    return draft


def _source(
    draft: Draft, node: AnyNode, key: str, name: str, hint: Any, arg: Any, each: bool
) -> Source:
    where = f"step {key!r}: input {name!r}"
    if not is_ref(arg):
        return Source(text=_literal(node.alternatives[0].codecs().get(name), arg, where))
    given = item_type(arg.hint, key) if each else arg.hint
    draft.fit(given, hint, lambda: where)
    return Source(arg.key)


def _literal(codec: Codec | None, value: Any, where: str) -> str | None:
    """The JSON of a value that is given to a step in place of a ref."""
    if codec is None:
        raise TypeMismatch(f"{where} takes Findings, which only a planner gives; pass its Ref.")
    try:
        return codec.dump(codec.check(value)).text
    except ValueError as error:
        raise TypeMismatch(
            f"{where} takes {show_type(codec.hint)}, which {type(value).__name__} does not fit: {error}"
        ) from error


def item_type(hint: Any, key: str) -> Any:
    """The type of the items of a list type; raises `TypeMismatch` for what is no list."""
    if hint is Any:
        return Any
    arguments = get_args(hint)
    if not isinstance(get_origin(hint), type) or not arguments or not fits(hint, Sequence[Any]):
        raise TypeMismatch(
            f"step {key!r} maps over {show_type(hint)}, which is no list. Give map a Ref[list[...]]."
        )
    members = [item for item in arguments if item is not Ellipsis]
    return members[0] if len(members) == 1 else Union[tuple(members)]  # noqa: UP007


def failure_moves(node: AnyNode) -> bool:
    """Whether a planner that gives up, after its turns, is followed by the next alternative."""
    planners = any(each.kind == "planner" for each in node.alternatives)
    return planners and any(issubclass(StepFailed, kind) for kind in node.moves_on)


class Workflow(Generic[A, R]):
    """A declared and checked workflow. Call it with a ref to use it inside another workflow."""

    def __init__(self, draft: Draft, output: AnyRef, takes: Any, gives: Any, doc: str) -> None:
        self.name = draft.name
        self.graph = Graph(tuple(draft.steps.values()), output.key)
        self.nodes: Mapping[str, AnyNode] = draft.nodes
        self.fallbacks = draft.fallbacks
        self.takes = takes
        self.gives = gives
        self.description = doc
        self._codec: Codec | None = None
        self._bound: Graph | None = None
        self._draft = draft
        self._output = output

    def codec(self) -> Codec:
        """The codec of the input."""
        if self._codec is None:
            self._codec = Codec(self.takes, f"{self.name}'s input")
        return self._codec

    def bound(self) -> Graph:
        """The graph with the fingerprints of its nodes: what a run's journal begins with."""
        if self._bound is None:
            specs = {name: node.spec() for name, node in sorted(self.nodes.items())}
            self._bound = Graph(self.graph.steps, self.graph.output, specs)
        return self._bound

    def input_hash(self, text: str) -> str:
        """Hash of a stored input, for telling two uses of a run id apart."""
        return combine([self.name, text])

    def __call__(self, ref: A | Ref[A], /, *, id: str | None = None, after: After = ()) -> Ref[R]:
        return cast("Ref[R]", self._inline(ref, id, after))

    def _inline(self, arg: Any, id: str | None, after: After) -> AnyRef:
        behind = _behind(after, self.name)
        draft = _draft_of(self.name, [arg, *behind])
        if draft is None:
            raise DeclarationError(
                f"workflow {self.name!r} was called with a value. Inside @workflow pass it a Ref; "
                f"to run it, await engine.run({self.name}, value)."
            )
        inner, output = self._draft, self._output
        prefix = check_name(self.name if id is None else id, "step id")
        waits = tuple(ref.key for ref in behind)
        if is_ref(arg):
            draft.fit(arg.hint, self.takes, lambda: f"workflow {prefix!r}: its input")
            entry = Source(arg.key)
        else:
            entry = Source(text=_literal(self.codec(), arg, f"workflow {prefix!r}: its input"))
        draft.place_prefix(prefix)
        for step in inner.steps.values():
            draft.place(_moved(step, prefix, entry, waits), inner.gives[step.key])
        for node in inner.nodes.values():
            draft.use(node)
        for names, on in inner.fallbacks.items():
            draft.use_fallback(names, on)
        verifiers = tuple(f"{prefix}/{key}" for key in output.verifiers)
        return Ref(draft, f"{prefix}/{output.key}", output.hint, verifiers)


def _moved(step: Step, prefix: str, entry: Source, waits: tuple[str, ...]) -> Step:
    """A step of a sub-workflow under its prefix, with the input replaced."""

    def move(source: Source) -> Source:
        if source.step == INPUT:
            return entry
        return Source(f"{prefix}/{source.step}", source.text) if source.step else source

    behind = tuple(
        f"{prefix}/{key}" if key != INPUT else entry.step
        for key in step.after
        if key != INPUT or entry.step
    )
    return Step(
        f"{prefix}/{step.key}",
        step.nodes,
        tuple(move(source) for source in step.inputs),
        (*behind, *waits),
        each=step.each,
        checks=f"{prefix}/{step.checks}" if step.checks else "",
        attempts=step.attempts,
        reject_moves=step.reject_moves,
        failure_moves=step.failure_moves,
    )


def workflow(function: Callable[[Ref[A]], Ref[R]], /) -> Workflow[A, R]:
    """Declare a workflow: call the function with a ref, check the graph, keep both.

    Raises:
        DeclarationError: the workflow cannot be right; the message names the step and the way out.
    """
    name = check_name(function.__name__, "workflow")
    takes, gives = _refs_of(function, name)
    draft = Draft(name)
    draft.gives[INPUT] = takes
    output: object = function(Ref(draft, INPUT, takes))
    if not is_ref(output):
        raise DeclarationError(f"workflow {name!r} must return the Ref of its last step.")
    if output.draft is not draft:
        raise UnknownInput(f"workflow {name!r} returns a step of another workflow.")
    if output.key == INPUT and not output.verifiers:
        raise DeclarationError(f"workflow {name!r} returns its own input; it has no step to run.")
    draft.fit(output.hint, gives, lambda: f"workflow {name!r}: its result")
    specs = {key: _bare(node) for key, node in draft.nodes.items()}
    check(Graph(tuple(draft.steps.values()), output.key, specs))
    draft.declared = True
    made = Workflow[A, R](draft, output, takes, gives, function.__doc__ or "")
    made.codec()
    return made


def _bare(node: AnyNode) -> NodeSpec:
    """What the check needs of a node; proves that its values can be stored. Fingerprints come later."""
    output = node.codec()
    for codec in (*node.codecs().values(), *((output,) if output else ())):
        codec.schema()
    return NodeSpec(node.name, node.kind, once=node.policy.effect == "once")


def _refs_of(function: Callable[..., Any], name: str) -> tuple[Any, Any]:
    takes, gives = signature(function, 3, f"workflow {name!r}", context=False)
    if len(takes) != 1:
        raise DeclarationError(
            f"workflow {name!r} takes {len(takes)} inputs; it takes exactly one. Put them into a model."
        )
    found = [*takes.values(), gives]
    for hint in found:
        if get_origin(hint) is not Ref:
            raise DeclarationError(
                f"workflow {name!r}: annotate with Ref[...], not {show_type(hint)}."
            )
    return get_args(found[0])[0], get_args(found[1])[0]
