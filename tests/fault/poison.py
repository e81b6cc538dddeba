"""A process that drives a run which kills it each time, among others that are well."""

from __future__ import annotations

import os
from pathlib import Path

import anyio

from flowkit import Context, Engine, Ref, workflow
from flowkit.events import FINAL
from flowkit.nodes import tool
from flowkit.ports import RunQuery
from flowkit.store import SqlStore
from tests.fault.children import die

HEALTHY = 20


class Folder:
    """Where the ledger is, and where a cure may lie."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, ctx: Context) -> None:
        handle = os.open(self.path / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{ctx.run_id}/{ctx.step} {ctx.alternative} {ctx.attempt}\n".encode())
        os.close(handle)


@tool
async def prepare(ctx: Context, n: int) -> int:
    ctx.resource(Folder).note(ctx)
    return n + 1


@tool
async def drink(ctx: Context, n: int) -> int:
    """Takes a while, so that the others have something in flight, and kills the process."""
    folder = ctx.resource(Folder)
    folder.note(ctx)
    if not (folder.path / "cure").exists():
        await anyio.sleep(0.02)
        die()
    return n * 10


@tool
async def double(ctx: Context, n: int) -> int:
    ctx.resource(Folder).note(ctx)
    await anyio.sleep(0.005)
    return n * 2


@workflow
def poison(n: Ref[int]) -> Ref[int]:
    return drink(prepare(n))


@workflow
def healthy(n: Ref[int]) -> Ref[int]:
    done = prepare(n)
    for index in range(6):
        done = double(done, id=f"double{index}")
    return double(done)


async def _serve(folder: Path, others: int, place: int, retry: bool) -> None:
    async with (
        SqlStore(folder / "runs.db") as store,
        Engine(
            store, workflows=[poison, healthy], recover=True, poll_s=0.05,
            resources=[Folder(folder)],
        ) as engine,
    ):  # fmt: skip
        if retry:
            assert await (await engine.retry("poison")).result() == 20
        names = [f"well{n}" for n in range(others)]
        names.insert(place, "poison")
        begun = {each.run_id for each in await engine.runs(RunQuery(limit=1000)) if each.head}
        for name in names:
            if name not in begun:  # else it is recovered
                await engine.start(poison if name == "poison" else healthy, 1, run_id=name)
        while any(  # noqa: ASYNC110  (what is in the store, whoever brought it there)
            record.status not in FINAL for record in await engine.runs(RunQuery(limit=1000))
        ):
            await anyio.sleep(0.01)


def serve(folder: Path, others: int, place: int, retry: bool = False) -> None:
    """Start what is not there yet, recover the rest, and leave when all have ended."""
    anyio.run(_serve, folder, others, place, retry)
