"""Tools that behave badly: the step fails in words, the value is kept, or the process dies and is resumed.

NaN, nesting, lone surrogates, U+0000 and 2**80 are in `test_rules_values`, errors that cannot be shown in
`test_rules_runs`, threads that do not end in `test_rules_threads`.
"""

from __future__ import annotations

import threading
from pathlib import Path

import anyio
import pytest

from flowkit import Engine, StepFailed
from flowkit.store import MemoryStore, SqlStore
from tests.fault import children, journals
from tests.fault.tools import DEADLY, FAILING, KEPT, bad, run

WELL = bad(lambda: "well", threaded=False)


@pytest.mark.parametrize("name", FAILING)
async def test_what_a_tool_does_wrong_fails_its_step_alone(name: str) -> None:
    act, word = FAILING[name]
    before = {task.id for task in anyio.get_running_tasks()}
    store = MemoryStore()
    async with Engine(store) as engine:
        flow = bad(act, threaded=False)
        flow.name = "bad"
        with pytest.raises(StepFailed) as caught:
            await engine.run(flow, 1, run_id="r")
        assert word.lower() in str(caught.value).lower()
        assert await engine.run(WELL, 1) == "well", "another run of the engine goes on"
        kinds = [event.kind for event in (await store.load("r")).events]
        assert kinds.count("step_done") == 1, "nothing that counts as done"
    assert {task.id for task in anyio.get_running_tasks()} == before


@pytest.mark.parametrize("threaded", [False, True], ids=["in the loop", "in a thread"])
@pytest.mark.parametrize("name", KEPT)
async def test_what_harms_nobody_is_kept(name: str, threaded: bool) -> None:
    act, value = KEPT[name]
    store = MemoryStore()
    async with Engine(store) as engine:
        assert await engine.run(bad(act, threaded=threaded), 1, run_id="r") == value
    async with Engine(store, workflows=[bad(act, threaded=threaded)]) as engine:
        assert await engine.resume("r") == value
    for thread in threading.enumerate():
        if thread.name == "left":
            assert thread.daemon


@pytest.mark.parametrize("name", DEADLY)
def test_a_tool_that_ends_the_process_is_done_again_in_the_next(name: str, tmp_path: Path) -> None:
    assert children.run(run, tmp_path, name) in DEADLY[name][1]
    events = journals.rows(tmp_path)
    assert [row[2] for row in events if row[1] == "step_done"] == ["first"]
    (tmp_path / "cured").touch()
    assert children.run(run, tmp_path, name) == 0
    assert (tmp_path / "result").read_text() == "cured"
    after = journals.rows(tmp_path)
    assert after[: len(events)] == events
    assert [row[2] for row in after if row[1] == "step_done"] == ["first", "acts", "last"]


@pytest.mark.long
def test_a_hundred_megabytes_are_stored_once_and_read_again(tmp_path: Path) -> None:
    anyio.run(_hundred_megabytes, tmp_path)


async def _hundred_megabytes(tmp_path: Path) -> None:
    def make() -> str:
        return "x" * 100_000_000

    async with SqlStore(tmp_path / "runs.db") as store:
        async with Engine(store) as engine:
            assert await engine.run(bad(make, threaded=True), 1, run_id="r") == make()
        async with Engine(store, workflows=[bad(make, threaded=True)]) as engine:
            assert await engine.resume("r") == make()
    assert (tmp_path / "runs.db").stat().st_size < 120_000_000
