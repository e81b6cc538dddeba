"""The process that `flowkit demo` kills: `python -m flowkit.cli.demo_worker DATABASE RUN LEDGER`.

It runs the example like any host would. At one step it stops after the step's effect and before its
outcome is in the journal, so that the kill always hits the same place.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio

from flowkit.cli.effects import CountedModel, EffectLedger, with_ledger
from flowkit.node import Context

HELD = "judge"
"""The step that is in flight when the worker is killed."""


async def work(database: str, run_id: str, path: str) -> None:
    from flowkit.cli.driving import model_for
    from flowkit.cli.targets import load_target
    from flowkit.engine import Engine
    from flowkit.store import SqlStore

    target = load_target("stock_analysis")
    ledger = EffectLedger(Path(path))
    parent = os.getppid()

    async def hold(ctx: Context) -> None:
        # Until we are killed; or, should the demo itself have died, not longer than that.
        while ctx.step == HELD and os.getppid() == parent:  # noqa: ASYNC110
            await anyio.sleep(0.1)

    counted = with_ledger(target.workflow, ledger, hold)
    model = CountedModel(model_for(target), ledger)
    async with SqlStore(database) as store, Engine(store, model=model) as engine:
        await engine.run(counted, target.example, run_id=run_id)


if __name__ == "__main__":
    anyio.run(work, sys.argv[1], sys.argv[2], sys.argv[3])
