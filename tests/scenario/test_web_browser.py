"""Pages made by JavaScript: in a real Chromium, behind the guard; and what is said where there is none."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from flowkit import Engine, Ref, workflow
from flowkit.nodes.tools.corpus import Page, PageQuery
from flowkit.nodes.tools.web import Answer, Browser, Refused, Web, read_page
from flowkit.nodes.tools.web.browser import needs_scripts
from flowkit.nodes.tools.web.client import Unreachable
from flowkit.nodes.tools.web.proxy import Proxy, guarded_proxy
from flowkit.store import MemoryStore

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
chromium = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None,
    reason="Chromium and Playwright are not here",
)

MADE = """<html><head><title>Tides</title></head><body><div id=app></div><script>
const rows = [["Brest", 6.1], ["Dover", 5.9]].map(([p, m]) => `<tr><td>${p}</td><td>${m}</td></tr>`).join("");
document.getElementById("app").innerHTML =
  `<article><h1>Tides of the coast</h1><p>${"The sea rises twice a day, and more at the full moon. ".repeat(6)}</p>
  <table><tr><th>Port</th><th>Metres</th></tr>${rows}</table></article>`;
</script></body></html>"""


class Server:
    """Pages on loopback by path, and what was asked of it."""

    def __init__(self, pages: dict[str, str]) -> None:
        self.pages = pages
        self.asked: list[str] = []
        self.connections = 0
        self.port = 0

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        self.connections += 1
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await stream.receive()
                path = head.decode("latin-1").split()[1]
                self.asked.append(path)
                page = self.pages.get(path)
                status = "200 OK" if page is not None else "404 No"
                if page is not None and page.startswith("http"):
                    await stream.send(
                        f"HTTP/1.1 302 F\r\nLocation: {page}\r\nContent-Length: 0\r\n\r\n".encode()
                    )
                    return
                body = (page or "").encode()
                kind = "text/html; charset=utf-8"
                await stream.send(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )


@asynccontextmanager
async def serving(**pages: str) -> AsyncGenerator[Server, None]:
    server = Server({f"/{name}": page for name, page in pages.items()})
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


async def numbers(host: str, port: int) -> Sequence[str]:
    """A resolver that knows addresses alone, and `localhost`."""
    return (
        [{"localhost": "127.0.0.1"}.get(host, host)]
        if host[0].isdigit() or host in ("localhost", "::1")
        else []
    )


def open_to(*servers: Server, **options: Any) -> Web:
    return Web(allow=frozenset(each.place for each in servers), resolver=numbers, **options)


@workflow
def reading(page: Ref[PageQuery]) -> Ref[Page]:
    return read_page(page)


async def read(server: Server, path: str, *resources: object, web: Web | None = None) -> Page:
    query = PageQuery(id=f"http://{server.place}/{path}")
    async with Engine(MemoryStore(), resources=[web or open_to(server), *resources]) as engine:
        return await engine.run(reading, query)


def processes_of(mark: str) -> list[str]:
    found: list[str] = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (place / "environ").read_bytes() + (place / "cmdline").read_bytes()
            if mark.encode() in text and int(place.name) != os.getpid():
                found.append(text[:200].decode("latin-1"))
    return found


# ---- the rule


def html(body: str, status: int = 200, kind: str = "text/html") -> Answer:
    return Answer("http://a.example/", status, kind, "utf-8", body.encode())


@pytest.mark.parametrize(
    ("answer", "text", "needed"),
    [
        (html(MADE), "", True),
        (html('<SCRIPT SRC="app.js"></SCRIPT>'), "Loading …", True),
        (html(MADE), "x" * 200, False),
        (html(MADE), " \n" * 200, True),
        (html("<p>short</p>"), "short", False),
        (html('<script type="application/ld+json">{}</script>'), "", False),
        (html(MADE, 404), "", False),
        (html(MADE, kind="text/plain"), "", False),
    ],
)
def test_a_page_needs_its_scripts_if_it_has_some_and_next_to_no_text(
    answer: Answer, text: str, needed: bool
) -> None:
    assert needs_scripts(answer, text) is needed


async def test_without_a_browser_the_plain_page_is_read_and_says_so() -> None:
    async with serving(made=MADE, plain=f"<p>{'text ' * 100}</p><script>1</script>") as server:
        assert "its JavaScript is not run here" in (await read(server, "made")).note
        assert "not run here" in (await read(server, "made", Browser(render="never"))).note
        gone = Browser(executable="no-such-browser")
        for browser in (gone, Browser(executable="no-such-browser", render="always")):
            page = await read(server, "made", browser)
            assert "pip install" in page.note or "needs a browser of the system" in page.note
        assert (await read(server, "plain", gone)).note == ""


# ---- the proxy, without a browser


async def through(proxy: Proxy, request: str, password: str | None = None) -> str:
    login = base64.b64encode(f"{proxy.user}:{password or proxy.password}".encode()).decode()
    text = request.replace("\n", f"\nProxy-Authorization: Basic {login}\n", 1).replace("\n", "\r\n")
    stream = await anyio.connect_tcp("127.0.0.1", proxy.port)
    found = b""
    async with stream:
        await stream.send(f"{text}\r\n\r\n".encode())
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while b"done" not in found and len(found) < 100_000:
                found += await stream.receive()
    return found.decode("latin-1")


async def test_the_proxy_judges_every_address_and_asks_for_its_password() -> None:
    async with serving(x="done") as server, serving(x="secret") as inner:
        async with guarded_proxy(open_to(server, timeout_s=2), 1_000_000) as proxy:
            fine = f"GET http://{server.place}/x HTTP/1.1\nHost: evil.example"
            assert (await through(proxy, fine)).endswith("done")
            tunnel = f"CONNECT {server.place} HTTP/1.1\nHost: x"
            assert "200 Connected" in await through(proxy, f"{tunnel}\n\nGET /x HTTP/1.1\nHost: x")
            assert "407" in await through(proxy, fine, "guess")
            for target in (
                f"GET http://{inner.place}/x",
                f"CONNECT {inner.place}",
                "CONNECT 169.254.169.254:80",
                f"CONNECT localhost:{inner.port}",
                f"CONNECT [::ffff:127.0.0.1]:{inner.port}",
                "GET https://127.0.0.1/",
                "GET /x",
                "GET file:///etc/passwd",
                "GET",
                f"GET http://a@{server.place}/x",
            ):
                assert " 403 " in await through(proxy, f"{target} HTTP/1.1\nHost: x"), target
            long = f"POST http://{server.place}/x HTTP/1.1\nContent-Length: 9999999"
            assert " 403 " in await through(proxy, long)
        assert inner.connections == 0
        assert len(server.asked) == 2


async def test_one_connection_of_the_proxy_is_one_request() -> None:
    async with serving(x="one", y="done") as server:
        async with guarded_proxy(open_to(server), 1_000_000) as proxy:
            twice = f"GET http://{server.place}/x HTTP/1.1\nHost: x\n\nGET /y HTTP/1.1\nHost: other"
            assert "done" not in await through(proxy, twice)
        assert server.asked == ["/x"]


async def test_the_proxy_lets_so_many_bytes_through_and_no_more() -> None:
    async with (
        serving(x="x" * 500_000) as server,
        guarded_proxy(open_to(server), 100_000) as proxy,
    ):
        request = f"GET http://{server.place}/x HTTP/1.1\nHost: x"
        assert len(await through(proxy, request)) <= 100_000
        assert proxy.cut
        assert " 403 " in await through(proxy, request)


# ---- a real browser


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Generator[str, None, None]:
    """Where this test's browsers have their folders, by which their processes are known."""
    with tempfile.TemporaryDirectory(prefix="flowkit-test-") as folder:
        os.chmod(folder, 0o711)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield folder
        assert os.listdir(folder) == []


@chromium
@pytest.mark.long
async def test_a_page_made_by_javascript_is_read_with_its_table(place: str) -> None:
    async with serving(made=MADE) as server:
        page = await read(server, "made", Browser())
        assert page.note == ""
        assert "The sea rises twice a day" in page.text
        assert "| Dover | 5.9 |" in page.text
        assert page.title == "Tides"
    assert processes_of(place) == []


HOSTILE = """<html><body><div id=app>waiting</div><script>
const out = [];
const tell = (what, result) => {{ out.push(what + ": " + result); document.getElementById("app").innerText = out.join("\\n"); }};
const t = "127.0.0.1:{inner}";
fetch("http://" + t + "/fetch").then(r => r.text()).then(x => tell("fetch", x), e => tell("fetch", "failed"));
fetch("http://localhost:{inner}/name", {{mode: "no-cors"}}).then(r => tell("name", "status " + r.type), e => tell("name", "failed"));
fetch("/away").then(r => r.text()).then(x => tell("redirect", x), e => tell("redirect", "failed"));
const s = new WebSocket("ws://" + t + "/socket"); s.onopen = () => tell("socket", "open"); s.onerror = () => tell("socket", "failed");
const f = document.createElement("iframe"); f.src = "http://[::1]:{inner}/frame"; document.body.append(f);
const i = document.createElement("script"); i.src = "http://" + t + "/script"; i.onerror = () => tell("script", "failed"); document.body.append(i);
try {{
  const p = new RTCPeerConnection({{iceServers: [{{urls: "turn:" + t + "?transport=tcp", username: "a", credential: "b"}}]}});
  p.createDataChannel("x"); p.createOffer().then(o => p.setLocalDescription(o));
}} catch (e) {{}}
try {{ fetch("file:///etc/passwd").then(r => r.text()).then(x => tell("file", x), e => tell("file", "failed")); }} catch (e) {{}}
</script><script src="/slow.js"></script></body></html>"""


@chromium
@pytest.mark.long
async def test_nothing_that_a_page_tries_reaches_what_the_host_alone_may_reach() -> None:
    async with serving(fetch="secret", script="tell('script', 'ran')") as inner:
        async with serving(away=f"http://{inner.place}/fetch") as server:
            server.pages["/page"] = (
                HOSTILE.replace("{inner}", str(inner.port)).replace("{{", "{").replace("}}", "}")
            )
            page = await read(server, "page", Browser(render="always"))
            assert "fetch: failed" in page.text
            assert "redirect: failed" in page.text
            assert "socket: failed" in page.text
            assert "secret" not in page.text
            assert "root:" not in page.text
            assert "/away" in server.asked
        assert (inner.connections, inner.asked) == (0, [])


@chromium
@pytest.mark.long
async def test_the_same_page_reaches_it_where_the_host_allows_it() -> None:
    async with serving(fetch="secret") as inner, serving() as server:
        server.pages["/page"] = (
            HOSTILE.replace("{inner}", str(inner.port)).replace("{{", "{").replace("}}", "}")
        )
        await read(server, "page", Browser(render="always"), web=open_to(server, inner))
        assert "/fetch" in inner.asked


@chromium
@pytest.mark.long
async def test_a_page_without_end_is_ended_with_all_its_processes(place: str) -> None:
    endless = "<div>short</div><script>while (true) {}</script>"
    async with serving(endless=endless, made=MADE) as server:
        page = await read(server, "endless", Browser(time_s=3))
        assert "read without" in page.note
        assert processes_of(place) == []
        with anyio.move_on_after(1.5) as scope:
            await Browser().get(f"http://{server.place}/endless", open_to(server))
        assert scope.cancelled_caught
        assert processes_of(place) == []
        with pytest.raises((Refused, Unreachable)):
            await Browser().get("http://127.0.0.1:9/", Web())
