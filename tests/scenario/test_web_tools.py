"""The web tools against servers on loopback: what is asked, what is not, and what is read."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import socket
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import anyio
import anyio.abc
import pytest

from flowkit import DeclarationError, Engine, Ref, StepFailed, workflow
from flowkit.nodes.tools.corpus import Hits, Page, PageQuery, SearchQuery
from flowkit.nodes.tools.web import (
    Brave,
    Fetched,
    FetchQuery,
    Refused,
    Searcher,
    SearXNG,
    Web,
    fetch,
    read_page,
    web_search,
)
from flowkit.nodes.tools.web.addresses import refusal
from flowkit.nodes.tools.web.client import Answer, Unreachable
from flowkit.store import MemoryStore

PAGE = """<html><head><title>Lighthouses &amp; foghorns</title></head><body><nav>Home Shop Login</nav>
<article><h1>Cape Hatteras</h1><p>The tower of Cape Hatteras is 60.5 metres tall and was finished in
1870 after the first one had been too low to be seen from the sea.</p><table><tr><th>Year</th><th>Height
</th></tr><tr><td>1803</td><td>27</td></tr><tr><td>1870</td><td>60.5</td></tr></table>
<script>alert("never text")</script></article></body></html>"""

PLACES = [
    "127.0.0.1", "127.8.9.10", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "0.0.0.0",
    "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.7", "198.18.0.1", "198.51.100.1",
    "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "192.88.99.1", "::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1",
    "::127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::10.0.0.1",
    "64:ff9b:1:7f00:0:100:808:808", "3fff::1",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::", "2001:db8::1", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "100::1", "5f00::1",
    "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a9fe:a9fe", "no address", "", "300.1.1.1",
]  # fmt: skip

PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]


@pytest.mark.parametrize("place", PLACES)
def test_an_address_that_is_not_public_is_refused_in_every_disguise(place: str) -> None:
    assert refusal(place)


@pytest.mark.parametrize("place", PUBLIC)
def test_a_public_address_is_taken(place: str) -> None:
    assert refusal(place) == ""


class Server:
    """Raw answers by path, on loopback; counts what connected."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.connections = 0
        self.asked: list[str] = []
        self.port = 0

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        self.connections += 1
        async with stream:
            head = b""
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while b"\r\n\r\n" not in head:
                    head += await stream.receive()
                request = head.decode("latin-1")
                self.asked.append(request)
                missing = answer_of(b"not here", status="404 No")
                await stream.send(self.answers.get(request.split()[1], missing))
                await stream.receive()  # until the other side has closed


def answer_of(
    body: bytes, kind: str = "text/html", *, status: str = "200 OK", **headers: str
) -> bytes:
    told = {
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    lines = [
        f"HTTP/1.1 {status}",
        *(f"{name.replace('_', '-')}: {text}" for name, text in told.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(**answers: bytes) -> AsyncGenerator[Server, None]:
    server = Server({f"/{path}": answer for path, answer in answers.items()})
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


def open_to(server: Server, **options: Any) -> Web:
    return Web(allow=frozenset({f"127.0.0.1:{server.port}"}), **options)


DISGUISES = (
    "http://127.0.0.1:{port}/x", "http://localhost:{port}/x", "http://LOCALHOST:{port}/x",
    "http://2130706433:{port}/x", "http://017700000001:{port}/x", "http://0x7f000001:{port}/x",
    "http://127.1:{port}/x", "http://0177.0.0.1:{port}/x", "http://0:{port}/x",
    "http://[::ffff:127.0.0.1]:{port}/x", "http://[::]:{port}/x", "http://[::1]:{port}/x",
    "http://127.0.0.1.:{port}/x", "http://①②⑦.⓪.⓪.①:{port}/x", "http://127。0。0。1:{port}/x",
    "http://user@127.0.0.1:{port}/x", "http://a:b@127.0.0.1:{port}/x",
    "http://1.1.1.1@127.0.0.1:{port}/x", "http://127.0.0.1:{port}\\@1.1.1.1/x",
    "http:///127.0.0.1:{port}/x", "http:127.0.0.1:{port}/x", "//127.0.0.1:{port}/x",
    "127.0.0.1:{port}/x", "file:///etc/passwd", "gopher://127.0.0.1:{port}/x", "ftp://127.0.0.1/x",
    "data:text/plain,x", "javascript:alert(1)", "http://127.0.0.1:{port}/x#@1.1.1.1",
    "http://169.254.169.254/latest/meta-data/", "http://metadata.google.internal/",
    "http://[fd00:ec2::254]/", "http://127.0.0.1:22/", "http://127.0.0.1:99999/", "http://", "http://:80/",
    "", "x", "http://exa mple.com/", "http://127.0.0.1:{port}/x\r\nHost: evil", "http://\u0000/",
    "http://" + "a" * 5000 + "/", "http://[::ffff:7f00:1]:{port}/x", "http://[64:ff9b::7f00:1]:{port}/x",
)  # fmt: skip


async def test_nothing_of_the_host_is_asked_in_any_disguise() -> None:
    async def names(host: str, port: int) -> Sequence[str]:
        known = {"localhost": "127.0.0.1", "metadata.google.internal": "169.254.169.254"}
        if host in known:
            return [known[host]]
        try:
            return [socket.inet_ntoa(socket.inet_aton(host))]  # as the system reads numbers
        except OSError:
            return [str(ip_address(host))] if ":" in host else []

    async with serving(x=answer_of(b"secret")) as server:
        web = Web(ports=frozenset({80, 443, server.port}), timeout_s=2, resolver=names)
        taken: list[str] = []
        for disguise in DISGUISES:
            try:
                await web.get(disguise.replace("{port}", str(server.port)))
                taken.append(disguise)
            except (Refused, Unreachable):
                pass
        assert taken == []
        assert server.connections == 0


async def test_a_name_that_answers_otherwise_the_second_time_is_asked_once() -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    async with serving(x=answer_of(b"here")) as server:
        name = f"rebound.example:{server.port}"
        web = Web(allow=frozenset({name}), resolver=rebinding)
        assert (await web.get(f"http://{name}/x")).body == b"here"
        assert (server.connections, asked) == (1, ["rebound.example"])
        with pytest.raises(Refused, match=r"rebound\.example is not asked"):
            await Web(ports=frozenset({server.port}), resolver=rebinding).get(f"http://{name}/x")
        assert server.connections == 1


async def test_one_address_of_several_that_is_not_public_refuses_the_name() -> None:
    async def mixed(host: str, port: int) -> Sequence[str]:
        return ["93.184.216.34", "127.0.0.1"]

    with pytest.raises(Refused, match=r"two\.example is not asked: 127\.0\.0\.1 is not a public"):
        await Web(resolver=mixed).get("http://two.example/")


async def test_redirects_are_judged_again_and_not_endless() -> None:
    async with serving(secret=answer_of(b"secret")) as inner:
        answers = {
            "loop": answer_of(b"", status="302 F", Location="/loop"),
            "in": answer_of(b"", status="307 T", Location=f"http://127.0.0.1:{inner.port}/secret"),
            "name": answer_of(
                b"", status="301 M", Location=f"http://localhost:{inner.port}/secret"
            ),
            "file": answer_of(b"", status="302 F", Location="file:///etc/passwd"),
            "ok": answer_of(b"", status="302 F", Location="end?a=b"),
            "end?a=b": answer_of(b"here", "text/plain"),
        }
        async with serving(**answers) as server:
            web = open_to(server)
            at = f"http://127.0.0.1:{server.port}"
            with pytest.raises(Refused, match="more than 5 redirects"):
                await web.get(f"{at}/loop")
            for path in ("in", "name", "file"):
                with pytest.raises(Refused):
                    await web.get(f"{at}/{path}")
            assert inner.connections == 0
            assert (await web.get(f"{at}/ok")).url == f"{at}/end?a=b"


async def test_addresses_are_asked_as_they_are_written_other_letters_encoded() -> None:
    tower = "%E7%81%AF%E5%A1%94"
    there = answer_of(b"", status="302 F").replace(
        b"\r\n\r\n", "\r\nLocation: /灯塔\r\n\r\n".encode()
    )
    answers = {
        f"{tower}": answer_of(b"tower"),
        "a;v=1?q=é;2".replace("é", "%C3%A9"): answer_of(b"v1"),
    }
    async with serving(**answers, there=there) as server:
        web, at = open_to(server), f"http://127.0.0.1:{server.port}"
        for path in ("灯塔", tower, "there"):
            assert (await web.get(f"{at}/{path}")).body == b"tower"
        assert (await web.get(f"{at}/a;v=1?q=é;2")).body == b"v1"


async def test_a_body_is_capped_after_it_is_unpacked() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    flat = zlib.compress(b"1" * 1_000_000)
    async with serving(
        bomb=answer_of(bomb, "text/plain", Content_Encoding="gzip"),
        flat=answer_of(flat, "text/plain", Content_Encoding="deflate"),
        odd=answer_of(b"x", Content_Encoding="br"),
        bad=answer_of(b"no gzip", Content_Encoding="gzip"),
        long=answer_of(b"a" * 3000, "text/plain"),
    ) as server:
        web, at = open_to(server, bytes_max=2000), f"http://127.0.0.1:{server.port}"
        for path in ("bomb", "flat", "long"):
            answer = await web.get(f"{at}/{path}")
            assert (len(answer.body), answer.cut) == (2000, True)
        with pytest.raises(Refused, match="packs its answer as 'br'"):
            await web.get(f"{at}/odd")
        with pytest.raises(Unreachable, match="cannot be unpacked"):
            await web.get(f"{at}/bad")


async def test_a_packed_bomb_is_never_whole_in_memory() -> None:
    bomb = gzip.compress(b"0" * 200_000_000, compresslevel=1)
    async with serving(bomb=answer_of(bomb, "text/plain", Content_Encoding="gzip")) as server:
        web = open_to(server, bytes_max=2_000_000)
        tracemalloc.start()
        await web.get(f"http://127.0.0.1:{server.port}/bomb")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20_000_000, f"{peak:,} bytes at once"


async def test_no_cookie_credential_or_referrer_is_sent() -> None:
    async with serving(x=answer_of(b"x", Set_Cookie="a=b")) as server:
        web = open_to(server)
        for _ in range(2):
            await web.get(f"http://127.0.0.1:{server.port}/x")
        sent = server.asked[1].lower()
        assert "cookie" not in sent
        assert "authorization" not in sent
        assert "referer" not in sent
        assert "accept-encoding: identity" in sent


async def test_who_does_not_answer_is_left() -> None:
    async def silent(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    web = Web(allow=frozenset({f"127.0.0.1:{port}"}), timeout_s=0.1)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, silent)
        with pytest.raises(Unreachable, match=r"did not answer within 0\.1 s"):
            await web.get(f"http://127.0.0.1:{port}/")
        tasks.cancel_scope.cancel()
    with pytest.raises(Unreachable, match="cannot be reached"):
        await web.get(f"http://127.0.0.1:{port}/")


# ---- the tools


@workflow
def reading(page: Ref[PageQuery]) -> Ref[Page]:
    return read_page(page)


@workflow
def fetching(query: Ref[FetchQuery]) -> Ref[Fetched]:
    return fetch(query)


async def read(server: Server, path: str, from_line: int = 1, **options: Any) -> Page:
    query = PageQuery(id=f"http://127.0.0.1:{server.port}/{path}", from_line=from_line)
    async with Engine(MemoryStore(), resources=[open_to(server, **options)]) as engine:
        return await engine.run(reading, query)


async def test_a_web_page_is_read_as_its_main_text_with_its_table() -> None:
    async with serving(page=answer_of(PAGE.encode(), "text/html; charset=utf-8")) as server:
        page = await read(server, "page")
        assert page.title == "Lighthouses & foghorns"
        assert "60.5 metres tall" in page.text
        assert "| 1870 | 60.5 |" in page.text
        assert "never text" not in page.text
        assert page.text.startswith("1| ")


async def test_pages_in_other_characters_and_kinds_are_read() -> None:
    chinese = "<html><head><meta charset=gbk></head><body><p>上海的灯塔高六十米，建于一八七零年。</p></body></html>"
    async with serving(
        gbk=answer_of(chinese.encode("gbk")),
        json=answer_of(json.dumps({"a": ["灯塔"]}).encode(), "application/json"),
        empty=answer_of(b""),
        text=answer_of(b"\n".join(b"line %d" % n for n in range(3000)), "text/plain"),
        picture=answer_of(b"\x89PNG", "image/png"),
    ) as server:
        assert "上海的灯塔" in (await read(server, "gbk")).text
        assert "灯塔" in (await read(server, "json")).text
        assert (await read(server, "empty")).lines == 0
        first = await read(server, "text")
        assert first.next_line is not None
        second = await read(server, "text", first.next_line)
        assert second.from_line == first.to_line + 1
        with pytest.raises(StepFailed, match="image/png, which holds no text"):
            await read(server, "picture")
        with pytest.raises(StepFailed, match="answers HTTP 404"):
            await read(server, "nothing")


async def test_a_pdf_is_read_page_by_page() -> None:
    async with serving(
        pdf=answer_of(pdf_of("The lamp burns 12 litres a night"), "application/pdf"),
        broken=answer_of(b"%PDF-1.7 not really", "application/pdf"),
    ) as server:
        page = await read(server, "pdf")
        assert "[page 1]" in page.text
        assert "12 litres a night" in page.text
        with pytest.raises(StepFailed, match="PDF"):
            await read(server, "broken")


def pdf_of(text: str, packed: bytes = b"") -> bytes:
    """A PDF of one page, by hand; `packed` makes its content long, and the file not."""
    stream = b"BT /F1 12 Tf 72 700 Td (%s) Tj %s ET" % (text.encode(), packed)
    how = b""
    if packed:
        stream, how = zlib.compress(stream, 9), b" /Filter /FlateDecode"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources 6 0 R >>",
        b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(stream), how, stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Font << /F1 5 0 R >> >>",
    ]
    out, places = io.BytesIO(), list[int]()
    out.write(b"%PDF-1.4\n")
    for number, each in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, each))
    start = out.tell()
    out.write(b"xref\n0 7\n0000000000 65535 f \n")
    for place in places:
        out.write(b"%010d 00000 n \n" % place)
    out.write(b"trailer << /Size 7 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start)
    return out.getvalue()


@pytest.mark.parametrize(
    ("moved", "kept"),
    [("https://a.example/2", True), ("http://a.example/2", False), ("https://b.example/2", False)],
)
async def test_a_key_goes_to_the_first_origin_alone(
    moved: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Mapping[str, str]] = []

    async def asked(
        self: Web, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        seen.append(headers)
        location = {"location": moved} if len(seen) == 1 else {}
        return Answer(url, 302 if location else 200, "text/plain", "", b"", headers=location)

    monkeypatch.setattr(Web, "_ask", asked)
    await Web().get("https://a.example/1", headers={"X-Key": "canary"})
    assert ["X-Key" in headers for headers in seen] == [True, kept]


@pytest.mark.parametrize("allow", ["a.b:80", frozenset({"a.b"}), frozenset({"http://a.b:80"})])
def test_what_may_be_asked_is_a_set_of_places(allow: Any) -> None:
    with pytest.raises(DeclarationError, match="host:port"):
        Web(allow=allow)


async def test_a_page_that_was_cut_says_so() -> None:
    body = b"line\n" * 50_000
    async with serving(page=answer_of(body, "text/plain")) as server:
        page = await read(server, "page", bytes_max=10_000)
        assert page.note == "The page is longer: only its beginning was read."
        assert (await read(server, "page")).note == ""


@pytest.mark.parametrize("charset", ["punycode", "idna", "unicode_escape", "zlib", "nonsense"])
async def test_a_charset_that_is_none_is_passed_over(charset: str) -> None:
    """Decoding 5 MB as punycode takes half an hour."""
    body = (
        f"<html><head><meta charset={charset}></head><body><p>{'lamp ' * 16_000}</p></body></html>"
    )
    async with serving(page=answer_of(body.encode(), f"text/html; charset={charset}")) as server:
        assert "lamp lamp" in (await read(server, "page")).text


async def test_what_costs_too_much_to_read_ends_at_a_limit_and_other_runs_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowkit.nodes.tools.web.apart.WALL_S", 2.0)
    table = b"<table>" + b"<tr><td>1<td>2" * 250_000
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await anyio.sleep(0.05)
            beats += 1

    async with serving(page=answer_of(table), pdf=answer_of(bomb(), "application/pdf")) as server:
        for path in ("page", "pdf"):
            beats = 0
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(beat)
                with pytest.raises(
                    StepFailed, match=r"cannot be read: its .* take the reader more than"
                ):
                    await read(server, path)
                tasks.cancel_scope.cancel()
            assert beats > 5


def bomb() -> bytes:
    """A small PDF whose page is very long."""
    return pdf_of("lamp) Tj (" * 20, packed=b"(" + b" " * 60_000_000 + b") Tj ")


async def test_fetch_gives_the_beginning_of_what_came() -> None:
    async with serving(feed=answer_of(b"<rss>" + b"x" * 9000, "application/rss+xml")) as server:
        query = FetchQuery(url=f"http://127.0.0.1:{server.port}/feed")
        async with Engine(MemoryStore(), resources=[open_to(server)]) as engine:
            found = await engine.run(fetching, query)
        assert (found.status, found.media_type, found.cut) == (200, "application/rss+xml", True)
        assert len(found.text) == 8000
        async with Engine(MemoryStore()) as engine:
            with pytest.raises(StepFailed, match=r"port \d+ is not asked, only 80 and 443"):
                await engine.run(fetching, query)


# ---- search


@workflow
def searching(search: Ref[SearchQuery]) -> Ref[Hits]:
    return web_search(search)


def results(*urls: str) -> dict[str, Any]:
    found = [{"url": url, "title": f"about {url}", "content": "a  b"} for url in urls]
    return {"results": found}


async def search_of(server: Server, searcher: Searcher) -> Hits:
    async with Engine(MemoryStore(), resources=[open_to(server), searcher]) as engine:
        return await engine.run(searching, SearchQuery(query="lighthouse 灯塔", limit=3))


ASKED = "q=lighthouse+%E7%81%AF%E5%A1%94"


async def test_searxng_gives_addresses_that_could_be_read_each_once() -> None:
    urls = ("https://a.example/1", "https://a.example/1", "javascript:alert(1)", "file:///etc/passwd",
            "https://b.example/", "http://c.example/x", "https://d.example/")  # fmt: skip
    path = f"search?{ASKED}&format=json&language=auto"
    body = json.dumps(results(*urls)).encode()
    async with serving(**{path: answer_of(body, "application/json")}) as server:
        found = await search_of(server, SearXNG(f"http://127.0.0.1:{server.port}/"))
        assert [hit.id for hit in found.hits] == [urls[0], urls[4], urls[5]]
        assert found.hits[0].snippet == "a b"


async def test_a_search_that_fails_says_why() -> None:
    path = f"search?{ASKED}&format=json&language=auto"
    for answer, says in (
        (answer_of(b"{}", status="403 F"), r"add json to its search\.formats"),
        (answer_of(b"no json", "application/json"), "no JSON"),
        (answer_of(b"{}", status="500 E"), "HTTP 500"),
    ):
        async with serving(**{path: answer}) as server:
            with pytest.raises(StepFailed, match=says):
                await search_of(server, SearXNG(f"http://127.0.0.1:{server.port}"))
    async with serving(**{path: answer_of(b'{"results": "odd"}')}) as server:
        found = await search_of(server, SearXNG(f"http://127.0.0.1:{server.port}"))
        assert "Nothing found" in found.note


async def test_a_key_goes_to_the_search_s_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAVE_API_KEY", "secret-key-1")
    hit = {"url": "https://a.example/", "title": "A", "description": "d"}
    body = json.dumps({"web": {"results": [hit]}}).encode()
    async with serving(secret=answer_of(b"other")) as other:
        away = answer_of(b"", status="302 F", Location=f"http://127.0.0.1:{other.port}/secret")
        answers = {f"s?{ASKED}&count=3": answer_of(body), f"away?{ASKED}&count=3": away}
        async with serving(**answers) as server:
            at = f"http://127.0.0.1:{server.port}"
            found = await search_of(server, Brave(url=f"{at}/s"))
            assert found.hits[0].id == "https://a.example/"
            assert "x-subscription-token: secret-key-1" in server.asked[0].lower()
            both = frozenset({f"127.0.0.1:{server.port}", f"127.0.0.1:{other.port}"})
            with pytest.raises(Unreachable):
                await Brave(url=f"{at}/away").search(Web(allow=both), "lighthouse 灯塔", 3)
            assert len(other.asked) == 1
            assert "secret-key-1" not in other.asked[0]
    monkeypatch.delenv("BRAVE_API_KEY")
    async with serving() as server:
        with pytest.raises(StepFailed, match="set BRAVE_API_KEY"):
            await search_of(server, Brave())
