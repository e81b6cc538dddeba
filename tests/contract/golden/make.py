"""Makes a golden database: PYTHONPATH=. python tests/contract/golden/make.py tests/contract/golden/schemaN.db.gz

The process dies while it drives the run, when a planner has had two turns and waits in its third, two of
three items of a map are done and one waits, a verifier has rejected and accepted, and two values above
64 KB are stored.
"""

from __future__ import annotations

import gzip
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import anyio

from flowkit import Engine
from flowkit.store import SqlStore
from tests.contract.golden.workflow import RUN, TOPIC, Ran, golden


async def drive(path: str) -> None:
    async with (
        SqlStore(path) as store,
        Engine(store, workflows=[golden], resources=[Ran()], suspend_after_s=600) as engine,
    ):
        await engine.start(golden, TOPIC, run_id=RUN)
        await engine.signal(RUN, "go-1", "yes")
        while True:
            found = [(each.kind, each.key) for each in (await store.load(RUN)).events]
            waits = {key for kind, key in found if kind == "waiting"}
            done = {key for kind, key in found if kind == "step_done"}
            there = {"fetch/2", "explore/t3"} <= waits and {"fetch/1", "write@2"} <= done
            if there and ("accepted", "is_cited@2") in found:
                os._exit(9)
            await anyio.sleep(0.02)


def main(target: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.db"
        killed = subprocess.run([sys.executable, __file__, "--drive", str(path)], check=False)
        assert killed.returncode == 9, killed.returncode
        with closing(sqlite3.connect(path)) as connection:
            here = platform.node()  # what it is called is nobody's business
            connection.execute(
                "UPDATE flowkit_runs SET owner = replace(owner, ? || '/', 'host/')", [here]
            )
            connection.execute(
                "UPDATE flowkit_events SET data = replace(data, ? || '/', 'host/')", [here]
            )
            # Run out wherever and whenever the file is read, whatever the clock there says.
            connection.execute("UPDATE flowkit_runs SET lease_until = 1.0")
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        Path(target).write_bytes(gzip.compress(path.read_bytes(), mtime=0))


if __name__ == "__main__":
    if sys.argv[1] == "--drive":
        anyio.run(drive, sys.argv[2])
    else:
        main(sys.argv[1])
