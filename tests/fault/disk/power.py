"""Power cuts in thought: a run is recorded, and what may be left of it is opened. For `test_disk_power`.

    python -m tests.fault.disk.power record FOLDER SETTING RUNS
    python -m tests.fault.disk.power open FOLDER SEED IMAGES RESUMED SHARD SHARDS
    python -m tests.fault.disk.power every FOLDER SEED SECONDS SHARD SHARDS

SETTING is a durability, or `off`, where SQLite flushes nothing. `open` prints a JSON line for each image;
`every` one for each that is wrong, of all moments and all policies, until the time is over, and then the count.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import event as listen_to

from flowkit import Context, Engine
from flowkit.errors import FlowkitError, RunNotFound
from flowkit.events import Event
from flowkit.ports import Message
from flowkit.rewind import fold
from flowkit.store import SqlStore
from tests.fault.disk.flow import (
    ENDING,
    POSTED,
    Lines,
    bring_to_end,
    events,
    gaps,
    soundness,
)
from tests.fault.disk.images import POLICIES, Disk, Policy
from tests.fault.disk.shim import Op, Shim, read_log

# ---- recording


class Marking(SqlStore):
    """Marks in the recording what it has acknowledged."""

    shim: Shim

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        messages = await super().append(run_id, events, expect=expect, epoch=epoch)
        self.shim.mark(f"ack {run_id} {events[-1].seq if events else expect}")
        return messages


class MarkingLines(Lines):
    shim: Shim

    def write(self, ctx: Context) -> None:
        self.shim.mark(f"ran {ctx.run_id} {ctx.step}")


def _flush_nothing(dbapi: sqlite3.Connection, record: object) -> None:
    dbapi.execute("PRAGMA synchronous=OFF")


async def record(folder: Path, setting: str, runs: int) -> None:
    shim = Shim()
    shim.watch(folder / "runs.db", folder / "log")
    durability: Any = "process" if setting == "off" else setting
    store = Marking(folder / "runs.db", durability=durability)
    store.shim = shim
    ledger = MarkingLines(folder / "ledger")
    ledger.shim = shim
    if setting == "off":
        listen_to.listen(store._place.engine, "connect", _flush_nothing)
    async with store, Engine(store, resources=[ledger]) as engine:
        for number in range(runs):
            assert await bring_to_end(engine, f"r{number}") == POSTED


# ---- what is left


@dataclass
class Recording:
    """What was recorded, and what the journals hold in the end."""

    ops: list[Op]
    journals: dict[str, list[tuple[Any, ...]]]

    @classmethod
    def read(cls, folder: Path) -> Recording:
        ops = read_log(folder / "log")
        names = {op.data.decode().split(" ")[1] for op in ops if op.kind == "mark"}
        return cls(ops, {name: events(folder / "runs.db", name) for name in sorted(names)})

    def told(self, marks: Sequence[str]) -> dict[str, int]:
        """The last event of each run that was acknowledged."""
        found: dict[str, int] = {}
        for mark in marks:
            word, run_id, rest = mark.split(" ")
            if word == "ack":
                found[run_id] = int(rest)
        return found


async def look(image: Path, recording: Recording, marks: Sequence[str]) -> dict[str, Any]:
    """Open an image and compare it with what was acknowledged and recorded."""
    database = image / "runs.db"
    found: dict[str, Any] = {"lost": 0, "steps": 0, "acknowledged": 0, "wrong": []}
    told = recording.told(marks)
    try:
        async with SqlStore(database) as store:
            for run_id, whole in recording.journals.items():
                try:
                    fold(await store.load(run_id))
                except RunNotFound:
                    pass
                rows = events(database, run_id)
                head = told.get(run_id, 0)
                missing = [row for row in whole[len(rows) : head] if row[0] in ENDING]
                found["acknowledged"] += sum(row[0] in ENDING for row in whole[:head])
                found["lost"] += max(0, head - len(rows))
                found["steps"] += len(missing)
                if gaps(rows) or rows != whole[: len(rows)]:
                    found["wrong"].append(run_id)
            found["sound"] = soundness(database)
    except (FlowkitError, sqlite3.Error) as error:
        found["sound"] = f"{type(error).__name__}: {error}"
    return found


async def resume(image: Path, recording: Recording, marks: Sequence[str]) -> dict[str, Any]:
    """Bring the last run of an image to its end in a new process's place."""
    run_id = max(recording.told(marks), default="r0")
    ledger = Lines(image / "ledger")
    ledger.hold(image / "runs.db", run_id)
    async with (
        SqlStore(image / "runs.db") as store,
        Engine(store, resources=[ledger]) as engine,
    ):
        result = await bring_to_end(engine, run_id)
    effects = ledger.announced() + marks.count(f"ran {run_id} announce")
    return {"right": result == POSTED, "repeated": ledger.repeated(), "effects": effects}


def cuts(recording: Recording, images: int) -> Iterator[tuple[int, int]]:
    """The number of each image, and after how many operations the power goes."""
    for number in range(images):
        yield number, (number + 1) * len(recording.ops) // images


async def open_images(
    folder: Path, seed: int, images: int, resumed: int, shard: int, shards: int
) -> None:
    recording = Recording.read(folder)
    disk, done = Disk(), 0
    for number, cut in cuts(recording, images):
        for op in recording.ops[done:cut]:
            disk.do(op)
        done = cut
        if number % shards != shard:
            continue
        with Image(folder / f"image-{number}") as image:
            used = disk.leave(image, random.Random(f"{seed} {number}"))
            found = await look(image, recording, disk.marks)
            if resumed and (number - shard) % (images // resumed) == 0:
                found |= await resume(image, recording, disk.marks)
        print(json.dumps({"image": number, "cut": cut, "used": used, **found}), flush=True)


async def every(folder: Path, seed: int, seconds: float, shard: int, shards: int) -> None:
    recording = Recording.read(folder)
    ends_at = time.monotonic() + seconds
    count = {"images": 0, "resumed": 0}
    while time.monotonic() < ends_at:
        disk = Disk()
        for cut, op in enumerate(recording.ops, 1):
            disk.do(op)
            if cut % shards != shard or time.monotonic() > ends_at:
                continue
            for policy in POLICIES:
                await _one(folder, seed, cut, policy, recording, disk, count)
        seed += 1
    print(json.dumps(count), flush=True)


async def _one(
    folder: Path, seed: int, cut: int, policy: Policy, recording: Recording, disk: Disk,
    count: dict[str, int],
) -> None:  # fmt: skip
    with Image(folder / f"image-{seed}-{cut}-{policy}") as image:
        disk.leave(image, random.Random(f"{seed} {cut} {policy}"), policy)
        found = await look(image, recording, disk.marks)
        count["images"] += 1
        if count["images"] % 20 == 0:
            found |= await resume(image, recording, disk.marks)
            count["resumed"] += 1
    wrong = found["lost"] or found["wrong"] or found["sound"] != "ok"
    again = found.get("repeated") or not found.get("right", True) or found.get("effects", 0) > 1
    if wrong or again:
        print(json.dumps({"seed": seed, "cut": cut, "policy": policy, **found}), flush=True)


class Image:
    """A folder for an image, which is gone afterwards."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.path.mkdir()
        return self.path

    def __exit__(self, *args: object) -> None:
        shutil.rmtree(self.path)


def main() -> None:
    logging.disable()
    what, folder, *rest = sys.argv[1:]
    if what == "record":
        anyio.run(record, Path(folder), rest[0], int(rest[1]))
        return
    Shim().watch(Path(folder) / "image-")  # flushes are costly, and prove nothing here
    run: Any = {"open": open_images, "every": every}[what]
    anyio.run(run, Path(folder), *map(int, rest))


if __name__ == "__main__":
    main()
