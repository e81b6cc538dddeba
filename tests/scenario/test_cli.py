"""The command line, as a program: what each command prints, and its exit codes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scenario.cli_program import ROOT, Cli

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

HEAVY = ("sqlalchemy", "openai", "networkx", "pandas", "plotly", "sqlite3")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli.made(tmp_path)


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_load_nothing_heavy(option: str) -> None:
    program = (
        f"import sys; sys.argv = ['flowkit', {option!r}]\n"
        "from flowkit.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    assert "flowkit" in done.stdout


# ---- run


def test_run_prints_the_result_on_stdout_and_progress_on_stderr(cli: Cli) -> None:
    done = cli("run", "flows.py:fine", "--input", '{"text": "ab", "times": 2}')
    assert done.code == 0
    assert done.json == {"text": "abab!"}
    assert "a node prints" in done.err
    assert "is_short accepted" in done.err
    assert "run succeeded" in done.err
    assert "\x1b" not in done.err
    assert cli.effects(done.run_id) == ["write", "print_it"]


def test_run_json_has_stable_keys_and_rfc3339_times(cli: Cli) -> None:
    done = cli("run", "flows:fine", "-i", "text=x", "--json", "--quiet", "--run-id", "r1")
    assert done.code == 0
    assert "run r1" not in done.err
    data = done.json
    assert set(data) == {
        "run_id", "workflow", "forked_from", "status", "created_at", "ended_at", "due_at", "result", "error",
        "waits_for", "exit_code", "files",
    }  # fmt: skip
    assert data["run_id"] == "r1"
    assert data["status"] == "succeeded"
    assert data["result"] == {"text": "x!"}
    assert RFC3339.fullmatch(data["created_at"])
    assert RFC3339.fullmatch(data["ended_at"])


@pytest.mark.parametrize(
    ("given", "stdin", "text"),
    [
        (["text=x", "times=3"], "", "xxx!"),
        (["text=7", 'tags=["a","b"]'], "", "7ab!"),
        (["@in.json"], "", "file!"),
        (["@in.json", "times=2"], "", "filefile!"),
        (["-"], '{"text": "piped"}', "piped!"),
    ],
)
def test_input_comes_as_json_fields_file_or_stdin(
    cli: Cli, given: list[str], stdin: str, text: str
) -> None:
    (cli.folder / "in.json").write_text('{"text": "file"}')
    options = [part for each in given for part in ("--input", each)]
    done = cli("run", "flows.py:fine", *options, "-q", stdin=stdin)
    assert done.code == 0, done.err
    assert done.json == {"text": text}


def test_an_input_that_is_a_text_is_taken_as_it_is(cli: Cli) -> None:
    assert cli("run", "flows.py:texting", "-i", "a=b", "-q").json == "a=ba=b"


def test_example_runs_and_writes_its_artifacts(cli: Cli) -> None:
    done = cli("run", "flows.py:fine", "--example", "-i", "times=3")
    assert done.json == {"text": "exampleexampleexample!"}
    assert (cli.folder / "flowkit-out").is_dir()


def test_run_again_with_the_same_id_gives_the_stored_result(cli: Cli) -> None:
    first = cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "again")
    second = cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "again")
    assert (first.code, second.code) == (0, 0)
    assert first.json == second.json
    assert cli.effects("again") == ["write", "print_it"]
    other = cli("run", "flows.py:fine", "-i", "text=y", "--run-id", "again")
    assert other.code == 78
    assert "another input" in other.err


def test_out_writes_artifacts_by_name_and_refuses_paths(cli: Cli) -> None:
    done = cli("run", "flows.py:packing", "-i", "text=x", "--out", "made", "--json")
    assert done.code == 1
    assert "'../evil.txt' is not written" in done.err
    written = {path.name: path.read_text() for path in (cli.folder / "made").iterdir()}
    assert written == {"a.txt": "0 a.txt", "a-2.txt": "1 a.txt", "b.html": "3 b.html"}
    assert not (cli.folder / "evil.txt").exists()
    assert set(done.json["files"]) == set(written)


@pytest.mark.parametrize(
    "name", [".hidden", "-rf", "a/b", "C:\\x", "", "..", "a\nb", "a\x1b[31m", "x" * 300, "~root"]
)
def test_a_name_that_is_no_plain_file_name_is_refused(name: str) -> None:
    from flowkit.cli.results import is_file_name

    assert not is_file_name(name)


def test_out_replaces_a_link_and_never_follows_it(cli: Cli) -> None:
    victim = cli.folder / "victim"
    victim.write_text("keep me")
    (cli.folder / "made").mkdir()
    (cli.folder / "made" / "a.txt").symlink_to(victim)
    done = cli("run", "flows.py:packing", "-i", "text=x", "-i", 'tags=["a.txt"]', "--out", "made")
    assert done.code == 0
    assert victim.read_text() == "keep me"
    assert (cli.folder / "made" / "a.txt").read_text() == "0 a.txt"


# ---- failing, retrying, cancelling, deadlines


def test_a_failed_run_is_one_line_and_retry_does_only_what_failed(cli: Cli) -> None:
    failed = cli("run", "flows.py:broken", "-i", "text=x", "--run-id", "b")
    assert failed.code == 1
    assert failed.out == ""
    assert "step 'fragile' failed: ValueError: not mended red [bold]yet[/bold]" in failed.err
    assert "flows.py:" in failed.err
    assert "flowkit retry b flows.py:broken" in failed.err
    assert not {"\x1b", "\x9b"} & set(failed.err)
    assert cli("run", "flows.py:broken", "-i", "text=x", "--run-id", "b").code == 1
    assert cli("retry", "b", "flows.py:broken").code == 1
    (cli.folder / "mended").touch()
    mended = cli("retry", "b", "flows.py:broken")
    assert mended.code == 0, mended.err
    assert mended.json == {"text": "mended x"}
    assert cli.effects("b") == ["write", "fragile", "fragile", "fragile"]
    refused = cli("retry", "b", "flows.py:broken")
    assert refused.code == 2
    assert "succeeded" in refused.err


def test_a_failed_run_as_json(cli: Cli) -> None:
    done = cli("run", "flows.py:broken", "-i", "text=x", "--json", "-q")
    assert done.code == 1
    assert done.json["status"] == "failed"
    assert done.json["exit_code"] == 1
    assert done.json["error"]["type"] == "ValueError"
    assert done.json["error"]["step"] == "fragile"
    assert "\x9b" not in done.out


def test_a_deadline_is_exit_code_124(cli: Cli) -> None:
    done = cli("run", "flows.py:napping", "-i", "text=long", "--deadline-s", "0.3")
    assert done.code == 124, done.err
    assert "deadline" in done.err


def test_cancel_ends_a_run_that_nobody_drives(cli: Cli) -> None:
    assert cli("run", "flows.py:asking", "-i", "text=x", "--run-id", "c").code == 3
    posted = cli("cancel", "c", "--json")
    assert posted.json == {"run_id": "c", "posted": True, "driven": False}
    ended = cli("cancel", "c", "flows.py:asking")
    assert ended.code == 0
    assert "run c is cancelled" in ended.err
    assert cli("cancel", "c").code == 0
    assert "status:     cancelled" in cli("show", "c").out
    assert cli("run", "flows.py:asking", "-i", "text=x", "--run-id", "c").code == 1


# ---- waiting


def test_a_waiting_run_is_left_with_3_and_says_what_to_do(cli: Cli) -> None:
    waits = cli("run", "flows.py:asking", "-i", "text=x", "--run-id", "w")
    assert waits.code == 3
    assert "step 'ask' waits for signal 'approve'" in waits.err
    assert "flowkit signal w approve JSON" in waits.err
    assert "flowkit resume w flows.py:asking" in waits.err
    shown = cli("show", "w")
    assert "status:     waiting" in shown.out
    assert "flowkit signal w approve JSON" in shown.out
    data = cli("show", "w", "--json").json
    assert data["waits_for"] == [
        {"what": "signal", "name": "approve", "step": "ask", "until": None, "why": ""}
    ]
    again = cli("resume", "w", "flows.py:asking", "--json", "-q")
    assert again.code == 3
    assert again.json["status"] == "waiting"
    given = cli("signal", "w", "approve", '{"yes": 1}')
    assert given.code == 0
    assert "flowkit resume w" in given.err
    done = cli("resume", "w", "flows.py:asking")
    assert done.json == {"text": "x {'yes': 1}"}
    assert cli.effects("w") == ["write"]
    assert cli("signal", "w", "approve", "1").code == 2


def test_a_run_that_is_due_soon_is_waited_for_and_a_late_one_is_left(cli: Cli) -> None:
    soon = cli("run", "flows.py:napping", "-i", "text=soon")
    assert soon.code == 0, soon.err
    assert soon.json == {"text": "rested"}
    late = cli("run", "flows.py:napping", "-i", "text=late", "--json")
    assert late.code == 3
    assert RFC3339.fullmatch(late.json["due_at"])
    assert "is due at" in late.err


def test_an_unknown_outcome_is_decided_on(cli: Cli) -> None:
    for run_id in ("d1", "d2", "d3"):
        died = cli("run", "flows.py:publishing", "-i", "text=x", "--run-id", run_id)
        assert died.code == -signal.SIGKILL
        assert "nobody drives it" in cli("ls").out
        unknown = cli("resume", run_id, "flows.py:publishing")
        assert unknown.code == 3
        assert "outcome of step 'publish' is unknown" in unknown.err
        assert "--assume-done" in unknown.err
    assert "unknown" in cli("show", "d1").out
    for options in (
        ["--step", "nope", "--repeat"],
        ["--repeat", "--fail"],
        ["--step", "publish"],
        ["--assume-done", '{"txet": 1}'],
    ):
        assert cli("resume", "d1", "flows.py:publishing", *options).code == 2
    (cli.folder / "safe").touch()
    done = cli("resume", "d1", "flows.py:publishing", "--assume-done", '{"text": "seen"}')
    assert done.json == {"text": "seen"}
    assert cli.effects("d1") == ["write", "publish"]
    done = cli("resume", "d2", "flows.py:publishing", "--repeat", "--step", "publish")
    assert done.json == {"text": "published x"}
    assert cli("resume", "d3", "flows.py:publishing", "--fail").code == 1


# ---- looking


def test_ls_lists_filters_and_prints_json_lines(cli: Cli) -> None:
    assert cli("ls").code == 0
    assert not cli.db.exists()
    cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "one")
    cli("run", "flows.py:broken", "-i", "text=x", "--run-id", "two")
    lines = cli("ls", "--json").out.splitlines()
    assert [json.loads(line)["run_id"] for line in lines] == ["two", "one"]
    first = json.loads(lines[0])
    assert set(first) == {
        "run_id", "workflow", "status", "created_at", "due_at", "driven", "events", "base"
    }  # fmt: skip
    assert first["driven"] is False
    names = {
        "--status=failed": ["two"],
        "--workflow=fine": ["one"],
        "--limit=1": ["two"],
        "--since=1h": ["two", "one"],
        "--since=2999-01-01": [],
    }
    for option, expected in names.items():
        found = cli("list", "--json", option).out.splitlines()
        assert [json.loads(line)["run_id"] for line in found] == expected, option
    table = cli("ls").out.splitlines()
    assert table[0].split() == ["RUN", "WORKFLOW", "STATUS", "CREATED"]
    assert table[1].split()[:3] == ["two", "broken", "failed"]


def test_show_a_run_a_step_and_the_events(cli: Cli) -> None:
    cli("run", "flows.py:broken", "-i", "text=x", "--run-id", "b")
    shown = cli("show", "b").out
    assert "workflow:   broken" in shown
    assert "steps:      1 of 2 done, 2 attempts" in shown
    assert "error:      step 'fragile' failed: ValueError: not mended red" in shown
    assert "flowkit retry b TARGET" in shown
    step = cli("inspect", "b", "--step", "write", "--json").json
    assert step["value"] == {"text": "x"}
    assert [event["kind"] for event in step["events"]] == ["step_done"]
    assert "not mended" in cli("show", "b", "--step", "fragile").out
    events = cli("show", "b", "--events", "--json").json["events"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["kind"] == "run_started"
    assert events[-1]["data"]["status"] == "failed"
    assert "run_ended" in cli("show", "b", "--events").out
    missing = cli("show", "b", "--step", "nope")
    assert missing.code == 4
    assert "write, fragile" in missing.err


def test_runs_are_named_by_prefix_and_last(cli: Cli) -> None:
    for run_id in ("abc1", "abc2", "abc"):
        cli("run", "flows.py:fine", "-i", "text=x", "--run-id", run_id, "-q")
    assert cli("show", "abc2", "--json").json["run_id"] == "abc2"
    assert cli("show", "abc", "--json").json["run_id"] == "abc", "a whole id is no prefix"
    assert cli("show", "@last", "--json").json["run_id"] == "abc"
    ambiguous = cli("show", "ab")
    assert ambiguous.code == 2
    assert "abc1" in ambiguous.err
    assert cli("show", "xyz").code == 4


def test_watch_of_an_ended_run_has_its_exit_code(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "f", "-q")
    cli("run", "flows.py:broken", "-i", "text=x", "--run-id", "b", "-q")
    assert cli("watch", "f").code == 0
    assert "fragile failed" in cli("watch", "b").err
    assert cli("watch", "b", "--json").code == 1
    lines = cli("watch", "f", "--json").out.splitlines()
    assert json.loads(lines[-1])["kind"] == "run_ended"


# ---- about workflows and the installation


def test_graph_and_validate(cli: Cli) -> None:
    assert cli("graph", "flows.py:fine").out.startswith("flowchart TD")
    assert cli("graph", "flows.py:fine", "-f", "svg").out.startswith("<svg ")
    assert json.loads(cli("graph", "flows:fine", "-f", "json").out)["workflow"] == "fine"
    assert cli("graph", "flows.py:fine", "-f", "png").code == 2
    assert cli("validate", "flows.py:fine").out == "fine: valid; Topic -> Report, 3 steps.\n"
    assert cli("validate", "flows.py:fine", "--json").json["valid"] is True
    assert not cli.db.exists()


def test_doctor_says_what_is_there_without_network(cli: Cli) -> None:
    done = cli("doctor", "--json")
    checks = {each["check"]: each for each in done.json["checks"]}
    assert done.code == 0
    assert done.json["ok"] is True
    assert {"python", "sqlite", "packages", "database", "model"} <= set(checks)
    assert "made by the first run" in checks["database"]["text"]
    assert "none configured" in checks["model"]["text"]
    assert not cli.db.exists()
    cli("run", "flows.py:fine", "-i", "text=x", "-q")
    assert "schema" in cli("doctor").out
    cli.db.write_bytes(b"this is no database, whatever its name" * 100)
    assert cli("doctor").code == 78
    key = {"FLOWKIT_API_KEY": "sk-secret-secret", "FLOWKIT_BASE_URL": "http://127.0.0.1:9/v1"}
    configured = cli("doctor", "--db", "other.db", env=key)
    assert "127.0.0.1:9" in configured.out
    assert "secret" not in configured.out


# ---- configuration


def test_the_database_comes_from_option_environment_file_and_data_dir(cli: Cli) -> None:
    run = ("run", "flows.py:fine", "-i", "text=x", "-q")
    cli(*run, "--db", "option.db")
    assert (cli.folder / "option.db").exists()
    cli(*run)
    assert cli.db.exists()
    del cli.env["FLOWKIT_DB"]
    (cli.folder / "pyproject.toml").write_text('[tool.flowkit]\ndb = "file.db"\n')
    cli(*run)
    assert (cli.folder / "file.db").exists()
    (cli.folder / "pyproject.toml").unlink()
    assert cli("ls").code == 0
    assert not (cli.folder / "data").exists(), "looking makes no directory"
    if sys.platform == "linux":
        cli(*run)
        made = cli.folder / "data" / "flowkit"
        assert (made / "flowkit.db").exists()
        assert made.stat().st_mode & 0o777 == 0o700


def test_targets_in_the_configuration_let_resume_find_the_code(cli: Cli) -> None:
    cli("run", "flows.py:asking", "-i", "text=x", "--run-id", "w", "-q")
    unknown = cli("resume", "w")
    assert unknown.code == 2
    assert "flowkit resume RUN file.py:asking" in unknown.err
    (cli.folder / "flowkit.toml").write_text('[targets]\nasking = "flows.py:asking"\n')
    cli("signal", "w", "approve", "true")
    assert cli("resume", "w", "-q").json == {"text": "x True"}
    assert cli("resume", "w", "flows.py:fine").code == 2
