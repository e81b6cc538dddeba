"""JSON and text as UTF-8 can hold it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import cast

from flowkit.errors import BadModelRequest


def encoded(value: object) -> bytes:
    """The value as JSON in UTF-8. `BadModelRequest` for what JSON cannot hold."""
    try:
        return _dumped(value)
    except (TypeError, ValueError, RecursionError):
        pass  # a mapping that is no dict, a lone surrogate, NaN: looked at below
    try:
        return _dumped(_sendable(value))
    except RecursionError:
        pass
    raise BadModelRequest("The request is nested too deeply for JSON: send flatter values.")


def whole(text: str) -> str:
    """The text with its surrogate pairs joined, and U+FFFD for lone ones: UTF-8 has neither.

    A server that writes JSON in ASCII may send the two halves of a pair in two chunks.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _dumped(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _sendable(value: object) -> object:
    """The value as plain lists and dicts that JSON and UTF-8 can hold."""
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value).items()
        return {str(_sendable(name)): _sendable(item) for name, item in pairs}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_sendable(item) for item in cast("Sequence[object]", value)]
    if value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return value
    raise BadModelRequest(
        f"The request holds {value!r:.100}, which JSON cannot: pass numbers, texts, lists, dicts."
    )
