"""MACD, RSI and the few numbers beside them, with pandas.

MACD: Gerald Appel, *The Moving Average Convergence-Divergence Trading Method* (1979), with his usual
12, 26 and 9 days. RSI: J. Welles Wilder, *New Concepts in Technical Trading Systems* (1978), with 14
days and his smoothing, which is an exponential mean with alpha = 1/14. Exponential means begin with
the first value; so earlier days are taken as warm-up, after which the beginning has no weight left.
"""

from __future__ import annotations

import math

import pandas as pd

from flowkit.workflows.stock_analysis.checks import ROWS_MIN
from flowkit.workflows.stock_analysis.values import Bar, Indicators, Point, Prices

FAST, SLOW, SIGNAL, WILDER = 12, 26, 9, 14
_TRADING_DAYS = 252


def closes_of(bars: list[Bar]) -> pd.Series[float]:
    """Closing prices by day."""
    index = pd.DatetimeIndex([bar.date for bar in bars])
    return pd.Series([bar.close for bar in bars], index=index, dtype="float64")


def macd(closes: pd.Series[float]) -> pd.DataFrame:
    """Columns `macd`, `macd_signal` and `macd_histogram`, their difference."""
    fast = closes.ewm(span=FAST, adjust=False).mean()
    slow = closes.ewm(span=SLOW, adjust=False).mean()
    line = fast - slow
    signal = line.ewm(span=SIGNAL, adjust=False).mean()
    return pd.DataFrame({"macd": line, "macd_signal": signal, "macd_histogram": line - signal})


def rsi(closes: pd.Series[float]) -> pd.Series[float]:
    """0 to 100; 50 while nothing has moved yet."""
    change = closes.diff().fillna(0.0)
    gain = change.clip(lower=0.0).ewm(alpha=1 / WILDER, adjust=False).mean()
    loss = (-change.clip(upper=0.0)).ewm(alpha=1 / WILDER, adjust=False).mean()
    total = gain + loss
    return (100.0 * gain / total.where(total > 0.0)).fillna(50.0)


def measure(prices: Prices, days: int) -> Indicators:
    """Indicators over all bars, of which the last `days` are shown.

    Raises:
        ValueError: fewer bars than `ROWS_MIN`.
    """
    if len(prices.bars) < ROWS_MIN:
        raise ValueError(f"{len(prices.bars)} days of prices; at least {ROWS_MIN} are needed")
    closes = closes_of(prices.bars)
    table = macd(closes).assign(
        close=closes,
        rsi_14=rsi(closes),
        sma_20=closes.rolling(20).mean(),
        sma_50=closes.rolling(50).mean(),
    )
    # The first shown day needs its 20-day mean; the 50-day mean may begin later.
    shown = table.iloc[max(19, len(table) - days) :]
    points = [
        _point(bar, row) for bar, row in zip(prices.bars[-len(shown) :], _rows(shown), strict=True)
    ]
    return Indicators(
        ticker=prices.ticker,
        points=points,
        facts=_facts(prices.bars, points, closes),
        warmup=len(table) - len(shown),
    )


def _rows(table: pd.DataFrame) -> list[dict[str, float]]:
    return [
        {str(name): float(cell) for name, cell in row.items()} for row in table.to_dict("records")
    ]


def _point(bar: Bar, row: dict[str, float]) -> Point:
    rounded = {name: round(cell, 4) for name, cell in row.items() if math.isfinite(cell)}
    return Point.model_validate({"date": bar.date, "sma_50": None, **rounded})


def _facts(bars: list[Bar], points: list[Point], closes: pd.Series[float]) -> dict[str, float]:
    last = points[-1]
    before = points[-6]
    month = bars[-20:]
    sma_50 = float(closes.iloc[-50:].mean())
    returns = closes.pct_change().iloc[-20:]
    usual = sum(bar.volume for bar in month) / len(month)
    recent = sum(bar.volume for bar in bars[-5:]) / 5
    exact = {
        "close": last.close,
        "change_1d_pct": _change(closes, 1),
        "change_5d_pct": _change(closes, 5),
        "change_20d_pct": _change(closes, 20),
        "sma_20": last.sma_20,
        "sma_50": sma_50,
        "close_vs_sma_20_pct": 100 * (last.close / last.sma_20 - 1),
        "close_vs_sma_50_pct": 100 * (last.close / sma_50 - 1),
        "macd": last.macd,
        "macd_signal": last.macd_signal,
        "macd_histogram": last.macd_histogram,
        "macd_histogram_5d_ago": before.macd_histogram,
        "rsi_14": last.rsi_14,
        "rsi_14_5d_ago": before.rsi_14,
        "high_20d": max(bar.high for bar in month),
        "low_20d": min(bar.low for bar in month),
        "volatility_20d_pct": 100 * float(returns.std()) * math.sqrt(_TRADING_DAYS),
        "volume_5d_vs_20d_pct": 100 * (recent / usual - 1) if usual else 0.0,
    }
    return {name: _shown(value) for name, value in exact.items()}


def _change(closes: pd.Series[float], days: int) -> float:
    return 100 * (float(closes.iloc[-1]) / float(closes.iloc[-1 - days]) - 1)


def _shown(value: float) -> float:
    """As many digits as a person can use: two, or more for shares that cost cents."""
    digits = 2 if abs(value) >= 1 else 4
    return round(value, digits) + 0.0
