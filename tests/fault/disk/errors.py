"""Writes and flushes that fail, and disks that are full, at each place in a run. For `test_disk_errors`.

    python -m tests.fault.disk.errors writes|flushes once|stays SHARD SHARDS EVERY
    python -m tests.fault.disk.errors space
    python -m tests.fault.disk.errors flushless

The first runs once without a fault and counts. Then for every EVERYth write (or flush) and error a child
meets the fault, and either dies at once, or closes all and ends, or goes on in the same process when the
fault is gone; another child takes the run to its end. `space` does the same with files that may not grow
beyond a size. `flushless` appends past an engine while flushes fail. One JSON line for each.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import resource
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import anyio
from sqlalchemy import event as listen_to

from flowkit import Engine
from flowkit.errors import FlowkitError, StoreUnusable
from flowkit.events import Event, Waiting
from flowkit.ports import RunRecord
from flowkit.store import SqlStore
from tests.fault.disk.flow import (
    POSTED,
    Lines,
    Telling,
    bring_to_end,
    events,
    gaps,
    soundness,
)
from tests.fault.disk.images import Disk
from tests.fault.disk.shim import Shim, What, read_log

HANG_S: Final = 60
After = Literal["dies", "leaves", "goes on"]
AFTER: Final[tuple[After, ...]] = ("goes on", "dies", "leaves")

Fault: TypeAlias = Callable[[SqlStore], Callable[[], object]]
"""Arms a fault for a store that is not open yet; gives what takes it away."""


async def struck(folder: Path, fault: Fault, after: After) -> dict[str, object]:
    """A run that meets the fault; what its user saw, and how it went on."""
    ledger = Lines(folder / "ledger")
    store = Telling(folder / "runs.db", ledger)
    heal = fault(store)
    try:
        await store.open()
    except FlowkitError as error:
        if after != "goes on":
            return _told(error)
        heal()
        async with store, Engine(store, resources=[ledger]) as engine:
            return {**_told(error), "result": await bring_to_end(engine)}
    try:
        async with store, Engine(store, resources=[ledger]) as engine:
            try:
                return {"result": await bring_to_end(engine)}
            except FlowkitError as error:
                if after == "dies":
                    (folder / "died").write_text(json.dumps(_told(error)))
                    os._exit(0)  # in the midst of it: nothing is closed
                if after == "leaves":
                    raise
                heal()
                return {**_told(error), "result": await again(engine)}
    except FlowkitError as error:
        return _told(error)


async def again(engine: Engine) -> str:
    """Once more: what was in flight at the fault may tell of it still, each part once."""
    for _ in range(3):
        try:
            return await bring_to_end(engine)
        except StoreUnusable:
            pass
    return await bring_to_end(engine)


def _told(error: FlowkitError) -> dict[str, object]:
    return {"error": type(error).__name__, "says": str(error)}


async def healthy(folder: Path) -> dict[str, object]:
    """A new process without the fault."""
    ledger = Lines(folder / "ledger")
    ledger.hold(folder / "runs.db")
    async with (
        Telling(folder / "runs.db", ledger) as store,
        Engine(store, resources=[ledger]) as engine,
    ):
        return {"result": await bring_to_end(engine)}


def in_child(work: Callable[[], dict[str, object]]) -> dict[str, object]:
    """What the work gives, done in a forked child; how the child ended, if it gives nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return {**(json.loads(told) if told else {}), "code": code}
    code = 70
    try:
        signal.alarm(HANG_S)  # a hang ends as a death by SIGALRM
        os.write(writing, json.dumps(work()).encode())
        code = 0
    except BaseException:  # noqa: BLE001  (told to the parent)
        os.write(writing, json.dumps({"raw": traceback.format_exc()[-2000:]}).encode())
    finally:
        os._exit(code)


def scenario(fault: Fault, after: After, shim: Shim) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="flowkit-disk-") as name:
        folder = Path(name)
        database, ledger = folder / "runs.db", Lines(folder / "ledger")

        def first() -> dict[str, object]:
            shim.watch(database)
            told = anyio.run(struck, folder, fault, after)
            return {**told, "seen": [shim.seen("writes"), shim.seen("flushes")]}

        def second() -> dict[str, object]:
            shim.watch(database)  # flushes are costly, and prove nothing here
            return anyio.run(healthy, folder)

        met, ended = in_child(first), in_child(second)
        if (folder / "died").exists():
            met |= json.loads((folder / "died").read_text())
        found = events(database)
        held = {" ".join(str(part) for part in row[:5]) for row in found}
        return {
            "after": after, "met": met, "ended": ended,
            "sound": soundness(database),
            "gaps": gaps(found),
            "lost": sorted(set(ledger.acknowledged()) - held),
            "repeated": ledger.repeated(),
            "announced": ledger.announced(),
            "unknown": any(row[0] == "outcome_unknown" for row in found),
            "right": ended.get("result") == POSTED,
        }  # fmt: skip


# ---- writes and flushes that fail


def failing(shim: Shim, what: What, nth: int, error: int, *, stays: bool) -> Fault:
    def arm(store: SqlStore) -> Callable[[], object]:
        shim.fail(what, nth, error, stays=stays)
        return shim.heal

    return arm


def sweep(what: What, stays: bool, every: int) -> Iterator[tuple[dict[str, object], Fault, After]]:
    shim = Shim()
    whole = scenario(lambda store: shim.heal, "goes on", shim)
    seen = cast(dict[str, Any], whole["met"])["seen"][what == "flushes"]
    turn = 0
    for nth in range(1, seen + 1):
        for error in (errno.ENOSPC, errno.EIO):
            turn += 1
            if turn % every == 0:
                told: dict[str, object] = {
                    "what": what, "nth": nth, "of": seen, "errno": errno.errorcode[error],
                }  # fmt: skip
                after = AFTER[(nth + (error == errno.EIO) + stays) % len(AFTER)]
                yield told, failing(shim, what, nth, error, stays=stays), after


# ---- no room


def no_longer_files(size: int) -> Fault:
    """No file may grow beyond the size, as by a quota."""

    def arm(store: SqlStore) -> Callable[[], object]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return arm


def no_more_pages(count: int) -> Fault:
    """The database itself may not have more pages than it has with its tables, and these."""

    def arm(store: SqlStore) -> Callable[[], object]:
        engine = store._place.engine

        def limit(dbapi: sqlite3.Connection, record: object) -> None:
            dbapi.execute(f"PRAGMA max_page_count={count}")

        listen_to.listen(engine, "connect", limit)
        return lambda: listen_to.remove(engine, "connect", limit)

    return arm


def spaces() -> Iterator[tuple[dict[str, object], Fault, After]]:
    for turn in range(14):
        size = 16 * 1024 * (turn * 3 + 1)
        yield {"what": "size", "nth": size}, no_longer_files(size), AFTER[turn % 2 * 2]
    for count in range(6, 12):
        yield {"what": "pages", "nth": count}, no_more_pages(count), AFTER[count % 2 * 2]


# ---- past an engine, where nobody reads


def flushless(shim: Shim, first: int, *, stays: bool, reads: bool) -> dict[str, object]:
    """What was acknowledged while flushes fail, and what of it a power cut leaves."""

    async def append() -> list[int]:
        kept: list[int] = []
        async with SqlStore(folder / "runs.db") as store:
            await store.create(RunRecord("r", "flow", "0" * 32, 0.0))
            if reads:
                await store.load("r")
            shim.fail("flushes", first, errno.EIO, stays=stays)
            for _ in range(6):
                try:
                    head = (await store.load("r")).record.head if reads else len(kept)
                    event = Event(head + 1, 0.0, Waiting("a word"))
                    await store.append("r", [event], expect=head, epoch=0)
                    kept.append(event.seq)
                except FlowkitError:
                    pass
            shim.mark("end")
        return kept

    with tempfile.TemporaryDirectory(prefix="flowkit-disk-") as name:
        folder = Path(name)

        def work() -> dict[str, object]:
            shim.watch(folder / "runs.db", folder / "log")
            return {"kept": anyio.run(append)}

        told = in_child(work)
        disk = Disk()
        for op in read_log(folder / "log"):
            if op.kind == "mark":
                break
            disk.do(op)
        (folder / "left").mkdir()
        disk.leave(folder / "left", random.Random(0), "none")
        left = [row[1] for row in events(folder / "left" / "runs.db")]
        return {"first": first, "stays": stays, "reads": reads, **told, "left": left}


def main() -> None:
    logging.disable()
    import_module("sqlalchemy.dialects.sqlite")  # once for all children
    shim = Shim()
    what, *rest = sys.argv[1:]
    if what == "flushless":
        for first in (1, 2, 3):
            for stays in (False, True):
                for reads in (False, True):
                    print(json.dumps(flushless(shim, first, stays=stays, reads=reads)))
        return
    shard, shards = 0, 1
    faults = spaces()
    if what != "space":
        shard, shards = int(rest[1]), int(rest[2])
        faults = sweep(cast(What, what), rest[0] == "stays", int(rest[3]))
    for number, (told, fault, after) in enumerate(faults):
        if number % shards == shard:
            print(json.dumps({**told, **scenario(fault, after, shim)}), flush=True)


if __name__ == "__main__":
    main()
