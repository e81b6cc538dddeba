"""`flowkit approve`: what is asked is shown, answered once, and nothing is agreed to unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenario.cli_program import Cli

FLOWS = """
from pathlib import Path
from flowkit import Context, Ref, workflow
from flowkit.nodes import tool


@tool(external_effect=True, effect="once", approve="always")
async def mail(ctx: Context, text: str) -> str:
    with Path("mails.txt").open("a") as file:
        file.write(f"{text}\\\\n")
    return f"sent: {text}"


@tool
async def both(ctx: Context, one: str, two: str) -> list[str]:
    return [one, two]


@workflow
def remind(text: Ref[str]) -> Ref[list[str]]:
    return both(mail(text), mail(text, id="again"))
"""

RUN = ("r", "mailer.py:remind")


@pytest.fixture
def asking(tmp_path: Path) -> Cli:
    """A folder with run `r`, two steps of which ask a person."""
    cli = Cli.made(tmp_path)
    (cli.folder / "mailer.py").write_text(FLOWS.replace("\\\\n", "\\n"))
    waits = cli("run", "mailer.py:remind", "-i", "Dear \x1b[31mAnn", "--run-id", "r")
    assert waits.code == 3
    assert "mail asks a person before it begins" in waits.err
    assert "flowkit approve r mail" in waits.err
    return cli


def test_what_is_asked_is_shown_and_an_answer_holds_for_one_step(asking: Cli) -> None:
    shown = asking("approve", "r")
    assert shown.code == 3
    assert "step 'mail' asks before it calls mail: it is always asked for" in shown.err
    assert "Ann" in shown.err
    assert "\x1b" not in shown.err
    listed = asking("approve", "r", "again", "--json").json
    assert [each["step"] for each in listed] == ["again"]
    assert listed[0]["inputs"] == ["Dear \x1b[31mAnn"]
    refused = asking("approve", "r", "--yes")
    assert refused.code == 2
    assert "several steps ask: 'mail', 'again'" in refused.err
    assert asking("approve", "r", "again", "--yes", "--by", "bo").code == 0
    assert asking("resume", *RUN).code == 3
    assert (asking.folder / "mails.txt").read_text().count("Dear") == 1
    assert asking("approve", "r", "again").code == 2
    assert asking("approve", "r", "--yes").code == 0
    done = asking("resume", *RUN)
    assert done.code == 0
    assert len(done.json) == 2
    assert (asking.folder / "mails.txt").read_text().count("Dear") == 2
    none = asking("approve", "r")
    assert none.code == 2
    assert "no step of run r asks for an approval now" in none.err


def test_a_no_fails_the_step_with_its_note_and_a_retry_asks_again(asking: Cli) -> None:
    assert asking("approve", "r", "mail", "--deny", "--by", "bo", "--note", "Too rude.").code == 0
    failed = asking("resume", *RUN)
    assert failed.code == 1
    assert "bo said no. Too rude." in failed.err
    assert asking("retry", *RUN).code == 3
    assert "step 'mail' asks" in asking("approve", "r", "mail").err
    assert not (asking.folder / "mails.txt").exists()


def test_wrong_words_are_told(asking: Cli) -> None:
    for words, told in (
        (("r", "nope"), "steps that do: 'mail', 'again'"),
        (("r", "mail", "--yes", "--deny"), "--yes or --deny, not both"),
        (("nobody", "--yes"), "no run's id begins with 'nobody'"),
    ):
        done = asking("approve", *words)
        assert done.code in (2, 4)
        assert told in done.err
        assert "Traceback" not in done.err
