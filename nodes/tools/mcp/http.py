"""A server of streamable HTTP: headers by reference, answers of bounded size."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from flowkit.nodes.tools.mcp.server import McpServer
from flowkit.nodes.tools.mcp.stdio import LINE_BYTES_MAX, Pulse

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

_CONNECT_S: Final = 30.0
_SILENCE_S: Final = 300.0
"""How long a stream may say nothing; a step's own time limit is what ends a call."""


@asynccontextmanager
async def reached(server: McpServer, pulse: Pulse) -> AsyncGenerator[TransportStreams]:
    """Speak with a server at an address; raises what httpx2 raises, or `LookupError`."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    class Bounded(httpx2.AsyncByteStream):
        """A body that is no stream of events, up to a size."""

        def __init__(self, body: Any) -> None:
            self._body = body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            taken = 0
            async for piece in self._body:
                taken += len(piece)
                if taken > LINE_BYTES_MAX:
                    pulse.why = f"it answered with more than {LINE_BYTES_MAX:,} bytes"
                    raise httpx2.StreamError(pulse.why)
                yield piece

        async def aclose(self) -> None:
            await self._body.aclose()

    class Cautious(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            if response.headers.get("content-encoding", "identity") != "identity":
                # Unpacked, 777 KB were 800 MB; what counts the bytes below sees packed ones.
                await response.aclose()
                pulse.why = "it packed its answer, though it was asked not to"
                raise httpx2.RemoteProtocolError(pulse.why)
            if "text/event-stream" not in response.headers.get("content-type", ""):
                response.stream = Bounded(response.stream)
            return response

    client = httpx2.AsyncClient(
        headers={"Accept-Encoding": "identity", **server.resolved()},
        timeout=httpx2.Timeout(_CONNECT_S, read=_SILENCE_S),
        transport=Cautious(),
    )
    async with (
        client,
        streamable_http_client(
            server.url, http_client=client, max_sse_event_size=LINE_BYTES_MAX
        ) as streams,
    ):
        yield streams
