"""The command line as a program of its own, and a file of workflows to run with it."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

FLOWS = '''
"""Workflows that end, fail, wait, die and misbehave on demand."""

from __future__ import annotations

import os
import signal as signals
import time
from pathlib import Path

import anyio
from pydantic import BaseModel, Field

from flowkit import Artifact, Context, Ref, Reject, workflow
from flowkit.nodes import tool, verifier


class Topic(BaseModel):
    text: str = Field(min_length=1)
    times: int = Field(default=1, ge=1, le=9)
    tags: list[str] = []


class Report(BaseModel):
    text: str


class Files(BaseModel):
    files: list[Artifact]


def note(ctx: Context) -> None:
    with open(f"effects-{ctx.run_id}", "a") as file:
        file.write(f"{ctx.step}\\n")


@tool
async def write(ctx: Context, topic: Topic) -> Report:
    note(ctx)
    print("a node prints")
    return Report(text=topic.text * topic.times + "".join(topic.tags))


@verifier
async def is_short(ctx: Context, report: Report) -> None:
    if len(report.text) > 1000:
        raise Reject("shorter, please")


@tool
async def print_it(ctx: Context, report: Report) -> Report:
    note(ctx)
    return Report(text=report.text + "!")


@workflow
def fine(topic: Ref[Topic]) -> Ref[Report]:
    return print_it(is_short(write(topic)))


EXAMPLE = Topic(text="example", times=2)


@tool
async def fragile(ctx: Context, report: Report) -> Report:
    note(ctx)
    if not Path("mended").exists():
        raise ValueError("not mended \\x1b[31mred\\x1b[0m [bold]yet[/bold] \\x9b2J")
    return Report(text="mended " + report.text)


@workflow
def broken(topic: Ref[Topic]) -> Ref[Report]:
    return fragile(write(topic))


@tool
async def ask(ctx: Context, report: Report) -> Report:
    answer = await ctx.signal("approve")
    return Report(text=f"{report.text} {answer}")


@workflow
def asking(topic: Ref[Topic]) -> Ref[Report]:
    return ask(write(topic))


@tool
async def nap(ctx: Context, topic: Topic) -> Report:
    await ctx.sleep(0.6 if topic.text == "soon" else 3600)
    return Report(text="rested")


@workflow
def napping(topic: Ref[Topic]) -> Ref[Report]:
    return nap(topic)


@tool(effect="once")
async def publish(ctx: Context, report: Report) -> Report:
    note(ctx)
    if not Path("safe").exists():
        os.kill(os.getpid(), signals.SIGKILL)
    return Report(text="published " + report.text)


@workflow
def publishing(topic: Ref[Topic]) -> Ref[Report]:
    return publish(write(topic))


async def was_paid(ctx: Context, topic: Topic) -> Report | None:
    said = Path("bank").read_text() if Path("bank").exists() else ""
    if said == "away":
        raise ConnectionError("the bank is away")
    return Report(text=said) if said else None


async def _pay(ctx: Context) -> Report:
    note(ctx)
    Path(f"paying-{ctx.step}").touch()
    while not Path("safe").exists():
        if Path("paying-card").exists() and Path("paying-cash").exists():
            os.kill(os.getpid(), signals.SIGKILL)
        await anyio.sleep(0.01)
    return Report(text=f"paid by {ctx.step}")


@tool(effect="once", probe=was_paid)
async def card(ctx: Context, topic: Topic) -> Report:
    return await _pay(ctx)


@tool(effect="once")
async def cash(ctx: Context, topic: Topic) -> Report:
    return await _pay(ctx)


@tool
async def add_up(ctx: Context, one: Report, two: Report) -> Report:
    return Report(text=f"{one.text}, {two.text}")


@workflow
def paying(topic: Ref[Topic]) -> Ref[Report]:
    return add_up(card(topic), cash(topic))


@tool
async def hold(ctx: Context, report: Report) -> Report:
    note(ctx)
    Path("holding").touch()
    while not Path("go").exists():
        await anyio.sleep(0.02)
    return Report(text="held " + report.text)


@workflow
def holding(topic: Ref[Topic]) -> Ref[Report]:
    return print_it(hold(write(topic)))


@tool
def block(ctx: Context, report: Report) -> Report:
    note(ctx)
    Path("holding").touch()
    time.sleep(300)
    return report


@workflow
def blocking(topic: Ref[Topic]) -> Ref[Report]:
    return block(write(topic))


@tool
async def pack(ctx: Context, topic: Topic) -> Files:
    names = topic.tags or ["a.txt", "a.txt", "../evil.txt", "b.html"]
    made = [
        await ctx.artifact(f"{index} {name}", name=name, media_type="text/plain")
        for index, name in enumerate(names)
    ]
    return Files(files=made)


@workflow
def packing(topic: Ref[Topic]) -> Ref[Files]:
    return pack(topic)


@tool
async def tell(ctx: Context, topic: Topic) -> Report:
    return await ctx.model.complete(topic.text, returns=Report)


@workflow
def telling(topic: Ref[Topic]) -> Ref[Report]:
    return tell(topic)


@tool
async def twice(ctx: Context, text: str) -> str:
    return text * 2


@workflow
def texting(text: Ref[str]) -> Ref[str]:
    return twice(text)
'''


WARM = """
import json, os, sys
import flowkit.cli.app, flowkit.cli.deciding, flowkit.cli.doctor, flowkit.cli.looking, flowkit.nodes
import flowkit.cli.table, flowkit.model.offline, flowkit.model.openai
import flowkit.cli.comparing, flowkit.cli.travel
import networkx, rich.table, sqlalchemy.dialects.sqlite, typer.main
from flowkit.cli import main

typer.main.get_command(flowkit.cli.app.app)
for line in sys.stdin:
    args, cwd, env, places = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        for number, place in enumerate(places):
            os.dup2(os.open(place, (os.O_WRONLY | os.O_CREAT) if number else os.O_RDONLY), number)
        sys.argv, sys.path = ["flowkit", *args], [cwd, *sys.path]
        main()
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), flush=True)
"""
"""A process that has imported everything, and forks for each command: a tenth of the time."""


@cache
def warm() -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    command = [sys.executable, "-P", "-c", WARM]
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    atexit.register(process.kill)
    return process


def call(args: tuple[str, ...], cwd: Path, env: Mapping[str, str], stdin: str) -> Done:
    """Run a command in a fork of the warm process."""
    process = warm()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as name:
        given, out, err = (Path(name, each) for each in ("in", "out", "err"))
        given.write_text(stdin, "utf-8")
        places = [str(given), str(out), str(err)]
        process.stdin.write(json.dumps([args, str(cwd), dict(env), places]) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return Done(code, out.read_text("utf-8"), err.read_text("utf-8"))


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def run_id(self) -> str:
        found = re.search(r"^run (\S+) of ", self.err, re.MULTILINE)
        assert found, self.err
        return found[1]


@dataclass
class Cli:
    """A directory with flows.py and a database, and `flowkit` to use there."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def made(cls, folder: Path) -> Cli:
        (folder / "flows.py").write_text(FLOWS)
        kept = {"PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT"}
        env = {name: value for name, value in os.environ.items() if name in kept}
        env |= {
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
            "PYTHONPATH": str(ROOT),
            "FLOWKIT_DB": str(folder / "runs.db"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TERM": "xterm-256color",
        }
        return cls(folder, env)

    @property
    def db(self) -> Path:
        return self.folder / "runs.db"

    def start(self, *args: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flowkit", *args],
            cwd=self.folder,
            env=self.env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __call__(
        self, *args: str, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> Done:
        result = call(args, self.folder, self.env | dict(env or {}), stdin or "")
        assert "Traceback" not in result.err, result.err
        return result

    def effects(self, run_id: str) -> list[str]:
        return (self.folder / f"effects-{run_id}").read_text().split()

    def tree(self) -> dict[str, str]:
        """Every file below the directory and the hash of what is in it."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts  # Python's own, not ours
        }


def finish(process: subprocess.Popen[str], timeout: float = 30) -> Done:
    """Wait for a started command."""
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err, err
    return Done(process.returncode, out, err)


def wait_until(found: Callable[[], bool], timeout: float = 20) -> None:
    ends = time.monotonic() + timeout
    while not found():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.01)


def stop(process: subprocess.Popen[str], signum: int = signal.SIGINT) -> None:
    process.send_signal(signum)
