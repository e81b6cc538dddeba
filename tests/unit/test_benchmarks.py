"""The benchmarks run and print what they promise; and what a run writes is counted exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import counts, disk, flows, report
from benchmarks.__main__ import SCENARIOS, main

GO = flows.Message(text="go")


@pytest.fixture(scope="module")
def short() -> counts.Counted:
    return counts.counted(flows.chain(10), GO)


@pytest.fixture(scope="module")
def long() -> counts.Counted:
    return counts.counted(flows.chain(30), GO)


MORE_STEPS = 2 * (30 - 10)


def test_a_step_of_a_chain_costs_one_flush(short: counts.Counted, long: counts.Counted) -> None:
    assert (long.commits - short.commits) / MORE_STEPS <= 1.0


def test_a_run_costs_few_flushes_beside_its_steps(short: counts.Counted) -> None:
    steps = 2 * 10 + 1
    around = {
        "the tables",
        "their second schema",
        "the run",
        "its start and claim",
        "its end, if it does not join",
    }
    assert short.commits - steps <= len(around)


def test_an_event_is_one_row_and_a_step_one_event(
    short: counts.Counted, long: counts.Counted
) -> None:
    assert short.events == short.seq
    assert long.events - short.events == MORE_STEPS


def test_a_row_holds_little_beside_its_text(short: counts.Counted, long: counts.Counted) -> None:
    a_step = (long.row_bytes - short.row_bytes) / MORE_STEPS
    assert a_step - flows.TEXT_BYTES < 256


def test_a_file_grows_with_what_is_new_only(short: counts.Counted, long: counts.Counted) -> None:
    a_step = (long.file_bytes - short.file_bytes) / MORE_STEPS
    assert a_step / flows.TEXT_BYTES < 1.5


def test_a_fan_out_is_committed_in_groups() -> None:
    n = 200
    found = counts.counted(flows.fanout("found"), flows.Count(n=n))
    assert found.events >= n + 4
    assert found.commits < n / 4


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_prints_valid_json(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([scenario, "--n", "2", "--repeats", "1", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    for line in lines:
        row = json.loads(line)
        assert row["scenario"] == scenario
        assert row["n"] == 2
        assert {"settings", "versions"} <= set(row)
        goals = [figure for figure in row["figures"].values() if figure["goal"] is not None]
        assert goals
        assert all(isinstance(figure["ok"], bool) for figure in goals)
        assert all(isinstance(figure["value"], int | float) for figure in row["figures"].values())


def test_strict_fails_where_a_goal_is_missed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missed(value: float, goal: float) -> report.Figure:
        return report.Figure(goal + 1, goal)

    monkeypatch.setattr("benchmarks.graph.at_most", missed)
    assert main(["graph", "--n", "2", "--repeats", "1"]) == 0
    assert main(["graph", "--n", "2", "--repeats", "1", "--strict"]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_without_a_scenario_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SCENARIOS)


@pytest.mark.parametrize("wrong", [["unknown"], ["graph", "--n", "0"]])
def test_a_wrong_argument_is_told(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
    assert "usage" in capsys.readouterr().err


def test_a_goal_is_met_on_its_right_side() -> None:
    assert report.at_most(1.3, 1.3).ok
    assert not report.at_most(1.31, 1.3).ok
    assert report.at_least(0.4, 0.4).ok
    assert not report.at_least(0.39, 0.4).ok
    assert report.Figure(1.0).ok is None


def test_benchmarks_write_to_a_real_disk_and_clean_up() -> None:
    with disk.fresh() as folder:
        (folder / "file").write_bytes(b"12345")
        assert disk.file_system(folder) not in ("tmpfs", "ramfs")
        assert disk.size_of(folder) == 5
    assert not Path(folder).exists()


def test_the_routers_rows_come_from_data_in_the_form_of_bfcl(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "possible_answer").mkdir()
    for n in range(8):
        function: dict[str, object] = {
            "name": f"do.thing_{n}",
            "description": f"Does what is wanted of a {'abcdefgh'[n] * 3}.",
            "parameters": {"type": "dict", "properties": {}},
        }
        asked = [[{"role": "user", "content": f"do the {'abcdefgh'[n] * 3}"}]]
        question: dict[str, object] = {
            "id": f"simple_{n}",
            "question": asked,
            "function": [function],
        }
        answer: dict[str, object] = {"id": f"simple_{n}", "ground_truth": [{f"do.thing_{n}": {}}]}
        for file, line in (("", question), ("possible_answer/", answer)):
            with (tmp_path / f"{file}BFCL_v4_simple.json").open("a") as out:
                out.write(json.dumps(line) + "\n")
    assert main(["router", "--data", str(tmp_path), "--json", "--repeats", "1"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["n"] == 8, "as many tools as there are, once"
    assert 0 < row["settings"]["questions"] < 8, "half of the questions chose the settings"
    assert row["figures"]["router_recall_at_8"]["value"] == 1
    with pytest.raises(SystemExit):
        main(["chain", "--data", str(tmp_path)])
