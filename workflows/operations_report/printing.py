"""PDF from the HTML page by a Chromium of this machine; without one there is no PDF, and a reason."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

SECONDS = 60.0

_NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge",
)  # fmt: skip
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
_QUIET = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--no-pdf-header-footer",
)  # fmt: skip


class NoPdf(RuntimeError):
    """There is no PDF; the message says why."""


@dataclass(frozen=True)
class Printer:
    """The Chromium that prints; a host gives another one, or none, as a resource of its engine.

    `why_not`: the reason, where there is no `program`.
    """

    program: Path | None
    why_not: str = ""

    @classmethod
    def found(cls, environ: Mapping[str, str] | None = None) -> Printer:
        """FLOWKIT_CHROMIUM (a path; "none" for no browser), else what is installed."""
        environ = os.environ if environ is None else environ
        given = environ.get("FLOWKIT_CHROMIUM", "").strip()
        if given.lower() == "none":
            return cls(None, "FLOWKIT_CHROMIUM is none")
        if given:
            there = Path(given).is_file()
            return cls(Path(given) if there else None, "" if there else f"there is no {given}")
        names = [path for name in _NAMES if (path := shutil.which(name))]
        for path in [*names, *_PLACES]:
            if Path(path).is_file():
                return cls(Path(path))
        return cls(None, "no Chromium or Chrome was found; FLOWKIT_CHROMIUM names one")

    async def print(self, html: bytes) -> tuple[bytes, int]:
        """The page as PDF, and how many pages it has. The page may run no script and load nothing.

        Raises:
            NoPdf: there is no browser, or it made none.
        """
        if self.program is None:
            raise NoPdf(self.why_not)
        folder = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp, None, "flowkit-pdf-"))
        try:
            page, out = anyio.Path(folder / "page.html"), anyio.Path(folder / "page.pdf")
            await page.write_bytes(html)
            # Chromium has no sandbox for root, and some kernels give it none.
            root = hasattr(os, "geteuid") and os.geteuid() == 0
            said = "" if root else await _run(self.program, folder, [])
            if not await out.exists():
                said = await _run(self.program, folder, ["--no-sandbox"])
            if not await out.exists():
                raise NoPdf(f"{self.program.name} made none: {said or 'it said nothing'}")
            return _checked(await out.read_bytes(), self.program.name)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


async def _run(program: Path, folder: Path, more: list[str]) -> str:
    """Run the browser to its end; gives the last line that it said."""
    command = [
        str(program), *_QUIET, *more, f"--user-data-dir={folder / 'profile'}",
        f"--print-to-pdf={folder / 'page.pdf'}", (folder / "page.html").as_uri(),
    ]  # fmt: skip
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    env = {**kept, "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
    log = folder / "stderr"
    with log.open("wb") as stderr:
        try:
            process = await anyio.open_process(
                command, stdin=-3, stdout=-3, stderr=stderr, env=env, start_new_session=True
            )
        except OSError as error:
            return str(error)
    try:
        with anyio.move_on_after(SECONDS):
            await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            _end(process.pid)
            await process.aclose()
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _end(pid: int) -> None:
    """End the browser's group, of which it may have left some."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)


def _checked(data: bytes, name: str) -> tuple[bytes, int]:
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", data))
    if not data.startswith(b"%PDF-") or b"%%EOF" not in data[-64:] or not pages:
        raise NoPdf(f"what {name} wrote is no whole PDF")
    return data, pages
