"""Reading what strangers have written, in a process of its own: a page can cost minutes, and gigabytes.

A table of 5 MB takes the parser 25 s, a PDF of 70 KB may hold 14 GB of spaces. In the process that drives
runs that would stop all of them; here it ends at a limit, and the tool says so.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

import anyio
import anyio.to_thread

from flowkit.nodes.tools.documents import Document
from flowkit.nodes.tools.web.client import Answer, Refused
from flowkit.nodes.tools.web.reading import CUT, document_of

AT_HOME_BYTES: Final = 100_000
"""What is no longer than this, and no PDF, is read in a thread: a process takes half a second to start."""
CPU_S: Final = 20
WALL_S: Final = 40.0
MEMORY_BYTES: Final = 2 << 30
TEXT_CHARACTERS: Final = 5_000_000


async def document_apart(answer: Answer) -> Document:
    """The answer as a text to read; raises `Refused` for what holds none, or costs too much."""
    is_pdf = answer.media_type == "application/pdf" or answer.body.startswith(b"%PDF-")
    if len(answer.body) <= AT_HOME_BYTES and not is_pdf:
        return await anyio.to_thread.run_sync(document_of, answer)
    head = {**asdict(answer), "body": ""}
    given = json.dumps(head).encode() + b"\n" + answer.body
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.defpath}
    command = [sys.executable, "-m", __name__]
    try:
        with anyio.fail_after(WALL_S):
            done = await anyio.run_process(command, input=given, check=False, env=environment)
    except TimeoutError:
        raise _too_much(answer, f"more than {WALL_S:.0f} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise _too_much(answer, f"more than {CPU_S} s of the processor")
    try:
        told: dict[str, str] = json.loads(done.stdout)
    except ValueError:  # it was killed, or died of it
        raise _too_much(answer, f"more than {MEMORY_BYTES >> 30} GB of memory, or broke") from None
    if "refused" in told:
        raise Refused(told["refused"])
    return Document(**told)


def _too_much(answer: Answer, what: str) -> Refused:
    return Refused(
        f"{answer.url} cannot be read: its {len(answer.body):,} bytes take the reader {what}. "
        "Take another source."
    )


def main() -> None:
    """The other process: a line of JSON and the body on stdin, a document or a refusal on stdout."""
    _limit()
    with open(0, "rb", closefd=False) as given:
        head: dict[str, Any] = json.loads(given.readline())
        head["body"] = given.read()
    answer = Answer(**head)
    try:
        document = document_of(answer)
    except Refused as error:
        told = {"refused": str(error)}
    except MemoryError:
        told = {"refused": str(_too_much(answer, f"more than {MEMORY_BYTES >> 30} GB of memory"))}
    else:
        text = document.text
        if len(text) > TEXT_CHARACTERS:
            text = f"{text[:TEXT_CHARACTERS]}{CUT} {TEXT_CHARACTERS:,} characters]"
        told = {"id": document.id, "title": document.title, "text": text}
    sys.stdout.write(json.dumps(told))


def _limit() -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has none, macOS no limit of memory
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    main()
