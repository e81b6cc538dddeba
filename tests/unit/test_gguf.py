"""Model files: which are known, how one is fetched or taken, and what is said where that cannot be."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flowkit.errors import ModelUnavailable, NoModel
from flowkit.model import LocalModel
from flowkit.model.fetching import fetch, take
from flowkit.model.gguf import GgufFile, found, known
from flowkit.model.llama import Llama, Serving

DATA = b"GGUF" + bytes(range(256)) * 40


def row(url: str = "", data: bytes = DATA) -> GgufFile:
    sha256 = hashlib.sha256(data).hexdigest()
    return GgufFile("tiny", "tiny.gguf", len(data), sha256, url, "MIT", 1, "for tests")


class Host(BaseHTTPRequestHandler):
    """Gives `DATA`, as the path says: whole, in pieces that break off, wrong, too long, or not at all."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Range", ""))
        begin = int(self.headers.get("Range", "bytes=0-")[6:-1] or 0)
        match self.path:
            case "/gone":
                return self.send_error(404)
            case "/busy":
                return self.send_error(503)
            case "/silent":
                return self._give(206, DATA[begin:], 0)
            case "/long":
                return self._give(200, DATA + b"more", len(DATA) + 4)
            case "/other":
                return self._give(200, DATA[:-1] + b"!", len(DATA))
            case "/unaware":  # of ranges; the second answer is whole
                return self._give(200, DATA, 3_000 if len(self.asked) == 1 else len(DATA))
            case _:
                return self._give(206 if begin else 200, DATA[begin:], 3_000)

    def _give(self, status: int, data: bytes, sent: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 206:
            begin = len(DATA) - len(data)
            self.send_header("Content-Range", f"bytes {begin}-{len(DATA) - 1}/{len(DATA)}")
        self.end_headers()
        self.wfile.write(data[:sent])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def host() -> Generator[tuple[str, list[str]]]:
    """The address of a server, and the ranges that it was asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (Host,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_connection_that_breaks_off_is_gone_on_with(tmp_path: Path) -> None:
    told: list[int] = []
    with host() as (url, asked):
        path = fetch(row(f"{url}/file"), tmp_path, progress=lambda have, _: told.append(have))
    assert path.read_bytes() == DATA
    assert asked == ["", "bytes=3000-", "bytes=6000-", "bytes=9000-"]
    assert told == sorted(told)
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_server_that_knows_no_ranges_gives_all_of_it_again(tmp_path: Path) -> None:
    with host() as (url, _):
        assert fetch(row(f"{url}/unaware"), tmp_path).read_bytes() == DATA


def test_what_is_here_and_right_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(DATA)
    with host() as (url, asked):
        fetch(row(f"{url}/file"), tmp_path)
    assert asked == []


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("gone", "answered 404 for tiny .*--from-file"),
        ("long", "it has more than 10,244 bytes. It was deleted"),
        ("other", "What came is not tiny: its SHA-256 is .* It was deleted"),
    ],
)
def test_a_wrong_file_is_no_file(path: str, why: str, tmp_path: Path) -> None:
    with host() as (url, _), pytest.raises(NoModel, match=why):
        fetch(row(f"{url}/{path}"), tmp_path)
    assert not (tmp_path / "tiny.gguf").exists()


@pytest.mark.parametrize(
    ("path", "why"), [("busy", "answered 503 for tiny"), ("silent", "stopped at 0 of 10,244 bytes")]
)
def test_what_may_be_better_later_says_so(path: str, why: str, tmp_path: Path) -> None:
    with host() as (url, _), pytest.raises(ModelUnavailable, match=f"{why}.*again"):
        fetch(row(f"{url}/{path}"), tmp_path)


def test_a_file_that_somebody_has_is_taken_if_it_is_the_known_one(tmp_path: Path) -> None:
    given, folder = tmp_path / "given", tmp_path / "models"
    given.write_bytes(DATA)
    assert take(row(), given, folder).read_bytes() == DATA
    given.write_bytes(DATA[:-1])
    with pytest.raises(NoModel, match=r"has 10,243 bytes, and tiny has 10,244.*--model local:FILE"):
        take(row(), given, tmp_path / "others")
    given.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(NoModel, match="its SHA-256 is"):
        take(row(), given, tmp_path / "others")
    with pytest.raises(NoModel, match="cannot be read: No such file"):
        take(row(), tmp_path / "none", folder / "x")
    with pytest.raises(NoModel, match="tiny is not fetched from the network"):
        fetch(row(), tmp_path / "others")


def test_the_known_files_have_what_a_check_needs() -> None:
    for name, each in known().items():
        assert each.name == name
        assert len(each.sha256) == 64
        assert each.size > 10_000_000
        assert each.url == "" or each.url.startswith("https://")
        assert "/main/" not in each.url, "a branch may get another file any day"


def test_which_file_a_name_means(tmp_path: Path) -> None:
    here: Mapping[str, str] = {"FLOWKIT_MODELS": str(tmp_path)}
    with pytest.raises(NoModel, match=r"There is no model file in .* flowkit model fetch"):
        found("local", here)
    with pytest.raises(NoModel, match="'smollm2-135m' is not here"):
        found("local:smollm2-135m", here)
    own = tmp_path / "own.gguf"
    own.write_bytes(DATA)
    assert found("local", here) == found(f"local:{own}", here) == own
    (tmp_path / known()["smollm2-135m"].file).write_bytes(DATA)
    with pytest.raises(NoModel, match=r"several model files; say which: .*local:smollm2-135m"):
        found("local", here)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(NoModel, match="is no GGUF file"):
        found(f"local:{text}", here)
    with pytest.raises(NoModel, match="cannot be read"):
        found("local:/nowhere.gguf", here)


def test_numbers_of_the_environment_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(DATA)
    with pytest.raises(NoModel, match="FLOWKIT_LOCAL_CONTEXT='much': give a number"):
        LocalModel.from_env({"FLOWKIT_LOCAL_CONTEXT": "much"}, name=f"local:{path}")
    made = LocalModel.from_env({"FLOWKIT_LOCAL_CONTEXT": "4096"}, name=f"local:{path}")
    assert (made.context_tokens, made.name) == (4096, f"local:{path}")
    assert LocalModel.configured({"FLOWKIT_MODEL": "local"})
    assert not LocalModel.configured({"FLOWKIT_MODEL": "localhost"})
    with pytest.raises(ValueError, match="slots="):
        LocalModel(path, slots=0)


def test_a_file_that_is_only_a_header_cannot_be_loaded(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    path = tmp_path / "own.gguf"
    path.write_bytes(DATA)
    with pytest.raises(NoModel, match=r"llama\.cpp cannot load .*own\.gguf.*may be damaged"):
        Llama(Serving(path))
    with pytest.raises(NoModel, match="chat template 'none' cannot be read"):
        Llama(Serving(path, template="none"))
