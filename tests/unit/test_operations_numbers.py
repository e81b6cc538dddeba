"""The month's numbers: two ways agree on whatever orders there are, and a changed number is caught."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowkit.workflows.operations_report.findings import read_by_rules, reading_faults
from flowkit.workflows.operations_report.metrics import measure
from flowkit.workflows.operations_report.recount import number_faults
from flowkit.workflows.operations_report.values import Language, Line, Numbers

MONTH = "2026-03"

some_lines = st.lists(
    st.builds(
        Line,
        order=st.sampled_from("abcdefgh"),
        customer=st.sampled_from(["x", "y", "z"]),
        day=st.dates(dt.date(2025, 12, 20), dt.date(2026, 3, 31)),
        cents=st.integers(0, 10**12),
        state=st.sampled_from(["kept", "kept", "cancelled", "refunded"]),
        channel=st.sampled_from(["", "Web", "抖音", "24/7 {shop}"]),
        category=st.sampled_from(["", "Tea"]),
    ),
    min_size=1,
    max_size=12,
)


def line(order: str, customer: str, day: str, cents: int, state: str = "kept", **more: str) -> Line:
    told = {"order": order, "customer": customer, "day": day, "cents": cents, "state": state}
    return Line.model_validate(told | more)


LINES = [
    line("1", "ann", "2026-02-03", 10000, channel="Web"),
    line("2", "bob", "2026-02-04", 20000, channel="Shop"),
    line("3", "ann", "2026-03-01", 30000, channel="Web"),  # bought before
    line("3", "ann", "2026-03-01", 500, channel="Web"),  # a second line of the same order
    line("4", "cid", "2026-03-02", 10000, channel="Web"),
    line("5", "cid", "2026-03-09", 10000, channel="Shop"),  # twice in the month
    line("6", "dot", "2026-03-10", 9500, channel="Shop"),  # new, once
    line("7", "eve", "2026-03-11", 40000, "cancelled", channel="Shop"),
    line("8", "bob", "2026-03-12", 20000, "refunded", channel="Web"),
]


def test_numbers_worked_out_by_hand() -> None:
    found = measure(LINES, MONTH).by_id()
    value = {id: each.value for id, each in found.items()}
    assert value["gmv"] == 1200.0
    assert value["net_sales"] == 600.0
    assert (value["orders"], value["buyers"], value["new_buyers"]) == (4, 3, 2)
    assert value["aov"] == 150.0
    assert value["repeat_rate"] == pytest.approx(100 * 2 / 3)
    assert value["cancel_rate"] == pytest.approx(100 / 3)
    assert value["refund_rate"] == pytest.approx(100 / 6)
    assert (found["channel_1"].name, value["channel_1"]) == ("Web", 405.0)
    assert (found["gmv"].before, found["gmv"].change) == (300.0, 300.0)
    assert found["repeat_rate"].before == 0.0
    assert found["repeat_rate"].change == pytest.approx(100 * 2 / 3), "points, not per cent"
    assert number_faults(measure(LINES, MONTH), LINES, MONTH) == []


def test_without_a_month_before_nothing_is_compared() -> None:
    found = measure(LINES[2:], MONTH)
    assert {each.change for each in found.metrics} == {None}
    assert number_faults(found, LINES[2:], MONTH) == []


@settings(max_examples=60, deadline=None)
@given(some_lines)
def test_both_ways_agree(lines: list[Line]) -> None:
    assert number_faults(measure(lines, MONTH), lines, MONTH) == []


@pytest.mark.parametrize("part", ["value", "before", "change"])
def test_every_changed_number_is_caught(part: str) -> None:
    right = measure(LINES, MONTH)
    for at, metric in enumerate(right.metrics):
        old: float | None = getattr(metric, part)
        for other in (None if old is not None else 1.0, (old or 0.0) + 0.01):
            wrong = [*right.metrics]
            wrong[at] = metric.model_copy(update={part: other})
            faults = number_faults(right.model_copy(update={"metrics": wrong}), LINES, MONTH)
            assert any(metric.id in fault for fault in faults), (metric.id, part, other)


def test_a_missing_number_and_wrong_charts_are_caught() -> None:
    right = measure(LINES, MONTH)
    fewer = right.model_copy(update={"metrics": right.metrics[1:]})
    assert "gmv is missing" in number_faults(fewer, LINES, MONTH)
    first = right.series.days[0]
    days = [(first[0], first[1] + 1, first[2]), *right.series.days[1:]]
    series = right.series.model_copy(update={"days": days, "new_buyers": 7})
    faults = number_faults(right.model_copy(update={"series": series}), LINES, MONTH)
    assert len(faults) == 2


@settings(max_examples=60, deadline=None)
@given(some_lines, st.sampled_from(["en", "zh"]))
def test_the_rules_pass_the_check_that_models_must_pass(
    lines: list[Line], language: Language
) -> None:
    lines = [*lines, line("z", "w", "2026-03-05", 100)]
    numbers: Numbers = measure(lines, MONTH)
    assert reading_faults(read_by_rules(numbers, language), numbers) == []
