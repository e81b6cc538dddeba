"""`shim.c` as tests and their programs use it: compiled, loaded into a child, and told what to do there."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[3]
SOURCE: Final = Path(__file__).with_name("shim.c")
LIBRARY: Final = "FLOWKIT_DISK_SHIM"

What = Literal["writes", "flushes"]
WHATS: Final[tuple[What, ...]] = ("writes", "flushes")


class Op(NamedTuple):
    """One record: what was done to which file, or a mark (its text is `data`)."""

    kind: str
    name: str
    offset: int
    data: bytes


def build(folder: Path) -> Path:
    """Compile the shim; skips the test where that cannot be done."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("storage faults need Linux and a C compiler (cc, gcc or clang) on PATH")
    library = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def program(library: Path, name: str, *arguments: object) -> subprocess.Popen[str]:
    """Start `tests.fault.disk.NAME` with the shim in it; its stdout is to be read."""
    environ = {**os.environ, "LD_PRELOAD": str(library), LIBRARY: str(library)}
    command = [sys.executable, "-m", f"tests.fault.disk.{name}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)


def lines(library: Path, name: str, *arguments: object) -> Iterator[str]:
    """What a program says, line by line; it must end well."""
    with program(library, name, *arguments) as running:
        try:
            assert running.stdout is not None
            yield from running.stdout
        except BaseException:
            running.kill()
            raise
    assert running.returncode == 0, f"{name} ended with {running.returncode}"


class Shim:
    """The shim inside a program that was started with it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ[LIBRARY])
        self._library.disk_seen.restype = ctypes.c_long

    def watch(self, prefix: Path, log: Path | None = None) -> None:
        """From now on these files are ours; before they are opened."""
        told = os.fsencode(log) if log else b""
        self._library.disk_watch(ctypes.c_char_p(os.fsencode(prefix)), ctypes.c_char_p(told))

    def mark(self, text: str) -> None:
        self._library.disk_mark(ctypes.c_char_p(text.encode()))

    def fail(self, what: What, nth: int, error: int, *, stays: bool) -> None:
        """Make the nth one from now on fail, and with `stays` all after it."""
        self._library.disk_fail(WHATS.index(what), ctypes.c_long(nth), error, int(stays))

    def heal(self) -> None:
        for what in WHATS:
            self.fail(what, 0, 0, stays=False)

    def seen(self, what: What) -> int:
        """How many there were since `watch` or `fail`."""
        return int(self._library.disk_seen(WHATS.index(what)))


def read_log(path: Path) -> list[Op]:
    ops: list[Op] = []
    whole = path.read_bytes()
    at = 0
    while at < len(whole):
        end = whole.index(b"\n", at)
        kind, name, offset, length = whole[at:end].decode().split(" ")
        at = end + 1
        ops.append(Op(kind, name, int(offset), whole[at : at + int(length)]))
        at += int(length)
    return ops
