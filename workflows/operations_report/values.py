"""The values that flow through the operations report: plain pydantic models, stored as JSON."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flowkit.values import Artifact

Language = Literal["en", "zh"]
Unit = Literal["money", "count", "percent"]
Direction = Literal["up", "down", "flat", "none"]
Month = Annotated[str, Field(pattern=r"^\d{4}-(?:0[1-9]|1[0-2])$")]
_CHINESE = re.compile(r"[\u3400-\u9fff]")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReportQuery(_Value):
    """A brand, a month, and where its orders are. Without a place, the engine's database, then the
    invented orders that ship with flowkit."""

    brand: str = Field(min_length=1, max_length=100, description="As the data writes it")
    month: Month = Field(description="The month to report on, such as 2026-03")
    language: Literal["auto", "en", "zh"] = Field(
        default="auto", description="auto: Chinese for a brand in Chinese characters"
    )
    csv: str = Field(default="", max_length=2000, description="A CSV file, or its http(s) address")
    database: str = Field(default="", max_length=2000, description="An SQLite file")
    sql: str = Field(
        default="SELECT * FROM orders",
        max_length=20_000,
        description="The SELECT that gives the orders, a row for each line of an order",
    )
    search: str = Field(
        default="", max_length=500, description="What to ask the engine's search for"
    )
    currency: str = Field(default="", max_length=8, description="Shown with amounts, such as CNY")


class Places(_Value):
    """Where orders may be had."""

    csv: str = ""
    database: str = ""
    sql: str = "SELECT * FROM orders"
    search: str = ""

    @property
    def sample(self) -> bool:
        """Whether invented orders may answer: only where nobody named a place of real ones."""
        return not (self.csv or self.database or self.search)


class Scope(_Value):
    """Whose month is reported, and in which language."""

    brand: str = Field(min_length=1, max_length=100)
    month: Month
    language: Language = "en"
    currency: str = ""

    @classmethod
    def of(cls, query: ReportQuery) -> Scope:
        chinese: Language = "zh" if _CHINESE.search(query.brand) else "en"
        language = chinese if query.language == "auto" else query.language
        return cls(
            brand=query.brand.strip(),
            month=query.month,
            language=language,
            currency=query.currency.strip(),
        )


class Source(_Value):
    """Where orders came from. `sample`: they are invented, and ship with flowkit."""

    kind: Literal["database", "csv", "search", "sample"]
    name: str
    encoding: str = ""
    sample: bool = False


class Table(_Value):
    """A source's whole table, cleaned: `rows` is JSON lines of `Line`.

    `notes` tell what was done to it, as (a text's name, what is put into it).
    """

    source: Source
    rows: Artifact
    count: int
    brands: list[str]
    months: list[str]
    notes: list[tuple[str, str]] = []


def _without_braces(name: str) -> str:
    return name.replace("{", "(").replace("}", ")")


Name = Annotated[str, AfterValidator(_without_braces)]
"""A name that can stand in a text beside marks such as {gmv}."""


class Line(_Value):
    """One line of an order. `cents` are hundredths of the currency's unit."""

    order: str
    customer: str
    day: dt.date
    cents: int
    state: Literal["kept", "cancelled", "refunded"] = "kept"
    brand: str = ""
    channel: Name = ""
    category: Name = ""


class Sales(_Value):
    """The brand's orders up to the end of the month, with all that came before it."""

    source: Source
    rows: Artifact
    first_day: dt.date
    last_day: dt.date
    lines: int
    month_before: bool
    notes: list[tuple[str, str]] = []


class Metric(_Value):
    """A number of the month; money in whole units. None: it cannot be said.

    `before` is the month before's, `change` per cent of it (for a percentage: points). `name` is
    whose share it is, such as a channel's.
    """

    id: str
    unit: Unit
    value: float | None
    before: float | None = None
    change: float | None = None
    name: str = ""


class Series(_Value):
    """What the charts show. `days` has GMV and net sales of each day of the month."""

    days: list[tuple[dt.date, float, float]]
    channels: list[tuple[str, float]]
    categories: list[tuple[str, float]]
    new_buyers: int
    returning_buyers: int


class Numbers(_Value):
    """All that the report may say in numbers."""

    metrics: list[Metric]
    series: Series

    def by_id(self) -> dict[str, Metric]:
        return {each.id: each for each in self.metrics}


class Finding(_Value):
    """A problem or an opportunity, tied to a number by its id."""

    kind: Literal["problem", "opportunity"]
    metric: str = Field(max_length=60, description="The id of the given number that it rests on")
    direction: Direction = Field(
        description="How that number moved against the month before; none if it has no change"
    )
    claim: str = Field(
        min_length=10,
        max_length=500,
        description="What it says, with {id}, {id.before} or {id.change} where a number stands",
    )
    action: str = Field(min_length=5, max_length=400, description="What to do next; no numbers")


class Reading(_Value):
    """What a month's numbers mean."""

    summary: str = Field(
        min_length=20, max_length=1000, description="Two or three sentences, with {id} for numbers"
    )
    findings: list[Finding] = Field(min_length=2, max_length=10)


class Read(_Value):
    """A reading, and who gave it. `computed`: by fixed rules, no language model had a part in it.

    `refused`: why the version before was not taken.
    """

    reading: Reading
    author: str
    computed: bool
    refused: list[str] = []


class ChartProgram(_Value):
    """A Python program that draws the charts."""

    code: str = Field(min_length=20, max_length=20_000)


class ChartTry(_Value):
    """A program that was run, or could not be: the log of tool calls tells it."""

    author: str
    code: str
    ok: bool
    said: str


class Charts(_Value):
    """The pictures, by name in order of showing. `how`: by whose program, or as SVG by flowkit."""

    pictures: list[Artifact]
    how: Literal["model", "shipped", "svg"]
    author: str
    language: Language
    tries: list[ChartTry] = []
    why_not: str = ""


class Pdf(_Value):
    """The PDF, or why there is none."""

    pdf: Artifact | None = None
    pages: int = 0
    maker: str = ""
    why_not: str = ""


class Pages(_Value):
    """The report as Markdown and as one HTML page."""

    title: str
    fallbacks: list[str]
    models: list[str]
    markdown: Artifact
    html: Artifact


class OperationsReport(_Value):
    """The report as files to send, with its main numbers beside them.

    `fallbacks` are in words: what stood in for what, and why. `models` wrote the findings or charts.
    """

    title: str
    brand: str
    month: str
    gmv: float
    average_order_value: float | None
    repeat_purchase_rate: float | None
    problems: list[str]
    opportunities: list[str]
    source: str
    models: list[str]
    computed: bool
    fallbacks: list[str]
    markdown: Artifact
    html: Artifact
    pdf: Artifact | None
    charts: list[Artifact]
