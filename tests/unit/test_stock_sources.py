"""What the quote sources send, in their recorded shapes, with numbers from the shipped prices.

The shapes: Yahoo's chart v8 JSON (with its full `meta`, nulls, and error bodies), Stooq's CSV, the
tables of Yahoo's and Stock Analysis's history pages. Other tests serve them over loopback.
"""

from __future__ import annotations

import datetime as dt
import json
import random
from typing import Any

import pytest

from flowkit.workflows.stock_analysis import sources
from flowkit.workflows.stock_analysis.sources import (
    BUNDLED,
    Row,
    bars_of,
    bundled_rows,
    parse_csv,
    parse_date,
    parse_history_page,
    parse_quotes,
    parse_yahoo_chart,
    prices_from,
)
from flowkit.workflows.stock_analysis.values import Bar
from flowkit.workflows.stock_analysis.web import Body, SourceError

LAST_DAY = dt.date(2013, 3, 1)


def shipped(ticker: str = "GOOG", count: int = 370) -> list[Bar]:
    bars, _ = bars_of(bundled_rows(ticker))
    return bars[-count:]


def yahoo_chart(bars: list[Bar], *, symbol: str = "GOOG", nulls: tuple[int, ...] = ()) -> str:
    """An answer of query1.finance.yahoo.com/v8/finance/chart; `nulls`: days without numbers."""

    def column(name: str) -> list[Any]:
        return [None if i in nulls else getattr(bar, name) for i, bar in enumerate(bars)]

    opened = [
        int(dt.datetime.combine(bar.date, dt.time(14, 30), dt.UTC).timestamp()) for bar in bars
    ]
    period = {
        "timezone": "EST",
        "start": opened[-1],
        "end": opened[-1] + 23400,
        "gmtoffset": -18000,
    }
    meta = {
        "currency": "USD",
        "symbol": symbol,
        "exchangeName": "NMS",
        "fullExchangeName": "NasdaqGS",
        "instrumentType": "EQUITY",
        "firstTradeDate": 1092922200,
        "regularMarketTime": opened[-1] + 23400,
        "hasPrePostMarketData": True,
        "gmtoffset": -18000,
        "timezone": "EST",
        "exchangeTimezoneName": "America/New_York",
        "regularMarketPrice": bars[-1].close,
        "chartPreviousClose": bars[0].open,
        "priceHint": 2,
        "currentTradingPeriod": {"pre": period, "regular": period, "post": period},
        "dataGranularity": "1d",
        "range": "",
        "validRanges": ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"],
    }
    quote = {name: column(name) for name in ("volume", "low", "open", "close", "high")}
    indicators = {"quote": [quote], "adjclose": [{"adjclose": column("close")}]}
    result = {"meta": meta, "timestamp": opened, "indicators": indicators}
    return json.dumps({"chart": {"result": [result], "error": None}})


YAHOO_NOT_FOUND = json.dumps(
    {
        "chart": {
            "result": None,
            "error": {
                "code": "Not Found",
                "description": "No data found, symbol may be delisted",
            },
        }
    }
)


def stooq_csv(bars: list[Bar]) -> str:
    lines = [f"{b.date},{b.open},{b.high},{b.low},{b.close},{b.volume}" for b in bars]
    return "\r\n".join(["Date,Open,High,Low,Close,Volume", *lines, ""])


STOOQ_CHALLENGE = (
    "<!DOCTYPE html><html><head><title>Just a moment</title></head>"
    "<body><script>/* proof of work */</script></body></html>"
)


def history_page(bars: list[Bar]) -> str:
    """The table of stockanalysis.com/stocks/goog/history/: newest first, Svelte comments between."""
    rows = "".join(
        f'<tr class="svelte-ta1t6m"><td>{b.date:%b} {b.date.day}, {b.date.year}</td>'
        f"<td>{b.open:,}</td><td>{b.high:,}</td><td>{b.low:,}</td><td>{b.close:,}</td>"
        f"<td>{b.close:,}</td><td><!--[-->0.62%<!--]--></td><td>{b.volume:,}</td></tr><!---->"
        for b in reversed(bars)
    )
    head = "".join(
        f"<th>{name}</th>"
        for name in ("Date", "Open", "High", "Low", "Close", "Adj. Close", "Change", "Volume")
    )
    return (
        "<!doctype html><html lang='en'><head><title>Alphabet (GOOG) Price History</title></head>"
        "<body><table><tr><th>Market Cap</th><td>265B</td></tr></table>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></body></html>"
    )


def yahoo_page(bars: list[Bar]) -> str:
    """The table of finance.yahoo.com/quote/GOOG/history/: long heads, and a line for a dividend."""
    rows = "".join(
        f"<tr><td>{b.date:%b} {b.date.day}, {b.date.year}</td><td>{b.open:,}</td>"
        f"<td>{b.high:,}</td><td>{b.low:,}</td><td>{b.close:,}</td>"
        f"<td>{b.close:,}</td><td>{b.volume:,}</td></tr>"
        for b in reversed(bars)
    )
    dividend = '<tr><td>Feb 7, 2013</td><td colspan="6"><span>0.20</span> Dividend</td></tr>'
    return (
        "<html><body><table><thead><tr><th>Date</th><th>Open</th><th>High</th><th>Low</th>"
        "<th>Close <span>Close price adjusted for splits.</span></th>"
        "<th>Adj Close <span>Adjusted close price adjusted for splits and dividends.</span></th>"
        f"<th>Volume</th></tr></thead><tbody>{dividend}{rows}</tbody></table></body></html>"
    )


def test_yahoo_chart_gives_the_days_and_leaves_nulls_out() -> None:
    bars = shipped()
    rows, currency = parse_yahoo_chart(yahoo_chart(bars, nulls=(5, 200)), "goog")
    found, left_out = bars_of(rows)
    assert currency == "USD"
    assert left_out == 2
    assert found == [bar for i, bar in enumerate(bars) if i not in (5, 200)]


def test_yahoo_day_is_the_exchanges_own() -> None:
    """Tokyo opens at 00:00 UTC: the date of its stamp is right only with its offset."""
    data = json.loads(yahoo_chart(shipped(count=3)))
    result = data["chart"]["result"][0]
    result["meta"]["gmtoffset"] = 32400
    late = int(dt.datetime(2013, 2, 28, 23, 30, tzinfo=dt.UTC).timestamp())
    result["timestamp"][2] = late
    rows, _ = parse_yahoo_chart(json.dumps(data), "GOOG")
    assert rows[2].date == LAST_DAY


def test_live_bar_of_a_day_replaces_the_one_before() -> None:
    bars = shipped(count=3)
    live = bars[-1].model_copy(update={"close": bars[-1].high})
    rows, _ = parse_yahoo_chart(yahoo_chart([*bars, live]), "GOOG")
    found, left_out = bars_of(rows)
    assert (len(found), left_out) == (3, 0)
    assert found[-1].close == bars[-1].high


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (YAHOO_NOT_FOUND, "Not Found: No data found, symbol may be delisted"),
        ("Too Many Requests\r\n", "not its JSON"),
        ("[]", "not its JSON"),
        ("null", "not its JSON"),
        ('{"chart": {"result": [], "error": null}}', "not its JSON"),
        ('{"chart": {"result": [{"meta": {"symbol": "GOOG"}}], "error": null}}', "not its JSON"),
        ('{"finance": {"result": null, "error": {"code": "Unauthorized"}}}', "not its JSON"),
        (yahoo_chart(shipped(count=3), symbol="GOOGL"), "asked for GOOG, got GOOGL"),
        ("{" * 100_000, "not its JSON"),
        ("[" * 100_000, "not its JSON"),
    ],
)
def test_what_is_no_chart_is_refused_with_what_it_was(text: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        parse_yahoo_chart(text, "GOOG")


def test_chart_with_lists_of_unlike_length_is_refused() -> None:
    data = json.loads(yahoo_chart(shipped(count=5)))
    data["chart"]["result"][0]["indicators"]["quote"][0]["close"].pop()
    with pytest.raises(SourceError, match="different lengths"):
        parse_yahoo_chart(json.dumps(data), "GOOG")


def test_chart_with_hostile_numbers_leaves_those_days_out() -> None:
    data = json.loads(yahoo_chart(shipped(count=6)))
    result = data["chart"]["result"][0]
    quote = result["indicators"]["quote"][0]
    quote["close"][0] = float("nan")
    quote["open"][1] = "<b>1</b>"
    quote["high"][2] = 10**400
    quote["low"][3] = -1
    result["timestamp"][4] = 1e300
    rows, _ = parse_yahoo_chart(json.dumps(data), "GOOG")
    found, left_out = bars_of(rows)
    assert ([bar.date for bar in found], left_out) == ([LAST_DAY], 5)


def test_csv_gives_the_days() -> None:
    bars = shipped()
    assert bars_of(parse_csv(stooq_csv(bars))) == (bars, 0)


def test_csv_with_other_order_of_columns_and_no_volume() -> None:
    rows = parse_csv('"Date","Close","Adj Close","Low","High","Open"\n2013-03-01,2,9,1,3,2.5\n')
    found, _ = bars_of(rows)
    assert found == [Bar(date=LAST_DAY, open=2.5, high=3, low=1, close=2, volume=0)]


@pytest.mark.parametrize(
    "text",
    ["No data", "Exceeded the daily hits limit", "", STOOQ_CHALLENGE, "Date,Price\n2013-03-01,1\n"],
)
def test_what_is_no_csv_is_refused(text: str) -> None:
    with pytest.raises(SourceError):
        parse_csv(text)


def test_api_parser_goes_by_content() -> None:
    bars = shipped(count=4)
    as_json = Body("u", "text/plain", yahoo_chart(bars).encode(), "utf-8")
    as_csv = Body("u", "text/plain", b"\xef\xbb\xbf" + stooq_csv(bars).encode(), "utf-8")
    for body in (as_json, as_csv):
        rows, _ = parse_quotes(body, "GOOG")
        assert bars_of(rows) == (bars, 0)


@pytest.mark.parametrize("page", [history_page, yahoo_page])
def test_history_page_gives_the_days_in_order(page: Any) -> None:
    bars = shipped(count=130)
    assert bars_of(parse_history_page(page(bars))) == (bars, 0)


@pytest.mark.parametrize(
    "html",
    [
        "",
        "<",
        "<html><title>Before you continue</title></html>",
        "\x00",
        "<table><tr></tr></table>",
    ],
)
def test_page_without_prices_is_refused(html: str) -> None:
    with pytest.raises(SourceError):
        parse_history_page(html)


def test_deep_page_is_refused_and_does_not_crash() -> None:
    with pytest.raises(SourceError):
        parse_history_page("<div>" * 200_000)


def test_rows_are_sorted_whatever_their_order() -> None:
    bars = shipped(count=50)
    shuffled = random.Random(7).sample(bars, len(bars))
    assert bars_of(parse_csv(stooq_csv(shuffled)))[0] == bars


def test_day_whose_high_is_below_its_close_is_left_out() -> None:
    row = Row(LAST_DAY, 10, 11, 9, 12, 100)
    assert bars_of([row]) == ([], 1)


def test_rounding_of_one_cent_is_put_right() -> None:
    bar = Row(LAST_DAY, 10.0, 10.0, 9.0, 10.004, 1).bar()
    assert bar is not None
    assert bar.high == 10.004


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2013-03-01", LAST_DAY),
        ("Mar 1, 2013", LAST_DAY),
        ("March 1, 2013", LAST_DAY),
        ("01 Mar 2013", LAST_DAY),
        ("2013-02-30", None),
        ("Foo 1, 2013", None),
        ("1 March", None),
        ("", None),
    ],
)
def test_dates_are_read_whatever_the_locale(text: str, date: dt.date | None) -> None:
    assert parse_date(text) == date


@pytest.mark.parametrize("ticker", ["AAPL", "GOOG", "IBM", "MSFT"])
def test_shipped_prices_are_whole(ticker: str) -> None:
    bars, left_out = bars_of(bundled_rows(ticker))
    assert (len(bars), left_out) == (795, 0)
    assert (bars[0].date, bars[-1].date) == (dt.date(2010, 1, 4), LAST_DAY)


def test_shipped_prices_say_which_shares_they_have() -> None:
    with pytest.raises(SourceError, match="AAPL, GOOG, IBM, MSFT; not NVDA"):
        bundled_rows("NVDA")


def test_shipped_close_is_the_markets() -> None:
    """Google closed at 806.19 on 2013-03-01, Apple at 450.50 after its fall of 2013-01-24."""
    assert shipped()[-1].close == 806.19
    apple = {bar.date: bar.close for bar in shipped("AAPL")}
    assert apple[dt.date(2013, 1, 24)] == 450.5


def test_prices_stop_at_the_day_asked_for() -> None:
    rows = bundled_rows("GOOG")
    prices = prices_from(rows, ticker="goog", source=BUNDLED, until=dt.date(2012, 12, 30))
    assert prices.ticker == "GOOG"
    assert prices.bars[-1].date == dt.date(2012, 12, 28)
    with pytest.raises(SourceError, match="none with usable prices"):
        prices_from(rows, ticker="GOOG", source=BUNDLED, until=dt.date(2001, 1, 1))


def test_source_and_licence_of_the_shipped_prices_are_named() -> None:
    from importlib import resources

    readme = resources.files(sources.__package__ or "") / "data" / "README.md"
    assert "public domain" in BUNDLED.licence
    assert "bokeh_sampledata` 2026.1" in readme.read_text("utf-8")
