"""Files that are broken, or copied at a bad moment: what a store makes of them. For `test_disk_damage`.

    python -m tests.fault.disk.damage FOLDER SEED CASES SHARD SHARDS

FOLDER holds a recording of `power`. Its files are taken from the middle of the last run, when the log has
been moved into the database once and holds more again. Each case breaks a copy of them; every fifth is a
copy made from under the running store instead. A child opens it, lists and loads the runs, and brings the
last one to its end. One JSON line for each case.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import anyio

from flowkit import Engine
from flowkit.errors import FlowkitError
from flowkit.events import Event
from flowkit.ports import RunQuery
from flowkit.rewind import fold
from flowkit.store import SqlStore
from tests.fault.disk.errors import in_child
from tests.fault.disk.flow import ENDING, POSTED, Lines, bring_to_end
from tests.fault.disk.images import Disk
from tests.fault.disk.power import Image, Recording
from tests.fault.disk.shim import Shim

PAGE: Final = 16 * 1024
LAST: Final = "run = (SELECT max(id) FROM flowkit_runs)"
KINDS: Final = {2: "index inside", 5: "table inside", 10: "index leaf", 13: "table leaf"}


def pages(database: bytes) -> dict[str, list[int]]:
    """The pages by their kind: B-tree pages say it themselves; the rest is overflow or free."""
    found: dict[str, list[int]] = {}
    for number in range(len(database) // PAGE):
        kind = database[number * PAGE + (100 if number == 0 else 0)]
        found.setdefault(KINDS.get(kind, "other"), []).append(number)
    return found


# ---- what is broken: each takes a folder with the files, and says what it did


def flip(path: Path, at: int, lot: random.Random) -> str:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << lot.randrange(8)
    path.write_bytes(data)
    return f"a bit at {at}"


def flip_header(folder: Path, lot: random.Random) -> str:
    return flip(folder / "runs.db", lot.randrange(100), lot)


def flip_page(folder: Path, lot: random.Random) -> str:
    path = folder / "runs.db"
    kind, numbers = lot.choice(sorted(pages(path.read_bytes()).items()))
    # The head of a page and its cells, which stand at its end, are what is in use.
    inside = lot.choice([lot.randrange(64), lot.randrange(PAGE // 2, PAGE), lot.randrange(PAGE)])
    return f"{kind}: {flip(path, lot.choice(numbers) * PAGE + inside, lot)}"


def garbage(folder: Path, lot: random.Random) -> str:
    path = folder / "runs.db"
    data = bytearray(path.read_bytes())
    at = lot.randrange(len(data) // 512) * 512
    data[at : at + 512] = lot.randbytes(512)
    path.write_bytes(data)
    return f"a sector at {at}"


def flip_log(folder: Path, lot: random.Random) -> str:
    path = folder / "runs.db-wal"
    frame = PAGE + 24
    at = lot.choice([lot.randrange(32), 32 + lot.randrange(path.stat().st_size // frame) * frame])
    return flip(path, at + lot.randrange(24), lot)


def flip_shared(folder: Path, lot: random.Random) -> str:
    """The -shm file of a process that is gone; SQLite makes it anew."""
    path = folder / "runs.db-shm"
    path.write_bytes(lot.randbytes(32 * 1024))
    return "all random"


def cut(folder: Path, lot: random.Random) -> str:
    path = folder / lot.choice(["runs.db", "runs.db-wal"])
    data = path.read_bytes()
    length = lot.choice([lot.randrange(len(data)), len(data) // PAGE // 2 * PAGE, 100, 1])
    path.write_bytes(data[:length])
    return f"{path.name} after {length} bytes"


def empty(folder: Path, lot: random.Random) -> str:
    path = folder / lot.choice(["runs.db", "runs.db-wal"])
    path.write_bytes(b"")
    return path.name


def other(folder: Path, lot: random.Random) -> str:
    (folder / "runs.db").write_bytes(lot.choice([b"GIF89a", b"%PDF-1.7 "]) * 5000)
    return "another kind of file"


def zeros(folder: Path, lot: random.Random) -> str:
    path = folder / "runs.db"
    path.write_bytes(bytes(path.stat().st_size))
    return "all zero"


def row(folder: Path, lot: random.Random) -> str:
    """What SQLite cannot know: a text that is no JSON, an event that is gone, an input that changed."""
    with closing(sqlite3.connect(folder / "runs.db", isolation_level=None)) as connection:
        kinds = ", ".join(f"'{kind}'" for kind in ENDING)
        asked = f"SELECT seq FROM flowkit_events WHERE {LAST} AND kind IN ({kinds}) ORDER BY seq"
        (seq,) = lot.choice(connection.execute(asked).fetchall()[:-1])
        statement = lot.choice(
            [
                f"UPDATE flowkit_events SET data = substr(data, 2) WHERE {LAST} AND seq = ?",
                f"UPDATE flowkit_events SET data = x'00ff' WHERE {LAST} AND seq = ?",
                f"DELETE FROM flowkit_events WHERE {LAST} AND seq = ?",
                f"UPDATE flowkit_events SET kind = 'nothing' WHERE {LAST} AND seq = ?",
                f"UPDATE flowkit_events SET key = key || 'x' WHERE {LAST} AND seq = ?",
                f"UPDATE flowkit_events SET seq = seq + 1000 WHERE {LAST} AND seq = ?",
            ]
        )
        connection.execute(statement, (seq,))
    return f"{statement} {seq}"


def hash_(folder: Path, lot: random.Random) -> str:
    """The hash of a step's inputs: the fold compares it with what it computes itself."""
    with closing(sqlite3.connect(folder / "runs.db", isolation_level=None)) as connection:
        rows = connection.execute(
            f"SELECT id, data FROM flowkit_events WHERE {LAST} AND kind = 'step_done'"
        ).fetchall()
        number, data = lot.choice(rows)
        told = json.loads(data)
        told["input_hash"] = told["input_hash"][::-1]
        connection.execute(
            "UPDATE flowkit_events SET data = ? WHERE id = ?", (json.dumps(told), number)
        )
    return f"input hash of event row {number}"


BREAKS: Final[tuple[Callable[[Path, random.Random], str], ...]] = (
    flip_header, flip_page, flip_page, flip_page, garbage, garbage, flip_log, flip_log, flip_shared,
    cut, cut, empty, other, zeros, row, row, row, hash_,
)  # fmt: skip
WITH_LOG: Final = (flip_log, flip_shared, empty, cut)


# ---- what the store makes of it


def used(folder: Path, whole: dict[str, list[Any]]) -> dict[str, object]:
    return anyio.run(use, folder, whole)


async def use(folder: Path, whole: dict[str, list[Any]]) -> dict[str, object]:
    """Open, list, load each run and go on with the first: what each gave, or the error's words."""
    told: dict[str, object] = {}
    try:
        async with SqlStore(folder / "runs.db") as store:
            told["listed"] = sorted(record.run_id for record in await store.runs(RunQuery()))
            for run_id, rows in whole.items():
                told[run_id] = await _load(store, run_id, rows)
            told["result"] = await _go_on(store, folder, max(whole))
    except FlowkitError as error:
        told["refused"] = f"{type(error).__name__}: {error}"
    return told


async def _load(store: SqlStore, run_id: str, whole: list[Any]) -> str:
    """`same`, `less` where the journal ends earlier, `other` where it says what was never recorded."""
    try:
        journal = await store.load(run_id)
        fold(journal)
    except FlowkitError as error:
        return f"{type(error).__name__}: {error}"
    found = _rows(journal.events)
    if found == whole:
        return "same"
    return "less" if found == whole[: len(found)] else "other"


async def _go_on(store: SqlStore, folder: Path, run_id: str) -> str:
    ledger = Lines(folder / "ledger")
    try:
        ledger.hold(folder / "runs.db", run_id)
    except sqlite3.Error:
        pass  # nobody can tell what had ended
    try:
        async with Engine(store, resources=[ledger]) as engine:
            result = await bring_to_end(engine, run_id)
    except FlowkitError as error:
        return f"{type(error).__name__}: {error}"
    if ledger.repeated():
        return f"repeated {ledger.repeated()}"
    return "right" if result == POSTED else f"other: {result}"


# ---- cases


def copies(recording: Recording, lot: random.Random) -> Iterator[tuple[str, Disk, Disk]]:
    """Files copied from under a running store, the database at one instant and the log at another."""
    while True:
        kind = lot.choice(["db, then wal", "wal, then db", "both at once", "db alone"])
        first, second = sorted(lot.randrange(len(recording.ops)) for _ in range(2))
        if kind == "both at once":
            second = first
        early, late = Disk(), Disk()
        for op in recording.ops[:first]:
            early.do(op)
        for op in recording.ops[:second]:
            late.do(op)
        told = f"{kind}, after {first} and {second} of {len(recording.ops)}"
        yield told, *((late, early) if kind == "wal, then db" else (early, late))


def copy_live(folder: Path, source: Iterator[tuple[str, Disk, Disk]], lot: random.Random) -> str:
    told, database, log = next(source)
    for disk, name in ((database, "runs.db"), (log, "runs.db-wal")):
        if name in disk.files and not (name == "runs.db-wal" and told.startswith("db alone")):
            (folder / name).write_bytes(disk.files[name].left("all", lot))
    return told


def main() -> None:
    logging.disable()
    folder, seed, cases, shard, shards = Path(sys.argv[1]), *map(int, sys.argv[2:])
    import_module("sqlalchemy.dialects.sqlite")  # once for all children
    Shim().watch(folder / "case-")  # flushes are costly, and prove nothing here
    recording = Recording.read(folder)
    whole = journals(folder / "runs.db", recording)
    laid_out = [folder / f"log-{shard}", folder / f"settled-{shard}"]
    for path in laid_out:
        lay_out(path, recording)
    base = journals(
        laid_out[1] / "runs.db", recording
    )  # which also moves the log into the database
    for path in laid_out[1].glob("runs.db-*"):
        path.unlink()
    for number in range(cases):
        lot = random.Random(f"{seed} {number}")
        if number % shards != shard:
            continue
        with Image(folder / f"case-{number}") as case:
            if number % 5 == 4:
                name, did = "copy", copy_live(case, copies(recording, lot), lot)
            else:
                how = BREAKS[(number - number // 5) % len(BREAKS)]
                with_log = how in WITH_LOG or lot.random() < 0.3
                for path in laid_out[0 if with_log else 1].iterdir():
                    shutil.copy(path, case)
                name, did = how.__name__, how(case, lot)
            expected = whole if name == "copy" else base
            told = in_child(partial(used, case, expected))
            others = readable(case / "runs.db")
        print(json.dumps({"case": number, "how": name, "did": did, "others": others, **told}))


def lay_out(folder: Path, recording: Recording) -> None:
    """The files in the middle of the last run."""
    last = max(recording.journals)
    head = len(recording.journals[last]) // 2
    disk = Disk()
    for op in recording.ops:
        disk.do(op)
        word, run_id, seq = (disk.marks or ["- - 0"])[-1].split(" ")
        if (word, run_id) == ("ack", last) and int(seq) >= head:
            break
    shutil.rmtree(folder, ignore_errors=True)  # of the shard's last turn
    folder.mkdir()
    disk.leave(folder, random.Random(0), "all")


def journals(database: Path, recording: Recording) -> dict[str, list[Any]]:
    async def load() -> dict[str, list[Any]]:
        async with SqlStore(database) as store:
            return {
                run_id: _rows((await store.load(run_id)).events) for run_id in recording.journals
            }

    return anyio.run(load)


def _rows(events: Sequence[Event]) -> list[Any]:
    return [[e.kind, e.seq, e.key, e.alternative, e.attempt, e.payload] for e in events]


def readable(database: Path) -> list[str]:
    """The runs whose events SQLite itself can read."""
    found: list[str] = []
    try:
        with closing(sqlite3.connect(database)) as connection:
            for number, run_id in connection.execute("SELECT id, run_id FROM flowkit_runs"):
                try:
                    connection.execute(
                        "SELECT * FROM flowkit_events WHERE run = ?", (number,)
                    ).fetchall()
                    found.append(str(run_id))
                except sqlite3.Error:
                    pass
    except sqlite3.Error:
        pass
    return found


if __name__ == "__main__":
    main()
