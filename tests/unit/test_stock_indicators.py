"""MACD and RSI against TA-Lib, an implementation by somebody else, and against their definitions."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest
import talib
from hypothesis import given
from hypothesis import strategies as st

from flowkit.workflows.stock_analysis.checks import indicator_problems, price_problems
from flowkit.workflows.stock_analysis.indicators import closes_of, macd, measure, rsi
from flowkit.workflows.stock_analysis.judging import MEANINGS
from flowkit.workflows.stock_analysis.sources import BUNDLED, bars_of, bundled_rows
from flowkit.workflows.stock_analysis.values import Bar, Prices


def shipped(ticker: str = "GOOG", count: int = 795) -> Prices:
    bars, _ = bars_of(bundled_rows(ticker))
    return Prices(ticker=ticker, source=BUNDLED, bars=bars[-count:])


def invented(closes: list[float], volume: int = 1000) -> Prices:
    first = dt.date(2020, 1, 1)
    bars = [
        Bar(date=first + dt.timedelta(days=i), open=c, high=c, low=c, close=c, volume=volume)
        for i, c in enumerate(closes)
    ]
    return Prices(ticker="X", source=BUNDLED, bars=bars)


@pytest.mark.parametrize("ticker", ["AAPL", "GOOG", "IBM", "MSFT"])
def test_values_are_those_of_talib_after_the_warm_up(ticker: str) -> None:
    closes = closes_of(shipped(ticker).bars)
    library: Any = talib
    theirs: Any = library.MACD(closes.to_numpy(), 12, 26, 9)
    mine = macd(closes)
    for name, values in zip(("macd", "macd_signal", "macd_histogram"), theirs, strict=True):
        np.testing.assert_allclose(mine[name].to_numpy()[250:], values[250:], rtol=0, atol=1e-5)
    strength: Any = library.RSI(closes.to_numpy(), 14)
    np.testing.assert_allclose(rsi(closes).to_numpy()[250:], strength[250:], rtol=0, atol=1e-5)


def test_measured_points_are_those_values() -> None:
    prices = shipped(count=370)
    measured = measure(prices, 120)
    library: Any = talib
    strength: Any = library.RSI(closes_of(shipped().bars).to_numpy(), 14)[-120:]
    assert measured.warmup == 250
    assert [point.date for point in measured.points] == [bar.date for bar in prices.bars[-120:]]
    np.testing.assert_allclose([p.rsi_14 for p in measured.points], strength, atol=1e-4)
    assert measured.facts["rsi_14"] == round(float(strength[-1]), 2)


def test_facts_are_what_their_names_say() -> None:
    prices = shipped(count=370)
    facts = measure(prices, 120).facts
    closes = [bar.close for bar in prices.bars]
    assert facts["close"] == 806.19
    assert facts["change_20d_pct"] == round(100 * (closes[-1] / closes[-21] - 1), 2)
    assert facts["sma_50"] == round(sum(closes[-50:]) / 50, 2)
    assert facts["high_20d"] == max(bar.high for bar in prices.bars[-20:])
    assert facts["macd_histogram"] == pytest.approx(facts["macd"] - facts["macd_signal"], abs=0.011)
    assert facts.keys() == MEANINGS.keys()


def test_rsi_at_its_ends() -> None:
    rising = rsi(closes_of(invented([float(i) for i in range(1, 101)]).bars))
    falling = rsi(closes_of(invented([float(i) for i in range(200, 100, -1)]).bars))
    still = rsi(closes_of(invented([5.0] * 80).bars))
    assert (rising.iloc[-1], falling.iloc[-1], still.iloc[-1]) == (100.0, 0.0, 50.0)


def test_wilders_mean_by_hand() -> None:
    """1.0, 2.0, 1.5: mean gain 1/14 then 13/196, mean loss 0 then 0.5/14."""
    gain, loss = 13 / 196, 0.5 / 14
    expected = 100 - 100 / (1 + gain / loss)
    assert rsi(closes_of(invented([1.0, 2.0, 1.5]).bars)).iloc[-1] == pytest.approx(expected)


def test_too_few_days_are_refused() -> None:
    with pytest.raises(ValueError, match="59 days of prices; at least 60"):
        measure(shipped(count=59), 40)
    assert len(measure(shipped(count=60), 120).points) == 41


@given(
    st.lists(
        st.floats(0.001, 1e6, allow_nan=False).map(lambda x: round(x, 3)), min_size=60, max_size=90
    ),
    st.integers(10, 70),
)
def test_any_prices_give_indicators_in_their_ranges(closes: list[float], days: int) -> None:
    prices = invented(closes)
    assert indicator_problems(measure(prices, days), prices) == []


def test_shipped_prices_pass_the_checks() -> None:
    for ticker in ("AAPL", "GOOG", "IBM", "MSFT"):
        assert price_problems(shipped(ticker)) == []


def broken(**change: Any) -> Prices:
    prices = shipped(count=100)
    bars = list(prices.bars)
    bars[50] = bars[50].model_copy(update=change)
    return prices.model_copy(update={"bars": bars})


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        (shipped(count=59), "59 days of prices"),
        (broken(date=dt.date(2001, 1, 1)), "not in order"),
        (broken(close=float("nan")), "close nan"),
        (broken(low=-1.0), "low -1"),
        (broken(high=1.0), "high 1.0"),
        (shipped(count=100).model_copy(update={"left_out": 60}), "60 of 160 days were unusable"),
        (invented([5.0] * 100), "has not moved in 20 days"),
    ],
)
def test_unusable_prices_are_named(prices: Prices, said: str) -> None:
    assert said in "; ".join(price_problems(prices))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rsi_14": 100.5}, "RSI 100.5 is not between 0 and 100"),
        ({"macd_histogram": 3.0}, "the histogram is not MACD less its signal"),
        ({"macd": float("inf")}, "no number, or larger than any price"),
        ({"date": dt.date(2001, 1, 1)}, "dates are not those of the prices"),
    ],
)
def test_indicators_out_of_range_are_named(change: dict[str, Any], said: str) -> None:
    prices = shipped(count=370)
    measured = measure(prices, 120)
    points = list(measured.points)
    points[7] = points[7].model_copy(update=change)
    wrong = measured.model_copy(update={"points": points})
    assert said in "; ".join(indicator_problems(wrong, prices))
    fewer = measured.model_copy(update={"points": measured.points[-9:]})
    assert "9 points" in "; ".join(indicator_problems(fewer, prices))
