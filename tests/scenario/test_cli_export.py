"""`flowkit export` and `import`: a run as one file, and a run as a test."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scenario.cli_program import ROOT, Cli, Done


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli.made(tmp_path)


def pytest_in(cli: Cli, *args: str) -> Done:
    """pytest as a user runs it, in a process and a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args],
        cwd=cli.folder, env=cli.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_run_goes_to_another_database_and_on_from_there(cli: Cli) -> None:
    assert cli("run", "flows.py:asking", "-i", "text=hi", "--run-id", "one").code == 3
    done = cli("export", "one", "--out", "one.jsonl", "--json")
    assert done.code == 0
    told = done.json
    assert told["run_id"] == "one"
    assert told["bytes"] == (cli.folder / "one.jsonl").stat().st_size
    assert "the run has not ended" in done.err
    done = cli("import", "one.jsonl", "--db", "b.db")
    assert (done.code, done.out) == (0, "one\n")
    assert "flowkit show one --db b.db" in done.err
    assert cli("signal", "one", "approve", '"yes"', "--db", "b.db").code == 0
    done = cli("resume", "one", "flows.py:asking", "--db", "b.db")
    assert done.json == {"text": "hi yes"}
    assert cli.effects("one") == ["write"]
    assert cli("show", "one", "--json").json["status"] == "waiting"  # here nothing has changed


def test_stdout_has_the_file_and_nothing_else(cli: Cli) -> None:
    cli("run", "flows.py:packing", "-i", "text=x", "--run-id", "one")
    done = cli("export", "@last")
    assert done.code == 0
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert lines[0]["format"] == "flowkit-run"
    assert lines[-1]["lines"] == len(lines) - 1
    assert sum("artifact" in line for line in lines) == len(["a", "a again", "evil", "b"])
    assert "4 artifacts, to stdout" in done.err
    (cli.folder / "run.jsonl").write_text(done.out, "utf-8")
    done = cli("import", "run.jsonl", "--as", "two", "--json")
    assert done.json == {
        "run_id": "two",
        "workflow": "packing",
        "status": "succeeded",
        "events": len([line for line in lines if "event" in line]),
    }
    assert cli("run", "flows.py:packing", "-i", "text=x", "--run-id", "two", "--out", "o").code == 1
    assert (cli.folder / "o" / "a.txt").read_text() == "0 a.txt"


def test_a_fork_goes_to_another_database_and_becomes_a_test(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=hi", "--run-id", "one", "-q")
    done = cli("fork", "one", "flows.py:fine", "--at", "print_it", "--run-id", "f", "-q")
    assert done.json == {"text": "hi!"}
    assert cli("export", "f", "--out", "f.jsonl").code == 0
    assert cli("import", "f.jsonl", "--db", "b.db").code == 0
    shown = cli("show", "f", "--db", "b.db", "--json").json
    assert (shown["status"], shown["forked_from"]["run_id"]) == ("succeeded", "one")
    done = cli("export", "f", "flows.py:fine", "--as-test", "--db", "b.db", "--json")
    assert (done.code, done.json["difference"]) == (0, None)
    assert "Run it with: pytest test_fine.py (pip install pytest)" in done.err
    done = pytest_in(cli, "test_fine.py")
    assert (done.code, "1 passed" in done.out) == (0, True), done.out


BAD: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no run": (("export", "nobody"), 4, "no run's id begins"),
    "a directory": (("export", "one", "--out", "."), 2, ". is a directory"),
    "no directory": (("export", "one", "--out", "none/x"), 2, "none/x: cannot write there"),
    "what is there": (("export", "one", "--out", "flows.py"), 2, "is there already.*--force"),
    "a link": (("export", "one", "--out", "link"), 2, "is there already"),
    "json without a file": (("export", "one", "--json"), 2, "--json and --force go with --out"),
    "a target without a test": (("export", "one", "flows.py:fine"), 2, "go with --as-test"),
    "a tool without a test": (("export", "one", "--run", "write"), 2, "go with --as-test"),
    "a test without its code": (("export", "one", "--as-test"), 2, "not where its code is"),
    "a test that is no Python": (
        ("export", "one", "flows.py:fine", "--as-test", "--out", "x.txt"),
        2,
        "ends in .py",
    ),
    "a test of another workflow": (
        ("export", "one", "flows.py:asking", "--as-test"),
        2,
        "the run belongs to workflow 'fine'",
    ),
    "a tool that is none": (
        ("export", "one", "flows.py:fine", "--as-test", "--run", "is_short"),
        2,
        "run='is_short' is no tool",
    ),
    "no file": (("import", "nothing.jsonl"), 4, "there is no file nothing.jsonl"),
    "a directory to read": (("import", "."), 2, r"\.: cannot be read: Is a directory\.$"),
    "another file": (("import", "flows.py"), 2, "flows.py: line 1: this is no exported run"),
    "an id that is there": (("import", "one.jsonl"), 78, "has a run 'one' already"),
    "an id that is no name": (("import", "one.jsonl", "--as", "a/b"), 2, "--as 'a/b'"),
    "a cut file": (("import", "cut.jsonl", "--as", "x"), 2, "cut off.*Nothing was imported"),
}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    cli = Cli.made(tmp_path_factory.mktemp("used"))
    cli("run", "flows.py:fine", "-i", "text=hi", "--run-id", "one")
    cli("export", "one", "--out", "one.jsonl")
    whole = (cli.folder / "one.jsonl").read_bytes()
    (cli.folder / "cut.jsonl").write_bytes(whole[: len(whole) // 2])
    (cli.folder / "link").symlink_to("nowhere")
    return cli


@pytest.mark.parametrize("what", BAD)
def test_wrong_input_is_one_line_and_changes_nothing(used: Cli, what: str) -> None:
    args, code, told = BAD[what]
    before = used.tree()
    done = used(*args)
    assert (done.code, done.out) == (code, "")
    assert len(done.err.splitlines()) == 1, done.err
    assert re.search(told, done.err), done.err
    assert used.tree() == before


def test_a_bad_file_makes_no_database(cli: Cli) -> None:
    assert cli("import", "flows.py", "--db", "new.db").code == 2
    assert not (cli.folder / "new.db").exists()


def test_a_run_that_has_not_ended_is_imported_under_no_other_id(cli: Cli) -> None:
    assert cli("run", "flows.py:asking", "-i", "text=hi", "--run-id", "one").code == 3
    cli("export", "one", "--out", "one.jsonl")
    done = cli("import", "one.jsonl", "--as", "two", "--db", "b.db")
    assert (done.code, done.out) == (2, "")
    assert "run 'one' has not ended, and idempotency keys are made of the id" in done.err
    assert len(done.err.splitlines()) == 1
    assert not (cli.folder / "b.db").exists()
    assert cli("import", "one.jsonl", "--as", "one", "--db", "b.db").code == 0


def test_force_replaces_and_the_file_is_its_owners_alone(used: Cli) -> None:
    path = used.folder / "again.jsonl"
    path.write_text("old")
    assert used("export", "one", "--out", "again.jsonl", "--force").code == 0
    assert path.read_bytes() == (used.folder / "one.jsonl").read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(used.folder.glob(".flowkit-*"))


# ---- as a test


@pytest.mark.long
def test_a_test_passes_and_says_what_a_changed_tool_does_otherwise(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=hi", "--run-id", "one")
    done = cli("export", "one", "flows.py:fine", "--as-test", "--run", "print_it", "--json")
    assert done.code == 0, done.err
    assert done.json == {
        "run_id": "one", "test": "test_fine.py", "recording": "test_fine.jsonl", "difference": None
    }  # fmt: skip
    effects = cli.effects("one")  # of the run, and of the tool that is run, at the export
    assert effects == ["write", "print_it", "print_it"]
    done = pytest_in(cli, "test_fine.py")
    assert (done.code, "1 passed" in done.out) == (0, True), done.out
    assert cli.effects("one") == [*effects, "print_it"]
    flows = cli.folder / "flows.py"
    flows.write_text(flows.read_text().replace('report.text + "!"', 'report.text + "?"'))
    done = pytest_in(cli, "test_fine.py")
    assert done.code == 1
    assert (
        "AssertionError: fine does not do what run one did: step print_it: it gives another value: "
        'recorded {"text":"hi!"}, now {"text":"hi?"}'
    ) in done.out
    done = cli("export", "one", "flows.py:fine", "--as-test", "--run", "print_it", "--force")
    assert done.code == 0
    assert "it fails already with the present code: step print_it" in done.err


@pytest.mark.long
def test_a_test_in_another_folder_finds_the_code(cli: Cli) -> None:
    (cli.folder / "tests").mkdir()
    cli("run", "flows.py:fine", "-i", "text=hi", "--run-id", "one")
    for target, name in (("flows.py:fine", "a"), ("flows:fine", "b")):
        done = cli("export", "one", target, "--as-test", "--out", f"tests/test_{name}.py")
        assert done.code == 0, done.err
    done = pytest_in(cli, "--import-mode=importlib", "tests")
    assert (done.code, "2 passed" in done.out) == (0, True), done.out


def test_a_tool_that_asked_a_model_is_named(cli: Cli) -> None:
    done = cli("run", "flows.py:telling", "-i", "text=x", "--run-id", "one")
    assert done.code == 1  # the stand-in has no rule for it, so its error is what is recorded
    done = cli("export", "one", "flows.py:telling", "--as-test")
    assert done.code == 0
    assert "tool tell asked a model and is not run by the test" in done.err
    assert "--run tell" in done.err
    done = cli("export", "one", "flows.py:telling", "--as-test", "--run", "tell", "--force")
    assert "fails already" not in done.err
    assert "asked a model" not in done.err


PROMPTS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "stock_analysis": (
        ("--run", "judge"),
        (
            "import flowkit.workflows.stock_analysis.judging as module\n"
            "module._TASK = module._TASK.replace('Judge', 'Guess', 1)\n"
        ),
        "step judge: the request to the model differs in message 1 (user): recorded 'Judge the short-term",
    ),
    "deep_research": (
        (),
        (
            "from flowkit.workflows.deep_research.steps import researcher\n"
            "researcher._instructions = researcher._instructions.replace('researcher', 'poet', 1)\n"
        ),
        (
            "turn 1 of research: the request to the model differs in message 1 (system): recorded 'You are a "
            "researcher with a library"
        ),
    ),
    "newsroom": (
        (),
        (
            "from flowkit.workflows.newsroom import newsroom\n"
            "critic = newsroom.nodes['critic']\n"
            "critic._rubric = critic._rubric.replace('An article', 'A poem', 1)\n"
        ),
        "step critic: the request to the model differs in message 1 (system): recorded '… value by this rubric",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", PROMPTS)
def test_a_shipped_workflow_as_a_test(cli: Cli, name: str) -> None:
    options, change, told = PROMPTS[name]
    done = cli("run", name, "--example", "--quiet", "--out", "o")
    assert done.code == 0, done.err
    assert cli("export", "@last", "--out", "run.jsonl").code == 0
    assert cli("import", "run.jsonl", "--db", "b.db").code == 0
    done = cli("export", "@last", "--as-test", *options, "--db", "b.db")
    assert done.code == 0, done.err
    done = pytest_in(cli, f"test_{name}.py")
    assert (done.code, "1 passed" in done.out) == (0, True), done.out
    (cli.folder / "conftest.py").write_text(change, "utf-8")
    done = pytest_in(cli, f"test_{name}.py")
    assert done.code == 1
    assert f"{name} does not do what run" in done.out
    assert told in done.out, done.out


def test_the_written_test_passes_the_linters_of_this_house(used: Cli) -> None:
    assert used("export", "one", "flows.py:fine", "--as-test", "--out", "test_neat.py").code == 0
    written = (used.folder / "test_neat.py").read_text()
    config = f"--config={ROOT / 'pyproject.toml'}"
    for command in (["check", "--ignore", "I001"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, config, "-"],
            input=written, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
