"""Events: every kind is stored and given back the same, and says what it makes of its run."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowkit.errors as fault
import flowkit.events as ev
from flowkit.graph import INPUT, Graph, NodeSpec, Source, Step
from flowkit.policy import Budget
from flowkit.store.encoding import decode, encode
from flowkit.values import Value

STEP = Step("write", ("write", "other"), (Source(INPUT), Source(text='{"a":1}')), ("search",))
GRAPH = Graph(
    (STEP, Step("check", ("check",), (Source("write"),), checks="write", attempts=3)),
    "write",
    {"write": NodeSpec("write", "tool", "f" * 32, once=True), "p": NodeSpec("p", "planner", "g")},
)
VALUE = Value.of('{"text":"grüß \\ud800"}')
LARGE = Value(None, "d" * 64, 100_000, items=3)
ERROR = ev.Error("ValueError", "no\x00 good", "file.py:3")

EVERY_KIND: list[ev.Payload] = [
    ev.RunStarted("wf", GRAPH, VALUE, Budget(steps_max=3, on_budget="answer"), 1e9),
    ev.Claimed("host/1/2", 1 << 40, "death"),
    ev.Intent("hash"),
    ev.ModelAnswered("request", 2, "model", VALUE, None, 1.5),
    ev.ToolAnswered("request", 1, "search", None, ERROR),
    ev.AttemptFailed(ERROR, "retry", 1e9 + 0.25, 0.1),
    ev.StepDone("hash", LARGE, 0.5),
    ev.StepFailed(ERROR),
    ev.Planned("hash", (STEP, STEP), True, 7),
    ev.Accepted("hash", 0.1),
    ev.Rejected("hash", "say \ufffd why"),
    ev.OutcomeUnknown("a crash"),
    ev.Decided("done", VALUE, "by hand"),
    ev.Waiting("signal", "approved", 2, 1e9),
    ev.Signalled("approved", 1, VALUE, "m1", True),
    ev.CancelRequested("no need", "m2"),
    ev.RunEnded("failed", ERROR, "write"),
    ev.Rewound(("plan/t2", "write@2"), GRAPH, "monday", "kimi"),
    ev.Started("search"),
    ev.Progress({"done": [1, None, "x"]}),
]


def back(payload: ev.Payload) -> ev.Payload:
    kind = ev.Event(1, 0.0, payload).kind
    data, text = encode(payload)
    data.encode("utf-8")
    assert "\x00" not in data
    return decode(kind, data, text)


def test_there_is_an_example_of_every_kind() -> None:
    assert [type(each) for each in EVERY_KIND] == list(get_args(ev.Payload))


@pytest.mark.parametrize("payload", EVERY_KIND, ids=lambda each: type(each).__name__)
def test_every_kind_is_given_back_the_same(payload: ev.Payload) -> None:
    assert back(payload) == payload


def test_kinds_are_stored_under_stable_names() -> None:
    assert [ev.Event(0, 0.0, each).kind for each in EVERY_KIND] == [
        "run_started", "claimed", "intent", "model_answered", "tool_answered", "attempt_failed",
        "step_done", "step_failed", "planned", "accepted", "rejected", "outcome_unknown", "decided",
        "waiting", "signalled", "cancel_requested", "run_ended", "rewound", "started", "progress",
    ]  # fmt: skip


def test_an_inline_value_stands_beside_the_event_and_a_large_one_by_its_hash() -> None:
    data, text = encode(ev.StepDone("hash", VALUE))
    assert (json.loads(data), text) == ({"input_hash": "hash"}, VALUE.text)
    data, text = encode(ev.StepDone("hash", LARGE))
    assert text is None
    assert json.loads(data)["value"]["digest"] == "d" * 64


def test_what_is_as_by_default_is_not_stored() -> None:
    data, _ = encode(ev.Planned("hash"))
    assert json.loads(data) == {"input_hash": "hash"}
    assert decode("planned", data, None) == ev.Planned("hash")


@pytest.mark.parametrize(
    ("kind", "data", "part"),
    [
        ("stepdone", "{}", "unknown kind of event 'stepdone'"),
        ("", "{}", "unknown kind of event ''"),
        ("StepDone", '{"input_hash":"x"}', "unknown kind"),
        ("step_done", "{}", "input_hash"),
        ("step_done", "{", "Invalid JSON"),
        ("run_ended", '{"status":"odd"}', "status"),
        ("claimed", '{"owner":"x","epoch":"one"}', "epoch"),
    ],
)
def test_what_is_not_known_is_not_read(kind: str, data: str, part: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        decode(kind, data, None)
    assert part in str(caught.value)


def test_events_are_numbered_from_nought() -> None:
    with pytest.raises(ValueError, match="seq -1 is below 0"):
        ev.Event(-1, 0.0, ev.Started("x"))


# ---- any event ----

texts = st.text(alphabet=st.characters(), max_size=10)  # with surrogates and U+0000
plain = st.text(max_size=10)
times = st.floats(0, 4e9)
values = st.none() | plain.map(json.dumps).map(Value.of) | st.builds(
    Value, text=st.none(), digest=plain, size=st.integers(0, 2**40),
    items=st.none() | st.integers(0, 10**6),
)  # fmt: skip
steps = st.builds(
    Step,
    key=plain,
    nodes=st.lists(plain, min_size=1, max_size=2).map(tuple),
    inputs=st.lists(
        st.builds(Source, step=plain, text=st.none() | plain, item=st.none() | st.integers()),
        max_size=2,
    ).map(tuple),
    after=st.lists(plain, max_size=2).map(tuple),
    each=st.booleans(),
    checks=plain,
    attempts=st.integers(1, 9),
    reject_moves=st.booleans(),
)
errors = st.builds(ev.Error, type=plain, message=texts, where=plain)
st.register_type_strategy(Value, st.builds(Value.of, plain.map(json.dumps)))


def payloads(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any payload of a kind."""
    known: dict[str, st.SearchStrategy[Any]] = {
        "value": values, "steps": st.lists(steps, max_size=3).map(tuple), "until": st.none() | times,
        "retry_at": st.none() | times, "deadline": st.none() | times, "duration_s": times,
        "error": errors if kind in (ev.AttemptFailed, ev.StepFailed) else st.none() | errors,
        "graph": st.just(GRAPH), "budget": st.builds(Budget, steps_max=st.none() | st.integers(1)),
        "data": st.none() | plain | st.lists(st.integers()), "feedback": texts,
        "reason": texts if kind is ev.OutcomeUnknown else plain,
    }  # fmt: skip
    names = [each.name for each in dataclasses.fields(kind)]
    return st.builds(kind, **{name: known[name] for name in names if name in known})


@given(st.one_of(*(payloads(kind) for kind in get_args(ev.Payload))))
def test_any_event_is_given_back_the_same_or_escaped(payload: ev.Payload) -> None:
    once = back(payload)
    assert type(once) is type(payload)
    assert back(once) == once
    if not any("\ud800" <= each <= "\udfff" for each in str(payload)):
        assert once == payload


# ---- what an event makes of its run ----


MOVING = (
    ev.RunStarted, ev.Claimed, ev.Waiting, ev.RunEnded, ev.Decided, ev.Signalled, ev.CancelRequested
)  # fmt: skip


def test_what_an_event_makes_of_its_run() -> None:
    def after(payload: ev.Payload, key: str = "") -> Any:
        return ev.status_after(ev.Event(1, 0.0, payload, key))

    assert after(ev.RunStarted("wf", GRAPH)) == ("pending", None)
    assert after(ev.Claimed("o", 1)) == ("running", None)
    assert after(ev.Waiting("signal", until=5.0)) == ("waiting", 5.0)
    assert after(ev.Waiting("signal")) == ("waiting", None)
    assert after(ev.Waiting("signal", until=5.0), "write") is None
    for woken in (
        ev.Decided("retry"),
        ev.Decided("done"),
        ev.Signalled("go"),
        ev.CancelRequested(),
    ):
        assert after(woken, "write") == ("running", None)
    for status in sorted(ev.FINAL):
        assert after(ev.RunEnded(status)) == (status, None)
    for payload in EVERY_KIND:
        if type(payload) not in MOVING:
            assert after(payload, "write") is None


def test_what_a_run_s_end_raises() -> None:
    assert ev.error_of(ev.RunEnded("succeeded")) is None
    failed = ev.error_of(ev.RunEnded("failed", ERROR, "write"))
    assert type(failed) is fault.StepFailed
    assert (failed.step, failed.error_type) == ("write", "ValueError")
    assert "step 'write' failed: ValueError: no" in str(failed)
    rejected = ev.error_of(ev.RunEnded("failed", ev.Error("Rejected", "why"), "write"))
    assert type(rejected) is fault.Rejected
    for kind in (
        fault.BudgetExceeded, fault.DeadlineExceeded, fault.RunCancelled, fault.RunQuarantined,
    ):  # fmt: skip
        made = ev.error_of(ev.RunEnded("cancelled", ev.Error(kind.__name__, "why")))
        assert type(made) is kind
        assert str(made) == "why"
    assert isinstance(ev.error_of(ev.RunEnded("failed")), fault.RunError)
