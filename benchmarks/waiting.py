"""Runs that wait, and the memory they hold. Measured in a process of its own, see `alone`."""

from __future__ import annotations

import gc
import resource
import tracemalloc
from pathlib import Path

import anyio

from benchmarks import flows
from benchmarks.disk import fresh
from flowkit import Engine
from flowkit.events import Status
from flowkit.ports import RunQuery
from flowkit.store import SqlStore

WARM = 20
AT_ONCE = 20
_WAITING: frozenset[Status] = frozenset({"waiting"})


def kb_a_run(n: int, *, traced: bool) -> float:
    with fresh() as folder:
        return anyio.run(_kb_a_run, folder / "runs.db", n, traced)


async def _kb_a_run(path: Path, n: int, traced: bool) -> float:
    flow = flows.waiting()
    async with (
        SqlStore(path) as store,
        Engine(store, workflows=[flow], suspend_after_s=0.05, poll_s=60.0) as engine,
    ):
        await _start(engine, flow, 0, WARM)
        if traced:
            tracemalloc.start()
        before = _traced() if traced else _resident()
        await _start(engine, flow, WARM, n)
        gc.collect()
        return ((_traced() if traced else _resident()) - before) / n / 1024


async def _start(engine: Engine, flow: flows.Waiting, first: int, n: int) -> None:
    """Start runs, as many at once as a service would, and see that all of them wait."""
    for start in range(first, first + n, AT_ONCE):
        async with anyio.create_task_group() as tasks:
            for number in range(start, min(start + AT_ONCE, first + n)):
                tasks.start_soon(_begin, engine, flow, number)
    wanted = RunQuery(status=_WAITING, limit=first + n)
    while len(await engine.runs(wanted)) < first + n:  # noqa: ASYNC110  (nobody tells of all)
        await anyio.sleep(0.05)
    gc.collect()


async def _begin(engine: Engine, flow: flows.Waiting, number: int) -> None:
    await engine.start(flow, flows.Count(n=number), run_id=f"run-{number}")


def _traced() -> int:
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(statm.read_text().split()[1]) * resource.getpagesize()
