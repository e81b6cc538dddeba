"""A chat-completions server on the loopback, stricter than the real ones."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Final, cast

from flowkit.chat import ModelRequest
from flowkit.testing.faults import Fault, FaultPlan
from flowkit.testing.responder import Responder, Served, error_json
from flowkit.testing.rules import Rules, Violation
from flowkit.testing.script import Script
from flowkit.testing.wire import Json, encoded

_POLL_S: Final = 0.02
_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""Closing with this answers the peer with a reset."""


class StrictServer:
    """A running server. What it has seen may be read from any thread, also after its end.

    `requests` and `bodies` are the requests in order, as flowkit and as JSON has them (those that
    could be read); `violations` are the rules that were broken, `faulted` the faults that were
    dealt. A test ends with `assert server.violations == []`.
    """

    def __init__(self, responder: Responder, port: int) -> None:
        self._responder = responder
        self.base_url = f"http://127.0.0.1:{port}/v1"

    def __repr__(self) -> str:
        return f"StrictServer({self.base_url!r}, rules={self._responder.rules.name!r})"

    @property
    def requests(self) -> list[ModelRequest]:
        return self._responder.requests

    @property
    def bodies(self) -> list[Json]:
        return self._responder.bodies

    @property
    def violations(self) -> list[Violation]:
        return self._responder.violations

    @property
    def faulted(self) -> list[Fault]:
        return self._responder.faulted


@contextmanager
def strict_server(
    script: Script,
    *,
    rules: Rules | str = "kimi-k2-thinking",
    faults: FaultPlan = (),
    port: int = 0,
    key: str = "",
) -> Generator[StrictServer, None, None]:
    """Serve a script on the loopback, on a free port unless one is given, in threads of its own.

    A request that breaks a rule is answered with 400 and recorded. `rules` are `Rules`, or the
    name of a generation. With `key`, requests with another key are answered with 401.
    """
    known = Rules.named(rules) if isinstance(rules, str) else rules
    responder = Responder(script, known, faults)
    with _Http(port, responder, key) as http:
        thread = Thread(target=http.serve_forever, args=(_POLL_S,), name="flowkit-strict-server")
        thread.start()
        try:
            yield StrictServer(responder, http.server_port)
        finally:
            http.over.set()
            http.shutdown()
            thread.join()
            http.hang_up()


class _Http(ThreadingHTTPServer):
    # Threads are waited for, so that no socket outlives the server.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, port: int, responder: Responder, key: str) -> None:
        self.responder = responder
        self.key = key
        self.over = Event()
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer would look its own name up here, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Wake the threads that wait for a next request on an open connection."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's mistake; a script that fails is the test's."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.responder.fail("script", f"the script failed: {type(error).__name__}: {error}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet for the headers and one for each chunk

    @property
    def _http(self) -> _Http:
        return cast("_Http", self.server)

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path != "/v1/models":
            self._send(self._missing())
            return
        rules = self._http.responder.rules
        model = {"id": rules.name, "object": "model", "context_length": rules.context_tokens}
        self._send(Served((encoded({"object": "list", "data": [model]}),)))

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", "0"))
        raw = self.rfile.read(size)
        if len(raw) < size:  # a client that died while it asked has broken no rule
            self.close_connection = True
            return
        if not self._allowed():
            return
        match self.path:
            case "/v1/chat/completions":
                self._send(self._http.responder.complete(raw))
            case "/v1/tokenizers/estimate-token-count":
                self._send(self._http.responder.count(raw))
            case _:
                self._send(self._missing())

    def _allowed(self) -> bool:
        key = self._http.key
        if not key or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        said = error_json("invalid_authentication_error", "Invalid Authentication")
        self._send(Served((encoded(said),), 401))
        return False

    def _missing(self) -> Served:
        text = f"The requested resource was not found: {self.path}"
        return Served((encoded(error_json("resource_not_found_error", text)),), 404)

    def _send(self, served: Served) -> None:
        if not served.parts and not served.stream:
            self.close_connection = True
            return
        self.send_response(served.status)
        kind = "text/event-stream" if served.stream else "application/json"
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        for name, value in served.headers.items():
            self.send_header(name, value)
        if served.stream:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            # A cut body is half of what is announced.
            size = sum(map(len, served.parts)) * (2 if served.cut else 1)
            self.send_header("Content-Length", str(size))
        self.end_headers()
        for position, part in enumerate(served.parts):
            if served.pause_s and position == served.pause_at:
                self.wfile.flush()
                self._http.over.wait(served.pause_s)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if served.stream else part)
            self.wfile.flush()
        self._end(served)

    def _end(self, served: Served) -> None:
        if served.stream and served.cut in ("", "end"):
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        if served.cut:
            self.close_connection = True
        if served.cut == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            # The server would say goodbye first, and then it is no reset.
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass
