"""How a job is told to the guest program, and how its answer is read: bounded, and checked as foreign."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, ValidationError

from flowkit.nodes.tools.python.sandbox import (
    FILES_MAX,
    Failure,
    Job,
    Limits,
    Outcome,
    SandboxUnavailable,
    bad_name,
    cut,
)
from flowkit.nodes.tools.python.view import View

HEAD_BYTES_MAX: Final = 4 << 20
READY: Final = b"ready\n"


class _Failure(BaseModel):
    type: str
    message: str = ""
    traceback: str = ""


class Said(BaseModel):
    """What the code's own process said: it may have written anything there."""

    value: str = ""
    failure: _Failure | None = None


class _Head(BaseModel):
    ended: Literal["exit", "signal", "time", "files"]
    code: int
    said: str
    files: list[tuple[str, Annotated[int, Field(ge=0)]]]
    skipped: list[tuple[str, str]]


@dataclass(slots=True)
class Answered:
    """What a job's processes wrote until they were gone, and why they were ended, if they were."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    channel: bytearray = field(default_factory=bytearray)
    ended: Literal["", "time", "files", "output", "stopped"] = ""


def order_of(job: Job, view: View, uid: int | None) -> bytes:
    """A job as the guest program reads it."""
    limits = job.limits
    head = {
        "code": job.code,
        "files": [(name, len(data)) for name, data in job.files.items()],
        "uid": uid,
        "matplotlibrc": view.matplotlibrc,
        "time_s": limits.time_s,
        "entries": FILES_MAX,
        "characters": limits.text_characters,
        "artifacts": limits.artifacts,
        "artifact_bytes": limits.artifact_bytes,
        "rlimits": _rlimits(limits),
    }
    return b"".join([ascii(head).encode("ascii"), b"\n", *job.files.values()])


def _rlimits(limits: Limits) -> dict[str, int]:
    return {
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "RTPRIO": 0,
        "SIGPENDING": 256,
        "CPU": limits.cpu_s,
        "AS": limits.memory_bytes,
        "NPROC": limits.processes,
        "FSIZE": limits.file_bytes,
        "NOFILE": limits.open_files,
    }


def outcome_of(answered: Answered, limits: Limits, sandbox: str) -> Outcome:
    """What came of a job.

    Raises:
        SandboxUnavailable: the guest program did not even begin, so the code did not either.
    """
    stdout, stderr = (
        cut(bytes(raw).decode("utf-8", "replace"), limits.text_characters)
        for raw in (answered.stdout, answered.stderr)
    )
    if answered.ended:
        return Outcome(answered.ended, stdout=stdout, stderr=stderr)
    if not answered.channel.startswith(READY):
        why = " ".join(stderr.split())[-300:] or "it said nothing"
        raise SandboxUnavailable(
            f"the sandbox {sandbox} did not start, so the code was not run ({why}). "
            f"`docs/sandbox.md` says what it needs."
        )
    head, newline, content = bytes(answered.channel[len(READY) :]).partition(b"\n")
    try:
        if not newline or len(head) > HEAD_BYTES_MAX:
            raise ValueError("cut off")
        found = _Head.model_validate_json(head)
        files, skipped = _files(found, content, limits)
    except (ValidationError, ValueError):
        return Outcome("lost", stdout=stdout, stderr=stderr)
    word = said(found.said)
    return Outcome(
        found.ended,
        found.code,
        stdout,
        stderr,
        cut(word.value, limits.text_characters),
        failure_of(word),
        files,
        skipped,
    )


def failure_of(said: Said) -> Failure | None:
    if (found := said.failure) is None:
        return None
    return Failure(cut(found.type, 100), cut(found.message, 1_000), cut(found.traceback, 2_000))


def _files(
    head: _Head, content: bytes, limits: Limits
) -> tuple[list[tuple[str, bytes]], list[tuple[str, str]]]:
    if sum(size for _, size in head.files) != len(content) or len(content) > limits.artifact_bytes:
        raise ValueError("the files are not as long as was said")
    files: list[tuple[str, bytes]] = []
    skipped = [(cut(name, 200), cut(why, 200)) for name, why in head.skipped[:50]]
    start = 0
    for name, size in head.files[: limits.artifacts]:
        why = bad_name(name)
        if why:
            skipped.append((cut(name.encode("unicode_escape").decode(), 200), why))
        else:
            files.append((name, content[start : start + size]))
        start += size
    return files, skipped


def said(text: str) -> Said:
    try:
        return Said.model_validate_json(text or "{}")
    except ValidationError:
        return Said()
