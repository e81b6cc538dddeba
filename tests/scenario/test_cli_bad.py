"""What bad input gets: one clear line, the right exit code, nothing changed on disk, never a traceback."""

from __future__ import annotations

import ctypes
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flowkit.store import SqlStore
from tests.scenario.cli_program import ROOT, Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli.made(tmp_path)


def refused(cli: Cli, code: int, *args: str, says: str, stdin: str = "") -> None:
    """The command ends with the code and says why, and leaves the directory as it was."""
    before = cli.tree()
    done = cli(*args, stdin=stdin)
    assert done.code == code, done
    assert says in done.err, done.err
    assert done.out == ""
    assert cli.tree() == before


INPUTS: list[tuple[list[str], str]] = [
    (["--input", '{"text": ""}'], "text: String should have at least 1 character (got '')"),
    (["-i", "text=x", "-i", "times=no"], "times: Input should be a valid integer"),
    (["-i", '{"text": "x", "tags": [1, {}]}'], "tags.1: Input should be a valid string"),
    (["-i", "times=2"], "text: Field required"),
    (["-i", "{broken"], "is not JSON"),
    (["-i", '{"text": NaN}'], "NaN is not JSON"),
    (["-i", "[" * 100_000], "nested too deep"),
    (["-i", "1" * 5000], "is not JSON"),
    (["-i", "{}", "-i", "{}"], "a whole input twice"),
    (["-i", "text=x", "-i", "text.a=1"], "'text' is no object"),
    (["-i", "@missing.json"], "cannot read 'missing.json': No such file"),
    (["-i", "@."], "cannot read '.'"),
    (["-i", "-"], "--input: stdin is empty: there should be JSON in it"),
    (
        ["-i", "text=x", "-i", '{"text": "y"}'],
        "a whole input after key=value, which would be dropped",
    ),
    (["-i", "text=x", "--budget", "steps_max=-1"], "--budget: Budget: steps_max=-1: above 0."),
    (["-i", "text=x", "--budget", "steps_max=x"], "steps_max: Input should be a valid integer"),
    ([], "needs an input of type Topic (text, times?, tags?): give --input or --example"),
    (["-i", "text=x", "--deadline-s", "-1"], "--deadline-s takes seconds above 0"),
    (["-i", "text=x", "--deadline-s", "nan"], "--deadline-s takes seconds above 0"),
    (["-i", "text=x", "--run-id", "no/slash"], "'no/slash' is not a name"),
    (["-i", "text=x", "--out", "flows.py"], "--out flows.py: cannot write there"),
    (["-i", "text=x", "--nonsense"], "No such option"),
]


@pytest.mark.parametrize(("options", "says"), INPUTS)
def test_a_bad_input_is_2_with_the_path_of_the_field(
    cli: Cli, options: list[str], says: str
) -> None:
    refused(cli, 2, "run", "flows.py:fine", *options, says=says)


def test_bytes_that_are_no_utf_8_are_refused(cli: Cli) -> None:
    (cli.folder / "latin.json").write_bytes(b'{"text": "\xe9"}')
    refused(cli, 2, "run", "flows:fine", "-i", "@latin.json", says="cannot read")
    refused(cli, 2, "run", "flows:fine", "-i", "text=\udce9", says="not valid UTF-8")


TARGETS = [
    (
        "nope",
        "no shipped workflow is named 'nope' (there are: deep_research, newsroom, ",
    ),
    ("nope.py:x", "there is no file"),
    ("no.such.module:x", "there is no module 'no'"),
    ("flows.py:nope", "there is no 'nope'. Workflows there: asking"),
    ("flows.py:Topic", "not a workflow: decorate it with @workflow"),
    ("flows.py", "which workflow?"),
    ("flows.py:", "which workflow?"),
    ("a b:c", "is no target"),
    ("", "is no target"),
    ("raises.py:x", "ZeroDivisionError: division by zero ("),
    ("syntax.py:x", "syntax.py:2)"),
    ("exits.py:x", "ended the process (exit code 7)"),
    ("missing.py:x", "No module named 'not_installed'"),
    ("wrong.py:wrong", "may send"),
    ("x" * 5000 + ".py:x", "there is no file"),
]


@pytest.mark.parametrize(("target", "says"), TARGETS)
def test_a_bad_target_is_2_with_file_and_line(cli: Cli, target: str, says: str) -> None:
    (cli.folder / "raises.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    (cli.folder / "syntax.py").write_text("x = 1\ny = = 2\n")
    (cli.folder / "exits.py").write_text("import sys\nsys.exit(7)\n")
    (cli.folder / "missing.py").write_text("import not_installed\n")
    (cli.folder / "wrong.py").write_text(
        "from flowkit import Ref, workflow\nfrom flows import Report, Topic, is_short, publish, write\n"
        "@workflow\ndef wrong(topic: Ref[Topic]) -> Ref[Report]:\n"
        "    return is_short(publish(write(topic)))\n"
    )
    refused(cli, 2, "validate", target, says=says)


def test_the_users_own_exception_names_its_line(cli: Cli) -> None:
    (cli.folder / "raises.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    assert "raises.py:2)" in cli("graph", "raises.py:x").err


def test_a_module_that_prints_leaves_stdout_alone(cli: Cli) -> None:
    (cli.folder / "loud.py").write_text("print('loud')\nfrom flows import *\n")
    done = cli("graph", "loud.py:fine", "-f", "json")
    assert json.loads(done.out)["workflow"] == "fine"
    assert "loud" in done.err


RUN_COMMANDS = [
    ("show", "nope"), ("watch", "nope"), ("cancel", "nope"), ("signal", "nope", "x"),
    ("resume", "nope"), ("retry", "nope"), ("show", "@last"),
]  # fmt: skip


@pytest.mark.parametrize("command", RUN_COMMANDS)
def test_an_unknown_run_is_4_and_makes_no_database(cli: Cli, command: tuple[str, ...]) -> None:
    refused(cli, 4, *command, says="no runs yet")
    assert not cli.db.exists()


def test_a_list_of_no_database_says_that_there_is_none(cli: Cli) -> None:
    done = cli("ls", "--db", "typo.db")
    assert (done.code, done.out.split()) == (0, ["RUN", "WORKFLOW", "STATUS", "CREATED"])
    assert "typo.db does not exist or is empty" in done.err
    done = cli("ls", "--db", "typo.db", "--json")
    assert (done.code, done.out) == (0, "")
    assert "typo.db does not exist or is empty" in done.err


def test_an_unknown_run_in_a_database_is_4(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "known", "-q")
    for command in RUN_COMMANDS[:-1]:
        refused(cli, 4, *command, says="no run's id begins with 'nope'")
    refused(cli, 2, "show", "", says="give a run's id")
    refused(cli, 2, "retry", "known", "flows.py:fine", says="only failed and quarantined")
    refused(cli, 2, "signal", "known", "x", "{", says="VALUE: '{' is not JSON")
    refused(cli, 2, "ls", "--since", "yesterday", says="write 90m, 2h, 3d")
    refused(cli, 2, "ls", "--since", "99999999999d", says="lies before 1970")
    refused(cli, 2, "ls", "--status", "odd", says="--status is one of")


def test_a_run_of_a_changed_workflow_is_78(cli: Cli) -> None:
    cli("run", "flows.py:asking", "-i", "text=x", "--run-id", "w", "-q")
    flows = cli.folder / "flows.py"
    flows.write_text(
        flows.read_text().replace("@tool\nasync def write", '@tool(version="2")\nasync def write')
    )
    refused(cli, 78, "resume", "w", "flows.py:asking", says="node write: its types")


# ---- databases


def test_a_file_that_is_no_database_is_78(cli: Cli) -> None:
    cli.db.write_text("I am no database, but longer than a header of one is." * 50)
    for command in (("ls",), ("show", "x"), ("run", "flows.py:fine", "-i", "text=x")):
        refused(cli, 78, *command, says="is not an SQLite database")


def test_another_programs_database_is_78_and_gets_no_tables(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "one", "--db", "ours.db", "-q")
    cli("export", "one", "--out", "one.jsonl", "--db", "ours.db")
    connection = sqlite3.connect(cli.db)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    for command in (
        ("ls",), ("show", "x"), ("resume", "x"), ("gc", "--older-than", "1d"), ("vacuum",),
        ("run", "flows.py:fine", "-i", "text=x"), ("import", "one.jsonl"),
        ("run", "flows.py:fine", "-i", "text=x", "--run-id", "one"), ("fork", "one", "flows.py:fine"),
    ):  # fmt: skip
        refused(cli, 78, *command, says="another program's database")


async def test_a_database_that_a_host_shares_is_used(cli: Cli) -> None:
    connection = sqlite3.connect(cli.db)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    async with SqlStore(cli.db):
        pass
    assert cli("run", "flows.py:fine", "-i", "text=x", "-q").code == 0
    assert cli("ls").code == 0


def test_a_database_without_any_table_is_taken(cli: Cli) -> None:
    connection = sqlite3.connect(cli.db)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    assert cli.db.stat().st_size
    assert cli("ls").code == 0
    assert cli("run", "flows.py:fine", "-i", "text=x", "-q").code == 0


def test_a_newer_database_is_78_and_untouched(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "r", "-q")
    connection = sqlite3.connect(cli.db)
    connection.execute("INSERT INTO flowkit_schema VALUES (99)")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    for command in (("ls",), ("show", "r"), ("run", "flows.py:fine", "-i", "text=x")):
        refused(cli, 78, *command, says="newer flowkit (schema 99")
    assert cli("doctor").code == 78


def test_a_missing_directory_is_78(cli: Cli) -> None:
    for command in (("ls",), ("show", "x"), ("run", "flows.py:fine", "-i", "text=x")):
        refused(cli, 78, *command, "--db", "no/such/x.db", says="its directory does not exist")
    refused(cli, 78, "ls", "--db", ".", says="is a directory")
    refused(cli, 78, "ls", "--db", "mysql://x/y", says="cannot use 'mysql', only SQLite and")
    for nothing in ("", " ", ":memory:"):
        for command in (("ls",), ("run", "flows.py:fine", "-i", "text=x")):
            told = f"the database {nothing!r} keeps nothing: --db needs the path of a file"
            refused(cli, 78, *command, "--db", nothing, says=told)
    for name, says in (("x" * 5000, "File name too long"), ("\udce9", "not valid UTF-8")):
        for command in (("ls",), ("run", "flows.py:fine", "-i", "text=x"), ("show", "x")):
            refused(cli, 78, *command, "--db", name, says=says)


def without_override() -> None:
    """In the child: root, too, is held to the rights of files (it loses CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (1, 2):
            libc.prctl(24, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="root is held to rights by Linux capabilities")
def test_a_read_only_directory_or_file_is_78(cli: Cli) -> None:
    assert cli("run", "flows.py:fine", "-i", "text=x", "-q").code == 0
    cli.db.chmod(0o444)
    cli.folder.chmod(0o555)
    before = cli.tree()
    run = ["run", "flows.py:fine", "-i", "text=x", "-q"]
    try:
        for command, code in (
            (["ls"], 78), (run, 78), ([*run, "--db", "new.db"], 78),
            ([*run, "--out", "new"], 2), (["demo"], 2),
        ):  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-m", "flowkit", *command],
                cwd=cli.folder, env=cli.env, capture_output=True, text=True, check=False,
                preexec_fn=without_override,
            )  # fmt: skip
            assert done.returncode == code, (command, done)
            assert "Traceback" not in done.stderr
            assert "may not write" in done.stderr + done.stdout or "cannot write" in done.stderr
    finally:
        cli.folder.chmod(0o755)
    assert cli.tree() == before


def test_a_damaged_journal_is_78(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "r", "-q")
    connection = sqlite3.connect(cli.db)
    connection.execute("UPDATE flowkit_events SET data = '{' WHERE seq = 2")
    connection.commit()
    connection.close()
    assert cli("ls").code == 0
    for command in (("show", "r"), ("watch", "r")):
        done = cli(*command)
        assert done.code == 78
        assert "cannot be read" in done.err


# ---- configuration


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("db = ", "cannot be read"),
        ("api_key = 'sk-1'", "unknown key 'api_key'"),
        ("db = 1", "db is a text"),
        ("[targets]\nx = 1", "targets.x must be a text"),
    ],
)
def test_a_bad_configuration_is_78(cli: Cli, text: str, says: str) -> None:
    del cli.env["FLOWKIT_DB"]
    (cli.folder / "flowkit.toml").write_text(text)
    refused(cli, 78, "ls", says=says)


def test_a_model_that_is_not_completely_configured_is_78(cli: Cli) -> None:
    cli.env["OPENAI_BASE_URL"] = "not a url"
    refused(cli, 78, "run", "flows.py:fine", "-i", "text=x", says="OPENAI_BASE_URL is not a URL")
    cli.env["FLOWKIT_LOG_LEVEL"] = "LOUD"
    refused(cli, 78, "ls", says="FLOWKIT_LOG_LEVEL=LOUD")


def test_a_model_that_cannot_be_reached_is_75(cli: Cli) -> None:
    cli.env |= {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "NO_PROXY": "*"}
    done = cli("run", "flows.py:telling", "-i", "text=x", "--run-id", "m")
    assert done.code == 75, done.err
    assert "flowkit retry m flows.py:telling" in done.err


def test_without_a_model_a_step_that_asks_one_fails_and_says_what_to_set(cli: Cli) -> None:
    done = cli("run", "flows.py:telling", "-i", "text=x")
    assert done.code == 1
    assert "Set OPENAI_API_KEY" in done.err


@pytest.mark.long
def test_a_locked_database_is_75(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "r", "-q")
    connection = sqlite3.connect(cli.db, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        done = cli("run", "flows.py:fine", "-i", "text=x")
    finally:
        connection.close()
    assert done.code == 75, done.err
    assert "locked" in done.err


def test_a_hostile_run_shows_as_text_everywhere(cli: Cli) -> None:
    evil = "\x1b]0;title\x07\x1b[2J[red]x[/red]\u202e\x9b31m"
    done = cli("run", "flows.py:fine", "-i", json.dumps({"text": evil}), "--run-id", "e")
    assert done.code == 0
    outputs = [done.out, done.err]
    outputs += [
        cli(*command).out for command in (("show", "e", "--json"), ("show", "e", "--step", "write"))
    ]
    for output in outputs:
        assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(output)
    assert done.json == {"text": evil + "!"}, "JSON reads back the same"


def test_without_the_extra_the_command_says_what_to_install() -> None:
    program = "import sys; sys.modules['typer'] = None; from flowkit.cli import main; main()"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert (
        done.stderr == 'flowkit: the command line needs typer: pip install "flowkit-agents[cli]"\n'
    )
