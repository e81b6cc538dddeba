"""The command line among other processes: signals, watching, busy runs, a kill, a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from tests.scenario.cli_program import Cli, finish, stop, wait_until

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and terminals")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli.made(tmp_path)


@posix
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_the_first_signal_lets_steps_end_and_says_how_to_resume(
    cli: Cli, signum: signal.Signals, code: int
) -> None:
    process = cli.start("run", "flows.py:holding", "-i", "text=x", "--run-id", "h")
    wait_until((cli.folder / "holding").exists)
    process.send_signal(signum)
    assert process.stderr is not None
    err = ""
    while "stopping:" not in err:
        err += process.stderr.readline()
    (cli.folder / "go").touch()
    done = finish(process)
    assert done.code == code
    assert "flowkit resume h flows.py:holding" in done.err
    assert cli.effects("h") == ["write", "hold"], "the step in flight ended, no new one began"
    assert '"driven": false' in cli("ls", "--json").out
    resumed = cli("resume", "h", "flows.py:holding")
    assert resumed.json == {"text": "held x!"}
    assert cli.effects("h") == ["write", "hold", "print_it"]


@posix
def test_the_second_signal_stops_at_once_and_loses_nothing(cli: Cli) -> None:
    process = cli.start("run", "flows.py:holding", "-i", "text=x", "--run-id", "h")
    wait_until((cli.folder / "holding").exists)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    err = ""
    while "stopping:" not in err:
        err += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    done = finish(process, timeout=3)
    assert done.code == 130
    (cli.folder / "go").touch()
    assert cli("resume", "h", "flows.py:holding").json == {"text": "held x!"}
    assert cli.effects("h") == ["write", "hold", "hold", "print_it"]


@posix
@pytest.mark.long
def test_a_thread_that_goes_on_does_not_keep_the_process(cli: Cli) -> None:
    process = cli.start("run", "flows.py:blocking", "-i", "text=x", "--run-id", "h")
    wait_until((cli.folder / "holding").exists)
    process.send_signal(signal.SIGINT)
    assert finish(process, timeout=20).code == 130


@posix
def test_a_killed_run_is_resumed_and_no_finished_step_runs_again(cli: Cli) -> None:
    process = cli.start("run", "flows.py:holding", "-i", "text=x", "--run-id", "k")
    wait_until((cli.folder / "holding").exists)
    process.kill()
    assert finish(process).code == -signal.SIGKILL
    assert "running (nobody drives it)" in cli("show", "k").out
    (cli.folder / "go").touch()
    resumed = cli("resume", "k", "flows.py:holding")
    assert "has died" in resumed.err
    assert resumed.json == {"text": "held x!"}
    assert cli.effects("k") == ["write", "hold", "hold", "print_it"]


def test_a_run_that_was_killed_in_a_wait_is_left_with_3(cli: Cli) -> None:
    """Its process died before the run was suspended: the journal ends with the attempt's own wait."""
    assert cli("run", "flows.py:asking", "-i", "text=x", "--run-id", "k").code == 3
    with contextlib.closing(sqlite3.connect(cli.db)) as connection:
        query = "SELECT max(seq) FROM flowkit_events WHERE kind = 'waiting' AND key = 'ask'"
        (head,) = connection.execute(query).fetchone()
        connection.execute("DELETE FROM flowkit_events WHERE seq > ?", [head])
        connection.execute(
            "UPDATE flowkit_runs SET status = 'running', owner = 'dead', lease_until = 0"
        )
        connection.commit()
    process = cli.start("resume", "k", "flows.py:asking")
    try:
        resumed = finish(process, timeout=10)
    finally:
        process.kill()
    assert resumed.code == 3
    assert "has died" in resumed.err
    assert "flowkit signal k approve JSON" in resumed.err


def journal(cli: Cli) -> list[tuple[object, ...]]:
    """The stored run and its events; not its lease, which its owner renews."""
    with contextlib.closing(sqlite3.connect(cli.db)) as connection:
        runs = connection.execute(
            "SELECT run_id, status, owner, epoch FROM flowkit_runs"
        ).fetchall()
        events = connection.execute("SELECT seq, kind, key, data FROM flowkit_events").fetchall()
        inbox = connection.execute("SELECT id FROM flowkit_inbox").fetchall()
    return [*runs, *events, *inbox]


def test_a_run_that_someone_else_drives(cli: Cli) -> None:
    """`resume` and `retry` are refused with 75, `run` and `watch` follow it to its end."""
    driver = cli.start("run", "flows.py:holding", "-i", "text=x", "--run-id", "h")
    wait_until((cli.folder / "holding").exists)
    before = journal(cli)
    busy = cli("resume", "h", "flows.py:holding")
    assert busy.code == 75
    assert "is driven by" in busy.err
    assert cli("retry", "h", "flows.py:holding").code == 75
    assert cli("resume", "h", "flows.py:holding", "--repeat").code == 75
    assert cli("run", "flows.py:holding", "-i", "text=other", "--run-id", "h").code == 78
    assert '"driven": true' in cli("ls", "--json").out
    assert journal(cli) == before, "nothing changed"
    followers = [
        cli.start("run", "flows.py:holding", "-i", "text=x", "--run-id", "h"),
        cli.start("watch", "h"),
        cli.start("watch", "h", "--json"),
    ]
    assert followers[2].stdout is not None
    assert json.loads(followers[2].stdout.readline())["kind"] == "run_started"
    (cli.folder / "go").touch()
    assert json.loads(finish(driver).out) == {"text": "held x!"}
    followed, watched, as_json = (finish(process) for process in followers)
    assert [followed.code, watched.code, as_json.code] == [0, 0, 0]
    assert followed.json == {"text": "held x!"}
    assert "run succeeded" in watched.err
    kinds = [json.loads(line)["kind"] for line in as_json.out.splitlines()]
    assert kinds[-1] == "run_ended"
    assert cli.effects("h") == ["write", "hold", "print_it"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_who_only_follows_a_run_leaves_it_alone_when_it_is_stopped(cli: Cli, signum: int) -> None:
    driver = cli.start("run", "flows.py:holding", "-i", "text=x", "--run-id", "h")
    wait_until((cli.folder / "holding").exists)
    follower = cli.start("run", "flows.py:holding", "-i", "text=x", "--run-id", "h")
    assert follower.stderr is not None
    while "run h of holding" not in (line := follower.stderr.readline()):
        assert line, "it never followed"
    stop(follower, signum)
    left = finish(follower)
    assert left.code == 128 + signum
    assert "steps in flight" not in left.err
    assert "flowkit resume" not in left.err
    assert (
        "no longer followed; the process that drives the run goes on. Follow it again: flowkit watch h"
    ) in left.err
    (cli.folder / "go").touch()
    assert finish(driver).json == {"text": "held x!"}


def test_cancel_and_signal_reach_the_process_that_drives(cli: Cli) -> None:
    driver = cli.start("run", "flows.py:holding", "-i", "text=x", "--run-id", "h")
    wait_until((cli.folder / "holding").exists)
    assert cli("signal", "h", "early", "1", "--json").json["driven"] is True
    posted = cli("cancel", "h")
    assert posted.code == 0
    assert "takes it over" in posted.err
    done = finish(driver)
    assert done.code == 1
    assert "cancelled" in done.err


def in_terminal(cli: Cli, *args: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command in a pseudo terminal of 30 by 100; its exit code and all that it wrote."""
    import fcntl
    import pty
    import struct
    import subprocess
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "flowkit", *args],
        cwd=cli.folder, env=cli.env | (env or {}), stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the process is
        while piece := os.read(ours, 65536):
            written += piece
    os.close(ours)
    return process.wait(), written.decode()


@posix
def test_a_terminal_gets_a_live_tree_and_a_pipe_does_not(cli: Cli) -> None:
    code, seen = in_terminal(cli, "run", "flows.py:broken", "-i", "text=x", "--run-id", "t")
    assert code == 1
    assert "✓" in seen
    assert "✗" in seen
    assert "\x1b[?25h" in seen, "the cursor is shown again"
    assert "not mended red [bold]yet[/bold]" in seen, "markup is text, escapes are gone"
    assert "\x1b[31mred" not in seen
    assert "[1A" in seen, "it is redrawn in place"


@posix
@pytest.mark.parametrize("env", [{"CI": "1"}, {"TERM": "dumb"}])
def test_no_tree_where_nobody_looks(cli: Cli, env: dict[str, str]) -> None:
    _, seen = in_terminal(cli, "run", "flows.py:fine", "-i", "text=x", env=env)
    assert "write done" in seen
    assert "[1A" not in seen


@posix
def test_no_color_keeps_the_tree_without_colours(cli: Cli) -> None:
    _, seen = in_terminal(cli, "run", "flows.py:fine", "-i", "text=x", env={"NO_COLOR": "1"})
    assert "✓" in seen
    assert "\x1b[32m" not in seen


@posix
def test_a_closed_pipe_is_no_traceback(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=x", "-q")
    process = cli.start("show", "@last", "--events", "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()
