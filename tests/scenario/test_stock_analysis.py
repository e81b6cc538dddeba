"""The main job, whole: sources that fail, a model that errs, a run that is taken up again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx2
import pytest

from flowkit import Engine, StepFailed
from flowkit.chat import ChatMessage, ModelAnswer, ModelRequest, OnDelta
from flowkit.errors import Rejected
from flowkit.model import OfflineModel, OpenAIModel
from flowkit.model.offline import facts
from flowkit.ports import Model
from flowkit.store import MemoryStore, SqlStore
from flowkit.workflows import shipped
from flowkit.workflows.stock_analysis import (
    EXAMPLE,
    OFFLINE_RULES,
    StockQuery,
    StockReport,
    stock_analysis,
)
from flowkit.workflows.stock_analysis.judging import judge_by_rules
from flowkit.workflows.stock_analysis.values import Judgement
from tests.unit.test_stock_headlines import yahoo_rss
from tests.unit.test_stock_sources import (
    YAHOO_NOT_FOUND,
    history_page,
    stooq_csv,
    yahoo_chart,
)
from tests.unit.test_stock_sources import shipped as shipped_bars
from tests.unit.test_stock_web import Loopback, send

OFFLINE = OfflineModel(OFFLINE_RULES)
AS_OF = "2013-03-01"


class Scripted:
    """A model that answers with the judgement that a function makes of the given numbers."""

    name = "scripted-1"

    def __init__(self, answer: Callable[[Judgement, int], Judgement]) -> None:
        self._answer = answer
        self.requests: list[ModelRequest] = []

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        self.requests.append(request)
        judgement = judge_by_rules(facts(request)["facts"])
        told = self._answer(judgement, len(self.requests)).model_dump_json()
        return ModelAnswer(ChatMessage("assistant", told), model=self.name)


@pytest.fixture
def web() -> Iterator[Loopback]:
    with Loopback() as server:
        yield server


@asynccontextmanager
async def engine(store: MemoryStore | SqlStore, model: Model = OFFLINE) -> AsyncGenerator[Engine]:
    async with (
        httpx2.AsyncClient(timeout=2.0, trust_env=False) as client,
        Engine(store, workflows=[stock_analysis], model=model, resources=[client]) as running,
    ):
        yield running


def asking(web: Loopback, **change: object) -> StockQuery:
    """A query whose three addresses are on loopback; nothing is served there yet."""
    told: dict[str, object] = {
        "ticker": "GOOG",
        "as_of": AS_OF,
        "quotes_url": web.url + "/chart/{ticker}?period1={from_unix}&period2={to_unix}",
        "page_url": web.url + "/stocks/{ticker_lower}/history/",
        "feed_url": web.url + "/rss?s={ticker}",
    }
    return StockQuery.model_validate(told | change)


async def read(store: MemoryStore | SqlStore, report: StockReport) -> tuple[str, str]:
    """The report's Markdown without escapes, and its HTML."""
    text = (await store.get(report.markdown.sha256)).decode()
    return text.replace("\\", ""), (await store.get(report.html.sha256)).decode()


async def test_example_runs_offline_and_tells_all(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "runs.db")
    started = time.monotonic()
    async with engine(store) as running:
        report = await running.run(stock_analysis, EXAMPLE)
        text, html = await read(store, report)
        chart = (await store.get(report.chart.sha256)).decode()
    assert time.monotonic() - started < 20
    assert (report.trend, report.last_day.isoformat(), report.close) == ("up", AS_OF, 806.19)
    assert text.startswith("# GOOG: short-term trend up\n\n**No language model was used.")
    assert "Historical sample data" in text
    assert "quotes_api: SourceError: offline: the query allows no network" in text
    assert "| headlines (tool) | no_headlines | done |" in text
    assert "The query allows no network; the judgement rests on the prices alone." in text
    assert "candlestick" in html
    assert "candlestick" in chart
    assert [a.name for a in (report.html, report.markdown, report.chart)] == [
        "report.html",
        "report.md",
        "chart.html",
    ]


async def test_first_source_and_feed_answer(web: Loopback) -> None:
    bars = shipped_bars(count=400)
    web.serve("/chart/GOOG", yahoo_chart(bars, nulls=(3,)), "application/json")
    feed = yahoo_rss(
        ("Google passes <b>$800</b>", "https://news.example/1", "Thu, 28 Feb 2013 16:01:00 GMT"),
        ("Of another year", "https://news.example/2", "Fri, 20 Nov 2026 09:00:00 GMT"),
    )
    web.serve("/rss", feed, "text/xml")
    store = MemoryStore()
    async with engine(store) as running:
        report = await running.run(stock_analysis, asking(web))
        text, html = await read(store, report)
    assert report.source == f"API (127.0.0.1:{web.url.rpartition(':')[2]})"
    assert "| prices (tool) | quotes_api | done | 1 |" in text
    assert "| headlines (tool) | feed_headlines | done | 1 |" in text
    assert "1 more without usable prices left out" in text
    assert "Google passes <b>$800</b>" in text
    assert "Google passes &lt;b&gt;$800&lt;/b&gt;" in html
    assert "Of another year" not in text
    assert "1 of 2 headlines are not from" in text
    assert "Historical sample data" not in text
    assert {path.partition("?")[0] for path, _ in web.asked} == {"/chart/GOOG", "/rss"}


async def test_page_answers_where_the_api_does_not(web: Loopback) -> None:
    web.serve("/chart/GOOG", "Too Many Requests\r\n", "text/plain", 429)
    web.serve("/stocks/goog/history/", history_page(shipped_bars(count=125)), "text/html")
    store = MemoryStore()
    async with engine(store) as running:
        report = await running.run(stock_analysis, asking(web, days=100))
        text, _ = await read(store, report)
    assert report.source.startswith("page (127.0.0.1")
    assert "| prices (tool) | quotes_page | done | 3 |" in text
    assert "HTTP 429: Too Many Requests (2 times)" in text
    assert "SourceError: 127.0.0.1: HTTP 404: not here" in text, "the feed's failure is told"


async def test_unusable_prices_go_to_the_next_source(web: Loopback) -> None:
    """The API answers, but with too few days: the verifier sends the step to the page."""
    web.serve("/chart/GOOG", stooq_csv(shipped_bars(count=12)), "text/csv")
    web.serve("/stocks/goog/history/", history_page(shipped_bars(count=125)), "text/html")
    store = MemoryStore()
    async with engine(store) as running:
        report = await running.run(stock_analysis, asking(web))
        text, _ = await read(store, report)
    assert report.source.startswith("page (127.0.0.1")
    assert "rejected before: API (127.0.0.1" in text
    assert "12 days of prices, at least 60 are needed" in text


async def test_shipped_prices_answer_last_and_say_so(web: Loopback) -> None:
    web.serve("/chart/GOOG", YAHOO_NOT_FOUND, "application/json", 404)
    web.serve("/stocks/goog/history/", "<title>Are you a robot?</title>", "text/html")
    store = MemoryStore()
    async with engine(store) as running:
        report = await running.run(stock_analysis, asking(web))
        text, _ = await read(store, report)
    assert report.source.startswith("Quandl WIKI Prices")
    assert "Historical sample data: the prices end on 2013-03-01" in text
    assert "symbol may be delisted" in text
    assert "no table of daily prices in it ('Are you a robot?')" in text


async def test_no_source_has_the_share() -> None:
    async with engine(MemoryStore()) as running:
        with pytest.raises(StepFailed, match="the shipped prices have AAPL, GOOG, IBM, MSFT"):
            await running.run(stock_analysis, StockQuery(ticker="NVDA", offline=True))


async def test_wrong_number_is_sent_back_to_the_model() -> None:
    def answer(judgement: Judgement, asked: int) -> Judgement:
        if asked > 1:
            return judgement
        return judgement.model_copy(update={"summary": "The price will surely reach 950 soon."})

    model = Scripted(answer)
    store = MemoryStore()
    async with engine(store, model) as running:
        report = await running.run(stock_analysis, EXAMPLE)
        text, _ = await read(store, report)
    assert report.model == "scripted-1"
    assert "written by the language model scripted-1" in text
    assert "950" not in report.summary
    assert "950 is in the text" in (model.requests[1].messages[-1].content or "")
    assert "rejected before: 950 is in the text but not among the given numbers" in text


async def test_model_that_keeps_inventing_fails_the_run() -> None:
    def answer(judgement: Judgement, asked: int) -> Judgement:
        return judgement.model_copy(update={"risk": "none"})

    model = Scripted(answer)
    async with engine(MemoryStore(), model) as running:
        with pytest.raises(Rejected, match="name the risk"):
            await running.run(stock_analysis, EXAMPLE)
    assert len(model.requests) == 3


def chat_completions(handler: BaseHTTPRequestHandler) -> None:
    """An OpenAI-compatible server whose model judges by the numbers in the last message."""
    asked = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
    messages = [ChatMessage(told["role"], told["content"]) for told in asked["messages"]]
    given = facts(ModelRequest(messages, schema_name="Judgement"))["facts"]
    delta = {"role": "assistant", "content": judge_by_rules(given).model_dump_json()}
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "local-7b-instruct",
        "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}],
    }
    send(handler, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", "text/event-stream")


async def test_language_model_of_the_environment_judges(web: Loopback) -> None:
    web.routes["/v1/chat/completions"] = chat_completions
    environ = {"OPENAI_BASE_URL": web.url + "/v1", "FLOWKIT_MODEL": "local-7b"}
    async with httpx2.AsyncClient(timeout=5.0, trust_env=False) as client:
        model = OpenAIModel.from_env(environ, http_client=client)
        store = MemoryStore()
        async with engine(store, model) as running:
            report = await running.run(stock_analysis, EXAMPLE)
            text, _ = await read(store, report)
    assert report.model == "local-7b"
    assert "The judgement was written by the language model local-7b" in text
    assert [path for path, _ in web.asked] == ["/v1/chat/completions"]


async def test_failed_run_is_taken_up_without_asking_the_sources_again(
    web: Loopback, tmp_path: Path
) -> None:
    class Down:
        name = "down"

        async def respond(
            self, request: ModelRequest, *, on_delta: OnDelta | None = None
        ) -> ModelAnswer:
            raise ConnectionError("nobody listens")

    web.serve("/chart/GOOG", yahoo_chart(shipped_bars(count=400)), "application/json")
    async with engine(SqlStore(tmp_path / "runs.db"), Down()) as running:
        with pytest.raises(StepFailed, match="nobody listens"):
            await running.run(stock_analysis, asking(web), run_id="monday")
    asked = len(web.asked)
    async with engine(SqlStore(tmp_path / "runs.db")) as running:
        report = await (await running.retry("monday")).result()
        again = await running.run(stock_analysis, asking(web), run_id="monday")
    assert isinstance(report, StockReport)
    assert again == report
    assert len(web.asked) == asked, "no source is asked twice"


async def test_other_prices_give_another_judgement() -> None:
    found: dict[str, StockReport] = {}
    async with engine(MemoryStore()) as running:
        for ticker, as_of in (("GOOG", AS_OF), ("AAPL", "2013-01-25"), ("IBM", "2012-06-01")):
            query = StockQuery.model_validate(
                {"ticker": ticker, "as_of": as_of, "offline": True, "days": 60}
            )
            found[ticker] = await running.run(stock_analysis, query)
    assert [report.trend for report in found.values()] == ["up", "down", "down"]
    assert len({report.summary for report in found.values()}) == 3
    assert found["AAPL"].close == 439.88


def test_shipped_name_resolves() -> None:
    module, _, name = shipped()["stock_analysis"].partition(":")
    found = getattr(sys.modules[module], name)
    assert found is stock_analysis
    json.dumps(dict(shipped()))


def test_declaring_it_needs_none_of_its_libraries() -> None:
    program = (
        "import sys; import flowkit.workflows.stock_analysis\n"
        "heavy = {'pandas', 'plotly', 'lxml', 'jinja2', 'httpx2', 'openai', 'sqlalchemy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout.strip() == "[]"
