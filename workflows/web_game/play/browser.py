"""Who plays a page: a Chromium of this machine, in a process of its own, without rights and network.

A page that a model wrote is hostile. The player and the browser are a process family apart, with an empty
home directory, and nothing of the host's environment, so no credentials; started by root the browser is uid
65534. Inside it Chromium's own sandbox holds the page. Where the kernel gives it none, Chromium is started
without, and the play says so; as root without it is the last resort, and the play says that, too. When the play is over, or nothing is heard for `SILENCE_S`, the whole family is killed.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from flowkit.workflows.web_game.values import Fault

SILENCE_S = 15.0
"""How long nothing may be heard of a player: longer than any wait of its own."""

WHOLE_S = 150.0
BYTES_MAX = 64_000_000
NOBODY = 65534

_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
)
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
_PLAYER = "flowkit.workflows.web_game.play.player"


@dataclass(frozen=True)
class Browser:
    """The Chromium that plays; a host gives another one, or none, as a resource of its engine.

    `why_not`: the reason, where there is no `program`.
    """

    program: Path | None
    why_not: str = ""

    @classmethod
    def found(cls, environ: Mapping[str, str] | None = None) -> Browser:
        """FLOWKIT_CHROMIUM (a path; "none" for no browser), else what is installed."""
        environ = os.environ if environ is None else environ
        given = environ.get("FLOWKIT_CHROMIUM", "").strip()
        if given.lower() == "none":
            return cls(None, "FLOWKIT_CHROMIUM is none")
        if importlib.util.find_spec("playwright") is None:
            return cls(None, 'playwright is missing: pip install "flowkit-agents[browser]"')
        if given:
            there = Path(given).is_file()
            return cls(Path(given) if there else None, "" if there else f"there is no {given}")
        names = [path for name in _NAMES if (path := shutil.which(name))]
        for path in [*names, *_PLACES]:
            if Path(path).is_file():
                return cls(Path(path))
        return cls(None, "no Chromium or Chrome was found; FLOWKIT_CHROMIUM names one")


@dataclass(frozen=True)
class Way:
    """How the player is started: as whom (None: as we are), and with Chromium's sandbox or without."""

    uid: int | None
    sandbox: bool

    def __str__(self) -> str:
        held = "in Chromium's sandbox" if self.sandbox else "without Chromium's sandbox"
        if self.uid is None:
            return f"{held}, as root" if _is_root() else held
        return f"{held}, as uid {self.uid}"


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def ways() -> list[Way]:
    """From the most confined one on. Chromium has no sandbox for root."""
    if not _is_root():
        return [Way(None, True), Way(None, False)]
    return [Way(NOBODY, True), Way(NOBODY, False), Way(None, False)]


@dataclass
class Heard:
    """What a player told."""

    browser: str = ""
    passed: list[str] = field(default_factory=list[str])
    faults: list[Fault] = field(default_factory=list[Fault])
    pictures: dict[str, bytes] = field(default_factory=dict[str, bytes])
    ended: bool = False
    did: dict[str, str] = field(default_factory=dict[str, str])
    trouble: str = ""

    def hear(self, line: bytes) -> None:
        told: dict[str, Any] = json.loads(line)
        if "did" in told:
            self.did = told
        elif "fault" in told:
            self.faults.append(Fault.model_validate(told["fault"]))
        elif "shot" in told:
            self.pictures[told["shot"]["name"]] = base64.b64decode(told["shot"]["png"])
        elif "passed" in told:
            self.passed.append(told["passed"])
        self.browser = told.get("browser", self.browser)
        self.ended |= "end" in told

    def broke_off(self, why: str) -> None:
        """The player did not come to its end: the page's doing, since the browser had started."""
        where: Any = self.did.get("where", "desktop")
        self.faults.append(
            Fault(check=self.did.get("check", "opens"), where=where,
                  did=self.did.get("did", "opened the page"), expected="the page answers", seen=why)
        )  # fmt: skip


async def played(program: Path, html: str, *, only: Sequence[str] = ()) -> tuple[Heard, Way | None]:
    """Have the page played, in the most confined way that this machine can; None if in none.

    `only` these checks, such as "phone: fits"; by default all.
    """
    troubles: list[str] = []
    for way in ways():
        heard = await _once(program, html, way, only)
        if heard.browser:
            return heard, way
        troubles.append(f"{way}: {heard.trouble}")
    return Heard(trouble="; ".join(troubles)), None


async def _once(program: Path, html: str, way: Way, only: Sequence[str] = ()) -> Heard:
    home = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp, None, "flowkit-play-"))
    try:
        program = await anyio.to_thread.run_sync(_lodge, home, program, way)
        order = {
            "html": html,
            "program": str(program),
            "sandbox": way.sandbox,
            "home": str(home / "profiles"),
            "only": list(only),
        }
        return await _session(order, home)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(home, ignore_errors=True))


async def _session(order: Mapping[str, Any], home: Path) -> Heard:
    heard, said = Heard(), home / "stderr"
    with said.open("wb") as stderr:
        process = await anyio.open_process(
            [sys.executable, "-m", _PLAYER],
            stderr=stderr, cwd=home, env=_environment(home), start_new_session=True,
        )  # fmt: skip
    try:
        assert process.stdin is not None
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await process.stdin.send(json.dumps(order).encode() + b"\n")  # its end would be ours
        await _listen(process, heard)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_kill_family, process.pid)
            await process.aclose()
    if not heard.browser:
        tail = said.read_text("utf-8", "replace").strip().splitlines() if said.exists() else []
        heard.trouble = next((each for each in reversed(tail) if each.strip()), "it said nothing")[
            :300
        ]
    return heard


async def _listen(process: anyio.abc.Process, heard: Heard) -> None:
    until, size = time.monotonic() + WHOLE_S, 0
    lines = _lines(process)
    while not heard.ended:
        with anyio.move_on_after(min(SILENCE_S, max(until - time.monotonic(), 0.1))) as patience:
            line = await anext(lines, None)
            if line is None:
                break
            size += len(line)
            heard.hear(line)
        if patience.cancelled_caught or size > BYTES_MAX:
            break
    if heard.browser and not heard.ended:
        heard.broke_off("nothing more: an endless loop, or more than the browser can hold")


async def _lines(process: anyio.abc.Process) -> AsyncIterator[bytes]:
    assert process.stdout is not None
    rest = b""
    async for piece in process.stdout:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line


def _lodge(home: Path, program: Path, way: Way) -> Path:
    """Make the browser's directories; what is to be started, as another user if that is the way."""
    places = [home, home / "profiles", *(home / "profiles" / each for each in ("desktop", "phone"))]
    for place in places:
        place.mkdir(exist_ok=True)
    if way.uid is None:
        return program
    become = (
        f"import os, sys; os.setgroups([]); os.setgid({way.uid}); os.setuid({way.uid}); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    start = home / "start"
    words = shlex.join([sys.executable, "-I", "-S", "-c", become, str(program)])
    start.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    start.chmod(0o755)
    for place in places:
        os.chown(place, way.uid, way.uid)
    return start


def _environment(home: Path) -> dict[str, str]:
    """Nothing of the host's but where programs and modules are: no key, no home, no proxy."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    path = os.pathsep.join(str(Path(each).absolute()) for each in sys.path if each)
    return {**kept, "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": path, "LANG": "C.UTF-8"}


def _kill_family(pid: int) -> None:
    """End a process and all below it: Chromium has a session of its own, so the group is not enough."""
    for each in _family(pid):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(each, getattr(signal, "SIGKILL", signal.SIGTERM))


def _family(pid: int) -> list[int]:
    """The process and those below it, where there is /proc; elsewhere the browser ends with its pipe."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            below.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += below.get(each, [])
    return found
