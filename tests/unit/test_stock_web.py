"""Fetching with care, against a real server on loopback."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import httpx2
import pytest
from pydantic import ValidationError

from flowkit.workflows.stock_analysis.values import (
    STOCKANALYSIS_URL,
    YAHOO_CHART_URL,
    StockQuery,
)
from flowkit.workflows.stock_analysis.web import Body, SourceError, fetch, fill

Route = Callable[[BaseHTTPRequestHandler], None]


class Loopback:
    """A server on 127.0.0.1 with a handler for each path, and a list of what was asked."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.asked: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("User-Agent", "")))
                route = outer.routes.get(self.path.partition("?")[0])
                try:
                    if route is None:
                        send(self, "not here", "text/plain", status=404)
                    else:
                        route(self)
                except OSError:
                    self.close_connection = True  # the client had enough

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def serve(self, path: str, body: str | bytes, media_type: str, status: int = 200) -> str:
        self.routes[path] = lambda handler: send(handler, body, media_type, status)
        return self.url + path

    def redirect(self, path: str, target: str) -> str:
        self.routes[path] = lambda handler: send(handler, "", "text/html", 302, Location=target)
        return self.url + path

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def send(
    handler: BaseHTTPRequestHandler,
    body: str | bytes,
    media_type: str,
    status: int = 200,
    **headers: str,
) -> None:
    data = body.encode() if isinstance(body, str) else body
    handler.send_response(status)
    if media_type:
        handler.send_header("Content-Type", media_type)
    handler.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def web() -> Iterator[Loopback]:
    with Loopback() as server:
        yield server


async def get(url: str, accepts: tuple[str, ...] = ("text/csv",), bytes_max: int = 10_000) -> Body:
    async with httpx2.AsyncClient(timeout=1.0, trust_env=False) as client:
        return await fetch(client, url, accepts=accepts, bytes_max=bytes_max)


async def test_page_comes_with_its_type_and_charset(web: Loopback) -> None:
    url = web.serve("/a", "Größe".encode("latin-1"), "text/CSV; charset=ISO-8859-1")
    body = await get(url)
    assert (body.media_type, body.text()) == ("text/csv", "Größe")
    assert web.asked[0][1].startswith("Mozilla/5.0 (compatible; flowkit")


@pytest.mark.parametrize("charset", ["no-such-thing", "rot13", "idna", "hex", "undefined"])
async def test_strange_charset_is_read_as_utf8(web: Loopback, charset: str) -> None:
    url = web.serve("/a", "größe".encode(), f"text/csv; charset={charset}")
    assert (await get(url)).text() == "größe"


async def test_wrong_type_is_refused(web: Loopback) -> None:
    url = web.serve("/a", "<html>", "text/html")
    with pytest.raises(SourceError, match="answered text/html, not text/csv"):
        await get(url)
    with pytest.raises(SourceError, match="without a content type"):
        await get(web.serve("/b", "x", ""))


async def test_status_is_told_with_a_plain_reason(web: Loopback) -> None:
    url = web.serve("/a", "Too Many Requests\r\n", "text/plain", 429)
    with pytest.raises(SourceError, match=r"HTTP 429: Too Many Requests$"):
        await get(url)
    url = web.serve("/b", "<html>a long page", "text/html", 503)
    with pytest.raises(SourceError, match=r"HTTP 503$"):
        await get(url)


async def test_announced_size_above_the_limit_is_refused_before_it_is_read(web: Loopback) -> None:
    url = web.serve("/a", b"x" * 20_000, "text/csv")
    with pytest.raises(SourceError, match="20000 bytes, more than 10000"):
        await get(url)


# httpx2 leaves the inner generators of a body that was not read to its end to trio's clean-up.
cut_off = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


@cut_off
async def test_endless_body_is_cut(web: Loopback) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/csv")
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b"x" * 4096)

    web.routes["/a"] = endless
    with pytest.raises(SourceError, match="more than 10000 bytes"):
        await get(web.url + "/a")


@cut_off
async def test_compressed_bomb_is_cut(web: Loopback) -> None:
    import gzip

    bomb = gzip.compress(b"0" * 20_000_000)
    web.routes["/a"] = lambda handler: send(
        handler, bomb, "text/csv", 200, **{"Content-Encoding": "gzip"}
    )
    with pytest.raises(SourceError, match="more than 100000 bytes"):
        await get(web.url + "/a", bytes_max=100_000)


async def test_silent_server_is_given_up(web: Loopback) -> None:
    web.routes["/a"] = lambda handler: time.sleep(1.5)
    async with httpx2.AsyncClient(timeout=0.1, trust_env=False) as client:
        with pytest.raises(SourceError, match="no answer in time"):
            await fetch(client, web.url + "/a", accepts=("text/csv",))


async def test_nobody_listens() -> None:
    with pytest.raises(SourceError, match="ConnectError"):
        await get("http://127.0.0.1:1/a")


async def test_redirect_on_the_same_host_is_followed(web: Loopback) -> None:
    web.serve("/goog", "a,b", "text/csv")
    assert (await get(web.redirect("/GOOG", "/goog"))).url.endswith("/goog")


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "http://localhost/x", "//169.254.169.254/x", "ftp://127.0.0.1/x", ""],
)
async def test_redirect_elsewhere_is_not_followed(web: Loopback, target: str) -> None:
    with pytest.raises(SourceError, match=r"not followed|redirects"):
        await get(web.redirect("/a", target))


async def test_redirects_in_a_circle_end(web: Loopback) -> None:
    with pytest.raises(SourceError, match="more than 3 redirects"):
        await get(web.redirect("/a", "/a"))
    assert len(web.asked) == 4


async def test_host_that_is_none_is_told(web: Loopback) -> None:
    with pytest.raises(SourceError):
        await get("http://127.0.0.1:notaport/")


def test_address_is_filled_from_its_template() -> None:
    query = StockQuery(ticker="^GSPC")
    first, last = dt.date(2012, 1, 2), dt.date(2013, 3, 1)
    url = fill(YAHOO_CHART_URL, query, first, last)
    assert url == (
        "https://query1.finance.yahoo.com/v8/finance/chart/%5EGSPC"
        "?interval=1d&period1=1325462400&period2=1362182400"
    )
    assert fill(STOCKANALYSIS_URL, query, first, last).endswith("/stocks/%5Egspc/history/")
    assert fill("https://x/{other}/{to_date}", query, first, last) == "https://x/{other}/2013-03-01"


@pytest.mark.parametrize("ticker", ["", "../x", "A B", "A/B", "?x", "A" * 17, ".A", "<b>", "A\n"])
def test_ticker_is_a_ticker(ticker: str) -> None:
    with pytest.raises(ValidationError):
        StockQuery(ticker=ticker)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/y", "x", "http:///y", "javascript:1"]
)
def test_addresses_are_http(url: str) -> None:
    with pytest.raises(ValidationError):
        StockQuery(ticker="GOOG", quotes_url=url)
