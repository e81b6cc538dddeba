"""The pages: they stand alone, say who judged, and show hostile text as text."""

from __future__ import annotations

import datetime as dt
import importlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt

from flowkit.events import StepView
from flowkit.values import Artifact
from flowkit.workflows.pages import md, took
from flowkit.workflows.stock_analysis.chart import figure, fragment
from flowkit.workflows.stock_analysis.indicators import measure
from flowkit.workflows.stock_analysis.judging import judge_by_rules
from flowkit.workflows.stock_analysis.report import (
    Material,
    render_chart,
    render_html,
    render_markdown,
    shown,
    sparkline,
)
from flowkit.workflows.stock_analysis.values import (
    Chart,
    Headline,
    Headlines,
    Opinion,
    Prices,
    StockQuery,
)
from tests.unit.test_stock_indicators import shipped

EVIL = "<script>alert(1)</script> | *x* [y](javascript:z) `c` </td> ![i](http://e/i.png) \n# h"


class Page(HTMLParser):
    """What a page holds: tags, addresses that load or link, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "src" or (tag == "link" and name == "href"):
                self.loads.append(value or "")
            elif name == "href":
                self.links.append(value or "")
            assert not name.startswith("on"), (tag, name)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def material(**change: Any) -> Material:
    prices = shipped(count=370)
    measured = measure(prices, 120)
    page = Artifact("0" * 64, "chart.html", "text/html", 1)
    told: dict[str, Any] = {
        "query": StockQuery(ticker="GOOG", offline=True),
        "prices": prices,
        "measured": measured,
        "news": Headlines(source="", items=[], note="The query allows no network."),
        "opinion": Opinion(
            judgement=judge_by_rules(measured.facts), model="flowkit-offline", computed=True
        ),
        "chart": Chart(page=page, days=120),
        "steps": [
            StepView(
                "prices",
                "quotes_bundled",
                "tool",
                "done",
                5,
                ("quotes_api: SourceError: HTTP 429", "quotes_api: SourceError: HTTP 429"),
                0.034,
            ),
            StepView("prices_are_usable", "prices_are_usable", "verifier", "done", 1),
            StepView("judge@2", "judge", "tool", "done", 1, (), 2.5, ("cite rsi_14",)),
        ],
        "run_id": "run-1",
        "written_at": dt.datetime(2026, 11, 23, 18, 0, tzinfo=dt.UTC),
    }
    return Material(**(told | change))


def hostile() -> Material:
    plain = material()
    judgement = plain.opinion.judgement.model_copy(update={"summary": EVIL, "risk": EVIL})
    step = StepView("prices", "quotes_page", "tool", "done", 2, (f"quotes_api: E: {EVIL}",), 1.0)
    return material(
        opinion=Opinion(judgement=judgement, model=EVIL, computed=False),
        news=Headlines(source=EVIL, items=[Headline(title=EVIL, url="https://x.example/?a='\"<")]),
        steps=[step],
    )


def test_html_page_stands_alone() -> None:
    told = material()
    plot = fragment(figure(told.prices, told.measured), script=True)
    html = render_html(told, plot)
    page = Page(html)
    assert page.loads == ["data:,"]
    assert 4_000_000 < len(html) < 6_000_000
    assert set(page.links) == {"chart.html", told.prices.source.url}
    assert "table" in page.tags
    assert "sendDataToCloud" in html
    assert '"showSendToCloud": false' in html


def test_chart_page_stands_alone() -> None:
    told = material()
    html = render_chart(
        told.prices, told.measured, fragment(figure(told.prices, told.measured), script=True)
    )
    assert Page(html).loads == ["data:,"]
    assert "2012-09-06 to 2013-03-01" in html


def test_first_lines_say_that_no_language_model_was_used() -> None:
    start = render_markdown(material()).splitlines()[:8]
    assert "No language model was used" in start[2]
    assert "flowkit-offline" in start[2]
    assert "prices end on 2013-03-01 and say nothing about today" in start[4]
    assert "not investment advice" in start[6]
    text = Page(render_html(material(), "")).text
    assert text.index("No language model was used") < text.index("Change, 20 days")


def test_first_lines_name_the_language_model() -> None:
    opinion = material().opinion.model_copy(update={"model": "kimi-k2", "computed": False})
    for page in (
        render_markdown(material(opinion=opinion)),
        Page(render_html(material(opinion=opinion), "")).text,
    ):
        assert "written by the language model kimi-k2" in page
        assert "No language model" not in page


def render_page(told: Material) -> str:
    return render_html(told, "")


@pytest.mark.parametrize("render", [render_markdown, render_page])
def test_report_tells_its_source_steps_and_numbers(render: Any) -> None:
    text = render(material()).replace("\\", "")
    for told in (
        "Quandl WIKI Prices",
        "public domain",
        "2011-09-09 to 2013-03-01",
        "quotes_bundled",
        "quotes_api: SourceError: HTTP 429 (2 times)",
        "rejected before: cite rsi_14",
        "accepted",
        "34 ms",
        "2.5 s",
        "67.53",
        "806.19",
        "The query allows no network.",
        "run-1",
    ):
        assert told in text, told


def test_hostile_text_is_text_in_html() -> None:
    page = Page(render_html(hostile(), ""))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.links[0] == "https://x.example/?a='\"<"
    assert page.text.count("<script>alert(1)</script>") == 6


def test_hostile_text_is_text_in_markdown() -> None:
    text = render_markdown(hostile())
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    page = Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not any(link.startswith("javascript") for link in page.links)
    assert page.tags.count("h1") == 1
    assert page.text.count("<script>alert(1)</script>") == 6
    assert page.tags.count("tr") == 1 + 5 + 1 + 18 + 1 + 1


def test_prices_that_stop_early_are_told() -> None:
    source = material().prices.source.model_copy(update={"sample": False})
    prices = material().prices.model_copy(update={"source": source})
    late = render_markdown(material(prices=prices))
    assert "The prices end on 2013-03-01, 5015 days before 2026-11-23." in late.replace("\\", "")
    query = StockQuery(ticker="GOOG", days=200, as_of=dt.date(2013, 3, 2))
    short = render_markdown(material(prices=prices, query=query))
    assert "The source has 120 days, 200 were asked for." in short


def test_figure_is_plain_data_of_the_shown_days() -> None:
    told = material()
    fig = figure(told.prices, told.measured)
    candles = fig["data"][0]
    assert candles["type"] == "candlestick"
    assert (candles["x"][0], candles["x"][-1], len(candles["x"])) == (
        "2012-09-06",
        "2013-03-01",
        120,
    )
    assert [trace["name"] for trace in fig["data"]] == [
        "Price", "SMA 20", "SMA 50", "Volume", "Histogram", "MACD", "Signal", "RSI",
    ]  # fmt: skip
    closed = fig["layout"]["xaxis"]["rangebreaks"][0]["values"]
    assert "2012-12-25" in closed
    assert "2012-10-29" in closed, "the exchange was closed by a hurricane"


def test_figure_fits_plotlys_schema() -> None:
    plotly: Any = importlib.import_module("plotly.graph_objects")
    prices: Prices = material().prices.model_copy(update={"currency": "<b>"})
    graph: Any = plotly.Figure(figure(prices, material().measured))
    assert len(graph.data) == 8
    assert "<b><b>" not in graph.to_json()


@pytest.mark.parametrize(
    ("text", "written"),
    [("# h", r"\# h"), ("1. x", r"1\. x"), ("- x", r"\- x"), ("a|b", r"a\|b"), ("x\ny", "x y")],
)
def test_md_shows_a_text_literally(text: str, written: str) -> None:
    assert md(text) == written
    html = MarkdownIt("commonmark").enable("table").render(md(text))
    assert re.sub("</?p>|\n", "", html) == " ".join(text.split())


def test_small_words() -> None:
    assert (took(0.0001), took(0.0124), took(2.34)) == ("< 1 ms", "12 ms", "2.3 s")
    assert shown("change_1d_pct", -1.5) == "-1.50 %"
    assert shown("volatility_20d_pct", 17.78) == "17.78 %"
    assert shown("close", 12345.678) == "12,345.68"
    assert shown("macd", 0.01234) == "0.01234"
    assert sparkline([5.0]) == "0.0,45.0"
