"""Stock analysis: from a ticker to a report with an interactive chart and a judged trend.

    prices      quotes_api | quotes_page | quotes_bundled, checked by prices_are_usable
    indicators  MACD, RSI and more, checked by indicators_in_range
    draw_chart  the chart as a page of its own
    headlines   feed_headlines | no_headlines
    judge       the model's Judgement, checked by judgement_is_grounded
    report      report.html and report.md, with the table of steps

Run it: `flowkit run stock_analysis --example --out report/`.
"""

from __future__ import annotations

from flowkit.workflows.stock_analysis.judging import OFFLINE_RULES
from flowkit.workflows.stock_analysis.values import Judgement, StockQuery, StockReport
from flowkit.workflows.stock_analysis.workflow import stock_analysis

EXAMPLE = StockQuery(ticker="GOOG", days=120, offline=True)
"""An input that needs no network: the prices that ship with flowkit."""

VOLATILE = ("html.sha256", "html.size", "markdown.sha256", "markdown.size")
"""Fields of the result that two runs do not share: the pages tell when they were written, and how long it took."""

__all__ = [
    "EXAMPLE",
    "OFFLINE_RULES",
    "VOLATILE",
    "Judgement",
    "StockQuery",
    "StockReport",
    "stock_analysis",
]
