"""A language model in this process: a GGUF file in llama.cpp, without a server and without a key."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.lowlevel import RunVar

from flowkit.chat import Delta, ModelAnswer, ModelRequest, OnDelta
from flowkit.errors import BadModelRequest, ModelUnavailable, NoModel
from flowkit.model import gguf
from flowkit.model.access import PLACEHOLDER, Access
from flowkit.model.calling import by_schema
from flowkit.model.faults import error_of, read_fault
from flowkit.model.llama import Llama, Serving, Shared
from flowkit.model.profile import Profile
from flowkit.model.reading import Assembly, conclude, error_in
from flowkit.model.toolset import names_of
from flowkit.model.wire import Way, Wire, digest, ways

if TYPE_CHECKING:
    from types import TracebackType


class LocalModel:
    """A GGUF file that answers in this process. Runs under asyncio and under trio.

    `file` is a path, or the name of a known file that was fetched (`flowkit model fetch`). It is loaded
    once, at the first request, and by however many runs and event loops use this object; `aclose()`
    frees the memory. Raises `NoModel` for a file that is not there.

    `profile` is `local` unless given: its `context_tokens` is the window of each of the `slots` that
    answer side by side, its `tool_mode` how tools are called. With `json_schema`, the default, nothing
    but a call of a tool or a reply can be written, and every text in it has an end. `threads`: 0 for
    one less than there are cores. `template`: a chat template in place of the file's own: `chatml`, in
    which small models do call tools, or the path of a Jinja file; it matters with `tool_mode` `native`
    and `auto`. `name`: what the model is called; else the file's.

    A request's `deadline` bounds the whole of it. Who is cancelled gets away after the next token, or
    after the next 256 tokens of the prompt.
    """

    def __init__(
        self,
        file: str | Path,
        *,
        profile: Profile | str = "local",
        slots: int = 1,
        threads: int = 0,
        template: str = "",
        name: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        if slots < 1 or threads < 0:
            raise ValueError("slots= must be 1 or more, and threads= 0 or more")
        environ = os.environ if environ is None else environ
        path = gguf.found(str(file), environ)
        profile = Profile.named(profile) if isinstance(profile, str) else profile
        self._name = name or path.stem
        self._wire = Wire(self.name, profile)
        self._access = Access(self.name, "", "this process", PLACEHOLDER, "", openai=False)
        serving = Serving(path, profile.context_tokens, slots, threads, template)
        self._shared = Shared(serving)
        self._loops: RunVar[anyio.CapacityLimiter | None] = RunVar("flowkit-local", None)
        self._refused: set[tuple[str, Way]] = set()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, name: str = "") -> Self:
        """The model that `name`, or else FLOWKIT_MODEL, asks for: `local`, `local:NAME`, `local:FILE`.

        FLOWKIT_PROFILE, FLOWKIT_LOCAL_CONTEXT (tokens) and FLOWKIT_LOCAL_THREADS are read as well.
        """
        environ = os.environ if environ is None else environ
        profile = Profile.named(environ.get("FLOWKIT_PROFILE", "").strip() or "local")
        context = _number(environ, "FLOWKIT_LOCAL_CONTEXT") or profile.context_tokens
        name = name or environ.get("FLOWKIT_MODEL", "").strip() or gguf.PREFIX
        return cls(
            name,
            name=name,
            profile=profile.with_context(context),
            threads=_number(environ, "FLOWKIT_LOCAL_THREADS"),
            environ=environ,
        )

    @staticmethod
    def configured(environ: Mapping[str, str] | None = None, *, name: str = "") -> bool:
        """Whether `name`, or else FLOWKIT_MODEL, asks for a model in this process."""
        environ = os.environ if environ is None else environ
        return gguf.is_local(name or environ.get("FLOWKIT_MODEL", "").strip())

    @property
    def name(self) -> str:
        return self._name

    @property
    def profile(self) -> Profile:
        return self._wire.profile

    @property
    def context_tokens(self) -> int:
        """The window of one request, of prompt and answer together."""
        return self.profile.context_tokens

    def __repr__(self) -> str:
        return (
            f"LocalModel({str(self._shared.serving.path)!r}, tool_mode={self.profile.tool_mode!r})"
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
        """Free the memory; a later request loads the file again."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._shared.close)

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Ask the model once; `on_delta` gets text piece by piece. Raises a `ModelError`.

        Where an answer must fit a schema that has calls in it, its text comes in one piece, when it is
        known to be no call.
        """
        left_s = None if request.deadline is None else request.deadline - time.time()
        if left_s is None or left_s > 0:
            with anyio.move_on_after(left_s):
                return await self._respond(request, on_delta)
        raise ModelUnavailable(
            f"The request's deadline passed before {self._access.where} had answered. Give the run more "
            "time, take a smaller model, or ask for less."
        )

    async def _respond(self, request: ModelRequest, on_delta: OnDelta | None) -> ModelAnswer:
        if self.profile.tool_mode != "json_schema":
            return await self._asked(request, on_delta)
        limit = self.profile.answer_limit(request.settings)
        return await by_schema(self._asked, request, on_delta, tokens_max=limit)

    async def _asked(self, request: ModelRequest, on_delta: OnDelta | None) -> ModelAnswer:
        """Ask; where llama.cpp does not take the schema, ask for JSON in words."""
        schema = "" if request.schema is None else digest(request.schema)
        while True:
            way = self._way(request, schema)
            try:
                return await self._answer(request, way, on_delta)
            except BadModelRequest as error:
                if way is None or way == "prompt" or not error.schema_refused:
                    raise
                self._refused.add((schema, way))

    def _way(self, request: ModelRequest, schema: str) -> Way | None:
        for way in ways(request, self.profile):
            if (schema, way) not in self._refused:
                return way
        return None

    async def _answer(
        self, request: ModelRequest, way: Way | None, on_delta: OnDelta | None
    ) -> ModelAnswer:
        sent = self._wire.body(request, way)
        got = Assembly(self.profile)
        await anyio.to_thread.run_sync(
            partial(self._generate, sent, got, on_delta), limiter=self._limiter()
        )
        if (held := got.end()) and on_delta is not None:
            await on_delta(held)
        names = names_of(request.tools) if self.profile.reads_calls else frozenset[str]()
        return conclude(got, self._access, self.profile, tools=names)

    def _generate(self, sent: bytes, got: Assembly, on_delta: OnDelta | None) -> None:
        """Have the answer made, in a thread; each piece is given to the event loop that waits."""

        async def give(delta: Delta) -> None:
            if on_delta is not None:
                await on_delta(delta)

        def told(chunk: dict[str, Any]) -> None:
            anyio.from_thread.check_cancelled()
            if said := error_in(chunk):
                raise error_of(read_fault(said), self._access)
            delta = got.feed(chunk)
            if delta is not None:
                anyio.from_thread.run(give, delta)

        engine: Llama = self._shared.acquire()
        try:
            engine.chat(sent, told)
        finally:
            self._shared.release()

    def _limiter(self) -> anyio.CapacityLimiter:
        """As many threads of the running event loop as there are slots; who waits can be cancelled."""
        limiter = self._loops.get()
        if limiter is None:
            limiter = anyio.CapacityLimiter(self._shared.serving.slots)
            self._loops.set(limiter)
        return limiter


def _number(environ: Mapping[str, str], name: str) -> int:
    """A number in the environment, 0 for none. Raises `NoModel` for what is none."""
    text = environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise NoModel(f"{name}={text!r}: give a number, such as 8192.")
    return int(text or 0)
