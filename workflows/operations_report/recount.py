"""The month's numbers once more, from the lines by plain Python and fractions: what the verifier trusts.

It shares no code with `metrics` but the definitions, which stand there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

from flowkit.workflows.operations_report.values import Line, Numbers

TOLERANCE = 1e-9
"""Of a value's size: what floating point may lose, and far less than a cent of any month."""


def number_faults(numbers: Numbers, lines: Sequence[Line], month: str) -> list[str]:
    """What is not as the lines have it."""
    year, number = (int(part) for part in month.split("-"))
    earlier = (year, number - 1) if number > 1 else (year - 1, 12)
    compared = any((line.day.year, line.day.month) == earlier for line in lines)
    now = _counted(lines, (year, number))
    before = _counted(lines, earlier) if compared else {}
    found: list[str] = []
    for metric in numbers.metrics:
        wanted: Fraction | None
        then: Fraction | None
        if metric.name:
            what = metric.id.rpartition("_")[0]
            wanted = _of(lines, (year, number), what, metric.name)
            then = _of(lines, earlier, what, metric.name) if compared else None
        else:
            wanted, then = now[metric.id], before.get(metric.id)
        found += _apart(metric.id, metric.value, wanted)
        found += _apart(f"{metric.id} of the month before", metric.before, then)
        moved = _moved(metric.unit, wanted, then)
        found += _apart(f"change of {metric.id}", metric.change, moved)
    found += [f"{id} is missing" for id in now if id not in numbers.by_id()]
    return found + _series_faults(numbers, now)


def _counted(lines: Sequence[Line], month: tuple[int, int]) -> dict[str, Fraction | None]:
    cents: dict[str, int] = defaultdict(int)
    orders: set[str] = set()
    buyers: set[str] = set()
    bought: dict[str, set[str]] = defaultdict(set)
    earlier: set[str] = set()
    for line in lines:
        when = (line.day.year, line.day.month)
        if when == month:
            cents[line.state] += line.cents
        if line.state != "kept" or when > month:
            continue
        bought[line.customer].add(line.order)
        if when < month:
            earlier.add(line.customer)
        else:
            orders.add(line.order)
            buyers.add(line.customer)
    gmv = sum(cents.values())
    again = sum(len(bought[customer]) > 1 for customer in buyers)
    return {
        "gmv": Fraction(gmv, 100),
        "net_sales": Fraction(cents["kept"], 100),
        "orders": Fraction(len(orders)),
        "buyers": Fraction(len(buyers)),
        "new_buyers": Fraction(len(buyers - earlier)),
        "aov": _ratio(cents["kept"], 100 * len(orders)),
        "repeat_rate": _ratio(100 * again, len(buyers)),
        "cancel_rate": _ratio(100 * cents["cancelled"], gmv),
        "refund_rate": _ratio(100 * cents["refunded"], gmv),
    }


def _ratio(part: int, whole: int) -> Fraction | None:
    return Fraction(part, whole) if whole else None


def _of(lines: Sequence[Line], month: tuple[int, int], what: str, name: str) -> Fraction:
    return Fraction(
        sum(
            line.cents
            for line in lines
            if line.state == "kept"
            and (line.day.year, line.day.month) == month
            and (line.channel if what == "channel" else line.category) == name
        ),
        100,
    )


def _moved(unit: str, value: Fraction | None, before: Fraction | None) -> Fraction | None:
    if value is None or before is None:
        return None
    if unit == "percent":
        return value - before
    return (value - before) / before * 100 if before else None


def _apart(what: str, said: float | None, wanted: Fraction | None) -> list[str]:
    if said is None or wanted is None:
        return (
            []
            if said is None and wanted is None
            else [f"{what} is {said}, the rows give {_shown(wanted)}"]
        )
    right = float(wanted)
    # A difference of two near values loses digits of theirs, not of its own: hence the 1.
    if abs(said - right) <= TOLERANCE * max(1.0, abs(right)):
        return []
    return [f"{what} is {said!r}, the rows give {_shown(wanted)}"]


def _shown(value: Fraction | None) -> str:
    return "nothing" if value is None else repr(float(value))


def _series_faults(numbers: Numbers, now: dict[str, Fraction | None]) -> list[str]:
    series = numbers.series
    gmv = sum(round(100 * each[1]) for each in series.days)
    net = sum(round(100 * each[2]) for each in series.days)
    buyers = Fraction(series.new_buyers + series.returning_buyers)
    return [
        *_apart("the sum of the days' gmv", gmv / 100, now["gmv"]),
        *_apart("the sum of the days' net sales", net / 100, now["net_sales"]),
        *_apart("new and returning buyers", float(buyers), now["buyers"]),
    ]
