"""`flowkit demo` and the shipped example, as a user runs them; and the count that the demo rests on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from flowkit.cli.effects import Effect, count
from tests.scenario.cli_program import Cli

for _module in ("pandas", "plotly", "lxml", "jinja2"):
    pytest.importorskip(_module)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli.made(tmp_path)


def test_the_demo_kills_resumes_and_counts(cli: Cli) -> None:
    began = time.monotonic()
    done = cli("demo", "--out", "shown")
    assert done.code == 0, done.err
    assert time.monotonic() - began < 60
    assert "offline stand-in" in done.err
    assert "with SIGKILL: 6 of 9 steps were finished, judge was in flight" in done.err
    assert "no finished step ran twice: 6 finished before the kill" in done.out
    assert "model requests: 1 before the kill, 0 after it" in done.out
    shown = cli.folder / "shown"
    for name in ("report.html", "chart.html", "report.md"):
        assert str(shown / name) in done.out
        assert (shown / name).stat().st_size > 500
    (path,) = shown.glob("effects-*.jsonl")
    effects = [Effect(*json.loads(line)) for line in path.read_text().splitlines()]
    assert [each.step for each in effects].count("judge") == 2
    assert len({each.pid for each in effects}) == 2
    run_id = cli("ls", "--json", "--db", "shown/demo.db").json["run_id"]
    claims = [
        event["data"].get("after", "start")
        for event in cli("show", run_id, "--db", "shown/demo.db", "--events", "--json").json[
            "events"
        ]
        if event["kind"] == "claimed"
    ]
    assert claims == ["start", "death"], "the journal, too, tells of the kill"
    again = cli("demo", "--out", "shown", "-q")
    assert again.code == 0, "a second time in the same directory"


def test_the_shipped_example_runs_offline(cli: Cli) -> None:
    done = cli("run", "stock_analysis", "--example", "--out", "made")
    assert done.code == 0, done.err
    assert done.json["model"] == "flowkit-offline"
    assert {path.name for path in (cli.folder / "made").iterdir()} == {
        "chart.html", "report.html", "report.md"
    }  # fmt: skip
    assert f"report.html: {Path('made', 'report.html')}" in done.err


def test_the_demo_refuses_a_directory_that_it_cannot_write(cli: Cli) -> None:
    done = cli("demo", "--out", "flows.py")
    assert done.code == 2
    assert "cannot write there" in done.err


KILLED, AFTER = 1, 2
ENDED = frozenset({("a", 0, 1), ("a", 0, 2)})


@pytest.mark.parametrize(
    ("effects", "state", "wrong"),
    [
        ([("a", 0, 1, KILLED), ("a", 0, 2, KILLED)], "finished", False),
        ([("a", 0, 1, KILLED), ("a", 0, 1, AFTER)], "finished", True),
        ([("a", 0, 1, KILLED), ("a", 0, 1, KILLED)], "finished", True),
        ([("b", 0, 1, KILLED)], "in flight", False),
        ([("b", 0, 1, KILLED), ("b", 0, 1, AFTER)], "in flight", False),
        ([("b", 0, 1, KILLED), ("b", 0, 1, AFTER), ("b", 0, 1, AFTER)], "in flight", True),
        ([("b", 0, 1, KILLED), ("b", 0, 1, AFTER), ("b", 0, 2, AFTER)], "in flight", False),
        ([("c", 0, 1, AFTER)], "not begun", False),
        ([("c", 0, 1, AFTER), ("c", 0, 1, AFTER)], "not begun", True),
        ([("a", 0, 1, AFTER)], "not begun", False),
    ],
)
def test_the_count_finds_what_ran_too_often(
    effects: list[tuple[str, int, int, int]], state: str, wrong: bool
) -> None:
    (found,) = count([Effect(*each) for each in effects], KILLED, ENDED)
    assert (found.state, found.wrong) == (state, wrong)
