"""How a node is tried, and what a run may use: what is refused, and how long is waited."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.errors import DeclarationError
from flowkit.nodes.options import policy_of
from flowkit.policy import Budget, Limits, Policy

draws = st.floats(0, 1, exclude_max=True)


def test_by_default_nothing_is_tried_twice() -> None:
    policy = Policy()
    assert (policy.retries, policy.timeout_s, policy.concurrency) == (0, None, None)
    assert (policy.backoff_s, policy.backoff_max_s, policy.effect) == (0.5, 30.0, "idempotent")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retries": -1}, "retries=-1: at least 0"),
        ({"backoff_s": -0.1}, "backoff_s=-0.1: at least 0"),
        ({"backoff_s": math.nan}, "backoff_s=nan: at least 0"),
        ({"backoff_max_s": -1}, "backoff_max_s=-1: at least 0"),
        ({"timeout_s": 0}, "timeout_s=0: above 0, or None for no limit"),
        ({"timeout_s": -1}, "timeout_s=-1: above 0"),
        ({"timeout_s": math.nan}, "timeout_s=nan: above 0"),
        ({"concurrency": 0}, "concurrency=0: at least 1"),
        ({"effect": "twice"}, 'effect=\'twice\': use "pure", "idempotent" or "once"'),
        ({"effect": "once", "retries": 1}, 'effect="once" with retries'),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        Policy(**settings)
    assert message in str(caught.value)


def test_what_happens_once_may_have_all_but_retries() -> None:
    assert Policy(effect="once", timeout_s=1, concurrency=1, backoff_s=0).effect == "once"


@given(st.integers(1, 10_000), draws, st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_delay_is_within_its_bounds(
    tried: int, draw: float, backoff_s: float, backoff_max_s: float
) -> None:
    delay = Policy(backoff_s=backoff_s, backoff_max_s=backoff_max_s).delay_s(tried, draw)
    assert 0 <= delay <= backoff_max_s
    full = min(backoff_s * 2.0 ** min(tried - 1, 64), backoff_max_s)
    assert full / 2 <= delay <= full


@given(st.integers(1, 100), draws)
def test_delays_grow_until_their_limit(tried: int, draw: float) -> None:
    policy = Policy(backoff_s=0.5, backoff_max_s=30)
    assert policy.delay_s(tried, draw) <= policy.delay_s(tried + 1, draw)


def test_delays_double() -> None:
    policy = Policy(backoff_s=1, backoff_max_s=60)
    nearly = 1 - 2**-53
    assert [policy.delay_s(tried, 0) for tried in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [round(policy.delay_s(n, nearly), 6) for n in range(1, 9)] == [
        1,
        2,
        4,
        8,
        16,
        32,
        60,
        60,
    ]
    assert Policy(backoff_s=0).delay_s(5, 0.9) == 0
    assert policy.delay_s(10**9, 0) == 30


@pytest.mark.parametrize("name", ["steps_max", "attempts_max", "wall_s_max", "parallel_max"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_budget_of_nothing_is_refused(name: str, value: int) -> None:
    with pytest.raises(DeclarationError, match=rf"Budget: {name}={value}: above 0"):
        Budget(**{name: value})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [[3], "3", {}, True, 1.5])
def test_a_budget_that_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(DeclarationError, match=r"steps_max=.*a whole number, above 0"):
        Budget(steps_max=value)


def test_other_budgets_are_refused() -> None:
    with pytest.raises(DeclarationError, match=r"wall_s_max=nan"):
        Budget(wall_s_max=math.nan)
    with pytest.raises(DeclarationError, match='use "fail" or "answer"'):
        Budget(on_budget="stop")  # pyright: ignore[reportArgumentType]
    assert Budget(steps_max=1, wall_s_max=0.5, on_budget="answer").parallel_max == 100


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps_max", 0), ("turns_max", 0), ("replans_max", -1), ("repairs_max", -1)],
)
def test_limits_that_let_a_planner_do_nothing_are_refused(name: str, value: int) -> None:
    with pytest.raises(DeclarationError, match=rf"{name}={value}: at least"):
        Limits(**{name: value})
    Limits(**{name: value + 1})


def test_an_option_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(DeclarationError, match=r"'retry'; did you mean retries\?"):
        policy_of({"retry": 2})
