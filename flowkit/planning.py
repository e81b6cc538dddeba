"""Plans as a model writes them: the JSON schema of a plan, and a plan from JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, cast

from flowkit.errors import BadArguments, PlanError, UnknownTool
from flowkit.graph import Source
from flowkit.node import AnyNode
from flowkit.plan import Plan, Planned
from flowkit.values import compact, parse

STEP_REF = "$step"
"""In a model's JSON, `{"$step": "id"}` names the result of another planned step."""


def find_tool(name: str, tools: Mapping[str, AnyNode]) -> AnyNode:
    """The tool of this name; `UnknownTool` names the nearest."""
    if name not in tools:
        import difflib  # half a millisecond that only a wrong plan pays

        near = difflib.get_close_matches(name, tools, n=3, cutoff=0.4)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"tools: {', '.join(tools) or 'none'}."
        )
        raise UnknownTool(f"there is no tool {name!r}; {hint}")
    return tools[name]


def plan_schema(tools: Sequence[AnyNode]) -> dict[str, Any]:
    """The JSON schema of a plan of these tools."""
    ref = _object({STEP_REF: {"type": "string"}})
    variants: list[dict[str, Any]] = []
    takes = [tool.alternatives[0].codecs() for tool in tools]
    schemas, defs = apart(codec.schema() for codecs in takes for codec in codecs.values())
    each = iter(schemas)
    for tool, codecs in zip(tools, takes, strict=True):
        arguments: dict[str, Any] = {name: {"anyOf": [next(each), ref]} for name in codecs}
        variants.append(
            _object(
                {
                    "id": {"type": "string"},
                    "tool": {"const": tool.name, "description": tool.description},
                    "args": _object(arguments),
                }
            )
        )
    steps = {"type": "array", "items": {"anyOf": variants} if variants else {}}
    schema = _object({"steps": steps})
    schema["properties"]["again"] = {"type": "boolean"}
    return {**schema, "$defs": defs} if defs else schema


def apart(schemas: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schemas without their `$defs`, and all of these: unlike ones of one name get numbers."""
    made: list[dict[str, Any]] = []
    defs: dict[str, Any] = {}
    for schema in schemas:
        text, own = compact(schema), schema
        for n in count(2):
            if all(defs.get(name, part) == part for name, part in own.get("$defs", {}).items()):
                break
            own = parse(re.sub(r'(":"#/\$defs/[^"]+)"', rf'\1_{n}"', text))
            own["$defs"] = {f"{name}_{n}": part for name, part in own["$defs"].items()}
        defs |= own.get("$defs", {})
        made.append({key: part for key, part in own.items() if key != "$defs"})
    return made, defs


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def plan_from(data: object, tools: Sequence[AnyNode]) -> Plan:
    """A plan from a model's JSON; raises `PlanError` in words for the model."""
    by_name = {tool.name: tool for tool in tools}
    if not isinstance(data, dict):
        raise PlanError('answer with a JSON object: {"steps": [{"id", "tool", "args"}]}.')
    answer = cast("dict[str, object]", data)
    steps = answer.get("steps")
    if not isinstance(steps, list):
        raise PlanError('"steps" must be a list of {"id", "tool", "args"}.')
    planned = [_planned(item, by_name) for item in cast("list[object]", steps)]
    return Plan(planned, again=answer.get("again") is True)


def _planned(item: object, tools: Mapping[str, AnyNode]) -> Planned[Any]:
    if not isinstance(item, dict):
        raise PlanError(f'a step is {{"id", "tool", "args"}}, not {item!r}.')
    step = cast("dict[str, object]", item)
    tool = find_tool(str(step.get("tool")), tools)
    label, args = str(step.get("id") or tool.name), step.get("args")
    codecs = tool.alternatives[0].codecs()
    if not isinstance(args, dict) or set(cast("dict[str, object]", args)) != set(codecs):
        raise BadArguments(
            f'step {label!r}: "args" of {tool.name} must have exactly: {", ".join(codecs)}.'
        )
    given = cast("dict[str, Any]", args)
    sources: list[Source] = []
    for name, codec in codecs.items():
        value: object = given[name]
        if isinstance(value, dict) and set(cast("dict[str, object]", value)) == {STEP_REF}:
            sources.append(Source(str(cast("dict[str, object]", value)[STEP_REF])))
            continue
        try:
            sources.append(Source(text=codec.dump(codec.load(compact(given[name]))).text))
        except ValueError as error:
            raise BadArguments(f"step {label!r}: {name} of {tool.name}: {error}") from error
    return Planned(label, tool.name, tuple(sources))
