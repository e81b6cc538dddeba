"""The sample of the design runs as written, against a server on loopback that plans."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class Planning(BaseHTTPRequestHandler):
    """Answers every chat completion with a plan of two steps, as a stream."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        steps = [
            {"id": name, "tool": "search", "args": {"topic": {"text": name}}}
            for name in ("one", "two")
        ]
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"content": json.dumps({"steps": steps})}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ]
        lines = [f"data: {json.dumps({'model': 'small', **chunk})}\n\n" for chunk in chunks]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write("".join([*lines, "data: [DONE]\n\n"]).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    asked: list[dict[str, Any]] = []
    handler = type("Handler", (Planning,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/v1", asked
        http.shutdown()
        thread.join()


def test_the_sample_of_the_design_runs_as_written(
    server: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    url, asked = server
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "tests/docs/sample.py"), str(tmp_path / "f.db")],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sources = "['archive:one', 'archive:two']"
    assert done.stdout.splitlines() == [sources, sources, sources, "run_ended"]
    assert len(asked) == 2, "a resumed run must not ask the model again"
    assert "Plan research on DAGs" in json.dumps(asked[0])
    assert not list(tmp_path.glob("*.db-wal")), "the engine closes the store that it opened"
