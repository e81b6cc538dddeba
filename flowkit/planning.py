"""Plans before they reach a run: checked steps, and plans as a model writes them in JSON.

A plan that cannot be carried out raises a `PlanError` whose text is written for who made it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from types import GenericAlias
from typing import Any, cast

from flowkit.dsl import failure_moves, item_type
from flowkit.errors import BadArguments, PlanError, PlanTooLarge, Reject, UnknownTool
from flowkit.fits import fits
from flowkit.graph import Source, Step, check_name
from flowkit.node import AnyNode
from flowkit.plan import Plan, Planned
from flowkit.values import compact, parse, show_type

STEP_REF = "$step"
"""In a model's JSON, `{"$step": "id"}` names the result of another planned step."""


def steps_of(plan: Plan, tools: Sequence[AnyNode], steps_max: int) -> tuple[Step, ...]:
    """The steps of a plan, with ids relative to the turn; raises `PlanError`."""
    if len(plan.steps) > steps_max:
        raise PlanTooLarge(f"the plan has {len(plan.steps)} steps; plan at most {steps_max}.")
    by_name = {tool.name: tool for tool in tools}
    by_id: dict[str, Planned[Any]] = {}
    for planned in plan.steps:
        if not isinstance(cast(object, planned), Planned):
            raise PlanError(f"a plan holds steps made by tool.step(...), not {planned!r}.")
        try:
            check_name(planned.id, "step id")
        except ValueError as error:
            raise PlanError(str(error)) from error
        if planned.id in by_id:
            raise PlanError(f"two steps have the id {planned.id!r}; give each its own.")
        by_id[planned.id] = planned
    steps = tuple(_step_of(planned, by_name, by_id) for planned in plan.steps)
    _check_order(steps)
    return steps


def _step_of(
    planned: Planned[Any], tools: Mapping[str, AnyNode], by_id: Mapping[str, Planned[Any]]
) -> Step:
    tool = find_tool(planned.tool, tools)
    first = tool.alternatives[0]
    if len(planned.inputs) != len(first.takes):
        raise BadArguments(
            f"step {planned.id!r}: {tool.name} takes {', '.join(first.takes)}, "
            f"but was given {len(planned.inputs)} arguments."
        )
    for place, (source, (name, hint)) in enumerate(
        zip(planned.inputs, first.takes.items(), strict=True)
    ):
        if not source.step:
            continue
        other = by_id.get(source.step)
        if other is None:
            raise BadArguments(
                f"step {planned.id!r}: {name} refers to {source.step!r}, which is no step of this plan. "
                f"Steps: {', '.join(by_id)}."
            )
        given = _gives(other, by_id, tools)
        given = item_type(given, planned.id) if planned.each and place == 0 else given
        if not fits(given, hint):
            raise BadArguments(
                f"step {planned.id!r}: {name} takes {show_type(hint)}, but step {other.id!r} "
                f"gives {show_type(given)}."
            )
    if first.kind == "verifier" and not planned.checks:
        raise BadArguments(f"step {planned.id!r}: {tool.name} is a verifier, not a tool.")
    missing = [key for key in (*planned.after, planned.checks) if key and key not in by_id]
    if missing:
        raise BadArguments(
            f"step {planned.id!r} names {missing[0]!r}, which is no step of this plan."
        )
    names = tuple(node.name for node in tool.alternatives)
    return Step(
        planned.id,
        names,
        planned.inputs,
        planned.after,
        each=planned.each,
        checks=planned.checks,
        attempts=planned.attempts,
        timeout_s=planned.timeout_s,
        reject_moves=len(names) > 1 and Reject in tool.moves_on,
        failure_moves=failure_moves(tool),
    )


def _gives(
    planned: Planned[Any], by_id: Mapping[str, Planned[Any]], tools: Mapping[str, AnyNode]
) -> Any:
    """The type of what a planned step gives; a verifier passes on what it checks."""
    if planned.checks in by_id:
        return _gives(by_id[planned.checks], by_id, tools)
    gives: Any = find_tool(planned.tool, tools).alternatives[0].gives
    return GenericAlias(list, (gives,)) if planned.each else gives


def _check_order(steps: Sequence[Step]) -> None:
    """Kahn's algorithm: take away steps whose inputs are taken away, until none is left."""
    waits = {step.key: set(step.reads()) for step in steps}
    readers: dict[str, list[str]] = {step.key: [] for step in steps}
    for key, reads in waits.items():
        for source in reads:
            readers[source].append(key)
    free = [key for key, reads in waits.items() if not reads]
    while free:
        done = free.pop()
        del waits[done]
        for reader in readers[done]:
            if reader in waits:
                waits[reader].discard(done)
                if not waits[reader]:
                    free.append(reader)
    if waits:
        raise PlanError(f"the steps {', '.join(waits)} wait for each other; break the cycle.")


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
