"""The command line for runs that talk to models: usage, conversations, answers as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowkit.testing import Script, by_turn, calls, strict_server
from tests.scenario.cli_program import Cli
from tests.scenario.test_cli_processes import in_terminal, posix

FLOWS = """
from __future__ import annotations

from pydantic import BaseModel

from flowkit import Context, Ref, workflow
from flowkit.nodes import Planner, tool


class Topic(BaseModel):
    text: str


class Report(BaseModel):
    text: str


@tool
async def search(ctx: Context, query: str) -> str:
    return f"page about {query}"


@tool
async def shout(ctx: Context, report: Report) -> Report:
    return Report(text=report.text.upper())


reporter = Planner(
    "Answer.", takes=Topic, returns=Report, tools=[search], name="reporter"
)


@workflow
def asking(topic: Ref[Topic]) -> Ref[Report]:
    return shout(reporter(topic))
"""

THOUGHT = "Where does one begin?\nOne begins\x1b[31m at the beginning.\x9b2J\n" + "Then on. " * 40

SCRIPT: Script = by_turn(
    [
        calls(("search", {"query": "cranes"}), ("serch", {"query": "storks"}), reasoning=THOUGHT),
        calls(("answer", {"text": "Cranes migrate."}), reasoning="Enough \x1b]0;evil\x07is known."),
    ]
)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with strict_server(SCRIPT) as server:
        made = Cli.made(tmp_path)
        (tmp_path / "talks.py").write_text(FLOWS)
        made.env |= {"FLOWKIT_BASE_URL": server.base_url, "FLOWKIT_MODEL": "kimi-k2-thinking"}
        yield made
        assert server.violations == []


RUN = ("run", "talks.py:asking", "-i", "text=birds", "--run-id", "r")

BAD = {"\x1b", "\x07", "\x9b"}


def test_a_run_is_told_in_lines_with_reasoning_folded_or_whole(cli: Cli) -> None:
    done = cli(*RUN)
    assert done.code == 0, done.err
    assert done.json == {"text": "CRANES MIGRATE."}
    line = next(each for each in done.err.splitlines() if "reporter/t1 kimi" in each)
    assert "kimi-k2-thinking: 2 calls (search, serch) · thinking: Where does one begin?" in line
    assert line.endswith("words more)")
    assert "reporter/t2 kimi-k2-thinking: 1 call (answer) · thinking: Enough is known." in done.err
    assert not BAD & set(done.err)
    watched = cli("watch", "r")
    assert line in watched.err
    whole = cli("watch", "r", "--reasoning").err.splitlines()
    assert "         | One begins at the beginning." in whole
    assert not BAD & set("".join(whole))
    other = cli(*RUN[:-1], "r2", "--reasoning").err
    assert "         | Where does one begin?" in other


def test_show_tells_usage_by_agent_and_how_calls_went(cli: Cli) -> None:
    cli(*RUN, "-q")
    shown = cli("show", "r").out
    row = next(each for each in shown.splitlines() if each.startswith("reporter  kimi")).split()
    assert row[1:4] == ["kimi-k2-thinking", "2", "2"]
    assert "calls of tools: 1 valid, 0 repaired, 0 corrected, 1 refused" in shown
    data = cli("show", "r", "--json").json
    assert data["calls"] == {"valid": 1, "repaired": 0, "corrected": 0, "refused": 1}
    (usage,) = data["usage"]
    assert set(usage) == {
        "agent", "model", "turns", "answers", "failed_tries", "calls", "input_tokens",
        "output_tokens", "cached_tokens", "reasoning_tokens", "cost_usd",
    }  # fmt: skip
    assert (usage["agent"], usage["model"], usage["turns"]) == ("reporter", "kimi-k2-thinking", 2)
    assert usage["input_tokens"] > 0
    assert usage["reasoning_tokens"] > 0


def test_a_run_without_a_model_has_no_usage(cli: Cli) -> None:
    cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "f", "-q")
    shown = cli("show", "f")
    assert "AGENT" not in shown.out
    assert "calls of tools" not in shown.out
    data = cli("show", "f", "--json").json
    assert data["usage"] == []
    assert cli("show", "f", "--step", "write", "--json").json["conversation"] == []
    assert "conversation" not in cli("show", "f", "--step", "write").out


def test_show_step_has_the_conversation_of_a_turn(cli: Cli) -> None:
    cli(*RUN, "-q")
    turn = cli("show", "r", "--step", "reporter/t1").out
    assert "    thinking: Where does one begin? One begins at the beginning." in turn
    assert "words more)" in turn
    assert '    calls search {"query":"cranes"}' in turn
    assert '      valid: reporter/t1/search-1 done: "page about cranes"' in turn
    assert "      refused: there is no tool 'serch'; did you mean search" in turn
    assert "reporter/t2" not in turn.partition("conversation:")[2]
    whole = cli("show", "r", "--step", "reporter/t1", "--reasoning").out
    assert "      One begins at the beginning." in whole
    assert "words more)" not in whole
    assert not BAD & set(turn + whole)
    all_turns = cli("show", "r", "--step", "reporter").out
    assert "reporter/t1 kimi-k2-thinking" in all_turns
    assert "reporter/t2 kimi-k2-thinking" in all_turns
    (said,) = cli("show", "r", "--step", "reporter/t1", "--json").json["conversation"]
    assert said["reasoning"] == THOUGHT
    assert [call["how"] for call in said["calls"]] == ["valid", "refused"]
    assert "kimi-k2-thinking: 2 calls" in cli("show", "r", "--events").out


def test_watch_json_gives_the_events_as_they_are(cli: Cli) -> None:
    cli(*RUN, "-q")
    events = [json.loads(line) for line in cli("watch", "r", "--json").out.splitlines()]
    answered = [event for event in events if event["kind"] == "model_answered"]
    assert [event["step"] for event in answered] == ["reporter/t1", "reporter/t2"]
    assert answered[0]["data"]["value"]["message"]["reasoning"] == THOUGHT


@posix
@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
def test_the_live_tree_tells_answers_above_it(cli: Cli, env: dict[str, str]) -> None:
    code, seen = in_terminal(cli, *RUN, env=env)
    assert code == 0
    assert seen.count("reporter/t1 kimi-k2-thinking: 2 calls (search, serch)") == 1
    assert "tokens" in seen
    assert "\x1b]0;" not in seen
    assert "\x1b[31m at" not in seen
    assert ("\x1b[32m" in seen) is not bool(env)
