"""The graph of a workflow: frozen data, checked before anything runs.

A `Step` is a node placed in a graph. Its inputs are `Source`s: the value of another step, or a
literal. A step with several nodes is a fallback: its alternatives, in order. Sub-workflows are
inlined under their prefix, so that a graph is always flat.

A value under verification is seen by nobody else until its verifiers accept, so who reads a step
also waits for the step's verifiers; `check` adds these edges before it looks for cycles.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from flowkit.errors import (
    CycleFound,
    DeclarationError,
    DuplicateStep,
    UnknownInput,
    UnusedStep,
)
from flowkit.policy import Trust

if TYPE_CHECKING:
    import networkx as nx

INPUT = "$input"
"""The key of the workflow's input; `$` cannot stand in a step's id."""

Kind = Literal["tool", "planner", "verifier", "probe"]
"""What a node is. A probe is placed in no graph: it stands behind a tool, and finds out what it did."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_name(name: str, what: str) -> str:
    """The name itself, if it may stand in a key; else `DeclarationError`."""
    if not isinstance(cast(object, name), str) or not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{what} {name!r} is not a name: use 1 to 64 letters, digits, hyphens and underscores."
        )
    return name


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """What the journal keeps of a node: enough to fold a run without its code.

    `answers` tells of a planner that may end with a value of its own (else it gives `Findings`);
    `tokens_max` is its share of the run's tokens, 0 for no limit.
    """

    name: str
    kind: Kind
    fingerprint: str = ""
    answers: bool = False
    turns_max: int = 0
    replans_max: int = 0
    tokens_max: int = 0
    once: bool = False
    trust: Trust = field(default_factory=Trust)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an input comes from: the step named, or the literal whose JSON is `text`."""

    step: str = ""
    text: str | None = None
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A model's call of a tool and what became of it: a planned step, or a refusal.

    `how`: "valid" at once; "repaired", its JSON was broken and could be read all the same;
    "corrected" by the model, asked once more; "refused", with `note` as what the model gets in
    place of a result.
    """

    id: str
    step: str = ""
    how: Literal["valid", "repaired", "corrected", "refused"] = "valid"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A node placed in a graph, under its key.

    `each`: one step for each item of the first input. `checks`: the step whose value this verifier
    judges, at most `attempts` rounds; `reject_moves` sends a rejected round to the next alternative,
    `failure_moves` a planner that gave up. `timeout_s` shortens the node's own for each attempt.
    """

    key: str
    nodes: tuple[str, ...]
    inputs: tuple[Source, ...] = ()
    after: tuple[str, ...] = ()
    each: bool = False
    checks: str = ""
    attempts: int = 2
    reject_moves: bool = False
    failure_moves: bool = False
    timeout_s: float | None = None

    def reads(self) -> Iterator[str]:
        """Keys of the steps that this one waits for."""
        for source in self.inputs:
            if source.step:
                yield source.step
        yield from self.after


@dataclass(frozen=True, slots=True)
class Graph:
    """Steps in the order of their declaration, the key of the output, and the nodes by name."""

    steps: tuple[Step, ...]
    output: str
    nodes: Mapping[str, NodeSpec] = field(default_factory=dict[str, NodeSpec])


def check(graph: Graph) -> None:
    """Refuse a graph that cannot run: unknown inputs, cycles, steps that reach no output.

    Raises:
        UnknownInput, CycleFound, UnusedStep, DeclarationError: naming the step and what to do.
    """
    import networkx as nx

    by_key = {step.key: step for step in graph.steps}
    known = by_key.keys() | {INPUT}
    _check_keys(graph, known)
    edges: nx.DiGraph[str] = nx.DiGraph()
    edges.add_nodes_from([INPUT, *by_key])
    verifiers: dict[str, list[Step]] = {}
    for step in graph.steps:
        for key in step.reads():
            if key not in known:
                raise UnknownInput(
                    f"step {step.key!r} reads {key!r}, which is no step of this workflow. "
                    f"Call the node inside the same @workflow function and pass what it returns."
                )
            edges.add_edge(key, step.key)
        if step.checks:
            _check_verifier(graph, step, by_key)
            verifiers.setdefault(step.checks, []).append(step)
    _add_waits(edges, graph, verifiers)
    if not nx.is_directed_acyclic_graph(edges):
        _refuse_cycle(_cycle_in(edges), graph)
    _check_reach(edges, graph)


def _refuse_cycle(loop: list[str], graph: Graph) -> NoReturn:
    shown = " -> ".join([*loop, loop[0]])
    for step in graph.steps:
        if step.checks and step.key in loop:
            raise CycleFound(
                f"steps wait for each other: {shown}. Verifier {step.key!r} needs what is made of "
                f"{step.checks!r}, but nobody sees that value before the verifier accepts it: make the "
                f"evidence inside the verifier, or out of what came before {step.checks!r}."
            )
    raise CycleFound(
        f"steps wait for each other: {shown}. A loop is not an edge: "
        f"use a planner that is asked again, or a verifier with attempts=."
    )


def _cycle_in(edges: nx.DiGraph[str]) -> list[str]:
    import networkx as nx

    found = cast(Any, nx).find_cycle(edges)  # the stubs do not know what it gives: (from, to) pairs
    return [str(edge[0]) for edge in found]


def _check_keys(graph: Graph, known: Collection[str]) -> None:
    """Each key once, and output and verified steps among them."""
    if len(known) <= len(graph.steps):
        keys = [step.key for step in graph.steps]
        twice = next((key for key in keys if keys.count(key) > 1), INPUT)
        raise DuplicateStep(f"two steps have the key {twice!r}: give one another id=.")
    for key in (graph.output, *(step.checks for step in graph.steps if step.checks)):
        if key not in known:
            raise UnknownInput(
                f"{key!r} is no step of this workflow; return, or verify, one that is."
            )


def _check_verifier(graph: Graph, verifier: Step, by_key: Mapping[str, Step]) -> None:
    if verifier.checks == INPUT:
        raise DeclarationError(
            f"verifier {verifier.key!r} checks the workflow's input, which nobody could do again. "
            f"Check it in a tool that raises, or verify what a step made of it."
        )
    subject = by_key[verifier.checks]
    once = [name for name in subject.nodes if graph.nodes[name].once]
    if once and verifier.attempts > 1:
        raise DeclarationError(
            f'verifier {verifier.key!r} may send {subject.key!r} back, but {once[0]!r} has effect="once" '
            f"and must not be done again. Pass attempts=1, or verify before the effect."
        )


def _add_waits(edges: nx.DiGraph[str], graph: Graph, verifiers: Mapping[str, list[Step]]) -> None:
    for step in graph.steps:
        for key in step.reads():
            for verifier in verifiers.get(key, ()):
                if verifier.key != step.key and step.checks != key:
                    edges.add_edge(verifier.key, step.key)


def _check_reach(edges: nx.DiGraph[str], graph: Graph) -> None:
    import networkx as nx

    ends = [graph.output, *(step.key for step in graph.steps if step.checks == graph.output)]
    reached = set(ends)
    for key in ends:
        reached |= nx.ancestors(edges, key)  # pyright: ignore[reportUnknownMemberType]
    useful = reached | {step.key for step in graph.steps if step.checks in reached}
    unused = [step.key for step in graph.steps if step.key not in useful]
    if unused:
        raise UnusedStep(
            f"{', '.join(repr(key) for key in unused)} never reach the output {graph.output!r}. "
            f"Return the value, pass it to a step that is used, or name the step in after=."
        )
