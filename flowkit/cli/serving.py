"""`flowkit mcp serve`: the process. On stdio nothing but the protocol goes to stdout."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from flowkit.cli.config import Database, prepare
from flowkit.cli.driving import GRACE_S, entered, model_for
from flowkit.cli.exits import CONFIGURATION, Problem, say
from flowkit.cli.offering import STATUS, Offering
from flowkit.cli.targets import Target
from flowkit.engine import Engine
from flowkit.store import SqlStore

if TYPE_CHECKING:
    from mcp.server import Server

HOST = "127.0.0.1"


def serve(targets: Sequence[Target], database: Database, port: int | None, wait_s: float) -> int:
    """Serve until the client, or a signal, ends it; runs under way go on at the next start."""
    from flowkit.errors import DeclarationError
    from flowkit.nodes.tools.mcp import check_installed

    try:
        check_installed()
    except DeclarationError as error:
        raise Problem(str(error), CONFIGURATION) from error
    named: dict[str, Target] = {}
    for each in targets:
        name = each.workflow.name
        if name in named or name == STATUS:
            raise Problem(f"two tools would be named {name!r}: rename a workflow.")
        named[name] = each
    prepare(database)
    # What nodes print is no data; the protocol takes the descriptor itself.
    with contextlib.redirect_stdout(sys.stderr):
        signum = anyio.run(_session, named, database, port, wait_s)
    return 128 + signum if signum else 0


async def _session(
    targets: dict[str, Target], database: Database, port: int | None, wait_s: float
) -> int:
    from flowkit.model import OfflineModel, OpenAIModel

    ended, caught = anyio.Event(), list[int]()
    some = next(iter(targets.values()))
    rules = {key: rule for each in targets.values() for key, rule in each.rules.items()}
    model = model_for(some) if OpenAIModel.configured() else OfflineModel(rules)
    resources = list({id(each): each for t in targets.values() for each in t.resources}.values())
    async with anyio.create_task_group() as tasks:
        async with (
            SqlStore(database.target) as store,
            entered(resources) as given,
            Engine(
                store, workflows=[each.workflow for each in targets.values()], model=model,
                resources=given, recover=True, grace_s=GRACE_S,
            ) as engine,
        ):  # fmt: skip
            server = Offering(engine, store, targets, wait_s).server()
            await tasks.start(_listen, ended, caught)
            tasks.start_soon(_stdio, server, ended) if port is None else tasks.start_soon(
                _http, server, port, tasks, ended
            )
            await ended.wait()
        if caught and port is None:
            # A thread waits in a read of stdin, which nothing ends; all that counts is on disk.
            os._exit(128 + caught[0])
        tasks.cancel_scope.cancel()
    return caught[0] if caught else 0


async def _listen(ended: anyio.Event, caught: list[int], *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for signum in signals:
            if caught:
                os._exit(128 + signum)
            caught.append(int(signum))
            ended.set()


async def _stdio(server: Server[Any], ended: anyio.Event) -> None:
    from mcp.server.stdio import stdio_server

    try:
        async with contextlib.AsyncExitStack() as stack:
            with contextlib.redirect_stdout(sys.__stdout__):  # which the SDK takes for itself
                read, write = await stack.enter_async_context(stdio_server())
            await server.run(read, write, server.create_initialization_options())
    finally:
        ended.set()


async def _http(server: Server[Any], port: int, tasks: TaskGroup, ended: anyio.Event) -> None:
    """On loopback alone; the SDK refuses hosts and origins that are not this machine's own names."""
    import uvicorn

    class Http(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            yield  # they are caught here

    app = server.streamable_http_app(host=HOST)
    config = uvicorn.Config(app, host=HOST, port=port, log_config=None, timeout_graceful_shutdown=2)
    http = Http(config)
    socket = config.bind_socket()
    say(f"serving on http://{HOST}:{socket.getsockname()[1]}/mcp")
    try:
        await http.serve([socket])
    finally:
        socket.close()
        ended.set()
