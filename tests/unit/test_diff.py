"""Two folded runs side by side: what counts as a difference, what is shared, where they part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

import flowkit.events as ev
from flowkit.chat import Usage
from flowkit.events import Error, Event
from flowkit.graph import INPUT, Graph, NodeSpec, Source, Step
from flowkit.history.diff import How, Run, RunDiff, diff
from flowkit.rewind import Fold
from flowkit.values import Value

KEYS = ("a", "b", "c")

GRAPH = Graph(
    tuple(
        Step(key, ("node", "other"), (Source(before),))
        for key, before in zip(KEYS, (INPUT, *KEYS), strict=False)
    ),
    "c",
    {name: NodeSpec(name, "tool", "f1") for name in ("node", "other")},
)


def run(
    run_id: str, values: Sequence[object], *, at: float = 1.0, entry: str = "0", cost: float = 0.0
) -> Run:
    """A run of three steps in a row: each value is a number, or an error; fewer values, not ended."""
    folded = Fold()
    events: list[Event] = []

    def tell(payload: ev.Payload, key: str = "", attempt: int = 0) -> None:
        events.append(Event(len(events) + 1, at, payload, key, 0, attempt))
        folded.apply(events[-1])

    tell(ev.RunStarted("flow", GRAPH, Value.of(entry)))
    tell(ev.Claimed(run_id, 1 << 40))
    for key, value in zip(KEYS, values, strict=False):
        if isinstance(value, Error):
            tell(ev.AttemptFailed(value, "fail"), key, 1)
            tell(ev.StepFailed(value), key, 1)
            tell(ev.RunEnded("failed", value, key))
            break
        hash_ = folded.state.input_hash(folded.state.by_exec[key])
        usage = Usage(10, 5, cost_usd=cost)
        tell(ev.ModelAnswered("q", 1, "m", Value.of(f'"{value}"'), usage=usage), key, 1)
        tell(ev.StepDone(hash_, Value.of(str(value)), at), key, 1)
    if len(values) == len(KEYS) and folded.state.failure is None:
        tell(ev.RunEnded("succeeded"))
    return Run(run_id, folded, events)


def forked(base: Run, run_id: str, keys: tuple[str, ...]) -> Run:
    """A fork that has only begun."""
    rewound = ev.Rewound(keys, None, base.run_id)
    events = [*base.events, Event(len(base.events) + 1, 9.0, rewound)]
    return Run(run_id, Fold().apply_all(events), events)


def hows(found: RunDiff) -> dict[str, How]:
    return {step.step: step.how for step in found.steps}


OUTCOMES = st.integers(0, 3) | st.builds(Error, st.just("ValueError"), st.sampled_from("xy"))
VALUES = st.lists(OUTCOMES, max_size=3)


@given(VALUES, VALUES)
def test_runs_are_the_same_exactly_if_each_step_gave_the_same(
    one: list[object], two: list[object]
) -> None:
    found = diff(run("r", one), run("s", two, at=50.0))

    def told(values: list[object]) -> list[str]:
        failed = next((n for n, each in enumerate(values) if isinstance(each, Error)), len(values))
        return [str(each) for each in values[: failed + 1]]

    assert found.same == (told(one) == told(two))
    assert found.shared == 0, "they were not forked, however alike they are"
    parted = next((n for n in range(3) if told(one)[n : n + 1] != told(two)[n : n + 1]), None)
    assert (found.parted.step if found.parted else None) == (
        None if parted is None else KEYS[parted]
    )


@given(VALUES, VALUES)
def test_the_other_way_round_it_is_the_same_difference(
    one: list[object], two: list[object]
) -> None:
    mirror: dict[How, How] = {
        "only in the first": "only in the second", "only in the second": "only in the first"
    }  # fmt: skip
    there, back = diff(run("r", one), run("s", two)), diff(run("s", two), run("r", one))
    assert {key: mirror.get(how, how) for key, how in hows(there).items()} == hows(back)
    assert (there.first, there.second) == (back.second, back.first)


@given(VALUES)
def test_a_run_is_wholly_shared_with_itself(values: list[object]) -> None:
    found = diff(run("r", values), run("r", values))
    assert found.same
    assert set(hows(found).values()) <= {"shared"}
    assert found.first.own == Usage()


@given(st.lists(OUTCOMES, min_size=1, max_size=3), st.sampled_from(KEYS))
def test_a_fork_shares_what_it_does_not_do_again(values: list[object], at: str) -> None:
    base = run("r", values, cost=0.5)
    fork = forked(base, "f", (at,))
    found = diff(base, fork)
    assert found.shared == len(base.events)
    done = [key for key in KEYS if key in hows(found)]
    before = done[: KEYS.index(at)]
    assert all(hows(found)[key] == "shared" for key in before if hows(found)[key] != "different")
    assert found.second.own == Usage()
    if at in done:
        assert found.parted is not None
        assert found.parted.step in (at, *before)


def test_forks_of_one_run_share_its_beginning_and_a_fork_of_a_fork_both() -> None:
    base = run("r", [1, 2, 3])
    one, two = forked(base, "f", ("b",)), forked(base, "g", ("c",))
    assert diff(one, two).shared == len(base.events)
    assert hows(diff(one, two)) == {"a": "shared", "b": "only in the second"}
    third = forked(one, "h", ())
    assert diff(base, third).shared == len(base.events)
    assert diff(one, third).shared == len(one.events)


def test_a_changed_answer_or_code_alone_is_told_and_is_no_difference() -> None:
    base = run("r", [1, 2, 3])
    events = list(base.events)
    asked = events[2]
    assert isinstance(asked.payload, ev.ModelAnswered)
    events[2] = replace(asked, payload=replace(asked.payload, value=Value.of('"otherwise"')))
    started = events[0].payload
    assert isinstance(started, ev.RunStarted)
    nodes = {**GRAPH.nodes, "node": NodeSpec("node", "tool", "f2")}
    events[0] = replace(events[0], payload=replace(started, graph=replace(GRAPH, nodes=nodes)))
    found = diff(base, Run("s", Fold().apply_all(events), events))
    assert found.same
    assert found.steps[0].parts == ("code", "answers")
    assert found.steps[1].parts == ("code",)


def test_what_makes_a_step_differ_is_named() -> None:
    bad = Error("ValueError", "no")
    found = diff(run("r", [1, 2, 3]), run("s", [5, 2, bad]))
    assert [step.parts for step in found.steps] == [
        ("result", "answers"),
        ("inputs",),
        ("status", "result", "error", "answers"),
    ]
    assert hows(found) == {"a": "different", "b": "same", "c": "different"}
    assert found.run_parts == ("status",)
    other = diff(run("r", [1], entry="0"), run("s", [1], entry="9"))
    assert other.run_parts == ("input",)
    assert not other.same


def test_usage_is_told_as_a_whole_and_what_is_not_shared() -> None:
    base = run("r", [1, 2, 3], cost=0.5)
    found = diff(base, forked(base, "f", ("c",)))
    assert found.first.usage == Usage(30, 15, cost_usd=1.5)
    assert (found.first.own, found.second.own) == (Usage(10, 5, cost_usd=0.5), Usage())
    assert found.second.usage == Usage(20, 10, cost_usd=1.0), "what it does not share is not its"
