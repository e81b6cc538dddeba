"""A server of streamable HTTP that forgets, floods and dies: what a caller is told, and that it goes on."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from flowkit.nodes.tools.mcp import McpCallLost, McpConnections, McpServer, McpUnavailable

# Under trio the SDK leaves generators of a stream that it has read to its end to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ECHO = {"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}


class Old(BaseHTTPRequestHandler):
    """The protocol of 2025-11-25, as far as it is needed: a session, one tool, JSON answers."""

    protocol_version = "HTTP/1.1"
    session: ClassVar[int] = 1
    packs: ClassVar[bool] = False
    seen: ClassVar[list[tuple[str, str]]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        method, given = asked["method"], self.headers.get("mcp-session-id")
        self.seen.append((method, self.headers.get("authorization", "")))
        if given is not None and given != str(self.session):
            self._answer(404, b"")
        elif "id" not in asked:
            self._answer(202, b"")
        else:
            result = self._result(method, asked.get("params", {}))
            error = {"code": -32601, "message": f"no {method}"}
            told = {"result": result} if result is not None else {"error": error}
            self._answer(200, json.dumps({"jsonrpc": "2.0", "id": asked["id"], **told}).encode())

    def do_GET(self) -> None:
        self._answer(405, b"")

    do_DELETE = do_GET

    def _result(self, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        match method:
            case "initialize":
                info = {"name": "old", "version": "1"}
                told: dict[str, Any] = {"protocolVersion": "2025-11-25", "serverInfo": info}
                return {**told, "capabilities": {"tools": {}}}
            case "tools/list":
                return {"tools": [ECHO]}
            case "tools/call":
                text = "x" * params["arguments"].get("length", 1)
                return {"content": [{"type": "text", "text": text}]}
            case _:
                return None

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if len(body) > 1_000_000 and self.packs:
            body = gzip.compress(body)
            self.send_header("content-encoding", "gzip")
        self.send_header("content-type", "application/json")
        self.send_header("mcp-session-id", str(self.session))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client has read enough
            return

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Generator[McpServer]:
    monkeypatch.setenv("TOKEN", "secret-of-the-host")
    Old.session, Old.seen = 1, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Old) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{http.server_address[1]}/mcp"
        yield McpServer.http("old", url, headers={"Authorization": "Bearer env:TOKEN"})
        http.shutdown()
        thread.join()


async def test_a_session_that_was_forgotten_is_begun_anew(server: McpServer) -> None:
    async with McpConnections() as mcp:
        (echo,) = await mcp.offers(server)
        assert len((await mcp.call(server, echo, {})).content) == 1
        Old.session = 2  # as after a restart
        with pytest.raises(McpUnavailable, match="The tool was not called"):
            await mcp.call(server, echo, {})
        assert len((await mcp.call(server, echo, {})).content) == 1
    assert {sent for _, sent in Old.seen} == {"Bearer secret-of-the-host"}


async def test_an_answer_that_is_packed_is_not_unpacked(
    server: McpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted would be the packed bytes: 777 KB of them can be 800 MB."""
    monkeypatch.setattr(Old, "packs", True)
    async with McpConnections() as mcp:
        (echo,) = await mcp.offers(server)
        with pytest.raises(McpCallLost, match="packed its answer, though it was asked not to"):
            await mcp.call(server, echo, {"length": 2_000_000})
        assert len((await mcp.call(server, echo, {})).content) == 1


async def test_an_answer_that_is_too_long_is_not_taken(server: McpServer) -> None:
    async with McpConnections() as mcp:
        (echo,) = await mcp.offers(server)
        with pytest.raises(McpCallLost, match="answered with more than 16,000,000 bytes"):
            await mcp.call(server, echo, {"length": 17_000_000})
        assert len((await mcp.call(server, echo, {})).content) == 1
