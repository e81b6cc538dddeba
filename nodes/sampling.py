"""Several samples of one node, side by side, and one answer made of them: `best_of` and `vote`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar, TypeVarTuple, cast

from pydantic import BaseModel, Field

from flowkit.chat import ChatMessage
from flowkit.errors import DeclarationError, StepFailed
from flowkit.graph import Kind, Source, check_name
from flowkit.node import AnyNode, Context
from flowkit.nodes.node import Node
from flowkit.plan import Plan, Planned, Turn
from flowkit.policy import Limits, Policy
from flowkit.ports import Model, models_of
from flowkit.values import compact

Ts = TypeVarTuple("Ts")
R = TypeVar("R")

How = Literal["best", "merge", "vote"]

MERGE = (
    "You are given the same task's answers from several independent attempts. Compare them, find where "
    "they contradict each other and which is better supported, and give one answer that is better than "
    "each. Do not average, and do not mention the attempts."
)
BEST = (
    "You are given the same task's answers from several independent attempts. Compare them and choose "
    "the one that is right, or most nearly so."
)


class Choice(BaseModel):
    """Which of several answers is best."""

    best: int = Field(description="number of the best answer, from 1")
    reason: str


class Sampled(Node[*Ts, R]):
    """n samples of a node, and what decides between them. Made by `best_of` and `vote`.

    Each sample is a step of its own, so it is journaled, retried and shown as one; some may fail.
    """

    kind: ClassVar[Kind] = "planner"

    def __init__(
        self,
        node: Node[*Ts, R],
        n: int,
        how: How,
        *,
        instructions: str = "",
        model: Model | Sequence[Model] | None = None,
        name: str | None = None,
    ) -> None:
        first = node.alternatives[0]
        if first.codec() is None or first.kind == "verifier":
            raise DeclarationError(
                f"{node.name!r} gives no value of its own, so it has no samples."
            )
        if n < 2:
            raise DeclarationError(
                f"{n} samples of {node.name!r}: at least 2, else use the node itself."
            )
        label = check_name(name or f"{node.name[:50]}_{how}_of_{n}", "node")
        AnyNode.__init__(self, label, first.takes, first.gives, Policy(), "")
        self.answers = True
        self.limits = Limits(steps_max=n, replans_max=0)
        self.models = models_of(model)
        self.description = first.description
        self._node, self._n, self._how = node, n, how
        self._instructions = instructions or (MERGE if how == "merge" else BEST)

    @property
    def tools(self) -> Sequence[AnyNode]:
        return (self._node,)

    def fingerprinted(self) -> Sequence[str]:
        return (self._how, compact(self._n), self._instructions)

    async def run(self, ctx: Context, /, *args: *Ts) -> R:
        given = cast("tuple[Any, ...]", args)
        texts = [
            codec.dump(arg).text or ""
            for codec, arg in zip(self.codecs().values(), given, strict=True)
        ]
        sampled = [turn for turn in ctx.turns if turn.steps]
        refused = len(ctx.turns) - len(sampled)  # a vote among the same samples would not change
        if ctx.last_turn and not sampled:
            return await self._alone(ctx, texts)
        if not sampled or (self._how == "vote" and refused and not ctx.turns[-1].steps):
            sources = tuple(Source(text=text) for text in texts)
            steps: list[Planned[Any]] = [
                Planned(f"sample-{number}", self._node.name, sources)
                for number in range(1, self._n + 1)
            ]
            return cast("R", Plan(steps, again=True))  # the runner grafts it
        turn = sampled[-1]
        if not turn.results:
            last = turn.failures[-1]
            raise StepFailed(
                f"all {self._n} samples failed; the last: {last.error}: {last.message}"
            )
        return await self._decide(ctx, turn, texts)

    async def _alone(self, ctx: Context, given: Sequence[str]) -> R:
        """The budget is used up before there is a sample: an answer of the model, without any."""
        messages = [ChatMessage("user", "\n\n".join(f"The task:\n{text}" for text in given))]
        answer: Any = await ctx.model.complete(messages, returns=self.gives)
        return cast("R", answer)

    async def _decide(self, ctx: Context, turn: Turn, given: Sequence[str]) -> R:
        ids = list(turn.texts)
        if len(ids) == 1 and self._how != "merge":
            return cast("R", turn.results[ids[0]])
        if self._how == "vote":
            votes = Counter(turn.texts.values())
            most, _ = votes.most_common(1)[0]  # of equals the one that was planned first
            return cast("R", next(turn.results[each] for each in ids if turn.texts[each] == most))
        messages = self._question(given, [turn.texts[each] for each in ids], ctx.feedback)
        if self._how == "merge":
            merged: Any = await ctx.model.complete(messages, returns=self.gives, purpose="merge")
            return cast("R", merged)
        choice = await ctx.model.complete(messages, returns=Choice, purpose="judge")
        return cast("R", turn.results[ids[min(max(choice.best, 1), len(ids)) - 1]])

    def _question(
        self, given: Sequence[str], answers: Sequence[str], feedback: Sequence[str]
    ) -> list[ChatMessage]:
        parts = [f"The task:\n{text}" for text in given]
        parts += [f"Answer {number}:\n{text}" for number, text in enumerate(answers, 1)]
        parts += [f"An answer before was refused: {text}" for text in feedback]
        return [ChatMessage("system", self._instructions), ChatMessage("user", "\n\n".join(parts))]


def best_of(
    node: Node[*Ts, R],
    n: int = 8,
    *,
    merge: bool = False,
    instructions: str = "",
    model: Model | Sequence[Model] | None = None,
    name: str | None = None,
) -> Sampled[*Ts, R]:
    """n samples of a node side by side; a model chooses the best, or with `merge` writes one of all.

    Args:
        node: what is sampled; a planner, or a tool that asks a model.
        instructions: for who judges or merges.
        model: who judges or merges; by default the engine's.
    """
    how: How = "merge" if merge else "best"
    return Sampled(node, n, how, instructions=instructions, model=model, name=name)


def vote(node: Node[*Ts, R], n: int = 5, *, name: str | None = None) -> Sampled[*Ts, R]:
    """n samples of a node side by side; the value that came most often wins. No model judges."""
    return Sampled(node, n, "vote", name=name)
