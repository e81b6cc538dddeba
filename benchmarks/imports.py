"""import: `import flowkit` in a fresh process, over what it stands on; and the memory after it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Figure, Row, at_most, median, ratio

BASE = "from pydantic import BaseModel, TypeAdapter; import anyio"

_PROGRAM = """
import time
began = time.perf_counter()
{what}
took = time.perf_counter() - began
import resource
rss = None
try:
    with open("/proc/self/statm") as file:
        rss = int(file.read().split()[1]) * resource.getpagesize()
except OSError:
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(took, rss)
"""


def rows(n: int | None, repeats: int) -> Iterator[Row]:
    yield measure(n or 10, repeats)


def measure(n: int, repeats: int) -> Row:
    programs = ("import flowkit", BASE, "from flowkit import Engine")
    found = [[_import(what) for what in programs] for _ in range(max(n, repeats))]
    mine, base, engine = (
        [took * 1000 for took, _ in column] for column in zip(*found, strict=True)
    )
    memory, bare, _ = ([size / 1e6 for _, size in column] for column in zip(*found, strict=True))
    return Row(
        "import",
        n,
        {
            "import_over_pydantic_and_anyio": at_most(ratio(mine, base), 1.5),
            "memory_mb": at_most(median(memory), 40),
            "engine_over_pydantic_and_anyio": Figure(ratio(engine, base)),
            "import_ms": Figure(median(mine)),
            "base_import_ms": Figure(median(base)),
            "base_memory_mb": Figure(median(bare)),
        },
        {"base": BASE, "memory": "resident set after the import"},
    )


def _import(what: str) -> tuple[float, int]:
    """Seconds that an import takes in a fresh process, and the bytes resident after it."""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(what=what)],
        check=True,
        capture_output=True,
        text=True,
        cwd=root,
    )
    took, memory = done.stdout.split()
    return float(took), int(memory)
