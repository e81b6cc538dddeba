"""What the command line says when something is odd: the cause, and the command that helps."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scenario.cli_program import Cli, finish, wait_until
from tests.scenario.test_cli_processes import in_terminal, posix

MORE = """
from __future__ import annotations

from pydantic import BaseModel

from flowkit import Context, Ref, Reject, workflow
from flowkit.nodes import Plan, planner, tool, verifier


class Pages(BaseModel):
    title: str = "none"
    options: dict[str, int] = {}


class Topic(BaseModel):
    text: str
    pages: list[Pages] = []


class Report(BaseModel):
    text: str


@tool
async def write(ctx: Context, topic: Topic) -> Report:
    return Report(text=f"draft {len(ctx.feedback)}{ctx.step}")


@verifier
async def critic(ctx: Context, report: Report) -> None:
    if "@3" not in report.text:
        raise Reject(f"not {report.text}")


@workflow
def judged(topic: Ref[Topic]) -> Ref[Report]:
    return critic(write(topic), attempts=3)


@tool
async def look(ctx: Context, text: str) -> str:
    return text


@planner(tools=[look])
async def guide(ctx: Context, topic: Topic) -> Plan | Report:
    if len(ctx.turns) < 3:
        return Plan([look.step(f"page {len(ctx.turns)}", id="look")], again=True)
    return Report(text="looked")


@workflow
def guided(topic: Ref[Topic]) -> Ref[Report]:
    return guide(topic)
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli.made(tmp_path)
    (tmp_path / "more.py").write_text(MORE)
    return made


# ---- one round, one turn


def test_show_step_of_a_round_is_about_that_round(cli: Cli) -> None:
    assert cli("run", "more.py:judged", "-i", "text=x", "--run-id", "r", "-q").code == 0
    second = cli("show", "r", "--step", "critic@2", "--json").json
    assert second["step"] == "critic@2"
    assert second["status"] == "rejected"
    assert second["feedback"] == ["not draft 1write@2"]
    assert [event["step"] for event in second["events"]] == ["critic@2"]
    third = cli("show", "r", "--step", "write@3", "--json").json
    assert third["value"] == {"text": "draft 1write@3"}
    assert third["feedback"] == ["not draft 1write@2"], "why this round came"
    assert third["attempts"] == 1
    assert [event["kind"] for event in third["events"]] == ["step_done"]
    whole = cli("show", "r", "--step", "critic", "--json").json
    assert [event["step"] for event in whole["events"]] == ["critic", "critic@2", "critic@3"]
    missing = cli("show", "r", "--step", "critic@9")
    assert missing.code == 4
    assert "critic has rounds up to critic@3" in missing.err


def test_show_step_of_a_turn_is_about_that_turn(cli: Cli) -> None:
    assert cli("run", "more.py:guided", "-i", "text=x", "--run-id", "g", "-q").code == 0
    turn = cli("show", "g", "--step", "guide/t2")
    assert "status:     planned" in turn.out
    assert "looked" not in turn.out
    data = cli("show", "g", "--step", "guide/t2", "--json").json
    assert [(event["step"], event["kind"]) for event in data["events"]] == [("guide/t2", "planned")]
    last = cli("show", "g", "--step", "guide/t4", "--json").json
    assert (last["status"], last["value"]) == ("done", {"text": "looked"})
    missing = cli("show", "g", "--step", "guide/t99")
    assert missing.code == 4
    assert "guide has turns guide/t1 to t4" in missing.err
    assert "planned 1 step in" in cli("watch", "g").err


@posix
def test_the_live_tree_names_planned_steps_with_their_turn(cli: Cli) -> None:
    code, seen = in_terminal(cli, "run", "more.py:guided", "-i", "text=x")
    assert code == 0
    assert "t1/look" in seen
    assert "t3/look" in seen


# ---- input and budget


def test_keys_that_no_field_takes_are_told(cli: Cli) -> None:
    given = '{"text": "x", "txet": 1, "pages": [{"titel": "a", "options": {"free": 1}}]}'
    done = cli("run", "more.py:judged", "-i", given, "-q")
    assert done.code == 0
    assert "the key 'txet' is ignored, there is no such field: did you mean text?" in done.err
    assert "the key 'pages.0.titel' is ignored" in done.err
    assert "did you mean title?" in done.err
    assert "free" not in done.err


def test_a_budget_limits_a_run(cli: Cli) -> None:
    run = ("run", "more.py:guided", "-i", "text=x", "--run-id", "b", "--budget")
    spent = cli(*run, "turns_max=2, on_budget=fail")
    assert spent.code == 1
    assert "planners' turns" in spent.err
    assert "counts the budget anew: flowkit retry b more.py:guided" in spent.err
    for text, says in (
        ("turn_max=2", "there is no limit 'turn_max': did you mean turns_max"),
        ("turns_max", "'turns_max' is no NAME=VALUE"),
        ("turns_max=many", "turns_max: Input should be a valid integer"),
        ("turns_max=0", "turns_max=0: above 0"),
        ("on_budget=stop", "on_budget: Input should be 'fail' or 'answer'"),
    ):
        refused = cli(*run[:-2], "c", "--budget", text)
        assert refused.code == 2, text
        assert says in refused.err, refused.err


# ---- where artifacts go


def test_each_example_writes_into_a_directory_of_its_own(cli: Cli) -> None:
    flows = cli.folder / "flows.py"
    flows.write_text(flows.read_text() + "\nEXAMPLE = Topic(text='x', tags=['a.txt'])\n")
    for run_id in ("one", "two"):
        assert cli("run", "flows.py:packing", "--example", "--run-id", run_id).code == 0
        assert (cli.folder / "flowkit-out" / run_id / "a.txt").read_text() == "0 a.txt"


def without_override() -> None:
    """In the child: root, too, is held to the rights of files (it loses CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (1, 2):
            libc.prctl(24, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="root is held to rights by Linux capabilities")
def test_an_example_where_nothing_may_be_written_names_the_option(cli: Cli) -> None:
    cli.folder.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flowkit", "run", "flows.py:fine", "--example"],
            cwd=cli.folder, env=cli.env, capture_output=True, text=True, check=False,
            preexec_fn=without_override,
        )  # fmt: skip
    finally:
        cli.folder.chmod(0o755)
    assert done.returncode == 2
    assert "an example's artifacts go to ./flowkit-out" in done.stderr
    assert "Choose another directory with --out DIR" in done.stderr


# ---- naming runs, deciding, signalling, retrying


def test_a_run_is_named_by_its_end_too(cli: Cli) -> None:
    for run_id in ("0193-aaaa", "0193-bbbb", "0194-bbbb"):
        cli("run", "flows.py:fine", "-i", "text=x", "--run-id", run_id, "-q")
    assert cli("show", "aaaa", "--json").json["run_id"] == "0193-aaaa"
    assert "several runs end with 'bbbb'" in cli("show", "bbbb").err
    assert cli("show", "aaa").code == 4, "three characters are too few"


def test_with_nothing_unknown_there_is_nothing_to_decide(cli: Cli) -> None:
    cli("run", "flows.py:asking", "-i", "text=x", "--run-id", "w", "-q")
    done = cli("resume", "w", "flows.py:asking", "--repeat")
    assert done.code == 2
    assert "nothing to decide" in done.err
    done = cli("resume", "w", "flows.py:asking", "--assume-done", "{bad")
    assert done.code == 2
    assert "'{bad' is not JSON" in done.err
    assert "key=value" not in done.err


def test_a_signal_that_nobody_waits_for_names_those_that_are(cli: Cli) -> None:
    cli("run", "flows.py:asking", "-i", "text=x", "--run-id", "w", "-q")
    done = cli("signal", "w", "aprove", "1")
    assert done.code == 0
    assert "no step waits for signal 'aprove' now" in done.err
    assert "The run waits for 'approve'" in done.err
    assert "then go on" not in done.err
    assert "If there is none: flowkit resume w TARGET" in done.err
    assert "no step waits" not in cli("signal", "w", "approve", "1").err


def test_retry_tells_that_a_run_has_succeeded_before_it_asks_for_its_code(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "f", "-q")
    done = cli("retry", "f")
    assert done.code == 2
    assert "run f is succeeded" in done.err
    late = cli("run", "flows.py:napping", "-i", "text=long", "--deadline-s", "0.3")
    assert "counts the deadline anew: flowkit retry" in late.err


def test_a_busy_run_names_the_process_and_how_to_follow_it(cli: Cli) -> None:
    driver = cli.start("run", "flows.py:holding", "-i", "text=x", "--run-id", "h")
    wait_until((cli.folder / "holding").exists)
    busy = cli("resume", "h", "flows.py:holding")
    (cli.folder / "go").touch()
    finish(driver)
    assert busy.code == 75
    assert f"driven by process {driver.pid} on " in busy.err
    assert "Follow it: flowkit watch h" in busy.err


# ---- models


def test_a_model_that_cannot_be_reached_is_told_once_and_tries_are_short(cli: Cli) -> None:
    cli.env |= {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "NO_PROXY": "*"}
    done = cli("run", "flows.py:telling", "-i", "text=x", "--run-id", "m")
    assert done.code == 75
    tries = [line for line in done.err.splitlines() if "asked again in" in line]
    assert tries
    assert all(re.search(r"asked again in \d+\.\d s: No whole answer", line) for line in tries)
    assert done.err.count("check the base URL") == 2, "where the step fails, and at the end"


@pytest.mark.parametrize(
    "wrong", [{"OPENAI_BASE_URL": "not a url"}, {"OPENAI_API_KEY": "x", "FLOWKIT_PROFILE": "nope"}]
)
def test_a_bad_setting_of_a_model_is_not_told_to_set_a_key(cli: Cli, wrong: dict[str, str]) -> None:
    done = cli("run", "flows.py:fine", "-i", "text=x", env=wrong)
    assert done.code == 78
    assert next(iter(reversed(wrong))) in done.err
    assert "MOONSHOT_API_KEY" not in done.err


def test_doctor_calls_a_server_that_it_did_not_ask_not_ok(cli: Cli) -> None:
    cli.env |= {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "NO_PROXY": "*"}
    checks = {each["check"]: each for each in cli("doctor", "--json").json["checks"]}
    assert checks["model"]["status"] == "note"
    assert "--check-model asks it" in checks["model"]["text"]
