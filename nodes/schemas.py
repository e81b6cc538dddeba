"""What a JSON schema has against a value: said in words, in bounded time, and nothing is fetched for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final, NoReturn, cast

BACKTRACKS_MAX: Final = 100_000
"""Steps back that a pattern may take on one text, about 3 ms. Schemas come from outside, and in Python's
own engine 30 characters are enough for years (https://owasp.org/www-community/attacks/ReDoS)."""


class JsonSchema:
    """A JSON schema (draft 2020-12) that has been read.

    Raises `ValueError` if it is none, points to what is not in it, or has a pattern that cannot be read.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        import jsonschema_rs as rs  # heavy: only who uses it pays

        # The library asks the net for what a schema points to, unless it is told not to.
        patterns = rs.FancyRegexOptions(backtrack_limit=BACKTRACKS_MAX)
        try:
            self._validator: Any = rs.Draft202012Validator(
                dict(schema), retriever=_nothing_is_fetched, pattern_options=patterns
            )
        except rs.ValidationError as error:
            at = f"{path_of(error.instance_path)}: " if error.instance_path else ""
            raise ValueError(f"{at}{_short(error.message)}") from None

    def problems(self, data: object, most: int) -> list[str]:
        """The first `most` of what it has against a value of JSON, each with its place; none if it fits."""
        return [
            f"{path_of(error.instance_path)}: {_short(error.message)}{_inner(error)}"
            for error in islice(self._validator.iter_errors(data), most)
        ]


def path_of(parts: Iterable[object]) -> str:
    """A place within a call's arguments, for a model: `orders[2].city`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".") or "the arguments"


def _inner(error: Any) -> str:
    """Why none of the alternatives fits: the first problem of each."""
    branches = cast("list[list[Any]]", getattr(error.kind, "context", None) or [])
    firsts = [each for branch in branches for each in branch[:1]]
    told = [f"{path_of(each.instance_path)}: {each.message[:120]}" for each in firsts]
    return f" ({' / '.join(told[:3])})" if told else ""


def _short(text: str) -> str:
    # What is wrong stands at the end, after the value itself.
    return text if len(text) <= 240 else f"{text[:100]} … {text[-120:]}"


def _nothing_is_fetched(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not in the schema, and nothing is fetched for one")
