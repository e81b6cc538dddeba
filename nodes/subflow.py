"""A whole workflow as one node, so that a planner can plan it like any other tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

from flowkit.dsl import Workflow
from flowkit.errors import DeclarationError, StepFailed
from flowkit.graph import INPUT, Kind, Source, Step
from flowkit.node import AnyNode, Context
from flowkit.nodes.node import Node
from flowkit.plan import Plan, Planned
from flowkit.policy import Limits, Policy
from flowkit.values import compact

A = TypeVar("A")
R = TypeVar("R")


class Subflow(Node[A, R], Generic[A, R]):
    """A workflow as a node. It plans the workflow's steps, and gives what its output step gave.

    Inside `@workflow` there is no need for it: call the workflow itself. A step inside it that fails
    fails this step, and so is an observation for the planner that planned it.
    """

    kind: ClassVar[Kind] = "planner"

    def __init__(self, workflow: Workflow[A, R]) -> None:
        if workflow.graph.output == INPUT:
            raise DeclarationError(f"workflow {workflow.name!r} has no step, so it is no tool.")
        AnyNode.__init__(
            self, workflow.name, {"input": workflow.takes}, workflow.gives, Policy(), ""
        )
        self.answers = True
        self.description = workflow.description
        self.limits = Limits(
            steps_max=max(len(workflow.graph.steps), 1), turns_max=2, replans_max=0
        )
        self._graph = workflow.graph
        self._ids = _ids(workflow.graph.steps)
        self._tools = _tools(workflow)

    @property
    def tools(self) -> Sequence[AnyNode]:
        return self._tools

    def fingerprinted(self) -> Sequence[str]:
        steps = [(step.key, step.nodes, step.checks, step.each) for step in self._graph.steps]
        return (compact(steps), self._graph.output)

    async def run(self, ctx: Context, given: A, /) -> R:
        if not ctx.turns and ctx.last_turn:
            raise StepFailed(f"workflow {self.name!r} did not begin: the budget is used up")
        if not ctx.turns:
            codec = next(iter(self.codecs().values()))
            source = Source(text=codec.dump(given).text)
            steps = [self._planned(step, source) for step in self._graph.steps]
            return cast("R", Plan(steps, again=True))  # the runner grafts it
        turn, output = ctx.turns[-1], self._ids[self._graph.output]
        if output in turn.results:
            return cast("R", turn.results[output])
        cause = next((each for each in turn.failures if each.error != "Blocked"), None)
        text = f"{cause.id}: {cause.error}: {cause.message}" if cause else "it gave nothing"
        raise StepFailed(f"workflow {self.name!r} failed at {text}")

    def _planned(self, step: Step, given: Source) -> Planned[Any]:
        return Planned(
            self._ids[step.key],
            step.nodes[0],
            tuple(self._moved(source, given) for source in step.inputs),
            after=tuple(self._ids[key] for key in step.after if key != INPUT),
            each=step.each,
            checks=self._ids[step.checks] if step.checks else "",
            attempts=step.attempts,
        )

    def _moved(self, source: Source, given: Source) -> Source:
        if source.step == INPUT:
            return given
        return Source(self._ids[source.step]) if source.step else source


def _ids(steps: Sequence[Step]) -> Mapping[str, str]:
    """An id for each step: its key, with hyphens where it has slashes."""
    found: dict[str, str] = {}
    for step in steps:
        plain = step.key.replace("/", "-")[:60]
        taken = sum(each == plain or each.startswith(f"{plain}--") for each in found.values())
        found[step.key] = f"{plain}--{taken}" if taken else plain
    return found


class _Alternatives(AnyNode):
    """What `a | b` stands for, found again from a graph."""

    def __init__(self, nodes: Sequence[AnyNode], on: tuple[type[BaseException], ...]) -> None:
        head = nodes[0]
        super().__init__(head.name, head.takes, head.gives, head.policy)
        self._nodes, self._on = nodes, on

    @property
    def alternatives(self) -> Sequence[AnyNode]:
        return self._nodes

    @property
    def moves_on(self) -> tuple[type[BaseException], ...]:
        return self._on


def _tools(workflow: Workflow[Any, Any]) -> Sequence[AnyNode]:
    """The nodes of a workflow as tools, each once; alternatives are one tool."""
    found: dict[str, AnyNode] = {}
    for step in workflow.graph.steps:
        nodes = [workflow.nodes[name] for name in step.nodes]
        known = found.get(nodes[0].name)
        if known is not None and tuple(each.name for each in known.alternatives) != step.nodes:
            raise DeclarationError(
                f"workflow {workflow.name!r} uses {nodes[0].name!r} with other alternatives in two "
                f"places, so it cannot be a tool: make them the same."
            )
        alone = len(nodes) == 1
        found[nodes[0].name] = (
            nodes[0] if alone else _Alternatives(nodes, workflow.fallbacks[step.nodes])
        )
    return tuple(found.values())
