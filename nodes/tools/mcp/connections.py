"""`McpConnections`: the servers that an engine talks to, each started when it is first needed.

    step -> connection of its server -> alive? else start, list -> as pinned? -> call
                                                                    | no: the run stops

One connection for each server, shared by all steps, in a task of its own. A server that has died is
started again by the next call.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, cast

import anyio
import anyio.abc

from flowkit.errors import DeclarationError, Fatal
from flowkit.nodes.tools.mcp.http import reached
from flowkit.nodes.tools.mcp.offers import Offer, offers_of, seen
from flowkit.nodes.tools.mcp.server import McpServer
from flowkit.nodes.tools.mcp.stdio import Pulse, launched

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult

TOOLS_MAX: Final = 1_000
DEATHS_MAX: Final = 5
"""Deaths of a server within a minute after which it is not started again before the minute is over."""

_FORGOTTEN: Final = "Session terminated"
"""What the SDK makes of a 404: a server that was started again knows our session no more."""

_MINUTE_S: Final = 60.0
_MESSAGE_CHARACTERS_MAX: Final = 1_000

log = logging.getLogger("flowkit")


Progress: TypeAlias = Callable[[float, float | None, str | None], Awaitable[None]]
"""Told how far a call is: how much, of how much if that is known, and what it says."""


class McpUnavailable(OSError):
    """The server cannot be reached; the tool was not called."""


class McpCallLost(ConnectionResetError):
    """The tool was called, and no answer came that can be used; what it did is not known."""


class McpToolFailed(RuntimeError):
    """The server says that the call went wrong."""


class McpToolChanged(Fatal):
    """The server describes the tool otherwise than it was pinned; it was not called, and the run stops."""


@dataclass
class McpConnections:
    """The connections of an engine: `async with McpConnections() as mcp, Engine(..., resources=[mcp])`.

    Args:
        connect_s: how long a server may take to start and to tell its tools.
        check_s: a list of tools older than this is asked for again before a call; one that the server
            says has changed is in any case.
    """

    connect_s: float = 30.0
    check_s: float = 60.0
    _open: dict[McpServer, _Connection] = field(default_factory=dict["McpServer", "_Connection"])
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
        self._tasks = None
        self._open.clear()
        await self._stack.aclose()

    async def call(
        self,
        server: McpServer,
        offer: Offer,
        arguments: Mapping[str, Any],
        *,
        progress: Progress | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> CallToolResult:
        """Call a tool as it was pinned.

        Raises:
            McpUnavailable, McpCallLost, McpToolFailed, McpToolChanged.
        """
        return await self._of(server).call(offer, dict(arguments), progress, dict(meta or {}))

    async def offers(self, server: McpServer) -> Sequence[Offer]:
        """What the server offers now; raises `McpUnavailable`."""
        return tuple((await self._of(server).live()).offers.values())

    def _of(self, server: McpServer) -> _Connection:
        if self._tasks is None:
            raise RuntimeError(
                "these connections are not open: async with McpConnections() as mcp, and the engine inside."
            )
        return self._open.setdefault(server, _Connection(server, self, self._tasks))


@dataclass
class _Session:
    """One life of a server."""

    client: Client
    pulse: Pulse
    listed_at: float = 0.0
    offers: Mapping[str, Offer] = field(default_factory=dict[str, Offer])
    stale: bool = True


class _Connection:
    """One server: at most one session at a time."""

    def __init__(
        self, server: McpServer, settings: McpConnections, tasks: anyio.abc.TaskGroup
    ) -> None:
        self._server = server
        self._settings = settings
        self._tasks = tasks
        self._lock = anyio.Lock()
        self._session: _Session | None = None
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)

    async def call(
        self, offer: Offer, arguments: dict[str, Any], progress: Any, meta: dict[str, Any]
    ) -> CallToolResult:
        from mcp import MCPError

        session = await self.live()
        self._check(session, offer)
        try:
            return await session.client.call_tool(
                offer.name, arguments, progress_callback=progress, meta=cast("Any", meta)
            )
        except MCPError as error:
            if self._server.url and error.message == _FORGOTTEN:
                session.pulse.gone.set()
                raise self._unavailable(error, session.pulse) from error
            if session.pulse.gone.is_set() or self._lost(error.code):
                raise self._died(session, f"{offer.name!r}: {seen(error.message, 200)}") from error
            raise McpToolFailed(seen(error.message, _MESSAGE_CHARACTERS_MAX)) from error
        except (RuntimeError, ValueError) as error:  # no result, or not of the promised schema
            raise McpCallLost(
                f"MCP server {self._server.name!r} answered a call of {offer.name!r} with what is no result: "
                f"{seen(str(error), 400)}"
            ) from error

    def _lost(self, code: int) -> bool:
        """Whether an error of an HTTP exchange says that there was none."""
        from mcp_types.jsonrpc import CONNECTION_CLOSED, INTERNAL_ERROR, PARSE_ERROR

        return bool(self._server.url) and code in (CONNECTION_CLOSED, INTERNAL_ERROR, PARSE_ERROR)

    def _died(self, session: _Session, doing: str) -> McpCallLost:
        session.pulse.gone.set()
        words = self._words(session.pulse)
        return McpCallLost(
            f"MCP server {self._server.name!r} was lost in the middle of a call of {doing}. What the call "
            f"did is not known.{words}"
        )

    def _words(self, pulse: Pulse) -> str:
        words = seen(self._server.hidden(pulse.last_words()), _MESSAGE_CHARACTERS_MAX)
        return f" Of the server: {words}." if words else ""

    def _check(self, session: _Session, offer: Offer) -> None:
        now = session.offers.get(offer.name)
        if now is not None and now.digest() == offer.digest():
            return
        what = (
            "is not offered any more"
            if now is None
            else f"has changed ({', '.join(now.changed(offer))})"
        )
        raise McpToolChanged(
            f"tool {seen(offer.name, 80)!r} of MCP server {self._server.name!r} {what} since it was pinned, "
            f"and was not called. Look at it with `flowkit mcp pin --check TARGET`; to accept it, pin it "
            f"anew, then `flowkit retry RUN --on-change keep`. If the server takes it back: `flowkit retry RUN`."
        )

    # ---- a session

    async def live(self) -> _Session:
        """A session that is alive, with a list of tools that is not old; raises `McpUnavailable`."""
        from mcp import MCPError

        async with self._lock:
            session = self._session
            if session is not None and session.pulse.gone.is_set():
                self._deaths.append(anyio.current_time())
                session = self._session = None
            if session is None:
                session = self._session = await self._start()
            elif session.stale or anyio.current_time() - session.listed_at > self._settings.check_s:
                try:
                    with anyio.fail_after(self._settings.connect_s):
                        await _list(session, self._server.name)
                except (MCPError, TimeoutError, ValueError) as error:
                    session.pulse.gone.set()
                    raise self._unavailable(error, session.pulse) from error
            return session

    async def _start(self) -> _Session:
        self._refuse_a_crasher()
        pulse = Pulse()
        try:
            with anyio.fail_after(self._settings.connect_s):
                made: _Session = await self._tasks.start(self._hold, pulse)
                return made
        except _failures() as error:
            self._deaths.append(anyio.current_time())
            raise self._unavailable(error, pulse) from error

    def _refuse_a_crasher(self) -> None:
        if len(self._deaths) == DEATHS_MAX:
            left = self._deaths[0] + _MINUTE_S - anyio.current_time()
            if left > 0:
                raise McpUnavailable(
                    f"MCP server {self._server.name!r} has died {DEATHS_MAX} times within a minute; it is not "
                    f"started again for {left:.0f} s. Use another tool."
                )

    def _unavailable(self, error: BaseException, pulse: Pulse) -> McpUnavailable:
        why = error
        while isinstance(why, BaseExceptionGroup):
            why = cast("BaseExceptionGroup[BaseException]", why).exceptions[0]
        words = self._words(pulse)
        late = f"it did not tell its tools within {self._settings.connect_s:g} s"
        told = late if isinstance(why, TimeoutError) else seen(str(why), 400) or type(why).__name__
        return McpUnavailable(
            f"MCP server {self._server.name!r} cannot be used: {told}.{words}"
            f" The tool was not called."
        )

    async def _hold(self, pulse: Pulse, *, task_status: anyio.abc.TaskStatus[_Session]) -> None:
        """Keep a session open until the server is gone; a task of its own, as its scopes need."""
        began = False
        try:
            async with self._opened(pulse) as session, anyio.create_task_group() as tasks:
                tasks.start_soon(_heed, session)
                await _list(session, self._server.name)
                began = True
                task_status.started(session)
                await pulse.gone.wait()
                tasks.cancel_scope.cancel()
        except _failures() as error:
            if not began:
                raise  # for who waits for it
            log.debug("MCP server %s ended: %r", self._server.name, error)
        finally:
            pulse.gone.set()

    @asynccontextmanager
    async def _opened(self, pulse: Pulse) -> AsyncGenerator[_Session]:
        from mcp import Client
        from mcp_types import Implementation

        sessions: list[_Session] = []

        async def hear(message: Any) -> None:
            if getattr(message, "method", "") == "notifications/tools/list_changed":
                for session in sessions:
                    session.stale = True

        transport: AbstractAsyncContextManager[Any] = (
            reached(self._server, pulse) if self._server.url else launched(self._server, pulse)
        )
        me = Implementation(name="flowkit", version="1")
        async with Client(transport, cache=None, message_handler=hear, client_info=me) as client:
            session = _Session(client, pulse)
            sessions.append(session)
            yield session


async def _heed(session: _Session) -> None:
    """Hear of changed tools from a server of 2026-07-28 or later; older ones tell unasked."""
    from mcp import MCPError
    from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost

    with suppress(MCPError, ListenNotSupportedError, SubscriptionLost, TimeoutError):
        async with session.client.listen(tools_list_changed=True) as told:
            async for _ in told:
                session.stale = True
    # Without such a stream the age of the list counts.


async def _list(session: _Session, server: str) -> None:
    """Ask for all tools, page by page."""
    session.stale = False  # a change that is told from here on counts
    listed: list[Any] = []
    cursor: str | None = None
    while True:
        page = await session.client.list_tools(cursor=cursor)
        listed += page.tools
        cursor = page.next_cursor
        if len(listed) > TOOLS_MAX or (cursor is not None and not page.tools):
            raise DeclarationError(
                f"it offers more than {TOOLS_MAX:,} tools, or its list has no end"
            )
        if cursor is None:
            break
    session.offers = {each.name: each for each in offers_of(listed, server)}
    session.listed_at = anyio.current_time()


def _failures() -> tuple[type[Exception], ...]:
    """What the SDK, the system and a server may raise where a session begins or ends."""
    import httpx2
    from mcp import MCPError

    return (
        MCPError, OSError, LookupError, RuntimeError, ValueError, anyio.ClosedResourceError,
        anyio.BrokenResourceError, httpx2.HTTPError, ExceptionGroup,
    )  # fmt: skip


def check_installed() -> None:
    """Refuse to go on without the SDK; raises `DeclarationError`."""
    if importlib.util.find_spec("mcp") is None:
        raise DeclarationError(
            "MCP servers are spoken to with the official SDK, which is not installed: "
            "pip install 'flowkit-agents[mcp]'."
        )
