"""The command line and time: forks, comparisons, and runs whose code has changed since they began."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowkit.testing import by_turn, calls, strict_server
from flowkit.testing.script import Script
from tests.scenario.cli_program import Cli, finish, wait_until
from tests.scenario.test_cli_bad import refused

STEPS = '''
"""A run of four steps: the third asks somebody, the fourth has an effect that happens once."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from flowkit import Context, Ref, workflow
from flowkit.nodes import tool

from flows import Report, Topic, note


@tool
async def gather(ctx: Context, topic: Topic) -> Report:
    note(ctx)
    return Report(text=topic.text)


@tool
async def shorten(ctx: Context, report: Report) -> Report:
    note(ctx)
    return Report(text=report.text + "-")


@tool
async def ask(ctx: Context, report: Report) -> Report:
    note(ctx)
    if Path("asks").exists():
        return Report(text=f"{report.text} {await ctx.signal('approve')}")
    return report


@tool(effect="once")
async def send(ctx: Context, report: Report) -> Report:
    note(ctx)
    if Path("breaks").exists():
        raise ConnectionError("no route")
    return Report(text="sent " + report.text)


@workflow
def sending(topic: Ref[Topic]) -> Ref[Report]:
    return send(ask(shorten(gather(topic))))
'''

PLANS = """
from flowkit import Context, Ref, workflow
from flowkit.nodes import Findings, Plan, planner, tool


@tool
async def glance(ctx: Context, text: str) -> str:
    return text


@tool
async def book(ctx: Context, found: Findings) -> str:
    return " ".join(map(str, found.values()))


@planner(tools=[glance])
async def seek(ctx: Context, text: str) -> Plan:
    return Plan([glance.step(text, id="look")])


@workflow
def planning(text: Ref[str]) -> Ref[str]:
    return book(seek(text))
"""

TARGET = "steps.py:sending"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli.made(tmp_path)
    (tmp_path / "steps.py").write_text(STEPS)
    return made


def begun(cli: Cli, run_id: str = "r", *, flag: str = "") -> None:
    """A run that waits ("asks"), has failed ("breaks"), or has succeeded."""
    if flag:
        (cli.folder / flag).touch()
    code = cli("run", TARGET, "-i", "text=x", "--run-id", run_id, "-q").code
    assert code == {"asks": 3, "breaks": 1, "": 0}[flag]
    if flag:
        (cli.folder / flag).unlink()


def change(cli: Cli, node: str, *, old: str = "@tool\n", new: str = '@tool(version="2")\n') -> None:
    path = cli.folder / "steps.py"
    before = path.read_text()
    path.write_text(before.replace(f"{old}async def {node}", f"{new}async def {node}"))
    assert path.read_text() != before


# ---- resume --dry-run, --on-change


def actions(done: Any) -> dict[str, str]:
    return {step["step"]: step["action"] for step in done.json["steps"]}


def test_a_dry_run_says_what_would_be_done_with_each_step_and_writes_nothing(cli: Cli) -> None:
    begun(cli, flag="asks")
    before = cli.tree()
    done = cli("resume", "r", TARGET, "--dry-run")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines() if line]
    assert ["gather", "gather", "reuse"] in rows
    assert ["ask", "ask", "run"] in rows
    assert "run r is waiting: 4 steps (2 reuse, 2 run)." in done.out
    change(cli, "shorten")
    before = cli.tree()
    done = cli("resume", "r", TARGET, "--dry-run", "--json")
    assert done.code == 78
    assert actions(done) == {
        "gather": "reuse", "shorten": "changed", "ask": "blocked", "send": "blocked"
    }  # fmt: skip
    assert set(done.json) == {
        "run_id", "workflow", "status", "driven", "on_change", "changes", "steps", "refusal",
        "would_go_on", "exit_code",
    }  # fmt: skip
    assert done.json["would_go_on"] == {"refuse": False, "rerun": True, "keep": True}
    assert done.json["exit_code"] == 78
    text = cli("resume", "r", TARGET, "--dry-run")
    assert text.code == 78
    assert "the workflow differs: node shorten: its types, tools" in text.out
    assert "step shorten: done by code that has changed" in text.err
    assert f"flowkit resume r {TARGET} --on-change rerun" in text.err
    for policy, shorten in (("rerun", "rerun"), ("keep", "reuse")):
        done = cli("resume", "r", TARGET, "--dry-run", "--on-change", policy, "--json")
        assert done.code == 0
        assert actions(done)["shorten"] == shorten
        assert actions(done)["gather"] == "reuse"
    assert cli.tree() == before
    assert cli.effects("r") == ["gather", "shorten", "ask"]


def test_a_changed_run_is_refused_with_what_to_type_and_goes_on_when_told_how(cli: Cli) -> None:
    begun(cli, flag="asks")
    begun(cli, "k", flag="asks")
    change(cli, "shorten")
    for command in (
        ("resume", "r", TARGET), ("run", TARGET, "-i", "text=x", "--run-id", "r"),
    ):  # fmt: skip
        done = cli(*command)
        assert done.code == 78
        assert "node shorten: its types, tools" in done.err
        assert "step shorten: done by code that has changed since" in done.err
        assert f"flowkit resume r {TARGET} --on-change rerun" in done.err
        assert f"flowkit resume r {TARGET} --on-change keep" in done.err
        assert f"flowkit resume r {TARGET} --dry-run" in done.err
    assert cli.effects("r") == ["gather", "shorten", "ask"]
    done = cli("resume", "r", TARGET, "--on-change", "rerun")
    assert done.code == 0, done.err
    assert done.json == {"text": "sent x-"}
    assert "goes on by the workflow as it is now; to be done again: shorten" in done.err
    assert cli.effects("r") == ["gather", "shorten", "ask", "shorten", "ask", "send"]
    keeping = ("run", TARGET, "-i", "text=x", "--run-id", "k", "--on-change", "keep")
    assert cli(*keeping).code == 3, "its kept wait is still open"
    cli("signal", "k", "approve")
    assert cli("resume", "k", TARGET).json == {"text": "sent x-"}
    assert cli.effects("k") == ["gather", "shorten", "ask", "ask", "send"]


def test_only_ways_that_would_be_gone_are_named(cli: Cli) -> None:
    begun(cli, flag="asks")
    path = cli.folder / "steps.py"
    path.write_text(path.read_text().replace("ask(shorten(gather(", "ask(gather(shorten("))
    path.write_text(
        path.read_text()
        .replace(
            "def gather(ctx: Context, topic: Topic)", "def gather(ctx: Context, topic: Report)"
        )
        .replace(
            "def shorten(ctx: Context, report: Report)", "def shorten(ctx: Context, report: Topic)"
        )
    )
    done = cli("resume", "r", TARGET)
    assert done.code == 78
    assert "--on-change rerun" in done.err
    assert "--on-change keep" not in done.err
    assert "no longer in the same place" in done.err
    refused(cli, 78, "resume", "r", TARGET, "--on-change", "keep", says="no longer in the same")
    assert cli("resume", "r", TARGET, "--dry-run", "--on-change", "keep").code == 78


def test_an_effect_that_has_happened_keeps_a_deploy_from_doing_it_again(cli: Cli) -> None:
    begun(cli, flag="breaks")
    change(cli, "gather")
    done = cli("retry", "r", TARGET, "--on-change", "rerun")
    assert done.code == 78
    assert "step send: its effect has happened, or may have, and must not be repeated" in done.err
    assert f"flowkit retry r {TARGET} --on-change rerun" not in done.err
    again = f"flowkit fork r {TARGET} --on-change rerun"
    assert f"under a new idempotency key: {again}" in done.err
    assert again in cli("resume", "r", TARGET, "--dry-run", "--on-change", "rerun").err
    assert f"flowkit retry r {TARGET} --on-change keep" in done.err
    kept = cli("retry", "r", TARGET, "--on-change", "keep")
    assert kept.code == 0, kept.err
    assert cli.effects("r") == ["gather", "shorten", "ask", "send", "send"]


def test_an_effect_that_only_may_have_happened_is_not_told_as_done(cli: Cli) -> None:
    """A run that died after its intent: the fork that is advised does what it says."""
    cli("run", "flows.py:publishing", "-i", "text=x", "--run-id", "r", "-q")
    path = cli.folder / "flows.py"
    path.write_text(
        path.read_text().replace("@tool\nasync def write", '@tool(version="2")\nasync def write')
    )
    done = cli("resume", "r", "flows.py:publishing", "--on-change", "rerun")
    assert done.code == 78
    assert "step publish: its effect has happened, or may have, and must not" in done.err
    (cli.folder / "safe").touch()
    advised = done.err.rpartition("idempotency key: flowkit ")[2].splitlines()[0].split()
    assert cli(*advised, "--run-id", "f").json == {"text": "published x"}
    assert cli.effects("f") == ["write", "publish"]


def test_a_dry_run_of_a_run_that_has_ended_says_what_goes_on(cli: Cli) -> None:
    begun(cli, flag="breaks")
    done = cli("resume", "r", TARGET, "--dry-run")
    assert done.code == 0
    assert f"go on with: flowkit retry r {TARGET}" in done.err
    assert "failed: ConnectionError: no route" in done.out
    begun(cli, "s")
    assert set(actions(cli("resume", "s", TARGET, "--dry-run", "--json")).values()) == {"reuse"}
    refused(
        cli, 2, "resume", "s", TARGET, "--dry-run", "--repeat", says="--dry-run decides nothing"
    )
    refused(
        cli, 2, "resume", "s", TARGET, "--on-change", "never", says="one of refuse, rerun, keep"
    )
    refused(cli, 2, "resume", "s", "--dry-run", says="not where its code is")


def test_a_run_that_somebody_drives_is_told_of_and_left_alone(cli: Cli) -> None:
    process = cli.start("run", "flows.py:holding", "-i", "text=x", "--run-id", "h")
    wait_until((cli.folder / "holding").exists)
    done = cli("resume", "h", "flows.py:holding", "--dry-run", "--json")
    assert done.code == 75
    assert done.json["driven"] is True
    fork = cli("fork", "h", "flows.py:holding", "--set", 'hold={"text": "set"}', "--run-id", "f")
    assert fork.json == {"text": "set!"}
    (cli.folder / "go").touch()
    assert finish(process).code == 0
    assert cli.effects("h") == ["write", "hold", "print_it"]
    assert cli.effects("f") == ["print_it"]


def test_a_run_of_changed_code_is_cancelled_all_the_same(cli: Cli) -> None:
    begun(cli, flag="asks")
    change(cli, "shorten")
    done = cli("cancel", "r", TARGET)
    assert (done.code, "run r is cancelled" in done.err) == (0, True), done.err


# ---- fork


def test_a_fork_says_what_it_shares_and_does_again_and_warns_of_effects(cli: Cli) -> None:
    begun(cli)
    done = cli("fork", "r", TARGET, "--at", "shorten", "--run-id", "f")
    assert done.code == 0, done.err
    assert done.json == {"text": "sent x-"}
    lines = done.err.splitlines()
    told = "flowkit: fork of r: 1 finished step shared; done again: shorten, ask, send."
    assert lines[0] == told
    assert lines[1].startswith("flowkit: warning: these effects")
    assert lines[1].endswith(": send.")
    assert cli.effects("f") == ["shorten", "ask", "send"]
    assert cli.effects("r") == ["gather", "shorten", "ask", "send"]
    quiet = cli("fork", "r", TARGET, "--at", "send", "-q")
    assert len(quiet.err.splitlines()) == 1
    assert "warning" in quiet.err


def test_a_dry_run_of_a_fork_says_what_it_would_share_and_do_again_and_makes_nothing(
    cli: Cli,
) -> None:
    begun(cli)
    before = cli.tree()
    given = ("fork", "r", TARGET, "--at", "ask", "--dry-run", "--run-id", "f", "--out", "o")
    done = cli(*given)
    assert (done.code, done.err) == (0, "")
    rows = [line.split(maxsplit=3) for line in done.out.splitlines() if line]
    assert ["gather", "shared"] in rows
    assert ["ask", "done", "again"] in rows
    assert ["send", "done", "again", "its effect is to happen once, and happens again"] in rows
    assert done.out.endswith("fork of r: 2 finished steps shared; done again: ask, send.\n")
    assert cli(*given, "--json").json == {
        "run_id": "r", "workflow": "sending", "shared": ["gather", "shorten"], "set": [],
        "again": ["ask", "send"], "effects_again": ["send"], "changes": [],
    }  # fmt: skip
    told = cli("fork", "r", TARGET, "--set", 'ask={"text": "a"}', "--dry-run", "--json").json
    assert (told["set"], told["again"]) == (["ask"], ["send"])
    assert cli.tree() == before
    change(cli, "shorten")
    assert cli(*given).code == 78
    kept = cli(*given, "--on-change", "keep")
    assert (kept.code, "the workflow differs: node shorten" in kept.out) == (0, True)
    assert [line["run_id"] for line in map(json.loads, cli("ls", "--json").out.splitlines())] == [
        "r"
    ]


def test_a_taken_id_is_refused_before_anything_is_said_of_the_fork(cli: Cli) -> None:
    begun(cli)
    for options in ((), ("--dry-run",)):
        done = cli("fork", "r", TARGET, "--at", "send", "--run-id", "r", *options)
        assert (done.code, done.out) == (78, "")
        assert len(done.err.splitlines()) == 1, done.err
        assert "a run with the id 'r' exists already" in done.err


def test_set_gives_a_result_as_json_from_a_file_or_stdin(cli: Cli) -> None:
    begun(cli)
    (cli.folder / "big.json").write_text(json.dumps({"text": "b" * 70_000}))
    done = cli("fork", "r", TARGET, "--set", "ask=@big.json", "--json", "--run-id", "f", "-q")
    assert done.json["result"] == {"text": "sent " + "b" * 70_000}
    for told in (cli("show", "f", "--events").out, cli("watch", "f").err):
        assert "ask: its result was set" in told
        assert "forked from r; goes back to: ask" in told
        assert "probe" not in told
        assert "done again: ask" not in told
    assert done.json["forked_from"] == {
        "run_id": "r", "seq": 7 + 1, "again": ["send"], "set": ["ask"], "model": None
    }  # fmt: skip
    piped = cli("fork", "f", TARGET, "--set", "shorten=-", "-q", stdin='{"text": "piped"}')
    assert piped.json == {"text": "sent piped"}
    assert cli("show", "f", "--step", "ask", "--json").json["value"] == {"text": "b" * 70_000}
    cli("run", "flows.py:texting", "-i", "a", "--run-id", "t", "-q")
    assert cli("fork", "t", "flows.py:texting", "--set", "twice=plain text", "-q").json == (
        "plain text"
    )


def test_show_and_ls_tell_what_a_run_was_forked_from(cli: Cli) -> None:
    begun(cli)
    assert "FORK OF" not in cli("ls").out
    cli("fork", "r", TARGET, "--at", "ask", "--run-id", "f", "-q")
    shown = cli("show", "f").out.splitlines()
    assert "fork of:    r, as it was at event 8" in shown
    assert "done again: ask, send" in shown
    assert cli("show", "f", "--json").json["forked_from"]["again"] == ["ask", "send"]
    assert cli("show", "r", "--json").json["forked_from"] is None
    assert "forked from r; goes back to: ask" in cli("watch", "f").err
    rows = [line.split() for line in cli("ls").out.splitlines()]
    assert rows[0][-2:] == ["FORK", "OF"]
    assert next(row for row in rows if row[0] == "f")[-1] == "r"
    listed = [json.loads(line) for line in cli("ls", "--json").out.splitlines()]
    assert {row["run_id"]: row["base"] for row in listed} == {"f": "r", "r": None}


def test_a_failed_run_is_forked_where_it_failed(cli: Cli) -> None:
    begun(cli, flag="breaks")
    done = cli("fork", "r", TARGET, "--run-id", "f")
    assert done.json == {"text": "sent x-"}
    assert "3 finished steps shared; nothing done is done again" in done.err
    assert cli.effects("f") == ["send"]
    assert cli("ls", "--status", "failed", "--json").json["run_id"] == "r"


def test_a_fork_waits_and_is_resumed_like_any_run(cli: Cli) -> None:
    begun(cli)
    (cli.folder / "asks").touch()
    assert cli("fork", "r", TARGET, "--at", "ask", "--run-id", "f").code == 3
    cli("signal", "f", "approve", '"yes"')
    assert cli("resume", "f", TARGET).json == {"text": "sent x- yes"}


def test_a_fork_that_is_killed_goes_on(cli: Cli) -> None:
    cli.folder.joinpath("go").touch()
    cli("run", "flows.py:holding", "-i", "text=x", "--run-id", "r", "-q")
    cli.folder.joinpath("go").unlink()
    cli.folder.joinpath("holding").unlink()
    process = cli.start("fork", "r", "flows.py:holding", "--at", "hold", "--run-id", "f")
    wait_until((cli.folder / "holding").exists)
    process.kill()
    assert finish(process).code == -signal.SIGKILL
    cli.folder.joinpath("go").touch()
    assert cli("resume", "f", "flows.py:holding").json == {"text": "held x!"}
    assert cli.effects("f") == ["hold", "hold", "print_it"]


def test_a_fork_at_the_changed_step_asks_for_no_leave(cli: Cli) -> None:
    begun(cli)
    change(cli, "shorten")
    done = cli("fork", "r", TARGET, "--at", "ask")
    assert done.code == 78
    assert "step shorten: done by code that has changed since" in done.err
    assert f"flowkit fork r {TARGET} ... --on-change keep" in done.err
    assert cli("fork", "r", TARGET, "--at", "shorten", "-q").code == 0
    kept = cli("fork", "r", TARGET, "--at", "ask", "--on-change", "keep", "--run-id", "k", "-q")
    assert kept.code == 0
    assert cli.effects("k") == ["ask", "send"]
    again = cli("fork", "r", TARGET, "--at", "ask", "--on-change", "rerun", "--run-id", "a", "-q")
    assert again.code == 0
    assert cli.effects("a") == ["shorten", "ask", "send"]


BAD_FORKS: list[tuple[list[str], int, str]] = [
    (["nope", "--at", "ask"], 4, "no run's id begins with 'nope'"),
    (["r"], 2, "has succeeded: say with --at"),
    (["r", "--at", "shrten"], 4, "Did you mean shorten"),
    (["r", "--at", "shorten@2"], 4, "no step 'shorten@2'"),
    (["r", "--at", "$input"], 4, "no step '$input'"),
    (["r", "--set", "shorten"], 2, "--set takes STEP=JSON or STEP=@FILE"),
    (["r", "--set", "=1"], 2, "--set takes STEP=JSON or STEP=@FILE"),
    (["r", "--set", "shorten={bad"], 2, "--set shorten: '{bad' is not JSON"),
    (["r", "--set", "shorten=[1]"], 2, "does not fit what 'shorten' gives"),
    (["r", "--set", 'shorten={"text": 3}'], 2, "text: Input should be a valid string (got 3)"),
    (["r", "--set", "shorten=@missing.json"], 2, "cannot read 'missing.json'"),
    (["r", "--set", 'ask={"text": "a"}', "--set", 'ask={"text": "b"}'], 2, "twice"),
    (["r", "--set", "nothing=1"], 4, "no step 'nothing'"),
    (
        ["r", "--set", 'gather={"text": "a"}', "--set", 'send={"text": "b"}'],
        2, "'send' cannot be set: it is no single step, or rests on one that is done again",
    ),
    (["r", "--at", "ask", "--run-id", "no/slash"], 2, "'no/slash' is not a name"),
    (["r", "--at", "ask", "--run-id", "r"], 78, "a run with the id 'r' exists"),
    (["r", "--at", "ask", "--on-change", "maybe"], 2, "--on-change is one of"),
    (["r", "--at", "ask", "--model", "http://x/v1"], 2, "--model takes a model's name"),
    (["r", "--at", "ask", "--model", "kimi-k2"], 78, "Set OPENAI_API_KEY"),
]  # fmt: skip


@pytest.mark.parametrize("part", range(3))
def test_a_bad_fork_is_one_line_and_makes_nothing(cli: Cli, part: int) -> None:
    begun(cli)
    for args, code, says in BAD_FORKS[part::3]:
        ref, *options = args
        refused(cli, code, "fork", ref, TARGET, *options, says=says)
    assert len(cli("ls", "--json").out.splitlines()) == 1


def test_a_planned_step_is_suggested_by_its_own_name(cli: Cli) -> None:
    (cli.folder / "plans.py").write_text(PLANS)
    cli("run", "plans.py:planning", "-i", '"x"', "--run-id", "p", "-q")
    for command in (
        ("show", "p", "--step", "look"),
        ("fork", "p", "plans.py:planning", "--at", "look"),
    ):
        done = cli(*command)
        assert done.code == 4
        assert "no step 'look'. Did you mean seek/t1/look?" in done.err


def test_a_fork_needs_its_code_and_steps_that_have_begun(cli: Cli) -> None:
    begun(cli)
    refused(cli, 2, "fork", "r", "--at", "ask", says="not where its code is")
    refused(
        cli, 2, "fork", "r", "flows.py:fine", "--at", "ask", says="belongs to workflow 'sending'"
    )
    begun(cli, "w", flag="asks")
    refused(cli, 2, "fork", "w", TARGET, "--at", "send", says="'send' has not begun")
    assert len(cli("ls", "--json").out.splitlines()) == 2


# ---- models


TALKS = """
from __future__ import annotations

from flowkit import Context, Ref, workflow
from flowkit.nodes import Planner, tool

from flows import Report, Topic


@tool
async def search(ctx: Context, query: str) -> str:
    return f"page about {query}"


@tool
async def approve(ctx: Context, topic: Topic) -> Topic:
    if ctx.run_id == "f":
        await ctx.signal("yes")
    return topic


reporter = Planner("Answer.", takes=Topic, returns=Report, tools=[search], name="reporter")


@workflow
def asking(topic: Ref[Topic]) -> Ref[Report]:
    return reporter(approve(topic))
"""

SCRIPT: Script = by_turn(
    [calls(("search", {"query": "cranes"})), calls(("answer", {"text": "Cranes migrate."}))]
)


@pytest.fixture
def talks(cli: Cli) -> Iterator[Cli]:
    with strict_server(SCRIPT) as server:
        (cli.folder / "talks.py").write_text(TALKS)
        cli.env |= {"FLOWKIT_BASE_URL": server.base_url, "FLOWKIT_MODEL": "kimi-k2"}
        yield cli


@pytest.mark.long
def test_a_fork_asks_the_model_that_was_named_also_when_it_is_resumed(talks: Cli) -> None:
    assert talks("run", "talks.py:asking", "-i", "text=x", "--run-id", "r", "-q").code == 0
    other = ("--model", "kimi-k2-thinking")
    assert (
        talks("fork", "r", "talks.py:asking", "--at", "approve", *other, "--run-id", "f").code == 3
    )
    assert "model:      kimi-k2-thinking" in talks("show", "f").out
    talks("signal", "f", "yes")
    done = talks("resume", "f", "talks.py:asking")
    assert done.code == 0, done.err
    assert "reporter/t1 kimi-k2-thinking: 1 call" in done.err
    used = talks("show", "f", "--json").json["usage"]
    assert [each["model"] for each in used] == ["kimi-k2-thinking"]
    at_turn = talks("fork", "f", "talks.py:asking", "--at", "reporter/t2", "--run-id", "g")
    assert "reporter/t2 kimi-k2-thinking" in at_turn.err, "a fork of a fork asks its model"
    assert "reporter/t1 kimi" not in at_turn.err
    used = talks("show", "g", "--json").json["usage"]
    assert [(each["model"], each["turns"]) for each in used] == [("kimi-k2-thinking", 2)]


def test_a_comparison_has_the_answers_and_the_usage_of_both(talks: Cli) -> None:
    talks("run", "talks.py:asking", "-i", "text=x", "--run-id", "r", "-q")
    given = '{"text": "other"}'
    talks("fork", "r", "talks.py:asking", "--set", f"reporter/t2={given}", "--run-id", "g", "-q")
    done = talks("diff", "r", "g")
    assert done.code == 1
    assert "the first difference is reporter/t2:" in done.out
    assert '- {"text":"Cranes migrate."}' in done.out
    assert '+ {"text":"other"}' in done.out
    assert "model's answer 1:" in done.out
    assert '  - answer {"text":"Cranes migrate."}' in done.out
    table = [line.split() for line in done.out.splitlines()]
    rows = {row[0]: row[1:] for row in table if row and row[0] in ("r", "g")}
    assert (rows["r"][0], rows["g"][0]) == ("2", "1")
    assert int(rows["r"][1]) > int(rows["g"][1]) > 0
    data = talks("diff", "r", "g", "--json").json
    hows = {step["step"]: step["how"] for step in data["steps"]}
    assert hows == {
        "approve": "shared", "reporter/t1": "shared", "reporter/t1/search-1": "shared",
        "reporter/t2": "different",
    }  # fmt: skip
    mine, other = (run["own"]["input_tokens"] for run in data["runs"])
    assert (mine, other) == (int(rows["r"][1]) - int(rows["g"][1]), 0)


# ---- diff


def test_a_comparison_shows_where_two_runs_part(cli: Cli) -> None:
    begun(cli)
    begun(cli, "s")
    same = cli("diff", "r", "s")
    assert (same.code, same.err) == (0, "")
    assert "4 steps: 0 shared, 4 the same, 0 not." in same.out
    cli("fork", "r", TARGET, "--set", 'shorten={"text": "y"}', "--run-id", "f", "-q")
    done = cli("diff", "r", "f")
    assert done.code == 1
    assert "the first difference is shorten:" in done.out
    assert '- {"text":"x-"}' in done.out
    assert "4 steps: 1 shared, 0 the same, 3 not." in done.out
    assert not any(line.startswith("gather") for line in done.out.splitlines())
    every = [line.split()[:2] for line in cli("diff", "r", "f", "--all").out.splitlines() if line]
    assert ["gather", "shared"] in every
    data = cli("diff", "r", "f", "--json").json
    assert set(data) == {"same", "runs", "shared_events", "differs", "steps", "parted"}
    assert data["shared_events"] == 8
    assert data["parted"]["step"] == "shorten"
    refused(cli, 4, "diff", "r", "nope", says="no run's id begins with 'nope'")


def test_a_comparison_reads_large_values_and_shows_errors_and_what_only_one_has(cli: Cli) -> None:
    begun(cli)
    for run_id, letter in (("f", "b"), ("g", "c")):
        (cli.folder / "big.json").write_text(json.dumps({"text": "a" * 70_000 + letter}))
        cli("fork", "r", TARGET, "--set", "ask=@big.json", "--run-id", run_id, "-q")
    done = cli("diff", "f", "g")
    assert "  - …aaa" in done.out
    assert 'ab"}' in done.out
    assert 'ac"}' in done.out
    assert len(done.out) < 4000
    begun(cli, "e", flag="breaks")
    done = cli("diff", "r", "e")
    assert "the first difference is send:" in done.out
    assert "+ ConnectionError: no route" in done.out
    begun(cli, "w", flag="asks")
    rows = [line.split() for line in cli("diff", "r", "w").out.splitlines() if line]
    assert next(row for row in rows if row[0] == "send")[1:6] == [
        "only",
        "in",
        "the",
        "first",
        "done",
    ]
    other = cli("diff", "r", "w", "--json").json
    assert other["differs"] == ["status"]
