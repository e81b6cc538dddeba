"""SIGTERM, SIGINT and SIGKILL through the real command, in each phase of a step, and the resume after it.

`test_cli_processes` has what the first and the second signal say; here is what is left in the journal,
how long it takes, and what a `flowkit resume` that was stopped itself leaves.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowkit.cli.driving import GRACE_S
from tests.scenario.cli_program import Cli, finish, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
    pytest.mark.long,
]

LATE_S = 4.0
"""What a slow machine may add to a time."""

FLOWS = """
from __future__ import annotations

import time
from pathlib import Path

import anyio

from flowkit import Context, Ref, workflow
from flowkit.nodes import Plan, planner, tool


def note(ctx: Context) -> None:
    with open("effects", "a") as file:
        file.write(f"{ctx.step}\\n")


@tool
async def begin(ctx: Context, text: str) -> str:
    note(ctx)
    return text


async def until_told(name: str) -> None:
    Path(f"in-{name}").touch()
    while not Path("go").exists():
        await anyio.sleep(0.01)


@tool
async def waits(ctx: Context, text: str) -> str:
    note(ctx)
    await until_told("waits")
    return text + "!"


@tool
def computes(ctx: Context, text: str) -> str:
    note(ctx)
    Path("in-computes").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return text + "!"


@tool(effect="once")
async def publishes(ctx: Context, text: str) -> str:
    note(ctx)
    await until_told("publishes")
    return text + "!"


@planner(tools=[begin])
async def plans(ctx: Context, text: str) -> Plan | str:
    note(ctx)
    if not ctx.turns:
        return Plan([begin.step(text, id="one")], again=True)
    await until_told("plans")
    return text + "!"


@tool(retries=1, backoff_s=2.0)
async def fails(ctx: Context, text: str) -> str:
    note(ctx)
    if not Path("go").exists():
        Path("in-fails").touch()
        raise ConnectionError("down")
    return text + "!"


@tool
async def end(ctx: Context, text: str) -> str:
    note(ctx)
    return text + "?"


@workflow
def waiting(text: Ref[str]) -> Ref[str]:
    return end(waits(begin(text)))


@workflow
def computing(text: Ref[str]) -> Ref[str]:
    return end(computes(begin(text)))


@workflow
def publishing(text: Ref[str]) -> Ref[str]:
    return end(publishes(begin(text)))


@workflow
def planning(text: Ref[str]) -> Ref[str]:
    return end(plans(begin(text)))


@workflow
def failing(text: Ref[str]) -> Ref[str]:
    return end(fails(begin(text)))
"""

PHASES = {
    "waiting": "waits", "computing": "computes", "publishing": "publishes", "planning": "plans",
    "failing": "fails",
}  # fmt: skip

ENDS: dict[str, tuple[list[signal.Signals], int]] = {
    "TERM": ([signal.SIGTERM], 143),
    "TERM, TERM": ([signal.SIGTERM, signal.SIGTERM], 143),
    "INT": ([signal.SIGINT], 130),
    "TERM, KILL": ([signal.SIGTERM, signal.SIGKILL], -signal.SIGKILL),
}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli.made(tmp_path)
    (tmp_path / "phases.py").write_text(FLOWS)
    return made


def strike(process: subprocess.Popen[str], signals: list[signal.Signals]) -> float:
    """Send the signals, each when the one before has been heard; when the first was sent."""
    began = time.monotonic()
    assert process.stderr is not None
    for index, signum in enumerate(signals):
        if index:
            while "stopping:" not in process.stderr.readline():
                assert process.poll() is None
        process.send_signal(signum)
    return began


def effects(cli: Cli) -> list[str]:
    return (cli.folder / "effects").read_text().split()


CASES = [
    *((flow, how) for flow in PHASES for how in ENDS if how != "INT"),
    ("waiting", "INT"),  # which differs by its code alone
]


@pytest.mark.parametrize(("flow", "how"), CASES)
def test_a_signal_in_a_step_ends_the_command_in_time_and_the_resume_is_right(
    flow: str, how: str, cli: Cli
) -> None:
    signals, code = ENDS[how]
    target, step = f"phases.py:{flow}", PHASES[flow]
    process = cli.start("run", target, "-i", '"t"', "--run-id", "r")
    wait_until((cli.folder / f"in-{step}").exists)
    began = strike(process, signals)
    done = finish(process, timeout=60)
    took = time.monotonic() - began
    assert done.code == code, done.err
    assert took < GRACE_S + 1 + LATE_S, f"{took:.1f} s"
    if len(signals) == 2:
        assert took < GRACE_S, "the second signal is not waited for"
    before = effects(cli)
    (cli.folder / "go").touch()
    resumed = cli("resume", "r", target)
    if flow == "publishing":  # nobody knows whether it happened
        assert resumed.code == 3
        assert effects(cli) == before, "it was repeated without being asked"
        resumed = cli("resume", "r", target, "--repeat")
    assert resumed.json == "t!?", resumed.err
    after = effects(cli)
    assert after[: len(before)] == before
    assert (after.count("begin"), after.count("end")) == (1, 1)
    assert after.count("plans/t1/one") == (flow == "planning")
    assert after.count(step) <= 2 + (flow == "planning")


def test_a_resume_that_is_stopped_is_resumed(cli: Cli) -> None:
    for signum in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        (cli.folder / "in-waits").unlink(missing_ok=True)
        command = ["run", "phases.py:waiting", "-i", '"t"', "--run-id", "r"]
        if (cli.folder / "effects").exists():
            command = ["resume", "r", "phases.py:waiting"]
        process = cli.start(*command)
        wait_until((cli.folder / "in-waits").exists)
        process.send_signal(signum)
        code = finish(process, timeout=60).code
        assert code == (143 if signum == signal.SIGTERM else -signum)
    (cli.folder / "go").touch()
    assert cli("resume", "r", "phases.py:waiting").json == "t!?"
    assert effects(cli) == ["begin", "waits", "waits", "waits", "waits", "end"]
