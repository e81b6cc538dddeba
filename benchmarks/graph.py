"""graph: declare a workflow of n steps with the DSL, and check it fully, as at import."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks import flows
from benchmarks.report import Figure, Row, at_most, in_turns, median, ratio, timed

SMALL = 500


def rows(n: int | None, repeats: int) -> Iterator[Row]:
    yield measure(n or 5000, repeats)


def measure(n: int, repeats: int) -> Row:
    small = max(n // 10, 1)
    large, base = in_turns(repeats, partial(_declare_s, n), partial(_declare_s, small))
    return Row(
        "graph",
        n,
        {
            "declare_and_check_ms": at_most(median(large) * 1000, 100),
            "over_a_tenth_of_the_steps": at_most(ratio(large, base), 15),
            "us_a_step": Figure(median(large) / n * 1e6),
        },
        {"tenth": small},
    )


def _declare_s(n: int) -> float:
    return timed(partial(flows.lattice, n))
