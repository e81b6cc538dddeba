"""Tools that behave badly, and a process that runs one of them."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import anyio

from flowkit import Context, Engine, Ref, Workflow, workflow
from flowkit.nodes import Node, tool
from flowkit.store import SqlStore


def raises(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


def recurses() -> Any:
    return recurses()


def cyclic() -> Any:
    made: list[Any] = []
    made.append(made)
    return made


async def _numbers() -> Any:
    yield 1


def prints() -> Any:
    os.write(1, b"past Python\n")
    return "printed"


def starts_a_thread() -> Any:
    threading.Thread(target=threading.Event().wait, name="left", daemon=True).start()
    return "started"


def segfaults() -> Any:
    return ctypes.string_at(0)


def exits() -> Any:
    os._exit(7)


FAILING: Final[Mapping[str, tuple[Callable[[], Any], str]]] = MappingProxyType(
    {
        "BaseException": (raises(BaseException("base")), "base"),
        "SystemExit": (raises(SystemExit(3)), "SystemExit"),
        "MemoryError": (raises(MemoryError("no room")), "no room"),
        "RecursionError": (recurses, "recursion"),
        "StopIteration": (raises(StopIteration("stop")), "stop"),
        "StopAsyncIteration": (raises(StopAsyncIteration("stop")), "stop"),
        "a group": (raises(BaseExceptionGroup("many", [BaseException("one")])), "many"),
        "cyclic": (cyclic, "id repeated"),
        "generator": (lambda: (n for n in range(3)), "a generator can be read once only"),
        "a generator within": (lambda: {"all": [map(str, range(3))]}, "acts.all[0]: a map"),
        "async generator": (_numbers, "async_generator"),
        "coroutine": (lambda: anyio.sleep, "function"),
        "set of objects": (lambda: {object()}, "object"),
        "bytes that are no text": (lambda: b"\xff\xfe", "utf-8"),
    }
)
"""What fails the step, and a word of its error."""

KEPT: Final[Mapping[str, tuple[Callable[[], Any], Any]]] = MappingProxyType(
    {
        "2**63": (lambda: 2**63, 2**63),
        "-2**63 - 1": (lambda: -(2**63) - 1, -(2**63) - 1),
        "prints to fd 1": (prints, "printed"),
        "leaves a thread": (starts_a_thread, "started"),
    }
)
"""What harms nobody, and the result."""

DEADLY: Final[Mapping[str, tuple[Callable[[], Any], set[int]]]] = MappingProxyType(
    {
        "KeyboardInterrupt": (raises(KeyboardInterrupt()), {1}),
        "os._exit": (exits, {7}),
        "segfault": (segfaults, {-11, -10}),
    }
)
"""What ends the process, and its exit code."""


def bad(act: Callable[[], Any], *, threaded: bool) -> Workflow[int, Any]:
    """A workflow whose second of three steps does it."""

    @tool
    async def first(ctx: Context, n: int) -> int:
        return n + 1

    class Acts(Node[int, Any]):
        async def run(self, ctx: Context, n: int, /) -> Any:
            if threaded:
                return await anyio.to_thread.run_sync(act)
            return act()

    @tool
    async def last(ctx: Context, value: Any) -> Any:
        return value

    acts = Acts(name="acts")

    @workflow
    def flow(n: Ref[int]) -> Ref[Any]:
        return last(acts(first(n)))

    return flow


async def _run(folder: Path, name: str) -> None:
    cured = (folder / "cured").exists()
    act = (lambda: "cured") if cured else DEADLY[name][0]
    store = SqlStore(folder / "runs.db")
    async with store, Engine(store) as engine:
        result = await engine.run(bad(act, threaded=False), 1, run_id="r")
    (folder / "result").write_text(result)


def run(folder: Path, name: str) -> None:
    """Run a deadly tool in this process."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # the interpreter's last words
    anyio.run(_run, folder, name)
