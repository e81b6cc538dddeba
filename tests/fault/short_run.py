"""The 12-step workflow in a child of `tests.fault.children`, and its ledger in memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import anyio

from flowkit import Context
from tests.fault import kill_everywhere
from tests.fault.w12 import Ledger


def live(folder: Path, at: int, phase: str) -> None:
    """Begin the run of this folder or go on with it; die at the n-th append, or store the result."""
    report = anyio.run(kill_everywhere.run, folder, at, phase)
    (folder / "result").write_text(report.model_dump_json())


class Counting(Ledger):
    """Counts attempts in memory, for engines that share a process."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.ran: Counter[str] = Counter()

    def write(self, ctx: Context) -> None:
        self.ran[f"{ctx.step} {ctx.alternative} {ctx.attempt}"] += 1
