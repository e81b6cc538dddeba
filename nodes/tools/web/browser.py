"""`Browser`: pages whose text is made by JavaScript, read in the system's Chromium.

Chromium runs in a process of its own with an empty profile, reaches the network through a proxy that
judges every address as `Web` does, and is ended with all that it started. Nothing is downloaded: neither
a browser, nor by one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL
from typing import Any, Final, Literal

import anyio
import anyio.to_thread

from flowkit.nodes.tools.python.view import strange_uid
from flowkit.nodes.tools.web.client import Answer, Unreachable, Web
from flowkit.nodes.tools.web.proxy import Proxy, guarded_proxy

EXECUTABLES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TEXT_CHARACTERS: Final = 200
"""A page whose main text is shorter, and that has scripts, is taken to be made by them."""

_SCRIPT: Final = re.compile(r"<script\b(?![^>]{0,500}application/(?:ld\+)?json)", re.IGNORECASE)
_MARK: Final = "FLOWKIT_PAGE"


class NoBrowser(Unreachable):
    """There is no browser that may be used; the text says what to do."""


@dataclass(frozen=True)
class Browser:
    """Chromium for pages that need JavaScript, to be given to an engine as a resource.

    Args:
        render: "auto" for pages whose plain text is nearly empty, "always", or "never".
        executable: the browser; by default the system's Chromium or Chrome.
        time_s: for one page; it is read as it is when five seconds have passed without quiet.
        bytes_max: that all of a page's requests may bring.
        sandbox: Chromium's own sandbox. Run by root, Chromium gets another user's id to have it.
    """

    render: Literal["auto", "always", "never"] = "auto"
    executable: str = ""
    time_s: float = 20.0
    bytes_max: int = 30_000_000
    sandbox: bool = True

    async def get(self, url: str, web: Web) -> Answer:
        """The page as its scripts have made it.

        Raises:
            NoBrowser: Playwright or Chromium is not there, or may not be run.
            Refused: the address may not be asked.
            Unreachable: the page did not come, or not in time.
        """
        url = web.checked(url)
        executable = self._found()
        text: bytes | None = None
        async with guarded_proxy(web, self.bytes_max) as proxy:
            with tempfile.TemporaryDirectory(prefix="flowkit-page-") as folder:
                told = self._told(Path(folder), executable, url, proxy, web)
                with anyio.move_on_after(self.time_s + 10):
                    text = await _said(told)
        if text is None:
            raise Unreachable(
                f"{url[:200]}: the browser did not end within {self.time_s + 10:g} s."
            )
        return _answer_of(text, url, proxy)

    def _found(self) -> str:
        if find_spec("playwright") is None:
            raise NoBrowser(
                'running its JavaScript needs Playwright: pip install "flowkit-agents[browser]"'
            )
        names = (self.executable,) if self.executable else EXECUTABLES
        found = next(filter(None, map(shutil.which, names)), None)
        if found is None:
            raise NoBrowser(
                f"running its JavaScript needs a browser of the system, such as {names[0]}."
            )
        if self.sandbox and strange_uid() is not None and shutil.which("setpriv") is None:
            raise NoBrowser(
                "root's Chromium has no sandbox, and to run it as somebody else setpriv is needed (util-linux)."
            )
        return found

    def _told(
        self, folder: Path, executable: str, url: str, proxy: Proxy, web: Web
    ) -> dict[str, Any]:
        """What the program is told; makes the profile, and where root starts it a way to another user."""
        profile = folder / "profile"
        profile.mkdir(mode=0o700)
        user = strange_uid() if self.sandbox else None
        if user is not None:
            os.chown(profile, user, user)
            folder.chmod(0o711)
            start = folder / "start"
            ids = f"--reuid {user} --regid {user} --clear-groups --inh-caps=-all"
            start.write_text(f'#!/bin/sh\nexec setpriv {ids} "{executable}" "$@"\n')
            start.chmod(0o755)
            executable = str(start)
        environment = {
            "PATH": os.environ.get("PATH", os.defpath), "HOME": str(profile), "TMPDIR": str(profile),
            "LANG": "C.UTF-8", _MARK: str(folder),
        }  # fmt: skip
        return {
            "url": url, "profile": str(profile), "executable": executable, "env": environment,
            "path": sys.path, "time_s": self.time_s, "sandbox": self.sandbox, "folder": str(folder),
            "characters": web.bytes_max,
            "proxy": {
                "server": f"http://127.0.0.1:{proxy.port}", "bypass": "<-loopback>",
                "username": proxy.user, "password": proxy.password,
            },
        }  # fmt: skip


def needs_scripts(answer: Answer, text: str) -> bool:
    """Whether a page is taken to be made by its scripts: it has some, and next to no text."""
    kind = answer.media_type in ("text/html", "application/xhtml+xml", "")
    if not kind or answer.status >= 400 or len(" ".join(text.split())) >= TEXT_CHARACTERS:
        return False
    return _SCRIPT.search(answer.body.decode("latin-1")) is not None


def _answer_of(text: bytes, url: str, proxy: Proxy) -> Answer:
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise NoBrowser(f"the browser ended without an answer for {url[:200]}.") from error
    if "error" in found:
        raise Unreachable(f"the browser cannot open {url[:200]}: {found['error']}")
    body = str(found["html"]).encode("utf-8", "replace")
    cut = bool(found["cut"]) or proxy.cut
    if not str(found["url"]).startswith(("http://", "https://")):
        raise Unreachable(f"{url[:200]} leads the browser to another kind of address.")
    return Answer(str(found["url"]), int(found["status"]), "text/html", "utf-8", body, cut)


# ---- the process


async def _said(told: dict[str, Any]) -> bytes:
    """What the program writes; whatever of it is left after that, or when it is cancelled, is killed."""
    folder = str(told["folder"])
    environment = {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": folder, "TMPDIR": folder, _MARK: folder
    }  # fmt: skip
    program = str(Path(__file__).with_name("chrome.py"))
    process = await anyio.open_process(
        [sys.executable, "-I", program], stderr=DEVNULL, env=environment, start_new_session=True
    )
    parts: list[bytes] = []
    try:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            if process.stdin is not None and process.stdout is not None:
                await process.stdin.send(json.dumps(told).encode() + b"\n")
                while True:
                    parts.append(await process.stdout.receive())
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_end, process.pid, folder)
            await process.aclose()
    return b"".join(parts)


def _end(pid: int, folder: str) -> None:
    """Kill the program and all that it started, also what has left its group or its parent."""
    for _ in range(20):
        every = [pid, *_left(folder)]
        for each in every:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL) if each == pid else os.kill(each, signal.SIGKILL)
        if len(every) == 1:
            return


def _left(folder: str) -> Iterator[int]:
    """Processes that carry the page's folder in their environment or their command; Linux tells."""
    mark = folder.encode()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (place / "environ").read_bytes() + (place / "cmdline").read_bytes():
                stat = (place / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
                if stat[0] != "Z":
                    yield int(place.name)
