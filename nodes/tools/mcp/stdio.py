"""A server's process: exactly the environment it was given, lines of bounded length, ended as a group.

The SDK's own way to start one hands on HOME, USER, PATH and more, and puts no end to a line.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.abc

from flowkit.nodes.tools.mcp.server import McpServer

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

LINE_BYTES_MAX: Final = 16_000_000
_TAIL_BYTES: Final = 2_000
_LEAVE_S: Final = 2.0
"""What a server gets to leave when its input ends, and once more after SIGTERM."""

_GONE: Final = (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError)


@dataclass
class Pulse:
    """Whether a server is still there, and the last it said on its standard error."""

    gone: anyio.Event = field(default_factory=anyio.Event)
    stderr: bytearray = field(default_factory=bytearray)
    why: str = ""

    def last_words(self) -> str:
        told = self.stderr.decode("utf-8", "replace").strip()
        return "; ".join(part for part in (self.why, told and f"its last words: {told}") if part)


@asynccontextmanager
async def launched(server: McpServer, pulse: Pulse) -> AsyncGenerator[TransportStreams]:
    """Start the process and speak with it; when this is left, it and its children are gone.

    Raises:
        OSError: it cannot be started. LookupError: a variable that it needs is not set.
    """
    env = server.resolved()
    program, *arguments = server.command
    process = await anyio.open_process(
        [shutil.which(program) or program, *arguments],
        env=env,
        cwd=server.cwd,
        start_new_session=True,
    )
    to_us, read = anyio.create_memory_object_stream[Any](0)
    write, from_us = anyio.create_memory_object_stream[Any](0)
    async with to_us, read, write, from_us, anyio.create_task_group() as tasks:
        tasks.start_soon(_hear, process, to_us, pulse)
        tasks.start_soon(_say, process, from_us, pulse)
        tasks.start_soon(_overhear, process, pulse)
        try:
            yield read, write
        finally:
            pulse.gone.set()
            with anyio.CancelScope(shield=True):
                await _end(process)
            tasks.cancel_scope.cancel()


async def _hear(process: anyio.abc.Process, to_us: Any, pulse: Pulse) -> None:
    from mcp.shared.message import SessionMessage
    from mcp_types.jsonrpc import jsonrpc_message_adapter

    assert process.stdout
    line = bytearray()
    with suppress(*_GONE):
        async for piece in process.stdout:
            *whole, rest = piece.split(b"\n")
            for each in whole:
                line += each
                with suppress(ValueError):  # what is no message is no message: some print a banner
                    message = jsonrpc_message_adapter.validate_json(bytes(line), by_name=False)
                    await to_us.send(SessionMessage(message))
                line.clear()
            line += rest
            if len(line) > LINE_BYTES_MAX:
                pulse.why = f"it wrote a line of more than {LINE_BYTES_MAX:,} bytes"
                break
    pulse.gone.set()  # before the end is seen by who waits for an answer
    await to_us.aclose()


async def _say(process: anyio.abc.Process, from_us: Any, pulse: Pulse) -> None:
    assert process.stdin
    with suppress(*_GONE):
        async for each in from_us:
            text: str = each.message.model_dump_json(by_alias=True, exclude_unset=True)
            await process.stdin.send(text.encode() + b"\n")
        return
    pulse.gone.set()


async def _overhear(process: anyio.abc.Process, pulse: Pulse) -> None:
    assert process.stderr
    with suppress(*_GONE):
        async for piece in process.stderr:
            pulse.stderr += piece
            del pulse.stderr[:-_TAIL_BYTES]


async def _end(process: anyio.abc.Process) -> None:
    """As the protocol has it: its input ends, then SIGTERM, then SIGKILL; to all of its group."""
    assert process.stdin
    with suppress(*_GONE):
        await process.stdin.aclose()
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with anyio.move_on_after(_LEAVE_S):
            await process.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signum)
        if process.returncode is not None:
            break
    with suppress(ProcessLookupError, PermissionError):  # what it has left behind
        os.killpg(process.pid, signal.SIGKILL)
    with anyio.move_on_after(_LEAVE_S), suppress(*_GONE):
        await process.aclose()
