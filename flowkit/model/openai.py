"""A model behind an OpenAI-compatible server, by the openai SDK, over chat completions."""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from flowkit.chat import Delta, ModelAnswer, ModelRequest, OnDelta
from flowkit.errors import BadModelRequest, ModelUnavailable, RateLimited
from flowkit.model import access as accesses
from flowkit.model.access import Access
from flowkit.model.calling import by_schema
from flowkit.model.faults import error_of, read_fault, refuses_tools, unreachable, wants_reasoning
from flowkit.model.limiter import Limiter, Slot
from flowkit.model.profile import Profile
from flowkit.model.reading import ANSWER_CHARS_MAX, Assembly, conclude, error_in
from flowkit.model.sse import EventReader, WholeReader
from flowkit.model.toolset import names_of
from flowkit.model.usage import priced
from flowkit.model.wire import Way, Wire, answer_name, digest, ways

if TYPE_CHECKING:
    from types import TracebackType

    from openai import AsyncOpenAI

T = TypeVar("T")

DRAIN_S: Final = 0.1
"""Seconds to wait for the end of a connection after the end of an answer."""

WHOLE_TIMEOUT_S: Final = 600.0
"""The longest silence before an answer that does not come in pieces, of which silence is the rule."""

CHARS_PER_TOKEN: Final = 4
"""About, for the tokens of a request that are not counted yet."""


@dataclass(slots=True)
class _Loop:
    """What belongs to one event loop. `prices`: the module, None where it is not installed."""

    client: AsyncOpenAI
    limiter: Limiter
    prices: Any


class OpenAIModel:
    """A model of an OpenAI-compatible server. Runs under asyncio and under trio.

    What is left out is read from `environ` (the process's, unless given) as `flowkit.model.access`
    says; without a name, it is FLOWKIT_MODEL or the provider's default. Raises `NoModel` where no
    key and no server is configured.

    A `profile` that is not given, nor named by FLOWKIT_PROFILE, is guessed from server and name.
    `concurrency` requests run side by side, fewer for a while after a `RateLimited`;
    `tokens_per_minute` counts prompt and answer, and before an answer its limit. Both hold for one
    event loop, in which others wait. A request's `deadline` bounds the whole of it, waiting
    included. Failures are not retried here: the engine does. `http_client` is an `httpx` client of
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
        concurrency: int = 4,
        tokens_per_minute: int | None = None,
        http_client: Any = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._access = accesses.resolve(
            environ, name=name, base_url=base_url or "", key=api_key or ""
        )
        profile = profile or environ.get("FLOWKIT_PROFILE", "").strip()
        if isinstance(profile, str):
            profile = (
                Profile.named(profile, model=self.name)
                if profile
                else Profile.guessed(self._access.host, model=self.name)
            )
        if concurrency < 1 or (tokens_per_minute is not None and tokens_per_minute < 1):
            raise ValueError("concurrency= and tokens_per_minute= must be 1 or more")
        self._wire = Wire(self.name, profile)
        self._limits = concurrency, tokens_per_minute
        self._http_client = http_client
        self._loops: RunVar[_Loop | None] = RunVar("flowkit-openai", None)
        self._refused: set[tuple[str, Way]] = set()
        self._takes_no_tools = False

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        name: str = "",
        api_key: str | None = None,
        base_url: str | None = None,
        profile: Profile | str | None = None,
        concurrency: int = 4,
        tokens_per_minute: int | None = None,
        http_client: Any = None,
    ) -> Self:
        """The model that the environment names; arguments come before it."""
        return cls(
            name,
            api_key=api_key,
            base_url=base_url,
            profile=profile,
            concurrency=concurrency,
            tokens_per_minute=tokens_per_minute,
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

    @property
    def profile(self) -> Profile:
        return self._wire.profile

    @property
    def context_tokens(self) -> int:
        """The window of the model, of prompt and answer together, as its profile says."""
        return self.profile.context_tokens

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
        loop = self._loops.get()
        if loop is not None:
            self._loops.set(None)
            if self._http_client is None:
                await loop.client.close()

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Ask the model once; `on_delta` gets text and reasoning piece by piece.

        If the server refuses the schema, or an earlier answer that has no reasoning, it is asked
        again in the way that it takes. Raises a `ModelError`.
        """
        left_s = None if request.deadline is None else request.deadline - time.time()
        if left_s is None or left_s > 0:
            with anyio.move_on_after(left_s):
                return await self._in_mode(request, on_delta)
        raise ModelUnavailable(
            f"The request's deadline passed before {self._access.where} had answered. Give the "
            "run more time, or ask for less."
        )

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """A vector for each text, by the server's `/embeddings`. Raises a `ModelError`.

        For a model of embeddings, such as `OpenAIModel("text-embedding-3-small")`.
        """
        loop = await self._loop()
        tokens = sum(map(len, texts)) / CHARS_PER_TOKEN
        async with loop.limiter.slot(tokens) as slot:
            try:
                body = {"model": self.name, "input": list(texts), "encoding_format": "float"}
                posting = loop.client.post(
                    "/embeddings", cast_to=object, body=body, options={"timeout": WHOLE_TIMEOUT_S}
                )
                made = await self._guard(posting)
            except RateLimited:
                loop.limiter.lower(slot)
                raise
        vectors = _vectors(made)
        if len(vectors) != len(texts):
            raise ModelUnavailable(
                f"{len(vectors)} vectors came from {self._access.where} for {len(texts)} texts. Try "
                "again; if it is always so, see that its /embeddings is OpenAI's."
            )
        return vectors

    async def _in_mode(self, request: ModelRequest, on_delta: OnDelta | None) -> ModelAnswer:
        """Ask as the profile's `tool_mode` has it."""
        if self.profile.tool_mode == "auto" and request.tools and not self._takes_no_tools:
            try:
                return await self._respond(request, on_delta)
            except BadModelRequest as error:
                if not refuses_tools(error):
                    raise
                self._takes_no_tools = True
        if self.profile.tool_mode == "json_schema" or self._takes_no_tools:
            limit = self.profile.answer_limit(request.settings)
            return await by_schema(self._respond, request, on_delta, tokens_max=limit)
        return await self._respond(request, on_delta)

    async def _respond(self, request: ModelRequest, on_delta: OnDelta | None) -> ModelAnswer:
        schema = "" if request.schema is None else digest(request.schema)
        while True:
            wire = self._wire
            way = self._way(request, wire.profile, schema)
            try:
                return await self._ask(request, on_delta, wire, way)
            except BadModelRequest as error:
                refused = error
            if wants_reasoning(refused) and wire.profile.fill_reasoning is None:
                self._wire = wire.filling()
            elif way == "tool" or (way == "response_format" and refused.schema_refused):
                self._refused.add((schema, way))
            else:
                raise refused

    def _way(self, request: ModelRequest, profile: Profile, schema: str) -> Way | None:
        """The best way that the server has not refused for this schema."""
        for way in ways(request, profile):
            if (schema, way) not in self._refused:
                return way
        return None

    async def _ask(
        self, request: ModelRequest, on_delta: OnDelta | None, wire: Wire, way: Way | None
    ) -> ModelAnswer:
        sent = wire.body(request, way)
        profile = wire.profile
        got = Assembly(profile)
        loop = await self._loop()
        async with loop.limiter.slot(_estimate(sent, request, profile)) as slot:
            try:
                async with self._opened(loop.client, sent, profile) as (reader, pieces):
                    await self._read(pieces, reader, got, on_delta)
            except RateLimited:
                loop.limiter.lower(slot)
                raise
            _settle(slot, got)
        if (held := got.end()) and on_delta is not None:
            await on_delta(held)
        answer = conclude(
            got,
            self._access,
            profile,
            tools=names_of(request.tools) if profile.reads_calls else frozenset[str](),
            forced=answer_name(request) if way == "tool" else "",
        )
        usage = priced(
            answer.usage, loop.prices, self._access.base_url, answer.model, self._access.name
        )
        return answer if usage is answer.usage else replace(answer, usage=usage)

    @asynccontextmanager
    async def _opened(
        self, client: AsyncOpenAI, sent: bytes, profile: Profile
    ) -> AsyncGenerator[tuple[EventReader | WholeReader, AsyncIterator[bytes]]]:
        """Send a request: what makes events of the answer, and the bytes of it.

        The SDK's `create()` would walk through all messages once more, so it gets bytes.
        """
        sdk = import_module("openai")
        silence_s = profile.idle_timeout_s if profile.stream else WHOLE_TIMEOUT_S
        timeout = sdk.Timeout(silence_s, connect=profile.connect_timeout_s)
        posting = client.post(
            "/chat/completions",
            cast_to=object,
            content=sent,
            options={"timeout": timeout},
            stream=True,
            stream_cls=sdk.AsyncStream[object],
        )
        response = (await self._guard(posting)).response
        pieces: AsyncIterator[bytes] = response.aiter_bytes()
        try:
            media_type = response.headers.get("content-type", "").partition(";")[0]
            if media_type == "text/html":
                raise BadModelRequest(
                    f"A web page came instead of an answer from {self._access.where}. Check that "
                    "the base URL ends where the API begins, usually in /v1."
                )
            yield WholeReader() if media_type == "application/json" else EventReader(), pieces
        finally:
            await _drain(pieces)
            with anyio.CancelScope(shield=True):
                await response.aclose()

    async def _read(
        self,
        pieces: AsyncIterator[bytes],
        reader: EventReader | WholeReader,
        got: Assembly,
        on_delta: OnDelta | None,
    ) -> None:
        """Take the answer to its end. Raises `ModelUnavailable` for one that was cut."""
        ended = False
        while not ended:
            piece = await self._guard(anext(pieces, None))
            ended = piece is None
            for event in reader.end() if piece is None else reader.feed(piece):
                if event.startswith(b"[DONE]"):
                    return
                delta = self._feed(got, event)
                if delta is not None and on_delta is not None:
                    await on_delta(delta)
            if max(got.chars, reader.waiting) > ANSWER_CHARS_MAX:
                raise ModelUnavailable(
                    f"More than {ANSWER_CHARS_MAX} characters came from {self._access.where} in "
                    "one answer. The server is broken, or is no model.",
                    retryable=False,
                )
        if self.profile.ends_with_done and isinstance(reader, EventReader):
            raise ModelUnavailable(
                f"The answer of {self._access.where} broke off after {got.chars} characters, "
                "without [DONE]. Try again; for a server that never sends it, use a profile with "
                "ends_with_done=False."
            )

    def _feed(self, got: Assembly, event: bytes) -> Delta | None:
        """Take a chunk, or a whole answer; give what is new. Raises the error it may be."""
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

    async def _loop(self) -> _Loop:
        """What belongs to the running event loop. The SDK takes a second to import: in a thread."""
        if (loop := self._loops.get()) is not None:
            return loop
        sdk = await anyio.to_thread.run_sync(import_module, "openai")
        prices = await anyio.to_thread.run_sync(_prices)
        if (loop := self._loops.get()) is not None:
            return loop
        client = sdk.AsyncOpenAI(
            api_key=self._access.key,
            base_url=self._access.base_url,
            max_retries=0,
            default_headers=_headers(self._access, sdk.Omit()),
            http_client=self._http_client,
        )
        loop = _Loop(client, Limiter(*self._limits), prices)
        self._loops.set(loop)
        return loop


def _vectors(made: object) -> Sequence[Sequence[float]]:
    """The vectors of an answer of `/embeddings`, in the order of the texts."""
    data: Any = cast("dict[str, Any]", made).get("data") if isinstance(made, dict) else None
    try:
        return [each["embedding"] for each in sorted(data, key=lambda each: int(each["index"]))]
    except (LookupError, TypeError, ValueError):
        return ()


def _prices() -> Any:
    """The module of the extra `prices`, where it is installed."""
    try:
        return import_module("genai_prices")
    except ImportError:
        return None


def _estimate(sent: bytes, request: ModelRequest, profile: Profile) -> float:
    """The tokens that a server may count for a request: of the prompt, and the answer's limit."""
    return len(sent) / CHARS_PER_TOKEN + profile.answer_limit(request.settings)


def _settle(slot: Slot, got: Assembly) -> None:
    if used := got.usage.input_tokens + got.usage.output_tokens:
        slot.used = used


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
