"""What verifiers check, as plain functions: each gives the list of what is wrong."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from flowkit.workflows.stock_analysis.values import (
    Evidence,
    Headlines,
    Indicators,
    Judgement,
    Prices,
)

ROWS_MIN = 60
"""Fewer days say nothing: MACD and its signal need 35, the 50-day mean 50."""

POINTS_MIN = 10
"""Shown days; the facts look five days back."""

SIGNED = frozenset(
    {
        "change_1d_pct",
        "change_5d_pct",
        "change_20d_pct",
        "close_vs_sma_20_pct",
        "close_vs_sma_50_pct",
        "macd_histogram",
    }
)
"""Facts whose sign is a direction: a positive one cannot support "down"."""

_TEXTBOOK = frozenset({0, 1, 2, 3, 4, 5, 9, 10, 12, 14, 20, 26, 30, 50, 70, 100})
"""Numbers that are names and thresholds, such as "RSI 14", "20-day" or "above 70"."""

_NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_SPAN = re.compile(
    r"\b\d+(?:\s?(?:-|–|to)\s?\d+)?[\s-]?(?:trading[\s-])?(?:day|session|week|month|year)s?\b"
)
"""A stretch of time, such as "10 to 15 trading days": no measured number."""


def price_problems(prices: Prices) -> list[str]:
    """Enough days, in order, with prices that a market can have."""
    bars = prices.bars
    found: list[str] = []
    if len(bars) < ROWS_MIN:
        found.append(f"{len(bars)} days of prices, at least {ROWS_MIN} are needed")
    dates = [bar.date for bar in bars]
    if any(later <= earlier for earlier, later in itertools.pairwise(dates)):
        found.append("the dates are not in order, each once")
    for bar in bars:
        cells = (bar.open, bar.high, bar.low, bar.close)
        sound = all(math.isfinite(cell) and cell > 0 for cell in cells)
        if not sound or bar.high < max(cells) or bar.low > min(cells) or bar.volume < 0:
            found.append(
                f"{bar.date}: open {bar.open}, high {bar.high}, low {bar.low}, close {bar.close}"
            )
            break
    if bars and prices.left_out > len(bars) // 4:
        found.append(f"{prices.left_out} of {prices.left_out + len(bars)} days were unusable")
    if len(bars) >= 2 and len({bar.close for bar in bars[-20:]}) == 1:
        found.append("the close has not moved in 20 days: a stopped or invented series")
    return found


def indicator_problems(measured: Indicators, prices: Prices) -> list[str]:
    """Values in their ranges, dates in order and the same as the prices', enough rows."""
    points = measured.points
    found: list[str] = []
    if len(points) + measured.warmup != len(prices.bars) or len(points) < POINTS_MIN:
        found.append(
            f"{len(points)} points and {measured.warmup} of warm-up for {len(prices.bars)} days"
        )
    if [point.date for point in points] != [bar.date for bar in prices.bars[-len(points) :]]:
        found.append("the dates are not those of the prices")
    highest = max((bar.high for bar in prices.bars), default=0.0)
    for point in points:
        numbers = (point.close, point.sma_20, point.macd, point.macd_signal, point.macd_histogram)
        apart = point.macd - point.macd_signal - point.macd_histogram
        if not 0 <= point.rsi_14 <= 100:
            found.append(f"{point.date}: RSI {point.rsi_14} is not between 0 and 100")
        elif not all(math.isfinite(number) and abs(number) <= highest for number in numbers):
            found.append(f"{point.date}: a value is no number, or larger than any price")
        elif abs(apart) > 3e-4:
            found.append(f"{point.date}: the histogram is not MACD less its signal")
        else:
            continue
        break
    found += [
        f"{name} is {value}" for name, value in measured.facts.items() if not math.isfinite(value)
    ]
    return found


def judgement_problems(judgement: Judgement, measured: Indicators, news: Headlines) -> list[str]:
    """It cites given numbers as they are, leans where its evidence leans, and names the risk."""
    facts = measured.facts
    found = [problem for item in judgement.evidence for problem in _evidence_problems(item, facts)]
    cited = {item.fact for item in judgement.evidence}
    if "rsi_14" not in cited:
        found.append("cite rsi_14 among the evidence")
    if not any(name.startswith("macd") for name in cited):
        found.append("cite a MACD number (macd, macd_signal or macd_histogram) among the evidence")
    if len(cited) < 3:
        found.append("cite at least three different facts")
    found += _leaning_problems(judgement)
    known = [*facts.values(), *_numbers(item.title for item in news.items)]
    known += [judgement.confidence, 100 * judgement.confidence]
    days = {point.date for point in measured.points[-20:]}
    known += [part for day in days for part in (day.year, day.month, day.day)]
    texts = [judgement.summary, judgement.risk, *(item.reading for item in judgement.evidence)]
    for number in dict.fromkeys(_written(texts)):
        if not _is_known(number, known):
            found.append(
                f"{number} is in the text but not among the given numbers: "
                f"quote given numbers only, calculate nothing"
            )
    if len(judgement.risk.split()) < 4:
        found.append("name the risk: say in a sentence what would make this judgement wrong")
    return found


def _evidence_problems(item: Evidence, facts: Mapping[str, float]) -> list[str]:
    given = facts.get(item.fact)
    if given is None:
        return [f"no fact is called {item.fact[:60]!r}; the facts are {', '.join(facts)}"]
    if not _same(repr(item.value), given, signed=True):
        return [f"{item.fact} is {given:g}, not {item.value:g}"]
    against = {"up": -1, "down": 1}.get(item.supports, 0)
    if item.fact in SIGNED and given * against > 0:
        return [f"{item.fact} is {given:g}: that does not support {item.supports!r}"]
    return []


def _leaning_problems(judgement: Judgement) -> list[str]:
    up = sum(item.supports == "up" for item in judgement.evidence)
    down = sum(item.supports == "down" for item in judgement.evidence)
    shown = f"{up} of the evidence supports up, {down} supports down"
    if judgement.trend == "up" and up <= down:
        return [f"the trend is up, but {shown}"]
    if judgement.trend == "down" and down <= up:
        return [f"the trend is down, but {shown}"]
    if judgement.trend == "sideways" and len(judgement.evidence) in (up, down):
        return [f"the trend is sideways, but {shown}"]
    return []


def _written(texts: Iterable[str]) -> list[str]:
    return [match for text in texts for match in _NUMBER.findall(_SPAN.sub("", text))]


def _numbers(texts: Iterable[str]) -> list[float]:
    return [float(number.replace(",", "")) for number in _written(texts)]


def _is_known(number: str, known: Sequence[float]) -> bool:
    value = float(number.replace(",", ""))
    if value in _TEXTBOOK:
        return True
    return any(_same(number.replace(",", ""), given, signed=False) for given in known)


def _same(written: str, given: float, *, signed: bool) -> bool:
    """Whether a written number is the given one, rounded to the digits that were written.

    Rounding may take at most five per cent, so that 18 is 17.78 but 0 is not 0.4.
    """
    value = float(written)
    if not math.isfinite(value):
        return False
    mantissa, _, exponent = written.lower().partition("e")
    digits = len(mantissa.partition(".")[2].rstrip("0")) - int(exponent or 0)
    target = given if signed else abs(given)
    coarse = max(0.05 * abs(given), 0.005)
    return abs(value - target) <= min(0.5 * 10.0**-digits, coarse) + 1e-9
