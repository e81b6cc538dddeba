"""A proxy on loopback, for a browser that shall reach what `Web` reaches and nothing else.

    browser -> this proxy -> every address judged -> connect to one of them

The browser resolves no name and makes no connection of its own, so that sub-resources, redirects,
WebSockets and what a script makes up are judged like the page itself.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import anyio
import anyio.abc

from flowkit.nodes.tools.web.client import Refused, Unreachable, Web

_HEAD_BYTES: Final = 65_536
_BODY_BYTES: Final = 1_000_000
_CONNECTIONS: Final = 32
_HOP: Final = frozenset({
    "connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade",
})  # fmt: skip

_BROKEN: Final = (
    OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream,
    anyio.IncompleteRead, anyio.DelimiterNotFound,
)  # fmt: skip


@dataclass(slots=True)
class Proxy:
    """The proxy while it runs: where it is, the password that it asks for, and what has gone through."""

    web: Web
    bytes_max: int
    port: int = 0
    user: str = "page"
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    passed: int = 0

    @property
    def cut(self) -> bool:
        return self.passed > self.bytes_max

    async def serve(self, client: anyio.abc.SocketStream) -> None:
        """One connection of the browser: one request, or one tunnel."""
        async with client:
            with contextlib.suppress(*_BROKEN):
                head, rest = await _head(client)
                first, *lines = head.split("\r\n")
                method, target, *_ = [*first.split(" "), "", ""]
                headers = [
                    (name.strip(), value.strip())
                    for name, _, value in (each.partition(":") for each in lines)
                ]
                try:
                    await self._answer(client, method, target, headers, rest)
                except (Refused, Unreachable) as error:
                    status = "403 Forbidden" if isinstance(error, Refused) else "502 Bad Gateway"
                    await client.send(_short(status))

    async def _answer(
        self,
        client: anyio.abc.SocketStream,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        rest: bytes,
    ) -> None:
        given = {name.lower(): value for name, value in headers}
        wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if not secrets.compare_digest(
            given.get("proxy-authorization", "").encode(), f"Basic {wanted}".encode()
        ):
            await client.send(_short("407 Login", 'Proxy-Authenticate: Basic realm="flowkit"'))
            return
        if self.cut:
            raise Refused("the page has loaded more than it may.")
        if method == "CONNECT":
            parts = urlsplit(self.web.checked(f"https://{target}/"))
            async with await self._connect(parts.hostname or "", parts.port or 443) as server:
                await client.send(b"HTTP/1.1 200 Connected\r\n\r\n")
                await _both(_pump(client, server.send, rest), self._back(server, client))
            return
        parts = urlsplit(self.web.checked(target))
        if parts.scheme != "http":
            raise Refused("https goes through a tunnel.")
        body = await _body(client, given, rest)
        place = f"{parts.path}?{parts.query}" if parts.query else parts.path
        kept = [
            f"{name}: {value}" for name, value in headers if name.lower() not in _HOP | {"host"}
        ]
        lines = [f"{method} {place} HTTP/1.1", f"Host: {parts.netloc}", *kept, "Connection: close"]
        async with await self._connect(parts.hostname or "", parts.port or 80) as server:
            await server.send("\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body)
            # Nothing more is taken from the browser: what follows could be meant for another host.
            await self._back(server, client)

    async def _connect(self, host: str, port: int) -> anyio.abc.SocketStream:
        error: OSError | None = None
        with anyio.fail_after(self.web.timeout_s):
            for address in await self.web.addresses(host, port):
                try:
                    return await anyio.connect_tcp(address, port)
                except OSError as problem:
                    error = problem
        raise Unreachable(f"{host} cannot be reached.") from error

    async def _back(self, server: anyio.abc.SocketStream, client: anyio.abc.SocketStream) -> None:
        async def send(data: bytes) -> None:
            self.passed += len(data)
            if self.cut:
                raise anyio.BrokenResourceError
            await client.send(data)

        await _pump(server, send)


@asynccontextmanager
async def guarded_proxy(web: Web, bytes_max: int) -> AsyncGenerator[Proxy, None]:
    """A proxy that ends, with all its connections, at the end of the block."""
    proxy = Proxy(web, bytes_max)
    room = anyio.Semaphore(_CONNECTIONS)

    async def serve(client: anyio.abc.SocketStream) -> None:
        async with room:
            await proxy.serve(client)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        proxy.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            try:
                yield proxy
            finally:
                tasks.cancel_scope.cancel()


async def _head(client: anyio.abc.SocketStream) -> tuple[str, bytes]:
    data = b""
    with anyio.fail_after(30):
        while b"\r\n\r\n" not in data:
            if len(data) > _HEAD_BYTES:
                raise anyio.BrokenResourceError
            data += await client.receive()
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


async def _body(client: anyio.abc.SocketStream, given: dict[str, str], body: bytes) -> bytes:
    length = given.get("content-length", "0")
    if "transfer-encoding" in given or not length.isascii() or not length.isdigit():
        raise Refused("a body comes with its length.")
    if int(length) > _BODY_BYTES:
        raise Refused("a page sends little.")
    while len(body) < int(length):
        body += await client.receive()
    return body[: int(length)]


async def _pump(
    source: anyio.abc.SocketStream, send: Callable[[bytes], Awaitable[None]], first: bytes = b""
) -> None:
    """Hand on what comes, until there is no more."""
    with contextlib.suppress(*_BROKEN):
        if first:
            await send(first)
        while True:
            await send(await source.receive())


async def _both(one: Awaitable[None], other: Awaitable[None]) -> None:
    """Wait for whichever ends first, and end the other."""
    async with anyio.create_task_group() as tasks:

        async def wait(which: Awaitable[None]) -> None:
            await which
            tasks.cancel_scope.cancel()

        tasks.start_soon(wait, one)
        tasks.start_soon(wait, other)


def _short(status: str, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *more, "Content-Length: 0", "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
