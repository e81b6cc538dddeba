"""The steps of the stock analysis: thin nodes over the plain functions beside them.

pandas, Plotly, lxml, Jinja and httpx2 are imported where they are used, so that the workflow can be
listed, drawn and validated without them.
"""

from __future__ import annotations

import datetime as dt
import importlib.util

import anyio.to_thread

from flowkit import Context, Reject
from flowkit.model import OfflineModel
from flowkit.nodes import tool, verifier
from flowkit.workflows.stock_analysis import checks, headlines, judging, sources
from flowkit.workflows.stock_analysis.values import (
    Chart,
    Headlines,
    Indicators,
    Judgement,
    Opinion,
    Prices,
    Source,
    StockQuery,
    StockReport,
)
from flowkit.workflows.stock_analysis.web import Body, SourceError, fetch, fill, http_client

WARMUP_DAYS = 250
"""Trading days before the first shown one to ask for: (13/14)**250 of the start is left, 1e-8."""

_OFFLINE = "offline: the query allows no network"


@tool(retries=1, backoff_s=0.2, timeout_s=10)
async def quotes_api(ctx: Context, query: StockQuery) -> Prices:
    """Daily prices from a public HTTP API: Yahoo's chart, or a CSV at another address."""
    first, last = _period(query)
    body = await _page(
        ctx,
        query,
        fill(query.quotes_url, query, first, last),
        sources.JSON_TYPES + sources.CSV_TYPES,
    )
    rows, currency = sources.parse_quotes(body, query.ticker)
    return sources.prices_from(
        rows, ticker=query.ticker, source=_source(body, "API"), until=last, currency=currency
    )


@tool(retries=1, backoff_s=0.2, timeout_s=10)
async def quotes_page(ctx: Context, query: StockQuery) -> Prices:
    """Daily prices from the table of a public page."""
    _need("lxml")
    first, last = _period(query)
    body = await _page(ctx, query, fill(query.page_url, query, first, last), sources.HTML_TYPES)
    rows = await anyio.to_thread.run_sync(sources.parse_history_page, body.text())
    return sources.prices_from(rows, ticker=query.ticker, source=_source(body, "page"), until=last)


@tool
async def quotes_bundled(ctx: Context, query: StockQuery) -> Prices:
    """Real prices that ship with flowkit: a few shares, up to 2013-03-01."""
    _, last = _period(query)
    rows = sources.bundled_rows(query.ticker)
    prices = sources.prices_from(rows, ticker=query.ticker, source=sources.BUNDLED, until=last)
    wanted = query.days + WARMUP_DAYS
    return prices.model_copy(update={"bars": prices.bars[-wanted:], "currency": "USD"})


@verifier
async def prices_are_usable(ctx: Context, prices: Prices) -> None:
    """Enough days, in order, with prices that a market can have."""
    _reject_if(checks.price_problems(prices), f"{prices.source.name}: ")


@tool(timeout_s=60)
async def indicators(ctx: Context, prices: Prices, query: StockQuery) -> Indicators:
    """MACD, RSI and the numbers beside them."""
    _need("pandas")
    from flowkit.workflows.stock_analysis.indicators import measure

    return await anyio.to_thread.run_sync(measure, prices, query.days)


@verifier
async def indicators_in_range(ctx: Context, measured: Indicators, prices: Prices) -> None:
    """Values in their ranges, dates in order and those of the prices, enough rows."""
    _reject_if(checks.indicator_problems(measured, prices))


@tool(timeout_s=60)
async def draw_chart(ctx: Context, prices: Prices, measured: Indicators) -> Chart:
    """The interactive chart as a page of its own."""
    _need("plotly", "jinja2")

    def draw() -> str:
        from flowkit.workflows.stock_analysis.chart import figure, fragment
        from flowkit.workflows.stock_analysis.report import render_chart

        return render_chart(prices, measured, fragment(figure(prices, measured), script=True))

    page = await anyio.to_thread.run_sync(draw)
    kept = await ctx.artifact(page, name="chart.html", media_type="text/html")
    return Chart(page=kept, days=len(measured.points))


@tool(retries=1, backoff_s=0.2, timeout_s=10)
async def feed_headlines(ctx: Context, query: StockQuery) -> Headlines:
    """Headlines from the query's RSS or Atom feed."""
    _need("lxml")
    first, last = _period(query)
    body = await _page(ctx, query, fill(query.feed_url, query, first, last), headlines.FEED_TYPES)
    items = headlines.parse_feed(body.data, query.headlines_max)
    if not items:
        raise SourceError(f"{_host(body.url)}: the feed has no items")
    return Headlines(source=_host(body.url), items=items)


@tool
async def no_headlines(ctx: Context, query: StockQuery) -> Headlines:
    """No headlines, and a line that says so."""
    reason = "The query allows no network" if query.offline else "The feed could not be read"
    return Headlines(
        source="", items=[], note=f"{reason}; the judgement rests on the prices alone."
    )


@tool(retries=1, timeout_s=300)
async def judge(ctx: Context, measured: Indicators, news: Headlines) -> Opinion:
    """The model's judgement of the short-term trend, from the numbers and the headlines."""
    bearing = headlines.relevant(news, measured.points[-1].date)
    request = judging.prompt(measured, bearing, ctx.feedback)
    judgement = await ctx.model.complete(request, returns=Judgement)
    model = ctx.model.name
    return Opinion(judgement=judgement, model=model, computed=model == OfflineModel({}).name)


@verifier
async def judgement_is_grounded(
    ctx: Context, opinion: Opinion, measured: Indicators, news: Headlines
) -> None:
    """It cites the numbers it was given, leans where they lean, and names the risk."""
    bearing = headlines.relevant(news, measured.points[-1].date)
    _reject_if(checks.judgement_problems(opinion.judgement, measured, bearing))


@tool(timeout_s=60)
async def report(
    ctx: Context,
    query: StockQuery,
    prices: Prices,
    measured: Indicators,
    chart: Chart,
    news: Headlines,
    opinion: Opinion,
) -> StockReport:
    """The report as an HTML page with the chart in it, and as Markdown."""
    _need("plotly", "jinja2")
    from flowkit.workflows.stock_analysis.report import (
        Material,
        render_html,
        render_markdown,
        title,
    )

    last_day = measured.points[-1].date
    material = Material(
        query=query,
        prices=prices,
        measured=measured,
        news=headlines.relevant(news, last_day),
        opinion=opinion,
        chart=chart,
        steps=[step for step in ctx.history() if step.key != ctx.step],
        run_id=ctx.run_id,
        written_at=dt.datetime.now(dt.UTC),
    )

    def draw() -> tuple[str, str]:
        from flowkit.workflows.stock_analysis.chart import figure, fragment

        plot = fragment(figure(prices, measured), script=True)
        return render_html(material, plot), render_markdown(material)

    page, text = await anyio.to_thread.run_sync(draw)
    return StockReport(
        title=title(material),
        trend=opinion.judgement.trend,
        confidence=opinion.judgement.confidence,
        summary=opinion.judgement.summary,
        risk=opinion.judgement.risk,
        source=prices.source.name,
        first_day=measured.points[0].date,
        last_day=last_day,
        close=measured.points[-1].close,
        model=opinion.model,
        html=await ctx.artifact(page, name="report.html", media_type="text/html"),
        markdown=await ctx.artifact(text, name="report.md", media_type="text/markdown"),
        chart=chart.page,
    )


async def _page(ctx: Context, query: StockQuery, url: str, accepts: tuple[str, ...]) -> Body:
    if query.offline:
        raise SourceError(_OFFLINE)
    _need("httpx2")
    async with http_client(ctx) as client:
        return await fetch(client, url, accepts=accepts)


def _period(query: StockQuery) -> tuple[dt.date, dt.date]:
    """Calendar days from which to ask for prices, warm-up included, and up to which."""
    last = query.as_of or dt.datetime.now(dt.UTC).date()
    calendar_days = (query.days + WARMUP_DAYS) * 365 // 252 + 10
    return last - dt.timedelta(days=calendar_days), last


def _source(body: Body, kind: str) -> Source:
    """The source's name by its host; its terms of use are not ours to state."""
    host = _host(body.url)
    known = {
        "query1.finance.yahoo.com": "Yahoo Finance chart API",
        "stockanalysis.com": "Stock Analysis",
    }
    return Source(name=f"{known.get(host, kind)} ({host})", url=body.url)


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def _reject_if(problems: list[str], whose: str = "") -> None:
    if problems:
        raise Reject(whose + "; ".join(problems[:8]))


def _need(*modules: str) -> None:
    """Say what to install, instead of a bare ModuleNotFoundError."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'the stock analysis needs {", ".join(missing)}: pip install "flowkit-agents[workflows]"'
        )
