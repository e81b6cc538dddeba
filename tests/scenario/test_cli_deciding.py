"""`flowkit resume` decides on effects of unknown outcome: one of several, by a probe, and not by mistake."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.scenario.cli_program import Cli, Done

RUN = ("r", "flows.py:paying")


@pytest.fixture
def doubtful(tmp_path: Path) -> Cli:
    """A folder with run `r`, killed while it paid twice: `card` has a probe, `cash` has none."""
    cli = Cli.made(tmp_path)
    (cli.folder / "bank").write_text("away")
    died = cli("run", "flows.py:paying", "-i", "text=x", "--run-id", "r")
    assert died.code == -signal.SIGKILL
    (cli.folder / "safe").touch()
    return cli


def journal(cli: Cli) -> list[object]:
    return [
        each["events"]
        for step in ("card", "cash")
        for each in [cli("show", "r", "--step", step, "--json").json]
    ]


def refused(done: Done, *texts: str) -> None:
    assert done.code == 2, done.err
    assert not done.out
    for text in texts:
        assert text in done.err


def test_each_of_several_unknown_steps_is_decided_on_by_its_key(doubtful: Cli) -> None:
    waits = doubtful("resume", *RUN)
    assert waits.code == 3
    assert "step 'card' is unknown: probe was_paid: ConnectionError: the bank is away" in waits.err
    assert "step 'cash' is unknown: the process ended while the effect was under way" in waits.err
    shown = doubtful("show", "r").out
    assert "the bank is away" in shown
    half = doubtful("resume", *RUN, "--step", "cash", "--repeat")
    assert half.code == 3
    assert "'cash' is unknown" not in half.err
    done = doubtful("resume", *RUN, "--assume-done", '{"text": "seen"}')
    assert done.code == 0
    assert done.json == {"text": "seen, paid by cash"}
    assert sorted(doubtful.effects("r")) == ["card", "cash", "cash"]


def test_show_tells_that_something_was_said_to_the_run(tmp_path: Path) -> None:
    cli = Cli.made(tmp_path)
    cli("run", "flows.py:asking", "-i", "text=x", "--run-id", "w", "-q")
    assert "inbox:" not in cli("show", "w").out
    assert cli("show", "w", "--json").json["messages_wait"] is False
    for message in (("signal", "w", "approve", '"yes"'), ("cancel", "w")):
        cli(*message)
        assert (
            "inbox:      a signal, a cancellation or a decision, recorded" in cli("show", "w").out
        )
        assert cli("show", "w", "--json").json["messages_wait"] is True
    cli("resume", "w", "flows.py:asking", "-q")
    assert "inbox:" not in cli("show", "w").out
    assert cli("show", "w", "--json").json["messages_wait"] is False


def test_who_decides_is_not_told_to_go_on_by_another_command(doubtful: Cli) -> None:
    for done in (doubtful("resume", *RUN), doubtful("show", "r")):
        assert "find out, then decide: flowkit resume r" in done.out + done.err
        assert "then go on with" not in done.out + done.err


def test_a_decision_is_not_told_as_set_by_a_fork(doubtful: Cli) -> None:
    doubtful("resume", *RUN)
    doubtful("resume", *RUN, "--step", "card", "--assume-done", '{"text": "seen"}')
    assert doubtful("resume", *RUN, "--assume-done", '{"text": "paid"}').code == 0
    (doubtful.folder / "safe").touch()
    doubtful("fork", *RUN, "--set", 'cash={"text": "other"}', "--run-id", "f", "-q")
    rows = [line.split() for line in doubtful("diff", "r", "f", "--all").out.splitlines()]
    assert ["cash", "different", "result", "done", "(decided)", "done", "(set)"] in rows
    steps = doubtful("diff", "r", "f", "--json").json["steps"]
    cash = next(step for step in steps if step["step"] == "cash")
    assert [(cash[side]["set"], cash[side]["decided"]) for side in ("first", "second")] == [
        (False, True), (True, False)
    ]  # fmt: skip


def test_a_probe_decides_when_the_run_is_taken_up(doubtful: Cli) -> None:
    (doubtful.folder / "bank").write_text("a receipt")
    waits = doubtful("resume", *RUN)
    assert waits.code == 3
    assert "card: decided: done, by its probe" in waits.err
    assert "'card' is unknown" not in waits.err
    assert doubtful("resume", *RUN, "--repeat").json == {"text": "a receipt, paid by cash"}
    assert doubtful.effects("r").count("card") == 1


def test_a_wrong_decision_says_what_is_wrong_and_changes_nothing(doubtful: Cli) -> None:
    refused(doubtful("resume", *RUN, "--repeat"), "nothing to decide", "Take it up without")
    assert doubtful("resume", *RUN).code == 3
    before = journal(doubtful)
    cash = ("--step", "cash")
    refused(doubtful("resume", *RUN, "--repeat"), "'card'", "'cash'", "--step KEY")
    refused(doubtful("resume", *RUN, "--step", "nope", "--repeat"), "'nope' is not one of them")
    refused(doubtful("resume", *RUN, "--step", "add_up", "--fail"), "'add_up' is not one of them")
    refused(doubtful("resume", *RUN, *cash, "--repeat", "--fail"), "decide one way")
    refused(doubtful("resume", *RUN, *cash, "--fail", "--assume-done", "{}"), "decide one way")
    refused(doubtful("resume", *RUN, *cash), "--step goes with")
    refused(doubtful("resume", *RUN, *cash, "--assume-done", "{bad"), "--assume-done")
    refused(doubtful("resume", *RUN, *cash, "--assume-done", '{"text": 1}'), "'cash' gives", "text")
    refused(doubtful("resume", *RUN, *cash, "--assume-done", "7"), "'cash' gives")
    assert journal(doubtful) == before
    assert doubtful("resume", *RUN, *cash, "--fail").code == 1
    refused(doubtful("resume", *RUN, *cash, "--repeat"), "it is failed", "flowkit retry r")


def test_a_dry_run_right_after_a_crash_says_whose_probe_is_asked(doubtful: Cli) -> None:
    """Nobody has taken the run up yet, so its journal ends with the intents."""
    told = doubtful("resume", *RUN, "--dry-run")
    lines = {line.split()[0]: line for line in told.out.splitlines() if line.strip()}
    assert lines["card"].endswith("its outcome is unknown: its probe is asked")
    assert "blocked" in lines["cash"]
    assert "decide on it" in lines["cash"]
    assert "begun" in doubtful("show", "r").out
