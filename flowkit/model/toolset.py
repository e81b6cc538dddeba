"""Tools as a server takes them: checked, and with every part of their schemas typed if need be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from flowkit.errors import BadModelRequest
from flowkit.model.profile import Profile

_TYPED_BY: Final = ("type", "$ref", "anyOf", "oneOf", "allOf", "not")
"""A schema with one of them says what it takes."""

_SUGGESTS: Final = (
    ("object", ("properties", "additionalProperties", "required", "patternProperties")),
    ("array", ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)
"""What a schema without a type is, by the words it uses; else it is a string."""

_TYPE_OF: Final = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (Mapping, "object"),
    (Sequence, "array"),
)


def names_of(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The names of the functions among the tools."""
    return frozenset(str(function["name"]) for function in functions(tools))


def tools_json(tools: Sequence[Mapping[str, Any]], profile: Profile) -> list[Mapping[str, Any]]:
    """The tools as OpenAI has them. `BadModelRequest` says which one the server would refuse."""
    if len(tools) > profile.tools_max:
        raise BadModelRequest(
            f"The request has {len(tools)} tools, and {profile.tools_max} are the most that a "
            "model takes: give the planner fewer."
        )
    for function in functions(tools):
        name = str(function.get("name", ""))
        if not re.fullmatch(profile.tool_name, name):
            raise BadModelRequest(
                f"The tool name {name!r} does not match {profile.tool_name}, which the profile "
                f"{profile.name!r} wants: name the tool otherwise (name=)."
            )
    made = (tool if "type" in tool else {"type": "function", "function": tool} for tool in tools)
    return [_typed_tool(tool) if profile.typed_schemas else tool for tool in made]


def functions(tools: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The functions: bare, or wrapped as OpenAI has them; a server's own tools are passed over."""
    for tool in tools:
        if "type" not in tool:
            yield tool
        elif tool["type"] == "function":
            yield tool.get("function") or {}


def _typed_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    if not isinstance(function, Mapping) or tool["type"] != "function":
        return tool
    function = cast("Mapping[str, Any]", function)
    parameters: Any = function.get("parameters") or {"type": "object", "properties": {}}
    return {**tool, "function": {**function, "parameters": _typed(parameters)}}


def _typed(schema: Any) -> Any:
    """The schema with a type in each of its parts. Moonshot refuses properties without one."""
    if not isinstance(schema, Mapping):
        return schema
    given = cast("Mapping[str, Any]", schema)
    made: dict[str, Any] = {}
    for word, value in given.items():
        match word:
            case "properties" | "$defs" | "definitions" | "patternProperties" if isinstance(
                value, Mapping
            ):
                parts = cast("Mapping[str, Any]", value)
                made[word] = {name: _typed(part) for name, part in parts.items()}
            case "anyOf" | "oneOf" | "allOf" | "prefixItems" if isinstance(value, Sequence):
                made[word] = [_typed(part) for part in cast("list[Any]", value)]
            case "items" | "additionalProperties":
                made[word] = _typed(value)
            case _:
                made[word] = value
    return made if any(word in made for word in _TYPED_BY) else {"type": _type(made), **made}


def _type(schema: Mapping[str, Any]) -> str:
    values = [schema["const"]] if "const" in schema else schema.get("enum") or ()
    kinds = {next((t for kind, t in _TYPE_OF if isinstance(v, kind)), "null") for v in values}
    if len(kinds) == 1:
        return kinds.pop()
    return next((t for t, words in _SUGGESTS if any(w in schema for w in words)), "string")
