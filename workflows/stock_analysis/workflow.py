"""The workflow: which step takes what from which, and where another source may answer."""

from __future__ import annotations

from flowkit import Ref, Reject, workflow
from flowkit.nodes import Fallback
from flowkit.workflows.stock_analysis.steps import (
    draw_chart,
    feed_headlines,
    indicators,
    indicators_in_range,
    judge,
    judgement_is_grounded,
    no_headlines,
    prices_are_usable,
    quotes_api,
    quotes_bundled,
    quotes_page,
    report,
)
from flowkit.workflows.stock_analysis.values import StockQuery, StockReport

quotes = Fallback(quotes_api, quotes_page, quotes_bundled, on=(Exception, Reject))
"""`quotes_api | quotes_page | quotes_bundled`; prices that are rejected go to the next one, too."""


@workflow
def stock_analysis(query: Ref[StockQuery]) -> Ref[StockReport]:
    """Analyse a share: prices, MACD and RSI, a chart, headlines, a judged trend, a report."""
    prices = prices_are_usable(quotes(query, id="prices"), attempts=3)
    measured = indicators_in_range(indicators(prices, query), prices, attempts=1)
    chart = draw_chart(prices, measured)
    news = (feed_headlines | no_headlines)(query, id="headlines")
    opinion = judgement_is_grounded(judge(measured, news), measured, news, attempts=3)
    return report(query, prices, measured, chart, news, opinion)
