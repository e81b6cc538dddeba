"""The month's numbers, by pandas. `recount` computes the same another way, and a verifier compares.

    gmv            all lines of the month, cancelled and refunded ones too
    net_sales      gmv less cancelled and refunded lines
    orders         orders with a line that was kept;  buyers: their customers
    aov            net_sales / orders
    repeat_rate    buyers who have at least two such orders up to the month's end, of all buyers
    new_buyers     buyers without such an order before the month
    cancel_rate    cancelled lines' part of gmv;  refund_rate: refunded lines'

Money is added up in hundredths, as whole numbers, so that two ways can be compared exactly.
"""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flowkit.workflows.operations_report.values import Line, Metric, Numbers, Series, Unit

if TYPE_CHECKING:
    import pandas as pd

UNITS: Mapping[str, Unit] = MappingProxyType(
    {
        "gmv": "money",
        "net_sales": "money",
        "orders": "count",
        "buyers": "count",
        "new_buyers": "count",
        "aov": "money",
        "repeat_rate": "percent",
        "cancel_rate": "percent",
        "refund_rate": "percent",
    }
)
"""The numbers of every report, in order. Besides, `channel_1` to `channel_4` and `category_1` to
`category_4`: net sales of the largest ones, in money."""

LARGEST = 4

Values = Mapping[str, float | None]


def month_before(month: str) -> str:
    """The month before, as it is written."""
    first = dt.date.fromisoformat(f"{month}-01")
    return (first - dt.timedelta(days=1)).strftime("%Y-%m")


def measure(lines: Sequence[Line], month: str) -> Numbers:
    """The numbers of a month and the month before, from all lines up to its end."""
    import pandas as pd

    rows = [each.model_dump() for each in lines]
    frame = pd.DataFrame(rows, columns=list(Line.model_fields))
    frame["month"] = [each.day.strftime("%Y-%m") for each in lines]
    earlier = month_before(month)
    now, before = _values(frame, month), None
    if (frame["month"] == earlier).any():
        before = _values(frame, earlier)
    shares = [
        *_largest(frame, month, "channel", compared=before is not None),
        *_largest(frame, month, "category", compared=before is not None),
    ]
    metrics = [_metric(id, UNITS[id], now[id], before[id] if before else None) for id in UNITS]
    return Numbers(metrics=[*metrics, *shares], series=_series(frame, month, now))


def _values(frame: pd.DataFrame, month: str) -> Values:
    mine: Any = frame[frame["month"] == month]
    kept = mine[mine["state"] == "kept"]
    past = frame[(frame["month"] <= month) & (frame["state"] == "kept")]
    gmv, net = int(mine["cents"].sum()), int(kept["cents"].sum())
    orders, buyers = int(kept["order"].nunique()), int(kept["customer"].nunique())
    often = past.groupby("customer")["order"].nunique()
    again = int((often[often.index.isin(kept["customer"])] >= 2).sum())
    known = set(past.loc[past["month"] < month, "customer"])
    states: Any = mine.groupby("state")["cents"].sum()
    return {
        "gmv": gmv / 100,
        "net_sales": net / 100,
        "orders": float(orders),
        "buyers": float(buyers),
        "new_buyers": float(len(set(kept["customer"]) - known)),
        "aov": net / orders / 100 if orders else None,
        "repeat_rate": 100 * again / buyers if buyers else None,
        "cancel_rate": 100 * int(states.get("cancelled", 0)) / gmv if gmv else None,
        "refund_rate": 100 * int(states.get("refunded", 0)) / gmv if gmv else None,
    }


def _largest(frame: pd.DataFrame, month: str, what: str, *, compared: bool) -> list[Metric]:
    """Net sales of the largest ones of the month, by their rank."""
    kept: Any = frame[(frame["state"] == "kept") & (frame[what] != "")]
    now = kept[kept["month"] == month].groupby(what)["cents"].sum()
    then = kept[kept["month"] == month_before(month)].groupby(what)["cents"].sum()
    ranked = sorted(now.items(), key=lambda each: (-each[1], each[0]))[:LARGEST]
    return [
        _metric(
            f"{what}_{rank}",
            "money",
            int(cents) / 100,
            int(then.get(name, 0)) / 100 if compared else None,
            str(name),
        )
        for rank, (name, cents) in enumerate(ranked, 1)
    ]


def _metric(
    id: str, unit: Unit, value: float | None, before: float | None, name: str = ""
) -> Metric:
    return Metric(
        id=id, unit=unit, value=value, before=before, name=name, change=change(unit, value, before)
    )


def change(unit: Unit, value: float | None, before: float | None) -> float | None:
    """Per cent of what was before; for a percentage, the difference in points."""
    if value is None or before is None:
        return None
    if unit == "percent":
        return value - before
    return 100 * (value - before) / before if before else None


def _series(frame: pd.DataFrame, month: str, now: Values) -> Series:
    mine: Any = frame[frame["month"] == month]
    kept = mine[mine["state"] == "kept"]
    gmv, net = mine.groupby("day")["cents"].sum(), kept.groupby("day")["cents"].sum()
    first = dt.date.fromisoformat(f"{month}-01")
    length = calendar.monthrange(first.year, first.month)[1]
    days = [first + dt.timedelta(days=number) for number in range(length)]
    fresh = int(now["new_buyers"] or 0)
    return Series(
        days=[(day, int(gmv.get(day, 0)) / 100, int(net.get(day, 0)) / 100) for day in days],
        channels=_parts(kept, "channel"),
        categories=_parts(kept, "category"),
        new_buyers=fresh,
        returning_buyers=int(now["buyers"] or 0) - fresh,
    )


def _parts(kept: Any, what: str) -> list[tuple[str, float]]:
    """Net sales by channel or category, the largest first; what is beyond eight is one."""
    sums = kept[kept[what] != ""].groupby(what)["cents"].sum()
    ranked = sorted(sums.items(), key=lambda each: (-each[1], each[0]))
    shown = [(str(name), int(cents) / 100) for name, cents in ranked[:8]]
    rest = sum(int(cents) for _, cents in ranked[8:])
    return [*shown, ("…", rest / 100)] if rest else shown
