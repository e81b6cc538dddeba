"""What a planner's turns say in its talk with the model: calls, their results, what was refused.

A turn is read from the journal alone, so this is where a resumed run finds the same words again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any, Final

from flowkit.chat import ChatMessage, ModelAnswer
from flowkit.graph import Call
from flowkit.node import AnyNode, Context
from flowkit.nodes.context import Conversation, Said
from flowkit.nodes.router import Routing
from flowkit.nodes.toolcall import (
    Read,
    corrected,
    correction,
    is_whole,
    read_calls,
    settled_message,
    tool_schemas,
)
from flowkit.plan import Planned, Turn
from flowkit.planning import plan_schema
from flowkit.policy import Policy
from flowkit.values import Codec, combine, compact, parse

ANSWER: Final = "answer"
RECALL: Final = "recall"
PLAN: Final = "plan"

OWN: Final = frozenset({ANSWER, RECALL, PLAN})
"""Tools that a planner adds; no tool of the user's may have their names."""


@dataclass(frozen=True)
class Tools:
    """What a planner shows to its model: its tools, and its own for answering and recalling."""

    tools: Sequence[AnyNode]
    returns: Any
    upfront: bool
    native: bool = True
    """Whether calls are the server's own; else they stand as JSON in the message's text."""
    routing: Routing | None = None
    shown: Sequence[AnyNode] = ()
    """With a router: the tools that the model is shown. All may be called."""

    def routed(self, routing: Routing) -> Tools:
        """The same with a router: at first its shared tools are shown, and its own."""
        shown = (*routing.shared, routing.find)
        return replace(self, tools=(*self.tools, routing.find), routing=routing, shown=shown)

    def showing(self, names: Iterable[str]) -> Tools:
        """The same with these tools shown as well, after those that were shown before."""
        tools = {tool.name: tool for tool in self.tools}
        before = {tool.name for tool in self.shown}
        more = [tools[name] for name in dict.fromkeys(names) if name in tools.keys() - before]
        return replace(self, shown=(*self.shown, *more)) if more else self

    def read(self, message: ChatMessage) -> Sequence[Read]:
        """The calls of a message, as they are understood."""
        return read_calls(message, self.offered, envelope=not self.native)

    @cached_property
    def offered(self) -> Sequence[AnyNode]:
        """Every node whose calls are understood."""
        return (*([] if self.upfront else self.tools), *self._own)

    @cached_property
    def _own(self) -> Sequence[AnyNode]:
        recall = AnyNode(RECALL, {"id": str}, str, Policy())
        recall.description = (
            "Read again the result of an earlier call that was hidden to save room."
        )
        own = [recall]
        if self.returns is not str:
            answer = AnyNode(ANSWER, {ANSWER: self.returns}, self.returns, Policy())
            answer.description = (
                "Give the final answer and end. Call it alone, when nothing is left to do."
            )
            own.append(answer)
        return own

    def arguments(self, step: Planned[Any]) -> str:
        """A step's inputs as the arguments of a call."""
        tool = next((tool for tool in self.offered if tool.name == step.tool), None)
        if tool is None:
            return "{}"
        texts = {
            name: source.text or "null"
            for name, source in zip(tool.alternatives[0].codecs(), step.inputs, strict=True)
        }
        if len(texts) == 1 and is_whole(tool):
            return next(iter(texts.values()))
        return f"{{{','.join(f'{compact(name)}:{text}' for name, text in texts.items())}}}"

    def is_once(self, step: Planned[Any]) -> bool:
        """Whether a step's effect must not happen twice, so that nothing about it is guessed."""
        tools = [tool for tool in self.tools if tool.name == step.tool]
        return any(node.policy.effect == "once" for tool in tools for node in tool.alternatives)

    @property
    def native_schemas(self) -> Sequence[Mapping[str, Any]]:
        """What a request names as its tools."""
        return self.schemas if self.native else ()

    @cached_property
    def schemas(self) -> Sequence[Mapping[str, Any]]:
        if self.routing is None:
            shown, schemas = self.tools, tool_schemas(self.offered)
        else:  # what is found later comes last, so that a server has the rest in its cache
            shown = self.shown
            schemas = tool_schemas((*self._own, *(() if self.upfront else shown)))
        if not self.upfront:
            return schemas
        plan = {
            "name": PLAN,
            "description": (
                "Plan all steps that are needed, with what depends on what. An argument that is another "
                'step\'s result is written {"$step": "id"}. Steps that do not depend on each other run '
                "side by side. Their results come back together; then plan what is missing, or answer."
            ),
            "parameters": plan_schema(shown),
        }
        return (plan, *schemas)


def goal_of(codecs: Mapping[str, Codec], args: Sequence[Any]) -> str:
    """The task as the first message of the talk: what the planner is given, as JSON."""
    parts: list[str] = []
    for (name, codec), arg in zip(codecs.items(), args, strict=True):
        title = "Task" if len(codecs) == 1 else f"Task: {name}"
        parts.append(f"{title}:\n```json\n{codec.dump(arg).text}\n```")
    return "\n\n".join(parts)


@dataclass
class Talk:
    """A planner's conversation with what it remembers of its calls; folded turn by turn.

    `made` counts the turns in which the very same call was made.
    """

    tools: Tools
    conversation: Conversation
    turns: int = 0
    made: dict[str, int] = field(default_factory=dict[str, int])

    def fold(self, turn: Turn) -> None:
        """Take in one more turn that has ended."""
        answer = turn.answers.get("")
        found = self.tools.read(answer.message) if answer is not None else ()
        self.conversation.add(self._said(turn, answer, found))
        self.turns += 1
        for step in turn.steps:
            key = identity(step)
            self.made[key] = self.made.get(key, 0) + 1
        if self.tools.routing is not None:
            called = (*(read.tool for read in found), *(step.tool for step in turn.steps))
            self.tools = self.tools.showing([*self.tools.routing.found(turn), *called])

    def _said(self, turn: Turn, answer: ModelAnswer | None, found: Sequence[Read]) -> Said:
        summary = turn.answers.get("summary")
        short = summary.message.content if summary is not None else None
        if answer is None:  # its model said nothing that was kept, such as a turn that was dropped
            return Said(feedback=tuple(turn.feedback), summary=short, shrunk=turn.overflows)
        steps = {step.id: step for step in turn.steps}
        reads = [
            self._as_done(read, call, steps)
            for read, call in zip_longest(found, turn.calls)
            if read is not None
        ]
        message = settled_message(answer.message, reads)
        results = tuple((read.id, self._result(read.id, turn)) for read in reads)
        feedback = tuple(turn.feedback) if turn.calls or not reads else ()
        tokens = answer.usage.input_tokens
        return Said(message, results, feedback, tokens, short, turn.overflows)

    def _as_done(self, read: Read, call: Call | None, steps: Mapping[str, Planned[Any]]) -> Read:
        """A call with the arguments that it was made with, where the model was asked for others."""
        if call is None or call.how != "corrected" or call.step not in steps:
            return read
        return replace(read, arguments=self.tools.arguments(steps[call.step]))

    def _result(self, id: str, turn: Turn) -> str:
        """What the model gets for a call."""
        call = next((each for each in turn.calls if each.id == id), None)
        if call is None:  # the turn ended with an answer, which a verifier sent back
            told = "; ".join(turn.feedback)
            return f"error: this answer was not accepted: {told}" if told else "error: not done"
        if call.how == "refused":
            return f"error: {call.note}"
        if call.note.startswith(_RECALLED):
            hidden = call.note.removeprefix(_RECALLED)
            return self.conversation.recall(hidden) or f"error: nothing is hidden as {hidden!r}"
        if not call.step:  # a whole plan
            return compact(
                {
                    step.id: self._found(step.id, turn) or _outcome(step.id, turn)
                    for step in turn.steps
                }
            )
        found = self._found(call.step, turn)
        return f"{found or _outcome(call.step, turn)}{self._again(call.step, turn)}"

    def _found(self, id: str, turn: Turn) -> str:
        """What a router's choice tells the model; empty for another result."""
        routing = self.tools.routing
        choice = routing.choice(id, turn) if routing is not None else None
        return choice.told() if choice is not None else ""

    def _again(self, id: str, turn: Turn) -> str:
        step = next(each for each in turn.steps if each.id == id)
        before = self.made.get(identity(step), 0)
        return f"\n(note: the same call was made in {before} turns before)" if before else ""


_RECALLED: Final = "recalled "


def recalled(id: str) -> str:
    """The note of a call that reads a hidden result again; it is no step of the run."""
    return f"{_RECALLED}{id}"


def identity(step: Planned[Any]) -> str:
    """What makes two calls the very same: the tool and its inputs."""
    return combine([step.tool, *(source.text or f"${source.step}" for source in step.inputs)])


async def mended(ctx: Context, read: Read, offered: Sequence[AnyNode]) -> Read:
    """A call whose arguments could not be used, with those that the model gives when asked once."""
    if not read.needs_correction:
        return read
    answer = await ctx.model.respond(correction(read, offered), purpose="correction")
    return corrected(read, answer.message.content or "", offered)


def shown(text: str) -> str:
    """A stored JSON text as a model reads it: a text as it is, anything else as JSON."""
    return str(parse(text)) if text.startswith('"') else text


def _outcome(id: str, turn: Turn) -> str:
    if id in turn.texts:
        return shown(turn.texts[id])
    failure = next((each for each in turn.failures if each.id == id), None)
    return f"error: {failure.error}: {failure.message}" if failure else "error: it did not run"
