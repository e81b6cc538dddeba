"""What a sandbox is: a job goes in, an outcome comes out, and nothing else happens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final, Literal, Protocol

from flowkit.errors import DeclarationError

FILES_MAX: Final = 10_000
"""Files and folders that the code may have at once, and that are looked through afterwards."""

NAME_BYTES_MAX: Final = 200


class SandboxUnavailable(RuntimeError):
    """No sandbox can be had here, so the code was not run; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a piece of code may use. Sizes are bytes.

    `time_s` is the clock's, `cpu_s` the processor's for one process. `memory_bytes` is the address
    space of one process and, where a cgroup can be had, what all of them use together. `processes`
    counts threads, too. `disk_bytes` holds for the work directory and once more for /tmp; both are
    in memory. `output_bytes` is what may be written to stdout and stderr before the code is ended,
    `text_characters` what is kept of each of them and of the value. Of the files written,
    `artifacts` with `artifact_bytes` together are kept.
    """

    time_s: float = 60.0
    cpu_s: int = 60
    memory_bytes: int = 2 << 30
    processes: int = 64
    file_bytes: int = 64 << 20
    disk_bytes: int = 128 << 20
    open_files: int = 256
    output_bytes: int = 4 << 20
    text_characters: int = 8_000
    artifacts: int = 20
    artifact_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                raise DeclarationError(f"Limits({each.name}={value}): must be above 0.")


@dataclass(frozen=True, slots=True)
class Job:
    """Code to run, with the files that it finds in its directory, by name."""

    code: str
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    limits: Limits = Limits()


Ended = Literal["exit", "signal", "time", "files", "output", "lost", "stopped"]
"""By itself; by a signal; out of time; too many files; too much output; without a word; cancelled."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The exception that ended the code. `traceback` has the code's own lines only."""

    type: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job. All of it is the code's word, none of it is to be trusted.

    `code` is the exit code, or the signal. `value` is the last expression's, as JSON or its `repr`.
    `files` are those that the code wrote, `skipped` those that were not taken, with the reason.
    """

    ended: Ended
    code: int = 0
    stdout: str = ""
    stderr: str = ""
    value: str = ""
    failure: Failure | None = None
    files: Sequence[tuple[str, bytes]] = ()
    skipped: Sequence[tuple[str, str]] = ()


class Stop:
    """Tells a job that is running to end, from any thread. Readable as a file once it is set."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def set(self) -> None:
        os.write(self._write, b"x")

    def fileno(self) -> int:
        return self._read

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Sandbox(Protocol):
    """A way to run foreign code, whose guarantees `flowkit.nodes.tools.python.trial` tries out.

    `run` blocks; when it returns, everything that the job started is gone.
    """

    @property
    def name(self) -> str: ...

    def why_not(self) -> str:
        """Why it cannot be had here and what to install, or "" if it seems to be there."""
        ...

    def run(self, job: Job, stop: Stop) -> Outcome:
        """Run a job; raises `SandboxUnavailable` if it could not be begun."""
        ...


def bad_name(name: str) -> str:
    """Why a name cannot be that of a file that goes in or comes out, or "" if it can.

    Refused rather than cleaned: who made it meant something else. A name is relative, with "/".
    """
    if not name or len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
        return f"a name has 1 to {NAME_BYTES_MAX} bytes"
    if not name.isprintable():  # control characters, surrogates, and what turns text around
        return "a name has printable characters only"
    if "\\" in name or ":" in name:
        return "a name has no backslash and no colon"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "a name is relative, without . and .."
    return ""


def cut(text: str, characters: int) -> str:
    """A text of at most so many characters: its beginning and its end."""
    if len(text) <= characters:
        return text
    note = f"\n[... {len(text) - characters:,} characters left out ...]\n"
    room = max(characters - len(note), 0)
    head = room * 3 // 4
    return text[:head] + note + text[len(text) - (room - head) :]
