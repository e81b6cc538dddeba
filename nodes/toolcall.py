"""A model's calls of tools: shown as schemas, read with care, refused in words for the model.

    valid                      strict JSON that fits the tool           a planned step
    repaired                   JSON that was mended, and fits           a planned step
    broken  -> correction      what the model is asked, once            corrected, or refused
    unknown                    no such tool: the nearest names          refused

A repair may change punctuation and nothing else, and only where one reading is left; whatever else
is wrong with a call is asked, not guessed. A tool that must happen once never runs on a repair.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final, Literal, cast

from pydantic import ValidationError

from flowkit.chat import ChatMessage, ModelRequest, ToolCall
from flowkit.errors import BadArguments, DeclarationError
from flowkit.graph import Call, Source
from flowkit.node import AnyNode
from flowkit.nodes.mending import REPAIR_CHARS_MAX, bare, is_object, objects_in, read_json
from flowkit.nodes.schemas import JsonSchema, path_of
from flowkit.plan import Planned
from flowkit.planning import apart
from flowkit.values import compact

SHOWN_MAX: Final = 3
"""Problems of one call that are told at once."""

_ANY: Final = ("string", "number", "boolean", "object", "array", "null")
_TYPES: Final = {
    str: "string", bool: "boolean", int: "integer", float: "number",
    dict: "object", list: "array", type(None): "null",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Read:
    """One call of a message, as it was understood.

    `id` is unique in the message, `step` in the turn. `raw` is what the model wrote, `arguments` the
    JSON object that goes back into the conversation. `planned` is what runs, None where nothing may;
    then `error` says why, for the model. `once`: the tool must not happen twice. `asked`: the one
    correction is used up, or there is none. `timeout_s`: how long the model would wait, if it said so.
    """

    id: str
    tool: str
    how: Literal["valid", "repaired", "corrected", "broken", "unknown"]
    step: str = ""
    raw: str = ""
    arguments: str = "{}"
    planned: Planned[Any] | None = None
    error: str = ""
    once: bool = False
    asked: bool = False
    timeout_s: float | None = None

    @property
    def needs_correction(self) -> bool:
        """Whether the model shall be asked once: broken, or repaired where a guess is not enough."""
        return self.planned is None and self.how != "unknown" and not self.asked

    @property
    def call(self) -> Call:
        """What the journal keeps of the call."""
        if self.planned is None or self.how == "broken" or self.how == "unknown":
            return Call(self.id, how="refused", note=self.error)
        return Call(self.id, self.planned.id, self.how)


# ---- what a model is shown ----


def tool_schemas(tools: Sequence[AnyNode]) -> tuple[dict[str, Any], ...]:
    """Each tool's `name`, `description` and `parameters`, in their order; keep them for a run.

    One input that is an object (a pydantic model, a dataclass, a TypedDict) gives its own properties
    as the parameters; else each input is one. Every property has a type or alternatives that have,
    since Moonshot refuses tools without.
    """
    return tuple(
        {"name": tool.name, "description": tool.description, "parameters": _parameters(tool)[0]}
        for tool in tools
    )


def _parameters(tool: AnyNode) -> tuple[dict[str, Any], bool]:
    """The schema of a tool's arguments, and whether they are its one input itself."""
    first = tool.alternatives[0]
    codecs = first.codecs()
    for name in first.takes:
        if name not in codecs:
            raise DeclarationError(
                f"tool {tool.name!r}: {name!r} takes Findings, which no model can write. Take what it "
                f"shall say instead, or call the tool in a planner in code."
            )
    schemas = {name: codec.schema() for name, codec in codecs.items()}
    if len(schemas) == 1:
        only = next(iter(schemas.values()))
        defs: dict[str, Any] = only.get("$defs", {})
        whole = defs[only["$ref"].rpartition("/")[2]] if "$ref" in only else only
        if whole.get("type") == "object" and "properties" in whole:
            return _typed({**whole, "$defs": defs} if defs else whole), True
    parts, defs = apart(schemas.values())
    made = {
        "type": "object",
        "properties": dict(zip(schemas, parts, strict=True)),
        "required": list(schemas),
        "additionalProperties": False,
    }
    return _typed({**made, "$defs": defs} if defs else made), False


def _typed(schema: Any) -> dict[str, Any]:
    """The schema without titles, and with a type wherever one can be told."""
    made: dict[str, Any] = {}
    for key, item in cast("dict[str, Any]", schema).items() if isinstance(schema, dict) else ():
        if key in ("properties", "patternProperties", "$defs"):
            made[key] = {name: _typed(part) for name, part in item.items()}
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            made[key] = [_typed(part) for part in item]
        elif key in ("items", "additionalProperties") and isinstance(item, dict):
            made[key] = _typed(item)
        elif key not in ("title", "discriminator"):  # the latter is OpenAPI's
            made[key] = item
    if made.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "not"}:
        return made
    if made.keys() & {"properties", "items"}:
        return {**made, "type": "object" if "properties" in made else "array"}
    kinds: dict[str, list[Any]] = {}
    for value in made.pop("enum", [made["const"]] if "const" in made else ()):
        kinds.setdefault(_TYPES[type(value)], []).append(value)
    if len(kinds) == 1:
        return {**made, "type": next(iter(kinds)), "enum": next(iter(kinds.values()))}
    options = [{"type": kind, "enum": values} for kind, values in kinds.items()]
    return {**made, "anyOf": options or [{"type": kind} for kind in _ANY]}


# ---- calls that are read ----


def read_calls(
    message: ChatMessage, tools: Sequence[AnyNode], *, envelope: bool = False
) -> tuple[Read, ...]:
    """One `Read` for each call of the message, in its order; what a model wrote raises nothing.

    With `envelope` a message without calls may hold them as JSON in its text: fenced, bare, in prose,
    in a list. An envelope is an object with a text as "tool" and nothing but "parameters" (or
    "arguments", "args", "input"), "timeout" and "id" beside it: an answer of the user's own type may
    have a field "tool", too. What has one but cannot be read is a call that is broken, no answer. Never
    pass a tool's result, which quotes strangers.
    """
    by_name = {tool.name: tool for tool in tools}
    calls = [_Found(call) for call in message.tool_calls]
    if envelope and not calls:
        calls = _enveloped(message.content or "")
    given = [found.call.id for found in calls]
    taken, seen, steps = set(given), set[str](), set[str]()
    counted: Counter[str] = Counter()
    reads: list[Read] = []
    room = REPAIR_CHARS_MAX  # for all calls together
    for n, found in enumerate(calls, 1):
        call = found.call
        own = call.id if call.id and call.id not in seen else _free(call.id or "call", n, taken)
        seen.add(own)
        base = Read(own, call.name, "broken", raw=call.arguments, timeout_s=found.timeout_s)
        if found.error:
            reads.append(replace(base, error=found.error, asked=True))
            continue
        if call.name not in by_name:
            whole = call.arguments if is_object(call.arguments) else "{}"
            error = _no_such_tool(call.name, by_name)
            reads.append(replace(base, how="unknown", arguments=whole, error=error))
            continue
        counted[call.name] += 1
        base = replace(base, step=_free(call.name, counted[call.name], steps))
        read = _understood(base, by_name[call.name], exact=found.exact, repair_chars=room)
        room -= 0 if read.how == "valid" else len(call.arguments)
        reads.append(read)
    return tuple(reads)


def correction(read: Read, tools: Sequence[AnyNode]) -> ModelRequest:
    """What to ask a model, once, about a call that needs it; its text goes to `corrected`."""
    tool = next(tool for tool in tools if tool.name == read.tool)
    asked = (
        f"Tool: {tool.name}\n{tool.description}\n\nArguments as they were written:\n{read.raw}\n\n"
        f"What is wrong with them: {read.error}"
    )
    return ModelRequest(
        (ChatMessage("system", _EXPERT), ChatMessage("user", asked)),
        schema=_parameters(tool)[0],
        schema_name=tool.name,
    )


_EXPERT: Final = (
    "You are a syntax expert. A call of a tool was written with arguments that cannot be used. Answer "
    "with the arguments that were meant: one JSON object that fits the tool's schema, and nothing else. "
    "Keep every value as it was written where it fits, and invent none."
)


def corrected(read: Read, text: str, tools: Sequence[AnyNode]) -> Read:
    """The call with the arguments that the model gave when asked: corrected, or broken for good."""
    tool = next(tool for tool in tools if tool.name == read.tool)
    raw = bare(text)
    if raw in ("", "null"):  # no answer is no correction, even where no argument is required
        return replace(read, how="broken", asked=True)
    again = _understood(replace(read, raw=raw, asked=True, error=""), tool)
    if again.planned is None:
        return replace(read, how="broken", asked=True, error=again.error)
    return replace(again, how="corrected", raw=read.raw)


def settled_message(message: ChatMessage, reads: Sequence[Read]) -> ChatMessage:
    """The message as it goes back into the conversation: ids told apart, arguments JSON objects.

    Some chat templates parse the arguments of the history. Everything else stays as it came, and a
    message that needs no change is the same object.
    """
    calls = tuple(
        ToolCall(read.id, call.name, read.arguments)
        for call, read in zip(message.tool_calls, reads, strict=bool(message.tool_calls))
    )
    return message if calls == tuple(message.tool_calls) else replace(message, tool_calls=calls)


_ENVELOPE: Final = '{"tool": "NAME", "parameters": {…}}'


def envelope_prompt(schemas: Iterable[Mapping[str, Any]]) -> str:
    """How to call these tools in a JSON envelope, for models that have no calls of their own."""
    lines = "\n".join(compact(schema) for schema in schemas)
    return (
        f"To call a tool, answer with JSON and nothing else: {_ENVELOPE}, or a list of such objects for "
        'several calls. Add "timeout": SECONDS to a call that shall not take longer.'
        f"\nTools:\n{lines}"
    )


def _understood(
    base: Read, tool: AnyNode, *, exact: bool = True, repair_chars: int = REPAIR_CHARS_MAX
) -> Read:
    parameters, whole = _parameters(tool)
    once = any(node.policy.effect == "once" for node in tool.alternatives)
    base = replace(base, how="broken", arguments="{}", once=once)
    try:
        data, strict = _arguments(base.raw, parameters, repair_chars)
        exact = exact and strict
        keep = strict and base.raw.lstrip().startswith("{")
        base = replace(base, arguments=base.raw if keep else compact(data))
        sources = _sources(tool, parameters, data, whole=whole)
    except (BadArguments, RecursionError) as error:
        why = str(error) if isinstance(error, BadArguments) else "they are nested too deeply"
        return replace(base, error=f"{tool.name} was not called: {why}. Call it again with {_FIT}.")
    base = replace(base, how="valid" if exact else "repaired")
    if once and not exact:
        why = "its arguments were no valid JSON, and it does not run on a guess"
        return replace(base, error=f"{tool.name} was not called: {why}. Call it again with {_FIT}.")
    return replace(base, planned=Planned(base.step, tool.name, sources))


_FIT: Final = "arguments that are one JSON object and fit its schema"


def _sources(
    tool: AnyNode, parameters: Mapping[str, Any], data: dict[str, Any], *, whole: bool
) -> tuple[Source, ...]:
    """The inputs as literals, validated and dumped again; raises `BadArguments`."""
    problems = _problems(parameters, data)
    sources: list[Source] = []
    for name, codec in tool.alternatives[0].codecs().items() if not problems else ():
        try:
            value: Any = codec.load(compact(data if whole else data[name]))
            sources.append(Source(text=codec.dump(value).text))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            at = () if whole else (name,)
            problems += [f"{path_of((*at, *each['loc']))}: {each['msg']}" for each in found]
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        more = len(problems) - SHOWN_MAX
        tail = "; and more" if more > 0 else ""
        raise BadArguments(f"its arguments do not fit: {'; '.join(problems[:SHOWN_MAX])}{tail}")
    return tuple(sources)


def _problems(parameters: Mapping[str, Any], data: object) -> list[str]:
    """What JSON Schema has against the arguments: a few, each short, with its path."""
    try:
        return JsonSchema(parameters).problems(data, SHOWN_MAX + 1)
    except (
        ValueError
    ):  # a pattern in pydantic's own dialect and the like: pydantic has the last word anyway
        return []


def _arguments(
    raw: str, parameters: Mapping[str, Any], repair_chars: int
) -> tuple[dict[str, Any], bool]:
    """The JSON object of a call, and whether it was strict JSON; raises `BadArguments`."""
    if raw.strip() in ("", "null"):
        if needed := parameters.get("required"):
            raise BadArguments(f"it has no arguments, and needs {', '.join(needed)}")
        return {}, True
    try:
        data, exact = read_json(raw, repair_chars=repair_chars)
        if isinstance(data, str):  # an object within a text: some servers encode it twice
            data, exact = read_json(data, repair_chars=repair_chars)[0], False
    except ValueError as error:
        raise BadArguments(f"its arguments are no valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadArguments(f"its arguments must be one JSON object, not {raw.strip()[:80]}")
    return cast("dict[str, Any]", data), exact


@dataclass(frozen=True, slots=True)
class _Found:
    """A call before it is understood; `error` if it stands in an envelope that cannot be read."""

    call: ToolCall
    exact: bool = True
    timeout_s: float | None = None
    error: str = ""


def _enveloped(text: str) -> list[_Found]:
    """Calls in the text of a message: of its outermost objects, those that are envelopes."""
    calls: list[_Found] = []
    room = REPAIR_CHARS_MAX
    for part in objects_in(text):
        if "tool" not in part:
            continue
        try:
            data, exact = read_json(part.rstrip("` \t\r\n"), repair_chars=room)
        except ValueError as error:
            room -= len(part)
            if _LOOKS_LIKE_ONE.search(part):
                calls.append(_unread(part, str(error)))
            continue
        room -= 0 if exact else len(part)
        if found := _call_in(data, exact=exact):
            calls.append(found)
    return calls


_PARAMETERS: Final = ("parameters", "arguments", "args", "input")
_FIELDS: Final = frozenset({"tool", "timeout", "id", *_PARAMETERS})
_LOOKS_LIKE_ONE: Final = re.compile(
    r"""[{,]\s*["']tool["']\s*:(?:\s*["'](?P<name>[A-Za-z0-9_-]{1,64})["'])?"""
)


def _call_in(data: Any, *, exact: bool) -> _Found | None:
    """The call that is in an envelope; None if it is something else, such as the answer."""
    item = cast("dict[str, Any]", data if isinstance(data, dict) else {})
    if not isinstance(item.get("tool"), str) or item.keys() - _FIELDS:
        return None
    given: object = next((item[name] for name in _PARAMETERS if name in item), "{}")
    arguments = given if isinstance(given, str) else compact(given)
    return _Found(ToolCall("", item["tool"], arguments), exact, _seconds(item.get("timeout")))


def _seconds(value: object) -> float | None:
    """A time that somebody can wait; None for anything else, which is no reason to refuse a call."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value <= _SECONDS_MAX else None


_SECONDS_MAX: Final = 1e9


def _unread(part: str, why: str) -> _Found:
    named = _LOOKS_LIKE_ONE.search(part)
    name = (named and named["name"]) or ""
    return _Found(
        ToolCall("", name, part),
        error=f"{name or 'a tool'} was not called: its JSON cannot be read: {why}. Write all of it again, "
        f"as strict JSON: {_ENVELOPE}.",
    )


def _no_such_tool(name: str, tools: Mapping[str, AnyNode]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name[:64], tools, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"tools: {', '.join(tools) or 'none'}."
    return f"there is no tool {name[:64]!r}; {hint}"


def _free(base: str, start: int, taken: set[str]) -> str:
    """The base with the first free number from `start`, cut to the 64 characters of a name."""
    numbered = (f"{base[: 63 - len(str(n))]}-{n}" for n in count(start))
    name = next(each for each in numbered if each not in taken)
    taken.add(name)
    return name


def is_whole(tool: AnyNode) -> bool:
    """Whether a call's arguments are the tool's one input itself, not an object of its inputs."""
    return _parameters(tool)[1]
