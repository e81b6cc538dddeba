"""llama.cpp in this process, by xllamacpp: a GGUF file that answers chat completions.

One engine has the file in memory once, and answers `slots` requests side by side; more wait. It also
listens on a loopback port, since the library has no mode without; where that is not wanted, nobody has
its key.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any, Final, cast

from flowkit.errors import BadModelRequest, NoModel

HOST: Final = "127.0.0.1"
BATCH: Final = 256
"""Tokens of a prompt that are read at a time; between them a request can be cancelled."""

TEMPLATES: Final = ("chatml",)
"""Chat templates that are shipped."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How a file is loaded. `context_tokens` is what each of the `slots` has.

    `threads`: 0 for one less than there are cores: threads wait for each other at every layer, so one
    that has to share its core slows all of them down (30 times, on two busy cores). `template`: "" for the file's own, the name
    of a shipped one, or a path. `port`: 0 for a free one. `api_key`: "" for one that nobody knows.
    """

    path: Path
    context_tokens: int = 8192
    slots: int = 1
    threads: int = 0
    template: str = ""
    port: int = 0
    api_key: str = ""
    open: bool = False
    """Whether any process of this machine may ask, without a key."""


class Llama:
    """A loaded file. Loading takes seconds; `close` gives the memory back."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        try:
            library: Any = import_module("xllamacpp")
        except ImportError as error:
            raise NoModel(
                "A model in this process needs xllamacpp, which is not installed "
                f'({error}): pip install "flowkit-agents[local]"'
            ) from error
        try:
            self._server: Any = library.Server(_parameters(library, serving))
        except RuntimeError as error:
            raise NoModel(
                f"llama.cpp cannot load {serving.path} ({str(error).rstrip('.')}). The file may be damaged "
                "or of a kind that this llama.cpp does not know, the port may be taken, or the memory too "
                "small: try a smaller file or fewer context tokens."
            ) from error

    @property
    def address(self) -> str:
        """The base URL of its server, as OpenAI clients take it."""
        return f"{self._server.listening_address}/v1"

    def chat(self, body: bytes, told: Callable[[dict[str, Any]], None]) -> None:
        """Answer a chat completion with `stream: true`; each chunk, or the error, goes to `told`.

        Blocks. What `told` raises ends the answer and is raised here. Raises `BadModelRequest` for
        what llama.cpp does not take.
        """
        stopped: Future[None] = Future()

        def on_chunk(chunk: bytes) -> bool:
            """Called from C++, which no exception may pass; True ends the answer."""
            try:
                told(json.loads(chunk))
            except BaseException as error:  # noqa: BLE001  (raised where C++ is left)
                stopped.set_exception(error)
                return True
            return False

        try:
            self._server.handle_chat_completions(body, on_chunk)
        except (ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())[:400]
            refused = "schema" in text.lower() or "grammar" in text.lower()
            raise BadModelRequest(
                f"llama.cpp does not take the request: {text}", schema_refused=refused
            ) from None
        if stopped.done():
            stopped.result()

    def counters(self) -> Mapping[str, float]:
        """llama.cpp's own counts since the start, by name, such as `prompt_tokens_total`."""
        found: dict[str, float] = {}
        for line in str(self._server.handle_metrics()).splitlines():
            name, _, value = line.partition(" ")
            if name.startswith("llamacpp:"):
                found[name.removeprefix("llamacpp:")] = float(value)
        return found

    def close(self) -> None:
        """Free the memory. No request may be under way."""
        self._server = None


class Shared:
    """One engine for all who ask, loaded at the first request."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self._lock = Lock()
        self._engine: Llama | None = None
        self._users = 0

    def acquire(self) -> Llama:
        """The engine, loaded if need be. Blocks; each use ends with `release`."""
        with self._lock:
            if self._engine is None:
                self._engine = Llama(self.serving)
            self._users += 1
            return self._engine

    def release(self) -> None:
        with self._lock:
            self._users -= 1

    def close(self) -> None:
        """Free the memory, unless somebody is being answered; a later request loads it again."""
        with self._lock:
            if self._engine is not None and not self._users:
                self._engine.close()
                self._engine = None


def _parameters(library: Any, serving: Serving) -> Any:
    made = library.CommonParams()
    made.model.path, made.model_alias = str(serving.path), [serving.path.stem]
    # llama.cpp divides the context by the number of slots.
    made.n_ctx = serving.context_tokens * serving.slots
    made.n_parallel = serving.slots
    made.n_batch = made.n_ubatch = BATCH
    threads = serving.threads or max(1, (os.cpu_count() or 2) - 1)
    made.cpuparams.n_threads = made.cpuparams_batch.n_threads = threads
    if template := _template(serving.template):
        made.chat_template = template
    made.hostnames, made.port = [HOST], serving.port
    if serving.api_key or not serving.open:
        made.api_keys = [serving.api_key or secrets.token_urlsafe()]
    # Pages of a browser are not meant: by default llama.cpp lets every one of them ask.
    made.cors_origins = f"http://{HOST}"
    made.ui = made.endpoint_slots = made.endpoint_props = False
    made.endpoint_metrics = True
    made.verbosity = -1
    return made


def _template(name: str) -> str:
    if not name:
        return ""
    if name in TEMPLATES:
        place = files("flowkit.model").joinpath("data", f"{name}.jinja")
        return place.read_text("utf-8")
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(TEMPLATES)
        raise NoModel(
            f"The chat template {name!r} cannot be read ({cast('object', error)}): give one of {known}, or "
            "the path of a Jinja file."
        ) from error
