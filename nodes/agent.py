"""`Planner`: the ready-made planner, a model that is asked turn after turn until it answers.

    turn:  the talk so far -> the model -> calls of tools -> steps of the run, side by side
                                        -> `answer`       -> the result

The talk is a fold over the planner's turns, as the run is one over its events: after a crash the same
turns give the same talk, and so the same requests, to which the journal knows the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar, TypeVarTuple, Unpack, cast, overload

from flowkit.chat import ChatMessage, ModelRequest
from flowkit.dsl import Workflow
from flowkit.errors import BadModelAnswer, ContextOverflow, DeclarationError, PlanError
from flowkit.graph import Call, Kind, check_name
from flowkit.node import AnyNode, Context
from flowkit.nodes.context import DEFAULT, ContextPolicy, Conversation
from flowkit.nodes.mending import bare, read_json
from flowkit.nodes.node import Node
from flowkit.nodes.options import Options, check_tools, policy_of
from flowkit.nodes.router import Router, Routing
from flowkit.nodes.sampling import Sampled
from flowkit.nodes.subflow import Subflow
from flowkit.nodes.talk import (
    ANSWER,
    OWN,
    PLAN,
    RECALL,
    Talk,
    Tools,
    goal_of,
    identity,
    mended,
    recalled,
)  # fmt: skip
from flowkit.nodes.toolcall import Read, envelope_prompt, settled_message
from flowkit.plan import Plan, Planned
from flowkit.planning import plan_from, steps_of
from flowkit.policy import Limits
from flowkit.ports import Model, models_of
from flowkit.values import parse

Ts = TypeVarTuple("Ts")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
Out = TypeVar("Out")

Style = Literal["interleaved", "upfront"]
Calls = Literal["native", "json"]

SAMPLES = 8
"""Trajectories of a planner with `scale=True`, as Kimi K2 Thinking's "heavy" mode has."""

REPEATS_MAX = 3
"""How often the very same call is made; after that it is refused, and the model told."""

_OPTIONS = ("turns_max", "steps_max", "repairs_max", "tokens_max", "tools", "model", "settings")

_LAST = "This is your last turn, and no tool can be called any more. Answer now with what you have"


@dataclass
class _Turn:
    """A turn that is going on: what is asked, and what was said to the model in between."""

    ctx: Context
    talk: Talk
    conversation: Conversation
    last: bool
    aside: list[ChatMessage] = field(default_factory=list[ChatMessage])

    def own(self) -> Conversation:
        """The conversation as this attempt's own: if it fails, nothing was made shorter.

        What counts is found in the turn when it has ended, and done to the talk then.
        """
        if self.conversation is self.talk.conversation:
            self.conversation = self.talk.conversation.copy()
        return self.conversation


class Planner(Node[*Ts, R]):
    """Asks a model, turn after turn: it calls tools, which run as steps, until it answers.

    Args:
        instructions: who the model is and how it works; the system message of every request.
        takes: the type of the task, or a tuple of up to three. returns: the type of the answer;
            `str` for plain text, anything else is given by a tool `answer` of that schema.
        tools: what it may call: tools, fallbacks, other planners, whole workflows.
        router: shows only the tools that fit, where there are many (`flowkit.nodes.router`).
        style: "interleaved" thinks turn by turn; "upfront" asks for a whole plan first, with what
            depends on what, and comes back to it with the results.
        calls: "native"; or "json" for a model whose server has no calls of tools: it is told to
            write them as JSON in its text.
        model: whom to ask, or several in order of preference; by default the engine's.
        policies: how a long talk is kept within the window (`flowkit.nodes.context`).
        settings: of the model, such as `{"temperature": 0.6}`.
        turns_max: turns until it must answer. steps_max: steps in one turn.
        tokens_max: its share of the run's tokens, in and out, with all below it.
        scale: eight trajectories side by side, and one answer made of them.
        repairs_max: how often in one turn an answer that is none is given back.

    `on_budget="answer"` of the run's budget, `tokens_max` and `turns_max` give it one last turn
    without tools.
    """

    kind: ClassVar[Kind] = "planner"

    @overload
    def __init__(
        self: Planner[A, Out], instructions: str, *, takes: type[A], returns: type[Out],
        tools: Sequence[AnyNode | Workflow[Any, Any]] = (), router: Router | None = None, name: str = "planner",
        model: Model | Sequence[Model] | None = None, style: Style = "interleaved",
        policies: Sequence[ContextPolicy] = DEFAULT, settings: Mapping[str, Any] | None = None,
        turns_max: int = 300, steps_max: int = 100, repairs_max: int = 2,
        tokens_max: int | None = None, calls: Calls = "native", scale: bool = False, version: str = "", **policy: Unpack[Options],
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self: Planner[A, B, Out], instructions: str, *, takes: tuple[type[A], type[B]],
        returns: type[Out], tools: Sequence[AnyNode | Workflow[Any, Any]] = (),
        router: Router | None = None, name: str = "planner", model: Model | Sequence[Model] | None = None,
        style: Style = "interleaved", policies: Sequence[ContextPolicy] = DEFAULT,
        settings: Mapping[str, Any] | None = None, turns_max: int = 300, steps_max: int = 100,
        repairs_max: int = 2, tokens_max: int | None = None, calls: Calls = "native", scale: bool = False,
        version: str = "", **policy: Unpack[Options],
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self: Planner[A, B, C, Out], instructions: str, *,
        takes: tuple[type[A], type[B], type[C]], returns: type[Out],
        tools: Sequence[AnyNode | Workflow[Any, Any]] = (), router: Router | None = None, name: str = "planner",
        model: Model | Sequence[Model] | None = None, style: Style = "interleaved",
        policies: Sequence[ContextPolicy] = DEFAULT, settings: Mapping[str, Any] | None = None,
        turns_max: int = 300, steps_max: int = 100, repairs_max: int = 2,
        tokens_max: int | None = None, calls: Calls = "native", scale: bool = False, version: str = "", **policy: Unpack[Options],
    ) -> None: ...  # fmt: skip
    def __init__(  # noqa: PLR0913  (a planner's settings, all but the instructions by name)
        self, instructions: str, *, takes: Any, returns: Any,
        tools: Sequence[AnyNode | Workflow[Any, Any]] = (), router: Router | None = None, name: str = "planner",
        model: Model | Sequence[Model] | None = None, style: Style = "interleaved",
        policies: Sequence[ContextPolicy] = DEFAULT, settings: Mapping[str, Any] | None = None,
        turns_max: int = 300, steps_max: int = 100, repairs_max: int = 2,
        tokens_max: int | None = None, calls: Calls = "native", scale: bool = False, version: str = "", **policy: Unpack[Options],
    ) -> None:  # fmt: skip
        if style not in ("interleaved", "upfront"):
            raise DeclarationError(
                f'planner {name!r}: style={style!r}: "interleaved" or "upfront".'
            )
        if calls not in ("native", "json") or (calls == "json" and style == "upfront"):
            raise DeclarationError(
                f'planner {name!r}: calls={calls!r}: "native"; or "json", but not with style="upfront".'
            )
        kinds: list[Any] = [*takes] if isinstance(takes, tuple) else [takes]
        names = (
            ("task",) if len(kinds) == 1 else tuple(f"task_{n}" for n in range(1, len(kinds) + 1))
        )
        AnyNode.__init__(
            self, check_name(name, "planner"), dict(zip(names, kinds, strict=True)), returns,
            policy_of(policy, *_OPTIONS), version,
        )  # fmt: skip
        self.answers = True
        given, shared = _listed(tools, router)
        check_tools(name, given, *sorted(OWN))
        routed = router is not None and len(given) > router.k
        self._routing = Routing(router, name, given, shared) if router and routed else None
        # The choice is a turn, too, but none of the model's.
        self.limits = Limits(steps_max, turns_max + routed, 0, repairs_max, tokens_max)
        self.models = models_of(model)
        self.description = instructions.strip().partition("\n")[0]
        self._instructions, self._style = instructions, style
        self._policies, self._settings = tuple(policies), dict(settings or {})
        upfront, native = style == "upfront", calls == "native"
        self._offer = Tools(given, returns, upfront=upfront, native=native)
        if self._routing is not None:
            check_tools(name, (*given, self._routing.find))
            self._offer = self._offer.routed(self._routing)
        self._sampled = self._samples(names) if scale else None

    def _samples(self, names: Sequence[str]) -> Sampled[*Ts, R]:
        """Several of this planner, and a model that makes one answer of theirs."""
        one: Planner[*Ts, R] = object.__new__(type(self))
        one.__dict__.update(self.__dict__)
        one.name, one._sampled = check_name(f"{self.name[:57]}_sample", "planner"), None
        made = Sampled(one, SAMPLES, "merge", model=self.models, name=self.name)
        self.limits = replace(made.limits, tokens_max=self.limits.tokens_max)
        return made

    @property
    def tools(self) -> Sequence[AnyNode]:
        return self._sampled.tools if self._sampled is not None else self._offer.tools

    def fingerprinted(self) -> Sequence[str]:
        scaled = "scale" if self._sampled is not None else ""
        json = "" if self._offer.native else "json"
        routed = self._routing.find.alternatives if self._routing is not None else ()
        settings = [text for node in routed for text in node.fingerprinted()]
        return (self._instructions, self._style, scaled, json, *settings)

    async def run(self, ctx: Context, /, *args: *Ts) -> R:
        if self._sampled is not None:
            return await self._sampled.run(ctx, *args)
        given = cast("tuple[Any, ...]", args)
        if self._routing is not None and not ctx.turns and not self._is_last(ctx):
            first = self._routing.first(self.codecs(), given)
            return cast("R", Plan([first], again=True))
        turn = self._begin(ctx, given)
        await self._summarise(turn)
        told = ""
        for _ in range(self.limits.repairs_max + 1):
            message = await self._ask(turn)
            found = await self._read(turn, message)
            if not isinstance(found, _Nudge):
                return cast("R", found)  # or a plan, which the runner grafts
            told = found.text
            turn.aside += self._nudge(message, told)
        raise BadModelAnswer(
            f"planner {self.name!r}: {ctx.model.name} neither answered nor called a tool as it should "
            f"in {self.limits.repairs_max + 1} tries. The last was told: {told}"
        )

    def _begin(self, ctx: Context, args: Sequence[Any]) -> _Turn:
        """The talk so far: turns that have ended since the last one are folded into it."""
        talk: Talk | None = ctx.memo.get("talk")
        if talk is None:
            goal = goal_of(self.codecs(), args)
            window = ctx.model.context_tokens
            made = Conversation(self._rules(self._offer), goal, self._policies, window)
            talk = ctx.memo["talk"] = Talk(self._offer, made)
        shown = talk.tools
        for ended in ctx.turns[talk.turns :]:
            talk.fold(ended)
        if talk.tools is not shown and not self._offer.native:
            talk.conversation.instruct(self._rules(talk.tools))
        told = len(ctx.turns[-1].feedback) if ctx.turns else 0  # stands in the talk already
        aside = [ChatMessage("user", text) for text in ctx.feedback[told:]]
        last = self._is_last(ctx)
        if last:
            form = "." if self.gives is str else ", as one JSON value of the wanted schema."
            aside.append(ChatMessage("user", _LAST + form))
        return _Turn(ctx, talk, talk.conversation, last, aside)

    def _is_last(self, ctx: Context) -> bool:
        return ctx.last_turn or ctx.turns_left <= 1

    def _rules(self, tools: Tools) -> str:
        """The system message: who the model is, and where its server has no calls, its tools."""
        told = "" if tools.native else f"\n\n{envelope_prompt(tools.schemas)}"
        return f"{self._instructions}{told}"

    async def _summarise(self, turn: _Turn) -> None:
        """Have old turns summarised, when the policies say so."""
        wanted = turn.conversation.wants_summary()
        if wanted is not None:
            request = ModelRequest(
                wanted, tools=turn.talk.tools.native_schemas, settings=self._settings
            )
            try:
                answer = await turn.ctx.model.respond(request, purpose="summary")
            except ContextOverflow:
                turn.own().shrink()
            else:
                turn.own().summarise(answer.message.content or "")

    async def _ask(self, turn: _Turn) -> ChatMessage:
        """What the model says; a talk that is too long for it is made shorter first."""
        schemas = () if turn.last else turn.talk.tools.native_schemas
        if self._upfront_first(turn):
            schemas = schemas[:1]
        codec = self.codec() if turn.last and self.gives is not str else None
        while True:
            request = ModelRequest(
                (*turn.conversation.request_messages(), *turn.aside),
                tools=schemas,
                schema=codec.schema() if codec else None,
                schema_name=getattr(self.gives, "__name__", "Answer") if codec else "",
                settings={**self._settings, **turn.conversation.settings()},
                deadline=turn.ctx.deadline,
            )
            try:
                return (await turn.ctx.model.respond(request)).message
            except ContextOverflow:
                if not turn.own().shrink():
                    raise

    def _upfront_first(self, turn: _Turn) -> bool:
        before = 0 if self._routing is None else 1
        return self._style == "upfront" and len(turn.ctx.turns) <= before and not turn.last

    async def _read(self, turn: _Turn, message: ChatMessage) -> Any:
        """The plan or the answer that a message is; or what is wrong with it, for the model."""
        if turn.last:
            return self._last_answer(message)
        if any(call.name == PLAN for call in message.tool_calls) and self._style == "upfront":
            return self._whole_plan(turn, message)
        if self._upfront_first(turn):
            return _Nudge(f"Plan first: call `{PLAN}` with all steps that are needed.")
        offered = self._offer.offered
        reads = [await mended(turn.ctx, each, offered) for each in self._offer.read(message)]
        if not reads:
            return self._text(message, f"Call a tool, or `{ANSWER}` to end.")
        if any(read.tool != ANSWER for read in reads):
            return Plan(*_steps(turn, reads, self.limits.steps_max))
        return self._answer(reads[0])

    def _last_answer(self, message: ChatMessage) -> Any:
        """The answer, where nothing else may come any more."""
        reads = self._offer.read(message)
        if not reads:
            return self._text(message, "Answer with one JSON value of the wanted schema.")
        return self._answer(reads[0]) if reads[0].tool == ANSWER else _Nudge(f"{_LAST}.")

    def _answer(self, read: Read) -> Any:
        codec = self.codec()
        if read.planned is None or codec is None:
            return _Nudge(read.error)
        return codec.load(read.planned.inputs[0].text or "")

    def _text(self, message: ChatMessage, help: str) -> Any:
        """The answer that stands in a message's text."""
        text, codec = message.content or "", self.codec()
        if not text.strip():
            return _Nudge("There is no text in this answer.")
        if self.gives is str or codec is None:
            return text
        try:
            found = codec.load(bare(text))
            codec.dump(found)  # what cannot be kept is no answer
            return found
        except ValueError as error:
            return _Nudge(f"This is no answer: {error}\n{help}")

    def _whole_plan(self, turn: _Turn, message: ChatMessage) -> Any:
        """A plan with what depends on what, from the arguments of the call `plan`."""
        reads = self._offer.read(message)
        first = next(n for n, call in enumerate(message.tool_calls) if call.name == PLAN)
        try:
            data, exact = read_json(message.tool_calls[first].arguments)
            plan = plan_from(data, self._offer.tools)
            steps_of(plan, self._offer.tools, self.limits.steps_max)
        except (ValueError, PlanError) as error:
            return _Nudge(f"This plan cannot be carried out: {error}")
        if not exact and any(self._offer.is_once(step) for step in plan.steps):
            return _Nudge("The plan is no valid JSON, and it has a step that must not be guessed.")
        calls = [
            Call(read.id, how="valid" if exact else "repaired") if n == first else _beside(read)
            for n, read in enumerate(reads)
        ]
        return Plan(plan.steps, again=True, calls=tuple(calls))

    def _nudge(self, message: ChatMessage, text: str) -> list[ChatMessage]:
        """The message and what is wrong with it, as they go on in this turn's talk."""
        settled = settled_message(message, self._offer.read(message))
        if not settled.tool_calls:
            return [settled, ChatMessage("user", text)]
        results = [
            ChatMessage("tool", f"error: {text}", tool_call_id=call.id)
            for call in settled.tool_calls
        ]
        return [settled, *results]


@dataclass(frozen=True)
class _Nudge:
    """What is wrong with what the model said, told to it in the same turn."""

    text: str


def _beside(read: Read) -> Call:
    """What becomes of a call that came with a plan."""
    if read.tool == RECALL and read.planned is not None:
        return _recalled(read)
    return Call(read.id, how="refused", note="one plan at a time, and nothing beside it.")


def _recalled(read: Read) -> Call:
    asked = str(parse(read.planned.inputs[0].text or "")) if read.planned else ""
    return Call(read.id, how=read.call.how, note=recalled(asked))


def _steps(
    turn: _Turn, reads: Sequence[Read], steps_max: int
) -> tuple[list[Planned[Any]], Literal[True], tuple[Call, ...]]:
    """The steps of a turn's calls, and what becomes of each call."""
    steps: list[Planned[Any]] = []
    calls: list[Call] = []
    for read in reads:
        call, planned = read.call, read.planned
        if read.tool == ANSWER:
            note = "call it alone, after you have looked at the results of the other calls."
            call = Call(read.id, how="refused", note=note)
        elif read.tool == RECALL and planned is not None:
            call = _recalled(read)
        elif planned is not None:
            made = turn.talk.made.get(identity(planned), 0)
            if made >= REPEATS_MAX:
                note = f"this very call was made {made} times, and its results stand above. Do something else."
                call = Call(read.id, how="refused", note=note)
            elif len(steps) >= steps_max:
                note = f"at most {steps_max} calls are made in a turn. Call again in the next one."
                call = Call(read.id, how="refused", note=note)
            else:
                steps.append(replace(planned, timeout_s=read.timeout_s))
        calls.append(call)
    return steps, True, tuple(calls)


def _listed(
    tools: Sequence[AnyNode | Workflow[Any, Any]], router: Router | None
) -> tuple[Sequence[AnyNode], Sequence[AnyNode]]:
    """A planner's tools as nodes, the shared ones first; and those alone."""
    shared = router.shared if router is not None else ()
    others = [each for each in tools if not any(each is one for one in shared)]
    nodes = [Subflow(each) if isinstance(each, Workflow) else each for each in (*shared, *others)]
    return tuple(nodes), nodes[: len(shared)]
