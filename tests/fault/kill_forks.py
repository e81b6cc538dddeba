"""Kill a process with SIGKILL while it makes a fork, look at what is there, and go on from it.

A program of its own: it imports once and forks. Takes the store's target and a folder for the ledger;
prints one JSON line for each death; the test judges them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from flowkit import Context, Engine, Ref, workflow
from flowkit.errors import ResumeError
from flowkit.events import Event
from flowkit.nodes import tool
from flowkit.ports import Message, RunRecord
from flowkit.store import SqlStore

PHASES = ("created", "before 1", "after 1", "before 2", "after 2")
"""Right after the fork's row is made; before and after its first append, and its second."""


class Ledger:
    """What ran, outside every journal."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[str]:
        return self.path.read_text().split() if self.path.exists() else []


@tool
async def big(ctx: Context, n: int) -> str:
    tell(ctx)
    return "x" * 100_000 * n


@tool
async def size(ctx: Context, text: str) -> int:
    tell(ctx)
    return len(text)


@tool
async def more(ctx: Context, n: int) -> int:
    tell(ctx)
    return n + 1


@workflow
def sized(n: Ref[int]) -> Ref[int]:
    return more(size(big(n)))


def tell(ctx: Context) -> None:
    with ctx.resource(Ledger).path.open("a") as file:
        file.write(f"{ctx.run_id}:{ctx.step}\n")


class DyingStore(SqlStore):
    """Kills its own process at one place."""

    def __init__(self, target: str, phase: str) -> None:
        super().__init__(target)
        self.phase = phase
        self.appends = 0

    def die(self, phase: str) -> None:
        if phase == self.phase:
            os.kill(os.getpid(), signal.SIGKILL)

    async def create(self, run: RunRecord) -> None:
        await super().create(run)
        self.die("created")

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        self.appends += 1
        self.die(f"before {self.appends}")
        messages = await super().append(run_id, events, expect=expect, epoch=epoch)
        self.die(f"after {self.appends}")
        return messages


async def fork(target: str, ledger: Ledger, phase: str, new_id: str) -> Any:
    store = DyingStore(target, phase)
    async with store, Engine(store, workflows=[sized], resources=[ledger]) as engine:
        handle = await engine.fork("r", set={"big": "y" * 70_000}, new_id=new_id)
        return await handle.result()


async def resume(target: str, ledger: Ledger, new_id: str) -> Any:
    store = SqlStore(target)
    async with store, Engine(store, workflows=[sized], resources=[ledger]) as engine:
        return await engine.resume(new_id)


async def base(target: str, ledger: Ledger) -> Any:
    store = SqlStore(target)
    async with store, Engine(store, workflows=[sized], resources=[ledger]) as engine:
        return await engine.run(sized, 1, run_id="r")


async def journal(target: str, run_id: str) -> tuple[str, list[str]]:
    async with SqlStore(target) as store:
        found = await store.load(run_id)
        return found.record.status, [event.kind for event in found.events[found.record.base_seq :]]


def death(target: str, ledger: Ledger, phase: str) -> dict[str, Any]:
    new_id = phase.replace(" ", "-")
    child = os.fork()
    if not child:
        anyio.run(fork, target, ledger, phase, new_id)
        os._exit(0)
    died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status, kinds = anyio.run(journal, target, new_id)
    half_made = not kinds
    try:
        result = anyio.run(resume, target, ledger, new_id)
        refused = ""
    except ResumeError as error:
        refused = str(error)
        result = anyio.run(fork, target, ledger, "", new_id)
    ran = [line.partition(":")[2] for line in ledger.read() if line.startswith(f"{new_id}:")]
    return {
        "phase": phase, "died": died, "status": status, "half_made": half_made, "kinds": kinds,
        "refused": refused, "result": result, "ran": ran, "base": anyio.run(journal, target, "r"),
    }  # fmt: skip


def main(target: str, folder: Path) -> None:
    ledger = Ledger(folder / "ledger")
    first = anyio.run(base, target, ledger)
    print(json.dumps({"first": first, "base": anyio.run(journal, target, "r")}), flush=True)
    for phase in PHASES:
        print(json.dumps(death(target, ledger, phase)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
