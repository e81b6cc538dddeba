"""Search, page reader and code tool together, against pages on loopback; killed between steps and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flowkit.nodes.tools.python import Bubblewrap, Launcher
from flowkit.nodes.tools.python.trial import failed

ROOT = Path(__file__).parents[2]

PAGE = """<html><head><title>Oil of the lighthouses</title></head><body><nav>Home</nav><article>
<h1>Oil of the lighthouses</h1><p>The keepers of the coast wrote down each night how much oil the lamp had
burned, and sent the sum to the board at the end of the year.</p><table><tr><th>Tower</th><th>Litres</th></tr>
<tr><td>Hatteras</td><td>12.5</td></tr><tr><td>Fastnet</td><td>9</td></tr><tr><td>Brest</td><td>14.5</td>
</tr></table></article></body></html>"""

needs_a_sandbox = pytest.mark.skipif(
    all(each.why_not() or failed(each) for each in (Bubblewrap(), Launcher())),
    reason="no sandbox here",
)


class Pages(ThreadingHTTPServer):
    """A search engine and a page, on loopback, and what was asked of them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        pages = self.server
        assert isinstance(pages, Pages)
        pages.asked.append(self.path.partition("?")[0])
        if self.path.startswith("/search?"):
            hit = {"url": f"http://{pages.place}/oil", "title": "Oil", "content": "litres a night"}
            self._give("application/json", json.dumps({"results": [hit]}))
        else:
            self._give("text/html; charset=utf-8", PAGE)

    def _give(self, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def pages() -> Generator[Pages, None, None]:
    server = Pages()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def program(database: Path, pages: Pages, halt: int = 0) -> subprocess.Popen[str]:
    file = ROOT / "tests" / "scenario" / "research_program.py"
    arguments = [sys.executable, "-W", "error", str(file), str(database), pages.place, str(halt)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.long
@needs_a_sandbox
def test_a_planner_searches_reads_and_calculates_and_a_killed_run_repeats_no_request(
    pages: Pages, tmp_path: Path
) -> None:
    before = [0, 1, 2, 2]  # requests that were made when the model is asked for a turn
    for turn in (1, 2, 3, 4):
        with program(tmp_path / "runs.db", pages, halt=turn) as killed:
            assert killed.stdout is not None
            assert killed.stdout.readline() == "halted\n"
            killed.kill()
        assert len(pages.asked) == before[turn - 1]
    with program(tmp_path / "runs.db", pages) as last:
        text, _ = last.communicate(timeout=60)
    assert last.returncode == 0
    assert json.loads(text) == {"litres": 12.0, "source": f"http://{pages.place}/oil"}
    assert pages.asked == ["/search", "/oil"]
