"""`run_python` as a tool: what a model gets back, what goes in and out, and when it is refused.

That nothing gets out of a sandbox is in tests/fault/sandbox.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.from_thread
import pytest
from pydantic import BaseModel

from flowkit import DeclarationError, Engine, Ref, StepFailed, Workflow, workflow
from flowkit.nodes import Planner
from flowkit.nodes.tools import python_tool
from flowkit.nodes.tools.python import (
    Bubblewrap,
    Code,
    Failure,
    Job,
    Launcher,
    Limits,
    Outcome,
    PythonResult,
    Sandbox,
    SandboxUnavailable,
    Stop,
)
from flowkit.nodes.tools.python.guest import wait_for
from flowkit.nodes.tools.python.sandbox import bad_name, cut
from flowkit.nodes.tools.python.trial import Choice, failed
from flowkit.nodes.tools.python.view import view_of
from flowkit.store import MemoryStore
from flowkit.testing import ScriptedModel, calls
from flowkit.values import Artifact

REAL: tuple[Sandbox, ...] = (Bubblewrap(), Launcher())


class Question(BaseModel):
    text: str


@dataclass
class Scripted:
    """A sandbox that says what it is told to, and keeps the jobs. It runs nothing, unless there is a
    real one behind it, which need not be tried out again for each test."""

    outcome: Outcome = field(default_factory=lambda: Outcome("exit", value="42"))
    name: str = "scripted"
    reason: str = ""
    honest: bool = True
    real: Sandbox | None = None
    jobs: list[Job] = field(default_factory=list[Job])

    def why_not(self) -> str:
        return self.reason

    def run(self, job: Job, stop: Stop) -> Outcome:
        self.jobs.append(job)
        if "6 * 7" in job.code:
            return Outcome("exit", value="42", stdout="" if self.honest else str(dict(os.environ)))
        if "os.fork" in job.code:
            return Outcome("exit", value="3")
        if "SIG_IGN" in job.code:
            return Outcome("time")
        if self.reason:
            raise SandboxUnavailable(f"{self.name} has gone")
        return self.real.run(job, stop) if self.real else self.outcome


THERE = [Scripted(real=each) for each in REAL if not each.why_not() and not failed(each)]
needs_one = pytest.mark.skipif(
    not THERE, reason=f"no sandbox here: {[each.why_not() for each in REAL]}"
)


@pytest.mark.parametrize("sandbox", [each.real for each in THERE], ids=lambda each: each.name)
def test_a_sandbox_that_is_there_holds_all_that_is_tried(sandbox: Sandbox) -> None:
    assert failed(sandbox) == []


@dataclass
class Bench:
    """A workflow that runs one program, in an engine."""

    engine: Engine
    once: Workflow[Code, PythonResult]
    store: MemoryStore

    async def run(self, code: str | Code) -> PythonResult:
        return await self.engine.run(self.once, Code(code=code) if isinstance(code, str) else code)


@asynccontextmanager
async def bench_of(
    limits: Limits | None = None,
    files: dict[str, bytes | Path] | None = None,
    sandboxes: Sequence[Sandbox] | None = None,
) -> AsyncGenerator[Bench]:
    run_python = python_tool(limits=limits, files=files, sandboxes=sandboxes or THERE or None)

    @workflow
    def once(code: Ref[Code]) -> Ref[PythonResult]:
        return run_python(code)

    store = MemoryStore()
    async with Engine(store, workflows=[once]) as engine:
        yield Bench(engine, once, store)


async def result(
    code: str | Code,
    limits: Limits | None = None,
    files: dict[str, bytes | Path] | None = None,
    sandboxes: Sequence[Sandbox] | None = None,
) -> PythonResult:
    async with bench_of(limits, files, sandboxes) as bench:
        return await bench.run(code)


# ---- what a model gets back ----


@needs_one
async def test_a_program_gives_its_output_and_its_last_value() -> None:
    found = await result("print('hello')\ntotal = sum(range(10))\n{'total': total}")
    assert found == PythonResult(ok=True, stdout="hello\n", value='{"total": 45}')


@needs_one
async def test_an_exception_comes_with_the_lines_that_led_to_it_and_no_others() -> None:
    found = await result("def half(x):\n    return x / 0\n\nprint('before')\nhalf(1)")
    assert not found.ok
    assert found.stdout == "before\n"
    assert found.error.splitlines() == [
        "ZeroDivisionError: division by zero",
        "line 5: half(1)",
        "line 2 in half: return x / 0",
    ]
    assert "send the whole of it again" in found.hint


@needs_one
@pytest.mark.parametrize(
    ("code", "error", "hint"),
    [
        ("import no_such_thing", "ModuleNotFoundError", "do without it"),
        ("open('prices.csv')", "FileNotFoundError", "os.listdir()"),
        ("x = = 1", "SyntaxError", "whole program"),
        ("import socket; socket.socket()", "PermissionError", "no network"),
        ("import sys; sys.exit('no data')", "SystemExit: no data", "Mend"),
        ("import os; os._exit(3)", "exit code 3", "stderr"),
        ("import os; os.abort()", "signal 6", "another way"),
        ("bytearray(10 << 30)", "MemoryError", "2,048 MB"),
    ],
)
async def test_what_went_wrong_says_what_to_do(code: str, error: str, hint: str) -> None:
    found = await result(code)
    assert not found.ok
    assert error in found.error
    assert hint in found.hint


@needs_one
async def test_a_program_that_takes_too_long_is_ended_and_keeps_what_it_wrote() -> None:
    code = "print('begun')\nopen('part.csv', 'w').write('a,b')\nwhile True: pass"
    found = await result(code, Limits(time_s=0.5))
    assert (found.ok, found.stdout) == (False, "begun\n")
    assert "after 0.5 s" in found.error
    assert [each.name for each in found.files] == ["part.csv"]


@needs_one
async def test_long_output_keeps_both_ends() -> None:
    found = await result("print('first')\nprint('x' * 100_000)\nprint('last')")
    assert len(found.stdout) <= Limits().text_characters
    assert found.stdout.startswith("first")
    assert found.stdout.endswith("last\n")
    assert "characters left out" in found.stdout


@needs_one
@pytest.mark.parametrize("mark", ["```python\n", "```\n", "```py\n"])
async def test_a_fence_around_the_code_is_taken_off(mark: str) -> None:
    assert (await result(f"{mark}6 * 7\n```")).value == "42"


@needs_one
async def test_every_call_starts_afresh() -> None:
    async with bench_of() as bench:
        first: PythonResult = await bench.run(Code(code="kept = 1\nopen('a', 'w').close()"))
        then: PythonResult = await bench.run(Code(code="import os\nos.listdir(), 'kept' in dir()"))
    assert first.ok
    assert then.value == "[[], false]"


# ---- files ----


@needs_one
async def test_files_that_the_code_wrote_are_artifacts() -> None:
    code = """
import os
os.mkdir("out")
for name in ("table.csv", "page.html", "out/chart.png", "data.pkl"):
    with open(name, "wb") as file:
        file.write(b"content of " + name.encode())
"""
    async with bench_of() as bench:
        found: PythonResult = await bench.run(Code(code=code))
        assert {each.name: each.media_type for each in found.files} == {
            "table.csv": "text/csv",
            "page.html": "text/html",
            "out/chart.png": "image/png",
            "data.pkl": "application/octet-stream",
        }
        for each in found.files:
            assert await bench.store.get(each.sha256) == b"content of " + each.name.encode()


@needs_one
async def test_files_of_an_earlier_result_go_in_by_name_and_come_out_only_if_changed() -> None:
    async with bench_of() as bench:
        first: PythonResult = await bench.run(Code(code="for n in 'ab': open(n, 'w').write(n)"))
        code = "open('a', 'a').write('!')\nopen('a').read() + open('b').read()"
        then: PythonResult = await bench.run(Code(code=code, files=first.files))
    assert then.value == '"a!b"'
    assert [each.name for each in then.files] == ["a"]


@needs_one
async def test_the_host_gives_files_to_every_program(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("x\n1\n", "utf-8")
    found = await result(
        "open('prices.csv').read() + open('in/real.csv').read()",
        files={"prices.csv": b"p\n", "in/real.csv": tmp_path / "real.csv"},
    )
    assert found.value == '"p\\nx\\n1\\n"'
    assert found.files == []


async def test_an_artifact_that_does_not_exist_is_refused_before_anything_runs() -> None:
    sandbox = Scripted()
    made_up = Artifact("0" * 64, "a.csv", "text/csv", 3)
    found = await result(Code(code="1", files=[made_up]), sandboxes=[sandbox])
    assert not found.ok
    assert "is not in this store" in found.error
    assert sandbox.jobs == []


async def test_a_name_that_leaves_the_directory_is_refused_going_in() -> None:
    sandbox = Scripted(Outcome("exit", files=[("../slip", b"x")]))
    async with bench_of(sandboxes=[sandbox]) as bench:
        first: PythonResult = await bench.run(Code(code="1"))
        then: PythonResult = await bench.run(Code(code="2", files=first.files))
    assert "'../slip'" in then.error
    with pytest.raises(DeclarationError, match="is relative"):
        python_tool(files={"../slip": b""})


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "/a", "a/../b", "a//b", "a\\b", "C:a", "a\0b", "a\nb", "a\u202eb", "\ud800",
     "x" * 201, "é" * 101],
)  # fmt: skip
def test_names_are_refused_rather_than_cleaned(name: str) -> None:
    assert bad_name(name)


@pytest.mark.parametrize("name", ["a", "a.b/c d.png", "收益率.csv", "x" * 200])
def test_ordinary_names_are_names(name: str) -> None:
    assert bad_name(name) == ""


@pytest.mark.parametrize("characters", [0, 10, 50, 100, 101])
def test_a_text_is_never_longer_than_allowed(characters: int) -> None:
    assert len(cut("x" * 101, characters)) <= max(characters, 45)


# ---- which sandbox, or none ----


async def test_where_no_sandbox_can_be_had_the_code_is_refused_with_what_to_install() -> None:
    gone = Scripted(reason="it is not installed (apt install it)")
    with pytest.raises(StepFailed, match="apt install bubblewrap") as caught:
        await result("open('/etc/passwd').read()", sandboxes=[gone])
    assert "scripted: it is not installed (apt install it)" in str(caught.value)
    assert caught.value.error_type == "SandboxUnavailable"
    assert gone.jobs == []


async def test_a_sandbox_that_does_not_hold_is_not_used() -> None:
    leaky, tight = Scripted(honest=False, name="leaky"), Scripted(name="tight")
    found = await result("1 + 1", sandboxes=[leaky, tight])
    assert found.ok
    assert not any(job.code == "1 + 1" for job in leaky.jobs)
    assert [job.code for job in tight.jobs][-1] == "1 + 1"
    with pytest.raises(StepFailed, match="no sight of the host's environment"):
        await result("1 + 1", sandboxes=[leaky])


def test_a_sandbox_is_tried_out_once() -> None:
    sandbox = Scripted()
    choice = Choice([sandbox])
    assert choice.get() is sandbox
    tried = len(sandbox.jobs)
    assert choice.get() is sandbox
    assert len(sandbox.jobs) == tried


async def test_a_sandbox_that_goes_away_in_the_middle_is_refused_and_not_replaced() -> None:
    first, second = Scripted(name="first"), Scripted(name="second")
    async with bench_of(sandboxes=[first, second]) as bench:
        await bench.run(Code(code="1"))
        first.reason = "removed"
        for round in range(10):
            with pytest.raises(StepFailed, match="first has gone"):
                await bench.run(Code(code=f"2 + {round}"))
    assert second.jobs == []


@needs_one
async def test_bubblewrap_that_is_removed_in_the_middle_is_refused(tmp_path: Path) -> None:
    sandbox = Bubblewrap()
    if sandbox.why_not():
        pytest.skip(sandbox.why_not())
    found = sandbox._find()
    assert found is not None
    program = tmp_path / "bwrap"
    program.write_text(f'#!/bin/sh\nexec {found} "$@"\n', "utf-8")
    program.chmod(0o755)
    async with bench_of(sandboxes=[Bubblewrap(program=program)]) as bench:
        first: PythonResult = await bench.run(Code(code="1"))
        assert first.ok
        for round in range(10):
            if round % 2:
                program.write_bytes(b"no program")
            else:
                program.unlink(missing_ok=True)
            with pytest.raises(StepFailed, match="was not run"):
                await bench.run(Code(code=f"2 + {round}"))


def test_a_program_that_is_no_sandbox_runs_nothing(tmp_path: Path) -> None:
    """Whatever calls itself bwrap and just runs the command: the guest program sees where it is."""
    if sys.platform != "linux" or Bubblewrap().why_not():
        pytest.skip("needs Linux")
    fake = tmp_path / "bwrap"
    ran = tmp_path / "ran"
    fake.write_text(
        f"#!/bin/sh\n[ $1 = --version ] && echo 'bubblewrap 0.9.0' && exit\n"
        f'while [ "$1" != -- ]; do shift; done; shift\n'
        f'for last; do :; done; exec {sys.executable} {Path(failed.__code__.co_filename).with_name("guest.py")} "$last"\n',
        "utf-8",
    )
    fake.chmod(0o755)
    sandbox = Bubblewrap(program=fake)
    assert sandbox.why_not() == ""
    stop = Stop()
    with pytest.raises(SandboxUnavailable, match="not started as a sandbox"):
        sandbox.run(Job(f"open({str(ran)!r}, 'w')"), stop)
    stop.close()
    assert not ran.exists()


@pytest.mark.parametrize("limits", [{"time_s": 0}, {"processes": -1}, {"artifacts": 0}])
def test_limits_are_above_zero(limits: dict[str, int]) -> None:
    with pytest.raises(DeclarationError, match="must be above 0"):
        replace(Limits(), **limits)


# ---- the end ----


@needs_one
async def test_cancelling_a_run_ends_the_program_with_all_that_it_started() -> None:
    """The thread is joined before the cancellation goes on, and it ends only with the last process."""
    code = """
import os, signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
if os.fork() == 0:
    os.setsid()
while True: time.sleep(1)
"""
    began = anyio.Event()

    class Told(Scripted):
        def run(self, job: Job, stop: Stop) -> Outcome:
            if "setsid" in job.code:
                anyio.from_thread.run_sync(began.set)
            return super().run(job, stop)

    before = children()
    async with bench_of(sandboxes=[Told(real=THERE[0].real)]) as bench:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(bench.run, code)
                await began.wait()
                group.cancel_scope.cancel()
        assert children() == before


def children() -> set[str]:
    """The processes that this one has started and that are not gone."""
    tasks = Path("/proc/self/task").iterdir()
    return {number for task in tasks for number in (task / "children").read_text("ascii").split()}


HOST = """
import sys
from flowkit.nodes.tools.python import Bubblewrap, Job, Launcher, Limits, Stop
sandbox = {"bubblewrap": Bubblewrap, "launcher": Launcher}[sys.argv[1]]()
code = f"import os; os.execv('/bin/sleep', ['sleep', '600.{sys.argv[2]}'])"
sandbox.run(Job(code, limits=Limits(time_s=600, disk_bytes=int(sys.argv[2]))), Stop())
"""


@pytest.mark.parametrize("name", [each.name for each in REAL])
def test_a_program_ends_with_its_host_that_is_killed(name: str) -> None:
    if not any(each.real and each.real.name == name for each in THERE):
        pytest.skip(f"no {name} here")
    # In the command lines of the host, the sandbox's processes and the program: all but the keeper's.
    mark = str(1_000_000_000 + secrets.randbelow(1 << 28))
    with subprocess.Popen([sys.executable, "-c", HOST, name, mark]) as host:
        until = time.monotonic() + 40
        while not any(line.startswith(b"sleep") for line in marked(mark)):
            assert time.monotonic() < until
            assert host.poll() is None
        host.kill()
    while left := marked(mark):
        assert time.monotonic() < until, left


def marked(mark: str) -> list[bytes]:
    found: list[bytes] = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            text = each.read_bytes()
            if mark.encode() in text:
                found.append(text)
    return found


@needs_one
def test_a_job_that_is_told_to_stop_stops_at_once() -> None:
    stop = Stop()
    stop.set()
    began = time.monotonic()
    outcome = THERE[0].run(Job("import time\ntime.sleep(50)"), stop)
    stop.close()
    assert outcome.ended == "stopped"
    assert time.monotonic() - began < 10


# ---- in a planner's hands ----


@needs_one
async def test_a_planner_mends_its_program_by_what_the_result_says() -> None:
    run_python = python_tool(sandboxes=THERE, files={"prices.csv": b"10\n20\n"})
    analyst = Planner("Calculate.", takes=Question, returns=Question, tools=[run_python])

    @workflow
    def asked(question: Ref[Question]) -> Ref[Question]:
        return analyst(question)

    right = "sum(int(line) for line in open('prices.csv'))"
    model = ScriptedModel(
        [
            calls(("run_python", {"code": "sum(open('price.csv'))"})),
            calls(("run_python", {"code": right})),
            calls(("answer", {"text": "30"})),
        ]
    )
    async with Engine(MemoryStore(), workflows=[asked], model=model) as engine:
        assert (await engine.run(asked, Question(text="The sum?"))).text == "30"
    told = [
        message.content or "" for message in model.requests[-1].messages if message.role == "tool"
    ]
    assert "FileNotFoundError" in told[0]
    assert "os.listdir()" in told[0]
    assert '"value":"30"' in told[1]
    assert len(told[1]) < 200


# ---- with the packages it is for ----


@needs_one
@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="needs pandas")
async def test_a_table_is_read_and_written() -> None:
    code = """
import pandas as pd
frame = pd.read_csv("prices.csv")
frame["mean"] = frame["close"].rolling(2).mean()
frame.to_csv("with_mean.csv", index=False)
frame
"""
    found = await result(code, files={"prices.csv": b"day,close\n1,10\n2,20\n"})
    assert found.ok, found
    assert "15.0" in found.value
    assert [each.name for each in found.files] == ["with_mean.csv"]


@needs_one
@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("plotly") is None, reason="needs plotly")
async def test_a_chart_is_a_page() -> None:
    code = """
import plotly.graph_objects as go
go.Figure(go.Scatter(x=[1, 2], y=[3, 4])).write_html("chart.html")
"""
    (page,) = (await result(code)).files
    assert page.media_type == "text/html"
    assert page.size > 1_000_000  # with the library, so that it works offline


@needs_one
@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
async def test_a_figure_that_was_only_shown_is_a_picture_and_chinese_is_drawn() -> None:
    code = """
import matplotlib
import matplotlib.pyplot as plt
plt.plot([-1, 2]); plt.title("收益率"); plt.show()
matplotlib.rcParams["axes.unicode_minus"]
"""
    found = await result(code)
    assert found.value == "false"
    assert [(each.name, each.media_type) for each in found.files] == [("figure_1.png", "image/png")]
    fonts = view_of(None).matplotlibrc.split("\n")[0]
    assert ("," in fonts) == ("missing from font" not in found.stderr), found.stderr


async def test_a_failure_without_lines_is_said_in_one() -> None:
    sandbox = Scripted(Outcome("exit", 1, failure=Failure("KeyError", "'close'")))
    assert (await result("x", sandboxes=[sandbox])).error == "KeyError: 'close'"


def test_who_floods_the_report_does_not_keep_the_keeper_from_counting_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        flood = "import os\nwhile True: os.write(1, bytes(65536))"
        with subprocess.Popen([sys.executable, "-c", flood], stdout=write) as flooding:
            os.close(write)
            try:
                ended, _, _ = wait_for(child.pid, read, time_s=5, entries=-1)
            finally:
                flooding.kill()
                child.kill()
                os.close(read)
    assert ended == "files"
