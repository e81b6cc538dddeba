"""The values that flow through the stock analysis: plain pydantic models, stored as JSON."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flowkit.values import Artifact

Trend = Literal["up", "down", "sideways"]

YAHOO_CHART_URL = (
    "https://query1.finance.yahoo.com/v8/finance/chart/{ticker}"
    "?interval=1d&period1={from_unix}&period2={to_unix}"
)
STOCKANALYSIS_URL = "https://stockanalysis.com/stocks/{ticker_lower}/history/"
YAHOO_FEED_URL = "https://feeds.finance.yahoo.com/rss/2.0/headline?s={ticker}&region=US&lang=en-US"


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a full http:// or https:// address")
    return url


HttpUrl = Annotated[str, AfterValidator(_http_url), Field(max_length=2000)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StockQuery(_Value):
    """What to analyse. In the addresses, `{ticker}`, `{ticker_lower}`, `{from_unix}`, `{to_unix}`,
    `{from_date}` and `{to_date}` are filled in (dates as 2013-03-01)."""

    ticker: str = Field(
        pattern=r"^[A-Za-z0-9^][A-Za-z0-9.^=-]{0,15}$",
        description="The share's symbol as the source writes it, such as GOOG or 7203.T",
    )
    days: int = Field(default=120, ge=10, le=1000, description="Trading days to show and judge")
    as_of: dt.date | None = Field(
        default=None, description="Last day to look at; today if left out"
    )
    offline: bool = Field(default=False, description="Use only what ships with flowkit, no network")
    quotes_url: HttpUrl = Field(
        default=YAHOO_CHART_URL, description="Daily prices as Yahoo chart JSON (v8) or as CSV"
    )
    page_url: HttpUrl = Field(
        default=STOCKANALYSIS_URL, description="A public HTML page with a table of daily prices"
    )
    feed_url: HttpUrl = Field(
        default=YAHOO_FEED_URL, description="An RSS or Atom feed of headlines"
    )
    headlines_max: int = Field(default=8, ge=0, le=30)


class Source(_Value):
    """Where prices came from. `sample`: they ship with flowkit and do not reach to the present."""

    name: str
    url: str
    licence: str = ""
    sample: bool = False


class Bar(_Value):
    """One trading day."""

    date: dt.date
    open: float
    high: float
    low: float
    close: float
    volume: int


class Prices(_Value):
    """Daily bars, oldest first. `left_out` counts days that the source gave without usable prices."""

    ticker: str
    source: Source
    bars: list[Bar]
    currency: str = ""
    left_out: int = 0


class Point(_Value):
    """What was computed for one trading day."""

    date: dt.date
    close: float
    sma_20: float
    sma_50: float | None
    macd: float
    macd_signal: float
    macd_histogram: float
    rsi_14: float


class Indicators(_Value):
    """A point for each shown day, and the facts: the numbers that a judgement may cite, by name.

    `warmup` is how many earlier days went into the first shown point.
    """

    ticker: str
    points: list[Point]
    facts: dict[str, float]
    warmup: int


class Headline(_Value):
    """One item of a feed, as plain text. `url` is http(s) or empty."""

    title: str
    url: str = ""
    published: dt.date | None = None


class Headlines(_Value):
    """Headlines, or none with the reason in `note`."""

    source: str
    items: list[Headline]
    note: str = ""


class Evidence(_Value):
    """One of the given numbers, and what it speaks for."""

    fact: str = Field(description="The name of one of the given facts, exactly as given")
    value: float = Field(description="The value of that fact, copied, not calculated")
    supports: Literal["up", "down", "neutral"]
    reading: str = Field(
        min_length=3, max_length=400, description="What the number says, in a line"
    )


class Judgement(_Value):
    """The short-term trend, as a model judges it from the given numbers."""

    trend: Trend
    confidence: float = Field(ge=0, le=1)
    summary: str = Field(min_length=20, max_length=1200)
    evidence: list[Evidence] = Field(min_length=1, max_length=12)
    risk: str = Field(max_length=600, description="What would make this judgement wrong")


class Opinion(_Value):
    """A judgement and who gave it. `computed`: by fixed rules, no language model was asked."""

    judgement: Judgement
    model: str
    computed: bool


class Chart(_Value):
    """The interactive chart as a page of its own."""

    page: Artifact
    days: int


class StockReport(_Value):
    """The report, as pages to open and to send, with its main numbers beside it."""

    title: str
    trend: Trend
    confidence: float
    summary: str
    risk: str
    source: str
    first_day: dt.date
    last_day: dt.date
    close: float
    model: str
    html: Artifact
    markdown: Artifact
    chart: Artifact
