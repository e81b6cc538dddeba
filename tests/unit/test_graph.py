"""Graphs made by hand: what `check` refuses, whatever made the graph."""

from __future__ import annotations

import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.errors import (
    CycleFound,
    DeclarationError,
    DuplicateStep,
    UnknownInput,
    UnusedStep,
)
from flowkit.graph import INPUT, Graph, NodeSpec, Source, Step, check, check_name


def step(key: str, *reads: str, after: tuple[str, ...] = ()) -> Step:
    return Step(key, ("work",), tuple(Source(read) for read in reads), after)


def verifies(key: str, subject: str, *evidence: str, attempts: int = 2) -> Step:
    inputs = tuple(Source(read) for read in (subject, *evidence))
    return Step(key, ("judge",), inputs, checks=subject, attempts=attempts)


def graph(*steps: Step, output: str = "", once: bool = False) -> Graph:
    nodes = {
        "work": NodeSpec("work", "tool", once=once),
        "other": NodeSpec("other", "tool"),
        "judge": NodeSpec("judge", "verifier"),
    }
    return Graph(steps, output or steps[-1].key, nodes)


def refused(made: Graph, error: type[DeclarationError], *parts: str) -> None:
    with pytest.raises(error) as caught:
        check(made)
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value)


def test_a_graph_that_can_run_passes() -> None:
    check(graph(step("a", INPUT)))
    check(graph(step("a", INPUT), step("b", INPUT), step("c", "a", "b")))
    check(graph(step("a"), step("b", after=("a",)), step("c", "b", after=("a", INPUT))))
    check(graph(step("c", "b"), step("b", "a"), step("a", INPUT), output="c"))
    check(graph(step("a", INPUT), verifies("v", "a"), verifies("w", "a"), output="a"))


def test_an_unknown_input_names_its_reader() -> None:
    refused(graph(step("a", "b")), UnknownInput, "'a' reads 'b'", "@workflow")
    refused(graph(step("a", INPUT, after=("b",))), UnknownInput, "'a' reads 'b'")
    refused(graph(step("a", INPUT), output="b"), UnknownInput, "'b' is no step")
    wrong = Step("v", ("judge",), (Source("a"),), checks="b")
    refused(graph(step("a", INPUT), wrong, output="a"), UnknownInput, "'b' is no step")


def test_two_steps_of_one_key_are_refused() -> None:
    refused(graph(step("a", INPUT), step("b", "a"), step("a")), DuplicateStep, "'a'", "id=")
    refused(graph(step("a", INPUT), step(INPUT), output="a"), DuplicateStep, INPUT)


def test_a_cycle_is_shown() -> None:
    refused(graph(step("a", "a")), CycleFound, "a -> a.", "planner", "attempts=")
    refused(graph(step("a", "b"), step("b", "a")), CycleFound, "a -> b -> a.", "wait for each")
    refused(
        graph(step("a", INPUT), step("b", "a", after=("d",)), step("c", "b"), step("d", "c")),
        CycleFound,
        "b -> c -> d -> b.",
    )


def test_a_cycle_through_a_verifier_says_what_evidence_may_be() -> None:
    made = graph(step("a", INPUT), step("b", "a"), verifies("v", "a", "b"), output="a")
    refused(made, CycleFound, "b -> v -> b.", "Verifier 'v'", "'a'", "make the evidence inside")
    # Two verifiers of two values, each of which is the other's evidence.
    made = graph(
        step("a", INPUT), step("b", INPUT), verifies("v", "a", "b"), verifies("w", "b", "a"),
        step("end", "a", "b"),
    )  # fmt: skip
    refused(made, CycleFound, "v -> w -> v.", "make the evidence inside")


def test_steps_that_reach_no_output_are_named() -> None:
    refused(graph(step("a", INPUT), step("b", INPUT)), UnusedStep, "'a' never reach", "'b'")
    refused(
        graph(step("a", INPUT), step("b", "a"), step("c", "b"), output="a"),
        UnusedStep,
        "'b', 'c' never reach the output 'a'",
        "after=",
    )
    made = graph(step("a", INPUT), step("b", INPUT), verifies("v", "b"), output="a")
    refused(made, UnusedStep, "'b', 'v'")


def test_what_a_verifier_needs_is_used() -> None:
    check(graph(step("a", INPUT), step("e", INPUT), verifies("v", "a", "e"), output="a"))
    check(graph(step("a", INPUT), step("e", INPUT), verifies("v", "a", "e"), step("b", "a")))


def test_the_input_is_not_verified() -> None:
    made = graph(verifies("v", INPUT), step("a", INPUT))
    refused(
        made, DeclarationError, "verifier 'v' checks the workflow's input", "Check it in a tool"
    )


def test_once_is_not_sent_back() -> None:
    back = verifies("v", "a")
    made = graph(step("a", INPUT), back, output="a", once=True)
    refused(made, DeclarationError, "'v' may send 'a' back", '"once"', "attempts=1")
    check(graph(step("a", INPUT), verifies("v", "a", attempts=1), output="a", once=True))
    # The second verifier, or the second alternative, counts as the first does.
    first = verifies("u", "a", attempts=1)
    refused(
        graph(step("a", INPUT), first, back, output="a", once=True), DeclarationError, "'v' may"
    )
    either = Step("a", ("other", "work"), (Source(INPUT),))
    refused(graph(either, back, output="a", once=True), DeclarationError, "'work' has effect")


@pytest.mark.parametrize("name", ["a", "A-1_b", "0", "-", "x" * 64])
def test_names(name: str) -> None:
    assert check_name(name, "step id") == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a@2", "$input", "ä", "a\n", "x" * 65, "a.b"])
def test_no_names(name: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        check_name(name, "step id")
    assert f"step id {name!r} is not a name" in str(caught.value)


def test_graphs_are_frozen_and_compare_by_value() -> None:
    made = step("a", INPUT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.key = "b"  # pyright: ignore[reportAttributeAccessIssue]
    assert made == step("a", INPUT)
    assert graph(made) == graph(step("a", INPUT))
    assert made != step("a", INPUT, after=(INPUT,))
    assert list(step("c", "a", "b", after=("d",)).reads()) == ["a", "b", "d"]
    assert list(Step("a", ("work",), (Source(text="1"),)).reads()) == []


def test_a_large_graph_is_checked_quickly() -> None:
    steps = [step("s0", INPUT)]
    for n in range(1, 4000):
        steps.append(step(f"s{n}", f"s{n - 1}", f"s{n // 2}"))
        if n % 4 == 0:
            steps.append(verifies(f"v{n}", f"s{n}"))
    began = time.thread_time()
    check(graph(*steps, output="s3999"))
    assert time.thread_time() - began < 2


@given(st.data())
def test_any_graph_whose_steps_read_earlier_ones_passes(data: st.DataObject) -> None:
    steps: list[Step] = []
    keys = [INPUT]
    for n in range(data.draw(st.integers(1, 12))):
        reads = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True))
        steps.append(step(f"s{n}", *reads))
        keys.append(f"s{n}")
    last = step("last", *keys[1:])
    order = data.draw(st.permutations([*steps, last]))
    check(graph(*order, output="last"))


@given(st.data())
def test_any_ring_is_a_cycle(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    ring = [step(f"r{n}", f"r{(n - 1) % size}") for n in range(size)]
    order = data.draw(st.permutations([*ring, step("last", *(each.key for each in ring))]))
    with pytest.raises(CycleFound) as caught:
        check(graph(*order, output="last"))
    shown = str(caught.value).partition(": ")[2].partition(".")[0].split(" -> ")
    assert shown[0] == shown[-1]
    assert len(shown) == size + 1
