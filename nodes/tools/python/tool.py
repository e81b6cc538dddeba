"""`python_tool`: a tool that runs Python which a model wrote, in a sandbox or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Final

import anyio
import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field

from flowkit.errors import DeclarationError, StoreUnusable
from flowkit.node import Context
from flowkit.nodes.tool import Tool, tool
from flowkit.nodes.tools.python.bubblewrap import Bubblewrap
from flowkit.nodes.tools.python.launcher import Launcher
from flowkit.nodes.tools.python.sandbox import (
    Job,
    Limits,
    Outcome,
    Sandbox,
    SandboxUnavailable,
    Stop,
    bad_name,
)
from flowkit.nodes.tools.python.trial import Choice
from flowkit.nodes.tools.python.wasm import Wasm
from flowkit.values import Artifact

CODE_CHARACTERS_MAX: Final = 100_000
INPUTS_MAX: Final = 20

MEDIA_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".csv": "text/csv",
        ".html": "text/html",
        ".jpeg": "image/jpeg",
        ".jpg": "image/jpeg",
        ".json": "application/json",
        ".md": "text/markdown",
        ".pdf": "application/pdf",
        ".png": "image/png",
        ".svg": "image/svg+xml",
        ".txt": "text/plain",
    }
)
"""What a file is said to be, by its name; of anything else only that it is bytes."""


class Code(BaseModel):
    """A Python program, and files that it finds in its working directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: Annotated[str, Field(min_length=1, max_length=CODE_CHARACTERS_MAX)] = Field(
        description="A whole Python program. Its last line may be an expression, whose value you get."
    )
    files: Annotated[list[Artifact], Field(max_length=INPUTS_MAX)] = Field(
        default_factory=list[Artifact],
        description=(
            "Files of earlier results to put into the working directory under their names, each "
            "copied exactly as the result gave it"
        ),
    )


class PythonResult(BaseModel):
    """What a program printed, the value of its last expression, and the files it wrote.

    `error` is the exception with the lines that led to it, or what ended the program; `hint` is what
    to do about it.
    """

    model_config = ConfigDict(frozen=True)

    ok: bool
    stdout: str = ""
    stderr: str = ""
    value: str = ""
    error: str = ""
    hint: str = ""
    files: list[Artifact] = []
    not_kept: list[str] = []


def python_tool(
    name: str = "run_python",
    *,
    limits: Limits | None = None,
    python: Path | None = None,
    files: Mapping[str, bytes | Path] | None = None,
    sandboxes: Sequence[Sandbox] | None = None,
    concurrency: int = 4,
) -> Tool[Code, PythonResult]:
    """A tool that runs a model's Python: without network, and away from the host's files and processes.

    Every call starts afresh, in a directory of its own, so that it may be repeated. What goes wrong in
    the code is a result that the model can read; that there is no sandbox is `SandboxUnavailable`.

    Args:
        limits: what a program may use.
        python: the interpreter whose packages the code may import, such as that of an environment with
            pandas, numpy, matplotlib and plotly; by default the one that runs this. All of its
            packages can be read by the code.
        files: what every program finds in its directory, by name.
        sandboxes: ways to run it, of which the first that is there and holds is taken; by default
            `Bubblewrap`, `Launcher`, `Wasm`.
        concurrency: how many programs may run at once over all runs of an engine.
    """
    allowed = limits or Limits()
    given = dict(files or {})
    for each in given:
        if why := bad_name(each):
            raise DeclarationError(f"{name}: files={{{each!r}: ...}}: {why}.")
    default: Sequence[Sandbox] = (Bubblewrap(python=python), Launcher(python=python), Wasm())
    choice = Choice(default if sandboxes is None else sandboxes)

    @tool(name=name, concurrency=concurrency)
    async def run_python(ctx: Context, code: Code) -> PythonResult:
        """Run a Python program and get what it prints, the value of its last expression, and its files.

        pandas, numpy, matplotlib and plotly can be imported where they are installed. Files that it
        writes into the working directory (pictures, tables, HTML) are kept. There is no network, and
        every call starts afresh: define again what you need.
        """
        inputs = await _inputs(ctx, code.files, given, allowed)
        if isinstance(inputs, PythonResult):
            return inputs
        outcome = await _in_thread(choice, Job(_plain(code.code), inputs, allowed))
        kept = [
            await ctx.artifact(content, name=each, media_type=_media_type(each))
            for each, content in outcome.files
        ]
        return _result(outcome, allowed, kept)

    return run_python


async def _inputs(
    ctx: Context, files: Sequence[Artifact], given: Mapping[str, bytes | Path], limits: Limits
) -> dict[str, bytes] | PythonResult:
    """The files of a call and of the host by name; or why they are refused."""
    inputs: dict[str, bytes] = {}
    for name, content in given.items():
        inputs[name] = (
            await anyio.Path(content).read_bytes() if isinstance(content, Path) else content
        )
    for artifact in files:
        if why := bad_name(artifact.name):
            return _refused(f"The file {artifact.name!r} cannot be had: {why}.", "Leave it out.")
        try:
            inputs[artifact.name] = await ctx.read(artifact)
        except StoreUnusable as error:
            return _refused(f"{error}.", "Copy a file exactly as an earlier result gave it.")
    if sum(len(content) for content in inputs.values()) > limits.disk_bytes // 2:
        return _refused(
            f"The files have more than {_mb(limits.disk_bytes // 2)}.", "Give fewer of them."
        )
    return inputs


async def _in_thread(choice: Choice, job: Job) -> Outcome:
    """Run a job in a thread of its own; cancelled, it is ended first, with all that it started."""
    stop = Stop()
    found: Outcome | SandboxUnavailable = Outcome("stopped")

    def work() -> Outcome | SandboxUnavailable:
        try:
            return choice.get().run(job, stop)
        except SandboxUnavailable as error:
            return error  # a task group would wrap it

    async def watch() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stop.set()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            with anyio.CancelScope(shield=True):
                found = await anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))
            group.cancel_scope.cancel()
    finally:
        stop.close()
    if isinstance(found, SandboxUnavailable):
        raise found
    return found


# ---- what the model reads ----


def _refused(error: str, hint: str) -> PythonResult:
    return PythonResult(ok=False, error=error, hint=hint)


def _result(outcome: Outcome, limits: Limits, kept: list[Artifact]) -> PythonResult:
    error, hint = _trouble(outcome, limits)
    return PythonResult(
        ok=not error,
        stdout=outcome.stdout,
        stderr=outcome.stderr,
        value=outcome.value,
        error=error,
        hint=hint,
        files=kept,
        not_kept=[f"{name}: {why}" for name, why in outcome.skipped],
    )


_HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ModuleNotFoundError": "It is not installed and cannot be: do without it.",
        "ImportError": "It is not installed as needed and cannot be: do without it.",
        "FileNotFoundError": "Only files given with the call are there: list them with os.listdir().",
        "PermissionError": "There is no network, and only the working directory can be written.",
        "RecursionError": "Use a loop instead of the recursion.",
        "SyntaxError": "Send the whole program again, without markup around it.",
        "TimeoutError": "There is no network.",
        "URLError": "There is no network: give the data with the call.",
    }
)


def _trouble(outcome: Outcome, limits: Limits) -> tuple[str, str]:
    """What went wrong, and what to do about it; two empty texts if nothing did."""
    failure = outcome.failure
    if failure is not None and outcome.ended == "exit":
        error = "\n".join(filter(None, (f"{failure.type}: {failure.message}", failure.traceback)))
        if failure.type == "MemoryError":
            return error, f"It may use {_mb(limits.memory_bytes)}: work on a part at a time."
        return error, _HINTS.get(failure.type, "Mend the program and send the whole of it again.")
    match outcome.ended:
        case "exit" if outcome.code == 0:
            return "", ""
        case "exit":
            return f"The program ended with exit code {outcome.code}.", "See stderr for the reason."
        case "signal" if outcome.code in (24, 9):  # SIGXCPU, and what follows it if it is ignored
            used = f"{limits.cpu_s} s of processor time, or more than {_mb(limits.memory_bytes)}"
            return (
                f"The program was killed: it took more than {used} of memory.",
                "Make it do less: fewer rows, a faster way.",
            )
        case "signal":
            return f"The program crashed (signal {outcome.code}).", "Do it another way."
        case "time":
            return (
                f"The program was ended after {limits.time_s:g} s; it had not finished.",
                "Make it do less, or in several calls.",
            )
        case "files":
            return "The program was ended: it made too many files.", "Write few files."
        case "output":
            return (
                f"The program was ended: it wrote more than {_mb(limits.output_bytes)} of output.",
                "Print a summary, and write the rest to a file.",
            )
        case _:
            return "The program was ended, and left no result.", "Do it another way."


def _mb(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MB" if size >= 1 << 20 else f"{size:,} bytes"


def _media_type(name: str) -> str:
    return MEDIA_TYPES.get(PurePosixPath(name).suffix.lower(), "application/octet-stream")


_FENCED: Final = re.compile(r"\A\s*```[\w+-]*[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL)


def _plain(code: str) -> str:
    """The code without the fence that models put around it."""
    found = _FENCED.match(code)
    return found[1] if found else code
