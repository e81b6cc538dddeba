"""What Kimi and OpenAI refuse in the tools of a request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from flowkit.testing.rules import Json, Rules, Violation, as_object

_TYPED_BY: Final = ("type", "anyOf", "oneOf", "allOf", "$ref")
"""A property without any of them is refused by Moonshot's flavour of JSON schema."""


def check_tools(body: Json, rules: Rules) -> Iterator[Violation]:
    """What is wrong with the tools."""
    tools: list[Json] = body.get("tools") or []
    if len(tools) > rules.tools_max:
        text = f"at most {rules.tools_max} tools are allowed, the request has {len(tools)}"
        yield Violation("tools_max", text)
    seen: set[str] = set()
    for tool in tools:
        function = as_object(tool.get("function"))
        name = function.get("name", "")
        builtin = tool.get("type") == "builtin_function"
        if builtin and rules.kimi:
            if rules.thinks(body):
                yield Violation("tool_name", f"{name} is incompatible with thinking enabled")
            continue
        if tool.get("type") != "function":
            yield Violation("shape", f"a tool has the type {tool.get('type')!r}, not 'function'")
            continue
        if not re.fullmatch(rules.tool_name, name):
            text = f"function name {name!r} is invalid: it must match ^{rules.tool_name}$"
            yield Violation("tool_name", text)
        if name in seen:
            yield Violation("tool_name", f"function name {name} is duplicated")
        seen.add(name)
        if rules.kimi:
            yield from _check_schema(function.get("parameters"))


def _check_schema(schema: object) -> Iterator[Violation]:
    for place, problem in _problems(schema, ""):
        text = "tools.function.parameters is not a valid moonshot flavored json schema, details: "
        yield Violation("tool_schema", f"{text}<At path '{place}': {problem}>")


def _problems(schema: object, place: str) -> Iterator[tuple[str, str]]:
    """Properties without a type, and types beside `anyOf`, at any depth."""
    if not isinstance(schema, Mapping):
        return
    schema = cast("Json", schema)
    if "anyOf" in schema and "type" in schema:
        yield place, "when using anyOf, type should be defined in anyOf items"
    properties: Mapping[str, Any] = schema.get("properties") or {}
    for name, inner in properties.items():
        path = f"{place}.properties.{name}".lstrip(".")
        if not (isinstance(inner, Mapping) and any(key in inner for key in _TYPED_BY)):
            yield path, "type is not defined"
        yield from _problems(cast("object", inner), path)
    definitions: Mapping[str, Any] = schema.get("$defs") or {}
    for name, inner in definitions.items():
        yield from _problems(inner, f"{place}.$defs.{name}".lstrip("."))
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in schema.get(key) or ():
            yield from _problems(inner, f"{place}.{key}".lstrip("."))
    yield from _problems(schema.get("items"), f"{place}.items".lstrip("."))
