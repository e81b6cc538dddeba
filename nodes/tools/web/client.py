"""`Web`: GET a page of the public internet; or speak to an API, of the host's choice and with its word.

    host name -> every address judged -> connect to one of them -> headers -> decoded bytes, capped
                                                     | redirect: judged again, from the beginning

The judgement sits below every connection, so a name that answers differently the second time, a
redirect, or a number that only the resolver understands leads nowhere else. Neither proxies of the
environment nor cookies nor credentials take part.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from urllib.parse import quote, urljoin, urlsplit

import anyio

from flowkit.errors import DeclarationError
from flowkit.nodes.tools.web.addresses import refusal

if TYPE_CHECKING:
    import httpcore2

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host name, in the order in which they should be tried."""

PORTS: Final = frozenset({80, 443})
BYTES_MAX: Final = 5_000_000
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
REDIRECTS_MAX: Final = 5
URL_CHARACTERS_MAX: Final = 4_000
_CHUNK: Final = 65_536
_SAFE: Final = "%/:?#[]@!$&'()*+,;=~"
"""What stands in an address as it is; other letters are encoded (RFC 3987, 3.1)."""


class Refused(ValueError):
    """The address is not one that may be asked, or the answer is not one that may be taken."""


class Unreachable(OSError):
    """Nobody answered, or with an error; another source may help."""


class NotSent(Unreachable):
    """There was no connection, so that nothing can have happened at the other end."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server gave: where from in the end, and the decoded body, cut at `bytes_max`.

    `headers` by their names in small letters; of several of one name the last.
    """

    url: str
    status: int
    media_type: str
    charset: str
    body: bytes
    cut: bool = False
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


async def resolve(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


@dataclass(frozen=True)
class Web:
    """A way to the public internet, to be given to an engine as a resource.

    Args:
        allow: `host:port` pairs that may be asked although they are not public, such as a search engine
            in the host's own network. Names are compared as they stand in a URL.
        ports: the other ports that may be asked.
        bytes_max: of a decoded body; what is above is cut off.
        timeout_s: for a connection, and for each piece of the answer.
        user_agent: who we say we are.
    """

    allow: frozenset[str] = frozenset()
    ports: frozenset[int] = PORTS
    bytes_max: int = BYTES_MAX
    timeout_s: float = 10.0
    user_agent: str = "flowkit/1 (+https://pypi.org/project/flowkit-agents)"
    resolver: Resolver = field(default=resolve)
    verify: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        given: object = self.allow
        if isinstance(given, str):  # it would be searched for parts
            raise DeclarationError(f'Web(allow={given!r}): give a set, frozenset({{"host:port"}}).')
        for each in self.allow:
            if not re.fullmatch(r"[^/\s]+:\d{1,5}", each):
                raise DeclarationError(f'Web(allow=...): {each!r} is not "host:port".')

    async def get(
        self, url: str, *, accept: str = "*/*", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """GET an address, through at most five redirects. `headers` go to the first origin alone.

        Raises:
            Refused: the address, or one that it redirects to, may not be asked.
            Unreachable: no connection, no answer in time, or a broken one.
        """
        first = urlsplit(self.checked(url))[:2]  # scheme and host: a key never goes on in the clear
        for _ in range(REDIRECTS_MAX + 1):
            url = self.checked(url)
            given = (headers or {}) if urlsplit(url)[:2] == first else {}
            answer = await self._ask("GET", url, {"Accept": accept, **given}, None)
            moved = answer.headers.get("location", "")
            if answer.status not in REDIRECTS or not moved:
                return answer
            url = urljoin(url, moved)
        raise Refused(f"{_host(url)}: more than {REDIRECTS_MAX} redirects, which are not followed.")

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """Make one request as it is given; a redirect is an answer.

        For tools that speak to an API which the host has chosen, never for a model's own addresses.

        Raises:
            Refused: the address may not be asked. Nothing was sent.
            NotSent: no connection. Nothing was sent.
            Unreachable: no answer in time, or a broken one. It may have been taken all the same.
        """
        return await self._ask(method, self.checked(url), headers, body)

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        import httpcore2

        try:
            return await self._once(method, url, headers, body)
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
            raise NotSent(f"{_host(url)} cannot be reached: {_first(error)}.") from error
        except (httpcore2.TimeoutException, TimeoutError) as error:
            raise Unreachable(
                f"{_host(url)} did not answer within {self.timeout_s:g} s."
            ) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            if isinstance(error, Refused | Unreachable):
                raise
            raise Unreachable(f"{_host(url)} cannot be reached: {_first(error)}.") from error

    def checked(self, url: str) -> str:
        """The address as it will be asked; raises `Refused`."""
        if len(url) > URL_CHARACTERS_MAX or not url.isprintable() or " " in url.strip():
            raise Refused("that is no address: give one as http://host/path, without spaces.")
        try:
            parts = urlsplit(url.strip())
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
            host = (parts.hostname or "").encode("idna").decode() if parts.hostname else ""
        except ValueError as error:  # UnicodeError among them
            raise Refused(f"that is no address: {error}.") from error
        if parts.scheme not in ("http", "https"):
            raise Refused(
                f"only http and https are fetched, not {parts.scheme[:20] or 'a bare path'!r}."
            )
        if not host:
            raise Refused("that address names no host.")
        if parts.username is not None or parts.password is not None:
            raise Refused("addresses with a user name or password in them are not fetched.")
        if not self._allows(host, port) and port not in self.ports:
            raise Refused(f"port {port} is not asked, only {_listed(self.ports)}.")
        shown = f"[{host}]" if ":" in host else host
        place = shown if parts.port is None else f"{shown}:{port}"
        path, query = quote(parts.path or "/", safe=_SAFE), quote(parts.query, safe=_SAFE)
        return f"{parts.scheme}://{place}{path}{f'?{query}' if query else ''}"

    def _allows(self, host: str, port: int) -> bool:
        return f"{host}:{port}" in self.allow

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses that may be connected to; all of a host's must be public, or none is."""
        try:
            found = await self.resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise NotSent(f"{host} is not known: {_first(error)}.") from error
        if not found:
            raise NotSent(f"{host} has no address.")
        if not self._allows(host, port):
            for address in found:
                if why := refusal(address):
                    raise Refused(f"{host} is not asked: {why}.")
        return found

    async def _once(
        self, method: str, url: str, given: Mapping[str, str], content: bytes | None
    ) -> Answer:
        told = {"Accept-Encoding": "identity", "User-Agent": self.user_agent, **given}
        if content is not None:
            told["Content-Length"] = str(len(content))
        headers = [(name.encode(), value.encode()) for name, value in told.items()]
        async with self._stream(method, url, headers, content) as response:
            found = {
                name.decode("latin-1").lower(): _header(value) for name, value in response.headers
            }
            kind, _, rest = found.get("content-type", "").partition(";")
            if response.status in REDIRECTS and "location" in found:
                body, cut = b"", False
            else:
                body, cut = await self._body(response, found.get("content-encoding", ""))
            media_type = kind.strip().lower()
            return Answer(url, response.status, media_type, _charset(rest), body, cut, found)

    @asynccontextmanager
    async def _stream(
        self, method: str, url: str, headers: Sequence[tuple[bytes, bytes]], content: bytes | None
    ) -> AsyncGenerator[httpcore2.Response, None]:
        import httpcore2

        every = dict.fromkeys(("connect", "read", "write", "pool"), self.timeout_s)
        parts = urlsplit(url)
        # In parts: of a text httpcore drops what follows a semicolon in the path.
        target = httpcore2.URL(
            scheme=parts.scheme, host=parts.hostname or "", port=parts.port,
            target=f"{parts.path}?{parts.query}" if parts.query else parts.path,
        )  # fmt: skip
        async with (
            httpcore2.AsyncConnectionPool(
                ssl_context=self.verify, network_backend=_backend(self), max_connections=1
            ) as pool,
            pool.stream(
                method,
                target,
                headers=[(b"Host", _netloc(url)), *headers],
                content=content,
                extensions={"timeout": every},
            ) as response,
        ):
            yield response

    async def _body(self, response: httpcore2.Response, encoding: str) -> tuple[bytes, bool]:
        """The decoded body. What a server packs although it was not asked is unpacked bit by bit."""
        unpack = _unpacker(encoding.strip().lower())
        parts: list[bytes] = []
        room = self.bytes_max
        async with aclosing(response.aiter_stream()) as stream:
            async for chunk in stream:
                for part in unpack(chunk, room + 1):
                    parts.append(part[:room])
                    if len(part) > room:
                        return b"".join(parts), True
                    room -= len(part)
        return b"".join(parts), False


def _unpacker(encoding: str) -> Callable[[bytes, int], Iterable[bytes]]:
    if encoding in ("", "identity"):
        return lambda chunk, room: (chunk,)
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Refused(
            f"the server packs its answer as {encoding[:20]!r}, though it was asked not to."
        )
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def unpack(chunk: bytes, room: int) -> Iterable[bytes]:
        left = chunk
        while left and room > 0:
            try:
                part = decoder.decompress(left, min(room, _CHUNK))
            except zlib.error as error:
                raise Unreachable(f"the server's answer cannot be unpacked: {error}.") from error
            room -= len(part)
            left = decoder.unconsumed_tail
            yield part

    return unpack


def _backend(web: Web) -> httpcore2.AsyncNetworkBackend:
    """Connections of httpcore, to addresses that were judged."""
    import httpcore2

    inner = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    class Guarded(httpcore2.AsyncNetworkBackend):
        async def connect_tcp(  # its `timeout` is httpcore's
            self,
            host: str,
            port: int,
            timeout: float | None = None,  # noqa: ASYNC109
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore2.AsyncNetworkStream:
            with anyio.fail_after(timeout):
                *first, last = await web.addresses(host.strip("[]"), port)
            for address in first:
                with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                    return await inner.connect_tcp(
                        address, port, timeout, local_address, socket_options
                    )
            return await inner.connect_tcp(last, port, timeout, local_address, socket_options)

        async def connect_unix_socket(
            self,
            path: str,
            timeout: float | None = None,  # noqa: ASYNC109
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore2.AsyncNetworkStream:
            raise Refused("no sockets of this machine are asked.")

        async def sleep(self, seconds: float) -> None:
            await anyio.sleep(seconds)

    return Guarded()


def _netloc(url: str) -> bytes:
    return urlsplit(url).netloc.encode()


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "that address"
    except ValueError:
        return "that address"


def _header(value: bytes) -> str:
    """A header's value; servers write addresses in UTF-8 though they should not."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _charset(parameters: str) -> str:
    for part in parameters.split(";"):
        name, _, value = part.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'").lower()
    return ""


def _listed(ports: Iterable[int]) -> str:
    return " and ".join(str(port) for port in sorted(ports))


def _first(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
