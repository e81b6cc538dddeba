"""Prints the journals of two runs, for `test_seeds`: in the order of their events, and in one without order."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import anyio

from flowkit import Engine
from flowkit.store import SqlStore
from tests.fault import journals
from tests.fault.long_run import Ledger, flow, model
from tests.fault.w12 import Ledger as W12Ledger
from tests.fault.w12 import Topic, w12

TURNS = 5


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ledger = Ledger(folder / "ledger")
        resources = [ledger, W12Ledger(folder / "w12")]
        async with (
            SqlStore(folder / "runs.db") as store,
            Engine(store, model=model(TURNS, ledger), resources=resources) as engine,
        ):
            await engine.run(flow(TURNS), "What is there?", run_id="turns")
            await engine.run(w12, Topic(text="t"), run_id="w12")
        turns = journals.rows(folder, "turns")
        told = {
            # One planner, one turn after another: the order of its own events is determined.
            "order": [row[1:5] for row in turns if row[2] == "asked" or row[1] == "planned"],
            "turns": journals.comparable(turns),
            "w12": journals.comparable(journals.rows(folder, "w12")),
        }
    print(json.dumps(told))


if __name__ == "__main__":
    anyio.run(main)
