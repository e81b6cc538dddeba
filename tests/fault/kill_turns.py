"""Runs of `tests.fault.turns` in processes that can be killed, for `test_turns`.

A program of its own: it imports once and forks for each line on stdin, so that a hundred deaths take
seconds. A line is `{"path", "base_url", "turns", "window", "backend"}`. On stdout, one JSON line each:
the child's `{"pid"}`, `{"ran"}` for each line of the ledger, `{"result"}`; and when it is over, `{"exit"}`.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio

from tests.fault.turns import Ledger, run


def tell(**said: object) -> None:
    """A line on stdout, whole: pipes take short ones in one piece."""
    os.write(1, f"{json.dumps(said)}\n".encode())


def in_child(path: str, base_url: str, turns: int, window: int, backend: str) -> None:
    tell(pid=os.getpid())
    ledger = Ledger(lambda line: tell(ran=line))
    report = anyio.run(run, Path(path), base_url, turns, window, ledger, backend=backend)
    tell(result=report.model_dump())


def main() -> None:
    for name in ("openai", "sqlalchemy.dialects.sqlite", "trio", "jsonschema_rs"):
        import_module(name)  # what a run would load itself, once for all children
    for line in sys.stdin:
        wanted: dict[str, Any] = json.loads(line)
        child = os.fork()
        if not child:
            in_child(**wanted)
            return
        tell(exit=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
