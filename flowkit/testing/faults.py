"""What goes wrong between a model and its client, as data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

from flowkit.chat import ModelRequest
from flowkit.errors import (
    BadModelRequest,
    ContentFiltered,
    ContextOverflow,
    ModelAuthError,
    ModelError,
    ModelNotFound,
    ModelUnavailable,
    QuotaExhausted,
    RateLimited,
)
from flowkit.testing.leaks import Variant

Kind = Literal[
    "http",
    "dropped",
    "cut",
    "error_chunk",
    "malformed",
    "no_choices",
    "odd_chunks",
    "slow",
    "leaked",
    "index_zero",
    "finish",
    "reasoning_only",
]


def _no_headers() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with one request. Make it by the methods below.

    `after` is the number of chunks that come before it; None for half of them.
    """

    kind: Kind
    status: int = 200
    error_type: str = ""
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=_no_headers)
    after: int | None = None
    how: Literal["end", "close", "reset"] = "end"
    pause_s: float = 0.0
    where: Literal["content", "reasoning"] = "content"
    variant: Variant = "plain"
    reasons: tuple[str | None, ...] = ()

    @classmethod
    def http(
        cls,
        status: int,
        error_type: str = "server_error",
        message: str = "The server had an error while processing your request",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """An error in place of the answer."""
        return cls("http", status, error_type, message, MappingProxyType(dict(headers or {})))

    @classmethod
    def overloaded(cls, *, retry_after: str = "") -> Fault:
        """429, and it is the server's fault."""
        text = "The engine is currently overloaded, please try again later"
        headers = {"Retry-After": retry_after} if retry_after else {}
        return cls.http(429, "engine_overloaded_error", text, headers=headers)

    @classmethod
    def rate_limited(
        cls,
        *,
        retry_after: str = "",
        retry_after_ms: str = "",
        message: str = "Your account reached its max request limit",
    ) -> Fault:
        """429, and it is the client's. `retry_after` is seconds or an HTTP date, as it is sent.

        A message may tell the wait as well: `"..., please try again after 1 seconds"`.
        """
        given = {"Retry-After": retry_after, "retry-after-ms": retry_after_ms}
        headers = {name: value for name, value in given.items() if value}
        return cls.http(429, "rate_limit_reached_error", message, headers=headers)

    @classmethod
    def quota_exhausted(cls) -> Fault:
        """429 that no waiting helps."""
        text = "Your account is suspended, please check your plan and billing details"
        return cls.http(429, "exceeded_current_quota_error", text)

    @classmethod
    def dropped(cls) -> Fault:
        """The connection is closed before any answer."""
        return cls("dropped")

    @classmethod
    def cut(
        cls, after: int | None = None, *, how: Literal["end", "close", "reset"] = "end"
    ) -> Fault:
        """The stream stops after so many chunks, without `[DONE]`.

        `end`: as if it were whole, `close`: in the middle of the transfer, `reset`: by TCP.
        """
        return cls("cut", after=after, how=how)

    @classmethod
    def error_chunk(
        cls,
        error_type: str = "engine_overloaded_error",
        message: str = "The engine is currently overloaded, please try again later",
        *,
        after: int | None = None,
    ) -> Fault:
        """An error object in the stream, which has begun with 200."""
        return cls("error_chunk", error_type=error_type, message=message, after=after)

    @classmethod
    def malformed(cls, after: int | None = None) -> Fault:
        """A chunk that is no JSON."""
        return cls("malformed", after=after)

    @classmethod
    def no_choices(cls) -> Fault:
        """All chunks come with `choices: []`: an answer without anything in it."""
        return cls("no_choices")

    @classmethod
    def odd_chunks(cls) -> Fault:
        """A whole answer, with a comment and a chunk without choices among its chunks."""
        return cls("odd_chunks")

    @classmethod
    def slow(cls, pause_s: float = 0.05, *, after: int | None = None) -> Fault:
        """A silence of so many seconds; then it goes on."""
        return cls("slow", pause_s=pause_s, after=after)

    @classmethod
    def leaked(
        cls, where: Literal["content", "reasoning"] = "content", *, variant: Variant = "plain"
    ) -> Fault:
        """Tool calls come as Kimi's tokens in the text. `leaks.LEAKS` has the variants."""
        return cls("leaked", where=where, variant=variant, reasons=("stop",))

    @classmethod
    def index_zero(cls) -> Fault:
        """All tool calls have the index 0, each in one piece."""
        return cls("index_zero")

    @classmethod
    def finish(cls, *reasons: str | None) -> Fault:
        """Other finish reasons than the true one: `finish("stop")` beside calls, `finish(None)`.

        Several come in chunks one after the other: `finish("tool_calls", "tool_calls")`.
        """
        return cls("finish", reasons=reasons)

    @classmethod
    def reasoning_only(cls) -> Fault:
        """The answer ends before its text and its calls."""
        return cls("reasoning_only", reasons=("stop",))


_PAST: Final = "Wed, 21 Oct 2015 07:28:00 GMT"

FAULTS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        "overloaded": Fault.overloaded(),
        "rate_limited": Fault.rate_limited(),
        "rate_limited_seconds": Fault.rate_limited(retry_after="0"),
        "rate_limited_date": Fault.rate_limited(retry_after=_PAST),
        "rate_limited_ms": Fault.rate_limited(retry_after_ms="1"),
        "rate_limited_text": Fault.rate_limited(
            message="Your account reached max request limit, please try again after 0 seconds"
        ),
        "quota_exhausted": Fault.quota_exhausted(),
        "http_500": Fault.http(500),
        "http_502": Fault.http(502),
        "http_503": Fault.http(503),
        "http_504": Fault.http(504),
        "http_529": Fault.http(529),
        "dropped": Fault.dropped(),
        "cut": Fault.cut(),
        "cut_close": Fault.cut(how="close"),
        "cut_reset": Fault.cut(how="reset"),
        "error_chunk": Fault.error_chunk(),
        "malformed": Fault.malformed(),
        "no_choices": Fault.no_choices(),
        "odd_chunks": Fault.odd_chunks(),
        "slow": Fault.slow(),
        "leaked": Fault.leaked(),
        "leaked_reasoning": Fault.leaked("reasoning"),
        "index_zero": Fault.index_zero(),
        "finish_stop": Fault.finish("stop"),
        "finish_twice": Fault.finish("tool_calls", "tool_calls"),
        "finish_none": Fault.finish(None),
        "reasoning_only": Fault.reasoning_only(),
    }
)
"""All kinds by name, without any real wait."""

TRANSIENT: Final = (
    *(name for name in FAULTS if name.startswith(("rate_limited", "http_", "cut"))),
    *("overloaded", "dropped", "error_chunk", "malformed", "no_choices", "reasoning_only"),
)
"""The faults that a client gets over by asking again."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults by lot, drawn from the request's content and the seed: no clock, no order.

    The same request meets the same faults in every process, and at most `times` of them, so that
    who asks again gets an answer. `kinds` are names of `FAULTS`, or faults.
    """

    rate: float
    kinds: Sequence[str | Fault] = TRANSIENT
    seed: int = 0
    times: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"Faults(rate={self.rate!r}): a share of the requests, 0 to 1")
        if unknown := [k for k in self.kinds if isinstance(k, str) and k not in FAULTS]:
            raise ValueError(f"there is no fault {unknown[0]!r}: use one of {', '.join(FAULTS)}")

    def draw(self, digest: str, nth: int) -> Fault | None:
        """The fault for the request of this digest, the nth time it comes (from 0)."""
        lot = hashlib.sha256(f"{self.seed}:{digest}:{nth}".encode()).digest()
        if nth >= self.times or int.from_bytes(lot[:8], "big") >= self.rate * 2**64:
            return None
        kind = self.kinds[int.from_bytes(lot[8:12], "big") % len(self.kinds)]
        fault = FAULTS[kind] if isinstance(kind, str) else kind
        return replace(fault, after=lot[12] % 12) if fault.after is None else fault


FaultRule = Callable[[ModelRequest, int], Fault | None]
"""Chooses the fault for a request, which comes for the nth time (from 0). A rule that does not look
at the number faults for ever."""

FaultPlan = Faults | Sequence[Fault | None] | FaultRule
"""By lot; in the order of the requests, and none after the last; or by a rule."""


class FaultPlayer:
    """Deals the faults of a plan. Not safe in threads by itself."""

    def __init__(self, plan: FaultPlan) -> None:
        self._plan = plan
        self._asked: dict[str, int] = {}
        self._dealt = 0

    def fault(self, request: ModelRequest, digest: str) -> Fault | None:
        """What goes wrong with this request, if anything does."""
        nth = self._asked.get(digest, 0)
        self._asked[digest] = nth + 1
        if isinstance(self._plan, Faults):
            return self._plan.draw(digest, nth)
        if callable(self._plan):
            return self._plan(request, nth)
        self._dealt += 1
        return self._plan[self._dealt - 1] if self._dealt <= len(self._plan) else None


_ERRORS: Final[Sequence[tuple[type[ModelError], int, str]]] = (
    (RateLimited, 429, "rate_limit_reached_error"),
    (QuotaExhausted, 429, "exceeded_current_quota_error"),
    (ModelAuthError, 401, "invalid_authentication_error"),
    (ModelNotFound, 404, "resource_not_found_error"),
    (ContentFiltered, 400, "content_filter"),
    (ContextOverflow, 400, "context_length_exceeded"),
    (BadModelRequest, 400, "invalid_request_error"),
    (ModelUnavailable, 503, "server_error"),
)


def fault_of(error: BaseException) -> Fault:
    """An exception of a script, as a server says it; what is no `ModelError` drops the connection."""
    if isinstance(error, ModelUnavailable) and error.status == 429:
        return replace(Fault.overloaded(), message=str(error))
    for kind, status, error_type in _ERRORS:
        if isinstance(error, kind):
            wait_s = error.retry_after_s
            headers = {} if wait_s is None else {"Retry-After": f"{wait_s:g}"}
            return Fault.http(error.status or status, error_type, str(error), headers=headers)
    if isinstance(error, ModelError):
        return Fault.http(error.status or 500, "server_error", str(error))
    return Fault.dropped()
