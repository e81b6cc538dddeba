"""Processes for the fault tests: forked from one that has imported everything, so that a death costs little.

The functions that children run must be importable by name; arguments are pickled.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

JOIN_S = 60


@cache
def context() -> ForkServerContext:
    """The server that forks, with all that a run loads."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(
        ["tests.fault.long_run", "tests.fault.w12", "sqlalchemy.dialects.sqlite", "trio"]
    )
    return made


def run(target: Callable[..., object], *args: Any) -> int:
    """Call a function in a child; the child's exit code (negative: the signal that killed it)."""
    with child(target, *args) as process:
        process.join(JOIN_S)
        code = process.exitcode
        assert code is not None, f"{target.__name__}{args} has not ended within {JOIN_S} s"
        return code


@contextmanager
def child(target: Callable[..., object], *args: Any) -> Generator[ForkServerProcess]:
    """A child that calls a function; killed, if it lives, when the block is left."""
    process = context().Process(target=target, args=args)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def pipe() -> tuple[Connection, Connection]:
    """Both ends of a pipe: ours, and one to give to a child."""
    ours, theirs = context().Pipe()
    return ours, theirs


def die() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
