"""Arithmetic for models: what is calculated, what is refused, and that nothing is ever run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.nodes.tools import calculate
from flowkit.nodes.tools.calculate import BadExpression, evaluate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1,250 + 380) / 2", 815),
        ("60.5 − 35", 25.5),
        ("6 × 7 ÷ 2", 21),
        ("7 // 2 + 7 % 2", 4),
        ("-2 ** 2", -4),
        ("2 ** 0.5", 1.41421356237),
        ("10 ** -5", 1e-05),
        ("0.1 + 0.2", 0.3),
        ("12,345,678 + 1", 12345679),
        ("1_000 * 2", 2000),
        ("1.5e3 + 0.5", 1500.5),
        ("max(1, 200)", 200),
        ("min([3, 2])", 2),
        ("sum([1, 2], 3)", 6),
        ("mean(1, 2, 3, 4)", 2.5),
        ("median([1, 9, 4])", 4),
        ("round(2 / 3, 2)", 0.67),
        ("round(1234, -2)", 1200),
        ("sqrt(16) + abs(-1) + floor(1.9) + ceil(0.1)", 7),
        ("log(8, 2)", 3),
        ("log10(1000)", 3),
        ("round(log(e), 5) + round(exp(0), 5)", 2),
        ("pi", 3.14159265359),
        ("2 ** 200", 2**200),
        ("1.17 * sqrt(100)", 11.7),
    ],
)
def test_arithmetic(expression: str, value: float) -> None:
    found = evaluate(expression)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("expression", "taught"),
    [
        ("1 / 0", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("2 ** 100000", "too large"),
        ("9 ** 9 ** 9", "too large"),
        ("1e308 * 10", "too large"),
        ("exp(10000)", "too large"),
        ("(-8) ** 0.5", "no real value"),
        ("sqrt(-1)", "no value"),
        ("log(0)", "no value"),
        ("log(8, 1)", "divides by zero"),
        ("max(1,200)", "write '1200' for one number, '1, 200' for more"),
        ("[1,200]", "a comma separates"),
        ("[1, 2]", "put it into sum"),
        ("1, 2", "put it into sum"),
        ("[1, 2] + 3", "a list stands where a number is needed"),
        ("abs([1])", "takes numbers, not a list"),
        ("abs(1, 2)", "takes 1 number, got 2"),
        ("round(1, 2, 3)", "takes 1 or 2, got 3"),
        ("sum()", "takes at least 1 number, got 0"),
        ("round(1.5, 0.5)", "a whole number"),
        ("2 ^ 3", r"write \*\*"),
        ("5m + 2", "without a unit"),
        ("2pi", r"2 \* pi"),
        ("20 % of 80", r"80 \* 5 / 100"),
        ("x = 3", "has no ="),
        ("height - 3", "'height' is not known"),
        ("", "is not arithmetic"),
        ("€5", "is no part of arithmetic"),
        ("1 if 2 else 3", "is no arithmetic"),
        ("1 < 2", "is no arithmetic"),
        ("True + 1", "is no arithmetic"),
        ("(1)(2)", "is not known"),
        ("sum(x for x in [1])", "is no arithmetic"),
        ("sum(*[1])", "is no arithmetic"),
        ("round(1, ndigits=2)", "is not known"),
        ("().__class__", "is no arithmetic"),
        ("abs.__globals__", "is no arithmetic"),
        ("__import__('os').system('true')", "is no part of arithmetic"),
        ("lambda: 1", "is no part of arithmetic"),
        ("(x := 1)", "is no part of arithmetic"),
        ("-" * 500 + "1", "nested more than 40"),
        ("(" * 300 + "1" + ")" * 300, "is not arithmetic"),
        ("1+" * 600 + "1", "at most 1000"),
        ("1\0", "is no part of arithmetic"),
    ],
)
def test_what_is_no_arithmetic_teaches(expression: str, taught: str) -> None:
    with pytest.raises(BadExpression, match=taught) as caught:
        evaluate(expression)
    assert len(str(caught.value)) < 500


@given(st.text(max_size=60))
def test_any_text_is_calculated_or_refused(text: str) -> None:
    try:
        value = evaluate(text)
    except BadExpression:
        return
    assert math.isfinite(value)


@given(st.text(alphabet="0123456789+-*/%().,[] esumaxlogi^", max_size=40))
def test_any_arithmetic_is_calculated_or_refused(text: str) -> None:
    try:
        value = evaluate(text)
    except BadExpression:
        return
    assert math.isfinite(value)


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_whole_numbers_are_exact_and_may_have_commas(left: int, right: int) -> None:
    assert evaluate(f"{left:,} + ({right:,})") == left + right
    assert evaluate(f"({left}) * ({right})") == left * right


def test_a_model_is_told_what_it_may_write() -> None:
    schema = calculate.codecs()["expression"].schema()
    assert "sqrt" in str(schema)
    assert calculate.policy.effect == "pure"
