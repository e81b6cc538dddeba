"""What a server or the network says went wrong, as one of flowkit's model errors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Final, cast

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
from flowkit.model.access import Access

TEXT_MAX: Final = 400
"""Characters of a server's own text that a message shows."""

_FILTERED: Final = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "data_inspection_failed",
        "moderation_blocked",
        "responsibleaipolicyviolation",
    }
)
_NO_QUOTA: Final = frozenset(
    {
        "billing_hard_limit_reached",
        "billing_not_active",
        "exceeded_current_quota_error",
        "insufficient_balance",
        "insufficient_quota",
    }
)
_OVERLOADED: Final = frozenset(
    {"engine_overloaded_error", "overloaded_error", "server_overloaded", "slow_down"}
)
_TOO_LONG: Final = frozenset(
    {"context_length_exceeded", "context_window_exceeded", "exceed_context_size_error"}
)
_STATUS_OF: Final = MappingProxyType(
    {
        "authentication_error": 401,
        "badrequesterror": 400,
        "incorrect_api_key_error": 401,
        "invalid_api_key": 401,
        "invalid_authentication_error": 401,
        "invalid_request_error": 400,
        "model_not_found": 404,
        "not_found_error": 404,
        "permission_denied_error": 403,
        "rate_limit_error": 429,
        "rate_limit_exceeded": 429,
        "rate_limit_reached_error": 429,
        "resource_not_found_error": 404,
        "too_many_requests": 429,
    }
)
"""For errors inside a stream, which have no HTTP status: what their type or code stands for."""

_NO_BALANCE_TEXT: Final = re.compile(
    r"insufficient (?:account )?(?:balance|quota|credit|fund)|account .{0,80}suspended",
    re.IGNORECASE,
)
_TOO_LONG_TEXT: Final = re.compile(
    r"maximum context length|context (?:length|window|size)|prompt is too long|model token limit"
    r"|input token length|input (?:is )?too long|too many input tokens",
    re.IGNORECASE,
)
_SCHEMA_TEXT: Final = re.compile(
    r"response[_ ]format|json_schema|structured[_ ]output|guided_json", re.IGNORECASE
)
_REASONING_TEXT: Final = re.compile(
    r"reasoning_content\W.{0,80}(?:missing|must be passed back)|missing.{0,80}reasoning_content",
    re.IGNORECASE,
)
_NO_TOOLS_TEXT: Final = re.compile(
    # Ollama, of a model whose template has no tools; vLLM, started without a parser of calls.
    r"does not support tools|tool choice requires|tools? (?:is|are) not supported",
    re.IGNORECASE,
)
_WAIT_TEXT: Final = re.compile(
    r"(?:try again|retry) (?:in|after) (?:about )?(\d{1,9}(?:\.\d{1,9})?) ?(ms|m|s)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What a server said. `status`: of HTTP, 0 for none; `labels`: type and code, lower case."""

    status: int
    labels: frozenset[str]
    text: str
    retry_after_s: float | None = None
    trace: str = ""


def read_fault(body: object, *, status: int = 0, headers: Mapping[str, str] | None = None) -> Fault:
    """Read an error's body, in any of the shapes that servers give it."""
    said = _plain(body)
    while isinstance(inner := said.get("error"), (Mapping, str)):
        said = _plain(cast("object", inner))
    labels = {str(said[key]).lower() for key in ("type", "code") if said.get(key)}
    text = str(next((said[key] for key in ("message", "detail", "msg") if said.get(key)), ""))
    headers = headers or {}
    trace = headers.get("x-trace-id") or headers.get("x-request-id") or ""
    return Fault(
        status=status or _implied_status(labels),
        labels=frozenset(labels),
        text=" ".join(text.split()),
        retry_after_s=_retry_after_s(headers, text),
        trace=trace[:100],
    )


def error_of(fault: Fault, access: Access) -> ModelError:
    """The error that a fault is, with a message that says what to do."""
    if fault.labels & _FILTERED:
        return ContentFiltered(
            _say(fault, access, "Change the prompt, or let a fallback answer."),
            status=fault.status or None,
        )
    if _is_quota(fault):
        return QuotaExhausted(
            _say(fault, access, "Top up the account, or use another model: waiting does not help."),
            status=fault.status or None,
        )
    if fault.status == 429:
        return _too_many(fault, access)
    if _is_too_long(fault):
        return ContextOverflow(
            _say(fault, access, "Send less: shorten or summarise the conversation."),
            status=fault.status or None,
        )
    if fault.status in (401, 403):
        return ModelAuthError(_say(fault, access, _key_advice(access)), status=fault.status)
    if fault.status in (404, 410) or "model_not_found" in fault.labels:
        advice = (
            "Set FLOWKIT_MODEL to a model that the server has now (GET /models lists them; vendors "
            "retire models), and see that the base URL ends where the API begins, usually in /v1."
        )
        return ModelNotFound(_say(fault, access, advice), status=fault.status)
    if 0 < fault.status < 500 and fault.status not in (408, 409, 425):
        refused = fault.status in (400, 422) and bool(
            _SCHEMA_TEXT.search(f"{fault.text} {' '.join(fault.labels)}")
        )
        advice = "Change the request or its settings: the same one will be refused again."
        return BadModelRequest(
            _say(fault, access, advice), status=fault.status, schema_refused=refused
        )
    return ModelUnavailable(
        _say(fault, access, "Try again later."),
        retry_after_s=fault.retry_after_s,
        status=fault.status or None,
    )


def refuses_tools(error: ModelError) -> bool:
    """Whether the server says that it takes no tools at all."""
    return bool(_NO_TOOLS_TEXT.search(str(error)))


def wants_reasoning(error: BadModelRequest) -> bool:
    """Whether what was refused is an earlier answer without reasoning, be it an empty one."""
    return error.status in (400, 422) and bool(_REASONING_TEXT.search(str(error)))


def unreachable(access: Access, error: BaseException) -> ModelUnavailable:
    """The error for a network that failed, or time that was over, before or in the answer."""
    names = [type(error).__name__]
    if error.__cause__ is not None:
        names.append(f"{type(error.__cause__).__name__} {error.__cause__}".strip())
    text = _trimmed(access.redact(f"{error} ({': '.join(names)})"))
    return ModelUnavailable(
        f"No whole answer came from {access.where}: {text}. Try again; if it never works, check "
        "the base URL and that the server runs."
    )


def _plain(body: object) -> Mapping[str, object]:
    """An error's body as an object; a bare text is its message."""
    if isinstance(body, Mapping):
        return cast("Mapping[str, object]", body)
    return {"message": body} if isinstance(body, str) else {}


def _too_many(fault: Fault, access: Access) -> ModelError:
    if fault.labels & _OVERLOADED:
        advice = "The server is overloaded, not you: try again later."
        return ModelUnavailable(
            _say(fault, access, advice), retry_after_s=fault.retry_after_s, status=429
        )
    wait = "a while" if fault.retry_after_s is None else f"{fault.retry_after_s:g} s"
    advice = f"Try again after {wait}; if it happens often, lower concurrency=."
    return RateLimited(_say(fault, access, advice), retry_after_s=fault.retry_after_s, status=429)


def _is_quota(fault: Fault) -> bool:
    if fault.status == 402 or fault.labels & _NO_QUOTA:
        return True
    return fault.status in (0, 400, 403, 429) and bool(_NO_BALANCE_TEXT.search(fault.text))


def _is_too_long(fault: Fault) -> bool:
    if fault.status == 413 or fault.labels & _TOO_LONG:
        return True
    return fault.status in (0, 400, 422) and bool(_TOO_LONG_TEXT.search(fault.text))


def _key_advice(access: Access) -> str:
    if access.key_from:
        return (
            f"Check the key from {access.key_from}, and that it belongs to {access.host}: keys of "
            "one provider, and of its sites in different countries, are not valid at another."
        )
    return (
        f"No key was sent, since none is configured for {access.host}: set FLOWKIT_API_KEY, or "
        "pass api_key=. (A provider's own key is sent to that provider only.)"
    )


def _say(fault: Fault, access: Access, advice: str) -> str:
    """What happened, where, and what to do next."""
    labels = ", ".join(sorted(fault.labels))
    parts = [str(fault.status) if fault.status else "an error", f"({labels})" if labels else ""]
    said = _trimmed(access.redact(fault.text)).rstrip(".")
    what = " ".join(part for part in parts if part) + (f": {said}" if said else "")
    trace = f" [trace {fault.trace}]" if fault.trace else ""
    where = access.where
    return access.redact(f"{where[0].upper()}{where[1:]} answered {what}.{trace} {advice}")


def _trimmed(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}…"


def _implied_status(labels: set[str]) -> int:
    for label in labels:
        if label.isascii() and label.isdigit() and 400 <= int(label) <= 599:
            return int(label)
    return next((_STATUS_OF[label] for label in sorted(labels) if label in _STATUS_OF), 0)


def _retry_after_s(headers: Mapping[str, str], text: str) -> float | None:
    """Seconds to wait, of the headers or of the text; None where neither has a usable number."""
    if (wait_ms := _number(headers.get("retry-after-ms", ""))) is not None:
        return wait_ms / 1000
    header = headers.get("retry-after", "")
    if (wait_s := _number(header)) is not None:
        return wait_s
    if header:
        try:
            at = parsedate_to_datetime(header)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0.0, (at - datetime.now(UTC)).total_seconds())
    if found := _WAIT_TEXT.search(text):
        return float(found[1]) * {"ms": 0.001, "m": 60.0}.get((found[2] or "s").lower(), 1.0)
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
