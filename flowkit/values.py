"""Values as they are stored: JSON text made by pydantic, never pickled, never rebuilt by name.

A `Codec` turns one declared type into JSON and back. What cannot be given back the same is
refused when it is written, with the path of the offending part, before its step counts as done.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pydantic_core
from pydantic import (
    BaseModel,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from flowkit.errors import DeclarationError, ValueRefused

INLINE_MAX = 64 * 1024
"""Characters of JSON up to which a value stands in its event; larger ones are stored once by hash."""

DEPTH_MAX = 150
"""Levels down to which the path of a bad part is followed; pydantic refuses more than 200."""


@dataclass(frozen=True, slots=True)
class Value:
    """A stored value. `text` is its JSON, or None where only its hash is at hand (see `size`)."""

    text: str | None
    digest: str
    size: int = 0
    items: int | None = None

    @classmethod
    def of(cls, text: str) -> Value:
        return cls(text, digest(text), len(text))

    def count(self) -> int:
        """How many items the value has, if it is a list; `ValueError` if it is none."""
        if self.items is not None:
            return self.items
        found: object = parse(self.text) if self.text and self.text[0] == "[" else None
        if not isinstance(found, list):
            raise ValueError("the value is not a list, so it cannot be mapped over")  # noqa: TRY004
        return len(cast("list[object]", found))


@dataclass(frozen=True, slots=True)
class Artifact:
    """Bytes that a step made, kept once by content. `name` is data, never a path."""

    sha256: str
    name: str
    media_type: str
    size: int


def digest(text: str) -> str:
    """SHA-256 of a text, as hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def combine(parts: Sequence[str]) -> str:
    """One short hash (128 bits, hex) of an ordered list of texts."""
    packed = "\n".join([f"{len(part)}:{part}" for part in parts])
    return digest(packed)[:32]


def compact(data: object) -> str:
    """JSON without spaces; lone surrogates are written as escapes. Takes plain data only."""
    try:
        return pydantic_core.to_json(data, inf_nan_mode="constants").decode()
    except pydantic_core.PydanticSerializationError:
        return json.dumps(data, separators=(",", ":"), ensure_ascii=True)


def parse(text: str) -> Any:
    """The plain data of a JSON text that `compact` wrote."""
    try:
        return pydantic_core.from_json(text)
    except ValueError:
        return json.loads(text)


class Codec:
    """Dumps and loads the values of one declared type."""

    __slots__ = ("_adapter", "_schema", "_sets", "hint", "name")

    def __init__(self, hint: Any, where: str) -> None:
        self.hint = hint
        self.name = where
        self._schema = ""
        self._sets: dict[str, Any] | None = None
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(hint)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise self._no_json(error) from error

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the type; raises `DeclarationError` if it has none."""
        if (
            not self._schema
        ):  # as text, so that each caller has its own; 0.3 ms to make, 0.01 to read
            try:
                self._schema = compact(self._adapter.json_schema())
            except PydanticUserError as error:
                raise self._no_json(error) from error
        return cast("dict[str, Any]", parse(self._schema))

    def _no_json(self, error: Exception) -> DeclarationError:
        reason = str(error).partition("\n")[0].rstrip(".")
        return DeclarationError(
            f"{self.name}: values of type {show_type(self.hint)} cannot be stored as JSON ({reason}). Use "
            f"a pydantic model, a dataclass or a plain type, and ctx.artifact(...) for files, frames and "
            f"figures."
        )

    def check(self, value: Any) -> Any:
        """Validate a Python value against the type; raises pydantic's `ValidationError`."""
        return self._adapter.validator.validate_python(value)

    def fits(self, text: str) -> bool:
        """Whether a stored JSON text is a value of the type."""
        try:
            self.load(text)
        except (ValueError, TypeError, KeyError):
            return False
        return True

    def dump(self, value: Any) -> Value:
        """The value's JSON, proved to load back; raises `ValueRefused` with the path."""
        for exact in (False, True):
            try:
                # Past the adapter's own methods, which cost 1 µs each.
                text = self._adapter.serializer.to_json(
                    value, warnings="error", by_alias=exact or None, round_trip=exact
                ).decode()
                if _equal(self._adapter.validator.validate_json(text), value):
                    return Value.of(self._ordered(text))
            except (ValueError, TypeError, RecursionError):
                pass  # a closer look says why, or that it can be stored all the same
        return self._dump_closely(value)

    def _dump_closely(self, value: Any) -> Value:
        """For what has no plain `==`, has half characters in it, or cannot be stored."""
        try:
            plain = self._adapter.dump_python(value, mode="json", warnings="error")
            text = compact(plain)
        except (ValueError, TypeError, RecursionError) as error:
            raise self._refused(value, error) from error
        for where, leaf in _leaves(value, self.name):
            if isinstance(leaf, Iterator):  # and it has been: an empty list would be stored
                kind = type(cast(object, leaf)).__name__
                raise ValueRefused(f"{where}: a {kind} can be read once only. Return a list of it.")
        if "NaN" in text or "Infinity" in text:
            _refuse_lost(plain, self.name)
        if "null" in text or "\ufffd" in text or "\\ufffd" in text:
            # What pydantic writes for NaN in a model, and for half characters in keys.
            _refuse_lost(self._adapter.dump_python(value, warnings=False), self.name)
        try:
            text = self._ordered(text)
            again = self._ordered(compact(self._adapter.dump_python(self.load(text), mode="json")))
        except (ValueError, TypeError, RecursionError) as error:
            raise self._refused(value, error) from error
        if again != text:
            raise ValueRefused(
                f"{self.name}: the value changes when it is stored and read again: "
                f"{text[:200]} became {again[:200]}. Make its type's serialiser and validator agree."
            )
        return Value.of(text)

    def _ordered(self, text: str) -> str:
        """The text with its sets sorted: their own order is another one in each process."""
        if self._sets is None:
            try:
                schema = self.schema()
            except DeclarationError:
                schema = {}
            self._sets = schema if '"uniqueItems":true' in compact(schema) else {}
        return compact(_sort_sets(parse(text), self._sets, self._sets)) if self._sets else text

    def load(self, text: str) -> Any:
        """The typed value of a stored JSON text; raises pydantic's `ValidationError`."""
        try:
            return self._adapter.validator.validate_json(text)
        except ValueError:
            if "\\ud" not in text:
                raise
            return self._adapter.validate_python(json.loads(text))

    def _refused(self, value: Any, error: BaseException) -> ValueRefused:
        path, bad = _find_bad(value, self.name)
        reason = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            reason = f"it cannot be read again: {first['msg']}"
            if path == self.name:
                path += "".join(
                    f"[{at}]" if isinstance(at, int) else f".{at}" for at in first["loc"]
                )
        return ValueRefused(
            f"{path}: a value of type {type(bad).__name__} cannot be stored ({reason}). "
            f"Return JSON data of the declared type {show_type(self.hint)}; "
            f"use ctx.artifact(...) for bytes, frames and figures."
        )


def show_type(hint: Any) -> str:
    """A type as a person writes it."""
    if hint is None or hint is type(None):
        return "None"
    if isinstance(hint, type) and not getattr(hint, "__args__", None):
        return hint.__name__
    return str(hint).replace("typing.", "")


def _equal(back: object, value: object) -> bool:
    """Whether the two are plainly the same; an `==` that cannot say so (a data frame's) says no."""
    try:
        return type(back) is type(value) and (back == value) is True
    except (ValueError, TypeError, RecursionError):
        return False


def _sort_sets(data: Any, schema: Any, root: dict[str, Any]) -> Any:
    """Sort what the JSON schema says is a set, and leave what it does not tell for sure."""
    schema = _resolved(schema, root)
    kind = "array" if isinstance(data, list) else "object" if isinstance(data, dict) else ""
    options = [_resolved(each, root) for each in schema.get("anyOf") or schema.get("oneOf") or ()]
    if options:
        alike = [each for each in options if each.get("type", kind) == kind]
        return _sort_sets(data, alike[0], root) if len(alike) == 1 else cast(Any, data)
    if kind == "array":
        heads, rest = schema.get("prefixItems", ()), schema.get("items", {})
        items = [
            _sort_sets(item, heads[index] if index < len(heads) else rest, root)
            for index, item in enumerate(cast("list[Any]", data))
        ]
        return sorted(items, key=compact) if schema.get("uniqueItems") else items
    if kind == "object":
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        pairs = cast("dict[str, Any]", data).items()
        return {key: _sort_sets(item, known.get(key, rest), root) for key, item in pairs}
    return cast(Any, data)


def _resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    while isinstance(schema, dict) and "$ref" in schema:
        found = cast("dict[str, Any]", schema)
        schema = root["$defs"][str(found["$ref"]).rpartition("/")[2]]
    return cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}


def _refuse_lost(data: object, path: str) -> None:
    """Refuse numbers that are not JSON, and keys that cannot be kept."""
    for where, leaf in _leaves(data, path):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise ValueRefused(f"{where}: {leaf} is not JSON. Return None or leave the number out.")
        if (
            not where.isascii()
            and (shown := where.encode("utf-8", "backslashreplace").decode()) != where
        ):
            raise ValueRefused(
                f"{shown}: a key with half a character in it (a lone surrogate) is lost."
            )


def _leaves(data: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(data, dict) and data:
        for key, item in cast("dict[object, object]", data).items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(data, list | tuple | set | frozenset):
        for index, item in enumerate(cast("Iterable[object]", data)):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, data


def _find_bad(value: object, path: str, depth: int = 0) -> tuple[str, object]:
    """The deepest part of a value that cannot be dumped, and its path."""
    if depth > DEPTH_MAX:
        return f"{path[:120]}… (nested deeper than {DEPTH_MAX})", value
    for step, part in _parts(value):
        try:
            pydantic_core.to_json(part)
            if depth < DEPTH_MAX and not _too_deep(part):
                continue
        except (ValueError, TypeError, RecursionError):
            pass
        return _find_bad(part, path + step, depth + 1)
    return path, value


def _too_deep(data: object) -> bool:
    level: list[object] = [data]
    for _ in range(DEPTH_MAX):
        level = [part for item in level for _, part in _parts(item)][:1000]
        if not level:
            return False
    return True


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield f".{name}", getattr(value, name)
    elif isinstance(value, dict):
        for key, item in cast("dict[object, object]", value).items():
            yield f".{key}", item
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast("Sequence[object]", value)):
            yield f"[{index}]", item
    elif hasattr(value, "__dataclass_fields__"):
        for name in cast("dict[str, object]", getattr(value, "__dataclass_fields__", {})):
            yield f".{name}", getattr(value, name)
