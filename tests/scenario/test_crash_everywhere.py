"""The harness that crashes a user's workflow: what it counts, and that it finds what is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from flowkit import Context, Ref, workflow
from flowkit.nodes import Tool, tool
from flowkit.testing import Crash, CrashReport, ScriptedModel, crash_everywhere
from flowkit.testing.compare import difference

ROOT = Path(__file__).parents[2]


class Letter(BaseModel):
    text: str
    stamp: int = 0


class Counter:
    """Something outside that remembers: what a workflow must not lean on."""

    count = 0


@tool(retries=1, backoff_s=0.001)
async def draft(ctx: Context, topic: str) -> str:
    if ctx.attempt == 1:
        raise ConnectionError("the first try fails")
    return await ctx.model.complete(f"write about {topic}")


@tool
def shout(ctx: Context, text: str) -> str:
    return text.upper()


@tool(effect="once")
async def send(ctx: Context, text: str) -> Letter:
    return Letter(text=text)


@tool
async def stamped(ctx: Context, text: str) -> Letter:
    counter = ctx.resource(Counter)
    counter.count += 1
    return Letter(text=text, stamp=counter.count)


@tool
async def down(ctx: Context, text: str) -> Letter:
    raise ConnectionError("down")


@tool
async def approve(ctx: Context, text: str) -> str:
    return f"{text}, {await ctx.signal('approval', returns=str)}"


@workflow
def letter(topic: Ref[str]) -> Ref[Letter]:
    return send(shout(draft(topic)))


@workflow
def stamped_letter(topic: Ref[str]) -> Ref[Letter]:
    return stamped(shout(topic))


@workflow
def approved(topic: Ref[str]) -> Ref[Letter]:
    return (down | send)(approve(topic))


def words() -> ScriptedModel:
    return ScriptedModel(lambda request, index: "about cranes")


async def test_every_boundary_every_attempt_and_every_request_is_crashed() -> None:
    report = await crash_everywhere(
        letter, "cranes", model=words(), faults=("kill", "tool", "model")
    )
    kinds = [crash.kind for crash in report.crashes]
    assert (kinds.count("kill"), kinds.count("tool"), kinds.count("model")) == (
        report.boundaries, 4, 1
    )  # fmt: skip
    assert report.boundaries >= 7
    assert all(crash.same and not crash.repeated for crash in report.crashes)
    assert "0 violations" in str(report)


async def test_an_effect_of_unknown_outcome_is_decided_and_not_repeated() -> None:
    report = await crash_everywhere(letter, "cranes", model=words())
    (crash,) = [crash for crash in report.crashes if crash.decided]
    assert crash.decided == ("send",)
    assert "intent send" in crash.at
    assert not crash.again


async def test_another_result_is_told_with_its_place_and_the_field() -> None:
    with pytest.raises(AssertionError, match=r"kill .*: another result: stamp is 2, not 1"):
        await crash_everywhere(stamped_letter, "x", resources=[Counter()])
    report = await crash_everywhere(
        stamped_letter, "x", resources=[Counter()], ignore=["stamp"], limit=2
    )
    assert len(report.crashes) == 2


async def test_waits_are_given_their_signals_and_a_declared_way_out_is_no_violation() -> None:
    report = await crash_everywhere(
        approved, "yes", signals={"approval": "granted"}, faults=("kill", "tool"), timeout_s=10
    )
    assert not report.violations
    assert all(crash.same for crash in report.crashes if crash.kind == "kill")


async def test_a_run_that_does_not_end_without_faults_is_no_measure() -> None:
    with pytest.raises(AssertionError, match=r"does not end without any fault.*it is at approve"):
        await crash_everywhere(approved, "yes", timeout_s=0.3)


async def test_a_run_that_fails_is_compared_and_the_summary_says_so() -> None:
    @workflow
    def failing(topic: Ref[str]) -> Ref[Letter]:
        return down(topic)

    report = await crash_everywhere(failing, "x")
    assert all(crash.same for crash in report.crashes)
    assert "without faults it fails as well: step 'down' failed" in str(report)


def test_ignored_fields_are_named_by_their_path() -> None:
    one = {"a": [{"at": 1, "n": 1}], "b": 2}
    other = {"a": [{"at": 5, "n": 1}], "b": 2}
    assert difference(one, other) == "a.0.at is 5, not 1"
    assert difference(one, other, ["a.*.at"]) == ""
    assert difference(one, {"a": []}) == "a has 0 items, not 1"
    assert difference({"b": 1}, {"b": True}) == "b is True, not 1"


# ---- an outcome that is lost


class Ledger(list[str]):
    """What has happened outside."""


@tool
async def charge(ctx: Context, n: int) -> str:
    ctx.resource(Ledger).append("charged")
    return "charged"


@tool
async def charge_by_key(ctx: Context, n: int) -> str:
    ledger = ctx.resource(Ledger)
    if ctx.idempotency_key not in ledger:
        ledger.append(ctx.idempotency_key)
    return "charged"


@tool
def charge_in_a_thread(ctx: Context, n: int) -> str:
    ctx.resource(Ledger).append("charged")
    return "charged"


@tool(effect="once")
async def charge_once(ctx: Context, n: int) -> str:
    ctx.resource(Ledger).append("charged")
    return "charged"


@pytest.mark.parametrize(
    ("charged", "twice", "decided"),
    [
        (charge, "charge alternative 0 attempt 1, key crashed-1/charge/0", ()),
        (charge_in_a_thread, "charge_in_a_thread alternative 0 attempt 1, key crashed-1/charge_in_a_thread/0", ()),
        (charge_by_key, "charge_by_key alternative 0 attempt 1, key crashed-1/charge_by_key/0", ()),
        (charge_once, "", ("charge_once",)),
    ],
)  # fmt: skip
async def test_an_effect_whose_outcome_was_lost_is_told_and_a_ledger_shows_what_it_did(
    charged: Tool[int, str], twice: str, decided: tuple[str, ...]
) -> None:
    @workflow
    def paying(n: Ref[int]) -> Ref[str]:
        return charged(n)

    def entries() -> list[str]:
        return [entry.partition("/")[0][:7] for entry in ledger]

    ledger = Ledger()
    report = await crash_everywhere(
        paying,
        5,
        resources=[ledger],
        faults=("lost",),
        ledger=entries,
        check=False,
        run_id="crashed",
    )
    (crash,) = report.crashes
    assert crash.same
    assert crash.again == ((twice,) if twice else ())
    assert (crash.decided, crash.repeated) == (decided, ())
    doubled = charged in (charge, charge_in_a_thread)
    assert crash.violates == doubled
    if doubled:
        assert crash.outside == '"charged" 2 times, not 1'
        with pytest.raises(AssertionError, match="in the ledger"):
            report.check()


async def test_what_is_asked_is_agreed_to_at_every_boundary() -> None:
    @tool(approve="always", effect="once")
    async def publish_once(ctx: Context, text: str) -> Letter:
        return Letter(text=text)

    @workflow
    def publishing(topic: Ref[str]) -> Ref[Letter]:
        return publish_once(shout(topic))

    report = await crash_everywhere(publishing, "x", faults=("kill", "lost", "tool"), timeout_s=20)
    assert all(crash.same for crash in report.crashes)
    assert {crash.kind for crash in report.crashes} == {"kill", "lost", "tool"}


async def test_each_call_has_idempotency_keys_of_its_own_unless_it_is_given_an_id() -> None:
    seen: list[str] = []

    @tool
    async def pay(ctx: Context, topic: str) -> Letter:
        seen.append(ctx.idempotency_key)
        return Letter(text=topic)

    @workflow
    def paying(topic: Ref[str]) -> Ref[Letter]:
        return pay(topic)

    found: list[set[str]] = []
    for run_id in (None, None, "mine"):
        await crash_everywhere(paying, "x", run_id=run_id)
        found.append(set(seen))
        seen.clear()
    one, other, mine = found
    assert len(one) == len(other) == 1, "all runs of one call have the same"
    assert one != other
    assert mine == {"mine/pay/0"}


async def test_a_path_to_ignore_that_the_result_does_not_have_is_told() -> None:
    @tool
    async def write(ctx: Context, topic: str) -> list[Letter]:
        return [Letter(text=topic)]

    @workflow
    def writing(topic: Ref[str]) -> Ref[list[Letter]]:
        return write(topic)

    report = await crash_everywhere(writing, "x", ignore=["nope", "*.stamp", "0.text", "*.text.x"])
    assert report.unused == ("nope", "*.text.x")


# ---- the command

BROKEN = """
from flowkit import Context, Ref, workflow
from flowkit.nodes import tool

COUNT = [0]
EXAMPLE = "x"

@tool
async def number(ctx: Context, text: str) -> int:
    COUNT[0] += 1
    return COUNT[0]

@tool
async def double(ctx: Context, n: int) -> int:
    return 2 * n

@workflow
def broken(text: Ref[str]) -> Ref[int]:
    return double(number(text))
"""


def chaos(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return flowkit(cwd, "chaos", *arguments)


def flowkit(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "flowkit", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(cwd)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_a_shipped_workflow_needs_no_input_and_ends_with_its_summary(tmp_path: Path) -> None:
    done = chaos(tmp_path, "newsroom", "--limit", "5")
    assert done.returncode == 0, done.stderr
    out = done.stdout.splitlines()
    assert out[-1].startswith("newsroom: 20 faults (5 kill, 5 lost, 5 tool, 5 model)")
    assert out[-1].endswith("0 violations")
    assert "not compared: html.sha256" in out[-2]
    assert out[0].split() == ["FAULT", "WHERE", "RESULT", "RAN", "TWICE", "VERDICT"]


def test_a_violation_gives_exit_code_1_and_names_what_differs(tmp_path: Path) -> None:
    (tmp_path / "broken_flow.py").write_text(BROKEN)
    done = chaos(tmp_path, "broken_flow.py", "--faults", "kill", "--json")
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["violations"] > 0
    assert told["repeated"] == 0
    assert "another result" in done.stderr


DOUBLED = """
from pathlib import Path
from flowkit import Context, Ref, workflow
from flowkit.nodes import tool

@tool
async def charge(ctx: Context, n: int) -> str:
    with Path("ledger.txt").open("a") as file:
        file.write("charged\\n")
    return "charged"

def ledger() -> list[str]:
    return Path("ledger.txt").read_text().splitlines() if Path("ledger.txt").exists() else []

@workflow
def paying(n: Ref[int]) -> Ref[str]:
    return charge(n)
"""


def test_a_charge_that_happens_twice_is_found_with_a_ledger(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(DOUBLED)
    plain = chaos(tmp_path, "shop.py", "--input", "5")
    assert plain.returncode == 0, plain.stderr
    assert "1 in flight ran twice, 0 violations" in plain.stdout.splitlines()[-1]
    done = chaos(tmp_path, "shop.py", "--input", "5", "--ledger", "ledger")
    assert done.returncode == 1
    assert 'in the ledger "charged" 2 times, not 1' in done.stderr
    assert done.stdout.splitlines()[-1].endswith("1 violations")
    wrong = chaos(tmp_path, "shop.py", "--input", "5", "--ledger", "nope")
    assert wrong.returncode == 2
    assert "shop has no function of that name" in wrong.stderr


EQUIPPED = """
from flowkit import Context, Ref, workflow
from flowkit.nodes import tool

class Desk:
    ready = False

    async def __aenter__(self) -> "Desk":
        self.ready = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ready = False

RESOURCES = [Desk()]

@tool
async def look(ctx: Context, n: int) -> bool:
    return ctx.resource(Desk).ready

@workflow
def looking(n: Ref[int]) -> Ref[bool]:
    return look(n)
"""


def test_the_commands_that_run_tools_give_them_the_module_s_resources(tmp_path: Path) -> None:
    (tmp_path / "desk.py").write_text(EQUIPPED)
    done = chaos(tmp_path, "desk.py", "--input", "5", "--faults", "kill")
    assert (done.returncode, done.stdout.splitlines()[-1].endswith("0 violations")) == (0, True)
    at = ("desk.py", "--db", "a.db")
    done = flowkit(tmp_path, "run", *at, "--input", "5", "--run-id", "a")
    assert done.returncode == 0, done.stderr
    done = flowkit(tmp_path, "export", "a", *at, "--as-test", "--run", "look")
    assert done.returncode == 0, done.stderr
    assert "give them to it, replay(..., resources=...)" in done.stderr
    assert "fails already" not in done.stderr


def test_the_command_says_that_tools_run_and_which_path_is_no_field(tmp_path: Path) -> None:
    (tmp_path / "fine_flow.py").write_text(BROKEN.replace("COUNT[0] += 1", "COUNT[0] = 1"))
    given = ("fine_flow.py", "--faults", "kill", "--ignore", "nope")
    done = chaos(tmp_path, *given)
    assert done.returncode == 0, done.stderr
    assert "tools really run" in done.stderr
    assert "--ignore nope: the result has no such field" in done.stderr
    done = chaos(tmp_path, *given, "--run-id", "a/b")
    assert (done.returncode, "--run-id 'a/b' is not a name" in done.stderr) == (2, True)


def test_a_fault_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    done = chaos(tmp_path, "newsroom", "--faults", "flood")
    assert done.returncode == 2
    assert "kill, lost, tool, model" in done.stderr


def test_a_finished_step_that_ran_again_is_a_violation_whatever_the_result() -> None:
    crash = Crash("kill", "after event 3", same=True, repeated=("send 0 1",))
    report = CrashReport("letter", 9, [crash])
    with pytest.raises(
        AssertionError, match="after event 3: ran again although they must not: send 0 1"
    ):
        report.check()
