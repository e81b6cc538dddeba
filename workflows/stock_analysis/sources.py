"""From what the sources send to daily bars: Yahoo's chart JSON, CSV, an HTML table, the shipped file.

Every parser gives rows as it finds them; `bars_of` drops the unusable ones, sorts, and counts what
it left out. A parser that finds nothing says what it saw instead, for the table of steps.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

from flowkit.workflows.stock_analysis.values import Bar, Prices, Source
from flowkit.workflows.stock_analysis.web import Body, SourceError

JSON_TYPES = ("application/json", "text/json")
CSV_TYPES = ("text/csv", "text/plain", "application/csv", "application/octet-stream")
HTML_TYPES = ("text/html", "application/xhtml+xml")

BUNDLED = Source(
    name="Quandl WIKI Prices, 2010-01-04 to 2013-03-01, shipped with flowkit",
    url="https://data.nasdaq.com/databases/WIKIP",
    licence="public domain (as declared by Quandl; from bokeh_sampledata 2026.1)",
    sample=True,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A trading day as a source gave it."""

    date: dt.date | None
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None

    def bar(self) -> Bar | None:
        """The day, if its prices are there, finite, positive and in order."""
        if self.date is None:
            return None
        if self.open is None or self.high is None or self.low is None or self.close is None:
            return None
        prices = (self.open, self.high, self.low, self.close)
        if not all(math.isfinite(price) and price > 0 for price in prices):
            return None
        # Sources round each price by itself: allow for the last digit of a cent.
        slack = 1e-4 * self.close + 0.01
        if self.high + slack < max(prices) or self.low - slack > min(prices):
            return None
        volume = self.volume if self.volume is not None and math.isfinite(self.volume) else 0
        return Bar(
            date=self.date,
            open=round(self.open, 6),
            high=round(max(prices), 6),
            low=round(min(prices), 6),
            close=round(self.close, 6),
            volume=max(0, int(volume)),
        )


def bars_of(rows: Iterable[Row]) -> tuple[list[Bar], int]:
    """Usable bars by date, the last one of a date winning, and how many rows were left out."""
    found: dict[dt.date, Bar] = {}
    left_out = 0
    for row in rows:
        bar = row.bar()
        if bar is None:
            left_out += 1
        else:
            found[bar.date] = bar
    return [found[day] for day in sorted(found)], left_out


def prices_from(
    rows: Sequence[Row], *, ticker: str, source: Source, until: dt.date, currency: str = ""
) -> Prices:
    """The prices up to a day.

    Raises:
        SourceError: no usable row among them.
    """
    bars, left_out = bars_of(rows)
    bars = [bar for bar in bars if bar.date <= until]
    if not bars:
        raise SourceError(f"{source.name}: {len(rows)} rows, none with usable prices up to {until}")
    return Prices(
        ticker=ticker.upper(), source=source, bars=bars, currency=currency, left_out=left_out
    )


def parse_quotes(body: Body, ticker: str) -> tuple[list[Row], str]:
    """Rows and currency of what a quotes API sent: Yahoo chart JSON or CSV."""
    text = body.text()
    if body.media_type in JSON_TYPES or text.lstrip()[:1] == "{":
        return parse_yahoo_chart(text, ticker)
    return parse_csv(text), ""


def parse_yahoo_chart(text: str, ticker: str) -> tuple[list[Row], str]:
    """Rows and currency of Yahoo's chart v8 JSON: parallel lists, with null where a day is missing.

    Prices there are adjusted for splits, not for dividends.
    """
    try:
        chart = _mapping(_mapping(json.loads(text)).get("chart"))
        error = _mapping(chart.get("error") or {})
        if error:
            raise SourceError(f"Yahoo chart: {error.get('code')}: {error.get('description')}")
        results = cast("list[Any]", chart.get("result") or [])
        result = _mapping(results[0])
        meta = _mapping(result.get("meta") or {})
        symbol = str(meta.get("symbol", ""))
        if symbol.upper() != ticker.upper():
            raise SourceError(f"Yahoo chart: asked for {ticker}, got {symbol or 'no symbol'}")
        stamps = cast("list[Any]", result.get("timestamp") or [])
        quote = _mapping(_mapping(result["indicators"])["quote"][0])
        columns = [cast("list[Any]", quote.get(name) or []) for name in _COLUMNS]
        offset_s = int(meta.get("gmtoffset") or 0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as problem:
        raise SourceError(f"Yahoo chart: not its JSON ({problem!r:.120})") from problem
    if any(len(column) != len(stamps) for column in columns):
        raise SourceError("Yahoo chart: its lists have different lengths")
    rows = [
        Row(_stamped(stamp, offset_s), *(_number(cell) for cell in cells))
        for stamp, *cells in zip(stamps, *columns, strict=True)
    ]
    return rows, str(meta.get("currency") or "")


_COLUMNS = ("open", "high", "low", "close", "volume")


def _mapping(data: Any) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise TypeError(f"an object was expected, not {type(data).__name__}")
    return cast("Mapping[str, Any]", data)


def _stamped(stamp: Any, offset_s: int) -> dt.date | None:
    """The exchange's local date of a Unix time."""
    if not isinstance(stamp, int | float) or not math.isfinite(stamp):
        return None
    try:
        return dt.datetime.fromtimestamp(stamp + offset_s, dt.UTC).date()
    except (OverflowError, OSError, ValueError):
        return None


def parse_csv(text: str) -> list[Row]:
    """Rows of a CSV with a header, such as Stooq's or an old Yahoo download."""
    lines = text.strip().splitlines()
    if not lines or not lines[0].lower().replace('"', "").startswith("date"):
        shown = " ".join(text.split())[:80]
        raise SourceError(f"CSV: the first line is no header with Date: {shown!r}")
    try:
        return _table_rows(list(csv.reader(lines, strict=True)))
    except csv.Error as problem:
        raise SourceError(f"CSV: {problem}") from problem


def parse_history_page(html: str) -> list[Row]:
    """Rows of the first table whose head has Date, Open, High, Low and Close, in any order.

    Lines that say nothing of prices (dividends, splits, notes) have fewer cells and are passed over.
    """
    import lxml.etree

    try:
        page = lxml.etree.fromstring(html.encode(), lxml.etree.HTMLParser(encoding="utf-8"))
    except (lxml.etree.LxmlError, ValueError) as problem:
        raise SourceError(f"page: cannot be read as HTML ({problem})") from problem
    for table in page.iter("table") if page is not None else ():
        lines = [
            [" ".join("".join(map(str, cell.itertext())).split()) for cell in line.iter("th", "td")]
            for line in table.iter("tr")
        ]
        if lines and _header(lines[0]) is not None:
            return _table_rows(lines)
    title = (page is not None and page.findtext(".//title")) or "no title"
    raise SourceError(f"page: no table of daily prices in it ({' '.join(title.split())[:80]!r})")


def _table_rows(lines: Sequence[Sequence[str]]) -> list[Row]:
    places = _header(lines[0])
    if places is None:
        raise SourceError(f"no columns Date, Open, High, Low, Close in {list(lines[0])[:8]!r}")
    width = max(places.values()) + 1
    rows: list[Row] = []
    for line in lines[1:]:
        if len(line) < width:
            continue
        cells = [_number(line[places[name]]) if name in places else None for name in _COLUMNS]
        rows.append(Row(parse_date(line[places["date"]]), *cells))
    return rows


def _header(cells: Sequence[str]) -> dict[str, int] | None:
    """Which column is where, by the first word of its head ("Close price adjusted for splits")."""
    places: dict[str, int] = {}
    for index, cell in enumerate(cells):
        words = cell.lower().split()
        if words and words[0] in ("date", *_COLUMNS):
            places.setdefault(words[0], index)
    needed = {"date", "open", "high", "low", "close"}
    return places if needed <= places.keys() else None


def _number(cell: Any) -> float | None:
    if isinstance(cell, bool) or cell is None:
        return None
    try:
        number = float(cell.replace(",", "").strip()) if isinstance(cell, str) else float(cell)
    except (ValueError, TypeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATES = (
    re.compile(r"(?P<y>\d{4})[-/](?P<m>\d{1,2})[-/](?P<d>\d{1,2})"),
    re.compile(r"(?P<n>[A-Za-z]{3})[a-z]*\.? (?P<d>\d{1,2}), (?P<y>\d{4})"),
    re.compile(r"(?P<d>\d{1,2}) (?P<n>[A-Za-z]{3})[a-z]*\.? (?P<y>\d{4})"),
)


def parse_date(text: str) -> dt.date | None:
    """A date such as 2013-03-01, Mar 1, 2013 or 1 Mar 2013, whatever the process's locale is."""
    for form in _DATES:
        match = form.fullmatch(text.strip())
        if match is None:
            continue
        parts = match.groupdict()
        name = (parts.get("n") or "").lower()
        if name and name not in _MONTHS:
            return None
        month = _MONTHS.index(name) + 1 if name else int(parts["m"] or 0)
        try:
            return dt.date(int(parts["y"] or 0), month, int(parts["d"] or 0))
        except ValueError:
            return None
    return None


def bundled_rows(ticker: str) -> list[Row]:
    """The shipped days of a share (see data/README.md).

    Raises:
        SourceError: the share is not in the file.
    """
    file = resources.files("flowkit.workflows.stock_analysis") / "data" / "wiki_prices.csv"
    lines = list(csv.reader(file.read_text("utf-8").splitlines()))
    mine = [lines[0][1:]] + [line[1:] for line in lines[1:] if line[0] == ticker.upper()]
    if len(mine) == 1:
        shares = ", ".join(sorted({line[0] for line in lines[1:]}))
        raise SourceError(f"the shipped prices have {shares}; not {ticker.upper()}")
    return _table_rows(mine)
