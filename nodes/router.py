"""`Router`: of hundreds of tools, a planner's model is shown the few that fit.

    Planner(..., tools=hundreds, router=Router(k=8, shared=[corpus_search]))

The choice is an ordinary step of the run, so it is journaled with its reasons and never made again.
What is shown follows from the choices in the journal: the shared tools, the router's own tool
`find_tools`, and whatever was found, in that order and never less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, cast

from flowkit.dsl import Workflow
from flowkit.errors import DeclarationError
from flowkit.node import AnyNode, Context
from flowkit.nodes.gating import Chosen, Record, ToolChoice, choose
from flowkit.nodes.node import Fallback, Node
from flowkit.nodes.records import FIND_TOOLS, ToolRecords
from flowkit.nodes.relevance import Embedder, Relevance, VectorIndex, WordIndex
from flowkit.plan import Planned, Turn
from flowkit.policy import Policy
from flowkit.values import Codec, compact, parse

QUERY_CHARS_MAX: Final = 4_000
"""What of a task is looked up: its beginning says what it is about."""

LINE_CHARS_MAX: Final = 160


@dataclass(frozen=True, slots=True)
class Router:
    """How a planner's tools are chosen.

    Args:
        k: tools that one choice gives, shared ones among them. With `k` tools or fewer a planner
            shows them all, and has no router.
        shared: tools that are always shown; they need not stand in the planner's `tools=`.
        embedder: judges relevance by embeddings, such as `OpenAIModel("text-embedding-3-small")`;
            by default, and when it fails, relevance is by words (BM25).
    """

    k: int = 8
    shared: Sequence[AnyNode | Workflow[Any, Any]] = ()
    embedder: Embedder | None = None

    def __post_init__(self) -> None:
        if not len(self.shared) < self.k:
            raise DeclarationError(
                f"Router(k={self.k}) with {len(self.shared)} shared tools chooses none: raise k=, or "
                f"share fewer."
            )


class Routing:
    """A planner's router: `find` is the tool that chooses, `shared` what is shown beside it."""

    def __init__(
        self, router: Router, planner: str, tools: Sequence[AnyNode], shared: Sequence[AnyNode]
    ) -> None:
        others = [tool for tool in tools if tool not in shared]
        own = planner[: 54 - len(FIND_TOOLS)]

        def finder(name: str, relevance: Relevance, embedder: str = "") -> FindTools:
            return FindTools(name, others, shared, router.k, relevance, embedder)

        words = WordIndex(others)
        self.find: Node[str, ToolChoice]
        if router.embedder is None:
            self.find = finder(f"{own}_{FIND_TOOLS}", words)
        else:
            index = VectorIndex(others, router.embedder)
            first = finder(f"{own}_{FIND_TOOLS}", index, router.embedder.name)
            self.find = Fallback(first, finder(f"{own}_by_words_{FIND_TOOLS}", words))
        self.shared = shared

    def first(self, codecs: Mapping[str, Codec], args: Sequence[Any]) -> Planned[ToolChoice]:
        """The step that chooses for a planner's task."""
        dumped = [codec.dump(arg).text for codec, arg in zip(codecs.values(), args, strict=True)]
        texts = [said for text in dumped for said in _texts(parse(text or "null"))]
        query = "\n".join(texts)[:QUERY_CHARS_MAX]
        return self.find.step(query, id=FIND_TOOLS)

    def choice(self, id: str, turn: Turn) -> ToolChoice | None:
        """What a step of a turn chose; None if it is another tool's, or failed."""
        for step in turn.steps:
            if step.id == id and step.tool == self.find.name and id in turn.texts:
                return ToolChoice.model_validate_json(turn.texts[id])
        return None

    def found(self, turn: Turn) -> Sequence[str]:
        """Names of the tools that were chosen in a turn."""
        choices = [self.choice(step.id, turn) for step in turn.steps]
        return [each.tool for choice in choices if choice is not None for each in choice.tools]


class FindTools(Node[str, ToolChoice]):
    """The router's own tool, for the planner and for its model."""

    def __init__(
        self,
        name: str,
        tools: Sequence[AnyNode],
        shared: Sequence[AnyNode],
        k: int,
        relevance: Relevance,
        embedder: str = "",
    ) -> None:
        policy = Policy(retries=2, timeout_s=120, effect="pure")
        AnyNode.__init__(self, name, {"query": str}, ToolChoice, policy)
        self.description = (
            f"Find other tools: there are {len(tools)} more than are shown. Say what the tool shall do, in "
            f"words that its description would have. What is found can be called from the next turn on."
        )
        self._lines = {tool.name: _line(tool) for tool in (*shared, *tools)}
        self._shared = [tool.name for tool in shared]
        self._places, self._relevance, self._embedder = k - len(shared), relevance, embedder

    def fingerprinted(self) -> Sequence[str]:
        return (compact(self._shared), str(self._places), self._embedder, compact([*self._lines]))

    async def run(self, ctx: Context, query: str, /) -> ToolChoice:
        fit = await self._relevance.scores(query)
        try:
            records = ctx.resource(ToolRecords)
        except LookupError:  # nothing is known, and nothing would be learnt from a try
            return self.choice(fit, lambda _: Record(), None)
        await records.refresh()
        choice = self.choice(fit, records.record, Random(f"{ctx.run_id} {ctx.step}"))
        records.learn(ctx.run_id, choice)
        return choice

    def choice(
        self,
        relevance: Mapping[str, float],
        record_of: Callable[[str], Record],
        chance: Random | None,
    ) -> ToolChoice:
        """The shared tools, and the best of the others."""
        chosen, contenders = choose(relevance, self._places, record_of, chance)
        described = [
            each.model_copy(update={"description": self._lines[each.tool]})
            for each in (*(_shared(name, record_of(name)) for name in self._shared), *chosen)
        ]
        return ToolChoice(
            tools=tuple(described),
            contenders=tuple(contenders),
            fitting=len(relevance),
            tools_total=len(self._lines),
        )


def _shared(name: str, record: Record) -> Chosen:
    return Chosen(
        tool=name,
        success=round(record.success(None), 4),
        latency=round(record.latency, 4),
        successes=record.successes,
        failures=record.failures,
        shared=True,
    )


def _line(tool: AnyNode) -> str:
    """The beginning of a tool's description, in one line."""
    text = " ".join(tool.description.partition("\n\n")[0].split())
    return text if len(text) <= LINE_CHARS_MAX else f"{text[: LINE_CHARS_MAX - 2]} …"


def _texts(value: object) -> Iterator[str]:
    """The texts in a value, without the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in cast("dict[str, object]", value).values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in cast("list[object]", value):
            yield from _texts(part)
