"""A model behind an OpenAI-compatible server, by the openai SDK, over streamed chat completions."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from flowkit.chat import Delta, ModelAnswer, ModelRequest, OnDelta
from flowkit.errors import BadModelRequest, ModelUnavailable
from flowkit.model import access as accesses
from flowkit.model.access import Access
from flowkit.model.faults import error_of, read_fault, unreachable
from flowkit.model.profile import Profile
from flowkit.model.reading import ANSWER_CHARS_MAX, Assembly, conclude, error_in
from flowkit.model.sse import EventReader, WholeReader
from flowkit.model.wire import body

if TYPE_CHECKING:
    from types import TracebackType

    from openai import AsyncOpenAI

T = TypeVar("T")

DRAIN_S: Final = 0.1
"""Seconds to wait for the end of a connection after the end of an answer."""


class OpenAIModel:
    """A model of an OpenAI-compatible server. Runs under asyncio and under trio.

    What is left out is read from `environ` (the process's, unless given) as `flowkit.model.access`
    says; without a name, it is FLOWKIT_MODEL or the provider's default. Raises `NoModel` where no
    key and no server is configured.

    `idle_timeout_s` is the longest silence inside an answer; a request's `deadline` bounds the
    whole of it. Nothing is retried here: the engine does. `http_client` is an `httpx` client of
    the kind that the installed openai SDK takes; who passes one closes it.

    A model may be used from several event loops: each gets connections of its own. `aclose()`
    closes those of the running one.
    """

    def __init__(
        self,
        name: str = "",
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        profile: Profile | str | None = None,
        http_client: Any = None,
        connect_timeout_s: float = 15.0,
        idle_timeout_s: float = 120.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._access = accesses.resolve(
            environ, name=name, base_url=base_url or "", key=api_key or ""
        )
        profile = profile or environ.get("FLOWKIT_PROFILE", "").strip()
        if isinstance(profile, str):
            host = self._access.host
            profile = Profile.named(profile) if profile else Profile.of_host(host)
        self.profile = profile
        self._http_client = http_client
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._clients: RunVar[AsyncOpenAI | None] = RunVar("flowkit-openai", None)
        self._refused_schemas: set[str] = set()

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        name: str = "",
        api_key: str | None = None,
        base_url: str | None = None,
        profile: Profile | str | None = None,
        http_client: Any = None,
    ) -> Self:
        """The model that the environment names; arguments come before it."""
        return cls(
            name,
            api_key=api_key,
            base_url=base_url,
            profile=profile,
            http_client=http_client,
            environ=environ,
        )

    @staticmethod
    def configured(environ: Mapping[str, str] | None = None) -> bool:
        """Whether the environment asks for a language model.

        True also for what `from_env` refuses, such as a base URL with a typing error: that should
        be heard of, and not be answered by a stand-in.
        """
        return accesses.configured(os.environ if environ is None else environ)

    @property
    def name(self) -> str:
        return self._access.name

    def __repr__(self) -> str:
        return (
            f"OpenAIModel({self.name!r}, at={self._access.host!r}, profile={self.profile.name!r})"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections of the running event loop; a later request opens new ones."""
        client = self._clients.get()
        if client is not None:
            self._clients.set(None)
            if self._http_client is None:
                await client.close()

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Ask the model once; `on_delta` gets the visible text piece by piece.

        If the server refuses the schema, it is asked a second time with the schema in the prompt.
        Raises a `ModelError`.
        """
        left_s = None if request.deadline is None else request.deadline - time.time()
        if left_s is None or left_s > 0:
            with anyio.move_on_after(left_s):
                return await self._respond(request, on_delta)
        raise ModelUnavailable(
            f"The request's deadline passed before {self._access.where} had answered. Give the "
            "run more time, or ask for less."
        )

    async def _respond(self, request: ModelRequest, on_delta: OnDelta | None) -> ModelAnswer:
        schema = _digest(request.schema)
        if not self.profile.json_schema or schema in self._refused_schemas:
            return await self._ask(request, on_delta, schema_in_prompt=True)
        try:
            return await self._ask(request, on_delta, schema_in_prompt=False)
        except BadModelRequest as error:
            if request.schema is None or not error.schema_refused:
                raise
        self._refused_schemas.add(schema)
        return await self._ask(request, on_delta, schema_in_prompt=True)

    async def _ask(
        self, request: ModelRequest, on_delta: OnDelta | None, *, schema_in_prompt: bool
    ) -> ModelAnswer:
        sent = body(request, self.profile, schema_in_prompt=schema_in_prompt)
        client = await self._client()
        opening = client.chat.completions.with_streaming_response.create(
            model=self.name, messages=sent.pop("messages"), stream=True, extra_body=sent
        )
        got = Assembly(self.profile)
        async with AsyncExitStack() as stack:
            opened = await self._guard(stack.enter_async_context(opening))
            response = opened.http_response
            media_type = response.headers.get("content-type", "").partition(";")[0]
            if media_type == "text/html":
                raise BadModelRequest(
                    f"A web page came instead of an answer from {self._access.where}. Check that "
                    "the base URL ends where the API begins, usually in /v1."
                )
            reader = WholeReader() if media_type == "application/json" else EventReader()
            pieces = response.aiter_bytes()
            stack.push_async_callback(_drain, pieces)
            await self._read(pieces, reader, got, on_delta)
        return conclude(got, self._access)

    async def _read(
        self,
        pieces: AsyncIterator[bytes],
        reader: EventReader | WholeReader,
        got: Assembly,
        on_delta: OnDelta | None,
    ) -> None:
        """Take the stream to its end, be that told or not."""
        ended = False
        while not ended:
            piece = await self._guard(anext(pieces, None))
            ended = piece is None
            for event in reader.end() if piece is None else reader.feed(piece):
                if event.startswith(b"[DONE]"):
                    return
                text = self._feed(got, event)
                if text and on_delta is not None:
                    await on_delta(Delta(text))
            if max(got.chars, reader.waiting) > ANSWER_CHARS_MAX:
                raise ModelUnavailable(
                    f"More than {ANSWER_CHARS_MAX} characters came from {self._access.where} in "
                    "one answer. The server is broken, or is no model.",
                    retryable=False,
                )

    def _feed(self, got: Assembly, event: bytes) -> str:
        """Take a chunk, or a whole answer; give its visible text. Raises the error it may be."""
        try:
            chunk: object = json.loads(event.decode())
        except (ValueError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            raise ModelUnavailable(
                f"Something that is not a JSON object came from {self._access.where}. Try again; "
                "if it is always so, check the base URL."
            )
        if said := error_in(cast("dict[str, Any]", chunk)):
            raise error_of(read_fault(said), self._access)
        return got.feed(cast("dict[str, Any]", chunk))

    async def _guard(self, work: Awaitable[T]) -> T:
        """Wait for the SDK, and turn what it raises into a `ModelError`.

        Raised outside the handler, so that it has no context: the SDK's error carries the request
        and with it the key, for whoever reports errors with all their attributes.
        """
        sdk = import_module("openai")
        try:
            return await work
        except (sdk.OpenAIError, *_transport_errors()) as error:
            caught = error
        status: object = getattr(caught, "status_code", None)
        if isinstance(status, int):
            said = getattr(caught, "body", None)
            headers = getattr(getattr(caught, "response", None), "headers", None)
            raise error_of(read_fault(said, status=status, headers=headers), self._access)
        raise unreachable(self._access, caught)

    async def _client(self) -> AsyncOpenAI:
        """The client of the running event loop. The SDK takes a second to import: in a thread."""
        if (client := self._clients.get()) is not None:
            return client
        sdk = await anyio.to_thread.run_sync(import_module, "openai")
        if (client := self._clients.get()) is not None:
            return client
        client = cast(
            "AsyncOpenAI",
            sdk.AsyncOpenAI(
                api_key=self._access.key,
                base_url=self._access.base_url,
                timeout=sdk.Timeout(self._idle_timeout_s, connect=self._connect_timeout_s),
                max_retries=0,
                default_headers=_headers(self._access, sdk.Omit()),
                http_client=self._http_client,
            ),
        )
        self._clients.set(client)
        return client


def _headers(access: Access, omitted: object) -> dict[str, object]:
    """Headers that undo what the SDK reads from the environment by itself.

    The key is always ours. To servers that OpenAI's variables do not speak for, its organisation,
    project and extra headers are not sent: they may be secrets too.
    """
    headers: dict[str, object] = {"Authorization": f"Bearer {access.key}"}
    if not access.openai:
        lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
        names = [line.partition(":")[0].strip() for line in lines if ":" in line]
        for name in ("OpenAI-Organization", "OpenAI-Project", *names):
            if name.lower() != "authorization":
                headers[name] = omitted
    return headers


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the SDK lets through of the layers below it; httpx's name depends on its version."""
    modules = [sys.modules[name] for name in ("httpx2", "httpx") if name in sys.modules]
    errors = cast("list[type[Exception]]", [module.HTTPError for module in modules])
    return (*errors, ssl.SSLError, anyio.EndOfStream)


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read what is left, for a moment.

    A connection can be used again only when its answer was read to the end; and being read, or
    cancelled while it is, ends every generator below: to trio, one left open is a mistake.
    """
    with anyio.move_on_after(DRAIN_S, shield=True), suppress(*_transport_errors()):
        async for _ in pieces:
            pass


def _digest(schema: Mapping[str, Any] | None) -> str:
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()
